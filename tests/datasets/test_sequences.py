"""Text, images and graphs of the user's own as sequences; what is wrong is one line."""

from __future__ import annotations

import gzip
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from storyzoo.datasets import load
from storyzoo.datasets.adjacency import Adjacency
from storyzoo.datasets.codecs import Characters, TextCodec
from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.graphs import as_sequences
from storyzoo.datasets.raster import Raster
from storyzoo.errors import DataError, SettingError

pytestmark = pytest.mark.usefixtures("workdir")


def texts_of(found: Dataset) -> list[str]:
    """The sequences of a data set of text."""
    assert isinstance(found.codec, TextCodec)
    ends = np.cumsum(np.asarray(found.arrays["length"]))[:-1]
    parts = np.split(np.asarray(found.arrays["token"]), ends)
    return [found.codec.decode(part.tolist()) for part in parts]


def test_lines_paragraphs_and_documents() -> None:
    text = "one\ntwo\n\nthree\n"
    Path("old.txt").write_text(text)
    assert texts_of(load("old.txt:codec=characters")) == ["one", "two", "", "three"]
    assert texts_of(load("old.txt:codec=bytes,by=paragraph")) == ["one\ntwo", "three"]
    assert texts_of(load("old.txt:codec=words,by=document")) == [text]
    with gzip.open("old.txt.gz", "wt") as packed:
        packed.write(text)
    assert texts_of(load("old.txt.gz:codec=bpe")) == ["one", "two", "", "three"]


def test_folders_and_tables_keep_names_and_labels() -> None:
    for name in ("a/x.txt", "b/y.txt"):
        Path(name).parent.mkdir()
        Path(name).write_text(f"{name}\nend")
    folder = load(".:codec=characters")
    assert folder.coords["sequence"] == ("a/x.txt", "b/y.txt")
    lines = load(".:codec=characters,by=line")
    assert lines.labels is not None and lines.labels.tolist() == ["a", "a", "b", "b"]
    Path("t.csv").write_text("body,kind\nhello,k\nworld,l\n")
    table = load("t.csv:text=body,labels=kind,codec=characters")
    assert texts_of(table) == ["hello", "world"]
    assert table.labels is not None and table.labels.tolist() == ["k", "l"]


def test_new_text_by_the_codec_of_old() -> None:
    Path("old.txt").write_text("abba\nbaab\n")
    Path("new.txt").write_text("abc\ncccd\n")
    old = load("old.txt:codec=characters")
    new = load("new.txt", old.codec)
    assert new.codec == old.codec and new.arrays["n_tokens"] == old.arrays["n_tokens"]
    assert texts_of(new) == ["abc", "cccd"]
    assert new.notes == (
        "new.txt: 2 different symbols, used 5 times, have no token and are spelt out after an "
        "escape, none is dropped ('c' 4, 'd' 1)",
    )


def test_a_split_of_its_own_teaches_the_codec_nothing(mirror: Path) -> None:
    speeches, text = load("tiny-shakespeare"), load("tiny-shakespeare:by=text")
    joined = "\n\n".join(texts_of(speeches)) + "\n"
    assert "".join(texts_of(text)) == joined
    assert len(joined) == 1_115_394
    assert np.asarray(text.arrays["length"]).tolist() == [1_003_854, 55_770, 55_770]
    for found in (speeches, text):
        assert found.test_rows is not None and found.validation_rows is not None
        held = np.union1d(found.test_rows, found.validation_rows)
        parts = texts_of(found)
        fitted = [part for i, part in enumerate(parts) if i not in set(held.tolist())]
        assert isinstance(found.codec, Characters)
        assert found.codec.known == tuple(sorted(set("".join(fitted))))
        assert texts_of(load("tiny-shakespeare", found.codec)) == texts_of(speeches)


def test_chorales_by_hand(mirror: Path) -> None:
    found = load("jsb-chorales")
    key, length = np.asarray(found.arrays["key"]), np.asarray(found.arrays["length"])
    assert found.validation_rows is not None and found.test_rows is not None
    assert (len(found.validation_rows), len(found.test_rows)) == (76, 77)
    assert length[:229].sum() == 13807
    assert key.sum(1).max() == 4
    names = np.array(found.coords["pitch"])
    assert (names[0], names[39], names[-1]) == ("A0", "C4", "C8")
    assert names[key.any(0)][[0, -1]].tolist() == ["G2", "C7"]


def test_images_by_the_codec_of_the_fit() -> None:
    old = load("digits:codec=raster,levels=2")
    binary = load("digits-binary")
    assert binary.table is not None
    assert np.array_equal(old.arrays["token"], binary.table.to_numpy().reshape(-1))
    assert old.test_rows is not None and len(old.test_rows) == 297
    assert np.array_equal(load("digits", old.codec).arrays["token"], old.arrays["token"])


@pytest.mark.parametrize(
    ("spec", "content", "said"),
    [
        ("a.txt:codec=characters", "", "a.txt is empty (0 bytes)"),
        ("a.txt:codec=characters", "\n\n\n", "a.txt: there is nothing in it but empty sequences"),
        ("a.txt:codec=morse", "a", "codec='morse': did you mean 'words'?"),
        ("a.txt:codec=bytes,by=page", "a", "by='page': "),
        ("a.txt:codec=bytes,min_df=2", "a", "min_df= is for counts of words: leave it out"),
        ("a.txt:by=line", "a", "by= is for sequences: add codec=characters"),
        ("a.txt:codec=words,symbols=-1", "a", "symbols=-1 should be 0 (all) or more"),
        ("a.txt:codec=bytes", "a\0b", "a.txt, line 1 holds a zero byte"),
        ("a.csv:codec=raster", "x,y\n1.5,2\n", "not whole numbers that 256 levels hold"),
        ("a.csv:codec=characters", "x,y\n1,2\n", "is no codec of a table: take codec=raster"),
        ("a.csv:levels=2,standardize=true", "x,y\n1,2\n3,5\n", "tokens can't be standardised"),
        ("a.edges", "1 2 0.5\n", "a.edges, line 1 has 3 values: an edge is two nodes"),
        ("a.edges", "1 2\n2 1\n2 3\n", "line 1: 1 and 2 are tied both ways, but 2 and 3 (line 3)"),
        ("a.edges", "1 2\n3 3\n", "line 2 ties node 3 to itself"),
        ("a.edges", "1 2\n\n1 2\n1 2\n", "line 4: the edge from 1 to 2 stands on line 3 already"),
        ("a.edges", "# nothing\n", "a.edges holds no graph"),
        ("a.edges:orders=0", "1 2\n", "orders=0 should be at least 1"),
        ("a.edges:codec=bytes", "1 2\n", "no option 'codec'"),
    ],
)
def test_bad_input_is_one_line(spec: str, content: str, said: str) -> None:
    Path(spec.partition(":")[0]).write_text(content)
    with pytest.raises((DataError, SettingError)) as caught:
        load(spec)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_of_another_kind_are_refused() -> None:
    codec = Raster(("a", "b"), 5, 0.0, 4.0)
    for content, said in (
        ("a,b,c\n1,2,3\n", "images of 3 pixels, but those of the fit have 2"),
        ("b,a\n1,2\n", "pixel 1 is 'b', but 'a' in the fit"),
        ("a,b\n1,2\n1,9\n", "row 2, column 'b' is 9: pixels go from 0 to 4"),
        ("a,b\n1,2\n1,\n", "row 2, column 'b' is missing: fill it first"),
    ):
        Path("new.csv").write_text(content)
        with pytest.raises(DataError, match=said):
            load("new.csv", codec)
    Path("new.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SettingError, match="read as the run's was: leave levels= out"):
        load("new.csv:levels=2", codec)


def test_graphs_of_a_file() -> None:
    Path("g.edges").write_text("# a path, and a triangle with a node alone\na b\nb c\n\n")
    with Path("g.edges").open("a") as opened:
        opened.write("\n1 2\n2 1\n2 3\n3 2\n1 3\n3 1\n4\n")
    found = load("g.edges:orders=3")
    assert isinstance(found.codec, Adjacency) and found.codec.reach == 3
    ends = np.cumsum(np.asarray(found.arrays["length"]))[:-1]
    parts = np.split(np.asarray(found.arrays["token"]), ends)
    graphs = [found.codec.decode(part.tolist()) for part in parts]
    triangle = nx.complete_graph(3)
    triangle.add_node(3)
    for place, wanted in enumerate([nx.path_graph(3)] * 3 + [triangle] * 3):
        graph = graphs[place]
        assert graph is not None and nx.is_isomorphic(graph, wanted)


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (nx.DiGraph([(0, 1)]), "toy, graph 2 is directed"),
        (nx.MultiGraph([(0, 1)]), "may have several edges"),
        (nx.Graph([(0, 0)]), "ties node 0 to itself"),
        (nx.Graph([(0, 1, {"weight": 2.0})]), "has a weight on the edge from 0 to 1"),
    ],
)
def test_other_graphs_are_refused(graph: nx.Graph, said: str) -> None:
    with pytest.raises(DataError, match=said):
        as_sequences("toy", [nx.path_graph(2), graph])


def test_graphs_larger_than_those_of_the_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"graph 1 has 9 nodes .* the largest of the fit has 3"):
        as_sequences("toy", [nx.star_graph(8)], codec=Adjacency(2))


def test_orders_of_a_graph_stay_on_one_side_of_the_split() -> None:
    found = load("graph-atlas:orders=4")
    rows = np.asarray(found.test_rows).reshape(-1, 4)
    assert (rows // 4 == rows[:, :1] // 4).all() and len(rows) == 199
