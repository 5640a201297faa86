"""The density on slices of the examples, one after another, each example once per round.

A slice of B of N examples estimates the log density as ``prior + N / B * (their part)``. What
belongs to an example (a local latent) is told of only when the example is in the slice: then its
coordinates count N / B times, in log q as in log p; else not at all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from storyzoo.inference.engine.ascent import Array, as_array
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.story import Story

LEAST_ROWS = 1000
"""Examples that the starts are looked for on, at least."""


class Batch(NamedTuple):
    """A place in the order in which the examples are visited."""

    order: Tensor
    """(N,); empty where every step sees all examples."""
    place: int


class Slices:
    """The log density and its gradient, on all examples or on a slice of them."""

    def __init__(self, target: Target, density: LogDensity, batch_size: int | None) -> None:
        self._density, self._examples = density, target.n_examples
        whole = batch_size is None or batch_size >= self._examples
        self.size = self._examples if whole or batch_size is None else batch_size
        self.whole = whole
        self.share = self.size / self._examples
        """Part of a pass over the examples that one evaluation takes."""
        self.evaluations = 0
        self._one_by_one = False
        rows = _row_of_coordinate(density)
        self._row = None if whole or bool((rows < 0).all()) else rows

    def first(self, generator: torch.Generator) -> Batch:
        """Before the first step."""
        none = torch.zeros(0, dtype=torch.long, device="cpu")
        return Batch(none if self.whole else self._shuffled(generator), 0)

    def next(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The slice after this one; a new round in a new order where too few examples are left."""
        if self.whole:
            return batch
        place = batch.place + self.size
        if place + self.size > self._examples:
            return Batch(self._shuffled(generator), 0)
        return Batch(batch.order, place)

    def _shuffled(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(self._examples, generator=generator, device="cpu")

    def index(self, batch: Batch) -> Tensor:
        """Examples in the slice (B,)."""
        if self.whole:
            return torch.arange(self._examples, device="cpu")
        return batch.order[batch.place : batch.place + self.size].sort().values

    def weight(self, batch: Batch) -> Tensor | None:
        """How often each coordinate counts (D,): globals once, locals N / B times or not at all.

        None where every step sees all examples, or no coordinate belongs to one.
        """
        if self._row is None:
            return None
        inside = torch.zeros(self._examples, dtype=self._density.dtype)
        inside[self.index(batch)] = 1 / self.share
        local = inside[self._row.clamp(min=0)]
        return torch.where(self._row >= 0, local, 1.0).to(self._density.device)

    def density(self, q: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log densities (n,) and gradients (n, D) at the rows of ``q``, on the slice."""
        if self.whole:
            return self._density.batch_value_and_gradient(q)
        return self._on_rows(q, self.index(batch))

    def evaluate(self, points: Array) -> tuple[Array, Array]:
        """The same on the host; sliced, on the same examples at every call."""
        q = torch.as_tensor(points, dtype=self._density.dtype, device=self._density.device)
        if self.whole:
            value, gradient = self._density.batch_value_and_gradient(q)
            return as_array(value), as_array(gradient)
        generator = torch.Generator().manual_seed(0)
        rows = max(self.size, min(LEAST_ROWS, self._examples))
        self.evaluations += round(len(q) * rows / self._examples)
        value, gradient = self._on_rows(q, self._shuffled(generator)[:rows].sort().values)
        return as_array(value), as_array(gradient)

    def _on_rows(self, q: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.func.grad_and_value(self._density.on_rows(index))
        if not self._one_by_one:
            try:
                gradient, value = torch.vmap(both)(q)
                return value, gradient
            except RuntimeError:  # a branch on a value in the model
                self._one_by_one = True
        pairs = [both(point) for point in q]
        return torch.stack([value for _, value in pairs]), torch.stack([g for g, _ in pairs])


def refuses_slices(story: Story, structure: Structure) -> str | None:
    """Why a story's examples can't be seen some at a time; None where they can."""
    if story.examples is None:
        return "it has no independent examples to slice"
    tied = [name for name, s in structure.discrete.items() if story.examples not in s.plates]
    return f"'{tied[0]}' ties the examples together" if tied else None


def _row_of_coordinate(density: LogDensity) -> Tensor:
    """(D,): the example that a coordinate belongs to, -1 for the global ones."""
    rows = torch.full((density.dim,), -1, dtype=torch.long)
    for slot in density.slots:
        site = density.structure.sites[slot.name]
        if not site.local or site.examples_axis is None:
            continue
        along = [1] * len(slot.unconstrained)
        along[site.examples_axis] = -1
        count = torch.arange(slot.unconstrained[site.examples_axis]).reshape(along)
        rows[slot.offset : slot.end] = count.expand(slot.unconstrained).reshape(-1)
    return rows
