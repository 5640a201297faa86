"""Recurrent stories of symbols: the chain rule, by hand and by enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import storyzoo as sz
from storyzoo.errors import DataError, SettingError
from storyzoo.inference.engine.continuation import Sampling, sharpened, walk
from storyzoo.inference.engine.factors import run_model, site_log_probs
from storyzoo.inference.engine.target import make_target
from storyzoo.models.kernels import recurrent
from storyzoo.models.sequence import Sequence
from storyzoo.story import Story
from tests.models.recurrences import CORES, WORDS, drawn, pieces, symbols_by_hand, tensors


def tiny(**fields: Any) -> Sequence:
    return Sequence(**{"n_hidden": 4, "n_embedding": 3, **fields})


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("core", CORES)
def test_marginal_is_that_of_a_loop_by_hand(core: Any, layers: int) -> None:
    story = tiny(core=core, n_layers=layers)
    target, weights = drawn(story, WORDS)
    with target.context():
        found = story.marginal(tensors(target, weights), target.data).numpy()
    by_hand = [
        symbols_by_hand(core, layers, weights, piece.tolist(), end=True)
        for piece in pieces(WORDS["token"], WORDS["length"])
    ]
    np.testing.assert_allclose(found, by_hand, rtol=2e-6, atol=2e-5)


def test_sites_of_the_model_add_up_to_the_marginal() -> None:
    target, weights = drawn(tiny(), WORDS)
    latents = tensors(target, weights)
    with target.context():
        trace = run_model(
            target.story, target.data, latents, target.structure, enumerate_sites=False
        )
        found = site_log_probs(trace)
        marginal = target.story.marginal(latents, target.data)
        assert marginal is not None
    total = found["token"].sum() + found["length"].sum()
    torch.testing.assert_close(total, marginal.sum())
    torch.testing.assert_close(found["length"][1], marginal[1])  # it ends at once


def test_a_sequence_that_ends_at_once_can_stand_alone() -> None:
    target, weights = drawn(tiny(end="yes"), WORDS)
    alone = target.rows([1])
    with alone.context():
        nats = alone.story.marginal(tensors(target, weights), alone.data)
    assert nats is not None
    by_hand = symbols_by_hand("lstm", 1, weights, [], end=True)
    assert float(nats) == pytest.approx(by_hand, abs=1e-5)


def walked(story: Story, latents: Any, tokens: list[int]) -> float:
    """Log probability of symbols, END too where it is one of them, by the story's step."""
    state, total = None, 0.0
    for symbol in tokens:
        answer = story.step(latents, state)
        assert answer is not None
        total += float(answer[0].log_prob(torch.tensor(symbol)))
        state = (answer[1], torch.tensor(symbol))
    return total


def test_probabilities_of_all_strings_and_the_tail_sum_to_one() -> None:
    most, story = 5, tiny(core="gru", end="yes")
    strings = [s for size in range(most + 1) for s in itertools.product(range(2), repeat=size)]
    data = {
        "token": np.array([symbol for s in strings for symbol in s]),
        "length": np.array([len(s) for s in strings]),
        "n_tokens": 2,
    }
    target, weights = drawn(story, data)
    latents = tensors(target, weights)
    with target.context(), torch.no_grad():
        whole = story.marginal(latents, target.data).double().exp().sum()
        longer = itertools.product(range(2), repeat=most + 1)
        tail = sum(np.exp(walked(story, latents, list(s))) for s in longer)
    assert 0.05 < tail < 0.95
    assert float(whole) + tail == pytest.approx(1, abs=1e-5)


def test_steps_one_by_one_give_the_marginal() -> None:
    target, weights = drawn(tiny(), WORDS)
    latents = tensors(target, weights)
    with target.context(), torch.no_grad():
        marginal = target.story.marginal(latents, target.data)
        assert marginal is not None
        for piece, nats in zip(pieces(WORDS["token"], WORDS["length"]), marginal, strict=True):
            found = walked(target.story, latents, [*piece.tolist(), 3])
            assert found == pytest.approx(float(nats), abs=1e-5)


def test_sequences_of_one_length_have_no_end() -> None:
    data = {"token": np.array([0, 1, 1, 0]), "length": np.array([2, 2]), "n_tokens": 2}
    target, weights = drawn(tiny(core="rnn"), data)
    assert "length" in target.structure.covariates
    with target.context():
        found = target.story.marginal(tensors(target, weights), target.data)
    assert found is not None
    by_hand = [symbols_by_hand("rnn", 1, weights, s, end=False) for s in ([0, 1], [1, 0])]
    np.testing.assert_allclose(found.numpy(), by_hand, rtol=1e-5)


def test_long_rows_are_cut_into_windows_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    target, weights = drawn(tiny(), WORDS)
    latents = tensors(target, weights)
    with target.context():
        whole = target.story.marginal(latents, target.data)
        monkeypatch.setattr(recurrent, "AT_ONCE", 2)
        cut = target.story.marginal(latents, target.data)
    torch.testing.assert_close(whole, cut)


def test_by_step_is_the_marginal_taken_apart() -> None:
    story = tiny()
    target, weights = drawn(story, WORDS)
    latents = tensors(target, weights)
    with target.context():
        nats = story.by_step(latents, target.data)
        sizes = story.sizes(target.data)
        total = torch.stack([part.sum() for part in nats.split(sizes.tolist())])
        torch.testing.assert_close(total, story.marginal(latents, target.data))
    assert sizes.tolist() == [3, 1, 5, 2]


# -- what it is for ----------------------------------------------------------------------------

SONGS = [[0, 1, 2, 3], [3, 3], [2, 0, 2, 0, 2]]


def memorised(tmp_path: Any = None, **settings: Any) -> sz.Fit:
    rows = SONGS * 8
    data = {
        "token": np.concatenate(rows),
        "length": np.array([len(row) for row in rows]),
        "n_tokens": 4,
    }
    method = sz.MAP(
        **{
            "epochs": 150,
            "batch_size": 24,
            "learning_rate": 0.03,
            "validation": 0.0,
            "curve": 4,
            **settings,
        }
    )
    story = Sequence(n_hidden=12, n_embedding=4, weight_sd=10.0)
    return sz.fit(story, data, method, out=tmp_path, progress=False)


@pytest.fixture(scope="module")
def songs() -> sz.Fit:
    return memorised()


def test_a_memorised_set_is_reproduced(songs: sz.Fit) -> None:
    found = songs.simulate(60, seed=1)
    made = [piece.tolist() for piece in pieces(found["token"], found["length"])]
    share = np.mean([song in SONGS for song in made])
    assert share > 0.9
    assert {tuple(song) for song in made} >= {tuple(song) for song in SONGS}
    # Three songs, equally often: log 3 nats each, and not less.
    assert -songs.log_density().nats.mean() == pytest.approx(np.log(3), abs=0.08)


def test_one_seed_gives_the_same_sequences(songs: sz.Fit) -> None:
    first, again, other = (songs.simulate(20, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first["token"], again["token"])
    assert not np.array_equal(first["token"], other["token"])


def test_a_prefix_is_gone_on_from(songs: sz.Fit) -> None:
    found = songs.simulate(10, sampling=Sampling(prefix=(2, 0), temperature=0.2))
    assert {tuple(s) for s in pieces(found["token"], found["length"])} == {(2, 0, 2, 0, 2)}


def test_top_one_of_symbols_is_always_the_same(songs: sz.Fit) -> None:
    found = songs.simulate(10, sampling=Sampling(top_k=1))
    assert len({tuple(s) for s in pieces(found["token"], found["length"])}) == 1


def _probabilities(told: torch.distributions.Categorical, sampling: Sampling) -> torch.Tensor:
    kept = sharpened(told, sampling)
    assert isinstance(kept, torch.distributions.Categorical)
    probabilities: torch.Tensor = kept.probs[0]
    return probabilities


def test_nucleus_leaves_the_improbable_out() -> None:
    told = torch.distributions.Categorical(probs=torch.tensor([[0.5, 0.15, 0.3, 0.05]]))
    kept = _probabilities(told, Sampling(nucleus=0.7))
    np.testing.assert_allclose(kept.numpy(), [0.625, 0, 0.375, 0], atol=1e-6)
    top = _probabilities(told, Sampling(top_k=2, temperature=0.5))
    np.testing.assert_allclose(top.numpy(), [0.25 / 0.34, 0, 0.09 / 0.34, 0], atol=1e-6)


def test_sequences_are_drawn_as_often_as_they_are_probable() -> None:
    story = tiny(core="rnn", end="yes")
    data = {"token": np.array([0, 1]), "length": np.array([2]), "n_tokens": 2}
    target, weights = drawn(story, data)
    latents = tensors(target, weights)
    with target.context(), torch.no_grad():
        torch.manual_seed(0)
        found = walk(story, latents, torch.full((4000,), 2), 2, Sampling())
        rows = [tuple(p.tolist()) for p in found.values.split(found.length.tolist())]
        for string, tokens in (((), [2]), ((1,), [1, 2]), ((0, 1), [0, 1])):
            share = np.mean([row == string for row in rows])
            p = np.exp(walked(story, latents, tokens))
            assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / 4000)


@pytest.mark.parametrize("core", CORES)
def test_small_networks_are_traced_without_a_word(
    core: Any, recwarn: pytest.WarningsRecorder
) -> None:
    target, weights = drawn(tiny(core=core), WORDS)
    density = target.density()
    density.value_and_gradient(density.flatten(tensors(target, weights)))
    assert density.rung == "torchscript"
    assert not recwarn.list


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"length": np.array([2, 0, 4, 2])}, "add up to 8 steps, but 'token' has 7"),
        ({"n_tokens": 2}, "step 3 is 2: symbols go from 0 to 1"),
        ({"token": np.array([0, 1, 2, -1, 0, 2, 2])}, "missing at step 4"),
        ({"length": np.array([2, -1, 5, 1])}, "whole numbers from 0"),
    ],
)
def test_data_that_are_no_sequences_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        make_target(tiny(), {**WORDS, **change})


@pytest.mark.parametrize(
    "fields", [{"core": "mlp"}, {"n_hidden": 0}, {"weight_sd": 0}, {"dropout": 1}, {"end": "maybe"}]
)
def test_impossible_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(fields))):
        Sequence(**fields)


def test_a_prefix_of_unknown_symbols_is_refused(songs: sz.Fit) -> None:
    with pytest.raises(SettingError, match="prefix: 9 is no symbol"):
        songs.simulate(1, sampling=Sampling(prefix=(9,)))
