"""Sequences: some of the data beside some of the story's own, and how they were foretold.

Drawn as what they are, by the codec that made tokens of them: text as text, images as images,
graphs as graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from storyzoo.datasets.adjacency import Adjacency
from storyzoo.datasets.codecs import Codec, TextCodec, from_record
from storyzoo.datasets.raster import Raster
from storyzoo.inference.engine.continuation import Sampling
from storyzoo.inference.engine.foretelling import Foretold, foretold
from storyzoo.inference.engine.groups import each_draw, thinned
from storyzoo.inference.engine.simulation import Simulator
from storyzoo.inference.engine.tree import draws_of
from storyzoo.reports.figures import Figure, Key, Panel
from storyzoo.reports.figures.images import Scale, heat_map, keys_of, mosaic, side_of
from storyzoo.reports.figures.marks import Bar, bars
from storyzoo.reports.figures.node_link import node_link
from storyzoo.reports.figures.passages import END, FEED, SHADES, STEP, Piece, passages, shaded
from storyzoo.reports.figures.svg import Canvas, colour
from storyzoo.reports.graph_statistics import SIGMAS, discrepancies, random_likes
from storyzoo.reports.numbers import grouped, rounded

if TYPE_CHECKING:
    from networkx import Graph

    from storyzoo.reports.page import Fitted

DRAWS = 4
"""Of the posterior, by which sequences are drawn and read."""
READ = 20_000
"""Steps of the data that are read for how they were foretold,"""
LONGEST = 2_000
"""of each sequence at most so many."""
PASSAGES, LETTERS = 6, 240
"""Texts of a panel, and the letters of each that are shown."""
DRAWN = 900
"""Letters, or tokens, after which a text that the fit draws is cut."""
SURPRISED = 900
"""Letters shown by how they were foretold."""
IMAGES = 36
GRAPHS = 12
COMPARED = 150
"""Graphs of each kind whose statistics are compared."""
WHOLE = 10**9
"""Where nothing is cut."""
SEED = 21
EDGES = np.array([0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
"""Between bins of foretold probabilities."""
FEWEST = 20
"""Foretold probabilities in a bin that is drawn."""

Array = NDArray[np.float64]
Sequences = list[NDArray[np.int64]]


class Told(NamedTuple):
    """A fit of sequences, as its figures read it."""

    fit: Fitted
    codec: Codec | None
    draws: Mapping[str, Array]
    """A few, ``(S, *shape)``."""
    data: Sequences
    end: int | None


def figures(fit: Fitted) -> list[Figure]:
    """Samples beside data, what was surprising, calibration; for graphs their statistics."""
    told = told_of(fit)
    if not told.draws or not all(np.isfinite(values).all() for values in told.draws.values()):
        return []
    chosen = evenly(told.data, READ, LONGEST)
    read = foretold(fit.story, told.draws, chosen, told.end, EDGES)
    found: list[Figure] = []
    if isinstance(told.codec, TextCodec):
        found += [texts_beside(told, told.codec), surprise(told.codec, chosen, read)]
    elif isinstance(told.codec, Raster):
        found += images(told, told.codec, read)
    elif isinstance(told.codec, Adjacency):
        found += graphs(told, told.codec)
    return [*found, calibration(read), *compression(fit)]


def told_of(fit: Fitted) -> Told:
    """The sequences of a fit, with a few draws of its parameters."""
    record = fit.description.get("codec")
    posterior = fit.units.fitted(fit.tree)["posterior"]
    kept = all(name in posterior for name in fit.structure.latents)
    draws = thinned(draws_of(fit.structure, posterior), DRAWS) if kept else {}
    data = fit.target.data
    return Told(
        fit,
        None if record is None else from_record(record),
        draws,
        parted(data["token"].cpu().numpy(), data["length"].cpu().numpy()),
        fit.story.ends(data),
    )


def parted(tokens: NDArray[np.int64], length: NDArray[np.int64]) -> Sequences:
    """Sequences that lie end to end, each by itself."""
    return np.split(tokens, np.cumsum(length)[:-1])


def evenly(sequences: Sequences, steps: int, longest: int) -> Sequences:
    """Some of them, spread evenly, each cut after ``longest`` steps, about ``steps`` together."""
    size = float(np.mean([min(len(sequence), longest) for sequence in sequences])) + 1
    count = min(len(sequences), max(1, round(steps / size)))
    places = np.linspace(0, len(sequences) - 1, count).round().astype(int)
    return [sequences[place][:longest] for place in places]


def drawn(told: Told, count: int, most: int | None = None) -> Sequences:
    """Sequences that the fit draws, from several draws of its parameters."""
    simulator = Simulator(told.fit.target)
    rng = np.random.default_rng([told.fit.seed, SEED])
    found: Sequences = []
    shares = np.array_split(np.arange(count), len(next(iter(told.draws.values()))))
    sampling = Sampling(most=most if told.end is not None else None)
    for share, latents in zip(shares, each_draw(told.draws), strict=True):
        if len(share):
            placed = {name: value.to(told.fit.target.device) for name, value in latents.items()}
            values = simulator.data(placed, rng, len(share), sampling)
            token, length = (np.asarray(values[key].cpu()) for key in ("token", "length"))
            found += parted(token, length)
    return found


# -- text --------------------------------------------------------------------------------------


def texts_beside(told: Told, codec: TextCodec) -> Figure:
    """Some texts of the data beside as many of the fit's own."""
    seen = [codec.decode(s[:DRAWN].tolist()) for s in evenly(told.data, WHOLE, DRAWN)]
    seen = [seen[i] for i in np.linspace(0, len(seen) - 1, PASSAGES).round().astype(int)]
    own = [codec.decode(s.tolist()) for s in drawn(told, PASSAGES, DRAWN)]
    panels = (
        passages([short(text) for text in dict.fromkeys(seen)], "Texts of the data.", "the data"),
        passages([short(text) for text in own], "Texts drawn by the fit.", "drawn by the fit"),
    )
    caption = f"A paragraph each, at most {LETTERS} letters of it. Were the fit right, one could "
    caption += "not tell which side is the data."
    return Figure("samples", "Data and samples", caption, panels)


def short(text: str) -> str:
    """Its first letters; a dash where it has none."""
    return (text[:LETTERS] + "…" if len(text) > LETTERS else text) or "–"


def surprise(codec: TextCodec, sequences: Sequences, read: Foretold) -> Figure:
    """Some texts of the data, each token on a ground by its bits."""
    shown: list[list[Piece]] = []
    letters = 0
    for sequence, bits in zip(sequences, read.bits, strict=True):
        pieces = pieces_of(codec, sequence, bits)
        whole = sum(len(piece.text) for piece in pieces)
        if shown and letters + whole > SURPRISED:
            break
        shown.append(pieces[: SURPRISED - letters])
        letters += whole
    every = np.concatenate(read.bits)
    mean, median = (grouped(float(value), 3) for value in (every.mean(), np.median(every)))
    caption = (
        "Texts that the fit was given, each token on a colour as full as it was surprising. "
        f"{FEED} is a line feed, {END} the end of a sequence. The mean over "
        f"{grouped(len(every))} tokens is {mean} bits, their median {median}; new text surprises "
        "more."
    )
    panel = shaded(shown, "Texts of the data by surprise.")
    keys = tuple(
        Key(f"s{level}", "c1", f"{level * STEP:g} bits{' or more' if level == SHADES else ''}")
        for level in range(1, SHADES + 1)
    )
    return Figure("surprise", "What was surprising", caption, (panel,), keys)


def pieces_of(codec: TextCodec, tokens: NDArray[np.int64], bits: Array) -> list[Piece]:
    """The text of each token with its bits, what is spelt out as one; END at the end."""
    pieces, place = [], 0
    for size in codec.spans(tokens.tolist()):
        text = codec.decode(tokens[place : place + size].tolist())
        text = text.encode("utf-8", "replace").decode()
        pieces.append(Piece(text, float(bits[place : place + size].sum())))
        place += size
    if len(bits) > len(tokens):
        pieces.append(Piece(END, float(bits[-1])))
    return pieces


def compression(fit: Fitted) -> list[Figure]:
    """How many bytes held-out text takes by the fit, and by programs that know nothing of it."""
    metrics: Mapping[str, Any] = fit.summary.get("metrics", {})
    original = metrics.get("heldout_text_bytes")
    rows = [
        (label, metrics.get(f"heldout_{name}_bytes"))
        for name, label in (
            ("coded", "this fit"),
            ("xz", "xz -9e"),
            ("zstd", "zstd -19"),
            ("gzip", "gzip -9"),
            ("text", "not compressed"),
        )
    ]
    known = [(label, float(size)) for label, size in rows if size]
    if not original or len(known) < 3:
        return []
    marks = [Bar(label, size, grouped(size)) for label, size in known]
    said = ", ".join(f"{label} {grouped(size)}" for label, size in known)
    caption = (
        f"The {grouped(original)} bytes of text held out: by the fit as many as they score, which "
        "zoo compress comes within a hundredth of. The fit itself, without which they can't be "
        "read, is not counted; the others start from nothing."
    )
    panel = bars(marks, f"Bytes of held-out text: {said}.", width=345)
    return [Figure("compression", "Compression", caption, (panel,))]


# -- images ------------------------------------------------------------------------------------


def images(told: Told, codec: Raster, read: Foretold) -> list[Figure]:
    """Images of the data beside the fit's own, and where pixels are hard to foretell."""
    side = side_of(len(codec.columns), codec.columns)
    seen = as_rows(evenly(told.data, IMAGES * (len(codec.columns) + 1), WHOLE)[:IMAGES])
    own = [image for image in drawn(told, len(seen)) if len(image) == seen.shape[1]]
    scale = Scale(0.0, float(codec.levels - 1))

    def panel(rows: Array, title: str, alt: str) -> Panel:
        if side is None:
            return heat_map(rows, scale, alt, title)
        return mosaic(rows.reshape(-1, side, side), scale, alt, title)

    panels = [panel(seen, "the data", f"{len(seen)} images of the data.")]
    if own:
        panels.append(panel(as_rows(own), "drawn by the fit", f"{len(own)} images of the fit."))
    caption = "Were the fit right, one could not tell which side is the data."
    keys = keys_of(scale, codec.symbols[-1])
    found = [Figure("samples", "Data and samples", caption, tuple(panels), keys)]
    whole = [bits[: seen.shape[1]] for bits in read.bits if len(bits) >= seen.shape[1]]
    if side is None or not whole:
        return found
    mean = np.mean(whole, axis=0)
    scale = Scale(0.0, max(float(mean.max()), 1e-9), above="c1")
    caption = (
        f"Mean bits of each pixel given all before it, row by row from the upper left, over "
        f"{grouped(len(whole))} images that the fit was given; {grouped(float(mean.mean()), 3)} "
        "per pixel."
    )
    hard = mosaic(mean.reshape(1, side, side), scale, f"Mean bits per pixel; {caption}")
    keys = keys_of(scale, f"{rounded(float(mean.max()))} bits")
    return [*found, Figure("surprise", "Where it is surprising", caption, (hard,), keys)]


def as_rows(images: Sequences) -> Array:
    """Images of one size as rows (N, pixels)."""
    return np.stack(images).astype(float)


# -- graphs ------------------------------------------------------------------------------------


def graphs(told: Told, codec: Adjacency) -> list[Figure]:
    """Graphs of the data beside the fit's own, and how their statistics compare."""
    seen = known(codec, evenly(told.data, WHOLE, WHOLE))
    seen = [seen[i] for i in np.linspace(0, len(seen) - 1, min(len(seen), COMPARED)).astype(int)]
    tried = drawn(told, COMPARED)
    own = known(codec, tried)
    few = [seen[i] for i in np.linspace(0, len(seen) - 1, min(len(seen), GRAPHS)).astype(int)]
    panels = [replace(node_link(few, f"{len(few)} graphs of the data."), title="the data")]
    caption = f"{len(own)} of {len(tried)} sequences that the fit drew are graphs."
    if not own:
        return [Figure("samples", "Data and samples", caption, tuple(panels))]
    some = own[:GRAPHS]
    panels.append(
        replace(node_link(some, f"{len(some)} graphs of the fit."), title="drawn by the fit")
    )
    return [Figure("samples", "Data and samples", caption, tuple(panels)), statistics(seen, own)]


def known(codec: Adjacency, sequences: Sequences) -> list[Graph]:
    """The graphs among sequences, those without nodes left out."""
    found = [codec.decode(sequence.tolist()) for sequence in sequences]
    return [graph for graph in found if graph is not None and len(graph)]


def statistics(seen: list[Graph], own: list[Graph]) -> Figure:
    """Discrepancies of the fit's graphs, and of random graphs, from those of the data."""
    halves = seen[::2], seen[1::2] or seen
    sets = {"the fit": own, **random_likes(seen, SEED)}
    far = {name: discrepancies(seen, others) for name, others in sets.items()}
    far["half of the data"] = discrepancies(*halves)
    panels = []
    for statistic in SIGMAS:
        marks = [Bar(name, f[statistic], f"{f[statistic]:.4f}") for name, f in far.items()]
        said = ", ".join(f"{mark.name} {mark.said}" for mark in marks)
        panel = bars(marks, f"Squared discrepancy by {statistic}: {said}.", letters=18)
        panels.append(replace(panel, title=statistic))
    caption = (
        f"Squared maximum mean discrepancy between {len(seen)} graphs of the data and {len(own)} "
        "of the fit, by the distributions of their nodes' degrees and local clustering (You et al. "
        "2018); less is nearer. Erdős–Rényi and Barabási–Albert graphs have the nodes of the "
        "data's graphs, and their edges or nearly so. Half of the data against the other half "
        "shows what chance alone makes."
    )
    return Figure("statistics", "Statistics of the graphs", caption, tuple(panels))


# -- calibration -------------------------------------------------------------------------------


def calibration(read: Foretold, what: str = "symbol") -> Figure:
    """How often symbols, or keys, came that were foretold with some probability."""
    enough = read.number >= FEWEST
    number, came = read.number[enough], read.came[enough]
    told, share = read.expected[enough] / number, came / number
    error = np.sqrt(np.maximum(told * (1 - told), 1e-12) / number)
    canvas = Canvas()
    low = max(float(np.min(told, initial=1.0)) / 2, 1e-5)
    canvas.axes.plot([low, 1], [low, 1], color=colour("muted"), lw=1.0, ls=(0, (4, 2.5)))
    seen = share > 0
    canvas.axes.errorbar(
        told[seen], share[seen], [np.minimum(2 * error, share * 0.999)[seen], 2 * error[seen]],
        fmt="o", ms=4, color=colour("c0"), lw=1.1, capsize=2,
    )  # fmt: skip
    canvas.axes.set_xscale("log")
    canvas.axes.set_yscale("log")
    for axis in (canvas.axes.xaxis, canvas.axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    canvas.axes.set_xlim(low, 1.3)
    canvas.axes.set_ylim(max(low / 3, float(np.min(share[seen], initial=1.0)) / 2), 1.5)
    canvas.axes.set_xlabel("probability foretold")
    canvas.axes.set_ylabel("share that came")
    gap = float(np.abs(read.expected - read.came).sum() / max(read.number.sum(), 1))
    steps = sum(map(len, read.bits))
    caption = (
        f"Every {what} at {grouped(steps)} steps of sequences that the fit was given, by the "
        "probability it was foretold with: how often it came. On the line the fit says neither too "
        f"much nor too little. Whiskers are two standard errors, as if steps were independent. The "
        f"mean gap is {rounded(gap, digits=2)}."
    )
    keys = (Key("o", "c0", f"{what}s"), Key("dashed", "muted", "as foretold"))
    return Figure("calibration", "Calibration", caption, (canvas.panel(caption),), keys)
