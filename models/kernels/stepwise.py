"""A recurrent network of given weights a step at a time, for sequences that are walked.

The same function as that of ``recurrent.py``, cheap where a step is one symbol: what the first
layer makes of a symbol is a row of a table that is worked out once::

    LSTM    i, f, g, o = W_ih x + W_hh h + b        c' = s(f) c + s(i) tanh(g)   h' = s(o) tanh(c')
    GRU     r, z = s(W_ih x + W_hh h + b)           n = tanh(W_in x + b_in + r (W_hn h + b_hn))
            h' = (1 - z) n + z h
    RNN     h' = tanh(W_ih x + W_hh h + b)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from storyzoo.models.kernels.recurrent import State


class Stepwise:
    """Inputs (B,) of symbols, or (B, features) where there is no embedding, to logits (B, V)."""

    def __init__(self, core: str, n_layers: int, weights: Mapping[str, Tensor]) -> None:
        embedding = weights.get("embedding_weight")
        self.embedded = embedding is not None
        self._cell = _CELLS[core]
        self._layers = [_Layer(weights, number) for number in range(n_layers)]
        self._table = None if embedding is None else self._layers[0].of_input(embedding)
        self._output = weights["output_weight"].t().contiguous(), weights["output_bias"]

    def __call__(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits, and the state (layer, B, H) after the step; it is empty before the first."""
        told, after = inputs, []
        for number, layer in enumerate(self._layers):
            if number or self._table is None:
                from_input = layer.of_input(told)
            else:
                from_input = self._table[inputs]
            size = len(layer.recurrent)
            before = [part[number] for part in state] or [from_input.new_zeros(1, size)]
            held = before[0].expand(len(from_input), -1)
            from_past = torch.addmm(layer.bias, held, layer.recurrent)
            after.append(self._cell(from_input, from_past, before))
            told = after[-1][0]
        matrix, bias = self._output
        parts = tuple(torch.stack(part) for part in zip(*after, strict=True))
        return torch.addmm(bias, told, matrix), parts


class _Layer:
    """Weights of one layer, as its steps take them."""

    def __init__(self, weights: Mapping[str, Tensor], number: int) -> None:
        self._weight, self.recurrent = (
            weights[f"core_weight_{which}_l{number}"].t().contiguous() for which in ("ih", "hh")
        )
        self._of_input, self.bias = (
            weights[f"core_bias_{which}_l{number}"] for which in ("ih", "hh")
        )

    def of_input(self, inputs: Tensor) -> Tensor:
        """(B, gates): what is known before the past is."""
        return torch.addmm(self._of_input, inputs, self._weight)


def _lstm(from_input: Tensor, from_past: Tensor, before: list[Tensor]) -> tuple[Tensor, ...]:
    gates = from_input + from_past
    size = gates.shape[1] // 4
    share = gates.sigmoid()
    new = share[:, :size] * gates[:, 2 * size : 3 * size].tanh()
    cell = new if len(before) == 1 else torch.addcmul(new, share[:, size : 2 * size], before[1])
    return share[:, 3 * size :] * cell.tanh(), cell


def _gru(from_input: Tensor, from_past: Tensor, before: list[Tensor]) -> tuple[Tensor, ...]:
    size = from_past.shape[1] // 3
    share = (from_input[:, : 2 * size] + from_past[:, : 2 * size]).sigmoid()
    fresh = torch.addcmul(from_input[:, 2 * size :], share[:, :size], from_past[:, 2 * size :])
    return (torch.lerp(fresh.tanh(), before[0], share[:, size:]),)


def _rnn(from_input: Tensor, from_past: Tensor, before: list[Tensor]) -> tuple[Tensor, ...]:
    return ((from_input + from_past).tanh(),)


_CELLS: dict[str, Callable[[Tensor, Tensor, list[Tensor]], tuple[Tensor, ...]]] = {
    "gru": _gru,
    "lstm": _lstm,
    "rnn": _rnn,
}
