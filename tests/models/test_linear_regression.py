"""Linear regression: least squares, its exact posterior, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from storyzoo.errors import DataError
from storyzoo.inference.engine.target import make_target
from storyzoo.inference.laplace import Laplace
from storyzoo.inference.nuts import NUTS
from storyzoo.models.linear_regression import LinearRegression
from storyzoo.run import fit
from tests.models.regressions import design, mode, target_on


def test_under_wide_priors_the_mode_is_least_squares() -> None:
    target = target_on(
        LinearRegression(slope_scale=1e4, intercept_scale=1e4, noise_scale=1e4), "diabetes"
    )
    found = mode(target)
    y = target.data["y"].numpy()
    solution, squares, *_ = np.linalg.lstsq(design(target), y)
    np.testing.assert_allclose(found["beta"], solution[1:], rtol=1e-4)
    assert float(found["intercept"]) == pytest.approx(solution[0], rel=1e-4)
    assert float(found["sigma"]) == pytest.approx(np.sqrt(squares[0] / len(y)), rel=1e-4)


def test_given_the_noise_the_mode_of_the_slopes_is_that_of_a_ridge() -> None:
    target = target_on(LinearRegression(slope_scale=0.05), "diabetes")
    found = mode(target)
    x = target.data["x"].numpy()
    y = target.data["y"].numpy()
    standard = (x - x.mean(0)) / x.std(0)
    ridge = (found["sigma"] / (0.05 * y.std())) ** 2
    slope = np.linalg.solve(standard.T @ standard + ridge * np.eye(10), standard.T @ y)
    np.testing.assert_allclose(found["beta"] * x.std(0), slope, rtol=1e-3, atol=1e-3)


def test_the_posterior_of_the_slopes_is_that_of_least_squares() -> None:
    answer = fit(LinearRegression(), "diabetes", Laplace(draws=4000), progress=False)
    posterior = answer.tree["posterior"].to_dataset()
    assert list(posterior["beta"]["feature"].values[:3]) == ["age", "sex", "bmi"]
    target = answer.target
    assert target is not None
    x, y = design(target), target.data["y"].numpy()
    solution, squares, *_ = np.linalg.lstsq(x, y)
    errors = np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * squares[0] / (len(y) - x.shape[1]))
    beta = posterior["beta"].values[0]
    clear = ["bmi", "pressure", "sex", "age", "glucose"]  # ours are a little shrunk elsewhere
    places = [list(posterior["beta"]["feature"].values).index(name) for name in clear]
    gap = (beta.mean(0)[places] - solution[1:][places]) / errors[1:][places]
    assert abs(gap).max() < 0.15
    np.testing.assert_allclose(beta.std(0)[places], errors[1:][places], rtol=0.06)


def test_a_horseshoe_leaves_the_slopes_that_matter_and_no_others() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 20))
    y = 3 * x[:, 0] - 2 * x[:, 1] + rng.normal(size=60)
    slopes = {}
    for story in (LinearRegression(), LinearRegression(prior="horseshoe", relevant=2.0)):
        answer = fit(story, {"x": x, "y": y}, NUTS(draws=200, warmup=300), progress=False)
        slopes[story.prior] = answer.tree["posterior"].to_dataset()["beta"].values.mean((0, 1))
    assert slopes["horseshoe"][:2] == pytest.approx([3, -2], abs=0.3)
    others = {prior: np.square(beta[2:]).sum() for prior, beta in slopes.items()}
    assert others["horseshoe"] < 0.3 * others["normal"]


def test_an_outcome_that_never_changes_is_refused() -> None:
    x = np.arange(6.0).reshape(3, 2)
    with pytest.raises(DataError, match="the outcome never changes"):
        make_target(LinearRegression(), {"x": x, "y": np.ones(3)})
    with pytest.raises(DataError, match="the outcome never changes"):
        make_target(LinearRegression(), {"x": x, "y": np.array([1.0, np.nan, 1.0])})
