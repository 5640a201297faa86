"""Columns and arrays find their arguments; what doesn't fit is named by place and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import storyzoo as sz
from storyzoo.binding import bind
from storyzoo.datasets.dataset import Dataset
from storyzoo.errors import DataError
from storyzoo.models.eight_schools import EightSchools
from storyzoo.story import Story


@dataclass(frozen=True)
class Points(Story):
    data_dims = {"y": ("point", "feature")}

    def model(self, y: Any) -> None: ...


@dataclass(frozen=True)
class Series(Story):
    data_dims = {"y": ("time",)}

    def model(self, y: Any, horizon: Any = 0) -> None: ...


@dataclass(frozen=True)
class Regression(Story):
    data_dims = {"x": ("row", "feature"), "y": ("row",)}

    def model(self, x: Any, y: Any) -> None: ...


@dataclass(frozen=True)
class Undeclared(Story):
    def model(self, y: Any) -> None: ...


def frame(**columns: Any) -> Dataset:
    return Dataset("toy", pd.DataFrame(columns, dtype=float))


def test_sole_argument_takes_all_columns() -> None:
    bound = bind(Points(), sz.load("iris"))
    assert np.shape(bound.arrays["y"]) == (150, 4)
    assert bound.coords["feature"][:2] == ["sepal_length", "sepal_width"]
    assert "point" not in bound.coords
    assert bound.labels is not None
    assert bound.name == "iris"


def test_a_column_called_y_is_not_the_points_y() -> None:
    bound = bind(Points(), frame(x=[1, 2], y=[3, 4]))
    assert np.shape(bound.arrays["y"]) == (2, 2)


def test_columns_match_by_name_and_rows_keep_theirs() -> None:
    bound = bind(EightSchools(), sz.load("eight-schools"))
    assert list(bound.arrays) == ["effect", "stderr"]
    assert bound.coords == {"school": list("ABCDEFGH")}


def test_target_names_the_outcome() -> None:
    data = frame(a=[1, 2], b=[3, 4], c=[5, 6])
    bound = bind(Regression(), data, target="b")
    assert bound.columns == {"x": ("a", "c"), "y": ("b",)}
    assert np.array_equal(bound.arrays["y"], [3.0, 4.0])
    assert np.array_equal(bind(Series(), data, target="c").arrays["y"], [5.0, 6.0])


def test_target_wins_over_a_column_of_the_arguments_name() -> None:
    bound = bind(Regression(), frame(y=[1, 2], b=[3, 4]), target="b")
    assert bound.columns == {"x": ("y",), "y": ("b",)}


def test_a_sets_own_target_is_for_stories_that_have_an_outcome() -> None:
    data = Dataset("toy", pd.DataFrame({"a": [1.0], "b": [2.0]}), target="b")
    assert bind(Regression(), data).columns == {"x": ("a",), "y": ("b",)}
    assert bind(Points(), data).columns == {"y": ("a", "b")}


def test_plain_mapping_of_anything() -> None:
    bound = bind(
        Regression(),
        {"x": pd.DataFrame({"a": [1, 2], "b": [3, 4]}), "y": torch.tensor([1.5, np.nan])},
    )
    x, y = bound.arrays["x"], bound.arrays["y"]
    assert isinstance(x, np.ndarray) and x.dtype == np.int64
    assert isinstance(y, np.ndarray) and y.dtype == np.float64 and np.isnan(y[1])
    assert bound.coords == {"feature": ["a", "b"]}


def test_scalars_stay_scalars_and_defaults_are_optional() -> None:
    assert bind(Series(), {"y": [1.0]}).arrays.keys() == {"y"}
    assert bind(Series(), {"y": [1.0], "horizon": np.int32(3)}).arrays["horizon"] == 3


def test_sole_array_needs_no_name() -> None:
    bound = bind(Points(), Dataset("toy.npz", arrays={"images": np.zeros((2, 3), np.uint8)}))
    assert np.shape(bound.arrays["y"]) == (2, 3)


def test_undeclared_dims_take_what_comes() -> None:
    assert np.shape(bind(Undeclared(), frame(a=[1], b=[2])).arrays["y"]) == (1, 2)
    assert np.shape(bind(Undeclared(), frame(a=[1])).arrays["y"]) == (1,)


def test_fingerprint_follows_values() -> None:
    one, same = bind(Points(), frame(a=[1, 2])), bind(Points(), frame(a=[1, 2]))
    other = bind(Points(), frame(a=[1, 3]))
    assert one.sha256 == same.sha256 != other.sha256


def test_superfluous_columns_are_noted() -> None:
    bound = bind(EightSchools(), frame(effect=[1], stderr=[2], size=[3]))
    assert "takes no column 'size'" in bound.notes[0]


@pytest.mark.parametrize(
    ("story", "data", "target", "said"),
    [
        (EightSchools(), frame(effect=[1], error=[1]), None, "needs 'stderr', but the columns are"),
        (EightSchools(), frame(a=[1], b=[1]), None, "needs 'effect', 'stderr', but the columns"),
        (Regression(), frame(a=[1], b=[1]), None, "name the outcome with --target"),
        (Regression(), frame(a=[1], b=[1]), "bb", "no column 'bb' for --target: did you mean 'b'?"),
        (Points(), frame(a=[1], b=[1]), "b", "leave --target out"),
        (Series(), frame(a=[1], b=[1]), None, "choose one with --target"),
        (Series(), {"y": np.zeros((2, 2))}, None, "takes 'y' with dims (time), got 2 dims"),
        (Points(), {"y": np.zeros(2)}, None, "takes 'y' with dims (point, feature), got 1 dims"),
        (Points(), {"y": np.zeros((0, 2))}, None, "'y' is empty"),
        (Points(), {"y": [[1.0, np.inf]]}, None, "'y' is infinite at position [0, 1]"),
        (Points(), {"y": pd.DataFrame({"a": [1.0, -np.inf]})}, None, "column 'a', row 2"),
        (Series(), {"y": np.array([1, "two"], dtype=object)}, None, "'y' at [1]: 'two'"),
        (Series(), {"y": ["a", "b"]}, None, "give numbers"),
        (Series(), {"y": np.array([1j])}, None, "complex128"),
        (Series(), {"y": [1.0], "horizn": 2}, None, "did you mean 'horizon'?"),
        (Regression(), {"x": np.zeros((2, 1))}, None, "needs 'y': it got 'x'"),
        (
            Regression(),
            {"x": np.zeros((2, 1)), "y": np.zeros(3)},
            None,
            "'y' has 3 along 'row', but 'x' has 2",
        ),
    ],
)
def test_what_does_not_fit_is_named(story: Story, data: Any, target: str | None, said: str) -> None:
    with pytest.raises(DataError) as caught:
        bind(story, data, target)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_standard_errors_are_above_zero() -> None:
    data = {"effect": torch.zeros(2), "stderr": torch.tensor([1.0, 0.0])}
    with pytest.raises(DataError, match="column 'stderr', row 2: 0 is no standard error"):
        EightSchools().check(data)
