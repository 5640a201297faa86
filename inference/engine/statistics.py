"""ArviZ's statistics of plain arrays, through one door: they ship without types.

Axes of every array: ``(..., chain, draw)``. The same interface serves ArviZ 0.8 and 1.x.
"""

from __future__ import annotations

from typing import Any

from arviz_stats.base.array import array_stats as _array_stats

array_stats: Any = _array_stats
