"""Several fits of the same rows side by side, and which of them to trust."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import pandas as pd
from xarray import DataTree

from storyzoo.inference.engine.method import Method
from storyzoo.reports.distance import Distance, distance, shared_sites
from storyzoo.reports.numbers import grouped, rounded
from storyzoo.reports.summary import HELDOUT, summary_of
from storyzoo.reports.verdict import APPROXIMATE, MEETING, POINT, TOO_SHORT, TRUST, Verdict
from storyzoo.story import Story

__all__ = ["choose_best", "compare_table", "summary_of", "terminal_table", "to_csv"]

METRICS = (
    HELDOUT,
    f"{HELDOUT}_se",
    f"{HELDOUT}_lower",
    f"{HELDOUT}_upper",
    "elpd_loo",
    "elpd_loo_se",
    "k_hat",
    "r_hat_max",
    "ess_bulk_min",
    "ess_per_second",
)
EXACT, ESTIMATE, NOT_KNOWN = "exact", "estimate", "not known"

COLUMNS = (
    "name",
    "method",
    "story",
    "verdict",
    "seconds",
    "gradient_evaluations",
    *METRICS,
    "distance_sd",
    "distance_where",
    "sliced_wasserstein",
)


class Compared(Protocol):
    """What a comparison reads of a fit."""

    @property
    def story(self) -> Story: ...
    @property
    def method(self) -> Method: ...
    @property
    def verdict(self) -> Verdict: ...
    @property
    def tree(self) -> DataTree: ...
    @property
    def summary(self) -> Mapping[str, Any]: ...
    @property
    def seconds(self) -> float: ...


AnyFit = TypeVar("AnyFit", bound=Compared)


def compare_table(
    fits: Sequence[AnyFit], align: Callable[[AnyFit, AnyFit], DataTree] | None = None
) -> pd.DataFrame:
    """One row per fit; NaN where a metric does not apply.

    Distances are to the best trusted fit, among fits of its story; NaN where none is trusted.
    ``align(fit, reference)`` gives the fit's tree with its labels matched to the reference's; by
    default the trees are taken as they are.
    """
    best, _ = choose_best(fits)
    trusted = best is not None and fits[best].verdict.verdict == TRUST
    reference = fits[best] if trusted and best is not None else None
    rows = []
    for fit, name in zip(fits, labels(fits), strict=True):
        row: dict[str, Any] = {
            "name": name,
            "method": fit.method.name,
            "story": fit.story.name,
            "verdict": fit.verdict.verdict,
            "seconds": fit.seconds,
            "gradient_evaluations": fit.summary["gradient_evaluations"],
            "distance_where": "",
        }
        row |= {metric: _metric(fit, metric) for metric in METRICS}
        apart = None if reference is None else _apart(fit, reference, align)
        if apart is not None:
            row["distance_sd"], row["distance_where"] = apart.worst_sd, apart.where
            row["sliced_wasserstein"] = apart.sliced_wasserstein
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _apart(
    fit: AnyFit, reference: AnyFit, align: Callable[[AnyFit, AnyFit], DataTree] | None
) -> Distance | None:
    """Distance of a fit to the reference; None where they don't tell the same story."""
    if fit is reference:
        return Distance(0.0, "", 0.0)
    theirs = reference.tree["posterior"].to_dataset()
    if fit.story.name != reference.story.name:
        return None
    if not shared_sites(fit.tree["posterior"].to_dataset(), theirs):
        return None  # of another size: its labels can't be matched either
    tree = fit.tree if align is None else align(fit, reference)
    return distance(tree["posterior"].to_dataset(), theirs)


def labels(fits: Sequence[Compared]) -> list[str]:
    """A short name for each fit: its method, and what tells its story from the others'."""
    names = [f"{_told(fit.story, fits)} {fit.method.name}".strip() for fit in fits]
    twice = {name for name in names if names.count(name) > 1}
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        if name in twice:
            seen[name] = seen.get(name, 0) + 1
            names[place] = f"{name} ({seen[name]})"
    return names


def _told(story: Story, fits: Sequence[Compared]) -> str:
    """``gmm n_components=3`` among others; empty where all fits tell the same story."""
    others = [fit.story for fit in fits]
    parts = [story.name] if len({other.name for other in others}) > 1 else []
    namesakes = [other for other in others if type(other) is type(story)]
    for field in dataclasses.fields(story):
        value = getattr(story, field.name)
        plain = isinstance(value, bool | int | str)
        if plain and any(getattr(other, field.name) != value for other in namesakes):
            parts.append(f"{field.name}={value}")
    return " ".join(parts)


# -- which to trust ------------------------------------------------------------------------


def choose_best(fits: Sequence[Compared]) -> tuple[int | None, str]:
    """Place of the fit to use, and one sentence why; None where none may be used.

    A trusted fit before an approximation before a point. Among trusted fits of one story the one
    with the most effective draws, among approximations that with the lowest k-hat, among points
    the highest objective; where stories differ, the best on held-out data. A held-out score that
    is an estimate whose bounds don't meet counts as its lower bound.
    """
    names = labels(fits)
    for word in (TRUST, APPROXIMATE, POINT):
        places = [i for i, fit in enumerate(fits) if fit.verdict.verdict == word]
        if places:
            place, why, tied = _best_of(fits, places, word, names)
            sentence = _sentence(word, names[place], why, len(places), tied)
            return place, sentence + _caveat(fits[place].verdict)
    return None, _none(fits, names)


MERITS: dict[str, tuple[str, bool]] = {
    TRUST: ("ess_bulk_min", True),
    APPROXIMATE: ("k_hat", False),
    POINT: ("objective_nats", True),
}
"""By verdict: the metric that ranks fits of one story, and whether more of it is better."""


def _best_of(
    fits: Sequence[Compared], places: Sequence[int], word: str, names: Sequence[str]
) -> tuple[int, str, bool]:
    """The best of some fits that have the same verdict, by what, and whether others are as good."""
    chosen = [fits[i] for i in places]
    scored = all(math.isfinite(_metric(fit, HELDOUT)) for fit in chosen)
    differ = len({_same_story(fit) for fit in chosen}) > 1
    if scored and (differ or word == POINT):
        ranked = sorted(places, key=lambda i: -_sure_score(fits[i]))
        return ranked[0], *_heldout_reason(fits, ranked, names)
    merit, more = MERITS[word]
    sign = -1 if more else 1

    def rank(place: int) -> float:
        value = _metric(fits[place], merit)
        return sign * value if math.isfinite(value) else math.inf

    best = min(places, key=rank)
    value = _metric(fits[best], merit)
    if not math.isfinite(value):
        return best, "", False
    why = {
        TRUST: f"{grouped(value)} effective draws at the least",
        APPROXIMATE: f"k-hat {rounded(value, digits=2)}",
        POINT: f"objective {rounded(value, digits=6)} nats",
    }[word]
    return best, why, False


def _same_story(fit: Compared) -> tuple[str, str]:
    return type(fit.story).__qualname__, repr(fit.story)


def _sure_score(fit: Compared) -> float:
    """The held-out score, or its lower bound where that is all that is known."""
    return _metric(fit, HELDOUT) if _is_known(fit) else _ends(fit)[0]


def _heldout_reason(
    fits: Sequence[Compared], ranked: Sequence[int], names: Sequence[str]
) -> tuple[str, bool]:
    """The held-out score, who is too near behind to be told apart, and whether anybody is."""
    best = fits[ranked[0]]
    nature = likelihood_of(best.summary["metrics"])
    first, error = _metric(best, HELDOUT), _metric(best, f"{HELDOUT}_se")
    said = f"held-out log likelihood {rounded(first, error)} nats per example"
    if nature != EXACT:
        low, high = (rounded(end, error / 10) for end in _ends(best))
        said += f", {nature} between {low} and {high}"
    near = [
        i
        for i in ranked[1:]
        if _is_known(fits[i]) and first - _metric(fits[i], HELDOUT) < _error(best, fits[i])
    ]
    overlapping = [i for i in ranked[1:] if i not in near and _ends(fits[i])[1] >= _ends(best)[0]]
    for who, where in ((near, "its standard error"), (overlapping, "the bounds")):
        if who:
            said += f"; within {where}: {', '.join(names[i] for i in who)}"
    return said, bool(near or overlapping)


def _error(best: Compared, other: Compared) -> float:
    """Standard error within which two held-out scores are the same, nats per example.

    That of the best, since all fits are scored on the same rows; of an estimate its own, if more.
    """
    errors = [_metric(best, f"{HELDOUT}_se")]
    if likelihood_of(other.summary["metrics"]) != EXACT:
        errors.append(_metric(other, f"{HELDOUT}_se"))
    return max(errors)


def _ends(fit: Compared) -> tuple[float, float]:
    """Between what a held-out score lies for certain, or nearly: its bounds, or itself."""
    nature = likelihood_of(fit.summary["metrics"])
    if nature == EXACT:
        return _metric(fit, HELDOUT), _metric(fit, HELDOUT)
    low, high = _metric(fit, f"{HELDOUT}_lower"), _metric(fit, f"{HELDOUT}_upper")
    return (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)


def _is_known(fit: Compared) -> bool:
    return likelihood_of(fit.summary["metrics"]) != NOT_KNOWN


def likelihood_of(metrics: Mapping[Any, Any]) -> str:
    """What a held-out score is: ``exact``, an ``estimate``, or ``not known`` for all its bounds."""
    low, high = metrics.get(f"{HELDOUT}_lower", math.nan), metrics.get(f"{HELDOUT}_upper", math.nan)
    if low is None or high is None:
        return NOT_KNOWN
    if math.isnan(low) or math.isnan(high):
        return EXACT
    return ESTIMATE if abs(high - low) <= MEETING else NOT_KNOWN


def _sentence(word: str, name: str, why: str, count: int, tied: bool) -> str:
    told = f" ({why})" if why else ""
    if word == TRUST:
        if count == 1:
            return f"Trust {name}: it alone passes every check{told}."
        best = "none is clearly better" if tied else "it has the best score"
        return f"Trust {name}: of {count} fits that pass every check {best}{told}."
    if word == APPROXIMATE:
        return (
            f"No draws here can be trusted; {name} is an approximation that its checks find "
            f"sound{told}, but biased by construction."
        )
    return (
        f"Nothing here gives an uncertainty that can be trusted; {name} is a soundly found "
        f"point{told}."
    )


def _caveat(verdict: Verdict) -> str:
    """What a trusted answer was not tested for."""
    untested = [note for note in verdict.notes if note.startswith("multimodality not tested")]
    return "".join(f" {note[0].upper()}{note[1:]}." for note in untested)


def _none(fits: Sequence[Compared], names: Sequence[str]) -> str:
    """Nothing can be used: the shortest way to something that can."""
    if not fits:
        return "Nothing was fitted."
    short = [i for i, fit in enumerate(fits) if fit.verdict.verdict == TOO_SHORT]
    place = short[0] if short else next((i for i, f in enumerate(fits) if f.verdict.do_next), 0)
    nearest = "needs only a longer run" if short else "failed its checks"
    steps = fits[place].verdict.do_next
    step = f". Next: {steps[0]}" if steps else ""
    return f"Trust none of these: {names[place]} {nearest}{step}."


def _metric(fit: Compared, name: str) -> float:
    """A metric of the summary; NaN where it has none."""
    value = fit.summary["metrics"].get(name)
    return math.nan if value is None else float(value)


# -- as text -------------------------------------------------------------------------------


def to_csv(table: pd.DataFrame) -> str:
    """The table as CSV, empty where a metric does not apply."""
    text: str = table.to_csv(index=False, lineterminator="\n")
    return text


def terminal_table(table: pd.DataFrame, width: int = 100) -> str:
    """The table as plain text no wider than ``width``, in as many blocks as that takes."""
    columns = _shown(table)
    first, rest = columns[0], columns[1:]
    blocks: list[list[list[str]]] = [[first]]
    for column in rest:
        if _width([*blocks[-1], column]) > width and len(blocks[-1]) > 1:
            blocks.append([first])
        blocks[-1].append(column)
    return "\n\n".join(_block(block) for block in blocks)


def _shown(table: pd.DataFrame) -> list[list[str]]:
    """Columns of text, each with its heading first; those without any value are left out."""
    rows: list[dict[str, Any]] = [
        {str(key): value for key, value in row.items()} for row in table.to_dict("records")
    ]
    columns = {
        "": [str(row["name"]) for row in rows],
        "verdict": [str(row["verdict"]) for row in rows],
        "held-out/ex.": [_with_error(row, HELDOUT) for row in rows],
        "likelihood": _natures(rows),
        "ELPD-LOO": [_with_error(row, "elpd_loo") for row in rows],
        "k-hat": [grouped(row["k_hat"], 2) for row in rows],
        "R-hat": [grouped(row["r_hat_max"], 3) for row in rows],
        "ESS": [grouped(row["ess_bulk_min"]) for row in rows],
        "ESS/s": [rounded(row["ess_per_second"]) for row in rows],
        "off by sd": [_with_place(row) for row in rows],
        "Wasserstein": [grouped(row["sliced_wasserstein"], 2) for row in rows],
        "seconds": [grouped(row["seconds"], 1) for row in rows],
        "gradients": [grouped(row["gradient_evaluations"]) for row in rows],
    }
    return [
        [head, *cells]
        for head, cells in columns.items()
        if not head or any(cell != "–" for cell in cells)
    ]


def _natures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which held-out scores are exact; dashes where all are."""
    scored = [math.isfinite(row[HELDOUT]) for row in rows]
    natures = [likelihood_of(row) if s else "–" for row, s in zip(rows, scored, strict=True)]
    return natures if {ESTIMATE, NOT_KNOWN} & set(natures) else ["–"] * len(rows)


def _with_error(row: Mapping[str, Any], name: str) -> str:
    value, error = row[name], row[f"{name}_se"]
    if not math.isfinite(value):
        return rounded(value)
    shown = rounded(value, error / 10)
    return f"{shown} ± {rounded(error, error / 10)}" if math.isfinite(error) else shown


def _with_place(row: Mapping[str, Any]) -> str:
    value = grouped(row["distance_sd"], 2)
    return f"{value} {row['distance_where']}" if row["distance_where"] else value


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) for column in columns) + 2 * (len(columns) - 1)


def _block(columns: Sequence[Sequence[str]]) -> str:
    """Columns side by side; words to the left, numbers to the right."""
    lines = []
    for cells in zip(*columns, strict=True):
        padded = []
        for place, (cell, column) in enumerate(zip(cells, columns, strict=True)):
            size = max(map(len, column))
            padded.append(cell.ljust(size) if place == 0 or _is_words(column) else cell.rjust(size))
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _is_words(column: Sequence[str]) -> bool:
    return column[0] in ("verdict", "likelihood", "off by sd")
