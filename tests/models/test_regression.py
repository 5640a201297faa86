"""What the regressions share: the priors of the slopes, standard units, and what they refuse."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from storyzoo.cli import main
from storyzoo.errors import DataError, SettingError
from storyzoo.inference.engine.simulation import Simulator
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.models.linear_regression import LinearRegression
from storyzoo.models.logistic_regression import LogisticRegression
from storyzoo.models.poisson_regression import PoissonRegression
from storyzoo.models.regression import Regression
from tests.models.regressions import followed

KINDS: list[type[Regression]] = [LinearRegression, LogisticRegression, PoissonRegression]
RNG = np.random.default_rng(5)
X = RNG.normal(size=(20, 5)) * [1.0, 10.0, 0.1, 2.0, 5.0] + [0.0, 50.0, 3.0, -2.0, 9.0]
Y = {
    "linear-regression": X[:, 0] + RNG.normal(size=20),
    "logistic-regression": np.arange(20.0) % 2,
    "poisson-regression": np.arange(20.0) % 7,
}

LOGISTIC = {"x": X, "y": Y["logistic-regression"]}

each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def arrays(kind: type[Regression]) -> dict[str, np.ndarray]:
    return {"x": X, "y": Y[kind.name]}


def scaled(kind: type[Regression], **fields: Any) -> Regression:
    data = {name: torch.as_tensor(value) for name, value in arrays(kind).items()}
    story = kind(**fields).scaled_to(data)
    assert isinstance(story, kind)
    return story


# -- the horseshoe -----------------------------------------------------------------------------

LOCAL, RAW = np.array([0.01, 0.5, 1.0, 20.0, 1e6]), np.array([1.0, -1.0, 0.5, 0.7, -0.2])
HORSESHOE = {
    "alpha": 1.5,
    "sigma": 0.8,
    "slab": 4.0,
    "tau_normal": 0.6,
    "tau_variance": 0.25,
    "local_normal": LOCAL / 2,
    "local_variance": np.full(5, 4.0),
    "raw": RAW,
}


def latents_of(target: Target) -> dict[str, torch.Tensor]:
    names = target.structure.latents
    return {name: torch.as_tensor(HORSESHOE[name], dtype=torch.float64) for name in names}


@each
def test_slopes_of_the_horseshoe_by_hand(kind: type[Regression]) -> None:
    story = scaled(kind, prior="horseshoe", global_scale=0.2)
    target = make_target(story, arrays(kind))
    unit = getattr(story, "outcome_spread", 1.0)
    tau = 0.2 * 0.6 * 0.5 * (0.8 / unit if kind is LinearRegression else 1.0)
    truncated = np.sqrt(4.0 * LOCAL**2 / (4.0 + tau**2 * LOCAL**2))  # equation 2.8
    beta = unit * tau * truncated * RAW / X.std(0)
    found = followed(target, latents_of(target))
    assert float(found["tau"]) == pytest.approx(0.06)
    np.testing.assert_allclose(found["local"], LOCAL)
    np.testing.assert_allclose(found["beta"], beta, rtol=1e-12)
    assert float(found["intercept"]) == pytest.approx(1.5 - beta @ X.mean(0))
    assert abs(beta[-1]) == pytest.approx(2 * unit * 0.2 / X.std(0)[-1])  # none above the slab


@each
def test_priors_of_the_horseshoe_by_hand(kind: type[Regression]) -> None:
    story = scaled(kind, prior="horseshoe", global_scale=0.2, slab_scale=1.5, slab_df=3.0)
    target = make_target(story, arrays(kind))
    half_normal, half = stats.halfnorm(), stats.invgamma(0.5, scale=0.5)
    expected = (
        stats.invgamma(1.5, scale=1.5 * 1.5**2).logpdf(4.0)
        + half_normal.logpdf(0.6)
        + half.logpdf(0.25)
        + half_normal.logpdf(LOCAL / 2).sum()
        + 5 * half.logpdf(4.0)
        + stats.norm().logpdf(RAW).sum()
    )
    centre = {LinearRegression: Y[kind.name].mean(), LogisticRegression: 0.0}.get(kind)
    centre = story.log_rate if isinstance(story, PoissonRegression) else centre
    unit = Y[kind.name].std() if kind is LinearRegression else 1.0
    expected += stats.norm(centre, 2.5 * unit).logpdf(1.5)
    if kind is LinearRegression:
        expected += stats.expon(scale=unit).logpdf(0.8)
    density = target.density(jacobian=False)
    found = density.log_prior(density.flatten(latents_of(target)))
    assert float(found) == pytest.approx(float(expected))


def test_scales_of_the_horseshoe_are_half_cauchy() -> None:
    target = make_target(scaled(LogisticRegression, prior="horseshoe", global_scale=0.2), LOGISTIC)
    simulator, rng = Simulator(target), np.random.default_rng(0)
    drawn = [followed(target, simulator.prior(rng)) for _ in range(1000)]
    tau = np.array([float(one["tau"]) for one in drawn])
    local = np.concatenate([one["local"].numpy() for one in drawn])
    assert stats.kstest(tau, stats.halfcauchy(scale=0.2).cdf).pvalue > 0.01
    assert stats.kstest(local, stats.halfcauchy().cdf).pvalue > 0.01


@each
def test_the_global_scale_follows_from_how_many_features_matter(kind: type[Regression]) -> None:
    noise = {"linear-regression": 1.0, "logistic-regression": 2.0}.get(kind.name)
    counts = (Y["poisson-regression"].sum() + 0.5) / 21
    expected = 2 / 3 * (noise or counts**-0.5) / np.sqrt(20)
    assert scaled(kind, relevant=2.0).global_scale == pytest.approx(expected, rel=1e-9)
    assert scaled(kind, relevant=9.0).global_scale == pytest.approx(expected * 1.5, rel=1e-9)
    assert scaled(kind, relevant=9.0, global_scale=0.1).global_scale == 0.1


# -- units -------------------------------------------------------------------------------------


@each
def test_units_of_the_features_do_not_matter(kind: type[Regression]) -> None:
    story = scaled(kind)
    q = torch.linspace(-0.5, 0.5, make_target(story, arrays(kind)).density().dim).double()
    moved = {"x": X * 7 - 3, "y": Y[kind.name]}
    other = kind().scaled_to({name: torch.as_tensor(value) for name, value in moved.items()})
    first = make_target(story, arrays(kind)).density()(q)
    assert float(make_target(other, moved).density()(q)) == pytest.approx(float(first))


@each
def test_fields_that_are_set_stay(kind: type[Regression]) -> None:
    story = scaled(kind, centre=(0.0,) * 5, spread=2.0)
    assert story.centre == (0.0,) * 5
    assert story.spread == 2.0
    assert scaled(kind).centre == pytest.approx(tuple(X.mean(0)))
    assert scaled(kind).spread == pytest.approx(tuple(X.std(0)))


# -- what is refused ---------------------------------------------------------------------------


@each
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prior": "hoarseshoe"}, "prior='hoarseshoe': did you mean 'horseshoe'?"),
        ({"slope_scale": 0.0}, "slope_scale=0.0 must be above zero"),
        ({"slab_df": -1.0}, "slab_df=-1.0 must be above zero"),
        ({"spread": (1.0, 0.0)}, "spread=(1.0, 0.0) must be above zero"),
        ({"global_scale": float("nan")}, "global_scale=nan must be above zero"),
    ],
)
def test_impossible_fields_are_refused(
    kind: type[Regression], fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingError) as caught:
        kind(**fields)
    assert said in str(caught.value) and str(caught.value).startswith(kind.name)


@each
def test_a_feature_that_never_changes_is_refused(kind: type[Regression]) -> None:
    x = X.copy()
    x[:, 2] = 0.1
    with pytest.raises(DataError, match=r"feature 3 of 5 is constant \(0.1\): leave the column"):
        make_target(kind(), {"x": x, "y": Y[kind.name]})


@each
def test_fields_of_another_size_and_a_single_row_are_refused(kind: type[Regression]) -> None:
    with pytest.raises(SettingError, match="centre has 2 values, the data 5 features"):
        make_target(scaled(kind, centre=(0.0, 1.0)), arrays(kind))
    with pytest.raises(DataError, match="one row has no spread"):
        make_target(kind(), {"x": X[:1], "y": Y[kind.name][:1]})


@each
def test_missing_features_are_refused_and_missing_outcomes_are_not(kind: type[Regression]) -> None:
    y = Y[kind.name].copy()
    y[3] = np.nan
    target = make_target(kind(), {"x": X, "y": y})
    density = target.density()
    found = density.log_likelihood(torch.zeros(density.dim).double())
    assert float(found[3]) == 0.0 and float(found[4]) < 0.0
    x = X.copy()
    x[2, 4] = np.nan
    with pytest.raises(DataError, match="argument 'x': missing value at row 3, column 5"):
        make_target(kind(), {"x": x, "y": Y[kind.name]})


# -- the command line --------------------------------------------------------------------------


def test_a_column_of_a_file_is_the_outcome(
    workdir: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{a},{b},{a - 2 * b + 0.1 * c}" for a, b, c in X[:, :3]]
    (workdir / "toy.csv").write_text("dose,age,effect\n" + "\n".join(lines) + "\n")
    story = ["fit", "linear-regression", "--data", "toy.csv"]
    done = main([*story, "--target", "effect", "--method", "map", "--out", "run"])
    assert done == 0
    stored = json.loads((workdir / "run/fit.json").read_text())
    assert stored["story"]["fields"]["centre"] == pytest.approx(X[:, :2].mean(0).tolist())
    capsys.readouterr()
    assert main([*story, "--target", "efect", "--method", "map", "--out", "other"]) == 2
    assert "did you mean 'effect'?" in capsys.readouterr().err
    assert main([*story, "--method", "map", "--out", "other"]) == 2
    assert "name the outcome with --target" in capsys.readouterr().err
    assert not (workdir / "other").exists()
