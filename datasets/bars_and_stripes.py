"""Bars and stripes: images of which either every column or every row has one colour.

The smallest data whose density is known and far from independent pixels (Hinton and Sejnowski
1986; MacKay 2003, §43.1): a pixel tells nothing of its neighbour before it is known which way the
lines run. No image is drawn by hand; all are listed, or drawn by a seed.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.images import as_pixels
from storyzoo.errors import SettingError

LEAST_SIDE, MOST_SIDE = 2, 12
MOST_ROWS = 100_000


def bars_and_stripes(side: int = 4, rows: int = 0, seed: int = 0) -> Dataset:
    """All ``2^(side + 1) - 2`` distinct images once, or ``rows`` of them drawn with equal odds.

    Bars stand upright (columns have one colour), stripes lie. Raises SettingError where there
    would be none, or too many to list.
    """
    if not LEAST_SIDE <= side <= MOST_SIDE:
        raise SettingError(
            f"data 'bars-and-stripes': side={side} must be from {LEAST_SIDE} to {MOST_SIDE}: "
            f"there are 2^(side + 1) - 2 images"
        )
    if not 0 <= rows <= MOST_ROWS:
        raise SettingError(
            f"data 'bars-and-stripes': rows={rows} must be from 1 to {MOST_ROWS}, "
            "or 0 for each image once"
        )
    if seed < 0:
        raise SettingError(f"data 'bars-and-stripes': seed={seed} must be at least 0")
    images, kinds = _all(side)
    if rows:
        chosen = np.random.default_rng(seed).integers(len(images), size=rows)
        images, kinds = images[chosen], kinds[chosen]
    labels = pd.Series(kinds, name="kind")
    return Dataset("bars-and-stripes", as_pixels(images, side), labels=labels)


def _all(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Every image, ``(2^(side + 1) - 2, side^2)``, and its kind; blank and full are both kinds."""
    codes = np.arange(2**side)
    lines = (codes[:, None] >> np.arange(side)[::-1]) & 1
    bars = np.repeat(lines[:, None, :], side, axis=1).reshape(len(codes), -1)
    stripes = np.repeat(lines[:, :, None], side, axis=2).reshape(len(codes), -1)
    mixed = slice(1, -1)
    images = np.concatenate([bars, stripes[mixed]]).astype(np.float64)
    of_bars = np.where((codes == 0) | (codes == codes[-1]), "both", "bar")
    return images, np.concatenate([of_bars, np.full(len(codes) - 2, "stripe")])
