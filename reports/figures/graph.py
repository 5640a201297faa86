"""The model as a graph: what depends on what, plates as boxes, drawn in layers without graphviz.

Sites of one plate set share a band of columns; bands stand in the order that keeps every plate in
one box and makes arrows short. Sites outside all plates stand where there is room, as near as can
be to what they are tied to. A layer is the longest path that leads to a site; a site that depends
on nothing stands just above what it feeds.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from markupsafe import escape
from pyro.infer.inspect import get_model_relations

from storyzoo.inference.engine.factors import slice_examples
from storyzoo.inference.engine.structure import defaults
from storyzoo.reports.figures import ID_PREFIX, Figure, Key, Panel
from storyzoo.reports.figures.svg import plain

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

ROWS = 60
"""Rows of the data with which the model is run: relations do not depend on how many."""
COLUMN = 460
"""Wider drawings stand over all columns."""
SERIES_FROM = 4
"""Sites ``x_0, x_1, …`` that are drawn as one from so many on."""
WIDTH, HEIGHT, GAP, LAYER = 62.0, 38.0, 16.0, 88.0
"""Sizes in points: narrowest node, its height, the space between nodes, from layer to layer."""
MARGIN = 14.0


@dataclass(frozen=True)
class Node:
    """A site as drawn: its kind, its distribution, the plates around it, what it depends on."""

    name: str
    kind: str
    distribution: str
    plates: tuple[str, ...]
    parents: tuple[str, ...]

    @property
    def width(self) -> float:
        """Wide enough for its name."""
        longest = max(len(plain(self.name, 20)) * 7.4, len(self.distribution) * 5.6)
        return max(WIDTH, longest + 26)


@dataclass(frozen=True)
class Box:
    """A plate as drawn."""

    name: str
    left: float
    top: float
    right: float
    bottom: float


def graph_figure(fit: Fitted) -> Figure:
    """The graph of a fit's story, with the key to its marks."""
    nodes, note = nodes_of(fit)
    sizes = {name: len(values) for name, values in fit.structure.coords.items()}
    drawing = draw(nodes, sizes)
    kinds = {node.kind for node in nodes}
    marks = {
        "latent": Key("unknown", "ink", "unknown"),
        "discrete": Key("discrete", "ink", "unknown and discrete (summed out)"),
        "observed": Key("observed", "ink", "observed"),
        "deterministic": Key("computed", "ink", "computed"),
    }
    keys = [key for kind, key in marks.items() if kind in kinds]
    if any(node.plates for node in nodes):
        keys.append(Key("plate", "muted", "plate: repeated so many times"))
    caption = "An arrow says that one draw depends on another." + (f" {note}" if note else "")
    arrows = "; ".join(f"{n.name} on {', '.join(n.parents)}" for n in nodes if n.parents)
    alt = f"Graph of the model. Depends: {arrows or 'nothing on anything'}."
    panel = Panel(drawing.replace("ALT", str(escape(plain(alt))), 1), plain(alt))
    width = float(drawing.partition("--natural:")[2].partition('"')[0])
    layout: Literal["natural", "natural wide"] = "natural wide" if width > COLUMN else "natural"
    return Figure("graph", "", caption, (panel,), tuple(keys), layout=layout)


# -- what depends on what ----------------------------------------------------------------------


def nodes_of(fit: Fitted) -> tuple[list[Node], str]:
    """Sites of the story and, where the model can be traced for it, their parents; and a note."""
    sites = fit.structure.sites
    try:
        relations = _relations(fit)
        note = ""
    except Exception as error:  # a user's model may raise anything when it is run for its graph
        relations = {}
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        note = f"The arrows could not be traced ({plain(reason, 120)})."
    parents: Mapping[str, Sequence[str]] = relations.get("sample_sample", {})
    named: Mapping[str, str] = relations.get("sample_dist", {})
    nodes = [
        Node(
            name=name,
            kind=site.kind,
            distribution=_told(site.kind, str(named.get(name, ""))),
            plates=tuple(site.plates),
            parents=tuple(parent for parent in parents.get(name, ()) if parent in sites),
        )
        for name, site in sites.items()
    ]
    return folded(nodes), note


def _told(kind: str, distribution: str) -> str:
    """What stands below a name: nothing where the distribution is not known until it is asked."""
    return "" if kind == "deterministic" or distribution == "Deferred" else distribution


def _relations(fit: Fitted) -> dict[str, Any]:
    story = fit.story
    with defaults(getattr(torch, story.dtype), "cpu"):
        data = {name: torch.as_tensor(given(fit, name)) for name in fit.structure.arguments}
        if story.examples:
            first = torch.arange(min(ROWS, fit.structure.n_examples))
            data = slice_examples(story, data, first)
        filled = {name: _filled(values) for name, values in data.items()}
        relations: dict[str, Any] = get_model_relations(story.model, model_kwargs=filled)
    return relations


def _filled(values: torch.Tensor) -> torch.Tensor:
    """An argument in the default dtype, with nothing missing."""
    if not values.is_floating_point():
        return values
    known = values[values.isfinite()]
    fill = known.median() if known.numel() else values.new_zeros(())
    return torch.where(values.isfinite(), values, fill).to(torch.empty(0))


def given(fit: Fitted, argument: str) -> np.ndarray[Any, Any]:
    """What the model was given under a name: in the tree by that name or by the site it feeds."""
    sites = [name for name, site in fit.structure.sites.items() if site.argument == argument]
    for group in ("constant_data", "observed_data"):
        node = fit.tree.children.get(group)
        for name in (argument, *sites):
            if node is not None and name in node.data_vars:
                return np.asarray(node[name].values)
    raise LookupError(f"the tree keeps no data called {argument}")


def folded(nodes: Sequence[Node]) -> list[Node]:
    """Long series of sites that differ in a number alone (``x_0 … x_99``) become one each."""
    stems: dict[tuple[str, str, tuple[str, ...]], list[Node]] = {}
    for node in nodes:
        stem = re.sub(r"[_\d]*\d$", "", node.name)
        if stem and stem != node.name:
            stems.setdefault((stem, node.kind, node.plates), []).append(node)
    called = {node.name: node.name for node in nodes}
    for (stem, _, _), members in stems.items():
        if len(members) >= SERIES_FROM:
            first, last = members[0].name, members[-1].name
            called.update(
                {node.name: f"{first} … {last[len(stem) :].strip('_')}" for node in members}
            )
    merged: dict[str, Node] = {}
    for node in nodes:
        name = called[node.name]
        parents = [called[parent] for parent in node.parents]
        before = merged[name].parents if name in merged else ()
        kept = tuple(dict.fromkeys([*before, *(parent for parent in parents if parent != name)]))
        merged[name] = dataclasses.replace(node, name=name, parents=kept)
    return list(merged.values())


# -- where it stands ---------------------------------------------------------------------------


def layers(nodes: Sequence[Node]) -> dict[str, int]:
    """Layer of each node, 0 on top. A cycle, which folding may make, is cut where it closes."""
    by_name = {node.name: node for node in nodes}
    depth: dict[str, int] = {}

    def descend(name: str, above: frozenset[str]) -> int:
        if name not in depth:
            parents = [p for p in by_name[name].parents if p not in above and p in by_name]
            below = above | {name}
            depth[name] = 1 + max((descend(parent, below) for parent in parents), default=-1)
        return depth[name]

    for node in nodes:
        descend(node.name, frozenset())
    children: dict[str, list[str]] = {}
    for node in nodes:
        for parent in node.parents:
            children.setdefault(parent, []).append(node.name)
    for node in nodes:
        if not node.parents and node.name in children:
            depth[node.name] = max(0, min(depth[child] for child in children[node.name]) - 1)
    return depth


def placed(nodes: Sequence[Node]) -> dict[str, tuple[float, float]]:
    """Centre of each node: those in plates by columns, then the others where there is room."""
    depth = layers(nodes)
    inside = [node for node in nodes if node.plates]
    centres = _columns(inside, depth)
    free: dict[int, list[Node]] = {}
    for node in nodes:
        if not node.plates:
            free.setdefault(depth[node.name], []).append(node)
    for layer in sorted(free, reverse=True):
        row = free[layer]
        row = sorted(row, key=lambda n: _pull(n, nodes, centres))
        together = _side_by_side(row, depth, nodes, centres)
        for node in row:
            x = together.get(node.name)
            x = _room(node, depth, nodes, centres) if x is None else x
            centres[node.name] = (x, layer * LAYER)
    return centres


def _side_by_side(
    row: Sequence[Node],
    depth: Mapping[str, int],
    nodes: Sequence[Node],
    centres: Mapping[str, tuple[float, float]],
) -> dict[str, float]:
    """A row about the middle of what it is tied to; empty where something stands there."""
    width = sum(node.width + GAP for node in row)
    left = sum(_pull(node, nodes, centres) for node in row) / len(row) - width / 2
    taken = _taken(depth[row[0].name], depth, nodes, centres)
    if any(left < high - 1 and left + width > low + 1 for low, high in taken):
        return {}
    places = {}
    for node in row:
        places[node.name] = left + (node.width + GAP) / 2
        left += node.width + GAP
    return places


def _columns(nodes: Sequence[Node], depth: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """Centres of the nodes in plates: a band of columns for each set of plates."""
    bands: dict[tuple[str, ...], list[Node]] = {}
    for node in nodes:
        bands.setdefault(tuple(sorted(node.plates)), []).append(node)
    centres: dict[str, tuple[float, float]] = {}
    left = 0.0
    before: tuple[str, ...] = ()
    for band in _band_order(list(bands), nodes):
        left += MARGIN * len(set(band) ^ set(before))  # room for the edges of boxes in between
        rows: dict[int, list[Node]] = {}
        for node in bands[band]:
            rows.setdefault(depth[node.name], []).append(node)
        width = max(sum(n.width + GAP for n in row) for row in rows.values())
        for layer, row in rows.items():
            row = sorted(row, key=lambda n: _pull(n, nodes, centres))
            x = left + (width - sum(n.width + GAP for n in row)) / 2
            for node in row:
                centres[node.name] = (x + (node.width + GAP) / 2, layer * LAYER)
                x += node.width + GAP
        left += width
        before = band
    return centres


def _room(
    node: Node,
    depth: Mapping[str, int],
    nodes: Sequence[Node],
    centres: Mapping[str, tuple[float, float]],
) -> float:
    """The place nearest to what the node is tied to that is free of boxes and of other nodes."""
    wanted = _pull(node, nodes, centres)
    half = node.width / 2 + GAP / 2
    taken = _taken(depth[node.name], depth, nodes, centres)
    places = [wanted, *(low - half for low, _ in taken), *(high + half for _, high in taken)]
    free = [
        x for x in places if all(x + half <= low + 1 or x - half >= high - 1 for low, high in taken)
    ]
    return min(free, key=lambda x: abs(x - wanted))


def _taken(
    layer: int,
    depth: Mapping[str, int],
    nodes: Sequence[Node],
    centres: Mapping[str, tuple[float, float]],
) -> list[tuple[float, float]]:
    """From where to where a layer is taken up by nodes and by the boxes of plates."""
    here = [node for node in nodes if node.name in centres]
    y = layer * LAYER
    reach = {node.name: node.width / 2 + GAP / 2 for node in here}
    taken = [
        (centres[n.name][0] - reach[n.name], centres[n.name][0] + reach[n.name])
        for n in here
        if depth[n.name] == layer
    ]
    boxes = boxes_of([node for node in here if node.plates], centres)
    return taken + [
        (box.left - GAP / 2, box.right + GAP / 2)
        for box in boxes
        if box.top - HEIGHT / 2 < y < box.bottom + HEIGHT / 2
    ]


def _pull(node: Node, nodes: Sequence[Node], centres: Mapping[str, tuple[float, float]]) -> float:
    """Mean place of what the node depends on and of what depends on it, as far as placed."""
    tied = [*node.parents, *(other.name for other in nodes if node.name in other.parents)]
    known = [centres[name][0] for name in tied if name in centres]
    return sum(known) / len(known) if known else 0.0


def _band_order(bands: list[tuple[str, ...]], nodes: Sequence[Node]) -> list[tuple[str, ...]]:
    """Order of the plate sets: every plate in one run where possible, then short arrows."""
    if len(bands) > 7:
        return sorted(bands)
    band_of = {node.name: tuple(sorted(node.plates)) for node in nodes}
    plates = {plate for band in bands for plate in band}

    def cost(order: Sequence[tuple[str, ...]]) -> tuple[int, int]:
        place = {band: i for i, band in enumerate(order)}
        broken = 0
        for plate in plates:
            inside = [i for i, band in enumerate(order) if plate in band]
            broken += inside[-1] - inside[0] + 1 - len(inside)
        length = sum(
            abs(place[band_of[node.name]] - place[band_of[parent]])
            for node in nodes
            for parent in node.parents
            if parent in band_of
        )
        return broken, length

    return min((list(order) for order in itertools.permutations(bands)), key=cost)


def boxes_of(nodes: Sequence[Node], centres: Mapping[str, tuple[float, float]]) -> list[Box]:
    """A box around the members of each plate, the widest first; inner ones fit into outer ones."""
    members = {
        plate: [node for node in nodes if plate in node.plates]
        for plate in dict.fromkeys(plate for node in nodes for plate in node.plates)
    }
    boxes = []
    for plate, inside in members.items():
        names = {node.name for node in inside}
        within = sum(
            1
            for other, theirs in members.items()
            if other != plate
            and {n.name for n in theirs} <= names
            and ({n.name for n in theirs} < names or other > plate)
        )
        pad = MARGIN * 0.75 + within * MARGIN
        boxes.append(
            Box(
                plate,
                min(centres[n.name][0] - n.width / 2 for n in inside) - pad,
                min(centres[n.name][1] for n in inside) - HEIGHT / 2 - pad,
                max(centres[n.name][0] + n.width / 2 for n in inside) + pad,
                max(centres[n.name][1] for n in inside) + HEIGHT / 2 + pad + 11 * (1 + within),
            )
        )
    return sorted(boxes, key=lambda box: box.left - box.right)


# -- drawing -----------------------------------------------------------------------------------


def draw(nodes: Sequence[Node], sizes: Mapping[str, int]) -> str:
    """The graph as SVG; ``ALT`` stands where its description goes."""
    centres = placed(nodes)
    boxes = boxes_of(nodes, centres)
    lefts = [box.left for box in boxes] + [centres[n.name][0] - n.width / 2 for n in nodes]
    rights = [box.right for box in boxes] + [centres[n.name][0] + n.width / 2 for n in nodes]
    tops = [box.top for box in boxes] + [y - HEIGHT / 2 for _, y in centres.values()]
    bottoms = [box.bottom for box in boxes] + [y + HEIGHT / 2 for _, y in centres.values()]
    left, top = min(lefts) - 4, min(tops) - 4
    width, height = max(rights) + 4 - left, max(bottoms) + 4 - top
    arrow = (
        f'<defs><marker id="{ID_PREFIX}arrow" viewBox="0 0 8 8" refX="7" refY="4" '
        'markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
        '<path d="M0 .8L7.4 4L0 7.2z" style="fill:var(--muted)"/></marker></defs>'
    )
    parts = [
        *(_box(box) for box in boxes),
        *_arrows(nodes, centres),
        *(_plate_name(box, sizes.get(box.name), nodes, centres) for box in boxes),
        *(_node(node, *centres[node.name]) for node in nodes),
    ]
    return (
        f'<svg viewBox="{left:.1f} {top:.1f} {width:.1f} {height:.1f}" role="img" '
        f'aria-label="ALT" style="--natural:{width:.0f}">{arrow}{"".join(parts)}</svg>'
    )


def _box(box: Box) -> str:
    return (
        f'<rect x="{box.left:.1f}" y="{box.top:.1f}" width="{box.right - box.left:.1f}" '
        f'height="{box.bottom - box.top:.1f}" rx="7" '
        'style="fill:none;stroke:var(--axis);stroke-width:1"/>'
    )


def _plate_name(
    box: Box,
    size: int | None,
    nodes: Sequence[Node],
    centres: Mapping[str, tuple[float, float]],
) -> str:
    """Name and size, in the lower corner that fewer arrows cross."""
    label = plain(box.name, 24) + (f" = {size}" if size is not None else "")
    width = 5.4 * len(label)
    corners = {"end": (box.right - 7 - width, box.right), "start": (box.left, box.left + 7 + width)}
    ends = [(centres[parent], centres[node.name]) for node in nodes for parent in node.parents]

    def crossings(corner: str) -> int:
        low, high = corners[corner]
        share = np.linspace(0, 1, 60)[:, None]
        count = 0
        for start, end in ends:
            x, y = (np.array(start) + share * np.subtract(end, start)).T
            over = (x > low) & (x < high) & (y > box.bottom - 15) & (y < box.bottom)
            count += bool(over.any())
        return count

    corner = min(corners, key=crossings)
    x = box.right - 7 if corner == "end" else box.left + 7
    return (
        f'<text x="{x:.1f}" y="{box.bottom - 5:.1f}" style="font-size:9.5px;'
        f'text-anchor:{corner};fill:var(--muted)">{escape(label)}</text>'
    )


def _node(node: Node, x: float, y: float) -> str:
    fill = "var(--shade)" if node.kind == "observed" else "var(--paper)"
    dash = ";stroke-dasharray:4 3" if node.kind == "discrete" else ""
    style = f"fill:{fill};stroke:var(--ink);stroke-width:1.2{dash}"
    half = node.width / 2
    if node.kind == "deterministic":
        shape = (
            f'<rect x="{x - half:.1f}" y="{y - HEIGHT / 2:.1f}" width="{node.width:.1f}" '
            f'height="{HEIGHT}" rx="3" style="{style}"/>'
        )
    else:
        radii = f'rx="{half:.1f}" ry="{HEIGHT / 2}"'
        shape = f'<ellipse cx="{x:.1f}" cy="{y:.1f}" {radii} style="{style}"/>'
    name, under = plain(node.name, 20), plain(node.distribution, 22)
    text = (
        f'<text x="{x:.1f}" y="{y + (-1 if under else 4):.1f}" '
        f'style="font-size:12px;text-anchor:middle;fill:var(--ink)">{escape(name)}</text>'
    )
    if under:
        text += (
            f'<text x="{x:.1f}" y="{y + 11:.1f}" '
            f'style="font-size:8.5px;text-anchor:middle;fill:var(--muted)">{escape(under)}</text>'
        )
    return f"<g><title>{escape(plain(node.name))}</title>{shape}{text}</g>"


def _arrows(nodes: Sequence[Node], centres: Mapping[str, tuple[float, float]]) -> list[str]:
    by_name = {node.name: node for node in nodes}
    arrows = []
    for node in nodes:
        for parent in node.parents:
            start, end = by_name[parent], node
            arrows.append(_arrow(start, end, nodes, centres))
    return arrows


def _arrow(
    start: Node, end: Node, nodes: Sequence[Node], centres: Mapping[str, tuple[float, float]]
) -> str:
    """A straight arrow, or one bent around the nodes that it would cross."""
    a, b = centres[start.name], centres[end.name]
    bend = _bend(a, b, [n for n in nodes if n.name not in (start.name, end.name)], centres)
    middle = ((a[0] + b[0]) / 2 + bend, (a[1] + b[1]) / 2)
    first = _edge(a, middle, start.width / 2)
    last = _edge(b, middle, end.width / 2)
    path = (
        f"M{first[0]:.1f} {first[1]:.1f}"
        + (f"Q{middle[0]:.1f} {middle[1]:.1f} " if bend else "L")
        + f"{last[0]:.1f} {last[1]:.1f}"
    )
    return (
        f'<path d="{path}" marker-end="url(#{ID_PREFIX}arrow)" '
        'style="fill:none;stroke:var(--muted);stroke-width:1.1"/>'
    )


def _edge(
    centre: tuple[float, float], toward: tuple[float, float], half: float
) -> tuple[float, float]:
    """Where the line from the centre of an ellipse leaves it."""
    dx, dy = toward[0] - centre[0], toward[1] - centre[1]
    scale = math.hypot(dx / half, dy / (HEIGHT / 2)) or 1.0
    return centre[0] + dx / scale, centre[1] + dy / scale


def _bend(
    a: tuple[float, float],
    b: tuple[float, float],
    others: Sequence[Node],
    centres: Mapping[str, tuple[float, float]],
) -> float:
    """How far sideways the middle of an arrow must go to pass the nodes between its ends."""
    for share in np.linspace(0.08, 0.92, 24):
        x, y = a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])
        for node in others:
            cx, cy = centres[node.name]
            if math.hypot((x - cx) / (node.width / 2 + 3), (y - cy) / (HEIGHT / 2 + 3)) < 1:
                side = 1.0 if x >= cx else -1.0
                return side * (node.width + 30)
    return 0.0
