"""A chain as rows of numbers: the point, what is told of it, the gradients so far.

A row is ``(q (D,), STATISTICS, evaluations)``, in float64; a chain's rows are ``(n, D + 9)``, its
warm-up first. Every sampler's chains are told and kept in this one form.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

STATISTICS = (
    "lp",
    "energy",
    "tree_depth",
    "step_size",
    "acceptance_rate",
    "diverging",
    "n_steps",
    "reached_max_treedepth",
)
"""What is told of each draw, by ArviZ's names, in the order of a row; ``lp`` in nats."""

_TYPES = {"tree_depth": int, "n_steps": int, "diverging": bool, "reached_max_treedepth": bool}
_DIVERGING = STATISTICS.index("diverging") - len(STATISTICS) - 1


def statistics(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics ``(chain, draw)`` by ArviZ's names, of rows ``(chain, draw, C)``."""
    first = rows.shape[-1] - len(STATISTICS) - 1
    return {
        name: rows[..., first + place].astype(_TYPES.get(name, float))
        for place, name in enumerate(STATISTICS)
    }


def divergences(rows: np.ndarray) -> int:
    """How many of the rows (n, C) diverged."""
    return int(rows[:, _DIVERGING].sum()) if len(rows) else 0


def evaluations(rows: np.ndarray) -> int:
    """Gradients that a chain's rows (n, C) took."""
    return int(rows[-1, -1]) if len(rows) else 0


def most_draws(lengths: Mapping[int, int]) -> tuple[list[int], int]:
    """Which chains to keep, and the length to cut them to, so that most draws are kept.

    >>> most_draws({0: 1000, 1: 1000, 2: 3})
    ([0, 1], 1000)
    """
    longest = sorted(lengths.values(), reverse=True)
    _, count = max((count * length, count) for count, length in enumerate(longest, start=1))
    cut = longest[count - 1]
    return [chain for chain, length in lengths.items() if length >= cut], cut


def left_out(
    made: Collection[int],
    chains: Collection[int],
    length: int,
    draws: int,
    failures: Mapping[int, str],
) -> tuple[str, ...]:
    """What was drawn, or not drawn, and is not in the answer, a line each.

    ``made`` names the chains that were run, ``chains`` those that are kept, cut to ``length``.
    """
    notes = [f"chain {chain} broke off: {reason}" for chain, reason in sorted(failures.items())]
    missing = [str(chain) for chain in made if chain not in chains]
    if missing:
        notes.append(f"left out, as cut short: chain {', '.join(missing)}")
    if length < draws:
        notes.append(f"{length} of {draws} draws per chain were made")
    return tuple(notes)
