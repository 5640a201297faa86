"""Ascent to a mode by L-BFGS, from several starts side by side.

The direction is ``H g``, where ``H`` approximates the inverse of the negative Hessian from the
last few steps and changes of the gradient (Nocedal and Wright 2006, algorithm 7.4); the step
along it is found by doubling and bisection until it meets the weak Wolfe conditions (Lewis and
Overton 2013), which also copes with an infinite or undefined objective on the way.

An ascent has converged when ``g^T H g / 2``, the rise that a quadratic still promises, and the
last rises themselves are below a tolerance in nats. That does not depend on the scale of the
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
Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]
Evaluate = Callable[[Array], tuple[Array, Array]]
"""Points (n, D) to objectives (n,) and gradients (n, D)."""

MEMORY = 20
"""Steps from which the curvature is told."""
TRIALS = 30
"""Points that are tried along one direction."""
SUFFICIENT_RISE, CURVATURE = 1e-4, 0.9
"""The two constants of the Wolfe conditions."""
QUIET = 2
"""Steps in a row that must have brought next to nothing."""

CLIMBING, CONVERGED, STUCK, OUT_OF_STEPS, ENDED = range(5)
"""How a row stands; stuck where nothing along the gradient is higher, ended from outside."""


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


class State(NamedTuple):
    """All that continues; no array in it is ever changed, so that any state can be kept."""

    q: Array
    """(R, D)."""
    width: Array
    """Scale of each coordinate (R, D): steps are found in ``q / width``."""
    value: Array
    gradient: Array
    steps: Rows
    evaluations: Rows
    status: Rows
    quiet: Rows
    """Steps since a rise worth the name."""
    moves: tuple[Array, ...]
    """The last steps (R, D), oldest first."""
    bends: tuple[Array, ...]
    """The falls of the gradient along them."""
    weights: tuple[Array, ...]
    """``1 / move·bend`` (R,); zero where a row has no such step."""
    scale: Array
    """Size of ``H`` before any of them (R,); zero where unknown."""
    path: tuple[Array, ...]
    """Objectives (R,) at the start and after every step."""


def ascend(
    value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
    q0: Tensor,
    *,
    max_steps: int = 1000,
    tolerance: float = 1e-9,
) -> Ascent:
    """Climb from ``q0`` (D,). ``tolerance``: nats that may be left to gain."""

    def evaluate(points: Array) -> tuple[Array, Array]:
        value, gradient = value_and_gradient(torch.as_tensor(points[0]).to(q0))
        return as_array(value)[None], as_array(gradient)[None]

    precision = torch.finfo(q0.dtype).eps
    climb = Ascents(evaluate, max_steps=max_steps, tolerance=tolerance, precision=precision)
    climb.start(as_array(q0)[None])
    while climb.climbing.any():
        climb.step()
    return climb.result(0, q0)


def as_array(values: Tensor) -> Array:
    """A tensor as float64 on the host."""
    return values.detach().cpu().numpy().astype(np.float64)


class Ascents:
    """L-BFGS ascents from several starts, a step of each at a time.

    Rows that have ended stay as they are until :meth:`move` sends one on.
    """

    state: State

    def __init__(
        self, evaluate: Evaluate, *, max_steps: int, tolerance: float, precision: float
    ) -> None:
        self.evaluate = evaluate
        self.max_steps, self.tolerance, self.precision = max_steps, tolerance, precision

    def start(self, q: Array, width: Array | None = None) -> None:
        """Stand at the rows of ``q`` (R, D), with the widths of the coordinates if known."""
        rows = len(q)
        none = np.zeros(rows, dtype=np.int64)
        value, gradient = self._look(q)
        status = np.where(np.isfinite(value), CLIMBING, STUCK)
        width = np.ones_like(q) if width is None else width
        self.state = State(
            q,
            width,
            value,
            gradient,
            none,
            none + 1,
            status,
            none,
            (),
            (),
            (),
            np.zeros(rows),
            (value,),
        )

    @property
    def climbing(self) -> Flags:
        """Which rows still climb."""
        climbing: Flags = self.state.status == CLIMBING
        return climbing

    def result(self, row: int, like: Tensor) -> Ascent:
        """Where a row stands, in the dtype and on the device of ``like``."""
        state = self.state
        path = [float(values[row]) for values in state.path]
        return Ascent(
            q=torch.as_tensor(state.q[row]).to(like),
            value=float(state.value[row]),
            steps=int(state.steps[row]),
            evaluations=int(state.evaluations[row]),
            converged=bool(state.status[row] == CONVERGED),
            path=tuple(path[: _last_change(path) + 1]),
        )

    def end(self, row: int) -> None:
        """Let a row climb no further."""
        self.state = self.state._replace(status=_put(self.state.status, row, ENDED))

    def move(self, row: int, q: Array, width: Array | None = None) -> None:
        """Send a row on from a point (D,), its memory of the curvature cleared."""
        value, gradient = self._look(q[None])
        state = self._forgotten(self.state, np.array([row]))
        self.state = state._replace(
            q=_put(state.q, row, q),
            width=state.width if width is None else _put(state.width, row, width),
            value=_put(state.value, row, value[0]),
            gradient=_put(state.gradient, row, gradient[0]),
            evaluations=_put(state.evaluations, row, state.evaluations[row] + 1),
            status=_put(state.status, row, CLIMBING),
            quiet=_put(state.quiet, row, 0),
        )

    # -- one step ------------------------------------------------------------------------

    def step(self) -> None:
        """One step of every row that climbs."""
        state, rows = self.state, np.flatnonzero(self.climbing)
        state, direction, slope = self._directions(state, rows)
        over = self._spent(state, rows, slope)
        state = state._replace(status=_put(state.status, rows[over], CONVERGED))
        rows, direction, slope = rows[~over], direction[~over], slope[~over]
        if len(rows):
            state = self._walk(state, rows, direction, slope)
        self.state = state

    def _walk(self, state: State, rows: Rows, direction: Array, slope: Array) -> State:
        length, value, gradient, tried = self._search(state, rows, direction, slope)
        evaluations = _put(state.evaluations, rows, state.evaluations[rows] + tried)
        state = state._replace(evaluations=evaluations)
        moved = length > 0
        state = self._blocked(state, rows[~moved])
        rows, value, gradient = rows[moved], value[moved], gradient[moved]
        step = length[moved, None] * direction[moved]
        state = _remembered(state, rows, step, state.gradient[rows] - gradient)
        small = value - state.value[rows] <= self._least(state, rows)
        steps = state.steps[rows] + 1
        status = np.where(steps >= self.max_steps, OUT_OF_STEPS, CLIMBING)
        status = np.where(np.isposinf(value), ENDED, status)
        values = _put(state.value, rows, value)
        return state._replace(
            q=_put(state.q, rows, state.q[rows] + step),
            value=values,
            gradient=_put(state.gradient, rows, gradient),
            steps=_put(state.steps, rows, steps),
            status=_put(state.status, rows, status),
            quiet=_put(state.quiet, rows, np.where(small, state.quiet[rows] + 1, 0)),
            path=(*state.path, values),
        )

    def _spent(self, state: State, rows: Rows, slope: Array) -> Flags:
        """Which rows have nothing left to gain."""
        promised = 0.5 * slope <= self._least(state, rows)
        flat = ~state.gradient[rows].any(-1)
        return (promised & (state.quiet[rows] >= QUIET)) | flat

    def _blocked(self, state: State, rows: Rows) -> State:
        """Rows that found nothing higher: anew along the gradient, or the end."""
        if not len(rows):
            return state
        known = np.zeros(len(rows), dtype=bool)
        for weight in state.weights:
            known |= weight[rows] != 0
        quiet = state.quiet[rows] >= 1
        ended = np.where(quiet, CONVERGED, STUCK)
        status = np.where(known, CLIMBING, ended)
        return self._forgotten(state._replace(status=_put(state.status, rows, status)), rows)

    def _least(self, state: State, rows: Rows) -> Array:
        """Nats below which a rise is none: as asked for, or what rounding leaves."""
        return self.tolerance + 4 * self.precision * np.abs(state.value[rows])

    def _look(self, points: Array) -> tuple[Array, Array]:
        """Objectives and gradients; minus infinity where either is undefined."""
        with np.errstate(all="ignore"):
            value, gradient = self.evaluate(points)
        bad = np.isnan(value) | (np.isfinite(value) & ~np.isfinite(gradient).all(-1))
        return np.where(bad, -np.inf, value), gradient

    # -- the direction -------------------------------------------------------------------

    def _directions(self, state: State, rows: Rows) -> tuple[State, Array, Array]:
        """``H g`` and its slope ``g^T H g`` by row; along the gradient where ``H`` fails."""
        gradient = state.gradient[rows]
        direction = _curved(state, rows)
        slope = _dot(direction, gradient)
        bad = ~(np.isfinite(slope) & (slope > 0)) & gradient.any(-1)
        if bad.any():
            state = self._forgotten(state, rows[bad])
            direction[bad] = _curved(state, rows[bad])
            slope = _dot(direction, gradient)
        return state, direction, slope

    def _forgotten(self, state: State, rows: Rows) -> State:
        weights = tuple(_put(weight, rows, 0.0) for weight in state.weights)
        return state._replace(weights=weights, scale=_put(state.scale, rows, 0.0))

    # -- the step along it ---------------------------------------------------------------

    def _search(
        self, state: State, rows: Rows, direction: Array, slope: Array
    ) -> tuple[Array, Array, Array, Rows]:
        """Step length, objective, gradient and points tried by row; length 0: nothing higher."""
        length, low = np.ones(len(rows)), np.zeros(len(rows))
        high = np.full(len(rows), np.inf)
        start, tried = state.value[rows], np.zeros(len(rows), dtype=np.int64)
        best_value, best_gradient = start.copy(), state.gradient[rows]
        noise = 4 * self.precision * np.abs(start)
        searching = np.ones(len(rows), dtype=bool)
        for _ in range(TRIALS):
            at = np.flatnonzero(searching)
            points = state.q[rows[at]] + length[at, None] * direction[at]
            value, gradient = self._look(points)
            tried[at] += 1
            along = _dot(np.nan_to_num(gradient), direction[at])
            wanted = start[at] + SUFFICIENT_RISE * length[at] * slope[at]
            # Where the promised rise is below rounding, the slope must tell (Hager, Zhang 2005).
            near = (value >= wanted - noise[at]) & (np.abs(along) <= CURVATURE * slope[at])
            risen = (value >= wanted) | near
            up = at[risen]
            low[up], best_value[up], best_gradient[up] = length[up], value[risen], gradient[risen]
            high[at[~risen]] = length[at[~risen]]
            level = (along <= CURVATURE * slope[at]) | np.isposinf(value)
            searching[at[risen & level]] = False
            if not searching.any():
                break
            between = 0.5 * (low + np.where(np.isfinite(high), high, 0.0))
            further = np.where(np.isfinite(high), between, 2 * length)
            length = np.where(searching, further, length)
        return low, best_value, best_gradient, tried


def _curved(state: State, rows: Rows) -> Array:
    """``H g`` by the two loops over what is remembered: newest first, then oldest first."""
    direction = state.gradient[rows].copy()
    known = [i for i, weight in enumerate(state.weights) if weight[rows].any()]
    shares = {}
    for i in reversed(known):
        shares[i] = state.weights[i][rows] * _dot(state.moves[i][rows], direction)
        direction -= shares[i][:, None] * state.bends[i][rows]
    width, scale = state.width[rows], state.scale[rows]
    first = 1 / np.maximum(np.abs(width * state.gradient[rows]).sum(-1), 1.0)  # one width at most
    direction *= np.where(scale > 0, scale, first)[:, None] * width**2
    for i in known:
        back = state.weights[i][rows] * _dot(state.bends[i][rows], direction)
        direction += (shares[i] - back)[:, None] * state.moves[i][rows]
    return direction


def _remembered(state: State, rows: Rows, move: Array, bend: Array) -> State:
    """Keep a step and the fall of the gradient along it, where it shows curvature."""
    width = state.width[rows]
    product = _dot(move, bend)
    square, length = _dot(width * bend, width * bend), _dot(move / width, move / width)
    good = product > 1e-12 * np.sqrt(square * length)
    kept, whole = rows[good], np.zeros_like(state.q)
    weight = _put(np.zeros(len(state.q)), kept, 1 / product[good])
    return state._replace(
        moves=(*state.moves, _put(whole, kept, move[good]))[-MEMORY:],
        bends=(*state.bends, _put(whole, kept, bend[good]))[-MEMORY:],
        weights=(*state.weights, weight)[-MEMORY:],
        scale=_put(state.scale, kept, product[good] / square[good]),
    )


def _dot(a: Array, b: Array) -> Array:
    """Inner products by row."""
    return np.einsum("rd,rd->r", a, b)  # type: ignore[no-any-return]


def _put(array: Any, rows: Any, values: Any) -> Any:
    """A copy with other values in some rows."""
    changed = array.copy()
    changed[rows] = values
    return changed


def _last_change(path: list[float]) -> int:
    """Where a path reached its last value: what follows is other rows' steps."""
    last = len(path) - 1
    while last > 0 and path[last] == path[last - 1]:
        last -= 1
    return last


def pack(state: State) -> dict[str, Array]:
    """A state as arrays by name."""
    packed = {}
    for name, value in state._asdict().items():
        packed[name] = np.stack(value) if isinstance(value, tuple) and value else np.array(value)
    return packed


def unpack(arrays: Mapping[str, Any]) -> State:
    """The state that :func:`pack` gave."""
    lists = ("moves", "bends", "weights", "path")
    values: dict[str, Any] = {
        name: tuple(arrays[name]) if name in lists else arrays[name] for name in State._fields
    }
    return State(**values)
