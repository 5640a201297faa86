"""Pathfinder: normals along ascents to the posterior's modes, the nearest of each, reweighted.

Every path climbs the log density *with* Jacobian by L-BFGS from a start of its own. Its steps tell
the inverse Hessian at each point x of the path, and with it a normal ``q = N(x + H g(x), H)``
(:mod:`storyzoo.inference.engine.quasi_newton`). The one with the highest

``ELBO = E_q[log p(data, x) - log q(x)]``,

estimated from a few draws, the same noise for all and matched to the normal's first two moments,
is taken. It need not be the one at the mode: an ascent that runs off into the neck of a funnel
passes the bulk of the posterior on its way.

The draws of all paths are one sample of the mixture ``q = 1/L sum_l q_l``, since so a mode that
several paths have found counts once (Owen and Zhou 2000); they are resampled by the weights
``p/q``, the largest of them smoothed (Vehtari et al. 2024). k-hat of those weights tells how far
the mixture is from the posterior.

Source: Zhang, Carpenter, Gelman and Vehtari 2022, "Pathfinder: Parallel quasi-Newton variational
inference", JMLR 23(306), algorithms 1 to 5; they weight each draw by its own path's density.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor
from xarray import Dataset, DataTree

from storyzoo.errors import RefusedError, StoryError
from storyzoo.inference.engine.ascent import Array, Ascents, Flags, as_array
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.density import LogDensity
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
from storyzoo.inference.engine.psis import PROPOSALS, pareto_weights
from storyzoo.inference.engine.quasi_newton import Curvature, PathNormal, curvatures
from storyzoo.inference.engine.restarts import compile_seconds, evaluator
from storyzoo.inference.engine.resume import Keeper, fingerprint
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.story import Story

TOLERANCE = 1e-9
"""Nats that may be left to gain where a path ends: its last steps still tell curvature."""
PRIOR_SHARE = 4
"""Every which path starts at a prior draw where the story has starts of its own."""
BLOCK = 4_000_000
"""Numbers in the points that are evaluated at once."""
DRAWS_STREAM = 1
"""Apart from the streams that the paths draw from."""
FEW = 0.5
"""Worth of the weighted draws, in draws of the answer, below which a note says so."""
TRIES = 10
"""Draws of a path that are tried for a chain's start."""


@dataclass(frozen=True, kw_only=True)
class PathfinderInfo(Info):
    """How the paths went."""

    paths: tuple[float, ...] = ()
    """ELBO of each path's normal, nats, from fresh draws; minus infinity where it failed."""
    shares: tuple[float, ...] = ()
    """Share of the importance weight that fell on the draws of each path."""
    failures: tuple[str, ...] = ()
    """Why each path failed; empty where it didn't."""
    best: int = 0
    """The path with the highest ELBO."""
    heights: tuple[float, ...] = ()
    """Log density where each path ended, nats."""
    lengths: tuple[int, ...] = ()
    """Steps of each path."""
    taken: tuple[int, ...] = ()
    """After how many of them its normal was taken."""
    elbo: tuple[float, ...] = ()
    """ELBO of the best path: a single number."""
    elbo_se: float = 0.0
    """Its standard error."""
    weight_ess: float = 0.0
    """How many equal weights the draws' weights are worth: ``1 / sum_s w_s^2``."""
    distinct: int = 0
    """Different draws among those of the answer."""
    resumed_evaluations: int = 0
    """Of the gradient evaluations: how many came from a checkpoint."""


@dataclass(frozen=True)
class Pathfinder(Method):
    """Quasi-Newton variational inference by several paths, resampled by importance.

    ``draws``: of each path, and of the answer. ``elbo_draws``: draws by which the normals along a
    path are compared. ``memory``: pairs of steps and gradients that tell a
    normal's correlations. ``resample`` draws the answer from all paths by their weights p/q;
    without it the answer is the draws of the path with the highest ELBO, as they are.
    """

    name: ClassVar[str] = "pathfinder"
    kind: ClassVar[Kind] = "approximation"
    info_type: ClassVar[type[Info]] = PathfinderInfo

    paths: int = 8
    draws: int = 1000
    max_steps: int = 1000
    elbo_draws: int = 25
    memory: int = 20
    resample: bool = True
    minutes: float | None = None

    def __post_init__(self) -> None:
        for setting in ("paths", "draws", "max_steps", "elbo_draws", "memory"):
            value = getattr(self, setting)
            require(value >= 1, "pathfinder", setting, value, "at least 1")
        timed = self.minutes is None or self.minutes > 0
        require(timed, "pathfinder", "minutes", self.minutes, "above 0")

    def refuses(self, story: Story, structure: Structure) -> str | None:
        """Only continuous sites have a gradient to follow."""
        reason = needs_density(story)
        if reason is not None:
            return reason
        if not structure.latents:
            return "it has no continuous latent site"
        return too_many_weights(story, structure)

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        """Follow every path, draw from the normals that were taken, resample.

        The tree has the weights' two sides, ``lp`` and ``log_q``: with the draws where they are as
        drawn; apart, in ``proposal_stats``, where they were resampled and so have spent them.
        Raises RefusedError where every path failed.
        """
        density = target.density()
        seconds = compile_seconds(density)
        keeper = Keeper(checkpoint, fingerprint(self, target, seed))
        search = _Search(self, target, density, seed, keeper)
        stopped = search.run(Budget(self.minutes), progress)
        before = density.evaluations
        proposals = search.proposals()
        drawn = density.evaluations - before
        if stopped != "interrupted":
            keeper.remove()
        chosen = _chosen(self, proposals, seed)
        info = search.info(proposals, chosen, stopped, seconds, drawn)
        return Outcome(_tree(target, density, proposals, chosen), info)

    def starts(
        self, target: Target, density: LogDensity, rngs: Sequence[np.random.Generator]
    ) -> Tensor:
        """Where chains may begin (C, D): one for each generator, each from a path of its own.

        A path begins at a prior draw (uniform where a prior is improper), and its normal is drawn
        from once, so that chains lie apart as far as the posterior does, and in different modes
        where their paths ended in different ones. Where a path fails, or ten draws of its normal
        have no finite density and gradient, that prior draw itself is the start.

        ``density`` must have its Jacobian. Raises StoryError where no prior draw has a finite
        density.
        """
        points = []
        for rng in rngs:
            origin = density.start(rng)
            path = follow(self, density, as_array(origin), rng, Budget(None))
            points.append(_started(density, path, origin, rng))
        return torch.stack(points)


# -- one path ----------------------------------------------------------------------------------


class Path(NamedTuple):
    """One path and the normal that was taken along it."""

    normal: PathNormal
    height: float
    """Log density where it ended."""
    steps: int
    taken: int
    """Steps to the point whose normal was taken."""
    evaluations: int
    failure: str
    """Why there is no normal to be used; empty where there is one."""


def follow(
    pathfinder: Pathfinder,
    density: LogDensity,
    start: Array,
    rng: np.random.Generator,
    budget: Budget,
) -> Path:
    """Climb from ``start`` (D,) and take the normal with the highest ELBO along the way.

    Where the budget is spent on the way, of those that could be looked at: the last ones first.
    """
    before = density.evaluations
    points, gradients, height = climb(density, start, pathfinder.max_steps, budget)
    noise = matched(rng.standard_normal((pathfinder.elbo_draws, density.dim)))
    known = curvatures(points, gradients, pathfinder.memory)
    best, taken, normal = -np.inf, 0, known[0].normal()
    for place, elbo, candidate in _elbos(density, known, noise, budget):
        if elbo > best:
            best, taken, normal = elbo, place, candidate
    spent = density.evaluations - before
    failure = "" if np.isfinite(best) else "no normal along it has draws of finite density only"
    return Path(normal, height, len(points) - 1, taken, spent, failure)


def climb(
    density: LogDensity, start: Array, max_steps: int, budget: Budget
) -> tuple[Array, Array, float]:
    """Points and gradients (T + 1, D) along an ascent of T steps, and the density at its end."""
    ascent = Ascents(
        evaluator(density),
        max_steps=max_steps,
        tolerance=TOLERANCE,
        precision=torch.finfo(density.dtype).eps,
    )
    ascent.start(start[None])
    points, gradients, steps = [start], [ascent.state.gradient[0]], 0
    while ascent.climbing.any() and not budget.spent:
        ascent.step()
        state = ascent.state
        if state.steps[0] > steps and np.isfinite(state.gradient[0]).all():
            points.append(state.q[0])
            gradients.append(state.gradient[0])
        steps = state.steps[0]
    return np.stack(points), np.stack(gradients), float(ascent.state.value[0])


def matched(noise: Array) -> Array:
    """Noise (K, D) with mean zero and, as far as its rank goes, the identity for covariance.

    Where K > D the ELBO of a normal is then exact against any normal posterior, so that chance
    does not prefer a wrong one: its rank is K - 1, and ``sum |u|^2 = K D`` in any case.
    """
    draws, dim = noise.shape
    rank = min(draws - 1, dim)
    if rank == 0:
        return noise
    left, _, right = np.linalg.svd(noise - noise.mean(0), full_matrices=False)
    return np.asarray(math.sqrt(draws * dim / rank) * left[:, :rank] @ right[:rank])


def _elbos(
    density: LogDensity, known: list[Curvature], noise: Array, budget: Budget
) -> Iterator[tuple[int, float, PathNormal]]:
    """Place, ELBO and normal along a path, from its end to its start, some at a time."""
    many = max(1, BLOCK // noise.size)
    for end in range(len(known), 0, -many):
        places = range(end - 1, max(0, end - many) - 1, -1)
        with np.errstate(all="ignore"):  # what has no density is told below
            block = [known[place].normal() for place in places]
            drawn = np.stack([normal.at(noise) for normal in block])
            log_q = np.stack([normal.log_density_of_noise(noise) for normal in block])
        log_p = _log_density(density, drawn)
        elbo = (log_p - log_q).mean(-1)
        yield from zip(places, np.where(np.isnan(elbo), -np.inf, elbo).tolist(), block, strict=True)
        if budget.spent:
            return


def _log_density(density: LogDensity, points: Array) -> Array:
    """Log density (…) at points (…, D); minus infinity where it is not finite."""
    rows = points.reshape(-1, density.dim)
    finite = np.isfinite(rows).all(-1)
    value = np.full(len(rows), -np.inf)
    places = np.flatnonzero(finite)
    for at in np.array_split(places, max(1, math.ceil(rows.size / BLOCK))):
        if len(at):
            q = torch.as_tensor(rows[at], dtype=density.dtype, device=density.device)
            value[at] = as_array(density.batch_value_and_gradient(q)[0])
    return np.where(np.isfinite(value), value, -np.inf).reshape(points.shape[:-1])


def _started(density: LogDensity, path: Path, origin: Tensor, rng: np.random.Generator) -> Tensor:
    """A draw of a path's normal with a finite density, else where the path began."""
    for _ in range(0 if path.failure else TRIES):
        drawn = path.normal.at(rng.standard_normal(density.dim))
        q = torch.as_tensor(drawn, dtype=density.dtype, device=density.device)
        value, gradient = density.value_and_gradient(q)
        if bool(value.isfinite()) and bool(gradient.isfinite().all()):
            return q
    return origin


# -- all paths ---------------------------------------------------------------------------------


class Proposals(NamedTuple):
    """Draws of the paths that did not fail, and their densities."""

    path: list[int]
    """Which they are (L,)."""
    q: Array
    """(L, S, D)."""
    lp: Array
    """Log density of the posterior (L, S)."""
    own: Array
    """That of each draw's own path."""
    log_q: Array
    """That of the mixture of all."""

    @property
    def elbos(self) -> Array:
        """ELBO (L,) by path, over the draws of finite density."""
        return _mean(self.lp - self.own)


Places = NDArray[np.int64]


class Chosen(NamedTuple):
    """The answer: which of the proposals, in what order, and what weighed them."""

    places: Places
    """(draws,) into the flattened proposals."""
    shares: Array
    """Weight by path (L,)."""
    ess: float
    """``1 / sum_s w_s^2``."""
    resampled: bool


class _Search:
    """The paths of one run."""

    def __init__(
        self,
        pathfinder: Pathfinder,
        target: Target,
        density: LogDensity,
        seed: int,
        keeper: Keeper,
    ) -> None:
        self.pathfinder, self.target, self.density = pathfinder, target, density
        self.keeper = keeper
        seeds = np.random.SeedSequence(seed).spawn(pathfinder.paths)
        self.seeds = [child.spawn(2) for child in seeds]
        self.found = _unpack(keeper.load() or {})
        self.resumed = sum(path.evaluations for path in self.found)

    def run(self, budget: Budget, progress: Progress) -> str:
        """Path after path; how it ended. Ctrl-C keeps the paths that have ended."""
        progress.start(self.pathfinder.paths)
        progress.update(len(self.found))
        try:
            while len(self.found) < self.pathfinder.paths:
                if self.found and budget.spent:
                    return "minutes"
                self.found.append(self._path(len(self.found), budget))
                progress.update(1)
                if self.keeper.due:
                    self.keeper.save(_pack(self.found))
        except KeyboardInterrupt:
            self.keeper.save(_pack(self.found))
            if not any(not path.failure for path in self.found):
                raise
            return "interrupted"
        finally:
            progress.close()
        return "done"

    def _path(self, place: int, budget: Budget) -> Path:
        rng = np.random.default_rng(self.seeds[place][0])
        before = self.density.evaluations
        try:
            start = self._start(place, rng)
        except StoryError as reason:
            spent = self.density.evaluations - before
            return Path(_nothing(self.density.dim), -np.inf, 0, 0, spent, str(reason))
        path = follow(self.pathfinder, self.density, start, rng, budget)
        return path._replace(evaluations=self.density.evaluations - before)

    def _start(self, place: int, rng: np.random.Generator) -> Array:
        """The story's own start; every fourth time, and where it has none, a prior draw."""
        initial = None
        if self.target.story.has("initial") and place % PRIOR_SHARE != PRIOR_SHARE - 1:
            with self.target.context():
                initial = self.target.story.initial(self.target.data, rng)
        return as_array(
            self.density.start(rng) if initial is None else self.density.flatten(initial)
        )

    def proposals(self) -> Proposals:
        """Draws of every path that did not fail.

        Raises RefusedError where every one did, or none of the draws has a finite density.
        """
        good = [place for place, path in enumerate(self.found) if not path.failure]
        if not good:
            raise self._refused(self.found[0].failure)
        shape = (self.pathfinder.draws, self.density.dim)
        paths = [self.found[place].normal for place in good]
        noise = [np.random.default_rng(self.seeds[p][1]).standard_normal(shape) for p in good]
        q = np.stack([normal.at(u) for normal, u in zip(paths, noise, strict=True)])
        own = [normal.log_density_of_noise(u) for normal, u in zip(paths, noise, strict=True)]
        by_path = np.stack([np.stack([normal.log_density(rows) for rows in q]) for normal in paths])
        log_q = logsumexp(by_path, axis=0) - math.log(len(good))
        found = Proposals(good, q, _log_density(self.density, q), np.stack(own), log_q)
        if not np.isfinite(found.lp).any():
            raise self._refused("none of their draws has a finite density")
        return found

    def _refused(self, reason: str) -> RefusedError:
        count = len(self.found)
        which = f"all {count} paths failed" if count > 1 else "its only path failed"
        return RefusedError(
            f"pathfinder can't fit {self.target.story.name}: {which} ({reason}); give it "
            "narrower priors, or use nuts"
        )

    # -- the answer ----------------------------------------------------------------------

    def info(
        self, proposals: Proposals, chosen: Chosen, stopped: str, seconds: float, drawn: int
    ) -> PathfinderInfo:
        """How the paths went; ``drawn``: evaluations that the draws took."""
        elbos = np.full(len(self.found), -np.inf)
        shares = np.zeros(len(self.found))
        elbos[proposals.path], shares[proposals.path] = proposals.elbos, chosen.shares
        best = int(elbos.argmax())
        gaps = (proposals.lp - proposals.own)[proposals.path.index(best)]
        gaps = gaps[np.isfinite(gaps)]
        distinct = len(np.unique(chosen.places))
        return PathfinderInfo(
            gradient_evaluations=sum(path.evaluations for path in self.found) + drawn,
            compile_seconds=seconds,
            stopped=stopped,
            start=self._words(),
            engine=self.density.engine,
            notes=(*self.density.notes, *self._notes(proposals, chosen, distinct)),
            paths=tuple(elbos.tolist()),
            shares=tuple(shares.tolist()),
            failures=tuple(path.failure for path in self.found),
            best=best,
            heights=tuple(path.height for path in self.found),
            lengths=tuple(path.steps for path in self.found),
            taken=tuple(path.taken for path in self.found),
            elbo=(float(gaps.mean()),),
            elbo_se=float(gaps.std(ddof=1) / math.sqrt(len(gaps))) if len(gaps) > 1 else 0.0,
            weight_ess=chosen.ess,
            distinct=distinct,
            resumed_evaluations=self.resumed,
        )

    def _words(self) -> str:
        kind = "a prior draw"
        if self.target.story.has("initial"):
            kind = "a start of the story's own, every fourth from a prior draw"
        return f"each of {len(self.found)} paths from {kind}"

    def _notes(self, proposals: Proposals, chosen: Chosen, distinct: int) -> Iterator[str]:
        wanted, kept = self.pathfinder.paths, len(self.found)
        if kept < wanted:
            yield f"{kept} of {wanted} paths were followed"
        failed = [(n, path.failure) for n, path in enumerate(self.found) if path.failure]
        if failed:
            which, why = ", ".join(str(n) for n, _ in failed), failed[0][1]
            yield f"{len(failed)} of {kept} paths failed and were left out: {which} ({why})"
        if len(proposals.path) == 1:
            yield "one path only: other modes were not looked for"
        lost = int(np.isneginf(proposals.lp).sum())
        if lost:
            yield f"{lost} of {proposals.lp.size} draws had no finite density: they got no weight"
        if chosen.resampled and chosen.ess < FEW * self.pathfinder.draws:
            yield (
                f"the weights make {proposals.lp.size} draws worth {chosen.ess:.0f}, fewer than "
                f"the {len(chosen.places)} of the answer, of which {distinct} are distinct: means "
                "are less sharp than their MCSE says"
            )


def _nothing(dim: int) -> PathNormal:
    """A placeholder where a path never began."""
    return Curvature(np.zeros(dim), np.zeros(dim), np.ones(dim), ()).normal()


def _mean(values: Array) -> Array:
    """Means by row of what is finite; minus infinity where nothing is."""
    finite: Flags = np.isfinite(values)
    count = finite.sum(-1)
    total = np.where(finite, values, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), -np.inf)


def _chosen(pathfinder: Pathfinder, proposals: Proposals, seed: int) -> Chosen:
    """The draws of the answer: resampled by weight, or all of the best path."""
    log_weights, _ = pareto_weights(proposals.lp, proposals.log_q)
    weights = np.exp(log_weights).reshape(proposals.lp.shape)
    shares, ess = weights.sum(-1), float(1 / np.square(weights).sum())
    draws = pathfinder.draws
    if not pathfinder.resample:
        best = int(proposals.elbos.argmax())
        return Chosen(best * draws + np.arange(draws), shares, ess, resampled=False)
    rng = np.random.default_rng([seed, DRAWS_STREAM])
    return Chosen(systematic(weights.ravel(), draws, rng), shares, ess, resampled=True)


def systematic(weights: Array, count: int, rng: np.random.Generator) -> Places:
    """Resample (count,) places by weight, each as often as expected but for rounding, shuffled.

    Kitagawa 1996: equidistant points with one random offset cut the cumulated weights.
    """
    edges = np.cumsum(weights) / weights.sum()
    points = (rng.random() + np.arange(count)) / count
    places = np.minimum(np.searchsorted(edges, points, side="right"), len(weights) - 1)
    return rng.permutation(places).astype(np.int64)


def _tree(target: Target, density: LogDensity, proposals: Proposals, chosen: Chosen) -> DataTree:
    """Draws by site with ``lp`` and which path each is of, and what their weights were."""
    points = proposals.q.reshape(-1, density.dim)[chosen.places]
    q = torch.as_tensor(points, dtype=density.dtype, device=density.device)
    with target.context():
        latents = {name: value.cpu().numpy()[None] for name, value in density.unflatten(q).items()}
    path = np.repeat(proposals.path, proposals.lp.shape[1])
    log_q = proposals.log_q if chosen.resampled else proposals.own
    every = {"lp": proposals.lp.ravel(), "log_q": log_q.ravel(), "path": path}
    stats = {name: values[chosen.places][None] for name, values in every.items()}
    if not chosen.resampled:
        return posterior_tree(target.structure, latents, stats)
    del stats["log_q"]
    tree = posterior_tree(target.structure, latents, stats)
    tree[PROPOSALS] = DataTree(Dataset({n: (("chain", "draw"), v[None]) for n, v in every.items()}))
    return tree


# -- what is stored ----------------------------------------------------------------------------


def _pack(paths: Sequence[Path]) -> dict[str, Any]:
    """Paths as arrays by name."""
    packed: dict[str, Any] = {"paths": len(paths)}
    for place, path in enumerate(paths):
        fields = {**path.normal._asdict(), **path._asdict()}
        del fields["normal"]
        packed |= {f"{place}:{name}": value for name, value in fields.items()}
    return packed


def _unpack(arrays: Mapping[str, Any]) -> list[Path]:
    """The paths that :func:`_pack` gave."""
    found = []
    for place in range(int(arrays.get("paths", 0))):
        stored = {name: arrays[f"{place}:{name}"] for name in PathNormal._fields}
        normal = PathNormal(**{**stored, "log_volume": float(stored["log_volume"])})
        steps, taken, evaluations = (
            int(arrays[f"{place}:{name}"]) for name in ("steps", "taken", "evaluations")
        )
        height, failure = float(arrays[f"{place}:height"]), str(arrays[f"{place}:failure"])
        found.append(Path(normal, height, steps, taken, evaluations, failure))
    return found
