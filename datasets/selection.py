"""Options after a data set's name: ``iris:standardize=true,drop=petal_width+petal_length``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storyzoo.errors import DataError, SettingError, nearest

if TYPE_CHECKING:
    import pandas as pd

SELECTING = ("columns", "drop", "labels", "standardize")
"""Options that every table understands."""

READING = ("tokens", "lowercase", "stop_words", "min_df", "max_df", "max_words")
"""Options that say how text is read; a run's new text is read as its first was."""

CODING = ("codec", "by", "symbols")
"""Options that say how text becomes sequences of tokens instead of counts."""

RASTER = ("codec", "levels")
"""Options that say how a table of images becomes sequences of tokens."""


@dataclass(frozen=True)
class Selection:
    """What to take of a table."""

    columns: tuple[str, ...] = ()
    """The columns to keep, in this order; all of them where empty."""
    drop: tuple[str, ...] = ()
    labels: str | None = None
    """A column of known classes, which no model is to see."""
    standardize: bool = False

    def check(self, name: str, known: Iterable[str]) -> None:
        """DataError where an option names a column that isn't there."""
        known = [column for column in known if column]
        for column in (*self.columns, *self.drop, *((self.labels,) if self.labels else ())):
            if column not in known:
                raise DataError(f"{name}: no column {column!r}: {nearest(column, known)}")

    def keeps(self, column: str) -> bool:
        """Whether a column goes on to the model."""
        if column == self.labels or column in self.drop:
            return False
        return not self.columns or column in self.columns

    def of_table(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """The columns to keep, in the order asked for."""
        names = [str(column) for column in table.columns]
        asked = Selection(self.columns, self.drop)
        asked.check(name, names)
        order = [column for column in self.columns or names if asked.keeps(column)]
        if not order:
            raise DataError(f"{name}: no column is left: drop fewer")
        return table[order]


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Name and options; a file whose name holds a colon is taken as it is.

    >>> split_spec("iris:standardize=true")
    ('iris', {'standardize': 'true'})
    """
    name, colon, text = spec.rpartition(":")
    if not colon or os.path.exists(spec):
        return spec, {}
    options = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            raise SettingError(
                f"data {spec!r}: the option {part!r} has no value: write {name}:{key}=VALUE"
            )
        options[key.strip()] = value.strip()
    return name, options


def check_options(name: str, options: Mapping[str, str], known: Iterable[str]) -> None:
    """SettingError where an option is not known, with the nearest one."""
    known = list(known)
    for key in options:
        if key not in known:
            hint = nearest(key, known) if known else "it takes none"
            raise SettingError(f"data {name!r} has no option {key!r}: {hint}")


def leave_reading(
    name: str, options: Mapping[str, str], reading: tuple[str, ...] = READING
) -> None:
    """SettingError where an option would have new data read in another way than a run's."""
    if given := [key for key in reading if key in options]:
        raise SettingError(f"data {name!r}: text is read as the run's was: leave {given[0]}= out")


def read_selection(name: str, options: Mapping[str, str]) -> Selection:
    """The selecting ones among the options."""
    return Selection(
        columns=_names(options.get("columns", "")),
        drop=_names(options.get("drop", "")),
        labels=options.get("labels"),
        standardize=_truth(name, "standardize", options.get("standardize", "false")),
    )


def read_option(name: str, key: str, text: str, kind: type) -> bool | int | float | str:
    """The value of a data set's own option, by the type of its default."""
    if kind is bool:
        return _truth(name, key, text)
    readers: dict[type, Callable[[str], int | float | str]] = {int: int, float: float, str: str}
    try:
        return readers[kind](text)
    except ValueError:
        raise SettingError(
            f"data {name!r}: {key}={text!r} should be of type {kind.__name__}"
        ) from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("+") if part.strip())


def _truth(name: str, key: str, text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise SettingError(f"data {name!r}: {key}={text!r} should be true or false")
    return words[text.lower()]
