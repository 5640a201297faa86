"""Data meet a story: which column or array goes to which argument of its model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from storyzoo import corpus
from storyzoo.datasets.dataset import Dataset, fingerprint
from storyzoo.datasets.standardise import Standardised
from storyzoo.errors import DataError, nearest
from storyzoo.story import Story

Value = np.ndarray | float | int


@dataclass(frozen=True)
class Bound:
    """What a story is fitted to: a value for each argument of its model, checked."""

    arrays: dict[str, Value]
    """By argument: int64 or float64, NaN where missing; scalars as they came."""
    coords: dict[str, list[Any]]
    """Names along the dims of the data: columns along features, row names along rows."""
    name: str
    sha256: str
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By argument: the columns that it took, where the data are a table."""
    dataset: Dataset | None = None
    notes: tuple[str, ...] = ()
    """What the user should know: columns left out."""
    target: str | None = None
    """The column that was taken for the outcome, where one was named."""

    @property
    def standardised(self) -> Standardised | None:
        """The way back to the data's original units, by column."""
        return self.dataset.standardised if self.dataset else None

    @property
    def labels(self) -> pd.Series | None:
        """Known classes of the rows: for figures and scores, never given to a model."""
        return self.dataset.labels if self.dataset else None

    @property
    def test_rows(self) -> np.ndarray | None:
        """The data set's own split."""
        return self.dataset.test_rows if self.dataset else None


COUNTS = ("word", "count")
"""Arrays of bags of words,"""
TOKENS = ("token", "n_tokens")
"""of sequences of tokens,"""
ROLLS = ("key",)
"""and of piano rolls; each story takes but one of these kinds."""


def bind(
    story: Story,
    data: Dataset | pd.DataFrame | Mapping[str, Any],
    target: str | None = None,
) -> Bound:
    """Give each argument of the story's model its data.

    Columns of a table match arguments of one dim by name; ``target`` names the column of the
    outcome; then a sole argument takes all columns of numbers that are left. A plain mapping goes
    from argument to array, frame, series or number. A story of bags of words also takes a scipy
    sparse matrix of counts (document, word), under any name.

    Raises DataError where an argument has no data, has the wrong rank or size, or holds text or
    infinite values.
    """
    if isinstance(data, pd.DataFrame):
        data = Dataset("frame", _numeric(data))
    name = data.name if isinstance(data, Dataset) else "data"
    if isinstance(data, Dataset):
        _check_kind(story, data)
    if isinstance(data, Dataset) and data.table is not None:
        own = data.target if _single(story) else None
        found = _from_table(story, name, data.table, target or own)
    elif isinstance(data, Dataset):
        found = _from_mapping(story, name, data.arrays, target)
    else:
        found = _from_mapping(story, name, data, target)
    coords = _coords(story, found.values)
    if isinstance(data, Dataset):
        coords |= {dim: list(names) for dim, names in data.coords.items()}
    arrays = {key: _as_array(name, key, value) for key, value in found.values.items()}
    _check_sizes(story, name, arrays)
    if _takes_corpus(story):
        arrays |= corpus.checked(name, arrays, coords)
    digest = fingerprint({key: np.asarray(value) for key, value in arrays.items()})
    dataset = data if isinstance(data, Dataset) else None
    return Bound(arrays, coords, name, digest, found.columns, dataset, found.notes, found.target)


def _check_kind(story: Story, data: Dataset) -> None:
    """DataError where data of one kind meet a story of another: says how they become of its."""
    wanted, given = story.arguments(), data.arrays
    takes = {kind: set(kind) <= set(wanted) for kind in (COUNTS, TOKENS, ROLLS)}
    if takes[TOKENS] and data.table is not None:
        remedy = "of images add :codec=raster to the name of the data, of text give the text"
        raise DataError(f"{data.name}: {story.name} tells sequences of tokens, not rows: {remedy}")
    if takes[TOKENS] and set(COUNTS) <= set(given):
        raise DataError(
            f"{data.name}: {story.name} tells sequences of tokens, not counts of words: add "
            "codec=characters to the options of the data"
        )
    if takes[COUNTS] and set(TOKENS) <= set(given):
        raise DataError(
            f"{data.name}: {story.name} tells counts of words, not sequences of tokens: leave "
            "codec= out of the options of the data"
        )
    kinds = (
        (TOKENS, "sequences of tokens", "sequence or ngram"),
        (ROLLS, "piano rolls", "piano-roll"),
    )
    for kind, what, use in kinds:
        if set(kind) <= set(given) and not takes[kind]:
            raise DataError(
                f"{data.name}: it holds {what}, and {story.name} takes {_listed(wanted)}: fit "
                f"{use} to it"
            )


@dataclass
class _Found:
    """Values as they came, by argument."""

    values: dict[str, Any]
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    target: str | None = None
    """The column that was taken for the outcome, where one was named."""


# -- from a table ------------------------------------------------------------------------------


def _from_table(story: Story, name: str, table: pd.DataFrame, target: str | None) -> _Found:
    columns = [str(column) for column in table.columns]
    if target is not None and target not in columns:
        raise DataError(f"{name}: no column {target!r} for --target: {nearest(target, columns)}")
    taken = _by_name(story, columns, target)
    rest = [column for column in columns if column not in taken.values()]
    missing = [key for key in required(story) if key not in taken]
    sole = len(required(story)) == 1
    if len(missing) == 1 and rest and (sole or _rank(story, missing[0]) != 1):
        chosen = {**{k: (v,) for k, v in taken.items()}, missing[0]: tuple(rest)}
        _check_single(story, name, missing[0], rest)
        rest = []
    elif missing:
        raise DataError(
            f"{name}: {story.name} needs {_listed(missing)}, but the columns are "
            f"{_listed(columns)}: rename columns, or name the outcome with --target"
        )
    else:
        chosen = {key: (column,) for key, column in taken.items()}
    order = [key for key in story.arguments() if key in chosen]
    values = {key: _take(story, table, key, chosen[key]) for key in order}
    notes = (f"{name}: {story.name} takes no column {_listed(rest)}",) if rest else ()
    return _Found(values, chosen, notes, target)


def _by_name(story: Story, columns: Sequence[str], target: str | None) -> dict[str, str]:
    """Argument -> column. Only arguments of one dim: a point isn't its column ``y``."""
    single = _single(story)
    taken = {key: key for key in single if key in columns and key != target}
    if target is not None:
        if not single:
            raise DataError(f"{story.name} takes no single column: leave --target out")
        free = [key for key in single if key not in taken]
        likely = [key for key in (target, "y") if key in single]
        taken[[*likely, *free, single[-1]][0]] = target
    return taken


def _take(story: Story, table: pd.DataFrame, key: str, columns: tuple[str, ...]) -> Any:
    one = _rank(story, key) == 1 or (_rank(story, key) is None and len(columns) == 1)
    return table[columns[0]] if one else table[list(columns)]


def _check_single(story: Story, name: str, key: str, columns: Sequence[str]) -> None:
    rank = _rank(story, key)
    if rank == 1 and len(columns) > 1:
        raise DataError(
            f"{name}: {story.name} takes one column as {key!r}, but the columns are "
            f"{_listed(columns)}: choose one with --target, or with columns="
        )
    if rank is not None and rank not in (1, 2):
        raise DataError(
            f"{name}: {story.name} takes {key!r} with dims {_dims(story, key)}, "
            "which a table hasn't: give an NPZ"
        )


# -- from a mapping ----------------------------------------------------------------------------


def _from_mapping(story: Story, name: str, data: Mapping[str, Any], target: str | None) -> _Found:
    if target is not None:
        raise DataError(f"{name} is no table: --target is for tables, name the array instead")
    known, needed = story.arguments(), required(story)
    if len(data) == 1 and _takes_corpus(story) and hasattr(next(iter(data.values())), "tocsr"):
        data = corpus.from_matrix(next(iter(data.values())))
    if len(data) == len(needed) == 1 and not set(data) & set(known):
        data = {needed[0]: next(iter(data.values()))}  # a sole array needs no name
    for key in data:
        if key not in known:
            raise DataError(f"{name}: {story.name} takes no {key!r}: {nearest(key, known)}")
    missing = [key for key in needed if key not in data]
    if missing:
        raise DataError(f"{name}: {story.name} needs {_listed(missing)}: it got {_listed(data)}")
    values = {key: data[key] for key in known if key in data}
    columns = {
        key: tuple(map(str, value.columns))
        for key, value in values.items()
        if isinstance(value, pd.DataFrame)
    }
    return _Found(values, columns)


def required(story: Story) -> list[str]:
    """Arguments of the model that have no default."""
    parameters = list(inspect.signature(type(story).model).parameters.values())[1:]
    return [p.name for p in parameters if p.default is p.empty]


# -- what every argument must be ---------------------------------------------------------------


def _as_array(name: str, key: str, value: Any) -> Value:
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu().numpy()
    array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    if array.dtype == object:
        array = _numbers(name, key, array)
    if array.dtype.kind not in "iufb":
        raise DataError(f"{name}: {key!r} holds {array.dtype}: give numbers")
    whole = array.dtype.kind in "iub"
    array = np.array(array, dtype=np.int64 if whole else np.float64, order="C")
    if not whole and np.isinf(array).any():
        raise DataError(f"{name}: {key!r} is infinite at {_place(value, array)}: give a number")
    if np.ndim(value) == 0:
        number: float | int = array.item()
        return number
    if not array.size:
        raise DataError(f"{name}: {key!r} is empty, of shape {array.shape}: give at least one row")
    return array


def _numbers(name: str, key: str, array: np.ndarray) -> np.ndarray:
    """Python objects as numbers, None as missing; DataError on the first that is none."""
    numbers = np.empty(array.shape)
    for place, value in np.ndenumerate(array):
        try:
            if isinstance(value, str):
                raise ValueError
            numbers[place] = np.nan if value is None else float(value)
        except (TypeError, ValueError):
            raise DataError(
                f"{name}: {key!r} at {list(place)}: {value!r} is no number: give numbers, "
                "NaN where one is missing"
            ) from None
    return numbers


def _place(value: Any, array: np.ndarray) -> str:
    place = np.argwhere(np.isinf(array))[0].tolist()
    if isinstance(value, pd.DataFrame):
        return f"column {str(value.columns[place[1]])!r}, row {place[0] + 1}"
    return f"row {place[0] + 1}" if len(place) == 1 else f"position {place}"


def _check_sizes(story: Story, name: str, arrays: Mapping[str, Value]) -> None:
    """Ranks are as declared, and lengths along a shared dim agree."""
    sizes: dict[str, tuple[int, str]] = {}
    for key, value in arrays.items():
        dims = story.data_dims.get(key)
        if dims is None:
            continue
        if np.ndim(value) != len(dims):
            raise DataError(
                f"{name}: {story.name} takes {key!r} with dims {_dims(story, key)}, "
                f"got {np.ndim(value)} dims, of shape {np.shape(value)}: reshape it"
            )
        for dim, size in zip(dims, np.shape(value), strict=True):
            first, other = sizes.setdefault(dim, (size, key))
            if first != size:
                raise DataError(
                    f"{name}: {key!r} has {size} along {dim!r}, but {other!r} has {first}: "
                    "make them agree"
                )


def _coords(story: Story, values: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Names along dims: those of rows and of columns, where they have some."""
    coords: dict[str, list[Any]] = {}
    for key, value in values.items():
        dims = story.data_dims.get(key, ())
        if not isinstance(value, pd.Series | pd.DataFrame) or len(dims) != value.ndim:
            continue
        if not isinstance(value.index, pd.RangeIndex):
            coords.setdefault(dims[0], [str(label) for label in value.index])
        if isinstance(value, pd.DataFrame):
            coords.setdefault(dims[1], [str(column) for column in value.columns])
    return coords


def _numeric(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of numbers, as float64."""
    table = frame.select_dtypes(["number", "bool"])
    if table.shape[1] == 0:
        raise DataError(f"the frame has no column of numbers: it has {_listed(frame.columns)}")
    return table.astype(np.float64)


def _takes_corpus(story: Story) -> bool:
    """Whether a story takes counts without their zeros."""
    return set(corpus.ARGUMENTS) <= set(story.arguments())


def _single(story: Story) -> list[str]:
    """Arguments that may take a single column."""
    return [key for key in story.arguments() if _rank(story, key) in (None, 1)]


def _rank(story: Story, key: str) -> int | None:
    dims = story.data_dims.get(key)
    return None if dims is None else len(dims)


def _dims(story: Story, key: str) -> str:
    return f"({', '.join(story.data_dims[key])})"


def _listed(names: Any) -> str:
    """Names for a message, at most eight of them."""
    names = [f"{str(name)!r}" for name in names]
    return ", ".join([*names[:8], "…"] if len(names) > 8 else names) or "nothing"
