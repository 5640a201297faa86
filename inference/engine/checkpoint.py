"""Checkpoints: arrays in an ``.npz`` that is always whole, written beside and renamed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from storyzoo.errors import RunFolderError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is whole or not there: a temporary file, then a rename.

    Raises RunFolderError where the folder can't be written or the disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunFolderError(
            f"{path}: can't be written ({reason}); choose another --out"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


@dataclass(frozen=True)
class Checkpoint:
    """The state that an interrupted run goes on from. Holds arrays only, never code."""

    path: Path

    def save(self, arrays: Mapping[str, Any]) -> None:
        """Replace the checkpoint. Raises ValueError for what is no array of plain values."""
        buffer = io.BytesIO()
        plain: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
        for name, value in plain.items():
            if value.dtype.hasobject:
                raise ValueError(f"'{name}' holds objects, which only a pickle could keep")
        np.savez(buffer, **plain)
        write_atomically(self.path, buffer.getvalue())

    def load(self) -> dict[str, np.ndarray] | None:
        """What was saved, or None. Raises RunFolderError where the file is damaged."""
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except Exception as error:  # of half a dozen kinds, by where the damage is
            raise RunFolderError(
                f"{self.path}: damaged checkpoint; delete it to start over"
            ) from error

    def child(self, name: str) -> Checkpoint:
        """Another checkpoint beside this one: one per chain, say."""
        return Checkpoint(self.path.with_name(f"{self.path.stem}-{name}{self.path.suffix}"))

    def remove(self) -> None:
        """Forget this checkpoint and its children: the run has ended."""
        name = f"{self.path.stem}*{self.path.suffix}"
        for pattern in (name, f".{name}.*"):  # the latter of a process that was killed in writing
            for path in self.path.parent.glob(pattern):
                path.unlink(missing_ok=True)


def numpy_state(rng: np.random.Generator) -> np.ndarray:
    """The state of a numpy generator as an array of characters."""
    return np.array(json.dumps(rng.bit_generator.state))


def restore_numpy(state: np.ndarray) -> np.random.Generator:
    """The generator whose state :func:`numpy_state` gave."""
    rng = np.random.default_rng()
    rng.bit_generator.state = json.loads(str(state))
    return rng


def torch_state(generator: torch.Generator) -> np.ndarray:
    """The state of a torch generator as bytes."""
    return generator.get_state().numpy()


def restore_torch(state: np.ndarray, device: str = "cpu") -> torch.Generator:
    """The generator whose state :func:`torch_state` gave, on the device where it was."""
    generator = torch.Generator(device=device)
    generator.set_state(torch.from_numpy(np.asarray(state, dtype=np.uint8)))
    return generator
