"""Adam's ascent of a posterior whose likelihood is told in windows of sequences.

``f(q) = sum_n log p(x_n | theta(q)) + log prior(theta(q))``,  of which a window of a pass of K
windows estimates ``K sum_{steps in it} log p + log prior``; its gradient over the number of all
steps, clipped to a length of ``clip``, is Adam's (Kingma and Ba 2015). Steps rise over the first
twentieth of the way and then fall to zero along half a cosine (Loshchilov and Hutter 2017). The
answer is an average of the iterates, those of late steps most, ``w_t ~ t^8`` (Shamir and Zhang
2013), at the step where it told best what was kept apart (early stopping).

All weights lie in one flat vector, of which the network sees views: so that a step costs what it
costs in a loop written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from storyzoo.errors import SettingError
from storyzoo.inference.engine import adam
from storyzoo.inference.engine.adam import Moments
from storyzoo.inference.engine.checkpoint import restore_torch, torch_state
from storyzoo.inference.engine.learning_curve import Point, Scores, point_of
from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.inference.engine.resume import Keeper
from storyzoo.inference.engine.stepping import Shown, Stepping
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.window_gradient import Told, WindowDensity
from storyzoo.inference.engine.windows import (
    FEW,
    Pieces,
    Place,
    Window,
    Windows,
    chosen,
    described,
    last_steps,
    whole,
)
from storyzoo.story import Unrolled

LATE = 8
"""Power of the step by which an iterate counts in the average: about the last ninth of them."""
RISE = 0.05
"""Share of the steps over which they grow to their full size."""
KEPT_APART = 0.1
"""Share that is not fitted but scored, unless told otherwise."""


@dataclass(frozen=True)
class Schedule:
    """How to climb."""

    learning_rate: float
    epochs: int
    """Passes over all steps."""
    batch_size: int
    """Rows side by side."""
    truncate: int | None
    """Steps of a window; None for whole sequences."""
    clip: float
    """Longest gradient, nats per step."""
    validation: float | None
    patience: int | None
    """Points of the curve without a better one after which to stop; None to go to the end."""
    curve: int
    """How often the answer is scored."""


class Kept(NamedTuple):
    """What would be the answer at some step, and how it tells what was kept apart."""

    q: Tensor
    """(D,)."""
    step: int
    rows: np.ndarray
    """(V,): by piece, as :meth:`~storyzoo.inference.engine.windows.Windows.scored` tells."""
    height: float
    """What the best is chosen by, nats per step."""


class State(NamedTuple):
    """All that continues; no tensor in it is ever changed, so that any state can be kept."""

    step: int
    q: Tensor
    """(D,)."""
    moments: Moments
    average: Tensor
    """Of the iterates so far (D,)."""
    place: Place
    carried: tuple[Tensor, ...]
    """What the network carries into the window at that place."""
    order: np.ndarray
    """State of the generator that orders the rows."""
    noise: np.ndarray
    """State of the generator that drops units out."""
    curve: tuple[Point, ...]
    latest: Kept
    """Where the curve was last told,"""
    best: Kept
    """and where it told best what was kept apart."""


class Split(NamedTuple):
    """What is fitted, and what is kept apart to score the answer."""

    training: Pieces
    validation: Pieces
    words: str


def split_pieces(
    target: Target, unrolled: Unrolled, share: float | None, rng: np.random.Generator
) -> Split:
    """The set's own validation rows, else a share of the sequences, else the last steps of few."""
    count, rows = len(unrolled.lengths), target.validation_rows
    if share is None and rows is not None and 0 < len(rows) < count:
        return _by_rows(unrolled, np.asarray(rows), "sequences of the set's own validation part")
    share = KEPT_APART if share is None else share
    if count >= FEW and share > 0:
        order = rng.permutation(count)[: math.ceil(share * count)]
        return _by_rows(unrolled, np.sort(order), "sequences")
    training, validation = last_steps(whole(unrolled), share)
    if not share:
        return Split(training, validation, "")
    return Split(training, validation, f"the last {validation.steps} steps of each sequence")


def _by_rows(unrolled: Unrolled, apart: np.ndarray, words: str) -> Split:
    others = np.setdiff1d(np.arange(len(unrolled.lengths)), apart)
    return Split(chosen(unrolled, others), chosen(unrolled, apart), f"{len(apart)} {words}")


class Climbed(Protocol):
    """What is climbed, as a function of one vector: a log joint, or an ELBO."""

    def start(self, rng: np.random.Generator) -> Tensor:
        """Where to begin (D,)."""

    def views(self, q: Tensor) -> dict[str, Tensor]:
        """The sites by which ``q`` is scored."""

    def log_prior(self, q: Tensor) -> Tensor:
        """What counts beside the steps, a scalar."""

    def __call__(
        self,
        q: Tensor,
        window: Window,
        state: tuple[Tensor, ...],
        factor: float,
        generator: Generator | None,
        share: float = 1.0,
    ) -> Told:
        """``share`` of its gradient (D,) from a window that counts ``factor`` times."""


class StochasticAscent:
    """One run: what is climbed, how it is scored, and the state."""

    state: State

    def __init__(
        self,
        schedule: Schedule,
        target: Target,
        prior: bool,
        seed: int,
        keeper: Keeper,
        climbed: Callable[[Target, Unrolled], Climbed] | None = None,
    ) -> None:
        self.schedule, self.target, self.keeper, self.prior = schedule, target, keeper, prior
        streams = np.random.SeedSequence(seed).spawn(3)
        with target.context():
            unrolled = target.story.unroll(target.data)
            assert unrolled is not None
            self.split = split_pieces(
                target, unrolled, schedule.validation, np.random.default_rng(streams[0])
            )
            rows, width = schedule.batch_size, schedule.truncate
            redraw = None if target.redraw is None else self._redrawn
            self.windows = Windows(unrolled, self.split.training, rows, width, redraw)
            apart = self.split.validation
            self.apart = Windows(unrolled, apart, rows, width) if apart.steps else None
            self.density: Climbed = (
                WindowDensity(target, unrolled, prior)
                if climbed is None
                else climbed(target, unrolled)
            )
            self.resumed = 0
            stored = keeper.load()
            self._first = self.windows.first(torch.Generator().manual_seed(0))
            self.most = schedule.epochs * self.windows.per_pass(self._first)
            self.marks = frozenset(
                np.linspace(0, self.most, schedule.curve + 1).round().astype(int).tolist()
            )
            self.state = self._begin(streams[1:]) if stored is None else self._restored(stored)

    def _redrawn(self, rng: np.random.Generator) -> Unrolled:
        """The steps of the examples told in another way."""
        data, redraw = self.target.data, self.target.redraw
        assert redraw is not None
        known = {n: v.cpu().numpy() for n, v in data.items() if isinstance(v, Tensor)}
        drawn = {n: torch.as_tensor(v).to(data[n]) for n, v in redraw(known, rng).items()}
        unrolled = self.target.story.unroll({**data, **drawn})
        assert unrolled is not None
        return unrolled

    def _begin(self, streams: list[np.random.SeedSequence]) -> State:
        q = self.density.start(np.random.default_rng(streams[0]))
        order, noise = (int(s) >> 1 for s in streams[1].generate_state(2, np.uint64))
        shuffle = torch.Generator().manual_seed(order)
        place = self.windows.first(shuffle)
        generator = torch.Generator(device=self.target.device).manual_seed(noise)
        nothing = Kept(q, -1, np.zeros(0), -math.inf)
        moments = adam.begin(q)._replace(taken=torch.zeros(()))
        begun = State(
            0, q, moments, q, place, (), torch_state(shuffle), torch_state(generator), (),
            nothing, nothing,
        )  # fmt: skip
        return self._told(begun)

    # -- the run -------------------------------------------------------------------------

    def run(self, budget: Budget, progress: Progress) -> str:
        """Step to the end; how it ended. The state is whole at any time."""
        stepping = Stepping(self.keeper, self._stored, lambda: bool(self.state.step))
        with self.target.context():
            stopped = stepping.run(self._steps(), self.state.step, self.most, budget, progress)
        if stopped != "done":
            return stopped
        return "max_steps" if self.state.step == self.most else "settled"

    def _steps(self) -> Iterator[Shown]:
        while self.state.step < self.most and not self._out_of_patience():
            state = self._step(self.state)
            self.state = self._told(state) if state.step in self.marks else state
            yield {"nats": f"{self.state.curve[-1].training:.3f}"}

    def _step(self, state: State) -> State:
        """One step uphill."""
        shuffle = restore_torch(state.order)
        generator = restore_torch(state.noise, self.target.device)
        window = self.windows.at(state.place)
        factor = self.windows.per_pass(state.place)
        found = self.density(
            state.q, window, window.carried(state.carried), factor, generator,
            share=1 / self.windows.steps,
        )  # fmt: skip
        length = float(found.gradient.norm())
        if not math.isfinite(length):
            raise SettingError(
                f"the ascent ran away at step {state.step + 1}; take smaller steps: "
                f"learning_rate={0.1 * self.schedule.learning_rate:g}"
            )
        slope = found.gradient.mul_(min(1.0, self.schedule.clip / max(length, 1e-30)))
        q, moments = adam.moved(state.q, state.moments, slope, self._rate(state.step))
        step = state.step + 1
        share = (LATE + 1) / (LATE + step)
        place = self.windows.after(state.place, shuffle)
        return state._replace(
            step=step,
            q=q,
            moments=moments,
            average=torch.lerp(state.average, q, share),
            place=place,
            carried=found.state if place.window else (),
            order=torch_state(shuffle),
            noise=torch_state(generator),
        )

    def _rate(self, step: int) -> float:
        """The step size after so many steps: up in a line, down along half a cosine."""
        done = step / self.most
        if done < RISE:
            return self.schedule.learning_rate * (step + 1) / (RISE * self.most + 1)
        fallen = (done - RISE) / (1 - RISE)
        return self.schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * fallen))

    def _out_of_patience(self) -> bool:
        patience = self.schedule.patience
        if patience is None or self.apart is None:
            return False
        since = [point for point in self.state.curve if point.step > self.state.best.step]
        return len(since) >= patience

    # -- the learning curve --------------------------------------------------------------

    def _told(self, state: State) -> State:
        """The state with a point of the curve at its step."""
        latents = self.density.views(state.average)
        with torch.no_grad():
            training = self.windows.scored(latents)
            validation = np.zeros(0) if self.apart is None else self.apart.scored(latents)
            log_prior = float(self.density.log_prior(state.average)) if self.prior else 0.0
        point = point_of(state.step, Scores(training, validation, 0.0))
        height = point.validation
        if self.apart is None:
            height = point.training + log_prior / self.windows.steps
        now = Kept(state.average, state.step, validation, height)
        better = height >= state.best.height
        return state._replace(
            curve=(*state.curve, point), latest=now, best=now if better else state.best
        )

    # -- the answer ----------------------------------------------------------------------

    def finished(self) -> State:
        """The state with a last point of the curve."""
        if self.state.latest.step < self.state.step:
            with self.target.context():
                self.state = self._told(self.state)
        return self.state

    def notes(self) -> Iterator[str]:
        """What a reader should know of how it was done."""
        if self.split.words:
            yield f"{self.split.words} were kept apart to score the answer"
        yield from described(self.split.training, self.schedule.batch_size, self.schedule.truncate)
        if self.target.redraw is not None:
            yield "how the examples are told was drawn anew on each pass"
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
            "pass": state.place.order,
            "place": np.array([state.place.batch, state.place.window]),
            "carried": len(state.carried),
            "curve": np.array(state.curve, dtype=np.float64).reshape(-1, len(Point._fields)),
        }
        stored |= {f"carried{i}": part.cpu().numpy() for i, part in enumerate(state.carried)}
        for name, kept in (("latest", state.latest), ("best", state.best)):
            stored |= {f"{name}.{field}": value for field, value in kept._asdict().items()}
            stored[f"{name}.q"] = kept.q.cpu().numpy()
        stored |= {name: value.cpu().numpy() for name, value in state.moments._asdict().items()}
        return stored

    def _restored(self, stored: dict[str, np.ndarray]) -> State:
        def on_device(name: str) -> Tensor:
            return torch.as_tensor(stored[name], device=self.target.device)

        def told(name: str) -> Kept:
            return Kept(
                on_device(f"{name}.q"),
                int(stored[f"{name}.step"]),
                stored[f"{name}.rows"],
                float(stored[f"{name}.height"]),
            )

        self.resumed = int(stored["step"])
        return State(
            step=self.resumed,
            q=on_device("q"),
            moments=Moments(*map(on_device, Moments._fields)),
            average=on_device("average"),
            place=Place(stored["pass"], *map(int, stored["place"])),
            carried=tuple(on_device(f"carried{i}") for i in range(int(stored["carried"]))),
            order=stored["order"],
            noise=stored["noise"],
            curve=tuple(Point(int(row[0]), *map(float, row[1:])) for row in stored["curve"]),
            latest=told("latest"),
            best=told("best"),
        )
