"""A chain kept piece by piece: its new rows, and what it goes on from after them.

Each piece is a file of its own, which is never written again: so that keeping a long chain of
large rows costs what its rows take, once, and it goes on from where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.resume import Keeper


class Pieces:
    """What is kept of one chain; without a checkpoint nothing is."""

    def __init__(self, checkpoint: Checkpoint | None, chain: int, mark: str) -> None:
        self._checkpoint, self._chain, self._mark = checkpoint, chain, mark
        self._count = 0
        self._next = self._keeper()
        self.rows: list[np.ndarray] = []
        """Blocks of rows (n, C) that an interrupted run has left, in order."""
        self.state: dict[str, np.ndarray] | None = None
        """What the chain goes on from; None where it is to begin."""
        while (piece := self._next.load()) is not None:
            block = piece.pop("rows")
            self.rows += [block] if len(block) else []
            self.state = piece
            self._turn()

    @property
    def due(self) -> bool:
        """Whether enough time has passed since the last piece."""
        return self._next.due

    def add(self, rows: Sequence[np.ndarray], state: Mapping[str, Any]) -> None:
        """Keep the rows since the last piece, and the state after them."""
        self._next.save({**state, "rows": np.asarray(rows)})
        self._turn()

    def _turn(self) -> None:
        self._count += 1
        self._next = self._keeper()

    def _keeper(self) -> Keeper:
        name = f"chain{self._chain}-{self._count}"
        child = None if self._checkpoint is None else self._checkpoint.child(name)
        return Keeper(child, self._mark)
