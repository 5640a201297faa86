"""The No-U-Turn sampler: draws of the exact posterior, by several chains from different starts.

Hamiltonian trajectories in the unconstrained space are doubled until they turn back (Hoffman and
Gelman 2014; Betancourt 2017); discrete sites are summed out. Chains run in processes of their
own, and the same seed gives the same draws whatever the number of cores. Of warm-up only the
statistics are kept, apart from the draws.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.distributions import constraints
from xarray import Dataset, DataTree

from storyzoo.errors import RefusedError, SettingError
from storyzoo.inference.engine.chains import (
    ChainError,
    Gathered,
    MassMatrix,
    Schedule,
    available_cores,
)
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.improper import improper_along
from storyzoo.inference.engine.kept import KeptChains
from storyzoo.inference.engine.method import (
    Info,
    Kind,
    Method,
    Outcome,
    needs_density,
    require,
    too_many_weights,
)
from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.inference.engine.resume import fingerprint
from storyzoo.inference.engine.rows import (
    divergences,
    evaluations,
    left_out,
    most_draws,
    statistics,
)
from storyzoo.inference.engine.samplers import Conduct, Sampler, choose_sampler
from storyzoo.inference.engine.starts import KINDS, Starts, chain_starts
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.story import Story


@dataclass(frozen=True, kw_only=True)
class NutsInfo(Info):
    """How the chains went."""

    chains: int = 0
    """Chains whose draws are kept."""
    warmup: int = 0
    """Warm-up iterations of each chain."""
    cores: int = 1
    """Chains that ran side by side."""
    one_mode: bool = False
    """Whether all chains started at one mode: then nothing was tested about others."""
    divergences: int = 0
    """Diverging trajectories among the draws."""
    step_sizes: tuple[float, ...] = ()
    """The mean step size of each chain's draws."""
    rung: str = ""
    """How the density was evaluated: ``c`` (machine code), ``torchscript`` or ``eager``."""
    resumed_evaluations: int = 0
    """Of the gradient evaluations: how many came from a checkpoint."""


@dataclass(frozen=True)
class NUTS(Method):
    """The No-U-Turn sampler.

    ``start``: ``prior`` gives each chain a prior draw of its own (uniform where a prior is
    improper), ``uniform`` a point of (−2, 2) in the unconstrained space; ``map`` and ``em`` let
    each chain begin beside the best mode of an ascent of its own, ``pathfinder`` at a draw of a
    normal found on a path of its own. Chains from far apart are what shows whether there are
    several modes. ``mass_matrix``: ``lowrank`` follows the strongest correlations too, which saves
    gradients where some are close to one. ``cores`` chains run at once, by default on all cores.
    """

    name: ClassVar[str] = "nuts"
    kind: ClassVar[Kind] = "draws"
    info_type: ClassVar[type[Info]] = NutsInfo

    chains: int = 4
    draws: int = 1000
    warmup: int = 1000
    start: Literal["prior", "uniform", "map", "em", "pathfinder"] = "prior"
    mass_matrix: MassMatrix = "diagonal"
    target_accept: float = 0.9
    max_tree_depth: int = 10
    minutes: float | None = None
    cores: int | None = None

    def __post_init__(self) -> None:
        for setting in ("chains", "draws", "warmup", "max_tree_depth"):
            value = getattr(self, setting)
            require(value >= 1, "nuts", setting, value, "at least 1")
        require(self.start in KINDS, "nuts", "start", self.start, " or ".join(KINDS))
        mass = self.mass_matrix in ("diagonal", "lowrank")
        require(mass, "nuts", "mass_matrix", self.mass_matrix, "diagonal or lowrank")
        share = 0 < self.target_accept < 1
        require(share, "nuts", "target_accept", self.target_accept, "between 0 and 1")
        timed = self.minutes is None or self.minutes > 0
        require(timed, "nuts", "minutes", self.minutes, "above 0")
        require(self.cores is None or self.cores >= 1, "nuts", "cores", self.cores, "at least 1")

    def refuses(self, story: Story, structure: Structure) -> str | None:
        """NUTS moves continuous sites; discrete ones must be summed out."""
        reason = needs_density(story)
        if reason is not None:
            return reason
        if not structure.latents:
            return "it has no continuous latent site to move; use em"
        endless = [name for name, site in structure.discrete.items() if _endless(site.support)]
        if endless:
            return f"'{endless[0]}' has infinitely many values and can't be summed out"
        return too_many_weights(story, structure)

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        """Run all chains; those that a checkpoint holds are not run again.

        Raises ChainError where a chain broke off, RefusedError where the posterior turns out to
        be improper, SettingError where ``minutes`` were spent before the first draw.
        """
        density = target.density()
        compile_seconds = _compile(density)
        sampler = choose_sampler(density, self.mass_matrix)
        budget = Budget(self.minutes)
        mark = fingerprint(self, target, seed, apart=("minutes", "cores"))
        kept = KeptChains(checkpoint, mark, self.chains)
        seeds = np.random.SeedSequence(seed).spawn(self.chains)
        starts = kept.starts() or self._starts(target, density, seeds, progress)
        kept.save_starts(starts)
        finished = kept.finished()
        cores = min(self.cores or available_cores(), self.chains)
        gathered = self._gather(sampler, starts, seeds, kept, cores, budget, progress)
        if gathered.failures and gathered.stopped == "done":
            raise ChainError(_told(gathered.failures, checkpoint is not None))
        if gathered.stopped != "interrupted":
            kept.remove()
        resumed = starts.evaluations if kept.resumed else 0
        info = NutsInfo(
            compile_seconds=compile_seconds,
            stopped=gathered.stopped,
            start=starts.words,
            engine=f"{sampler.words}, density by {density.engine}",
            rung=density.rung,
            warmup=self.warmup,
            cores=cores if sampler.parallel else 1,
            one_mode=starts.one_mode,
            gradient_evaluations=starts.evaluations,
            resumed_evaluations=resumed + sum(map(evaluations, finished.values())),
            notes=(*density.notes, *sampler.notes),
        )
        return self._outcome(target, density, gathered, info)

    def _gather(
        self,
        sampler: Sampler,
        starts: Starts,
        seeds: list[np.random.SeedSequence],
        kept: KeptChains,
        cores: int,
        budget: Budget,
        progress: Progress,
    ) -> Gathered:
        """The rows of all chains: those that were kept, and those that are run now."""
        finished = kept.finished()
        shown = _Shown(progress, self, finished)

        def end(chain: int, rows: np.ndarray) -> None:
            self._refuse_improper(sampler.density, rows)
            kept.save(chain, rows)

        try:
            gathered = sampler.run(
                {i: starts.points[i] for i in range(self.chains) if i not in finished},
                [_chain_seed(chain) for chain in seeds],
                self._schedule(),
                Conduct(cores, budget, shown.at, end),
            )
        except RefusedError:
            kept.remove()  # nothing to go on with
            raise
        finally:
            progress.close()
        gathered.blocks.update({i: [rows] for i, rows in finished.items()})
        return gathered

    def _starts(
        self,
        target: Target,
        density: LogDensity,
        seeds: list[np.random.SeedSequence],
        progress: Progress,
    ) -> Starts:
        rngs = [np.random.default_rng(seed) for seed in seeds]
        return chain_starts(self.start, target, density, rngs, self.minutes, progress)

    def _schedule(self) -> Schedule:
        return Schedule(
            self.warmup, self.draws, self.target_accept, self.max_tree_depth, self.mass_matrix
        )

    def _refuse_improper(self, density: LogDensity, rows: np.ndarray) -> None:
        """Raise RefusedError where a chain's draws have no posterior to be draws of."""
        reason = improper_along(density, rows[self.warmup :, : density.dim])
        if reason is not None:
            raise RefusedError(
                f"nuts can't fit {density.story.name}: {reason} and its density does not fall "
                "further out: the posterior is improper there; give the site a proper prior, or "
                "data that speak against such values"
            )

    # -- the answer ----------------------------------------------------------------------

    def _outcome(
        self, target: Target, density: LogDensity, gathered: Gathered, info: NutsInfo
    ) -> Outcome:
        """The tree of the draws, chains cut to equal length."""
        rows = {chain: gathered.rows(chain) for chain in sorted(gathered.blocks)}
        chains, length = most_draws({c: max(0, len(r) - self.warmup) for c, r in rows.items()})
        if length == 0 and info.stopped == "interrupted":
            raise KeyboardInterrupt
        if length == 0:
            raise SettingError(
                f"nuts: minutes={self.minutes} were spent in warm-up; give it more, or less warmup"
            )
        if info.stopped == "minutes":
            for chain in chains:
                self._refuse_improper(density, rows[chain])
        block = np.stack([rows[c][: self.warmup + length] for c in chains])
        drawn = block[:, self.warmup :]
        told = statistics(drawn)
        info = replace(
            info,
            chains=len(chains),
            divergences=int(told["diverging"].sum()),
            step_sizes=tuple(told["step_size"].mean(1).tolist()),
            gradient_evaluations=info.gradient_evaluations + sum(map(evaluations, rows.values())),
            notes=(*info.notes, *left_out(rows, chains, length, self.draws, gathered.failures)),
        )
        return Outcome(self._tree(target, density, block, length), info)

    def _tree(
        self, target: Target, density: LogDensity, block: np.ndarray, length: int
    ) -> DataTree:
        """Draws by site, and the statistics of draws and warm-up apart."""
        warm, drawn = block[:, :-length], block[:, -length:]
        points = torch.as_tensor(drawn[..., : density.dim], dtype=density.dtype)
        with target.context():
            latents = density.unflatten(points.to(density.device))
        values = {name: value.cpu().numpy() for name, value in latents.items()}
        tree = posterior_tree(target.structure, values, statistics(drawn))
        of_warmup = {n: (("chain", "draw"), v) for n, v in statistics(warm).items()}
        tree["warmup_sample_stats"] = DataTree(Dataset(of_warmup))
        return tree


# -- what is shown and told ----------------------------------------------------------------


class _Shown:
    """The bar over all chains' iterations, and the divergences after warm-up."""

    def __init__(self, progress: Progress, nuts: NUTS, finished: Mapping[int, np.ndarray]) -> None:
        self._progress = progress
        self._iterations: dict[int, int] = {}
        self._divergences: dict[int, int] = {}
        progress.start(nuts.chains * (nuts.warmup + nuts.draws))
        for chain, rows in finished.items():
            self.at(chain, len(rows), divergences(rows[nuts.warmup :]))

    def at(self, chain: int, iterations: int, diverged: int) -> None:
        """So far has one chain come."""
        more = iterations - self._iterations.get(chain, 0)
        self._iterations[chain], self._divergences[chain] = iterations, diverged
        if more > 0:
            self._progress.update(more, divergences=sum(self._divergences.values()))


def _told(failures: Mapping[int, str], resumable: bool) -> str:
    """Every chain that broke off, in one line."""
    told = "; ".join(f"chain {chain}: {reason}" for chain, reason in sorted(failures.items()))
    return f"nuts: {told}" + ("; --resume keeps the finished chains" if resumable else "")


def _chain_seed(seed: np.random.SeedSequence) -> int:
    """A seed (63 bits) for the draws, apart from the stream that the chain's start came from."""
    return int(seed.spawn(1)[0].generate_state(1, np.uint64)[0] >> np.uint64(1))


def _compile(density: LogDensity) -> float:
    """Seconds that the first evaluation takes, in which the density is traced and compiled."""
    began = time.perf_counter()
    density.native()
    density.value_and_gradient(torch.zeros(density.dim, dtype=density.dtype, device=density.device))
    return time.perf_counter() - began


def _endless(support: Any) -> bool:
    """Whether a discrete support has no end."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.nonnegative_integer))
