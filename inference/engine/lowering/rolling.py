"""What comes again and again in a long program, as a loop: chains whose steps were written out.

A model that walks along a series step by step leaves the same lines once for every step, only that
they read and write elsewhere and hold other numbers. Such lines are written once; where each turn
reads and writes, and its numbers, stand in tables. The order of execution stays as it was, so that
nothing needs to be known of what the lines do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 4
"""Turns from which a loop is worth it."""
LONGEST = 128
"""Steps of one turn, at most."""
LINES = 600
"""Lines of one function: compilers take more than linear time over long ones."""

NUMBER = re.compile(
    r"\(-\d+(?:\.\d*)?(?:e[+-]?\d+)?\)|(?<![\w.])\d+(?:\.\d*(?:e[+-]?\d+)?|e[+-]?\d+)"
)
"""A floating number as :func:`literal_text` writes it."""
LOOP_VARIABLE = re.compile(r"\bi\d+\b")
OPEN = "\0"
"""Stands for a number that is left open."""


@dataclass(frozen=True)
class Base:
    """Where a pointer points to."""

    kind: str
    form: str
    """With a place ``{}`` for each of the numbers."""
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """Lines of C: the pattern that they share with others, and what is their own."""

    pattern: tuple[str, ...]
    """The text with its numbers left open, then kind and form of each pointer ``p0, p1, …``."""
    places: tuple[int, ...]
    """The numbers of all pointers."""
    numbers: tuple[str, ...]
    """The floating numbers of the text, as they are written."""


def open_step(text: str, bases: Sequence[Base]) -> Step:
    """A step whose loop variables are named anew, so that equal lines are the same."""
    names: dict[str, str] = {}
    text = LOOP_VARIABLE.sub(lambda m: names.setdefault(m[0], f"i{len(names)}"), text)
    numbers = tuple(NUMBER.findall(text))
    forms = [f"{base.kind}|{base.form}" for base in bases]
    places = tuple(number for base in bases for number in base.numbers)
    return Step((NUMBER.sub(OPEN, text), *forms), places, numbers)


def rolled(
    steps: Sequence[Step], first_table: int
) -> tuple[list[list[str]], tuple[np.ndarray, np.ndarray]]:
    """Bodies of functions, and the tables of places and of numbers that they read.

    The tables are ``user[first_table]`` and the one that follows.
    """
    writer = _Writer(first_table)
    for start, period, turns in repeats([step.pattern for step in steps]):
        writer.write([steps[start + turn * period :][:period] for turn in range(turns)])
    places = np.array(writer.places or [0], dtype=np.int64)
    return writer.bodies, (places, np.array(writer.numbers or [0.0], dtype=np.float64))


def repeats(patterns: Sequence[tuple[str, ...]]) -> list[tuple[int, int, int]]:
    """Start, period and turns of every stretch, so that as few steps as can be are written out."""
    numbers: dict[tuple[str, ...], int] = {}
    keys = np.array([numbers.setdefault(pattern, len(numbers)) for pattern in patterns])
    size = len(keys)
    periods = np.arange(1, max(1, min(LONGEST, size // FEWEST)) + 1)
    turns = np.stack([_turns(keys, int(period)) for period in periods])
    turns[0][turns[0] < FEWEST] = 1  # a step of its own
    written = np.zeros(size + 1, dtype=np.int64)  # steps written out from each place on
    chosen = np.zeros((size, 2), dtype=np.int64)
    for start in reversed(range(size)):
        costs = periods + written[start + periods * turns[:, start]]
        worth = turns[:, start] >= FEWEST
        worth[0] = True
        best = int(np.where(worth, costs, np.iinfo(np.int64).max).argmin())
        written[start], chosen[start] = costs[best], (periods[best], turns[best, start])
    found, start = [], 0
    while start < size:
        period, count = chosen[start].tolist()
        found.append((start, period, count))
        start += period * count
    return found


def _turns(keys: np.ndarray, period: int) -> np.ndarray:
    """How often what stands at each place comes in a row, with a period."""
    size = len(keys)
    equal = np.zeros(size, dtype=bool)
    equal[: size - period] = keys[:-period] == keys[period:]
    ends = np.where(equal, size, np.arange(size))
    run = np.minimum.accumulate(ends[::-1])[::-1] - np.arange(size)
    turns = np.where(np.arange(size) + period <= size, run // period + 1, 0)
    return turns.astype(np.int32)


class _Writer:
    """Functions, and their tables, as they grow."""

    def __init__(self, first_table: int) -> None:
        self.bodies: list[list[str]] = []
        self.places: list[int] = []
        self.numbers: list[float] = []
        self._tables = (first_table, first_table + 1)

    def write(self, turns: Sequence[Sequence[Step]]) -> None:
        """A stretch of steps: each turn of it has the same patterns."""
        places = np.array([[place for step in turn for place in step.places] for turn in turns])
        numbers = [[number for step in turn for number in step.numbers] for turn in turns]
        moving = np.flatnonzero((places != places[:1]).any(0))
        varied = [k for k, column in enumerate(zip(*numbers, strict=True)) if len(set(column)) > 1]
        place_text = [str(place) for place in places[0]]
        for slot, place in enumerate(moving.tolist()):
            place_text[place] = f"a[{slot}]"
        number_text = list(numbers[0])
        for slot, column in enumerate(varied):
            number_text[column] = f"b[{slot}]"
        lines = self._lines(turns[0], iter(place_text), iter(number_text))
        if len(turns) > 1:
            lines = self._loop(len(turns), len(moving), len(varied), lines)
            self.places += places[:, moving].ravel().tolist()
            self.numbers += [_number(row[column]) for row in numbers for column in varied]
        self._add(lines)

    def _lines(
        self, turn: Sequence[Step], places: Iterator[str], numbers: Iterator[str]
    ) -> list[str]:
        lines = []
        for step in turn:
            pattern, *forms = step.pattern
            lines.append("{")
            for name, form in enumerate(forms):
                kind, _, form = form.partition("|")
                value = form.format(*(next(places) for _ in range(form.count("{}"))))
                lines.append(f"    {kind}const p{name} = {value};")
            text = re.sub(OPEN, lambda _: next(numbers), pattern)
            lines += [*(f"    {line}" for line in text.split("\n")), "}"]
        return lines

    def _loop(self, turns: int, moving: int, varied: int, lines: list[str]) -> list[str]:
        places, numbers = self._tables
        heads = []
        if moving:
            start = f"(const int64_t *)user[{places}] + {len(self.places)}"
            heads.append(f"    const int64_t *const a = {start} + {moving}*turn;")
        if varied:
            start = f"(const double *)user[{numbers}] + {len(self.numbers)}"
            heads.append(f"    const double *const b = {start} + {varied}*turn;")
        opening = f"for (int64_t turn = 0; turn < {turns}; ++turn) {{"
        return [opening, *heads, *(f"    {line}" for line in lines), "}"]

    def _add(self, lines: list[str]) -> None:
        if not self.bodies or len(self.bodies[-1]) + len(lines) > LINES:
            self.bodies.append([])
        self.bodies[-1] += lines


def _number(text: str) -> float:
    return float(text.strip("()"))
