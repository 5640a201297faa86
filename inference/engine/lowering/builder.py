"""What is computed, as loop nests over buffers, in an order that respects who needs whom.

An array is stored in a buffer where it is used more than once, where it is read at places that
are not known beforehand, where it is the result of a reduction, or where a wider array would
compute it again and again. All else is written out inside the expression that uses it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal as Choice

import numpy as np

from storyzoo.inference.engine.lowering.buffer import Buffer, Kind, Role
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
    Var,
    constant,
    offset,
)
from storyzoo.inference.engine.lowering.symbolic import (
    Array,
    Operand,
    Piece,
    expand,
    filled,
    flat_index,
    narrowed,
    of_buffer,
    permute,
    pointwise,
    reshape,
)

HEAVY = 8
"""Cost from which an operation is worth doing once: an exponential, a logarithm."""
CHEAP = 2
"""Cost up to which doing it again is no dearer than a store and a load."""
LONGEST = 60
"""Operations that one expression may hold."""

Operation = Choice["set", "sum", "max", "min", "product"]
START: dict[Operation, float | int] = {"sum": 0.0, "max": -np.inf, "min": np.inf, "product": 1.0}
STEP: dict[Operation, str] = {
    "sum": "({0}+{1})",
    "max": "larger({0},{1})",
    "min": "smaller({0},{1})",
    "product": "({0}*{1})",
}


@dataclass(eq=False)
class Nest:
    """One loop nest: ``out[target(kept)] (operation)= value(kept, reduced)``."""

    out: Buffer
    kept: tuple[Var, ...]
    reduced: tuple[Var, ...]
    target: Callable[[Indices], Indices]
    value: Callable[[Indices, Indices], Expression]
    operation: Operation = "set"
    accumulates: bool = False
    """Whether several iterations may meet in one place of ``out`` (a scatter)."""
    ordered: bool = False
    """Whether the first kept variable must run upwards, since each step reads the one before."""
    apart: bool = False
    """Whether no other nest writes to the same places of ``out``."""
    vectorised: bool = True
    cost: int = 0
    title: str = ""


@dataclass(eq=False)
class Kernel:
    """A call of one of the prelude's functions on whole buffers."""

    function: str
    numbers: tuple[int, ...]
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    title: str = ""


Statement = Nest | Kernel


@dataclass
class Builder:
    """Collects statements, buffers and constants while the graph is walked."""

    statements: list[Statement] = field(default_factory=list)
    constants: list[Buffer] = field(default_factory=list)
    _known: dict[tuple[Kind, tuple[int, ...], bytes], Buffer] = field(default_factory=dict)
    """Constants by their content."""
    _count: int = 0
    title: str = ""
    """What is being lowered: told in a comment beside the loops."""

    # -- buffers -------------------------------------------------------------------------

    def buffer(
        self, shape: Sequence[int], kind: Kind, role: Role = "temporary", pinned: bool = False
    ) -> Buffer:
        """A new one."""
        self._count += 1
        letter = {"temporary": "t", "constant": "c", "output": "out", "input": "in"}[role]
        return Buffer(f"{letter}{self._count}", tuple(shape), kind, role, pinned=pinned)

    def constant(self, values: np.ndarray) -> Array:
        """Known values; dims along which they do not change are not stored."""
        shape = values.shape
        kind: Kind = "double" if values.dtype.kind == "f" else "int64_t"
        for dim in range(values.ndim):
            first = values.take([0], dim) if values.shape[dim] > 1 else values
            if values.shape[dim] > 1 and np.array_equal(
                np.broadcast_to(first, values.shape), values, equal_nan=values.dtype.kind == "f"
            ):
                values = first
        if values.size == 1 or not values.size:
            number = values.reshape(-1)[0].item() if values.size else 0
            return replace(filled(shape, kind, number), values=np.broadcast_to(values, shape))
        order = list(range(values.ndim))
        if not values.flags.c_contiguous:  # a transpose: the table itself is as good
            order.sort(key=lambda dim: -abs(values.strides[dim]))
        array = of_buffer(self._kept(np.transpose(values, order), kind))
        if order != sorted(order):
            array = permute(array, [order.index(dim) for dim in range(values.ndim)])
        return replace(expand(array, shape), values=np.broadcast_to(values, shape))

    def _kept(self, values: np.ndarray, kind: Kind) -> Buffer:
        """The buffer of known values; the same one for a table and its transpose, so that what
        one loop has read of it is in the cache for the next."""
        stored = np.ascontiguousarray(values, dtype=np.float64 if kind == "double" else np.int64)
        key = (kind, stored.shape, hashlib.sha256(stored.data).digest())
        if key not in self._known:
            buffer = self.buffer(stored.shape, kind, "constant")
            buffer.values = stored
            self.constants.append(buffer)
            self._known[key] = buffer
        return self._known[key]

    def stored(self, array: Array, pinned: bool = False) -> Array:
        """The same array in a buffer; ``pinned`` in row-major order."""
        array = self.whole(array)
        if array.buffer is not None:
            array.buffer.pinned |= pinned
            return array
        if not pinned and array.distinct < array.size:
            return expand(self.stored(narrowed(array)), array.shape)
        out = self.buffer(array.shape, array.kind, pinned=pinned)
        self.write(array, out)
        return of_buffer(out)

    def write(self, array: Array, out: Buffer) -> None:
        """Compute all elements of an array into a buffer of its shape."""
        if array.pieces:
            self._write_pieces(array, out)
            return
        kept = self.variables(array.shape)
        self._add(
            out,
            kept,
            lambda index: index,
            lambda index, _: array.at(index),
            array,
        )

    def whole(self, array: Array) -> Array:
        """The same array, its pieces put together in a buffer."""
        if not array.pieces:
            return array
        out = self.buffer(array.shape, array.kind)
        self._write_pieces(array, out)
        return of_buffer(out)

    def _write_pieces(self, array: Array, out: Buffer) -> None:
        dim, at = array.pieces[0].dim, 0

        def begin(start: int) -> list[int]:
            return [start if d == dim else 0 for d in range(array.rank)]

        for piece in (*array.pieces, None):
            start = piece.start if piece else array.shape[dim]
            if start > at:
                gap = (*array.shape[:dim], start - at, *array.shape[dim + 1 :])
                self.place(filled(gap, array.kind, 0.0), out, begin(at), apart=True)
            if piece:
                self.place(piece.array, out, begin(start), apart=True)
                at = piece.end

    def place(self, array: Array, out: Buffer, at: Sequence[int], *, apart: bool = False) -> None:
        """Write an array into a part of a buffer that begins at the place ``at``."""
        kept = self.variables(array.shape)
        self._add(
            out,
            kept,
            lambda index: tuple(offset(i, by) for i, by in zip(index, at, strict=True)),
            lambda index, _: array.at(index),
            array,
            apart,
        )

    def variables(self, shape: Sequence[int]) -> tuple[Var, ...]:
        """New loop variables over a shape."""
        made = []
        for extent in shape:
            self._count += 1
            made.append(Var(f"i{self._count}", extent))
        return tuple(made)

    def _add(
        self,
        out: Buffer,
        kept: tuple[Var, ...],
        target: Callable[[Indices], Indices],
        value: Callable[[Indices, Indices], Expression],
        array: Array,
        apart: bool = False,
    ) -> None:
        if array.size:
            self.statements.append(
                Nest(
                    out,
                    kept,
                    (),
                    target,
                    value,
                    apart=apart,
                    vectorised=array.vectorised,
                    cost=array.cost,
                    title=self.title,
                )
            )

    # -- what is worth storing -----------------------------------------------------------

    def once(self, operand: Operand, size: int) -> Operand:
        """An operand of an array of ``size`` elements, stored where it would be done again."""
        if not isinstance(operand, Array) or operand.cost == 0:
            return operand
        few = operand.distinct
        again = few < size and (operand.cost >= HEAVY or 4 * few <= size)
        return self.stored(operand) if again or operand.cost > LONGEST else operand

    def unconditional(self, operand: Operand) -> Operand:
        """An operand of a choice: what is dear is done for all, since branches break vectors."""
        if isinstance(operand, Array) and operand.cost >= HEAVY:
            return self.stored(operand)
        return operand

    # -- loops ---------------------------------------------------------------------------

    def reduce(self, array: Array, dims: Sequence[int], operation: Operation, keep: bool) -> Array:
        """Fold some dims."""
        dims = sorted({dim % array.rank for dim in dims}) if array.rank else []
        kept_dims = [dim for dim in range(array.rank) if dim not in dims]
        kept_shape = [array.shape[dim] for dim in kept_dims]
        shape = [1 if d in dims else n for d, n in enumerate(array.shape)] if keep else kept_shape
        if not dims or all(array.shape[dim] == 1 for dim in dims):
            result = reshape(array, shape)
            if result is not None:
                return result
        if operation != "product" and array.distinct < array.size:
            times = math.prod(array.shape[dim] for dim in dims if array.alike[dim])
            part = self.reduce(narrowed(array), dims, operation, True)
            if operation == "sum":
                part = pointwise("({0}*{1})", [part, times], part.shape, array.kind, 1)
            wide = [1 if d in dims else n for d, n in enumerate(array.shape)]
            return self.reshaped(expand(part, wide), shape)
        out = self.buffer(kept_shape, array.kind)
        kept = self.variables(kept_shape)
        reduced = self.variables([array.shape[dim] for dim in dims])

        def value(index: Indices, inner: Indices) -> Expression:
            whole: list[Index] = [ZERO] * array.rank
            for dim, i in (*zip(kept_dims, index, strict=True), *zip(dims, inner, strict=True)):
                whole[dim] = i
            return array.at(tuple(whole))

        self._fold(out, kept, reduced, value, operation, array.vectorised, array.cost)
        result = reshape(of_buffer(out), shape)
        return (
            of_buffer(out)
            if result is None
            else replace(result, buffer=out if tuple(shape) == out.shape else None)
        )

    def contract(
        self,
        left: Array,
        right: Array,
        shape: Sequence[int],
        length: int,
        pick: Callable[[Indices, Index], tuple[Indices, Indices]],
        plus: Array | None = None,
    ) -> Array:
        """``out[i] = plus[i] + sum_k left[…] right[…]``; ``pick(i, k)`` gives both indices."""
        left, right = (self.stored(a) if a.cost else a for a in (left, right))
        out = self.buffer(shape, "double")
        kept, reduced = self.variables(shape), self.variables([length])

        def value(index: Indices, inner: Indices) -> Expression:
            a, b = pick(index, inner[0])
            return Call("({0}*{1})", (left.at(a), right.at(b)))

        self._fold(out, kept, reduced, value, "sum", True, 1)
        return of_buffer(out)

    def _fold(
        self,
        out: Buffer,
        kept: tuple[Var, ...],
        reduced: tuple[Var, ...],
        value: Callable[[Indices, Indices], Expression],
        operation: Operation,
        vectorised: bool,
        cost: int,
    ) -> None:
        if not out.size:
            return
        if any(var.extent == 0 for var in reduced):
            start = Literal(START[operation])
            nest = Nest(out, kept, (), lambda index: index, lambda *_: start, title=self.title)
        else:
            nest = Nest(
                out,
                kept,
                reduced,
                lambda index: index,
                value,
                operation,
                vectorised=vectorised,
                cost=cost,
                title=self.title,
            )
        self.statements.append(nest)

    def scan(self, array: Array, dim: int, form: str, vectorised: bool = True) -> Array:
        """``out[0] = x[0]``, ``out[t] = form(out[t - 1], x[t])`` along a dim."""
        if array.rank == 0:
            return array
        dim %= array.rank
        out = self.buffer(array.shape, array.kind)
        result = of_buffer(out)
        if not array.size:
            return result
        others = [size for d, size in enumerate(array.shape) if d != dim]

        def within(index: Indices, t: Index) -> Indices:
            return (*index[:dim], t, *index[dim:])

        self._add(
            out,
            self.variables(others),
            lambda index: within(index, ZERO),
            lambda index, _: array.at(within(index, ZERO)),
            array,
        )
        if array.shape[dim] == 1:
            return result
        kept = self.variables([array.shape[dim] - 1, *others])

        def value(index: Indices, _: Indices) -> Expression:
            now = array.at(within(index[1:], offset(index[0], 1)))
            return Call(form, (Load(out, within(index[1:], index[0])), now))

        self.statements.append(
            Nest(
                out,
                kept,
                (),
                lambda index: within(index[1:], offset(index[0], 1)),
                value,
                ordered=True,
                vectorised=array.vectorised and vectorised,
                cost=array.cost,
                title=self.title,
            )
        )
        return result

    def scatter(
        self,
        base: Array,
        values: Array,
        target: Callable[[Indices], Indices],
        add: bool,
    ) -> Array:
        """``base`` with ``values[i]`` put, or added, at ``target(i)``."""
        out = self.buffer(base.shape, base.kind)
        self.write(base, out)
        if values.size:
            self.statements.append(
                Nest(
                    out,
                    self.variables(values.shape),
                    (),
                    target,
                    lambda index, _: values.at(index),
                    "sum" if add else "set",
                    accumulates=True,
                    vectorised=False,
                    cost=values.cost,
                    title=self.title,
                )
            )
        return of_buffer(out)

    def kernel(
        self,
        function: str,
        numbers: Sequence[int],
        inputs: Sequence[Array],
        outputs: Sequence[tuple[Sequence[int], Kind]],
    ) -> list[Array]:
        """Call a function of the prelude on whole arrays in row-major order."""
        read = [self._row_major(array) for array in inputs]
        made = [self.buffer(shape, kind, pinned=True) for shape, kind in outputs]
        self.statements.append(
            Kernel(function, tuple(numbers), tuple(read), tuple(made), title=self.title)
        )
        return [of_buffer(buffer) for buffer in made]

    def _row_major(self, array: Array) -> Buffer:
        buffer = self.stored(array, pinned=True).buffer
        assert buffer is not None
        return buffer

    def reshaped(self, array: Array, shape: Sequence[int]) -> Array:
        """Another shape, by a copy where the dims do not fall together."""
        if array.pieces and tuple(shape) == array.shape:
            return array
        array = self.whole(array)
        if tuple(shape) == array.shape:
            return array
        view = reshape(array, shape) if array.size else None
        if view is not None:
            return view
        if not array.size:
            return filled(shape, array.kind, 0)
        buffer = self._row_major(array)
        sizes = tuple(shape)
        return Array(
            sizes,
            array.kind,
            lambda index: Load(buffer, (flat_index(index, sizes),), flat=True),
        )

    # -- arrays in pieces ----------------------------------------------------------------

    def piece(self, array: Array, start: int, dim: int, length: int) -> Array:
        """An array of a length along a dim that is zero but for ``array`` from ``start`` on."""
        shape = (*array.shape[:dim], length, *array.shape[dim + 1 :])
        if array.pieces and array.pieces[0].dim != dim:
            array = self.whole(array)
        inner = array.pieces or (Piece(0, array, dim),)
        pieces = tuple(Piece(start + p.start, p.array, dim) for p in inner)
        return Array(shape, array.kind, _no_element, pieces=pieces)

    def joined(self, a: Array, b: Array) -> Array | None:
        """The sum of two arrays in pieces; None where pieces overlap without agreeing."""
        if a.pieces[0].dim != b.pieces[0].dim or a.shape != b.shape:
            return None
        pieces = sorted((*a.pieces, *b.pieces), key=lambda piece: piece.start)
        merged: list[Piece] = []
        for piece in pieces:
            if not merged or piece.start >= merged[-1].end:
                merged.append(piece)
                continue
            last = merged[-1]
            if (last.start, last.end) != (piece.start, piece.end):
                return None
            both = (last.array, piece.array)
            total = pointwise("({0}+{1})", both, last.array.shape, a.kind, 1)
            merged[-1] = Piece(last.start, total, last.dim)
        return Array(a.shape, a.kind, _no_element, pieces=tuple(merged))

    def sum_of_pieces(self, array: Array, dims: Sequence[int], keep: bool) -> Array | None:
        """The sum over dims, that of the pieces among them; None where it is not."""
        dim = array.pieces[0].dim
        if dim not in {d % array.rank for d in dims}:
            return None
        sums = [self.reduce(piece.array, dims, "sum", keep) for piece in array.pieces]
        total = sums[0]
        for each in sums[1:]:
            total = pointwise("({0}+{1})", [total, each], total.shape, array.kind, 1)
        return total

    # -- indices -------------------------------------------------------------------------

    def place_in(self, array: Array, index: Indices, extent: int) -> Index:
        """The index that an integer array names, as an affine one where its values allow."""
        if array.values is not None and array.size:
            known = _affine(array.values, index, extent)
            if known is not None:
                return known
        return Lookup(array.at(index), extent)


def _no_element(index: Indices) -> Expression:
    raise AssertionError("an array in pieces is put together before it is read")


def _affine(values: np.ndarray, index: Indices, extent: int) -> Affine | None:
    """``values[index]`` where the values are an affine function of the index."""
    values = np.where(values < 0, values + extent, values)
    if any(not isinstance(i, Affine) for i in index):
        return constant(int(values.flat[0])) if values.size == 1 else None
    origin = int(values.flat[0])
    result, expected = constant(origin), np.full(values.shape, origin)
    for dim, size in enumerate(values.shape):
        if size == 1:
            continue
        step = int(values.take(1, dim).flat[0]) - origin
        along = [1] * values.ndim
        along[dim] = size
        expected = expected + (step * np.arange(size)).reshape(along)
        i = index[dim]
        assert isinstance(i, Affine)
        result = result.plus(i, step)
    return result if np.array_equal(expected, values) else None
