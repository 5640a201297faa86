"""Pareto-smoothed importance sampling: how far draws can be corrected, and leave-one-out scores.

Draws ``theta_s`` from q stand for p with weights ``w_s = p(theta_s) / q(theta_s)``. A generalised
Pareto distribution fitted to the largest weights has a shape k; the weights have ``1/k`` finite
moments, so ``k < 0.7`` says that the correction works with a practical number of draws.

Sources: Vehtari, Simpson, Gelman, Yao & Gabry 2024 (JMLR 25:72) for the smoothing and the
threshold; Yao, Vehtari, Simpson & Gelman 2018 for k as a check of variational inference;
Vehtari, Gelman & Gabry 2017 for LOO; Magnusson, Andersen, Jonasson & Vehtari 2019 for LOO from
draws of an approximation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.special import logsumexp

from storyzoo.inference.engine.estimated import BOUNDS
from storyzoo.inference.engine.rank_statistics import ess_mean
from storyzoo.inference.engine.statistics import array_stats

Array = npt.NDArray[np.float64]

PROPOSALS = "proposal_stats"
"""Group of a tree whose draws were resampled: ``lp`` and ``log_q`` of the draws before that."""
FEWEST_DRAWS = 25
"""Below this the tail holds fewer than five weights and no Pareto distribution can be fitted."""

ROUNDING = 1e-9
"""Nats within which log weights are equal but for rounding."""


@dataclass(frozen=True)
class Loo:
    """Expected log pointwise predictive density by leave-one-out, nats, and how sound it is."""

    value: float
    """``sum_n log p(y_n | y_-n)``."""
    se: float
    """``sqrt(N var_n)``: the standard error over examples, not over draws."""
    pointwise: xr.DataArray
    """``log p(y_n | y_-n)`` by example."""
    k_hats: xr.DataArray
    """Pareto shape by example."""
    threshold: float
    """What a k-hat must stay below."""


def k_threshold(n_draws: int) -> float:
    """``min(1 - 1 / log10 S, 0.7)``: the largest k-hat that S draws can bear."""
    if n_draws < 2:
        return 0.0
    return float(min(1 - 1 / np.log10(n_draws), 0.7))


def k_hat(log_p: npt.ArrayLike, log_q: npt.ArrayLike) -> float:
    """Pareto shape of the weights ``p/q`` of draws from q; at or above the threshold q won't do.

    ``log_p``, ``log_q``: log densities of the same S draws, up to a constant each, in the same
    space (both unconstrained, both with their Jacobian). nan where there are fewer than 25 draws,
    inf where the weights can't be fitted at all, 0 where they're all equal.
    """
    target, proposal = (np.asarray(a, dtype=np.float64).ravel() for a in (log_p, log_q))
    if target.shape != proposal.shape:
        raise ValueError(f"log_p has {target.size} draws, log_q has {proposal.size}")
    return _smooth(target - proposal, 1.0)[1]


def pareto_weights(log_p: npt.ArrayLike, log_q: npt.ArrayLike) -> tuple[Array, float]:
    """Log weights ``p/q`` (S,) of draws from q, normalised and their tail smoothed, and k-hat.

    They are left as they are where k-hat is infinite or there are fewer than 25 draws.
    """
    target, proposal = (np.asarray(a, dtype=np.float64).ravel() for a in (log_p, log_q))
    return _smooth(target - proposal, 1.0)


def proposal_stats(tree: xr.DataTree) -> xr.Dataset:
    """Statistics of an approximation's draws as they were drawn, ``lp`` and ``log_q`` among them.

    Draws that were resampled by their weights have spent them, and would look perfect.
    """
    for group in (PROPOSALS, "sample_stats"):
        if group in tree.children:
            return tree[group].to_dataset()
    return xr.Dataset()


def elpd_loo(tree: xr.DataTree, kind: str) -> Loo | None:
    """Leave-one-out score of a fit, from the tree's log likelihoods.

    Draws of the posterior (``kind="draws"``) get the weights ``1 / p(y_n | theta_s)``; draws of
    an approximation get ``p(theta_s) / (q(theta_s) p(y_n | theta_s))``, since the plain score
    rewards an approximation for being too narrow; those that were resampled by ``p / q`` already
    get ``1 / p(y_n | theta_s)``. None for a point, and where the tree has no log likelihood (or an
    approximation no densities of its draws), or that of a single example. None also where the
    likelihoods are estimates of a few draws: their errors would pass for weights.
    """
    if kind == "point" or "log_likelihood" not in tree.children or BOUNDS in tree.children:
        return None
    log_likelihood = _by_example(tree["log_likelihood"].dataset)
    if log_likelihood.size == log_likelihood.sizes["chain"] * log_likelihood.sizes["draw"]:
        return None
    correction: Array = np.zeros(1)
    r_eff = 1.0
    if kind == "approximation" and PROPOSALS not in tree.children:
        stats = tree["sample_stats"].dataset if "sample_stats" in tree.children else xr.Dataset()
        if "lp" not in stats or "log_q" not in stats:
            return None
        log_weights = (stats["lp"] - stats["log_q"]).transpose("chain", "draw")
        correction = log_weights.to_numpy().ravel()
    elif kind == "draws":
        r_eff = _relative_efficiency(tree["posterior"].dataset)
    return _leave_one_out(log_likelihood, correction, r_eff)


def _leave_one_out(log_likelihood: xr.DataArray, correction: Array, r_eff: float) -> Loo:
    """LOO of ``log_likelihood`` (chain, draw, *example) with log weights added to ``1/p``."""
    example = log_likelihood.isel(chain=0, draw=0, drop=True)
    n_draws = log_likelihood.sizes["chain"] * log_likelihood.sizes["draw"]
    values = log_likelihood.transpose("chain", "draw", ...).to_numpy()
    columns = values.reshape(n_draws, -1).astype(np.float64)
    scores = np.full((2, columns.shape[1]), np.nan)
    for n, column in enumerate(columns.T):
        scores[:, n] = _leave_out(column, correction, r_eff)
    seen = ~np.isnan(columns).any(axis=0)  # NaN stands for a value that was never observed
    elpd = scores[0, seen]
    known = elpd.size > 1 and bool(np.isfinite(elpd).all())
    return Loo(
        value=float(elpd.sum()) if elpd.size else float("nan"),
        se=float(np.sqrt(elpd.size * np.var(elpd, ddof=1))) if known else float("nan"),
        pointwise=example.copy(data=scores[0].reshape(example.shape)),
        k_hats=example.copy(data=scores[1].reshape(example.shape)),
        threshold=k_threshold(n_draws),
    )


def _leave_out(log_likelihood: Array, correction: Array, r_eff: float) -> tuple[float, float]:
    """``log p(y_n | y_-n)`` of one example and its k-hat, from its log likelihood by draw."""
    if np.isnan(log_likelihood).any():
        return float("nan"), float("nan")
    if np.isneginf(log_likelihood).any():
        return float("-inf"), float("inf")
    log_weights, shape = _smooth(correction - log_likelihood, r_eff)
    return float(logsumexp(log_weights + log_likelihood)), shape


def _smooth(log_ratios: Array, r_eff: float) -> tuple[Array, float]:
    """Normalised log weights with their tail smoothed, and the shape k of that tail."""
    if np.isnan(log_ratios).any() or not np.isfinite(log_ratios.max(initial=-np.inf)):
        return np.full_like(log_ratios, np.nan), float("inf")
    shifted = log_ratios - log_ratios.max()
    plain = shifted - logsumexp(shifted)
    if shifted.size < FEWEST_DRAWS:
        return plain, float("nan")
    if np.ptp(shifted) < ROUNDING:
        return plain, 0.0
    if not _fittable(shifted, r_eff):
        return plain, float("inf")
    with np.errstate(all="ignore"):
        smooth, shape = array_stats.psislw(-shifted, r_eff=r_eff)  # it negates what it is given
    if not np.isfinite(shape):
        return plain, float("inf")
    return np.asarray(smooth, dtype=np.float64), float(shape)


def _fittable(shifted: Array, r_eff: float) -> bool:
    """Whether the weights of the tail can be told apart where the fit takes its scale from.

    The fit divides by the tail's lower quartile above its cut-off. Where that is zero (weights
    hundreds of nats apart underflow) it returns a k-hat near zero: the worst approximations
    would look the best.
    """
    size = shifted.size
    tail = 3 * (size / r_eff) ** 0.5 if size * r_eff > 225 else size / 5
    length = min(int(tail), size - 1)
    if length < 5:
        return False
    ordered = np.sort(shifted)[-length - 1 :]
    quartile = ordered[int(length / 4 + 0.5)]
    return bool(np.exp(quartile) - np.exp(ordered[0]) > np.finfo(np.float64).tiny)


def _by_example(log_likelihood: xr.Dataset) -> xr.DataArray:
    """One log likelihood per example: the sites' own added over the dims that they don't share."""
    arrays = [array.reset_coords(drop=True) for array in log_likelihood.data_vars.values()]
    if len(arrays) == 1:
        return arrays[0]
    shared = set.intersection(*({*array.dims} - {"chain", "draw"} for array in arrays))
    if not shared:
        return _side_by_side(arrays)
    keep = {"chain", "draw", *shared}
    total = sum(array.sum([d for d in array.dims if d not in keep]) for array in arrays)
    assert isinstance(total, xr.DataArray)
    return total


def _side_by_side(arrays: list[xr.DataArray]) -> xr.DataArray:
    """Sites that share no dim, every value an example of its own."""
    flat = []
    for array in arrays:
        values = array.transpose("chain", "draw", ...).to_numpy()
        flat.append(values.reshape(*values.shape[:2], -1))
    names = [
        f"{array.name}[{i}]" for array, part in zip(arrays, flat, strict=True)
        for i in range(part.shape[-1])
    ]  # fmt: skip
    return xr.DataArray(
        np.concatenate(flat, axis=-1),
        dims=("chain", "draw", "observation"),
        coords={"observation": names},
    )


def _relative_efficiency(posterior: xr.Dataset) -> float:
    """Mean effective draws per draw over the continuous parameters; 1 for a single chain."""
    if posterior.sizes["chain"] == 1 or posterior.sizes["draw"] < 4:
        return 1.0
    ratios = []
    for array in posterior.data_vars.values():
        if array.dtype.kind == "f":
            values = array.transpose(..., "chain", "draw").to_numpy().astype(np.float64)
            draws = values.reshape(-1, *values.shape[-2:])
            ratios.append(ess_mean(draws) / (draws.shape[1] * draws.shape[2]))
    finite = [ratio[np.isfinite(ratio)] for ratio in ratios]
    pooled = np.concatenate(finite) if finite else np.ones(0)
    return float(pooled.mean()) if pooled.size else 1.0
