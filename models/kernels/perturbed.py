"""A recurrent network whose weights are drawn anew for each row of a window.

A weight ``W ~ Normal(M, S^2)`` of row n of a batch is, by flipout,

``W_n = M + (S * E) * r_n s_n^T``,  so that  ``W_n x = M x + r_n * ((S * E) (s_n * x))``

with one matrix E of standard normals for all rows and vectors r_n, s_n of random signs for each:
every W_n has the distribution that is asked for, any two of them are uncorrelated, and a row costs
two products in place of one. A row keeps its weights from step to step, as a sequence does. The
last layer sees each step by itself, so that a step may have a draw of its own, and of the logits
(local reparameterisation): ``W x ~ Normal(M x, S^2 x^2)``. The same holds of biases, by row.

Sources: Wen, Vicol, Ba, Tran and Grosse (2018), "Flipout", ICLR; Kingma, Salimans and Welling
(2015), "Variational dropout and the local reparameterization trick", NeurIPS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor
from torch.nn.functional import linear

State = tuple[Tensor, ...]
Weights = Mapping[str, Tensor]
SMALL = 1e-12
"""What keeps the root of a variance differentiable where a step sees nothing."""


class Row:
    """Weights of B rows, drawn by one generator."""

    def __init__(self, mean: Weights, width: Weights, rows: int, generator: Generator) -> None:
        self.mean, self.width, self._rows, self._generator = mean, width, rows, generator

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal noise."""
        return torch.randn(like.shape, generator=self._generator, device=like.device)

    def signs(self, size: int) -> Tensor:
        """(B, 1, size): one or minus one."""
        coins = torch.empty(self._rows, 1, size, device=self._generator.device)
        return coins.bernoulli_(generator=self._generator).mul_(2).sub_(1)

    def map(self, name: str) -> Callable[[Tensor], Tensor]:
        """``x -> W_n x`` over (B, …, F)."""
        mean, width = self.mean[name], self.width[name]
        moved = width * self.normal(width)
        out, into = (self.signs(size) for size in mean.shape)
        return lambda x: linear(x, mean) + out * linear(into * x, moved)

    def vector(self, name: str) -> Tensor:
        """(B, 1, size): a bias of each row's own."""
        mean, width = self.mean[name], self.width[name]
        noise = self.normal(mean.expand(self._rows, 1, *mean.shape))
        return mean + width * noise

    def rows_of(self, name: str, index: Tensor) -> Tensor:
        """(B, W, F): rows of a table, by numbers (B, W)."""
        mean, width = self.mean[name], self.width[name]
        moved = width * self.normal(width)
        of_row, of_column = self.signs(len(mean)), self.signs(mean.shape[1])
        flipped = of_row[:, 0].gather(1, index).unsqueeze(-1) * of_column
        return mean[index] + flipped * moved[index]

    def output(self, weight: str, bias: str, told: Tensor) -> Tensor:
        """Logits (B, W, V), a draw of the layer for each step."""
        mean = linear(told, self.mean[weight], self.mean[bias])
        variance = linear(told.square(), self.width[weight].square(), self.width[bias].square())
        return mean + (variance + SMALL).sqrt() * self.normal(mean)


def perturbed(
    core: str, mean: Weights, width: Weights, inputs: Tensor, state: State, generator: Generator
) -> tuple[Tensor, State]:
    """Logits (B, W, V) of a window, as :class:`~storyzoo.models.kernels.recurrent.Recurrent` gives
    them at one draw of the weights by row, and the state after it.
    """
    row = Row(mean, width, len(inputs), generator)
    told = row.rows_of("embedding_weight", inputs) if "embedding_weight" in mean else inputs
    parts: list[list[Tensor]] = []
    layer = 0
    while f"core_weight_ih_l{layer}" in mean:
        begin = tuple(part[layer].unsqueeze(1) for part in state)
        told, after = _layer(core, row, f"_l{layer}", told, begin)
        parts.append([part.squeeze(1) for part in after])
        layer += 1
    logits = row.output("output_weight", "output_bias", told)
    return logits, tuple(torch.stack(column) for column in zip(*parts, strict=True))


def _layer(core: str, row: Row, layer: str, x: Tensor, state: State) -> tuple[Tensor, State]:
    """What one layer tells (B, W, H), and its state (B, 1, H) after the window."""
    of_x = row.map(f"core_weight_ih{layer}")(x) + row.vector(f"core_bias_ih{layer}")
    recur, bias = row.map(f"core_weight_hh{layer}"), row.vector(f"core_bias_hh{layer}")
    if not state:
        zero = x.new_zeros(len(x), 1, row.mean[f"core_weight_hh{layer}"].shape[1])
        state = (zero, zero) if core == "lstm" else (zero,)
    step = STEPS[core]
    told = []
    for before in of_x.split(1, 1):
        state = step(before, recur(state[0]) + bias, state)
        told.append(state[0])
    return torch.cat(told, 1), state


def _lstm(of_x: Tensor, of_h: Tensor, state: State) -> State:
    enter, forget, cell, leave = (of_x + of_h).chunk(4, -1)
    c = forget.sigmoid() * state[1] + enter.sigmoid() * cell.tanh()
    return leave.sigmoid() * c.tanh(), c


def _gru(of_x: Tensor, of_h: Tensor, state: State) -> State:
    (reset, update, new), (by_reset, by_update, by_new) = of_x.chunk(3, -1), of_h.chunk(3, -1)
    new = (new + (reset + by_reset).sigmoid() * by_new).tanh()
    return (torch.lerp(new, state[0], (update + by_update).sigmoid()),)


def _rnn(of_x: Tensor, of_h: Tensor, state: State) -> State:
    return ((of_x + of_h).tanh(),)


STEPS: dict[str, Callable[[Tensor, Tensor, State], State]] = {
    "gru": _gru,
    "lstm": _lstm,
    "rnn": _rnn,
}
"""One step of each core, in torch's parametrisation."""
