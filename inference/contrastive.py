"""Contrastive divergence: ascent of a likelihood whose normaliser can only be sampled.

For ``p(x | theta) = exp(-E(x, theta)) / Z(theta)``, hidden units summed out,

``d/dtheta mean_n log p(x_n) = E_model[dE/dtheta] - mean_n dE(x_n)/dtheta``

and the model's mean is told by chains of its own, the fantasies: begun at the batch for every
gradient (CD-k, Hinton 2002), or going on from where they were (persistent, Tieleman 2008; Younes
1999), which has no bias in the limit of small steps. The story gives that difference
(``stochastic_gradient``); its prior's gradient, over N, is the weight decay.

Steps are Adam's (Kingma and Ba 2015) or those of plain momentum, and fall linearly to zero. The
answer is an average of the iterates, those of late steps most, ``w_t ~ t^8`` (Shamir and Zhang
2013), at the step where it told rows kept apart best. Centred gradients (Montavon and Müller
2012; Melchior, Fischer and Wiskott 2016) point another way to the same zero, better conditioned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from storyzoo.errors import SettingError
from storyzoo.inference.engine import adam
from storyzoo.inference.engine.adam import Moments
from storyzoo.inference.engine.checkpoint import Checkpoint, restore_torch, torch_state
from storyzoo.inference.engine.learning_curve import (
    LearningInfo,
    Likelihoods,
    Point,
    fall,
    fields_of,
    point_of,
    split_rows,
)
from storyzoo.inference.engine.method import Info, Kind, Method, Outcome, require
from storyzoo.inference.engine.own_gradient import (
    OwnGradient,
    packed,
    refuses_own_gradient,
    unpacked,
)
from storyzoo.inference.engine.prior import LogPrior
from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.inference.engine.restarts import compile_seconds
from storyzoo.inference.engine.resume import Keeper, fingerprint
from storyzoo.inference.engine.slices import Batch, Slices
from storyzoo.inference.engine.stepping import Shown, Stepping
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.story import Fantasies, Story

LATE = 8
"""Power of the step by which an iterate counts in the average: about the last ninth of them."""
RATES = {"adam": 0.01, "momentum": 0.1}
"""First step, in units of the unknowns; for momentum times the gradient in nats per example."""
POINTS, ESTIMATED_POINTS = 20, 5
"""How often the rows are scored where that is exact, and where it is a lengthy estimate."""
LAST_PART = 0.25
"""Share of the steps over which a curve that has settled brings next to nothing,"""
LITTLE = 0.02
"""less than this share of all that it rose,"""
NOISE = 2.0
"""or than so many standard errors."""


@dataclass(frozen=True, kw_only=True)
class ContrastiveInfo(LearningInfo):
    """The learning curve, and which of its points was kept; scores in nats per example."""


@dataclass(frozen=True)
class Contrastive(Method):
    """A mode of the posterior, or of the likelihood, by the model's own chains.

    ``chains`` fantasy chains make ``sweeps`` Gibbs sweeps for each gradient; unless ``persistent``
    they begin at the batch. ``learning_rate`` falls linearly to zero over ``max_steps``; unset it
    is 0.01 for adam, 0.1 for momentum. ``validation`` is the share of the rows that are not fitted
    but scored; unset it is a tenth of 500 rows or more. ``curve`` is how often rows are scored on
    the way; unset 20 times, or 5 where that takes an estimate. ``keep``: ``best``, the average of
    iterates that tells rows kept apart best (where there are none the highest, if that is known
    exactly), ``average``, the last, or ``last``, the last iterate itself.
    """

    name: ClassVar[str] = "contrastive"
    kind: ClassVar[Kind] = "point"
    info_type: ClassVar[type[Info]] = ContrastiveInfo

    objective: Literal["posterior", "likelihood"] = "posterior"
    max_steps: int = 20_000
    batch_size: int = 100
    chains: int = 200
    sweeps: int = 1
    persistent: bool = True
    centred: bool = True
    optimiser: Literal["adam", "momentum"] = "momentum"
    learning_rate: float | None = None
    validation: float | None = None
    keep: Literal["best", "average", "last"] = "best"
    curve: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        for setting in ("max_steps", "batch_size", "chains", "sweeps", "curve"):
            value = getattr(self, setting)
            require(value is None or value >= 1, "contrastive", setting, value, "at least 1")
        known = {
            "objective": ("posterior", "likelihood"),
            "optimiser": ("adam", "momentum"),
            "keep": ("best", "average", "last"),
        }
        for setting, words in known.items():
            value = getattr(self, setting)
            require(value in words, "contrastive", setting, value, " or ".join(words))
        for setting in ("learning_rate", "minutes"):
            value = getattr(self, setting)
            require(value is None or value > 0, "contrastive", setting, value, "above 0")
        share = self.validation is None or 0 <= self.validation < 1
        wanted = "at least 0 and below 1"
        require(share, "contrastive", "validation", self.validation, wanted)

    def refuses(self, story: Story, structure: Structure) -> str | None:
        """A story must tell the gradient of its own normaliser."""
        if not structure.latents:
            return "it has no continuous latent site to move"
        return refuses_own_gradient(story, structure)

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        """Climb by noisy gradients for all steps, and keep one answer.

        Raises SettingError where the steps are so large that the ascent runs away.
        """
        keeper = Keeper(checkpoint, fingerprint(self, target, seed))
        climb = _Climb(self, target, seed, keeper)
        stopped = climb.run(Budget(self.minutes), progress)
        outcome = climb.outcome(stopped)
        if stopped != "interrupted":
            keeper.remove()
        return outcome


class Kept(NamedTuple):
    """What would be the answer at some step, and how it tells the rows kept apart."""

    q: Tensor
    """(D,)."""
    step: int
    rows: np.ndarray
    """(V,): their log likelihoods, nats."""
    normaliser_se: float
    height: float
    """What the best is chosen by, nats per row."""


class State(NamedTuple):
    """All that continues; no tensor in it is ever changed, so that any state can be kept."""

    step: int
    q: Tensor
    """(D,)."""
    moments: Moments
    average: Tensor
    """Of the iterates so far (D,)."""
    batch: Batch
    order: np.ndarray
    """State of the generator that orders the rows."""
    fantasies: Fantasies
    noise: np.ndarray
    """State of the generator that moves the fantasies."""
    curve: tuple[Point, ...]
    latest: Kept
    """Where the curve was last told,"""
    best: Kept
    """and where it told the rows kept apart best."""


class _Climb:
    """One run: what is climbed, how it is scored, and the state."""

    state: State

    def __init__(self, contrastive: Contrastive, target: Target, seed: int, keeper: Keeper) -> None:
        self.contrastive, self.target, self.keeper, self.seed = contrastive, target, keeper, seed
        streams = np.random.SeedSequence(seed).spawn(3)
        split = split_rows(
            target.n_examples, contrastive.validation, np.random.default_rng(streams[0])
        )
        train = target if not len(split.validation) else target.rows(split.training)
        prior = contrastive.objective == "posterior"
        self.prior = LogPrior.of(train, jacobian=False, prior=prior)
        self.seconds = compile_seconds(self.prior)
        self.gradient = OwnGradient(train, self.prior)
        self.slices = Slices(train, self.prior, contrastive.batch_size)
        self.likelihoods = Likelihoods(target, split)
        self.fitted = train.n_examples
        self.marks = self._marks()
        self.resumed = 0
        stored = keeper.load()
        with target.context():
            self.state = (
                self._begin(train, streams[1:]) if stored is None else self._restored(stored)
            )

    def _marks(self) -> frozenset[int]:
        """Steps after which the rows are scored."""
        if not self.likelihoods.known:
            return frozenset()
        often = self.contrastive.curve or (POINTS if self.likelihoods.exact else ESTIMATED_POINTS)
        places = np.linspace(0, self.contrastive.max_steps, often + 1).round()
        return frozenset(places.astype(int).tolist())

    def _begin(self, train: Target, streams: list[np.random.SeedSequence]) -> State:
        rng = np.random.default_rng(streams[0])
        initial = train.story.initial(train.data, rng)
        q = self.prior.start(rng) if initial is None else self.prior.flatten(initial)
        order, noise = (int(s) >> 1 for s in streams[1].generate_state(2, np.uint64))
        shuffle = torch.Generator().manual_seed(order)
        batch = self.slices.first(shuffle)
        generator = torch.Generator(device=self.target.device).manual_seed(noise)
        settings = self.contrastive
        fantasies = Fantasies(
            generator, settings.chains, settings.sweeps, settings.persistent, settings.centred
        )
        nothing = Kept(q, -1, np.zeros(0), 0.0, -math.inf)
        moments = adam.begin(q)._replace(taken=q.new_zeros(()))  # all have taken as many steps
        state = State(
            0, q, moments, q, batch, torch_state(shuffle), fantasies,
            torch_state(generator), (), nothing, nothing,
        )  # fmt: skip
        return self._scored(state)

    # -- the run -------------------------------------------------------------------------

    def run(self, budget: Budget, progress: Progress) -> str:
        """Step to the end; how it ended. The state is whole at any time."""
        most = self.contrastive.max_steps
        stepping = Stepping(self.keeper, self._stored, lambda: bool(self.state.step))
        with self.target.context():
            stopped = stepping.run(self._steps(most), self.state.step, most, budget, progress)
        return "max_steps" if stopped == "done" else stopped

    def _steps(self, most: int) -> Iterator[Shown]:
        while self.state.step < most:
            self.state = self._scored(self._step(self.state))
            yield self._shown()

    def _shown(self) -> dict[str, str]:
        """The last scores, for the bar."""
        curve = self.state.curve
        return {"nats": f"{curve[-1].training:.3f}"} if curve else {}

    def _step(self, state: State) -> State:
        """One step uphill."""
        shuffle = restore_torch(state.order)
        batch = self.slices.next(state.batch, shuffle)
        generator = restore_torch(state.noise, self.target.device)
        slope, fantasies = self.gradient(
            state.q, self.slices.index(batch), replace(state.fantasies, generator=generator)
        )
        slope = self.gradient.directed(state.q, slope / self.fitted, fantasies)
        moments = adam.told(state.moments, slope)
        q = state.q + self._rate(state.step) * self._direction(moments)
        if not bool(q.isfinite().all()):
            raise SettingError(
                f"contrastive: the ascent ran away at step {state.step + 1}; take smaller steps: "
                f"learning_rate={0.1 * self._first_rate:g}"
            )
        step = state.step + 1
        share = (LATE + 1) / (LATE + step)
        return state._replace(
            step=step,
            q=q,
            moments=moments,
            average=state.average + share * (q - state.average),
            batch=batch,
            order=torch_state(shuffle),
            fantasies=fantasies,
            noise=torch_state(generator),
        )

    def _direction(self, moments: Moments) -> Tensor:
        adaptive = self.contrastive.optimiser == "adam"
        return adam.direction(moments) if adaptive else adam.average(moments)

    @property
    def _first_rate(self) -> float:
        return self.contrastive.learning_rate or RATES[self.contrastive.optimiser]

    def _rate(self, step: int) -> float:
        """The step size after so many steps: linear to zero."""
        return self._first_rate * (1 - step / self.contrastive.max_steps)

    # -- the learning curve --------------------------------------------------------------

    def _scored(self, state: State) -> State:
        """The state with one more point of the curve, where one is due."""
        return self._told(state) if state.step in self.marks else state

    def _told(self, state: State) -> State:
        """The state with a point of the curve at its step."""
        q = state.q if self.contrastive.keep == "last" else state.average
        scores = self.likelihoods(q, np.random.default_rng([self.seed, state.step]))
        point = point_of(state.step, scores)
        height = self._height(q, point)
        now = Kept(q, state.step, scores.validation, scores.normaliser_se, height)
        better = height >= state.best.height
        return state._replace(
            curve=(*state.curve, point), latest=now, best=now if better else state.best
        )

    def _height(self, q: Tensor, point: Point) -> float:
        """How rows kept apart are told; without any the objective, or the step if it is unknown."""
        if not math.isnan(point.validation):
            return point.validation
        if not point.normaliser_se:
            return point.training + float(self.prior.value_and_gradient(q)[0]) / self.fitted
        return float(point.step)

    # -- the answer ----------------------------------------------------------------------

    def outcome(self, stopped: str) -> Outcome:
        """The answer that is kept, and the curve that led to it."""
        state = self.state
        with self.target.context():
            if self.likelihoods.known and state.latest.step < state.step:
                state = self._told(state)
            kept = self._kept(state)
            point = self.prior.unflatten(kept.q)
        tree = posterior_tree(
            self.target.structure,
            {name: value.cpu().numpy()[None, None] for name, value in point.items()},
            {},
        )
        return Outcome(tree, self._info(stopped, state, kept))

    def _kept(self, state: State) -> Kept:
        """The best answer, or the last."""
        if self.likelihoods.known:
            return state.best if self.contrastive.keep == "best" else state.latest
        q = state.q if self.contrastive.keep == "last" else state.average
        return Kept(q, state.step, np.zeros(0), 0.0, 0.0)

    def _info(self, stopped: str, state: State, kept: Kept) -> ContrastiveInfo:
        curve, best = state.curve, state.best
        settled = stopped == "max_steps" and (not curve or settled_at_the_top(curve))
        over, error = 0.0, 0.0
        if len(best.rows) and len(kept.rows):
            both = math.hypot(best.normaliser_se, kept.normaliser_se) * (best.step != kept.step)
            over, error = fall(best.rows, kept.rows, both)
        return ContrastiveInfo(
            gradient_evaluations=round(state.step * self.slices.share),
            compile_seconds=self.seconds,
            stopped="settled" if settled else stopped,
            start="the story's own start" if self.target.story.has("initial") else "a prior draw",
            engine=f"the story's own gradient; its priors by {self.prior.engine}",
            notes=(*self.prior.notes, *self._notes()),
            prior=self.prior.prior,
            converged=settled,
            steps=state.step,
            **fields_of(curve),  # type: ignore[arg-type]
            exact=self.likelihoods.exact,
            kept_step=kept.step,
            over_fitting=over,
            over_fitting_se=error,
            resumed_steps=self.resumed,
        )

    def _notes(self) -> Iterator[str]:
        apart = self.target.n_examples - self.fitted
        if apart:
            yield f"{apart} of {self.target.n_examples} rows were kept apart to score the answer"
        if not self.likelihoods.known:
            yield "no learning curve: the story gives no estimate of its likelihood"
        yield "other optima not looked for: one start only"

    # -- what is stored ------------------------------------------------------------------

    def _stored(self) -> dict[str, Any]:
        """The state as arrays."""
        state = self.state
        stored: dict[str, Any] = {
            "step": state.step,
            "q": state.q.cpu().numpy(),
            "average": state.average.cpu().numpy(),
            "order": state.order,
            "noise": state.noise,
            "rows": state.batch.order.numpy(),
            "place": state.batch.place,
            "curve": np.array(state.curve, dtype=np.float64).reshape(-1, len(Point._fields)),
        }
        for name, kept in (("latest", state.latest), ("best", state.best)):
            stored |= {f"{name}.{field}": value for field, value in kept._asdict().items()}
            stored[f"{name}.q"] = kept.q.cpu().numpy()
        stored |= {name: value.cpu().numpy() for name, value in state.moments._asdict().items()}
        stored |= {f"fantasy.{n}": value for n, value in packed(state.fantasies).items()}
        return stored

    def _restored(self, stored: dict[str, np.ndarray]) -> State:
        def on_device(name: str) -> Tensor:
            return torch.as_tensor(stored[name], device=self.target.device)

        def told(name: str) -> Kept:
            return Kept(
                on_device(f"{name}.q"),
                int(stored[f"{name}.step"]),
                stored[f"{name}.rows"],
                float(stored[f"{name}.normaliser_se"]),
                float(stored[f"{name}.height"]),
            )

        settings = self.contrastive
        kept = {
            name.removeprefix("fantasy."): value
            for name, value in stored.items()
            if name.startswith("fantasy.")
        }
        generator = restore_torch(stored["noise"], self.target.device)
        fantasies = Fantasies(
            generator, settings.chains, settings.sweeps, settings.persistent, settings.centred
        )
        self.resumed = int(stored["step"])
        return State(
            step=self.resumed,
            q=on_device("q"),
            moments=Moments(*map(on_device, Moments._fields)),
            average=on_device("average"),
            batch=Batch(torch.as_tensor(stored["rows"], device="cpu"), int(stored["place"])),
            order=stored["order"],
            fantasies=unpacked(fantasies, kept, self.target.device),
            noise=stored["noise"],
            curve=tuple(Point(int(row[0]), *map(float, row[1:])) for row in stored["curve"]),
            latest=told("latest"),
            best=told("best"),
        )


def settled_at_the_top(curve: Sequence[Point]) -> bool:
    """Whether the last quarter of the steps changed the rows' score by next to nothing.

    Next to nothing is a fiftieth of all that it rose, or two standard errors of the normaliser.
    The score must also not lie below one before by more than that.
    """
    last = curve[-1]
    before = [point for point in curve if point.step <= (1 - LAST_PART) * last.step]
    if not before or last.step == 0:
        return False
    best = max(curve, key=lambda point: point.training)
    rise = best.training - curve[0].training
    return all(
        abs(last.training - other.training)
        <= max(LITTLE * rise, NOISE * math.hypot(last.normaliser_se, other.normaliser_se))
        for other in (before[-1], best)
    )
