"""Sets of graphs as sequences, each graph in a few orders of its nodes.

How probable a graph is in one order bounds from below how probable it is in any: the orders of a
graph are sequences of their own, and a graph's orders stay on one side of a split. While a mode is
sought they are drawn anew on each pass, unless ``anew=false``; what is scored keeps its orders.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from storyzoo.datasets.adjacency import Adjacency, breadth_first
from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.remote import fetch
from storyzoo.errors import DataError, SettingError

if TYPE_CHECKING:
    from networkx import Graph

SUFFIXES = (".edges", ".edgelist")
"""Files with an edge per line."""
OPTIONS = ("orders", "anew")
HELDOUT = 0.2
"""Share of the graphs of a named set that are to score."""
SEED = 0
"""Of the orders, and of the split."""
MAX_NODES = 5_000


def graph_atlas(orders: int = 1, anew: bool = True) -> Dataset:
    """The 996 connected graphs of one to seven nodes, of Read and Wilson's atlas."""
    import networkx
    from networkx.generators.atlas import graph_atlas_g

    graphs = [graph for graph in graph_atlas_g() if len(graph) and networkx.is_connected(graph)]
    labels = pd.Series([len(graph) for graph in graphs], name="nodes")
    found = as_sequences("graph-atlas", graphs, orders, labels=labels, anew=anew)
    return _split(found, len(graphs), orders)


def enzymes(orders: int = 1, anew: bool = True) -> Dataset:
    """600 protein graphs, their nodes pieces of secondary structure; the class is the label."""
    from networkx import Graph

    def numbers(name: str) -> np.ndarray:
        path = fetch(f"enzymes/ENZYMES_{name}.txt")
        return np.loadtxt(path, delimiter=",", dtype=np.int64, ndmin=1)

    edges, owner, classes = (numbers(name) for name in ("A", "graph_indicator", "graph_labels"))
    graphs = [Graph() for _ in classes]
    for node, graph in enumerate(owner, start=1):
        graphs[graph - 1].add_node(node)
    for u, v in edges.tolist():  # each edge stands there both ways
        graphs[owner[u - 1] - 1].add_edge(u, v)
    labels = pd.Series(classes, name="class")
    found = as_sequences("enzymes", graphs, orders, labels=labels, anew=anew)
    return _split(found, len(graphs), orders)


def _split(dataset: Dataset, n_graphs: int, orders: int) -> Dataset:
    """One graph in five is held out, in all its orders."""
    shuffled = np.random.default_rng(SEED).permutation(n_graphs)
    held = np.sort(shuffled[: round(HELDOUT * n_graphs)])
    rows = (held[:, None] * orders + np.arange(orders)).reshape(-1)
    return dataclasses.replace(dataset, test_rows=rows)


def as_sequences(
    name: str,
    graphs: Sequence[Graph],
    orders: int = 1,
    codec: Adjacency | None = None,
    labels: pd.Series | None = None,
    anew: bool = True,
) -> Dataset:
    """Graphs of networkx as sequences of tokens, each in ``orders`` random breadth-first orders.

    With ``anew`` an ascent by windows draws them anew on each pass.

    DataError where a graph has direction, weights, loops or several edges between two nodes, or,
    with the codec of a fit, more nodes than that has tokens for.
    """
    if orders < 1:
        raise SettingError(f"data {name!r}: orders={orders} should be at least 1")
    if not graphs:
        raise DataError(f"{name} holds no graph: put an edge on each line")
    for number, graph in enumerate(graphs, start=1):
        _check(f"{name}, graph {number}", graph)
    codec = codec or Adjacency.learn(graphs)
    rng = np.random.default_rng(SEED)
    sequences = []
    for number, graph in enumerate(graphs, start=1):
        for _ in range(orders):
            found = codec.encode(graph, breadth_first(graph, rng))
            check_reach(f"{name}, graph {number}", graph, found, codec)
            sequences.append(found)
    return Dataset(
        name,
        arrays=codec.arrays(sequences),
        coords={"symbol": codec.symbols},
        labels=None if labels is None else labels.repeat(orders).reset_index(drop=True),
        codec=codec,
        redraw=codec.redrawn if anew else None,
    )


def check_reach(place: str, graph: Graph, tokens: Sequence[int], codec: Adjacency) -> None:
    """DataError where an edge reaches further back than a codec has tokens for."""
    if max(tokens, default=0) > codec.reach:
        raise DataError(
            f"{place} has {len(graph)} nodes and an edge that reaches back {max(tokens)} of them, "
            f"but the largest of the fit has {codec.reach + 1} nodes: leave it out"
        )


def _check(place: str, graph: Graph) -> None:
    if graph.is_directed():
        raise DataError(f"{place} is directed: give it without direction (graph.to_undirected())")
    if graph.is_multigraph():
        raise DataError(f"{place} may have several edges between two nodes: give a plain Graph")
    if len(graph) > MAX_NODES:
        raise DataError(f"{place} has {len(graph):,} nodes, more than {MAX_NODES:,}: cut it up")
    for u, v, values in graph.edges(data=True):
        if u == v:
            raise DataError(f"{place} ties node {u!r} to itself: leave such edges out")
        if "weight" in values:
            raise DataError(
                f"{place} has a weight on the edge from {u!r} to {v!r}: graphs here have edges "
                "or none, so leave weights out"
            )


# -- files -------------------------------------------------------------------------------------


def read_file(path: Path, options: Mapping[str, str], codec: Adjacency | None) -> Dataset:
    """Graphs from a file: an edge ``u v`` per line, a node alone by itself, graphs parted by a
    blank line; what follows ``#`` is a comment."""
    from storyzoo.datasets import selection
    from storyzoo.datasets.text import read_lines

    selection.check_options(path.name, options, OPTIONS)
    orders = int(selection.read_option(path.name, "orders", options.get("orders", "1"), int))
    anew = bool(selection.read_option(path.name, "anew", options.get("anew", "true"), bool))
    graphs = parsed(path.name, read_lines(path))
    return as_sequences(path.name, graphs, orders, codec, anew=anew)


def parsed(name: str, blocks: Iterable[Sequence[str]]) -> list[Graph]:
    """The graphs of an edge list, whose lines come in blocks."""
    graphs: list[Graph] = []
    block: list[tuple[int, list[str]]] = []
    for number, line in enumerate(itertools.chain.from_iterable(blocks), start=1):
        content = line.partition("#")[0].split()
        if content:
            block.append((number, content))
        elif block and not line.strip():
            graphs.append(_of_lines(name, block))
            block = []
    if block:
        graphs.append(_of_lines(name, block))
    return graphs


def written(graphs: Iterable[Graph]) -> str:
    """Graphs whose nodes are numbers as an edge list, by the lower and then the higher end.

    >>> written([nx.path_graph(3), nx.empty_graph(1)])
    '0 1\\n1 2\\n\\n0\\n'
    """
    blocks = []
    for graph in graphs:
        lines = [tuple(sorted(edge)) for edge in graph.edges]
        lines += [(node,) for node in graph if not graph.degree(node)]
        blocks.append("".join(" ".join(map(str, line)) + "\n" for line in sorted(lines)))
    return "\n".join(blocks)


def _of_lines(name: str, lines: Sequence[tuple[int, list[str]]]) -> Graph:
    """One graph. Edges stand once, or all of them both ways: else they have a direction."""
    from networkx import Graph

    graph = Graph()
    pairs: dict[tuple[str, str], int] = {}
    for number, content in lines:
        if len(content) > 2:
            raise DataError(
                f"{name}, line {number} has {len(content)} values: an edge is two nodes, without "
                "weight; leave the rest out"
            )
        graph.add_nodes_from(content)
        if len(content) == 2:
            u, v = content
            if (u, v) in pairs:
                raise DataError(
                    f"{name}, line {number}: the edge from {u} to {v} stands on line "
                    f"{pairs[u, v]} already: leave one out"
                )
            if u == v:
                raise DataError(f"{name}, line {number} ties node {u} to itself: leave it out")
            pairs[u, v] = number
            graph.add_edge(u, v)
    both = [pair for pair in pairs if pair[::-1] in pairs]
    if both and len(both) < len(pairs):
        (u, v), (a, b) = both[0], next(pair for pair in pairs if pair[::-1] not in pairs)
        raise DataError(
            f"{name}, line {pairs[u, v]}: {u} and {v} are tied both ways, but {a} and {b} (line "
            f"{pairs[a, b]}) one way, as in a directed graph: give each edge once"
        )
    return graph
