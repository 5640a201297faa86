"""Backend for opt_einsum in the max-plus ring: products are sums, sums are maxima."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from storyzoo.inference.engine.logspace import reduce_aligned, tensordot_equation, transpose

__all__ = ["einsum", "tensordot", "transpose"]


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """``out = max(sum of operands)`` over the dims that the output lacks."""
    return reduce_aligned(equation, operands, lambda x, dims: x.amax(dims))


def tensordot(a: Tensor, b: Tensor, axes: tuple[Sequence[int], Sequence[int]]) -> Tensor:
    """Contract two operands over pairs of their dims."""
    return einsum(tensordot_equation(a.dim(), b.dim(), axes), a, b)
