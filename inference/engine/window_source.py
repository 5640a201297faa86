"""Noisy gradients of a network over sequences, for stochastic-gradient samplers.

``g(q) = d log prior(q) / dq + R / B sum_{r in B pieces} d log p(piece_r | q) / dq``

Pieces are the sequences themselves, or parts of at most so many steps of longer ones, each told as
if it began there: then the posterior that is sampled is that of the parts, and a note says so. Each
chain starts where an ascent of its own by Adam ended: networks have many modes, chains don't cross
between them, and draws of several foretell better together than those of one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Generator, Tensor

from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.slices import Batch
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.vi_starts import Starts
from storyzoo.inference.engine.window_gradient import WindowDensity
from storyzoo.inference.engine.windows import Pieces, Window, cut, whole
from storyzoo.story import Fantasies, Unrolled

PROBES = 40
"""Slices from which the width of each coordinate is told."""
MANY = 4
"""Pieces over a slice, at least, while widths are told."""


class PieceSlices:
    """Slices of pieces, one after another, each piece once per round."""

    def __init__(self, pieces: Pieces, batch_size: int | None) -> None:
        count = len(pieces.length)
        self.pieces = pieces
        self.size = count if batch_size is None else min(batch_size, count)
        self.whole = self.size == count
        self.share = self.size / count

    def first(self, generator: Generator) -> Batch:
        """Before the first step."""
        return Batch(self._shuffled(generator), 0)

    def next(self, batch: Batch, generator: Generator) -> Batch:
        """The slice after this one; a new round in a new order where too few pieces are left."""
        place = batch.place + self.size
        if place + self.size > len(self.pieces.length):
            return Batch(self._shuffled(generator), 0)
        return Batch(batch.order, place)

    def _shuffled(self, generator: Generator) -> Tensor:
        return torch.randperm(len(self.pieces.length), generator=generator, device="cpu")

    def index(self, batch: Batch) -> Tensor:
        """Pieces in the slice (B,), the longest first."""
        rows = batch.order[batch.place : batch.place + self.size].to(self.pieces.length.device)
        return rows[self.pieces.length[rows].argsort(descending=True, stable=True)]

    def window(self, unrolled: Unrolled, rows: Tensor) -> Window:
        """All steps of some pieces side by side."""
        begin, length = self.pieces.begin[rows], self.pieces.length[rows]
        steps = torch.arange(int(length.max()), device=rows.device)
        inside = steps < length[:, None]
        places = torch.where(inside, begin[:, None] + steps, 0)
        weight = inside.to(torch.get_default_dtype())
        return Window(unrolled.inputs[places], unrolled.targets[places], weight)


class WindowSource:
    """Gradients of all chains, from slices of the pieces. Call under the target's context."""

    def __init__(
        self,
        target: Target,
        batch_size: int | None,
        truncate: int | None,
        start: Callable[[Target, int], np.ndarray],
    ) -> None:
        self._target, self._start = target, start
        unrolled = target.story.unroll(target.data)
        assert unrolled is not None
        sequences = whole(unrolled)
        pieces = cut(sequences, sequences.steps, truncate)
        self._unrolled = unrolled
        self._density = WindowDensity(target, unrolled, prior=True, jacobian=True)
        self.density: LogDensity = target.density()
        self.slices = PieceSlices(pieces, batch_size)
        self.noise = 1 / self.slices.share - 1
        self.seconds = 0.0
        parts = len(pieces.length) - len(sequences.length)
        told = f"{len(sequences.length)} sequences were cut into {len(pieces.length)} parts"
        self.engine = "windows of the sequences, eager"
        self.notes: tuple[str, ...] = (f"{told}, each told as if it began there",) if parts else ()

    def starts(self, count: int, stream: np.random.SeedSequence) -> Starts:
        """A point for each chain, and the width of each coordinate there."""
        ends = [self._start(self._target, chain) for chain in range(count)]
        centre = torch.as_tensor(np.stack(ends), device=self._target.device)
        children = map(np.random.default_rng, stream.spawn(count))
        width = [self._width(q, rng) for q, rng in zip(centre, children, strict=True)]
        words = f"{count} chains, each at the end of an ascent by Adam of its own"
        return Starts(centre, torch.stack(width), words)

    def _width(self, q: Tensor, rng: np.random.Generator) -> Tensor:
        """(D,): of the posterior, if it were normal, by the variance of the slices' gradients.

        That of the whole gradient from m of R pieces is ``R / m - 1`` times Fisher's information.
        """
        count = len(self.slices.pieces.length)
        slices = PieceSlices(self.slices.pieces, min(self.slices.size, max(1, count // MANY)))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        batch = slices.first(generator)
        mean, square = torch.zeros_like(q), torch.zeros_like(q)
        for _ in range(PROBES):
            slope = self._gradient(q, slices, slices.index(batch))
            mean, square = mean + slope / PROBES, square + slope.square() / PROBES
            batch = slices.next(batch, generator)
        variance = (square - mean.square()).clamp(min=0) * PROBES / (PROBES - 1)
        information = variance / max(1 / slices.share - 1, 1.0)
        return (information + self._prior_information(q)).rsqrt()

    def _prior_information(self, q: Tensor) -> Tensor:
        """(D,): how fast the prior's gradient falls along each coordinate."""
        step = 1e-3 * torch.ones_like(q)
        ends = []
        for moved in (q + step, q - step):
            with torch.enable_grad():
                leaf = moved.requires_grad_()
                ends.append(torch.autograd.grad(self._density.log_prior(leaf), leaf)[0])
        return ((ends[1] - ends[0]) / (2 * step)).clamp(min=1e-12)

    def _gradient(self, q: Tensor, slices: PieceSlices, rows: Tensor) -> Tensor:
        window = slices.window(self._unrolled, rows)
        return self._density(q, window, (), 1 / slices.share, None).gradient

    def __call__(
        self, q: Tensor, batch: Batch, fantasies: tuple[Fantasies, ...]
    ) -> tuple[Tensor, tuple[Fantasies, ...]]:
        """Gradients (C, D) at the chains' points (C, D)."""
        rows = self.slices.index(batch)
        told = [self._gradient(each, self.slices, rows) for each in q]
        return torch.stack(told), fantasies
