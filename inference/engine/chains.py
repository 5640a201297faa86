"""Chains side by side: one process each, whose rows of numbers stream back as they are made.

A chain is an iterator of rows ``(C,)`` of float64. What it has sent stays with the parent, so a
chain can be ended at any time and only what was on its way is lost. Nothing is pickled.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Literal

import numpy as np
import torch

from storyzoo.errors import StoryzooError
from storyzoo.inference.engine.progress import Budget

Chain = Callable[[], Iterator[np.ndarray]]
"""Starts a chain and yields its rows, each ``(C,)``, in float64."""
Stopped = Literal["done", "minutes", "interrupted"]

MassMatrix = Literal["diagonal", "lowrank"]

FLUSH_SECONDS = 0.1
"""How long rows wait in a chain's process before they are sent."""

_ROWS, _FAILED, _ENDED = b"r", b"f", b"e"


class ChainError(StoryzooError):
    """A chain that did not come to its end: its process was killed, or the model failed in it."""


@dataclass(frozen=True)
class Schedule:
    """How long a chain is and how it is tuned."""

    warmup: int
    draws: int
    target_accept: float
    max_tree_depth: int
    mass_matrix: MassMatrix = "diagonal"


@dataclass
class Gathered:
    """What came of some chains: their rows so far, and how it ended."""

    blocks: dict[int, list[np.ndarray]]
    stopped: Stopped = "done"
    failures: dict[int, str] = field(default_factory=dict)
    """Chain -> why it broke off, in one line."""

    def rows(self, chain: int) -> np.ndarray:
        """All rows of one chain: (n, C); (0, 0) where it has none."""
        return np.concatenate(self.blocks[chain]) if self.blocks[chain] else np.empty((0, 0))


def can_fork(device: str) -> bool:
    """Whether chains can run in processes forked from this one: on Linux, without a GPU.

    A process that is itself a child of ours may have none.
    """
    return sys.platform == "linux" and device == "cpu" and not current_process().daemon


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_chains(
    chains: Mapping[int, Chain],
    *,
    cores: int,
    forked: bool,
    budget: Budget,
    on_rows: Callable[[int, np.ndarray], None],
    on_end: Callable[[int, np.ndarray], None],
) -> Gathered:
    """Run all chains to their end, ``cores`` at a time, or one after another where not ``forked``.

    ``on_rows(chain, rows)`` sees each new block (n, C), ``on_end(chain, rows)`` all rows of a
    chain that has come to its end. Ctrl-C and a spent budget end every chain and keep its rows.
    A chain that breaks off is named in ``failures``; the others go on to their end.
    """
    gathered = Gathered({chain: [] for chain in chains})

    def keep(chain: int, rows: np.ndarray) -> None:
        gathered.blocks[chain].append(rows)
        on_rows(chain, rows)

    def finish(chain: int) -> None:
        on_end(chain, gathered.rows(chain))

    try:
        if forked:
            in_time = _side_by_side(chains, cores, budget, keep, finish, gathered.failures)
        else:
            in_time = _one_by_one(chains, budget, keep, finish, gathered.failures)
        gathered.stopped = "done" if in_time else "minutes"
    except KeyboardInterrupt:
        gathered.stopped = "interrupted"
    return gathered


def _one_by_one(
    chains: Mapping[int, Chain],
    budget: Budget,
    keep: Callable[[int, np.ndarray], None],
    finish: Callable[[int], None],
    failures: dict[int, str],
) -> bool:
    """In this process, in order; False where the budget was spent."""
    for index, chain in chains.items():
        try:
            with closing(chain()) as rows:  # type: ignore[type-var]
                for row in rows:
                    keep(index, row[None])
                    if budget.spent:
                        return False
        except Exception as error:  # whatever a user's model raises is told in one line
            failures[index] = in_one_line(error)
            continue
        finish(index)
    return True


# -- processes ---------------------------------------------------------------------------------


@dataclass
class _Child:
    """A chain's process, seen from the parent."""

    index: int
    process: BaseProcess
    ended: bool = False
    failure: str = ""


def _side_by_side(
    chains: Mapping[int, Chain],
    cores: int,
    budget: Budget,
    keep: Callable[[int, np.ndarray], None],
    finish: Callable[[int], None],
    failures: dict[int, str],
) -> bool:
    """In forked processes, at most ``cores`` at once; False where the budget was spent."""
    waiting = list(chains)
    running: dict[Connection, _Child] = {}
    try:
        while waiting or running:
            while waiting and len(running) < cores:
                index = waiting.pop(0)
                pipe, child = _fork(index, chains[index])
                running[pipe] = child
            for pipe in _ready(running):
                child = running[pipe]
                if _receive(pipe, child, keep):
                    continue
                del running[pipe]
                pipe.close()
                child.process.join()
                if child.ended:
                    finish(child.index)
                else:
                    failures[child.index] = child.failure or _how_it_died(child.process.exitcode)
            if budget.spent:
                return not (waiting or running)
        return True
    finally:
        for pipe, child in running.items():
            child.process.kill()
            child.process.join()
            pipe.close()


def _ready(running: Mapping[Connection, _Child]) -> list[Connection]:
    """Pipes with something to read, waited for as long as a budget may go unlooked at."""
    ready = wait(list(running), timeout=2 * FLUSH_SECONDS)
    return [pipe for pipe in running if pipe in ready]


def _fork(index: int, chain: Chain) -> tuple[Connection, _Child]:
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_live, args=(chain, ours, theirs), daemon=True)
    with warnings.catch_warnings():
        # Python 3.12 warns of threads; the child starts none and touches none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    return ours, _Child(index, process)


def _live(chain: Chain, parents: Connection, pipe: Connection) -> None:
    """What a child does: run the chain, send its rows, say how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parents.close()
    torch.set_num_threads(1)
    try:
        _stream(chain, pipe)
        pipe.send_bytes(_ENDED)
    except BrokenPipeError:  # the parent is gone
        return
    except Exception as error:  # whatever a user's model raises is told in one line
        pipe.send_bytes(_FAILED + in_one_line(error).encode())


def _stream(chain: Chain, pipe: Connection) -> None:
    buffer: list[np.ndarray] = []
    flushed = time.monotonic()
    for row in chain():
        buffer.append(row)
        if time.monotonic() - flushed > FLUSH_SECONDS:
            pipe.send_bytes(_packed(buffer))
            buffer.clear()
            flushed = time.monotonic()
    if buffer:
        pipe.send_bytes(_packed(buffer))


def _packed(rows: list[np.ndarray]) -> bytes:
    block = np.asarray(rows, dtype=np.float64)
    return _ROWS + np.int64(block.shape[1]).tobytes() + block.tobytes()


def _receive(pipe: Connection, child: _Child, keep: Callable[[int, np.ndarray], None]) -> bool:
    """Take one message; False where there will be no more."""
    try:
        message = pipe.recv_bytes()
    except (EOFError, OSError):
        return False
    kind, content = message[:1], message[1:]
    if kind == _ROWS:
        width = int(np.frombuffer(content[:8], dtype=np.int64)[0])
        keep(child.index, np.frombuffer(content[8:], dtype=np.float64).reshape(-1, width))
    elif kind == _FAILED:
        child.failure = content.decode()
    else:
        child.ended = True
    return True


def in_one_line(error: BaseException) -> str:
    """What was raised, for a user who sees one line."""
    reason = " ".join(str(error).split())[:300]
    return reason if isinstance(error, StoryzooError) else f"{type(error).__name__}: {reason}"


def _how_it_died(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = "; out of memory? try cores=1" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{memory}"
    return f"its process ended with exit code {code}"
