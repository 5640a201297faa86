"""ChEES-HMC: draws of the exact posterior by many chains that move in step.

Hamiltonian Monte Carlo whose chains share one step size, one trajectory length and one diagonal
metric, learnt from all of them together while they warm up (``engine/chees_hmc.py``). Every chain
takes the same number of steps, so that a single batch of gradients moves all of them: on a GPU
thousands of chains cost little more than one. Discrete sites are summed out.

Chains start in groups, the superchains: those of one group at one point, each group elsewhere.
Once groups have forgotten where they started, nested R-hat is near one (Margossian, Hoffman,
Sountsov, Riou-Durand, Vehtari and Gelman 2024), and the draws can be few for each chain.

Sources: Hoffman, Radul and Sountsov (2021), "An adaptive MCMC scheme for setting trajectory
lengths in Hamiltonian Monte Carlo", AISTATS; Margossian et al. (2024), "Nested R-hat: assessing
the convergence of Markov chain Monte Carlo when running many short chains", Bayesian Analysis.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from xarray import Dataset, DataTree

from storyzoo.errors import RefusedError, SettingError
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.chees_hmc import (
    Adaptation,
    Chains,
    adapt,
    begin,
    lengths_of,
    move,
)
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.improper import improper_along
from storyzoo.inference.engine.method import Info, Kind, Method, Outcome, require
from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.inference.engine.restarts import compile_seconds
from storyzoo.inference.engine.resume import Keeper, fingerprint
from storyzoo.inference.engine.starts import chain_starts
from storyzoo.inference.engine.stepping import Shown, Stepping
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.inference.nuts import NUTS
from storyzoo.story import Story

ADAPTING = 0.8
"""Share of the warm-up in which step, length and metric change; the rest runs with them fixed."""


@dataclass(frozen=True, kw_only=True)
class ChEESInfo(Info):
    """How the chains went."""

    chains: int = 0
    superchains: int = 0
    """Groups of chains that started at one point; consecutive chains make a group."""
    warmup: int = 0
    """Warm-up iterations of each chain."""
    divergences: int = 0
    """Diverging trajectories among the draws."""
    step_size: float = 0.0
    """The step size that warm-up ended with."""
    trajectory_length: float = 0.0
    """The longest time of a trajectory: each takes a share of it, by Halton's sequence."""
    resumed_evaluations: int = 0
    """Of the gradient evaluations: how many came from a checkpoint."""


@dataclass(frozen=True)
class ChEES(Method):
    """Hamiltonian Monte Carlo by many chains in step, their lengths learnt together.

    ``draws`` are those of each chain. ``superchains`` groups of chains start at one point each:
    with ``start=prior`` a prior draw (uniform where a prior is improper), with ``uniform`` a point
    of (-2, 2) in the unconstrained space, with ``pathfinder`` a draw of a normal that it found.
    ``target_accept`` is the harmonic mean of the chains' acceptance probabilities, which lies well
    below their plain mean. ``longest`` bounds the steps of a trajectory.
    """

    name: ClassVar[str] = "chees"
    kind: ClassVar[Kind] = "draws"
    info_type: ClassVar[type[Info]] = ChEESInfo

    chains: int = 64
    superchains: int = 16
    draws: int = 200
    warmup: int = 400
    start: Literal["prior", "uniform", "pathfinder"] = "prior"
    target_accept: float = 0.651
    longest: int = 1000
    minutes: float | None = None

    def __post_init__(self) -> None:
        for setting, least in (("superchains", 2), ("draws", 1), ("warmup", 1), ("longest", 1)):
            value = getattr(self, setting)
            require(value >= least, "chees", setting, value, f"at least {least}")
        groups = self.chains >= self.superchains and self.chains % self.superchains == 0
        wanted = f"a multiple of superchains={self.superchains}"
        require(groups, "chees", "chains", self.chains, wanted)
        known = ("prior", "uniform", "pathfinder")
        require(self.start in known, "chees", "start", self.start, " or ".join(known))
        share = 0 < self.target_accept < 1
        require(share, "chees", "target_accept", self.target_accept, "between 0 and 1")
        timed = self.minutes is None or self.minutes > 0
        require(timed, "chees", "minutes", self.minutes, "above 0")

    def refuses(self, story: Story, structure: Structure) -> str | None:
        """What NUTS refuses: it moves by the same gradients."""
        return NUTS().refuses(story, structure)

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        """Warm the chains up together, then draw.

        Raises SettingError where ``minutes`` were spent before the first draw, RefusedError where
        the draws ran away along an improper posterior.
        """
        density = target.density()
        seconds = compile_seconds(density)
        keeper = Keeper(checkpoint, fingerprint(self, target, seed))
        with torch.no_grad():
            walk = _Walk(self, target, density, seed, keeper, progress)
            stopped = walk.run(Budget(self.minutes), progress)
            outcome = walk.outcome(stopped, seconds)
        if stopped != "interrupted":
            keeper.remove()
        return outcome


class Told(NamedTuple):
    """What is told of one iteration; tensors run over chains."""

    lp: Tensor
    energy: Tensor
    acceptance_rate: Tensor
    diverging: Tensor
    step_size: float
    n_steps: int


class State(NamedTuple):
    """All that continues; no tensor in it is ever changed, so that any state can be kept."""

    chains: Chains
    adaptation: Adaptation
    noise: Tensor
    """State of the random generator."""
    told: tuple[Told, ...] = ()
    """Of every iteration, warm-up included."""
    drawn: tuple[Tensor, ...] = ()
    """Positions (C, D) after each iteration that follows the warm-up."""
    divergences: int = 0
    """Among the draws."""


class _Walk:
    """One run: the density, and the state of all chains."""

    def __init__(
        self,
        chees: ChEES,
        target: Target,
        density: LogDensity,
        seed: int,
        keeper: Keeper,
        progress: Progress,
    ) -> None:
        self.chees, self.target, self.density, self.keeper = chees, target, density, keeper
        self.words, self.resumed = "", 0
        self._before = density.evaluations
        self._generator = torch.Generator(device=density.device)
        self._adapting = max(1, int(ADAPTING * chees.warmup))
        stored = keeper.load()
        self.state = self._begin(seed, progress) if stored is None else self._restored(stored)

    def _begin(self, seed: int, progress: Progress) -> State:
        *seeds, own = np.random.SeedSequence(seed).spawn(self.chees.superchains + 1)
        rngs = [np.random.default_rng(each) for each in seeds]
        starts = chain_starts(
            self.chees.start, self.target, self.density, rngs, self.chees.minutes, progress
        )
        self.words = starts.words.replace("each chain", "each superchain")
        each = self.chees.chains // self.chees.superchains
        points = starts.points.to(self.density.device).repeat_interleave(each, 0)
        chains = Chains(points, *self.density.batch_value_and_gradient(points))
        self._generator.manual_seed(int(own.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        adaptation = begin(self.density, chains, self._generator)
        return State(chains, adaptation, self._generator.get_state())

    # -- the run -------------------------------------------------------------------------

    def run(self, budget: Budget, progress: Progress) -> str:
        """Step until all draws are made; how it ended. The state is whole at any time."""
        every = self.chees.warmup + self.chees.draws
        stepping = Stepping(self.keeper, self._stored, lambda: bool(self.state.drawn))
        stopped = stepping.run(self._steps(every), len(self.state.told), every, budget, progress)
        if not self.state.drawn:
            raise SettingError(
                f"chees: minutes={self.chees.minutes} were spent in warm-up; give it more, or "
                "less warmup"
            )
        return stopped

    def _steps(self, every: int) -> Iterator[Shown]:
        while len(self.state.told) < every:
            self.state = self._step(self.state)
            yield {"divergences": self.state.divergences}

    def _step(self, state: State) -> State:
        """One iteration of all chains."""
        place, chees = len(state.told) + 1, self.chees
        adapting, warming = place <= self._adapting, place <= chees.warmup
        lengths = lengths_of(state.adaptation, place, chees.longest, settled=not adapting)
        self._generator.set_state(state.noise)
        made = move(self.density, state.chains, lengths, self._generator)
        adaptation = state.adaptation
        if adapting:
            adaptation = adapt(adaptation, state.chains, made, chees.target_accept, chees.longest)
        told = Told(
            made.chains.value, made.energy, made.acceptance, made.diverging,
            lengths.step_size, lengths.n_steps,
        )  # fmt: skip
        return State(
            made.chains,
            adaptation,
            self._generator.get_state(),
            told=(*state.told, told),
            drawn=state.drawn if warming else (*state.drawn, made.chains.position),
            divergences=state.divergences + (0 if warming else int(made.diverging.sum())),
        )

    # -- the answer ----------------------------------------------------------------------

    def outcome(self, stopped: str, seconds: float) -> Outcome:
        """The tree of the draws, and how the chains went."""
        state, chees = self.state, self.chees
        self._refuse_improper()
        made = len(state.drawn)
        short = f"{made} of {chees.draws} draws per chain were made"
        info = ChEESInfo(
            gradient_evaluations=self._spent,
            compile_seconds=seconds,
            stopped=stopped,
            start=self.words,
            engine=f"ChEES-HMC, density by {self.density.engine}",
            notes=(short,) if made < chees.draws else (),
            chains=chees.chains,
            superchains=chees.superchains,
            warmup=chees.warmup,
            divergences=state.divergences,
            step_size=math.exp(state.adaptation.step_average),
            trajectory_length=math.exp(state.adaptation.length_average),
            resumed_evaluations=self.resumed,
        )
        return Outcome(self._tree(), info)

    def _refuse_improper(self) -> None:
        """Raise RefusedError where there is no posterior that the draws could be draws of."""
        every = torch.cat(self.state.drawn).cpu().numpy()
        reason = improper_along(self.density, every)
        if reason is not None:
            raise RefusedError(
                f"chees can't fit {self.density.story.name}: {reason} and its density does not "
                "fall further out: the posterior is improper there; give the site a proper prior, "
                "or data that speak against such values"
            )

    def _tree(self) -> DataTree:
        """Draws by site, and the statistics of draws and warm-up apart."""
        warmup = self.chees.warmup
        positions = torch.stack(self.state.drawn, 1)
        with self.target.context():
            latents = self.density.unflatten(positions)
        values = {name: value.cpu().numpy() for name, value in latents.items()}
        told = statistics_of(self.state.told)
        drawn = {name: value[:, warmup:] for name, value in told.items()}
        with warnings.catch_warnings():
            # ArviZ takes more chains than draws for a mistake.
            warnings.filterwarnings("ignore", "Found chain dimension", UserWarning)
            tree = posterior_tree(self.target.structure, values, drawn)
        of_warmup = {name: (("chain", "draw"), v[:, :warmup]) for name, v in told.items()}
        tree["warmup_sample_stats"] = DataTree(Dataset(of_warmup))
        return tree

    @property
    def _spent(self) -> int:
        """Gradient evaluations so far."""
        return self.resumed + self.density.evaluations - self._before

    # -- what is stored ------------------------------------------------------------------

    def _stored(self) -> dict[str, Any]:
        """The state as arrays."""
        state = self.state
        stored: dict[str, Any] = {
            "words": self.words,
            "evaluations": self._spent,
            "noise": state.noise.numpy(),
            "divergences": state.divergences,
            "drawn": _stacked(state.drawn),
        }
        stored |= {name: value.cpu().numpy() for name, value in state.chains._asdict().items()}
        stored |= state.adaptation._asdict()
        stored["variance"] = state.adaptation.variance.cpu().numpy()
        for name in Told._fields:
            stored[name] = _stacked([getattr(told, name) for told in state.told])
        return stored

    def _restored(self, stored: Mapping[str, np.ndarray]) -> State:
        def on_device(name: str) -> Tensor:
            return torch.as_tensor(stored[name], device=self.density.device)

        self.words = str(stored["words"])
        self.resumed = int(stored["evaluations"])
        over_chains = ("lp", "energy", "acceptance_rate", "diverging")
        columns = zip(*map(on_device, over_chains), strict=True)
        lengths = zip(stored["step_size"], stored["n_steps"], strict=True)
        floats = [name for name in Adaptation._fields if name not in ("taken", "variance")]
        return State(
            Chains(*map(on_device, Chains._fields)),
            Adaptation(
                taken=int(stored["taken"]),
                variance=on_device("variance"),
                **{name: float(stored[name]) for name in floats},
            ),
            torch.from_numpy(stored["noise"]),
            told=tuple(
                Told(lp, energy, acceptance, diverging, float(step_size), int(n_steps))
                for (lp, energy, acceptance, diverging), (step_size, n_steps) in zip(
                    columns, lengths, strict=True
                )
            ),
            drawn=tuple(on_device("drawn")),
            divergences=int(stored["divergences"]),
        )


def statistics_of(told: Sequence[Told]) -> dict[str, np.ndarray]:
    """Statistics ``(chain, draw)`` by ArviZ's names."""
    chains = len(told[0].lp)
    columns = {name: _stacked([getattr(each, name) for each in told]) for name in Told._fields}
    return {
        name: np.tile(column, (chains, 1)) if column.ndim == 1 else column.T.copy()
        for name, column in columns.items()
    }


def _stacked(rows: Sequence[Any]) -> np.ndarray:
    """Iterations first; floating values in float64."""
    if rows and isinstance(rows[0], Tensor):
        return torch.stack(list(rows)).cpu().numpy()
    return np.asarray(rows)
