"""Pages: what stands on them, in which order, and that nothing from data gets out of hand."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import storyzoo as sz
from storyzoo.models.gmm import GaussianMixture
from storyzoo.reports.check import Check
from storyzoo.reports.figures.svg import plain
from storyzoo.reports.page import FIRST, FOLDED, asked, code, compare_page, fit_page, shown
from storyzoo.reports.parameters import LIMIT, parameters_of
from storyzoo.reports.quantities import scores
from storyzoo.reports.verdict import Verdict
from tests.reports.pages import (
    HOSTILE,
    PageFit,
    compared,
    mixture_fit,
    schools_fit,
    values_of,
)

VOID = {"meta", "link", "img", "br", "hr", "input"}
ADDRESSES = ("src", "href", "xlink:href", "data", "action", "poster", "srcset")


@dataclass
class Reading(HTMLParser):
    """A page as a reader's program sees it."""

    text: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    unbalanced: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ADDRESSES:
                self.addresses.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        """All text, with single spaces."""
        return " ".join(" ".join(self.text).split())


def read(page: str) -> Reading:
    """The page, read."""
    reading = Reading()
    reading.feed(page)
    reading.close()
    return reading


def section(page: str, anchor: str) -> str:
    """The words of one section."""
    found = re.search(rf'<section id="{anchor}".*?</section>', page, re.DOTALL)
    assert found, anchor
    return read(found[0]).words


@cache
def pages() -> dict[str, str]:
    """One page of each kind."""
    fits = [mixture_fit("point"), mixture_fit("approximation"), mixture_fit("draws")]
    return {
        "draws": fit_page(schools_fit()),
        "approximation": fit_page(fits[1]),
        "point": fit_page(fits[0]),
        "comparison": compare_page(compared(fits)),
    }


@pytest.mark.parametrize("kind", ["draws", "approximation", "point", "comparison"])
def test_a_page_is_one_well_formed_file_without_script_or_request(kind: str) -> None:
    page = pages()[kind]
    reading = read(page)
    assert not reading.unbalanced
    assert not reading.open
    assert not reading.handlers
    assert not {"script", "iframe", "object", "embed", "link", "img", "form"} & set(reading.tags)
    assert all(address.startswith("#") for address in reading.addresses)
    assert len(reading.ids) == len(set(reading.ids))
    assert {address[1:] for address in reading.addresses} <= set(reading.ids)
    assert "url(http" not in page
    assert "@import" not in page
    assert "@font-face" not in page
    assert len(page.encode()) < 600_000


@pytest.mark.parametrize("kind", ["draws", "approximation", "point", "comparison"])
def test_one_page_serves_light_dark_and_print(kind: str) -> None:
    page = pages()[kind]
    assert "@media screen and (prefers-color-scheme: dark)" in page
    assert "@media print" in page
    assert 'name="viewport"' in page
    assert page.count("--paper: #") == 2


def test_the_verdict_comes_first_with_symbol_word_and_steps_in_order() -> None:
    fit = schools_fit()
    words = read(fit_page(fit)).words
    order = [
        "eight-schools on made-up with Drawn",
        "✖ Do not trust",
        fit.verdict.headline,
        "Do next",
        *(step.replace("`", "") for step in fit.verdict.do_next),
        "✖ fail",
        "✔ pass",
        "Posterior summary, worst first",
        "Do the chains agree?",
        "Fit to the data",
        "Hyperparameters",
        "What was fitted",
        "Notes",
    ]
    squeezed = re.sub(r"\s+", "", words)
    places = [0]
    for text in order:  # each after the one before
        places.append(squeezed.find(re.sub(r"\s+", "", text), places[-1]))
        assert places[-1] >= 0, text


def judged(fit: PageFit, *checks: Check) -> str:
    """The page of a fit with checks of one's own."""
    return fit_page(replace(fit, verdict=Verdict("trust", "Sound.", checks, ())))


def test_checks_that_do_not_decide_stand_apart() -> None:
    inner = Check("r_hat", "posterior", True, 1.0, 1.01, "worst 1.00 at mu", "", "", "Source A")
    outer = Check("k_hat_loo", "loo", False, 0.9, 0.7, "worst 0.90 at y[3]", "Why.", "", "Source B")
    words = section(judged(schools_fit(), inner, outer), "verdict")
    assert words.index("worst 1.00 at mu") < words.index("Beside the verdict")
    assert words.index("Beside the verdict") < words.index("worst 0.90 at y[3]")
    assert "Why." in words
    notes = section(judged(schools_fit(), inner, outer), "notes")
    assert "Source A" in notes
    assert "Source B" in notes


@pytest.mark.parametrize(
    ("threshold", "where", "expected"),
    [
        (400.0, "lowest bulk ESS 28 at tau", "limit 400"),
        (1.01, "worst 1.077 at theta; 2 of 10 above 1.01", ""),
        (0.667, "worst 0.9", "limit 0.667"),
        (None, "", ""),
    ],
)
def test_a_threshold_is_said_once(threshold: float | None, where: str, expected: str) -> None:
    check = Check("some_check", "posterior", True, 1.0, threshold, where, "", "", "")
    assert asked(check) == expected


def test_the_table_is_worst_first_with_marks_and_no_idle_digit() -> None:
    fit = schools_fit()
    values_of(fit, "mu")[0] += 9
    page = fit_page(fit)
    words = section(page, "parameters")
    assert words.index("mu") < words.index("tau")
    assert "R-hat" in words
    assert re.search(r"mu \d+ \d+ −?\d+ … \d+ ✖ 1\.\d{3} ✖ \d+", words)
    scalar = parameters_of(fit).scalars[0]
    assert scalar.label == "mu"
    assert scalar.mcse > 1  # so that a decimal of the mean would be noise
    assert f"mu {scalar.mean:.0f} {scalar.sd:.0f}" in words


def test_a_point_has_values_only_and_is_called_no_posterior() -> None:
    words = section(pages()["point"], "parameters")
    assert "value" in words
    for banned in ("posterior", "Posterior", "interval", "R-hat", "ESS", "sd"):
        assert banned not in words
    assert "data simulated from the estimate" in pages()["point"]
    assert "Restart 5 (−3.000 nats): component 2 holds 3 points" in pages()["point"]


def test_an_approximation_has_intervals_but_no_chains() -> None:
    words = section(pages()["approximation"], "parameters")
    assert "89 % interval" in words
    assert "R-hat" not in words
    assert "may be narrower than the posterior" in words


def test_many_parameters_are_folded_and_the_rest_counted() -> None:
    page = fit_page(mixture_fit("point", features=[f"f{i}" for i in range(30)], rows=90))
    words = section(page, "parameters")
    found = parameters_of(mixture_fit("point", features=[f"f{i}" for i in range(30)], rows=90))
    assert f"{FOLDED} more parameters" in words or len(found.scalars) < FIRST + FOLDED
    assert sum(s.draws.size for s in found.scalars) <= LIMIT
    assert found.left_out == ("covariance",)
    assert "Too many to summarise: covariance." in words
    assert len(page.encode()) < 600_000


def test_the_run_and_the_settings_are_told() -> None:
    fit = schools_fit()
    fit.description = {"data": {"sha256": "0123456789abcdef" * 4, "heldout_rows": 7}}
    fit.notes = ("column 'id' was left out",)
    words = section(fit_page(fit), "fitted")
    for text in ("made-up", "12 345", "prior draws", "chains 4", "0123456789abcdef", "rows 8"):
        assert text in words
    assert "rows held out 7" in words
    assert "column 'id' was left out" in words
    assert "pyro-ppl" in words
    assert "centred True" in section(fit_page(fit), "model")


def test_settings_are_short() -> None:
    assert shown(0.01) == "0.01"
    assert shown(1e-6) == "1e−06"
    assert shown((1.23456789, 2.0)) == "1.2346, 2"
    assert shown(tuple(range(20))) == "0, 1, 2, 3, 4, 5, 6, 7, … (20)"
    assert shown(None) == "not set"


def test_scores_carry_unit_and_nature() -> None:
    rows = scores(
        {
            "heldout_log_likelihood_nats_per_example": -2.5,
            "heldout_log_likelihood_nats_per_example_se": 0.1,
            "elbo_nats": -20.0,
            "log_likelihood_nats": -8.0,
            "bits_per_dim": 1.0,
            "bits_per_dim_lower": 0.9,
            "bits_per_dim_upper": 1.1,
            "strange_nats": 3.0,
            "elpd_loo": None,
            "k_hat": float("nan"),
        }
    )
    assert [tuple(row) for row in rows] == [
        (
            "Log likelihood, held out", "−2.5000 ± 0.1000", "nats per example",
            "exact; ± over examples",
        ),
        ("Evidence lower bound (ELBO)", "−20.00", "nats", "lower bound, estimated"),
        ("Log likelihood", "−8.00", "nats", "exact"),
        ("Bits per dim", "1.0000 (bounds 0.9000 … 1.1000)", "bits", "estimate with bounds"),
        ("Strange", "3.00", "nats", ""),
    ]  # fmt: skip


def test_code_in_advice_is_set_as_code_and_escaped() -> None:
    assert code("run `zoo <fit>` & see") == "run <code>zoo &lt;fit&gt;</code> &amp; see"


# -- names from data ---------------------------------------------------------------------------


def hostile_page() -> str:
    """A page on which every name that data can bring is hostile."""
    fit = schools_fit(names=[*HOSTILE, "E", "F", "G"])
    fit.data_name = f"{HOSTILE[0]}.csv"
    fit.notes = (f"column '{HOSTILE[1]}' was left out",)
    return fit_page(fit)


def test_hostile_names_are_shown_as_text() -> None:
    page = hostile_page()
    reading = read(page)
    assert "script" not in reading.tags
    assert "img" not in reading.tags
    assert not reading.handlers
    assert not reading.unbalanced
    for name in HOSTILE[:3]:
        assert f"theta[{name}]" in reading.words
    assert plain(HOSTILE[3]) in reading.words
    assert f"eight-schools on {HOSTILE[0]}.csv" in reading.words
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", page)
    page.encode()


def test_a_mixture_of_hostile_features_is_shown_too() -> None:
    fit = mixture_fit("draws", features=HOSTILE[:3], labels=[HOSTILE[0], "b", HOSTILE[1]] * 40)
    reading = read(fit_page(fit))
    assert not {"script", "img"} & set(reading.tags)
    assert not reading.unbalanced
    assert HOSTILE[0] in reading.words
    comparison = compared([fit, fit], refused=[HOSTILE[0]], title=HOSTILE[1])
    reading = read(compare_page(comparison))
    assert not {"script", "img"} & set(reading.tags)
    assert f"not fitted: {HOSTILE[0]}" in reading.words


# -- fits gone wrong ---------------------------------------------------------------------------


def spoilt(what: str) -> PageFit:
    """A fit with something wrong."""
    if what == "one chain of two draws":
        return schools_fit(chains=1, count=2, diverging=False)
    fit = schools_fit(count=20)
    sites = ("mu", "tau", "theta")
    if what == "all missing":
        for name in sites:
            values_of(fit, name)[:] = np.nan
    if what == "one infinite":
        values_of(fit, "tau")[1, 3] = np.inf
    if what == "nothing moves":
        for name in sites:
            values_of(fit, name)[:] = 1.0
    if what == "huge and tiny":
        values_of(fit, "mu")[:] *= 1e30
        values_of(fit, "tau")[:] *= 1e-30
    if what == "every draw diverges":
        values_of(fit, "diverging", "sample_stats")[:] = True
    if what == "energy is missing":
        values_of(fit, "energy", "sample_stats")[:] = np.nan
    return fit


@pytest.mark.parametrize(
    "what",
    [
        "one chain of two draws",
        "all missing",
        "one infinite",
        "nothing moves",
        "huge and tiny",
        "every draw diverges",
        "energy is missing",
    ],
)
def test_a_fit_gone_wrong_still_has_its_page(what: str) -> None:
    reading = read(fit_page(spoilt(what)))
    assert not reading.unbalanced
    assert "Parameters" in reading.words


# -- comparisons -------------------------------------------------------------------------------


def test_the_comparison_says_first_which_answer_to_trust() -> None:
    fits = [mixture_fit("point"), mixture_fit("draws", metrics={"elpd_loo": -80.0})]
    comparison = compared(fits)
    page = compare_page(comparison)
    words = read(page).words
    assert words.index(comparison.reason[:20]) < words.index("gradient evaluations")
    table = section(page, "table")
    for heading in (
        "verdict",
        "seconds",
        "gradient evaluations",
        "held-out log likelihood",
        "ELPD-LOO",
        "k-hat",
        "worst R-hat",
        "least bulk ESS",
        "ESS per second",
        "distance",
        "sliced Wasserstein",
    ):
        assert heading in table
    assert "−80.0" in table
    assert "● point estimate" in table
    assert page.count('class="best"') == (comparison.best is not None)


def test_each_fit_has_its_verdict_and_a_link_to_its_own_report(tmp_path: Path) -> None:
    home = tmp_path / "cmp"
    fits = [
        mixture_fit("point", folder=home / "gmm-n_components=3-em #1"),
        mixture_fit("draws", folder=tmp_path / "elsewhere"),
    ]
    page = compare_page(compared(fits, folder=home))
    links = {address for address in read(page).addresses if not address.startswith("#")}
    assert links == {"gmm-n_components%3D3-em%20%231/report.html"}
    verdicts = section(page, "verdicts")
    for fit in fits:
        assert fit.verdict.headline in verdicts
        for check in fit.verdict.checks:
            assert check.title in verdicts


def test_fits_of_different_stories_can_be_compared() -> None:
    fits = [mixture_fit("draws"), mixture_fit("point", components=2), schools_fit("point")]
    reading = read(compare_page(compared(fits)))
    assert not reading.unbalanced
    assert "gmm" in reading.words


def test_a_comparison_may_trust_none() -> None:
    fits = [schools_fit(), schools_fit(seed=1)]
    comparison = compared(fits)
    assert comparison.best is None
    page = compare_page(comparison)
    assert "Trust none of these" in page
    assert 'class="best"' not in page


def test_labels_are_matched_before_fits_are_drawn_together() -> None:
    straight = mixture_fit("point")
    crossed = mixture_fit("point")
    for name in ("weight", "loc", "covariance"):
        values = values_of(crossed, name)
        values[:] = np.roll(values, 1, axis=2)  # (chain, draw, component, ...)
    page = compare_page(compared([straight, crossed]))
    drawn = re.findall(r"<p class=\"name\">climbed \(\d\)</p>.*?</svg>", page, re.DOTALL)
    assert len(drawn) == 2
    marks = [re.sub(r'"[^"]*f\d+-[^"]*"|climbed \(\d\)', "", text) for text in drawn]
    assert marks[0] == marks[1]


# -- a real fit --------------------------------------------------------------------------------


def test_a_real_fit_reports_itself() -> None:
    fit = sz.fit(GaussianMixture(3), "iris-petal", sz.EM(restarts=5), progress=False)
    page = fit.report()
    words = read(page).words
    assert "gmm on iris-petal with EM" in words
    assert "loc[0, petal_length]" in words
    assert "known classes" in words
    assert "setosa" in words
    assert f"{fit.verdict.verdict.capitalize()}" in words
    assert len(page.encode()) < 300_000
