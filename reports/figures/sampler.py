"""What the chains did: ranks, traces, the pair that shows trouble, energy.

Of many chains, which would cover one another, ranks show superchains and traces some chains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from storyzoo.inference.engine.statistics import array_stats
from storyzoo.reports.diagnostics import superchains_of
from storyzoo.reports.figures import Figure, Key
from storyzoo.reports.figures.svg import Canvas, colour, plain, series
from storyzoo.reports.numbers import grouped
from storyzoo.reports.parameters import Scalar

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

WORST = 4
"""How many of the worst scalars get a panel of their own."""
POINTS = 360
"""Points that a line has at most."""
DOTS = 1000
"""Dots that a scatter of draws has at most."""
LINES = 8
"""Chains that are drawn as lines of their own, each in its colour."""
RANKED = 4000
"""Draws of many chains that are ranked at most."""

Array = NDArray[np.float64]


def sampler_figures(fit: Fitted, scalars: Sequence[Scalar]) -> list[Figure]:
    """All figures on the chains of a fit; ``scalars`` are worst first and none is constant."""
    recorded = _statistic(fit, "energy")
    climbed = _statistic(fit, "lp") if recorded is None else None
    climbed = climbed if climbed is not None and np.isfinite(climbed).all() else None
    found = [] if climbed is None else [log_joint(climbed)]
    if not scalars:
        return found
    diverging = _statistic(fit, "diverging")
    divergent = np.zeros(scalars[0].draws.shape, bool) if diverging is None else diverging > 0
    worst, superchains = scalars[:WORST], superchains_of(fit.info)
    figures = [ranks(worst, superchains), traces(worst, divergent), *found]
    if len(scalars) > 1:
        figures.append(pair(scalars[:40], divergent))
    if recorded is not None:
        usable = recorded[np.isfinite(recorded).all(axis=1) & (np.ptp(recorded, axis=1) > 0)]
        if len(usable) and usable.shape[1] > 2:
            figures.append(energy(usable, together=superchains > 1))
    return figures


def _statistic(fit: Fitted, name: str) -> Array | None:
    group = fit.tree.children.get("sample_stats")
    if group is None or name not in group.data_vars:
        return None
    return np.asarray(group[name].transpose("chain", "draw").values, dtype=np.float64)


# -- ranks -------------------------------------------------------------------------------------


def ranks(scalars: Sequence[Scalar], superchains: int = 1) -> Figure:
    """Rank ΔECDF of each scalar: where each chain's draws fall among those of all chains.

    Chains that started in groups, the superchains, make one line a group.

    The band holds all chains of 95 % of runs whose chains agree. It takes draws to be independent,
    so each chain is first thinned to about as many as count within it (its bulk ESS); many chains
    further, to some thousands of draws in all.
    Source: Säilynoja, Bürkner, Vehtari (2022), Statistics and Computing 32:32.
    """
    panels = []
    chains = len(scalars[0].draws)
    for scalar in scalars:
        draws = _independent(scalar)
        if superchains > 1:
            step = max(1, math.ceil(draws.size / RANKED))
            draws = draws[:, ::step].reshape(superchains, -1)
        canvas = Canvas(height=200)
        place, lines = rank_difference(draws)
        low, high = rank_band(*draws.shape)
        where = np.linspace(0, 1, len(low))
        canvas.axes.fill_between(where, low, high, color=colour("band"), lw=0)
        for chain, line in enumerate(lines):
            canvas.axes.plot(place, line, color=colour(series(chain)), lw=1.1)
        canvas.axes.set_xlim(0, 1)
        canvas.title(scalar.label)
        canvas.axes.set_xlabel("fractional rank")
        canvas.axes.set_ylabel("ΔECDF")
        inside = np.all(_outside(place, lines, low, high) == 0)
        one = "superchain" if superchains > 1 else "chain"
        said = f"all {one}s stay in the band" if inside else f"a {one} leaves the band"
        panels.append(canvas.panel(f"Rank ΔECDF of {scalar.label}: {said}."))
    if superchains > 1:
        caption = (
            f"Ranks: each line is one of {superchains} superchains, {chains // superchains} chains "
            "that started at one point. One that leaves the grey band (95 %, all at once) "
            "disagrees with the others."
        )
        one_for_all = (Key("line", series(0), "one superchain, in any colour"),)
        return Figure("ranks", "Do the superchains agree?", caption, tuple(panels), one_for_all)
    caption = (
        "Ranks: a line that leaves the grey band (95 %, all chains at once) is a chain that "
        "disagrees with the others."
    )
    if chains == 1:
        caption += " There is one chain only: its halves are compared."
    keys = _chain_keys(range(chains))
    return Figure("ranks", "Do the chains agree?", caption, tuple(panels), keys)


def _chain_keys(chains: Sequence[int]) -> tuple[Key, ...]:
    halves = ["first half", "second half"]
    parts = halves if len(chains) == 1 else [f"chain {chain}" for chain in chains]
    return tuple(Key("line", series(place), part) for place, part in enumerate(parts[:LINES]))


def _independent(scalar: Scalar) -> Array:
    """Draws thinned to about their effective number, at least 50 a chain; one chain is halved."""
    draws = scalar.draws
    if len(draws) == 1:
        half = draws.shape[1] // 2
        draws = np.stack([draws[0, :half], draws[0, draws.shape[1] - half :]])
    count = draws.shape[1]
    with np.errstate(all="ignore"):  # a chain that is stuck has no ESS
        each = array_stats.ess(draws[:, None, :], method="bulk") if count >= 4 else np.nan
    known = np.asarray(each)[np.isfinite(each)]
    effective = float(known.mean()) if known.size else count
    step = max(1, math.ceil(count / max(effective, min(50, count))))
    return draws[:, ::step]


def rank_difference(draws: Array) -> tuple[Array, Array]:
    """ECDF of each chain's fractional ranks less the diagonal, at up to 100 places.

    ``draws`` is ``(chain, draw)``; gives ``(place,)`` and ``(chain, place)``.
    """
    chains, count = draws.shape
    ranks = rankdata(draws, method="average").reshape(chains, count)
    place = np.linspace(0, 1, min(draws.size, 100) + 1)
    limit = place * draws.size + 1e-9  # a rank that is met exactly counts, whatever the rounding
    below = [np.searchsorted(np.sort(row), limit, side="right") / count for row in ranks]
    return place, np.asarray(below) - place


@lru_cache(maxsize=64)
def rank_band(chains: int, count: int, level: float = 0.95) -> tuple[Array, Array]:
    """Limits of the rank ΔECDF that hold all chains at once with probability ``level``.

    The ranks of a chain are drawn without replacement from those of all: at a fraction f the
    count is hypergeometric, with variance ``N (C-1)/C f (1-f) S/(S-1)``. The width in these
    standard deviations is calibrated on 400 shuffles. Right for two chains as well.
    """
    total = chains * count
    place = np.linspace(0, 1, 101)
    at = np.round(place * total).astype(int)
    fraction = at / total
    deviation = np.sqrt(
        (chains - 1) / chains * fraction * (1 - fraction) * total / max(total - 1, 1) / count
    )
    inner = (fraction > 0.02) & (fraction < 0.98)
    generator = np.random.default_rng(1)
    owners = np.repeat(np.arange(chains), count)
    largest = []
    for _ in range(400):
        shuffled = generator.permutation(owners)
        held = np.cumsum(shuffled[None, :] == np.arange(chains)[:, None], axis=1)[:, at[inner] - 1]
        gap = np.abs(held / count - fraction[inner]) / deviation[inner]
        largest.append(gap.max())
    width = float(np.quantile(largest, level)) * deviation
    return -width, width


def _outside(place: Array, lines: Array, low: Array, high: Array) -> NDArray[np.bool_]:
    where = np.linspace(0, 1, len(low))
    slack = 1e-9
    above = lines > np.interp(place, where, high) + slack
    below = lines < np.interp(place, where, low) - slack
    outside: NDArray[np.bool_] = (above | below)[:, (place > 0.02) & (place < 0.98)]
    return outside


# -- traces ------------------------------------------------------------------------------------


def traces(scalars: Sequence[Scalar], divergent: NDArray[np.bool_]) -> Figure:
    """Draws in order, one line a chain, with a tick below for each divergent transition.

    Of many chains some are shown, as far apart in number as can be; ticks are those of all.
    """
    panels = []
    chains, count = divergent.shape
    step = max(1, count // POINTS)
    shown = np.linspace(0, chains - 1, min(chains, LINES)).round().astype(int).tolist()
    for scalar in scalars:
        canvas = Canvas(height=200)
        for place, chain in enumerate(shown):
            kept = scalar.draws[chain, ::step]
            canvas.axes.plot(
                np.arange(count)[::step], kept, color=colour(series(place)), lw=0.7, alpha=0.75
            )
        _ticks(canvas, scalar.draws, divergent)
        canvas.axes.set_xlim(0, count)
        canvas.title(scalar.label)
        canvas.axes.set_xlabel("draw")
        panels.append(canvas.panel(f"Trace of {scalar.label}: {chains} chains of {count} draws."))
    keys = _chain_keys(shown) if chains > 1 else (Key("line", series(0), "the chain"),)
    caption = "Traces of the worst parameters: chains that mix look alike and wander nowhere."
    if divergent.any():
        keys = (*keys, Key("tick", "bad", "divergent transition"))
    if len(shown) < chains:
        caption += f" {len(shown)} of {chains} chains are shown."
    if step > 1:
        caption += f" Every {_nth(step)} draw is shown."
    return Figure("traces", "Traces", caption, tuple(panels), keys)


def log_joint(values: Array) -> Figure:
    """The log joint density ``(chain, draw)`` of a sampler that records no energy, nats."""
    chains, count = values.shape
    step = max(1, count // POINTS)
    shown = np.linspace(0, chains - 1, min(chains, LINES)).round().astype(int).tolist()
    canvas = Canvas(height=200)
    for place, chain in enumerate(shown):
        at = np.arange(count)[::step]
        canvas.axes.plot(at, values[chain, ::step], color=colour(series(place)), lw=1.0)
    canvas.axes.set_xlabel("draw")
    canvas.axes.set_ylabel("log joint density, nats")
    ends = values[:, count // 2 :].mean(1)
    caption = (
        "The log joint density by draw: chains that still climb need more warm-up. Means of the "
        f"second half lie between {grouped(float(ends.min()), 1)} and "
        f"{grouped(float(ends.max()), 1)} nats."
    )
    keys = _chain_keys(shown) if chains > 1 else (Key("line", series(0), "the chain"),)
    return Figure("log-joint", "Log joint density", caption, (canvas.panel(caption),), keys)


def _ticks(canvas: Canvas, draws: Array, divergent: NDArray[np.bool_]) -> None:
    """A red tick on the floor of the panel at each draw at which some chain diverged."""
    at = np.flatnonzero(divergent.any(axis=0))
    if len(at) == 0:
        return
    low, high = float(draws.min()), float(draws.max())
    floor = low - 0.1 * (high - low)
    canvas.axes.plot(
        at[:: max(1, len(at) // POINTS)],
        np.full(len(at), floor)[:: max(1, len(at) // POINTS)],
        "|",
        ms=7,
        mew=0.9,
        color=colour("bad"),
    )


def _nth(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number % 100 not in (11, 12, 13) else 0)
    return f"{number}{ending or 'th'}"


# -- the pair ----------------------------------------------------------------------------------


def pair(scalars: Sequence[Scalar], divergent: NDArray[np.bool_]) -> Figure:
    """The two scalars that show best why sampling is hard, divergences marked."""
    vertical, horizontal, funnel = telling_pair(scalars, divergent)
    first, second = scalars[vertical], scalars[horizontal]
    y, on_log = _spread(first.draws)
    x = second.draws
    canvas = Canvas(height=235)
    sound = np.flatnonzero(~divergent.ravel())
    sound = sound[:: max(1, math.ceil(len(sound) / DOTS))]
    canvas.axes.plot(
        x.ravel()[sound], y.ravel()[sound], "o", ms=2.6, mec="none", color=colour("c0"), alpha=0.4
    )
    keys = [Key("o", "c0", "draw")]
    bad = np.flatnonzero(divergent.ravel())
    if len(bad):
        bad = bad[:: max(1, math.ceil(len(bad) / 300))]
        canvas.axes.plot(
            x.ravel()[bad], y.ravel()[bad], "x", ms=4.5, mew=1.1, color=colour("bad"), alpha=0.9
        )
        keys.append(Key("x", "bad", f"divergent ({int(divergent.sum())})"))
    canvas.axes.set_xlabel(plain(second.label, 40))
    canvas.axes.set_ylabel(("log " if on_log else "") + plain(first.label, 34))
    caption = _pair_caption(first, second, y, x, divergent, funnel)
    alt = f"Draws of {first.label} against {second.label}. {caption}"
    return Figure("pair", "The telling pair", caption, (canvas.panel(alt),), tuple(keys))


def telling_pair(scalars: Sequence[Scalar], divergent: NDArray[np.bool_]) -> tuple[int, int, bool]:
    """Which scalar to draw upwards and which sideways, and whether they make a funnel.

    Upwards: where divergent draws lie furthest from the others (in rank), or with none the worst
    mixing one. Sideways: what depends on it most, in place (rank correlation) or in width
    (the distance from the median, the mark of a funnel).
    """
    flat = divergent.ravel()
    ranked = [rankdata(scalar.draws) / scalar.draws.size for scalar in scalars]
    if 3 <= flat.sum() < flat.size:
        apart = [abs(rank[flat].mean() - rank[~flat].mean()) for rank in ranked]
        vertical = int(np.argmax(apart))
    else:
        vertical = 0
    best, horizontal, funnel = -1.0, 1 - min(vertical, 1), False
    for place, scalar in enumerate(scalars):
        if place == vertical:
            continue
        centre = np.median(scalar.draws)
        width = rankdata(np.abs(scalar.draws - centre))
        in_width = _correlation(width, ranked[vertical])
        in_place = abs(_correlation(ranked[place], ranked[vertical]))
        # A mirror image (the weights of two components) says nothing: leave it to the width.
        in_place = 0.0 if in_place > 0.999 else in_place
        if max(abs(in_width), in_place) > best:
            best, horizontal = max(abs(in_width), in_place), place
            funnel = in_width > 0.25 and in_width > in_place
    return vertical, horizontal, funnel


def _correlation(a: Array, b: Array) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def _spread(draws: Array) -> tuple[Array, bool]:
    """Draws on a log scale where they are positive and skewed over more than a factor of ten."""
    if draws.min() > 0:
        low, high = np.quantile(draws, [0.02, 0.98])
        if high / low > 10:
            return np.log(draws), True
    return draws, False


def _pair_caption(
    first: Scalar, second: Scalar, y: Array, x: Array, divergent: NDArray[np.bool_], funnel: bool
) -> str:
    names = plain(first.label, 40), plain(second.label, 40)
    if 3 <= divergent.sum() < divergent.size:
        flat = divergent.ravel()
        side = "small" if np.median(y.ravel()[flat]) < np.median(y.ravel()[~flat]) else "large"
        said = f"Divergences gather where {names[0]} is {side}"
        return said + (": the funnel." if funnel and side == "small" else ".")
    if funnel:
        return f"The width of {names[1]} goes with {names[0]}: a funnel."
    dependence = _correlation(rankdata(x), rankdata(y))
    return (
        f"The worst mixing parameter and the one that goes with it most "
        f"(rank correlation {grouped(dependence, 2)})."
    )


# -- energy ------------------------------------------------------------------------------------


def energy(values: Array, *, together: bool = False) -> Figure:
    """Energy of the draws about their mean, and its change from one draw to the next.

    Momentum drawn anew must be able to change the energy as much as it varies; E-BFMI is the ratio
    of the two variances (Betancourt 2016, arXiv:1604.00695), ``together`` over all chains.
    """
    marginal = (values - values.mean(axis=1, keepdims=True)).ravel()
    change = np.diff(values, axis=1).ravel()
    canvas = Canvas(height=235)
    low, high = np.quantile(np.concatenate([marginal, change]), [0.001, 0.999])
    edges = np.linspace(float(low), float(high), 42)
    for sample, role, style in ((marginal, "c0", "-"), (change, "c1", "--")):
        height = np.histogram(sample, edges)[0] / len(sample)
        canvas.axes.stairs(height, edges, fill=True, color=colour(role), alpha=0.28, lw=0)
        canvas.axes.stairs(height, edges, color=colour(role), lw=1.2, ls=style)
    canvas.axes.set_yticks([])
    canvas.axes.spines["left"].set_visible(False)
    canvas.axes.set_xlabel("energy, nats about the mean")
    if together:
        said = f": {(np.diff(values, axis=1) ** 2).mean() / values.var():.2f}"
    else:
        mixing = (np.diff(values, axis=1) ** 2).mean(1) / values.var(axis=1)
        said = " by chain: " + ", ".join(f"{ratio:.2f}" for ratio in mixing[:8])
    caption = (
        "Energy: the narrower the dashed orange, the slower the sampler crosses the posterior. "
        f"E-BFMI{said} (low below 0.30)."
    )
    keys = (Key("line", "c0", "of the draws"), Key("dashed", "c1", "change from draw to draw"))
    return Figure("energy", "Energy", caption, (canvas.panel(caption),), keys)
