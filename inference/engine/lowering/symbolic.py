"""Arrays that are not there yet: a shape, and what an element at given indices is.

Views, broadcasts and arithmetic make new arrays out of old ones without computing anything; the
builder decides which of them become buffers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from storyzoo.inference.engine.lowering.buffer import Buffer, Kind
from storyzoo.inference.engine.lowering.expression import (
    ZERO,
    Affine,
    Call,
    Expression,
    Index,
    Indices,
    Literal,
    Load,
    Lookup,
    constant,
    offset,
)

Element = Callable[[Indices], Expression]


@dataclass(frozen=True, eq=False)
class Piece:
    """Part of an array that is zero elsewhere: ``array`` lies at ``start`` along one dim."""

    start: int
    array: Array
    dim: int

    @property
    def end(self) -> int:
        """One past its last place."""
        return self.start + self.array.shape[self.dim]


@dataclass(frozen=True, eq=False)
class Array:
    """A value of the graph, element by element."""

    shape: tuple[int, ...]
    kind: Kind
    at: Element
    cost: int = 0
    """Operations that an element takes; 0 where it is only read."""
    vectorised: bool = True
    """Whether all of its operations come in vectors."""
    buffer: Buffer | None = None
    """The buffer that holds exactly these elements in its own order, if one does."""
    values: np.ndarray | None = None
    """The values, where they are known beforehand."""
    pieces: tuple[Piece, ...] = ()
    """What is not zero, where little is: in order along one dim, without overlap."""
    repeats: tuple[bool, ...] = ()
    """By dim: whether nothing changes along it. Empty where that is known of none."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def rank(self) -> int:
        """Number of dims."""
        return len(self.shape)

    @property
    def alike(self) -> tuple[bool, ...]:
        """By dim: whether nothing changes along it, as in a dim of size one."""
        known = self.repeats or (False,) * self.rank
        return tuple(size == 1 or one for size, one in zip(self.shape, known, strict=True))

    @property
    def distinct(self) -> int:
        """Number of elements that may differ."""
        pairs = zip(self.shape, self.alike, strict=True)
        return math.prod(1 if one else size for size, one in pairs)


Operand = Array | float | int | bool


def of_buffer(buffer: Buffer) -> Array:
    """The array that a buffer holds."""
    return Array(
        buffer.shape,
        buffer.kind,
        lambda index: Load(buffer, index),
        buffer=buffer,
        values=buffer.values,
    )


def filled(shape: Sequence[int], kind: Kind, value: float | int | bool) -> Array:
    """One number everywhere."""
    literal = Literal(value)
    return Array(tuple(shape), kind, lambda index: literal, repeats=(True,) * len(shape))


def is_literal(array: Operand) -> float | int | bool | None:
    """The number that an operand is everywhere, where it is one."""
    if not isinstance(array, Array):
        return array
    if array.cost or array.buffer is not None or array.pieces:
        return None
    element = array.at((ZERO,) * array.rank)
    return element.value if isinstance(element, Literal) else None


# -- arithmetic --------------------------------------------------------------------------------


def element_of(operand: Operand, shape: Sequence[int]) -> Element:
    """An operand broadcast to a shape."""
    if not isinstance(operand, Array):
        literal = Literal(operand)
        return lambda index: literal
    lead = len(shape) - operand.rank
    single = [size == 1 for size in operand.shape]

    def at(index: Indices) -> Expression:
        own = tuple(ZERO if one else i for one, i in zip(single, index[lead:], strict=True))
        return operand.at(own)

    return at


def pointwise(
    form: str,
    operands: Sequence[Operand],
    shape: Sequence[int],
    kind: Kind,
    cost: int,
    vectorised: bool = True,
) -> Array:
    """``form`` of the operands, element by element; broadcasts."""
    known = _simplified(form, operands, tuple(shape), kind)
    if known is not None:
        return known
    elements = [element_of(operand, shape) for operand in operands]
    arrays = [operand for operand in operands if isinstance(operand, Array)]
    return Array(
        tuple(shape),
        kind,
        lambda index: Call(form, tuple(at(index) for at in elements)),
        cost=cost + sum(array.cost for array in arrays),
        vectorised=vectorised and all(array.vectorised for array in arrays),
        repeats=_all_alike(arrays, shape),
    )


def _all_alike(arrays: Sequence[Array], shape: Sequence[int]) -> tuple[bool, ...]:
    """Along which dims of a shape none of the arrays changes, once they are broadcast to it."""
    flags = [(True,) * (len(shape) - array.rank) + array.alike for array in arrays]
    return tuple(all(flag[dim] for flag in flags) for dim in range(len(shape)))


def narrowed(array: Array) -> Array:
    """Of every dim along which nothing changes only one place."""
    alike = array.alike
    shape = tuple(1 if one else size for size, one in zip(array.shape, alike, strict=True))
    if shape == array.shape:
        return array
    at = array.at
    return Array(
        shape,
        array.kind,
        lambda index: at(tuple(ZERO if one else i for i, one in zip(index, alike, strict=True))),
        cost=array.cost,
        vectorised=array.vectorised,
    )


_NEUTRAL = {
    "({0}+{1})": (0, 0),
    "({0}-{1})": (None, 0),
    "({0}*{1})": (1, 1),
    "({0}/{1})": (None, 1),
}
"""Numbers that leave the other operand as it is, on the left and on the right."""


def _simplified(
    form: str, operands: Sequence[Operand], shape: tuple[int, ...], kind: Kind
) -> Array | None:
    """What needs no arithmetic: nothing added, times one, times nothing at all."""
    if form not in _NEUTRAL:
        return None
    a, b = (is_literal(operand) for operand in operands)
    for number, neutral, other in zip((a, b), _NEUTRAL[form], reversed(operands), strict=True):
        if number is not None and number == neutral and isinstance(other, Array):
            return expand(other, shape) if other.kind == kind else None
    if form == "({0}/{1})" and a == 0:  # a prior that is flat in what it is divided by
        return filled(shape, kind, 0.0)
    if a is not None and b is not None and form != "({0}/{1})":
        value = {"+": a + b, "-": a - b, "*": a * b}[form[4]]
        return filled(shape, kind, float(value) if kind == "double" else int(value))
    return None


# -- views -------------------------------------------------------------------------------------


def view_of(
    array: Array,
    shape: Sequence[int],
    back: Callable[[Indices], Indices],
    repeats: tuple[bool, ...] = (),
) -> Array:
    """Another shape on the same elements; ``back`` gives the index in the old one."""
    return Array(
        tuple(shape),
        array.kind,
        lambda index: array.at(back(index)),
        cost=array.cost,
        vectorised=array.vectorised,
        repeats=repeats,
    )


def expand(array: Array, shape: Sequence[int]) -> Array:
    """Broadcast."""
    if tuple(shape) == array.shape:
        return array
    at = element_of(array, shape)
    alike = _all_alike([array], shape)
    return Array(
        tuple(shape),
        array.kind,
        at,
        cost=array.cost,
        vectorised=array.vectorised,
        repeats=alike,
    )


def permute(array: Array, order: Sequence[int]) -> Array:
    """Dims in another order."""
    order = [dim % array.rank for dim in order]
    place = [order.index(dim) for dim in range(array.rank)]
    shape = [array.shape[dim] for dim in order]
    repeats = tuple(array.alike[dim] for dim in order)
    return view_of(array, shape, lambda index: tuple(index[p] for p in place), repeats)


def select(array: Array, dim: int, at: int) -> Array:
    """One place along a dim, which goes."""
    dim, at = dim % array.rank, at % array.shape[dim % array.rank]
    shape = array.shape[:dim] + array.shape[dim + 1 :]
    repeats = array.alike[:dim] + array.alike[dim + 1 :]
    return view_of(array, shape, lambda index: (*index[:dim], constant(at), *index[dim:]), repeats)


def cut(array: Array, dim: int, start: int, length: int, step: int = 1) -> Array:
    """Some places along a dim."""
    if start == 0 and step == 1 and length == array.shape[dim]:
        return array
    shape = (*array.shape[:dim], length, *array.shape[dim + 1 :])
    return view_of(
        array,
        shape,
        lambda index: (*index[:dim], offset(index[dim], start, step), *index[dim + 1 :]),
        array.alike,
    )


def flip(array: Array, dims: Sequence[int]) -> Array:
    """Some dims the other way round."""
    turned = {dim % array.rank for dim in dims}

    def back(index: Indices) -> Indices:
        return tuple(
            offset(i, array.shape[dim] - 1, -1) if dim in turned else i
            for dim, i in enumerate(index)
        )

    return view_of(array, array.shape, back, array.alike)


def diagonal(array: Array, shift: int, first: int, second: int) -> Array:
    """The diagonal over two dims, as the last dim."""
    first, second = first % array.rank, second % array.rank
    length = min(array.shape[first] + min(shift, 0), array.shape[second] - max(shift, 0))
    rest = [dim for dim in range(array.rank) if dim not in (first, second)]
    shape = [*(array.shape[dim] for dim in rest), length]

    def back(index: Indices) -> Indices:
        own: list[Index] = [ZERO] * array.rank
        for dim, i in zip(rest, index[:-1], strict=True):
            own[dim] = i
        own[first] = offset(index[-1], max(-shift, 0))
        own[second] = offset(index[-1], max(shift, 0))
        return tuple(own)

    return view_of(array, shape, back)


def strides(shape: Sequence[int]) -> list[int]:
    """Of row-major order."""
    steps = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        steps[dim] = steps[dim + 1] * shape[dim + 1]
    return steps


def flat_index(index: Indices, shape: Sequence[int]) -> Index:
    """The place in row-major order."""
    total: Index = ZERO
    for i, step, size in zip(index, strides(shape), shape, strict=True):
        if size == 1:
            continue
        scaled = offset(i, 0, step)
        if isinstance(total, Affine) and isinstance(scaled, Affine):
            total = total.plus(scaled)
        else:
            total = _sum(total, scaled)
    return total


def _sum(a: Index, b: Index) -> Index:
    from storyzoo.inference.engine.lowering.expression import Position

    return Lookup(Call("({0}+{1})", (Position(a), Position(b))), 1 << 62)


def regroup(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]] | None:
    """Dims of two shapes of one size in groups of equal size, ones left out; the smallest groups.

    >>> regroup((6, 5), (2, 3, 1, 5))
    [([0], [0, 1]), ([1], [3])]
    """
    left = [dim for dim, size in enumerate(old) if size != 1]
    right = [dim for dim, size in enumerate(new) if size != 1]
    groups = []
    while left or right:
        if not left or not right:
            return None
        a, b = [left.pop(0)], [right.pop(0)]
        size_a, size_b = old[a[0]], new[b[0]]
        while size_a != size_b:
            if size_a < size_b:
                if not left:
                    return None
                a.append(left.pop(0))
                size_a *= old[a[-1]]
            else:
                if not right:
                    return None
                b.append(right.pop(0))
                size_b *= new[b[-1]]
        groups.append((a, b))
    return groups


def reshape(array: Array, shape: Sequence[int]) -> Array | None:
    """Another shape in row-major order; None where an index would have to be divided."""
    groups = regroup(array.shape, shape)
    if groups is None or any(len(old) > 1 for old, _ in groups):
        return None

    def back(index: Indices) -> Indices:
        own: list[Index] = [ZERO] * array.rank
        for (old,), new in groups:
            own[old] = flat_index(tuple(index[dim] for dim in new), [shape[dim] for dim in new])
        return tuple(own)

    if array.size == 0:
        return None
    repeats = [True] * len(shape)
    for (old,), new in groups:
        for dim in new:
            repeats[dim] = array.alike[old]
    return view_of(array, shape, back, tuple(repeats))
