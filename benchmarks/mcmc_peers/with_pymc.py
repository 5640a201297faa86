"""PyMC sampled by nutpie, its density compiled by numba."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import nutpie
import pymc as pm  # type: ignore[import-not-found]
import pytensor.tensor as pt  # type: ignore[import-not-found]
from pymc.distributions.transforms import ordered  # type: ignore[import-not-found]

from benchmarks.mcmc_peers.worker import Drawn, Task, Values, serve

# -- the models ----------------------------------------------------------------------------------


def eight_schools(data: Values) -> None:
    mu = pm.Normal("mu", 0, 5)
    tau = pm.HalfCauchy("tau", 5)
    raw = pm.Normal("theta_raw", 0, 1, shape=8)
    theta = pm.Deterministic("theta", mu + tau * raw)
    pm.Normal("effect", theta, data["stderr"], observed=data["effect"])


def gauss_mix(data: Values) -> None:
    loc = pm.Normal("loc", 0, 2, shape=2, transform=ordered, initval=[-1, 1])
    scale = pm.HalfNormal("scale", 2, shape=2)
    theta = pm.Beta("theta", 5, 5)
    pm.NormalMixture("y", pt.stack([theta, 1 - theta]), loc, sigma=scale, observed=data["y"])


def logistic(data: Values) -> None:
    pm.Bernoulli("y", logit_p=_predictor(data["x"]), observed=data["y"])


def linear(data: Values) -> None:
    sigma = pm.Exponential("sigma", 1)
    pm.Normal("y", _predictor(data["x"]), sigma, observed=data["y"])


def gmm(data: Values) -> None:
    weight = pm.Dirichlet("weight", 5 * np.ones(3))
    variance = pm.InverseGamma("variance", data["half_df"], data["scatter"] / 2, shape=(3, 2))
    scale = pt.sqrt(variance)
    loc = pm.Normal("loc", data["centre"], scale / np.sqrt(data["shrinkage"]), shape=(3, 2))
    distance = (data["y"][:, None] - loc) / scale
    joint = pt.log(weight) - (0.5 * distance**2).sum(-1) - pt.log(scale).sum(-1)
    pm.Potential("y", pt.logsumexp(joint, axis=1).sum())


def hmm(data: Values) -> None:
    theta1 = pm.Dirichlet("theta1", np.ones(2))
    theta2 = pm.Dirichlet("theta2", np.ones(2))
    low, gap = pm.HalfFlat("low", initval=1), pm.HalfFlat("gap", initval=1)
    mu = pm.Deterministic("mu", pt.stack([low, low + gap]))
    pm.Potential("mu_prior", -0.5 * ((mu - np.array([3, 10])) ** 2).sum())
    emitted = -0.5 * (data["y"][:, None] - mu) ** 2
    steps = pt.log(pt.stack([theta1, theta2])) + emitted[1:, None]
    path = _product(steps, len(data["y"]) - 1)
    pm.Potential("path", pt.logsumexp(emitted[0][:, None] + path))


def lda(data: Values) -> None:
    documents, words = data["count"].shape
    theta = pm.Dirichlet("theta", np.ones((documents, 2)))
    phi = pm.Dirichlet("phi", np.ones((2, words)))
    pm.Potential("counts", (data["count"] * pt.log(theta @ phi)).sum())


def _predictor(x: np.ndarray) -> Any:
    alpha = pm.Normal("alpha", 0, 2.5)
    beta = pm.Normal("beta", 0, 2.5, shape=x.shape[1])
    return alpha + pt.dot(x, beta)


def _product(steps: Any, length: int) -> Any:
    """(K, K): log of the product of the matrices (T, K, K), neighbours first."""
    while length > 1:
        pairs = length // 2
        even, odd = steps[: 2 * pairs : 2], steps[1 : 2 * pairs : 2]
        joined = pt.logsumexp(even[..., None] + odd[:, None], axis=-2)
        steps = pt.concatenate([joined, steps[2 * pairs :]])
        length -= pairs
    return steps[0]


MODELS: dict[str, Callable[[Values], None]] = {
    model.__name__: model for model in (eight_schools, gauss_mix, logistic, gmm, hmm, lda, linear)
}


# -- the sampler ---------------------------------------------------------------------------------


@dataclass
class Compiled:
    """A model compiled by numba."""

    task: Task
    model: Any
    compiled: Any
    start: str
    notes: tuple[str, ...] = ()

    def log_density(self, point: Values) -> float:
        """Without the Jacobian."""
        values = {}
        for variable in self.model.free_RVs:
            transform = self.model.rvs_to_transforms[variable]
            value = point[variable.name]
            if transform is not None:
                inputs = variable.owner.inputs
                value = transform.forward(pt.as_tensor(value), *inputs).eval()
            values[self.model.rvs_to_values[variable].name] = value
        return float(self.model.compile_logp(jacobian=False)(values))

    def sample(self, seed: int) -> Drawn:
        """From the compiled model to nutpie's own tree of draws."""
        tree = self._run(seed, self.task.warmup, self.task.draws)
        draws = {str(name): array.to_numpy() for name, array in tree.posterior.data_vars.items()}
        stats, warm = tree.sample_stats, tree.warmup_sample_stats
        steps = int(stats["n_steps"].sum()) + int(warm["n_steps"].sum())
        return Drawn(draws, int(stats["diverging"].sum()), steps)

    def _run(self, seed: int, warmup: int, draws: int) -> Any:
        task = self.task
        settings = {"chains": task.chains, "cores": task.cores, "progress_bar": False}
        return nutpie.sample(self.compiled, tune=warmup, draws=draws, seed=seed, **settings)


def build(task: Task) -> Compiled:
    """Compile, and run a few draws, in which numba compiles what is left."""
    with pm.Model() as model:
        MODELS[task.row](task.data)
    settings: dict[str, Any] = {}
    if task.start is not None:
        given = {v: task.start[v.name] for v in model.free_RVs}
        settings = {"initial_points": given, "jitter_rvs": set()}
    compiled = nutpie.compile_pymc_model(model, backend="numba", **settings)
    words = "one given point" if task.start else "PyMC's support point, jittered"
    built = Compiled(task, model, compiled, words)
    built._run(0, 10, 10)
    return built


if __name__ == "__main__":
    serve(build, ["pymc", "pytensor", "nutpie", "numba"])
