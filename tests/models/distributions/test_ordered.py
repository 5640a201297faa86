"""Ordered draws: Stan's density, the normalised one, and sorting."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to
from torch.fx.experimental.proxy_tensor import make_fx

from storyzoo.errors import StoryError
from storyzoo.models.distributions.ordered import Ordered


def pair(normalised: bool = False) -> Ordered:
    base = dist.Normal(0.0, 2.0, validate_args=False).expand([2])
    return Ordered(base, normalised=normalised, validate_args=False)


def test_density_is_the_product_of_the_bases() -> None:
    x = torch.tensor([-0.3, 1.2])
    expected = dist.Normal(0.0, 2.0).log_prob(x).sum()
    torch.testing.assert_close(pair().log_prob(x), expected)
    torch.testing.assert_close(pair(True).log_prob(x), expected + math.log(2))


def test_the_normalised_density_integrates_to_one_over_the_cone() -> None:
    grid = torch.linspace(-14.0, 14.0, 561, dtype=torch.float64)
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    points = torch.stack([first, second], -1)
    base = dist.Normal(torch.tensor(0.0, dtype=torch.float64), 2.0).expand([2])
    density = Ordered(base, normalised=True, validate_args=False).log_prob(points).exp()
    cell = float(grid[1] - grid[0]) ** 2
    weight = (first < second).double() + 0.5 * (first == second).double()
    assert float((density * weight).sum()) * cell == pytest.approx(1.0, abs=1e-6)


def test_draws_are_sorted_draws_of_the_base() -> None:
    torch.manual_seed(0)
    triple = Ordered(dist.Normal(0.0, 1.0).expand([3]))
    draws = triple.sample((20_000,))
    assert draws.shape == (20_000, 3)
    assert bool((draws.diff(dim=-1) > 0).all())
    # Means of the order statistics of three standard normals (David and Nagaraja 2003, §3.2).
    expected = torch.tensor([-1.5, 0.0, 1.5]) / math.sqrt(math.pi)
    torch.testing.assert_close(draws.mean(0), expected, atol=0.02, rtol=0)


def test_shapes_and_support() -> None:
    wide = pair().expand((4,))
    assert wide.batch_shape == (4,)
    assert wide.event_shape == (2,)
    assert wide.sample().shape == (4, 2)
    assert wide.log_prob(wide.sample()).shape == (4,)
    x = biject_to(wide.support)(torch.randn(4, 2))
    assert bool(wide.support.check(x).all())


def test_validation_finds_a_vector_out_of_order() -> None:
    checked = Ordered(dist.Normal(0.0, 1.0).expand([2]), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        checked.log_prob(torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("base", [dist.Normal(0.0, 1.0), dist.Normal(0, 1).expand([3]).to_event(1)])
def test_the_base_is_scalar_with_a_length(base: dist.TorchDistribution) -> None:
    with pytest.raises(StoryError, match="last batch dim"):
        Ordered(base)


def test_it_traces_and_maps() -> None:
    points = torch.randn(5, 2).sort(-1).values

    def log_prob(x: torch.Tensor) -> torch.Tensor:
        return pair().log_prob(x)

    traced = make_fx(torch.vmap(torch.func.grad(log_prob)))(points)
    torch.testing.assert_close(traced(points), -points / 4.0)
