"""What comes again in a program is found, and said once."""

from __future__ import annotations

import random

import numpy as np
import pytest

from storyzoo.inference.engine.lowering.rolling import (
    FEWEST,
    LONGEST,
    Base,
    Step,
    open_step,
    repeats,
    rolled,
)


def patterns(text: str) -> list[tuple[str, ...]]:
    return [(letter,) for letter in text]


def written(text: str) -> str:
    """What :func:`repeats` found, in words: ``a 3*(bc) d``."""
    found = []
    for start, period, turns in repeats(patterns(text)):
        turn = text[start : start + period]
        found.append(turn if turns == 1 else f"{turns}*({turn})")
    return " ".join(found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a", "a"),
        ("aaaaa", "5*(a)"),
        ("xabababaab", "x a b a b a b a a b"),
        ("xababababy", "x 4*(ab) y"),
        ("abcabcabcabcd", "4*(abc) d"),
        ("aaaabbbbaaaabbbb", "4*(a) 4*(b) 4*(a) 4*(b)"),
    ],
)
def test_repeats_by_hand(text: str, wanted: str) -> None:
    assert written(text) == wanted


@pytest.mark.parametrize("seed", range(20))
def test_stretches_are_the_whole_in_order(seed: int) -> None:
    choose = random.Random(seed)
    text = "".join(
        "".join(choose.choices("abc", k=choose.randint(1, 5))) * choose.randint(1, 9)
        for _ in range(12)
    )
    again, place = "", 0
    for start, period, turns in repeats(patterns(text)):
        assert start == place and (turns == 1 or turns >= FEWEST) and period <= LONGEST
        again += text[start : start + period] * turns
        place += period * turns
    assert again == text


def step(text: str, *offsets: int) -> Step:
    return open_step(text, [Base("double *", "F + {}", (offset,)) for offset in offsets])


def test_loop_variables_and_numbers_are_no_part_of_a_pattern() -> None:
    one = step("for (int64_t i7 = 0; i7 < 3; ++i7) p0[i7] = (p1[2*i7]+0.5);", 0, 8)
    two = step("for (int64_t i9 = 0; i9 < 3; ++i9) p0[i9] = (p1[2*i9]+(-1.25e-07));", 16, 0)
    assert one.pattern == two.pattern
    assert (one.places, two.places) == ((0, 8), (16, 0))
    assert (one.numbers, two.numbers) == (("0.5",), ("(-1.25e-07)",))


@pytest.mark.parametrize("other", ["i < 4", "i < 30"])
def test_whole_numbers_are_part_of_a_pattern(other: str) -> None:
    assert step("i < 3").pattern != step(other).pattern


def test_what_stays_is_written_and_what_moves_is_looked_up() -> None:
    steps = [step(f"p0[0] = p1[0]*{k}.5+2.0;", 8 * k, 4) for k in range(5)]
    bodies, (places, numbers) = rolled(steps, first_table=3)
    (body,) = ["\n".join(lines) for lines in bodies]
    assert "turn < 5" in body and "user[3]" in body and "user[4]" in body
    assert "p0 = F + a[0];" in body and "p1 = F + 4;" in body
    assert "p1[0]*b[0]+2.0" in body
    assert places.tolist() == [0, 8, 16, 24, 32]
    assert numbers.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert places.dtype == np.int64 and numbers.dtype == np.float64
