"""What a report tells of topics: the numbers by their formulas, the drawings for any size."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon, pdist, squareform

from storyzoo.inference.engine.method import Kind
from storyzoo.inference.engine.target import make_target
from storyzoo.models.kernels import topic_measures
from storyzoo.models.lda import LatentDirichletAllocation
from storyzoo.reports.diagnostics import diagnose, furthest_apart
from storyzoo.reports.figures import Figure, own_figures
from storyzoo.reports.figures.lda import NAMED, TOPICS
from storyzoo.reports.figures.marks import Bar, bars, heat_map
from storyzoo.reports.figures.svg import PALETTE
from storyzoo.reports.figures.topics import (
    SHARED,
    agreement,
    best_matches,
    corpus_of,
    cosines,
    divergences,
    relevance,
    scaled,
    shares_of,
    telling_words,
)
from storyzoo.reports.page import fit_page
from tests.reports.pages import HOSTILE, PageFit, make_fit, schools_fit

SHAPES: dict[Kind, tuple[int, int]] = {"point": (1, 1), "approximation": (1, 30), "draws": (3, 20)}


def topics_fit(
    kind: Kind = "draws",
    *,
    topics: int = 3,
    documents: int = 30,
    words: int = 40,
    names: Sequence[str] | None = None,
    mixtures: bool = True,
    alike: bool = True,
    seed: int = 0,
    **more: Any,
) -> PageFit:
    """Documents of one topic each, told by their own share of the words; ``alike`` chains agree.

    Topic k has the words v with ``v % topics == k``, document d is of topic ``d % topics``.
    """
    rng = np.random.default_rng(seed)
    length = np.full(documents, min(8, words // topics))
    word = np.concatenate(
        [np.arange(n) * topics + d % topics for d, n in enumerate(length.tolist())]
    )
    data = {"length": length, "word": word, "count": np.arange(len(word)) % 4 + 1, "n_words": words}
    own = list(names) if names else [f"w{v}" for v in range(words)]
    coords = {"word": own, "document": [f"text {d}" for d in range(documents)]}
    target = make_target(LatentDirichletAllocation(topics), data, coords=coords)
    shape = SHAPES[kind]
    place = np.full((topics, words), 0.02) + (
        np.arange(words) % topics == np.arange(topics)[:, None]
    )
    table = rng.gamma(200.0 * place[None, None], size=(*shape, topics, words))
    if not alike:
        for chain in table[1:]:
            chain[:] = chain[:, :, rng.permutation(words)]
    share = np.full((documents, topics), 0.01)
    share[np.arange(documents), np.arange(documents) % topics] = 1.0
    mixture = rng.gamma(100 * share[None, None], size=(*shape, documents, topics))
    draws = {"topics": table / table.sum(-1, keepdims=True)}
    if mixtures:
        draws["mixture"] = mixture / mixture.sum(-1, keepdims=True)
    stats = {"lp": rng.normal(-1e4, 3, shape)} if kind == "draws" else None
    return make_fit(target, kind, draws, stats=stats, **more)


def named(figures: Sequence[Figure], name: str) -> Figure:
    """The figure of a name."""
    return next(figure for figure in figures if figure.name == name)


def words_in(svg: str) -> list[str]:
    """Every text of a drawing, as it is read."""
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("text")]


# -- formulas ----------------------------------------------------------------------------------


def test_relevance_is_that_of_sievert_and_shirley() -> None:
    topics, shares = np.array([[0.5, 0.3, 0.2]]), np.array([0.6, 0.1, 0.0])
    found = relevance(topics, shares, 0.6)
    expected = 0.6 * np.log(0.3) + 0.4 * np.log(0.3 / 0.1)
    assert found[0, 1] == pytest.approx(expected, rel=1e-12)
    assert found[0, 1] > found[0, 0]  # likelier in the topic, but common everywhere
    assert found[0, 2] == -np.inf


def test_divergences_are_the_squares_of_scipys_distances() -> None:
    topics = np.random.default_rng(0).dirichlet(np.full(30, 0.1), 6)
    topics[5, 3:] = 0
    topics[5] /= topics[5].sum()
    expected = [[jensenshannon(one, other, base=2) ** 2 for other in topics] for one in topics]
    np.testing.assert_allclose(divergences(topics), expected, atol=1e-12)


def test_classical_scaling_finds_places_in_a_plane_again() -> None:
    places = np.random.default_rng(1).normal(size=(9, 2))
    squared = squareform(pdist(places)) ** 2
    found, shown = scaled(squared)
    np.testing.assert_allclose(squareform(pdist(found)) ** 2, squared, atol=1e-10)
    assert shown == pytest.approx(1.0)


def test_two_topics_lie_on_a_line() -> None:
    found, shown = scaled(np.array([[0.0, 0.25], [0.25, 0.0]]))
    assert abs(found[0, 0] - found[1, 0]) == pytest.approx(0.5)
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-8)
    assert shown == pytest.approx(1.0)


def test_topics_in_another_order_are_matched() -> None:
    rng = np.random.default_rng(3)
    first = rng.dirichlet(np.full(50, 0.05), 5)
    order = rng.permutation(5)
    np.testing.assert_array_equal(order[best_matches(cosines(first, first[order]))], np.arange(5))
    np.testing.assert_allclose(agreement(np.stack([first, first[order], first[::-1]])), 1.0)


def test_topics_without_a_partner_are_named() -> None:
    common = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.3]])
    np.testing.assert_array_equal(best_matches(common), [1, 0, -1])


def test_agreement_is_that_of_the_score() -> None:
    chains = np.random.default_rng(4).dirichlet(np.full(20, 0.1), (4, 6))
    found = agreement(chains)
    pairs = found[:, *np.triu_indices(4, 1)]
    expected = topic_measures.agreement(list(chains), threshold=0.6)
    assert topic_measures.SHARED == SHARED
    assert pairs.mean() == pytest.approx(expected.likeness)
    assert (pairs >= 0.6).mean() == pytest.approx(expected.shared)
    for a, b in ((0, 1), (2, 3)):  # the same matches, seen from either side
        np.testing.assert_allclose(np.sort(found[:, a, b]), np.sort(found[:, b, a]))


def test_sizes_count_every_word_of_every_document() -> None:
    corpus = corpus_of(np.array([2, 1]), np.array([0, 2, 1]), np.array([3, 1, 6]))
    np.testing.assert_allclose(corpus.sizes(), [4, 6])
    np.testing.assert_allclose(corpus.word_shares(4), [0.3, 0.6, 0.1, 0])
    found = shares_of(np.array([[0.5, 0.5], [1.0, 0.0]]), corpus.sizes())
    np.testing.assert_allclose(found, [0.8, 0.2])


def test_telling_words_speak_for_the_topic() -> None:
    corpus = corpus_of(np.array([1, 3]), np.array([0, 0, 1, 2]), np.array([9, 9, 1, 2]))
    shares = np.array([0.8, 0.1, 0.1])
    found = telling_words(corpus, 1, np.array([0.2, 0.4, 0.4]), shares)
    np.testing.assert_array_equal(found, [2, 1])


# -- figures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHAPES)
def test_each_topic_tells_its_words_and_its_documents(kind: Kind) -> None:
    figures = own_figures(topics_fit(kind))
    cards = named(figures, "topics").panels
    assert len(cards) == 3
    for card in cards:
        topic = int(re.findall(r"\d+", card.title)[0])
        found = [int(word[1:]) for word in words_in(card.svg) if re.fullmatch(r"w\d+", word)]
        assert len(found) == 10
        assert {v % 3 for v in found[:8]} == {topic}
        assert len(card.items) == 3
        for line in card.items:
            document = re.search(r"text (\d+)", line)
            assert document is not None
            assert int(document[1]) % 3 == topic


def test_only_draws_have_intervals() -> None:
    for kind, some in (("point", False), ("approximation", True), ("draws", True)):
        figure = named(own_figures(topics_fit(kind)), "topics")  # type: ignore[arg-type]
        assert any("interval" in key.label for key in figure.keys) == some
        assert ("stroke:var(--ink)" in figure.panels[0].svg) == some


def test_chains_that_agree_share_all_topics_and_others_do_not() -> None:
    alike = named(own_figures(topics_fit()), "agreement")
    assert alike.caption.startswith("Two chains share 3.0 of 3 topics")
    apart = named(own_figures(topics_fit(alike=False, words=300)), "agreement")
    assert apart.caption.startswith("Two chains share 0.0 of 3 topics")
    assert "agreement" not in [f.name for f in own_figures(topics_fit("point"))]


def test_known_classes_stand_beside_the_topics_that_they_are_of() -> None:
    labels = [f"class {'abc'[d % 3]}" for d in range(30)]
    figure = named(own_figures(topics_fit(labels=labels)), "classes")
    texts = words_in(figure.panels[0].svg)
    assert {"class a", "class b", "class c"} < set(texts)
    assert sorted(int(text) for text in texts if text.isdigit() and int(text) > 50)[0] > 90
    for single in (["one"] * 30, None, ["too", "few"]):
        assert "classes" not in [f.name for f in own_figures(topics_fit(labels=single))]


def test_many_classes_are_cut_to_the_largest() -> None:
    labels = [f"class {d if d < 20 else 0}" for d in range(30)]
    figure = named(own_figures(topics_fit(labels=labels)), "classes")
    assert "12 classes with the most documents, of 20" in figure.caption


def test_without_mixtures_documents_are_folded_in() -> None:
    kept, folded = topics_fit("point"), topics_fit("point", mixtures=False)
    figures = own_figures(folded)
    assert "estimated given the mean topics" in named(figures, "topics").caption
    for card, other in zip(
        named(figures, "topics").panels, named(own_figures(kept), "topics").panels, strict=True
    ):
        size, same = (float(re.findall(r"[\d.]+(?= %)", c.title)[0]) for c in (card, other))
        assert size == pytest.approx(same, abs=3)


def test_a_stream_says_what_of_it_is_looked_at() -> None:
    told = {"data": {"streamed": True, "rows": 12_000}}
    figures = own_figures(topics_fit("point", mixtures=False, description=told))
    caption = named(figures, "topics").caption.replace("\u202f", " ")
    assert "Of 12 000 documents in the stream the first 30 are looked at here." in caption


@pytest.mark.parametrize("topics", [2, 7, NAMED + 1, TOPICS, TOPICS + 3])
def test_any_number_of_topics_is_drawn_small(topics: int) -> None:
    fit = topics_fit(
        "point", topics=topics, documents=2500, words=4 * topics, labels=["a", "b"] * 1250
    )
    begun = time.process_time()
    figures = own_figures(fit)
    assert time.process_time() - begun < 15
    assert {"topics", "sizes", "map", "classes"} == {figure.name for figure in figures}
    assert len(named(figures, "topics").panels) == min(topics, TOPICS)
    assert sum(len(panel.svg) for figure in figures for panel in figure.panels) < 800_000
    for panel in (panel for figure in figures for panel in figure.panels):
        root = ElementTree.fromstring(panel.svg)
        assert "nan" not in panel.svg
        assert set(re.findall(r"var\(--(\w+)\)", panel.svg)) <= set(PALETTE)
        assert root.get("role") == "img"


def test_hostile_words_and_labels_are_read_as_text() -> None:
    names = [*HOSTILE, *(f"w{v}" for v in range(35))]
    fit = topics_fit(names=names, labels=[HOSTILE[d % 2] for d in range(30)])
    fit.data_name = HOSTILE[0]
    page = fit_page(fit)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_topics_of_two_fits_are_held_against_each_other() -> None:
    reference, other = topics_fit(seed=1), topics_fit("point", seed=2)
    figure = own_figures(other, reference)[0]
    assert figure.panels[0].items == ("3 of 3 topics of the reference are shared.",)
    fewer = own_figures(topics_fit("point", topics=2, seed=2), reference)[0]
    assert "of 3 topics" in fewer.panels[0].items[0]
    assert own_figures(topics_fit(words=41), reference) == []
    assert own_figures(other, schools_fit()) == []


def test_marks_take_nothing_and_nan() -> None:
    assert "nan" not in bars([Bar("a", 0.0, "")], "none").svg
    svg = heat_map(np.array([[0.5, np.nan], [0.0, 1.0]]), ["a", "b"], ["c", "d"], "some").svg
    assert [text for text in words_in(svg) if text.isdigit()] == ["50", "100"]


# -- the page ----------------------------------------------------------------------------------


def test_a_page_tells_the_worst_numbers_of_a_site_that_is_too_large() -> None:
    fit = topics_fit(documents=400, words=600, topics=4)
    topics = fit.tree["posterior"].to_dataset()["topics"].values
    topics[1, :, 2, 77] += 0.1
    page = fit_page(fit)
    first = re.findall(r'<tr><th scope="row"[^>]*>([^<]*)</th>', page)[0]
    assert first == "topics[2, w77]"
    assert "whose chains lie furthest apart" in page
    assert "Log joint density" in page
    assert len(page.encode()) < 1_000_000


def test_a_point_with_too_many_numbers_has_no_empty_table() -> None:
    page = fit_page(topics_fit("point", documents=400, words=600, topics=4))
    assert "Too many to summarise: topics, mixture" in page
    assert '<table class="parameters">' not in page
    assert "could not be traced" not in page


def test_elements_furthest_apart_are_those_of_the_highest_r_hat() -> None:
    fit = topics_fit(words=60)
    posterior = fit.tree["posterior"].to_dataset()
    values = posterior["topics"].values
    values[2, :, 1, [4, 9, 30]] += 0.5
    found = set(furthest_apart(posterior["topics"], 3))
    every = diagnose(posterior[["topics"]])
    assert found == {every.names[i] for i in np.argsort(-every.r_hat)[:3]}
