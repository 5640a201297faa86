"""Stochastic-gradient Langevin dynamics: draws by noisy gradients from slices of the examples.

``q <- q + e/2 V g(q) + sqrt(e V) z``, with z standard normal, V a diagonal and

``g(q) = d log prior(q) / dq + N / B sum_{n in B rows} d log p(x_n | q) / dq``

over the unconstrained vector, discrete sites summed out. For small steps e the noise of g, whose
variance is G, is drowned by what is added: ``e/4 V G`` times as much, Welling and Teh's alpha.
No step is ever rejected, so that the draws are those of a neighbour of the posterior, wider by
about alpha and by a quarter of e.

V holds the square of each coordinate's width, so that e has no unit: from the curvature where the
gradient is the density's own; else from the noise of the story's gradient in warm-up, whose
variance is Fisher's information times ``N (N / B - 1 + N / fantasies)`` per example (Ahn,
Korattikara and Welling 2012). It is fixed before the first draw. The story's own gradient, from
chains of the model that go on from where they were, serves where the normaliser can't be computed.

With ``cycles`` the step falls along half a cosine and rises again, that many times; in the first
half of a cycle nothing is added, so that it finds another place, and draws are kept in the second
(Zhang et al. 2020). With ``momentum`` m each move is ``v <- m v + e/2 W g + sqrt((1 - m) e) z`` and
``q <- q + W v`` with W the widths: stochastic-gradient Hamiltonian Monte Carlo with friction 1 - m
(Chen, Fox and Guestrin 2014); m = 0 is Langevin's. Chains of a network over sequences start each
at the end of an ascent by Adam, where the widths are told by how gradients of slices differ.

Sources: Welling and Teh (2011), "Bayesian learning via stochastic gradient Langevin dynamics",
ICML; Li, Chen, Carlson and Carin (2016), "Preconditioned stochastic gradient Langevin dynamics for
deep neural networks", AAAI, on diagonals; Vollmer, Zygalakis and Teh (2016), JMLR 17, on its bias;
Zhang, Li, Zhang, Chen and Wilson (2020), "Cyclical stochastic gradient MCMC for Bayesian deep
learning", ICLR; Chen, Fox and Guestrin (2014), "Stochastic gradient Hamiltonian Monte Carlo", ICML.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from storyzoo.errors import SettingError
from storyzoo.inference.engine.checkpoint import Checkpoint, restore_torch, torch_state
from storyzoo.inference.engine.coordinates import real_coordinates, widths
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.method import Info, Kind, Method, Outcome, require
from storyzoo.inference.engine.own_gradient import (
    HOOK,
    OwnGradient,
    packed,
    refuses_own_gradient,
    unpacked,
)
from storyzoo.inference.engine.prior import LogPrior
from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.inference.engine.restarts import compile_seconds, evaluator
from storyzoo.inference.engine.resume import Keeper, fingerprint
from storyzoo.inference.engine.slices import Batch, Slices, refuses_slices
from storyzoo.inference.engine.stepping import Shown, Stepping
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.inference.engine.vi_starts import Starts, find_starts
from storyzoo.inference.engine.window_source import PieceSlices, WindowSource
from storyzoo.inference.map import MAP, ascended
from storyzoo.inference.nuts import NUTS
from storyzoo.story import Fantasies, Story

LARGEST = 0.1
"""The step that is taken unless told otherwise, or less:"""
SOUGHT = 0.05
"""that which makes the gradient's noise this share of the noise that is added."""
PILOT = 20
"""Gradients at the start from which its noise is first told."""
WINDOW, SHARE = 200, 0.2
"""Gradients over which its noise is averaged in warm-up: so many, or a fifth of the warm-up."""


@dataclass(frozen=True, kw_only=True)
class SGLDInfo(Info):
    """How the chains went."""

    chains: int = 0
    warmup: int = 0
    """Warm-up steps of each chain."""
    steps: int = 0
    """Steps of each chain, warm-up included."""
    step: float = 0.0
    """The first step after warm-up, in squared widths."""
    gradient_noise: float = 0.0
    """Greatest variance that the gradient's noise adds to a step, over what is added on purpose."""
    estimated: bool = False
    """Whether the gradient was the story's own estimate."""
    resumed_steps: int = 0
    """Of the steps: how many came from a checkpoint."""


@dataclass(frozen=True)
class SGLD(Method):
    """Langevin dynamics by gradients from slices of the examples; approximate by construction.

    ``chains`` make ``warmup`` steps, then keep every ``thin``-th of their ``draws * thin`` steps.
    ``step`` is in squared widths of the posterior; unset it is 0.1, or as much less as the noise
    of slices of ``batch_size`` examples (None for all) asks for. With ``decay`` it falls as
    ``(1 + t / warmup)^-decay`` and draws are kept at equal shares of the way. ``gradient``:
    ``exact`` from the density, ``estimated`` by the story's own hook with ``fantasies`` chains
    and ``sweeps`` Gibbs sweeps; ``auto`` takes the latter where there is one. ``cycles``: how often
    the step falls and rises; ``momentum``: the share of each move that the next goes on with. Of
    sequences a slice is whole ones, or parts of at most ``truncate`` steps, and each chain starts
    where `map` ends after ``epochs`` passes with ``learning_rate``. ``megabytes`` bounds what all
    draws take.
    """

    name: ClassVar[str] = "sgld"
    kind: ClassVar[Kind] = "approximation"
    info_type: ClassVar[type[Info]] = SGLDInfo

    chains: int = 4
    draws: int = 1000
    thin: int = 20
    warmup: int = 5000
    batch_size: int | None = 256
    step: float | None = None
    decay: float = 0.0
    gradient: Literal["auto", "exact", "estimated"] = "auto"
    fantasies: int = 256
    sweeps: int = 1
    cycles: int | None = None
    momentum: float = 0.0
    truncate: int | None = None
    epochs: int = 30
    learning_rate: float = 0.003
    megabytes: float = 1000
    minutes: float | None = None

    def __post_init__(self) -> None:
        whole = ("chains", "draws", "thin", "warmup", "fantasies", "sweeps", "cycles", "truncate")
        for setting in (*whole, "epochs"):
            value = getattr(self, setting)
            require(value is None or value >= 1, "sgld", setting, value, "at least 1")
        require(0 <= self.momentum < 1, "sgld", "momentum", self.momentum, "from 0 to below 1")
        for positive in ("learning_rate", "megabytes"):
            value = getattr(self, positive)
            require(value > 0, "sgld", positive, value, "above 0")
        if self.cycles is not None:
            even = self.draws % self.cycles == 0
            require(even, "sgld", "draws", self.draws, f"a multiple of cycles={self.cycles}")
            fixed = not self.decay
            require(fixed, "sgld", "decay", self.decay, "0 with cycles, whose steps fall anyway")
        sized = self.batch_size is None or self.batch_size >= 1
        require(sized, "sgld", "batch_size", self.batch_size, "at least 1")
        small = self.step is None or 0 < self.step <= 1
        require(small, "sgld", "step", self.step, "above 0 and at most 1")
        require(0 <= self.decay <= 1, "sgld", "decay", self.decay, "between 0 and 1")
        known = ("auto", "exact", "estimated")
        require(self.gradient in known, "sgld", "gradient", self.gradient, " or ".join(known))
        timed = self.minutes is None or self.minutes > 0
        require(timed, "sgld", "minutes", self.minutes, "above 0")

    def refuses(self, story: Story, structure: Structure) -> str | None:
        """Continuous sites, examples that can be sliced, and a gradient of either kind."""
        if self._estimates(story):
            return refuses_own_gradient(story, structure)
        if story.has("unroll"):
            return None
        reason = NUTS().refuses(story, structure)
        if reason is not None or self.batch_size is None:
            return reason
        reason = refuses_slices(story, structure)
        if reason is None and structure.local and self.batch_size < structure.n_examples:
            name = next(iter(structure.local))
            reason = f"'{name}' belongs to single examples, most of which a slice says nothing of"
        return None if reason is None else f"{reason}; use batch_size=none"

    def _estimates(self, story: Story) -> bool:
        """Whether the story's own gradient is followed."""
        if self.gradient == "auto":
            return story.has(HOOK)
        return self.gradient == "estimated"

    def _check_size(self, target: Target) -> None:
        """Raise SettingError where the draws would take more than ``megabytes``."""
        size = sum(math.prod(site.shape) for site in target.structure.latents.values())
        width = getattr(torch, target.story.dtype).itemsize
        taken = self.chains * self.draws * size * width / 1e6
        if taken > self.megabytes:
            raise SettingError(
                f"sgld: {self.chains} chains of draws={self.draws} take {taken:,.0f} MB, more than "
                f"megabytes={self.megabytes:g}: take fewer, or allow more"
            )

    def _source(self, target: Target, seed: int) -> Source:
        """Where gradients come from."""
        if self._estimates(target.story):
            return _Own(target, self)
        if not target.story.has("unroll"):
            return _Sliced(target, self)
        with target.context():
            return _Windowed(target, self, seed)

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        """Warm the chains up, then draw.

        Raises SettingError where ``minutes`` were spent before the first draw, or where the steps
        are so large that a chain runs away.
        """
        self._check_size(target)
        keeper = Keeper(checkpoint, fingerprint(self, target, seed))
        source = self._source(target, seed)
        with target.context():
            walk = _Walk(self, target, source, seed, keeper)
            stopped = walk.run(Budget(self.minutes), progress)
            outcome = walk.outcome(stopped)
        if stopped != "interrupted":
            keeper.remove()
        return outcome


# -- where gradients come from -----------------------------------------------------------------


class Slope(NamedTuple):
    """Gradients of all chains."""

    gradient: Tensor
    """(C, D)."""
    fantasies: tuple[Fantasies, ...]
    """By chain; empty where the gradient needs none."""


class Source(Protocol):
    """Noisy gradients of a log density."""

    density: LogDensity
    """Whose coordinates these are."""

    @property
    def slices(self) -> Slices | PieceSlices:
        """Of the examples, or of what they are cut into."""

    noise: float
    """Variance of the gradient over what Fisher's information of all examples gives."""
    seconds: float
    """What compiling took."""

    @property
    def engine(self) -> str:
        """What evaluates them, in words."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of them."""

    def starts(self, count: int, stream: np.random.SeedSequence) -> Starts: ...

    def __call__(self, q: Tensor, batch: Batch, fantasies: tuple[Fantasies, ...]) -> Slope: ...


class _Sliced:
    """The density's own gradient, from slices of the examples."""

    def __init__(self, target: Target, sgld: SGLD) -> None:
        self.density, self._target = target.density(), target
        self.seconds = compile_seconds(self.density, single=False)
        self.slices = Slices(target, self.density, sgld.batch_size)
        self.noise = 1 / self.slices.share - 1

    @property
    def engine(self) -> str:
        return self.density.engine

    @property
    def notes(self) -> tuple[str, ...]:
        return self.density.notes

    def starts(self, count: int, stream: np.random.SeedSequence) -> Starts:
        """Points near modes, a width of each coordinate off, and those widths."""
        own, others = stream.spawn(2)
        found = find_starts(self._target, self.density, self.slices.evaluate, count, others)
        noise = np.random.default_rng(own).normal(size=tuple(found.centre.shape))
        moved = found.centre + found.unit * torch.as_tensor(noise).to(found.unit)
        return Starts(moved, found.unit, f"{found.words}, then a width off")

    def __call__(self, q: Tensor, batch: Batch, fantasies: tuple[Fantasies, ...]) -> Slope:
        return Slope(self.slices.density(q, batch)[1], fantasies)


class _Own:
    """The story's own estimate, with chains of the model for each chain of the posterior."""

    def __init__(self, target: Target, sgld: SGLD) -> None:
        prior = LogPrior.of(target)
        self.density: LogDensity = prior
        self._target = target
        self.seconds = compile_seconds(prior)
        self._gradient = OwnGradient(target, prior)
        self.slices = Slices(target, prior, sgld.batch_size)
        self.noise = 1 / self.slices.share - 1 + target.n_examples / sgld.fantasies

    @property
    def engine(self) -> str:
        return self.density.engine

    @property
    def notes(self) -> tuple[str, ...]:
        return self.density.notes

    def starts(self, count: int, stream: np.random.SeedSequence) -> Starts:
        """The story's own starts, else prior draws; the widths are those of the prior."""
        story, points = self._target.story, []
        for child in stream.spawn(count):
            rng = np.random.default_rng(child)
            initial = story.initial(self._target.data, rng)
            points.append(self.density.start(rng) if initial is None else self._flat(initial))
        real = real_coordinates(self.density)
        precision = torch.finfo(self.density.dtype).eps
        evaluate = evaluator(self.density)
        unit = [widths(evaluate, p.cpu().numpy().astype(float), real, precision) for p in points]
        kind = "the story's own starts" if story.has("initial") else "draws of the prior"
        q = torch.stack(points)
        return Starts(q, torch.as_tensor(np.stack(unit)).to(q), f"{count} of {kind}")

    def _flat(self, initial: dict[str, Tensor]) -> Tensor:
        return self.density.flatten(initial)

    def __call__(self, q: Tensor, batch: Batch, fantasies: tuple[Fantasies, ...]) -> Slope:
        index = self.slices.index(batch)
        found = [self._gradient(*each) for each in zip(q, [index] * len(q), fantasies, strict=True)]
        return Slope(
            torch.stack([estimate.gradient for estimate in found]),
            tuple(estimate.fantasies for estimate in found),
        )


class _Windowed(WindowSource):
    """Slices of sequences, from the end of Adam's ascent."""

    def __init__(self, target: Target, sgld: SGLD, seed: int) -> None:
        self._settings, self._seed = sgld, seed
        super().__init__(target, sgld.batch_size, sgld.truncate, self._ascend)

    def _ascend(self, target: Target, chain: int) -> np.ndarray:
        """The best point (D,) of a chain's ascent."""
        own = self._settings
        climb = MAP(
            epochs=own.epochs, learning_rate=own.learning_rate, truncate=own.truncate,
            batch_size=min(own.batch_size or MAP.batch_size, MAP.batch_size),
        )  # fmt: skip
        seed = int(np.random.SeedSequence([self._seed, chain]).generate_state(1)[0])
        flat: np.ndarray = self.density.flatten(ascended(climb, target, seed)).cpu().numpy()
        return flat

    def __call__(self, q: Tensor, batch: Batch, fantasies: tuple[Fantasies, ...]) -> Slope:
        return Slope(*super().__call__(q, batch, fantasies))


# -- the walk ----------------------------------------------------------------------------------


class State(NamedTuple):
    """All that continues; no tensor in it is ever changed, so that any state can be kept."""

    taken: int
    """Gradients that each chain has followed."""
    q: Tensor
    """(C, D)."""
    slope: Tensor
    """The last gradient (C, D)."""
    spread: Tensor
    """Variance of the gradient's noise (D,), from how successive gradients differ."""
    width: Tensor
    """(C, D)."""
    batch: Batch
    order: np.ndarray
    """State of the generator that orders the rows."""
    fantasies: tuple[Fantasies, ...]
    noise: np.ndarray
    """State of the generator of all other randomness."""
    velocity: Tensor
    """The last move, in widths (C, D)."""
    drawn: tuple[Tensor, ...] = ()
    """Positions (C, D) that were kept."""


class _Walk:
    """One run: the source of gradients, and the state of all chains."""

    def __init__(
        self, sgld: SGLD, target: Target, source: Source, seed: int, keeper: Keeper
    ) -> None:
        self.sgld, self.target, self.source, self.keeper = sgld, target, source, keeper
        self.estimated = isinstance(source, _Own)
        self.first = sgld.step or min(LARGEST, 4 * SOUGHT / max(source.noise, 1e-12))
        self.steps = self._schedule()
        self.kept = self._kept()
        self.resumed = 0
        stored = keeper.load()
        if stored is None:
            streams = np.random.SeedSequence(seed).spawn(2)
            self.starts = source.starts(sgld.chains, streams[0])
            self.state = self._begin(streams[1])
        else:
            self.state = self._restored(stored)

    def _schedule(self) -> np.ndarray:
        """The step (T,) of every move that follows the warm-up."""
        after = np.arange(self.sgld.draws * self.sgld.thin)
        if self.sgld.cycles is not None:
            length = len(after) // self.sgld.cycles
            return self.first * 0.5 * (1 + np.cos(np.pi * (after % length) / length))
        return self.first * (1 + after / self.sgld.warmup) ** -self.sgld.decay

    def _kept(self) -> frozenset[int]:
        """After which moves a draw is kept: at equal shares of the sum of all steps.

        Of cycles those are the moves of the second half, evenly.
        """
        if self.sgld.cycles is not None:
            length = len(self.steps) // self.sgld.cycles
            each = self.sgld.draws // self.sgld.cycles
            ends = length - np.linspace(0, length // 2, each, endpoint=False).round().astype(int)
            first = length * np.arange(self.sgld.cycles)[:, None]
            return frozenset((first + ends).ravel().tolist())
        way = np.cumsum(self.steps)
        marks = way[-1] * np.arange(1, self.sgld.draws + 1) / self.sgld.draws
        places = np.searchsorted(way, marks * (1 - 1e-12))
        return frozenset((np.minimum(places, len(way) - 1) + 1).tolist())

    def _begin(self, stream: np.random.SeedSequence) -> State:
        order, noise = (int(s) >> 1 for s in stream.generate_state(2, np.uint64))
        shuffle = torch.Generator().manual_seed(order)
        generator = torch.Generator(device=self.target.device).manual_seed(noise)
        q = self.starts.centre
        return State(
            taken=0, q=q, slope=torch.zeros_like(q), spread=torch.zeros_like(q[0]),
            width=self.starts.unit, batch=self.source.slices.first(shuffle),
            order=torch_state(shuffle), fantasies=self._fantasies(generator),
            noise=torch_state(generator), velocity=torch.zeros_like(q),
        )  # fmt: skip

    def _fantasies(self, generator: torch.Generator) -> tuple[Fantasies, ...]:
        one = Fantasies(generator, self.sgld.fantasies, self.sgld.sweeps)
        return (one,) * self.sgld.chains if self.estimated else ()

    # -- the run -------------------------------------------------------------------------

    @property
    def _before(self) -> int:
        """Gradients before the first draw's."""
        return PILOT + self.sgld.warmup

    def run(self, budget: Budget, progress: Progress) -> str:
        """Step until all draws are made; how it ended. The state is whole at any time."""
        most = self._before + len(self.steps)
        stepping = Stepping(self.keeper, self._stored, lambda: bool(self.state.drawn))
        stopped = stepping.run(self._steps(most), self.state.taken, most, budget, progress)
        if not self.state.drawn:
            raise SettingError(
                f"sgld: minutes={self.sgld.minutes} were spent in warm-up; give it more, or "
                "less warmup"
            )
        return stopped

    def _steps(self, most: int) -> Iterator[Shown]:
        while self.state.taken < most:
            self.state = self._step(self.state)
            yield {}

    def _step(self, state: State) -> State:
        """One gradient of every chain, and one move unless it is the pilot's."""
        shuffle = restore_torch(state.order)
        generator = restore_torch(state.noise, self.target.device)
        batch = self.source.slices.next(state.batch, shuffle)
        fantasies = tuple(replace(each, generator=generator) for each in state.fantasies)
        slope, fantasies = self.source(state.q, batch, fantasies)
        spread = self._spread(state, slope)
        width = state.width
        if self.estimated and state.taken < self._before:
            width = self._width(spread)
        q, velocity = state.q, state.velocity
        if state.taken >= PILOT:
            size = self._size(state.taken)
            noise = torch.randn(
                q.shape, generator=generator, dtype=q.dtype, device=self.target.device
            )
            kept = self.sgld.momentum
            added = math.sqrt((1 - kept) * size) * self._stirred(state.taken)
            velocity = kept * velocity + 0.5 * size * width * slope + added * noise
            q = q + width * velocity
            self._check(q, state.taken)
        taken = state.taken + 1
        return State(
            taken, q, slope, spread, width, batch, torch_state(shuffle), fantasies,
            torch_state(generator), velocity,
            (*state.drawn, q) if taken - self._before in self.kept else state.drawn,
        )  # fmt: skip

    def _size(self, taken: int) -> float:
        """The step of the move after so many gradients."""
        return float(self.steps[max(0, taken - self._before)])

    def _stirred(self, taken: int) -> float:
        """One where noise is added, zero in the first half of a cycle."""
        place = taken - self._before
        if self.sgld.cycles is None or place < 0:
            return 1.0
        length = len(self.steps) // self.sgld.cycles
        return float(2 * (place % length) >= length)

    def _spread(self, state: State, slope: Tensor) -> Tensor:
        """The variance of the gradient's noise with one more difference told.

        Over a window that moves along in warm-up, over all draws after it.
        """
        if state.taken == 0:
            return state.spread
        differs = 0.5 * (slope - state.slope).square().mean(0)
        told = state.taken
        window = max(WINDOW, round(SHARE * self.sgld.warmup))
        told = min(told, window) if told < self._before else told - self._before + 1
        return state.spread + (differs - state.spread) / told

    def _width(self, spread: Tensor) -> Tensor:
        """(C, D): of the posterior, if it were normal; never wider than the prior."""
        information = spread / self.source.noise
        return (information + self.starts.unit**-2) ** -0.5

    def _check(self, q: Tensor, taken: int) -> None:
        if not bool(q.isfinite().all()):
            chain = int((~q.isfinite().all(-1)).nonzero()[0])
            raise SettingError(
                f"sgld: chain {chain} ran away at step {taken - PILOT + 1}; take smaller steps: "
                f"step={0.1 * self.first:.2g}"
            )

    # -- the answer ----------------------------------------------------------------------

    def outcome(self, stopped: str) -> Outcome:
        """The tree of the draws, and how the chains went."""
        state, sgld = self.state, self.sgld
        positions = torch.stack(state.drawn, 1)
        latents = self.source.density.unflatten(positions)
        made = len(state.drawn)
        short = f"{made} of {sgld.draws} draws per chain were made"
        kind = "the story's own gradient" if self.estimated else "slices of the density"
        whole = " (all examples)" if self.source.slices.whole else ""
        info = SGLDInfo(
            gradient_evaluations=round(sgld.chains * state.taken * self.source.slices.share),
            compile_seconds=self.source.seconds,
            stopped=stopped,
            start=self.starts.words,
            engine=f"{kind}{whole}; {self.source.engine}",
            notes=(*self.source.notes, *((short,) if made < sgld.draws else ())),
            chains=sgld.chains,
            warmup=sgld.warmup,
            steps=state.taken - PILOT,
            step=self.first,
            gradient_noise=self._gradient_noise(),
            estimated=self.estimated,
            resumed_steps=self.resumed,
        )
        values = {name: value.cpu().numpy() for name, value in latents.items()}
        return Outcome(posterior_tree(self.target.structure, values, {}), info)

    def _gradient_noise(self) -> float:
        """Welling and Teh's alpha at the first step, of the coordinate where it is greatest."""
        friction = 1 - self.sgld.momentum
        # The first half of a cycle adds nothing; in the second the step is at most half the first.
        first = self.first if self.sgld.cycles is None else 0.5 * self.first
        alpha = 0.25 * first / friction * self.state.width**2 * self.state.spread
        return float(alpha.max())

    # -- what is stored ------------------------------------------------------------------

    def _stored(self) -> dict[str, Any]:
        """The state as arrays."""
        state = self.state
        stored: dict[str, Any] = {
            "words": self.starts.words,
            "unit": self.starts.unit.cpu().numpy(),
            "taken": state.taken,
            "order": state.order,
            "noise": state.noise,
            "rows": state.batch.order.numpy(),
            "place": state.batch.place,
            "drawn": torch.stack(state.drawn).cpu().numpy() if state.drawn else np.zeros((0, 0, 0)),
        }
        for name in ("q", "slope", "spread", "width", "velocity"):
            stored[name] = getattr(state, name).cpu().numpy()
        for chain, fantasies in enumerate(state.fantasies):
            stored |= {f"fantasy{chain}.{n}": value for n, value in packed(fantasies).items()}
        return stored

    def _restored(self, stored: dict[str, np.ndarray]) -> State:
        def on_device(name: str) -> Tensor:
            return torch.as_tensor(stored[name], device=self.target.device)

        self.starts = Starts(on_device("q"), on_device("unit"), str(stored["words"]))
        self.resumed = max(0, int(stored["taken"]) - PILOT)
        generator = restore_torch(stored["noise"], self.target.device)
        fantasies = []
        for chain, empty in enumerate(self._fantasies(generator)):
            head = f"fantasy{chain}."
            own = {n.removeprefix(head): v for n, v in stored.items() if n.startswith(head)}
            fantasies.append(unpacked(empty, own, self.target.device))
        return State(
            taken=int(stored["taken"]),
            **{name: on_device(name) for name in ("q", "slope", "spread", "width", "velocity")},
            batch=Batch(torch.as_tensor(stored["rows"], device="cpu"), int(stored["place"])),
            order=stored["order"],
            fantasies=tuple(fantasies),
            noise=stored["noise"],
            drawn=tuple(on_device("drawn")),
        )
