"""Piano rolls: every key by itself given the past, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from storyzoo.errors import DataError
from storyzoo.inference.engine.continuation import Sampling
from storyzoo.inference.engine.factors import run_model, site_log_probs
from storyzoo.inference.engine.heldout import averaged_by_step, log_predictive
from storyzoo.inference.engine.simulation import Simulator
from storyzoo.inference.engine.target import make_target
from storyzoo.models.piano_roll import PianoRoll
from tests.models.recurrences import CORES, drawn, keys_by_hand, pieces, tensors

ROLL = {
    "key": (np.random.default_rng(3).random((9, 4)) < 0.4).astype(float),
    "length": np.array([4, 1, 0, 4]),
}


@pytest.mark.parametrize("core", CORES)
def test_marginal_is_that_of_a_loop_by_hand(core: Any) -> None:
    story = PianoRoll(core=core, n_hidden=5)
    target, weights = drawn(story, ROLL)
    with target.context():
        found = story.marginal(tensors(target, weights), target.data).numpy()
    by_hand = [keys_by_hand(core, weights, piece) for piece in pieces(ROLL["key"], ROLL["length"])]
    np.testing.assert_allclose(found, by_hand, rtol=2e-6, atol=2e-5)


def test_steps_and_the_site_of_the_model_give_the_marginal() -> None:
    story = PianoRoll(n_hidden=5)
    target, weights = drawn(story, ROLL)
    latents = tensors(target, weights)
    with target.context(), torch.no_grad():
        trace = run_model(story, target.data, latents, target.structure, enumerate_sites=False)
        by_step = site_log_probs(trace)["key"]
        torch.testing.assert_close(by_step, story.by_step(latents, target.data))
        state = None
        for step in range(4):
            told, inner = story.step(latents, state)
            seen = target.data["key"][step]
            torch.testing.assert_close(told.log_prob(seen), by_step[step])
            state = (inner, seen)


def test_draws_are_averaged_at_each_step() -> None:
    story = PianoRoll(n_hidden=5)
    target, first = drawn(story, ROLL)
    _, second = drawn(story, ROLL, seed=1)
    with target.context(), torch.no_grad():
        told = [story.by_step(tensors(target, w), target.data) for w in (first, second)]
    draws = {name: np.stack([first[name], second[name]]) for name in first}
    by_hand = torch.stack(told).double().exp().mean(0).log().mean()
    found = averaged_by_step(target, draws)
    assert found == pytest.approx(float(by_hand), rel=1e-5)
    whole = log_predictive(target, draws)
    assert found > whole.nats.sum() / len(ROLL["key"])  # where no draw drowns the other


def test_pieces_are_as_long_as_those_at_hand() -> None:
    target, weights = drawn(PianoRoll(n_hidden=5), ROLL)
    simulator = Simulator(target)
    found = simulator.data(tensors(target, weights), np.random.default_rng(0), 30)
    assert set(found["length"].tolist()) <= {4, 1, 0}
    assert found["key"].shape == (int(found["length"].sum()), 4)
    assert set(found["key"].unique().tolist()) <= {0.0, 1.0}


def test_a_low_temperature_takes_the_likelier_side() -> None:
    target, weights = drawn(PianoRoll(n_hidden=5), ROLL)
    cold, rng = Sampling(temperature=1e-3), np.random.default_rng(0)
    latents = tensors(target, weights)
    first = Simulator(target).data(latents, rng, 5, cold)
    told, _ = target.story.step(latents, None)
    begun = first["length"] > 0
    begin = (first["length"].cumsum(0) - first["length"])[begun]
    for keys in first["key"][begin]:
        assert torch.equal(keys, (told.base_dist.logits > 0).float())


def test_a_key_that_is_half_down_is_refused() -> None:
    wrong = ROLL["key"].copy()
    wrong[2, 1] = 0.5
    with pytest.raises(DataError, match="step 3, key 2 is 0.5: a key is 0 or 1"):
        make_target(PianoRoll(), {**ROLL, "key": wrong})
