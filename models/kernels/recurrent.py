"""A recurrent network that foretells the next observation, over windows of many rows at once.

::

    e_t = embedding[x_{t-1}]  (or x_{t-1} itself)      x_0: a symbol of its own, or zeros
    h_t = core(e_t, h_{t-1})                           h_0 = 0
    logits_t = output_weight h_t + output_bias

The core is an LSTM (Hochreiter and Schmidhuber 1997), a GRU (Cho et al. 2014) or the tanh
recurrence of the textbooks (Elman 1990), in torch's parametrisation, of one or more layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from storyzoo.models.kernels.lifted import Lifted

State = tuple[Tensor, ...]
"""What the core carries from step to step, each (layer, B, H); empty before the first."""

CORES: dict[str, Callable[..., torch.nn.RNNBase]] = {
    "gru": torch.nn.GRU,
    "lstm": torch.nn.LSTM,
    "rnn": torch.nn.RNN,
}
AT_ONCE = 100_000
"""Steps of a bucket that are worked out at once, so that memory does not grow with the data."""


class Recurrent(torch.nn.Module):
    """Inputs (B, W), or (B, W, features) where there is no embedding, to logits (B, W, V)."""

    def __init__(
        self,
        core: str,
        n_inputs: int,
        n_embedding: int | None,
        n_hidden: int,
        n_layers: int,
        n_outputs: int,
    ) -> None:
        super().__init__()
        self.embedding = None if n_embedding is None else torch.nn.Embedding(n_inputs, n_embedding)
        width = n_inputs if n_embedding is None else n_embedding
        self.core = CORES[core](width, n_hidden, num_layers=n_layers, batch_first=True)
        self.output = torch.nn.Linear(n_hidden, n_outputs)

    def forward(
        self,
        inputs: Tensor,
        state: State,
        keep: Callable[[Tensor], Tensor] | None,
        output: bool = True,
    ) -> tuple[Tensor, State]:
        """Logits, and the state after the window; ``keep`` drops some of what the core tells.

        Without ``output`` it is what the core tells itself.
        """
        told, after = self.core(
            inputs if self.embedding is None else self.embedding(inputs), _as_torch(state)
        )
        after = after if isinstance(after, tuple) else (after,)
        told = told if keep is None else keep(told)
        return self.output(told) if output else told, after


@lru_cache(maxsize=16)
def lifted(
    core: str,
    n_inputs: int,
    n_embedding: int | None,
    n_hidden: int,
    n_layers: int,
    n_outputs: int,
) -> Lifted:
    """The network without its weights; kept, since making one takes longer than a short step."""
    return Lifted(lambda: Recurrent(core, n_inputs, n_embedding, n_hidden, n_layers, n_outputs))


def _as_torch(state: State) -> Tensor | State | None:
    """A state as torch's cores take it."""
    if not state:
        return None
    return state[0] if len(state) == 1 else state


def dropped(share: float, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Sets a random share to zero and scales up the rest (Srivastava et al. 2014)."""

    def keep(values: Tensor) -> Tensor:
        kept = torch.empty(values.shape, device=values.device)
        return values * kept.bernoulli_(1 - share, generator=generator).div_(1 - share)

    return keep


class Bucket(NamedTuple):
    """Sequences of about one length, side by side."""

    rows: Tensor
    """(B,): which sequences, the longest first."""
    places: Tensor
    """(B, W): where their steps lie end to end; beyond a sequence's end any place."""
    inside: Tensor
    """(B, W): whether a step belongs to the sequence."""


def buckets(lengths: Tensor) -> Iterator[Bucket]:
    """All sequences, sorted by length, cut into blocks that hold at most ``AT_ONCE`` steps."""
    order = torch.argsort(lengths, descending=True, stable=True)
    begin = lengths.cumsum(0) - lengths
    first = 0
    while first < len(order):
        width = int(lengths[order[first]])
        rows = order[first : first + max(1, AT_ONCE // max(1, width))]
        first += len(rows)
        steps = torch.arange(width, device=lengths.device)
        inside = steps < lengths[rows, None]
        yield Bucket(rows, torch.where(inside, begin[rows, None] + steps, 0), inside)


def windows(bucket: Bucket) -> Iterator[tuple[Tensor, Tensor]]:
    """Places and insides of a bucket, some steps at a time where its rows are very long."""
    step = max(1, AT_ONCE // max(1, len(bucket.rows)))
    yield from zip(bucket.places.split(step, 1), bucket.inside.split(step, 1), strict=True)


def frequencies(targets: Tensor, n_outputs: int) -> np.ndarray:
    """Log shares (V,) of the symbols, each counted half a time more: a start for the output."""
    counts = np.bincount(targets.cpu().numpy(), minlength=n_outputs) + 0.5
    shares: np.ndarray = np.log(counts / counts.sum())
    return shares
