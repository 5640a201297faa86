"""Weights drawn anew for each row: what a draw is, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from storyzoo.models.kernels.perturbed import Row
from storyzoo.models.piano_roll import PianoRoll
from storyzoo.models.sequence import Sequence
from tests.models.recurrences import CORES, WORDS, drawn, tensors

RNG = np.random.default_rng(0)
ROLL: Any = {"key": (RNG.random((9, 3)) < 0.4).astype(float), "length": np.array([4, 5])}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(("story", "data"), [(Sequence, WORDS), (PianoRoll, ROLL)])
def test_without_width_it_is_the_network_itself(
    story: Any, data: Any, core: Any, layers: int
) -> None:
    told = story(core=core, n_hidden=4, n_layers=layers)
    target, weights = drawn(told, data)
    latents = tensors(target, weights)
    narrow = {name: torch.zeros_like(value) for name, value in latents.items()}
    with target.context():
        found = told.unroll(target.data)
        inputs, targets = found.inputs[:8].view(2, 4, -1), found.targets[:8].view(2, 4, -1)
        if story is Sequence:
            inputs, targets = inputs[..., 0], targets[..., 0]
        state: Any = ()
        other: Any = ()
        for window in (slice(0, 3), slice(3, 4)):  # what is carried fits too
            plain, state = found.nats(latents, inputs[:, window], targets[:, window], state)
            moved, other = found.perturbed_nats(
                latents, narrow, inputs[:, window], targets[:, window], other, generator()
            )
            torch.testing.assert_close(moved, plain, rtol=1e-4, atol=1e-4)
        for one, two in zip(state, other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_a_row_has_a_weight_of_its_own_that_it_keeps() -> None:
    mean, width = torch.randn(3, 4, generator=generator(1)), torch.full((3, 4), 0.5)
    row = Row({"w": mean}, {"w": width}, 2, generator(5))
    again = Row({"w": mean}, {"w": width}, 2, generator(5))
    moved = width * again.normal(width)
    out, into = again.signs(3), again.signs(4)
    x = torch.randn(2, 6, 4, generator=generator(2))
    by_hand = torch.stack([x[n] @ (mean + moved * out[n].mT * into[n]).mT for n in range(2)])
    torch.testing.assert_close(row.map("w")(x), by_hand)


def test_draws_have_the_moments_that_are_asked_for() -> None:
    mean = {"w": torch.tensor([[1.0, -2.0]]), "b": torch.tensor([0.5])}
    width = {"w": torch.tensor([[0.3, 0.6]]), "b": torch.tensor([0.2])}
    x, rows = torch.tensor([2.0, -1.0]), 4
    seen = x.expand(rows, 1, 2)
    maps, tables, logits = [], [], []
    random = generator()
    for _ in range(4000):
        row = Row(mean, width, rows, random)
        maps.append(row.map("w")(seen)[:, 0, 0])
        tables.append(row.rows_of("w", torch.zeros(rows, 1, dtype=torch.long))[:, 0, 1])
        logits.append(row.output("w", "b", seen)[:, 0, 0])
    for values, centre, deviation in (
        (maps, 4.0, np.hypot(0.6, 0.6)),
        (tables, -2.0, 0.6),
        (logits, 4.5, np.sqrt(0.72 + 0.04)),
    ):
        drawn_values = torch.stack(values).numpy()
        assert drawn_values.mean() == pytest.approx(centre, abs=0.05)
        np.testing.assert_allclose(drawn_values.std(0), deviation, rtol=0.05)
        correlation = np.corrcoef(drawn_values.T)[np.triu_indices(rows, 1)]
        assert np.abs(correlation).max() < 0.08
