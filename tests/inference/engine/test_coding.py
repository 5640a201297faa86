"""Coding by a story's step: exact both ways, near the scored bits, one way of rounding only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from storyzoo.errors import RefusedError, StoryzooError
from storyzoo.inference.engine.coding import (
    TOTAL,
    Extent,
    OtherSymbolsError,
    decode,
    encode,
    quantised,
)
from storyzoo.story import Story


@dataclass(frozen=True)
class Coin(Story):
    """A chain over two symbols and END: the next depends on the last alone."""

    ragged = {"step": "length"}

    def step(self, latents: Any, state: Any) -> Any:
        before = torch.tensor(2) if state is None else state[1]
        return Categorical(probs=latents["next"][before]), None


@dataclass(frozen=True)
class Keys(Story):
    """Three keys, each down as often as before."""

    def step(self, latents: Any, state: Any) -> Any:
        before = torch.zeros(3) if state is None else state[1]
        return Independent(Bernoulli(logits=latents["odds"] + before), 1), None


@dataclass(frozen=True)
class Height(Story):
    """No symbols at all."""

    def step(self, latents: Any, state: Any) -> Any:
        return Normal(latents["loc"], 1.0), None


def tables(size: int = 1) -> dict[str, np.ndarray]:
    """Draws of the chain's rows: after 0, after 1, at the start; of 0, 1 and END."""
    rng = np.random.default_rng(0)
    return {"next": rng.dirichlet([3.0, 2.0, 0.3], (size, 3))}


def random_sequences(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 2, rng.integers(0, 30)) for _ in range(count)]


def log_probability(table: np.ndarray, sequence: np.ndarray, end: bool = True) -> float:
    """Of a sequence, written by hand: nats."""
    before, total = 2, 0.0
    for symbol in [*sequence.tolist(), *([2] if end else [])]:
        total += float(np.log(table[before, symbol]))
        before = symbol
    return total


def extent(sequences: list[np.ndarray], told: bool = False) -> Extent:
    lengths = [len(sequence) for sequence in sequences]
    return Extent(len(sequences), sum(lengths), lengths if told else None)


@pytest.mark.parametrize("draws", [1, 5])
@pytest.mark.parametrize("count", [1, 63, 64, 200])
def test_sequences_come_back_in_as_many_bits_as_they_score(draws: int, count: int) -> None:
    sequences, latents = random_sequences(count), tables(draws)
    content = encode(Coin(), latents, sequences, 2)
    found = decode(Coin(), latents, content, extent(sequences), 2)
    assert all(np.array_equal(a, b[:, 0]) for a, b in zip(sequences, found, strict=True))
    nats = [[log_probability(t, s) for s in sequences] for t in latents["next"]]
    bits = -np.logaddexp.reduce(nats, 0).sum() / np.log(2) + count * np.log2(draws)
    assert bits - 1 <= 8 * len(content) <= 1.001 * bits + 64


def test_sequences_without_end_come_back_by_their_lengths() -> None:
    sequences, latents = random_sequences(70), tables()
    latents["next"] = latents["next"] * [1, 1, 0]
    content = encode(Coin(), latents, sequences, None)
    found = decode(Coin(), latents, content, extent(sequences, told=True), None)
    assert all(np.array_equal(a, b[:, 0]) for a, b in zip(sequences, found, strict=True))


def test_bits_side_by_side_are_coded_one_by_one() -> None:
    rng = np.random.default_rng(2)
    sequences = [rng.integers(0, 2, (size, 3)) for size in (4, 0, 9)]
    latents = {"odds": rng.normal(size=(3, 3)).astype(np.float32)}
    content = encode(Keys(), latents, sequences, None)
    found = decode(Keys(), latents, content, extent(sequences, told=True), None)
    assert np.array_equal(found[0], sequences[0]) and np.array_equal(found[2], sequences[2])
    assert len(found[1]) == 0


def test_what_was_thought_impossible_can_be_coded() -> None:
    latents = {"next": np.array([[[1.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0]]])}
    sequences = [np.array([1, 1, 0])]
    content = encode(Coin(), latents, sequences, 2)
    (found,) = decode(Coin(), latents, content, extent(sequences), 2)
    assert found[:, 0].tolist() == [1, 1, 0]
    assert len(content) <= 3 * 3 + 8


def test_other_probabilities_are_found_out_or_give_other_symbols() -> None:
    sequences = random_sequences(100)
    content = encode(Coin(), tables(), sequences, 2)
    other = {"next": np.roll(tables()["next"], 1, axis=2)}
    try:
        found = decode(Coin(), other, content, extent(sequences), 2)
    except OtherSymbolsError:
        return
    assert any(not np.array_equal(a, b[:, 0]) for a, b in zip(sequences, found, strict=True))


def test_the_number_of_threads_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        encode(Coin(), tables(), random_sequences(3), 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_frequencies_are_whole_and_none_is_zero() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(50, 0.01), 20)
    found = quantised(shares) * TOTAL
    assert (found == found.round()).all() and (found >= 1).all()
    assert (found.sum(1) == TOTAL).all()
    assert np.abs(found / TOTAL - shares).max() < 51 / TOTAL


def test_what_is_no_choice_among_symbols_is_refused() -> None:
    with pytest.raises(RefusedError, match="its step is no choice among symbols"):
        encode(Height(), {"loc": np.zeros((1,))}, [np.zeros(3)], None)


def test_probabilities_that_are_none_are_one_line() -> None:
    broken: dict[str, np.ndarray] = {"odds": np.full((1, 3), np.nan, np.float32)}
    with pytest.raises(StoryzooError, match="foretells no probabilities"):
        encode(Keys(), broken, [np.zeros((2, 3))], None)


def test_a_tensor_of_the_step_is_not_changed() -> None:
    table: Tensor = torch.as_tensor(tables()["next"][0])
    before = table.clone()
    encode(Coin(), {"next": table[None].numpy()}, random_sequences(2), 2)
    assert torch.equal(table, before)
