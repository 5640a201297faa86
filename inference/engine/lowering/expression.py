"""Scalar expressions over loop indices: what one element of an array is, before it is C.

An index is affine in loop variables (``3 + 2 i + k``) or looked up in an integer expression. Both
are kept as trees, so that the scheduler can tell which array is read at which index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from storyzoo.inference.engine.lowering.buffer import Buffer


@dataclass(frozen=True)
class Var:
    """A loop variable that runs from 0 to ``extent - 1``."""

    name: str
    extent: int


@dataclass(frozen=True)
class Affine:
    """``const + sum(factor * var)``."""

    const: int = 0
    terms: tuple[tuple[Var, int], ...] = ()

    def plus(self, other: Affine, factor: int = 1) -> Affine:
        """``self + factor * other``."""
        terms = dict(self.terms)
        for var, by in other.terms:
            terms[var] = terms.get(var, 0) + factor * by
        kept = tuple((var, by) for var, by in terms.items() if by and var.extent > 1)
        return Affine(self.const + factor * other.const, kept)

    @property
    def only(self) -> Var | None:
        """The variable, where this is a bare one."""
        if self.const == 0 and len(self.terms) == 1 and self.terms[0][1] == 1:
            return self.terms[0][0]
        return None


@dataclass(frozen=True)
class Lookup:
    """An index that is read from an integer expression; negative ones count from the end."""

    value: Expression
    extent: int


Index = Affine | Lookup
Indices = tuple[Index, ...]


@dataclass(frozen=True)
class Literal:
    """A number."""

    value: float | int | bool


@dataclass(frozen=True)
class Position:
    """An index as a number."""

    index: Index


@dataclass(frozen=True)
class Load:
    """An element of a buffer; ``flat`` counts its elements in row-major order."""

    buffer: Buffer
    index: Indices
    flat: bool = False


@dataclass(frozen=True)
class Call:
    """An operation on scalars; ``form`` is its C text with places ``{0}``, ``{1}``, …"""

    form: str
    operands: tuple[Expression, ...]


Expression = Literal | Position | Load | Call

ZERO = Affine()


def variable(var: Var) -> Affine:
    """The index that is a variable, or zero where it has one value only."""
    return Affine(0, ((var, 1),)) if var.extent > 1 else ZERO


def constant(value: int) -> Affine:
    """The index that is a number."""
    return Affine(value)


def offset(index: Index, by: int, factor: int = 1) -> Index:
    """``by + factor * index``."""
    if isinstance(index, Affine):
        return Affine(by).plus(index, factor)
    form = f"({by}+{factor}*{{0}})" if factor != 1 else f"({by}+{{0}})"
    return Lookup(Call(form, (Position(index),)), 1 << 62)


def loads(expression: Expression) -> Iterator[Load]:
    """Every element that an expression reads, those of looked-up indices too."""
    if isinstance(expression, Load):
        yield expression
        for index in expression.index:
            if isinstance(index, Lookup):
                yield from loads(index.value)
    elif isinstance(expression, Call):
        for operand in expression.operands:
            yield from loads(operand)
    elif isinstance(expression, Position) and isinstance(expression.index, Lookup):
        yield from loads(expression.index.value)


def literal_text(value: float | int | bool) -> str:
    """A number in C."""
    if isinstance(value, bool | int):
        number = int(value)
        return f"({number})" if number < 0 else str(number)
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    text = repr(float(value))
    return f"({text})" if text.startswith("-") else text


def index_text(index: Index, layout: Layout) -> str:
    """An index in C."""
    if isinstance(index, Lookup):
        return text(index.value, layout)
    terms = [
        layout.variable(var) if by == 1 else f"{by}*{layout.variable(var)}"
        for var, by in index.terms
    ]
    if index.const or not terms:
        terms.append(str(index.const))
    return "+".join(terms).replace("+-", "-")


class Layout:
    """How buffers and variables are spelt in C."""

    def variable(self, var: Var) -> str:
        """A loop variable."""
        return var.name

    def element(self, load: Load) -> str:
        """One element of a buffer."""
        raise NotImplementedError


def text(expression: Expression, layout: Layout) -> str:
    """An expression in C."""
    if isinstance(expression, Literal):
        return literal_text(expression.value)
    if isinstance(expression, Position):
        return f"({index_text(expression.index, layout)})"
    if isinstance(expression, Load):
        return layout.element(expression)
    return expression.form.format(*(text(operand, layout) for operand in expression.operands))
