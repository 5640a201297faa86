"""Particles that read documents, against every assignment of topics to a document's words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from storyzoo.models.kernels.left_to_right import left_to_right
from tests.models.corpora import TINY, drawn_corpus, every_z, log_polya, tokens

DOCUMENTS: dict[str, Any] = {
    "length": np.array([3, 1, 4, 1]),
    "word": np.array([0, 2, 3, 1, 0, 1, 2, 3, 2]),
    "count": np.array([3, 2, 2, 6, 2, 2, 2, 1, 1]),
    "n_words": 4,
}
"""Documents of seven, six, seven and one words."""
ALPHA = np.array([0.3, 0.8])


def tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    return {
        name: torch.as_tensor(value) if name != "n_words" else value
        for name, value in arrays.items()
    }


def exact(arrays: dict[str, Any], topics: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """``log p(w_d | topics)`` through every z, nats."""
    document, word = tokens(arrays)
    found = []
    for d in range(len(arrays["length"])):
        own = word[document == d]
        terms = [
            log_polya(np.bincount(z, minlength=len(alpha)), alpha) + np.log(topics[z, own]).sum()
            for z in every_z(len(own), len(alpha))
        ]
        found.append(np.logaddexp.reduce(terms))
    return np.array(found)


def test_documents_have_the_probability_of_every_z() -> None:
    topics = np.random.default_rng(2).dirichlet(np.full(4, 0.4), 2)
    found = left_to_right(
        torch.as_tensor(topics),
        torch.as_tensor(ALPHA),
        tensors(DOCUMENTS),
        np.random.default_rng(0),
        filters=400,
        particles=5,
    )
    assert found.size.tolist() == [7, 6, 7, 1]
    known = exact(DOCUMENTS, topics, ALPHA)
    se = found.se.numpy()
    assert se[3] < 1e-12 and found.nats[3] == pytest.approx(known[3])  # one word leaves no chance
    assert ((se[:3] > 0) & (se[:3] < 0.02)).all()
    assert (np.abs(found.nats.numpy()[:3] - known[:3]) < 4 * se[:3]).all()


def test_few_particles_are_as_unbiased_and_their_error_is_told() -> None:
    """Runs with two particles scatter by what their errors say, around the exact probability."""
    topics = torch.as_tensor(np.random.default_rng(2).dirichlet(np.full(4, 0.4), 2))
    runs = [
        left_to_right(
            topics,
            torch.as_tensor(ALPHA),
            tensors(DOCUMENTS),
            np.random.default_rng(seed),
            filters=20,
            particles=2,
        )
        for seed in range(60)
    ]
    known = exact(DOCUMENTS, topics.numpy(), ALPHA)[:3]
    ratio = np.stack([run.nats.numpy()[:3] - known for run in runs])
    told = np.sqrt(np.square(np.stack([run.se.numpy()[:3] for run in runs])).mean(0))
    assert ratio.std(0) == pytest.approx(told, rel=0.35)
    mean = np.exp(ratio).mean(0) - 1
    assert (np.abs(mean) < 4 * np.exp(ratio).std(0) / np.sqrt(60)).all()


def test_topics_that_are_alike_leave_nothing_to_chance() -> None:
    topics = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    found = left_to_right(
        topics, torch.full((3,), 0.5).double(), tensors(TINY), np.random.default_rng(0)
    )
    assert found.nats.tolist() == pytest.approx((-np.log(3) * np.array([3, 2, 2])).tolist())
    assert float(found.se.max()) < 1e-12


def test_the_seed_settles_the_answer_and_the_documents_read() -> None:
    known = drawn_corpus(np.random.default_rng(1), documents=30, size=20)
    topics, alpha = torch.as_tensor(known.topics), torch.full((4,), 0.2).double()
    one, same, other = (
        left_to_right(
            topics, alpha, tensors(known.arrays), np.random.default_rng(seed), most_words=205
        )
        for seed in (0, 0, 1)
    )
    assert torch.equal(one.nats, same.nats) and not torch.equal(one.nats, other.nats)
    assert int((one.size > 0).sum()) == 10 and int(one.size.sum()) == 200
    assert (one.nats[one.size == 0] == 0).all()
    longer = left_to_right(
        topics, alpha, tensors(known.arrays), np.random.default_rng(0), most_words=1
    )
    assert int((longer.size > 0).sum()) == 1  # one at least, however long
