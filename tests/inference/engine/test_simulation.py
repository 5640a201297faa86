"""Data drawn from a story: of any size, given parameters or from the prior, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from storyzoo.errors import RefusedError
from storyzoo.inference.engine.simulation import Simulator
from storyzoo.inference.engine.target import make_target
from storyzoo.models.eight_schools import EightSchools
from storyzoo.story import Story
from tests.cases import CASES, ERRORS, MIXTURE_POINT, SCHOOLS, Autoregression, Case, Mixture

each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -- every story -------------------------------------------------------------------------------


@each
def test_two_placeholders_tell_who_reads_the_past(case: Case) -> None:
    assert Simulator(case.target()).reads_past == case.reads_past


even = pytest.mark.parametrize(
    "case", [case for case in CASES if not case.story.ragged], ids=lambda case: case.name
)
"""Stories whose examples are all of one size."""


@even
def test_simulated_data_have_the_size_of_those_at_hand(case: Case) -> None:
    target = case.target()
    data = Simulator(target).data(case.latents(), rng())
    assert list(data) == list(case.arrays)
    for name, value in data.items():
        assert value.shape == target.data[name].shape
        assert value.dtype == torch.float64
        same = torch.equal(value, target.data[name])
        assert same == (name in target.structure.covariates)


@even
def test_simulated_data_have_the_size_asked_for(case: Case) -> None:
    if case.story.examples is None and not case.reads_past:
        with pytest.raises(RefusedError, match="just the size at hand"):
            Simulator(case.target()).data(case.latents(), rng(), 3)
        return
    for n in (1, 23):
        data = Simulator(case.target()).data(case.latents(), rng(), n)
        for name, value in data.items():
            dims = case.story.data_dims[name]
            along = dims.index(case.story.examples) if case.story.examples else 0
            shape = list(np.shape(case.arrays[name]))
            shape[along] = n
            assert list(value.shape) == shape


@each
def test_one_seed_gives_one_data_set(case: Case) -> None:
    simulator = Simulator(case.target())
    outcome = case.target().structure.outcomes[0]
    first, again, other = (simulator.data(case.latents(), rng(s))[outcome] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@each
def test_simulated_data_can_be_told_by_the_story(case: Case) -> None:
    simulator = Simulator(case.target())
    data = simulator.data(case.latents(), rng())
    target = make_target(case.story, {name: np.asarray(value) for name, value in data.items()})
    density = target.density()
    assert bool(density(density.flatten(case.latents())).isfinite())


@each
def test_prior_draws_fit_the_story_unless_a_prior_is_improper(case: Case) -> None:
    simulator, structure = Simulator(case.target()), case.target().structure
    if case.improper:
        assert simulator.refuses() is None
        with pytest.raises(RefusedError, match="no prior draws: the prior of beta is improper"):
            simulator.prior(rng())
        return
    drawn = simulator.prior(rng())
    for name, site in structure.latents.items():
        assert drawn[name].shape == site.shape
        assert bool(site.support.check(drawn[name]).all())
    for name in structure.outcomes:
        assert case.story.ragged or drawn[name].shape == case.target().data[name].shape


# -- what is drawn -----------------------------------------------------------------------------


def test_data_from_the_mixture_have_its_moments() -> None:
    simulator = Simulator(CASES[0].target())
    y = simulator.data(CASES[0].latents(), rng(), 40_000)["y"].numpy()
    weight, loc, scale = (MIXTURE_POINT[name] for name in ("weight", "loc", "scale"))
    mean = weight @ loc
    square = weight @ (scale**2 + loc**2)
    np.testing.assert_allclose(y.mean(0), mean, atol=0.05)
    np.testing.assert_allclose((y**2).mean(0), square, rtol=0.03)
    between = (weight[:, None, None] * loc[:, :, None] * loc[:, None]).sum(0)
    covariance = between - np.outer(mean, mean)
    assert np.cov(y.T)[0, 1] == pytest.approx(covariance[0, 1], rel=0.03)


def test_a_chain_goes_on_as_its_transitions_say() -> None:
    case = next(case for case in CASES if case.name == "tiny-chain")
    sticky = {"transition": np.array([[0.95, 0.05], [0.05, 0.95]]), "loc": np.array([-5.0, 5.0])}
    latents = {name: torch.as_tensor(value) for name, value in sticky.items()}
    simulator = Simulator(case.target())
    generator = rng()
    paths = np.stack([simulator.data(latents, generator)["y"] > 0 for _ in range(300)])
    stayed = (paths[:, 1:] == paths[:, :-1]).mean()
    assert stayed == pytest.approx(0.95, abs=0.03)


def test_prior_draws_spread_as_the_prior_says() -> None:
    simulator, generator = Simulator(CASES[0].target()), rng()
    draws = [simulator.prior(generator) for _ in range(200)]
    loc = np.stack([draw["loc"] for draw in draws])
    assert loc.std() == pytest.approx(5.0, rel=0.1)
    y = np.stack([draw["y"] for draw in draws])
    assert y.std() > 4.0


def test_parts_of_an_argument_go_back_to_their_places() -> None:
    class Columns(Story):
        data_dims = {"y": ("row", "feature"), "count": ("row",), "late": ("time",)}
        examples = "row"

        def model(self, y: Any, count: Any, late: Any) -> None:
            level = pyro.sample("level", dist.Normal(0, 1))
            with pyro.plate("row", len(y)):
                pyro.sample("first", dist.Normal(level + 100, 1), obs=y[:, 0])
                pyro.sample("second", dist.Normal(level + 200, 1), obs=y[:, 1])
                pyro.sample("count", dist.Poisson(50.0), obs=count)
            for t in range(3):
                pyro.sample(f"late_{t}", dist.Normal(level + 1000 * t, 1), obs=late[t])

    arrays = {"y": np.zeros((4, 2)), "count": np.arange(4), "late": np.zeros(3)}
    data = Simulator(make_target(Columns(), arrays)).data({"level": torch.tensor(0.0)}, rng(), 6)
    np.testing.assert_allclose(data["y"], np.broadcast_to([100, 200], (6, 2)), atol=5)
    np.testing.assert_allclose(data["count"], np.full(6, 50), atol=40)
    np.testing.assert_allclose(data["late"], [0, 1000, 2000], atol=5)


def test_whole_numbers_at_hand_do_not_cut_what_is_drawn() -> None:
    target = make_target(Autonomous(), {"y": np.arange(5)})
    y = Simulator(target).data({"mu": torch.tensor(0.0)}, rng())["y"]
    assert bool((y != y.round()).all())


class Autonomous(Story):
    """Rows around one mean."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0, 1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu, 1), obs=y)


# -- local latents and covariates --------------------------------------------------------------


def test_latents_of_single_examples_are_kept_for_those_and_drawn_anew_for_others() -> None:
    arrays = {"effect": np.array(SCHOOLS), "stderr": np.full(8, 0.1)}
    simulator = Simulator(make_target(EightSchools(centred=True), arrays))
    latents = {
        "mu": torch.tensor(0.0),
        "tau": torch.tensor(1.0),
        "theta": 1000.0 + torch.arange(8.0),
    }
    again = simulator.data(latents, rng())["effect"]
    np.testing.assert_allclose(again, latents["theta"], atol=1)
    for n in (3, 8, 20):
        assert float(simulator.data(latents, rng(), n)["effect"].abs().max()) < 10


def test_covariates_of_new_examples_are_rows_at_hand() -> None:
    arrays = {"effect": np.array(SCHOOLS), "stderr": np.array(ERRORS)}
    simulator = Simulator(make_target(EightSchools(), arrays))
    latents = {"mu": torch.tensor(0.0), "tau": torch.tensor(1.0), "theta_raw": torch.zeros(8)}
    stderr = simulator.data(latents, rng(), 500)["stderr"]
    assert set(stderr.tolist()) == set(ERRORS)


# -- stories that read their past --------------------------------------------------------------


def test_an_autoregression_simulated_by_its_step_remembers() -> None:
    case = next(case for case in CASES if case.reads_past)
    y = Simulator(case.target()).data({"phi": torch.tensor(0.9)}, rng(), 6000)["y"].numpy()
    assert np.corrcoef(y[1:], y[:-1])[0, 1] == pytest.approx(0.9, abs=0.02)
    assert y.std() == pytest.approx(1 / np.sqrt(1 - 0.81), rel=0.1)


class Stepless(Story):
    """The same without a step: what it observes can't be left out."""

    data_dims = Autoregression.data_dims
    model = Autoregression.model


def test_without_a_step_it_is_refused_with_the_reason() -> None:
    simulator = Simulator(make_target(Stepless(), {"y": np.zeros(5)}))
    said = "stepless .*: the model reads earlier observed values; give the story a `step`"
    with pytest.raises(RefusedError, match=said):
        simulator.data({"phi": torch.tensor(0.9)}, rng())
    with pytest.raises(RefusedError, match=said):
        simulator.prior(rng())


class Momentum(Story):
    """Reads only differences of what it observes."""

    data_dims = {"y": ("time",)}

    def model(self, y: Any) -> None:
        phi = pyro.sample("phi", dist.Uniform(-1, 1))
        with pyro.plate("time", len(y)):
            change = torch.cat([y.new_zeros(2), y[1:-1] - y[:-2]])
            pyro.sample("y", dist.Normal(phi * change, 1.0), obs=y)


def test_a_story_that_reads_only_changes_reads_its_past() -> None:
    assert Simulator(make_target(Momentum(), {"y": np.zeros(9)})).reads_past


class Sequences(Story):
    """Many sequences, each of which reads its own past."""

    data_dims = {"y": ("sequence", "time")}
    event_dims = {"y": ("time",)}
    examples = "sequence"

    def model(self, y: Any) -> None:
        phi = pyro.sample("phi", dist.Uniform(-1, 1))
        with pyro.plate("sequence", len(y)):
            before = torch.cat([y.new_zeros(len(y), 1), y[:, :-1]], 1)
            pyro.sample("y", dist.Normal(phi * before, 1.0).to_event(1), obs=y)

    step = Autoregression.step


def test_sequences_are_simulated_one_by_one() -> None:
    simulator = Simulator(make_target(Sequences(), {"y": np.zeros((2, 30))}))
    assert simulator.data({"phi": torch.tensor(0.9)}, rng())["y"].shape == (2, 30)
    y = simulator.data({"phi": torch.tensor(0.9)}, rng(), 200)["y"].numpy()
    assert y.shape == (200, 30)
    assert np.corrcoef(y[:, -1], y[:, -2])[0, 1] == pytest.approx(0.9, abs=0.06)
    assert abs(np.corrcoef(y[1:, 0], y[:-1, -1])[0, 1]) < 0.2


def test_what_observes_a_computed_value_can_not_be_simulated() -> None:
    class Logarithm(Story):
        data_dims = {"y": ("row",)}

        def model(self, y: Any) -> None:
            mu = pyro.sample("mu", dist.Normal(0, 1))
            with pyro.plate("row", len(y)):
                pyro.sample("log_y", dist.Normal(mu, 1), obs=y.log())

    simulator = Simulator(make_target(Logarithm(), {"y": np.ones(5)}))
    with pytest.raises(RefusedError, match="site 'log_y' observes something computed"):
        simulator.data({"mu": torch.tensor(0.0)}, rng())


def test_missing_values_do_not_reach_what_is_simulated() -> None:
    y = CASES[0].arrays["y"].copy()
    y[2, 1] = np.nan
    data = Simulator(make_target(Mixture(), {"y": y})).data(CASES[0].latents(), rng())
    assert bool(data["y"].isfinite().all())
