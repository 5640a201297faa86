"""Backend for opt_einsum in log space: products are sums, sums are log-sum-exps.

Unlike Pyro's own it has no custom autograd function, so that ``vmap`` and ``make_fx`` pass
through it, and an all-impossible row (all −inf) has gradient zero rather than NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def transpose(a: Tensor, axes: Sequence[int]) -> Tensor:
    """Permute the dims."""
    return a.permute(*axes)


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """``out = log sum exp(sum of operands)`` over the dims that the output lacks."""
    return reduce_aligned(equation, operands, log_sum_exp)


def tensordot(a: Tensor, b: Tensor, axes: tuple[Sequence[int], Sequence[int]]) -> Tensor:
    """Contract two operands over pairs of their dims."""
    return einsum(tensordot_equation(a.dim(), b.dim(), axes), a, b)


def tensordot_equation(left: int, right: int, axes: tuple[Sequence[int], Sequence[int]]) -> str:
    """The einsum equation of a tensordot.

    >>> tensordot_equation(2, 2, ([1], [0]))
    'ab,bd->ad'
    """
    pairs = dict(zip(axes[1], axes[0], strict=True))
    first = [chr(ord("a") + i) for i in range(left)]
    second = [first[pairs[j]] if j in pairs else chr(ord("a") + left + j) for j in range(right)]
    kept = [s for i, s in enumerate(first) if i not in set(axes[0])]
    kept += [s for j, s in enumerate(second) if j not in pairs]
    return f"{''.join(first)},{''.join(second)}->{''.join(kept)}"


def reduce_aligned(
    equation: str, operands: Sequence[Tensor], reduce: Callable[[Tensor, tuple[int, ...]], Tensor]
) -> Tensor:
    """Align the operands on one set of dims, add them up, reduce over what the output lacks."""
    inputs, output = equation.split("->")
    summed = [s for s in dict.fromkeys(inputs.replace(",", "")) if s not in output]
    dims = [*output, *summed]
    total: Tensor | None = None
    for names, operand in zip(inputs.split(","), operands, strict=True):
        order = sorted(range(len(names)), key=lambda i: dims.index(names[i]))
        moved = operand.permute(*order) if order else operand
        sizes = dict(zip((names[i] for i in order), moved.shape, strict=True))
        aligned = moved.reshape([sizes.get(dim, 1) for dim in dims])
        total = aligned if total is None else total + aligned
    assert total is not None
    return reduce(total, tuple(range(len(output), len(dims)))) if summed else total


def log_sum_exp(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """``log sum exp x`` over dims, safe at −inf in value and gradient."""
    limits = torch.finfo(x.dtype)
    shift = x.detach().amax(dims, keepdim=True).clamp(min=limits.min)
    total = (x - shift).exp().sum(dims, keepdim=True)
    return (total.clamp(min=limits.tiny).log() + shift).squeeze(dims)
