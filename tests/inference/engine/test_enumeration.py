"""Discrete sites: their exact posterior and the expected log joint, against every labelling."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import special, stats
from torch import Tensor

from storyzoo.inference.engine.enumeration import (
    Responsibilities,
    expected_log_joint,
    responsibilities,
)
from storyzoo.inference.engine.logspace import log_sum_exp
from storyzoo.inference.engine.missing import ObservedMessenger
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.story import Story
from tests.cases import CASES, MIXTURE_POINT, Case, Mixture


class Shared(Story):
    """One label for all examples, beside one for each."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        loc = pyro.sample("loc", dist.Normal(0, 1))
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        a = pyro.sample("a", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        with pyro.plate("row", len(y)):
            b = pyro.sample("b", dist.Bernoulli(share), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(loc + 2 * a - b, 1.0), obs=y)


def small(case: Case) -> Case:
    """The case with few enough examples to go through every labelling."""
    arrays = dict(case.arrays)
    if case.story.examples == "point":
        arrays["y"] = arrays["y"][3:9]
    elif case.story.examples == "group":
        arrays["y"] = arrays["y"][:, :2]
    return replace(case, arrays=arrays)


def with_hole(case: Case) -> Case:
    """The same with a value missing."""
    y = case.arrays["y"].copy()
    y.flat[1] = np.nan
    return replace(case, arrays={**case.arrays, "y": y})


SMALL = [small(case) for case in CASES if case.target().structure.discrete]
ENUMERATED = [
    *SMALL,
    Case(
        Shared(),
        {"y": np.array([0.1, 1.5, 2.0])},
        {"loc": np.array(0.2), "share": np.array(0.4)},
        lambda point, data: np.zeros(0),
    ),
]
each = pytest.mark.parametrize("case", ENUMERATED, ids=lambda case: case.name)


@dataclass(frozen=True)
class Labellings:
    """Every value of all discrete sites together, and the log joint at each, in nats."""

    labels: list[dict[str, Tensor]]
    log_joint: np.ndarray

    @property
    def log_likelihood(self) -> float:
        """The log of the sum over all of them."""
        return float(special.logsumexp(self.log_joint))

    @property
    def weights(self) -> np.ndarray:
        """Posterior probability of each."""
        return np.asarray(special.softmax(self.log_joint))

    def marginal(self, site: str, weights: np.ndarray) -> np.ndarray:
        """``(values, *batch shape)``: probability of each label of a site."""
        one_hot = [np.stack([np.asarray(one[site]) == k for k in range(2)]) for one in self.labels]
        return np.asarray(np.tensordot(weights, np.array(one_hot, dtype=float), axes=1))


def every_labelling(target: Target, latents: dict[str, Tensor]) -> Labellings:
    """By running the model once for each; every discrete site of the cases has two values."""
    sites = target.structure.discrete
    sizes = [int(np.prod(site.shape)) for site in sites.values()]
    labels, log_joint = [], []
    with target.context():
        for values in itertools.product([0.0, 1.0], repeat=sum(sizes)):
            pieces = torch.tensor(values).split(sizes)
            chosen = {
                name: piece.reshape(site.shape).to(torch.long if "z" in name else torch.float64)
                for (name, site), piece in zip(sites.items(), pieces, strict=True)
            }
            labels.append(chosen)
            log_joint.append(joint_at(target, {**latents, **chosen}))
    return Labellings(labels, np.array(log_joint))


def joint_at(target: Target, values: dict[str, Tensor]) -> float:
    """Log joint of the discrete and the observed sites, what is missing left out."""
    with ObservedMessenger(target.structure.missing):
        trace = poutine.trace(poutine.condition(target.story.model, values)).get_trace(
            **target.data
        )
    kept = {**target.structure.discrete, **target.structure.observed}
    trace.compute_log_prob(site_filter=lambda name, site: name in kept)
    return sum(float(trace.nodes[name]["log_prob_sum"]) for name in kept)


def e_step(case: Case, hard: bool = False) -> tuple[Responsibilities, Labellings]:
    """The engine's E-step at the case's point, and the labellings to hold it against."""
    target = case.target()
    with target.context():
        found = responsibilities(
            case.story, target.data, case.latents(), target.structure, hard=hard
        )
    return found, every_labelling(target, case.latents())


@each
def test_posterior_of_every_site_is_that_of_all_labellings(case: Case) -> None:
    found, by_hand = e_step(case)
    assert float(found.log_likelihood) == pytest.approx(by_hand.log_likelihood)
    assert set(found.by_site) == set(case.target().structure.discrete)
    for name, weights in found.by_site.items():
        expected = by_hand.marginal(name, by_hand.weights)
        np.testing.assert_allclose(weights, expected, atol=1e-12, err_msg=name)


@each
def test_hard_weights_are_those_of_the_best_labelling(case: Case) -> None:
    found, by_hand = e_step(case, hard=True)
    best = np.arange(len(by_hand.log_joint)) == by_hand.log_joint.argmax()
    assert float(found.log_likelihood) == pytest.approx(by_hand.log_joint.max())
    for name, weights in found.by_site.items():
        expected = by_hand.marginal(name, best.astype(float))
        np.testing.assert_allclose(weights, expected, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    "case", [case for case in SMALL if not case.story.ragged], ids=lambda case: case.name
)
@pytest.mark.parametrize("hard", [False, True])
def test_missing_values_weigh_nothing(case: Case, hard: bool) -> None:
    found, by_hand = e_step(with_hole(case), hard)
    weights = by_hand.weights
    if hard:
        weights = (by_hand.log_joint == by_hand.log_joint.max()).astype(float)
        weights /= weights.sum()
    for name, own in found.by_site.items():
        np.testing.assert_allclose(own, by_hand.marginal(name, weights), atol=1e-12, err_msg=name)


@each
def test_expected_log_joint_is_the_average_over_all_labellings(case: Case) -> None:
    found, by_hand = e_step(case)
    target = case.target()
    elsewhere = moved(target, case.latents())
    with target.context():
        average = expected_log_joint(
            case.story, target.data, elsewhere, target.structure, found.by_factor
        )
    there = every_labelling(target, elsewhere).log_joint
    assert float(average) == pytest.approx(float(by_hand.weights @ there))


@each
def test_its_gradient_is_that_of_the_log_marginal_at_the_same_point(case: Case) -> None:
    """Fisher's identity: ``d log p(y|t) = E[d log p(y,z|t)]``."""
    target = case.target()
    found, _ = e_step(case)
    density = target.density(jacobian=False, prior=False)
    q = density.flatten(case.latents()).requires_grad_()
    with target.context():
        average = expected_log_joint(
            case.story, target.data, density.unflatten(q), target.structure, found.by_factor
        )
        average = average + density.parts(q).local_prior.sum()
    (gradient,) = torch.autograd.grad(average, q)
    _, of_marginal = density.value_and_gradient(q.detach())
    torch.testing.assert_close(gradient, of_marginal, rtol=1e-8, atol=1e-8)


def moved(target: Target, latents: dict[str, Tensor]) -> dict[str, Tensor]:
    """Another point nearby, within the supports."""
    density = target.density()
    return density.unflatten(density.flatten(latents) + 0.1)


# -- the edges ---------------------------------------------------------------------------------


def test_ties_are_split_evenly() -> None:
    story, point = Mixture(), {**MIXTURE_POINT, "weight": np.array([0.5, 0.5])}
    alike = {name: np.repeat(value[:1], 2, axis=0) for name, value in point.items()}
    case = replace(CASES[0], story=story, arrays={"y": np.zeros((3, 2))}, point=alike)
    found, _ = e_step(case, hard=True)
    np.testing.assert_allclose(found.by_site["z"], 0.5)


class Absorbing(Story):
    """A chain whose second state is never left: the log of that step is minus infinity."""

    data_dims = {"y": ("time",)}

    def model(self, y: Any) -> None:
        with pyro.plate("state", 2):
            loc = pyro.sample("loc", dist.Normal(0, 5))
        logits = torch.tensor([[0.7, 0.3], [0.0, 1.0]]).log()
        z: Any = 0
        for t in pyro.markov(range(len(y))):
            step = dist.Categorical(logits=logits[z])
            z = pyro.sample(f"z_{t}", step, infer={"enumerate": "parallel"})
            pyro.sample(f"y_{t}", dist.Normal(loc[z], 1.0), obs=y[t])


def test_an_impossible_step_gets_no_weight_and_no_nan() -> None:
    point = {"loc": np.array([-1.0, 2.0])}
    case = Case(Absorbing(), {"y": np.array([-1.0, 2.1, -0.5])}, point, lambda p, d: np.zeros(0))
    found, by_hand = e_step(case)
    assert np.isneginf(by_hand.log_joint).sum() == 4
    for name, weights in found.by_site.items():
        np.testing.assert_allclose(weights, by_hand.marginal(name, by_hand.weights), atol=1e-12)
    target = case.target()
    loc = case.latents()["loc"].requires_grad_()
    with target.context():
        latents = {**case.latents(), "loc": loc}
        average = expected_log_joint(
            case.story, target.data, latents, target.structure, found.by_factor
        )
    (gradient,) = torch.autograd.grad(average, loc)
    assert bool(average.isfinite())
    assert bool(gradient.isfinite().all())


def test_a_row_in_which_nothing_is_possible_has_no_gradient() -> None:
    x = torch.tensor([[-torch.inf, -torch.inf], [-torch.inf, 0.5]], dtype=torch.float64)
    total = log_sum_exp(x.requires_grad_(), (1,))
    assert float(total.detach()[0]) < -1e300
    assert float(total.detach()[1]) == pytest.approx(0.5)
    (gradient,) = torch.autograd.grad(total.sum(), x)
    assert gradient.tolist() == [[0.0, 0.0], [0.0, 1.0]]


class Displaced(Story):
    """A continuous latent of each example that depends on its label."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            x = pyro.sample("x", dist.Normal(4 * z, 1.0))
            pyro.sample("y", dist.Normal(x, 0.5), obs=y)


def test_a_latent_below_a_label_counts_inside_the_sum() -> None:
    x, y = np.array([0.2, 3.0, 5.0]), np.array([0.0, 3.5, 4.0])
    density = make_target(Displaced(), {"y": y}).density()
    q = torch.tensor(x)
    by_hand = stats.norm.logpdf(y, x, 0.5) + np.logaddexp(
        np.log(0.7) + stats.norm.logpdf(x, 0, 1), np.log(0.3) + stats.norm.logpdf(x, 4, 1)
    )
    np.testing.assert_allclose(density.per_example(q), by_hand)
    assert float(density(q)) == pytest.approx(by_hand.sum())
