"""The unknowns of a fit, number by number, worst first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from storyzoo.reports.diagnostics import Limits, diagnose, furthest_apart, superchains_of

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

LIMIT = 1000
"""Numbers that are summarised at most: sites of single examples are the first to be left out."""
PART = 150
"""Numbers that are told of a site of draws that is too large for that."""
INTERVAL = 0.89


@dataclass(frozen=True)
class Scalar:
    """One number among the unknowns: its draws, shape ``(chain, draw)``, and how well it mixes.

    What a method does not give is NaN: R-hat of a single chain, everything but ``mean`` of a
    point estimate. ``low`` to ``high`` is the central 89 % interval; ``mcse`` is in units of the
    parameter.
    """

    label: str
    draws: NDArray[np.float64]
    mean: float
    sd: float
    low: float
    high: float
    r_hat: float
    ess_bulk: float
    ess_tail: float
    mcse: float


@dataclass(frozen=True)
class Layer:
    """The weights of one site of a network, which mean nothing one by one: units can be exchanged.

    ``mean``, ``sd`` and ``largest`` (in size) are over its weights, and over draws where there are
    some; ``uncertainty`` is the root mean square of each weight's sd over draws, NaN of a point.
    """

    name: str
    shape: tuple[int, ...]
    mean: float
    sd: float
    largest: float
    uncertainty: float


@dataclass(frozen=True)
class Parameters:
    """All numbers, worst first, and the sites that were too many to summarise."""

    scalars: tuple[Scalar, ...]
    left_out: tuple[str, ...]
    partly: tuple[str, ...]
    """Sites of which only those numbers are told whose chains lie furthest apart."""
    limits: Limits
    nested: bool
    """Whether R-hat is nested R-hat."""
    layers: tuple[Layer, ...] = ()
    """Of a network: then the numbers are those of draws alone, by which chains are judged."""

    @property
    def varying(self) -> tuple[Scalar, ...]:
        """Those with finite draws that are not constant, worst first."""
        return tuple(s for s in self.scalars if np.isfinite(s.draws).all() and np.ptp(s.draws) > 0)


def parameters_of(fit: Fitted) -> Parameters:
    """Every continuous unknown; a symmetric matrix counts once. Of a network, each layer."""
    posterior = fit.tree["posterior"].to_dataset()
    layers = layers_of(posterior) if fit.story.has("unroll") else ()
    if layers and fit.method.kind != "draws":
        limits = diagnose(posterior[[]], superchains=superchains_of(fit.info)).limits
        return Parameters((), (), (), limits, False, layers)
    kept, left_out = _sites(fit, posterior)
    told = posterior[list(kept)]
    partly: tuple[str, ...] = ()
    if fit.method.kind == "draws" and posterior.sizes["draw"] >= 4:
        partly, left_out = left_out, ()
        for name in partly:
            told = told.assign(furthest_apart(posterior[name], PART))
    found = diagnose(told, superchains=superchains_of(fit.info))
    scalars = [
        _scalar(fit.method.kind, label, draws, (r, bulk, tail, mcse))
        for label, draws, r, bulk, tail, mcse in zip(
            found.names,
            found.draws,
            found.r_hat,
            found.ess_bulk,
            found.ess_tail,
            found.mcse,
            strict=True,
        )
    ]
    if fit.method.kind == "draws":
        scalars.sort(key=_trouble, reverse=True)
    return Parameters(tuple(scalars), left_out, partly, found.limits, found.nested, layers)


def layers_of(posterior: xr.Dataset) -> tuple[Layer, ...]:
    """Every site of numbers, in the order of the network."""
    found = []
    for name, site in posterior.data_vars.items():
        if site.dtype.kind != "f":
            continue
        values = np.asarray(site.values, np.float64)
        draws = values.reshape(values.shape[0] * values.shape[1], -1)
        own = math.sqrt(draws.var(0, ddof=1).mean()) if len(draws) > 1 else math.nan
        ends = float(draws.mean()), float(draws.std()), float(np.abs(draws).max())
        found.append(Layer(str(name), values.shape[2:], *ends, own))
    return tuple(found)


def _scalar(
    kind: str, label: str, draws: NDArray[np.float64], mixing: tuple[float, float, float, float]
) -> Scalar:
    """One number summarised; ``mixing`` is R-hat, bulk and tail ESS, and MCSE in its own sd."""
    if kind == "point":
        return Scalar(label, draws, float(draws[0, 0]), *[math.nan] * 7)
    usable = bool(np.isfinite(draws).all())
    sd = float(draws.std(ddof=1)) if usable and draws.size > 1 else math.nan
    ends = [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2]
    low, high = np.quantile(draws, ends) if usable else (math.nan, math.nan)
    sampled = kind == "draws" or len(draws) > 1
    r_hat, bulk, tail = mixing[:3] if sampled else (math.nan,) * 3
    return Scalar(
        label,
        draws,
        mean=float(draws.mean()) if usable else math.nan,
        sd=sd,
        low=float(low),
        high=float(high),
        r_hat=float(r_hat),
        ess_bulk=float(bulk),
        ess_tail=float(tail),
        mcse=float(mixing[3]) * sd,
    )


def _sites(fit: Fitted, posterior: xr.Dataset) -> tuple[list[str], tuple[str, ...]]:
    """Sites to summarise, global ones first to claim the room there is, and those left out."""
    local = {name for name, site in fit.structure.sites.items() if site.local}
    names = [str(name) for name, values in posterior.data_vars.items() if values.dtype.kind == "f"]
    draws = posterior.sizes.get("chain", 1) * posterior.sizes.get("draw", 1)
    kept: set[str] = set()
    room = LIMIT
    for name in sorted(names, key=lambda name: name in local):
        size = posterior[name].size // max(draws, 1)
        if size <= room:
            kept.add(name)
            room -= size
    return [name for name in names if name in kept], tuple(n for n in names if n not in kept)


def _trouble(scalar: Scalar) -> tuple[bool, float, float]:
    """Orders by R-hat to three digits, then by the fewest effective draws; constants come last."""
    known = math.isfinite(scalar.ess_bulk)
    r_hat = round(scalar.r_hat, 3) if math.isfinite(scalar.r_hat) else 0.0
    return (known, r_hat, -min(scalar.ess_bulk, scalar.ess_tail) if known else 0.0)
