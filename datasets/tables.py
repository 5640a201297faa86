"""Small tables that are embedded or ship with scikit-learn, so that they load offline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from storyzoo.datasets.dataset import Dataset


def iris() -> Dataset:
    """150 iris flowers, four lengths in cm."""
    from sklearn.datasets import load_iris

    columns = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    return _labelled("iris", load_iris(), columns, "species")


def iris_petal() -> Dataset:
    """The two petal columns of iris: one can see them in a plane."""
    whole = iris()
    assert whole.table is not None
    table = whole.table[["petal_length", "petal_width"]]
    return Dataset("iris-petal", table, labels=whole.labels)


def wine() -> Dataset:
    """178 Italian wines, thirteen chemical measurements."""
    from sklearn.datasets import load_wine

    found = load_wine()
    columns = [name.replace("/", "_") for name in found["feature_names"]]
    return _labelled("wine", found, columns, "cultivar")


def eight_schools() -> Dataset:
    """Effects of coaching in eight schools, each with its standard error (Rubin 1981)."""
    table = pd.DataFrame(
        {
            "effect": [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0],
            "stderr": [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0],
        },
        index=pd.Index(list("ABCDEFGH"), name="school"),
    )
    return Dataset("eight-schools", table)


def _labelled(name: str, found: Any, columns: list[str], label: str) -> Dataset:
    table = pd.DataFrame(np.asarray(found["data"], dtype=np.float64), columns=columns)
    names = np.asarray(found["target_names"])[np.asarray(found["target"])]
    return Dataset(name, table, labels=pd.Series(names, name=label))
