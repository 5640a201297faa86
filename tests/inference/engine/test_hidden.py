"""What is hidden given what is seen: labels by their exact posterior, values by conditionals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats

from storyzoo.errors import RefusedError
from storyzoo.inference.engine.hidden import discrete_posterior, impute
from storyzoo.inference.engine.target import make_target
from storyzoo.models.distributions.partial_normal import PartialNormal
from storyzoo.models.eight_schools import EightSchools
from storyzoo.story import Story
from tests.cases import (
    CASES,
    MIXTURE_POINT,
    SCHOOLS,
    Case,
    Mixture,
    TinyChain,
    log_normal,
)

WEIGHT, LOC, SCALE = (MIXTURE_POINT[name] for name in ("weight", "loc", "scale"))
DRAWS = 4000
"""Copies of every row with a hole, each filled in once."""
LABELLED = [case for case in CASES if case.target().structure.discrete]


def several(case: Case, size: int = 4) -> dict[str, np.ndarray]:
    """A few draws ``(S, *shape)`` around the case's point."""
    density = case.target().density()
    rng = np.random.default_rng(0)
    noise = torch.as_tensor(rng.normal(scale=0.3, size=(size, density.dim)))
    draws = density.unflatten(density.flatten(case.latents()) + noise)
    return {name: value.numpy() for name, value in draws.items()}


@pytest.mark.parametrize("case", LABELLED, ids=lambda case: case.name)
def test_label_probabilities_are_averaged_over_draws(case: Case) -> None:
    draws = several(case)
    found = discrete_posterior(case.target(), draws)
    singly = [
        discrete_posterior(case.target(), {name: value[i : i + 1] for name, value in draws.items()})
        for i in range(4)
    ]
    for name, site in case.target().structure.discrete.items():
        assert found[name].shape == (*site.shape, 2)
        np.testing.assert_allclose(found[name].sum(-1), 1)
        np.testing.assert_allclose(found[name], np.mean([one[name] for one in singly], axis=0))
        assert not np.allclose(singly[0][name], singly[1][name])


def responsibility(row: np.ndarray) -> np.ndarray:
    """(K,): posterior of the mixture's label given what is seen of a row."""
    log_joint = np.log(WEIGHT) + np.nan_to_num(stats.norm.logpdf(row, LOC, SCALE)).sum(-1)
    return np.asarray(special.softmax(log_joint))


def test_label_probabilities_of_the_mixture_are_its_responsibilities() -> None:
    y = CASES[0].arrays["y"].copy()
    y[2, 0] = np.nan
    y[5] = np.nan
    target = make_target(Mixture(), {"y": y})
    point = {name: value[None] for name, value in MIXTURE_POINT.items()}
    found = discrete_posterior(target, point)["z"]
    np.testing.assert_allclose(found, [responsibility(row) for row in y])
    np.testing.assert_allclose(found[5], WEIGHT)


def imputed(story: Story, row: np.ndarray, latents: Any, axis: int = 0) -> np.ndarray:
    """(DRAWS, *row): many draws of one example without holes, two without any beside it."""
    whole = np.arange(row.size) / 2.0
    copies = np.stack([row] * DRAWS + [whole, whole - 1], axis=axis)
    filled = impute(make_target(story, {"y": copies}), latents, np.random.default_rng(1))["y"]
    return np.moveaxis(filled.numpy(), axis, 0)[:DRAWS]


def test_missing_values_of_the_mixture_have_their_conditional_mean_and_spread() -> None:
    """``E[y_m | y_o] = sum_k r_k(y_o) loc_km``, by the story's model alone."""
    assert not Mixture().has("impute")
    for row in np.array([[0.1, np.nan], [np.nan, -1.0], [np.nan, np.nan], [1.0, 1.0]]):
        found = imputed(Mixture(), row, CASES[0].latents())
        share = responsibility(row)
        mean = share @ LOC
        sd = np.sqrt(share @ (SCALE**2 + LOC**2) - mean**2)
        seen = ~np.isnan(row)
        np.testing.assert_allclose(found[:, ~seen].mean(0), mean[~seen], atol=0.1)
        np.testing.assert_allclose(found[:, ~seen].std(0), sd[~seen], rtol=0.1)
        assert (found[:, seen] == row[seen]).all()


def test_both_missing_values_of_a_row_come_from_one_component() -> None:
    point = {**CASES[0].latents(), "loc": torch.tensor([[-50.0, -50.0], [50.0, 50.0]])}
    found = imputed(Mixture(), np.full(2, np.nan), point)
    assert (np.sign(found[:, 0]) == np.sign(found[:, 1])).all()
    assert (found[:, 0] > 0).mean() == pytest.approx(0.7, abs=0.03)


def test_the_storys_own_hook_goes_first() -> None:
    """Full covariances: ``E[y_2 | y_1] = sum_k r_k(y_1) (m_k2 + S_k21 / S_k11 (y_1 - m_k1))``."""
    case = CASES[1]
    seen = 0.4
    loc, covariance, weight = (case.point[name] for name in ("loc", "covariance", "weight"))
    log_joint = np.log(weight) + stats.norm.logpdf(seen, loc[:, 0], covariance[:, 0, 0] ** 0.5)
    slope = covariance[:, 1, 0] / covariance[:, 0, 0]
    mean = special.softmax(log_joint) @ (loc[:, 1] + slope * (seen - loc[:, 0]))
    found = imputed(case.story, np.array([seen, np.nan]), case.latents())
    assert found[:, 1].mean() == pytest.approx(mean, abs=0.1)


def test_a_step_of_a_chain_is_filled_in_from_both_sides() -> None:
    y, draws = np.array([0.3, -0.5, np.nan, 1.9, 2.2]), 300
    transition, loc = np.array([[0.6, 0.4], [0.1, 0.9]]), np.array([-1.0, 2.0])
    point = {"transition": torch.as_tensor(transition), "loc": torch.as_tensor(loc)}
    forward = np.full(2, 0.5)
    for t in (0, 1):
        forward = (forward * np.exp(log_normal(y[t], loc, 1))) @ transition
    backward = np.ones(2)
    for t in (4, 3):
        backward = transition @ (np.exp(log_normal(y[t], loc, 1)) * backward)
    share = forward * backward / (forward @ backward)
    target, rng = make_target(TinyChain(), {"y": y}), np.random.default_rng(1)
    found = np.stack([impute(target, point, rng)["y"] for _ in range(draws)])
    assert found[:, 2].mean() == pytest.approx(share @ loc, abs=4 * found[:, 2].std() / draws**0.5)
    past = forward / forward.sum()
    assert abs((share - past) @ loc) > 0.5
    assert (np.delete(found, 2, axis=1) == np.delete(y, 2)).all()


def test_labels_in_nested_plates_are_drawn_together() -> None:
    case = next(case for case in CASES if case.name == "nested-plates")
    group = np.array([0.2, np.nan, 2.5])
    found = imputed(case.story, group, case.latents(), axis=1)
    mix, often, loc = (case.point[name] for name in ("mix", "often", "loc"))
    others = group[[0, 2]]
    of_group = np.log([1 - mix, mix])
    for a in (0, 1):
        low = np.log1p(-often[a]) + stats.norm.logpdf(others, loc[0], 1)
        high = np.log(often[a]) + stats.norm.logpdf(others, loc[1], 1)
        of_group[a] += np.logaddexp(low, high).sum()
    share = special.softmax(of_group) @ often
    assert found[:, 1].mean() == pytest.approx((1 - share) * loc[0] + share * loc[1], abs=0.1)


def test_covariates_and_complete_data_come_back_as_they_are() -> None:
    case = next(case for case in CASES if case.name == "flat-regression")
    found = impute(case.target(), case.latents(), np.random.default_rng(0))
    for name, value in case.arrays.items():
        np.testing.assert_array_equal(found[name], value)


def test_latents_of_single_examples_are_used_where_they_are_known() -> None:
    effect = np.where(np.arange(8) == 3, np.nan, SCHOOLS)
    arrays = {"effect": effect, "stderr": np.full(8, 0.01)}
    target = make_target(EightSchools(centred=True), arrays)
    latents = {
        "mu": torch.tensor(0.0),
        "tau": torch.tensor(1.0),
        "theta": 10 * torch.arange(8.0),
    }
    found = impute(target, latents, np.random.default_rng(0))
    assert float(found["effect"][3]) == pytest.approx(30, abs=0.1)
    del latents["theta"]
    with pytest.raises(RefusedError, match="latents of single examples; give it an `impute` hook"):
        impute(target, latents, np.random.default_rng(0))


class Together(Story):
    """A joint event whose density takes NaN, but that can't draw the rest from what is seen."""

    data_dims = {"y": ("row", "feature")}
    examples = "row"

    def model(self, y: Any) -> None:
        loc = pyro.sample("loc", dist.Normal(0, 5).expand([2]).to_event(1))
        factor = torch.tensor([[1.0, 0.0], [0.9, 0.4]])
        with pyro.plate("row", len(y)):
            pyro.sample("y", PartialNormal(loc, scale_tril=factor), obs=y)


def test_a_joint_event_is_not_filled_in_as_if_it_were_independent() -> None:
    loc = torch.zeros(2, dtype=torch.float64)
    found = imputed(Together(), np.full(2, np.nan), {"loc": loc})
    assert np.corrcoef(found.T)[0, 1] > 0.8
    partly = make_target(Together(), {"y": np.array([[0.0, 1.0], [2.0, np.nan]])})
    with pytest.raises(RefusedError, match="site 'y', row 2 is partly missing, .* `impute` hook"):
        impute(partly, {"loc": loc}, np.random.default_rng(0))


def test_the_same_seed_fills_in_the_same() -> None:
    y = CASES[0].arrays["y"].copy()
    y[2, 0] = np.nan
    case = replace(CASES[0], arrays={"y": y})
    first, again, other = (
        impute(case.target(), case.latents(), np.random.default_rng(seed))["y"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
