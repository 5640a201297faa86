"""What is in a file, as sequences of symbols and back, for whoever compresses it.

The bytes that come back are those that went in. Text does so whatever it is; images are bytes, one
for each pixel. Of graphs and of tables one way of writing them is canonical, and a file that is
written in another is refused, with the first line that would come back otherwise:

- graphs (a fit to edge lists): nodes are numbered from 0 in each graph, a line holds an edge
  ``u v`` with ``u < v`` or a node that has no edge, lines are in the order of their numbers, and
  one blank line parts two graphs. The numbers are the order in which the nodes are told: any order
  comes back, a breadth-first one takes the fewest bits.
- tables (piano rolls, tokens without a codec): CSV as ``zoo simulate`` writes it, a row per step,
  first the number of the sequence, then a whole number for each symbol of the step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storyzoo.datasets import graphs
from storyzoo.datasets.adjacency import Adjacency
from storyzoo.datasets.codecs import TextCodec
from storyzoo.datasets.raster import Raster
from storyzoo.errors import DataError, RefusedError
from storyzoo.fit import Fit

Symbols = NDArray[np.int64]


class Content(ABC):
    """How the files that a fit can take become sequences."""

    @abstractmethod
    def encode(self, name: str, content: bytes) -> list[Symbols]:
        """Sequences (T,) or (T, K) of a file. DataError where it holds anything else."""

    @abstractmethod
    def decode(self, sequences: Sequence[Symbols]) -> bytes:
        """The file that such sequences (T, K) were in; ValueError where they were in none."""


def content_of(fit: Fit) -> Content:
    """What files of a fit hold; RefusedError where a file of it can't be told symbol by symbol."""
    codec, story = fit.codec, fit.story
    if isinstance(codec, TextCodec):
        return Text(codec)
    if isinstance(codec, Raster):
        if codec.levels != codec.high - codec.low + 1:
            raise RefusedError(
                f"{fit.data_name} has fewer levels than pixels have values, so that images "
                "can't be given back: fit with codec=raster alone"
            )
        return Images(codec)
    if isinstance(codec, Adjacency):
        return Graphs(codec)
    dim = next(iter(story.ragged), None)
    outcomes = [name for name in fit.structure.outcomes if name not in story.ragged.values()]
    dims = story.data_dims.get(outcomes[0], ()) if len(outcomes) == 1 else ()
    if not 1 <= len(dims) <= 2 or (dim is not None and dims[0] != dim):
        raise RefusedError(
            f"{story.name} on {fit.data_name} compresses no files: fit it to text with "
            "codec=characters, to images with codec=raster, or to graphs"
        )
    columns = outcomes if len(dims) == 1 else list(map(str, fit.coords[dims[1]]))
    return Table(tuple(columns), None if dim is None else str(story.examples))


@dataclass(frozen=True)
class Text(Content):
    """Any file, as text cut up as the fit's was."""

    codec: TextCodec

    def encode(self, name: str, content: bytes) -> list[Symbols]:
        """Bytes that are no UTF-8 are escaped as Python does."""
        texts = self.codec.cut(content.decode("utf-8", "surrogateescape"))
        return [np.array(self.codec.encode(text), np.int64) for text in texts]

    def decode(self, sequences: Sequence[Symbols]) -> bytes:
        """The bytes of the joined text."""
        found = (self.codec.decode(sequence[:, 0].tolist()) for sequence in sequences)
        return self.codec.joined(found).encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Images(Content):
    """Images one after another, a byte for each pixel."""

    codec: Raster

    def encode(self, name: str, content: bytes) -> list[Symbols]:
        """A sequence for each image."""
        codec, size = self.codec, len(self.codec.columns)
        if len(content) % size:
            raise DataError(
                f"{name} has {len(content):,} bytes, but an image of the fit has {size} "
                "pixels: give images one after another, a byte for each pixel"
            )
        pixels = np.frombuffer(content, np.uint8).reshape(-1, size)
        outside = (pixels < codec.low) | (pixels > codec.high)
        if outside.any():
            image, place = np.argwhere(outside)[0]
            raise DataError(
                f"{name}: image {image + 1}, pixel {place + 1} is {pixels[image, place]}: "
                f"pixels of the fit go from {codec.low:g} to {codec.high:g}"
            )
        return [*codec.encode(pixels.astype(float))]

    def decode(self, sequences: Sequence[Symbols]) -> bytes:
        """A byte for each pixel."""
        images = np.stack([sequence[:, 0] for sequence in sequences])
        return bytes(self.codec.decode(images).round().astype(np.uint8).tobytes())


@dataclass(frozen=True)
class Graphs(Content):
    """An edge list in its canonical form."""

    codec: Adjacency

    def encode(self, name: str, content: bytes) -> list[Symbols]:
        """A sequence for each graph, its nodes in the order of their numbers."""
        lines = _decoded(name, content).split("\n")
        found = graphs.parsed(name, [lines])
        sequences = []
        for number, graph in enumerate(found, start=1):
            numbers = [str(node) for node in range(len(graph))]
            if other := sorted(set(graph) - set(numbers)):
                raise DataError(
                    f"{name}, graph {number} has a node called {other[0]!r}: number its "
                    f"{len(graph)} nodes from 0 to {len(graph) - 1}, best in breadth-first order"
                )
            tokens = self.codec.encode(graph, numbers)
            graphs.check_reach(f"{name}, graph {number}", graph, tokens, self.codec)
            sequences.append(np.array(tokens, np.int64))
        _check_same(
            name, content, self._written(sequences), "write a line for each edge u v with u < v or "
            "lone node, in the order of their numbers, and one blank line between graphs",
        )  # fmt: skip
        return sequences

    def decode(self, sequences: Sequence[Symbols]) -> bytes:
        """The canonical form."""
        return self._written([sequence[:, 0] for sequence in sequences])

    def _written(self, sequences: Sequence[Symbols]) -> bytes:
        found = [self.codec.decode(sequence.tolist()) for sequence in sequences]
        told = [graph for graph in found if graph is not None]
        if len(told) < len(found):
            raise ValueError("a sequence is no graph")
        return graphs.written(told).encode()


@dataclass(frozen=True)
class Table(Content):
    """CSV of whole numbers in its canonical form, a row per step."""

    columns: tuple[str, ...]
    """Of the symbols of a step."""
    number: str | None
    """Of the sequence's number; None where there is but one sequence."""

    @property
    def _header(self) -> str:
        return ",".join(([] if self.number is None else [self.number]) + list(self.columns))

    def encode(self, name: str, content: bytes) -> list[Symbols]:
        """A sequence (T, K) for each number."""
        head, *lines = _decoded(name, content).removesuffix("\n").split("\n")
        if head != self._header:
            few = self._header if len(self._header) < 80 else f"{self._header[:76]} …"
            raise DataError(
                f"{name}, line 1 does not name the columns {few!r}: give a table as zoo simulate "
                "writes it"
            )
        width = head.count(",") + 1
        try:
            cells = [[int(cell) for cell in line.split(",")] for line in lines]
            rows = np.array(cells, np.int64).reshape(-1, width)
            if len(rows) != len(lines):
                raise ValueError
        except (ValueError, OverflowError):
            wrong = next(i for i, line in enumerate(lines) if not _is_row(line, width))
            raise DataError(
                f"{name}, line {wrong + 2} is not {width} whole numbers with commas between: give "
                "a table as zoo simulate writes it"
            ) from None
        if self.number is None:
            sequences = [rows]
        else:
            first = np.flatnonzero(np.diff(rows[:, 0], prepend=rows[:1, 0] - 1))
            sequences = np.split(rows[:, 1:], first[1:]) if len(rows) else []
        _check_same(
            name, content, self.decode(sequences), "number sequences from 1 in their order and "
            "write plain whole numbers",
        )  # fmt: skip
        return sequences

    def decode(self, sequences: Sequence[Symbols]) -> bytes:
        """The canonical form."""
        lines = [self._header]
        for number, sequence in enumerate(sequences, start=1):
            first = "" if self.number is None else f"{number},"
            lines += [first + ",".join(map(str, step)) for step in sequence.tolist()]
        return "".join(f"{line}\n" for line in lines).encode()


def _is_row(line: str, width: int) -> bool:
    cells = line.removeprefix("-").replace(",-", ",").split(",")
    whole = all(cell.isascii() and cell.isdigit() and len(cell) < 19 for cell in cells)
    return len(cells) == width and whole


def _decoded(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}, line {line} is not UTF-8: save the file as UTF-8") from None


def _check_same(name: str, content: bytes, back: bytes, remedy: str) -> None:
    """DataError with the first line that would come back otherwise."""
    if content == back:
        return
    ours, theirs = back.split(b"\n"), content.split(b"\n")
    place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if place is None:
        place = min(len(ours), len(theirs)) - 1
        raise DataError(f"{name} ends otherwise at line {place + 1} than it would come back: "
                        "end it with one line feed")  # fmt: skip
    was, will = (line[:40].decode(errors="replace") for line in (theirs[place], ours[place]))
    raise DataError(f"{name}, line {place + 1} is {was!r} and would come back as {will!r}: "
                    f"{remedy}")  # fmt: skip
