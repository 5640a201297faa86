"""Small stories over every family of distributions and constraints, compiled against Pyro itself.

Each is a row of ``ROWS``: what a story draws and sees, and the rung that its density is to reach.
Value and gradient of the compiled density are held, at draws of the prior and at far points,
against Pyro's own log joint: the sum of the sites' log-probabilities, differentiated by autograd,
enumerated sites summed out by ``TraceEnum_ELBO`` with an empty guide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.reparam import LocScaleReparam, ProjectedNormalReparam, TransformReparam
from torch import Tensor
from torch.distributions import constraints, transforms

from storyzoo.errors import StoryzooError
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.models.distributions.flat import Flat
from storyzoo.models.distributions.inverse_wishart import InverseWishart
from storyzoo.models.distributions.ordered import Ordered
from storyzoo.models.distributions.partial_normal import PartialNormal
from storyzoo.story import Story

POINTS = 10
Program = Callable[[Any], None]


@dataclass(frozen=True)
class Tale(Story):
    """A story by its program alone."""

    program: Program

    data_dims = {}

    def model(self, y: Any) -> None:
        self.program(y)


@dataclass(frozen=True)
class Row:
    """A program, what it sees, and the rung that its density is to reach."""

    program: Program
    y: np.ndarray
    rung: str = "c"
    why: str = ""
    """Where the rung isn't the highest: what the notes have to say."""

    @property
    def name(self) -> str:
        """What the test is called."""
        return self.program.__name__

    @cached_property
    def target(self) -> Target:
        """The story with its data."""
        return make_target(Tale(self.program), {"y": self.y})

    @cached_property
    def density(self) -> LogDensity:
        """The density as it is compiled."""
        return self.target.density()


RNG = np.random.default_rng(11)
REALS = RNG.normal(size=8)
PAIRS = RNG.normal(size=(6, 2))
TRIPLES = RNG.normal(size=(6, 3))
POSITIVE = RNG.gamma(2.0, 1.0, size=8)
SHARES = RNG.beta(2.0, 3.0, size=8)
COUNTS = np.array([0.0, 3, 1, 7, 2, 0, 4, 1])
LABELS = np.array([0, 2, 1, 1, 2, 0, 0, 2])
TABLE = np.array([[3.0, 1, 0], [0, 2, 2], [4, 0, 0], [1, 1, 2]])
ANGLES = RNG.uniform(-3, 3, size=8)


def rows(y: Any, distribution: Any) -> None:
    """Each row of the data from one distribution."""
    with pyro.plate("row", len(y)):
        pyro.sample("y", distribution, obs=y)


# -- supports of unknowns ----------------------------------------------------------------------


def simplex(y: Any) -> None:
    share = pyro.sample("share", dist.Dirichlet(torch.tensor([0.7, 1.0, 3.0])))
    rows(y, dist.Categorical(share))


def simplices_in_a_plate(y: Any) -> None:
    with pyro.plate("group", 3):
        share = pyro.sample("share", dist.Dirichlet(torch.ones(4)))
    rows(y, dist.Normal((share * torch.arange(4.0)).sum(-1).sum(), 1.0))


def ordered(y: Any) -> None:
    cut = pyro.sample("cut", Ordered(dist.Normal(0.0, 2.0).expand([3]), normalised=True))
    rows(y, dist.Normal(cut.prod(), 1.0))


def ordered_logistic(y: Any) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    cut = pyro.sample("cut", Ordered(dist.Normal(0.0, 2.0).expand([2])))
    rows(y, dist.OrderedLogistic(slope * torch.linspace(-1, 1, len(y)), cut))


def gamma(y: Any) -> None:
    shape = pyro.sample("shape", dist.Gamma(2.0, 1.0))
    rate = pyro.sample("rate", dist.InverseGamma(3.0, 2.0))
    rows(y, dist.Gamma(shape, rate))


def inverse_gamma(y: Any) -> None:
    shape = pyro.sample("shape", dist.HalfCauchy(2.0))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    rows(y, dist.InverseGamma(shape, scale))


def log_normal(y: Any) -> None:
    loc = pyro.sample("loc", dist.Laplace(0.0, 1.0))
    scale = pyro.sample("scale", dist.Exponential(1.5))
    rows(y, dist.LogNormal(loc, scale))


def weibull(y: Any) -> None:
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    concentration = pyro.sample("concentration", dist.Chi2(3.0))
    rows(y, dist.Weibull(scale, concentration))


def half_student(y: Any) -> None:
    scale = pyro.sample("scale", dist.FoldedDistribution(dist.StudentT(4.0, 0.0, 2.0)))
    rows(y, dist.Exponential(1 / scale))


def pareto(y: Any) -> None:
    alpha = pyro.sample("alpha", dist.Weibull(1.0, 2.0))
    rows(y, dist.Pareto(0.01, alpha))


def correlation(y: Any) -> None:
    factor = pyro.sample("factor", dist.LKJCholesky(3, 1.5))
    scale = pyro.sample("scale", dist.HalfNormal(1.0).expand([3]).to_event(1))
    tril = scale.unsqueeze(-1) * factor
    rows(y, dist.MultivariateNormal(torch.zeros(3), scale_tril=tril))


def correlation_matrix(y: Any) -> None:
    matrix = pyro.sample("matrix", dist.LKJ(2, 2.0))
    rows(y, dist.MultivariateNormal(torch.zeros(2), covariance_matrix=matrix))


def inverse_wishart(y: Any) -> None:
    covariance = pyro.sample("covariance", InverseWishart(4.0, torch.eye(2)))
    rows(y, dist.MultivariateNormal(torch.zeros(2), covariance_matrix=covariance))


def wishart_precision(y: Any) -> None:
    precision = pyro.sample("precision", InverseWishart(5.0, 2 * torch.eye(2)))
    rows(y, dist.MultivariateNormal(torch.zeros(2), precision_matrix=precision))


def covariances_in_a_plate(y: Any) -> None:
    with pyro.plate("group", 2):
        covariance = pyro.sample("covariance", InverseWishart(4.0, torch.eye(2)))
        loc = pyro.sample("loc", dist.MultivariateNormal(torch.zeros(2), covariance))
    rows(y, PartialNormal(loc[0], scale_tril=torch.linalg.cholesky(covariance[1])))


def bounded(y: Any) -> None:
    low = pyro.sample("low", dist.Uniform(-3.0, -1.0))
    share = pyro.sample("share", dist.Beta(2.0, 0.5))
    rows(y, dist.Normal(low + 5 * share, 1.0))


def beta(y: Any) -> None:
    a = pyro.sample("a", dist.Gamma(2.0, 1.0))
    b = pyro.sample("b", dist.Gamma(2.0, 1.0))
    rows(y, dist.Beta(a, b))


def kumaraswamy(y: Any) -> None:
    a = pyro.sample("a", dist.LogNormal(0.0, 0.5))
    share = pyro.sample("share", dist.Kumaraswamy(2.0, 3.0))
    rows(y, dist.Kumaraswamy(a, 1 + share))


def truncated_normal(y: Any) -> None:
    """A normal above zero, its lost mass counted."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", Flat(constraints.interval(0.5, 3.0)))
    rows(y, dist.Normal(loc, scale))
    kept = 0.5 * torch.erfc(-loc / scale / math.sqrt(2.0))
    pyro.factor("kept", -len(y) * kept.log())


def sphere(y: Any) -> None:
    """Only so: there is no way from all of a space onto a sphere that is one to one."""

    def directions(y: Any) -> None:
        direction = pyro.sample("direction", dist.ProjectedNormal(torch.tensor([1.0, 0.5])))
        rows(y, dist.Normal(3 * direction, 1.0).to_event(1))

    poutine.reparam(directions, config={"direction": ProjectedNormalReparam()})(y)


def logistic_normal(y: Any) -> None:
    share = pyro.sample("share", dist.LogisticNormal(torch.zeros(2), torch.ones(2)))
    rows(y, dist.Categorical(share))


def sum_to_zero(y: Any) -> None:
    effect = pyro.sample("effect", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    effect = effect - effect.mean()
    rows(y, dist.Normal(effect.repeat(2), 1.0))


def unit_interval_by_a_transform(y: Any) -> None:
    base = dist.Normal(torch.zeros(3), 1.0)
    squashed = dist.TransformedDistribution(base, [transforms.SigmoidTransform()]).to_event(1)
    share = pyro.sample("share", squashed)
    rows(y, dist.Normal(share.sum(), share[0]))


# -- what is seen ------------------------------------------------------------------------------


def student(y: Any) -> None:
    df = pyro.sample("df", dist.Gamma(2.0, 0.1))
    scale = pyro.sample("scale", dist.HalfCauchy(1.0))
    rows(y, dist.StudentT(df, 0.5, scale))


def laplace_cauchy_logistic(y: Any) -> None:
    loc = pyro.sample("loc", dist.Cauchy(0.0, 1.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("a", dist.Laplace(loc, scale), obs=y)
        pyro.sample("b", dist.Cauchy(loc, scale), obs=y)
        pyro.sample("c", dist.Logistic(loc, scale), obs=y)


def gumbel(y: Any) -> None:
    loc = pyro.sample("loc", dist.Gumbel(0.0, 1.0))
    rows(y, dist.Gumbel(loc, 1.5))


def asymmetric(y: Any) -> None:
    skew = pyro.sample("skew", dist.LogNormal(0.0, 0.5))
    rows(y, dist.AsymmetricLaplace(0.0, 1.0, skew))


def soft_laplace(y: Any) -> None:
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    rows(y, dist.SoftLaplace(0.0, scale))


def poisson(y: Any) -> None:
    rows(y, dist.Poisson(pyro.sample("rate", dist.Gamma(1.0, 0.5))))


def negative_binomial(y: Any) -> None:
    total = pyro.sample("total", dist.Gamma(3.0, 0.5))
    logit = pyro.sample("logit", dist.Normal(0.0, 1.5))
    rows(y, dist.NegativeBinomial(total, logits=logit))


def gamma_poisson(y: Any) -> None:
    shape = pyro.sample("shape", dist.Gamma(2.0, 1.0))
    rows(y, dist.GammaPoisson(shape, 0.7))


def zero_inflated(y: Any) -> None:
    gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
    rows(y, dist.ZeroInflatedPoisson(pyro.sample("rate", dist.Gamma(2.0, 1.0)), gate=gate))


def zero_inflated_negative_binomial(y: Any) -> None:
    gate = pyro.sample("gate", dist.Normal(0.0, 1.0))
    total = pyro.sample("total", dist.Gamma(2.0, 1.0))
    rows(y, dist.ZeroInflatedNegativeBinomial(total, probs=torch.tensor(0.4), gate_logits=gate))


def binomial(y: Any) -> None:
    share = pyro.sample("share", dist.Beta(0.5, 0.5))
    rows(y, dist.Binomial(10, probs=share))


def binomial_by_logits(y: Any) -> None:
    logit = pyro.sample("logit", dist.Normal(0.0, 2.0))
    rows(y, dist.Binomial(total_count=10, logits=logit))


def beta_binomial(y: Any) -> None:
    a = pyro.sample("a", dist.Gamma(2.0, 1.0))
    rows(y, dist.BetaBinomial(a, 2.0, total_count=10))


def geometric(y: Any) -> None:
    rows(y, dist.Geometric(probs=pyro.sample("share", dist.Beta(2.0, 2.0))))


def bernoulli(y: Any) -> None:
    with pyro.plate("side", 2):
        share = pyro.sample("share", dist.Uniform(0.0, 1.0))
    rows((y > 1).to(y), dist.Bernoulli(probs=share.prod()))


def dirichlet_multinomial(y: Any) -> None:
    concentration = pyro.sample("concentration", dist.Gamma(2.0, 1.0).expand([3]).to_event(1))
    rows(y, dist.DirichletMultinomial(concentration, total_count=4))


def multinomial(y: Any) -> None:
    logits = pyro.sample("logits", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    rows(y, dist.Multinomial(total_count=4, logits=logits))


def one_hot(y: Any) -> None:
    share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
    rows(torch.eye(3)[y], dist.OneHotCategorical(share))


def von_mises(y: Any) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    rows(y, dist.VonMises(loc, pyro.sample("concentration", dist.Gamma(2.0, 1.0))))


def low_rank(y: Any) -> None:
    factor = pyro.sample("factor", dist.Normal(0.0, 1.0).expand([3, 1]).to_event(2))
    own = pyro.sample("own", dist.HalfNormal(1.0).expand([3]).to_event(1)) + 0.1
    rows(y, dist.LowRankMultivariateNormal(torch.zeros(3), factor, own))


def student_of_many(y: Any) -> None:
    df = pyro.sample("df", dist.Gamma(4.0, 0.5))
    factor = pyro.sample("factor", dist.LKJCholesky(2, 1.0))
    rows(y, dist.MultivariateStudentT(df, torch.zeros(2), factor))


def random_walk(y: Any) -> None:
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    step = pyro.sample("step", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1))
    rows(y, dist.Normal((scale * step).cumsum(-1), 0.5))


def gaussian_process(y: Any) -> None:
    width = pyro.sample("width", dist.InverseGamma(3.0, 2.0))
    x = torch.linspace(0, 3, len(y))
    kernel = torch.exp(-0.5 * ((x[:, None] - x) / width) ** 2) + 0.1 * torch.eye(len(y))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(y)), kernel), obs=y)


def mixture_of_one_family(y: Any) -> None:
    weight = pyro.sample("weight", dist.Dirichlet(torch.ones(3)))
    loc = pyro.sample("loc", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    rows(y, dist.MixtureSameFamily(dist.Categorical(weight), dist.Normal(loc, 1.0)))


def network(y: Any) -> None:
    """A layer of hidden units, by the functions that layers are made of."""
    first = pyro.sample("first", dist.Normal(0.0, 1.0).expand([2, 4]).to_event(2))
    last = pyro.sample("last", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    x = torch.stack([torch.linspace(-1, 1, len(y)), torch.ones(len(y))], -1)
    hidden = torch.tanh(x @ first) + torch.nn.functional.softplus(x @ first).sqrt()
    rows(y, dist.Normal(torch.relu(hidden) @ last, 1.0))


# -- discrete unknowns and other ways to write a story -----------------------------------------


def markov(y: Any) -> None:
    with pyro.plate("state", 2):
        move = pyro.sample("move", dist.Dirichlet(torch.ones(2)))
        loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
    probs = torch.tensor([0.5, 0.5])
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{t}", dist.Categorical(probs), infer={"enumerate": "parallel"})
        pyro.sample(f"y_{t}", dist.Normal(loc[z], 1.0), obs=y[t])
        probs = move[z]


def discrete_hmm(y: Any) -> None:
    with pyro.plate("state", 2):
        move = pyro.sample("move", dist.Dirichlet(torch.ones(2)))
    loc = pyro.sample("loc", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    chain = dist.DiscreteHMM(torch.zeros(2), move.log(), dist.Normal(loc, 1.0), duration=len(y))
    pyro.sample("y", chain, obs=y)


def nested_plates(y: Any) -> None:
    mix = pyro.sample("mix", dist.Beta(2.0, 2.0))
    with pyro.plate("kind", 2):
        often = pyro.sample("often", dist.Beta(2.0, 2.0))
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
    with pyro.plate("column", y.shape[1], dim=-1):
        a = pyro.sample("a", dist.Bernoulli(mix), infer={"enumerate": "parallel"})
        with pyro.plate("line", y.shape[0], dim=-2):
            b = pyro.sample("b", dist.Bernoulli(often[a.long()]), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(loc[b.long()], 1.0), obs=y)


def mixture_with_full_covariances(y: Any) -> None:
    weight = pyro.sample("weight", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("component", 2):
        covariance = pyro.sample("covariance", InverseWishart(4.0, torch.eye(2)))
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(weight), infer={"enumerate": "parallel"})
        tril = torch.linalg.cholesky(covariance)
        pyro.sample("y", dist.MultivariateNormal(loc[z], scale_tril=tril[z]), obs=y)


def words_and_topics(y: Any) -> None:
    with pyro.plate("topic", 2):
        words = pyro.sample("words", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("document", 2):
        topics = pyro.sample("topics", dist.Dirichlet(torch.ones(2)))
    document = torch.arange(len(y)) % 2
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(topics[document]), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Categorical(words[z]), obs=y)


def loc_scale_reparam(y: Any) -> None:
    def schools(y: Any) -> None:
        tau = pyro.sample("tau", dist.HalfCauchy(2.0))
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("row", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    poutine.reparam(schools, config={"theta": LocScaleReparam(0.3)})(y)


def transform_reparam(y: Any) -> None:
    def rates(y: Any) -> None:
        rate = pyro.sample("rate", dist.LogNormal(torch.zeros(2), torch.ones(2)).to_event(1))
        rows(y, dist.Poisson(rate.sum()))

    poutine.reparam(rates, config={"rate": TransformReparam()})(y)


def masked(y: Any) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    rows(y, dist.Normal(loc, 1.0).mask(torch.arange(len(y)) > 2))


def scaled(y: Any) -> None:
    """Rows that count for half: a scale is part of the story where nothing is enumerated."""
    with poutine.scale(scale=2.0):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with poutine.scale(scale=0.5):
        rows(y, dist.Normal(loc, 2.0))


def factor(y: Any) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.factor("pull", -(loc - y).abs().pow(1.5).sum())


ROWS = [
    Row(simplex, LABELS),
    Row(simplices_in_a_plate, REALS),
    Row(ordered, REALS),
    Row(ordered_logistic, LABELS),
    Row(gamma, POSITIVE),
    Row(inverse_gamma, POSITIVE),
    Row(log_normal, POSITIVE),
    Row(weibull, POSITIVE),
    Row(half_student, POSITIVE),
    Row(pareto, POSITIVE),
    Row(correlation, TRIPLES),
    Row(correlation_matrix, PAIRS),
    Row(inverse_wishart, PAIRS),
    Row(wishart_precision, PAIRS),
    Row(covariances_in_a_plate, PAIRS),
    Row(bounded, REALS),
    Row(beta, SHARES),
    Row(kumaraswamy, SHARES),
    Row(truncated_normal, POSITIVE),
    Row(sphere, PAIRS, "eager", "direction_normal"),  # Pyro looks for zero vectors
    Row(logistic_normal, LABELS),
    Row(sum_to_zero, REALS),
    Row(unit_interval_by_a_transform, REALS),
    Row(student, REALS),
    Row(laplace_cauchy_logistic, REALS),
    Row(gumbel, REALS),
    Row(asymmetric, REALS),
    Row(soft_laplace, REALS),
    Row(poisson, COUNTS),
    Row(negative_binomial, COUNTS),
    Row(gamma_poisson, COUNTS),
    Row(zero_inflated, COUNTS),
    Row(zero_inflated_negative_binomial, COUNTS),
    Row(binomial, COUNTS),
    Row(binomial_by_logits, COUNTS),
    Row(beta_binomial, COUNTS),
    Row(geometric, COUNTS),
    Row(bernoulli, COUNTS),
    Row(dirichlet_multinomial, TABLE),
    Row(multinomial, TABLE),
    Row(one_hot, LABELS),
    Row(von_mises, ANGLES),
    Row(low_rank, TRIPLES),
    Row(student_of_many, PAIRS),
    Row(random_walk, REALS),
    Row(gaussian_process, REALS),
    Row(mixture_of_one_family, REALS),
    Row(network, REALS),
    Row(markov, REALS),
    Row(discrete_hmm, REALS),
    Row(nested_plates, TRIPLES),
    Row(mixture_with_full_covariances, PAIRS),
    Row(words_and_topics, LABELS),
    Row(loc_scale_reparam, REALS),
    Row(transform_reparam, COUNTS),
    Row(masked, REALS),
    Row(scaled, REALS),
    Row(factor, REALS),
]

each = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


# -- the oracle --------------------------------------------------------------------------------


def points(row: Row) -> Tensor:
    """(POINTS, D): half of them draws near the prior's, the others far out."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(POINTS, row.density.dim, generator=generator, dtype=torch.float64)
    sizes = torch.tensor([0.1, 0.5, 0.5, 1.0, 1.0, 1.5, 2.0, 2.0, 2.5, 3.0], dtype=torch.float64)
    return noise * sizes[:, None]


def by_pyro(row: Row, q: Tensor) -> tuple[float, np.ndarray]:
    """Value and gradient of Pyro's own log joint and the Jacobian, by plain autograd."""
    with row.target.context():
        leaf = q.clone().requires_grad_()
        latents, volume = {}, torch.zeros(())
        for slot in row.density.slots:
            piece = leaf[slot.offset : slot.end].reshape(slot.unconstrained)
            latents[slot.name] = slot.transform(piece)
            volume = volume + slot.transform.log_abs_det_jacobian(piece, latents[slot.name]).sum()
        model = poutine.condition(row.target.story.model, data=latents)
        if row.target.structure.discrete:
            nesting = row.target.structure.max_plate_nesting
            elbo = TraceEnum_ELBO(max_plate_nesting=nesting)
            log_joint = -elbo.differentiable_loss(
                config_enumerate(model, default="parallel"), lambda **_: None, **row.target.data
            )
        else:
            log_joint = poutine.trace(model).get_trace(**row.target.data).log_prob_sum()
        value = log_joint + volume
        (gradient,) = torch.autograd.grad(value, leaf)
    return float(value), gradient.numpy()


@each
def test_the_compiled_density_is_pyros(row: Row) -> None:
    with_value = 0
    for q in points(row):
        value, gradient = by_pyro(row, q)
        found, found_gradient = row.density.value_and_gradient(q)
        if not math.isfinite(value):
            assert not bool(found.isfinite())
            continue
        with_value += 1
        assert float(found) == pytest.approx(value, rel=1e-8, abs=1e-8)
        scale = max(1.0, float(abs(gradient).max()))
        np.testing.assert_allclose(found_gradient.numpy(), gradient, rtol=1e-8, atol=1e-8 * scale)
    assert with_value >= POINTS - 2


@each
def test_the_batched_density_is_the_same(row: Row) -> None:
    q = points(row)
    values, gradients = row.density.batch_value_and_gradient(q)
    for place, point in enumerate(q):
        value, gradient = row.density.value_and_gradient(point)
        if bool(value.isfinite()):
            torch.testing.assert_close(values[place], value, rtol=1e-8, atol=1e-8)
            scale = max(1.0, float(gradient.abs().max()))
            torch.testing.assert_close(gradients[place], gradient, rtol=1e-8, atol=1e-8 * scale)


@each
def test_it_runs_as_fast_as_it_can(row: Row) -> None:
    row.density.value_and_gradient(points(row)[0])
    assert row.density.rung == row.rung, row.density.notes
    assert row.why in " ".join(row.density.notes)
    if row.rung == "c":
        assert row.density.notes == ()


# -- stories that can't be traced --------------------------------------------------------------


def reads_an_item(y: Any) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    rows(y, dist.Normal(rate.item(), 1.0))


def branches_on_a_value(y: Any) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    rows(y, dist.Normal(loc if loc > 0 else 0.5 * loc, 1.0))


def counts_by_a_value(y: Any) -> None:
    size = pyro.sample("size", dist.Gamma(2.0, 1.0))
    total = sum((size ** (k + 1) for k in range(int(size) + 1)), torch.zeros(()))
    rows(y, dist.Normal(total, 10.0))


def draws_outside_its_sites(y: Any) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    rows(y, dist.Normal(loc + 0.1 * torch.randn(()), 1.0))


def subsamples(y: Any) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y), subsample_size=3) as chosen:
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y[chosen])


UNTRACEABLE = [
    (reads_an_item, "rate"),
    (branches_on_a_value, "loc"),
    (counts_by_a_value, "size"),
    (draws_outside_its_sites, "loc"),
    (subsamples, "row"),
]


@pytest.mark.parametrize(
    ("program", "site"), UNTRACEABLE, ids=[program.__name__ for program, _ in UNTRACEABLE]
)
def test_what_cannot_be_traced_is_told_or_refused(program: Program, site: str) -> None:
    """Each lands on the last rung, or is refused; the reason names the site before it happened."""
    try:
        density = make_target(Tale(program), {"y": REALS}).density()
        density.value_and_gradient(torch.zeros(density.dim, dtype=torch.float64))
    except StoryzooError as refused:
        assert site in str(refused)
        return
    assert density.rung == "eager"
    assert any(f"'{site}'" in note for note in density.notes), density.notes
    assert density.native() is None


def test_a_branch_on_a_value_follows_the_value() -> None:
    """What is not traced must not be frozen to the branch of the first point."""
    density = make_target(Tale(branches_on_a_value), {"y": REALS}).density()
    for loc in (-1.0, 2.0, -0.3):
        found, _ = density.value_and_gradient(torch.tensor([loc], dtype=torch.float64))
        mean = torch.tensor(loc if loc > 0 else 0.5 * loc, dtype=torch.float64)
        expected = dist.Normal(mean, 1.0).log_prob(torch.as_tensor(REALS)).sum()
        prior = dist.Normal(0.0, 1.0).log_prob(torch.tensor(loc, dtype=torch.float64))
        assert float(found) == pytest.approx(float(expected + prior))
