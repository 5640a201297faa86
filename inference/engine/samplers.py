"""Which sampler runs the chains of NUTS: the fastest that the density allows.

nutpie on machine code; else nutpie on the traced graph; else, where a density can't be traced, is
not in float64 or not on the CPU, or where nutpie is not to be had, Pyro's kernel in forked
processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storyzoo.errors import RefusedError
from storyzoo.inference.engine.chains import Gathered, MassMatrix, Schedule, can_fork, run_chains
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.nutpie_nuts import (
    UnavailableError,
    Walker,
    machinery,
    public,
    run_walkers,
    walk_by_function,
    walk_by_pointer,
)
from storyzoo.inference.engine.progress import Budget
from storyzoo.inference.engine.pyro_nuts import walk
from storyzoo.inference.engine.rows import divergences


@dataclass(frozen=True)
class Conduct:
    """How chains are run, and who is told of them."""

    cores: int
    """Chains at a time."""
    budget: Budget
    on_progress: Callable[[int, int, int], None]
    """Told of a chain's iterations and divergences so far."""
    on_end: Callable[[int, np.ndarray], None]
    """Told of all rows of a chain that has come to its end."""


@dataclass(frozen=True)
class Sampler:
    """What runs the chains."""

    density: LogDensity
    notes: tuple[str, ...] = ()
    """Why a faster one was not taken."""

    words = ""

    @property
    def parallel(self) -> bool:
        """Whether chains run side by side."""
        return True

    def run(
        self,
        starts: Mapping[int, Tensor],
        seeds: list[int],
        schedule: Schedule,
        conduct: Conduct,
    ) -> Gathered:
        """Run the chain of every start (D,), each with the seed of its number."""
        raise NotImplementedError


@dataclass(frozen=True)
class NutpieSampler(Sampler):
    """nutpie, each chain in a thread."""

    native: Any = None
    """The density as machine code; None where it is called as a Python function."""

    words = "nutpie's NUTS"

    def run(
        self,
        starts: Mapping[int, Tensor],
        seeds: list[int],
        schedule: Schedule,
        conduct: Conduct,
    ) -> Gathered:
        """The same draws whatever the cores."""

        def chain(index: int) -> Walker:
            start = starts[index].cpu().numpy().astype(float)
            if self.native is None:
                return walk_by_function(self.density, start, seeds[index], schedule)
            return walk_by_pointer(self.native, start, seeds[index], schedule)

        return run_walkers(
            {index: partial(chain, index) for index in starts},
            cores=conduct.cores,
            warmup=schedule.warmup,
            budget=conduct.budget,
            on_progress=conduct.on_progress,
            on_end=conduct.on_end,
        )


@dataclass(frozen=True)
class PyroSampler(Sampler):
    """Pyro's kernel, each chain in a forked process where there can be one."""

    words = "Pyro's NUTS"

    @property
    def parallel(self) -> bool:
        """Whether chains run side by side."""
        return can_fork(self.density.device)

    def run(
        self,
        starts: Mapping[int, Tensor],
        seeds: list[int],
        schedule: Schedule,
        conduct: Conduct,
    ) -> Gathered:
        """The same draws whatever the cores."""

        def chain(index: int) -> Iterator[np.ndarray]:
            return walk(
                self.density.value_and_gradient,
                starts[index].to(self.density.device),
                seeds[index],
                warmup=schedule.warmup,
                draws=schedule.draws,
                target_accept=schedule.target_accept,
                max_tree_depth=schedule.max_tree_depth,
            )

        seen = dict.fromkeys(starts, 0)
        diverged = dict.fromkeys(starts, 0)

        def hear(index: int, rows: np.ndarray) -> None:
            diverged[index] += divergences(rows[max(0, schedule.warmup - seen[index]) :])
            seen[index] += len(rows)
            conduct.on_progress(index, seen[index], diverged[index])

        return run_chains(
            {index: partial(chain, index) for index in starts},
            cores=conduct.cores if self.parallel else 1,
            forked=self.parallel,
            budget=conduct.budget,
            on_rows=hear,
            on_end=conduct.on_end,
        )


def choose_sampler(density: LogDensity, mass_matrix: MassMatrix) -> Sampler:
    """The fastest sampler for a density that has been evaluated.

    Raises RefusedError where only Pyro's is left and the mass matrix is not diagonal.
    """
    notes: tuple[str, ...] = ()
    native = density.native()
    if native is not None:
        try:
            machinery()
            return NutpieSampler(density, native=native)
        except UnavailableError as reason:
            notes = (f"machine code is not called by its address, since {reason}",)
    why = _not_traced(density)
    if not why:
        try:
            public()
            return NutpieSampler(density, notes)
        except UnavailableError as reason:
            why = str(reason)
            notes = (*notes, why)
    if mass_matrix != "diagonal":
        raise RefusedError(
            f"nuts: mass_matrix={mass_matrix} can't be had for {density.story.name}, since only "
            f"nutpie has it: {why}; use mass_matrix=diagonal"
        )
    return PyroSampler(density, notes)


def _not_traced(density: LogDensity) -> str:
    """Why nutpie can't run a density; empty where it can."""
    if density.device != "cpu":
        return f"the density is on {density.device}"
    if density.dtype != torch.float64:
        return "the density is not in float64"
    if density.rung == "eager":
        return density.notes[0] if density.notes else "the density runs in eager mode"
    return ""
