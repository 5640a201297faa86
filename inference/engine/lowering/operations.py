"""The table of operations: what each op of a traced graph is, as arrays and loop nests.

An entry takes the builder, what is known of the result, and the operands; it returns an array, or
a tuple of them. What is not in the table is named by MissingOperation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from storyzoo.inference.engine.lowering.buffer import Kind
from storyzoo.inference.engine.lowering.builder import HEAVY, Builder, Operation
from storyzoo.inference.engine.lowering.expression import (
    Call,
    Expression,
    Index,
    Indices,
    Position,
    constant,
    offset,
)
from storyzoo.inference.engine.lowering.symbolic import (
    Array,
    Operand,
    cut,
    diagonal,
    element_of,
    expand,
    filled,
    flip,
    is_literal,
    of_buffer,
    permute,
    pointwise,
    select,
    view_of,
)


class MissingOperation(Exception):
    """An op that the table lacks, or a form of one; the message names it."""


@dataclass(frozen=True)
class Result:
    """What the graph says of a node's value."""

    shape: tuple[int, ...]
    kind: Kind
    others: tuple[tuple[tuple[int, ...], Kind], ...] = ()
    """Of a tuple: its further members."""


Rule = Callable[..., Any]

# -- one element at a time ---------------------------------------------------------------------

UNARY: dict[str, tuple[str, int]] = {
    "neg": ("(-{0})", 1),
    "abs": ("fabs({0})", 1),
    "sign": ("sign_of({0})", 2),
    "sgn": ("sign_of({0})", 2),
    "reciprocal": ("(1.0/{0})", 4),
    "sqrt": ("sqrt({0})", 5),
    "rsqrt": ("(1.0/sqrt({0}))", 8),
    "exp": ("exp({0})", 10),
    "exp2": ("exp2({0})", 10),
    "expm1": ("expm1({0})", 12),
    "log": ("log({0})", 10),
    "log2": ("log2({0})", 10),
    "log10": ("log10({0})", 10),
    "log1p": ("log1p({0})", 12),
    "sin": ("sin({0})", 12),
    "cos": ("cos({0})", 12),
    "tan": ("tan({0})", 14),
    "asin": ("asin({0})", 14),
    "acos": ("acos({0})", 14),
    "atan": ("atan({0})", 14),
    "sinh": ("sinh({0})", 14),
    "cosh": ("cosh({0})", 14),
    "tanh": ("tanh({0})", 14),
    "asinh": ("asinh({0})", 14),
    "acosh": ("acosh({0})", 14),
    "atanh": ("atanh({0})", 14),
    "erf": ("erf({0})", 14),
    "erfc": ("erfc({0})", 14),
    "sigmoid": ("sigmoid({0})", 12),
    "relu": ("larger({0},0.0)", 1),
    "floor": ("floor({0})", 2),
    "ceil": ("ceil({0})", 2),
    "round": ("nearbyint({0})", 2),
    "trunc": ("trunc({0})", 2),
    "square": ("square({0})", 1),
    "isnan": ("is_nan({0})", 1),
    "isinf": ("(fabs({0})==INFINITY)", 1),
    "logical_not": ("(!{0})", 1),
    "bitwise_not": ("(!{0})", 1),
}
"""Form in C and cost, where an addition costs one; all of these come in vectors."""

SCALAR_UNARY: dict[str, tuple[str, int]] = {
    "lgamma": ("log_gamma({0})", 40),
    "digamma": ("digamma({0})", 30),
    "special_erfinv": ("inverse_erf({0})", 40),
    "erfinv": ("inverse_erf({0})", 40),
    "special_ndtri": ("inverse_normal({0})", 40),
    "special_log_ndtr": ("log_normal_cdf({0})", 40),
    "special_erfcx": ("scaled_erfc({0})", 40),
    "i0": ("bessel_0({0})", 60),
    "special_i0": ("bessel_0({0})", 60),
    "special_i1": ("bessel_1({0})", 60),
    "special_i0e": ("scaled_bessel_0({0})", 40),
    "special_i1e": ("scaled_bessel_1({0})", 40),
}
"""The same for what the prelude does one number at a time."""

BINARY: dict[str, tuple[str, int]] = {
    "mul": ("({0}*{1})", 1),
    "ne": ("({0}!={1})", 1),
    "gt": ("({0}>{1})", 1),
    "ge": ("({0}>={1})", 1),
    "lt": ("({0}<{1})", 1),
    "le": ("({0}<={1})", 1),
    "maximum": ("larger({0},{1})", 2),
    "minimum": ("smaller({0},{1})", 2),
    "logical_and": ("(({0}!=0)&({1}!=0))", 2),
    "logical_or": ("(({0}!=0)|({1}!=0))", 2),
    "logical_xor": ("(({0}!=0)!=({1}!=0))", 2),
    "atan2": ("atan2({0},{1})", 20),
    "hypot": ("sqrt(square({0})+square({1}))", 8),
    "fmod": ("fmod({0},{1})", 20),
}
POWERS = {
    -2.0: ("(1.0/square({0}))", 5),
    -1.0: ("(1.0/{0})", 4),
    -0.5: ("(1.0/sqrt({0}))", 8),
    0.5: ("sqrt({0})", 5),
    2.0: ("square({0})", 1),
    3.0: ("cube({0})", 2),
}


def _unary(form: str, cost: int, vectorised: bool, b: Builder, r: Result, x: Operand) -> Array:
    return pointwise(_as_kind(form, r.kind), [x], r.shape, r.kind, cost, vectorised)


def _binary(form: str, cost: int, b: Builder, r: Result, x: Operand, y: Operand) -> Array:
    operands = [b.once(x, _size(r)), b.once(y, _size(r))]
    return pointwise(_as_kind(form, r.kind), operands, r.shape, r.kind, cost)


def _as_kind(form: str, kind: Kind) -> str:
    """A form whose type is that of its result: functions give doubles, of whole numbers too."""
    return f"((int64_t){form})" if kind == "int64_t" and form[0].isalpha() else form


def _size(r: Result) -> int:
    return math.prod(r.shape)


def _equal(b: Builder, r: Result, x: Operand, y: Operand) -> Array:
    known = is_literal(x), is_literal(y)
    if known[0] is not None and known[1] is not None:
        return filled(r.shape, r.kind, int(known[0] == known[1]))
    return _binary("({0}=={1})", 1, b, r, x, y)


def _add(b: Builder, r: Result, x: Operand, y: Operand, alpha: float = 1) -> Array:
    if isinstance(x, Array) and isinstance(y, Array) and alpha == 1:
        if x.pieces and y.pieces:
            joined = b.joined(x, y)
            if joined is not None:
                return joined
        for one, other in ((x, y), (y, x)):
            if one.shape == r.shape and is_literal(other) == 0 and one.kind == r.kind:
                return one
    x, y = (b.whole(o) if isinstance(o, Array) else o for o in (x, y))
    x, y = b.once(x, _size(r)), b.once(y, _size(r))
    form = "({0}+{1})" if alpha == 1 else f"({{0}}+{alpha!r}*{{1}})"
    return pointwise(form, [x, y], r.shape, r.kind, 1)


def _subtract(b: Builder, r: Result, x: Operand, y: Operand, alpha: float = 1) -> Array:
    form = "({0}-{1})" if alpha == 1 else f"({{0}}-{alpha!r}*{{1}})"
    return _binary(form, 1, b, r, x, y)


def _reverse_subtract(b: Builder, r: Result, x: Operand, y: Operand, alpha: float = 1) -> Array:
    return _subtract(b, r, y, x, alpha)


def _divide(
    b: Builder, r: Result, x: Operand, y: Operand, rounding_mode: str | None = None
) -> Array:
    if (
        isinstance(y, Array)
        and (y.kind, rounding_mode, is_literal(y)) == ("double", None, None)
        and 4 * y.distinct <= _size(r)
    ):  # one division for many
        inverse = pointwise("(1.0/{0})", [y], y.shape, "double", 4)
        return _binary("({0}*{1})", 1, b, r, x, b.stored(inverse))
    whole = all(not isinstance(o, Array) or o.kind == "int64_t" for o in (x, y))
    quotient = "((double){0}/{1})" if whole else "({0}/{1})"
    form = quotient if rounding_mode is None else f"{rounding_mode}{quotient}"
    return _binary(form, 4, b, r, x, y)


def _remainder(b: Builder, r: Result, x: Operand, y: Operand) -> Array:
    form = "whole_remainder({0},{1})" if r.kind == "int64_t" else "remainder_of({0},{1})"
    return _binary(form, 8, b, r, x, y)


def _power(b: Builder, r: Result, x: Operand, y: Operand) -> Array:
    exponent = is_literal(y)
    if exponent is not None and float(exponent) in POWERS:
        return _unary(*POWERS[float(exponent)], True, b, r, x)
    if exponent == 1:
        return _same(b, r, x)
    if exponent == 0:
        return filled(r.shape, r.kind, 1)
    return _binary("pow({0},{1})", 30, b, r, x, y)


def _log_add_exp(b: Builder, r: Result, x: Operand, y: Operand) -> Array:
    return _binary("log_add_exp({0},{1})", 25, b, r, x, y)


def _times_log(b: Builder, r: Result, x: Operand, y: Operand) -> Array:
    if is_literal(x) == 0:  # at any y but one that is not a number
        return filled(r.shape, r.kind, 0.0)
    return _binary("times_log({0},{1})", 12, b, r, x, y)


def _polygamma(b: Builder, r: Result, order: int, x: Operand) -> Array:
    if order == 0:
        return _unary(*SCALAR_UNARY["digamma"], False, b, r, x)
    if order == 1:
        return _unary("trigamma({0})", 40, False, b, r, x)
    raise MissingOperation(f"polygamma of order {order}")


def _where(b: Builder, r: Result, condition: Operand, x: Operand, y: Operand) -> Array:
    known = is_literal(condition)
    if known is not None:
        chosen = x if known else y
        return _same(b, r, chosen)
    x, y = b.unconditional(x), b.unconditional(y)
    return pointwise("({0}?{1}:{2})", [condition, x, y], r.shape, r.kind, 1)


def _clamp(
    b: Builder, r: Result, x: Operand, min: Operand | None = None, max: Operand | None = None
) -> Array:
    result = x
    if min is not None and min != -math.inf:
        result = _binary("at_least({0},{1})", 1, b, r, result, min)
    if max is not None and max != math.inf:
        result = _binary("at_most({0},{1})", 1, b, r, result, max)
    return _same(b, r, result)


def _clamp_max(b: Builder, r: Result, x: Operand, max: Operand) -> Array:
    return _clamp(b, r, x, None, max)


def _same(b: Builder, r: Result, x: Operand, *_: Any, **__: Any) -> Array:
    """The operand itself, as another type where that is asked for."""
    if not isinstance(x, Array):
        return filled(r.shape, r.kind, x)
    if x.pieces and r.kind == x.kind:
        return x
    x = expand(b.whole(x), r.shape)
    if x.kind == r.kind:
        return x
    literal = is_literal(x)
    if literal is not None:
        return filled(r.shape, r.kind, float(literal) if r.kind == "double" else int(literal))
    return pointwise(f"(({r.kind}){{0}})", [x], r.shape, r.kind, 1)


def _to(b: Builder, r: Result, x: Array, *_: Any, **known: Any) -> Array:
    if str(known.get("dtype")) == "torch.bool" and x.kind == "double":
        return pointwise("({0}!=0)", [x], r.shape, r.kind, 1)
    return _same(b, r, x)


def _fill(value: float, b: Builder, r: Result, *_: Any, **__: Any) -> Array:
    return filled(r.shape, r.kind, value)


def _full(b: Builder, r: Result, *told: Any, **__: Any) -> Array:
    return _same(b, r, told[-1])  # after the shape, or the array whose shape is meant


def _scalar(b: Builder, r: Result, value: float, *_: Any, **__: Any) -> Array:
    return filled(r.shape, r.kind, value)


def _copy(b: Builder, r: Result, x: Array, source: Array, *_: Any) -> Array:
    return _same(b, r, source)


def _range(
    b: Builder, r: Result, start: int, end: int | None = None, step: int = 1, **_: Any
) -> Array:
    if end is None:
        start, end = 0, start
    values = start + step * np.arange(r.shape[0])
    return b.constant(values.astype(float) if r.kind == "double" else values)


# -- views -------------------------------------------------------------------------------------


def _view(b: Builder, r: Result, x: Array, *_: Any) -> Array:
    return b.reshaped(x, r.shape)


def _expand(b: Builder, r: Result, x: Array, *_: Any, **__: Any) -> Array:
    wide = b.once(x, _size(r))
    assert isinstance(wide, Array)
    return expand(wide, r.shape)


def _permute(b: Builder, r: Result, x: Array, order: Sequence[int]) -> Array:
    return permute(x, order)


def _transpose(b: Builder, r: Result, x: Array, first: int = 0, second: int = 1) -> Array:
    if x.rank < 2:
        return x
    order = list(range(x.rank))
    order[first], order[second] = order[second], order[first]
    return permute(x, order)


def _flip(b: Builder, r: Result, x: Array, dims: Sequence[int]) -> Array:
    return flip(x, dims)


def _select(b: Builder, r: Result, x: Array, dim: int, at: int) -> Array:
    return select(x, dim, at)


def _slice(
    b: Builder,
    r: Result,
    x: Array,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Array:
    dim %= x.rank
    begin, _, _ = slice(start, end, step).indices(x.shape[dim])
    return cut(x, dim, begin, r.shape[dim], step)


def _diagonal(
    b: Builder, r: Result, x: Array, shift: int = 0, dim1: int = 0, dim2: int = 1
) -> Array:
    return diagonal(x, shift, dim1, dim2)


def _pad(b: Builder, r: Result, x: Array, pads: Sequence[int], value: float = 0.0) -> Array:
    low = [0] * x.rank
    for place, dim in enumerate(range(x.rank - 1, x.rank - 1 - len(pads) // 2, -1)):
        before, after = pads[2 * place], pads[2 * place + 1]
        start, length = max(-before, 0), x.shape[dim] + min(before, 0) + min(after, 0)
        x = cut(b.whole(x), dim, start, length) if min(before, after) < 0 else x
        low[dim] = max(before, 0)
    if tuple(x.shape) == r.shape:
        return x
    grown = [dim for dim, size in enumerate(r.shape) if size != x.shape[dim]]
    if len(grown) == 1 and value == 0:
        return b.piece(x, low[grown[0]], grown[0], r.shape[grown[0]])
    out = b.buffer(r.shape, r.kind)
    return _overlaid(b, filled(r.shape, r.kind, value), b.whole(x), low, out)


def _overlaid(b: Builder, base: Array, x: Array, at: Sequence[int], out: Any) -> Array:
    b.write(base, out)
    b.place(x, out, at)
    return of_buffer(out)


def _slice_scatter(
    b: Builder,
    r: Result,
    base: Array,
    x: Array,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Array:
    dim %= base.rank
    begin, _, _ = slice(start, end, step).indices(base.shape[dim])
    if x.shape == base.shape and step == 1:
        return x
    if step == 1 and is_literal(base) == 0:
        return b.piece(x, begin, dim, base.shape[dim])
    x = b.whole(x)
    target = partial(_strided, dim=dim, begin=begin, step=step)
    return (
        b.scatter(base, x, target, add=False)
        if step != 1
        else _overlaid(
            b,
            base,
            x,
            [begin if d == dim else 0 for d in range(base.rank)],
            b.buffer(r.shape, r.kind),
        )
    )


def _strided(index: Indices, dim: int, begin: int, step: int) -> Indices:
    return (*index[:dim], offset(index[dim], begin, step), *index[dim + 1 :])


def _select_scatter(b: Builder, r: Result, base: Array, x: Array, dim: int, at: int) -> Array:
    dim, at = dim % base.rank, at % base.shape[dim % base.rank]
    shape = (*base.shape[:dim], 1, *base.shape[dim + 1 :])
    if is_literal(base) == 0:
        return b.piece(b.reshaped(x, shape), at, dim, base.shape[dim])
    place = [at if d == dim else 0 for d in range(base.rank)]
    return _overlaid(b, base, b.reshaped(x, shape), place, b.buffer(r.shape, r.kind))


def _diagonal_scatter(
    b: Builder, r: Result, base: Array, x: Array, shift: int = 0, dim1: int = 0, dim2: int = 1
) -> Array:
    first, second = dim1 % base.rank, dim2 % base.rank
    rest = [dim for dim in range(base.rank) if dim not in (first, second)]

    def target(index: Indices) -> Indices:
        own: list[Index] = [constant(0)] * base.rank
        for dim, i in zip(rest, index[:-1], strict=True):
            own[dim] = i
        own[first] = offset(index[-1], max(-shift, 0))
        own[second] = offset(index[-1], max(shift, 0))
        return tuple(own)

    return b.scatter(base, x, target, add=False)


def _concatenate(b: Builder, r: Result, arrays: Sequence[Array], dim: int = 0) -> Array:
    arrays = [array for array in arrays if array.size]
    if len(arrays) == 1:
        return arrays[0]
    out, at = b.buffer(r.shape, r.kind), 0
    dim %= len(r.shape)
    for array in arrays:
        place = [at if d == dim else 0 for d in range(len(r.shape))]
        b.place(b.whole(array), out, place, apart=True)
        at += array.shape[dim]
    return of_buffer(out)


def _repeat(b: Builder, r: Result, x: Array, times: Sequence[int]) -> Array:
    lead = len(r.shape) - x.rank
    if any(n > 1 and (d < lead or x.shape[d - lead] > 1) for d, n in enumerate(times) if d >= lead):
        parts: Array = x
        for dim, n in enumerate(times[lead:]):
            if n > 1 and x.shape[dim] > 1:
                shape = (*parts.shape[:dim], n * parts.shape[dim], *parts.shape[dim + 1 :])
                parts = _concatenate(b, Result(shape, x.kind), [parts] * n, dim)
        x = parts
    return expand(x, r.shape)


def _triangle(lower: bool, b: Builder, r: Result, x: Array, shift: int = 0) -> Array:
    at = element_of(x, r.shape)

    def element(index: Indices) -> Expression:
        row, column = Position(index[-2]), Position(index[-1])
        sign = ">=" if lower else "<="
        form = f"(({{0}}+{shift}){sign}{{1}}?{{2}}:0)"
        return Call(form, (row, column, at(index)))

    return Array(r.shape, r.kind, element, cost=x.cost + 2, vectorised=x.vectorised)


# -- looked up ---------------------------------------------------------------------------------


def _as_places(b: Builder, indices: Sequence[Any], shape: Sequence[int]) -> list[Array | None]:
    """Index arrays, counted from the start; a known mask is the places where it holds."""
    places: list[Array | None] = []
    for index in indices:
        if index is None:
            places.append(None)
        elif index.values is not None and index.values.dtype.kind == "b":
            places += [b.constant(found) for found in np.nonzero(index.values)]
        else:
            places.append(_from_start(b, index, shape[len(places)]))
    return places


def _from_start(b: Builder, index: Array, extent: int) -> Array:
    """Places that count from the end where they are negative, as ones that do not."""
    if index.values is None:
        counted = f"from_start({{0}},{extent})"
        return _within(pointwise(counted, [index], index.shape, "int64_t", 2), extent)
    if not index.size or index.values.min() >= 0:
        return index
    return b.constant(np.where(index.values < 0, index.values + extent, index.values))


def _within(index: Array, extent: int) -> Array:
    """Places that depend on the unknowns, kept inside: the model would have raised an error."""
    if index.values is not None:
        return index
    return pointwise(f"within({{0}},{extent})", [index], index.shape, "int64_t", 2)


def _addressed(
    b: Builder, shape: Sequence[int], indices: Sequence[Any]
) -> tuple[tuple[int, ...], Callable[[Indices], Indices]]:
    """Shape of ``x[indices]``, and where each of its elements lies in ``x``."""
    places = _as_places(b, indices, shape)
    places += [None] * (len(shape) - len(places))
    at = [dim for dim, place in enumerate(places) if place is not None]
    wide = np.broadcast_shapes(*(places[dim].shape for dim in at))  # type: ignore[union-attr]
    together = at == list(range(at[0], at[-1] + 1))
    first = at[0] if together else 0
    rest = [dim for dim in range(len(shape)) if dim not in at]
    before = [dim for dim in rest if dim < first] if together else []
    after = [dim for dim in rest if dim not in before]
    result = (*(shape[d] for d in before), *wide, *(shape[d] for d in after))

    def back(index: Indices) -> Indices:
        own: list[Index] = [constant(0)] * len(shape)
        middle = index[len(before) : len(before) + len(wide)]
        for dim, i in zip(before, index[: len(before)], strict=True):
            own[dim] = i
        for dim, i in zip(after, index[len(before) + len(wide) :], strict=True):
            own[dim] = i
        for dim in at:
            place = places[dim]
            assert place is not None
            lead = len(wide) - place.rank
            inner = tuple(
                constant(0) if size == 1 else i
                for size, i in zip(place.shape, middle[lead:], strict=True)
            )
            own[dim] = b.place_in(place, inner, shape[dim])
        return tuple(own)

    return result, back


def _index(b: Builder, r: Result, x: Array, indices: Sequence[Any]) -> Array:
    source = b.once(x, max(_size(r), 4 * x.size)) if x.cost else x
    assert isinstance(source, Array)
    shape, back = _addressed(b, source.shape, indices)
    return view_of(source, shape, back)


def _index_put(
    b: Builder,
    r: Result,
    x: Array,
    indices: Sequence[Any],
    values: Array,
    accumulate: bool = False,
    *_: Any,
) -> Array:
    shape, back = _addressed(b, x.shape, indices)
    return b.scatter(x, expand(values, shape), back, add=accumulate)


def put_where(
    b: Builder, r: Result, x: Array, masks: Sequence[Array], value: Array, *_: Any
) -> Array:
    """``x`` with one number put where a mask over its first dims holds."""
    (mask,) = masks
    mask = b.reshaped(mask, (*mask.shape, *(1,) * (x.rank - mask.rank)))
    return _where(b, r, mask, b.reshaped(value, ()), x)


def _index_select(b: Builder, r: Result, x: Array, dim: int, places: Array) -> Array:
    return _index(b, r, x, [None] * (dim % x.rank) + [b.reshaped(places, (places.size,))])


def _embedding(b: Builder, r: Result, weight: Array, places: Array, *_: Any) -> Array:
    return _index(b, r, weight, [places])


def _along(b: Builder, x: Array, dim: int, places: Array, index: Indices) -> Indices:
    place = b.place_in(places, index, x.shape[dim])
    return (*index[:dim], place, *index[dim + 1 :])


def _gather(b: Builder, r: Result, x: Array, dim: int, places: Array, **_: Any) -> Array:
    if not x.rank:
        return x
    dim %= x.rank
    source = b.once(x, max(_size(r), 4 * x.size)) if x.cost else x
    assert isinstance(source, Array)
    places = _within(places, x.shape[dim])
    return view_of(source, r.shape, lambda index: _along(b, source, dim, places, index))


def _scatter(
    add: bool, b: Builder, r: Result, x: Array, dim: int, places: Array, values: Operand
) -> Array:
    dim %= max(x.rank, 1)
    places = _within(places, x.shape[dim]) if x.rank else places
    at = element_of(values, places.shape)
    if isinstance(values, Array):
        values = cut_to(values, places.shape)
        at = values.at
    source = Array(places.shape, x.kind, at)
    return b.scatter(x, source, lambda index: _along(b, x, dim, places, index), add)


def cut_to(x: Array, shape: Sequence[int]) -> Array:
    """The first places along every dim."""
    for dim, size in enumerate(shape):
        x = cut(x, dim, 0, size)
    return x


# -- reductions --------------------------------------------------------------------------------


def _dims(x: Array, dims: Any) -> list[int]:
    if dims is None or (isinstance(dims, Sequence) and not dims):
        return list(range(x.rank))
    return [dims] if isinstance(dims, int) else list(dims)


def _reduce(
    operation: Operation,
    b: Builder,
    r: Result,
    x: Array,
    dims: Any = None,
    keep: bool = False,
    *_: Any,
    **__: Any,
) -> Array:
    over = _dims(x, dims)
    if x.pieces and operation == "sum":
        total = b.sum_of_pieces(x, over, keep)
        if total is not None:
            return total
    return _same(b, r, b.reduce(_numbers(b.whole(x), r), over, operation, keep))


def _numbers(x: Array, r: Result) -> Array:
    """The array as the type of the result, so that sums of truth values count."""
    return x if x.kind == r.kind else pointwise(f"(({r.kind}){{0}})", [x], x.shape, r.kind, 1)


def _mean(b: Builder, r: Result, x: Array, dims: Any = None, keep: bool = False, **_: Any) -> Array:
    total = b.reduce(x, _dims(x, dims), "sum", keep)
    count = x.size / max(total.size, 1)
    return pointwise("({0}/{1})", [total, count], r.shape, r.kind, 4)


def _variance(
    b: Builder,
    r: Result,
    x: Array,
    dims: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Array:
    over, x = _dims(x, dims), b.stored(x)
    total = b.reduce(x, over, "sum", True)
    count = x.size / max(total.size, 1)
    centre = b.stored(pointwise("({0}/{1})", [total, count], total.shape, "double", 4))
    gap = pointwise("square({0}-{1})", [x, centre], x.shape, "double", 2)
    squares = b.reduce(gap, over, "sum", keepdim)
    left = count - (float(unbiased) if correction is None else float(correction))
    return pointwise("({0}/{1})", [squares, left], r.shape, r.kind, 4)


def _any(
    operation: Operation, b: Builder, r: Result, x: Array, dims: Any = None, keep: bool = False
) -> Array:
    truth = pointwise("({0}!=0)", [x], x.shape, "int64_t", 1)
    return b.reduce(truth, _dims(x, dims), operation, keep)


def _extreme(
    operation: Operation,
    b: Builder,
    r: Result,
    x: Array,
    dim: int | None = None,
    keep: bool = False,
) -> Any:
    """The greatest or least along a dim, and where it is first met."""
    if dim is None:
        return b.reduce(x, list(range(x.rank)), operation, False)
    if x.rank == 0:
        return x, filled((), "int64_t", 0)
    return b.reduce(x, [dim], operation, keep), _where_extreme(operation, b, x, dim, keep)


def _where_extreme(operation: Operation, b: Builder, x: Array, dim: int, keep: bool) -> Array:
    dim %= x.rank
    source = b.stored(x)
    best = b.stored(b.reduce(source, [dim], operation, True))
    at = element_of(best, source.shape)
    far = source.shape[dim]

    def element(index: Indices) -> Expression:
        form = f"({{0}}=={{1}}?{{2}}:{far})"
        return Call(form, (source.at(index), at(index), Position(index[dim])))

    places = Array(source.shape, "int64_t", element, cost=2)
    return b.reduce(places, [dim], "min", keep)


def _arg_extreme(
    operation: Operation,
    b: Builder,
    r: Result,
    x: Array,
    dim: int | None = None,
    keep: bool = False,
) -> Array:
    if dim is None:
        x, dim = b.reshaped(x, (x.size,)), 0
        return b.reshaped(_where_extreme(operation, b, x, dim, False), r.shape)
    return _where_extreme(operation, b, x, dim, keep)


def _log_sum_exp(b: Builder, r: Result, x: Array, dims: Any, keep: bool = False) -> Array:
    over, x = _dims(x, dims), b.stored(x)
    top = b.reduce(x, over, "max", True)
    top = b.stored(pointwise("finite_or_zero({0})", [top], top.shape, "double", 2))
    total = b.reduce(pointwise("exp({0}-{1})", [x, top], x.shape, "double", 11), over, "sum", keep)
    return pointwise("(log({0})+{1})", [total, b.reshaped(top, r.shape)], r.shape, r.kind, 11)


def _softmax(b: Builder, r: Result, x: Array, dim: int, *_: Any) -> Array:
    powers = b.stored(pointwise("exp({0})", [_below_top(b, x, dim)], x.shape, "double", 10))
    total = b.reduce(powers, _dims(x, dim), "sum", True)
    return pointwise("({0}/{1})", [powers, total], r.shape, r.kind, 4)


def _log_softmax(b: Builder, r: Result, x: Array, dim: int, *_: Any) -> Array:
    gap = _below_top(b, x, dim)
    powers = pointwise("exp({0})", [gap], x.shape, "double", 10)
    total = b.reduce(powers, _dims(x, dim), "sum", True)
    logarithm = b.stored(pointwise("log({0})", [total], total.shape, "double", 10))
    return pointwise("({0}-{1})", [gap, logarithm], r.shape, r.kind, 1)


def _below_top(b: Builder, x: Array, dim: int) -> Array:
    """How far every element is from the greatest along a dim."""
    source = b.stored(x)
    top = b.reduce(source, _dims(x, dim), "max", True)
    return pointwise("({0}-{1})", [source, top], x.shape, "double", 1)


def _scan(form: str, b: Builder, r: Result, x: Array, dim: int, **_: Any) -> Array:
    return b.scan(_numbers(x, r), dim, form)


# -- linear algebra ----------------------------------------------------------------------------


def _matrix_product(b: Builder, r: Result, x: Array, y: Array, plus: Array | None = None) -> Array:
    """``x @ y`` for vectors, matrices and stacks of matrices."""
    lead = len(r.shape) - (x.rank > 1) - (y.rank > 1)

    def pick(index: Indices, k: Index) -> tuple[Indices, Indices]:
        stack, own = index[:lead], index[lead:]
        left = (*_stacked(stack, x.shape[:-2]), own[0], k) if x.rank > 1 else (k,)
        right = (*_stacked(stack, y.shape[:-2]), k, own[-1]) if y.rank > 1 else (k,)
        return left, right

    return b.contract(x, y, r.shape, x.shape[-1], pick)


def _stacked(index: Indices, shape: Sequence[int]) -> Indices:
    own = index[len(index) - len(shape) :]
    return tuple(constant(0) if size == 1 else i for size, i in zip(shape, own, strict=True))


def _plus_product(
    b: Builder, r: Result, plus: Array, x: Array, y: Array, *, beta: float = 1, alpha: float = 1
) -> Array:
    product = _matrix_product(b, r, x, y)
    form = f"({beta!r}*{{0}}+{alpha!r}*{{1}})" if (beta, alpha) != (1, 1) else "({0}+{1})"
    return pointwise(form, [plus, product], r.shape, r.kind, 2)


def _batch(shape: Sequence[int]) -> int:
    return math.prod(shape[:-2])


def _cholesky(
    b: Builder, r: Result, x: Array, *, upper: bool = False, check_errors: bool = False
) -> tuple[Array, Array]:
    size = x.shape[-1]
    source = _transpose(b, r, x, -1, -2) if upper else x
    (factor,) = b.kernel("cholesky", (_batch(x.shape), size), [source], [(x.shape, "double")])
    if upper:
        factor = _transpose(b, r, factor, -1, -2)
    return factor, filled(x.shape[:-2], "int64_t", 0)


def _solve_triangular(
    b: Builder,
    r: Result,
    a: Array,
    x: Array,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Array:
    """``a^-1 x``, or ``x a^-1`` where ``left`` is false, by its transpose."""
    if not left:
        a, x, upper = _transpose(b, r, a, -1, -2), _transpose(b, r, x, -1, -2), not upper
    stack = np.broadcast_shapes(a.shape[:-2], x.shape[:-2])
    a, x = expand(a, (*stack, *a.shape[-2:])), expand(x, (*stack, *x.shape[-2:]))
    (solved,) = b.kernel(
        "solve_upper" if upper else "solve_lower",
        (_batch(x.shape), a.shape[-1], x.shape[-1], int(unitriangular)),
        [a, x],
        [(x.shape, "double")],
    )
    return solved if left else _transpose(b, r, solved, -1, -2)


def _triangular_solve(
    b: Builder,
    r: Result,
    x: Array,
    a: Array,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
) -> tuple[Array, Array]:
    """The older form: ``a^-1 x`` or ``a^-T x``."""
    source, above = (_transpose(b, r, a, -1, -2), not upper) if transpose else (a, upper)
    return _solve_triangular(b, r, source, x, upper=above, unitriangular=unitriangular), a


def _inverse(b: Builder, r: Result, x: Array, **_: Any) -> tuple[Array, Array]:
    (inverse,) = b.kernel("invert", (_batch(x.shape), x.shape[-1]), [x], [(x.shape, "double")])
    return inverse, filled(x.shape[:-2], "int64_t", 0)


def _cholesky_solve(b: Builder, r: Result, x: Array, factor: Array, upper: bool = False) -> Array:
    lower = _transpose(b, r, factor, -1, -2) if upper else factor
    half = _solve_triangular(b, r, lower, x, upper=False)
    return _solve_triangular(b, r, _transpose(b, r, lower, -1, -2), half, upper=True)


def _cholesky_inverse(b: Builder, r: Result, factor: Array, upper: bool = False) -> Array:
    eye = b.constant(np.eye(factor.shape[-1]))
    return _cholesky_solve(b, r, eye, factor, upper)


def _first_only(b: Builder, r: Result, *_: Any, **__: Any) -> Array:
    return filled(r.shape, r.kind, 0)


RULES: dict[str, Rule] = {
    **{name: partial(_unary, *entry, True) for name, entry in UNARY.items()},
    **{name: partial(_unary, *entry, False) for name, entry in SCALAR_UNARY.items()},
    **{name: partial(_binary, *entry) for name, entry in BINARY.items()},
    "bitwise_and": partial(_binary, *BINARY["logical_and"]),
    "bitwise_or": partial(_binary, *BINARY["logical_or"]),
    "bitwise_xor": partial(_binary, *BINARY["logical_xor"]),
    "eq": _equal,
    "add": _add,
    "sub": _subtract,
    "rsub": _reverse_subtract,
    "div": _divide,
    "remainder": _remainder,
    "pow": _power,
    "logaddexp": _log_add_exp,
    "xlogy": _times_log,
    "special_xlogy": _times_log,
    "polygamma": _polygamma,
    "where": _where,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp_max,
    "_to_copy": _to,
    **dict.fromkeys(("clone", "detach", "alias", "lift_fresh", "lift_fresh_copy"), _same),
    "copy": _copy,
    **dict.fromkeys(
        (
            "zeros",
            "zeros_like",
            "new_zeros",
            "empty",
            "empty_like",
            "new_empty",
            "empty_permuted",
            "new_empty_strided",
            "empty_strided",
        ),
        partial(_fill, 0.0),
    ),
    **dict.fromkeys(("ones", "ones_like", "new_ones"), partial(_fill, 1.0)),
    **dict.fromkeys(("full", "full_like", "new_full"), _full),
    "fill": _full,
    "scalar_tensor": _scalar,
    "arange": _range,
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze"), _view),
    "expand": _expand,
    "permute": _permute,
    "transpose": _transpose,
    "t": _transpose,
    "flip": _flip,
    "select": _select,
    "slice": _slice,
    "diagonal": _diagonal,
    "constant_pad_nd": _pad,
    "slice_scatter": _slice_scatter,
    "select_scatter": _select_scatter,
    "diagonal_scatter": _diagonal_scatter,
    "cat": _concatenate,
    "repeat": _repeat,
    "tril": partial(_triangle, True),
    "triu": partial(_triangle, False),
    "index": _index,
    "_unsafe_index": _index,
    "index_put": _index_put,
    "_unsafe_index_put": _index_put,
    "index_select": _index_select,
    "embedding": _embedding,
    "gather": _gather,
    "scatter": partial(_scatter, False),
    "scatter_add": partial(_scatter, True),
    "sum": partial(_reduce, "sum"),
    "prod": partial(_reduce, "product"),
    "amax": partial(_reduce, "max"),
    "amin": partial(_reduce, "min"),
    "mean": _mean,
    "var": _variance,
    "any": partial(_any, "max"),
    "all": partial(_any, "min"),
    "max": partial(_extreme, "max"),
    "min": partial(_extreme, "min"),
    "argmax": partial(_arg_extreme, "max"),
    "argmin": partial(_arg_extreme, "min"),
    "logsumexp": _log_sum_exp,
    "_softmax": _softmax,
    "_log_softmax": _log_softmax,
    "cumsum": partial(_scan, "({0}+{1})"),
    "cumprod": partial(_scan, "({0}*{1})"),
    "logcumsumexp": partial(_scan, "log_add_exp({0},{1})"),
    **dict.fromkeys(("mm", "mv", "dot", "bmm"), _matrix_product),
    **dict.fromkeys(("addmm", "addmv", "baddbmm"), _plus_product),
    "linalg_cholesky_ex": _cholesky,
    "linalg_solve_triangular": _solve_triangular,
    "triangular_solve": _triangular_solve,
    "linalg_inv_ex": _inverse,
    "cholesky_solve": _cholesky_solve,
    "cholesky_inverse": _cholesky_inverse,
}

__all__ = ["HEAVY", "MissingOperation", "RULES", "Result"]
