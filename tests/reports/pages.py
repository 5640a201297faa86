"""Fits for pages: real structures, draws made by hand, a few milliseconds each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from xarray import DataTree

from storyzoo.inference.engine.method import Info, Kind, Method
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.engine.tree import build_tree, by_dims
from storyzoo.models.eight_schools import EightSchools
from storyzoo.models.gmm import GaussianMixture
from storyzoo.reports.compare import choose_best, compare_table
from storyzoo.reports.verdict import Verdict, judge
from storyzoo.story import Story

Array = npt.NDArray[np.float64]

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "$x_{",
    "_hidden & 'quoted'\x00\x1b[31m\u202e",
    "very long " * 20,
)


@dataclass(frozen=True)
class Drawn(Method):
    """Settings of a method that gives draws."""

    name: ClassVar[str] = "drawn"
    kind: ClassVar[Kind] = "draws"

    chains: int = 4
    draws: int = 200


@dataclass(frozen=True)
class Approximated(Method):
    """Settings of a method that gives an approximation."""

    name: ClassVar[str] = "approximated"
    kind: ClassVar[Kind] = "approximation"

    draws: int = 200


@dataclass(frozen=True)
class Climbed(Method):
    """Settings of a method that gives a point."""

    name: ClassVar[str] = "climbed"
    kind: ClassVar[Kind] = "point"

    restarts: int = 6


METHODS: dict[Kind, Method] = {
    "draws": Drawn(),
    "approximation": Approximated(),
    "point": Climbed(),
}


@dataclass(frozen=True, kw_only=True)
class AscentInfo(Info):
    """As EM and MAP give it."""

    objectives: tuple[float, ...] = (-10.0, -10.0, -12.5, -10.0, -3.0, -10.001)
    degenerate: tuple[str, ...] = ("", "", "", "", "component 2 holds 3 points", "")
    best: int = 0
    path: tuple[float, ...] = tuple(-10 - 50 * np.exp(-np.arange(40) / 5))


@dataclass(frozen=True, kw_only=True)
class GuideInfo(Info):
    """As SVI gives it."""

    elbo: tuple[float, ...] = tuple(-20 - 90 * np.exp(-np.arange(80) / 9))
    settled: bool = True
    starts: tuple[float, ...] = (-20.0, -20.1)


INFOS: dict[Kind, Info] = {
    "draws": Info(gradient_evaluations=12_345, compile_seconds=1.5, start="prior draws"),
    "approximation": GuideInfo(gradient_evaluations=900, stopped="settled"),
    "point": AscentInfo(gradient_evaluations=240, stopped="settled"),
}


class AsTheyAre:
    """Units of data that were not standardised."""

    def fitted(self, tree: DataTree) -> DataTree:
        """The tree itself."""
        return tree

    def shown(self, tree: DataTree) -> DataTree:
        """The tree itself."""
        return tree


@dataclass
class PageFit:
    """What a page reads of a fit."""

    target: Target
    method: Method
    info: Info
    tree: DataTree
    verdict: Verdict
    data_name: str = "made-up"
    seed: int = 0
    seconds: float = 12.3
    labels: Sequence[Any] | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)
    units: AsTheyAre = field(default_factory=AsTheyAre)
    notes: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def story(self) -> Story:
        """What was fitted."""
        return self.target.story

    @property
    def structure(self) -> Structure:
        """Its sites."""
        return self.target.structure


@dataclass
class PageComparison:
    """What a page reads of a comparison."""

    fits: list[PageFit]
    table: pd.DataFrame
    best: int | None
    reason: str
    title: str = "made-up"
    refused: list[str] = field(default_factory=list)
    folder: Path | None = None


def make_fit(
    target: Target,
    kind: Kind,
    draws: Mapping[str, Array],
    *,
    stats: Mapping[str, Array] | None = None,
    simulated: Mapping[str, Array] | None = None,
    info: Info | None = None,
    metrics: Mapping[str, float] | None = None,
    **more: Any,
) -> PageFit:
    """A fit with draws ``(chain, draw, *shape)`` by site."""
    structure = target.structure
    groups: dict[str, Any] = {"posterior": by_dims(structure, draws, leading=2)}
    if stats:
        groups["sample_stats"] = dict(stats)
    if simulated:
        groups["posterior_predictive"] = by_dims(structure, simulated, leading=2)
    data = {name: np.asarray(values) for name, values in target.data.items()}
    groups["observed_data"] = {name: data[name] for name in structure.outcomes}
    if structure.covariates:
        groups["constant_data"] = {name: data[name] for name in structure.covariates}
    tree = build_tree(structure, groups)
    info = info or INFOS[kind]
    return PageFit(
        target=target,
        method=METHODS[kind],
        info=info,
        tree=tree,
        verdict=judge(tree, info, kind=kind, story=target.story),
        summary={
            "gradient_evaluations": info.gradient_evaluations,
            "metrics": dict(metrics or {}),
        },
        **more,
    )


def schools_fit(
    kind: Kind = "draws",
    *,
    names: Sequence[str] | None = None,
    chains: int = 4,
    count: int = 200,
    diverging: bool = True,
    seed: int = 0,
    **more: Any,
) -> PageFit:
    """Centred eight schools with a funnel, divergences where tau is small."""
    rng = np.random.default_rng(seed)
    effect = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    stderr = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    coords = {"school": list(names)} if names else None
    target = make_target(EightSchools(True), {"effect": effect, "stderr": stderr}, coords=coords)
    shape = (1, 1) if kind == "point" else (1 if kind == "approximation" else chains, count)
    tau = np.exp(rng.normal(1.0, 0.8, shape))
    mu = rng.normal(4, 3, shape)
    theta = mu[..., None] + tau[..., None] * rng.normal(size=(*shape, 8))
    stats = {"lp": rng.normal(size=shape), "energy": rng.normal(size=shape)}
    if kind == "draws":
        stats["diverging"] = (tau < np.quantile(tau, 0.05)) & diverging
    if kind == "approximation":
        stats["log_q"] = stats["lp"] + 0.1 * rng.normal(size=shape)
    return make_fit(
        target,
        kind,
        {"mu": mu, "tau": tau, "theta": theta},
        stats={} if kind == "point" else stats,
        simulated={"effect": rng.normal(theta, stderr)},
        **more,
    )


def mixture_fit(
    kind: Kind = "draws",
    *,
    covariance: str = "full",
    features: Sequence[str] = ("length", "width", "depth"),
    rows: int = 120,
    components: int = 3,
    missing: bool = False,
    seed: int = 0,
    **more: Any,
) -> PageFit:
    """A mixture whose components lie apart along the first and the last feature."""
    rng = np.random.default_rng(seed)
    size = len(features)
    z = np.arange(rows) % components
    centre = np.zeros((components, size))
    centre[:, 0] = 6 * np.arange(components)
    centre[:, -1] = 5 * (np.arange(components) % 2)
    y = centre[z] + rng.normal(size=(rows, size))
    if missing:
        y[rng.random(y.shape) < 0.1] = np.nan
    story = GaussianMixture(components, covariance)  # type: ignore[arg-type]
    target = make_target(story, {"y": y}, coords={"feature": list(features)})
    shape = {"point": (1, 1), "approximation": (1, 200), "draws": (4, 100)}[kind]
    wide = 0.0 if kind == "point" else 0.05
    weight = rng.dirichlet(np.full(components, 900.0), shape)
    loc = centre + wide * rng.normal(size=(*shape, components, size))
    variance = np.exp(wide * rng.normal(size=(*shape, components, size)))
    spread = {
        "full": {"covariance": variance[..., None] * np.eye(size)},
        "tied": {"covariance": variance[..., :1, :, None][..., 0, :, :] * np.eye(size)},
        "diagonal": {"variance": variance},
        "spherical": {"variance": variance[..., 0]},
    }[covariance]
    stats = {"energy": rng.normal(size=shape), "diverging": np.zeros(shape, bool)}
    if kind == "approximation":
        stats = {"lp": rng.normal(size=shape), "log_q": rng.normal(size=shape)}
    return make_fit(
        target,
        kind,
        {"weight": weight, "loc": loc, **spread},
        stats={} if kind == "point" else stats,
        simulated={"y": rng.normal(size=(*shape, *y.shape)) + centre[z]},
        **more,
    )


def values_of(fit: PageFit, name: str, group: str = "posterior") -> Array:
    """The array behind a variable of the tree: what is written to it shows in the fit."""
    values: Array = fit.tree[group].to_dataset()[name].values
    return values


def compared(fits: Sequence[PageFit], **more: Any) -> PageComparison:
    """A comparison of fits as they are."""
    best, reason = choose_best(fits)
    return PageComparison(list(fits), compare_table(fits), best, reason, **more)
