"""Missing values: masked where events are independent, else summed out exactly, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from storyzoo.errors import DataError, StoryError
from storyzoo.inference.engine.target import make_target
from storyzoo.models.distributions.partial_normal import PartialNormal
from storyzoo.story import Story
from tests.cases import CASES, Case, FlatRegression, Mixture

PUNCHED = [case for case in CASES if not case.reads_past and not case.story.ragged]
each = pytest.mark.parametrize("case", PUNCHED, ids=lambda case: case.name)


def with_holes(case: Case) -> dict[str, Any]:
    """The case's data, the first outcome with one element missing and one whole example."""
    outcome = case.target().structure.outcomes[0]
    array = np.array(case.arrays[outcome], dtype=float)
    array.flat[1] = np.nan
    if case.story.examples is not None:
        axis = case.story.data_dims[outcome].index(case.story.examples)
        np.moveaxis(array, axis, 0)[3] = np.nan
    return {**case.arrays, outcome: array}


@each
def test_what_is_missing_is_left_out_of_the_likelihood(case: Case) -> None:
    arrays = with_holes(case)
    target = make_target(case.story, arrays, to_fit=False)
    density = target.density()
    q = density.flatten(case.latents())
    found = density.log_likelihood(q)
    np.testing.assert_allclose(found, case.log_likelihood(case.point, arrays), rtol=1e-9, atol=1e-9)
    if case.story.examples is not None:
        assert float(found[3]) == pytest.approx(0.0, abs=1e-9)
    value, gradient = density.value_and_gradient(q)
    assert bool(value.isfinite())
    assert bool(gradient.isfinite().all())


@each
def test_slices_know_what_they_miss(case: Case) -> None:
    if case.story.examples is None:
        return
    arrays = with_holes(case)
    target = make_target(case.story, arrays, to_fit=False)
    q = target.density().flatten(case.latents())
    by_example = target.density().per_example(q)
    some = torch.tensor([3, 0])
    estimate = target.density(jacobian=False, prior=False).on_rows(some)(q)
    whole = target.density(jacobian=False, prior=False).per_example(q)
    assert float(estimate) == pytest.approx(float(whole[some].sum()) * len(by_example) / 2)
    assert target.rows([3]).structure.missing
    assert not target.rows([2]).structure.missing


def test_a_sequence_that_reads_its_past_can_have_no_hole() -> None:
    case = next(case for case in CASES if case.reads_past)
    arrays = {"y": np.where(np.arange(12) == 4, np.nan, case.arrays["y"])}
    with pytest.raises(DataError, match="argument 'y': missing value at row 5; the model reads"):
        make_target(case.story, arrays)


@pytest.mark.parametrize("also_outcome", [False, True])
def test_a_hole_in_a_covariate_is_refused_with_its_place(also_outcome: bool) -> None:
    x, y = np.arange(6.0), np.arange(6.0)
    x[2] = np.nan
    if also_outcome:
        y[1] = np.nan
    with pytest.raises(DataError, match="argument 'x': missing value at row 3;"):
        make_target(FlatRegression(), {"x": x, "y": y})


class Smooth(Story):
    """Reads its covariate in a way that no validation catches."""

    data_dims = {"x": ("row", "feature"), "y": ("row",)}
    examples = "row"

    def model(self, x: Any, y: Any) -> None:
        slope = pyro.sample("slope", dist.Normal(0, 1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(slope * torch.nan_to_num(x).sum(-1), 1), obs=y)


def test_a_covariate_may_not_be_missing_even_where_the_model_runs() -> None:
    x = np.zeros((4, 2))
    x[1, 1] = np.nan
    with pytest.raises(DataError, match="argument 'x': missing value at row 2, column 2;"):
        make_target(Smooth(), {"x": x, "y": np.zeros(4)})


# -- joint events ------------------------------------------------------------------------------


class Joint(Story):
    """Rows from one normal with a covariance: an event is seen whole, or not at all."""

    data_dims = {"y": ("row", "feature")}
    examples = "row"

    def model(self, y: Any) -> None:
        loc = pyro.sample("loc", dist.Normal(0, 5).expand([2]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.MultivariateNormal(loc, torch.tensor(COVARIANCE)), obs=y)


class Blocks(Story):
    """One event of many such rows: each row of it is whole or missing."""

    data_dims = {"y": ("row", "feature")}

    def model(self, y: Any) -> None:
        loc = pyro.sample("loc", dist.Normal(0, 5).expand([2]).to_event(1))
        rows = dist.MultivariateNormal(loc.expand(len(y), 2), torch.tensor(COVARIANCE)).to_event(1)
        pyro.sample("y", rows, obs=y)


class WithMarginal(Joint):
    """The same with a marginal likelihood that takes NaN."""

    def marginal(self, latents: Any, data: Any) -> torch.Tensor:
        y = data["y"]
        factor = torch.linalg.cholesky(torch.tensor(COVARIANCE))
        rows = PartialNormal(latents["loc"].expand_as(y), scale_tril=factor)
        return rows.mask_missing(~y.isnan()).log_prob(y.nan_to_num())


def seen_normal(row: np.ndarray, loc: np.ndarray) -> float:
    """Log density of the part of a row that is seen."""
    seen = ~np.isnan(row)
    if not seen.any():
        return 0.0
    covariance = np.array(COVARIANCE)[seen][:, seen]
    return float(stats.multivariate_normal.logpdf(row[seen], loc[seen], covariance))


COVARIANCE = [[1.0, 0.6], [0.6, 2.0]]
ROWS = np.array([[0.1, 0.2], [1.0, -1.0], [0.3, 2.0]])
LOC = torch.tensor([0.5, -0.5], dtype=torch.float64)


@pytest.mark.parametrize("story", [Joint(), Blocks()], ids=lambda story: story.name)
def test_a_joint_event_may_be_missing_as_a_whole(story: Story) -> None:
    y = ROWS.copy()
    y[1] = np.nan
    density = make_target(story, {"y": y}).density()
    by_hand = [seen_normal(row, LOC.numpy()) for row in y]
    assert float(density.log_likelihood(LOC).sum()) == pytest.approx(sum(by_hand))


@pytest.mark.parametrize("story", [Joint(), Blocks()], ids=lambda story: story.name)
def test_a_joint_event_that_is_partly_missing_is_refused_with_its_row(story: Story) -> None:
    y = ROWS.copy()
    y[2, 0] = np.nan
    said = "site 'y', row 3: partly missing, but MultivariateNormal is one joint event; .*marginal"
    with pytest.raises(DataError, match=said):
        make_target(story, {"y": y})


def test_a_marginal_that_takes_nan_allows_what_the_model_can_not_say() -> None:
    y = ROWS.copy()
    y[2, 0] = np.nan
    target = make_target(WithMarginal(), {"y": y})
    found = target.density().log_likelihood(LOC)
    np.testing.assert_allclose(found, [seen_normal(row, LOC.numpy()) for row in y])
    assert target.structure.missing
    assert bool(target.density().start(np.random.default_rng(0)).isfinite().all())


# -- the fill ----------------------------------------------------------------------------------


class Positive(Story):
    """A support that a fill of zero would leave."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0, 1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.LogNormal(mu, 1.0), obs=y)


def test_the_fill_lies_in_the_support() -> None:
    y = np.array([0.5, np.nan, 2.0])
    density = make_target(Positive(), {"y": y}).density()
    q = torch.full((1,), 0.5, dtype=torch.float64)
    expected = np.nan_to_num(stats.lognorm.logpdf(y, 1, scale=np.exp(0.5)))
    np.testing.assert_allclose(density.log_likelihood(q), expected)
    _, gradient = density.value_and_gradient(q)
    assert float(gradient) == pytest.approx(np.nansum(np.log(y) - 0.5) - 0.5)


def test_a_model_that_fails_for_another_reason_says_that_one() -> None:
    y = CASES[0].arrays["y"].copy()
    y[0, 0] = np.nan
    with pytest.raises(StoryError, match="the model fails on these data"):
        make_target(Mixture(n_components=-1), {"y": y})
