"""What a variational fit did: the ELBO by step, and how far its draws are from the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from storyzoo.inference.engine.psis import proposal_stats
from storyzoo.reports.figures import Figure, Key
from storyzoo.reports.figures.svg import Canvas, colour
from storyzoo.reports.numbers import grouped

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted


def approximation_figures(fit: Fitted) -> list[Figure]:
    """ELBO path, starts and importance ratios, as far as the fit keeps them."""
    figures = []
    elbo = tuple(getattr(fit.info, "elbo", ()))
    if len(elbo) > 1:
        settled = getattr(fit.info, "settled", None)
        figures.append(ascent(elbo, settled, tuple(getattr(fit.info, "starts", ()))))
    recorded = proposal_stats(fit.tree)
    if {"lp", "log_q"} <= set(recorded.data_vars):
        ratios = (recorded["lp"] - recorded["log_q"]).to_numpy().astype(np.float64).ravel()
        figures.append(importance(ratios, _k_hat(fit)))
    return figures


def _k_hat(fit: Fitted) -> tuple[float | None, float | None]:
    """k-hat of the draws and its threshold, as the verdict has them."""
    for check in fit.verdict.checks:
        if check.scope == "posterior" and "k_hat" in check.name.lower().replace("-", "_"):
            return check.value, check.threshold
    return None, None


def ascent(elbo: Sequence[float], settled: bool | None, starts: Sequence[float]) -> Figure:
    """The smoothed ELBO by step; the first tenth may run off the floor of the panel."""
    values = np.asarray(elbo, float)
    kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), 360)).round().astype(int))
    canvas = Canvas(height=225)
    canvas.axes.plot(kept, values[kept], color=colour("c0"), lw=1.3)
    later = values[len(values) // 10 :]
    later = later[np.isfinite(later)]
    if len(later):
        low, high = later.min(), later.max()
        margin = 0.08 * max(high - low, 1e-9)
        canvas.axes.set_ylim(low - margin, max(high, np.nanmax(values[kept])) + margin)
    canvas.axes.set_xlabel("record of the smoothed path")
    canvas.axes.set_ylabel("ELBO, nats")
    said = {True: "It has settled", False: "It has not settled", None: "It ends"}[settled]
    end = grouped(float(values[-1]), 1)
    caption = f"The evidence lower bound by step, smoothed. {said} at {end} nats."
    if len(starts) > 1:
        ends = ", ".join(grouped(value, 1) for value in sorted(starts, reverse=True)[:8])
        caption += f" Its {len(starts)} starts ended at {ends}."
    return Figure("elbo", "The evidence lower bound", caption, (canvas.panel(caption),))


def importance(ratios: NDArray[np.float64], k_hat: tuple[float | None, float | None]) -> Figure:
    """Log importance ratios ``log p - log q`` of the draws, about their mean.

    Were the approximation exact they would all be equal; a long right tail is mass that it misses
    (Yao et al. 2018, "Yes, but did it work?").
    """
    ratios = ratios[np.isfinite(ratios)]
    canvas = Canvas(height=225)
    caption = (
        "Log importance ratios log p − log q: all equal were the approximation exact; "
        "a long right tail is mass that it misses."
    )
    if len(ratios) > 1:
        centred = ratios - ratios.mean()
        edges = np.histogram_bin_edges(centred, bins=44)
        height, _ = np.histogram(centred, edges)
        canvas.axes.stairs(height, edges, fill=True, color=colour("c0"), alpha=0.3, lw=0)
        canvas.axes.stairs(height, edges, color=colour("c0"), lw=1.2)
        weight = np.exp(centred - centred.max())
        share = np.sort(weight)[::-1][: max(1, len(weight) // 100)].sum() / weight.sum()
        caption += (
            f" The largest hundredth of the draws would carry {100 * share:.0f} % of the weight."
        )
    value, threshold = k_hat
    if value is not None:
        limit = f" (limit {grouped(threshold, 2)})" if threshold is not None else ""
        caption += f" k-hat {grouped(value, 2)}{limit}."
    canvas.axes.set_xlabel("log p − log q about its mean, nats")
    canvas.axes.set_ylabel("draws")
    keys = (Key("line", "c0", f"{len(ratios)} draws"),)
    return Figure("importance", "Distance from the target", caption, (canvas.panel(caption),), keys)
