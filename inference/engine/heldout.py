"""How well new examples are foretold: their log predictive density.

``log p(y*_n | y) ~ log 1/S sum_s p(y*_n | theta_s)``

over draws theta_s of the global parameters; with one draw it is the plug-in density of a point.
Latents of single examples are never taken from the examples fitted. They are drawn anew from
their prior given theta_s, several times for each, and averaged inside the logarithm as well:
unbiased for the density, so that the logarithm is low by about half its squared error.

Source: Gelman, Hwang & Vehtari 2014, "Understanding predictive information criteria for Bayesian
models", Statistics and Computing 24.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pyro import poutine
from scipy.special import logsumexp, softmax
from torch import Tensor
from torch.distributions import Distribution
from xarray import DataArray, DataTree

from storyzoo.inference.engine.estimated import BOUNDS, ESTIMATED_DRAWS, Estimates, estimates
from storyzoo.inference.engine.factors import ValueMessenger, parts_of, site_log_probs
from storyzoo.inference.engine.groups import each_draw, flat_draws, thinned
from storyzoo.inference.engine.missing import ObservedMessenger
from storyzoo.inference.engine.target import Target
from storyzoo.story import Latents

Array = npt.NDArray[np.float64]

NESTED = 2000
"""Densities averaged per example where latents are drawn anew: so many draws over all theta_s."""
PROPOSED = 200
"""The same where they are drawn from the story's own fold-in, which comes near to them."""
MOST_FOLDED = 50
"""Draws of the shared latents under which examples are folded in, or halves of them foretold."""
MOST_BY_STEP = 200
"""Draws that are averaged at every step of sequences."""
BLOCKS = 20
"""Runs of neighbouring draws whose means give the Monte Carlo error, autocorrelation and all."""
AT_ONCE = 2_000_000
"""Densities held at a time."""


class Predictive(NamedTuple):
    """Log predictive density of each example."""

    nats: Array
    """(N,): ``log mean_s p(y*_n | theta_s)``."""
    se: Array
    """(N,): its Monte Carlo standard error; 0 for the plug-in density of a point."""
    mean_se: float
    """Monte Carlo standard error of the mean over the examples, which share the draws."""
    lower: Array | None = None
    """(N,): a stochastic lower bound, where the likelihood is an estimate."""
    upper: Array | None = None
    """(N,): a stochastic upper bound."""
    values: Array | None = None
    """(N,): how many values each example holds, where all are discrete (else bits mean nothing)."""

    @property
    def nature(self) -> str:
        """What the numbers are, in words."""
        if self.lower is not None and self.upper is not None:
            gap = float(np.abs(self.upper - self.lower).max(initial=0))
            return f"estimates, ± {self.mean_se:.2g}, bounds up to {gap:.2g} apart, nats"
        if self.mean_se > 0:
            return f"means over draws, Monte Carlo error ± {self.mean_se:.2g} of theirs, nats"
        return "exact, nats"

    def moved(self, nats: Array | float) -> Predictive:
        """The same with so much added to each log density."""
        lower, upper = (None if end is None else end + nats for end in (self.lower, self.upper))
        return self._replace(nats=self.nats + nats, lower=lower, upper=upper)

    sizes: Array | None = None
    """(N,): observations that each example is made of, where the story names them."""
    observation: str = ""
    """What an observation is, where each is told from those before it: ``step``."""
    nats_by_step: float | None = None
    """Per observation, the draws averaged anew at each; None where it is not known."""


class Completed(NamedTuple):
    """Halves of examples foretold from their other halves, by observation."""

    nats: float
    """Per observation that was not seen: ``sum_n nats_n / sum_n size_n``."""
    se: float
    """Standard error over the examples, of the ratio of two sums."""
    observation: str
    """What an observation is: ``word``."""

    @property
    def perplexity(self) -> float:
        """``exp(-nats)``: among how many equally likely observations one is left to guess."""
        return float(np.exp(-self.nats))


class Sequential(NamedTuple):
    """Examples foretold from left to right, their own latents integrated out."""

    nats: Array
    """(N,): estimate of ``log p(y*_n | shared latents)``, low by about half its squared error."""
    se: Array
    """(N,): its Monte Carlo standard error, over particles."""
    sizes: Array
    """(N,): observations of each example."""
    observation: str
    """What an observation is: ``word``."""


def log_left_to_right(
    target: Target, draws: Mapping[str, np.ndarray], seed: int = 0
) -> Sequential | None:
    """Log probability of examples at the mean of the shared latents' draws ``(S, *shape)``.

    None for a story that can't read from left to right. Where all examples would take long the
    story reads some of them, the same for every method under one seed.
    """
    if not target.story.has("left_to_right"):
        return None
    shared = {n: v.mean(0) for n, v in draws.items() if n not in target.structure.local}
    with target.context(), torch.no_grad():
        found = target.story.left_to_right(
            {n: torch.as_tensor(v, device=target.device) for n, v in shared.items()},
            target.data,
            np.random.default_rng([seed, 5]),
        )
    assert found is not None
    nats, se, sizes = (np.asarray(v.cpu(), dtype=np.float64) for v in found)
    read = sizes > 0
    return Sequential(nats[read], se[read], sizes[read], target.story.observation)


def log_completion(
    target: Target, draws: Mapping[str, np.ndarray], seed: int = 0
) -> Completed | None:
    """How well half of each example foretells the other, given draws ``(S, *shape)`` by site.

    Only the shared latents are read; which half is seen is drawn by ``seed``, so that every method
    is asked the same. None for a story whose examples can't be halved. The error is
    ``sqrt(N / (N - 1) sum_n (nats_n - r size_n)^2) / sum_n size_n`` with the ratio r.
    """
    if not target.story.has("complete"):
        return None
    shared = {n: v for n, v in draws.items() if n not in target.structure.local}
    with target.context(), torch.no_grad():
        found = target.story.complete(
            each_draw(_spread(shared, MOST_FOLDED)),
            target.data,
            np.random.default_rng([seed, 4]),
        )
    assert found is not None
    nats, sizes = (np.asarray(values.cpu(), dtype=np.float64) for values in found)
    if not sizes.sum():
        return None
    ratio, n = nats.sum() / sizes.sum(), len(nats)
    spread = np.square(nats - ratio * sizes).sum() * n / max(1, n - 1)
    se = float(np.sqrt(spread) / sizes.sum()) if n > 1 else float("nan")
    return Completed(float(ratio), se, target.story.observation)


def log_predictive(target: Target, draws: Mapping[str, np.ndarray], seed: int = 0) -> Predictive:
    """Log predictive density of the target's examples given draws ``(S, *shape)`` by site.

    ``draws`` holds the latents in the units of the target; those of single examples are not
    read. The same seed gives the same answer. Where the likelihood is an estimate, a few of the
    draws are taken. Raises IntractableError where it has not even that.
    """
    return _log_predictive(target, draws, seed)._replace(values=discrete_values(target))


def averaged_by_step(target: Target, draws: Mapping[str, np.ndarray]) -> float | None:
    """Nats per step where draws ``(S, *shape)`` are averaged anew at each step, as forecasts are.

    ``mean_t log 1/S sum_s p(x_t | x_<t, theta_s)``: no draw counts for more because it told the
    steps before well, as it does in the probability of a whole sequence. None for a story that
    does not tell its steps.
    """
    if not target.story.has("by_step"):
        return None
    some = thinned({name: value[None] for name, value in draws.items()}, MOST_BY_STEP)
    count = len(next(iter(some.values())))
    dtype = getattr(torch, target.story.dtype)
    total: Tensor | None = None
    with target.context(), torch.no_grad():
        for latents in each_draw(some):
            own = {name: value.to(target.device, dtype) for name, value in latents.items()}
            told = target.story.by_step(own, target.data)
            assert told is not None
            total = told.double() if total is None else torch.logaddexp(total, told.double())
    if total is None or not len(total):
        return None
    return float(total.mean()) - float(np.log(count))


def _log_predictive(target: Target, draws: Mapping[str, np.ndarray], seed: int) -> Predictive:
    shared = {n: v for n, v in draws.items() if n not in target.structure.local}
    size = len(next(iter(draws.values())))
    if target.story.intractable() is not None:
        few = thinned({n: v[None] for n, v in shared.items()}, ESTIMATED_DRAWS)
        return averaged_estimates(estimates(target, few, seed))
    if target.structure.local:
        rng = np.random.default_rng([seed, 3])
        anew = _drawn_anew
        if target.story.has("fold_in"):  # the dearer part, of which each serves several draws
            anew, shared = _proposed, _spread(shared, MOST_FOLDED)
            size = min(size, MOST_FOLDED)
        repeats = _repeats(target, size)
        runs, count = anew(target, shared, repeats, rng), size * repeats
    else:
        runs, count = _given(target, shared, size), size
    sizes = target.story.sizes(target.data)
    found = _averaged(runs, count, target.n_examples)
    return found if sizes is None else _sized(found, target, sizes)


def _sized(found: Predictive, target: Target, sizes: Tensor) -> Predictive:
    """With the observations of each example; draws are averaged over whole examples.

    ``log mean_s prod_t p(x_t | past, theta_s)`` is that of a mixture over the draws: the weight of
    a draw changes along a sequence by how well it told the steps before.
    """
    by = target.story.observation if target.story.has("step") else ""
    return found._replace(sizes=np.asarray(sizes.cpu(), dtype=float), observation=by)


def fitted_scores(tree: DataTree, target: Target) -> Predictive | None:
    """The same of the examples fitted, from the log likelihoods and bounds that the tree keeps."""
    if "log_likelihood" not in tree.children:
        return None
    (array,) = tree["log_likelihood"].to_dataset().data_vars.values()
    rows = _rows(array)
    if BOUNDS not in tree.children:
        found = _averaged(iter([rows]), *rows.shape)
        sizes = target.story.sizes(target.data)
        found = found if sizes is None else _sized(found, target, sizes)
    else:
        bounds = tree[BOUNDS].to_dataset()
        error, effective = (
            bounds[name].to_numpy().ravel() for name in ("standard_error", "effective")
        )
        found = averaged_estimates(
            Estimates(rows, error, _rows(bounds["lower"]), _rows(bounds["upper"]), effective)
        )
    return found._replace(values=discrete_values(target))


def _rows(array: DataArray) -> Array:
    """Draws by examples, (S, N)."""
    values = array.transpose("chain", "draw", ...).to_numpy().astype(np.float64)
    return values.reshape(values.shape[0] * values.shape[1], -1)


def discrete_values(target: Target) -> Array | None:
    """(N,): how many values of each example are observed; None unless all are discrete and lie
    along the examples."""
    sites = target.structure.observed.values()
    if not sites or not all(site.support.is_discrete and site.argument for site in sites):
        return None
    if target.story.ragged:
        return None
    total = np.zeros(target.n_examples)
    for name in target.structure.outcomes:
        seen = ~np.isnan(target.data[name].cpu().numpy().astype(np.float64))
        dims = target.story.data_dims.get(name, ())
        if target.story.examples in dims:
            seen = np.moveaxis(seen, dims.index(target.story.examples), 0)
        total += seen.reshape(target.n_examples, -1).sum(-1)
    return total


def averaged_estimates(found: Estimates) -> Predictive:
    """Mean density over draws whose likelihoods are estimates, each with an error of its own.

    With weights ``w_sn = p_sn / sum_s p_sn`` the errors of the normalisers add
    ``sum_s w_sn^2 se_s^2`` to the variance.
    """
    size, n_examples = found.value.shape
    mixed = _averaged(iter([found.value]), size, n_examples)
    weights = np.nan_to_num(softmax(found.value, axis=0))
    over_rows = (weights.mean(1) * found.standard_error) ** 2
    by_row = (weights * found.standard_error[:, None]) ** 2
    ends = [logsumexp(end, axis=0) - np.log(size) for end in (found.lower, found.upper)]
    return Predictive(
        nats=mixed.nats,
        se=np.sqrt(mixed.se**2 + by_row.sum(0)),
        mean_se=float(np.sqrt(mixed.mean_se**2 + over_rows.sum())),
        lower=np.minimum(*ends),  # bounds that are as good as equal cross by chance
        upper=np.maximum(*ends),
    )


def _given(target: Target, draws: Mapping[str, np.ndarray], size: int) -> Iterator[Array]:
    """Log likelihoods ``(s, N)`` of the examples, some draws at a time."""
    density = target.density(jacobian=False)
    step = max(1, AT_ONCE // max(1, target.n_examples))
    for start in range(0, size, step):
        flat = flat_draws(density, {n: v[start : start + step] for n, v in draws.items()})
        yield density.log_likelihood(flat).detach().cpu().numpy().astype(np.float64)


def _spread(draws: Mapping[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """At most so many of the draws ``(S, *shape)``, evenly spread over all."""
    size = len(next(iter(draws.values())))
    chosen = np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int))
    return {name: values[chosen] for name, values in draws.items()}


def _repeats(target: Target, size: int) -> int:
    """How often the latents of single examples are drawn for each of so many draws."""
    return max(1, round((PROPOSED if target.story.has("fold_in") else NESTED) / size))


def _drawn_anew(
    target: Target, draws: Mapping[str, np.ndarray], repeats: int, rng: np.random.Generator
) -> Iterator[Array]:
    """The same with the examples' own latents, continuous and discrete, drawn from their prior."""
    with target.context():
        torch.manual_seed(int(rng.integers(2**31)))
        for latents in each_draw(draws) if draws else [{}]:
            rows = [_likelihood_of_a_draw(target, latents) for _ in range(repeats)]
            yield np.stack(rows)


def _proposed(
    target: Target, draws: Mapping[str, np.ndarray], repeats: int, rng: np.random.Generator
) -> Iterator[Array]:
    """The same with the examples' own latents drawn from the story's fold-in q, weighted by p / q.

    ``log p(x_n | l) + log p(l | theta_s) - log q(l)``: as unbiased as draws from the prior, and
    nearer wherever an example says much about its latents.
    """
    with target.context(), torch.no_grad():
        torch.manual_seed(int(rng.integers(2**31)))
        for latents in each_draw(draws):
            found = target.story.fold_in(latents, target.data)
            assert found is not None
            rows = [_weighted_draw(target, latents, found) for _ in range(repeats)]
            yield np.stack(rows)


def _weighted_draw(target: Target, latents: Latents, proposal: Mapping[str, Distribution]) -> Array:
    """(N,): log of the joint of examples and their latents, over the density they are drawn by."""
    drawn = {name: q.sample() for name, q in proposal.items()}
    parts = parts_of(target.story, target.data, {**latents, **drawn}, target.structure)
    total = parts.local_prior + parts.log_likelihood
    for name, q in proposal.items():
        total = total - q.log_prob(drawn[name])
    return total.cpu().numpy().astype(np.float64)


def _likelihood_of_a_draw(target: Target, latents: Latents) -> Array:
    """(N,): log likelihood of the examples where all else is drawn by one run of the model."""
    with (
        torch.no_grad(),
        poutine.trace() as tracer,
        ObservedMessenger(target.structure.missing),
        ValueMessenger(latents),
    ):
        target.story.model(**target.data)
    log_probs = site_log_probs(tracer.trace)
    total = torch.zeros(target.n_examples)
    for name, site in target.structure.observed.items():
        if site.examples_axis is not None:
            moved = log_probs[name].movedim(site.examples_axis, 0)
            total = total + moved.reshape(len(moved), -1).sum(-1)
    return total.cpu().numpy().astype(np.float64)


def _averaged(runs: Iterator[Array], count: int, n_examples: int) -> Predictive:
    """Mean density over ``count`` rows that come in order, with errors from block means.

    With block means m_b of the densities and their mean m, ``se = sd_b(m_b) / (m sqrt B)``, the
    delta method's error of a logarithm; the examples' errors add up within each block.
    """
    blocks = min(BLOCKS, count)
    edges = np.linspace(0, count, blocks + 1).round().astype(int)
    sums = np.full((blocks, n_examples), -np.inf)
    place = 0
    for rows in runs:
        of_block = np.searchsorted(edges, place + np.arange(len(rows)), side="right") - 1
        for block in np.unique(of_block):
            both = np.vstack([sums[block][None], rows[of_block == block]])
            sums[block] = logsumexp(both, axis=0)
        place += len(rows)
    nats = logsumexp(sums, axis=0) - np.log(count)
    if blocks == 1:
        return Predictive(nats, np.zeros(n_examples), 0.0)
    means = sums - np.log(np.diff(edges))[:, None]
    with np.errstate(invalid="ignore"):
        relative = np.exp(means - nats) - 1  # (block, N): how far off each block's mean is
    se = relative.std(axis=0, ddof=1) / np.sqrt(blocks)
    return Predictive(nats, se, float(relative.mean(axis=1).std(ddof=1) / np.sqrt(blocks)))
