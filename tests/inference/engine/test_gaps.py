"""Gaps in sequences: draws against the posterior by enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import storyzoo as sz
from storyzoo.inference.engine.gaps import fill
from storyzoo.inference.engine.target import make_target
from storyzoo.models.ngram import NGram
from storyzoo.models.sequence import Sequence
from storyzoo.story import Story
from tests.models.recurrences import drawn, tensors

HOLES = np.array([1, -1, 2, -1, -1, 0])
STORIES: list[Story] = [
    NGram(order=2, end="yes"),
    NGram(order=3, end="no"),
    Sequence(n_hidden=4, n_embedding=3, end="yes"),
    Sequence(core="gru", n_hidden=4, n_embedding=3, end="no"),
]


def latents_of(story: Story, data: Any) -> Any:
    if isinstance(story, Sequence):
        target, weights = drawn(story, {**data, "token": np.abs(data["token"])}, size=1.0)
        return tensors(target, weights)
    shape = make_target(story, {**data, "token": np.abs(data["token"])}).structure.sites["next"]
    table = np.random.default_rng(2).dirichlet(np.full(shape.shape[1], 0.4), shape.shape[0])
    return {"next": torch.as_tensor(table)}


@pytest.mark.parametrize("story", STORIES, ids=lambda s: f"{s.name}-{s.end}")
def test_fillings_come_as_often_as_the_posterior_says(story: Any) -> None:
    data = {"token": HOLES, "length": np.array([6]), "n_tokens": 3}
    latents = latents_of(story, data)
    places = np.flatnonzero(HOLES == -1)
    every = np.array(list(itertools.product(range(3), repeat=len(places))))
    rows = np.repeat(HOLES[None], len(every), 0)
    rows[:, places] = every
    whole = make_target(
        story,
        {"token": rows.ravel(), "length": np.full(len(rows), 6), "n_tokens": 3},
    )
    with whole.context(), torch.no_grad():
        nats = story.marginal(latents, whole.data).double()
        posterior = (nats - nats.logsumexp(0)).exp().numpy()
    target = make_target(story, data, to_fit=False)
    rng, count = np.random.default_rng(0), 400
    found = np.zeros(len(every))
    for _ in range(count):
        filled = fill(target, latents, rng)["token"].numpy()
        assert (filled[HOLES != -1] == HOLES[HOLES != -1]).all()
        found[np.flatnonzero((every == filled[places]).all(1))[0]] += 1
    error = np.sqrt(posterior * (1 - posterior) / count)
    assert (np.abs(found / count - posterior) < 4.5 * error + 0.01).all()


def test_a_fit_fills_in_the_likeliest_symbol() -> None:
    rows = [[0, 1, 2, 3]] * 30 + [[3, 1, 0, 0]] * 20
    data = {"token": np.concatenate(rows), "length": np.full(50, 4), "n_tokens": 4}
    fit = sz.fit(NGram(order=2, concentration=0.01), data, sz.MAP(restarts=1), progress=False)
    holes = {
        "token": np.array([-1, 1, 2, -1, 3, 1, -1, 0]), "length": np.array([4, 4]), "n_tokens": 4,
    }  # fmt: skip
    found = fit.impute(holes, draws=20)
    assert found.mean["token"].tolist() == [0, 1, 2, 3, 3, 1, 0, 0]
    assert found.sd["token"][1] == 0


def test_a_gap_is_none_of_what_can_not_stand_there() -> None:
    story = NGram(order=2, end="yes")
    data = {"token": HOLES, "length": np.array([6]), "n_tokens": 3}
    target = make_target(story, data, to_fit=False)
    latents = latents_of(story, data)
    rng = np.random.default_rng(0)
    for _ in range(20):
        filled = fill(target, latents, rng, particles=20, never=[0])["token"].numpy()
        assert (filled[HOLES == -1] > 0).all()
