"""What is read off a story: the sites, their dims and coords, what is local, what is improper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from storyzoo.errors import DataError, StoryError
from storyzoo.inference.engine.structure import Site
from storyzoo.inference.engine.target import make_target
from storyzoo.models.eight_schools import EightSchools
from storyzoo.models.gmm import GaussianMixture
from storyzoo.story import Story
from tests.cases import CASES, ERRORS, SCHOOLS, Case, Mixture, NestedPlates, TinyChain

each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

PREDICTOR: dict[str, tuple[str, ...]] = {
    "alpha": (),
    "raw": ("feature",),
    "beta": ("feature",),
    "intercept": (),
}
DIMS = {
    "mixture": {
        "weight": ("component",),
        "loc": ("component", "feature"),
        "scale": ("component", "feature"),
        "z": ("point",),
        "y": ("point", "feature"),
    },
    "gmm": {
        "weight": ("component",),
        "loc": ("component", "feature"),
        "covariance": ("component", "feature", "feature_other"),
        "z": ("point",),
        "y": ("point", "feature"),
    },
    "eight-schools": {"mu": (), "tau": (), "theta": ("school",), "effect": ("school",)},
    "flat-regression": {"beta": ("coefficient",), "sigma": (), "y": ("row",)},
    "first-order": {"phi": (), "y": ("time",)},
    "tiny-chain": {"transition": ("state", "next_state"), "loc": ("state",)}
    | {f"{name}_{t}": () for name in "zy" for t in range(5)},
    "nested-plates": {
        "mix": (),
        "often": ("kind",),
        "loc": ("side",),
        "a": ("group",),
        "b": ("item", "group"),
        "y": ("item", "group"),
    },
    "linear-regression": PREDICTOR | {"sigma": (), "y": ("row",)},
    "logistic-regression": PREDICTOR | {"y": ("row",)},
    "poisson-regression": PREDICTOR | {"y": ("row",)},
    "autoregression": {"alpha": (), "beta": ("lag",), "sigma": (), "y": ("step",)},
    "ordered-mixture": {
        "loc": ("component",),
        "scale": ("component",),
        "weight": ("component",),
        "z": ("point",),
        "y": ("point",),
    },
    "rbm": {
        "weight": ("pixel", "hidden"),
        "visible_bias": ("pixel",),
        "hidden_bias": ("hidden",),
        "mean_log_likelihood": (),
        "visible_mean": ("pixel",),
        "visible_correlation": ("pair",),
        "v": ("row", "pixel"),
    },
    "lda": {
        "topics": ("topic", "word"),
        "mixture": ("document", "topic"),
        "z": ("token",),
        "w": ("token",),
    },
}
"""Dims of every site: the plates around it, outermost first, then the events' as named."""
DISCRETE = {
    "mixture": {"z"},
    "gmm": {"z"},
    "tiny-chain": {f"z_{t}" for t in range(5)},
    "nested-plates": {"a", "b"},
    "ordered-mixture": {"z"},
    "lda": {"z"},
}
REGRESSIONS = ("flat-regression", "linear-regression", "logistic-regression", "poisson-regression")
GIVEN: dict[str, tuple[str, ...]] = dict.fromkeys(REGRESSIONS, ("x",)) | {
    "eight-schools": ("stderr",),
    "lda": ("length", "count", "n_words"),
}


@each
def test_dims_are_the_plates_and_the_named_event_dims(case: Case) -> None:
    structure = case.target().structure
    assert {name: site.dims for name, site in structure.sites.items()} == DIMS[case.name]
    for site in structure.sites.values():
        assert np.prod(site.sizes) == np.prod(site.shape)
        assert site.sizes == tuple(len(structure.coords[dim]) for dim in site.dims)


@each
def test_every_site_is_of_its_kind(case: Case) -> None:
    structure = case.target().structure
    assert set(structure.latents) == set(case.point)
    assert set(structure.discrete) == DISCRETE.get(case.name, set())
    assert structure.enumerated == (case.name in DISCRETE)
    assert structure.improper == case.improper
    for name, site in structure.latents.items():
        assert site.shape == np.shape(case.point[name])
        assert site.local == (name in ("theta", "mixture"))


@each
def test_arguments_that_are_observed_are_told_from_those_given(case: Case) -> None:
    structure = case.target().structure
    assert structure.covariates == GIVEN.get(case.name, ())
    assert set(structure.outcomes) == set(case.arrays) - set(structure.covariates)
    assert {site.argument for site in structure.observed.values()} == set(structure.outcomes)


@each
def test_examples_are_counted_along_their_dim(case: Case) -> None:
    target = case.target()
    assert target.n_examples == len(case.log_likelihood(case.point, case.arrays))


def test_coords_are_the_columns_names() -> None:
    labels = ["width", "height"]
    target = make_target(
        GaussianMixture(n_components=2), CASES[0].arrays, coords={"feature": labels}
    )
    assert list(target.structure.coords["feature"]) == labels
    assert list(target.structure.coords["component"]) == [0, 1]


def test_a_dim_under_a_second_name_takes_the_coords_of_its_twin() -> None:
    by_feature = make_target(GaussianMixture(), CASES[0].arrays, coords={"feature": ["a", "b"]})
    assert list(by_feature.structure.coords["feature_other"]) == ["a", "b"]
    by_state = make_target(TinyChain(), {"y": np.zeros(3)}, coords={"state": ["calm", "wild"]})
    assert list(by_state.structure.coords["next_state"]) == ["calm", "wild"]


def test_coords_that_do_not_fit_are_counted_instead() -> None:
    target = make_target(Mixture(), CASES[0].arrays, coords={"feature": ["just one"]})
    assert list(target.structure.coords["feature"]) == [0, 1]


def test_rows_keep_their_own_coords() -> None:
    labels = [f"school {i}" for i in range(8)]
    arrays = {"effect": np.array(SCHOOLS), "stderr": np.array(ERRORS)}
    target = make_target(EightSchools(), arrays, coords={"school": labels})
    some = target.rows([5, 2])
    assert list(some.structure.coords["school"]) == ["school 5", "school 2"]
    assert some.data["effect"].tolist() == [SCHOOLS[5], SCHOOLS[2]]
    assert some.structure.sites["theta_raw"].shape == (2,)


def test_rows_run_along_the_named_dim_wherever_it_stands() -> None:
    y = np.arange(12.0).reshape(3, 4)
    some = make_target(NestedPlates(), {"y": y}).rows([3, 0])
    np.testing.assert_array_equal(some.data["y"], y[:, [3, 0]])


# -- what a story may get wrong ----------------------------------------------------------------


class Twice(Story):
    """Names an event dim like the plate around it."""

    data_dims = {"y": ("row",)}
    event_dims = {"loc": ("component",)}

    def model(self, y: Any) -> None:
        with pyro.plate("component", 2):
            pyro.sample("loc", dist.Normal(0, 1).expand([2, 2]).to_event(1))


class Misnamed(Story):
    """Names two event dims of a site whose events have one."""

    data_dims = {"y": ("row",)}
    event_dims = {"loc": ("component", "feature")}

    def model(self, y: Any) -> None:
        pyro.sample("loc", dist.Normal(0, 1).expand([2]).to_event(1))


class Failing(Story):
    """Raises an error of its own."""

    data_dims = {"y": ("row",)}

    def model(self, y: Any) -> None:
        raise ValueError("no\nluck")


@pytest.mark.parametrize(
    ("story", "said"),
    [
        (Twice(), r"twice: site 'loc' has a dim twice in \('component', 'component'\)"),
        (Misnamed(), "names 2 dims of site 'loc', whose events have 1"),
        (Failing(), r"failing: the model fails on these data \(ValueError: no luck\)"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_story_that_breaks_the_contract_is_refused_with_the_place(
    story: Story, said: str
) -> None:
    with pytest.raises(StoryError, match=said):
        make_target(story, {"y": np.zeros(2)})


def test_arguments_of_different_length_are_refused_with_their_names() -> None:
    with pytest.raises(DataError, match="number of schools: effect 3, stderr 2"):
        make_target(Loose(), {"effect": np.zeros(3), "stderr": np.ones(2)})


class Loose(Story):
    """Reads two arguments of one length, but would run on others."""

    data_dims = {"effect": ("school",), "stderr": ("school",)}
    examples = "school"

    def model(self, effect: Any, stderr: Any) -> None:
        pyro.sample("mu", dist.Normal(0, 1))


# -- less usual sites --------------------------------------------------------------------------


class Derived(Story):
    """Deterministic sites as Pyro's tutorials write them: without an event_dim."""

    data_dims = {"y": ("row",)}
    event_dims = {"loc": ("feature",), "twice": ("feature",)}
    examples = "row"

    def model(self, y: Any) -> None:
        with pyro.plate("component", 2):
            loc = pyro.sample("loc", dist.Normal(0, 1).expand([2, 3]).to_event(1))
            pyro.deterministic("twice", 2 * loc)
        pyro.deterministic("total", loc.sum())
        pyro.deterministic("loose", loc[0])
        with pyro.plate("row", len(y)):
            shift = pyro.sample("shift", dist.Normal(0, 1))
            pyro.deterministic("shifted", shift + loc.sum())
            pyro.sample("y", dist.Normal(shift, 1), obs=y)


def test_deterministic_sites_have_the_dims_of_their_plates() -> None:
    sites = make_target(Derived(), {"y": np.zeros(5)}).structure.of_kind("deterministic")
    assert {name: site.dims for name, site in sites.items()} == {
        "twice": ("component", "feature"),
        "total": (),
        "loose": ("loose_dim_0",),
        "shifted": ("row",),
    }


def test_deterministic_sites_of_the_zoo_have_the_dims_of_their_plates() -> None:
    arrays = {"effect": np.array(SCHOOLS), "stderr": np.array(ERRORS)}
    theta = make_target(EightSchools(), arrays).structure.sites["theta"]
    assert (theta.kind, theta.dims, theta.local) == ("deterministic", ("school",), False)


class Columns(Story):
    """Observes its columns one by one, the second of them as whole numbers."""

    data_dims = {"y": ("row", "feature"), "count": ("row",)}
    examples = "row"

    def model(self, y: Any, count: Any) -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("first", dist.Normal(0, 1), obs=y[:, 0])
            pyro.sample("second", dist.Normal(0, 1), obs=y[:, 1])
            pyro.sample("many", dist.Poisson(rate), obs=count.long())
            pyro.sample("logs", dist.Normal(0, 1), obs=(1 + count).log())


def test_what_is_observed_is_known_by_part_and_in_another_dtype() -> None:
    arrays = {"y": np.zeros((4, 2)), "count": np.array([1.0, 0, 2, 5])}
    structure = make_target(Columns(), arrays).structure
    arguments = {name: site.argument for name, site in structure.observed.items()}
    assert arguments == {"first": "y", "second": "y", "many": "count", "logs": None}
    assert structure.outcomes == ("y", "count")


@pytest.mark.parametrize(("concentration", "basis"), [(0.5, True), (1.0, False)])
def test_a_dirichlet_without_a_mode_is_marked(concentration: float, basis: bool) -> None:
    class Sparse(Story):
        data_dims = {"y": ("row",)}

        def model(self, y: Any) -> None:
            with pyro.plate("document", 2):
                pyro.sample("weight", dist.Dirichlet(torch.full((3,), concentration)))

    site: Site = make_target(Sparse(), {"y": np.zeros(1)}).structure.sites["weight"]
    assert site.softmax_basis == basis
