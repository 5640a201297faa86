"""How good draws are, by one code for every side: ESS, R-hat, and distance from a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks.mcmc_peers.worker import Values
from storyzoo.inference.engine.statistics import array_stats


@dataclass(frozen=True)
class Quality:
    """Of one run."""

    ess: float
    """Least bulk ESS over all parameters."""
    r_hat: float
    """Greatest rank-normalised R-hat."""
    mean: np.ndarray
    """(P,): of each parameter."""
    error: np.ndarray
    """(P,): Monte Carlo standard error of the mean."""


def quality(draws: Values, names: Mapping[str, tuple[int, ...]]) -> Quality:
    """Of draws (chain, draw, *shape) of the named parameters."""
    table = columns(draws, names)
    axes = {"chain_axis": 1, "draw_axis": 2}
    return Quality(
        float(array_stats.ess(table, **axes, method="bulk").min()),
        float(array_stats.rhat(table, **axes, method="rank").max()),
        table.mean((1, 2)),
        np.asarray(array_stats.mcse(table, **axes, method="mean")),
    )


def columns(draws: Values, names: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """(P, chain, draw): every entry of every parameter."""
    found = []
    for name, shape in names.items():
        values = draws[name]
        assert values.shape[2:] == tuple(shape), f"{name} {values.shape}, not (…, *{shape})"
        found.append(np.moveaxis(values.reshape(*values.shape[:2], -1), -1, 0))
    return np.concatenate(found)


def distance(one: Quality, other: Quality) -> float:
    """Greatest ``|difference of means| / joint standard error`` over the parameters."""
    error = np.hypot(one.error, other.error)
    return float((np.abs(one.mean - other.mean) / np.where(error > 0, error, np.inf)).max())


def pooled(runs: list[Quality]) -> Quality:
    """Means of independent runs together, each by its precision."""
    weight = np.stack([1 / np.maximum(run.error, 1e-300) ** 2 for run in runs])
    mean = (weight * np.stack([run.mean for run in runs])).sum(0) / weight.sum(0)
    ess, worst = sum(run.ess for run in runs), max(run.r_hat for run in runs)
    return Quality(ess, worst, mean, weight.sum(0) ** -0.5)


def relabelled(draws: Values, axes: Mapping[str, int], reference: Values) -> Values:
    """Each chain's labels permuted as a whole to those of a reference point.

    ``axes``: parameter -> its axis over the labels. Labels are matched by the least squared
    distance of the chain's means to the reference.
    """
    if not axes:
        return draws
    chains = len(next(iter(draws.values())))
    found = {name: values.copy() for name, values in draws.items()}
    for chain in range(chains):
        cost = sum(
            _cost(draws[name][chain].mean(0), reference[name], axis) for name, axis in axes.items()
        )
        order = linear_sum_assignment(cost)[1]
        for name, axis in axes.items():
            found[name][chain] = draws[name][chain].take(order, axis + 1)
    return found


def _cost(mean: np.ndarray, reference: np.ndarray, axis: int) -> np.ndarray:
    """(K, K): squared distance of the reference's label i to the chain's label j."""
    wanted, found = (np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1) for v in (reference, mean))
    square: np.ndarray = ((wanted[:, None] - found[None]) ** 2).sum(-1)
    return square
