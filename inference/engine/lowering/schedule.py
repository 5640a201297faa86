"""Which loops run together, and where everything lies in memory.

Loops over one long dim (the examples, mostly) are run together, a tile of some hundred rows at a
time, so that what one loop leaves the next finds in the nearest cache, and what is needed within a
tile only takes the room of a tile. A loop may join where it reads what the others write at its own
row only; a sum over the rows ends a group. Everything else runs on its own, in between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from storyzoo.inference.engine.lowering.buffer import Buffer
from storyzoo.inference.engine.lowering.builder import Kernel, Nest, Statement
from storyzoo.inference.engine.lowering.expression import (
    Indices,
    Load,
    Lookup,
    Var,
    loads,
    variable,
)

LONG = 32
"""Length from which a loop is worth tiles and vectors."""
TILE = 256
"""Rows of a tile."""
SINGLE = 2 * TILE
"""Rows up to which there is one tile of them all."""
LOCAL = 64
"""Elements up to which a buffer of one function is a variable of it."""
STATEMENTS = 150
"""Statements of one function: compilers take more than linear time over long ones."""
MANY = 600
"""Statements above which those that come again and again are made a loop (``rolling.py``)."""


@dataclass(eq=False)
class Unit:
    """A statement, what it reads and writes, and the variable that its tiles run over."""

    statement: Statement
    reads: list[Load]
    target: Indices
    main: Var | None = None
    level: int = 0

    @property
    def outs(self) -> tuple[Buffer, ...]:
        """The buffers that it writes."""
        statement = self.statement
        return (statement.out,) if isinstance(statement, Nest) else statement.outputs

    @property
    def row(self) -> int | None:
        """The dim of what it writes that runs with its main variable, element by element."""
        return _dim_of(self.target, self.main)


@dataclass(eq=False)
class Group:
    """Units that run together: over tiles of ``length`` rows, or one after another."""

    units: list[Unit]
    length: int | None = None

    @property
    def tile(self) -> int | None:
        """Rows of one tile."""
        if self.length is None:
            return None
        return self.length if self.length <= SINGLE else TILE


@dataclass(eq=False)
class Place:
    """Where a buffer lies, and in which order its dims."""

    order: tuple[int, ...]
    shape: tuple[int, ...]
    """Sizes as stored, by dim of the buffer; the tiled dim has that of a tile."""
    tiled: int | None = None
    """The dim of which only a tile is kept."""
    local: bool = False
    """A variable of its function."""
    offset: int = 0
    """In the workspace of its kind."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Distance in memory between neighbours along each dim."""
        steps, step = [0] * len(self.shape), 1
        for dim in reversed(self.order):
            steps[dim] = step
            step *= self.shape[dim]
        return tuple(steps)

    @property
    def size(self) -> int:
        """Elements as stored."""
        size = 1
        for length in self.shape:
            size *= length
        return size


@dataclass(eq=False)
class Schedule:
    """Groups in the order of execution, by function, and the places of all buffers."""

    functions: list[list[Group]]
    places: dict[Buffer, Place]
    workspace: dict[str, int] = field(default_factory=dict)
    """Elements of the workspace of each kind."""
    rolled: bool = False
    """Whether to look for what comes again: then all is one function, without variables."""


def schedule(statements: Iterable[Statement]) -> Schedule:
    """Arrange statements that come in an order in which they could run."""
    units = [_unit(statement) for statement in statements]
    groups = _grouped(units)
    rolled = len(units) > MANY
    functions = [groups] if rolled else _functions(groups)
    places = _places(functions, variables=not rolled)
    return Schedule(functions, places, _allocate(functions, places), rolled)


# -- units -------------------------------------------------------------------------------------


def _unit(statement: Statement) -> Unit:
    if isinstance(statement, Kernel):
        every = [Load(buffer, (), flat=True) for buffer in statement.inputs]
        return Unit(statement, every, ())
    kept = tuple(variable(var) for var in statement.kept)
    reduced = tuple(variable(var) for var in statement.reduced)
    target = statement.target(kept)
    reads = list(loads(statement.value(kept, reduced)))
    for index in target:
        if isinstance(index, Lookup):
            reads += loads(index.value)
    own = statement.out
    reads = [load for load in reads if load.buffer is not own]
    return Unit(statement, reads, target, _main(statement))


def _main(nest: Nest) -> Var | None:
    """The longest variable, if it is long; of equals the last that is kept."""
    kept = nest.kept[1:] if nest.ordered else nest.kept
    long = [var for var in (*kept, *nest.reduced) if var.extent >= LONG]
    if nest.ordered and nest.kept[0].extent >= LONG and not long:
        return None
    if not long:
        return None
    most = max(var.extent for var in long)
    equals = [var for var in long if var.extent == most]
    of_kept = [var for var in equals if var in nest.kept]
    return of_kept[-1] if of_kept else equals[-1]


def _dim_of(index: Indices, var: Var | None) -> int | None:
    """The dim of an index that is just this variable, if no other dim depends on it."""
    if var is None:
        return None
    found = None
    for dim, i in enumerate(index):
        if isinstance(i, Lookup):
            return None
        if any(v is var for v, _ in i.terms):
            if found is not None or i.only is not var:
                return None
            found = dim
    return found


def _same_row(writer: Unit, reader: Unit, load: Load | None) -> bool:
    """Whether a reader in one group with a writer meets only what its own row has left."""
    if writer.main is None or reader.main is None or writer.main.extent != reader.main.extent:
        return False
    row = writer.row
    index = reader.target if load is None else load.index
    if row is None or (load is not None and load.flat):
        return False
    statement = writer.statement
    assert isinstance(statement, Nest)
    return writer.main in statement.kept and _row_of(index, row) is reader.main


def _row_of(index: Indices, dim: int) -> Var | None:
    i = index[dim]
    return None if isinstance(i, Lookup) else i.only


def _grouped(units: Sequence[Unit]) -> list[Group]:
    """Units by level: at each, first those without tiles, then the groups with tiles."""
    writers: dict[Buffer, list[Unit]] = defaultdict(list)
    for unit in units:
        for load in unit.reads:
            for writer in writers[load.buffer]:
                unit.level = max(unit.level, _after(writer, unit, _same_row(writer, unit, load)))
        for out in unit.outs:
            if not (isinstance(unit.statement, Nest) and unit.statement.apart):
                for writer in writers[out]:
                    together = _same_row(writer, unit, None)
                    unit.level = max(unit.level, _after(writer, unit, together))
            writers[out].append(unit)
    alone: dict[int, list[Unit]] = defaultdict(list)
    tiled: dict[int, dict[int, list[Unit]]] = defaultdict(lambda: defaultdict(list))
    for unit in units:
        if unit.main is None:
            alone[unit.level].append(unit)
        else:
            tiled[unit.level][unit.main.extent].append(unit)
    groups = []
    for level in range(max((unit.level for unit in units), default=-1) + 1):
        groups += [Group([unit]) for unit in alone[level]]
        groups += [Group(members, length) for length, members in sorted(tiled[level].items())]
    return groups


def _after(writer: Unit, reader: Unit, same_row: bool) -> int:
    """The first level at which a reader may run."""
    if writer.main is None:
        return writer.level
    return writer.level if same_row else writer.level + 1


def _functions(groups: list[Group]) -> list[list[Group]]:
    functions: list[list[Group]] = [[]]
    count = 0
    for group in groups:
        if count + len(group.units) > STATEMENTS and functions[-1]:
            functions.append([])
            count = 0
        functions[-1].append(group)
        count += len(group.units)
    return functions


# -- places ------------------------------------------------------------------------------------


def _places(functions: list[list[Group]], variables: bool) -> dict[Buffer, Place]:
    """The order of dims of every buffer, and which of them are tiles or, if any, variables."""
    uses: dict[Buffer, list[tuple[int, Group, Unit, Indices | None]]] = defaultdict(list)
    for number, groups in enumerate(functions):
        for group in groups:
            for unit in group.units:
                for load in unit.reads:
                    index = None if load.flat else load.index
                    uses[load.buffer].append((number, group, unit, index))
                for out in unit.outs:
                    target = unit.target if isinstance(unit.statement, Nest) else None
                    uses[out].append((number, group, unit, target))
    places = {}
    for buffer, used in uses.items():
        rows = [None if index is None else _dim_of(index, unit.main) for _, _, unit, index in used]
        row = next((r for r in rows if r is not None), None)
        order = tuple(range(len(buffer.shape)))
        if row is not None and not buffer.pinned and buffer.role in ("temporary", "constant"):
            order = (*(dim for dim in order if dim != row), row)
        place = Place(order, buffer.shape)
        if buffer.role == "temporary":
            group = used[0][1]
            together = all(g is group for _, g, _, _ in used) and group.length is not None
            if together and not buffer.pinned and row is not None and _steady(rows, row, used):
                sizes = list(buffer.shape)
                sizes[row] = group.tile or 1
                place.shape, place.tiled = tuple(sizes), row
            one_function = len({number for number, _, _, _ in used}) == 1
            place.local = variables and one_function and place.size <= LOCAL
        places[buffer] = place
    return places


def _steady(
    rows: list[int | None], row: int, used: list[tuple[int, Group, Unit, Indices | None]]
) -> bool:
    """Whether a buffer is written and read at the row at hand only."""
    if any(r != row for r in rows):
        return False
    for _, _, unit, _ in used:
        statement = unit.statement
        if isinstance(statement, Nest) and unit.main in statement.reduced:
            # Read by a fold over the rows: still only at the row at hand.
            continue
    return True


def _allocate(functions: list[list[Group]], places: dict[Buffer, Place]) -> dict[str, int]:
    """Give every buffer that is no variable its place; room is used again once it is free.

    What is used within a group with tiles lives as long as the whole group, unless it is a tile.
    """
    life = _lives(functions, places)
    ending: dict[int, list[Buffer]] = defaultdict(list)
    starting: dict[int, list[Buffer]] = defaultdict(list)
    for buffer, (first, last) in life.items():
        starting[first].append(buffer)
        ending[last].append(buffer)
    free: dict[tuple[str, int], list[int]] = defaultdict(list)
    workspace = {"double": 0, "int64_t": 0}
    for moment in sorted({*starting, *ending}):
        for buffer in starting[moment]:
            room = _room(places[buffer].size)
            spare = free[buffer.kind, room]
            if spare:
                places[buffer].offset = spare.pop()
            else:
                places[buffer].offset = workspace[buffer.kind]
                workspace[buffer.kind] += room
        for buffer in ending[moment]:
            free[buffer.kind, _room(places[buffer].size)].append(places[buffer].offset)
    return workspace


def _room(size: int) -> int:
    """Elements that are set aside: a power of two or one and a half times one."""
    room = 8
    while room < size:
        room = (
            room * 3 // 2
            if room & (room - 1) == 0 and room * 3 // 2 >= size
            else (room * 2 if room & (room - 1) == 0 else room // 3 * 4)
        )
    return room


def _lives(
    functions: list[list[Group]], places: dict[Buffer, Place]
) -> dict[Buffer, tuple[int, int]]:
    """First and last moment of every buffer that needs room."""
    life: dict[Buffer, tuple[int, int]] = {}
    moment = 0
    for groups in functions:
        for group in groups:
            start, end = moment, moment + len(group.units) - 1
            for unit in group.units:
                for buffer in {*(load.buffer for load in unit.reads), *unit.outs}:
                    place = places[buffer]
                    if buffer.role != "temporary" or place.local:
                        continue
                    whole = group.length is not None and place.tiled is None
                    span = (start, end) if whole else (moment, moment)
                    first, last = life.get(buffer, span)
                    life[buffer] = (min(first, span[0]), max(last, span[1]))
                moment += 1
    return life
