"""Poisson regression: against known estimates, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from storyzoo.errors import DataError
from storyzoo.inference.engine.target import make_target
from storyzoo.models.poisson_regression import PoissonRegression
from tests.models.regressions import mode, target_on


def test_under_wide_priors_the_mode_is_the_logarithm_of_the_groups_means() -> None:
    target = target_on(PoissonRegression(slope_scale=1e4, intercept_scale=1e4), "insect-sprays")
    found = mode(target)
    means = np.array([14.5, 184 / 12, 25 / 12, 59 / 12, 3.5, 200 / 12])
    assert float(found["intercept"]) == pytest.approx(np.log(means[0]), rel=1e-4)
    np.testing.assert_allclose(found["beta"], np.log(means[1:] / means[0]), rtol=1e-3, atol=1e-4)


def test_large_counts_are_met_where_they_are() -> None:
    x = np.linspace(-1, 1, 30)[:, None]
    y = np.round(np.exp(9 + 0.5 * x[:, 0]))
    data = {"x": torch.as_tensor(x), "y": torch.as_tensor(y)}
    story = PoissonRegression().scaled_to(data)
    assert story.log_rate == pytest.approx(np.log(y.mean()), abs=0.04)
    found = mode(make_target(story, {"x": x, "y": y}))
    assert float(found["intercept"]) == pytest.approx(9, abs=0.01)
    assert float(found["beta"][0]) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("value", "said"),
    [(-1.0, "-1 is negative: counts start at 0"), (1.5, "1.5 is no whole number")],
)
def test_an_outcome_is_a_count(value: float, said: str) -> None:
    x, y = np.arange(4.0)[:, None], np.array([0.0, value, 3.0, 1.0])
    with pytest.raises(DataError, match=f"row 2: the outcome {said}"):
        make_target(PoissonRegression(), {"x": x, "y": y})


def test_statistics_by_hand() -> None:
    y = torch.tensor([0.0, 0.0, 2.0, 4.0, torch.nan])
    found = PoissonRegression().statistics({"y": y})
    assert found == {"share_of_zeros": 0.5, "dispersion": pytest.approx(2.75 / 1.5)}
