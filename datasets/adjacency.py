"""Graphs as sequences: the rows of the adjacency matrix, nodes in breadth-first order.

GraphRNN (You, Ying, Ren, Hamilton and Leskovec 2018, ICML): nodes are taken in the order of a
breadth-first search, and each is told with its edges to those before it. Here a row names its
edges by how far back they reach, the nearest first, so that a graph of N nodes and E edges is
N + E tokens. A graph without direction, weights and loops is given back exactly, up to the names of
its nodes; one that is not connected is a search begun anew for each part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np

from storyzoo.datasets.codecs import Codec

if TYPE_CHECKING:
    from networkx import Graph

Neighbours: TypeAlias = "Graph | Mapping[int, Sequence[int]]"
"""What gives the neighbours of a node."""

NODE = 0
"""The token that begins a node's row."""


@dataclass(frozen=True)
class Adjacency(Codec):
    """Token 0 begins the next node; token d ties it to the node d places before it."""

    reach: int
    """How far back an edge may go: one less than the nodes of the largest graph."""
    kind: ClassVar[str] = "graph"

    @property
    def n_tokens(self) -> int:
        """A new node, and each distance."""
        return self.reach + 1

    @property
    def symbols(self) -> tuple[str, ...]:
        """``node``, then how far back."""
        return ("node", *(f"{back} back" for back in range(1, self.reach + 1)))

    @classmethod
    def learn(cls, graphs: Sequence[Graph]) -> Self:
        """A codec for all orders of these graphs."""
        return cls(max(1, max(len(graph) for graph in graphs) - 1))

    @property
    def remark(self) -> str:
        """Of which order a score is."""
        return (
            "a graph is scored in one order of its nodes, which bounds its log probability (over "
            "all orders) from below"
        )

    def encode(self, graph: Neighbours, order: Sequence[Any]) -> list[int]:
        """Tokens of a graph with its nodes in an order.

        >>> Adjacency(2).encode(nx.path_graph(3), [0, 1, 2])
        [0, 0, 1, 0, 1]
        """
        place = {node: i for i, node in enumerate(order)}
        tokens = []
        for i, node in enumerate(order):
            tokens.append(NODE)
            tokens += sorted(i - place[other] for other in graph[node] if place[other] < i)
        return tokens

    def decode(self, tokens: Sequence[int]) -> Graph | None:
        """The graph, its nodes numbered from 0 in their order; None where tokens tell of none.

        They don't where an edge reaches before the first node, or edges of a row don't rise.
        """
        from networkx import Graph

        graph, last = Graph(), 0
        for token in map(int, tokens):
            if token == NODE:
                graph.add_node(len(graph))
                last = 0
            elif last < token < len(graph):
                graph.add_edge(len(graph) - 1 - token, len(graph) - 1)
                last = token
            else:
                return None
        return graph

    def redrawn(
        self, arrays: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Tokens of the same graphs, each in a new breadth-first order; lengths stay."""
        found: list[int] = []
        tokens, place = arrays["token"].tolist(), 0
        for size in arrays["length"].tolist():
            graph = _neighbours(tokens[place : place + size])
            found += self.encode(graph, breadth_first(graph, rng))
            place += size
        return {"token": np.array(found, np.int64)}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """The reach is a number above zero."""
        codec = super().from_values(values)
        if not isinstance(codec.reach, int) or codec.reach < 1:
            raise ValueError(f"reach={codec.reach!r}")
        return codec


def _neighbours(tokens: Sequence[int]) -> dict[int, list[int]]:
    """The neighbours of each node of a graph that tokens tell of."""
    graph: dict[int, list[int]] = {}
    for token in tokens:
        if token == NODE:
            graph[len(graph)] = []
        else:
            node = len(graph) - 1
            graph[node].append(node - token)
            graph[node - token].append(node)
    return graph


def breadth_first(graph: Neighbours, rng: np.random.Generator) -> list[Any]:
    """Nodes in the order of a search from a random node, neighbours of a node in random order."""
    nodes = list(graph)
    rank = {nodes[i]: place for place, i in enumerate(rng.permutation(len(nodes)))}
    order: list[Any] = []
    seen: set[Any] = set()
    for root in sorted(nodes, key=rank.__getitem__):
        if root in seen:
            continue
        seen.add(root)
        waiting = deque([root])
        while waiting:
            order.append(node := waiting.popleft())
            found = sorted((n for n in graph[node] if n not in seen), key=rank.__getitem__)
            seen.update(found)
            waiting.extend(found)
    return order
