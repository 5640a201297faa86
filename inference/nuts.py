"""The No-U-Turn sampler: draws of the exact posterior, by several chains from different starts.

Hamiltonian trajectories in the unconstrained space are doubled until they turn back (Hoffman and
Gelman 2014; Betancourt 2017); discrete sites are summed out. Chains run in processes of their
own, and the same seed gives the same draws whatever the number of cores. Of warm-up only the
statistics are kept, apart from the draws.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints
from xarray import Dataset, DataTree

from storyzoo.errors import RefusedError, SettingError
from storyzoo.inference.engine.chains import (
    Chain,
    ChainError,
    Gathered,
    available_cores,
    can_fork,
    run_chains,
)
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.method import Info, Kind, Method, Outcome, require
from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.inference.engine.pyro_nuts import STATISTICS, walk
from storyzoo.inference.engine.resume import Keeper, fingerprint
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.story import Story

SAME_MODE = 0.1
"""Nats by which the objectives of two ascents to one mode may differ."""
SAME_PLACE = 0.1
"""How far the unconstrained ends of two ascents to one mode may lie apart, in any coordinate."""
JITTER = 0.05
"""Standard deviation, unconstrained, by which a start is moved off its mode."""

_TYPES = {"tree_depth": int, "n_steps": int, "diverging": bool, "reached_max_treedepth": bool}
_DIVERGING = STATISTICS.index("diverging")


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
    """The step size that each chain's warm-up ended with."""
    resumed_evaluations: int = 0
    """Of the gradient evaluations: how many came from a checkpoint."""


@dataclass(frozen=True)
class NUTS(Method):
    """The No-U-Turn sampler.

    ``start``: ``prior`` gives each chain a prior draw of its own (uniform where a prior is
    improper), ``uniform`` a point of (−2, 2) in the unconstrained space; ``map`` and ``em`` let
    each chain begin beside the best mode of an ascent of its own. Chains from far apart are what
    shows whether there are several modes. ``cores`` chains run at once, by default on all cores.
    """

    name: ClassVar[str] = "nuts"
    kind: ClassVar[Kind] = "draws"
    info_type: ClassVar[type[Info]] = NutsInfo

    chains: int = 4
    draws: int = 1000
    warmup: int = 1000
    start: Literal["prior", "uniform", "map", "em"] = "prior"
    target_accept: float = 0.8
    max_tree_depth: int = 10
    minutes: float | None = None
    cores: int | None = None

    def __post_init__(self) -> None:
        for setting in ("chains", "draws", "warmup", "max_tree_depth"):
            value = getattr(self, setting)
            require(value >= 1, "nuts", setting, value, "at least 1")
        known = ("prior", "uniform", "map", "em")
        require(self.start in known, "nuts", "start", self.start, " or ".join(known))
        share = 0 < self.target_accept < 1
        require(share, "nuts", "target_accept", self.target_accept, "between 0 and 1")
        timed = self.minutes is None or self.minutes > 0
        require(timed, "nuts", "minutes", self.minutes, "above 0")
        require(self.cores is None or self.cores >= 1, "nuts", "cores", self.cores, "at least 1")

    def refuses(self, story: Story, structure: Structure) -> str | None:
        """NUTS moves continuous sites; discrete ones must be summed out."""
        if not structure.latents:
            return "it has no continuous latent site to move; use em"
        endless = [name for name, site in structure.discrete.items() if _endless(site.support)]
        if endless:
            return f"'{endless[0]}' has infinitely many values and can't be summed out"
        return None

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        """Run all chains; those that a checkpoint holds are not run again.

        Raises ChainError where a chain broke off, SettingError where ``minutes`` were spent
        before the first draw.
        """
        density = target.density()
        compile_seconds = _compile(density)
        budget = Budget(self.minutes)
        mark = fingerprint(self, target, seed, apart=("minutes", "cores"))
        kept = _Kept(checkpoint, mark, self.chains)
        seeds = np.random.SeedSequence(seed).spawn(self.chains)
        starts = kept.starts() or self._starts(target, density, seeds, progress)
        kept.save_starts(starts)
        finished = kept.finished()
        forked = can_fork(target.device)
        cores = min(self.cores or available_cores(), self.chains) if forked else 1
        shown = _Shown(progress, self, density.dim + _DIVERGING, finished)
        try:
            gathered = run_chains(
                self._chains(density, starts, seeds, finished),
                cores=cores,
                forked=forked,
                budget=budget,
                on_rows=shown.rows,
                on_end=kept.save,
            )
        finally:
            progress.close()
        gathered.blocks.update({i: [rows] for i, rows in finished.items()})
        if gathered.failures and gathered.stopped == "done":
            raise ChainError(_told(gathered.failures, checkpoint is not None))
        if gathered.stopped != "interrupted":
            kept.remove()
        resumed = starts.evaluations if kept.resumed else 0
        info = NutsInfo(
            compile_seconds=compile_seconds,
            stopped=gathered.stopped,
            start=starts.words,
            engine=f"Pyro's NUTS, density by {density.engine}",
            warmup=self.warmup,
            cores=cores,
            one_mode=starts.one_mode,
            gradient_evaluations=starts.evaluations,
            resumed_evaluations=resumed + sum(_evaluations(rows) for rows in finished.values()),
        )
        return self._outcome(target, density, gathered, info)

    def _chains(
        self,
        density: LogDensity,
        starts: Starts,
        seeds: list[np.random.SeedSequence],
        finished: Collection[int],
    ) -> dict[int, Chain]:
        """The chains that are still to run, each from its own start and seed."""
        points = starts.points.to(density.device)

        def chain(index: int) -> Iterator[np.ndarray]:
            return walk(
                density.value_and_gradient,
                points[index],
                _torch_seed(seeds[index]),
                warmup=self.warmup,
                draws=self.draws,
                target_accept=self.target_accept,
                max_tree_depth=self.max_tree_depth,
            )

        return {i: partial(chain, i) for i in range(self.chains) if i not in finished}

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
        block = np.stack([rows[c][: self.warmup + length] for c in chains])
        drawn = block[:, self.warmup :]
        statistics = _statistics(drawn, density.dim)
        info = replace(
            info,
            chains=len(chains),
            divergences=int(statistics["diverging"].sum()),
            step_sizes=tuple(statistics["step_size"][:, -1].tolist()),
            gradient_evaluations=info.gradient_evaluations + sum(map(_evaluations, rows.values())),
            notes=_left_out(rows, chains, length, self, gathered.failures),
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
        tree = posterior_tree(target.structure, values, _statistics(drawn, density.dim))
        of_warmup = {n: (("chain", "draw"), v) for n, v in _statistics(warm, density.dim).items()}
        tree["warmup_sample_stats"] = DataTree(Dataset(of_warmup))
        return tree

    # -- where chains start --------------------------------------------------------------

    def _starts(
        self,
        target: Target,
        density: LogDensity,
        seeds: list[np.random.SeedSequence],
        progress: Progress,
    ) -> Starts:
        rngs = [np.random.default_rng(seed) for seed in seeds]
        if self.start in ("map", "em"):
            starts = _beside_modes(self, target, density, rngs, progress)
        else:
            points = torch.stack([density.start(rng, self.start) for rng in rngs])
            starts = Starts(points, _in_words(self.start, target.structure))
        _refuse_crooked(target, density, starts.points)
        return replace(starts, evaluations=starts.evaluations + density.evaluations)


@dataclass(frozen=True)
class Starts:
    """Where the chains begin."""

    points: Tensor
    """(chains, D), unconstrained."""
    words: str
    one_mode: bool = False
    evaluations: int = 0
    """Gradient evaluations that it took to find them."""


def _in_words(kind: str, structure: Structure) -> str:
    if kind == "uniform":
        return "each chain from its own point, uniform on (-2, 2) unconstrained"
    improper = ", uniform on (-2, 2) where the prior is improper" if structure.improper else ""
    return f"each chain from its own draw of the prior{improper}"


def _beside_modes(
    nuts: NUTS,
    target: Target,
    density: LogDensity,
    rngs: list[np.random.Generator],
    progress: Progress,
) -> Starts:
    """Each chain beside the best sane mode of an ascent with its own seed.

    Raises RefusedError where the ascent can't be made or finds nothing sane.
    """
    ascent = _ascent(nuts)
    reason = ascent.refuses(target.story, target.structure)
    if reason is not None:
        raise RefusedError(f"nuts: start={nuts.start} can't be had: {reason}")
    found: list[tuple[float, Tensor]] = []
    evaluations, why = 0, ""
    for rng in rngs:
        tree, info = ascent.run(target, seed=int(rng.integers(2**31)), progress=progress)
        if info.stopped == "interrupted":
            raise KeyboardInterrupt
        known: Any = info
        evaluations += info.gradient_evaluations
        why = why or known.degenerate[known.best]
        if not known.degenerate[known.best]:
            found.append((known.objectives[known.best], _point(target, density, tree)))
    if not found:
        raise RefusedError(f"nuts: start={nuts.start} found no sane mode ({why}); use start=prior")
    one = _is_one_mode(found, bool(target.story.exchangeable))
    points = [_jittered(density, found[i % len(found)][1], rng) for i, rng in enumerate(rngs)]
    each = "all chains beside one mode" if one else "each chain beside the mode"
    words = f"{each}, found by {ascent.name} from {len(found)} seeds, jittered slightly"
    return Starts(torch.stack(points), words, one, evaluations)


def _is_one_mode(found: list[tuple[float, Tensor]], exchangeable: bool) -> bool:
    """Whether ascents agree; where labels can be permuted, their ends lie apart even then."""
    heights = [height for height, _ in found]
    first = found[0][1]
    apart = max(float((point - first).abs().max()) for _, point in found)
    return max(heights) - min(heights) < SAME_MODE and (exchangeable or apart < SAME_PLACE)


def _ascent(nuts: NUTS) -> Method:
    if nuts.start == "em":
        from storyzoo.inference.em import EM

        return EM(minutes=nuts.minutes)
    from storyzoo.inference.map import MAP

    return MAP(minutes=nuts.minutes)


def _point(target: Target, density: LogDensity, tree: DataTree) -> Tensor:
    """The flat vector (D,) of a point estimate's tree."""
    posterior = tree["posterior"].to_dataset()
    shapes = {name: site.shape for name, site in target.structure.latents.items()}
    values = {n: torch.as_tensor(posterior[n].values.reshape(s)) for n, s in shapes.items()}
    with target.context():
        return density.flatten(values)


def _jittered(density: LogDensity, mode: Tensor, rng: np.random.Generator) -> Tensor:
    """A point of finite density near the mode."""
    for size in (JITTER, JITTER / 10, JITTER / 100):
        noise = torch.as_tensor(rng.standard_normal(len(mode)), dtype=mode.dtype)
        point = mode + size * noise.to(mode.device)
        value, gradient = density.value_and_gradient(point)
        if bool(value.isfinite()) and bool(gradient.isfinite().all()):
            return point
    return mode


def _refuse_crooked(target: Target, density: LogDensity, points: Tensor) -> None:
    """Raise RefusedError where the gradient is not that of the density at any of the points.

    So it is with a ``.detach()`` in the model, or a draw within it. Told by central differences
    in a random direction, in float64 only.
    """
    if density.dtype != torch.float64:
        return
    for point in points:
        _, gradient = density.value_and_gradient(point)
        step = 1e-5 * torch.randn(len(point), generator=torch.Generator().manual_seed(1)).to(point)
        above, below = (density.value_and_gradient(point + s * step)[0] for s in (1.0, -1.0))
        rise, expected = float(above - below), float(2 * gradient.dot(step))
        noise = 1e-13 * float(above.abs() + below.abs()) + 1e-9
        if not abs(rise - expected) > 0.1 * max(abs(rise), abs(expected)) + noise:
            return
    raise RefusedError(
        f"nuts can't fit {target.story.name}: its density does not follow its gradient "
        "(a .detach(), .item() or a draw inside the model?)"
    )


# -- what is kept while it runs ------------------------------------------------------------


class _Shown:
    """The bar over all chains' iterations, and the divergences after warm-up."""

    def __init__(
        self, progress: Progress, nuts: NUTS, place: int, finished: Mapping[int, np.ndarray]
    ) -> None:
        self._progress, self._warmup, self._place = progress, nuts.warmup, place
        self._seen: dict[int, int] = {}
        self._divergences = 0
        progress.start(nuts.chains * (nuts.warmup + nuts.draws))
        for chain, rows in finished.items():
            self.rows(chain, rows)

    def rows(self, chain: int, rows: np.ndarray) -> None:
        """Some more rows (n, C) of one chain."""
        seen = self._seen.get(chain, 0)
        drawn = rows[max(0, self._warmup - seen) :]
        self._divergences += int(drawn[:, self._place].sum())
        self._seen[chain] = seen + len(rows)
        self._progress.update(len(rows), divergences=self._divergences)


class _Kept:
    """The run's checkpoint: where the chains started, and every chain that came to its end."""

    def __init__(self, checkpoint: Checkpoint | None, mark: str, chains: int) -> None:
        children = [checkpoint.child(f"chain{i}") if checkpoint else None for i in range(chains)]
        self._run = Keeper(checkpoint, mark)
        self._chains = [Keeper(child, mark) for child in children]
        self.resumed = False

    def starts(self) -> Starts | None:
        """The starts of the run that is gone on with, if any."""
        state = self._run.load()
        if state is None:
            return None
        self.resumed = True
        words, one_mode = str(state["words"]), bool(state["one_mode"])
        return Starts(torch.from_numpy(state["points"]), words, one_mode, int(state["evaluations"]))

    def save_starts(self, starts: Starts) -> None:
        """Keep them, since finding them may have taken long."""
        if not self.resumed:
            self._run.save({**vars(starts), "points": starts.points.cpu().numpy()})

    def finished(self) -> dict[int, np.ndarray]:
        """All rows of each chain that had come to its end."""
        states = {i: keeper.load() for i, keeper in enumerate(self._chains)} if self.resumed else {}
        return {i: state["rows"] for i, state in states.items() if state is not None}

    def save(self, chain: int, rows: np.ndarray) -> None:
        """Keep a chain that came to its end."""
        self._chains[chain].save({"rows": rows})

    def remove(self) -> None:
        """The run has ended."""
        self._run.remove()


# -- rows ----------------------------------------------------------------------------------


def most_draws(lengths: Mapping[int, int]) -> tuple[list[int], int]:
    """Which chains to keep, and the length to cut them to, so that most draws are kept.

    >>> most_draws({0: 1000, 1: 1000, 2: 3})
    ([0, 1], 1000)
    """
    longest = sorted(lengths.values(), reverse=True)
    _, count = max((count * length, count) for count, length in enumerate(longest, start=1))
    cut = longest[count - 1]
    return [chain for chain, length in lengths.items() if length >= cut], cut


def _statistics(rows: np.ndarray, dim: int) -> dict[str, np.ndarray]:
    """Statistics ``(chain, draw)`` by ArviZ's names, of rows ``(chain, draw, C)``."""
    return {
        name: rows[..., dim + place].astype(_TYPES.get(name, float))
        for place, name in enumerate(STATISTICS)
    }


def _evaluations(rows: np.ndarray) -> int:
    return int(rows[-1, -1]) if len(rows) else 0


def _left_out(
    rows: Mapping[int, np.ndarray],
    chains: list[int],
    length: int,
    nuts: NUTS,
    failures: Mapping[int, str],
) -> tuple[str, ...]:
    """What was drawn, or not drawn, and is not in the answer."""
    notes = [f"chain {chain} broke off: {reason}" for chain, reason in sorted(failures.items())]
    missing = [str(chain) for chain in rows if chain not in chains]
    if missing:
        notes.append(f"left out, as cut short: chain {', '.join(missing)}")
    if length < nuts.draws:
        notes.append(f"{length} of {nuts.draws} draws per chain were made")
    return tuple(notes)


def _told(failures: Mapping[int, str], resumable: bool) -> str:
    """Every chain that broke off, in one line."""
    told = "; ".join(f"chain {chain}: {reason}" for chain, reason in sorted(failures.items()))
    return f"nuts: {told}" + ("; --resume keeps the finished chains" if resumable else "")


def _torch_seed(seed: np.random.SeedSequence) -> int:
    return int(seed.spawn(1)[0].generate_state(1, np.uint64)[0] >> np.uint64(1))


def _compile(density: LogDensity) -> float:
    """Seconds that the first evaluation takes, in which the density is traced."""
    began = time.perf_counter()
    density.value_and_gradient(torch.zeros(density.dim, dtype=density.dtype, device=density.device))
    return time.perf_counter() - began


def _endless(support: Any) -> bool:
    """Whether a discrete support has no end."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.nonnegative_integer))
