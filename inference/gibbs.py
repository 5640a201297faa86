"""Gibbs sampling: draws of the exact posterior by a story's own sweeps.

A sweep moves every part of what is hidden in turn, each from its distribution given all others,
which leaves the posterior as it is (Geman and Geman 1984). How it is done is the story's: discrete
labels need not be summed out, and continuous sites may be integrated out of the chain. They are
then drawn given where the chain is, which is exact, so that the draws in the tree are draws of the
joint posterior.

Several chains start apart, in processes of their own; the same seed gives the same draws whatever
the number of cores. ``lp`` is the log joint density of the data and of where the chain is, what is
integrated out left out, nats: not the density of the tree's draws.

Sources: Geman and Geman (1984), IEEE PAMI 6; Liu (1994), JASA 89, on integrating out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from ctypes import CDLL
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from storyzoo.errors import SettingError
from storyzoo.inference.engine.chains import (
    ChainError,
    Gathered,
    available_cores,
    can_fork,
    run_chains,
)
from storyzoo.inference.engine.checkpoint import Checkpoint, numpy_state, restore_numpy
from storyzoo.inference.engine.lowering.compiler import CompilerError
from storyzoo.inference.engine.lowering.library import build
from storyzoo.inference.engine.method import Info, Kind, Method, Outcome, needs_density, require
from storyzoo.inference.engine.pieces import Pieces
from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.inference.engine.resume import fingerprint
from storyzoo.inference.engine.rows import left_out, most_draws
from storyzoo.inference.engine.structure import Structure, defaults
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.story import Data, Story


@dataclass(frozen=True, kw_only=True)
class GibbsInfo(Info):
    """How the chains went; ``gradient_evaluations`` are sweeps, passes over the data."""

    chains: int = 0
    """Chains whose draws are kept."""
    warmup: int = 0
    """Sweeps of each chain before its first draw."""
    thin: int = 1
    """Sweeps from one draw to the next."""
    cores: int = 1
    """Chains that ran side by side."""
    resumed_draws: int = 0
    """Of all chains' draws: how many came from a checkpoint."""


@dataclass(frozen=True)
class Gibbs(Method):
    """Gibbs sampling by the story's own sweeps.

    Each of the ``chains`` makes ``warmup`` sweeps and then ``draws`` times ``thin``, of which the
    last of every ``thin`` is kept. ``megabytes`` bounds what all draws take: where they would take
    more, fewer of the same sweeps are kept, evenly; to judge them takes several times as much.
    ``cores`` chains run at once, by default on all cores.
    """

    name: ClassVar[str] = "gibbs"
    kind: ClassVar[Kind] = "draws"
    info_type: ClassVar[type[Info]] = GibbsInfo

    chains: int = 4
    draws: int = 100
    warmup: int = 500
    thin: int = 5
    megabytes: float = 500
    minutes: float | None = None
    cores: int | None = None

    def __post_init__(self) -> None:
        for setting, least in (("chains", 1), ("draws", 1), ("warmup", 0), ("thin", 1)):
            value = getattr(self, setting)
            require(value >= least, "gibbs", setting, value, f"at least {least}")
        require(self.megabytes > 0, "gibbs", "megabytes", self.megabytes, "above 0")
        timed = self.minutes is None or self.minutes > 0
        require(timed, "gibbs", "minutes", self.minutes, "above 0")
        require(self.cores is None or self.cores >= 1, "gibbs", "cores", self.cores, "at least 1")

    def refuses(self, story: Story, structure: Structure) -> str | None:
        """A story has to bring the sweeps."""
        if story.has("sweeps"):
            return None
        return needs_density(story) or "it defines no sweeps; use nuts"

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        """Run all chains; where a checkpoint holds parts of them, go on from there.

        Raises ChainError where a chain broke off, SettingError where ``minutes`` were spent before
        the first draw, or where not even one draw of each chain fits in ``megabytes``.
        """
        layout = _Layout(target.structure)
        plan = self._plan(layout)
        code = _compiled(target.story.sweeps_source)
        mark = fingerprint(self, target, seed, apart=("minutes", "cores"))
        pieces = [Pieces(checkpoint, chain, mark) for chain in range(self.chains)]
        gathered = self._gather(target, layout, plan, code, seed, pieces, progress)
        if gathered.failures and gathered.stopped == "done":
            raise ChainError(_told(gathered.failures, checkpoint is not None))
        if gathered.stopped != "interrupted" and checkpoint is not None:
            checkpoint.remove()
        info = GibbsInfo(
            compile_seconds=code.seconds,
            stopped=gathered.stopped,
            start="each chain at a random point of its own",
            engine=f"the story's Gibbs sweeps{code.words}",
            warmup=plan.warmup,
            thin=plan.thin,
            cores=self._cores(target),
            resumed_draws=sum(len(block) for kept in pieces for block in kept.rows),
            notes=(*code.notes, *plan.notes),
        )
        return self._outcome(target, layout, plan, gathered, info)

    def _plan(self, layout: _Layout) -> _Plan:
        """As many of the draws as fit, evenly."""
        megabytes = 8e-6 * layout.width * self.chains
        if megabytes > self.megabytes:
            sites = ", ".join(layout.places)
            raise SettingError(
                f"gibbs: a draw of {sites} takes {megabytes:.0f} MB in {self.chains} chains, and "
                f"megabytes={self.megabytes:g} is the most: raise it, or take fewer chains"
            )
        every = math.ceil(self.draws * megabytes / self.megabytes)
        if every == 1:
            return _Plan(self.warmup, self.draws, self.thin)
        note = (
            f"of {self.draws} draws per chain {self.draws // every} were kept, evenly: all would "
            f"take {self.draws * megabytes:.0f} MB, and megabytes={self.megabytes:g} is the most"
        )
        return _Plan(self.warmup, self.draws // every, self.thin * every, (note,))

    def _cores(self, target: Target) -> int:
        """Chains to run side by side."""
        some = min(self.cores or available_cores(), self.chains)
        return some if can_fork(target.device) else 1

    def _gather(
        self,
        target: Target,
        layout: _Layout,
        plan: _Plan,
        code: _Code,
        seed: int,
        pieces: list[Pieces],
        progress: Progress,
    ) -> Gathered:
        """The rows of all chains: those that were kept, then those that are made now."""
        budget = Budget(self.minutes)
        data = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in target.data.items()}
        seeds = np.random.SeedSequence(seed).spawn(self.chains)
        chains = [
            _Chain(target.story, data, layout, plan, code.functions, each, kept, budget)
            for each, kept in zip(seeds, pieces, strict=True)
        ]
        progress.start(self.chains * plan.draws)
        progress.update(sum(len(block) for kept in pieces for block in kept.rows))
        try:
            with defaults(getattr(torch, target.story.dtype), "cpu"):
                gathered = run_chains(
                    {i: chain.rows for i, chain in enumerate(chains)},
                    cores=self._cores(target),
                    forked=can_fork(target.device),
                    budget=budget,
                    on_rows=lambda _, rows: progress.update(len(rows)),
                    on_end=lambda chain, rows: None,
                )
        finally:
            progress.close()
        for i, kept in enumerate(pieces):
            gathered.blocks[i] = kept.rows + gathered.blocks[i]
        return gathered

    # -- the answer ----------------------------------------------------------------------

    def _outcome(
        self, target: Target, layout: _Layout, plan: _Plan, gathered: Gathered, info: GibbsInfo
    ) -> Outcome:
        """The tree of the draws, chains cut to equal length."""
        made = {i: sum(map(len, blocks)) for i, blocks in sorted(gathered.blocks.items())}
        chains, length = most_draws(made)
        if length == 0 and info.stopped == "interrupted":
            raise KeyboardInterrupt
        if length == 0:
            raise SettingError(
                f"gibbs: minutes={self.minutes} were spent before the first draw; give it more, "
                "or less warmup"
            )
        rows = np.stack([gathered.rows(i)[:length] for i in chains])
        gathered.blocks.clear()  # rows may be large, and are all copied now
        sweeps = sum(plan.warmup + plan.thin * draws for draws in made.values())
        info = replace(
            info,
            chains=len(chains),
            gradient_evaluations=sweeps,
            notes=(
                *info.notes,
                *left_out(made, chains, length, plan.draws, gathered.failures),
            ),
        )
        values = layout.values(rows, target.story.dtype)
        stats = {"lp": rows[..., -1].copy()}
        return Outcome(posterior_tree(target.structure, values, stats), info)


class _Plan(NamedTuple):
    """What each chain does."""

    warmup: int
    draws: int
    thin: int
    notes: tuple[str, ...] = ()

    @property
    def sweeps(self) -> int:
        """All of a chain's."""
        return self.warmup + self.draws * self.thin

    def is_drawn(self, sweeps: int) -> bool:
        """Whether there is a draw after so many sweeps."""
        return sweeps > self.warmup and (sweeps - self.warmup) % self.thin == 0


class _Layout:
    """Where each site's values stand in a row, whose last number is ``lp``."""

    def __init__(self, structure: Structure) -> None:
        self.places: dict[str, slice] = {}
        self._shapes = {name: site.shape for name, site in structure.latents.items()}
        end = 0
        for name, shape in self._shapes.items():
            self.places[name] = slice(end, end + math.prod(shape))
            end += math.prod(shape)
        self.width = end + 1

    def row(self, latents: Mapping[str, Tensor], log_joint: float) -> np.ndarray:
        """A draw in a row, float64."""
        row = np.empty(self.width)
        for name, place in self.places.items():
            row[place] = latents[name].numpy().reshape(-1)
        row[-1] = log_joint
        return row

    def values(self, rows: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
        """Values (chain, draw, *shape) by site, of rows (chain, draw, width)."""
        return {
            name: rows[..., place].reshape(*rows.shape[:2], *self._shapes[name]).astype(dtype)
            for name, place in self.places.items()
        }


@dataclass(frozen=True)
class _Chain:
    """What one chain needs to run."""

    story: Story
    data: Data
    layout: _Layout
    plan: _Plan
    code: CDLL | None
    seed: np.random.SeedSequence
    pieces: Pieces
    budget: Budget

    def rows(self) -> Iterator[np.ndarray]:
        """Draws as they are made, from where the pieces end."""
        rng = np.random.default_rng(self.seed)
        chain = self.story.sweeps(self.data, rng, self.code)
        assert chain is not None
        done, kept = 0, self.pieces.state
        if kept is not None:
            done, rng = int(kept["sweeps"]), restore_numpy(kept["noise"])
            chain.restore({k: v for k, v in kept.items() if k not in ("sweeps", "noise")})
        fresh: list[np.ndarray] = []
        for sweeps in range(done + 1, self.plan.sweeps + 1):
            chain.sweep(rng)
            if self.plan.is_drawn(sweeps):
                row = self.layout.row(chain.draw(rng), chain.log_joint())
                fresh.append(row)
                yield row
            elif self.budget.spent:  # who runs the chains sees to it only where a row comes
                return
            if self.pieces.due:
                state = {**chain.state(), "sweeps": sweeps, "noise": numpy_state(rng)}
                self.pieces.add(fresh, state)
                fresh = []


class _Code(NamedTuple):
    """The story's C, compiled, or why there is none."""

    functions: CDLL | None
    words: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def _compiled(source: str) -> _Code:
    if not source:
        return _Code(None)
    try:
        library = build([source])
    except CompilerError as reason:
        return _Code(None, notes=(f"sweeps run without machine code, many times slower: {reason}",))
    return _Code(
        library.cdll,
        ", in machine code",
        library.seconds,
        (library.note,) if library.note else (),
    )


def _told(failures: Mapping[int, str], resumable: bool) -> str:
    """Every chain that broke off, in one line."""
    told = "; ".join(f"chain {chain}: {reason}" for chain, reason in sorted(failures.items()))
    return f"gibbs: {told}" + ("; --resume goes on from what is kept" if resumable else "")
