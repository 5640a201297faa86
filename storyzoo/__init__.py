"""Generative stories in Pyro: write one down once, fit it by EM, SVI and MCMC, see which to trust.

>>> import storyzoo as sz
>>> fit = sz.fit(sz.load_story("gmm")(n_components=3), sz.load("iris"), sz.EM())
>>> fit.verdict.headline
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storyzoo.calibrate import calibrate as calibrate
    from storyzoo.datasets import load as load
    from storyzoo.errors import DataError as DataError
    from storyzoo.errors import NoModeError as NoModeError
    from storyzoo.errors import RefusedError as RefusedError
    from storyzoo.errors import RunFolderError as RunFolderError
    from storyzoo.errors import SettingError as SettingError
    from storyzoo.errors import StoryError as StoryError
    from storyzoo.errors import StoryzooError as StoryzooError
    from storyzoo.fit import Fit as Fit
    from storyzoo.inference import load_method as load_method
    from storyzoo.inference.chees import ChEES as ChEES
    from storyzoo.inference.contrastive import Contrastive as Contrastive
    from storyzoo.inference.em import EM as EM
    from storyzoo.inference.gibbs import Gibbs as Gibbs
    from storyzoo.inference.laplace import Laplace as Laplace
    from storyzoo.inference.map import MAP as MAP
    from storyzoo.inference.nuts import NUTS as NUTS
    from storyzoo.inference.pathfinder import Pathfinder as Pathfinder
    from storyzoo.inference.sgld import SGLD as SGLD
    from storyzoo.inference.svi import SVI as SVI
    from storyzoo.models import load_story as load_story
    from storyzoo.models.distributions.flat import Flat as Flat
    from storyzoo.models.distributions.ordered import Ordered as Ordered
    from storyzoo.run import compare as compare
    from storyzoo.run import fit as fit
    from storyzoo.story import Story as Story

__version__ = "0.1.0"

_HOMES = {
    "fit": "storyzoo.run",
    "compare": "storyzoo.run",
    "calibrate": "storyzoo.calibrate",
    "Fit": "storyzoo.fit",
    "Story": "storyzoo.story",
    "Flat": "storyzoo.models.distributions.flat",
    "Ordered": "storyzoo.models.distributions.ordered",
    "load_story": "storyzoo.models",
    "load_method": "storyzoo.inference",
    "Contrastive": "storyzoo.inference.contrastive",
    "EM": "storyzoo.inference.em",
    "MAP": "storyzoo.inference.map",
    "Laplace": "storyzoo.inference.laplace",
    "Pathfinder": "storyzoo.inference.pathfinder",
    "SGLD": "storyzoo.inference.sgld",
    "SVI": "storyzoo.inference.svi",
    "NUTS": "storyzoo.inference.nuts",
    "ChEES": "storyzoo.inference.chees",
    "Gibbs": "storyzoo.inference.gibbs",
    "load": "storyzoo.datasets",
    "StoryzooError": "storyzoo.errors",
    "DataError": "storyzoo.errors",
    "SettingError": "storyzoo.errors",
    "StoryError": "storyzoo.errors",
    "RefusedError": "storyzoo.errors",
    "NoModeError": "storyzoo.errors",
    "RunFolderError": "storyzoo.errors",
}
"""Where each public name lives: it is imported on first use, since torch takes a second."""

__all__ = [*_HOMES, "__version__"]

# In a checkout the folders `models`, `inference`, ... stand beside this package, not inside it.
if not os.path.isdir(os.path.join(__path__[0], "models")):
    __path__.append(os.path.dirname(os.path.abspath(__path__[0])))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'storyzoo' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


class _Package(ModuleType):
    """Keeps ``storyzoo.fit`` the function: importing the file of that name would replace it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
