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
between-cluster correlation for one within clusters.

``concentration`` is 5: every component is expected to hold a fair share of the rows. A flat prior
on the weights leaves room for a component that holds none, whose location then means nothing: on
iris with three components such arrangements have 98 % of the posterior at concentration 1, two
thirds at 2 and 0.2 % at 5 (Laplace estimates), and a sampler that starts in one does not come
out. Lower it where some components may be superfluous.

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
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
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
from storyzoo.models.kernels.gmm_guide import ConjugateGuide
from storyzoo.story import Data, Expectation, Latents, Story

Shape = Literal["full", "tied", "diagonal", "spherical"]

_MAXIMISE: Mapping[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "full": conjugate.full,
    "tied": conjugate.tied,
    "diagonal": conjugate.diagonal,
    "spherical": conjugate.spherical,
}
_SECOND_DIMS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "full": {"covariance": ("feature", "feature_other")},
    "tied": {"covariance": ("feature", "feature_other")},
    "diagonal": {"variance": ("feature",)},
    "spherical": {},
}
_START_ROWS = 100_000
"""Rows that a start looks at: more do not move cluster centres by what EM could not mend."""
_AT_FLOOR = 1.001


@dataclass(frozen=True)
class GaussianMixture(Story):
    """Each row picks a component, then falls around its centre (Bishop 2006, §9.2)."""

    n_components: int = 3
    covariance: Shape = "full"
    concentration: float = 5.0
    """Of the Dirichlet over the weights; below one EM works in the softmax basis."""
    shrinkage: float = 0.01
    """How many rows the pull of every component's centre towards ``centre`` is worth."""
    extra_df: float = 2.0
    """Degrees of freedom of the covariance prior above D."""
    centre: float | tuple[float, ...] | None = None
    """Prior mean of the locations, units of y; ``scaled_to`` sets it to the columns' means."""
    spread: float | tuple[float, ...] | None = None
    """Standard deviation of each column, units of y; ``scaled_to`` sets it from the data."""
    floor: float = 1e-6
    """Least variance in any direction, as a share of spread^2, without the prior."""

    name = "gmm"
    data_dims = {"y": ("point", "feature")}
    examples = "point"
    exchangeable = {"component": ("component",)}
    label_values = {"z": "component"}

    def __post_init__(self) -> None:
        if not isinstance(self.n_components, int) or self.n_components < 1:
            raise SettingError(f"gmm: n_components={self.n_components!r} must be at least 1")
        if self.covariance not in _MAXIMISE:
            raise SettingError(
                f"gmm: covariance={self.covariance!r}: {nearest(str(self.covariance), _MAXIMISE)}"
            )
        for name in ("concentration", "shrinkage", "extra_df", "floor"):
            if not getattr(self, name) > 0:
                raise SettingError(f"gmm: {name}={getattr(self, name)!r} must be above zero")
        for name in ("centre", "spread"):
            value = getattr(self, name)
            if isinstance(value, list | tuple | np.ndarray):
                object.__setattr__(self, name, tuple(float(v) for v in value))
        if self.spread is not None and not np.all(np.asarray(self.spread) > 0):
            raise SettingError(f"gmm: spread={self.spread!r} must be above zero in every column")

    @property
    def event_dims(self) -> Mapping[str, tuple[str, ...]]:
        first = {"weight": ("component",), "loc": ("feature",), "y": ("feature",)}
        return {**first, **_SECOND_DIMS[self.covariance]}

    @property
    def units(self) -> Mapping[str, str]:
        second = {
            "full": {"covariance": "covariance"},
            "tied": {"covariance": "covariance"},
            "diagonal": {"variance": "variance"},
            "spherical": {},  # one variance for columns whose units may differ
        }[self.covariance]
        return {"loc": "location", **second}

    def model(self, y: Tensor) -> None:
        """The story in the module's docstring."""
        size = y.shape[-1]
        centre, scatter = _per_column(self.centre, 0.0, size), self._scatter(size)
        weight = pyro.sample(
            "weight", dist.Dirichlet(torch.full((self.n_components,), float(self.concentration)))
        )
        if self.covariance == "tied":
            covariance = pyro.sample("covariance", self._wishart(scatter)).unsqueeze(-3)
        with pyro.plate("component", self.n_components):
            if self.covariance == "full":
                covariance = pyro.sample("covariance", self._wishart(scatter))
            if self.covariance in ("full", "tied"):
                factor = cholesky(covariance)
                drawn_around = dist.MultivariateNormal(
                    centre, scale_tril=factor / self.shrinkage**0.5
                )
            else:
                variance = pyro.sample("variance", self._inverse_gamma(scatter))
                if self.covariance == "spherical":
                    variance = variance.unsqueeze(-1).expand(*variance.shape, size)
                drawn_around = dist.Normal(centre, (variance / self.shrinkage).sqrt()).to_event(1)
            loc = pyro.sample("loc", drawn_around)
        with pyro.plate("point", len(y)):
            z = pyro.sample("z", dist.Categorical(weight), infer={"enumerate": "parallel"})
            if self.covariance in ("full", "tied"):
                factor = factor.expand(self.n_components, size, size)
                pyro.sample("y", PartialNormal(loc[z], scale_tril=factor[z]), obs=y)
            else:
                pyro.sample("y", dist.Normal(loc[z], variance[z].sqrt()).to_event(1), obs=y)

    # -- the prior -----------------------------------------------------------------------------

    def _scatter(self, size: int) -> Tensor:
        """(D,): diagonal of the inverse-Wishart's scale."""
        spread = _per_column(self.spread, 1.0, size)
        scatter: Tensor = spread.square() / self.n_components ** (2 / size)
        return scatter

    def _wishart(self, scatter: Tensor) -> InverseWishart:
        return InverseWishart(len(scatter) + self.extra_df, scatter.diag())

    def _inverse_gamma(self, scatter: Tensor) -> Any:
        half_df = torch.full((), 0.5 * (len(scatter) + self.extra_df))
        if self.covariance == "spherical":
            return dist.InverseGamma(half_df, 0.5 * scatter.mean())
        return dist.InverseGamma(half_df, 0.5 * scatter).to_event(1)

    def _conjugate(self, like: Tensor) -> conjugate.Conjugate:
        """The prior's numbers in the dtype and on the device of a (K, D) tensor."""
        size = like.shape[-1]
        return conjugate.Conjugate(
            centre=_per_column(self.centre, 0.0, size).to(like),
            shrinkage=self.shrinkage,
            df=size + self.extra_df,
            scatter=self._scatter(size).to(like),
        )

    def _floor(self, like: Tensor) -> Tensor:
        """(D,): least variance of each column."""
        return self.floor * _per_column(self.spread, 1.0, like.shape[-1]).to(like).square()

    # -- the data ------------------------------------------------------------------------------

    def check(self, data: Data) -> None:
        """Refuse what no mixture can be told of; missing values are fine."""
        y = data["y"]
        refuse_bad_rows(y, self.n_components, "component")
        for name in ("centre", "spread"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != y.shape[1]:
                raise SettingError(
                    f"gmm: {name} has {len(value)} values, the data {y.shape[1]} columns"
                )
        if len(y) == 1:
            raise DataError("one row has no spread: a mixture needs at least two")
        least, most = _extremes(y)
        constant = (least == most).nonzero().flatten().tolist()
        if len(constant) == y.shape[1]:
            raise DataError("all rows are the same: there is no spread to model")
        if constant:
            raise DataError(
                f"column {constant[0] + 1} is constant ({float(least[constant[0]]):g}): leave it "
                "out, as no density over it is bounded"
            )

    def scaled_to(self, data: Data) -> GaussianMixture:
        """A copy whose unset ``centre`` and ``spread`` are the columns' means and deviations."""
        y = data["y"].double()
        mean = y.nanmean(0)
        spread = (y - mean).square().nanmean(0).sqrt()
        spread = torch.where(spread > 0, spread, 1.0)  # `check` tells of a constant column
        return dataclasses.replace(
            self,
            centre=tuple(mean.nan_to_num().tolist()) if self.centre is None else self.centre,
            spread=tuple(spread.tolist()) if self.spread is None else self.spread,
        )

    def statistics(self, data: Data) -> dict[str, float]:
        """Shape of the cloud beyond mean and spread, averaged over columns; all without unit."""
        y = data["y"].double()
        standard = (y - y.nanmean(0)) / (y - y.nanmean(0)).square().nanmean(0).sqrt()
        return {
            "skewness": float(standard.pow(3).nanmean(0).abs().mean()),
            "kurtosis": float(standard.pow(4).nanmean(0).mean()),
            "farthest": float(standard.nan_to_num().abs().max()),
        }

    # -- EM ------------------------------------------------------------------------------------

    def initial(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """Clusters of one k-means run from a k-means++ start, then the M-step with the prior."""
        y, story = data["y"], self.scaled_to(data)
        frame = dataclasses.replace(self, centre=None, spread=None).scaled_to(data)
        rows = y
        if len(y) > _START_ROWS:
            chosen = np.sort(rng.choice(len(y), _START_ROWS, replace=False))
            rows = y[torch.as_tensor(chosen, device=y.device)]
        centre = _per_column(frame.centre, 0.0, y.shape[1]).to(y)
        spread = _per_column(frame.spread, 1.0, y.shape[1]).to(y)
        filled = ((rows - centre) / spread).nan_to_num(0.0)  # the mean, for the start only
        labels = torch.as_tensor(_cluster(filled.cpu().numpy(), self.n_components, rng))
        member = torch.nn.functional.one_hot(labels.long(), self.n_components).to(y)
        deviation = filled * spread
        start = story.maximise(story._moments(member, centre, deviation), data, True)
        if story.covariance in ("full", "tied"):
            raised = conjugate.floor_eigenvalues(start["covariance"], story._floor(start["loc"]))
            start["covariance"] = raised
        return start

    def _moments(self, member: Tensor, centre: Tensor, deviation: Tensor) -> dict[str, Tensor]:
        """What the E-step would give for known labels: member (N, K), deviation (N, D)."""
        k = member.shape[1]
        moments = {
            "rows": member.new_tensor(float(len(member))),
            "origin": len(member) * centre.expand(k, -1),
            "count": member.sum(0),
            "first": member.mT @ deviation,
        }
        if self.covariance == "tied":
            return {**moments, "second": deviation.mT @ deviation}
        if self.covariance == "full":
            clouds = [(deviation * own.unsqueeze(-1)).mT @ deviation for own in member.mT]
            return {**moments, "second": torch.stack(clouds)}
        seen = moments["count"].unsqueeze(-1).expand(k, deviation.shape[1])
        return {**moments, "second": member.mT @ deviation.square(), "seen": seen}

    def expect(self, latents: Latents, data: Data, hard: bool) -> Expectation:
        """Moments about each component's location: see :mod:`storyzoo.models.kernels.gmm`."""
        return Expectation(*gmm.expect(self._mixture(latents), data["y"], hard))

    def _mixture(self, latents: Latents) -> gmm.Mixture:
        loc = latents["loc"]
        if self.covariance == "full":
            return gmm.Mixture(latents["weight"], loc, covariance=latents["covariance"])
        if self.covariance == "tied":
            return gmm.Mixture(
                latents["weight"], loc, covariance=latents["covariance"].unsqueeze(-3)
            )
        return gmm.Mixture(latents["weight"], loc, variance=self._variance(latents))

    def _variance(self, latents: Latents) -> Tensor:
        variance = latents["variance"]
        if self.covariance == "spherical":
            return variance.unsqueeze(-1).expand(latents["loc"].shape)
        return variance

    def maximise(
        self, expected: Mapping[str, Tensor], data: Data, prior: bool
    ) -> dict[str, Tensor]:
        """The closed M-step: see :mod:`storyzoo.models.kernels.conjugate`."""
        like = expected["first"]
        with gmm.one_thread():
            loc, second = _MAXIMISE[self.covariance](
                expected, self._conjugate(like) if prior else None, self._floor(like)
            )
        weight = conjugate.weights(expected["count"], self.concentration if prior else 1.0)
        name = "covariance" if self.covariance in ("full", "tied") else "variance"
        dtype = data["y"].dtype
        return {"weight": weight.to(dtype), "loc": loc.to(dtype), name: second.to(dtype)}

    def marginal(self, latents: Latents, data: Data) -> Tensor:
        """``log sum_k w_k N(y_n | loc_k, S_k)`` of what is observed in each row: (N,), nats."""
        log_joint = latents["weight"].log().unsqueeze(-1) + self._log_components(latents, data["y"])
        return log_joint.logsumexp(0)

    def _log_components(self, latents: Latents, y: Tensor) -> Tensor:
        mixture = self._mixture(latents)
        if mixture.covariance is None:
            assert mixture.variance is not None
            return log_normal_independent(y, mixture.loc, mixture.variance)
        return log_normal(y, mixture.loc, mixture.covariance)

    # -- what the fit is for -------------------------------------------------------------------

    def impute(self, latents: Latents, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw z given what is observed, then the missing values given z and the observed ones."""
        y = data["y"]
        log_joint = latents["weight"].log().unsqueeze(-1) + self._log_components(latents, y)
        share = log_joint.softmax(0).cumsum(0)
        uniform = torch.as_tensor(rng.random(len(y)), dtype=y.dtype, device=y.device)
        z = (uniform > share).sum(0).clamp(max=self.n_components - 1)
        noise = torch.as_tensor(rng.standard_normal(tuple(y.shape)), dtype=y.dtype, device=y.device)
        mixture, filled = self._mixture(latents), y.clone()
        if mixture.covariance is None:
            assert mixture.variance is not None
            drawn = mixture.loc[z] + mixture.variance[z].sqrt() * noise
            return {"y": torch.where(torch.isnan(y), drawn, y)}
        covariance = mixture.covariance.expand(self.n_components, -1, -1)
        for pattern in patterns(y):
            rows, o, m = pattern.rows, pattern.observed, pattern.missing
            given = conditional(covariance, pattern)
            own = z[rows]
            seen = (y[rows][:, o] - mixture.loc[own][:, o]).unsqueeze(-1)
            mean = mixture.loc[own][:, m] + (given.regression[own] @ seen).squeeze(-1)
            spread = cholesky(given.residual)[own] @ noise[rows][:, m].unsqueeze(-1)
            filled[rows.unsqueeze(-1), m] = mean + spread.squeeze(-1)
        return {"y": filled}

    def diagnose(self, latents: Latents, data: Data) -> dict[str, str]:
        """Components that rest on too few rows for their shape, or that collapsed to the floor."""
        size = data["y"].shape[1]
        fewest = {"full": size + 1, "diagonal": 2, "spherical": 2, "tied": 1}[self.covariance]
        count = self.expect(latents, data, False).statistics["count"].tolist()
        least = self._least_variance(latents).tolist()
        found = {}
        for k in range(self.n_components):
            if count[k] <= fewest:
                found[f"component {k}"] = (
                    f"degenerate: it holds {count[k]:.1f} rows, and a {self.covariance} covariance "
                    f"needs more than {fewest}; lower n_components, choose a simpler covariance "
                    "or strengthen the prior (objective=posterior, extra_df)"
                )
            elif least[k] <= _AT_FLOOR * self.floor:
                found[f"component {k}"] = (
                    "degenerate: its smallest variance is at the floor, as its rows lie in a "
                    "plane or are duplicates; lower n_components or strengthen the prior "
                    "(objective=posterior, extra_df)"
                )
        return found

    def _least_variance(self, latents: Latents) -> Tensor:
        """(K,): smallest variance in any direction, as a share of spread^2."""
        floor = self._floor(latents["loc"]) / self.floor
        if self.covariance in ("full", "tied"):
            root = floor.sqrt()
            least: Tensor = torch.linalg.eigvalsh(latents["covariance"] / torch.outer(root, root))[
                ..., 0
            ]
            return least.expand(self.n_components)
        if self.covariance == "spherical":
            return latents["variance"] / floor.mean()
        return (latents["variance"] / floor).amin(-1)

    def guide(self, data: Data) -> Callable[[Tensor], None]:
        """The conjugate family, from a start of the story's own; see ``kernels/gmm_guide.py``."""
        seed = int(torch.randint(2**31 - 1, (), device="cpu"))  # the caller has seeded torch
        start = self.initial(data, np.random.default_rng(seed))
        return ConjugateGuide(
            start=start,
            rows=len(data["y"]) * start["weight"],
            df=data["y"].shape[1] + self.extra_df,
            spherical=self.covariance == "spherical",
        )


def refuse_bad_rows(y: Tensor, groups: int, group: str) -> None:
    """Raise DataError for data (N, D) that no story of clusters can be told of."""
    if y.dim() != 2 or y.shape[1] == 0:
        raise DataError(f"the data have shape {tuple(y.shape)}: give rows of numeric columns")
    if len(y) == 0:
        raise DataError("the data have no rows")
    infinite = torch.isinf(y).nonzero()
    if len(infinite):
        row, column = infinite[0].tolist()
        raise DataError(f"row {row + 1}, column {column + 1} is infinite: leave it empty or out")
    empty = torch.isnan(y).all(0).nonzero()
    if len(empty):
        raise DataError(f"column {int(empty[0]) + 1} has no value at all: leave it out")
    if groups > len(y):
        raise DataError(f"{groups} {group}s for {len(y)} rows: set n_{group}s to at most {len(y)}")


def _extremes(y: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest observed value of each column."""
    missing = torch.isnan(y)
    return (
        y.masked_fill(missing, torch.inf).amin(0),
        y.masked_fill(missing, -torch.inf).amax(0),
    )


def _per_column(value: float | tuple[float, ...] | None, unset: float, size: int) -> Tensor:
    """A field as a vector (D,), in the default dtype and on the default device."""
    return torch.tensor(unset if value is None else value).to(torch.empty(0)).expand(size)


def _cluster(rows: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Labels of one k-means run; fewer distinct rows than clusters leave some empty."""
    from sklearn.cluster import KMeans  # takes a second to import
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        run = KMeans(k, n_init=1, random_state=int(rng.integers(2**31 - 1))).fit(rows)
    return np.asarray(run.labels_)
