"""Errors that a user can act on: one line that names the place and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StoryzooError(Exception):
    """Anything the user can put right. The command line prints it as one line and exits with 2."""


class DataError(StoryzooError):
    """The data do not fit: names the file, column or row, and what would be right."""


class SettingError(StoryzooError):
    """An unknown or impossible setting of a story, a method or the command line."""


class StoryError(StoryzooError):
    """A story breaks the contract of :class:`storyzoo.Story`."""


class IntractableError(StoryError):
    """A quantity that no sum of bearable length gives: says what would be small enough."""


class RefusedError(StoryzooError):
    """A method can't be applied to a story, with the reason."""


class NoModeError(StoryzooError):
    """An ascent that ran away: the objective has no maximum."""


class RunFolderError(StoryzooError):
    """A run folder that can't be read, written or continued."""


def nearest(name: str, names: Iterable[str]) -> str:
    """What to say after an unknown name: the nearest known one, or all of them.

    >>> nearest("gm", ["gmm", "kmeans"])
    "did you mean 'gmm'?"
    >>> nearest("x", ["gmm", "kmeans"])
    'known: gmm, kmeans'
    """
    known = list(names)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
