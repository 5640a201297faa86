"""Codecs: decoding inverts encoding exactly, on random input; unknown symbols are spelt out."""

from __future__ import annotations

import json
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from storyzoo.datasets.adjacency import Adjacency, breadth_first
from storyzoo.datasets.byte_pairs import BytePairs
from storyzoo.datasets.codecs import Bytes, Characters, Codec, TextCodec, Words, from_record
from storyzoo.datasets.raster import Raster
from storyzoo.errors import DataError, SettingError

SEEN = ["the cat sat on the mat\n\nthe end", "naïve Ünïcödé — ok_9", ""]
TEXTS: list[tuple[type[TextCodec], int]] = [
    (Characters, 0),
    (Characters, 1),
    (Bytes, 0),
    (Words, 0),
    (Words, 3),
    (BytePairs, 270),
]


def random_texts(count: int) -> list[str]:
    """Text of all planes, of what was seen, and bytes that are no UTF-8."""
    rng = np.random.default_rng(0)
    pools = [
        [*"the catson\n"],
        [chr(c) for c in range(0x250)],
        [chr(c) for c in rng.integers(0xE000, 0x110000, 200)],
        [chr(c) for c in range(0xDC80, 0xDD00)],
    ]
    texts = []
    for _ in range(count):
        pool = [pools[i] for i in rng.integers(0, len(pools), rng.integers(0, 40))]
        text = "".join(str(rng.choice(characters)) for characters in pool)
        # as a file would give it: runs of escaped bytes may be UTF-8 after all
        texts.append(text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape"))
    return texts


@pytest.mark.parametrize(("kind", "most"), TEXTS)
def test_text_is_given_back_exactly(kind: type[TextCodec], most: int) -> None:
    codec = kind.learn(SEEN, most)
    for text in [*SEEN, *random_texts(200)]:
        tokens = codec.encode(text)
        assert all(0 <= token < codec.n_tokens for token in tokens)
        assert codec.decode(tokens) == text


@pytest.mark.parametrize(("kind", "most"), TEXTS)
def test_any_tokens_decode(kind: type[TextCodec], most: int) -> None:
    codec = kind.learn(SEEN, most)
    rng = np.random.default_rng(1)
    for _ in range(100):
        tokens = rng.integers(0, codec.n_tokens, 20).tolist()
        assert isinstance(codec.decode(tokens), str)


@pytest.mark.parametrize("by", ["line", "paragraph", "document"])
def test_sequences_are_joined_to_their_document(by: str) -> None:
    codec = Characters.learn(SEEN, by=by)
    for text in [*random_texts(50), "\n", "a\n\n\n\nb\n", ""]:
        assert codec.joined(codec.cut(text)) == text


@pytest.mark.parametrize(("kind", "most"), TEXTS)
def test_a_codec_is_stored_as_json(kind: type[TextCodec], most: int) -> None:
    check_stored(kind.learn(SEEN, most, "line"))


def test_codecs_of_images_and_graphs_are_stored_as_json() -> None:
    check_stored(Raster(("a", "b"), 3, 0.0, 16.0))
    check_stored(Adjacency(6))


def check_stored(codec: Codec) -> None:
    assert from_record(json.loads(json.dumps(codec.as_record()))) == codec
    assert len(codec.symbols) == codec.n_tokens


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"kind": "morse"},
        {"kind": "characters"},
        {"kind": "characters", "known": ["a", "a"], "by": "line"},
        {"kind": "characters", "known": ["a", 1], "by": "line"},
        {"kind": "characters", "known": ["a"], "by": "lines"},
        {"kind": "bpe", "pairs": [[97, 256]], "by": "line"},
        {"kind": "bpe", "pairs": 3, "by": "line"},
        {"kind": "raster", "columns": ["a"], "levels": 1, "low": 0, "high": 1},
        {"kind": "graph", "reach": "far"},
    ],
)
def test_a_damaged_record_is_one_line(record: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"the run's codec is damaged \(.*\): fit again"):
        from_record(record)


def test_symbols_by_hand() -> None:
    codec = Characters.learn(["cab", "b"])
    assert codec.symbols == ("a", "b", "c", "␛")
    assert codec.encode("abc") == [0, 1, 2]
    # z is 122 = 1322 in base 4; the largest code point has eleven digits
    assert codec.encode("az") == [0, 3, *[0] * 7, 1, 3, 2, 2]
    assert Words.learn(["to be, to"]).known == (" ", ",", "be", "to")
    assert Words.learn(["to be, to"], 2).known == (" ", "to")
    assert Bytes().encode("né\n") == [110, 195, 169, 10]


def test_pairs_that_stand_together_are_joined() -> None:
    codec = BytePairs.learn(["hello hello hello there"] * 3, 262)
    assert codec.n_tokens == 262
    assert len(codec.encode("hello hello")) < 11
    assert BytePairs.learn(["hello hello hello there"] * 3, 262) == codec


def test_what_is_spelt_out_is_counted() -> None:
    codec = Characters.learn(["abc"])
    assert codec.unknown(["axxb", "yx"]) == {"x": 3, "y": 1}
    assert Words.learn(["to be"]).unknown(["to be or not"]) == {"or": 1, "not": 1}
    assert not Bytes().unknown(["anything"])


def test_an_escape_cut_short_is_no_character() -> None:
    codec = Characters.learn(["abc"])
    assert codec.decode([0, 3, 1]) == "a�"
    assert codec.decode([3, *[3] * 11, 1]) == "�b"


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(DataError, match="nothing in it but empty sequences"):
        Characters.learn(["", ""])
    with pytest.raises(SettingError, match="always 256 symbols"):
        Bytes.learn(["a"], 10)
    with pytest.raises(SettingError, match="ask for 257"):
        BytePairs.learn(["a"], 256)


# -- images ------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_levels_are_given_back_exactly(levels: int) -> None:
    codec = Raster(tuple("abcd"), levels, -1.0, 16.0)
    tokens = np.random.default_rng(0).integers(0, levels, (50, 4))
    assert np.array_equal(codec.encode(codec.decode(tokens)), tokens)
    assert codec.decode(np.array([0, levels - 1])).tolist() == [-1.0, 16.0]


def test_whole_numbers_lose_nothing() -> None:
    values = np.random.default_rng(0).integers(3, 20, (30, 4)).astype(float)
    codec = Raster.learn(pd.DataFrame(values, columns=[*"abcd"]), 0)
    assert codec.n_tokens == values.max() - values.min() + 1
    assert np.array_equal(codec.decode(codec.encode(values)), values)


# -- graphs ------------------------------------------------------------------------------------


def random_graph(rng: np.random.Generator) -> Any:
    return nx.gnp_random_graph(
        int(rng.integers(0, 15)), rng.random(), seed=int(rng.integers(9_000_000))
    )


def test_graphs_are_given_back_exactly() -> None:
    rng = np.random.default_rng(0)
    codec = Adjacency(14)
    for _ in range(200):
        graph = random_graph(rng)
        order = breadth_first(graph, rng)
        tokens = codec.encode(graph, order)
        assert len(tokens) == len(graph) + graph.number_of_edges()
        found = codec.decode(tokens)
        assert found is not None
        renamed = nx.relabel_nodes(graph, {node: place for place, node in enumerate(order)})
        assert nx.utils.graphs_equal(found, nx.Graph(renamed))


def test_redrawn_tokens_are_of_the_same_graphs() -> None:
    graphs = [nx.gnp_random_graph(n, 0.4, seed=n) for n in range(1, 9)]
    codec, rng = Adjacency.learn(graphs), np.random.default_rng(0)
    arrays = codec.arrays([codec.encode(graph, list(graph)) for graph in graphs])
    found = codec.redrawn(arrays, rng)["token"]
    assert not np.array_equal(found, arrays["token"])
    for graph, tokens in zip(graphs, np.split(found, arrays["length"].cumsum()[:-1]), strict=True):
        told = codec.decode(tokens.tolist())
        assert told is not None and nx.is_isomorphic(told, graph)


def test_orders_are_breadth_first_and_differ() -> None:
    rng = np.random.default_rng(0)
    graph = nx.balanced_tree(2, 2)
    orders = {tuple(breadth_first(graph, rng)) for _ in range(60)}
    assert len(orders) > 20
    assert {order[0] for order in orders} == set(range(7))
    for order in orders:
        away = nx.single_source_shortest_path_length(graph, order[0])
        distances = [away[node] for node in order]
        assert distances == sorted(distances)


def test_tokens_by_hand() -> None:
    codec = Adjacency(3)
    assert codec.encode(nx.complete_graph(3), [0, 1, 2]) == [0, 0, 1, 0, 1, 2]
    assert codec.encode(nx.path_graph(3), [1, 0, 2]) == [0, 0, 1, 0, 2]
    assert codec.symbols == ("node", "1 back", "2 back", "3 back")


@pytest.mark.parametrize("tokens", [[1], [0, 1], [0, 0, 2], [0, 0, 0, 2, 1], [0, 0, 1, 1]])
def test_tokens_of_no_graph_are_seen(tokens: list[int]) -> None:
    assert Adjacency(3).decode(tokens) is None
