"""Simulating chains: those that forget their start pass, those that stand do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from storyzoo.inference.engine.mixing import Mixing, mixing
from storyzoo.inference.engine.target import make_target
from storyzoo.models.rbm import RestrictedBoltzmann
from tests.ising import Spins, spins

LATENTS = {"bias": torch.tensor(0.3).double(), "coupling": torch.tensor(1.0).double()}


def diagnosed(sticky: float | None) -> Mixing | None:
    """The chains of spins that stay where they are with some chance."""
    target = make_target(Spins(sticky=sticky), spins())
    return mixing(target, LATENTS, np.random.default_rng(0))


def test_independent_draws_mix() -> None:
    found = diagnosed(0.0)
    assert found is not None and found.mixed
    assert (found.chains, found.draws, found.statistic) == (4, 200, "agreement")
    assert found.r_hat < 1.02 and found.ess > 500
    assert str(found).startswith("simulated by 4 Markov chains: R-hat ")
    assert "not mixed" not in str(found)


@pytest.mark.parametrize("sticky", [0.995, 1.0])
def test_chains_that_stand_do_not_mix(sticky: float) -> None:
    found = diagnosed(sticky)
    assert found is not None and not found.mixed
    assert found.ess < 50
    assert "they have not mixed" in str(found)


def test_a_story_without_chains_needs_none() -> None:
    assert diagnosed(None) is None


def machine(units: int, sd: float) -> Mixing | None:
    """The chains of a restricted Boltzmann machine with as many pixels as hidden units."""
    rng = np.random.default_rng(0)
    story = RestrictedBoltzmann(n_hidden=units, likelihood="auto")
    target = make_target(story, {"v": rng.integers(0, 2, (5, units)).astype(float)})
    latents = {
        "weight": torch.as_tensor(sd * rng.normal(size=(units, units))),
        "visible_bias": torch.zeros(units).double(),
        "hidden_bias": torch.zeros(units).double(),
    }
    return mixing(target, latents, rng)


def test_tempered_chains_of_a_machine_are_followed_where_it_is_not_sampled_exactly() -> None:
    found = machine(30, 0.1)
    assert found is not None and found.mixed and found.statistic == "free energy"
    assert found.ess > 0.3 * found.chains * found.draws
    assert machine(8, 0.1) is None


def test_a_machine_of_huge_weights_does_not_mix() -> None:
    found = machine(30, 60.0)
    assert found is not None and not found.mixed
