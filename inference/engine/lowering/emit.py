"""Loop nests to C, written to be read.

Every function has the same signature; the last one, ``evaluate``, has nutpie's::

    int64_t evaluate(uint64_t dim, const double *q, double *gradient, double *value, void *user)

``user`` points to the addresses of the constants. Workspaces belong to the thread, so that chains
may run side by side.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import numpy as np

from storyzoo.inference.engine.lowering.buffer import Buffer
from storyzoo.inference.engine.lowering.builder import START, STEP, Kernel, Nest
from storyzoo.inference.engine.lowering.expression import (
    Affine,
    Expression,
    Index,
    Indices,
    Layout,
    Load,
    Lookup,
    Var,
    constant,
    index_text,
    literal_text,
    text,
    variable,
)
from storyzoo.inference.engine.lowering.rolling import Base, Step, open_step, rolled
from storyzoo.inference.engine.lowering.schedule import Group, Place, Schedule, Unit

UNROLLED = 16
"""Terms of a fold that are written out."""
TERMS = 8
"""Terms that are added in one go where a fold is longer."""
SUMS = 4
"""Folds over the rows that share one pass."""

HEADER = (
    "const double *restrict q, double *const *restrict out, double *restrict F, "
    "int64_t *restrict I, void *const *restrict user"
)


@dataclass
class Emission:
    """C text of the parts, each a translation unit of its own if need be."""

    functions: list[str]
    evaluate: str
    constants: list[Buffer]
    """In the order of ``user``."""
    orders: list[tuple[int, ...]] = field(default_factory=list)
    """How the dims of each constant lie in memory."""
    tables: tuple[np.ndarray, ...] = ()
    """What follows the constants in ``user``: what differs from turn to turn of the loops."""

    def sources(self, size: int) -> list[str]:
        """Translation units of at most ``size`` functions."""
        units = []
        for start in range(0, len(self.functions), size):
            units.append(prelude() + "\n\n".join(self.functions[start : start + size]) + "\n")
        names = [f"void part{number}({HEADER});" for number in range(len(self.functions))]
        last = "\n".join(names) + "\n\n" + self.evaluate
        if len(units) == 1:
            return [units[0] + "\n" + last]
        return [*units, prelude() + last]


def prelude() -> str:
    """Special functions and small linear algebra."""
    return files(__package__).joinpath("prelude.h").read_text(encoding="utf-8")


def emit(plan: Schedule, dim: int, outputs: Sequence[Buffer]) -> Emission:
    """C for a schedule whose input is a vector (dim,) and whose outputs are given in order."""
    constants = [b for b in plan.places if b.role == "constant"]
    names = {b: f"user[{place}]" for place, b in enumerate(constants)}
    names |= {b: f"out[{place}]" for place, b in enumerate(outputs)}
    tables: tuple[np.ndarray, ...] = ()
    if plan.rolled:
        writer = _Function(0, [], plan, names)
        steps = [writer.step(group) for groups in plan.functions for group in groups]
        bodies, tables = rolled(steps, len(constants))
        functions = [_function(number, body) for number, body in enumerate(bodies)]
    else:
        functions = [
            _Function(number, groups, plan, names).text()
            for number, groups in enumerate(plan.functions)
        ]
    evaluate = _evaluate(dim, outputs[0].size, len(functions), plan.workspace)
    orders = [plan.places[b].order for b in constants]
    return Emission(functions, evaluate, constants, orders, tables)


def _function(number: int, lines: Iterable[str]) -> str:
    body = "\n".join(f"    {line}" for line in lines)
    return f"void part{number}({HEADER}) {{\n{body}\n}}"


def _evaluate(dim: int, slopes: int, parts: int, workspace: dict[str, int]) -> str:
    calls = "\n".join(f"    part{number}(q, out, F, I, user);" for number in range(parts))
    return f"""\
int64_t run(const double *q, double *const *out, void *user_data) {{
    static __thread double F[{workspace["double"] + 8}] __attribute__((aligned(64)));
    static __thread int64_t I[{workspace["int64_t"] + 8}] __attribute__((aligned(64)));
    void *const *user = (void *const *)user_data;
{calls}
    return 0;
}}

int64_t evaluate(uint64_t dim, const double *q, double *gradient, double *value, void *user) {{
    double *const out[2] = {{gradient, value}};
    run(q, out, user);
    if (!isfinite(*value)) return 1;
    for (int64_t i = 0; i < {slopes}; ++i) if (!isfinite(gradient[i])) return 2;
    return 0;
}}

int64_t evaluate_rows(int64_t rows, const double *q, double *gradient, double *value, void *user) {{
    for (int64_t row = 0; row < rows; ++row)
        evaluate({dim}, q + {dim} * row, gradient + {slopes} * row, value + row, user);
    return 0;
}}

int64_t expand(uint64_t dim, uint64_t expanded, const double *q, double *out, void *user) {{
    memcpy(out, q, expanded * sizeof(double));
    return 0;
}}
"""


class Pointers:
    """Names for places in memory, in the order in which they are met: a buffer and a shift."""

    def __init__(self) -> None:
        self.known: dict[tuple[Buffer, int], str] = {}

    def name(self, buffer: Buffer, shift: int = 0) -> str:
        """The pointer to an element of a buffer."""
        return self.known.setdefault((buffer, shift), f"p{len(self.known)}")


class _Spelling(Layout):
    """Names of buffers, their places in memory, and the row at hand."""

    def __init__(
        self,
        places: dict[Buffer, Place],
        main: Var | None,
        tiles: bool,
        pointers: Pointers | None = None,
    ) -> None:
        self._places, self._main, self._tiles = places, main, tiles
        self._pointers = pointers

    def variable(self, var: Var) -> str:
        if var is self._main:
            return "(o+i)" if self._tiles else "i"
        return var.name

    def element(self, load: Load) -> str:
        total, looked_up = self._place(load)
        name = load.buffer.name
        if self._pointers is not None:
            name = self._pointers.name(load.buffer, total.const)
            total = Affine(0, total.terms)
        terms = [index_text(total, self)] if total.terms or total.const or not looked_up else []
        return f"{name}[{'+'.join(terms + looked_up).replace('+-', '-')}]"

    def _place(self, load: Load) -> tuple[Affine, list[str]]:
        """Where an element lies in its buffer: what is affine, and what is looked up."""
        place = self._places[load.buffer]
        if load.flat:
            index = load.index[0]
            return (
                (index, []) if isinstance(index, Affine) else (Affine(), [text(index.value, self)])
            )
        total, looked_up = Affine(), []
        for dim, (index, stride) in enumerate(zip(load.index, place.strides, strict=True)):
            if place.shape[dim] == 1 and place.tiled != dim:
                continue
            if place.tiled == dim:
                looked_up.append("i" if stride == 1 else f"{stride}*i")
            elif isinstance(index, Lookup):
                inner = text(index.value, self)
                looked_up.append(inner if stride == 1 else f"{stride}*{inner}")
            else:
                total = total.plus(index, stride)
        return total, looked_up


class _Function:
    """One C function."""

    def __init__(
        self, number: int, groups: list[Group], plan: Schedule, names: dict[Buffer, str]
    ) -> None:
        self._number, self._groups, self._places = number, groups, plan.places
        self._names = names
        self._lines: list[str] = []
        self._pointers: Pointers | None = None

    def text(self) -> str:
        """Declarations, then every group."""
        for group in self._groups:
            self._group(group)
        return _function(self._number, [*self._declarations(), *self._lines])

    def _declarations(self) -> Iterator[str]:
        used: dict[Buffer, None] = {}
        for group in self._groups:
            for unit in group.units:
                for buffer in (*(load.buffer for load in unit.reads), *unit.outs):
                    used[buffer] = None
        for buffer in used:
            yield self._declaration(buffer)

    def _declaration(self, buffer: Buffer) -> str:
        place = self._places[buffer]
        if buffer.role == "input":
            return f"const double *const {buffer.name} = q;"
        if buffer.role == "constant":
            return (
                f"const {buffer.kind} *const {buffer.name} = "
                f"(const {buffer.kind} *){self._names[buffer]};"
            )
        if buffer.role == "output":
            return f"double *const {buffer.name} = {self._names[buffer]};"
        if place.local:
            return f"{buffer.kind} {buffer.name}[{place.size}];"
        workspace = "F" if buffer.kind == "double" else "I"
        return f"{buffer.kind} *const {buffer.name} = {workspace} + {place.offset};"

    # -- groups --------------------------------------------------------------------------

    def step(self, group: Group) -> Step:
        """A group with its places in memory left open."""
        self._lines, self._pointers = [], Pointers()
        self._group(group)
        return open_step("\n".join(self._lines), [self._base(*at) for at in self._pointers.known])

    def _base(self, buffer: Buffer, shift: int) -> Base:
        """Where a pointer points to, what differs from step to step apart."""
        kind = buffer.kind
        if buffer.role == "constant":
            number = int(self._names[buffer].removeprefix("user[").removesuffix("]"))
            return Base(f"const {kind} *", f"(const {kind} *)user[{{}}] + {{}}", (number, shift))
        if buffer.role == "input":
            return Base("const double *", "q + {}", (shift,))
        if buffer.role == "output":
            return Base("double *", f"{self._names[buffer]} + {{}}", (shift,))
        workspace = "F" if kind == "double" else "I"
        return Base(f"{kind} *", f"{workspace} + {{}}", (self._places[buffer].offset + shift,))

    def _group(self, group: Group) -> None:
        if group.length is None:
            for unit in group.units:
                self._unit(unit, tiles=False, inside=False)
        else:
            self._tiles(group)

    def _tiles(self, group: Group) -> None:
        """Loops over the rows of one tile after another."""
        length, tile = group.length, group.tile
        assert length is not None and tile is not None
        for unit in group.units:
            self._start(unit)
        if tile >= length:
            self._say(f"{{ const int64_t n = {length};")
        else:
            self._say(f"for (int64_t o = 0; o < {length}; o += {tile}) {{")
            rest = f"{length} - o < {tile} ? {length} - o : {tile}"
            self._say(f"    const int64_t n = {tile if length % tile == 0 else rest};")
        outer, self._lines = self._lines, []
        for unit in group.units:
            self._unit(unit, tiles=tile < length, inside=True)
        self._lines = [*outer, *(f"    {line}" for line in self._lines), "}"]

    def _start(self, unit: Unit) -> None:
        """What a fold over the rows starts from, before the first tile."""
        nest = unit.statement
        if isinstance(nest, Nest) and unit.main in nest.reduced:
            spelling = _Spelling(self._places, None, False, self._pointers)
            start = literal_text(START[nest.operation])
            opening = "".join(_loop(var) for var in nest.kept)
            self._say(f"{opening}{spelling.element(Load(nest.out, unit.target))} = {start};")

    def _unit(self, unit: Unit, *, tiles: bool, inside: bool) -> None:
        statement = unit.statement
        if isinstance(statement, Kernel):
            self._kernel(statement)
            return
        spelling = _Spelling(self._places, unit.main, tiles, self._pointers)
        _NestText(statement, unit, spelling, inside, self._say)()

    def _kernel(self, kernel: Kernel) -> None:
        named = self._pointers.name if self._pointers is not None else _by_its_name
        operands = [str(number) for number in kernel.numbers]
        operands += [named(buffer) for buffer in (*kernel.inputs, *kernel.outputs)]
        self._say(f"{kernel.function}({', '.join(operands)});")

    def _say(self, line: str) -> None:
        self._lines.append(line)


def _by_its_name(buffer: Buffer) -> str:
    return buffer.name


def _loop(var: Var, step: int = 1, end: int | None = None) -> str:
    end = var.extent if end is None else end
    if var.extent == 1:
        return ""
    by = f"++{var.name}" if step == 1 else f"{var.name} += {step}"
    return f"for (int64_t {var.name} = 0; {var.name} < {end}; {by}) "


class _NestText:
    """One loop nest as C."""

    def __init__(
        self, nest: Nest, unit: Unit, spelling: _Spelling, inside: bool, say: Callable[[str], None]
    ):
        self._nest, self._unit, self._spelling = nest, unit, spelling
        self._say = say
        self._main = unit.main if inside else None
        others = [var for var in nest.kept if var is not self._main and var.extent > 1]
        self._others = others
        self._folded = [var for var in nest.reduced if var is not self._main]
        self._simd = nest.vectorised and not nest.accumulates

    def __call__(self) -> None:
        nest = self._nest
        if not nest.reduced:
            self._map()
        elif self._main in nest.reduced:
            self._fold_rows()
        else:
            self._fold()

    # -- pieces of text ------------------------------------------------------------------

    def _value(self, reduced: dict[Var, Index], kept: dict[Var, Index] | None = None) -> str:
        nest, given = self._nest, kept or {}
        value = nest.value(
            tuple(given.get(var, variable(var)) for var in nest.kept),
            tuple(reduced.get(var, variable(var)) for var in nest.reduced),
        )
        return text(value, self._spelling)

    def _target(self, kept: dict[Var, Index] | None = None) -> str:
        given = kept or {}
        index: Indices = self._nest.target(
            tuple(given.get(var, variable(var)) for var in self._nest.kept)
        )
        return self._spelling.element(Load(self._nest.out, index))

    def _opening(self, loops: Sequence[Var]) -> str:
        return "".join(_loop(var) for var in loops)

    def _innermost(self) -> tuple[str, str]:
        """Opening of the loops over what is kept: the outer ones, and the one in vectors."""
        if self._main is not None:
            return self._opening(self._others), "for (int64_t i = 0; i < n; ++i) "
        if not self._others or (self._nest.ordered and len(self._others) == 1):
            return self._opening(self._others), ""
        return self._opening(self._others[:-1]), _loop(self._others[-1])

    def _lines(self, outer: str, inner: str, body: str, extra: str = "") -> None:
        pragma = bool(inner) and self._simd
        if not pragma:
            self._say(f"{outer}{inner}{body}")
            return
        self._say(f"{outer}{{" if outer else "{")
        self._say(f'_Pragma("omp simd{extra}")')
        self._say(f"{inner}{body} }}")

    # -- the three kinds -----------------------------------------------------------------

    def _map(self) -> None:
        outer, inner = self._innermost()
        sign = "=" if self._nest.operation == "set" else "+="
        self._lines(outer, inner, f"{self._target()} {sign} {self._value({})};")

    def _fold(self) -> None:
        """A fold over short dims: its terms side by side, rows in vectors."""
        folded, operation = self._folded, self._nest.operation
        size = 1
        for var in folded:
            size *= var.extent
        outer, inner = self._innermost()
        if size <= UNROLLED:
            self._lines(outer, inner, self._gathered(self._every(folded), None))
            return
        last, rest = folded[-1], folded[:-1]
        target, start = self._target(), literal_text(START[operation])
        if self._main is None and not inner or not self._simd:
            loops = self._opening(folded)
            step = STEP[operation].format("a", self._value({}))
            pragma = f'_Pragma("omp simd reduction({_omp(operation)}:a)") ' if self._simd else ""
            head, tail = self._opening(rest), _loop(last)
            self._say(f"{outer}{inner}{{ double a = {start}; {head}")
            if pragma and tail:
                self._say(f"{{ {pragma}")
                self._say(f"{tail}a = {step}; }} {target} = a; }}")
            else:
                self._say(f"{loops[len(head) :]}a = {step}; {target} = a; }}")
            return
        self._lines(outer, inner, f"{target} = {start};")
        whole = last.extent // TERMS * TERMS
        if whole:
            terms: list[dict[Var, Index]] = [{last: Affine(k, ((last, 1),))} for k in range(TERMS)]
            body = self._gathered(terms, target)
            self._lines(outer + self._opening(rest) + _loop(last, TERMS, whole), inner, body)
        if last.extent > whole:
            terms = [{last: constant(k)} for k in range(whole, last.extent)]
            body = self._gathered(terms, target)
            self._lines(outer + self._opening(rest), inner, body)

    def _every(self, folded: Sequence[Var]) -> list[dict[Var, Index]]:
        ranges = [range(var.extent) for var in folded]
        return [
            {var: constant(k) for var, k in zip(folded, at, strict=True)}
            for at in itertools.product(*ranges)
        ]

    def _gathered(self, terms: Sequence[dict[Var, Index]], start: str | None) -> str:
        """``{ double a = first; a = a + next; …; out = a; }``"""
        operation, kind = self._nest.operation, self._nest.out.kind
        values = [self._value(term) for term in terms]
        first, rest = (start, values) if start else (values[0], values[1:])
        steps = " ".join(f"a = {STEP[operation].format('a', value)};" for value in rest)
        return f"{{ {kind} a = {first}; {steps} {self._target()} = a; }}"

    def _fold_rows(self) -> None:
        """A fold over the rows of a tile, some of them in one pass."""
        nest = self._nest
        blocked = self._others[-1] if self._others else None
        if blocked is None or not self._simd:
            self._pass(self._opening(self._others), [{}])
            return
        count = 1
        for var in self._others:
            count *= var.extent
        if count <= TERMS:
            self._pass("", self._every(self._others))
            return
        outer = self._opening(self._others[:-1])
        whole = blocked.extent // SUMS * SUMS
        if whole:
            block: list[dict[Var, Index]] = [
                {blocked: Affine(k, ((blocked, 1),))} for k in range(SUMS)
            ]
            self._pass(outer + _loop(blocked, SUMS, whole), block)
        if blocked.extent > whole:
            self._pass(outer, [{blocked: constant(k)} for k in range(whole, blocked.extent)])
        del nest

    def _pass(self, outer: str, sums: Sequence[dict[Var, Index]]) -> None:
        operation, kind = self._nest.operation, self._nest.out.kind
        start = START[operation]
        names = [f"a{k}" for k in range(len(sums))]
        starts = ", ".join(f"{name} = {literal_text(start)}" for name in names)
        self._say(f"{outer}{{ {kind} {starts};")
        loops = self._opening(self._folded)
        steps = " ".join(
            f"{name} = {STEP[operation].format(name, self._value({}, kept))};"
            for name, kept in zip(names, sums, strict=True)
        )
        if loops:
            self._say(f"{loops}{{")
        if self._simd:
            self._say(f'_Pragma("omp simd reduction({_omp(operation)}:{",".join(names)})")')
        self._say(f"for (int64_t i = 0; i < n; ++i) {{ {steps} }}")
        if loops:
            self._say("}")
        for name, kept in zip(names, sums, strict=True):
            target = self._target(kept)
            self._say(f"{target} = {STEP[operation].format(target, name)};")
        self._say("}")


def _omp(operation: str) -> str:
    return {"sum": "+", "product": "*", "max": "max", "min": "min"}[operation]


__all__ = ["Emission", "Expression", "emit", "prelude"]
