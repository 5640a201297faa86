"""Label switching undone: draws agree on their labels, and nothing else has changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from xarray import Dataset, DataTree

from storyzoo.inference.engine.relabelling import relabel, why_not_exchangeable
from storyzoo.inference.engine.statistics import array_stats
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.models.gmm import GaussianMixture
from storyzoo.story import Story
from tests.cases import TWO_CLOUDS, Mixture, TinyChain

CHAINS, DRAWS = 2, 40
Draws = dict[str, np.ndarray]

WEIGHT = np.array([0.5, 0.3, 0.2])
LOC = np.array([[-3.0, 0.0], [0.0, 4.0], [3.0, -1.0]])
COVARIANCE = np.array([np.eye(2) * 0.5, [[2.0, 0.9], [0.9, 1.0]], np.eye(2) * 3])
POINTS: list[tuple[Story, dict[str, Any], Mapping[str, np.ndarray], str]] = [
    (
        Mixture(n_components=3),
        {"y": TWO_CLOUDS},
        {"weight": WEIGHT, "loc": LOC, "scale": np.exp(0.3 * LOC)},
        "component",
    ),
    (
        GaussianMixture(n_components=3),
        {"y": TWO_CLOUDS},
        {"weight": WEIGHT, "loc": LOC, "covariance": COVARIANCE},
        "component",
    ),
    (
        TinyChain(n_states=3),
        {"y": np.array([-1.2, -0.3, 1.9, 2.2, 0.4])},
        {
            "transition": np.array([[0.8, 0.15, 0.05], [0.3, 0.6, 0.1], [0.05, 0.25, 0.7]]),
            "loc": np.array([-2.0, 0.0, 2.0]),
        },
        "state",
    ),
]
each = pytest.mark.parametrize(
    ("story", "arrays", "point", "group"), POINTS, ids=lambda value: getattr(value, "name", "")
)


@dataclass(frozen=True)
class Scrambled:
    """Draws around a point, in their true order and with the labels of each draw permuted."""

    target: Target
    true: Draws
    tree: DataTree

    def differs(self, tree: DataTree) -> float:
        """Greatest distance of a tree's posterior from the true draws."""
        return max(
            float(np.abs(tree["posterior"][name].values - value).max())
            for name, value in self.true.items()
        )


def scramble(
    story: Story, arrays: dict[str, Any], point: Mapping[str, np.ndarray], group: str
) -> Scrambled:
    """Jitter a point into draws, add labels where the story has some, permute each draw."""
    target = make_target(story, arrays)
    rng = np.random.default_rng(3)
    density = target.density()
    centre = density.flatten({name: torch.as_tensor(value) for name, value in point.items()})
    noise = torch.as_tensor(rng.normal(scale=0.1, size=(CHAINS, DRAWS, density.dim)))
    true = {name: value.numpy() for name, value in density.unflatten(centre + noise).items()}
    labels = {
        name: rng.integers(3, size=(CHAINS, DRAWS, *target.structure.sites[name].shape))
        for name in story.label_values
    }
    orders = np.argsort(rng.random((CHAINS, DRAWS, 3)), axis=-1)
    dims = story.exchangeable[group]
    changed = {
        name: _permuted(value, target.structure.sites[name].dims, dims, orders)
        for name, value in true.items()
    }
    renamed = {
        name: np.take_along_axis(np.argsort(orders), value, axis=-1)
        for name, value in labels.items()
    }
    tree = posterior_tree(target.structure, {**changed, **renamed}, {})
    return Scrambled(target, {**true, **labels}, tree)


def _permuted(
    value: np.ndarray, own: tuple[str, ...], dims: tuple[str, ...], orders: np.ndarray
) -> np.ndarray:
    """``value`` (chain, draw, *own) with each draw's order applied along every one of dims."""
    permuted = value.copy()
    for chain, draw in np.ndindex(*orders.shape[:2]):
        one = value[chain, draw]
        for axis, dim in enumerate(own):
            if dim in dims:
                one = np.take(one, orders[chain, draw], axis=axis)
        permuted[chain, draw] = one
    return permuted


def reference_of(scrambled: Scrambled) -> DataTree:
    """The true draws as a posterior to match to."""
    continuous = {name: scrambled.true[name] for name in scrambled.target.structure.latents}
    tree = posterior_tree(scrambled.target.structure, continuous, {})
    posterior = tree["posterior"]
    assert isinstance(posterior, DataTree)
    return posterior


# -- every story with labels -------------------------------------------------------------------


@each
def test_permuted_draws_come_back_as_they_were(
    story: Story, arrays: dict[str, Any], point: Mapping[str, np.ndarray], group: str
) -> None:
    scrambled = scramble(story, arrays, point, group)
    assert scrambled.differs(scrambled.tree) > 0.5
    found = relabel(scrambled.tree, scrambled.target, reference_of(scrambled))
    assert scrambled.differs(found.tree) < 1e-12
    assert found.refused == {}
    assert found.moved[group] == pytest.approx(5 / 6, abs=0.15)
    before = scrambled.tree["posterior"].to_dataset()
    for name, variable in found.tree["posterior"].to_dataset().items():
        assert variable.dims == before[name].dims


@each
def test_without_a_reference_the_labels_agree_all_the_same(
    story: Story, arrays: dict[str, Any], point: Mapping[str, np.ndarray], group: str
) -> None:
    scrambled = scramble(story, arrays, point, group)
    found = relabel(scrambled.tree, scrambled.target).tree["posterior"]
    for name in scrambled.target.structure.latents:
        spread = np.asarray(found[name].std(["chain", "draw"]))
        by_hand = scrambled.true[name].std((0, 1))
        np.testing.assert_allclose(np.sort(spread.ravel()), np.sort(by_hand.ravel()), rtol=1e-9)


@each
def test_permuting_labels_changes_no_likelihood(
    story: Story, arrays: dict[str, Any], point: Mapping[str, np.ndarray], group: str
) -> None:
    scrambled = scramble(story, arrays, point, group)
    density = scrambled.target.density(jacobian=False)
    values = []
    for draws in (scrambled.true, posterior_draws(scrambled)):
        latents = {n: torch.as_tensor(draws[n][0]) for n in scrambled.target.structure.latents}
        flat = density.flatten(latents)
        values.append((density.log_likelihood(flat), density.batch(flat)))
    torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-9)


def posterior_draws(scrambled: Scrambled) -> Draws:
    posterior = scrambled.tree["posterior"].to_dataset()
    return {str(name): np.asarray(values) for name, values in posterior.items()}


def r_hat(tree: DataTree, name: str) -> float:
    """Worst R-hat of a site's elements; the classical one, split by chain."""
    draws = np.asarray(tree["posterior"][name].values)
    flat = draws.reshape(*draws.shape[:2], -1)
    return max(
        float(array_stats.rhat(column, method="split")) for column in flat.transpose(2, 0, 1)
    )


@each
def test_r_hat_falls_where_chains_sit_on_different_labels(
    story: Story, arrays: dict[str, Any], point: Mapping[str, np.ndarray], group: str
) -> None:
    scrambled = scramble(story, arrays, point, group)
    orders = np.broadcast_to(np.array([[0, 1, 2], [1, 2, 0]])[:, None], (CHAINS, DRAWS, 3))
    sites = scrambled.target.structure.latents
    switched = {
        name: _permuted(scrambled.true[name], site.dims, story.exchangeable[group], orders)
        for name, site in sites.items()
    }
    tree = posterior_tree(scrambled.target.structure, switched, {})
    found = relabel(tree, scrambled.target).tree
    assert max(r_hat(tree, name) for name in sites) > 2
    assert max(r_hat(found, name) for name in sites) < 1.15


# -- one story ---------------------------------------------------------------------------------


def test_the_reference_draw_is_the_one_of_highest_density() -> None:
    scrambled = scramble(*POINTS[0])
    lp = np.zeros((CHAINS, DRAWS))
    lp[1, 7] = 1.0
    tree = DataTree.from_dict(
        {
            "/posterior": scrambled.tree["posterior"].to_dataset(),
            "/sample_stats": Dataset({"lp": (("chain", "draw"), lp)}),
        }
    )
    found = relabel(tree, scrambled.target).tree["posterior"]
    before = scrambled.tree["posterior"]
    for name in scrambled.target.structure.latents:
        kept = found[name].isel(chain=1, draw=7)
        np.testing.assert_array_equal(kept, before[name].isel(chain=1, draw=7))


def test_predictions_and_likelihoods_are_left_as_they_are() -> None:
    scrambled = scramble(*POINTS[0])
    rng = np.random.default_rng(0)
    dims = ("chain", "draw", "point", "feature")
    shape = (CHAINS, DRAWS, 11, 2)
    extra = {
        "log_likelihood": Dataset({"y": (dims[:3], rng.normal(size=shape[:3]))}),
        "posterior_predictive": Dataset({"y": (dims, rng.normal(size=shape))}),
        "sample_stats": Dataset({"lp": (dims[:2], rng.normal(size=shape[:2]))}),
        "observed_data": Dataset({"y": (dims[2:], TWO_CLOUDS)}),
    }
    tree = DataTree.from_dict(
        {f"/{name}": values for name, values in extra.items()}
        | {"/posterior": scrambled.tree["posterior"].to_dataset()}
    )
    found = relabel(tree, scrambled.target, reference_of(scrambled)).tree
    assert scrambled.differs(found) < 1e-12
    for name, values in extra.items():
        assert found[name].to_dataset().identical(values)


def test_coords_stay_in_their_order() -> None:
    story, arrays, point, group = POINTS[0]
    scrambled = scramble(story, arrays, point, group)
    found = relabel(scrambled.tree, scrambled.target).tree["posterior"]
    assert list(found["loc"].coords["component"].values) == [0, 1, 2]


@dataclass(frozen=True)
class Ranked(Mixture):
    """A mixture whose prior knows its components apart."""

    def model(self, y: Any) -> None:
        weight = pyro.sample("weight", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
        with pyro.plate("component", 3):
            loc = pyro.sample("loc", dist.Normal(0, self.spread).expand([2]).to_event(1))
            scale = pyro.sample("scale", dist.LogNormal(0, 1).expand([2]).to_event(1))
        with pyro.plate("point", len(y)):
            z = pyro.sample("z", dist.Categorical(weight), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(loc[z], scale[z]).to_event(1), obs=y)


def test_labels_that_mean_something_are_left_alone_with_the_reason() -> None:
    _, arrays, point, group = POINTS[0]
    scrambled = scramble(Ranked(n_components=3), arrays, point, group)
    found = relabel(scrambled.tree, scrambled.target)
    assert found.moved == {}
    assert "a permutation changes the log joint from" in found.refused[group]
    for name in scrambled.target.structure.latents:
        np.testing.assert_array_equal(
            found.tree["posterior"][name].values, scrambled.tree["posterior"][name].values
        )


def test_a_permutation_along_one_dim_of_two_is_no_symmetry() -> None:
    scrambled = scramble(*POINTS[2])
    assert why_not_exchangeable(scrambled.tree, scrambled.target, ("state", "next_state")) is None
    for dims in (("state",), ("next_state",)):
        reason = why_not_exchangeable(scrambled.tree, scrambled.target, dims)
        assert reason is not None
        assert "changes the log joint" in reason


def test_a_single_component_has_nothing_to_permute() -> None:
    target = make_target(Mixture(n_components=1), {"y": TWO_CLOUDS})
    draws = {
        "weight": np.ones((1, 3, 1)),
        "loc": np.zeros((1, 3, 1, 2)),
        "scale": np.ones((1, 3, 1, 2)),
    }
    found = relabel(posterior_tree(target.structure, draws, {}), target)
    assert found.moved == {"component": 0.0}
    assert found.refused == {}


class TwoGroups(Story):
    """Two kinds of parts, each with its own relabelling."""

    data_dims = {"y": ("row",)}
    examples = "row"
    exchangeable = {"left": ("left",), "right": ("right",)}

    def model(self, y: Any) -> None:
        with pyro.plate("left", 2):
            a = pyro.sample("a", dist.Normal(0, 10))
        with pyro.plate("right", 2):
            b = pyro.sample("b", dist.Normal(0, 10))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            x = pyro.sample("x", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(a[z.long()] * b[x.long()], 1.0), obs=y)


def test_two_groups_are_matched_apart() -> None:
    target = make_target(TwoGroups(), {"y": np.array([0.5, -1.0])})
    rng = np.random.default_rng(1)
    true = {
        name: np.array([-3.0, 3.0]) + rng.normal(scale=0.1, size=(1, 60, 2)) for name in ("a", "b")
    }
    flipped = {
        name: np.where(rng.random((1, 60, 1)) < 0.5, value, value[..., ::-1])
        for name, value in true.items()
    }
    found = relabel(
        posterior_tree(target.structure, flipped, {}),
        target,
        posterior_tree(target.structure, true, {})["posterior"].to_dataset(),
    )
    assert set(found.moved) == {"left", "right"}
    for name, value in true.items():
        np.testing.assert_array_equal(found.tree["posterior"][name].values, value)
