"""Checks of points and of approximations: was the best optimum found, and is it a sane one?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from storyzoo.inference.engine.method import Info
from storyzoo.inference.engine.psis import FEWEST_DRAWS, k_hat, k_threshold
from storyzoo.reports.check import Check, check
from storyzoo.reports.draw_checks import finite

AGREE = 0.2
"""Share of the restarts that must reach the best mode."""
TOLERANCE = (0.01, 1e-4)
"""Two ascents reached one mode if they end within ``0.01 + 1e-4 |best|`` nats of each other."""
ELBO_TOLERANCE = (1.0, 1e-4)
"""The same for ELBOs, which are noisy."""
FAIR = 0.25
"""Part of an equal share of the importance weight with which a path counts."""

MORE_STEPS = "Give it more steps: a larger `--with max_steps=…`, or a looser `--with tolerance=…`"
RESUME = "Let it end: run the same command with `--resume`"


def checks_of_point(posterior: xr.Dataset, info: Info) -> Iterator[Check]:
    """Every check of an answer by ascent (EM, MAP), in order of cause."""
    yield finite(posterior)
    yield from checks_of_ascent(info)


def checks_of_approximation(
    posterior: xr.Dataset, stats: xr.Dataset, info: Info
) -> Iterator[Check]:
    """Every check of draws from an approximation (SVI, Laplace, Pathfinder), in order of cause.

    ``stats``: ``lp`` and ``log_q`` of the draws before any resampling.
    """
    yield finite(posterior)
    if hasattr(info, "settled"):
        yield settled(info)
    starts = finals(info, "starts")
    if starts.size > 1:
        yield starts_agree(starts)
    shares = finals(info, "shares")
    if shares.size > 1:
        yield paths_agree(shares, finals(info, "heights"))
    if hasattr(info, "objectives"):
        yield from checks_of_ascent(info)
    if getattr(info, "weighed", True):
        yield near_enough(stats, info)


def checks_of_ascent(info: Info) -> Iterator[Check]:
    """Converged, sane and found more than once."""
    yield converged(info)
    if finals(info, "objectives").size:
        yield not_degenerate(info)
        if not getattr(info, "collapsed", False):  # it claims to be no mode
            yield restarts_agree(info)


def finals(info: Info, field: str) -> np.ndarray:
    """Where each start ended, nats; empty where the info has no such field."""
    return np.asarray(getattr(info, field, ()) or (), dtype=np.float64)


def within(values: np.ndarray, best: float, tolerance: tuple[float, float]) -> np.ndarray:
    """Which values reach the best one, up to ``absolute + relative |best|``."""
    return np.asarray(values >= best - tolerance[0] - tolerance[1] * abs(best))


def converged(info: Info) -> Check:
    """The ascent (that of the best restart) ended because nothing was left to gain."""
    why = {
        "max_steps": "it ran out of steps",
        "minutes": "its time was up",
        "interrupted": "it was interrupted",
    }.get(info.stopped, "")
    advice = {
        "minutes": "Give it more time: `--with minutes=…`",
        "interrupted": RESUME,
    }.get(info.stopped, MORE_STEPS)
    done = bool(getattr(info, "converged", not why))
    return check(
        "converged",
        done,
        where="" if done else why or "the best restart had not settled",
        meaning="The point was still on its way uphill; it is no mode.",
        advice=advice,
    )


def not_degenerate(info: Info) -> Check:
    """The reported mode is not one that chases a few points."""
    texts = degenerate_texts(info)
    best = int(getattr(info, "best", 0))
    reason = texts[best] if best < len(texts) else ""
    bad = sum(bool(text) for text in texts)
    return check(
        "degenerate",
        not reason,
        value=bad,
        threshold=None,
        where=reason or (f"{bad} of {len(texts)} restarts were, and were set aside" if bad else ""),
        meaning="The likelihood grows without bound as a component shrinks onto a few points: "
        "such a peak says nothing about the data.",
        advice="Fewer components or tied covariances (`--set`), priors "
        "(`--with objective=posterior`), or more restarts (`--with restarts=50`)",
    )


def degenerate_texts(info: Info) -> Sequence[str]:
    """By restart: why it is degenerate, or an empty text."""
    texts: Sequence[str] = getattr(info, "degenerate", ())
    return texts


def restarts_agree(info: Info) -> Check:
    """At least a fifth of the restarts reached the best mode that is not degenerate."""
    objectives = finals(info, "objectives")
    texts = degenerate_texts(info)
    sane = np.array([not (n < len(texts) and texts[n]) for n in range(objectives.size)])
    usable = sane & np.isfinite(objectives)
    best = float(objectives[usable].max()) if usable.any() else float("nan")
    reached = int((within(objectives, best, TOLERANCE) & usable).sum())
    share = reached / objectives.size
    needed = min(max(50, 5 * objectives.size), 500)
    return check(
        "restarts",
        share >= AGREE,
        value=share,
        threshold=AGREE,
        where=f"{reached} of {objectives.size} restarts at the best mode ({best:.6g} nats)"
        if usable.any()
        else f"none of {objectives.size} restarts ended at a sane mode",
        meaning="The best mode was found so seldom that a better one may have been missed.",
        advice=f"Search on: `--with restarts={needed}`",
    )


def settled(info: Info) -> Check:
    """The smoothed ELBO stopped rising before the steps ran out."""
    path = finals(info, "elbo")
    last = f"ELBO {path[-1]:.6g} nats" if path.size else ""
    last += f" after {path.size} records" if path.size > 1 else ""
    done = bool(getattr(info, "settled", False))
    return check(
        "elbo",
        done,
        value=float(path[-1]) if path.size else None,
        where=last if done else f"still rising when it ended ({info.stopped}); {last}".rstrip("; "),
        meaning="The guide had not come as near to the posterior as it can.",
        advice="Let it run on: `--with max_steps=…` (double it), or a smaller "
        "`--with learning_rate=…` where the ELBO jumps about",
    )


def starts_agree(starts: np.ndarray) -> Check:
    """At least two starts ended at the best ELBO."""
    known = starts[np.isfinite(starts)]
    best = float(known.max()) if known.size else float("nan")
    reached = int(within(known, best, ELBO_TOLERANCE).sum())
    return check(
        "starts",
        reached >= 2,
        value=reached,
        threshold=2,
        where=f"{reached} of {starts.size} starts at the best ELBO ({best:.6g} nats)",
        meaning="The best ELBO was found once: a guide covers one mode, and a better one may have "
        "been missed.",
        advice="Search on: `--with starts=10`",
    )


def paths_agree(shares: np.ndarray, heights: np.ndarray) -> Check:
    """At least two paths found the place that holds the posterior's weight.

    They carry the weight between them, or ended as high as the one that carries most of it.
    """
    carrying = shares >= FAIR / shares.size
    top = float(heights[shares.argmax()])
    found = carrying | (within(heights, top, TOLERANCE) & within(-heights, -top, TOLERANCE))
    return check(
        "paths",
        int(found.sum()) >= 2,
        value=int(found.sum()),
        threshold=2,
        where=f"{int(carrying.sum())} of {shares.size} paths carry the weight"
        + (f", {more} more ended as high" if (more := int((found & ~carrying).sum())) else ""),
        meaning="A single path found where the weight lies: a mode that holds more still may have "
        "been missed.",
        advice="Search on: `--with paths=30`",
    )


def near_enough(stats: xr.Dataset, info: Info) -> Check:
    """k-hat of the weights p/q: can draws of the approximation be corrected at all?"""
    shape, n_draws = float("nan"), 0
    if "lp" in stats and "log_q" in stats:
        n_draws = int(stats["lp"].size)
        shape = k_hat(stats["lp"].to_numpy(), stats["log_q"].to_numpy())
    threshold = k_threshold(n_draws)
    known = n_draws >= FEWEST_DRAWS
    where = f"k-hat {shape:.2f} from {n_draws} draws"
    return check(
        "k_hat",
        known and shape < threshold,
        value=shape,
        threshold=threshold,
        where=where if known else f"unknown: {n_draws} draws with their densities",
        meaning="The approximation misses so much of the posterior (too narrow, or of another "
        "shape) that no reweighting of its draws can make up for it.",
        advice=_beyond(info)
        if known
        else f"Keep at least {FEWEST_DRAWS} draws: `--with draws=1000`",
    )


def _beyond(info: Info) -> str:
    """What is left to try: a richer guide where the one at hand is not the richest."""
    if getattr(info, "guide", "") in ("normal", "lowrank"):
        return (
            "Use a richer guide (`--with guide=multivariate`) or sample instead (`--method nuts`)"
        )
    return "Sample instead (`--method nuts`), or write the story in a form that is nearer to normal"
