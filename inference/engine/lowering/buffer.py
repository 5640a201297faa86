"""A block of memory that machine code reads or writes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["double", "int64_t"]
"""C type of an element; truth values are whole numbers too, so that vectors have one width."""
Role = Literal["input", "constant", "temporary", "output"]


@dataclass(eq=False)
class Buffer:
    """An array in memory, known by its identity."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    role: Role
    values: np.ndarray | None = field(default=None, repr=False)
    """Of a constant: its values, in its shape."""
    pinned: bool = False
    """Whether its elements must lie in row-major order, since something counts on it."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)
