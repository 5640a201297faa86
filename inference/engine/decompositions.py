"""Operations that a trace does not write down as they are: each as others that it can.

What reads memory by strides becomes a lookup in the elements, since a graph knows no strides. What
raises an error at some values of its operands gives NaN there, since a graph has no errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Decomposition = Callable[..., Any]


def _as_strided(
    x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None = None
) -> Tensor:
    _, flat = _in_memory(x)
    return flat[_places(x, size, stride, offset)]


def _as_strided_scatter(
    x: Tensor,
    source: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    offset: int | None = None,
) -> Tensor:
    order, flat = _in_memory(x)
    written = torch.index_put(flat, (_places(x, size, stride, offset),), source)
    shape = [x.shape[dim] for dim in order]
    back = [order.index(dim) for dim in range(x.dim())]
    return written.reshape(shape).permute(back)


def _in_memory(x: Tensor) -> tuple[list[int], Tensor]:
    """The dims in the order in which they lie in memory, and the elements in that order."""
    steps = x.stride()
    order = sorted(range(x.dim()), key=lambda dim: (-steps[dim], -x.shape[dim]))
    if not x.permute(order).is_contiguous():
        raise NotImplementedError("a strided view of what is itself in pieces or repeated")
    return order, x.permute(order).reshape(-1)


def _places(x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None) -> Tensor:
    """Where the elements of a strided view stand among those of ``x`` as they lie in memory."""
    begin = 0 if offset is None else offset - int(x.storage_offset())
    numbers = torch.arange(x.numel(), device=x.device)
    return numbers.as_strided(list(size), list(stride), begin).clone()


def _broadcast_in_dim(x: Tensor, shape: Sequence[int], dims: Sequence[int]) -> Tensor:
    own = [1] * len(shape)
    for dim, size in zip(dims, x.shape, strict=True):
        own[dim] = size
    return x.reshape(own).expand(list(shape))


def where_it_exists(factor: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """A factor or inverse, NaN for the matrices of a stack that have none."""
    return torch.where((found == 0)[..., None, None], factor, torch.nan), found


CHECKED = {"linalg_cholesky_ex", "linalg_inv_ex"}
"""Operations that say by a number whether a matrix has what is asked for."""

DECOMPOSITIONS: dict[str, Decomposition] = {
    "as_strided": _as_strided,
    "as_strided_copy": _as_strided,
    "as_strided_scatter": _as_strided_scatter,
    "broadcast_in_dim": _broadcast_in_dim,
}
"""By the name of the operation."""
