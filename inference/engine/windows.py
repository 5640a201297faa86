"""The steps of sequences arranged in rows, seen a window at a time (truncated backpropagation).

Sequences of about one length lie side by side, B of them in a batch, and are run through window by
window, what the network carries handed on and its gradient cut (Williams and Peng 1990). A row
that has ended takes no further part. Where there are fewer sequences than rows the long ones are
cut into parts, each of which begins as a sequence does: an approximation for training alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from storyzoo.inference.engine.checkpoint import restore_torch
from storyzoo.story import Latents, Unrolled

UNEVEN = 0.1
"""Spread of the random factor by which lengths are told wrong, so that batches differ by pass."""
FEW = 20
"""Sequences from which whole ones are kept apart; of fewer their last steps are."""
SCORED = 50_000
"""Steps that are scored at a time."""
State = tuple[Tensor, ...]


class Pieces(NamedTuple):
    """Sequences, or parts of them, among steps that lie end to end."""

    begin: Tensor
    """(R,): the first step of each."""
    length: Tensor
    """(R,)"""

    @property
    def steps(self) -> int:
        """In all."""
        return int(self.length.sum())


class Window(NamedTuple):
    """Some steps of rows side by side."""

    inputs: Tensor
    """(B, W, …)"""
    targets: Tensor
    """(B, W, …)"""
    inside: Tensor
    """(B, W): one where a step is of the row, zero beyond its end."""

    def carried(self, state: State) -> State:
        """What goes on of the rows that have not ended, which come first."""
        rows = len(self.inside)
        return tuple(part.detach()[:, :rows].contiguous() for part in state)


class Place(NamedTuple):
    """A place in a pass over all rows."""

    order: np.ndarray
    """State of the generator from which this pass was shuffled."""
    batch: int
    window: int


def whole(unrolled: Unrolled) -> Pieces:
    """Every sequence that has a step."""
    lengths = unrolled.lengths
    begin = lengths.cumsum(0) - lengths
    return Pieces(begin[lengths > 0], lengths[lengths > 0])


def chosen(unrolled: Unrolled, rows: np.ndarray) -> Pieces:
    """Some of the sequences."""
    places = torch.as_tensor(rows, dtype=torch.long, device=unrolled.lengths.device)
    lengths = unrolled.lengths
    begin, length = (lengths.cumsum(0) - lengths)[places], lengths[places]
    return Pieces(begin[length > 0], length[length > 0])


def last_steps(pieces: Pieces, share: float) -> tuple[Pieces, Pieces]:
    """All pieces without the last steps of each, and those steps."""
    after = (share * pieces.length).ceil().long().clamp(max=pieces.length - 1)
    before = pieces.length - after
    ends = Pieces(pieces.begin + before, after)
    return Pieces(pieces.begin, before), Pieces(ends.begin[after > 0], after[after > 0])


def cut(pieces: Pieces, rows: int, truncate: int | None) -> Pieces:
    """Pieces of at most an equal share of all steps, so that there are about so many rows.

    None is cut shorter than a window, and none where ``truncate`` is None.
    """
    if truncate is None:
        return pieces
    most = max(truncate, math.ceil(pieces.steps / rows))
    parts = (pieces.length + most - 1) // most
    owner = torch.arange(len(parts), device=parts.device).repeat_interleave(parts)
    first = (parts.cumsum(0) - parts)[owner]
    number = torch.arange(len(owner), device=parts.device) - first
    length, count = pieces.length[owner], parts[owner]
    begin, end = (length * number) // count, (length * (number + 1)) // count
    return Pieces(pieces.begin[owner] + begin, end - begin)


class Windows:
    """Windows of ``truncate`` steps of ``rows`` pieces at a time, pass after pass.

    With ``redraw`` the steps of each pass are drawn anew, as many as there were; scores are of
    those at hand.
    """

    def __init__(
        self,
        unrolled: Unrolled,
        pieces: Pieces,
        rows: int,
        truncate: int | None,
        redraw: Callable[[np.random.Generator], Unrolled] | None = None,
    ) -> None:
        self._unrolled, self._pieces, self._rows = unrolled, cut(pieces, rows, truncate), rows
        self._redraw, self._of_pass = redraw, unrolled
        self._width = truncate or max(1, int(pieces.length.max()))
        self.steps = pieces.steps
        self._plan: tuple[bytes, list[Tensor], int] = (b"", [], 0)

    def _batches(self, order: np.ndarray) -> list[Tensor]:
        """Pieces (B,) of every batch of one pass, the longest first in each."""
        key = order.tobytes()
        if self._plan[0] != key:
            generator = restore_torch(order)
            noise = torch.rand(len(self._pieces.length), generator=generator, device="cpu")
            length = self._pieces.length.cpu()
            about = length * (1 + UNEVEN * (2 * noise - 1))
            groups = about.argsort(stable=True).split(self._rows)
            groups = [g[length[g].argsort(descending=True, stable=True)] for g in groups]
            shuffled = torch.randperm(len(groups), generator=generator, device="cpu").tolist()
            batches = [groups[i] for i in shuffled]
            windows = sum(math.ceil(int(length[b[0]]) / self._width) for b in batches)
            self._plan = (key, batches, windows)
            if self._redraw is not None:  # by the pass alone, so that a run can go on within it
                seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
                self._of_pass = self._redraw(np.random.default_rng(seed))
        return self._plan[1]

    def per_pass(self, place: Place) -> int:
        """Windows of the pass that a place is in."""
        self._batches(place.order)
        return self._plan[2]

    def first(self, generator: Generator) -> Place:
        """The beginning of a new pass; the generator goes on."""
        order = generator.get_state().numpy()
        torch.rand(1, generator=generator, device="cpu")
        return Place(order, 0, 0)

    def after(self, place: Place, generator: Generator) -> Place:
        """The next window: of the same rows, of the next batch, or of the next pass."""
        batches = self._batches(place.order)
        longest = int(self._pieces.length[batches[place.batch][0]])
        if (place.window + 1) * self._width < longest:
            return place._replace(window=place.window + 1)
        if place.batch + 1 < len(batches):
            return Place(place.order, place.batch + 1, 0)
        return self.first(generator)

    def at(self, place: Place) -> Window:
        """The window at a place."""
        rows = self._batches(place.order)[place.batch].to(self._pieces.begin.device)
        return self._window(self._of_pass, rows, place.window * self._width, self._width)

    def _window(self, unrolled: Unrolled, rows: Tensor, offset: int, width: int) -> Window:
        begin, length = self._pieces.begin[rows], self._pieces.length[rows] - offset
        going = length > 0
        begin, length = begin[going], length[going]
        steps = torch.arange(min(width, int(length[0])), device=begin.device)
        inside = steps < length[:, None]
        places = torch.where(inside, begin[:, None] + offset + steps, 0)
        return Window(
            unrolled.inputs[places],
            unrolled.targets[places],
            inside.to(torch.get_default_dtype()),
        )

    # -- scores ----------------------------------------------------------------------------

    def scored(self, latents: Latents) -> np.ndarray:
        """(R,): ``r + (nats_n - r length_n) / mean length`` of some pieces, evenly chosen.

        ``r = sum of nats / sum of lengths``, nats per step, is their mean, and their spread gives
        the error of that ratio: that pieces differ in length adds nothing to it.
        """
        pieces = self._some()
        order = self._pieces.length[pieces].argsort(descending=True, stable=True)
        nats = np.zeros(len(pieces))
        for rows in order.split(self._rows):
            nats[rows.cpu().numpy()] = self._walked(latents, pieces[rows])
        length = self._pieces.length[pieces].double().cpu().numpy()
        rate = nats.sum() / length.sum()
        steps: np.ndarray = rate + (nats - rate * length) / length.mean()
        return steps

    def _some(self) -> Tensor:
        length = self._pieces.length
        count = max(1, min(len(length), round(len(length) * SCORED / max(1, self.steps))))
        places = np.linspace(0, len(length) - 1, count).round().astype(int)
        return torch.as_tensor(np.unique(places), device=length.device)

    def _walked(self, latents: Latents, rows: Tensor) -> np.ndarray:
        """(B,): nats of pieces from their first step to their last."""
        total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        state: State = ()
        for offset in range(0, int(self._pieces.length[rows[0]]), self._width):
            window = self._window(self._unrolled, rows, offset, self._width)
            nats, state = self._unrolled.nats(
                latents, window.inputs, window.targets, window.carried(state)
            )
            total[: len(nats)] += (nats * window.inside).sum(1).double()
        return total.cpu().numpy()


def described(pieces: Pieces, rows: int, truncate: int | None) -> Iterator[str]:
    """What the arrangement makes only approximate, a line each."""
    parts = len(cut(pieces, rows, truncate).length)
    if parts > len(pieces.length):
        yield (
            f"{len(pieces.length)} sequences were cut into {parts} parts to be run side by side, "
            "each as if it began there"
        )
    if truncate is not None and int(pieces.length.max()) > truncate:
        yield f"gradients were cut off after {truncate} steps, what the network carries was not"
