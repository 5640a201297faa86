"""Laplace's approximation: a normal around the highest mode of the unconstrained posterior.

With the mode ``m`` of the density *with* Jacobian and ``H`` the Hessian of its logarithm there,

``q(x) = Normal(x | m, (-H)^-1)``
``log p(data) ~= log p(data, m) + D/2 log 2 pi - 1/2 log |-H| + log(number of like modes)``

Every permutation of exchangeable parts gives another mode of the same volume, K! for K components
that all differ; the evidence counts them all, the draws stay at one. Draws come with ``lp`` and
``log_q``, so that k-hat tells how far the normal is from the posterior (Tierney and Kadane 1986;
MacKay 2003, ch. 27; Vehtari et al. 2024 for k-hat).

A network has too many weights for a Hessian. Then Adam finds them, and a normal is put around the
last layer's given all others, which stay where they are, see
:mod:`storyzoo.inference.engine.last_layer`: what the output makes of the features is uncertain,
the features are not (Kristiadi, Hein and Hennig 2020; Daxberger et al. 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from storyzoo.errors import RefusedError
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.coordinates import slot_at
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.last_layer import LastLayer
from storyzoo.inference.engine.method import (
    Info,
    Kind,
    Method,
    Outcome,
    draws_of_weights,
    needs_density,
    require,
)
from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.inference.engine.restarts import Modes, Search, compile_seconds
from storyzoo.inference.engine.resume import Keeper, fingerprint
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import draws_of, posterior_tree
from storyzoo.inference.map import MAP, MAPInfo, check_ascent
from storyzoo.story import Latents, Story

MOST_DIMS = 3000
"""Above this the Hessian would take minutes and hundreds of megabytes."""
NEWTON_STEPS = 10
FLAT = 1e-9
"""Curvature, relative to the greatest, below which a direction counts as flat."""
DRAWS_STREAM = 1
"""Apart from the stream that the restarts draw from."""
NO_K_HAT = "no k-hat: it would tell of the last layer alone, given the rest"
NO_EVIDENCE = "no evidence: the weights that are held have no volume"


@dataclass(frozen=True, kw_only=True)
class LaplaceInfo(MAPInfo):
    """How the restarts ended, and what the normal at the best mode says."""

    log_evidence: float | None = None
    """Estimate of ``log p(data)``, nats; None where a prior is improper."""
    label_modes: int = 1
    """Modes that differ only by a permutation of exchangeable parts."""
    weighed: bool = True
    """Whether draws came with their densities, so that there can be a k-hat."""
    held: int = 0
    """Weights of a network that the normal is not over: they stay at one point."""


@dataclass(frozen=True)
class Laplace(Method):
    """A normal at the mode of the unconstrained posterior, with a log evidence.

    ``tolerance``: nats that may be left to gain. ``layers``: ``all`` unknowns, or of a network the
    ``last`` layer alone, all other weights held where `map` finds them with ``epochs``,
    ``learning_rate``, ``batch_size`` and ``truncate``; ``auto`` is that where a network is too
    large for a Hessian. Draws of a network take at most ``megabytes``.
    """

    name: ClassVar[str] = "laplace"
    kind: ClassVar[Kind] = "approximation"
    info_type: ClassVar[type[Info]] = LaplaceInfo

    draws: int = 1000
    restarts: int = 8
    max_steps: int = 2000
    tolerance: float = 1e-9
    layers: Literal["auto", "all", "last"] = "auto"
    epochs: int = 30
    learning_rate: float = 0.003
    batch_size: int = 32
    truncate: int | None = 100
    megabytes: float = 200
    minutes: float | None = None

    def __post_init__(self) -> None:
        require(self.draws >= 1, "laplace", "draws", self.draws, "at least 1")
        known = ("auto", "all", "last")
        require(self.layers in known, "laplace", "layers", self.layers, " or ".join(known))
        for setting in ("epochs", "batch_size", "truncate"):
            value = getattr(self, setting)
            require(value is None or value >= 1, "laplace", setting, value, "at least 1")
        for setting in ("learning_rate", "megabytes"):
            value = getattr(self, setting)
            require(value > 0, "laplace", setting, value, "above 0")
        check_ascent("laplace", self.restarts, self.max_steps, self.tolerance, self.minutes)

    def refuses(self, story: Story, structure: Structure) -> str | None:
        """A Hessian needs continuous sites, and not too many."""
        reason = needs_density(story)
        if reason is not None:
            return reason
        if not structure.latents:
            return "it has no continuous latent site"
        if self._by_last_layer(story, structure):
            return None if story.last_layer else "it is no network that marks its last layer"
        size = _size(structure)
        if size > MOST_DIMS:
            return (
                f"its {size} dims need a Hessian of {size}² numbers; use svi with "
                "guide=normal or guide=lowrank"
            )
        return None

    def _by_last_layer(self, story: Story, structure: Structure) -> bool:
        """Whether a network's other weights are held."""
        large = bool(story.last_layer) and _size(structure) > MOST_DIMS
        return self.layers == "last" or (self.layers == "auto" and large)

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        """Climb to the best mode, measure its curvature, draw.

        Raises NoModeError where there is no mode, RefusedError where it is flat.
        """
        if self._by_last_layer(target.story, target.structure):
            return self._run_last_layer(target, seed, progress, checkpoint)
        density = target.density()
        seconds = compile_seconds(density)
        keeper = Keeper(checkpoint, fingerprint(self, target, seed))
        search = Search(
            target, density, self.restarts, self.max_steps, self.tolerance,
            "use nuts, or give it a prior that falls to zero there (LogNormal, InverseGamma)",
        )  # fmt: skip
        modes = search.run(seed, keeper, Budget(self.minutes), progress)
        normal, evaluations = normal_at(density, modes.mode.q)
        draws, sample_stats = self._draw(density, normal, seed)
        if modes.stopped != "interrupted":
            keeper.remove()
        info = self._info(target, density, modes, normal, seconds, evaluations)
        return Outcome(posterior_tree(target.structure, draws, sample_stats), info)

    def _run_last_layer(
        self, target: Target, seed: int, progress: Progress, checkpoint: Checkpoint | None
    ) -> Outcome:
        """Find a network's weights, then the last layer's mode and curvature given the rest."""
        ascent = MAP(
            epochs=self.epochs, learning_rate=self.learning_rate, batch_size=self.batch_size,
            truncate=self.truncate, minutes=self.minutes,
        )  # fmt: skip
        tree, info = ascent.run(target, seed=seed, progress=progress, checkpoint=checkpoint)
        arrays = {n: v[0] for n, v in draws_of(target.structure, tree["posterior"]).items()}
        with target.context():
            point = {n: torch.as_tensor(v[0], device=target.device) for n, v in arrays.items()}
            layer = LastLayer(target, point)
            climbed = layer.mode(layer.joined(point))
            whole = _size(target.structure)
            count, few = draws_of_weights(self.draws, whole, self.megabytes)
            rng = np.random.default_rng([seed, DRAWS_STREAM])
            noise = torch.as_tensor(rng.standard_normal((count, *climbed.layer.shape)))
            around = [climbed.curvature.spread(each.to(target.device)) for each in noise]
            drawn = layer.sites(climbed.layer + torch.stack(around))
        draws = {n: np.repeat(v[None], count, axis=1) for n, v in arrays.items()}
        draws |= {name: value.cpu().numpy()[None] for name, value in drawn.items()}
        moving = climbed.layer.numel()
        said = (
            f"the normal is over the {moving:,} weights of {' and '.join(drawn)} given the other "
            f"{whole - moving:,}, held at one point; its Hessian is {climbed.curvature.words}"
        )
        found = LaplaceInfo(
            gradient_evaluations=info.gradient_evaluations + climbed.evaluations,
            stopped=info.stopped,
            start=info.start,
            engine=info.engine,
            notes=(*info.notes, said, *few, NO_K_HAT, NO_EVIDENCE),
            converged=climbed.converged,
            weighed=False,
            held=whole - moving,
        )
        return Outcome(posterior_tree(target.structure, draws, {}), found)

    def _draw(
        self, density: LogDensity, normal: Normal, seed: int
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        rng = np.random.default_rng([seed, DRAWS_STREAM])
        noise = rng.standard_normal((self.draws, density.dim))
        q = normal.at(torch.as_tensor(noise, dtype=density.dtype, device=density.device))
        latents = {n: v.cpu().numpy()[None] for n, v in density.unflatten(q).items()}
        log_q = -0.5 * (noise**2).sum(-1) - 0.5 * density.dim * math.log(2 * math.pi)
        stats = {
            "lp": density.batch(q).cpu().numpy()[None].astype(float),
            "log_q": (log_q - 0.5 * normal.log_volume)[None],
        }
        return latents, stats

    def _info(
        self,
        target: Target,
        density: LogDensity,
        modes: Modes,
        normal: Normal,
        seconds: float,
        evaluations: int,
    ) -> LaplaceInfo:
        labels = label_modes(target, density.unflatten(normal.mode))
        notes, evidence = modes.notes, None
        if target.structure.improper:
            notes = (*notes, "no evidence: a prior is improper, so that its scale is arbitrary")
        else:
            volume = 0.5 * density.dim * math.log(2 * math.pi) + 0.5 * normal.log_volume
            evidence = normal.height + volume + math.log(labels)
        return LaplaceInfo(
            gradient_evaluations=modes.evaluations + evaluations,
            compile_seconds=seconds,
            stopped=modes.stopped,
            start=modes.start,
            engine=density.engine,
            notes=notes,
            objectives=tuple(ascent.value for ascent in modes.ascents),
            degenerate=modes.degenerate,
            best=modes.best,
            path=modes.mode.path,
            prior=True,
            converged=modes.mode.converged,
            resumed_evaluations=modes.resumed_evaluations,
            log_evidence=evidence,
            label_modes=labels,
        )


def _size(structure: Structure) -> int:
    """Continuous unknowns."""
    return sum(math.prod(site.shape) for site in structure.latents.values())


class Normal(NamedTuple):
    """The normal at a mode."""

    mode: Tensor
    """(D,)."""
    height: float
    """Log density there, nats."""
    root: Tensor
    """(D, D): ``root root^T`` is the covariance."""
    log_volume: float
    """Log determinant of the covariance."""

    def at(self, noise: Tensor) -> Tensor:
        """Standard normal noise (S, D) as draws."""
        return self.mode + noise @ self.root.mT


def normal_at(density: LogDensity, q: Tensor) -> tuple[Normal, int]:
    """The normal at the mode beside ``q``, and the gradient evaluations that it took.

    A few Newton steps first take the mode to the last digit. Raises RefusedError where the
    density is flat or rises in some direction, naming the site.
    """
    before = density.evaluations
    for _ in range(NEWTON_STEPS):
        value, gradient = density.value_and_gradient(q)
        root, log_volume = _root(density, q)
        step = root @ (root.mT @ gradient)
        promised = float(0.5 * gradient @ step)
        if promised <= 4 * torch.finfo(q.dtype).eps * abs(float(value)):
            break
        if not float(density(q + step)) > float(value):
            break
        q = q + step
    normal = Normal(q, float(density(q)), root, log_volume)
    return normal, density.evaluations - before


def _root(density: LogDensity, q: Tensor) -> tuple[Tensor, float]:
    """``root root^T = (-H)^-1`` and its log determinant, by eigenvectors in units of curvature."""
    curvature = -hessian(density, q).double()
    unit = curvature.diagonal().abs().clamp(min=1e-300).rsqrt()
    values, vectors = torch.linalg.eigh(unit[:, None] * curvature * unit)
    if not bool(values[0] > FLAT * values[-1]):
        raise RefusedError(_flat(density, unit * vectors[:, 0], float(values[0])))
    root = unit[:, None] * vectors * values.rsqrt()
    log_volume = float(2 * unit.log().sum() - values.log().sum())
    return root.to(q.dtype), log_volume


def hessian(density: LogDensity, q: Tensor) -> Tensor:
    """Second derivatives (D, D) of the log density: exact where its graph can be differentiated
    twice, else central differences of its gradient.
    """
    try:
        exact: Tensor = torch.func.jacrev(torch.func.grad(density.__call__))(q).detach()
    except (RuntimeError, NotImplementedError):  # an operation without a second derivative
        exact = torch.full((len(q), len(q)), torch.nan)
    if bool(exact.isfinite().all()):
        density.evaluations += len(q)
        return _symmetric(exact)
    step = torch.finfo(q.dtype).eps ** (1 / 3)
    moves = step * torch.eye(len(q), dtype=q.dtype, device=q.device)
    above = density.batch_value_and_gradient(q + moves)[1]
    below = density.batch_value_and_gradient(q - moves)[1]
    return _symmetric((above - below) / (2 * step))


def _symmetric(matrix: Tensor) -> Tensor:
    return torch.lerp(matrix, matrix.mT, 0.5)


def _flat(density: LogDensity, direction: Tensor, curvature: float) -> str:
    """What to say where a direction has no curvature to speak of."""
    place = int(direction.abs().argmax())
    slot = slot_at(density, place)
    index = ""
    if slot.unconstrained.numel() > 1:
        places = np.unravel_index(place - slot.offset, tuple(slot.unconstrained))
        index = f"[{', '.join(str(i) for i in places)}]"
    what = "rises on" if curvature < -FLAT else "is flat"
    return (
        f"laplace can't fit {density.story.name}: at its mode the posterior {what} along "
        f"'{slot.name}{index}', where a normal has no width; give it a narrower prior, or use svi "
        "or nuts"
    )


def label_modes(target: Target, latents: Latents) -> int:
    """How many points the permutations of exchangeable parts make of one: K! where all differ.

    Parts whose exchange changes nothing are counted once: ``K! / prod_g n_g!``.
    """
    count = 1
    for dims in target.story.exchangeable.values():
        size = next((len(target.structure.coords[d]) for d in dims if _carried(target, d)), 0)
        classes: list[list[int]] = []
        for part in range(size):
            for alike in classes:
                if _interchangeable(target, latents, dims, alike[0], part):
                    alike.append(part)
                    break
            else:
                classes.append([part])
        count *= math.factorial(size)
        for alike in classes:
            count //= math.factorial(len(alike))
    return count


def _carried(target: Target, dim: str) -> bool:
    """Whether any latent site has that dim."""
    return any(dim in site.dims for site in target.structure.latents.values())


def _interchangeable(
    target: Target, latents: Latents, dims: tuple[str, ...], first: int, second: int
) -> bool:
    for name, site in target.structure.latents.items():
        value = latents[name].reshape(site.sizes)
        swapped: Any = value
        for axis, dim in enumerate(site.dims):
            if dim in dims:
                order = torch.arange(value.shape[axis], device=value.device)
                order[first], order[second] = second, first
                swapped = swapped.index_select(axis, order)
        if not torch.allclose(swapped, value, rtol=1e-4, atol=1e-8):
            return False
    return True
