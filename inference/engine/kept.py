"""What is kept while chains run: where they started, and every chain that came to its end.

A chain that was cut short is run again from its start and seed, which gives the same draws.
"""

from __future__ import annotations

import numpy as np
import torch

from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.resume import Keeper
from storyzoo.inference.engine.starts import Starts


class KeptChains:
    """The run's checkpoint: where the chains started, and every chain that came to its end."""

    def __init__(self, checkpoint: Checkpoint | None, mark: str, chains: int) -> None:
        children = [checkpoint.child(f"chain{i}") if checkpoint else None for i in range(chains)]
        self._run = Keeper(checkpoint, mark)
        self._chains = [Keeper(child, mark) for child in children]
        self.resumed = False

    def starts(self) -> Starts | None:
        """The starts of the run that is gone on with, if any."""
        state = self._run.load()
        if state is None:
            return None
        self.resumed = True
        words, one_mode = str(state["words"]), bool(state["one_mode"])
        return Starts(torch.from_numpy(state["points"]), words, one_mode, int(state["evaluations"]))

    def save_starts(self, starts: Starts) -> None:
        """Keep them, since finding them may have taken long."""
        if not self.resumed:
            self._run.save({**vars(starts), "points": starts.points.cpu().numpy()})

    def finished(self) -> dict[int, np.ndarray]:
        """All rows of each chain that had come to its end."""
        states = {i: keeper.load() for i, keeper in enumerate(self._chains)} if self.resumed else {}
        return {i: state["rows"] for i, state in states.items() if state is not None}

    def save(self, chain: int, rows: np.ndarray) -> None:
        """Keep a chain that came to its end."""
        self._chains[chain].save({"rows": rows})

    def remove(self) -> None:
        """The run has ended."""
        self._run.remove()
