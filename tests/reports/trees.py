"""Synthetic fits: trees whose diagnostics are known, and the infos that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import arviz_base as azb
import numpy as np
import numpy.typing as npt
import xarray as xr

from storyzoo.inference.engine.method import Info
from storyzoo.story import Story

Array = npt.NDArray[np.float64]

SCHOOLS = ["Choate", "Deerfield", "Andover"]


@dataclass(frozen=True)
class Schools(Story):
    """A stand-in: judging reads its fields and class attributes only."""

    centred: bool = False


@dataclass(frozen=True)
class ManyModes(Schools):
    """A story whose chains settle apart on most data."""

    several_modes = "Read what they share."


@dataclass(frozen=True)
class Network(Story):
    """A story whose weights have symmetries that no relabelling mends."""

    identified = ("prediction",)


@dataclass(frozen=True, kw_only=True)
class SampledInfo(Info):
    """As NUTS gives it."""

    one_mode: bool = False
    warmup: int = 0
    chains: int = 4


@dataclass(frozen=True, kw_only=True)
class VariationalInfo(Info):
    """As SVI gives it."""

    elbo: tuple[float, ...] = (-300.0, -210.0, -200.0)
    settled: bool = True
    starts: tuple[float, ...] = (-200.0, -200.3)
    guide: str = "normal"


@dataclass(frozen=True, kw_only=True)
class AscentInfo(Info):
    """As EM and MAP give it."""

    objectives: tuple[float, ...] = ()
    degenerate: tuple[str, ...] = ()
    best: int = 0
    path: tuple[float, ...] = ()
    prior: bool = True


@dataclass(frozen=True, kw_only=True)
class LaplaceInfo(AscentInfo):
    """As Laplace gives it."""

    log_evidence: float = -210.0
    label_modes: int = 1


def normal_draws(seed: int = 0, chains: int = 4, draws: int = 1000) -> dict[str, Array]:
    """Independent draws of eight-schools-like sites: ``mu``, ``tau``, ``theta`` (school)."""
    rng = np.random.default_rng(seed)
    return {
        "mu": rng.normal(4, 3, (chains, draws)),
        "tau": np.exp(rng.normal(0, 1, (chains, draws))),
        "theta": rng.normal(5, 4, (chains, draws, 3)),
    }


def autoregressive(rho: float, chains: int, draws: int, seed: int = 0) -> Array:
    """``x_t = rho x_{t-1} + sqrt(1 - rho^2) e_t``, stationary, shape ``(chains, draws)``."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(chains, draws))
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * x[:, t]
    return x


def sampler_stats(chains: int = 4, draws: int = 1000, **changed: Any) -> dict[str, Any]:
    """Statistics of a healthy NUTS run; ``changed`` replaces some."""
    rng = np.random.default_rng(99)
    return {
        "lp": rng.normal(-50, 1, (chains, draws)),
        "energy": rng.normal(50, 2, (chains, draws)),
        "diverging": np.zeros((chains, draws), bool),
        "reached_max_treedepth": np.zeros((chains, draws), bool),
        **changed,
    }


def tree_of(
    posterior: Mapping[str, Array], stats: Mapping[str, Any] | None = None, **groups: Any
) -> xr.DataTree:
    """A tree with the schools as coords of ``theta``."""
    content = {"posterior": dict(posterior), **groups}
    if stats is not None:
        content["sample_stats"] = dict(stats)
    return azb.from_dict(
        content,
        coords={"school": SCHOOLS},
        dims={"theta": ["school"], "effect": ["school"], "prediction": ["school"]},
    )
