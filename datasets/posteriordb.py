"""Posteriors whose answer is known: data and reference draws of posteriordb.

``posteriordb:NAME`` is the data of a posterior as a table. Where a posterior's model is one of the
zoo's stories, columns have the names that the story asks for::

    posterior                                    column there    column here
    eight_schools-eight_schools_centered         y, sigma        effect, stderr
    eight_schools-eight_schools_noncentered      y, sigma        effect, stderr
    kidiq-kidscore_momiq                         mom_iq          mom_iq
                                                 kid_score       kid_score, the outcome
    arK-arK, low_dim_gauss_mix-…, hmm_example-…  y               y

Sizes (J, K, N, T) are left out, since a table has its own.

Source: Magnusson, Torgander, Bürkner, Zhang, Carpenter and Vehtari (2024), "posteriordb: Testing,
Benchmarking and Developing Bayesian Inference Algorithms"; https://github.com/stan-dev/posteriordb.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.remote import fetch
from storyzoo.errors import DataError, nearest

MOST_BYTES = 2**26
"""What a zipped JSON may unpack to."""


class Columns(NamedTuple):
    """The columns that a posterior reads, by their name there."""

    renamed: Mapping[str, str]
    target: str | None = None


_SCHOOLS = Columns({"y": "effect", "sigma": "stderr"})
_SERIES = Columns({"y": "y"})

POSTERIORS: Mapping[str, Columns] = {
    "arK-arK": _SERIES,
    "eight_schools-eight_schools_centered": _SCHOOLS,
    "eight_schools-eight_schools_noncentered": _SCHOOLS,
    "hmm_example-hmm_example": _SERIES,
    "kidiq-kidscore_momiq": Columns({"mom_iq": "mom_iq", "kid_score": "kid_score"}, "kid_score"),
    "low_dim_gauss_mix-low_dim_gauss_mix": _SERIES,
}


def posterior(name: str, /) -> Dataset:
    """The data of a posterior, by its name."""
    data_name = _description(name)["data_name"]
    content = _unpacked(fetch(f"posteriordb/data/data/{data_name}.json.zip"))
    columns = POSTERIORS[name]
    table = pd.DataFrame(
        {new: np.array(content[old], dtype=np.float64) for old, new in columns.renamed.items()}
    )
    return Dataset(f"posteriordb:{name}", table, target=columns.target)


def reference_draws(name: str) -> dict[str, np.ndarray]:
    """Draws from the posterior by posteriordb's name of the parameter, each (chain, draw).

    Ten chains of a thousand draws each, thinned until they hardly correlate. Parameters are
    scalars; those of a vector are counted from one: ``beta[1]``.
    """
    chains = _unpacked(fetch(f"posteriordb/{_DRAWS}/draws/{_reference(name)}.json.zip"))
    return {parameter: np.array([chain[parameter] for chain in chains]) for parameter in chains[0]}


def reference_info(name: str) -> dict[str, Any]:
    """How the draws were made, and what posteriordb says of them.

    Under ``diagnostics``: ``effective_sample_size_bulk`` and ``r_hat`` in the order of the
    parameters under ``diagnostic_information``. Under ``checks_made``: the gate that they passed.
    """
    path = fetch(f"posteriordb/{_DRAWS}/info/{_reference(name)}.info.json")
    info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return info


_DRAWS = "reference_posteriors/draws"


def _description(name: str) -> dict[str, Any]:
    if name not in POSTERIORS:
        raise DataError(f"no posterior {name!r}: {nearest(name, POSTERIORS)}")
    text = fetch(f"posteriordb/posteriors/{name}.json").read_text(encoding="utf-8")
    described: dict[str, Any] = json.loads(text)
    return described


def _reference(name: str) -> str:
    """Whose draws they are: two ways to write one posterior share theirs."""
    return str(_description(name)["reference_posterior_name"])


def _unpacked(path: Path) -> Any:
    """The only member of a zip file, read as JSON; its size is looked at first."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) != 1:
                raise DataError(f"{path.name} holds {len(members)} files: one of JSON is wanted")
            if members[0].file_size > MOST_BYTES:
                raise DataError(
                    f"{path.name} unpacks to {members[0].file_size:.2g} bytes: "
                    f"more than {MOST_BYTES:.2g} are not read"
                )
            return json.loads(archive.read(members[0]))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise DataError(f"{path.name} is no zipped JSON: fetch it again") from error
