"""What reports make of an estimated likelihood: its bounds, its error, what it may not decide."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from storyzoo.inference.engine.estimated import BOUNDS
from storyzoo.inference.engine.heldout import Predictive
from storyzoo.reports.compare import choose_best, compare_table, likelihood_of, terminal_table
from storyzoo.reports.quantities import likelihoods, scores
from storyzoo.reports.summary import HELDOUT, fitted_metrics, heldout_metrics
from storyzoo.reports.verdict import MEETING, Verdict, judge
from tests.reports.test_compare import Answer, climbed, sampled, scored
from tests.reports.trees import (
    AscentInfo,
    Network,
    SampledInfo,
    Schools,
    normal_draws,
    sampler_stats,
    tree_of,
)


def estimated(tree: xr.DataTree, gap: float, draws: int = 4, effective: float = 0.9) -> xr.DataTree:
    """The tree with estimated log likelihoods of three examples whose bounds lie so far apart."""
    value = np.full((1, draws, 3), -2.0)
    dims = ("chain", "draw", "school")
    bounds = {
        "lower": (dims, value - gap / 2),
        "upper": (dims, value + gap / 2),
        "standard_error": (dims[:2], np.full((1, draws), 0.03)),
        "effective": (dims[:2], np.full((1, draws), effective)),
    }
    tree["log_likelihood"] = xr.DataTree(xr.Dataset({"effect": (dims, value)}))
    tree[BOUNDS] = xr.DataTree(xr.Dataset(bounds))
    return tree


def judged(gap: float, kind: str = "point", effective: float = 0.9) -> Verdict:
    """The verdict on a healthy fit whose likelihood is an estimate."""
    if kind == "point":
        point = {name: values.mean((0, 1))[None, None] for name, values in normal_draws().items()}
        info = AscentInfo(objectives=(-50.0,) * 5, degenerate=("",) * 5, stopped="settled")
        tree = estimated(tree_of(point), gap, 1, effective)
        return judge(tree, info, kind=kind, story=Schools())
    tree = estimated(tree_of(normal_draws(), sampler_stats()), gap, effective=effective)
    return judge(tree, SampledInfo(), kind=kind, story=Schools())


def bounded(mean: float, half: float, error: float = 0.02, size: int = 100) -> Predictive:
    """A held-out score that is an estimate, equal over the examples."""
    nats = np.full(size, mean)
    return Predictive(nats, np.full(size, error), error, nats - half, nats + half)


# -- the verdict -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["point", "draws"])
def test_bounds_that_meet_pass(kind: str) -> None:
    verdict = judged(0.2, kind)
    check = next(c for c in verdict.checks if c.name == "likelihood_known")
    assert (check.scope, check.passed, check.threshold) == ("likelihood", True, MEETING)
    assert check.value == pytest.approx(0.2)
    assert check.where == (
        "bounds 0.20 nats apart, 90% of the samples are effective, standard error 0.030 nats"
    )
    assert verdict.likelihood_known and "not known" not in verdict.headline


@pytest.mark.parametrize("kind", ["point", "draws"])
def test_bounds_that_meet_by_few_samples_are_not_believed(kind: str) -> None:
    verdict = judged(0.2, kind, effective=0.05)
    assert not verdict.likelihood_known
    assert "The likelihood is not known: only 5% of the samples are effective" in verdict.headline


@pytest.mark.parametrize(("kind", "word"), [("point", "point estimate"), ("draws", "trust")])
@pytest.mark.parametrize("gap", [3.7, -3.7, np.inf, np.nan])
def test_bounds_that_do_not_meet_are_said_and_decide_nothing(
    kind: str, word: str, gap: float
) -> None:
    verdict = judged(gap, kind)
    assert verdict.verdict == word
    assert not verdict.likelihood_known
    assert "The likelihood is not known: bounds " in verdict.headline
    assert any(step.startswith("Read every log likelihood") for step in verdict.do_next)


def test_leave_one_out_is_refused_with_the_reason() -> None:
    verdict = judged(0.2, "draws")
    assert verdict.loo is None and "k_hat_loo" not in {c.name for c in verdict.checks}
    assert "no ELPD-LOO: it needs the exact likelihood of every draw, not estimates" in (
        verdict.notes
    )
    assert not any("ELPD" in note for note in judged(0.2, "point").notes)


def test_identified_quantities_are_never_judged_on_estimates() -> None:
    tree = tree_of(normal_draws(), sampler_stats())
    tree = estimated(tree, 0.2)
    renamed = tree["log_likelihood"].to_dataset().rename({"effect": "prediction"})
    tree["log_likelihood"] = xr.DataTree(renamed)
    verdict = judge(tree, SampledInfo(), kind="draws", story=Network())
    assert verdict.notes[0].startswith("not kept: prediction")


# -- the metrics -------------------------------------------------------------------------------


def test_an_estimate_stands_with_its_error_and_bounds_in_every_unit() -> None:
    found = replace_values(bounded(-1.5, 0.25, 0.1, size=10), 4)
    metrics = fitted_metrics(found)
    for name, value, error, low, high in (
        ("log_likelihood_nats", -15.0, 1.0, -17.5, -12.5),
        ("log_likelihood_nats_per_example", -1.5, 0.1, -1.75, -1.25),
        ("bits_per_dim", *(n / (4 * np.log(2)) for n in (1.5, 0.1, 1.25, 1.75))),
    ):
        ends = ("", "_se", "_lower", "_upper")
        found_ones = [metrics.pop(f"{name}{end}") for end in ends]
        np.testing.assert_allclose(found_ones, [value, error, low, high])
    assert not metrics


def replace_values(found: Predictive, values: int) -> Predictive:
    """The same scores of examples that hold so many discrete values each."""
    return found._replace(values=np.full(found.nats.size, float(values)))


def test_an_exact_point_has_neither_error_nor_bounds() -> None:
    nats = np.array([-1.0, -3.0])
    metrics = fitted_metrics(Predictive(nats, np.zeros(2), 0.0))
    assert metrics == {"log_likelihood_nats": -4.0, "log_likelihood_nats_per_example": -2.0}
    assert fitted_metrics(None) == {}


def test_held_out_errors_count_the_examples_too() -> None:
    drawn = heldout_metrics(scored(-2.0))
    assert set(drawn) == {
        f"heldout_{name}{end}"
        for name in ("log_likelihood_nats", "log_likelihood_nats_per_example")
        for end in ("", "_se", "_se_over_draws")
    }
    assert drawn[f"{HELDOUT}_se_over_draws"] == scored(-2.0).mean_se
    exact = heldout_metrics(scored(-2.0)._replace(mean_se=0.0))
    assert not [name for name in exact if name.endswith("_draws")]
    metrics = heldout_metrics(replace_values(bounded(-1.5, 0.25, 0.1), 4))
    assert metrics[f"{HELDOUT}_se"] == pytest.approx(0.1)
    assert metrics["heldout_log_likelihood_nats_se"] == pytest.approx(10.0)
    assert metrics["heldout_bits_per_dim_lower"] == pytest.approx(1.25 / (4 * np.log(2)))
    spread = scored(-2.0)
    wide = spread._replace(mean_se=0.1, lower=spread.nats - 0.1, upper=spread.nats + 0.1)
    assert heldout_metrics(wide)[f"{HELDOUT}_se"] == pytest.approx(np.hypot(0.0586, 0.1), abs=1e-3)


def test_every_likelihood_says_what_it_is() -> None:
    exact = Predictive(np.array([-1.0, -3.0]), np.zeros(2), 0.0)
    (row,) = likelihoods(fitted_metrics(exact))
    assert tuple(row) == ("Log likelihood", "−2.0000", "nats per example", "exact")
    (row,) = likelihoods(heldout_metrics(exact))
    assert tuple(row)[1:] == ("−2.0000 ± 1.0000", "nats per example", "exact; ± over examples")
    drawn = exact._replace(mean_se=0.012)
    for metrics in (fitted_metrics(drawn), heldout_metrics(drawn)):
        (row,) = likelihoods(metrics)
        assert row.nature == "mean over draws, Monte Carlo error 0.012"
    metrics = fitted_metrics(bounded(-1.5, 0.25, 0.1)) | heldout_metrics(bounded(-1.6, 0.25, 0.1))
    told = [row.nature for row in likelihoods(metrics)]
    assert told == ["estimate with bounds"] * 2
    assert {row.nature for row in scores(metrics, known=False)} == {
        "not known: its bounds don't meet"
    }


# -- comparison --------------------------------------------------------------------------------


def test_an_estimate_near_an_exact_score_is_no_winner() -> None:
    fits = [
        sampled(draws=500, heldout=bounded(-2.0, 0.1)),
        sampled(draws=500, story=Network(), heldout=bounded(-2.05, 0.0)._replace(
            lower=None, upper=None
        )),
    ]  # fmt: skip
    best, reason = choose_best(fits)
    assert best == 0
    assert "none is clearly better" in reason
    assert "estimate between −2.100 and −1.900; within the bounds: network nuts" in reason


def test_an_estimate_behind_counts_its_own_error() -> None:
    exact = bounded(-2.0, 0.0)._replace(lower=None, upper=None)
    for error, tied in ((0.3, True), (0.02, False)):
        fits = [
            sampled(draws=500, heldout=exact),
            sampled(draws=500, story=Network(), heldout=bounded(-2.25, 0.1, error)),
        ]
        best, reason = choose_best(fits)
        assert best == 0
        assert ("within its standard error: network nuts" in reason) == tied
        assert ("it has the best score" in reason) != tied


def test_a_likelihood_that_is_not_known_counts_as_its_lower_bound() -> None:
    wild = climbed(story=Network(), heldout=bounded(-1.0, 5.0))
    exact = climbed(heldout=bounded(-2.0, 0.0)._replace(lower=None, upper=None))
    best, reason = choose_best([wild, exact])
    assert best == 1
    assert "within the bounds: network em" in reason
    alone = sampled(heldout=bounded(-1.0, 5.0))
    assert likelihood_of(alone.summary["metrics"]) == "not known"


def test_the_table_tells_estimates_from_exact_scores() -> None:
    fits: list[Answer] = [
        climbed(heldout=scored(-2.0)),
        climbed(story=Network(), heldout=bounded(-2.3, 0.1)),
        climbed(story=Network(), heldout=bounded(-2.3, 4.0)),
        climbed(story=Schools(centred=True)),
    ]
    table = compare_table(fits)
    np.testing.assert_allclose(table[f"{HELDOUT}_lower"], [np.nan, -2.4, -6.3, np.nan])
    text = terminal_table(table, 200)
    assert "likelihood" in text.splitlines()[0]
    natures = [line for line in text.splitlines() if "em" in line]
    for line, nature in zip(natures, ("exact", "estimate", "not known", "–"), strict=True):
        assert nature in line
    assert "likelihood" not in terminal_table(compare_table(fits[:1]), 200).splitlines()[0]


def test_bounds_without_end_are_not_known() -> None:
    answer = climbed(heldout=bounded(-2.0, np.inf))
    assert answer.summary["metrics"][f"{HELDOUT}_lower"] is None
    assert likelihood_of(answer.summary["metrics"]) == "not known"
    fits = [answer, climbed(story=Network(), heldout=scored(-9.0))]
    best, _ = choose_best(fits)
    assert best == 1
