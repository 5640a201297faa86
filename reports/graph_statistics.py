"""How far two sets of graphs are apart by their degrees and by their clustering.

The maximum mean discrepancy of You et al. (2018), with histograms of each graph's nodes::

    MMD^2 = mean k(g, g') + mean k(h, h') - 2 mean k(g, h)
    k(g, h) = exp(-W(g, h)^2 / (2 sigma^2))

W being the earth mover's distance of two histograms: of degrees in units of edges (sigma = 1), of
local clustering coefficients, shares from 0 to 1 in a hundred bins (sigma = 0.1). Means are over
all pairs, a graph with itself too, which lifts the square of small sets. Orbits are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from networkx import Graph

BINS = 100
"""Of clustering coefficients."""
SIGMAS = {"degree": 1.0, "clustering": 0.1}
"""Width of the kernel by statistic."""

Array = NDArray[np.float64]


def discrepancies(these: Sequence[Graph], those: Sequence[Graph]) -> dict[str, float]:
    """MMD^2 of two sets of graphs with nodes, by statistic."""
    found = {}
    for name, sigma in SIGMAS.items():
        both = _distributions(name, [*these, *those])
        found[name] = _mmd(both[: len(these)], both[len(these) :], sigma)
    return found


def _distributions(name: str, graphs: Sequence[Graph]) -> Array:
    """(N, bin): distribution functions over the bins of one statistic."""
    import networkx

    if name == "degree":
        values = [np.array([degree for _, degree in graph.degree]) for graph in graphs]
        size, width = 1 + max(int(v.max(initial=0)) for v in values), 1.0
    else:
        shares = [np.array([*networkx.clustering(graph).values()]) for graph in graphs]
        size, width = BINS, 1 / BINS
        values = [np.minimum((share * BINS).astype(int), BINS - 1) for share in shares]
    counts = np.stack([np.bincount(v, minlength=size) for v in values])
    functions: Array = width * np.cumsum(counts / counts.sum(1, keepdims=True), axis=1)
    return functions


def _mmd(these: Array, those: Array, sigma: float) -> float:
    """MMD^2; functions (N, bin) hold the width of a bin, so that their distance is W."""

    def mean(a: Array, b: Array) -> float:
        rows = [np.exp(-(np.abs(one - b).sum(1) ** 2) / (2 * sigma**2)).mean() for one in a]
        return float(np.mean(rows))

    return max(0.0, mean(these, these) + mean(those, those) - 2 * mean(these, those))


def random_likes(graphs: Sequence[Graph], seed: int) -> Mapping[str, list[Graph]]:
    """Random graphs by model, one for each given: of as many nodes, and as many edges or nearly.

    Erdős–Rényi takes any pairs of nodes. Barabási–Albert grows by nodes with as many edges as the
    graph has on average for each, drawn to nodes of high degree.
    """
    import networkx

    found: dict[str, list[Graph]] = {"Erdős–Rényi": [], "Barabási–Albert": []}
    for place, graph in enumerate(graphs):
        nodes, edges = len(graph), graph.number_of_edges()
        found["Erdős–Rényi"].append(networkx.gnm_random_graph(nodes, edges, seed=seed + place))
        attached = min(max(1, round(edges / nodes)), nodes - 1)
        found["Barabási–Albert"].append(
            networkx.barabasi_albert_graph(nodes, attached, seed=seed + place)
            if nodes > 1
            else graph
        )
    return found
