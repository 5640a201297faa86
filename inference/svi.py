"""Stochastic variational inference: the guide q that is nearest to the posterior in KL(q || p).

``ELBO = E_q[log p(data, x) - log q(x)] = log p(data) - KL(q || p)``

over the unconstrained vector x, discrete sites summed out. Its gradient is estimated from a few
draws of q, the particles (Kingma and Welling 2014; Kucukelbir et al. 2017), and climbed by Adam
(Kingma and Ba 2015), from several starts side by side. With ``batch_size`` every step sees some
of the examples, and their part of the density counts N / batch_size times.

The step is constant until the ELBO, averaged over a window of steps, no longer rises by more than
its noise; then the guide becomes the average of the window and the step a third. After four such
levels the run has settled (Dhaka et al. 2020; Welandawe et al. 2022, on averages and falling
steps; Agrawal, Sheldon and Domke 2020, on starts). Draws of the guide come with ``lp`` and
``log_q``, so that k-hat tells how far it is from the posterior (Yao et al. 2018).

A conditionally conjugate story has a guide whose best parameters are known in closed form, one
part given the others: natural gradients then need no particles and no Adam, see
:mod:`storyzoo.inference.engine.natural`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from storyzoo.inference.engine import adam
from storyzoo.inference.engine.adam import Moments
from storyzoo.inference.engine.checkpoint import Checkpoint, restore_torch, torch_state
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.guides import Guide, LowRankGuide, MultivariateGuide, NormalGuide
from storyzoo.inference.engine.learning_curve import levelled_off
from storyzoo.inference.engine.method import (
    Info,
    Kind,
    Method,
    Outcome,
    draws_of_weights,
    needs_density,
    require,
    too_many_weights,
)
from storyzoo.inference.engine.natural import NaturalFit, Schedule
from storyzoo.inference.engine.own_guide import OwnGuide
from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.inference.engine.restarts import compile_seconds
from storyzoo.inference.engine.resume import Keeper, fingerprint
from storyzoo.inference.engine.slices import Batch, Slices, refuses_slices
from storyzoo.inference.engine.stepping import Shown, Stepping
from storyzoo.inference.engine.stochastic_ascent import Schedule as Ascending
from storyzoo.inference.engine.stochastic_ascent import StochasticAscent
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.inference.engine.vi_starts import Starts, find_starts
from storyzoo.inference.engine.weight_guide import UNIT, WeightGuide, fitted
from storyzoo.inference.map import MAP, ascended
from storyzoo.story import Story, Unrolled

MOST_DIMS = 1000
"""Dims above which a full covariance has too many parameters to fit."""
LEVELS, DECAY = 4, 1 / 3
"""How often the step is made smaller before the run has settled, and by what factor."""
NOISE = 2.0
"""Standard errors by which a window's ELBO must exceed the last one's to count as risen."""
TRIAL_DRAWS = 200
"""Fresh draws by which the ends of the starts are compared."""
LONGEST_PATH = 500
NO_K_HAT = "no k-hat: every draw's density takes a pass over all sequences"
ONE_PATH = "natural gradients went on from one start: where others lead is not known, try seeds"


@dataclass(frozen=True, kw_only=True)
class SVIInfo(Info):
    """How the ELBO rose."""

    elbo: tuple[float, ...] = ()
    """Window by window for the best start, nats; the last from fresh draws of the final guide."""
    elbo_se: float = 0.0
    """Standard error of the last."""
    settled: bool = False
    """Whether the best start's ELBO stopped rising before the steps ran out."""
    starts: tuple[float, ...] = ()
    """Final ELBO by start."""
    best: int = 0
    guide: str = ""
    weighed: bool = True
    """Whether draws came with their densities, so that there can be a k-hat."""
    steps: int = 0
    resumed_evaluations: int = 0
    """Of the gradient evaluations: how many came from a checkpoint."""


@dataclass(frozen=True)
class SVI(Method):
    """Variational inference with a normal guide on the unconstrained scale, or the story's own.

    ``guide``: ``normal`` (independent coordinates, for the largest stories), ``multivariate``
    (all correlations), ``lowrank`` (some of them: ``rank`` directions), ``story``, or ``natural``
    for stories that are conditionally conjugate; ``auto`` is that where it can be, else
    ``multivariate``. The ``learning_rate`` is in units of each coordinate's width at the start;
    ``window`` is how many steps the ELBO is averaged over. ``batch_size``: examples per step, None
    for all; ``natural`` takes 256, of which step t goes ``(t + delay) ** -forgetting`` of the way,
    or the whole way with all of them. Of its ``starts`` it goes on from the best alone, and its
    draws take at most ``megabytes``. A network over sequences gets a ``normal`` guide by ``epochs``
    passes over windows of ``truncate`` steps (None for whole sequences), after as many by `map` to
    where it begins, each row of a window with a draw of the weights of its own.
    """

    name: ClassVar[str] = "svi"
    kind: ClassVar[Kind] = "approximation"
    info_type: ClassVar[type[Info]] = SVIInfo

    guide: Literal["auto", "normal", "multivariate", "lowrank", "story", "natural"] = "auto"
    rank: int = 5
    max_steps: int = 5000
    batch_size: int | None = None
    learning_rate: float = 0.05
    particles: int = 16
    starts: int = 4
    window: int = 50
    draws: int = 4000
    delay: float = 10.0
    forgetting: float = 0.7
    epochs: int = 30
    truncate: int | None = None
    megabytes: float = 200
    minutes: float | None = None

    def __post_init__(self) -> None:
        known = ("auto", "normal", "multivariate", "lowrank", "story", "natural")
        require(self.guide in known, "svi", "guide", self.guide, " or ".join(known))
        for setting in ("rank", "max_steps", "particles", "starts", "draws", "epochs", "truncate"):
            value = getattr(self, setting)
            require(value is None or value >= 1, "svi", setting, value, "at least 1")
        sized = self.batch_size is None or self.batch_size >= 1
        require(sized, "svi", "batch_size", self.batch_size, "at least 1")
        require(self.window >= 2, "svi", "window", self.window, "at least 2")
        require(self.learning_rate > 0, "svi", "learning_rate", self.learning_rate, "above 0")
        require(self.delay >= 1, "svi", "delay", self.delay, "at least 1")
        sound = 0.5 < self.forgetting <= 1
        require(sound, "svi", "forgetting", self.forgetting, "above 0.5 and at most 1")
        require(self.megabytes > 0, "svi", "megabytes", self.megabytes, "above 0")
        timed = self.minutes is None or self.minutes > 0
        require(timed, "svi", "minutes", self.minutes, "above 0")

    def refuses(self, story: Story, structure: Structure) -> str | None:
        """What the guide can't tell of, and what can't be sliced."""
        reason = needs_density(story)
        if reason is not None:
            return reason
        if not structure.latents:
            return "it has no continuous latent site"
        if self._windowed(story, structure):
            return None
        if self.guide == "auto":
            return self._chosen(story).refuses(story, structure)
        if self.guide == "natural":
            none = "it has no conjugate family; use guide=normal, multivariate or lowrank"
            return None if story.has("mean_field") else story.lacks("mean_field") or none
        if self.guide == "story" and not story.has("guide"):
            return "it has no guide of its own; use guide=normal, multivariate or lowrank"
        size = sum(math.prod(site.shape) for site in structure.latents.values())
        if self.guide == "multivariate" and size > MOST_DIMS:
            return f"its {size} dims are too many for guide=multivariate; use normal or lowrank"
        return self._refuses_slices(story, structure) if self.batch_size is not None else None

    def streams(self, story: Story) -> bool:
        """Natural gradients need each example once."""
        return self._chosen(story).guide == "natural"

    def _windowed(self, story: Story, structure: Structure) -> bool:
        """Whether a mean field is fitted to windows of sequences."""
        large = too_many_weights(story, structure) is not None
        return self.guide in ("auto", "normal") and story.has("unroll") and large

    def _chosen(self, story: Story) -> SVI:
        """The same with a guide in place of ``auto``."""
        if self.guide != "auto":
            return self
        return replace(self, guide="natural" if story.has("mean_field") else "multivariate")

    def _refuses_slices(self, story: Story, structure: Structure) -> str | None:
        reason = refuses_slices(story, structure)
        if reason is not None:
            return f"{reason}; leave batch_size unset"
        if self.guide == "story":
            return "its own guide sees all examples at once; leave batch_size unset"
        if structure.local and self.guide != "normal":
            name = next(iter(structure.local))
            return (
                f"'{name}' belongs to single examples, which guide={self.guide} correlates with "
                "those outside a slice; use guide=normal, or leave batch_size unset"
            )
        return None

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        """Fit the guide from every start, keep the best, draw from it."""
        if self._windowed(target.story, target.structure):
            return self._run_windows(target, seed, progress, checkpoint)
        chosen = self._chosen(target.story)
        if chosen.guide == "natural":
            return chosen._run_natural(target, seed, progress, checkpoint)
        if chosen is not self:
            return chosen.run(target, seed=seed, progress=progress, checkpoint=checkpoint)
        density = target.density()
        seconds = compile_seconds(density, single=False)
        keeper = Keeper(checkpoint, fingerprint(self, target, seed))
        with target.context():
            fit = _Fit(self, target, density, seed, keeper)
            stopped = fit.run(Budget(self.minutes), progress)
            outcome = fit.outcome(stopped, seconds)
        if stopped != "interrupted":
            keeper.remove()
        return outcome

    def _run_windows(
        self, target: Target, seed: int, progress: Progress, checkpoint: Checkpoint | None
    ) -> Outcome:
        """Fit a mean field over a network's weights around where Adam ends, draw from it."""
        budget = Budget(self.minutes)
        keeper = Keeper(checkpoint, fingerprint(self, target, seed))
        steps = Ascending(
            UNIT * self.learning_rate, self.epochs, self.batch_size or 32, self.truncate,
            clip=10.0, validation=0.0, patience=None, curve=10,
        )  # fmt: skip
        ascent = MAP(
            epochs=self.epochs, batch_size=self.batch_size or MAP.batch_size,
            truncate=self.truncate, minutes=self.minutes,
        )  # fmt: skip
        guides: list[WeightGuide] = []

        def climbed(over: Target, unrolled: Unrolled) -> WeightGuide:
            guides.append(WeightGuide(over, unrolled, lambda: ascended(ascent, over, seed)))
            return guides[0]

        climb = StochasticAscent(steps, target, True, seed, keeper, climbed)
        stopped = climb.run(budget, progress)
        state = climb.finished()
        if stopped != "interrupted":
            keeper.remove()
        count, few = draws_of_weights(self.draws, guides[0].dim, self.megabytes)
        with target.context():
            found = fitted(guides[0], climb.windows, state.average, count, seed)
        info = SVIInfo(
            gradient_evaluations=round(state.step * self.epochs / climb.most),
            stopped=stopped,
            start="narrow, around the end of an ascent by Adam",
            engine="windows of the sequences, eager",
            notes=(*climb.notes(), *few, NO_K_HAT),
            elbo=(found.elbo,),
            elbo_se=found.se,
            # begun near the end, the curve is flat at once: the steps must have fallen to zero too
            settled=stopped in ("max_steps", "settled") and levelled_off(state.curve),
            guide="normal",
            weighed=False,
            steps=state.step,
            resumed_evaluations=climb.resumed,
        )
        return Outcome(posterior_tree(target.structure, found.draws, {}), info)

    def _run_natural(
        self, target: Target, seed: int, progress: Progress, checkpoint: Checkpoint | None
    ) -> Outcome:
        """Fit the conjugate family, draw from it."""
        mark = "" if checkpoint is None else fingerprint(self, target, seed)
        keeper = Keeper(checkpoint, mark)
        schedule = Schedule(
            self.batch_size, self.delay, self.forgetting, self.max_steps, self.starts,
            self.window, self.draws, self.megabytes,
        )  # fmt: skip
        with target.context():
            fit = NaturalFit(schedule, target, seed, keeper)
            stopped = fit.run(Budget(self.minutes), progress)
            found = fit.answer()
        if stopped != "interrupted":
            keeper.remove()
        path = [fit.state.elbos[i] for i in _spread(len(fit.state.elbos))]
        info = SVIInfo(
            gradient_evaluations=fit.passes,
            stopped=stopped,
            start=f"the best of {self.starts} of the story's own starts",
            engine="the story's conjugate family",
            notes=(ONE_PATH, *found.notes),
            elbo=(*path, found.elbo),
            elbo_se=found.se,
            settled=fit.settled,
            guide=self.guide,
            weighed=bool(found.stats),
            steps=fit.state.steps,
            resumed_evaluations=fit.resumed,
        )
        return Outcome(posterior_tree(target.structure, found.draws, found.stats), info)


class State(NamedTuple):
    """All that continues; no tensor in it is ever changed, so that any state can be kept."""

    parameters: Tensor
    """(S, P)."""
    mean: Tensor
    """Adam's average of the gradient (S, P)."""
    square: Tensor
    """And of its square."""
    taken: Tensor
    """Steps that each parameter has taken (S, P)."""
    total: Tensor
    """Sum of the parameters over this window's steps (S, P)."""
    level: Tensor
    """How often the step was made smaller (S,)."""
    last: Tensor
    """Mean and squared standard error of the last window's ELBO (S, 2); nan before there is one."""
    elbos: tuple[Tensor, ...]
    """ELBO of every step (S,), nan for starts that had settled."""
    lost: int
    """Draws that had no finite density."""
    batch: Batch
    noise: np.ndarray
    """State of the random generator."""


class _Fit:
    """One run: the guide, the density, and the state."""

    def __init__(
        self, svi: SVI, target: Target, density: LogDensity, seed: int, keeper: Keeper
    ) -> None:
        self.svi, self.target, self.density, self.keeper = svi, target, density, keeper
        self.slices = Slices(target, density, svi.batch_size)
        self.evaluations = self.resumed = 0
        streams = np.random.SeedSequence(seed).spawn(2)
        self._seed = int(streams[1].generate_state(2, np.uint64)[0] >> np.uint64(2))
        stored = keeper.load()
        self.starts = self._find_starts(streams[0]) if stored is None else _placed(stored, density)
        self.guide = self._guide()
        self.state = self._begin() if stored is None else self._restored(stored)

    def _find_starts(self, stream: np.random.SeedSequence) -> Starts:
        count = self.svi.starts
        if self.svi.guide == "story":
            empty = torch.zeros(count, 0)
            return Starts(empty, empty, f"{count} starts of the story's own guide")
        starts = find_starts(self.target, self.density, self.slices.evaluate, count, stream)
        self.evaluations = self.density.evaluations + self.slices.evaluations
        return starts

    def _guide(self) -> Guide:
        centre, unit = self.starts.centre, self.starts.unit
        if self.svi.guide == "story":
            return OwnGuide(self.target, self.density, self.svi.starts, self._seed)
        if self.svi.guide == "multivariate":
            return MultivariateGuide(centre, unit)
        if self.svi.guide == "lowrank":
            generator = torch.Generator().manual_seed(self._seed)
            return LowRankGuide(centre, unit, min(self.svi.rank, self.density.dim), generator)
        return NormalGuide(centre, unit)

    def _begin(self) -> State:
        parameters = self.guide.initial()
        zero = torch.zeros_like(parameters)
        starts = len(parameters)
        generator = torch.Generator().manual_seed(self._seed + 1)
        return State(
            parameters, zero, zero, zero, zero,
            level=torch.zeros(starts, dtype=torch.long, device="cpu"),
            last=torch.full((starts, 2), torch.nan, dtype=torch.float64, device="cpu"),
            elbos=(), lost=0,
            batch=self.slices.first(generator),
            noise=torch_state(generator),
        )  # fmt: skip

    # -- the run -------------------------------------------------------------------------

    def run(self, budget: Budget, progress: Progress) -> str:
        """Step until every start has settled; how it ended. The state is whole at any time."""
        most, taken = self.svi.max_steps, len(self.state.elbos)
        stepping = Stepping(self.keeper, self._stored, lambda: bool(self.state.elbos))
        stopped = stepping.run(self._steps(), taken, most, budget, progress)
        return "max_steps" if stopped == "done" else stopped

    def _steps(self) -> Iterator[Shown]:
        while len(self.state.elbos) < self.svi.max_steps and not self._settled.all():
            self.state = self._step(self.state)
            best = float(self.state.elbos[-1].nan_to_num(-1e300).max())
            yield {"elbo": f"{best:.2f}"}

    @property
    def _settled(self) -> Tensor:
        """Which starts have been through all levels."""
        return self.state.level >= LEVELS

    def _step(self, state: State) -> State:
        """One step of Adam for every start that has not settled."""
        starts = (state.level < LEVELS).nonzero().flatten()
        generator = restore_torch(state.noise)
        batch = self.slices.next(state.batch, generator)
        elbo, gradient, lost = self.estimate(
            state.parameters[starts], starts, self.svi.particles, generator, batch
        )
        touched = self._touched(batch)
        state = self._moved(state, starts, gradient, touched)
        elbos = torch.full_like(state.last[:, 0], torch.nan)
        elbos[starts] = elbo
        state = state._replace(
            elbos=(*state.elbos, elbos),
            lost=state.lost + lost,
            batch=batch,
            noise=torch_state(generator),
        )
        full = len(state.elbos) % self.svi.window == 0
        return self._next_window(state, starts) if full else state

    def estimate(
        self,
        parameters: Tensor,
        starts: Tensor,
        particles: int,
        generator: torch.Generator,
        batch: Batch,
    ) -> tuple[Tensor, Tensor, int]:
        """ELBO (A,), its gradient (A, P), and how many draws had no finite density."""
        leaf = parameters.detach().requires_grad_()
        weight = self.slices.weight(batch)
        with torch.enable_grad():
            q, log_q = self.guide.draw(leaf, starts, particles, generator, weight)
            value, slope = self.slices.density(q.detach().flatten(0, 1), batch)
            value, slope = value.reshape(log_q.shape), slope.reshape(q.shape)
            fine = value.isfinite() & slope.isfinite().all(-1) & log_q.isfinite()
            # A draw without a finite density says nothing about where to go.
            rise = (torch.where(fine.unsqueeze(-1), slope, 0.0) * q).sum(-1)
            terms = torch.where(fine, rise - log_q, 0.0)
            kept = fine.sum(-1).clamp(min=1)
            (gradient,) = torch.autograd.grad((terms.sum(-1) / kept).sum(), leaf)
        gaps = torch.where(fine, value - log_q.detach(), 0.0).sum(-1) / kept
        return gaps.double().cpu(), gradient.nan_to_num(), int((~fine).sum())

    def _touched(self, batch: Batch) -> Tensor | None:
        """Which parameters this batch says anything about (P,); None for all."""
        weight = self.slices.weight(batch)
        return None if weight is None else (weight > 0).repeat(2)

    def _moved(
        self, state: State, starts: Tensor, gradient: Tensor, touched: Tensor | None
    ) -> State:
        """Adam, uphill; parameters of examples outside the batch stay as they are."""
        moving = torch.zeros_like(state.taken)
        moving[starts] = 1.0 if touched is None else touched.to(moving)
        slope = torch.zeros_like(state.mean)
        slope[starts] = gradient
        moments = adam.told(Moments(state.mean, state.square, state.taken), slope, moving)
        rate = self.svi.learning_rate * DECAY ** state.level.to(slope)
        step = moving * rate.unsqueeze(-1) * adam.direction(moments)
        parameters = state.parameters + step
        return state._replace(
            parameters=parameters, **moments._asdict(), total=state.total + parameters
        )

    def _next_window(self, state: State, starts: Tensor) -> State:
        """Where the ELBO has stopped rising: the window's average, and a smaller step."""
        window = torch.stack(state.elbos[-self.svi.window :])
        mean, error = window.mean(0), window.var(0) / self.svi.window
        before, error_before = state.last.unbind(-1)
        risen = mean - before > NOISE * (error + error_before).sqrt()
        level_off = torch.zeros_like(risen)
        level_off[starts] = ~(risen | before.isnan())[starts]
        average = state.total / self.svi.window
        off = level_off.to(state.parameters.device).unsqueeze(-1)
        last = torch.stack([mean, error], -1)
        last[level_off] = torch.nan
        return state._replace(
            parameters=torch.where(off, average, state.parameters),
            level=state.level + level_off,
            last=last,
            total=torch.zeros_like(state.total),
        )

    # -- the answer ----------------------------------------------------------------------

    def outcome(self, stopped: str, seconds: float) -> Outcome:
        """Draws of the best start's guide."""
        generator = restore_torch(self.state.noise)
        finals = [
            float(self._gaps(start, min(TRIAL_DRAWS, self.svi.draws), generator)[2].mean())
            for start in range(self.svi.starts)
        ]
        best = int(np.nan_to_num(finals, nan=-np.inf).argmax())
        q, stats, gaps = self._gaps(best, self.svi.draws, generator)
        settled = bool(self._settled[best])
        if stopped == "max_steps" and settled:
            stopped = "settled"
        latents = {n: v.cpu().numpy()[None] for n, v in self.density.unflatten(q).items()}
        info = SVIInfo(
            gradient_evaluations=self._spent,
            compile_seconds=seconds,
            stopped=stopped,
            start=self.starts.words,
            engine=self.density.engine,
            notes=(*self.density.notes, *self._notes()),
            elbo=(*self._path(best), float(gaps.mean())),
            elbo_se=float(gaps.std(ddof=1) / math.sqrt(len(gaps))) if len(gaps) > 1 else 0.0,
            settled=settled,
            starts=tuple(finals),
            best=best,
            guide=self.svi.guide,
            steps=len(self.state.elbos),
            resumed_evaluations=self.resumed,
        )
        return Outcome(posterior_tree(self.target.structure, latents, stats), info)

    def _gaps(
        self, start: int, draws: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, np.ndarray], np.ndarray]:
        """Fresh draws (S, D) of a start's guide, their log densities, and ``log p - log q``."""
        row = torch.tensor([start])
        with torch.no_grad():
            q, log_q = self.guide.draw(self.state.parameters[row], row, draws, generator)
            value = self.density.batch_value_and_gradient(q[0])[0]  # a graph that is there already
        log_p = value.nan_to_num(nan=-torch.inf).double().cpu().numpy()
        stats = {"lp": log_p[None], "log_q": log_q.double().cpu().numpy()}
        gaps = log_p - stats["log_q"][0]
        return q[0], stats, gaps[np.isfinite(gaps)] if np.isfinite(gaps).any() else gaps

    @property
    def _spent(self) -> int:
        """Gradient evaluations so far, in passes over all examples."""
        steps = sum(int((~elbo.isnan()).sum()) for elbo in self.state.elbos)
        return self.evaluations + round(steps * self.svi.particles * self.slices.share)

    def _path(self, best: int) -> Iterator[float]:
        """Windows' means of one start, at most so many."""
        every = torch.stack(self.state.elbos)[:, best].numpy()
        elbos = every[~np.isnan(every)]
        windows = np.array_split(elbos, max(1, len(elbos) // self.svi.window))
        yield from (float(windows[i].mean()) for i in _spread(len(windows)))

    def _notes(self) -> Iterator[str]:
        if self.state.lost:
            drawn = sum(int((~e.isnan()).sum()) for e in self.state.elbos) * self.svi.particles
            yield f"{self.state.lost} of {drawn} draws had no finite density and were left out"
        if isinstance(self.guide, OwnGuide) and not self.guide.vectorised:
            yield "the story's guide can't be run for several particles at once, which is slow"

    # -- what is stored ------------------------------------------------------------------

    def _stored(self) -> dict[str, Any]:
        """The state as arrays."""
        state = self.state
        stored: dict[str, Any] = {
            "centre": self.starts.centre.cpu().numpy(),
            "unit": self.starts.unit.cpu().numpy(),
            "words": self.starts.words,
            "evaluations": self.evaluations,
            "lost": state.lost,
            "noise": state.noise,
            "order": state.batch.order.numpy(),
            "place": state.batch.place,
            "elbos": torch.stack(state.elbos).numpy() if state.elbos else np.zeros((0, 0)),
        }
        for name in ("parameters", "mean", "square", "taken", "total", "level", "last"):
            stored[name] = getattr(state, name).cpu().numpy()
        return stored

    def _restored(self, stored: dict[str, np.ndarray]) -> State:
        device = self.density.device
        on_device = {
            name: torch.as_tensor(stored[name], device=device)
            for name in ("parameters", "mean", "square", "taken", "total")
        }
        self.evaluations = int(stored["evaluations"])
        self.state = State(
            **on_device,
            level=torch.as_tensor(stored["level"], device="cpu"),
            last=torch.as_tensor(stored["last"], device="cpu"),
            elbos=tuple(torch.as_tensor(stored["elbos"], device="cpu")),
            lost=int(stored["lost"]),
            batch=Batch(torch.as_tensor(stored["order"], device="cpu"), int(stored["place"])),
            noise=stored["noise"],
        )
        self.resumed = self._spent
        return self.state


def _spread(windows: int) -> np.ndarray:
    """Which windows are shown of a path, evenly."""
    if windows == 0:
        return np.zeros(0, dtype=int)
    return np.unique(np.linspace(0, windows - 1, LONGEST_PATH - 1).round().astype(int))


def _placed(stored: dict[str, np.ndarray], density: LogDensity) -> Starts:
    centre, unit = (
        torch.as_tensor(stored[name], dtype=density.dtype, device=density.device)
        for name in ("centre", "unit")
    )
    return Starts(centre, unit, str(stored["words"]))
