"""What a checkpoint belongs to, so that no run goes on from another run's state."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from storyzoo.errors import RunFolderError
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.method import Method
from storyzoo.inference.engine.target import Target

SECONDS = 5.0
"""Wall time between two writes."""


def fingerprint(
    method: Method, target: Target, seed: int, *, apart: Collection[str] = ("minutes",)
) -> str:
    """All that a run's answer depends on, as one short text; ``apart`` names settings left out."""
    settings = {name: value for name, value in asdict(method).items() if name not in apart}
    content = hashlib.sha256(f"{target.story!r} {target.device} {settings} {seed}".encode())
    if target.stream is not None:  # of which the data hold but the first examples
        content.update(target.stream.sha256.encode())
    for name, value in sorted(target.data.items()):
        array = value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        content.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return f"{method.name} {content.hexdigest()}"


class Keeper:
    """The checkpoint of one run, written now and then; None keeps nothing."""

    def __init__(self, checkpoint: Checkpoint | None, mark: str) -> None:
        self._checkpoint, self._mark = checkpoint, mark
        self._written = time.monotonic()

    def load(self) -> dict[str, np.ndarray] | None:
        """What an interrupted run left.

        Raises RunFolderError where it was another run.
        """
        state = self._checkpoint.load() if self._checkpoint is not None else None
        if state is None or str(state.get("fingerprint")) == self._mark:
            return state
        assert self._checkpoint is not None
        raise RunFolderError(
            f"{self._checkpoint.path}: belongs to a run with another story, data, seed or "
            "settings; choose another --out"
        )

    @property
    def due(self) -> bool:
        """Whether enough time has passed since the last write."""
        return self._checkpoint is not None and time.monotonic() - self._written >= SECONDS

    def save(self, state: Mapping[str, Any]) -> None:
        """Write now."""
        if self._checkpoint is not None:
            self._checkpoint.save({**state, "fingerprint": self._mark})
            self._written = time.monotonic()

    def remove(self) -> None:
        """The run has ended."""
        if self._checkpoint is not None:
            self._checkpoint.remove()
