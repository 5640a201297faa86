"""The benchmark of topics: sides get one corpus, and figures and promises are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.topics import (
    PROGRAMS,
    SIDES,
    Row,
    Run,
    Side,
    as_matrix,
    perplexity,
    shortfalls,
    split,
    story,
    table,
    write_documents,
)
from storyzoo.datasets import load
from storyzoo.inference.engine.target import make_target
from tests.models.corpora import drawn_corpus

KNOWN = drawn_corpus(np.random.default_rng(7), documents=120)


def row(name: str, cpu: float, perplexity: float, npmi: float) -> Row:
    topics = np.eye(3)
    return Row(Side(name, 10), [Run(cpu, 1.0, topics, perplexity, npmi)])


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_side_finds_the_known_topics_better_than_chance(name: str) -> None:
    side = next(side for side in SIDES if side.name == name)
    if side.needs:
        pytest.importorskip(side.needs, reason="a peer: pip install -e '.[test]'")
    found = PROGRAMS[name](KNOWN.arrays, 4, 40, 0)()
    topics = found.reshape(-1, 4, 60)
    np.testing.assert_allclose(topics.sum(-1), 1, rtol=1e-4)
    held = make_target(story(4), KNOWN.arrays)
    even = perplexity(np.full((1, 4, 60), 1 / 60), held)
    assert even == pytest.approx(60)
    best = perplexity(KNOWN.topics[None], held)
    assert perplexity(topics, held) < 0.5 * (best + even)


def test_the_matrix_holds_the_counts() -> None:
    matrix = as_matrix(KNOWN.arrays)
    assert matrix.shape == (120, 60) and matrix.sum() == 120 * 80
    first = KNOWN.arrays["length"][0]
    assert matrix[[0]].indices.tolist() == KNOWN.arrays["word"][:first].tolist()


def test_held_out_news_is_never_fitted(mirror: Path) -> None:
    train, held = split("bbc-news", 20)
    assert len(train["length"]) == 1556 and held.n_examples == 669
    assert train["count"].sum() + int(held.data["count"].sum()) == 267_259


def test_a_promise_is_kept_where_one_method_keeps_all_of_it() -> None:
    peers = [
        row("tomotopy", 10.0, 900.0, 0.2),
        row("tomotopy", 5.0, 905.0, 0.3),  # within a hundredth of the best: the fastest
        row("gensim", 1.0, 1200.0, 0.1),
    ]
    kept = row("storyzoo collapsed", 2.5, 900.0, 0.2)
    slow, worse, dull = (
        row("storyzoo gibbs", 2.6, 890.0, 0.3),
        row("storyzoo svi", 1.0, 900.1, 0.3),
        row("storyzoo gibbs", 1.0, 890.0, 0.19),
    )
    assert shortfalls([kept, slow, *peers]) == []
    assert shortfalls([slow, worse, dull, *peers]) == [
        "storyzoo gibbs, 10 passes: 2.60 CPU s, the fastest peer 5.00",
        "storyzoo svi, 10 passes: perplexity 900.1, a peer's 900.0",
        "storyzoo gibbs, 10 passes: NPMI 0.190, tomotopy 0.200",
    ]
    assert "tomotopy, 10 passes" in table(peers)


def test_synthetic_documents_have_a_hundred_words_each(tmp_path: Path) -> None:
    path = tmp_path / "some.lda-c"
    write_documents(path, 25, n_words=50, different=10)
    found = load(f"{path}:format=lda-c").arrays
    count, length = np.asarray(found["count"]), np.asarray(found["length"])
    assert len(length) == 25
    assert np.add.reduceat(count, length.cumsum() - length).tolist() == [100] * 25
    lines = path.read_text().splitlines()
    assert lines[:5] == lines[20:]
