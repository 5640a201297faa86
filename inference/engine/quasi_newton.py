"""Normals along an ascent: the inverse Hessian that its steps tell, as a diagonal and a few pairs.

A step ``s`` and the fall ``y`` of the gradient along it (``y = g(q) - g(q + s)``, g the gradient
of the log density) tell the curvature in one direction. From the last J of them, oldest first,

``H <- (I - s y^T / b) H (I - y s^T / b) + s s^T / b,   b = s^T y``

starting at a diagonal (Nocedal and Wright 2006, eq. 6.17). The diagonal itself is brought up to
date at every step (Gilbert and Lemaréchal 1989, as in Zhang et al. 2022, algorithm 3). Each of the
updates is also a product, ``H <- (I - p r^T) H (I - r p^T)`` (Brodlie, Gourlay and Greenstadt
1973), so that with ``R = (I - p_J r_J^T) ... (I - p_1 r_1^T) diag(alpha)^(1/2)``

``H = R R^T``,  ``log |H| = sum_i log alpha_i + 2 sum_j log |1 - r_j^T p_j|``

where R and its inverse meet a vector in O(J D), and no rounding makes H indefinite. It is the
matrix that the compact form of Zhang et al. 2022, algorithm 4, takes apart by QR and Cholesky.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from storyzoo.inference.engine.ascent import Array

LEAST_COSINE = 1e-10
"""Cosine of step and fall below which their pair tells rounding rather than curvature."""


class PathNormal(NamedTuple):
    """``Normal(x | mean, R R^T)`` in D dims, from J pairs."""

    mean: Array
    """(D,)."""
    alpha: Array
    """The diagonal (D,), above zero."""
    moves: Array
    """``p_j`` (J, D), oldest first."""
    turns: Array
    """``r_j`` (J, D)."""
    log_volume: float
    """``log |R R^T|``."""

    def at(self, noise: Array) -> Array:
        """Standard normal noise (…, D) as draws."""
        return self.mean + self._root(noise)

    def log_density_of_noise(self, noise: Array) -> Array:
        """Log density (…) of the draws :meth:`at` that noise (…, D)."""
        square = np.einsum("...d,...d->...", noise, noise)
        return np.asarray(
            -0.5 * (square + self.log_volume + len(self.mean) * math.log(2 * math.pi))
        )

    def log_density(self, points: Array) -> Array:
        """Log density (…) at points (…, D)."""
        return self.log_density_of_noise(self._whitened(points - self.mean))

    def _root(self, noise: Array) -> Array:
        """``R u`` for the rows u."""
        moved = np.sqrt(self.alpha) * noise
        for move, turn in zip(self.moves, self.turns, strict=True):
            moved -= (moved @ turn)[..., None] * move
        return moved

    def _whitened(self, moved: Array) -> Array:
        """``R^-1 v`` for the rows v: ``(I - p r^T)^-1 = I + p r^T / (1 - r^T p)``."""
        moved = moved.copy()
        for move, turn in zip(self.moves[::-1], self.turns[::-1], strict=True):
            moved += (moved @ turn / (1 - turn @ move))[..., None] * move
        return np.asarray(moved / np.sqrt(self.alpha))

    def newton(self, gradient: Array) -> Array:
        """``H g``: the step to the top of a quadratic with this curvature."""
        turned = gradient.copy()
        for move, turn in zip(self.moves[::-1], self.turns[::-1], strict=True):
            turned -= (move @ turned) * turn
        return self._root(np.sqrt(self.alpha) * turned)


class Curvature(NamedTuple):
    """What is known at one point of an ascent; the normal there is made when it is asked for."""

    point: Array
    """(D,)."""
    gradient: Array
    alpha: Array
    """The diagonal (D,)."""
    pairs: tuple[tuple[Array, Array], ...]
    """Steps and falls of the gradient, oldest first."""

    def normal(self) -> PathNormal:
        """The normal whose mean ``x + H g(x)`` is the top of a quadratic with that curvature."""
        normal = factorised(self.alpha, self.pairs)
        return normal._replace(mean=self.point + normal.newton(self.gradient))


def curvatures(points: Array, gradients: Array, memory: int) -> list[Curvature]:
    """What the steps up to each point of an ascent tell: points and gradients (T, D).

    The last ``memory`` pairs are kept. At the first point nothing is known: ``H = I``.
    """
    alpha = np.ones(points.shape[1])
    pairs: deque[tuple[Array, Array]] = deque(maxlen=memory)
    known = [Curvature(points[0], gradients[0], alpha, ())]
    for place in range(1, len(points)):
        step, fall = points[place] - points[place - 1], gradients[place - 1] - gradients[place]
        if _tells(step, fall):
            alpha = diagonal(alpha, step, fall)
            pairs.append((step, fall))
        known.append(Curvature(points[place], gradients[place], alpha, tuple(pairs)))
    return known


def factorised(alpha: Array, pairs: Sequence[tuple[Array, Array]]) -> PathNormal:
    """The normal about zero whose covariance the pairs make of the diagonal ``alpha`` (D,).

    ``r_j = y_j - B_j s_j / sqrt(s_j^T B_j s_j)`` for pairs with ``s^T y = 1``, where B_j is the
    inverse of H before that pair: ``B s = s/alpha - sum_i w_i w_i^T s / (s_i^T w_i) + y_i y_i^T s``
    with ``w_i = B_i s_i``. A pair whose ``s^T B s`` rounding has made negative is passed over.
    """
    moves, bends, stiff = (np.zeros((len(pairs), len(alpha))) for _ in range(3))
    turns, squares = np.zeros_like(moves), np.ones(len(pairs))
    for j, (step, fall) in enumerate(pairs):
        size = math.sqrt(step @ fall)
        move, bend = step / size, fall / size
        told = (bends[:j] @ move) @ bends[:j] - (stiff[:j] @ move / squares[:j]) @ stiff[:j]
        bent = move / alpha + told
        square = float(move @ bent)
        if 0 < square < math.inf:
            moves[j], bends[j], stiff[j], squares[j] = move, bend, bent, square
            turns[j] = bend - bent / math.sqrt(square)
    stretch = 1 - np.einsum("jd,jd->j", moves, turns)
    log_volume = float(np.log(alpha).sum() + 2 * np.log(np.abs(stretch)).sum())
    return PathNormal(np.zeros(len(alpha)), alpha, moves, turns, log_volume)


def diagonal(alpha: Array, step: Array, fall: Array) -> Array:
    """The diagonal (D,) after one more pair: that of the BFGS update, taken by its inverse.

    ``1 / alpha_i <- a / (b alpha_i) + y_i^2 / b - a s_i^2 / (b c alpha_i^2)`` with
    ``a = y^T diag(alpha) y``, ``b = s^T y``, ``c = s^T diag(alpha)^-1 s``.
    """
    a, b, c = fall @ (alpha * fall), step @ fall, step @ (step / alpha)
    shrunk = a / b * np.maximum(1 - step**2 / (c * alpha), 0.0) / alpha
    curvature = shrunk + fall**2 / b
    known = np.isfinite(curvature) & (curvature > 0)
    return np.where(known, 1 / np.where(known, curvature, 1.0), alpha)


def _tells(step: Array, fall: Array) -> bool:
    """Whether the gradient fell along the step, by more than rounding."""
    return bool(step @ fall > LEAST_COSINE * np.linalg.norm(step) * np.linalg.norm(fall))
