"""Sums over all states of one layer of binary or categorical units, joined by two small tables.

Given a state ``s`` of the layer, each of the U units of the other layer is summed out by itself,
``log(1 + sum_k exp x_uk(s))``, and the activations ``x`` are linear in ``s``. With the layer in two
halves, ``s = (i, j)``, they are ``x(s) = first_i + second_j``: two tables of the root of the
number of states each, whose sums are all that a gradient needs too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_FEWEST_ENTRIES = 2**17
_MOST_ENTRIES = 2**22
_BLOCKS = 8
"""A block has an eighth of all entries, within these bounds: caches like it small, compilers
few."""
_LONGEST_PRODUCT = 512
"""Factors between one and two whose product is far from the end of float64."""


def binary_states(units: int, like: Tensor) -> Tensor:
    """All states of binary units, (2^units, units) of zeros and ones; the first unit is slowest."""
    return level_states(units, 2, like)[..., 1]


def level_states(units: int, levels: int, like: Tensor) -> Tensor:
    """All states of units of several levels, one-hot: (levels^units, units, levels)."""
    number = torch.arange(levels**units, device=like.device)
    level = torch.arange(levels, device=like.device)
    return (digits(number, units, levels).unsqueeze(-1) == level).to(like.dtype)


def digits(number: Tensor, units: int, levels: int) -> Tensor:
    """The levels of the units in the states of those numbers: (S, units) of (S,)."""
    place = levels ** torch.arange(units - 1, -1, -1, device=number.device)
    return number.unsqueeze(-1) // place % levels


def log_sum_pairs(first: Tensor, second: Tensor) -> Tensor:
    """``sum_u log(1 + sum_k exp(first_iuk + second_juk))``: (I, J) of (I, U, K) and (J, U, K).

    Memory is bounded by blocks in the gradient too, which is computed anew from the tables.
    """
    summed: Tensor = _LogSumPairs.apply(first, second)  # type: ignore[no-untyped-call]
    return summed


def blocks(first: Tensor, second: Tensor) -> Iterator[tuple[int, int]]:
    """Begin and end of the rows of ``first`` that are paired with all of ``second`` at a time."""
    row = max(1, second.numel())
    rows = min(max(_FEWEST_ENTRIES, len(first) * row // _BLOCKS), _MOST_ENTRIES) // row
    step = max(1, rows)
    for begin in range(0, len(first), step):
        yield begin, min(begin + step, len(first))


class _LogSumPairs(torch.autograd.Function):
    """The sum, whose gradient remembers nothing but the tables."""

    generate_vmap_rule = True

    @staticmethod
    def forward(first: Tensor, second: Tensor) -> Tensor:
        block = _binary_block if first.shape[-1] == 1 else _categorical_block
        return torch.cat([block(first[i:k], second) for i, k in blocks(first, second)])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Shared.apply(*ctx.saved_tensors, *gradients)  # type: ignore[no-untyped-call]


class _Shared(torch.autograd.Function):
    """Its gradient: ``sum_j g_ij s_ijuk`` and ``sum_i g_ij s_ijuk``, s the share of each term.

    Under ``torch.func.grad`` a gradient is recorded as if it were to be differentiated again; this
    one, too, is computed anew if it is.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(first: Tensor, second: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = [], torch.zeros_like(second)
        for i, k in blocks(first, second):
            share = _shares(first[i:k].unsqueeze(1) + second) * gradient[i:k, :, None, None]
            rows.append(share.sum(1))
            columns = columns + share.sum(0)
        return torch.cat(rows), columns

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (first, second, gradient), (along_rows, along_columns) = ctx.saved_tensors, directions
        rows, columns, weights = [], torch.zeros_like(second), []
        for i, k in blocks(first, second):
            share = _shares(first[i:k].unsqueeze(1) + second)
            along = along_rows[i:k].unsqueeze(1) + along_columns
            mean = (share * along).sum(-1, keepdim=True)
            slope = share * (along - mean) * gradient[i:k, :, None, None]
            weights.append(mean.sum((-2, -1)))
            rows.append(slope.sum(1))
            columns = columns + slope.sum(0)
        return torch.cat(rows), columns, torch.cat(weights)


def _binary_block(first: Tensor, second: Tensor) -> Tensor:
    """``log(1 + e^x) = (x + |x|) / 2 + log(1 + e^-|x|)``: one logarithm for all units."""
    first, second = first.squeeze(-1), second.squeeze(-1)
    size = (first.unsqueeze(1) + second).abs_()
    positive = 0.5 * (first.sum(-1).unsqueeze(1) + second.sum(-1) + size.sum(-1))
    factors = size.neg_().exp_().add_(1.0)
    if factors.shape[-1] > _LONGEST_PRODUCT:
        return positive + factors.log().sum(-1)
    return positive + factors.prod(-1).log()


def _categorical_block(first: Tensor, second: Tensor) -> Tensor:
    x = first.unsqueeze(1) + second
    top = x.amax(-1).clamp(min=0.0)
    return (top + ((x - top.unsqueeze(-1)).exp().sum(-1) + (-top).exp()).log()).sum(-1)


def _shares(x: Tensor) -> Tensor:
    """``exp x_k / (1 + sum_k exp x_k)`` along the last dim."""
    if x.shape[-1] == 1:
        return x.sigmoid()
    top = x.detach().amax(-1, keepdim=True).clamp(min=0.0)
    powers = (x - top).exp()
    return powers / (powers.sum(-1, keepdim=True) + (-top).exp())
