"""Autoregression: least squares on the lynx, simulation by its step, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from storyzoo.binding import bind
from storyzoo.datasets import load
from storyzoo.errors import DataError, SettingError
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.simulation import Simulator
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.map import MAP
from storyzoo.models.autoregression import Autoregression

LYNX = load("lynx").table
assert LYNX is not None
Y = LYNX["log10_trapped"].to_numpy(copy=True)


def target(order: int = 2) -> Target:
    story = Autoregression(order=order).scaled_to({"y": torch.as_tensor(Y)})
    bound = bind(story, load("lynx"))
    return make_target(story, bound.arrays, coords=bound.coords)


def latents(alpha: float, beta: list[float], sigma: float) -> dict[str, torch.Tensor]:
    values: dict[str, Any] = {"alpha": alpha, "beta": beta, "sigma": sigma}
    return {name: torch.as_tensor(value).double() for name, value in values.items()}


def test_the_mode_on_the_lynx_is_nearly_morans() -> None:
    tree, _ = MAP(restarts=2).run(target(), seed=0, progress=Progress(quiet=True))
    posterior = tree["posterior"].to_dataset()
    columns = np.column_stack([np.ones(112), Y[1:-1], Y[:-2]])
    solution, squares, *_ = np.linalg.lstsq(columns, Y[2:])
    assert posterior["alpha"].item() == pytest.approx(solution[0], rel=0.01)
    np.testing.assert_allclose(posterior["beta"].values[0, 0], solution[1:], rtol=0.01)
    assert posterior["sigma"].item() == pytest.approx(np.sqrt(squares[0] / 112), rel=0.01)
    np.testing.assert_allclose(posterior["beta"].values[0, 0], [1.41, -0.77], atol=0.04)


def test_years_are_named() -> None:
    assert list(target().structure.coords["time"][:2]) == ["1821", "1822"]


def test_simulated_series_begin_as_the_data_and_keep_their_moments() -> None:
    simulator = Simulator(target(3))
    point = latents(1.0, [0.5, -0.3, 0.4], 0.5)
    long = simulator.data(point, np.random.default_rng(0), 40_000)["y"].numpy()
    np.testing.assert_allclose(long[:3], Y[:3])
    assert long.mean() == pytest.approx(1.0 / (1 - 0.6), abs=0.05)
    steps = long[3:] - (1.0 + 0.5 * long[2:-1] - 0.3 * long[1:-2] + 0.4 * long[:-3])
    assert steps.std() == pytest.approx(0.5, rel=0.02)
    assert abs(np.corrcoef(steps[1:], steps[:-1])[0, 1]) < 0.02


def test_without_a_start_simulations_begin_at_zero() -> None:
    simulator = Simulator(make_target(Autoregression(order=2), {"y": Y}))
    drawn = simulator.data(latents(0.0, [0.5, 0.1], 1.0), np.random.default_rng(0), 4)["y"]
    assert drawn[:2].tolist() == [0.0, 0.0] and bool((drawn[2:] != 0).all())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"order": 0}, "order=0 must be at least 1"),
        ({"lag_scale": 0.0}, "lag_scale=0.0 must be above zero"),
        ({"order": 2, "start": (1.0,)}, "start has 1 values, order is 2"),
    ],
)
def test_impossible_fields_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        Autoregression(**fields)


@pytest.mark.parametrize(
    ("order", "y", "said"),
    [
        (3, np.arange(3.0), "order=3 for a series of 3 values: set order to at most 2"),
        (1, np.full(5, 2.5), "the series never leaves 2.5"),
        (1, np.array([1.0, np.nan, 2.0]), "argument 'y': missing value at row 2"),
    ],
)
def test_series_that_can_not_be_told_are_refused(order: int, y: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        make_target(Autoregression(order=order), {"y": y})
