"""Improper or only far out: told by how the density falls from where the draws lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
from torch import Tensor
from torch.distributions import constraints

from storyzoo.inference.engine.improper import improper_along
from storyzoo.inference.engine.target import make_target
from storyzoo.models.distributions.flat import Flat
from storyzoo.story import Story


@dataclass(frozen=True)
class One(Story):
    """A single site, with a prior to choose, and data that don't touch it."""

    prior: str = "flat"

    data_dims = {"y": ()}

    def model(self, y: Tensor) -> None:
        priors: dict[str, Any] = {
            "flat": Flat(constraints.real),
            "flat-positive": Flat(constraints.positive),
            "normal": dist.Normal(0.0, 1e9),
            "cauchy": dist.Cauchy(0.0, 1.0),
            "student": dist.StudentT(0.5),
            "half-cauchy": dist.HalfCauchy(1.0),
            "gamma": dist.Gamma(0.01, 0.01),
            "log-normal": dist.LogNormal(0.0, 200.0),
            "three-cauchys": dist.Cauchy(0.0, 1.0).expand([3]).to_event(1),
        }
        pyro.sample("x", priors[self.prior])
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def told(prior: str, *places: float) -> str | None:
    """What is said of draws about a place of the flat vector, spread by a tenth of it."""
    density = make_target(One(prior), {"y": np.array(0.0)}).density()
    spread = 1 + 0.1 * np.random.default_rng(0).standard_normal((100, density.dim))
    return improper_along(density, np.array(places) * spread)


@pytest.mark.parametrize("place", [1e9, -1e9, 1e15, 1e100])
def test_a_flat_real_site_is_improper(place: float) -> None:
    reason = told("flat", place)
    assert reason is not None
    assert reason.startswith("'x' ran off to ")
    assert 0.5 < float(reason.split()[-1]) / place < 1.5


@pytest.mark.parametrize("place", [300.0, 600.0])
def test_a_flat_positive_site_is_improper(place: float) -> None:
    assert "'x' ran off to" in str(told("flat-positive", place))


@pytest.mark.parametrize("place", [10.0, 1e7])
def test_near_draws_are_not_looked_at(place: float) -> None:
    assert told("flat", place) is None


@pytest.mark.parametrize("prior", ["cauchy", "student", "normal"])
@pytest.mark.parametrize("place", [1e9, -1e12, 1e30])
def test_a_real_tail_with_a_finite_integral_is_proper(prior: str, place: float) -> None:
    assert told(prior, place) is None


@pytest.mark.parametrize("prior", ["half-cauchy", "gamma", "log-normal"])
@pytest.mark.parametrize("place", [300.0, -300.0, -600.0])
def test_a_logarithmic_tail_with_a_finite_integral_is_proper(prior: str, place: float) -> None:
    assert told(prior, place) is None


def test_one_entry_of_a_vector_may_be_far_out() -> None:
    assert told("three-cauchys", 1e12, 1.0, -2.0) is None
    assert told("three-cauchys", 1e12, 1e9, -1e10) is None


def test_no_draws_say_nothing() -> None:
    density = make_target(One(), {"y": np.array(0.0)}).density()
    assert improper_along(density, np.empty((0, 1))) is None
