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


def diabetes() -> Dataset:
    """442 diabetes patients: ten measurements, and how far the disease went within a year."""
    from sklearn.datasets import load_diabetes

    found = load_diabetes(scaled=False)
    columns = ["age", "sex", "bmi", "pressure", "total_cholesterol", "ldl", "hdl"]
    columns += ["cholesterol_ratio", "log_triglycerides", "glucose"]
    table = pd.DataFrame(np.asarray(found["data"], dtype=np.float64), columns=columns)
    table["progression"] = np.asarray(found["target"], dtype=np.float64)
    return Dataset("diabetes", table, target="progression")


def breast_cancer() -> Dataset:
    """569 tumours: thirty measurements of the nuclei of cells, and whether it was malignant."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    columns = [name.replace(" ", "_") for name in found["feature_names"]]
    table = pd.DataFrame(np.asarray(found["data"], dtype=np.float64), columns=columns)
    malignant = np.asarray(found["target"]) == 0  # scikit-learn codes benign as 1
    table["malignant"] = malignant.astype(np.float64)
    return Dataset("breast-cancer", table, target="malignant")


def insect_sprays() -> Dataset:
    """Insects counted on 72 plots, twelve for each of six sprays (Beall 1942)."""
    counts = {
        "A": [10, 7, 20, 14, 14, 12, 10, 23, 17, 20, 14, 13],
        "B": [11, 17, 21, 11, 16, 14, 17, 17, 19, 21, 7, 13],
        "C": [0, 1, 7, 2, 3, 1, 2, 1, 3, 0, 1, 4],
        "D": [3, 5, 12, 6, 4, 3, 5, 5, 5, 5, 2, 4],
        "E": [3, 5, 3, 5, 3, 6, 1, 1, 3, 2, 6, 4],
        "F": [11, 9, 15, 22, 15, 16, 13, 10, 26, 26, 24, 13],
    }
    spray = np.repeat(list(counts), 12)
    table = pd.DataFrame({f"spray_{name}": (spray == name) * 1.0 for name in list(counts)[1:]})
    table["count"] = np.concatenate(list(counts.values())).astype(np.float64)
    return Dataset("insect-sprays", table, labels=pd.Series(spray, name="spray"), target="count")


def lynx(log: bool = True) -> Dataset:
    """Lynx trapped in north-west Canada each year from 1821 to 1934; by default log10 of it."""
    trapped = """
        269 321 585 871 1475 2821 3928 5943 4950 2577 523 98 184 279 409 2285 2685 3409 1824 409
        151 45 68 213 546 1033 2129 2536 957 361 377 225 360 731 1638 2725 2871 2119 684 299 236
        245 552 1623 3311 6721 4254 687 255 473 358 784 1594 1676 2251 1426 756 299 201 229 469 736
        2042 2811 4431 2511 389 73 39 49 59 188 377 1292 4031 3495 587 105 153 387 758 1307 3465
        6991 6313 3794 1836 345 382 808 1388 2713 3800 3091 2985 3790 674 81 80 108 229 399 1132
        2432 3574 2935 1537 529 485 662 1000 1590 2657 3396
    """
    values = np.array(trapped.split(), dtype=np.float64)
    year = pd.Index(range(1821, 1935), name="year").astype(str)
    column = {"log10_trapped": np.log10(values)} if log else {"trapped": values}
    return Dataset("lynx", pd.DataFrame(column, index=year))


def _labelled(name: str, found: Any, columns: list[str], label: str) -> Dataset:
    table = pd.DataFrame(np.asarray(found["data"], dtype=np.float64), columns=columns)
    names = np.asarray(found["target_names"])[np.asarray(found["target"])]
    return Dataset(name, table, labels=pd.Series(names, name=label))
