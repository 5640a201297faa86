"""The ordered mixture: one mode where an unordered one has two, starts, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from storyzoo.datasets import load
from storyzoo.errors import DataError, SettingError
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.map import MAP
from storyzoo.models.ordered_mixture import OrderedMixture

PETAL = load("iris").table
assert PETAL is not None
Y = PETAL["petal_length"].to_numpy()


def target(n_components: int = 2, y: np.ndarray = Y, **fields: Any) -> Target:
    story = OrderedMixture(n_components=n_components, **fields)
    return make_target(story.scaled_to({"y": torch.as_tensor(y)}), {"y": y})


@pytest.mark.parametrize("scales", ["inverse-gamma", "half-normal"])
def test_log_prior_by_hand(scales: str) -> None:
    made = target(centre=1.0, spread=2.0, concentration=5.0, scales=scales)
    density = made.density(jacobian=False)
    priors = {"inverse-gamma": stats.invgamma(3, scale=2.0), "half-normal": stats.halfnorm(scale=2)}
    loc, scale, weight = np.array([1.5, 5.0]), np.array([0.2, 0.8]), np.array([0.3, 0.7])
    expected = (
        stats.norm(1, 2).logpdf(loc).sum()
        + priors[scales].logpdf(scale).sum()
        + stats.beta(5, 5).logpdf(0.3)
    )
    point = {"loc": loc, "scale": scale, "weight": weight}
    q = density.flatten({name: torch.as_tensor(value) for name, value in point.items()})
    assert float(density.log_prior(q)) == pytest.approx(float(expected))


def test_scaling_follows_the_data() -> None:
    y = np.where(np.arange(150) == 7, np.nan, 10 * Y)
    story = target(y=y).story
    assert isinstance(story, OrderedMixture)
    assert story.centre == pytest.approx(np.nanmean(y))
    assert story.spread == pytest.approx(np.nanstd(y))
    kept = target(centre=0.0, spread=2.0).story
    assert isinstance(kept, OrderedMixture) and (kept.centre, kept.spread) == (0.0, 2.0)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_starts_lie_in_order_within_the_data(k: int) -> None:
    made = target(k)
    for seed in range(5):
        start = made.story.initial(made.data, np.random.default_rng(seed))
        assert start is not None
        assert bool((start["loc"].diff() > 0).all())
        assert Y.min() <= float(start["loc"][0]) and float(start["loc"][-1]) <= Y.max() + 0.1
        density = made.density()
        assert math.isfinite(float(density(density.flatten(start))))


def test_the_mode_tells_one_species_from_the_two_others() -> None:
    tree, _ = MAP(restarts=4).run(target(), seed=0, progress=Progress(quiet=True))
    found = tree["posterior"].to_dataset()
    np.testing.assert_allclose(found["loc"].values[0, 0], [1.462, 4.906], atol=0.01)
    assert float(found["weight"].values[0, 0, 0]) == pytest.approx(1 / 3, abs=0.02)
    np.testing.assert_allclose(found["scale"].values[0, 0], [0.172, 0.82], atol=0.02)


def test_a_component_on_values_rounded_to_one_is_no_mode() -> None:
    """Under the half-normal the density rises without bound as the scale of one goes to zero."""
    rising = {}
    for scales in ("inverse-gamma", "half-normal"):
        density = target(scales=scales).density(jacobian=False)
        rising[scales] = [
            float(density(density.flatten(point)))
            for scale in (1e-2, 1e-4, 1e-8)
            for point in [
                {
                    "loc": torch.tensor([3.0, 4.5]),
                    "scale": torch.tensor([2.0, scale]),
                    "weight": torch.tensor([0.9, 0.1]),
                }
            ]
        ]
    assert rising["half-normal"] == sorted(rising["half-normal"])
    assert rising["inverse-gamma"] == sorted(rising["inverse-gamma"], reverse=True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"n_components": 0}, "n_components=0 must be at least 1"),
        ({"concentration": 0.0}, "concentration=0.0 must be above zero"),
        ({"scales": "half-norm"}, "scales='half-norm': did you mean 'half-normal'?"),
        ({"spread": -1.0}, "spread=-1.0 must be above zero"),
    ],
)
def test_impossible_fields_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        OrderedMixture(**fields)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("k", "y", "said"),
    [
        (4, [1.0, 2.0, 2.0, 3.0, np.nan], "4 components for 3 different values: set n_components"),
        (1, [2.0, 2.0], "all values are the same"),
    ],
)
def test_data_that_can_not_be_told_are_refused(k: int, y: list[float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        make_target(OrderedMixture(n_components=k), {"y": np.array(y)})
