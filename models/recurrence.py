"""What the recurrent stories share: weights as latent sites, passes over sequences, steps.

Sequences lie end to end in the data and are never padded into the likelihood: those of about one
length go through the network side by side, and what lies beyond a sequence's end is left out of
every sum. Each weight has the prior ``Normal(0, weight_sd)``; the network has no other unknowns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from storyzoo.errors import SettingError
from storyzoo.models.kernels.lifted import Lifted
from storyzoo.models.kernels.perturbed import perturbed
from storyzoo.models.kernels.recurrent import CORES, State, buckets, dropped, lifted, windows
from storyzoo.models.kernels.stepwise import Stepwise
from storyzoo.story import Data, Latents, Story, Unrolled

Core = Literal["gru", "lstm", "rnn"]


class Recurrence(Story):
    """A story of sequences told by a recurrent network; each declares the fields itself."""

    core: Core
    n_hidden: int
    n_layers: int
    weight_sd: float
    dropout: float

    dtype = "float32"
    examples = "sequence"
    observation = "step"
    ragged = {"step": "length"}
    last_layer = ("output_weight", "output_bias")
    exclusive: ClassVar[bool]
    """Whether a step is one of several symbols, not several keys each by itself."""

    def check_fields(self) -> None:
        """Raise SettingError where a field is impossible."""
        if self.core not in CORES:
            raise SettingError(f"{self.name}: core={self.core!r} is none of {', '.join(CORES)}")
        for field in ("n_hidden", "n_layers"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise SettingError(f"{self.name}: {field}={value!r} must be at least 1")
        if not self.weight_sd > 0:
            raise SettingError(f"{self.name}: weight_sd={self.weight_sd!r} must be above zero")
        if not 0 <= self.dropout < 1:
            raise SettingError(
                f"{self.name}: dropout={self.dropout!r} must be at least 0 and below 1"
            )

    def lifted(self, n_inputs: int, n_embedding: int | None, n_outputs: int) -> Lifted:
        """The network of this story for data with so many symbols."""
        return lifted(self.core, n_inputs, n_embedding, self.n_hidden, self.n_layers, n_outputs)

    def log_prob(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Log probability of the targets (B, W, …) under the network's answer: (B, W), nats."""
        raise TypeError(f"{type(self).__name__} has no log_prob")

    def steps(self, data: Data) -> UnrolledSequences:
        """The steps of all sequences, end to end."""
        raise TypeError(f"{type(self).__name__} has no steps")

    # -- hooks -------------------------------------------------------------------------------

    def unroll(self, data: Data) -> Unrolled:
        """Every step of every sequence, with what comes before it."""
        return self.steps(data)

    def marginal(self, latents: Latents, data: Data) -> Tensor:
        """``log p(x_n | weights)``: (N,), nats, by whole sequences without any cut."""
        steps = self.steps(data)
        lengths = steps.lengths
        total = torch.zeros(len(lengths), device=lengths.device)
        for rows, nats in steps.each_bucket(latents):
            total = total.index_add(0, rows, nats.sum(1))
        return total

    def by_step(self, latents: Latents, data: Data) -> Tensor:
        """Log probability of each step given those before it, end to end: (steps,), nats."""
        steps = self.steps(data)
        told = torch.zeros(int(steps.lengths.sum()), device=steps.lengths.device)
        begin = steps.lengths.cumsum(0) - steps.lengths
        for rows, nats in steps.each_bucket(latents):
            counted = torch.arange(nats.shape[1], device=nats.device)
            inside = counted < steps.lengths[rows, None]
            told = told.index_put(((begin[rows, None] + counted)[inside],), nats[inside])
        return told

    def sizes(self, data: Data) -> Tensor:
        """(N,): steps of each sequence; its END is one, where it has one."""
        return self.steps(data).lengths

    def step(self, latents: Latents, state: Any) -> tuple[Any, Any]:
        """The next step; states of (B,) sequences go side by side."""
        found = self.stepper(latents)(state)
        assert found is not None
        return found


class UnrolledSequences:
    """The steps of sequences end to end, as a recurrent story tells them."""

    def __init__(
        self, story: Recurrence, network: Lifted, inputs: Tensor, targets: Tensor, lengths: Tensor
    ) -> None:
        self._story, self._network = story, network
        self.inputs, self.targets, self.lengths = inputs, targets, lengths

    def nats(
        self,
        latents: Latents,
        inputs: Tensor,
        targets: Tensor,
        state: State,
        generator: Generator | None = None,
    ) -> tuple[Tensor, State]:
        """Log probabilities (B, W) of a window and the state after it.

        With a generator some of what the core tells is dropped, as the story's field says.
        """
        share = self._story.dropout
        keep = dropped(share, generator) if generator is not None and share else None
        logits, after = self._network(latents, inputs, state, keep)
        return self._story.log_prob(logits, targets), after

    @property
    def exclusive(self) -> bool:
        """Whether a step is one of several symbols."""
        return self._story.exclusive

    def features(self, latents: Latents, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """What the core tells (B, W, H) in a window, and the state after it."""
        told: tuple[Tensor, State] = self._network(latents, inputs, state, None, False)
        return told

    def perturbed_nats(
        self,
        mean: Latents,
        width: Latents,
        inputs: Tensor,
        targets: Tensor,
        state: State,
        generator: Generator,
    ) -> tuple[Tensor, State]:
        """Log probabilities (B, W), each row under weights of its own; see `perturbed`."""
        logits, after = perturbed(self._story.core, mean, width, inputs, state, generator)
        return self._story.log_prob(logits, targets), after

    def each_bucket(self, latents: Latents) -> Iterator[tuple[Tensor, Tensor]]:
        """Sequences (B,) and the nats (B, W) of their steps, zero beyond their ends."""
        for bucket in buckets(self.lengths):
            state: State = ()
            found = []
            for places, inside in windows(bucket):
                nats, state = self.nats(latents, self.inputs[places], self.targets[places], state)
                found.append(torch.where(inside, nats, 0.0))
            if found:
                yield bucket.rows, torch.cat(found, 1)

    def logits(self, latents: Latents) -> Tensor:
        """What the network gives at every step (E, V), sequence by sequence."""
        pieces = self.inputs.split(self.lengths.tolist())
        told = [
            self._network(latents, piece[None], (), None)[0][0] for piece in pieces if len(piece)
        ]
        return torch.cat(told)


class Walk:
    """Steps of sequences under given weights: ``step`` of a story, its network made ready once."""

    def __init__(
        self, story: Recurrence, latents: Latents, first: Tensor, told: Callable[[Tensor], Any]
    ) -> None:
        self._network = Stepwise(story.core, story.n_layers, latents)
        self._first, self._told = first, told

    def __call__(self, state: Any) -> tuple[Any, State]:
        """What is told by the logits (V,) or (B, V) of the next step, and what the core carries.

        ``first``, () or (features,), stands before the first step. A state that was told of one
        sequence goes on with as many as there are observations (B, …).
        """
        first = self._first
        before, inputs = ((), first) if state is None else state
        rows = inputs.to(first.dtype).reshape(-1, *first.shape)
        logits, after = self._network(rows, before)
        return self._told(logits[0] if inputs.dim() == first.dim() else logits), after
