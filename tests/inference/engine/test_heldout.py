"""Log predictive densities against closed forms, and their Monte Carlo errors against repeats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from storyzoo.inference.engine import heldout
from storyzoo.inference.engine.heldout import log_predictive
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.story import Story

Y = np.array([-1.0, 0.2, 3.0])


@dataclass(frozen=True)
class Mean(Story):
    """Values around an unknown mean."""

    data_dims = {"y": ("point",)}
    examples = "point"

    def model(self, y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("point", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@dataclass(frozen=True)
class Effects(Story):
    """Each point has an effect of its own, drawn around a common mean."""

    data_dims = {"y": ("point", "time")}
    examples = "point"
    mixed: bool = False

    def model(self, y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("point", len(y)):
            if self.mixed:
                side = pyro.sample(
                    "side", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": "parallel"}
                )
                mu = mu + 4.0 * side
            effect = pyro.sample("effect", dist.Normal(mu, 2.0))
            noise = dist.Normal(effect.unsqueeze(-1), 1.0).expand([len(y), y.shape[-1]])
            pyro.sample("y", noise.to_event(1), obs=y)


def mean_target() -> Target:
    """Three values to be foretold."""
    return make_target(Mean(), {"y": Y})


def exact_effects(y: np.ndarray, mu: float) -> np.ndarray:
    """Log density of rows whose mean is drawn from N(mu, 2) and whose noise has sd 1."""
    size = y.shape[1]
    covariance = np.eye(size) + 4.0 * np.ones((size, size))
    gaps = y - mu
    inside = np.einsum("ni,ij,nj->n", gaps, np.linalg.inv(covariance), gaps)
    volume = float(np.linalg.slogdet(2 * np.pi * covariance)[1])
    return np.asarray(-0.5 * (inside + volume))


def test_average_over_the_posterior_is_inside_the_logarithm() -> None:
    draws = {"mu": np.random.default_rng(0).normal(0.5, 2.0, 20_000)}
    found = log_predictive(mean_target(), draws)
    exact = norm.logpdf(Y, 0.5, np.sqrt(5.0))
    assert found.nats.shape == found.se.shape == (3,)
    assert (np.abs(found.nats - exact) < 4 * found.se).all()
    assert (found.se < 0.02).all()


def test_a_point_is_plugged_in() -> None:
    found = log_predictive(mean_target(), {"mu": np.array([0.5])})
    np.testing.assert_allclose(found.nats, norm.logpdf(Y, 0.5))
    assert (found.se == 0).all() and found.mean_se == 0


def test_errors_are_those_of_repeats() -> None:
    runs = [
        log_predictive(mean_target(), {"mu": np.random.default_rng(seed).normal(0, 1, 400)})
        for seed in range(30)
    ]
    spread = np.std([run.nats for run in runs], axis=0)
    said = np.mean([run.se for run in runs], axis=0)
    assert (said > 0.6 * spread).all() and (said < 1.6 * spread).all()
    spread_of_mean = np.std([run.nats.mean() for run in runs])
    said_of_mean = np.mean([run.mean_se for run in runs])
    assert 0.6 * spread_of_mean < said_of_mean < 1.6 * spread_of_mean


def test_draws_that_are_alike_have_a_larger_error() -> None:
    rng = np.random.default_rng(0)
    alike = rng.normal(size=2000)
    for t in range(1, 2000):
        alike[t] = 0.98 * alike[t - 1] + np.sqrt(1 - 0.98**2) * alike[t]
    apart = rng.permutation(alike)
    target = mean_target()
    errors = [log_predictive(target, {"mu": mu}).mean_se for mu in (alike, apart)]
    assert errors[0] > 3 * errors[1]


def test_many_examples_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = {"mu": np.random.default_rng(0).normal(0.5, 2.0, 501)}
    whole = log_predictive(mean_target(), draws)
    monkeypatch.setattr(heldout, "AT_ONCE", 21)  # seven draws at a time
    pieces = log_predictive(mean_target(), draws)
    np.testing.assert_allclose(pieces.nats, whole.nats)
    np.testing.assert_allclose(pieces.se, whole.se)


def test_effects_of_new_examples_are_drawn_anew() -> None:
    y = np.array([[-1.0, 0.0], [3.0, 4.5]])
    target = make_target(Effects(), {"y": y})
    # The effects of the five examples fitted, far away, must not be read.
    fitted = {"mu": np.array([1.0]), "effect": np.full((1, 5), 99.0)}
    found = log_predictive(target, fitted)
    exact = exact_effects(y, 1.0)
    assert (found.se > 0).all() and (found.se < 0.2).all()
    assert (np.abs(found.nats - exact) < 4 * found.se).all()
    again = log_predictive(target, fitted)
    np.testing.assert_array_equal(found.nats, again.nats)
    other = log_predictive(target, fitted, seed=1)
    assert not np.array_equal(found.nats, other.nats)


def test_effects_over_draws_and_labels() -> None:
    y = np.array([[-1.0, 0.0], [5.0, 5.5]])
    target = make_target(Effects(mixed=True), {"y": y})
    mu = np.random.default_rng(1).normal(1.0, 0.1, 500)
    found = log_predictive(target, {"mu": mu, "effect": np.zeros((500, 2))})
    exact = np.logaddexp(exact_effects(y, 1.0), exact_effects(y, 5.0)) - np.log(2)
    assert (np.abs(found.nats - exact) < 4 * found.se + 0.05).all()


def test_what_is_missing_does_not_count() -> None:
    target = make_target(Mean(), {"y": np.array([np.nan, 0.2])})
    found = log_predictive(target, {"mu": np.array([0.5])})
    np.testing.assert_allclose(found.nats, [0.0, norm.logpdf(0.2, 0.5)])
    y = np.array([[-1.0, np.nan], [3.0, 4.5]])
    nested = log_predictive(make_target(Effects(), {"y": y}), {"mu": np.array([1.0])})
    alone = norm.logpdf(-1.0, 1.0, np.sqrt(5.0))
    assert abs(nested.nats[0] - alone) < 4 * nested.se[0]


def test_the_global_random_state_is_left_alone() -> None:
    target = make_target(Effects(), {"y": np.zeros((2, 2))})
    torch.manual_seed(7)
    before = torch.get_rng_state()
    log_predictive(target, {"mu": np.array([1.0])})
    assert torch.equal(before, torch.get_rng_state())
