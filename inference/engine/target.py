"""What a method fits: a story, its data as tensors, and the device that it runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from storyzoo.errors import SettingError
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.factors import slice_examples
from storyzoo.inference.engine.structure import (
    Structure,
    defaults,
    refuse_missing,
    structure_of,
)
from storyzoo.story import Story

Redraw = Callable[[Mapping[str, np.ndarray], np.random.Generator], Mapping[str, np.ndarray]]
"""Arrays of examples by argument of the model -> those of them that change, in their shapes."""


class Stream(Protocol):
    """Examples that do not fit in memory, as often as they are asked for."""

    @property
    def n_examples(self) -> int:
        """How many there are."""

    @property
    def sha256(self) -> str:
        """Fingerprint of them all."""

    def blocks(self, size: int) -> Iterator[Mapping[str, Any]]:
        """Arrays by argument of the model, ``size`` examples at a time, the last maybe fewer."""


@dataclass(frozen=True)
class Target:
    """A story with the data that it is fitted to."""

    story: Story
    data: dict[str, Any]
    """By argument of the model: tensors in the story's dtype; scalars as they came."""
    structure: Structure
    device: str
    stream: Stream | None = None
    """Where all examples come from, where ``data`` hold but the first of them."""
    validation_rows: np.ndarray | None = None
    """Rows by which to choose when to stop, where the set's own split names some."""
    redraw: Redraw | None = None
    """Gives another way in which the examples can be told, where there are several."""
    _compiled: dict[tuple[bool, bool], dict[str, Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What densities of this target have compiled, by their options."""

    @property
    def n_examples(self) -> int:
        """How many independent examples the data hold."""
        return self.structure.n_examples

    def context(self) -> AbstractContextManager[None]:
        """The story's dtype and the device as defaults, the global random state untouched."""
        return defaults(getattr(torch, self.story.dtype), self.device)

    def density(self, *, jacobian: bool = True, prior: bool = True) -> LogDensity:
        """The flat unconstrained log density."""
        density = LogDensity(
            self.story, self.data, self.structure, self.device, jacobian=jacobian, prior=prior
        )
        density.share(self._compiled.setdefault((jacobian, prior), {}))
        return density

    def told_by(self, story: Story) -> Target:
        """The same data under another story of the kind, whose fields may shape its sites."""
        if story == self.story:
            return self
        with self.context():
            structure = structure_of(story, self.data, self.structure.coords)
        return replace(self, story=story, structure=structure)

    def rows(self, index: Sequence[int] | np.ndarray) -> Target:
        """The same story with some of the examples.

        Raises SettingError where the story names no dim of independent examples.
        """
        if self.story.examples is None:
            raise SettingError(f"{self.story.name} has no independent examples to slice")
        rows = torch.as_tensor(np.asarray(index), dtype=torch.long)
        data = slice_examples(self.story, self.data, rows)
        with self.context():
            labels = dict(self.structure.coords)
            if self.story.examples in labels:
                labels[self.story.examples] = labels[self.story.examples][rows.numpy()]
            structure = structure_of(self.story, data, labels)
        return replace(self, data=data, structure=structure, validation_rows=self._among(index))

    def _among(self, index: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """Which of some rows are for validation."""
        if self.validation_rows is None:
            return None
        return np.flatnonzero(np.isin(np.asarray(index), self.validation_rows))


def make_target(
    story: Story,
    arrays: Mapping[str, Any],
    *,
    device: str = "cpu",
    coords: Mapping[str, Sequence[Any] | np.ndarray] | None = None,
    to_fit: bool = True,
) -> Target:
    """Cast the data to the story's dtype and device, check them, and read off the structure.

    ``arrays`` holds numpy arrays or numbers by argument of the model, NaN where missing. Data
    that are only to be scored or filled in (``to_fit`` false) may be too few to fit.
    Raises DataError where a story can't be told of these data, SettingError for a bad device.
    """
    _check_device(device)
    dtype = getattr(torch, story.dtype)
    data = {name: _as_tensor(value, dtype, device) for name, value in arrays.items()}
    if to_fit:
        story.check(data)
    with defaults(dtype, device, validate=True):
        structure = structure_of(story, data, coords)
    refuse_missing(data, structure.covariates)
    return Target(story, data, structure, device)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError(
            f"device '{device}' can't be used ({reason}); try --device cpu"
        ) from error


def _as_tensor(value: Any, dtype: torch.dtype, device: str) -> Any:
    if np.isscalar(value):
        return value
    tensor = torch.tensor(np.asarray(value))
    if tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor.to(device)
