"""Figures of sequences: text is escaped, graphs are drawn, what was foretold is counted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest

import storyzoo as sz
from storyzoo.datasets.codecs import Characters
from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.graphs import as_sequences
from storyzoo.datasets.raster import as_raster
from storyzoo.inference.engine.foretelling import foretold
from storyzoo.models.ngram import NGram
from storyzoo.models.piano_roll import PianoRoll
from storyzoo.models.sequence import Sequence
from storyzoo.reports import templates
from storyzoo.reports.figures import Figure, own_figures
from storyzoo.reports.figures.node_link import node_link
from storyzoo.reports.figures.passages import SHADES, Piece, level_of, passages, shaded, shown
from storyzoo.reports.figures.sequence import compression, evenly, pieces_of
from storyzoo.reports.figures.svg import PALETTE
from storyzoo.reports.graph_statistics import discrepancies, random_likes
from storyzoo.reports.numbers import rounded
from tests.inference.engine.test_coding import Coin, log_probability, tables
from tests.reports.test_figures import contrast

TEXT = "the <b>cat</b> & the hat\nsat\n" * 20


def fitted(data: Any, story: sz.Story, holdout: float = 0.0) -> sz.Fit:
    method = sz.Gibbs(draws=4, warmup=0, chains=2)
    return sz.fit(story, data, method, holdout=holdout, progress=False)


def drawn(fit: sz.Fit) -> dict[str, Figure]:
    return {figure.name: figure for figure in own_figures(fit)}


def text_fit(folder: Path) -> sz.Fit:
    """A fit to the characters of a text that looks like a page."""
    (folder / "old.txt").write_text(TEXT)
    return fitted(sz.load(f"{folder}/old.txt:codec=characters,by=line"), NGram(), 0.25)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> sz.Fit:
    return text_fit(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def network() -> sz.Fit:
    """A network fitted to images of four pixels, a part held out."""
    pixels = pd.DataFrame(np.random.default_rng(0).integers(0, 3, (40, 4))).add_prefix("p")
    data = as_raster(Dataset("images", pixels), 0)
    return sz.fit(Sequence(n_hidden=5), data, sz.MAP(epochs=1), holdout=0.25, progress=False)


def test_the_weights_of_a_network_are_told_by_layer(network: sz.Fit) -> None:
    page = network.report()
    weight = network.tree["posterior"]["output_weight"]
    assert "3 × 5" in page and rounded(float(weight.std())) in page
    assert "output_weight[0, 0]" not in page and "Deferred" not in page


def test_held_out_images_are_scored_by_pixel(network: sz.Fit) -> None:
    metrics = network.summary["metrics"]
    nats = -metrics["heldout_log_likelihood_nats_per_example"] / 4
    assert metrics["heldout_bits_per_dim"] == pytest.approx(nats / np.log(2))


def test_text_stands_beside_text_and_is_escaped(text: sz.Fit) -> None:
    found = drawn(text)
    assert list(found) == ["samples", "surprise", "calibration", "compression"]
    data = found["samples"].panels[0].svg
    assert "&lt;b&gt;cat&lt;/b&gt; &amp; the hat" in data and "<b>" not in data
    assert "<b>" not in found["surprise"].panels[0].svg
    page = text.report()
    assert '<div class="passage"' in page and "<b>cat" not in page


def test_held_out_text_is_told_beside_other_programs(text: sz.Fit) -> None:
    metrics = text.summary["metrics"]
    assert text.heldout is not None
    bits = -text.heldout.nats.sum() / np.log(2)
    assert metrics["heldout_coded_bytes"] == np.ceil(bits / 8)
    # ten lines of each kind, three letters or 24, without their line feeds
    lines = text.description["data"]["heldout_rows"]
    characters = metrics["heldout_text_bytes"] - (lines - 1)
    assert metrics["heldout_bits_per_character"] == pytest.approx(bits / characters)
    (figure,) = compression(text)
    for name in ("xz -9e", "gzip -9", "zstd -19", "this fit"):
        assert name in figure.panels[0].svg


def test_graphs_are_drawn_and_compared() -> None:
    graphs = [nx.gnp_random_graph(5, 0.6, seed=seed) for seed in range(40)]
    found = drawn(fitted(as_sequences("toy", graphs), NGram(order=3)))
    assert list(found) == ["samples", "statistics", "calibration"]
    assert "sequences that the fit drew are graphs" in found["samples"].caption
    assert [panel.title for panel in found["statistics"].panels] == ["degree", "clustering"]


def test_images_and_their_pixels_are_drawn() -> None:
    found = drawn(fitted("bars-and-stripes:side=3,codec=raster", NGram(order=4)))
    assert list(found) == ["samples", "surprise", "calibration"]
    assert "per pixel" in found["surprise"].caption


def test_rolls_are_drawn() -> None:
    rng = np.random.default_rng(0)
    data = {"key": (rng.random((40, 5)) < 0.3).astype(float), "length": np.array([12, 8, 20])}
    story = PianoRoll(n_hidden=3, dropout=0.0)
    fit = sz.fit(story, data, sz.MAP(epochs=2), progress=False)
    found = drawn(fit)
    assert list(found) == ["samples", "calibration"]
    assert len(found["samples"].panels) == 6


# -- text --------------------------------------------------------------------------------------


def test_passages_keep_lines_and_no_control_characters() -> None:
    assert shown("a  b\r\n\tc\x00\u202ed") == "a  b\n    c��d"
    panel = passages(["x < y", "two\nlines"], 'say "it"')
    assert "<p>x &lt; y</p><p>two\nlines</p>" in panel.svg
    assert 'aria-label="say &#34;it&#34;"' in panel.svg


def test_neighbours_of_one_shade_share_their_ground() -> None:
    pieces = [Piece("a", 0.1), Piece("b", 2.0), Piece("c\n", 2.2), Piece("<", 99.0)]
    assert '<p>a<span class="s1">bc⏎\n</span><span class="s5">&lt;</span></p>' in (
        shaded([pieces], "").svg
    )
    assert [level_of(bits) for bits in (0, 1.4, 1.6, 7.4, 7.5, 100)] == [0, 0, 1, 4, 5, 5]


def test_what_is_spelt_out_is_one_piece() -> None:
    codec = Characters.learn(["abc"])
    tokens = np.array(codec.encode("azb"))
    bits = np.arange(len(tokens) + 1, dtype=float)
    pieces = pieces_of(codec, tokens, bits)
    assert [piece.text for piece in pieces] == ["a", "z", "b", "∎"]
    assert sum(piece.bits for piece in pieces) == bits.sum()


def test_some_sequences_are_chosen_evenly() -> None:
    sequences = [np.full(9, i) for i in range(100)]
    assert [int(s[0]) for s in evenly(sequences, 50, 100)] == [0, 25, 50, 74, 99]
    assert [len(s) for s in evenly([np.zeros(5000, int)], 20_000, 2000)] == [2000]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_is_legible_on_every_shade(scheme: int) -> None:
    style = (Path(templates.__file__).parent / "style.css").read_text()
    shares = re.findall(r"\.passage \.s\d \{ background: color-mix\(.*var\(--c1\) (\d+)%", style)
    assert len(shares) == SHADES
    paper, ink, c1 = (PALETTE[role][scheme] for role in ("paper", "ink", "c1"))
    for share in map(int, shares):
        channels = [
            round(
                (share * int(c1[i : i + 2], 16) + (100 - share) * int(paper[i : i + 2], 16)) / 100
            )
            for i in (1, 3, 5)
        ]
        assert contrast(ink, "#" + "".join(f"{channel:02x}" for channel in channels)) >= 4.5


# -- graphs ------------------------------------------------------------------------------------


def test_discrepancies_by_hand() -> None:
    one, other = [nx.cycle_graph(4)], [nx.complete_graph(4)]
    found = discrepancies(one, other)
    assert found["degree"] == pytest.approx(2 - 2 * np.exp(-0.5))  # all nodes one edge apart
    assert found["clustering"] == pytest.approx(2, abs=1e-6)
    assert discrepancies(one * 3, one) == {"degree": 0.0, "clustering": 0.0}


def test_random_graphs_have_the_nodes_and_edges_of_the_data() -> None:
    graphs = [nx.path_graph(7), nx.complete_graph(5), nx.empty_graph(1)]
    likes = random_likes(graphs, 0)
    for of_model in likes.values():
        assert [len(graph) for graph in of_model] == [7, 5, 1]
    assert [graph.number_of_edges() for graph in likes["Erdős–Rényi"]] == [6, 10, 0]


def test_graphs_of_any_size_are_drawn() -> None:
    panel = node_link([nx.empty_graph(0), nx.empty_graph(1), nx.path_graph(30)], "three graphs")
    assert panel.svg.count("<path") == 6 and "nan" not in panel.svg


# -- what was foretold ---------------------------------------------------------------------------


def test_bits_are_those_of_each_step() -> None:
    latents = tables()
    sequences = [np.array([0, 1, 1]), np.array([], int)]
    read = foretold(Coin(), latents, sequences, 2, np.array([0, 0.5, 1.0]))
    for bits, sequence in zip(read.bits, sequences, strict=True):
        wanted = -log_probability(latents["next"][0], sequence) / np.log(2)
        assert len(bits) == len(sequence) + 1 and bits.sum() == pytest.approx(wanted)
    assert read.number.sum() == 3 * 5 and read.came.sum() == 5
    assert read.expected.sum() == pytest.approx(5)
