"""The Gaussian mixture: every row comes from one of a few clouds, and nobody noted which.

What the story says
-------------------
A row picks one of K components, then falls around that component's centre::

    weight          ~ Dirichlet(concentration, ..., concentration)
    covariance_k    ~ InverseWishart(D + extra_df, diag(spread^2) / K^(2/D))
    loc_k           ~ Normal(centre, covariance_k / shrinkage)
    z_n             ~ Categorical(weight)
    y_n             ~ Normal(loc_{z_n}, covariance_{z_n})

``covariance`` chooses the clouds' shape: ``full`` (each its own ellipsoid), ``tied`` (one for
all), ``diagonal`` (features independent within a component; ``variance_kd`` is
inverse-gamma((D + extra_df)/2, spread_d^2 / (2 K^(2/D)))) or ``spherical`` (one ``variance_k``,
with the mean of spread_d^2). The density of a row sums z out::

    log p(y_n) = log sum_k weight_k Normal(y_n | loc_k, covariance_k)

Priors
------
Conjugate and weak, after Fraley and Raftery (2007): a component's centre is pulled towards the
data's mean with the force of a hundredth of a row (``shrinkage``), its covariance towards the
data's spread shared out among K clouds, with the force of a few rows (``extra_df`` = 2, the
fewest for which the prior mean exists). That much keeps a component from collapsing on a single
row, where the likelihood has no bound. The scale matrix is diagonal, where theirs is the whole
covariance of the data: it needs no complete rows, is never singular, and does not take the
between-cluster correlation for one within clusters. ``concentration`` is 2, not 1: the density
then falls to zero where a weight does, so that the mode has no empty component, and samplers do
not wander along an edge where an unused component's location means nothing.

``centre`` and ``spread``, in the units of y, are set from the data once, by ``scaled_to``; left
unset they are 0 and 1, right for standardised data. Both are kept with the fit.

Missing values
--------------
NaN is a value that was not observed. The likelihood is the exact one of what was, with every kind
of covariance; EM takes the expected statistics given what is observed (Ghahramani and Jordan
1994); ``impute`` draws z given the observed values, then the missing ones given both. This is
right where values are missing at random given the observed ones.

When to use it, and what it can't do
------------------------------------
For continuous columns that form a few clouds, as a density (simulate, score, fill in) or as
clusters with degrees of membership. Labels have no order: every permutation of components fits
alike, so results are relabelled before they are judged. There are many local modes; look at how
many restarts agree. Rows must be independent and columns roughly normal within a component: heavy
tails or skew show up as spurious small components, so K is then not "the number of clusters".
With ``full`` a component has D(D+3)/2 parameters: with few rows choose a simpler shape.

Sites: weight (component), loc (component, feature); covariance (component, feature,
feature_other), tied (feature, feature_other); variance (component, feature), spherical
(component); z (point), discrete. Data: y (point, feature).

References
----------
Bishop (2006), Pattern Recognition and Machine Learning, §9.2 and §10.2. Dempster, Laird and Rubin
(1977), JRSS B 39. Fraley and Raftery (2007), Journal of Classification 24, 155-181. Ghahramani
and Jordan (1994), NIPS 6. McLachlan and Peel (2000), Finite Mixture Models.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from storyzoo.errors import DataError, SettingError, nearest
from storyzoo.models.distributions.inverse_wishart import InverseWishart, cholesky
from storyzoo.models.distributions.partial_normal import PartialNormal
from storyzoo.models.kernels import conjugate, gmm
from storyzoo.models.kernels.gaussian import (
    conditional,
    log_normal,
    log_normal_independent,
    patterns,
)
from storyzoo.story import Data, Expectation, Latents, Story

Shape = Literal["full", "tied", "diagonal", "spherical"]

_MAXIMISE: Mapping[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "full": conjugate.full,
    "tied": conjugate.tied,
    "diagonal": conjugate.diagonal,
    "spherical": conjugate.spherical,
}
_START_ROWS = 100_000
"""Rows that a start looks at: more do not move cluster centres by what EM could not mend."""
_AT_FLOOR = 1.001
