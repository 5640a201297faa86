"""What every method is: frozen settings, a refusal with its reason, and a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from storyzoo.errors import SettingError

if TYPE_CHECKING:
    from xarray import DataTree

    from storyzoo.inference.engine.checkpoint import Checkpoint
    from storyzoo.inference.engine.progress import Progress
    from storyzoo.inference.engine.structure import Structure
    from storyzoo.inference.engine.target import Target
    from storyzoo.story import Story

Kind = Literal["draws", "approximation", "point"]
"""What an answer is: draws of the posterior, draws of an approximation to it, or one point."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """What a run tells its diagnostics. Plain numbers and texts, so that it can be stored."""

    gradient_evaluations: int = 0
    """Evaluations of the density with its gradient; passes over the data for EM."""
    compile_seconds: float = 0.0
    stopped: str = "done"
    """``done``, ``settled``, ``max_steps``, ``minutes`` or ``interrupted``."""
    start: str = ""
    """How it was started, in words."""
    engine: str = ""
    """What evaluated the density."""
    notes: tuple[str, ...] = ()

    @property
    def cut_short(self) -> bool:
        """Whether the run was interrupted."""
        return self.stopped == "interrupted"

    def as_dict(self) -> dict[str, Any]:
        """Plain values by field."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The info that :meth:`as_dict` gave, after a round through JSON."""
        known = {f.name for f in fields(cls)}
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name in known
        }
        return cls(**plain)


@dataclass(frozen=True, kw_only=True)
class PointInfo(Info):
    """How the restarts of an ascent to a point ended."""

    objectives: tuple[float, ...] = ()
    """Final objective of each restart, nats."""
    degenerate: tuple[str, ...] = ()
    """What is degenerate about each restart's end; empty where it is sane."""
    best: int = 0
    path: tuple[float, ...] = ()
    """Objective of the best restart, step by step."""
    prior: bool = True
    collapsed: bool = False
    """Whether it is no mode but the mean of a variational approximation, climbed without a bound;
    its objective is then the score of every observation given all others."""
    converged: bool = True
    """Whether the best restart settled."""


class Outcome(NamedTuple):
    """What a run returns: the draws, and what its diagnostics need. No verdict."""

    tree: DataTree
    info: Info


@dataclass(frozen=True)
class Method:
    """Base of all methods: a frozen dataclass of settings."""

    name: ClassVar[str]
    kind: ClassVar[Kind]
    info_type: ClassVar[type[Info]] = Info

    def refuses(self, story: Story, structure: Structure) -> str | None:
        """Why this method can't fit that story, in one line; None where it can."""
        return None

    def streams(self, story: Story) -> bool:
        """Whether this method fits that story to examples that come a block at a time."""
        return False

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        """Fit the story. With a checkpoint that holds a state, go on from it."""
        raise TypeError(f"{type(self).__name__} has no run")


def needs_density(story: Story) -> str | None:
    """Why a story has no exact density to work with, and what to use; None where it has."""
    reason = story.intractable()
    if reason is None:
        return None
    known = story.has("stochastic_gradient")
    use = "use contrastive or sgld" if known else "write its `stochastic_gradient`"
    return f"its likelihood can't be computed: {reason}; {use}"


MOST_WEIGHTS = 2000
"""Weights of a network over sequences above which every gradient over all data costs too much."""


def too_many_weights(story: Story, structure: Structure) -> str | None:
    """Why a network is too large for methods that look at all data at once; None if it isn't."""
    size = sum(math.prod(site.shape) for site in structure.latents.values())
    if not story.has("unroll") or size <= MOST_WEIGHTS:
        return None
    return f"its network has {size} weights, too many to see all data at every step; use map"


MOST_WEIGHT_DRAWS = 50
"""Draws of a whole network that are made: each costs a pass wherever it is scored."""


def draws_of_weights(wanted: int, size: int, megabytes: float) -> tuple[int, tuple[str, ...]]:
    """How many draws of so many weights in single precision are made, and a note if too few."""
    count = max(1, min(wanted, MOST_WEIGHT_DRAWS, int(megabytes / (4e-6 * size))))
    note = f"{count} of {wanted} draws were made: each is a network"
    return count, () if count == wanted else (note,)


def require(good: bool, method: str, setting: str, value: object, wanted: str) -> None:
    """Raise SettingError in one line where a setting is out of its range."""
    if not good:
        raise SettingError(f"{method}: {setting}={value} is impossible; it must be {wanted}")
