"""Modes of a density from several starts side by side, and ascents that have no mode to find.

A restart ends at a mode, at a degenerate point that the story itself names, or it runs away: a
positive site towards zero or infinity, a real one towards infinity, while the objective still
rises. Then the density has no maximum, and the highest number seen on the way means nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from storyzoo.errors import NoModeError
from storyzoo.inference.engine.ascent import (
    Array,
    Ascent,
    Ascents,
    Evaluate,
    Rows,
    as_array,
    pack,
    unpack,
)
from storyzoo.inference.engine.coordinates import (
    evaluations_of_widths,
    limit_in_words,
    real_coordinates,
    slot_at,
    widths,
)
from storyzoo.inference.engine.density import LogDensity, Slot
from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.inference.engine.resume import Keeper
from storyzoo.inference.engine.target import Target

FEW = 3
"""Points up to which evaluating them one by one is faster than as a block."""
FAR = 20.0
"""Distance on a logarithmic scale (5e8-fold) after which a rise is an escape."""
RISE = 0.5
"""Nats by which one unit further on must raise the objective to count as rising."""
INFINITY = 1e8
"""Where real sites are tried to see whether the objective ever falls."""
LOOK_EVERY = 50
"""Steps between two looks at rows that may be running away."""
UNSPENT = 1e-6
"""Nats that one coordinate may still promise where a row has stopped."""
MOST_SCALED = 3
"""How often a row that promises more is sent on, its coordinates measured in their widths."""
MOST_MOVES = 20
"""How often a row that stopped below a higher point beside it is sent on."""
PROBES = 4
"""Coordinates of each site, those with the steepest gradient, that are tried at the end."""
MOST_PROBES = 64
PRIOR_SHARE = 4
"""Every which start is a prior draw where the story has starts of its own."""
EDGE = 4.0
"""Distance on a logarithmic scale within which an edge of the support is told."""


class Modes(NamedTuple):
    """How the restarts ended."""

    ascents: tuple[Ascent, ...]
    degenerate: tuple[str, ...]
    """What is degenerate about each end; empty where it is sane."""
    best: int
    """The highest of the sane ones."""
    stopped: str
    evaluations: int
    resumed_evaluations: int
    start: str
    notes: tuple[str, ...]

    @property
    def mode(self) -> Ascent:
        """The best one."""
        return self.ascents[self.best]


@dataclass(frozen=True)
class Search:
    """What is looked for: the density, how hard, and what to say where there is no mode."""

    target: Target
    density: LogDensity
    restarts: int
    max_steps: int
    tolerance: float
    remedy: str

    def run(self, seed: int, keeper: Keeper, budget: Budget, progress: Progress) -> Modes:
        """Climb from every start until all have ended.

        A KeyboardInterrupt keeps the restarts that have ended; with none it rises on. Raises
        NoModeError where the density has no mode.
        """
        climb = _Climb(self, seed, keeper)
        stopped, state = "done", climb.boundary()
        progress.start(None)
        try:
            for state in climb.steps():
                progress.update(1, best=f"{climb.best:.4f}", climbing=climb.still)
                if keeper.due:
                    keeper.save(climb.packed(state))
                if budget.spent:
                    stopped = "minutes"
                    break
        except KeyboardInterrupt:
            keeper.save(climb.packed(state))
            if not climb.settled.any():
                raise
            stopped = "interrupted"
        finally:
            progress.close()
        return climb.modes(stopped)


def evaluator(density: LogDensity) -> Evaluate:
    """The density and its gradient at rows of points on the host."""

    def evaluate(points: Array) -> tuple[Array, Array]:
        q = torch.as_tensor(points, dtype=density.dtype, device=density.device)
        if len(q) > FEW:
            value, gradient = density.batch_value_and_gradient(q)
            return as_array(value), as_array(gradient)
        pairs = [density.value_and_gradient(row) for row in q]
        return (
            np.stack([as_array(value) for value, _ in pairs]),
            np.stack([as_array(gradient) for _, gradient in pairs]),
        )

    return evaluate


def compile_seconds(density: LogDensity, *, single: bool = True) -> float:
    """Trace the density now, over a block and at a single point; the seconds that it took."""
    before = time.perf_counter()
    origin = torch.zeros(density.dim, dtype=density.dtype, device=density.device)
    density.batch_value_and_gradient(origin[None])
    if single:
        density.value_and_gradient(origin)
    return time.perf_counter() - before


class _Climb:
    """The restarts of one search, where they started and what became of them."""

    def __init__(self, search: Search, seed: int, keeper: Keeper) -> None:
        self.search, self.target, self.density = search, search.target, search.density
        self.ascents = Ascents(
            evaluator(self.density),
            max_steps=search.max_steps,
            tolerance=search.tolerance,
            precision=torch.finfo(self.density.dtype).eps,
        )
        self.real = real_coordinates(self.density)
        stored = keeper.load()
        self.resumed = 0
        if stored is None:
            self._begin(seed)
        else:
            self._go_on(stored)

    def _begin(self, seed: int) -> None:
        before = self.density.evaluations
        self.starts = np.stack([as_array(q) for q in self._points(seed)])
        self.spent = self.density.evaluations - before
        self.looked = 0
        self.moved = np.zeros(len(self.starts), dtype=np.int64)
        self.scaled = np.zeros(len(self.starts), dtype=np.int64)
        self.settled = np.zeros(len(self.starts), dtype=bool)
        self.suspected = np.zeros(len(self.starts), dtype=bool)
        self.texts = [""] * len(self.starts)
        self.escapes = [""] * len(self.starts)
        self.ascents.start(self.starts)

    def _points(self, seed: int) -> Iterator[torch.Tensor]:
        own = self.target.story.has("initial")
        for i, child in enumerate(np.random.SeedSequence(seed).spawn(self.search.restarts)):
            rng = np.random.default_rng(child)
            initial = None
            if own and i % PRIOR_SHARE != PRIOR_SHARE - 1:
                with self.target.context():
                    initial = self.target.story.initial(self.target.data, rng)
            yield self.density.start(rng) if initial is None else self.density.flatten(initial)

    # -- steps ---------------------------------------------------------------------------

    @property
    def still(self) -> int:
        """How many rows climb."""
        return int(self.ascents.climbing.sum())

    @property
    def best(self) -> float:
        """The highest objective so far."""
        return float(self.ascents.state.value.max())

    @property
    def evaluations(self) -> int:
        """Gradient evaluations, those that found the starts too."""
        return self.spent + int(self.ascents.state.evaluations.sum())

    def steps(self) -> Iterator[dict[str, Any]]:
        """Step after step of every row that climbs; yields the state after each."""
        while not self.settled.all():
            if self.still:
                self.ascents.step()
            self.looked += 1
            for row in range(len(self.settled)):
                if not self.settled[row] and not self.ascents.climbing[row]:
                    self._conclude(row)
                elif self.looked % LOOK_EVERY == 0 and not self.settled[row]:
                    self._look(row)
            yield self.boundary()

    def _look(self, row: int) -> None:
        """End a row that is running away, or that was degenerate at the last look already."""
        escape = self._escape(row)
        degenerate = not self.density.prior and bool(self._diagnosed(row))
        if escape or (degenerate and self.suspected[row]):
            self.ascents.end(row)
            self._close(row, escape)
        self.suspected = np.where(np.arange(len(self.settled)) == row, degenerate, self.suspected)

    def _conclude(self, row: int) -> None:
        """A row has stopped: degenerate, on its way to infinity, or below a higher point?"""
        if np.isneginf(self.ascents.state.value[row]):
            self._close(row, "")
            return
        escape = self._escape(row) or self._endless(row)
        out = self.ascents.state.steps[row] >= self.search.max_steps
        if escape or out or self._diagnosed(row) or not self._sent_on(row):
            self._close(row, escape)

    def _sent_on(self, row: int) -> bool:
        """Let a row climb on where it stopped short of a mode."""
        state = self.ascents.state
        if self.scaled[row] < MOST_SCALED:
            width = widths(self.ascents.evaluate, state.q[row], self.real, self.ascents.precision)
            self.spent += evaluations_of_widths(len(width))
            promised = 0.5 * np.square(width * state.gradient[row]).max(initial=0.0)
            rounding = 1e3 * self.ascents.precision * abs(state.value[row])
            if promised > UNSPENT + rounding:
                self.scaled[row] += 1
                self.ascents.move(row, state.q[row], width)
                return True
        higher = self._higher(row)
        if higher is None or self.moved[row] >= MOST_MOVES:
            return False
        self.moved[row] += 1
        self.ascents.move(row, higher)
        return True

    def _close(self, row: int, escape: str) -> None:
        self.texts[row] = self._diagnosed(row)
        self.escapes[row] = "" if self.texts[row] else escape
        self.settled = np.where(np.arange(len(self.settled)) == row, True, self.settled)

    def _diagnosed(self, row: int) -> str:
        """What the story finds degenerate about a row's point."""
        if np.isneginf(self.ascents.state.value[row]):
            return "its start has no finite density: see the story's `initial`"
        story, q = self.target.story, self._tensor(self.ascents.state.q[row])
        if not story.has("diagnose"):
            return ""
        with self.target.context():
            found = story.diagnose(self.density.unflatten(q), self.target.data)
        return "; ".join(f"{where}: {why}" for where, why in found.items())

    # -- probes --------------------------------------------------------------------------

    def _tensor(self, q: Array) -> torch.Tensor:
        return torch.as_tensor(q, dtype=self.density.dtype, device=self.density.device)

    def _values(self, points: Array) -> Array:
        """Objectives at points (n, D); minus infinity where undefined."""
        value = as_array(self.density.batch(self._tensor(points)))
        return np.where(np.isnan(value), -np.inf, value)

    def _beside(self, row: int, places: Rows, steps: Array) -> tuple[Array, Array]:
        """Points one step away along single coordinates, and how much higher they are."""
        state = self.ascents.state
        points = np.repeat(state.q[row][None], len(places), axis=0)
        points[np.arange(len(places)), places] += steps
        return points, self._values(points) - state.value[row]

    def _higher(self, row: int) -> Array | None:
        """A clearly higher point one unit along a coordinate: then this is no mode."""
        gradient = self.ascents.state.gradient[row]
        places = np.concatenate([_greatest(gradient, slot) for slot in self.density.slots])
        points, rises = self._beside(row, places, np.sign(gradient[places]))
        best = int(rises.argmax())
        return points[best] if rises[best] > RISE else None

    def _escape(self, row: int) -> str:
        """Which bounded site has gone far towards an edge with the objective still rising."""
        state = self.ascents.state
        if np.isposinf(state.value[row]):
            return "no mode exists: the objective becomes infinite"
        travelled = np.where(self.real, 0.0, state.q[row] - self.starts[row])
        places = np.argsort(-np.abs(travelled))[:MOST_PROBES]
        places = places[np.abs(travelled[places]) > FAR]
        if not len(places):
            return ""
        _, rises = self._beside(row, places, np.sign(travelled[places]))
        best = int(rises.argmax())
        if rises[best] <= RISE:
            return ""
        slot = slot_at(self.density, int(places[best]))
        where = limit_in_words(self.density, slot, bool(travelled[places[best]] < 0))
        return (
            f"no mode exists: the density rises without bound as '{slot.name}' goes to {where} "
            f"(log density {state.value[row]:.1f} and rising in restart {row})"
        )

    def _endless(self, row: int) -> str:
        """Whether the objective never falls where the real sites are scaled up to infinity."""
        state = self.ascents.state
        ray = np.where(self.real, state.q[row], 0.0)
        size = np.linalg.norm(ray)
        if not size > 0:
            return ""
        value = self._values((state.q[row] + INFINITY / size * ray)[None])[0]
        if value < state.value[row] - 1e-6 * max(1.0, abs(state.value[row])):
            return ""
        slot = slot_at(self.density, int(np.abs(ray).argmax()))
        return (
            f"no mode exists: the density is no lower with '{slot.name}' {INFINITY / size:.0e} "
            f"times as large (restart {row}), so that nothing holds it"
        )

    # -- the end -------------------------------------------------------------------------

    def modes(self, stopped: str) -> Modes:
        """The restarts that have ended, or all as they stand where none has."""
        rows = np.flatnonzero(self.settled)
        if stopped == "minutes" and not len(rows):
            rows = np.arange(len(self.settled))
        for row in rows:
            if self.escapes[row]:
                raise NoModeError(f"{self.escapes[row]}; {self.search.remedy}")
        values = self.ascents.state.value
        sane = [row for row in rows if not self.texts[row]]
        if not sane:
            best = rows[values[rows].argmax()]
            raise NoModeError(
                f"no mode exists: all of {len(rows)} restarts ended degenerate "
                f"({self.texts[best]}); {self.search.remedy}"
            )
        best = max(sane, key=lambda row: values[row])
        if stopped == "done":
            out = self.ascents.state.steps[best] >= self.search.max_steps
            stopped = "max_steps" if out else "settled"
        like = self._tensor(self.starts[0])
        return Modes(
            ascents=tuple(self.ascents.result(int(row), like) for row in rows),
            degenerate=tuple(self.texts[row] for row in rows),
            best=int(np.flatnonzero(rows == best)[0]),
            stopped=stopped,
            evaluations=self.evaluations,
            resumed_evaluations=self.resumed,
            start=self._in_words(),
            notes=(*self.density.notes, *self._notes(int(best))),
        )

    def _in_words(self) -> str:
        count = self.search.restarts
        if not self.target.story.has("initial"):
            kind = "prior draws, uniform where improper" if self._improper else "prior draws"
            return f"{count} restarts from {kind}"
        drawn = count // PRIOR_SHARE
        others = f" and {drawn} prior draws" if drawn else ""
        return f"{count - drawn} of the story's own starts{others}"

    @property
    def _improper(self) -> bool:
        return self.target.structure.improper

    def _notes(self, row: int) -> Iterator[str]:
        """Sites whose mode lies on the edge of their support."""
        q = np.where(self.real, 0.0, self.ascents.state.q[row])
        for slot in self.density.slots:
            places = _greatest(q, slot)
            places = places[np.abs(q[places]) > EDGE]
            if not len(places):
                continue
            _, rises = self._beside(row, places, EDGE * np.sign(q[places]))
            if rises.max() > -1e-3:
                below = bool(q[places[rises.argmax()]] < 0)
                where = limit_in_words(self.density, slot, below)
                yield f"the mode lies on the edge of the support: '{slot.name}' goes to {where}"

    # -- what is stored ------------------------------------------------------------------

    def boundary(self) -> dict[str, Any]:
        """All that continues, as it stands between two steps."""
        names = ("starts", "spent", "looked", "settled", "suspected", "texts", "escapes")
        own = {name: getattr(self, name) for name in names}
        lists = {name: list(own[name]) for name in ("texts", "escapes")}
        return {
            **own,
            **lists,
            "moved": self.moved.copy(),
            "scaled": self.scaled.copy(),
            "state": self.ascents.state,
        }

    @staticmethod
    def packed(boundary: dict[str, Any]) -> dict[str, Any]:
        """The same as arrays."""
        return {**{k: v for k, v in boundary.items() if k != "state"}, **pack(boundary["state"])}

    def _go_on(self, stored: dict[str, np.ndarray]) -> None:
        self.starts, self.moved = stored["starts"], stored["moved"]
        self.scaled = stored["scaled"]
        self.spent, self.looked = int(stored["spent"]), int(stored["looked"])
        self.settled, self.suspected = stored["settled"], stored["suspected"]
        self.texts = [str(text) for text in stored["texts"]]
        self.escapes = [str(text) for text in stored["escapes"]]
        self.ascents.state = unpack(stored)
        self.resumed = self.evaluations


def _greatest(values: Array, slot: Slot) -> Rows:
    """Places of the greatest values of one site, signs apart."""
    own = np.abs(values[slot.offset : slot.end])
    return slot.offset + np.argsort(-own)[:PROBES]
