"""L-BFGS side by side: known maxima, odd objectives, and going on from a stored state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from storyzoo.inference.engine.ascent import Array, Ascents, ascend, pack, unpack

SCALES = np.array([1e-3, 1.0, 1e3, 10.0])


def quadratic(q: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum 3 at ``scale * (1, 2, 3, 4)``, badly scaled."""
    scale = torch.as_tensor(SCALES)
    gap = q / scale - torch.arange(1.0, 5.0, dtype=torch.float64)
    return 3 - 0.5 * gap.square().sum(), -gap / scale


def banana(points: Array) -> tuple[Array, Array]:
    """Minus Rosenbrock's function at the rows of (n, 2), with a maximum of 0 at (1, 1)."""
    x, y = points.T
    value = -((1 - x) ** 2) - 100 * (y - x**2) ** 2
    slope = np.stack([2 * (1 - x) + 400 * x * (y - x**2), -200 * (y - x**2)], -1)
    return value, slope


def test_quadratic_is_climbed_whatever_its_scales() -> None:
    found = ascend(quadratic, torch.zeros(4, dtype=torch.float64))
    assert found.converged
    assert found.value == pytest.approx(3, abs=1e-7)
    np.testing.assert_allclose(found.q.numpy() / SCALES, [1, 2, 3, 4], atol=1e-4)
    assert found.evaluations < 150
    assert found.path[-1] == found.value


def test_objective_never_falls() -> None:
    path = ascend(quadratic, torch.full((4,), 5.0, dtype=torch.float64)).path
    assert (np.diff(path) >= -1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_undefined_places_on_the_way_are_stepped_around(dtype: torch.dtype) -> None:
    def objective(q: Tensor) -> tuple[Tensor, Tensor]:  # log q - q, undefined below zero
        value = torch.where(q > 0, q.log() - q, torch.nan).sum()
        return value, 1 / q - 1

    found = ascend(objective, torch.tensor([1e-4], dtype=dtype))
    assert found.converged
    assert float(found.q) == pytest.approx(1, abs=1e-3 if dtype == torch.float32 else 1e-6)
    assert found.q.dtype == dtype


def test_a_kink_ends_the_ascent() -> None:
    found = ascend(lambda q: (-q.abs().sum(), -q.sign()), torch.tensor([3.0, -1.5]))
    assert abs(found.value) < 0.1


def test_undefined_start_is_no_ascent() -> None:
    found = ascend(lambda q: (q.sum() * torch.nan, q), torch.ones(2))
    assert not found.converged
    assert found.steps == 0


def test_steps_run_out() -> None:
    found = ascend(quadratic, torch.zeros(4, dtype=torch.float64), max_steps=2)
    assert not found.converged
    assert found.steps == 2


def climbed(starts: Array, **settings: float) -> Ascents:
    climb = Ascents(
        banana, max_steps=int(settings.get("max_steps", 500)), tolerance=1e-10, precision=2e-16
    )
    climb.start(starts)
    return climb


STARTS = np.array([[-1.2, 1.0], [3.0, -2.0], [0.0, 0.0], [1.0, 1.0]])


def test_rows_climb_as_they_would_alone() -> None:
    together = climbed(STARTS)
    while together.climbing.any():
        together.step()
    like = torch.zeros(2, dtype=torch.float64)
    for row, start in enumerate(STARTS):
        alone = climbed(start[None])
        while alone.climbing.any():
            alone.step()
        expected, found = alone.result(0, like), together.result(row, like)
        assert found.converged
        assert found.value == expected.value
        assert found.evaluations == expected.evaluations
        assert found.path == expected.path
        np.testing.assert_allclose(found.q, [1, 1], atol=1e-4)


def test_going_on_from_a_stored_state_changes_no_bit() -> None:
    whole, broken = climbed(STARTS), climbed(STARTS)
    for _ in range(7):
        broken.step()
    stored = pack(broken.state)
    other = climbed(STARTS)
    other.state = unpack(stored)
    for climb in (whole, other):
        while climb.climbing.any():
            climb.step()
    np.testing.assert_array_equal(whole.state.q, other.state.q)
    np.testing.assert_array_equal(whole.state.evaluations, other.state.evaluations)
    like = torch.zeros(2, dtype=torch.float64)
    assert whole.result(0, like).path == other.result(0, like).path


def test_states_are_never_changed() -> None:
    climb = climbed(STARTS)
    climb.step()
    kept = climb.state
    copies = pack(kept)
    for _ in range(5):
        climb.step()
    climb.move(0, np.array([2.0, 2.0]))
    for name, value in pack(kept).items():
        np.testing.assert_array_equal(value, copies[name])


def test_a_row_can_be_sent_on() -> None:
    climb = climbed(STARTS[:1])
    while climb.climbing.any():
        climb.step()
    climb.move(0, np.array([5.0, 5.0]))
    assert climb.climbing[0]
    while climb.climbing.any():
        climb.step()
    np.testing.assert_allclose(climb.state.q[0], [1, 1], atol=1e-4)
