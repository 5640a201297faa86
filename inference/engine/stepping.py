"""A run that goes on step by step: its bar, its budget, its checkpoints and Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.inference.engine.resume import Keeper

Shown = dict[str, Any]
"""Figures for the bar."""


@dataclass(frozen=True)
class Stepping:
    """What is needed to go on, to keep what there is, and to know whether it is worth keeping."""

    keeper: Keeper
    stored: Callable[[], dict[str, Any]]
    """All that continues. It may be asked for at any time, in the midst of a step too."""
    worth: Callable[[], bool]
    """Whether there is something to answer with yet."""

    def run(
        self, steps: Iterator[Shown], taken: int, most: int, budget: Budget, progress: Progress
    ) -> str:
        """Follow ``steps`` to their end: ``done``, ``minutes`` or ``interrupted``.

        ``taken`` of the ``most`` steps were taken before. Ctrl-C writes a checkpoint; it rises on
        where there is nothing to answer with.
        """
        progress.start(most)
        progress.update(taken)
        try:
            for shown in steps:
                taken += 1
                progress.update(1, **shown)
                if self.keeper.due:
                    self.keeper.save(self.stored())
                if budget.spent and taken < most:
                    return "minutes"
        except KeyboardInterrupt:
            self.keeper.save(self.stored())
            if not self.worth():
                raise
            return "interrupted"
        finally:
            progress.close()
        return "done"
