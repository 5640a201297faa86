"""Graphs as circles and lines, many small ones in a panel.

Nodes are placed by springs (Fruchterman and Reingold 1991) from a fixed start, parts that are not
connected side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from storyzoo.reports.figures import Panel
from storyzoo.reports.figures.marks import drawing

if TYPE_CHECKING:
    from networkx import Graph

WIDTH = 345.0
"""Of a panel, points."""
ACROSS = 4
MARGIN = 7.0
"""Around each graph, points."""
SEED = 0

Array = NDArray[np.float64]


def node_link(graphs: Sequence[Graph], alt: str) -> Panel:
    """Drawings of graphs in rows of four."""
    side = WIDTH / ACROSS
    parts = [
        _drawn(graph, (place % ACROSS) * side, (place // ACROSS) * side, side)
        for place, graph in enumerate(graphs)
    ]
    return drawing(parts, WIDTH, side * max(1, math.ceil(len(graphs) / ACROSS)), alt)


def _drawn(graph: Graph, left: float, top: float, side: float) -> str:
    at = {node: (left + x, top + y) for node, (x, y) in _places(graph, side).items()}
    lines = "".join(
        f"M{at[u][0]:.1f} {at[u][1]:.1f}L{at[v][0]:.1f} {at[v][1]:.1f}" for u, v in graph.edges
    )
    radius = max(1.4, 3.4 - 0.03 * len(graph))
    dots = "".join(
        f"M{x - radius:.1f} {y:.1f}a{radius:.1f} {radius:.1f} 0 1 0 {2 * radius:.1f} 0"
        f"a{radius:.1f} {radius:.1f} 0 1 0 {-2 * radius:.1f} 0z"
        for x, y in at.values()
    )
    return (
        f'<path d="{lines}" style="fill:none;stroke:var(--axis);stroke-width:.9"/>'
        f'<path d="{dots}" style="fill:var(--c0)"/>'
    )


def _places(graph: Graph, side: float) -> dict[object, Array]:
    """Where nodes go in a square, points."""
    import networkx

    if not len(graph):
        return {}
    found = networkx.spring_layout(graph, seed=SEED, iterations=60)
    nodes, at = list(found), np.array(list(found.values()), float).reshape(-1, 2)
    low, span = at.min(0), max(float(np.ptp(at, axis=0).max()), 1e-9)
    at = (at - low - np.ptp(at, axis=0) / 2) / span if len(at) > 1 else np.zeros_like(at)
    return dict(zip(nodes, side / 2 + at * (side - 2 * MARGIN), strict=True))
