"""NumPyro, in float64: one jitted program holds warm-up, draws and their constraining.

``MCMC.run`` compiles anew at every call, so the kernel is driven by one ``lax.scan`` over all
iterations, compiled ahead of time. Chains run one after the other, on each core its share of them;
or all at once by ``vmap`` (``--vectorised``), as NumPyro's ``chain_method`` offers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax  # type: ignore[import-not-found]
import jax.numpy as jnp  # type: ignore[import-not-found]
import numpy as np
import numpyro  # type: ignore[import-not-found]
import numpyro.distributions as dist  # type: ignore[import-not-found]
from jax.scipy.special import logsumexp  # type: ignore[import-not-found]
from jax.sharding import (  # type: ignore[import-not-found]
    Mesh,
    NamedSharding,
    PartitionSpec,
)
from numpyro.distributions import constraints
from numpyro.infer import NUTS  # type: ignore[import-not-found]
from numpyro.infer.util import (  # type: ignore[import-not-found]
    initialize_model,
    log_density,
    unconstrain_fn,
)

from benchmarks.mcmc_peers.worker import Drawn, Task, Values, serve

RADIUS = 2.0
"""Chains start uniform on (-2, 2) in the unconstrained space, NumPyro's default."""


# -- the models ----------------------------------------------------------------------------------


def eight_schools(effect: Any, stderr: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(effect)):
        raw = numpyro.sample("theta_raw", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * raw)
        numpyro.sample("effect", dist.Normal(theta, stderr), obs=effect)


def gauss_mix(y: Any) -> None:
    loc = numpyro.sample("loc", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    numpyro.factor("loc_prior", dist.Normal(0, 2).log_prob(loc).sum())
    scale = numpyro.sample("scale", dist.HalfNormal(2 * jnp.ones(2)).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5, 5))
    weight = dist.Categorical(probs=jnp.stack([theta, 1 - theta]))
    with numpyro.plate("point", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(weight, dist.Normal(loc, scale)), obs=y)


def logistic(x: Any, y: Any) -> None:
    eta = _predictor(x)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=eta), obs=y)


def linear(x: Any, y: Any) -> None:
    sigma = numpyro.sample("sigma", dist.Exponential(1))
    eta = _predictor(x)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(eta, sigma), obs=y)


def gmm(y: Any, centre: Any, scatter: Any, half_df: Any, shrinkage: Any, **_: Any) -> None:
    weight = numpyro.sample("weight", dist.Dirichlet(5 * jnp.ones(3)))
    with numpyro.plate("component", 3):
        variance = numpyro.sample("variance", dist.InverseGamma(half_df, scatter / 2).to_event(1))
        spread = jnp.sqrt(variance / shrinkage)
        loc = numpyro.sample("loc", dist.Normal(centre, spread).to_event(1))
    clouds = dist.Normal(loc, jnp.sqrt(variance)).to_event(1)
    with numpyro.plate("point", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weight), clouds), obs=y)


def hmm(y: Any) -> None:
    theta1 = numpyro.sample("theta1", dist.Dirichlet(jnp.ones(2)))
    theta2 = numpyro.sample("theta2", dist.Dirichlet(jnp.ones(2)))
    low = numpyro.sample("low", dist.ImproperUniform(constraints.positive, (), ()))
    gap = numpyro.sample("gap", dist.ImproperUniform(constraints.positive, (), ()))
    mu = numpyro.deterministic("mu", jnp.stack([low, low + gap]))
    numpyro.factor("mu_prior", dist.Normal(jnp.array([3.0, 10.0]), 1).log_prob(mu).sum())
    emitted = dist.Normal(mu, 1).log_prob(y[:, None])
    steps = jnp.log(jnp.stack([theta1, theta2])) + emitted[1:, None]
    numpyro.factor("path", logsumexp(emitted[0][:, None] + _product(steps)))


def lda(count: Any) -> None:
    documents, words = count.shape
    with numpyro.plate("document", documents):
        theta = numpyro.sample("theta", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("topic", 2):
        phi = numpyro.sample("phi", dist.Dirichlet(jnp.ones(words)))
    numpyro.factor("counts", (count * jnp.log(theta @ phi)).sum())


def _predictor(x: Any) -> Any:
    alpha = numpyro.sample("alpha", dist.Normal(0, 2.5))
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 2.5).to_event(1))
    return alpha + x @ beta


def _product(steps: Any) -> Any:
    """(K, K): log of the product of the matrices (T, K, K), neighbours first."""
    while len(steps) > 1:
        pairs = len(steps) // 2
        even, odd = steps[: 2 * pairs : 2], steps[1 : 2 * pairs : 2]
        joined = logsumexp(even[..., None] + odd[:, None], axis=-2)
        steps = jnp.concatenate([joined, steps[2 * pairs :]])
    return steps[0]


MODELS: dict[str, Callable[..., None]] = {
    model.__name__: model for model in (eight_schools, gauss_mix, logistic, gmm, hmm, lda, linear)
}


# -- the sampler ---------------------------------------------------------------------------------


@dataclass
class Compiled:
    """A program from seeds and starts to constrained draws."""

    task: Task
    model: Any
    data: dict[str, Any]
    starts: Callable[[int], Any]
    program: Any
    place: Any
    start: str
    notes: tuple[str, ...]

    def log_density(self, point: Values) -> float:
        """Without the Jacobian."""
        return float(log_density(self.model, (), self.data, dict(point))[0])

    def sample(self, seed: int) -> Drawn:
        """Run the program."""
        keys = jax.random.split(jax.random.PRNGKey(seed), self.task.chains)
        placed = jax.device_put((keys, self.starts(seed)), self.place)
        sites, steps, diverging = self.program(*placed)
        draws = {name: np.asarray(value) for name, value in sites.items()}
        return Drawn(draws, int(np.sum(diverging)), int(np.sum(steps)))


def build(task: Task, vectorised: bool = False) -> Compiled:
    """Trace and compile for the shapes at hand."""
    model, data = MODELS[task.row], {name: jnp.asarray(v) for name, v in task.data.items()}
    found = initialize_model(jax.random.PRNGKey(0), model, model_kwargs=data)
    place = found.param_info.z
    if task.start is not None:
        latent = {name: jnp.asarray(v) for name, v in task.start.items()}
        place = unconstrain_fn(model, (), data, latent)

    def starts(seed: int) -> Any:
        rng = np.random.default_rng(seed)

        def one(value: Any) -> Any:
            shape = (task.chains, *value.shape)
            if task.start is not None:
                return jnp.broadcast_to(value, shape)
            return jnp.asarray(rng.uniform(-RADIUS, RADIUS, shape))

        return jax.tree.map(one, place)

    def chain(key: Any, at: Any) -> Any:
        kernel = NUTS(potential_fn=found.potential_fn)
        state = kernel.init(key, task.warmup, init_params=at, model_args=(), model_kwargs={})

        def step(state: Any, _: Any) -> Any:
            state = kernel.sample(state, (), {})
            return state, (state.z, state.num_steps, state.diverging)

        _, (z, steps, diverging) = jax.lax.scan(step, state, None, length=task.warmup + task.draws)
        kept = jax.tree.map(lambda value: value[task.warmup :], z)
        return jax.vmap(found.postprocess_fn)(kept), steps.sum(), diverging[task.warmup :].sum()

    def chains(keys: Any, at: Any) -> Any:
        if vectorised:
            return jax.vmap(chain)(keys, at)
        return jax.lax.map(lambda both: chain(*both), (keys, at))

    mesh = Mesh(np.array(jax.devices()[: task.cores]), ("core",))
    share = PartitionSpec("core")
    sharding = NamedSharding(mesh, share)
    parted = jax.shard_map(chains, mesh=mesh, in_specs=share, out_specs=share, check_vma=False)
    keys = jax.random.split(jax.random.PRNGKey(0), task.chains)
    program = jax.jit(parted).lower(*jax.device_put((keys, starts(0)), sharding)).compile()
    words = "one given point" if task.start else "uniform on (-2, 2), unconstrained"
    return Compiled(task, model, data, starts, program, sharding, words, ())


if __name__ == "__main__":
    vectorised = "--vectorised" in sys.argv
    serve(lambda task: build(task, vectorised), ["numpyro", "jax"])
