"""What follows from a story without another line, and the rules that keep it right."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from storyzoo.errors import SettingError, StoryError
from storyzoo.inference.engine.groups import complete
from storyzoo.inference.engine.hidden import discrete_posterior, impute
from storyzoo.inference.engine.relabelling import relabel
from storyzoo.inference.engine.simulation import Simulator
from storyzoo.inference.engine.target import make_target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.models.eight_schools import EightSchools
from storyzoo.models.gmm import GaussianMixture
from storyzoo.story import Fantasies, Story
from tests.cases import CASES, ERRORS, SCHOOLS, Case, Mixture, NestedPlates

each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

HOOKS = [
    name
    for name, value in vars(Story).items()
    if callable(value) and not name.startswith("_") and name not in ("model", "has", "arguments")
]


# -- the declaration ---------------------------------------------------------------------------


def test_a_name_follows_from_the_class_unless_it_is_given() -> None:
    assert (NestedPlates.name, GaussianMixture.name) == ("nested-plates", "gmm")

    class Child(GaussianMixture):
        pass

    assert Child.name == "child"


def test_arguments_are_those_of_the_model_in_order() -> None:
    assert EightSchools().arguments() == ("effect", "stderr")
    assert Mixture().arguments() == ("y",)


def test_hooks_are_optional_and_none_raises_not_implemented() -> None:
    story = NestedPlates()
    assert not any(story.has(hook) for hook in HOOKS)
    rng, nothing = np.random.default_rng(0), dict[str, torch.Tensor]()
    answers = [
        story.guide(nothing),
        story.initial(nothing, rng),
        story.expect(nothing, nothing, False),
        story.maximise(nothing, nothing, True),
        story.marginal(nothing, nothing),
        story.step(nothing, None),
        story.sweeps(nothing, rng, None),
        story.stochastic_gradient(nothing, nothing, Fantasies(torch.Generator())),
        story.log_likelihood_estimate(nothing, nothing, rng),
        story.trajectories(nothing, nothing, rng),
        story.impute(nothing, nothing, rng),
        story.left_to_right(nothing, nothing, rng),
    ]
    assert answers == [None] * len(answers)
    assert story.scaled_to(nothing) is story
    assert (story.statistics(nothing), story.diagnose(nothing, nothing)) == ({}, {})
    story.check(nothing)


def test_a_hook_is_had_where_it_is_defined() -> None:
    assert all(GaussianMixture().has(hook) for hook in ("marginal", "impute", "expect", "guide"))
    assert not GaussianMixture().has("sweeps")


def test_a_story_without_a_model_says_what_to_write() -> None:
    class Empty(Story):
        data_dims = {"y": ("row",)}

    with pytest.raises(StoryError, match="Empty has no model: write `def model"):
        make_target(Empty(), {"y": np.zeros(2)})


def test_a_story_has_no_state() -> None:
    story = Mixture()
    with pytest.raises(FrozenInstanceError):
        story.n_components = 5  # type: ignore[misc]
    assert story == Mixture()
    assert hash(story) == hash(Mixture())


# -- dtype and device --------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain(Story):
    """Names no dtype: its numbers are Python's."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        scale = pyro.sample("scale", dist.Gamma(torch.ones(2), 1.0).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu + torch.zeros(len(y)), scale.sum()), obs=y)


class Single(Plain):
    """The same, as neural stories are."""

    dtype = "float32"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("story", [Plain(), Single()], ids=lambda story: story.name)
@pytest.mark.parametrize("given", [np.float32, np.float64])
def test_everything_has_the_storys_dtype_and_device(story: Story, given: Any, device: str) -> None:
    wanted = getattr(torch, story.dtype)
    target = make_target(story, {"y": np.arange(5, dtype=given)}, device=device)
    density = target.density()
    q = density.start(np.random.default_rng(0))
    latents = density.unflatten(q)
    found = [
        target.data["y"],
        q,
        *density.value_and_gradient(q),
        density.log_likelihood(q),
        *latents.values(),
        *Simulator(target).data(latents, np.random.default_rng(0), 3).values(),
        *(v for v in Simulator(target).prior(np.random.default_rng(0)).values()),
    ]
    assert {tensor.dtype for tensor in found} == {wanted}
    assert {tensor.device.type for tensor in found} == {device}


def test_whole_numbers_stay_whole() -> None:
    assert make_target(Plain(), {"y": np.arange(5)}).data["y"].dtype == torch.int64


def test_a_value_in_double_precision_is_not_cut() -> None:
    y = np.array([1 / 3, 1e-9])
    density = make_target(Plain(), {"y": y}).density(jacobian=False)
    point = {"mu": np.array(0.1), "scale": np.array([0.3, 0.4])}
    q = density.flatten({name: torch.as_tensor(value) for name, value in point.items()})
    by_hand = stats.norm.logpdf(y, 0.1, 0.7)
    np.testing.assert_allclose(density.log_likelihood(q), by_hand, rtol=1e-13)


def test_a_model_runs_on_the_targets_device_whatever_the_default() -> None:
    target = make_target(Plain(), {"y": np.zeros(2)})
    with torch.device("meta"):
        with target.context():
            assert torch.ones(1).device.type == "cpu"
        assert torch.ones(1).device.type == "meta"


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(SettingError, match="device 'toaster' can't be used .* --device cpu"):
        make_target(Plain(), {"y": np.zeros(2)}, device="toaster")


@contextmanager
def untouched() -> Iterator[None]:
    """Asserts that nothing global has changed: dtype, random states, Pyro's settings and store."""
    torch.set_default_dtype(torch.float32)
    pyro.set_rng_seed(20_000)  # torch's, numpy's and Python's
    pyro.get_param_store()["mine"] = torch.ones(2)
    before = global_state()
    try:
        yield
        assert global_state() == before
    finally:
        pyro.clear_param_store()


def global_state() -> dict[str, Any]:
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.empty(0).device,
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state(legacy=False)),
        "python": random.getstate(),
        "handlers": list(pyro.poutine.runtime._PYRO_STACK),
        "validation": [
            part.is_validation_enabled() for part in (pyro.distributions, pyro.infer, pyro.poutine)
        ],
        "parameters": {k: v.tolist() for k, v in pyro.get_param_store().items()},
    }


@each
def test_nothing_global_is_touched(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storyzoo.inference.engine.groups.PREDICTIVE_DRAWS", 2)
    with pyro.validation_enabled(True), untouched():
        target = replace(case).target()
        rng = np.random.default_rng(0)
        density = target.density()
        q = density.start(rng)
        density.value_and_gradient(q)
        latents = density.unflatten(q)
        draws = {name: value[None].numpy() for name, value in latents.items()}
        Simulator(target).data(latents, rng)
        discrete_posterior(target, draws)
        impute(target, latents, rng)
        tree = posterior_tree(target.structure, {n: v[None] for n, v in draws.items()}, {})
        relabel(tree, target)
        complete(tree, target, 0)


def test_parameters_of_one_fit_are_not_anothers() -> None:
    with untouched():
        for _ in range(2):
            with CASES[0].target().context():
                assert "mine" not in pyro.get_param_store()
                pyro.param("mine", torch.zeros(3))


def test_nothing_global_is_touched_by_a_failure() -> None:
    with untouched(), pytest.raises(StoryError):
        make_target(Mixture(n_components=-1), CASES[0].arrays)


# -- slices, local and global ------------------------------------------------------------------


SCHOOL_ARRAYS = {"effect": np.array(SCHOOLS), "stderr": np.array(ERRORS)}


def test_a_slice_gathers_local_latents_by_the_examples_index() -> None:
    """By position, the slice (5, 2) would read the latents of schools 0 and 1."""
    case = next(case for case in CASES if case.name == "eight-schools")
    density = case.target().density(jacobian=False)
    q = density.flatten(case.latents())
    mu, tau, theta = (case.point[name] for name in ("mu", "tau", "theta"))
    prior = stats.norm.logpdf(mu, 0, 5) + stats.halfcauchy.logpdf(tau, scale=5)
    for rows in ([5, 2], [7], [0, 0, 3]):
        part = stats.norm.logpdf(theta[rows], mu, tau)
        part += stats.norm.logpdf(np.array(SCHOOLS)[rows], theta[rows], np.array(ERRORS)[rows])
        estimate = float(density.on_rows(torch.tensor(rows))(q))
        assert estimate == pytest.approx(prior + 8 / len(rows) * part.sum())


def test_the_gradient_of_a_slice_reaches_just_its_own_local_latents() -> None:
    case = next(case for case in CASES if case.name == "eight-schools")
    density = case.target().density()
    q = density.flatten(case.latents()).requires_grad_()
    (gradient,) = torch.autograd.grad(density.on_rows(torch.tensor([5, 2]))(q), q)
    theta = density.slots[-1]
    assert theta.name == "theta"
    reached = gradient[theta.offset : theta.end].nonzero().flatten().tolist()
    assert reached == [2, 5]


def test_a_slice_is_scaled_after_its_labels_are_summed_out() -> None:
    """Ten copies of the data are ten times the likelihood, not a tenfold label."""
    case = CASES[0]
    density = case.target().density()
    q = density.flatten(case.latents())
    some = torch.tensor([1, 4, 9])
    prior = float(density.log_prior(q))
    expected = prior + 11 / 3 * float(density.per_example(q)[some].sum())
    assert float(density.on_rows(some)(q)) == pytest.approx(expected)
    tenfold = make_target(case.story, {"y": np.repeat(case.arrays["y"], 10, axis=0)}).density()
    assert float(tenfold(q)) == pytest.approx(prior + 10 * (float(density(q)) - prior))


def test_a_targets_rows_are_a_story_of_their_own() -> None:
    target = make_target(EightSchools(centred=True), SCHOOL_ARRAYS).rows([6, 1])
    density = target.density()
    theta = torch.tensor([1.0, -1.0], dtype=torch.float64)
    q = density.flatten({"mu": torch.tensor(0.0), "tau": torch.tensor(1.0), "theta": theta})
    by_hand = stats.norm.logpdf([18.0, 8.0], theta, [10.0, 10.0])
    np.testing.assert_allclose(density.log_likelihood(q), by_hand)


@pytest.mark.parametrize("centred", [True, False])
def test_new_examples_are_never_conditioned_on_old_ones_latents(centred: bool) -> None:
    target = make_target(EightSchools(centred=centred), SCHOOL_ARRAYS)
    name = "theta" if centred else "theta_raw"
    latents = {"mu": torch.tensor(0.0), "tau": torch.tensor(1.0), name: torch.full((8,), 1e6)}
    for n in (1, 8, 9):
        new = Simulator(target).data(latents, np.random.default_rng(0), n)
        assert float(new["effect"].abs().max()) < 200


# -- prior scales are fields -------------------------------------------------------------------


@each
def test_no_prior_is_computed_from_the_data(case: Case) -> None:
    """Other outcomes leave the prior as it was: in other units, or the opposite of a yes or no."""
    structure = case.target().structure
    other = {
        name: _otherwise(value, case.story) if name in structure.outcomes else value
        for name, value in case.arrays.items()
    }
    values = [
        density.log_prior(density.flatten(case.latents()))
        for density in (
            case.target().density(),
            make_target(case.story, other, to_fit=False).density(),
        )
    ]
    assert float(values[0]) == pytest.approx(float(values[1]), abs=1e-12)


def _otherwise(value: Any, story: Story) -> Any:
    if story.ragged:  # places in a vocabulary have no units
        return value[::-1].copy()
    binary = np.isin(value, [0, 1]).all()
    return 1 - np.asarray(value) if binary else 100 + 7 * np.asarray(value)


@each
def test_scales_are_set_from_the_data_once(case: Case) -> None:
    target = case.target()
    scaled = case.story.scaled_to(target.data)
    assert type(scaled) is type(case.story)
    elsewhere = {name: 3 * value + 1 for name, value in target.data.items()}
    assert scaled.scaled_to(elsewhere) == scaled
    if not case.story.has("scaled_to"):
        assert scaled is case.story


def test_scaled_fields_are_plain_and_given_ones_are_kept() -> None:
    data = {"y": torch.tensor([[0.0, 10.0], [2.0, 50.0], [4.0, 30.0]])}
    scaled = GaussianMixture(spread=7.0).scaled_to(data)
    assert scaled.centre == pytest.approx((2.0, 30.0))
    assert scaled.spread == 7.0
    for field in fields(scaled):
        assert isinstance(getattr(scaled, field.name), (str, int, float, tuple))
    density = make_target(scaled, {"y": data["y"].numpy()}).density()
    assert bool(density.start(np.random.default_rng(0)).isfinite().all())
