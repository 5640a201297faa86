"""Methods by name. A method is imported only when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from storyzoo.errors import SettingError, nearest
from storyzoo.source import load_class

if TYPE_CHECKING:
    from storyzoo.inference.engine.method import Method


class MethodEntry(NamedTuple):
    """One row of ``zoo list``; a test holds it against the class."""

    location: str
    """``package.module:Class``."""
    summary: str
    kind: str
    """``draws``, ``approximation`` or ``point``."""


METHODS: dict[str, MethodEntry] = {
    "em": MethodEntry(
        "storyzoo.inference.em:EM",
        "expectation-maximisation: a mode, with the discrete sites summed out",
        "point",
    ),
    "map": MethodEntry(
        "storyzoo.inference.map:MAP",
        "L-BFGS from several starts: a mode of the posterior",
        "point",
    ),
    "contrastive": MethodEntry(
        "storyzoo.inference.contrastive:Contrastive",
        "contrastive divergence: a mode where the normaliser can only be sampled",
        "point",
    ),
    "laplace": MethodEntry(
        "storyzoo.inference.laplace:Laplace",
        "a normal around the mode, with a log evidence",
        "approximation",
    ),
    "pathfinder": MethodEntry(
        "storyzoo.inference.pathfinder:Pathfinder",
        "normals along ascents from several starts, reweighted towards the posterior",
        "approximation",
    ),
    "svi": MethodEntry(
        "storyzoo.inference.svi:SVI",
        "stochastic variational inference: the guide that is nearest to the posterior",
        "approximation",
    ),
    "nuts": MethodEntry(
        "storyzoo.inference.nuts:NUTS",
        "the no-U-turn sampler: draws from the posterior itself",
        "draws",
    ),
    "chees": MethodEntry(
        "storyzoo.inference.chees:ChEES",
        "Hamiltonian Monte Carlo by many chains in step: exact draws, made for GPUs",
        "draws",
    ),
    "sgld": MethodEntry(
        "storyzoo.inference.sgld:SGLD",
        "stochastic-gradient Langevin dynamics: draws by noisy gradients from slices",
        "approximation",
    ),
    "gibbs": MethodEntry(
        "storyzoo.inference.gibbs:Gibbs",
        "Gibbs sampling: exact draws by the sweeps that a story brings",
        "draws",
    ),
}


def method_names() -> list[str]:
    """Names that :func:`load_method` knows."""
    return list(METHODS)


def find_method(name: str) -> MethodEntry:
    """The entry of that name; SettingError with the nearest name where there is none."""
    if name not in METHODS:
        raise SettingError(f"no method {name!r}: {nearest(name, METHODS)}")
    return METHODS[name]


def load_method(name: str) -> type[Method]:
    """The class of a method, by name.

    >>> load_method("nuts")(draws=500)
    NUTS(draws=500, ...)
    """
    method: type[Method] = load_class(find_method(name).location)
    return method
