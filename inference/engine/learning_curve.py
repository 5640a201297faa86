"""How an answer fares while it is learnt: log likelihoods of rows fitted and rows kept apart.

``score_t = mean_n log p(x_n | theta_t)``, nats per example, at some of the steps t. Where the
likelihood's normaliser is only estimated all rows share its error, which is kept beside the
standard error over the rows: two points of one curve, on the same rows, differ by the first alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storyzoo.inference.engine.method import PointInfo
from storyzoo.inference.engine.target import Target

Array = npt.NDArray[np.float64]

MOST_ROWS = 2000
"""Rows of either kind that are scored."""
ENOUGH_ROWS = 500
"""Rows from which some are kept apart, unless told otherwise."""
KEPT_APART = 0.1
"""The share of them."""


LITTLE = 0.02
"""Share of all that a score rose which is next to nothing."""


class Split(NamedTuple):
    """Rows of the data, by what they are for; each in order."""

    training: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]


class Scores(NamedTuple):
    """Log likelihoods of the rows scored at one point, nats."""

    training: Array
    """(T,)."""
    validation: Array
    """(V,)."""
    normaliser_se: float
    """Standard error of the log normaliser, which all rows share; zero where it is exact."""


class Point(NamedTuple):
    """One point of a learning curve: means by row, nats per example, with standard errors."""

    step: int
    training: float
    training_se: float
    validation: float
    validation_se: float
    normaliser_se: float


def split_rows(rows: int, share: float | None, rng: np.random.Generator) -> Split:
    """Rows to fit and rows to keep apart; None keeps a tenth of 500 rows or more."""
    if share is None:
        share = KEPT_APART if rows >= ENOUGH_ROWS else 0.0
    order = rng.permutation(rows)
    count = min(math.ceil(share * rows), rows - 1)
    return Split(np.sort(order[count:]), np.sort(order[:count]))


@dataclass(frozen=True, kw_only=True)
class LearningInfo(PointInfo):
    """The learning curve, and which of its points was kept; scores in nats per example."""

    steps: int = 0
    curve_steps: tuple[int, ...] = ()
    """Steps after which the answer was scored; the other curves run beside it."""
    training: tuple[float, ...] = ()
    """Mean log likelihood of rows fitted."""
    training_se: tuple[float, ...] = ()
    """Its standard error, over the rows and of the normaliser."""
    validation: tuple[float, ...] = ()
    """Of rows kept apart; empty where none were."""
    validation_se: tuple[float, ...] = ()
    normaliser_se: tuple[float, ...] = ()
    """Standard error of the log normaliser alone, which all rows share; zero where exact."""
    exact: bool = True
    """Whether the likelihood is exact; else it is an estimate."""
    kept_step: int = 0
    """Step whose answer was kept."""
    over_fitting: float = 0.0
    """Nats per example by which rows kept apart were told better at the best step than by what
    was kept."""
    over_fitting_se: float = 0.0
    resumed_steps: int = 0
    """Of the steps: how many came from a checkpoint."""
    per: str = "example"
    """What scores are by: ``example``, or ``step`` of sequences."""


class Likelihoods:
    """Log likelihoods of rows of two kinds at any point, exact or estimated.

    Of more rows than 2000 of a kind some are scored, evenly spread.
    """

    def __init__(self, target: Target, split: Split) -> None:
        self._training, validation = _some(split.training), _some(split.validation)
        rows = np.concatenate([self._training, validation])
        self._target = target.rows(rows)
        self._density = self._target.density(jacobian=False)
        story = target.story
        self.exact = story.intractable() is None
        self.known = self.exact or story.has("log_likelihood_estimate")
        """Whether there is any way to tell them."""

    def __call__(self, q: Tensor, rng: np.random.Generator) -> Scores:
        """At ``q`` (D,). The same generator gives the same estimate."""
        values, error = self._exact(q) if self.exact else self._estimated(q, rng)
        rows = values.detach().double().cpu().numpy()
        return Scores(rows[: len(self._training)], rows[len(self._training) :], error)

    def _exact(self, q: Tensor) -> tuple[Tensor, float]:
        with torch.no_grad(), self._density.running():
            return self._density.parts(q).log_likelihood, 0.0

    def _estimated(self, q: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
        latents = self._density.unflatten(q)
        with torch.no_grad(), self._target.context():
            found = self._target.story.log_likelihood_estimate(latents, self._target.data, rng)
        assert found is not None
        return found.value, float(found.standard_error)


def _some(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    places = np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).round().astype(np.int64)
    return rows[places]


def fields_of(curve: Sequence[Point]) -> dict[str, tuple[float, ...]]:
    """A curve as the fields of :class:`LearningInfo`."""
    validated = bool(curve) and not math.isnan(curve[0].validation)
    return {
        "curve_steps": tuple(p.step for p in curve),
        "training": tuple(p.training for p in curve),
        "training_se": tuple(p.training_se for p in curve),
        "validation": tuple(p.validation for p in curve) if validated else (),
        "validation_se": tuple(p.validation_se for p in curve) if validated else (),
        "normaliser_se": tuple(p.normaliser_se for p in curve),
    }


def levelled_off(curve: Sequence[Point]) -> bool:
    """Whether the last quarter of the way brought next to nothing to what the answer is chosen by.

    That is the score of what was kept apart, else of what was fitted; next to nothing is a
    fiftieth of all that it rose. Where it fell an earlier answer is the one that was kept.
    """
    height = [p.training if math.isnan(p.validation) else p.validation for p in curve]
    before = [h for h, p in zip(height, curve, strict=True) if p.step <= 0.75 * curve[-1].step]
    if len(before) < 2:
        return False
    return max(height) - max(before) <= LITTLE * (max(height) - height[0])


def point_of(step: int, scores: Scores) -> Point:
    """The means, with errors over the rows and of the normaliser."""
    training, validation = (_mean(rows, scores.normaliser_se) for rows in scores[:2])
    return Point(step, *training, *validation, scores.normaliser_se)


def _mean(rows: Array, normaliser_se: float) -> tuple[float, float]:
    """Mean and ``sqrt(var_n / N + normaliser_se^2)``; nan of no rows."""
    if not rows.size:
        return math.nan, math.nan
    over_rows = rows.var(ddof=1) / rows.size if rows.size > 1 else 0.0
    return float(rows.mean()), math.sqrt(over_rows + normaliser_se**2)


def fall(best: Array, last: Array, normaliser_se: float) -> tuple[float, float]:
    """How much lower the same rows score at the last of two points, and its standard error.

    ``normaliser_se`` is that of the two points' normalisers together.
    """
    return _mean(best - last, normaliser_se)
