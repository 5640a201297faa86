"""One HTML page for a fit, a comparison or a calibration: the verdict first, then what it rests on.

The page is a single file: no script, no request, no font or picture from elsewhere. Every text
that came from data is escaped where it enters the page.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from xarray import DataTree

from storyzoo.inference.engine.method import Info, Method
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.reports.calibration import INTERVALS, LEVEL, Judged, Reading, shown_p
from storyzoo.reports.check import Check
from storyzoo.reports.compare import EXACT, likelihood_of
from storyzoo.reports.diagnostics import Limits
from storyzoo.reports.figures import Figure, Panel, own_figures
from storyzoo.reports.figures.approximation import approximation_figures
from storyzoo.reports.figures.calibration import PANELS, calibration_figures
from storyzoo.reports.figures.compared import aligned, forest, side_by_side
from storyzoo.reports.figures.curve import curve_figures
from storyzoo.reports.figures.graph import graph_figure
from storyzoo.reports.figures.likelihood import likelihood_figures
from storyzoo.reports.figures.optimum import optimum_figures
from storyzoo.reports.figures.predictive import predictive_figures
from storyzoo.reports.figures.sampler import sampler_figures
from storyzoo.reports.figures.svg import PALETTE, plain, swatch
from storyzoo.reports.glossary import ENTRIES
from storyzoo.reports.numbers import grouped, rounded
from storyzoo.reports.parameters import INTERVAL, Parameters, Scalar, parameters_of
from storyzoo.reports.quantities import scores
from storyzoo.reports.summary import HELDOUT
from storyzoo.reports.verdict import Verdict
from storyzoo.story import Story

FIRST = 30
"""Parameters that the page shows at once."""
FOLDED = 270
"""Parameters that it shows on request."""
LONGEST = 72
"""Characters of a name up to which the table shows it in full."""

SYMBOLS = {
    "trust": ("✔", "good"),
    "too short": ("▲", "warn"),
    "do not trust": ("✖", "bad"),
    "approximate": ("≈", "c0"),
    "point estimate": ("●", "c0"),
}
"""Verdict -> its symbol and the role of its colour; the word always stands beside them."""

CALIBRATION_SYMBOLS = {
    "calibrated": ("✔", "good"),
    "too narrow": ("✖", "bad"),
    "too wide": ("✖", "bad"),
    "shifted": ("✖", "bad"),
    "not calibrated": ("✖", "bad"),
}

PACKAGES = ("storyzoo", "torch", "pyro-ppl", "numpy", "arviz-base", "arviz-stats")


class Fitted(Protocol):
    """What a page reads of a fit."""

    @property
    def story(self) -> Story: ...
    @property
    def method(self) -> Method: ...
    @property
    def seed(self) -> int: ...
    @property
    def info(self) -> Info: ...
    @property
    def verdict(self) -> Verdict: ...
    @property
    def tree(self) -> DataTree: ...
    @property
    def summary(self) -> Mapping[str, Any]: ...
    @property
    def data_name(self) -> str: ...
    @property
    def structure(self) -> Structure: ...
    @property
    def seconds(self) -> float: ...
    @property
    def target(self) -> Target: ...
    @property
    def units(self) -> Scale: ...
    @property
    def description(self) -> Mapping[str, Any]: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def folder(self) -> Path | None: ...


class Scale(Protocol):
    """To the units that were fitted and back to those of the data."""

    def fitted(self, tree: DataTree) -> DataTree:
        """The tree as it was fitted."""

    def shown(self, tree: DataTree) -> DataTree:
        """The tree in the data's own units."""


class Comparison(Protocol):
    """What a page reads of a comparison."""

    @property
    def fits(self) -> Sequence[Fitted]: ...
    @property
    def table(self) -> pd.DataFrame: ...
    @property
    def best(self) -> int | None: ...
    @property
    def title(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def refused(self) -> Sequence[str]: ...
    @property
    def folder(self) -> Path | None: ...


class Calibrated(Protocol):
    """What a page reads of a calibration."""

    @property
    def story(self) -> Story: ...
    @property
    def method(self) -> Method: ...
    @property
    def seed(self) -> int: ...
    @property
    def judged(self) -> Judged: ...
    @property
    def data_name(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def summary(self) -> Mapping[str, Any]: ...


class RankRow(NamedTuple):
    """One quantity of a calibration as the table shows it."""

    label: str
    word: str
    symbol: str
    role: str
    p: str
    p_adjusted: str
    mean_rank: str
    coverage: tuple[str, ...]


class Row(NamedTuple):
    """One parameter as the table shows it."""

    label: str
    whole: str
    """The label in full, where it is too long to be shown."""
    mean: str
    sd: str
    interval: str
    r_hat: str
    r_hat_bad: bool
    ess_bulk: str
    ess_bulk_bad: bool
    ess_tail: str
    ess_tail_bad: bool
    mcse: str


class Column(NamedTuple):
    """A heading of the table of fits."""

    heading: str
    unit: str = ""


class Cell(NamedTuple):
    """A number of the table of fits, and what stands small below it."""

    text: str
    below: str = ""


class Answer(NamedTuple):
    """One fit in the table of fits and below it."""

    name: str
    href: str
    verdict: Verdict
    symbol: str
    role: str
    best: bool
    cells: tuple[Cell, ...]


class Section(NamedTuple):
    """Figures under one heading."""

    anchor: str
    title: str
    figures: Sequence[Figure]


def fit_page(fit: Fitted) -> str:
    """The report on one fit, a whole HTML document."""
    parameters = parameters_of(fit)
    return _render(
        "fit.html",
        title=title_of(fit),
        facts=facts_of(fit),
        verdict=fit.verdict,
        symbols=SYMBOLS,
        kind=fit.method.kind,
        parameters=parameters,
        rows=[row_of(s, parameters.limits) for s in parameters.scalars[: FIRST + FOLDED]],
        first=FIRST,
        percent=round(100 * INTERVAL),
        sections=sections_of(fit, parameters),
        scores=scores(fit.summary.get("metrics", {}), fit.verdict.likelihood_known),
        story=story_of(fit),
        hyperparameters=fields_of(fit.story),
        settings=fields_of(fit.method),
        ran=ran_of(fit),
        sources=sources_of(fit.verdict.checks),
    )


def compare_page(comparison: Comparison) -> str:
    """The report on several fits of the same data, a whole HTML document."""
    best = comparison.best
    names = [plain(name, 60) for name in comparison.table["name"]]
    reference = comparison.fits[_reference(comparison)]
    fits = aligned(comparison.fits, reference)
    sections = [
        Section("stories", "The data as each fit tells them", side_by_side(fits, names, reference)),
        Section("forest", "Parameters by fit", forest(fits, names, reference)),
        Section("model", "Model", [graph_figure(reference)]),
    ]
    return _render(
        "compare.html",
        title=comparison.title,
        facts=["comparison", f"storyzoo {installed('storyzoo')}", f"seed {reference.seed}"],
        word="do not trust" if best is None else comparison.fits[best].verdict.verdict,
        heading="Trust none of these" if best is None else _heading(comparison, names[best]),
        reason=comparison.reason,
        refused=comparison.refused,
        symbols=SYMBOLS,
        columns=COLUMNS,
        fits=_answers(comparison, names),
        sections=[section for section in sections if section.figures],
        story=story_of(reference),
    )


def calibration_page(calibration: Calibrated) -> str:
    """The report on a calibration, a whole HTML document."""
    readings = calibration.judged.readings
    story, method = calibration.story, calibration.method
    return _render(
        "calibration.html",
        title=f"Is {method_title(method)} calibrated for {story.name} on data like "
        f"{calibration.data_name}?",
        facts=[
            "calibration by simulation",
            f"storyzoo {installed('storyzoo')}",
            f"seed {calibration.seed}",
            f"{calibration.summary['simulations']} simulations",
        ],
        judged=calibration.judged,
        symbols=CALIBRATION_SYMBOLS,
        rows=[rank_row_of(reading) for reading in readings[: FIRST + FOLDED]],
        first=PANELS,
        level=LEVEL,
        levels=INTERVALS,
        figures=calibration_figures(readings),
        story=story_of(calibration),
        hyperparameters=fields_of(story),
        settings=fields_of(method),
        ran=calibrations_of(calibration),
        entry=ENTRIES["calibration"],
    )


def rank_row_of(reading: Reading) -> RankRow:
    """A quantity in text."""
    symbol, role = CALIBRATION_SYMBOLS[reading.word]
    return RankRow(
        label=plain(reading.name, LONGEST),
        word=reading.word,
        symbol=symbol,
        role=role,
        p=shown_p(reading.p),
        p_adjusted=shown_p(reading.p_adjusted),
        mean_rank=f"{reading.fractions.mean():.2f}",
        coverage=tuple(f"{100 * reading.coverage(level):.0f} %" for level in INTERVALS),
    )


def calibrations_of(calibration: Calibrated) -> list[tuple[str, str]]:
    """What was simulated and fitted."""
    summary = calibration.summary
    failed = summary["failed"]
    rows = [
        ("data of the shape of", calibration.data_name),
        ("simulations ranked", grouped(summary["simulations"])),
        ("fits that broke off", grouped(len(failed)) if failed else "none"),
        ("draws ranked among", grouped(summary["draws_ranked"])),
        ("seed", str(calibration.seed)),
        ("seconds", grouped(calibration.seconds, 1)),
        ("versions", ", ".join(f"{name} {installed(name)}" for name in PACKAGES)),
    ]
    return [(name, text) for name, text in rows if text]


def _reference(comparison: Comparison) -> int:
    """The fit that others are held against: the best, else the first with draws, or the first."""
    if comparison.best is not None:
        return comparison.best
    kinds = [fit.method.kind for fit in comparison.fits]
    return kinds.index("draws") if "draws" in kinds else 0


def _heading(comparison: Comparison, name: str) -> str:
    word = comparison.fits[comparison.best or 0].verdict.verdict
    return {
        "trust": f"Trust {name}",
        "approximate": f"Only an approximation: {name}",
        "point estimate": f"Only a point: {name}",
    }.get(word, f"{name}: {word}")


COLUMNS = (
    Column("fit"),
    Column("verdict"),
    Column("seconds"),
    Column("gradient evaluations"),
    Column("held-out log likelihood", "nats per example"),
    Column("ELPD-LOO", "nats"),
    Column("k-hat"),
    Column("worst R-hat"),
    Column("least bulk ESS"),
    Column("ESS per second"),
    Column("distance", "sd"),
    Column("sliced Wasserstein", "sd"),
)


def _answers(comparison: Comparison, names: Sequence[str]) -> list[Answer]:
    rows = comparison.table.to_dict("records")
    answers = []
    for place, (fit, name, row) in enumerate(zip(comparison.fits, names, rows, strict=True)):
        symbol, role = SYMBOLS.get(fit.verdict.verdict, ("●", "muted"))
        link = _link(comparison.folder, fit.folder)
        best = place == comparison.best
        answers.append(Answer(name, link, fit.verdict, symbol, role, best, _cells(row)))
    return answers


def _cells(row: Mapping[Any, Any]) -> tuple[Cell, ...]:
    """The numbers of one fit, in the order of the columns after the verdict."""
    where = plain(row["distance_where"], 40)
    return (
        Cell(grouped(row["seconds"], 1)),
        Cell(grouped(row["gradient_evaluations"])),
        _heldout(row),
        _with_error(row, "elpd_loo", 1),
        Cell(grouped(row["k_hat"], 2)),
        Cell(grouped(row["r_hat_max"], 3)),
        Cell(grouped(row["ess_bulk_min"])),
        Cell(rounded(row["ess_per_second"])),
        Cell(rounded(row["distance_sd"], digits=2), f"at {where}" if where else ""),
        Cell(rounded(row["sliced_wasserstein"], digits=2)),
    )


def _heldout(row: Mapping[Any, Any]) -> Cell:
    """The held-out score, with a word where it is not exact."""
    cell, nature = _with_error(row, HELDOUT, 3), likelihood_of(row)
    return cell if nature == EXACT else cell._replace(below=f"{cell.below}, {nature}")


def _with_error(row: Mapping[Any, Any], name: str, places: int) -> Cell:
    value, error = grouped(row[name], places), row[f"{name}_se"]
    return Cell(value, f"± {grouped(error, places)}" if math.isfinite(error) else "")


def _link(home: Path | None, folder: Path | None) -> str:
    """Address of a fit's own report, relative to the comparison's; empty where it has none."""
    if home is None or folder is None or not folder.is_relative_to(home):
        return ""
    return quote(f"{folder.relative_to(home).as_posix()}/report.html")


def title_of(fit: Fitted) -> str:
    """``gmm on iris with NUTS``."""
    return f"{fit.story.name} on {fit.data_name} with {method_title(fit.method)}"


def method_title(method: Method) -> str:
    """How a method is called in a heading: EM, MAP, SVI, NUTS, Laplace."""
    return type(method).__name__


def facts_of(fit: Fitted) -> list[str]:
    """The line above the title."""
    posterior = fit.tree["posterior"]
    facts = ["diagnostic report", f"storyzoo {installed('storyzoo')}", f"seed {fit.seed}"]
    if fit.method.kind == "draws":
        facts.append(f"{posterior.sizes['chain']} chains × {posterior.sizes['draw']} draws")
    elif fit.method.kind == "approximation":
        facts.append(f"{posterior.sizes['draw']} draws of an approximation")
    else:
        facts.append("one point, no draws")
    return [*facts, f"pyro-ppl {installed('pyro-ppl')}", f"torch {installed('torch')}"]


def installed(package: str) -> str:
    """Version of an installed package, or a dash."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "–"


def row_of(scalar: Scalar, limits: Limits) -> Row:
    """A parameter in text: the mean to its MCSE, the ends of the interval to twice that.

    What is beyond the limits is marked, as the verdict's checks do.
    """
    low, high = (rounded(end, 2 * scalar.mcse) for end in (scalar.low, scalar.high))
    known = math.isfinite(scalar.sd)
    return Row(
        label=plain(scalar.label, LONGEST),
        whole=plain(scalar.label) if len(scalar.label) > LONGEST else "",
        mean=rounded(scalar.mean, scalar.mcse, digits=4),
        sd=rounded(scalar.sd, scalar.mcse),
        interval=f"{low} … {high}" if known else "–",
        r_hat=grouped(scalar.r_hat, 3),
        r_hat_bad=scalar.r_hat > limits.r_hat,
        ess_bulk=grouped(scalar.ess_bulk),
        ess_bulk_bad=scalar.ess_bulk < limits.ess,
        ess_tail=grouped(scalar.ess_tail),
        ess_tail_bad=scalar.ess_tail < limits.ess,
        mcse=rounded(scalar.mcse, digits=2),
    )


def sections_of(fit: Fitted, parameters: Parameters) -> list[Section]:
    """The figures that suit the fit; headings without figures are left out."""
    heading, figures = _of_method(fit, parameters)
    sections = [
        Section("story", "The data as the story tells them", own_figures(fit)),
        Section("method", heading, figures),
        Section("predictive", "Fit to the data", predictive_figures(fit)),
        Section("model", "Model", [graph_figure(fit)]),
    ]
    return [section for section in sections if section.figures]


def _of_method(fit: Fitted, parameters: Parameters) -> tuple[str, list[Figure]]:
    learnt = [*curve_figures(fit), *likelihood_figures(fit)]
    if fit.method.kind == "draws":
        return "Sampler", [*sampler_figures(fit, parameters.varying), *learnt]
    if fit.method.kind == "approximation":
        return "Approximation", [*approximation_figures(fit), *learnt, *optimum_figures(fit)]
    return "Optimum", [*learnt, *optimum_figures(fit)]


def story_of(fit: Fitted | Calibrated) -> str:
    """What the story says of itself in its first paragraph."""
    text = inspect.cleandoc(type(fit.story).__doc__ or "")
    return text.split("\n\n")[0] if not text.startswith(type(fit.story).__name__ + "(") else ""


def fields_of(settings: Any) -> list[tuple[str, str]]:
    """Fields of a story or a method with their values."""
    return [
        (field.name, shown(getattr(settings, field.name))) for field in dataclasses.fields(settings)
    ]


def shown(value: object) -> str:
    """A setting in short: numbers without noise, long sequences cut."""
    if isinstance(value, float):
        return f"{value:.5g}".replace("-", "−")
    if isinstance(value, (tuple, list, np.ndarray)):
        items = [shown(item) for item in list(value)[:8]]
        return ", ".join(items) + (f", … ({len(value)})" if len(value) > 8 else "")
    return "not set" if value is None else plain(value, 200)


def ran_of(fit: Fitted) -> list[tuple[str, str]]:
    """What was fitted and how it ran."""
    info = fit.info
    missing = _missing(fit)
    data = fit.description.get("data", {})
    rows = [
        ("data", fit.data_name),
        ("SHA-256", str(data.get("sha256", ""))[:16]),
        ("rows", grouped(data.get("rows", fit.structure.n_examples))),
        ("rows held out", grouped(data["heldout_rows"]) if data.get("heldout_rows") else ""),
        ("values missing", grouped(missing) if missing else "none"),
        ("seed", str(fit.seed)),
        ("seconds", grouped(fit.seconds, 1)),
        ("of them compiling", grouped(info.compile_seconds, 1) if info.compile_seconds else ""),
        ("gradient evaluations", grouped(info.gradient_evaluations)),
        ("started from", info.start),
        ("stopped", info.stopped.replace("_", " ")),
        ("engine", info.engine),
        *(("note", note) for note in (*info.notes, *fit.notes)),
        ("versions", ", ".join(f"{name} {installed(name)}" for name in PACKAGES)),
    ]
    return [(name, text) for name, text in rows if text]


def _missing(fit: Fitted) -> int:
    count = 0
    for group in ("observed_data", "constant_data"):
        node = fit.tree.children.get(group)
        for values in node.data_vars.values() if node is not None else ():
            if values.dtype.kind == "f":
                count += int(np.isnan(values.values).sum())
    return count


def sources_of(checks: Sequence[Check]) -> list[tuple[str, str, str]]:
    """Title, meaning and source of each check."""
    return [(check.title, check.meaning, check.source) for check in checks]


# -- rendering ---------------------------------------------------------------------------------


def _render(template: str, **context: Any) -> str:
    """A template filled in; every string is escaped by jinja, control characters go."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    count = itertools.count()

    def drawn(panel: Panel) -> Markup:
        return panel.markup(f"f{next(count)}-")

    environment.filters["number"] = rounded
    environment.filters["code"] = code
    environment.filters["asked"] = asked
    environment.globals["swatch"] = swatch
    page = environment.get_template(template).render(
        palette=PALETTE, drawn=drawn, version=installed("storyzoo"), **context
    )
    return "".join(char if _printable(char) else "\ufffd" for char in page)


def _printable(char: str) -> bool:
    return char == "\n" or unicodedata.category(char) not in ("Cc", "Cs")


def code(text: str) -> Markup:
    """Text with what stands between backticks set as code."""
    parts = re.split(r"`([^`]*)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


def asked(check: Check) -> str:
    """What was asked of a check, where its title and finding do not say it."""
    if check.threshold is None:
        return ""
    text = f"{check.threshold:.3g}"
    if f"{100 * check.threshold:g} %" in check.title:
        return ""
    said = f"{check.title} {check.where}"
    return "" if re.search(rf"(?<![\d.]){re.escape(text)}(?![\d])", said) else f"limit {text}"
