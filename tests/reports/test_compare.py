"""Which fit to trust, how far the others are from it, and the numbers of one fit."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from storyzoo.inference.engine.heldout import Completed, Predictive, Sequential
from storyzoo.inference.engine.method import Info, Kind, Method
from storyzoo.reports.compare import (
    COLUMNS,
    choose_best,
    compare_table,
    labels,
    summary_of,
    terminal_table,
    to_csv,
)
from storyzoo.reports.diagnostics import elements_of
from storyzoo.reports.distance import distance, sliced_wasserstein
from storyzoo.reports.verdict import Verdict, judge
from storyzoo.story import Story
from tests.reports.trees import (
    AscentInfo,
    LaplaceInfo,
    Network,
    SampledInfo,
    Schools,
    VariationalInfo,
    normal_draws,
    sampler_stats,
    tree_of,
)


@dataclass(frozen=True)
class Sampler(Method):
    """Stands for NUTS."""

    name: ClassVar[str] = "nuts"
    kind: ClassVar[Kind] = "draws"


@dataclass(frozen=True)
class Guide(Method):
    """Stands for SVI."""

    name: ClassVar[str] = "svi"
    kind: ClassVar[Kind] = "approximation"


@dataclass(frozen=True)
class Ascent(Method):
    """Stands for EM."""

    name: ClassVar[str] = "em"
    kind: ClassVar[Kind] = "point"


@dataclass
class Answer:
    """What a comparison reads of a fit."""

    tree: xr.DataTree
    info: Info
    method: Method = field(default_factory=Sampler)
    story: Story = field(default_factory=Schools)
    seconds: float = 10.0
    seed: int = 0
    data_name: str = "eight"
    heldout: Predictive | None = None
    fitted: Predictive | None = None
    completed: Completed | None = None
    sequential: Sequential | None = None

    def __post_init__(self) -> None:
        self.verdict: Verdict = judge(self.tree, self.info, kind=self.method.kind, story=self.story)
        self.summary: dict[str, Any] = summary_of(self)


def sampled(seed: int = 0, shift: float = 0.0, draws: int = 1000, **settings: Any) -> Answer:
    """Draws of a sampler, all of them moved by ``shift`` in ``mu``."""
    posterior = normal_draws(seed, draws=draws)
    posterior["mu"] += shift
    info = SampledInfo(gradient_evaluations=5000, compile_seconds=2.0)
    return Answer(tree_of(posterior, sampler_stats(4, draws)), info, **settings)


def funnelled(**settings: Any) -> Answer:
    """Draws with divergences."""
    stats = sampler_stats(diverging=np.arange(4000).reshape(4, 1000) % 100 == 0)
    return Answer(tree_of(normal_draws(3), stats), SampledInfo(), **settings)


def approximated(k: float = 0.0, **settings: Any) -> Answer:
    """Draws of an approximation; the weights spread as ``k`` says."""
    rng = np.random.default_rng(4)
    posterior = {name: values[:1] for name, values in normal_draws(4).items()}
    posterior["mu"] = 3 * posterior["mu"]
    log_q = np.zeros((1, 1000))
    stats = {"lp": k * rng.exponential(size=(1, 1000)), "log_q": log_q}
    return Answer(tree_of(posterior, stats), VariationalInfo(), Guide(), **settings)


def climbed(**settings: Any) -> Answer:
    """A point at the means."""
    point = {name: values.mean((0, 1))[None, None] for name, values in normal_draws().items()}
    objectives = settings.pop("objectives", (-50.0,) * 5)
    info = AscentInfo(objectives=objectives, degenerate=("",) * 5, stopped="settled")
    return Answer(tree_of(point), info, Ascent(), **settings)


def scored(mean: float, spread: float = 1.0) -> Predictive:
    """A hundred held-out examples."""
    nats = mean + spread * np.linspace(-1, 1, 100)
    return Predictive(nats, np.zeros(100), 0.01)


# -- which to trust ------------------------------------------------------------------------


def test_the_trusted_fit_with_the_most_effective_draws() -> None:
    fits = [climbed(), sampled(draws=500), approximated(0.1), sampled(draws=1000), funnelled()]
    best, reason = choose_best(fits)
    assert best == 3
    assert reason.startswith("Trust nuts (2): of 2 fits that pass every check it has the best")
    assert "effective draws" in reason
    best, reason = choose_best(fits[:2])
    assert best == 1 and "it alone passes every check" in reason


def test_held_out_data_decide_where_stories_differ() -> None:
    fits = [
        sampled(heldout=scored(-2.5)),
        sampled(draws=500, story=Schools(centred=True), heldout=scored(-2.0)),
        sampled(draws=500, story=Network(), heldout=scored(-2.02)),
    ]
    best, reason = choose_best(fits)
    assert best == 1
    assert "held-out log likelihood −2" in reason
    assert "within its standard error: network nuts" in reason


def test_without_trusted_draws_an_approximation_then_a_point() -> None:
    fits = [climbed(), approximated(0.4), funnelled(), approximated(0.1)]
    best, reason = choose_best(fits)
    assert best == 3
    assert "No draws here can be trusted" in reason and "biased by construction" in reason
    best, reason = choose_best([funnelled(), climbed(), climbed(objectives=(-40.0,) * 5)])
    assert best == 2 and "soundly found point" in reason and "−40" in reason


def test_none_where_nothing_can_be_used() -> None:
    best, reason = choose_best([funnelled(), approximated(3.0)])
    assert best is None
    assert reason.startswith("Trust none of these: nuts failed its checks. Next: Reparameterise")
    near = sampled()
    near.verdict = replace(near.verdict, verdict="too short", do_next=("Run longer",))
    best, reason = choose_best([funnelled(), near])
    assert best is None and "nuts (2) needs only a longer run. Next: Run longer" in reason
    assert choose_best([]) == (None, "Nothing was fitted.")


# -- the table -----------------------------------------------------------------------------


def test_table_of_methods() -> None:
    fits = [climbed(), approximated(0.1), sampled(heldout=scored(-2.0)), sampled(1, shift=3.0)]
    table = compare_table(fits)
    assert tuple(table.columns) == COLUMNS
    assert table["name"].tolist() == ["em", "svi", "nuts (1)", "nuts (2)"]
    assert table["verdict"].tolist() == ["point estimate", "approximate", "trust", "trust"]
    best, _ = choose_best(fits)
    assert best in (2, 3)
    off = table.set_index("name")
    near, far = ("nuts (1)", "nuts (2)") if best == 2 else ("nuts (2)", "nuts (1)")
    assert off.loc[near, "distance_sd"] == 0 and off.loc[near, "sliced_wasserstein"] == 0
    assert off.loc[far, "distance_sd"] == pytest.approx(1.0, abs=0.1)
    assert off.loc[far, "distance_where"] == "mu"
    # A point is as far from the posterior as its sd; only its means can be right.
    assert off.loc["em", "sliced_wasserstein"] == pytest.approx(1.0, abs=0.25)
    assert off.loc["svi", "distance_where"] == "mu"
    assert np.isnan(
        off.loc["em", ["k_hat", "r_hat_max", "ess_bulk_min", "elpd_loo"]].astype(float)
    ).all()
    ess = off["ess_bulk_min"].astype(float)
    assert off.loc["nuts (1)", "ess_per_second"] == pytest.approx(ess["nuts (1)"] / 8.0)
    heldout = "heldout_log_likelihood_nats_per_example"
    assert off.loc["nuts (1)", heldout] == pytest.approx(-2.0)
    assert off.loc["nuts (1)", f"{heldout}_se"] == pytest.approx(0.0595, abs=1e-3)
    assert off.loc["nuts (1)", "gradient_evaluations"] == 5000


def test_distances_need_a_trusted_fit_of_the_same_story() -> None:
    table = compare_table([climbed(), approximated(0.1)])
    assert table["distance_sd"].isna().all() and (table["distance_where"] == "").all()
    table = compare_table([sampled(), sampled(story=Network()), climbed()])
    assert np.isnan(table["distance_sd"][1]) and table["distance_sd"][2] < 0.1


def test_labels_are_matched_by_the_caller() -> None:
    flipped = sampled(1)
    posterior = flipped.tree["posterior"].to_dataset()
    flipped.tree["posterior"] = xr.DataTree(posterior.assign(theta=posterior["theta"] + 40.0))
    asked: list[tuple[Answer, Answer]] = []

    def align(fit: Answer, reference: Answer) -> xr.DataTree:
        asked.append((fit, reference))
        return reference.tree

    fits = [sampled(), flipped]
    assert compare_table(fits)["distance_sd"].max() > 5
    table = compare_table(fits, align=align)
    assert table["distance_sd"].max() < 1e-12
    assert len(asked) == 1


def test_names_tell_apart_what_differs() -> None:
    fits = [sampled(), climbed(), sampled(story=Schools(centred=True))]
    assert labels(fits) == ["centred=False nuts", "centred=False em", "centred=True nuts"]
    assert labels([sampled(), sampled(story=Network())]) == ["schools nuts", "network nuts"]
    assert labels([sampled(), sampled()]) == ["nuts (1)", "nuts (2)"]


# -- distances -----------------------------------------------------------------------------


def dataset(**values: np.ndarray) -> xr.Dataset:
    """A posterior whose variables are ``(chain, draw, part)`` at most."""
    return xr.Dataset({n: (("chain", "draw", "part")[: v.ndim], v) for n, v in values.items()})


def test_distance_of_normals() -> None:
    rng = np.random.default_rng(0)
    reference = dataset(a=rng.normal(5, 2, (4, 1000)), b=rng.normal(size=(4, 1000, 3)))
    other = dataset(a=rng.normal(9, 2, (1, 3000)), b=rng.normal(size=(1, 3000, 3)))
    found = distance(other, reference)
    assert found is not None
    assert found.worst_sd == pytest.approx(2.0, abs=0.1) and found.where == "a"
    assert found.sliced_wasserstein == pytest.approx(1.0, abs=0.1)  # 2 sd along one of four


def test_wasserstein_sees_what_means_do_not() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4000))
    assert sliced_wasserstein(x, rng.normal(size=(5, 4000))) < 0.08
    assert sliced_wasserstein(0.5 * x, x) == pytest.approx(0.5, abs=0.03)
    assert sliced_wasserstein(np.zeros((5, 1)), x) == pytest.approx(1.0, abs=0.05)
    assert sliced_wasserstein(x + 1, x) == pytest.approx(1.0, abs=0.1)
    assert sliced_wasserstein(x[:, :7], x) == sliced_wasserstein(x[:, :7], x)
    assert sliced_wasserstein(np.full((5, 2), np.nan), x) == np.inf


def test_distance_needs_the_same_shapes() -> None:
    rng = np.random.default_rng(0)
    three, two = rng.normal(size=(4, 500, 3)), rng.normal(size=(4, 500, 2))
    assert distance(dataset(b=two), dataset(b=three)) is None
    assert distance(dataset(a=two), dataset(b=three)) is None
    assert distance(dataset(a=two[..., 0], b=two), dataset(a=two[..., 0], b=three)) is None
    still = dataset(a=np.ones((4, 500)))
    assert distance(still, still) is None
    wild = three.copy()
    wild[0, 0, 1] = np.inf
    found = distance(dataset(b=wild), dataset(b=three))
    assert found is not None and found.worst_sd == np.inf and found.where == "b[1]"


def test_a_symmetric_matrix_counts_its_upper_half_whatever_the_rounding() -> None:
    root = np.random.default_rng(0).normal(size=(4, 500, 2, 2))
    matrix = root @ root.swapaxes(2, 3)
    dims = ("chain", "draw", "feature", "feature_other")
    exact = xr.Dataset({"covariance": (dims, matrix)})
    rounded = xr.Dataset({"covariance": (dims, matrix * (1 + 1e-13 * root))})
    lower = xr.Dataset({"covariance": (dims, np.linalg.cholesky(matrix))})
    assert elements_of(exact)[0] == elements_of(rounded)[0]
    assert len(elements_of(exact)[0]) == 3 and len(elements_of(lower)[0]) == 4
    for one, other in ((exact, rounded), (rounded, exact)):
        found = distance(one, other)
        assert found is not None and found.worst_sd < 1e-9
    assert distance(lower, exact) is not None


# -- as text -------------------------------------------------------------------------------


def test_csv_round_trip() -> None:
    table = compare_table([climbed(), sampled()])
    back = pd.read_csv(io.StringIO(to_csv(table)), keep_default_na=True)
    assert list(back.columns) == list(COLUMNS)
    assert back["r_hat_max"].isna().tolist() == [True, False]
    assert back["seconds"].tolist() == [10.0, 10.0]


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_terminal_table_keeps_to_the_width(width: int) -> None:
    fits = [climbed(), approximated(0.1), sampled(heldout=scored(-2.0)), funnelled()]
    text = terminal_table(compare_table(fits), width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("verdict", "held-out/ex.", "k-hat", "R-hat", "ESS/s", "Wasserstein", "seconds"):
        assert word in text
    assert text.count("nuts (1)") == len(text.split("\n\n"))
    assert "do not trust" in text and "−2.000 ± 0.059" in text
    assert "ELPD" not in text  # no fit has it


# -- the summary ---------------------------------------------------------------------------


def test_summary_is_plain_json_of_the_promised_keys() -> None:
    summary = sampled(heldout=scored(-2.0)).summary
    assert list(summary) == [
        "story",
        "data",
        "method",
        "seed",
        "seconds",
        "compile_seconds",
        "gradient_evaluations",
        "cut_short",
        "verdict",
        "checks",
        "metrics",
    ]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["story"] == "schools" and summary["method"] == "nuts"
    assert set(summary["checks"][0]) == {
        "name",
        "scope",
        "passed",
        "value",
        "threshold",
        "where",
        "advice",
    }
    assert {"r_hat_max", "ess_bulk_min", "ess_tail_min", "ess_per_second"} < set(summary["metrics"])


def test_numbers_that_are_not_finite_become_null() -> None:
    answer = sampled(heldout=scored(-np.inf))
    assert answer.summary["metrics"]["heldout_log_likelihood_nats_per_example"] is None
    json.dumps(answer.summary, allow_nan=False)
    assert np.isnan(compare_table([answer])["heldout_log_likelihood_nats_per_example"][0])


def test_metrics_by_method() -> None:
    assert climbed().summary["metrics"] == {"objective_nats": -50.0}
    metrics = approximated(0.1).summary["metrics"]
    assert set(metrics) == {"elbo_nats", "k_hat"} and metrics["elbo_nats"] == -200.0
    info = LaplaceInfo(objectives=(-50.0,) * 5, degenerate=("",) * 5, log_evidence=-60.0)
    laplace = Answer(approximated(0.1).tree, info, Guide())
    assert laplace.summary["metrics"]["log_evidence_nats"] == -60.0
    effect = {"effect": np.full((4, 1000, 3), -1.0)}
    tree = tree_of(normal_draws(), sampler_stats(), log_likelihood=effect)
    metrics = Answer(tree, SampledInfo()).summary["metrics"]
    assert metrics["elpd_loo"] == pytest.approx(-3.0) and metrics["elpd_loo_se"] == 0
