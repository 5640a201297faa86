"""The improper prior in traces, plates and transforms."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch.fx.experimental.proxy_tensor import make_fx

from storyzoo.errors import StoryError
from storyzoo.models.distributions.flat import Flat


def test_density_is_one_everywhere() -> None:
    assert Flat(constraints.positive).log_prob(torch.tensor([0.1, 5.0])).tolist() == [0.0, 0.0]
    assert Flat(constraints.real, (3,)).log_prob(torch.zeros(3)).shape == ()


def test_shapes_and_support() -> None:
    scalar, vector = Flat(constraints.positive), Flat(constraints.real, (3,))
    simplex = Flat(constraints.simplex, (4,))
    assert (scalar.event_dim, vector.event_dim, simplex.event_dim) == (0, 1, 1)
    assert vector.support.event_dim == 1
    assert simplex.support is constraints.simplex
    wide = vector.expand((2, 5))
    assert wide.batch_shape == (2, 5)
    assert wide.event_shape == (3,)
    assert wide.improper
    assert wide.log_prob(torch.zeros(2, 5, 3)).shape == (2, 5)


def test_a_vector_constraint_needs_an_event_shape() -> None:
    with pytest.raises(StoryError, match="event_shape"):
        Flat(constraints.simplex)


def test_nothing_can_be_drawn() -> None:
    with pytest.raises(StoryError, match="an improper prior can't be drawn from"):
        Flat(constraints.real).sample()


def test_a_conditioned_site_works_in_a_plain_trace() -> None:
    def model() -> None:
        scale = pyro.sample("scale", Flat(constraints.positive))
        with pyro.plate("group", 4):
            loc = pyro.sample("loc", Flat(constraints.real, (2,)))
            pyro.sample("y", dist.Normal(loc, scale).to_event(1), obs=torch.zeros(4, 2))

    values = {"scale": torch.tensor(2.0), "loc": torch.ones(4, 2)}
    trace = poutine.trace(poutine.condition(model, data=values)).get_trace()
    expected = dist.Normal(torch.ones(4, 2), 2.0).log_prob(torch.zeros(4, 2)).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)
    prior: Any = trace.nodes["loc"]["fn"]
    assert prior.batch_shape == (4,)
    assert prior.improper


def test_validation_finds_values_outside_the_support() -> None:
    with pytest.raises(ValueError, match="support"):
        Flat(constraints.positive, validate_args=True).log_prob(torch.tensor(-1.0))


def test_it_traces_and_maps() -> None:
    flat = Flat(constraints.real, (3,), validate_args=False)
    points = torch.randn(5, 3)

    def log_prob(x: torch.Tensor) -> torch.Tensor:
        return flat.log_prob(x)

    traced = make_fx(torch.vmap(log_prob))(points)
    assert traced(points).tolist() == [0.0] * 5
