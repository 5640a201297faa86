"""Logistic regression: against scikit-learn's mode, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as Sklearn

from storyzoo.errors import DataError
from storyzoo.inference.engine.target import make_target
from storyzoo.models.logistic_regression import LogisticRegression
from tests.models.regressions import mode, target_on


def test_the_mode_is_scikit_learns() -> None:
    target = target_on(LogisticRegression(slope_scale=0.7, intercept_scale=1e4), "breast-cancer")
    found = mode(target)
    x, y = target.data["x"].numpy(), target.data["y"].numpy()
    peer = Sklearn(C=0.7**2, tol=1e-10, max_iter=10_000).fit((x - x.mean(0)) / x.std(0), y)
    np.testing.assert_allclose(found["beta"] * x.std(0), peer.coef_[0], rtol=1e-3, atol=1e-3)
    assert float(found["alpha"]) == pytest.approx(peer.intercept_[0], rel=1e-3)


def test_separable_outcomes_have_a_mode_thanks_to_the_prior() -> None:
    x = np.arange(10.0)[:, None]
    found = mode(make_target(LogisticRegression(centre=4.5), {"x": x, "y": (x[:, 0] > 4.4) * 1.0}))
    assert 1 < float(found["beta"][0]) < 10


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5])
def test_an_outcome_is_a_zero_or_a_one(value: float) -> None:
    x, y = np.arange(4.0)[:, None], np.array([0.0, 1.0, value, 1.0])
    with pytest.raises(DataError, match=f"row 3: the outcome {value:g} is neither 0 nor 1"):
        make_target(LogisticRegression(), {"x": x, "y": y})


def test_statistics_by_hand() -> None:
    data = {"y": torch.tensor([0.0, 1.0, 1.0, torch.nan])}
    assert LogisticRegression().statistics(data) == {"share_of_ones": pytest.approx(2 / 3)}
