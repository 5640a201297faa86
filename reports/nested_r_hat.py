"""Nested R-hat: have many short chains forgotten where they started?

Chains are grouped in superchains, whose chains start at one point. With K superchains of M chains
of N draws, x_nmk,

``B = var_k(mean_mn x)``, ``W = mean_k(var_m(mean_n x) + mean_m var_n(x))``,
``nested R-hat = sqrt(1 + B / W)``

The mean of a superchain is one of M N draws, so that B is small once the M chains have parted,
however short each of them is; a superchain that is still near its start keeps it large. Chains
are not split in halves: halves would lie in one superchain, and a drift would swell W alone.

Source: Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman (2024), "Nested R-hat:
assessing the convergence of Markov chain Monte Carlo when running many short chains", Bayesian
Analysis, eqs 4-8. Ranks and distances from the median as for plain R-hat: Vehtari, Gelman,
Simpson, Carpenter and Bürkner (2021), Bayesian Analysis 16(2).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from scipy.stats import rankdata

Array = npt.NDArray[np.float64]

LIMIT = 1.01
"""What is asked of draws that can reach it."""
TOLERANCE = 1e-4
"""Share of the variance that may still come from where superchains started."""


def nested_r_hat(draws: Array, superchains: int) -> Array:
    """Nested R-hat (element,) of draws (element, chain, draw); consecutive chains are a superchain.

    The larger of that of the ranks' normal scores, and of those of distances from the median.
    Raises ValueError where the chains can't be shared out.
    """
    folded = np.abs(draws - np.median(draws, axis=(1, 2), keepdims=True))
    return np.maximum(
        of_values(normal_scores(draws), superchains), of_values(normal_scores(folded), superchains)
    )


def of_values(values: Array, superchains: int) -> Array:
    """Nested R-hat (element,) of the values (element, chain, draw) themselves."""
    elements, chains, draws = values.shape
    if superchains < 2 or chains % superchains:
        raise ValueError(f"{chains} chains can't be shared out to {superchains} superchains")
    groups = values.reshape(elements, superchains, -1, draws)
    means = groups.mean(-1)
    within = groups.var(-1, ddof=1).mean(-1) if draws > 1 else np.zeros(means.shape[:2])
    between = means.var(-1, ddof=1) if means.shape[2] > 1 else np.zeros(means.shape[:2])
    of_superchains: Array = means.mean(-1).var(-1, ddof=1)
    of_chains: Array = (within + between).mean(-1)
    found: Array = np.sqrt(1 + of_superchains / of_chains)
    return found


def normal_scores(draws: Array) -> Array:
    """Ranks among all draws of an element, as quantiles of a normal (Blom 1958)."""
    flat = draws.reshape(len(draws), -1)
    ranks = rankdata(flat, axis=1).reshape(draws.shape)
    scores: Array = ndtri((ranks - 0.375) / (flat.shape[1] + 0.25))
    return scores


def limit(chains: int, draws: int, superchains: int) -> float:
    """What nested R-hat may be: 1.01, or more where even independent draws would not reach it.

    ``sqrt(1 + 1 / (M N) + tolerance)``: the variance of the mean of M N independent draws, and
    what may be left of the starts. The paper's limit for one draw a chain is that with N = 1.
    """
    together = draws * chains / superchains
    return max(LIMIT, math.sqrt(1 + 1 / together + TOLERANCE))
