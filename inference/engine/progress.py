"""Progress on stderr, on a terminal only, and budgets of wall time."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm


@dataclass
class Progress:
    """One bar; silent where stderr is no terminal or ``quiet``."""

    label: str = ""
    quiet: bool = False
    _bar: Any = field(default=None, repr=False)

    def start(self, total: int | None) -> None:
        """Open the bar (again, for a next stage)."""
        self.close()
        silent = self.quiet or not sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=self.label, disable=silent, leave=False, file=sys.stderr)

    def update(self, n: int = 1, **postfix: Any) -> None:
        """Go on by ``n`` steps and show some figures."""
        if self._bar is None:
            self.start(None)
        if postfix:
            self._bar.set_postfix(postfix, refresh=False)
        self._bar.update(n)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Budget:
    """Minutes of wall time that a run may take; None for as long as it needs."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    @property
    def spent(self) -> bool:
        """Whether the time is up."""
        return self._end is not None and time.monotonic() >= self._end
