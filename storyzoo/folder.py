"""Run folders: what went in, what came out, whole or not there, and nothing that can run code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from xarray import DataTree, open_datatree

from storyzoo.errors import RunFolderError
from storyzoo.inference.engine.checkpoint import Checkpoint, write_atomically

FORMAT = 1
LARGEST_TREE = 4_000_000_000
"""Bytes of ``draws.nc`` above which it is not opened."""
REPORTED_PACKAGES = ("storyzoo", "pyro-ppl", "torch", "arviz-stats", "numpy")


@dataclass(frozen=True)
class RunFolder:
    """The files of one fit."""

    path: Path

    @property
    def description(self) -> Path:
        """All that went in."""
        return self.path / "fit.json"

    @property
    def draws(self) -> Path:
        """The tree."""
        return self.path / "draws.nc"

    @property
    def summary(self) -> Path:
        """Verdict, checks and metrics."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report.html"

    @property
    def checkpoint(self) -> Checkpoint:
        """What an interrupted run goes on from."""
        return Checkpoint(self.path / "checkpoint.npz")

    def holds_checkpoint(self) -> bool:
        """Whether a run could go on from here."""
        return any(self.path.glob("checkpoint*.npz"))

    def claim(self, description: Mapping[str, Any], resume: bool) -> bool:
        """Take the folder for a run; whether it already holds that run, finished.

        Raises RunFolderError where it holds another run, or none to resume.
        """
        if self.description.exists():
            held = self.read_description()
            if _what_matters(held) != _what_matters(description):
                raise RunFolderError(
                    f"{self.path}: holds another run ({held['story']['name']} by "
                    f"{held['method']['name']}); choose another --out"
                )
            return resume and self._finished()
        if resume:
            raise RunFolderError(f"{self.path}: holds no run to resume; leave --resume out")
        if self.path.exists() and any(self.path.iterdir()):
            raise RunFolderError(
                f"{self.path}: is not empty and holds no run; choose another --out"
            )
        return False

    def _finished(self) -> bool:
        return self.summary.exists() and not self.read_summary().get("cut_short")

    def write_description(self, description: Mapping[str, Any]) -> None:
        """Write ``fit.json``."""
        write_atomically(self.description, as_json(description))

    def read_description(self) -> dict[str, Any]:
        """Read ``fit.json``; RunFolderError where it is no run of a known format."""
        content = _read_json(self.description)
        if content.get("format") != FORMAT:
            raise RunFolderError(
                f"{self.description}: format {content.get('format')!r} is unknown to this version, "
                f"which reads format {FORMAT}; use the storyzoo that wrote it"
            )
        return content

    def read_summary(self) -> dict[str, Any]:
        """Read ``summary.json``."""
        return _read_json(self.summary)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        write_atomically(self.summary, as_json(summary))

    def write_report(self, page: str) -> None:
        """Write ``report.html``."""
        write_atomically(self.report, page.encode())

    def write_tree(self, tree: DataTree) -> None:
        """Write ``draws.nc`` by way of memory, so that a full disk leaves nothing half written."""
        write_atomically(self.draws, bytes(tree.to_netcdf(engine="h5netcdf")))

    def read_tree(self) -> DataTree:
        """Read ``draws.nc`` whole; RunFolderError where it is damaged."""
        try:
            size = self.draws.stat().st_size
            if size > LARGEST_TREE:
                raise RunFolderError(f"{self.draws}: {size} bytes are more than a run can hold")
            with open_datatree(self.draws, engine="h5netcdf") as stored:
                return stored.load()
        except RunFolderError:
            raise
        except Exception as error:  # h5py and xarray raise many kinds on damaged files
            reason = " ".join(str(error).split())[:120]
            raise RunFolderError(
                f"{self.draws}: truncated or no NetCDF file ({reason}); fit again into a new folder"
            ) from error


def versions() -> dict[str, str]:
    """Versions of the packages that an answer depends on."""
    found = {}
    for name in REPORTED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def as_json(content: Mapping[str, Any]) -> bytes:
    """JSON that any reader takes: no NaN, no infinity."""
    return json.dumps(plain(content), indent=2, allow_nan=False).encode() + b"\n"


def plain(value: Any) -> Any:
    """Plain JSON values of numbers, arrays and mappings; null where not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _what_matters(description: Mapping[str, Any]) -> Any:
    """What makes two runs the same: all but the versions and the device."""
    kept = {k: v for k, v in description.items() if k not in ("versions", "device")}
    return plain(kept)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(f"{path.parent}: holds no run ({path.name} is missing)") from error
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{path}: can't be read as JSON; fit again into a new folder"
        ) from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path}: is no run of storyzoo")
    return content
