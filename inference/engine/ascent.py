"""Ascent to a mode by L-BFGS, from several starts side by side.

The direction is ``H g``, where ``H`` approximates the inverse of the negative Hessian from the
last few steps and changes of the gradient (Nocedal and Wright 2006, algorithm 7.4); the step
along it is found by doubling and bisection until it meets the weak Wolfe conditions (Lewis and
Overton 2013), which also copes with an infinite or undefined objective on the way.

An ascent has converged when ``g^T H g / 2``, the rise that a quadratic still promises, and the
last rise itself are below a tolerance in nats. That does not depend on the scale of the
coordinates, where the norm of the gradient does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Evaluate = Callable[[Array], tuple[Array, Array]]
"""Points (n, D) to objectives (n,) and gradients (n, D)."""

MEMORY = 20
"""Steps from which the curvature is told."""
TRIALS = 40
"""Points that are tried along one direction."""
SUFFICIENT_RISE, CURVATURE = 1e-4, 0.9
"""The two constants of the Wolfe conditions."""

CLIMBING, CONVERGED, STUCK, OUT_OF_STEPS, UNBOUNDED = range(5)
"""How a row stands; stuck where no point along the gradient is higher."""


class Ascent(NamedTuple):
    """Where one ascent ended."""

    q: Tensor
    """(D,)."""
    value: float
    """The objective there, nats."""
    steps: int
    evaluations: int
    converged: bool
    path: tuple[float, ...]
    """The objective at the start and after every step."""


def ascend(
    value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
    q0: Tensor,
    *,
    max_steps: int = 1000,
    tolerance: float = 1e-8,
) -> Ascent:
    """Climb from ``q0`` (D,). ``tolerance``: nats that may be left to gain."""

    def evaluate(points: Array) -> tuple[Array, Array]:
        value, gradient = value_and_gradient(torch.as_tensor(points[0]).to(q0))
        return as_array(value)[None], as_array(gradient)[None]

    climb = Ascents(
        evaluate,
        as_array(q0)[None],
        max_steps=max_steps,
        tolerance=tolerance,
        precision=torch.finfo(q0.dtype).eps,
    )
    while climb.climbing.any():
        climb.step()
    return climb.result(0, q0)


def as_array(values: Tensor) -> Array:
    """A tensor as float64 on the host."""
    return values.detach().cpu().numpy().astype(np.float64)


class Ascents:
    """L-BFGS ascents from the rows of ``q`` (R, D), a step of each at a time.

    All that continues is in arrays, so that a run can be stored between two steps. Rows that have
    ended stay as they are until :meth:`move` sends one on.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        q: Array,
        *,
        max_steps: int,
        tolerance: float,
        precision: float,
    ) -> None:
        self._evaluate = evaluate
        self.max_steps, self.tolerance, self.precision = max_steps, tolerance, precision
        rows, size = q.shape
        self.q = q.copy()
        self.steps = np.zeros(rows, dtype=np.int64)
        self.evaluations = np.zeros(rows, dtype=np.int64)
        self.status = np.full(rows, CLIMBING, dtype=np.int64)
        self._quiet = np.zeros(rows, dtype=np.int64)
        self._moves = np.zeros((MEMORY, rows, size))
        self._bends = np.zeros((MEMORY, rows, size))
        self._weights = np.zeros((MEMORY, rows))
        self._scale = np.zeros(rows)
        self._place = 0
        self.value, self.gradient = self._look(np.arange(rows), q)
        self.paths = [[float(value)] for value in self.value]
        self.status[~np.isfinite(self.value)] = STUCK

    @property
    def climbing(self) -> NDArray[np.bool_]:
        """Which rows still climb."""
        return self.status == CLIMBING

    def result(self, row: int, like: Tensor) -> Ascent:
        """Where a row stands, in the dtype and on the device of ``like``."""
        return Ascent(
            q=torch.as_tensor(self.q[row]).to(like),
            value=float(self.value[row]),
            steps=int(self.steps[row]),
            evaluations=int(self.evaluations[row]),
            converged=bool(self.status[row] == CONVERGED),
            path=tuple(self.paths[row]),
        )

    def move(self, row: int, q: Array) -> None:
        """Send a row on from another point, its memory of the curvature cleared."""
        rows = np.array([row])
        self._forget(rows)
        self._quiet[row] = 0
        self.q[row] = q
        self.value[rows], self.gradient[rows] = self._look(rows, self.q[rows])
        self.paths[row].append(float(self.value[row]))
        self.status[row] = CLIMBING

    # -- one step ------------------------------------------------------------------------

    def step(self) -> None:
        """One step of every row that climbs."""
        rows = np.flatnonzero(self.climbing)
        direction, slope = self._directions(rows)
        self._settle(rows, slope)
        still = self.climbing[rows]
        rows, direction, slope = rows[still], direction[still], slope[still]
        if not len(rows):
            return
        length, value, gradient = self._search(rows, direction, slope)
        moved = length > 0
        self._blocked(rows[~moved])
        rows, step = rows[moved], length[moved, None] * direction[moved]
        self._remember(rows, step, self.gradient[rows] - gradient[moved])
        self._quiet[rows] = np.where(
            value[moved] - self.value[rows] <= self._tolerance(rows), self._quiet[rows] + 1, 0
        )
        self.q[rows] += step
        self.value[rows], self.gradient[rows] = value[moved], gradient[moved]
        self.steps[rows] += 1
        for row in rows:
            self.paths[row].append(float(self.value[row]))
        self.status[rows[self.steps[rows] >= self.max_steps]] = OUT_OF_STEPS
        self.status[rows[np.isposinf(self.value[rows])]] = UNBOUNDED

    def _settle(self, rows: NDArray[np.int64], slope: Array) -> None:
        """End the rows that have nothing left to gain."""
        spent = (0.5 * slope <= self._tolerance(rows)) & (self._quiet[rows] >= 1)
        still = ~self.gradient[rows].any(-1)
        self.status[rows[spent | still]] = CONVERGED

    def _blocked(self, rows: NDArray[np.int64]) -> None:
        """Rows that found nothing higher: anew along the gradient, or the end."""
        fresh = ~self._weights[:, rows].any(0)
        quiet = self._quiet[rows[fresh]] >= 1
        self.status[rows[fresh]] = np.where(quiet, CONVERGED, STUCK)
        self._forget(rows[~fresh])

    def _tolerance(self, rows: NDArray[np.int64]) -> Array:
        """Nats below which a rise is none: as asked for, or what rounding leaves."""
        return self.tolerance + 4 * self.precision * np.abs(self.value[rows])

    def _look(self, rows: NDArray[np.int64], points: Array) -> tuple[Array, Array]:
        """Objectives and gradients; minus infinity where either is undefined."""
        with np.errstate(all="ignore"):
            value, gradient = self._evaluate(points)
        self.evaluations[rows] += 1
        bad = np.isnan(value) | (np.isfinite(value) & ~np.isfinite(gradient).all(-1))
        return np.where(bad, -np.inf, value), gradient

    # -- the direction -------------------------------------------------------------------

    def _directions(self, rows: NDArray[np.int64]) -> tuple[Array, Array]:
        """``H g`` and its slope ``g^T H g`` by row; along the gradient where ``H`` fails."""
        gradient = self.gradient[rows]
        direction = self._curved(rows, gradient)
        slope = np.einsum("rd,rd->r", direction, gradient)
        bad = ~(np.isfinite(slope) & (slope > 0)) & gradient.any(-1)
        if bad.any():
            self._forget(rows[bad])
            direction[bad] = self._curved(rows[bad], gradient[bad])
            slope = np.einsum("rd,rd->r", direction, gradient)
        return direction, slope

    def _curved(self, rows: NDArray[np.int64], gradient: Array) -> Array:
        """The two loops over what is remembered, newest first, then oldest first."""
        order = [(self._place - 1 - i) % MEMORY for i in range(MEMORY)]
        order = [i for i in order if self._weights[i, rows].any()]
        moves, bends = self._moves[:, rows], self._bends[:, rows]
        weights, shares = self._weights[:, rows], {}
        direction = gradient.copy()
        for i in order:
            shares[i] = weights[i] * np.einsum("rd,rd->r", moves[i], direction)
            direction -= shares[i][:, None] * bends[i]
        size = np.abs(gradient).sum(-1)
        first = 1 / np.maximum(size, 1.0)  # with no memory: at most one unit far
        direction *= np.where(self._scale[rows] > 0, self._scale[rows], first)[:, None]
        for i in reversed(order):
            back = weights[i] * np.einsum("rd,rd->r", bends[i], direction)
            direction += (shares[i] - back)[:, None] * moves[i]
        return direction

    def _remember(self, rows: NDArray[np.int64], move: Array, bend: Array) -> None:
        """Keep a step and the fall of the gradient along it, where it shows curvature."""
        product = np.einsum("rd,rd->r", move, bend)
        square = np.einsum("rd,rd->r", bend, bend)
        good = product > 1e-12 * np.sqrt(square * np.einsum("rd,rd->r", move, move))
        self._weights[self._place] = 0
        kept = rows[good]
        self._moves[self._place, kept], self._bends[self._place, kept] = move[good], bend[good]
        self._weights[self._place, kept] = 1 / product[good]
        self._scale[kept] = product[good] / square[good]
        self._place = (self._place + 1) % MEMORY

    def _forget(self, rows: NDArray[np.int64]) -> None:
        self._weights[:, rows] = 0
        self._scale[rows] = 0

    # -- the step along it ---------------------------------------------------------------

    def _search(
        self, rows: NDArray[np.int64], direction: Array, slope: Array
    ) -> tuple[Array, Array, Array]:
        """Step length, objective and gradient by row; length zero where nothing is higher."""
        length = np.ones(len(rows))
        low, high = np.zeros(len(rows)), np.full(len(rows), np.inf)
        best_value, best_gradient = self.value[rows].copy(), self.gradient[rows].copy()
        open_ = np.ones(len(rows), dtype=bool)
        noise = 4 * self.precision * np.abs(self.value[rows])
        for _ in range(TRIALS):
            at = np.flatnonzero(open_)
            points = self.q[rows[at]] + length[at, None] * direction[at]
            value, gradient = self._look(rows[at], points)
            along = np.einsum("rd,rd->r", np.nan_to_num(gradient), direction[at])
            wanted = self.value[rows[at]] + SUFFICIENT_RISE * length[at] * slope[at]
            # Where the promised rise is below rounding, the slope must tell (Hager, Zhang 2005).
            near = (value >= wanted - noise[at]) & (np.abs(along) <= CURVATURE * slope[at])
            risen = (value >= wanted) | near
            steep = along > CURVATURE * slope[at]
            up = at[risen]
            low[up], best_value[up], best_gradient[up] = length[up], value[risen], gradient[risen]
            high[at[~risen]] = length[at[~risen]]
            open_[at[risen & (~steep | np.isposinf(value))]] = False
            if not open_.any():
                break
            between = np.isfinite(high)
            further = np.where(between, 0.5 * (low + np.where(between, high, 0.0)), 2 * length)
            length = np.where(open_, further, length)
        return low, best_value, best_gradient

    # -- what is stored ------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that continues, as arrays."""
        names = ("q", "value", "gradient", "steps", "evaluations", "status")
        state = {name: getattr(self, name).copy() for name in names}
        state |= {f"memory_{name}": getattr(self, f"_{name}").copy() for name in _MEMORY}
        state["place"] = np.array(self._place)
        state["path"] = np.array([value for path in self.paths for value in path])
        state["path_lengths"] = np.array([len(path) for path in self.paths])
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        for name in ("q", "value", "gradient", "steps", "evaluations", "status"):
            setattr(self, name, np.array(state[name]))
        for name in _MEMORY:
            setattr(self, f"_{name}", np.array(state[f"memory_{name}"]))
        self._place = int(state["place"])
        ends = np.cumsum(state["path_lengths"])[:-1]
        self.paths = [part.tolist() for part in np.split(state["path"], ends)]


_MEMORY = ("moves", "bends", "weights", "scale", "quiet")
