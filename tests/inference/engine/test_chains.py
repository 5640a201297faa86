"""Chains side by side: all rows arrive, in order, and every way to end keeps what there is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children, get_context
from typing import Any

import numpy as np
import pytest

from storyzoo.inference.engine.chains import Chain, Gathered, can_fork, run_chains
from storyzoo.inference.engine.progress import Budget

forks = pytest.mark.skipif(not can_fork("cpu"), reason="chains fork on Linux only")


def run(chains: dict[int, Chain], **options: Any) -> Gathered:
    """Run with defaults that suit these tests, and see that no process is left behind."""
    settings: dict[str, Any] = {
        "cores": 2,
        "forked": True,
        "budget": Budget(None),
        "on_rows": lambda chain, rows: None,
        "on_end": lambda chain, rows: None,
    }
    gathered = run_chains(chains, **{**settings, **options})
    assert not active_children()
    return gathered


def count(n: int, pause: float = 0.0) -> Chain:
    """A chain of rows (i, -i)."""

    def rows() -> Iterator[np.ndarray]:
        for i in range(n):
            time.sleep(pause)
            yield np.array([i, -i], dtype=float)

    return rows


def after(n: int, act: Callable[[], None]) -> Chain:
    """A chain that does something after ``n`` rows, then goes on for as many."""

    def rows() -> Iterator[np.ndarray]:
        yield from count(n, 0.02)()
        act()
        yield from count(n, 0.02)()

    return rows


@pytest.mark.parametrize(
    "forked, cores",
    [pytest.param(True, 1, marks=forks), pytest.param(True, 2, marks=forks), (False, 1)],
)
def test_all_rows_arrive_in_order(forked: bool, cores: int) -> None:
    ended: dict[int, np.ndarray] = {}
    seen: list[int] = []
    gathered = run(
        {5: count(30, 0.01), 6: count(0), 9: count(7)},
        forked=forked,
        cores=cores,
        on_rows=lambda chain, rows: seen.extend([chain] * len(rows)),
        on_end=ended.__setitem__,
    )
    assert (gathered.stopped, gathered.failures) == ("done", {})
    for chain, length in {5: 30, 6: 0, 9: 7}.items():
        rows = gathered.rows(chain)
        assert np.array_equal(rows[:, 1] if length else [], -np.arange(length))
        assert np.array_equal(ended[chain], rows)
        assert seen.count(chain) == length


@forks
def test_as_many_chains_at_once_as_cores() -> None:
    barrier = get_context("fork").Barrier(3)

    def rows() -> Iterator[np.ndarray]:
        barrier.wait(timeout=60)
        yield np.zeros(1)

    assert not run(dict.fromkeys(range(3), rows), cores=3).failures


@forks
def test_no_more_chains_at_once_than_cores() -> None:
    def rows() -> Iterator[np.ndarray]:
        yield np.array([time.monotonic()])
        time.sleep(0.1)
        yield np.array([time.monotonic()])

    gathered = run(dict.fromkeys(range(3), rows), cores=1)
    times = np.concatenate([gathered.rows(chain) for chain in range(3)])
    assert (np.diff(times[:, 0]) > 0).all()


@forks
def test_a_killed_chain_is_named_and_the_others_go_on() -> None:
    ended: list[int] = []
    killed = after(3, lambda: os.kill(os.getpid(), signal.SIGKILL))
    gathered = run(
        {0: count(5), 1: killed, 2: count(5)}, on_end=lambda chain, rows: ended.append(chain)
    )
    assert list(gathered.failures) == [1]
    assert "killed by SIGKILL" in gathered.failures[1]
    assert "\n" not in gathered.failures[1]
    assert (len(gathered.rows(0)), len(gathered.rows(2)), sorted(ended)) == (5, 5, [0, 2])


@pytest.mark.parametrize("forked", [pytest.param(True, marks=forks), False])
def test_what_a_chain_raises_is_told_in_one_line(forked: bool) -> None:
    def fail() -> None:
        raise ValueError("scale is\nnegative")

    gathered = run({0: after(1, fail), 1: count(2)}, forked=forked)
    assert gathered.failures == {0: "ValueError: scale is negative"}
    assert len(gathered.rows(1)) == 2


@pytest.mark.parametrize("forked", [pytest.param(True, marks=forks), False])
def test_a_spent_budget_keeps_the_rows(forked: bool) -> None:
    gathered = run({0: count(10**6, 0.01), 1: count(10**6)}, forked=forked, budget=Budget(0.01))
    assert gathered.stopped == "minutes"
    assert len(gathered.rows(0)) > 5


@forks
def test_ctrl_c_reaches_the_parent_alone_and_keeps_the_rows() -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)  # as a terminal would send it to each
        time.sleep(0.3)
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(10)

    gathered = run({0: after(10, interrupt), 1: count(10**6, 0.01)})
    assert (gathered.stopped, gathered.failures) == ("interrupted", {})
    assert len(gathered.rows(0)) > 3
    assert len(gathered.rows(1)) > 3


def test_ctrl_c_without_processes_ends_the_chain_and_keeps_its_rows() -> None:
    closed = []

    def rows() -> Iterator[np.ndarray]:
        try:
            yield from count(4)()
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    gathered = run({0: rows, 1: count(3)}, forked=False)
    assert (gathered.stopped, len(gathered.rows(0)), closed) == ("interrupted", 4, [True])
    assert gathered.rows(1).shape == (0, 0)
