"""Scores with what a reader must know of each: its unit, and whether it is exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from storyzoo.reports.numbers import grouped, rounded


class Quantity(NamedTuple):
    """What is known of a score by its name."""

    label: str
    unit: str
    nature: str
    """``exact``, ``estimate``, ``bound``, …"""
    places: int | None = None
    """Decimal places; by default three significant digits."""


class Score(NamedTuple):
    """One row of the table of scores."""

    label: str
    value: str
    unit: str
    nature: str


EXACT, ESTIMATE, BOUND, DIAGNOSTIC = "exact", "estimate", "lower bound, estimated", "diagnostic"
UNKNOWN = "not known: its bounds don't meet"
HELD_OUT = "exact; ± over examples"
"""What is known of each example held out, of which there might have been others."""

QUANTITIES: dict[str, Quantity] = {
    "log_likelihood_nats": Quantity("Log likelihood", "nats", EXACT, 2),
    "log_likelihood_nats_per_example": Quantity("Log likelihood", "nats per example", EXACT, 4),
    "log_likelihood_nats_per_step": Quantity("Log likelihood", "nats per step", EXACT, 4),
    "step_by_step_nats_per_step": Quantity(
        "Log likelihood, draws averaged at each step", "nats per step", ESTIMATE, 4
    ),
    "bits_per_step": Quantity("Bits per step", "bits", EXACT, 4),
    "log_evidence_nats": Quantity("Log evidence", "nats", "approximation", 2),
    "bits_per_dim": Quantity("Bits per dim", "bits", EXACT, 4),
    "bits_per_character": Quantity("Bits per character", "bits", EXACT, 4),
    "text_bytes": Quantity("Text", "bytes", EXACT, 0),
    "coded_bytes": Quantity("Text coded by the story, by its bits", "bytes", EXACT, 0),
    "gzip_bytes": Quantity("Text by gzip -9", "bytes", EXACT, 0),
    "xz_bytes": Quantity("Text by xz -9e", "bytes", EXACT, 0),
    "zstd_bytes": Quantity("Text by zstd -19", "bytes", EXACT, 0),
    "perplexity": Quantity("Perplexity", "equally likely choices", EXACT, 2),
    "left_to_right_nats_per_word": Quantity("Left to right", "nats per word", ESTIMATE, 4),
    "left_to_right_nats_per_example": Quantity("Left to right", "nats per example", ESTIMATE, 2),
    "npmi": Quantity("Coherence (NPMI)", "−1 to 1", EXACT, 3),
    "c_v": Quantity("Coherence (C_V by documents)", "", EXACT, 3),
    "topic_diversity": Quantity("Topic diversity", "share of words", EXACT, 3),
    "shared_topics": Quantity("Topics that runs share", "mean over pairs", EXACT, 1),
    "topic_cosine": Quantity("Cosine of matched topics", "mean over pairs of chains", EXACT, 3),
    "elpd_loo": Quantity("ELPD-LOO", "nats", ESTIMATE, 1),
    "p_loo": Quantity("Effective parameters (p_loo)", "", ESTIMATE, 1),
    "elbo_nats": Quantity("Evidence lower bound (ELBO)", "nats", BOUND, 2),
    "objective_nats": Quantity("Objective at the best mode", "nats", EXACT, 3),
    "inertia": Quantity("Inertia J", "squared units of the data", EXACT, 4),
    "k_hat": Quantity("k-hat", "", DIAGNOSTIC, 2),
    "r_hat_max": Quantity("Worst R-hat", "", DIAGNOSTIC, 3),
    "ess_bulk_min": Quantity("Fewest effective draws (bulk)", "draws", DIAGNOSTIC, 0),
    "ess_tail_min": Quantity("Fewest effective draws (tails)", "draws", DIAGNOSTIC, 0),
    "ess_per_second": Quantity("Effective draws per second", "1/s", DIAGNOSTIC, 1),
}

_BESIDE = ("_se", "_se_over_draws", "_se_over_particles", "_lower", "_upper")
_SUMMED = ("log_likelihood_nats", "log_likelihood_nats_per_example", "bits_per_dim")
"""Likelihoods, which are exact but for a mean over draws or a normaliser."""


def scores(metrics: Mapping[str, Any], known: bool = True) -> list[Score]:
    """Rows for every metric that has a value; an ``_se`` or bounds stand beside their metric.

    ``known``: whether the bounds of estimated likelihoods meet.
    """
    rows = []
    for name, value in metrics.items():
        base = next((name.removesuffix(end) for end in _BESIDE if name.endswith(end)), name)
        if base != name and base in metrics:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            continue
        rows.append(_score(name, float(value), metrics, known))
    return rows


def likelihoods(metrics: Mapping[str, Any], known: bool = True) -> list[Score]:
    """The log likelihood per example alone, of the rows held out and of those fitted."""
    name = "log_likelihood_nats_per_example"
    chosen = {key: value for key, value in metrics.items() if name in key}
    return scores(chosen, known)


def _score(name: str, value: float, metrics: Mapping[str, Any], known: bool) -> Score:
    heldout = name.startswith("heldout_")
    what = quantity(name.removeprefix("heldout_"))
    error = metrics.get(f"{name}_se")
    low, high = metrics.get(f"{name}_lower"), metrics.get(f"{name}_upper")
    places, nature = what.places, what.nature

    def shown(number: float) -> str:
        return rounded(number) if places is None else grouped(number, places)

    text = shown(value)
    if isinstance(error, (int, float)) and not math.isnan(error):
        text += f" ± {shown(float(error))}"
        nature = _with_error(name, metrics)
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        text += f" (bounds {shown(low)} … {shown(high)})"
        nature = "estimate with bounds" if known else UNKNOWN
    label = f"{what.label}, held out" if heldout else what.label
    return Score(label, text, what.unit, nature)


def _with_error(name: str, metrics: Mapping[str, Any]) -> str:
    """What a score is that has a standard error: over draws, or over examples alone."""
    over_draws = metrics.get(f"{name}_se_over_draws")
    if isinstance(over_draws, (int, float)):
        return f"mean over draws, Monte Carlo error {rounded(float(over_draws), digits=2)}"
    summed = name.startswith("heldout_") and name.removeprefix("heldout_") in _SUMMED
    return HELD_OUT if summed else ESTIMATE


def quantity(name: str) -> Quantity:
    """What is known of a score; of an unknown one, what its name says."""
    if name in QUANTITIES:
        return QUANTITIES[name]
    for ending in ("_nats_per_example", "_nats_per_word", "_nats_per_step", "_nats"):
        unit = ending[1:].replace("_", " ")
        if name.endswith(ending):
            return Quantity(_words(name.removesuffix(ending)), unit, "")
    return Quantity(_words(name), "", "")


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
