"""The flat log density against hand-written densities and against enumeration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from storyzoo.errors import SettingError, StoryError
from storyzoo.inference.engine.target import make_target
from storyzoo.story import Story
from tests.cases import CASES, Case, Mixture

each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@each
def test_log_likelihood_is_the_one_by_hand(case: Case) -> None:
    density = case.target().density()
    q = density.flatten(case.latents())
    expected = case.log_likelihood(case.point, case.arrays)
    np.testing.assert_allclose(density.log_likelihood(q), expected, rtol=1e-10)


@each
def test_flatten_and_unflatten_are_inverse(case: Case) -> None:
    density = case.target().density()
    q = density.flatten(case.latents())
    assert q.shape == (density.dim,)
    for name, value in density.unflatten(q).items():
        np.testing.assert_allclose(value, case.point[name], rtol=1e-9, err_msg=name)
    many = torch.stack([q, q + 0.1])
    shapes = {name: value.shape for name, value in density.unflatten(many).items()}
    assert shapes == {name: (2, *np.shape(value)) for name, value in case.point.items()}
    torch.testing.assert_close(density.flatten(density.unflatten(many)), many)


@each
def test_gradient_is_that_of_finite_differences(case: Case) -> None:
    density = case.target().density()
    q = density.flatten(case.latents())
    _, gradient = density.value_and_gradient(q)
    for i in range(density.dim):
        step = torch.zeros_like(q)
        step[i] = 1e-5
        slope = (density(q + step) - density(q - step)) / 2e-5
        assert gradient[i] == pytest.approx(float(slope), rel=1e-5, abs=1e-5)


@each
def test_batch_is_the_points_one_by_one(case: Case) -> None:
    density = case.target().density()
    q = density.flatten(case.latents())
    points = q + 0.3 * torch.randn(70, density.dim, generator=torch.Generator().manual_seed(1))
    values, gradients = density.batch_value_and_gradient(points)
    singly = [density.value_and_gradient(point) for point in points]
    torch.testing.assert_close(density.batch(points), torch.stack([v for v, _ in singly]))
    torch.testing.assert_close(values, torch.stack([v for v, _ in singly]))
    torch.testing.assert_close(gradients, torch.stack([g for _, g in singly]))
    assert density.evaluations == 140


@each
def test_options_take_away_just_the_jacobian_and_the_priors(case: Case) -> None:
    target = case.target()
    whole = target.density()
    q = whole.flatten(case.latents())
    change, local = whole._volume(q)
    plain = target.density(jacobian=False)(q)
    assert float(whole(q) - plain) == pytest.approx(float(change + local.sum()), rel=1e-9)
    bare = target.density(jacobian=False, prior=False)
    prior = float(target.density(jacobian=False).log_prior(q))
    assert float(plain - bare(q)) == pytest.approx(prior, rel=1e-9, abs=1e-9)


@each
def test_a_slice_scales_only_the_examples_part(case: Case) -> None:
    """The mean over all slices of the estimate is the density: prior once, the rest N/n times."""
    target = case.target()
    if case.story.examples is None:
        pytest.raises(SettingError, target.rows, [0])
        return
    density = target.density()
    q = density.flatten(case.latents())
    n = target.n_examples
    estimates = [density.on_rows(torch.tensor([i]))(q) for i in range(n)]
    assert float(torch.stack(estimates).mean()) == pytest.approx(float(density(q)), rel=1e-9)
    whole = density.on_rows(torch.arange(n))(q)
    assert float(whole) == pytest.approx(float(density(q)), rel=1e-12)


def test_priors_of_the_mixture_are_those_written() -> None:
    case = CASES[0]
    density = case.target().density(jacobian=False)
    by_hand = (
        stats.dirichlet.logpdf(case.point["weight"], [1, 1])
        + stats.norm.logpdf(case.point["loc"], 0, 5).sum()
        + stats.lognorm.logpdf(case.point["scale"], 1).sum()
    )
    assert float(density.log_prior(density.flatten(case.latents()))) == pytest.approx(by_hand)


def test_jacobian_of_a_scale_is_its_logarithm() -> None:
    target = CASES[3].target()
    q = target.density().flatten(CASES[3].latents())
    gap = float(target.density()(q) - target.density(jacobian=False)(q))
    assert gap == pytest.approx(np.log(1.2))


def test_missing_values_leave_the_marginal_of_what_is_observed() -> None:
    y = CASES[0].arrays["y"].copy()
    y[0, 1] = y[3, 0] = np.nan
    y[5] = np.nan
    density = make_target(Mixture(), {"y": y}).density()
    found = density.log_likelihood(density.flatten(CASES[0].latents()))
    by_hand = CASES[0].log_likelihood(CASES[0].point, {"y": y})
    np.testing.assert_allclose(found, by_hand, rtol=1e-10, atol=1e-12)
    assert float(found[5]) == pytest.approx(0, abs=1e-12)


class Sparse(Story):
    """A Dirichlet with concentration below one: no mode on the simplex."""

    data_dims = {"y": ("row",)}

    def model(self, y: Any) -> None:
        weight = pyro.sample("weight", dist.Dirichlet(torch.full((3,), 0.5)))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Categorical(weight), obs=y)


def test_concentration_below_one_takes_the_softmax_basis() -> None:
    target = make_target(Sparse(), {"y": np.array([0, 0, 1])})
    density = target.density(jacobian=False)
    weight = np.array([0.5, 0.3, 0.2])
    by_hand = stats.dirichlet.logpdf(weight, [0.5] * 3) + np.log(weight).sum()
    by_hand += np.log([0.5, 0.5, 0.3]).sum()
    value = density(density.flatten({"weight": torch.as_tensor(weight)}))
    assert float(value) == pytest.approx(by_hand)


class Shared(Story):
    """One label for all examples."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        loc = pyro.sample("loc", dist.Normal(0, 1))
        a = pyro.sample("a", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(loc + 2 * a, 1.0), obs=y)


def test_a_shared_label_is_summed_out_but_gives_examples_no_likelihood() -> None:
    y = np.array([0.1, 1.5, 2.0])
    density = make_target(Shared(), {"y": y}).density(prior=False)
    q = torch.tensor([0.2], dtype=torch.float64)
    by_hand = np.logaddexp(
        np.log(0.7) + stats.norm.logpdf(y, 0.2, 1).sum(),
        np.log(0.3) + stats.norm.logpdf(y, 2.2, 1).sum(),
    )
    assert float(density(q)) == pytest.approx(by_hand)
    with pytest.raises(StoryError, match="ties the examples together"):
        density.log_likelihood(q)


class Branching(Story):
    """A model that branches on a value: it can't be traced, and runs eagerly."""

    data_dims = {"y": ("row",)}

    def model(self, y: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0, 1))
        scale = 1.0 if mu > 0 else 2.0
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu, scale), obs=y)


def test_what_cannot_be_traced_runs_as_it_is() -> None:
    density = make_target(Branching(), {"y": np.array([0.1, 1.5])}).density()
    for mu, scale in ((0.5, 1.0), (-0.5, 2.0)):
        by_hand = stats.norm.logpdf(mu) + stats.norm.logpdf([0.1, 1.5], mu, scale).sum()
        assert float(density(torch.tensor([mu], dtype=torch.float64))) == pytest.approx(by_hand)
    density.value_and_gradient(torch.tensor([0.5], dtype=torch.float64))
    assert density.engine == "eager Pyro"
    assert density.notes == (
        "the model can't be traced: it reads the value of a tensor that depends on the unknowns "
        "(.item(), or an if), after site 'mu'",
    )
    many = density.batch(torch.tensor([[0.5], [-0.5]], dtype=torch.float64))
    assert many.shape == (2,)


class Impossible(Story):
    """Its likelihood is never finite."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0, 1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu, torch.zeros(())), obs=y)


def test_no_finite_start_names_the_site_and_row() -> None:
    with pytest.raises(StoryError):
        density = make_target(Impossible(), {"y": np.array([0.1])}).density()
        density.start(np.random.default_rng(0))
