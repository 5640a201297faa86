"""Ctrl-C at a chosen time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from storyzoo.inference.engine.progress import Progress


@dataclass
class Interrupting(Progress):
    """Presses Ctrl-C once a run has gone so far, in iterations or rows as it tells them."""

    after: int = 0
    quiet: bool = True
    seen: int = field(default=0)

    def update(self, n: int = 1, **postfix: Any) -> None:
        self.seen += n
        if self.seen >= self.after:
            raise KeyboardInterrupt
