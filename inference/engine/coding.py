"""Lossless coding of sequences by what a story foretells: close to ``-log2 p`` bits.

A range coder (Pasco 1976; Martin 1979; here that of ``constriction``, Bamler 2022) spends
``-log2 f(x)`` bits on a symbol ``x`` to which whole-number frequencies ``f`` give the share
``f(x)``. They are taken from the story's posterior predictive (``foretelling.py``).
Whoever decodes has to come to the very same frequencies: encoding and decoding are one loop over
one step, with as many sequences side by side and one thread, since sums in another order round in
another way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from storyzoo.errors import DataError, RefusedError, StoryzooError
from storyzoo.inference.engine.foretelling import Mixture, as_steps, one_way
from storyzoo.inference.engine.groups import each_draw
from storyzoo.inference.engine.progress import Progress
from storyzoo.story import Story

LANES = 64
"""Sequences that are coded side by side; part of the format."""
TOTAL = 2**24
"""What frequencies add up to; part of the format."""

SLACK = 64
"""Bits that symbols may tell beyond those of the content, for rounding."""

Array = NDArray[np.float64]
Symbols = NDArray[np.int64]


class OtherSymbolsError(Exception):
    """What is decoded is not what was encoded: the frequencies differ."""


class Extent(NamedTuple):
    """How much was encoded, as whoever decodes is told."""

    sequences: int
    steps: int
    """Of all sequences, without END."""
    lengths: Sequence[int] | None = None
    """Steps of each, where none tells its end."""


def encode(
    story: Story,
    draws: Mapping[str, np.ndarray],
    sequences: Sequence[np.ndarray],
    end: int | None,
    progress: Progress | None = None,
) -> bytes:
    """Sequences (T,) or (T, K), without END, as bytes; given draws ``(S, *shape)`` of the latents.

    Where ``end`` is None no sequence tells its end: whoever decodes has to be given their lengths.
    """
    writer = _Writer(sequences, end)
    lengths = [len(sequence) for sequence in sequences]
    extent = Extent(len(sequences), sum(lengths), lengths if end is None else None)
    _walk(writer, story, draws, extent, end, progress)
    return writer.content()


def decode(
    story: Story,
    draws: Mapping[str, np.ndarray],
    content: bytes,
    extent: Extent,
    end: int | None,
    progress: Progress | None = None,
) -> list[Symbols]:
    """The sequences, each (T, K), that :func:`encode` made these bytes of.

    Raises OtherSymbolsError where they can't be: the story foretells other shares than it did.
    """
    return _walk(_Reader(content), story, draws, extent, end, progress)


class _Coder(Protocol):
    def symbols(self, rows: Symbols, step: int, place: int, shares: Array) -> Symbols:
        """What stands at a step of some sequences, given the shares (B, V) of what may."""


class _Writer:
    def __init__(self, sequences: Sequence[np.ndarray], end: int | None) -> None:
        self._coder = _constriction().stream.queue.RangeEncoder()
        self._family = _family()
        found = [as_steps(np.asarray(sequence)) for sequence in sequences]
        self._sequences = [s if end is None else np.append(s, [[end]], 0) for s in found]

    def symbols(self, rows: Symbols, step: int, place: int, shares: Array) -> Symbols:
        """Written down as they are known to be."""
        known = np.array([self._sequences[row][step, place] for row in rows], np.int32)
        outside = np.flatnonzero((known < 0) | (known >= shares.shape[1]))
        if len(outside):
            raise DataError(
                f"sequence {rows[outside[0]] + 1}, step {step + 1} holds {known[outside[0]]}: "
                f"symbols of the fit go from 0 to {shares.shape[1] - 1}"
            )
        self._coder.encode(known, self._family, shares)
        return known.astype(np.int64)

    def content(self) -> bytes:
        """All that was written, in words of four bytes, the least byte first."""
        return bytes(self._coder.get_compressed().astype("<u4").tobytes())


class _Reader:
    def __init__(self, content: bytes) -> None:
        words = np.frombuffer(content, "<u4").astype(np.uint32)
        self._coder = _constriction().stream.queue.RangeDecoder(words)
        self._family = _family()
        self._left = 8.0 * len(content) + SLACK

    def symbols(self, rows: Symbols, step: int, place: int, shares: Array) -> Symbols:
        """Read from the content; OtherSymbolsError where there is no more of it."""
        found: Symbols = self._coder.decode(self._family, shares).astype(np.int64)
        self._left += float(np.log2(shares[np.arange(len(found)), found]).sum())
        if self._left < 0:  # a range decoder itself goes on for ever
            raise OtherSymbolsError
        return found


def _walk(
    coder: _Coder,
    story: Story,
    draws: Mapping[str, np.ndarray],
    extent: Extent,
    end: int | None,
    progress: Progress | None,
) -> list[Symbols]:
    """All sequences, some side by side, each to its end."""
    latents = [{name: v.cpu() for name, v in one.items()} for one in each_draw(draws)]
    lanes = LANES if story.ragged else 1
    found: list[Symbols] = []
    left = extent.steps
    with one_way(story):
        for first in range(0, extent.sequences, lanes):
            rows = np.arange(first, min(extent.sequences, first + lanes))
            limit = None if extent.lengths is None else np.array(extent.lengths)[rows]
            mixture = Mixture(story, latents, len(rows))
            group = _walk_group(coder, mixture, rows, end, limit, left, progress)
            left -= sum(map(len, group))
            found += group
    return found


def _walk_group(
    coder: _Coder,
    mixture: Mixture,
    rows: Symbols,
    end: int | None,
    limit: Symbols | None,
    left: int,
    progress: Progress | None,
) -> list[Symbols]:
    """Sequences side by side, until the last has ended; ``left`` is how many steps there may be."""
    told: list[list[Symbols]] = [[] for _ in rows]
    alive = np.ones(len(rows), bool) if limit is None else limit > 0
    step = 0
    while alive.any():
        some = np.flatnonzero(alive)
        observed = np.zeros((len(rows), mixture.foretell()), np.int64)
        for place in range(observed.shape[1]):
            shares = quantised(mixture.shares(place)[some])
            observed[some, place] = coder.symbols(rows[some], step, place, shares)
            mixture.weigh(place, observed[:, place])
        ended = np.zeros(len(rows), bool) if end is None else observed[:, 0] == end
        going = np.flatnonzero(alive & ~ended)
        for lane in going:
            told[lane].append(observed[lane])
        left -= len(going)
        if left < 0:
            raise OtherSymbolsError
        if progress is not None:
            progress.update(len(going))
        step += 1
        alive &= ~ended if limit is None else step < limit
        mixture.observe(np.where(ended[:, None], 0, observed))
    return [as_steps(np.array(steps, np.int64)) for steps in told]


def quantised(shares: Array) -> Array:
    """Probabilities (B, V) as multiples of ``1 / TOTAL``, none of them zero.

    Each symbol gets one, the rest goes by the probabilities rounded down, what is left over to the
    likeliest.
    """
    if shares.shape[1] > TOTAL // 4:
        raise RefusedError(f"{shares.shape[1]:,} symbols are too many to code")
    free = TOTAL - shares.shape[1]
    frequency = np.floor(shares / shares.sum(1, keepdims=True) * free) + 1
    rows = np.arange(len(shares))
    frequency[rows, shares.argmax(1)] += TOTAL - frequency.sum(1)
    found: Array = frequency / TOTAL
    return found


def _family() -> Any:
    """Categories whose probabilities come with each call."""
    return _constriction().stream.model.Categorical(perfect=False)


def _constriction() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise StoryzooError(
            "compressing needs the package constriction: pip install 'storyzoo[compress]'"
        ) from error
    return constriction
