"""Columns to mean 0 and standard deviation 1, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from storyzoo.errors import DataError


@dataclass(frozen=True)
class Standardised:
    """``z = (x - mean) / sd`` by column; ``sd`` divides by N, missing values are left out.

    ``mean`` and ``sd`` have shape ``(D,)`` and the units of their columns.
    """

    columns: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Original units to standard ones, ``(..., D)``."""
        return np.asarray((values - self.mean) / self.sd)

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """Standard units to original ones, ``(..., D)``."""
        return np.asarray(values * self.sd + self.mean)

    def select(self, columns: list[str]) -> Standardised:
        """The same for some of the columns, in their order."""
        places = [self.columns.index(column) for column in columns]
        return Standardised(tuple(columns), self.mean[places], self.sd[places])


def standardise(
    table: pd.DataFrame, name: str, outcome: str | None = None
) -> tuple[pd.DataFrame, Standardised]:
    """The table in standard units, and the way back.

    An outcome that is a yes or no, zeros and ones, has no unit and stays as it is. DataError where
    a column is constant.
    """
    columns = [column for column in table.columns if not _is_a_yes_or_no(table, column, outcome)]
    values = table[columns].to_numpy(dtype=np.float64)
    mean, sd = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    for column, centre, spread in zip(columns, mean, sd, strict=True):
        if not spread > 1e-12 * abs(centre):
            raise DataError(
                f"{name}: column {column!r} is constant ({centre:g}) and can't be standardised: "
                f"leave it out with drop={column}"
            )
    scale = Standardised(tuple(map(str, columns)), mean, sd)
    standard = table.copy()
    standard[columns] = scale.forward(values)
    return standard, scale


def _is_a_yes_or_no(table: pd.DataFrame, column: str, outcome: str | None) -> bool:
    return column == outcome and bool(table[column].dropna().isin([0, 1]).all())
