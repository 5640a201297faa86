"""Piano rolls: pieces of the data beside the story's own, and how their keys were foretold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from storyzoo.inference.engine.foretelling import foretold
from storyzoo.inference.engine.groups import each_draw, thinned
from storyzoo.inference.engine.simulation import Simulator
from storyzoo.inference.engine.tree import draws_of
from storyzoo.reports.figures import Figure, Panel
from storyzoo.reports.figures.images import Scale, heat_map
from storyzoo.reports.figures.sequence import DRAWS, EDGES, calibration
from storyzoo.reports.figures.svg import plain

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

PIECES = 3
STEPS = 96
"""Steps of a piece that are drawn at most."""
READ = 60
"""Pieces that are read for how they were foretold."""
SEED = 22

Array = NDArray[np.float64]


def figures(fit: Fitted) -> list[Figure]:
    """Rolls of the data and of the fit; calibration of the keys."""
    posterior = fit.units.fitted(fit.tree)["posterior"]
    if any(name not in posterior for name in fit.structure.latents):
        return []
    draws = thinned(draws_of(fit.structure, posterior), DRAWS)
    if not all(np.isfinite(values).all() for values in draws.values()):
        return []
    data = fit.target.data
    seen = parted(data["key"].cpu().numpy(), data["length"].cpu().numpy())
    some = [seen[i] for i in np.linspace(0, len(seen) - 1, min(READ, len(seen))).astype(int)]
    read = foretold(fit.story, draws, some, None, EDGES)
    return [rolls(fit, draws, some), calibration(read, "key")]


def parted(keys: Array, length: NDArray[np.int64]) -> list[Array]:
    """Pieces (T, K) that lie end to end, each by itself."""
    return np.split(keys, np.cumsum(length)[:-1])


def rolls(fit: Fitted, draws: dict[str, Array], pieces: list[Array]) -> Figure:
    """Some pieces of the data, then as many that the fit draws, of lengths of the data."""
    rng = np.random.default_rng([fit.seed, SEED])
    (latents, *_) = each_draw(draws)
    placed = {name: value.to(fit.target.device) for name, value in latents.items()}
    drawn = Simulator(fit.target).data(placed, rng, PIECES)
    own = parted(*(np.asarray(drawn[key].cpu()) for key in ("key", "length")))
    held = np.flatnonzero(np.concatenate([*pieces, *own]).any(0))
    low, high = (int(held[0]), int(held[-1]) + 1) if held.size else (0, pieces[0].shape[1])
    names = [plain(str(name), 20) for name in fit.structure.coords["pitch"]]
    shown = [
        pair
        for place in range(PIECES)
        for pair in ((pieces[place % len(pieces)], "the data"), (own[place], "drawn by the fit"))
    ]
    steps = min(STEPS, *(max(1, len(piece)) for piece, _ in shown))  # all on one scale
    panels = [
        roll(piece[:steps, low:high], title, place // 2)
        for place, (piece, title) in enumerate(shown)
        if len(piece)
    ]
    caption = (
        f"The first {steps} steps, time to the right; keys rise from {names[low]} to "
        f"{names[high - 1]}, ink is a key that is down."
    )
    return Figure("samples", "Data and samples", caption, tuple(panels))


def roll(piece: Array, title: str, place: int) -> Panel:
    """Keys (T, K) with time to the right and the highest key on top."""
    return heat_map(piece.T[::-1], Scale(0.0, 1.0), f"Piece {place + 1}, {title}.", title)
