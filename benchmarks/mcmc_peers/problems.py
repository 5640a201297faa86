"""The rows of the benchmark: data, parameters, starts, and each log density written by hand.

Every side samples the same posterior, with the parameters named here. Where ``log_density`` is up
to a constant: that of the constrained values, no Jacobian, discrete sites summed out.
"""

from __future__ import annotations

import pydoc_data.topics
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import stats
from scipy.special import logsumexp

from benchmarks.mcmc_peers.worker import Values
from storyzoo.datasets.posteriordb import posterior, reference_draws

Rng = np.random.Generator


@dataclass(frozen=True)
class Problem:
    """A row."""

    name: str
    says: str
    data: Callable[[], Values]
    shapes: Mapping[str, tuple[int, ...]]
    """Of the parameters that are judged; simplexes with all their entries."""
    log_density: Callable[[Values, Values], float]
    """Of a point and the data."""
    point: Callable[[Values, Rng], Values]
    """A point of high density: where sides are compared, and the start where they share one."""
    informed: bool = False
    """Whether every chain of every side starts at one point."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Parameter -> its axis over the labels, which one permutation relabels together."""
    reference: Callable[[], Values] | None = None
    """Draws (chain, draw, …) that are known to be right."""


# -- eight schools -------------------------------------------------------------------------------

_SCHOOLS = "eight_schools-eight_schools_noncentered"


def _schools() -> Values:
    return _known_data(_SCHOOLS, "effect", "stderr")


def _schools_density(p: Values, data: Values) -> float:
    return float(
        stats.norm.logpdf(p["mu"], 0, 5)
        + stats.halfcauchy.logpdf(p["tau"], scale=5)
        + stats.norm.logpdf(p["theta_raw"]).sum()
        + stats.norm.logpdf(data["effect"], p["theta"], data["stderr"]).sum()
    )


def _schools_point(data: Values, rng: Rng) -> Values:
    mu, tau, raw = rng.normal(4, 3), rng.uniform(0.5, 6), rng.normal(size=8)
    return _arrays(mu=mu, tau=tau, theta_raw=raw, theta=mu + tau * raw)


# -- a mixture of two normals on a line ----------------------------------------------------------

_MIXTURE = "low_dim_gauss_mix-low_dim_gauss_mix"


def _mixture() -> Values:
    return _known_data(_MIXTURE, "y")


def _mixture_density(p: Values, data: Values) -> float:
    weight = np.array([p["theta"], 1 - p["theta"]])
    joint = np.log(weight) + stats.norm.logpdf(data["y"][:, None], p["loc"], p["scale"])
    return float(
        stats.norm.logpdf(p["loc"], 0, 2).sum()
        + stats.halfnorm.logpdf(p["scale"], scale=2).sum()
        + stats.beta.logpdf(p["theta"], 5, 5)
        + logsumexp(joint, axis=1).sum()
    )


def _mixture_point(data: Values, rng: Rng) -> Values:
    loc = np.sort(rng.normal([-2.7, 2.8], 0.1))
    return _arrays(loc=loc, scale=rng.uniform(0.8, 1.2, 2), theta=rng.uniform(0.5, 0.7))


# -- regressions on simulated rows ---------------------------------------------------------------


def _features(rows: int, size: int, rng: Rng) -> np.ndarray:
    """Standard normal, the second correlated with the first."""
    x = rng.normal(size=(rows, size))
    x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
    return x


def _logistic() -> Values:
    rng = np.random.default_rng(0)
    x, beta = _features(1000, 24, rng), rng.normal(0, 0.7, 24)
    chance = 1 / (1 + np.exp(-(x @ beta + 0.3)))
    return {"x": x, "y": (rng.uniform(size=1000) < chance).astype(float)}


def _coefficients_density(p: Values) -> float:
    priors = stats.norm.logpdf(p["alpha"], 0, 2.5) + stats.norm.logpdf(p["beta"], 0, 2.5).sum()
    return float(priors)


def _logistic_density(p: Values, data: Values) -> float:
    eta = p["alpha"] + data["x"] @ p["beta"]
    likelihood = (data["y"] * eta - np.logaddexp(0, eta)).sum()
    return _coefficients_density(p) + float(likelihood)


def _logistic_point(data: Values, rng: Rng) -> Values:
    return _arrays(alpha=rng.normal(0.3, 0.1), beta=rng.normal(0, 0.7, 24))


def _linear() -> Values:
    rng = np.random.default_rng(1)
    x, beta = _features(10_000, 50, rng), rng.normal(size=50)
    return {"x": x, "y": 0.5 + x @ beta + rng.normal(0, 1.5, 10_000)}


def _linear_density(p: Values, data: Values) -> float:
    eta = p["alpha"] + data["x"] @ p["beta"]
    noise = stats.norm.logpdf(data["y"], eta, p["sigma"]).sum()
    return _coefficients_density(p) + float(stats.expon.logpdf(p["sigma"]) + noise)


def _linear_point(data: Values, rng: Rng) -> Values:
    return _arrays(
        alpha=rng.normal(0.5, 0.1), beta=rng.normal(size=50), sigma=rng.uniform(1.2, 1.8)
    )


# -- a mixture of three clouds in the plane ------------------------------------------------------

_CENTRES = np.array([[-3.0, 0.0], [2.0, 3.0], [3.0, -3.0]])


def _clouds() -> Values:
    """Rows, and the numbers of the zoo's conjugate prior, which follow from them once."""
    rng = np.random.default_rng(1)
    z = rng.choice(3, size=300, p=[0.5, 0.3, 0.2])
    y = _CENTRES[z] + rng.normal(size=(300, 2)) * [1.0, 0.8]
    return _arrays(y=y, centre=y.mean(0), spread=y.std(0), half_df=2.0, shrinkage=0.01) | {
        "scatter": y.var(0) / 3
    }


def _clouds_density(p: Values, data: Values) -> float:
    scale = np.sqrt(p["variance"])
    joint = stats.norm.logpdf(data["y"][:, None], p["loc"], scale).sum(-1) + np.log(p["weight"])
    variance = stats.invgamma.logpdf(p["variance"], data["half_df"], scale=data["scatter"] / 2)
    loc = stats.norm.logpdf(p["loc"], data["centre"], scale / np.sqrt(data["shrinkage"]))
    weight = 4 * np.log(p["weight"]).sum()
    return float(weight + variance.sum() + loc.sum() + logsumexp(joint, axis=1).sum())


def _clouds_point(data: Values, rng: Rng) -> Values:
    return _arrays(
        weight=rng.dirichlet([50, 30, 20]),
        loc=_CENTRES + rng.normal(0, 0.1, (3, 2)),
        variance=rng.uniform(0.6, 1.2, (3, 2)),
    )


# -- a hidden Markov model of two states ---------------------------------------------------------

_HMM = "hmm_example-hmm_example"


def _hmm() -> Values:
    return _known_data(_HMM, "y")


def _hmm_density(p: Values, data: Values) -> float:
    """By the forward recursion."""
    emitted = stats.norm.logpdf(data["y"][:, None], p["mu"], 1)
    transition = np.log([p["theta1"], p["theta2"]])
    forward = emitted[0]
    for step in emitted[1:]:
        forward = step + logsumexp(forward[:, None] + transition, axis=0)
    return float(stats.norm.logpdf(p["mu"], [3, 10], 1).sum() + logsumexp(forward))


def _hmm_point(data: Values, rng: Rng) -> Values:
    low, gap = rng.normal([3.0, 5.9], 0.1)
    return _arrays(
        theta1=rng.dirichlet([8, 4]),
        theta2=rng.dirichlet([2, 9]),
        low=low,
        gap=gap,
        mu=np.array([low, low + gap]),
    )


# -- topics --------------------------------------------------------------------------------------

DOCUMENTS = (
    "assignment",
    "attribute-access",
    "calls",
    "comparisons",
    "customization",
    "execmodel",
    "function",
    "import",
    "numeric-types",
    "strings",
    "try",
    "typesmapping",
)
WORDS, TOPICS = 250, 2
EM_STARTS, EM_STEPS = 10, 300


def _topics() -> Values:
    """Counts (12, 250) of the most frequent words of four letters or more."""
    texts = [pydoc_data.topics.topics[name].lower() for name in DOCUMENTS]
    counts = [Counter(re.findall(r"[a-z]{4,}", text)) for text in texts]
    total = sum(counts, Counter[str]())
    vocabulary = sorted(sorted(total), key=lambda word: -total[word])[:WORDS]
    return {"count": np.array([[c[word] for word in vocabulary] for c in counts], float)}


def _topics_density(p: Values, data: Values) -> float:
    """The priors are flat."""
    return float((data["count"] * np.log(p["theta"] @ p["phi"])).sum())


def _topics_point(data: Values, rng: Rng) -> Values:
    """The best of several modes: from others nearby chains would each find one of their own."""
    modes = [_topics_mode(data, rng) for _ in range(EM_STARTS)]
    return max(modes, key=lambda mode: _topics_density(mode, data))


def _topics_mode(data: Values, rng: Rng) -> Values:
    """By EM, one added to every expected count, from a random start."""
    count = data["count"]
    theta = rng.dirichlet(np.ones(TOPICS), len(DOCUMENTS))
    phi = rng.dirichlet(np.ones(WORDS), TOPICS)
    for _ in range(EM_STEPS):
        ratio = count / (theta @ phi)
        theta, phi = theta * (ratio @ phi.T) + 1, phi * (theta.T @ ratio) + 1
        theta, phi = theta / theta.sum(1, keepdims=True), phi / phi.sum(1, keepdims=True)
    return _arrays(theta=theta, phi=phi)


# -- the table -----------------------------------------------------------------------------------


def _arrays(**values: float | np.ndarray) -> Values:
    return {name: np.asarray(value, dtype=float) for name, value in values.items()}


def _known_data(name: str, *names: str) -> Values:
    table = posterior(name).table
    assert table is not None
    return {column: table[column].to_numpy(float) for column in names}


def _known(name: str, renamed: Mapping[str, str]) -> Callable[[], Values]:
    """posteriordb's draws, by our names; entries of a vector are counted from one there."""

    def draws() -> Values:
        scalars = reference_draws(name)
        found = {}
        for ours, theirs in renamed.items():
            entries = [key for key in scalars if key.split("[")[0] == theirs]
            columns = [scalars[key] for key in entries]
            found[ours] = columns[0] if entries == [theirs] else np.stack(columns, -1)
        return found

    return draws


_ALL = [
    Problem(
        "eight_schools",
        "non-centred, D=10",
        _schools,
        {"mu": (), "tau": (), "theta": (8,)},
        _schools_density,
        _schools_point,
        reference=_known(_SCHOOLS, {"mu": "mu", "tau": "tau", "theta": "theta"}),
    ),
    Problem(
        "gauss_mix",
        "low_dim_gauss_mix, N=1000, D=5",
        _mixture,
        {"loc": (2,), "scale": (2,), "theta": ()},
        _mixture_density,
        _mixture_point,
        reference=_known(_MIXTURE, {"loc": "mu", "scale": "sigma", "theta": "theta"}),
    ),
    Problem(
        "logistic",
        "1000 x 24 and an intercept, D=25",
        _logistic,
        {"alpha": (), "beta": (24,)},
        _logistic_density,
        _logistic_point,
    ),
    Problem(
        "gmm",
        "K=3, diagonal, 300 x 2, D=14",
        _clouds,
        {"weight": (3,), "loc": (3, 2), "variance": (3, 2)},
        _clouds_density,
        _clouds_point,
        informed=True,
        labels={"weight": 0, "loc": 0, "variance": 0},
    ),
    Problem(
        "hmm",
        "hmm_example, two states, T=100, D=4",
        _hmm,
        {"theta1": (2,), "theta2": (2,), "mu": (2,)},
        _hmm_density,
        _hmm_point,
        reference=_known(_HMM, {"theta1": "theta1", "theta2": "theta2", "mu": "mu"}),
    ),
    Problem(
        "lda",
        f"{len(DOCUMENTS)} documents, {WORDS} words, {TOPICS} topics, D=510",
        _topics,
        {"theta": (len(DOCUMENTS), TOPICS), "phi": (TOPICS, WORDS)},
        _topics_density,
        _topics_point,
        informed=True,
        labels={"theta": 1, "phi": 0},
    ),
    Problem(
        "linear",
        "10,000 x 50, an intercept and the noise, D=52",
        _linear,
        {"alpha": (), "beta": (50,), "sigma": ()},
        _linear_density,
        _linear_point,
    ),
]
PROBLEMS = {problem.name: problem for problem in _ALL}
