"""k-means, told as a story: K equally likely spheres so small that membership is certain.

What the story says
-------------------
A row picks one of K clusters, all equally likely, then falls very close to that cluster's centre::

    loc_k  ~ Flat                                   centres can be anywhere, all alike
    z_n    ~ Categorical(1/K, ..., 1/K)
    y_n    ~ Normal(loc_{z_n}, sd^2 I)              sd tiny and known

With each row at its best cluster the log joint is ``constant - J / (2 sd^2)``, where

    J = sum_n min_k |y_n - loc_k|^2

is the objective of k-means (the inertia). So hard EM on this story *is* Lloyd's algorithm: assign
each row to the nearest centre, then move each centre to the mean of its rows, and J never rises.
As sd goes to zero soft EM becomes the same thing (Bishop 2006, §9.3.2). ``inertia`` gives J in
squared units of y.

Priors
------
None: ``Flat`` is improper, so that the posterior mode is k-means and nothing else. There are
hence no prior draws, no calibration and no evidence. ``sd`` is set by ``scaled_to`` to a
thousandth of the data's overall deviation, small enough for certain labels, and changes no answer
of hard EM; unset it is 0.001.

Steps
-----
Starts are scikit-learn's k-means++ (Arthur and Vassilvitskii 2007). Distances and nearest centres
are scikit-learn's. A cluster that has lost all its rows is put on the row that lies farthest from
its own centre, as scikit-learn does; J then falls all the more.

When to use it, and what it can't do
------------------------------------
For a quick partition of many rows into compact groups of like size, and as a start for others. It
says nothing about uncertainty: MCMC on it only measures ``sd``. Clusters are cut by flat walls
half way between centres, so long, unequal or overlapping clouds are split wrongly: use ``gmm``.
Columns in different units must be standardised first. It can't take missing values, since a
distance to a half-known row is no distance: ``gmm`` with ``covariance=spherical`` does.

Sites: loc (cluster, feature); z (point), discrete. Data: y (point, feature).

References
----------
Lloyd (1982), IEEE Trans. Information Theory 28(2). Arthur and Vassilvitskii (2007), SODA. Bishop
(2006), Pattern Recognition and Machine Learning, §9.1 and §9.3.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from storyzoo.errors import DataError, SettingError
from storyzoo.models.distributions.flat import Flat
from storyzoo.models.gmm import refuse_bad_rows
from storyzoo.models.kernels import gmm
from storyzoo.models.kernels.gaussian import LOG_2PI, log_normal_independent
from storyzoo.story import Data, Expectation, Latents, Story

_SHARE = 1e-3
"""The spheres' deviation, as a share of the data's."""
_FAR = 1e4
"""Squared distance of the centres from the origin, in squares of their spread, that is too far."""


@dataclass(frozen=True)
class KMeans(Story):
    """Equal weights and one tiny spherical variance: hard EM is Lloyd's algorithm."""

    n_clusters: int = 3
    sd: float | None = None
    """Deviation within a cluster, units of y; ``scaled_to`` sets it from the data."""

    name = "kmeans"
    data_dims = {"y": ("point", "feature")}
    event_dims = {"loc": ("feature",), "y": ("feature",)}
    units = {"loc": "location"}
    examples = "point"
    exchangeable = {"cluster": ("cluster",)}
    label_values = {"z": "cluster"}

    def __post_init__(self) -> None:
        if not isinstance(self.n_clusters, int) or self.n_clusters < 1:
            raise SettingError(f"kmeans: n_clusters={self.n_clusters!r} must be at least 1")
        if self.sd is not None and not self.sd > 0:
            raise SettingError(f"kmeans: sd={self.sd!r} must be above zero")

    @property
    def _deviation(self) -> float:
        return _SHARE if self.sd is None else self.sd

    def model(self, y: Tensor) -> None:
        """The story in the module's docstring."""
        with pyro.plate("cluster", self.n_clusters):
            loc = pyro.sample("loc", Flat(constraints.real, (y.shape[-1],)))
        with pyro.plate("point", len(y)):
            z = pyro.sample(
                "z",
                dist.Categorical(torch.full((self.n_clusters,), 1 / self.n_clusters)),
                infer={"enumerate": "parallel"},
            )
            pyro.sample("y", dist.Normal(loc[z], self._deviation).to_event(1), obs=y)

    # -- the data ------------------------------------------------------------------------------

    def check(self, data: Data) -> None:
        """Refuse missing values, and fewer distinct rows than clusters."""
        y = data["y"]
        refuse_bad_rows(y, self.n_clusters, "cluster")
        missing = torch.isnan(y).nonzero()
        if len(missing):
            row, column = missing[0].tolist()
            raise DataError(
                f"row {row + 1}, column {column + 1} is missing: k-means needs complete rows; "
                "fill it in, drop the row, or use gmm with covariance=spherical"
            )
        distinct = _count_distinct(y, self.n_clusters)
        if distinct < self.n_clusters:
            raise DataError(
                f"{self.n_clusters} clusters for {distinct} distinct rows: "
                f"set n_clusters to at most {distinct}"
            )

    def scaled_to(self, data: Data) -> KMeans:
        """A copy whose ``sd``, where unset, is a thousandth of the data's deviation."""
        y = data["y"].double()
        overall = float((y - y.mean(0)).square().mean().sqrt())
        if self.sd is not None or not overall > 0:
            return self
        return dataclasses.replace(self, sd=_SHARE * overall)

    def initial(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """Centres by k-means++."""
        from sklearn.cluster import kmeans_plusplus  # takes a second to import

        y = data["y"]
        centres, _ = kmeans_plusplus(
            y.cpu().numpy(), self.n_clusters, random_state=int(rng.integers(2**31 - 1))
        )
        return {"loc": torch.as_tensor(centres, dtype=y.dtype, device=y.device)}

    # -- EM ------------------------------------------------------------------------------------

    def expect(self, latents: Latents, data: Data, hard: bool) -> Expectation:
        """Counts and first moments about each centre: Lloyd's assignment, or soft shares of it.

        ``rows`` (), ``origin`` (K, D) = rows * loc, ``count`` (K,), ``first`` (K, D).
        """
        loc, y = latents["loc"], data["y"]
        if not hard:
            total, statistics = gmm.expect(self._mixture(latents), y, hard)
            kept = ("rows", "origin", "count", "first")
            return Expectation(total, {name: statistics[name] for name in kept})
        frame = _shift(loc)
        shifted, centres = (y, loc) if frame is None else (y - frame, loc - frame)
        labels, squared = _nearest(shifted, centres)
        count = torch.bincount(labels, minlength=self.n_clusters).double()
        first = _sums(shifted, labels, self.n_clusters) - count.unsqueeze(-1) * centres
        rows = count.sum()
        statistics = {"rows": rows, "origin": rows * loc, "count": count, "first": first}
        return Expectation(self._log_joint(squared, y.shape[1]), statistics)

    def _log_joint(self, squared: Tensor, size: int) -> Tensor:
        """Log joint at the best labels from the rows' squared distances (N,) to their centres."""
        variance = self._deviation**2
        log_constant = 0.5 * size * (LOG_2PI + np.log(variance)) + np.log(self.n_clusters)
        inertia = squared.sum(dtype=torch.float64)
        log_joint: Tensor = -0.5 * inertia / variance - len(squared) * log_constant
        return log_joint

    def _mixture(self, latents: Latents) -> gmm.Mixture:
        loc = latents["loc"]
        weight = loc.new_full((self.n_clusters,), 1 / self.n_clusters)
        return gmm.Mixture(weight, loc, variance=torch.full_like(loc, self._deviation**2))

    def maximise(
        self, expected: Mapping[str, Tensor], data: Data, prior: bool
    ) -> dict[str, Tensor]:
        """Each centre to the mean of its rows; the prior is flat, so ``prior`` changes nothing."""
        origin = expected["origin"] / expected["rows"]
        count, first = expected["count"], expected["first"]
        empty = (count <= 0).nonzero().flatten()
        if len(empty):
            origin, count, first = _relocate(data["y"], empty, origin, count, first)
        loc = origin + first / count.clamp(min=1e-10).unsqueeze(-1)
        return {"loc": loc.to(data["y"].dtype)}

    def marginal(self, latents: Latents, data: Data) -> Tensor:
        """``log (1/K) sum_k N(y_n | loc_k, sd^2 I)``: (N,), nats."""
        mixture, y = self._mixture(latents), data["y"]
        assert mixture.variance is not None
        log_joint = log_normal_independent(y, mixture.loc, mixture.variance)
        return log_joint.logsumexp(0) - float(np.log(self.n_clusters))

    # -- what the fit is for -------------------------------------------------------------------

    def scores(self, latents: Latents, data: Data) -> dict[str, float]:
        """``inertia``: the objective J of k-means, in squared units of y."""
        return {"inertia": self.inertia(latents, data)}

    def inertia(self, latents: Latents, data: Data) -> float:
        """``J = sum_n min_k |y_n - loc_k|^2``, squared units of y."""
        y, loc = data["y"], latents["loc"]
        return float((y - loc[_labels(y, loc)]).double().square().sum())

    def statistics(self, data: Data) -> dict[str, float]:
        """The inertia of a single cluster per row: how spread out the rows are."""
        y = data["y"].double()
        return {"total_inertia_per_row": float((y - y.mean(0)).square().sum(-1).mean())}

    def diagnose(self, latents: Latents, data: Data) -> dict[str, str]:
        """Clusters that no row is nearest to."""
        held = torch.bincount(_labels(data["y"], latents["loc"]), minlength=self.n_clusters)
        return {
            f"cluster {k}": "degenerate: no row is nearest to it; lower n_clusters"
            for k in (held == 0).nonzero().flatten().tolist()
        }


def _labels(y: Tensor, loc: Tensor) -> Tensor:
    """(N,): the nearest centre of each row."""
    frame = loc.mean(0)
    return _nearest(y - frame, loc - frame)[0]


def _shift(loc: Tensor) -> Tensor | None:
    """What to take off the data, as squares cancel where the origin is far off; None if near."""
    mean = loc.mean(0)
    spread = (loc - mean).square().sum(-1).max()
    return mean if bool(mean.square().sum() > _FAR * spread) else None


def _nearest(y: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) labels and squared distances by scikit-learn, which takes blocks that fit the cache."""
    from sklearn.metrics import pairwise_distances_argmin_min  # takes a second to import

    labels, squared = pairwise_distances_argmin_min(
        y.cpu().numpy(), loc.cpu().numpy(), metric="sqeuclidean"
    )
    return torch.as_tensor(labels, device=y.device).long(), torch.as_tensor(squared).to(y)


def _sums(y: Tensor, labels: Tensor, k: int) -> Tensor:
    """(K, D): the rows of each cluster added up, a product with the sparse membership."""
    from scipy.sparse import csc_matrix  # as late as the rest

    n = len(y)
    member = csc_matrix((np.ones(n), labels.cpu().numpy(), np.arange(n + 1)), shape=(k, n))
    return torch.as_tensor(member @ y.double().cpu().numpy(), device=y.device)


def _relocate(
    y: Tensor, empty: Tensor, origin: Tensor, count: Tensor, first: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give each empty cluster one of the rows that lie farthest from their own centres."""
    labels = _labels(y, origin.to(y.dtype))
    deviation = y - origin[labels]
    origin, count, first = origin.clone(), count.clone(), first.clone()
    for k, row in zip(empty, deviation.square().sum(-1).topk(len(empty)).indices, strict=True):
        count[labels[row]] -= 1
        first[labels[row]] -= deviation[row]
        origin[k], first[k], count[k] = y[row], 0.0, 1.0
    return origin, count, first


def _count_distinct(y: Tensor, enough: int) -> int:
    """Number of distinct rows; looks at all of them only where the first are too alike."""
    few = y[: 10 * enough]
    distinct = len(torch.unique(few, dim=0))
    return distinct if distinct >= enough else len(torch.unique(y, dim=0))
