"""Images as sequences: pixels in raster order, row by row from the upper left, in whole levels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from storyzoo.datasets.codecs import MISSING, Codec
from storyzoo.datasets.dataset import Dataset
from storyzoo.errors import DataError, SettingError

MAX_LEVELS = 256


@dataclass(frozen=True)
class Raster(Codec):
    """A pixel a token: its level, ``round((value - low) / (high - low) * (levels - 1))``.

    With as many levels as there are whole numbers from ``low`` to ``high`` nothing is lost; with
    fewer, decoding gives the middle of what each level stands for, and encodes to the same tokens.
    """

    columns: tuple[str, ...]
    """Names of the pixels, in raster order."""
    levels: int
    low: float
    """Value of level 0."""
    high: float
    """Value of the last level."""
    kind: ClassVar[str] = "raster"

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= MAX_LEVELS:
            raise SettingError(f"levels={self.levels} should be 2 to {MAX_LEVELS}")
        if not self.low < self.high:
            raise SettingError(f"all pixels have the value {self.low:g}: there is nothing to model")

    @property
    def n_tokens(self) -> int:
        """The levels."""
        return self.levels

    @property
    def symbols(self) -> tuple[str, ...]:
        """The values that levels stand for."""
        values = self.decode(np.arange(self.levels))
        return tuple(f"{value:.6g}" for value in values)

    @classmethod
    def learn(cls, table: pd.DataFrame, levels: int) -> Self:
        """The codec of images (N, pixels) like these; ``levels`` 0 keeps whole numbers as such."""
        values = table.to_numpy()
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        if not levels:
            whole = bool((values == np.floor(values)).all()) and high - low < MAX_LEVELS
            if not whole:
                raise SettingError(
                    f"pixels from {low:g} to {high:g} are not whole numbers that {MAX_LEVELS} "
                    "levels hold: add levels=N"
                )
            levels = int(high - low) + 1
        return cls(tuple(map(str, table.columns)), levels, low, high)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Levels (…,) of values (…,) from low to high; MISSING where a value is NaN."""
        share = (values - self.low) / (self.high - self.low)
        levels = np.where(np.isnan(share), MISSING, np.round(share * (self.levels - 1)))
        tokens: np.ndarray = levels.astype(np.int64)
        return tokens

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Values (…,) of levels (…,)."""
        values: np.ndarray = self.low + tokens * (self.high - self.low) / (self.levels - 1)
        return values

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Numbers are numbers."""
        ends = {key: float(values[key]) for key in ("low", "high")}
        return super().from_values({**values, **ends, "levels": int(values["levels"])})

    def check(self, name: str, table: pd.DataFrame, gaps: bool) -> None:
        """DataError where images are of another size, or have values that no level has.

        Missing ones are such values too, unless there may be ``gaps``.
        """
        if len(table.columns) != len(self.columns):
            raise DataError(
                f"{name}: images of {len(table.columns)} pixels, but those of the fit have "
                f"{len(self.columns)}: bring them to that size"
            )
        if (given := tuple(map(str, table.columns))) != self.columns:
            place = int((np.array(given) != np.array(self.columns)).argmax())
            raise DataError(
                f"{name}: pixel {place + 1} is {given[place]!r}, but {self.columns[place]!r} in "
                "the fit: put the columns in its order"
            )
        values = table.to_numpy()
        outside = ~((values >= self.low) & (values <= self.high))
        if gaps:
            outside &= ~np.isnan(values)
        if outside.any():
            row, column = np.argwhere(outside)[0]
            if np.isnan(values[row, column]):
                raise DataError(
                    f"{name}: row {row + 1}, column {self.columns[column]!r} is missing: fill it "
                    "first (zoo impute)"
                )
            raise DataError(
                f"{name}: row {row + 1}, column {self.columns[column]!r} is "
                f"{values[row, column]:g}: pixels go from {self.low:g} to {self.high:g}"
            )


def as_raster(
    dataset: Dataset, levels: int, codec: Raster | None = None, gaps: bool = False
) -> Dataset:
    """A table of images (N, pixels) as N sequences of tokens; with a codec, by that.

    With ``gaps`` pixels may be missing, also one in all images.
    """
    if gaps and codec is not None:
        dataset = dataset.with_empty(codec.columns)
    table = dataset.table
    if table is None:
        raise SettingError(f"{dataset.name} is no table of images: leave codec= out")
    try:
        codec = codec or Raster.learn(table, levels)
    except SettingError as error:
        raise SettingError(f"data {dataset.name!r}: {error}") from None
    codec.check(dataset.name, table, gaps)
    arrays = codec.arrays([*codec.encode(table.to_numpy())])
    coords = {"symbol": codec.symbols}
    return dataclasses.replace(
        dataset, table=None, arrays=arrays, coords=coords, codec=codec, target=None
    )
