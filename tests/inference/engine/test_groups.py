"""The groups of the tree: all that apply, with the right dims, equal to what they are by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from xarray import DataTree

from storyzoo.inference.engine import groups
from storyzoo.inference.engine.groups import complete, likelihoods, thinned, with_deterministic
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.engine.tree import draws_of, posterior_tree
from storyzoo.models.eight_schools import EightSchools
from storyzoo.story import Story
from tests.cases import CASES, ERRORS, SCHOOLS, Case, Mixture

CHAINS, DRAWS = 2, 3
PREDICTIVE = 5
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def few_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "PREDICTIVE_DRAWS", PREDICTIVE)


def posterior_near(target: Target, point: dict[str, torch.Tensor], size: float = 0.1) -> DataTree:
    """Draws around a point, within the supports."""
    density = target.density()
    rng = np.random.default_rng(2)
    noise = torch.as_tensor(rng.normal(scale=size, size=(CHAINS, DRAWS, density.dim)))
    draws = density.unflatten(density.flatten(point) + noise)
    return posterior_tree(target.structure, {n: v.numpy() for n, v in draws.items()}, {})


def completed(case: Case) -> tuple[DataTree, list[str]]:
    return complete(posterior_near(case.target(), case.latents()), case.target(), seed=0)


def dims_of(tree: DataTree, group: str) -> dict[str, tuple[str, ...]]:
    return {str(name): tuple(map(str, v.dims)) for name, v in tree[group].to_dataset().items()}


# -- every story -------------------------------------------------------------------------------


@each
def test_every_group_that_applies_is_there_with_its_dims(case: Case) -> None:
    tree, notes = completed(case)
    structure, drawn = case.target().structure, ("chain", "draw")
    outcome = structure.outcomes[0]
    told = {outcome: (*drawn, *case.story.data_dims[outcome])}
    sites = {name: (*drawn, *site.dims) for name, site in structure.latents.items()}
    along = case.story.examples or "whole"
    expected = {
        "posterior": sites,
        "log_likelihood": {outcome: (*drawn, along)},
        "posterior_predictive": told,
        "observed_data": {outcome: case.story.data_dims[outcome]},
    }
    if not case.improper:
        expected |= {"log_prior": {"log_prior": drawn}, "prior": sites, "prior_predictive": told}
    if structure.covariates:
        given = {n: case.story.data_dims.get(n, ()) for n in structure.covariates}
        expected["constant_data"] = given
    said = ["no prior draws: the prior of beta is improper"] if case.improper else []
    if case.story.ragged:
        expected = {k: v for k, v in expected.items() if "predictive" not in k}
        said = ["no predictive draws are kept: their sizes differ from draw to draw"]
    assert {group: dims_of(tree, group) for group in tree.children} == expected
    assert notes == said
    for child in tree.children.values():
        for dim, labels in child.to_dataset().coords.items():
            if dim in structure.coords:
                assert list(labels.values) == list(structure.coords[str(dim)])


@each
def test_log_likelihood_is_the_one_by_hand_at_every_draw(case: Case) -> None:
    tree, _ = completed(case)
    draws = draws_of(case.target().structure, tree["posterior"])
    found = tree["log_likelihood"].to_dataset()[case.target().structure.outcomes[0]].values
    for place in np.ndindex(CHAINS, DRAWS):
        point = {name: value[place] for name, value in draws.items()}
        expected = case.log_likelihood(point, case.arrays)
        np.testing.assert_allclose(found[place], expected, rtol=1e-9)


@each
def test_data_are_kept_as_they_came(case: Case) -> None:
    tree, _ = completed(case)
    for group in ("observed_data", "constant_data"):
        if group in tree.children:
            for name, values in tree[group].to_dataset().items():
                np.testing.assert_array_equal(values, case.arrays[str(name)])


@each
def test_the_same_seed_gives_the_same_groups(case: Case) -> None:
    (first, _), (again, _) = completed(case), completed(case)
    for group, child in first.children.items():
        assert child.to_dataset().identical(again[group].to_dataset())


# -- one story ---------------------------------------------------------------------------------


def test_log_prior_is_that_of_the_parameters_themselves() -> None:
    case = CASES[0]
    tree, _ = completed(case)
    draws = draws_of(case.target().structure, tree["posterior"])
    found = tree["log_prior"].to_dataset()["log_prior"].values
    for place in np.ndindex(CHAINS, DRAWS):
        by_hand = (
            stats.dirichlet.logpdf(draws["weight"][place], [1, 1])
            + stats.norm.logpdf(draws["loc"][place], 0, 5).sum()
            + stats.lognorm.logpdf(draws["scale"][place], 1).sum()
        )
        assert found[place] == pytest.approx(by_hand)


class Sparse(Story):
    """A Dirichlet without a mode, for which ascents change the basis."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        weight = pyro.sample("weight", dist.Dirichlet(torch.full((3,), 0.5)))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Categorical(weight), obs=y)


def test_log_prior_knows_nothing_of_the_softmax_basis() -> None:
    target = make_target(Sparse(), {"y": np.array([0, 0, 1])})
    weight = np.array([[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]])
    found = likelihoods(target, {"weight": weight}, [])["log_prior"]["log_prior"].values
    by_hand = [[stats.dirichlet.logpdf(one, [0.5] * 3) for one in weight[0]]]
    np.testing.assert_allclose(found, by_hand)


def test_predictions_follow_the_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "PREDICTIVE_DRAWS", 400)
    case = next(case for case in CASES if case.name == "flat-regression")
    draws = {
        name: np.tile(value, (2, 200) + (1,) * value.ndim) for name, value in case.point.items()
    }
    tree, _ = complete(posterior_tree(case.target().structure, draws, {}), case.target(), 0)
    told = tree["posterior_predictive"].to_dataset()["y"]
    line = case.point["beta"][0] + case.point["beta"][1] * case.arrays["x"]
    np.testing.assert_allclose(told.mean(["chain", "draw"]), line, atol=4 * 1.2 / 20)
    np.testing.assert_allclose(told.std(["chain", "draw"]), 1.2, rtol=0.15)


def test_predictions_of_single_examples_use_their_own_latents() -> None:
    arrays = {"effect": np.array(SCHOOLS), "stderr": np.full(8, 1e-3)}
    target = make_target(EightSchools(centred=True), arrays)
    theta = np.linspace(-50, 50, 8)
    draws = {
        "mu": np.zeros((1, 4)),
        "tau": np.ones((1, 4)),
        "theta": np.tile(theta, (1, 4, 1)),
    }
    tree, _ = complete(posterior_tree(target.structure, draws, {}), target, 0)
    told = tree["posterior_predictive"].to_dataset()["effect"]
    np.testing.assert_allclose(told.mean(["chain", "draw"]), theta, atol=0.01)


def test_deterministic_sites_join_the_posterior() -> None:
    arrays = {"effect": np.array(SCHOOLS), "stderr": np.array(ERRORS)}
    target = make_target(EightSchools(), arrays, coords={"school": list("ABCDEFGH")})
    point = {"mu": torch.tensor(4.0), "tau": torch.tensor(3.0), "theta_raw": torch.arange(8.0)}
    tree = with_deterministic(posterior_near(target, point), target)
    posterior = tree["posterior"].to_dataset()
    assert posterior["theta"].dims == ("chain", "draw", "school")
    assert list(posterior["theta"].coords["school"].values) == list("ABCDEFGH")
    by_hand = posterior["mu"] + posterior["tau"] * posterior["theta_raw"]
    np.testing.assert_allclose(posterior["theta"], by_hand)
    assert set(posterior.data_vars) == {"mu", "tau", "theta", "theta_raw"}


class Columns(Story):
    """One argument observed in two parts; a site that has the name of neither."""

    data_dims = {"y": ("row", "feature")}
    examples = "row"

    def model(self, y: Any) -> None:
        level = pyro.sample("level", dist.Normal(0, 1))
        with pyro.plate("row", len(y)):
            pyro.sample("first", dist.Normal(level, 1), obs=y[:, 0])
            pyro.sample("second", dist.Normal(level, 2), obs=y[:, 1])


def test_sites_are_gathered_by_the_argument_that_they_observe() -> None:
    y = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    target = make_target(Columns(), {"y": y}, coords={"feature": ["a", "b"]})
    draws = {"level": np.array([[0.5, 1.0]])}
    tree, _ = complete(posterior_tree(target.structure, draws, {}), target, 0)
    assert dims_of(tree, "posterior_predictive") == {"y": ("chain", "draw", "row", "feature")}
    found = tree["log_likelihood"].to_dataset()["y"].values
    for place, level in enumerate(draws["level"][0]):
        by_hand = stats.norm.logpdf(y[:, 0], level, 1) + stats.norm.logpdf(y[:, 1], level, 2)
        np.testing.assert_allclose(found[0, place], by_hand)


class Nameless(Story):
    """Says nothing of its dims."""

    def model(self, y: Any) -> None:
        level = pyro.sample("level", dist.Normal(0, 1))
        pyro.sample("y", dist.Normal(level, 1).expand([len(y)]).to_event(1), obs=y)


def test_a_story_that_names_no_dims_gets_a_tree_all_the_same() -> None:
    target = make_target(Nameless(), {"y": np.array([0.1, 0.2, 0.3])})
    draws = {"level": np.zeros((1, 2))}
    tree, _ = complete(posterior_tree(target.structure, draws, {}), target, 0)
    assert dims_of(tree, "log_likelihood") == {"y": ("chain", "draw", "whole")}
    for group in ("posterior_predictive", "prior_predictive"):
        assert dims_of(tree, group) == {"y": ("chain", "draw", "y_dim_0")}
    assert dims_of(tree, "observed_data") == {"y": ("y_dim_0",)}


# -- what can't be had -------------------------------------------------------------------------


class Tied(Story):
    """One label for all examples."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        loc = pyro.sample("loc", dist.Normal(0, 1))
        a = pyro.sample("a", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(loc + 2 * a, 1.0), obs=y)


class Backward(Story):
    """Reads its own past and has no step."""

    data_dims = {"y": ("time",)}

    def model(self, y: Any) -> None:
        phi = pyro.sample("phi", dist.Uniform(-1, 1))
        with pyro.plate("time", len(y)):
            pyro.sample("y", dist.Normal(phi * torch.cat([y.new_zeros(1), y[:-1]]), 1), obs=y)


@pytest.mark.parametrize(
    ("story", "absent", "said"),
    [
        (Tied(), {"log_likelihood"}, "no pointwise log likelihood: 'a' ties the examples"),
        (
            Backward(),
            {"posterior_predictive", "prior_predictive", "prior"},
            "no posterior predictive draws: the model reads earlier observed values",
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_group_that_can_not_be_had_is_told_with_the_reason(
    story: Story, absent: set[str], said: str
) -> None:
    target = make_target(story, {"y": np.array([0.1, -0.3, 0.4])})
    draws = {name: np.full((1, 2), 0.3) for name in target.structure.latents}
    tree, notes = complete(posterior_tree(target.structure, draws, {}), target, 0)
    assert any(note.startswith(said) for note in notes)
    assert absent.isdisjoint(tree.children)
    others = {"log_likelihood", "posterior_predictive", "prior_predictive", "prior"} - absent
    assert others <= set(tree.children)


def test_groups_that_would_be_too_large_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MOST_ELEMENTS", 20)
    tree, notes = completed(CASES[0])
    assert set(tree.children) == {"posterior", "observed_data"}
    assert notes == [
        "no pointwise log likelihood: 6 draws × 11 examples",
        "no predictive draws: the data are too large to keep copies of them",
    ]


def test_thinning_takes_draws_evenly_over_all_chains() -> None:
    draws = {"a": np.arange(12).reshape(2, 6)}
    assert thinned(draws, 4)["a"].tolist() == [0, 4, 7, 11]
    assert thinned(draws, 100)["a"].tolist() == list(range(12))


def test_missing_values_stay_missing_in_the_data_kept() -> None:
    y = CASES[0].arrays["y"].copy()
    y[4, 1] = np.nan
    target = make_target(Mixture(), {"y": y})
    tree, _ = complete(posterior_near(target, CASES[0].latents()), target, 0)
    np.testing.assert_array_equal(tree["observed_data"].to_dataset()["y"], y)
    assert bool(np.isfinite(tree["posterior_predictive"].to_dataset()["y"]).all())
