"""Counts without their zeros: what is taken, put in order, and refused by its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse

from storyzoo.binding import bind
from storyzoo.datasets.dataset import Dataset
from storyzoo.errors import DataError
from storyzoo.models.lda import LatentDirichletAllocation

STORY = LatentDirichletAllocation(n_topics=2)
ARRAYS: dict[str, Any] = {
    "length": np.array([3, 2]),
    "word": np.array([0, 1, 3, 1, 2]),
    "count": np.array([2, 1, 1, 1, 3]),
    "n_words": 4,
}
TABLE = np.array([[2, 1, 0, 1], [0, 1, 3, 0]])
NAMES = {"word": ["ant", "bee", "cat", "dog"], "document": ["first", "second"]}


def same(found: dict[str, Any]) -> None:
    assert list(found) == list(ARRAYS)
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("form", ["csr_array", "csc_array", "coo_array", "csr_matrix"])
@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_a_sparse_matrix_is_taken_under_any_name(form: str, dtype: Any) -> None:
    matrix = getattr(scipy.sparse, form)(TABLE.astype(dtype))
    bound = bind(STORY, {"counts": matrix})
    same(bound.arrays)
    assert bound.sha256 == bind(STORY, ARRAYS).sha256


def test_zeros_that_are_written_down_are_left_out() -> None:
    matrix = scipy.sparse.csr_array(
        (np.array([2, 1, 0, 1, 1, 3]), np.array([0, 1, 2, 3, 1, 2]), np.array([0, 4, 6]))
    )
    same(bind(STORY, {"counts": matrix}).arrays)


def test_entries_are_put_in_order_and_repeats_added_up() -> None:
    mixed = {
        "length": np.array([4, 2]),
        "word": np.array([3, 0, 1, 0, 2, 1]),
        "count": np.array([1, 1, 1, 1, 3, 1]),
        "n_words": 4,
    }
    same(bind(STORY, mixed).arrays)


def test_names_of_a_data_set_stand_along_its_dims() -> None:
    bound = bind(STORY, Dataset("pets", arrays=ARRAYS, coords=NAMES))
    assert bound.coords == NAMES


REFUSED = [
    ({"count": np.array([2, 1, 1, -1, 3])}, "document 'second', word 'bee' has count -1"),
    ({"count": np.array([2, 0, 1, 1, 3])}, "document 'first', word 'bee' has count 0"),
    ({"count": np.array([2, 1, 1, 1, 0.5])}, "document 'second', word 'cat' has count 0.5"),
    ({"count": np.array([2, 1, np.nan, 1, 1])}, "document 'first', word 'dog' has count nan"),
    ({"word": np.array([0, 1, 4, 1, 2])}, "document 'first' has word number 4, but the vocabulary"),
    ({"word": np.array([0, 1, 3, -1, 2])}, "document 'second' has word number -1"),
    ({"length": np.array([3, 1])}, "lengths add up to 4, but 'word' has 5 entries"),
    ({"length": np.array([5, 0])}, "document 'second' has no words: leave it out"),
    ({"length": np.array([6, -1])}, "document 'second' has length -1"),
    ({"count": np.array([2, 1, 1])}, "'count' has 3 along 'entry', but 'word' has 5"),
    ({"n_words": 0}, "n_words=0: give the size of the vocabulary"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_is_impossible_is_refused_by_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        bind(STORY, Dataset("pets", arrays={**ARRAYS, **change}, coords=NAMES))
    assert message in str(caught.value)
    assert str(caught.value).startswith("pets: ") and "\n" not in str(caught.value)


def test_without_names_documents_count_from_one_and_words_as_they_are_numbered() -> None:
    with pytest.raises(DataError, match="document 2, word 1 has count -1"):
        bind(STORY, {**ARRAYS, "count": np.array([2, 1, 1, -1, 3])})


def test_one_bad_line_in_a_million_is_named() -> None:
    count = np.ones(1_000_000, dtype=np.int64)
    count[654_320] = -7
    arrays = {"length": count * 0 + 1, "word": count * 0, "count": count, "n_words": 2}
    with pytest.raises(DataError, match="document 654321, word 0 has count -7"):
        bind(STORY, arrays)
