"""Where chains begin: draws of the prior, beside modes, or draws of Pathfinder's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from xarray import DataTree

from storyzoo.errors import RefusedError
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.method import Method
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target

KINDS = ("prior", "uniform", "map", "em", "pathfinder")

SAME_MODE = 0.1
"""Nats by which the objectives of two ascents to one mode may differ."""
SAME_PLACE = 0.1
"""How far the unconstrained ends of two ascents to one mode may lie apart, in any coordinate."""
JITTER = 0.05
"""Standard deviation, unconstrained, by which a start is moved off its mode."""


@dataclass(frozen=True)
class Starts:
    """Where the chains begin."""

    points: Tensor
    """(chains, D), unconstrained."""
    words: str
    one_mode: bool = False
    evaluations: int = 0
    """Gradient evaluations that it took to find them."""


def chain_starts(
    kind: str,
    target: Target,
    density: LogDensity,
    rngs: list[np.random.Generator],
    minutes: float | None,
    progress: Progress,
) -> Starts:
    """A start for each generator, of one of the KINDS.

    Raises RefusedError where such starts can't be had, or where the density's gradient is not
    its own; StoryError where the density is finite nowhere.
    """
    if kind in ("map", "em"):
        starts = _beside_modes(kind, target, density, rngs, minutes, progress)
    elif kind == "pathfinder":
        starts = _by_pathfinder(target, density, rngs)
    else:
        points = torch.stack([density.start(rng, kind) for rng in rngs])
        starts = Starts(points, _in_words(kind, target.structure))
    _refuse_crooked(target, density, starts.points)
    return replace(starts, evaluations=starts.evaluations + density.evaluations)


def _in_words(kind: str, structure: Structure) -> str:
    if kind == "uniform":
        return "each chain from its own point, uniform on (-2, 2) unconstrained"
    improper = ", uniform on (-2, 2) where the prior is improper" if structure.improper else ""
    return f"each chain from its own draw of the prior{improper}"


def _beside_modes(
    kind: str,
    target: Target,
    density: LogDensity,
    rngs: list[np.random.Generator],
    minutes: float | None,
    progress: Progress,
) -> Starts:
    """Each chain beside the best sane mode of an ascent with its own seed.

    Raises RefusedError where the ascent can't be made or finds nothing sane.
    """
    ascent = _ascent(kind, minutes)
    reason = ascent.refuses(target.story, target.structure)
    if reason is not None:
        raise RefusedError(f"nuts: start={kind} can't be had: {reason}")
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
        raise RefusedError(f"nuts: start={kind} found no sane mode ({why}); use start=prior")
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


def _ascent(kind: str, minutes: float | None) -> Method:
    if kind == "em":
        from storyzoo.inference.em import EM

        return EM(minutes=minutes)
    from storyzoo.inference.map import MAP

    return MAP(minutes=minutes)


def _by_pathfinder(target: Target, density: LogDensity, rngs: list[np.random.Generator]) -> Starts:
    """Each chain from a draw of a path of its own. Raises RefusedError where there is none."""
    from storyzoo.inference.pathfinder import Pathfinder

    pathfinder = Pathfinder()
    reason = pathfinder.refuses(target.story, target.structure)
    if reason is not None:
        raise RefusedError(f"nuts: start=pathfinder can't be had: {reason}")
    points = pathfinder.starts(target, density, rngs)
    return Starts(points, "each chain from its own draw of a normal that Pathfinder found")


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
