"""The restricted Boltzmann machine: the best on bars and stripes, its hooks, its refusals."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from storyzoo.binding import bind
from storyzoo.datasets import load
from storyzoo.errors import DataError, IntractableError, SettingError
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.map import MAP
from storyzoo.models.rbm import RestrictedBoltzmann
from storyzoo.run import fit
from storyzoo.story import Fantasies

RNG = np.random.default_rng(3)
IMAGES = RNG.integers(2, size=(40, 5)).astype(float)
LEVELS = RNG.integers(3, size=(40, 4)).astype(float)
GREY = RNG.normal(size=(40, 3)) @ RNG.normal(size=(3, 3)) + [0.0, 5.0, -2.0]
KINDS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "bernoulli": (IMAGES, {}),
    "categorical": (LEVELS, {"levels": 3}),
    "gaussian": (GREY, {}),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def machine_target(kind: str, n_hidden: int = 3, **fields: Any) -> Target:
    v, own = KINDS[kind]
    story = RestrictedBoltzmann(n_hidden=n_hidden, visible=kind, **own, **fields)  # type: ignore[arg-type]
    return make_target(story.scaled_to({"v": torch.as_tensor(v)}), {"v": v})


def point_of(target: Target, seed: int = 0, size: float = 0.7) -> dict[str, Tensor]:
    """Latents away from any symmetry; scales near those of the data."""
    rng = np.random.default_rng(seed)
    with target.context():
        start = target.story.initial(target.data, rng)
    assert start is not None
    return {
        name: value
        if name == "scale"
        else value + size * torch.as_tensor(rng.normal(size=value.shape))
        for name, value in start.items()
    }


def exact_gradient(target: Target, latents: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in latents.items()}
    total = target.story.marginal(leaves, target.data)
    assert total is not None
    return dict(zip(leaves, torch.autograd.grad(total.sum(), list(leaves.values())), strict=True))


# -- the best that can be reached -------------------------------------------------------------


def best_mean(data: str, n_hidden: int, method: MAP, **fields: Any) -> float:
    story = RestrictedBoltzmann(n_hidden=n_hidden, **fields)
    bound = bind(story, load(data))
    target = make_target(story, bound.arrays, coords=bound.coords)
    tree, _ = method.run(target, seed=0, progress=Progress(quiet=True))
    posterior = tree["posterior"].to_dataset()
    latents = {str(n): torch.as_tensor(v.values[0, 0]) for n, v in posterior.data_vars.items()}
    density = target.story.marginal(latents, target.data)
    assert density is not None
    return float(density.mean())


def test_a_weak_prior_comes_near_the_best_on_three_by_three() -> None:
    found = best_mean("bars-and-stripes:side=3", 8, MAP(restarts=3), weight_sd=10, bias_sd=10)
    assert -2.80 < found < -np.log(14)


@pytest.mark.slow
def test_the_likelihood_of_bars_and_stripes_comes_near_its_supremum() -> None:
    small = MAP(restarts=8, objective="likelihood")
    assert -2.70 < best_mean("bars-and-stripes:side=3", 8, small) < -np.log(14)
    large = MAP(restarts=2, objective="likelihood", max_steps=3000)
    assert -3.45 < best_mean("bars-and-stripes", 16, large) < -np.log(30)


# -- the gradient -----------------------------------------------------------------------------


@kinds
def test_persistent_chains_tell_the_gradient_without_bias(kind: str) -> None:
    target = machine_target(kind)
    latents, story = point_of(target), target.story
    exact = exact_gradient(target, latents)
    state = Fantasies(torch.Generator().manual_seed(1), count=400, sweeps=10)
    runs: list[dict[str, Tensor]] = []
    for step in range(80):
        answer = story.stochastic_gradient(latents, target.data, state)
        assert answer is not None
        gradient, state = answer
        if step >= 10:
            runs.append(gradient)
    for name, value in exact.items():
        draws = torch.stack([run[name] for run in runs]).flatten(1)
        blocks = draws.reshape(10, -1, draws.shape[1]).mean(1)  # neighbours are correlated
        error = blocks.std(0) / np.sqrt(len(blocks))
        z = (blocks.mean(0) - value.flatten()) / error
        assert float(z.abs().max()) < 6.5, name
        assert float(z.square().mean()) < 3.0, name


@kinds
def test_the_gradient_is_the_derivative_of_the_free_energies(kind: str) -> None:
    target = machine_target(kind)
    latents, story = point_of(target), target.story
    state = Fantasies(torch.Generator().manual_seed(1), count=9)
    answer = story.stochastic_gradient(latents, target.data, state)
    assert answer is not None and answer[1].values is not None
    leaves = {name: value.clone().requires_grad_() for name, value in latents.items()}
    assert isinstance(story, RestrictedBoltzmann)
    seen, dreamt = (
        -story.machine(leaves).free_energy(v.double()) for v in (target.data["v"], answer[1].values)
    )
    gap = seen.sum() - len(seen) * dreamt.mean()
    wanted = dict(zip(leaves, torch.autograd.grad(gap, list(leaves.values())), strict=True))
    assert set(wanted) == set(answer[0])
    for name, value in wanted.items():
        torch.testing.assert_close(answer[0][name], value, rtol=1e-10, atol=1e-10)


def test_divergence_chains_begin_at_the_batch() -> None:
    target = machine_target("bernoulli")
    state = Fantasies(torch.Generator().manual_seed(1), count=7, sweeps=1, persistent=False)
    answer = target.story.stochastic_gradient(point_of(target), target.data, state)
    assert answer is not None and answer[1].values is not None
    assert answer[1].values.shape == target.data["v"].shape
    persistent = replace(state, persistent=True)
    answer = target.story.stochastic_gradient(point_of(target), target.data, persistent)
    assert answer is not None and answer[1].values is not None and len(answer[1].values) == 7


@kinds
def test_the_centred_direction_is_uphill_linear_and_zero_only_with_the_gradient(kind: str) -> None:
    target = machine_target(kind)
    latents, story = point_of(target), target.story
    state = Fantasies(torch.Generator().manual_seed(1), count=50, centred=True)
    answer = story.stochastic_gradient(latents, target.data, state)
    assert answer is not None
    state = answer[1]
    sites = [name for name in latents if name != "scale"]

    def direction(flat: Tensor) -> Tensor:
        pieces = flat.split([latents[name].numel() for name in sites])
        given = {n: p.reshape(latents[n].shape) for n, p in zip(sites, pieces, strict=True)}
        found = story.direction(latents, given, state)
        assert found is not None
        return torch.cat([found[name].flatten() for name in sites])

    size = sum(latents[name].numel() for name in sites)
    matrix = torch.stack([direction(row) for row in torch.eye(size, dtype=torch.double)])
    torch.testing.assert_close(matrix, matrix.mT)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > 0
    assert not torch.allclose(matrix, torch.eye(size, dtype=torch.double))


def test_centring_is_the_gradient_of_the_centred_parameters() -> None:
    """The chain rule by hand: steps of W, b', c' in the energy of v - mu and h - lambda."""
    target = machine_target("bernoulli")
    latents = point_of(target)
    mu, lam = torch.tensor([0.1, 0.4, 0.6, 0.5, 0.9]), torch.tensor([0.3, 0.5, 0.8])
    mu, lam = mu.double(), lam.double()
    gradient = exact_gradient(target, latents)
    centred = {
        "weight": latents["weight"],
        "visible_bias": latents["visible_bias"] + latents["weight"] @ lam,
        "hidden_bias": latents["hidden_bias"] + mu @ latents["weight"],
    }
    leaves = {name: value.clone().requires_grad_() for name, value in centred.items()}

    def plain(given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "weight": given["weight"],
            "visible_bias": given["visible_bias"] - given["weight"] @ lam,
            "hidden_bias": given["hidden_bias"] - mu @ given["weight"],
        }

    total = target.story.marginal(plain(leaves), target.data)
    assert total is not None
    slopes = torch.autograd.grad(total.sum(), list(leaves.values()))
    step = 1e-4
    moved = {n: v + step * s for (n, v), s in zip(centred.items(), slopes, strict=True)}
    expected = {n: (value - latents[n]) / step for n, value in plain(moved).items()}
    memory = {"visible": mu, "hidden": lam}
    state = Fantasies(torch.Generator(), centred=True, memory=memory)
    found = target.story.direction(latents, gradient, state)
    assert found is not None
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)


# -- each kind of pixel -----------------------------------------------------------------------


@kinds
def test_a_relabelled_machine_is_the_same(kind: str) -> None:
    target = machine_target(kind)
    latents, order = point_of(target), torch.tensor([2, 0, 1])
    turned = {
        **latents,
        "weight": latents["weight"][..., order],
        "hidden_bias": latents["hidden_bias"][order],
    }
    density = target.density(jacobian=False)
    values = [float(density(density.flatten(one))) for one in (latents, turned)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


@kinds
def test_annealing_agrees_with_the_exact_likelihood(kind: str) -> None:
    target = machine_target(kind)
    latents = point_of(target)
    exact = target.story.marginal(latents, target.data)
    found = target.story.log_likelihood_estimate(latents, target.data, np.random.default_rng(0))
    assert exact is not None and found is not None
    assert float((found.value - exact).abs().max()) < max(4 * found.standard_error, 0.02)
    assert float((found.lower - exact).max()) < 0.05 and float((exact - found.upper).max()) < 0.05


@kinds
def test_missing_pixels_are_drawn_from_their_conditional(kind: str) -> None:
    """By the exact way and by clamped sweeps: the same first two moments."""
    target = machine_target(kind)
    latents = point_of(target)
    row = target.data["v"][:1].clone()
    row[0, :2] = torch.nan
    data = {"v": row.repeat(4000, 1)}
    drawn = target.story.impute(latents, data, np.random.default_rng(0))
    assert drawn is not None and bool((drawn["v"][:, 2:] == row[0, 2:]).all())
    machine = target.story.machine(latents)  # type: ignore[attr-defined]
    from storyzoo.models.kernels import boltzmann

    swept = boltzmann.gibbs(
        machine, data["v"], 100, torch.Generator().manual_seed(0), known=~data["v"].isnan()
    )
    for power in (1, 2):
        one, other = drawn["v"][:, :2] ** power, swept[:, :2] ** power
        error = ((one.var(0) + other.var(0)) / 4000).sqrt()
        assert bool(((one.mean(0) - other.mean(0)).abs() < 5 * error + 1e-9).all())


@kinds
def test_each_kind_is_fitted_scored_and_filled_in(kind: str) -> None:
    v, own = KINDS[kind]
    holed = v.copy()
    holed[0, 0] = np.nan
    story = RestrictedBoltzmann(n_hidden=2, visible=kind, **own)  # type: ignore[arg-type]
    found = fit(story, {"v": holed}, MAP(restarts=2), progress=False)
    assert np.isfinite(found.log_density().nats).all()
    mean = found.impute(draws=5).mean["v"]
    assert np.isfinite(mean).all() and np.array_equal(mean[1:], v[1:])
    hidden = found.latent()
    assert hidden.shape == (40, 2) and ((hidden >= 0) & (hidden <= 1)).to_numpy().all()
    assert np.asarray(found.simulate(7)["v"]).shape == (7, v.shape[1])


def test_hidden_units_of_an_incomplete_row_by_enumeration() -> None:
    target = machine_target("bernoulli")
    latents = point_of(target)
    row = torch.tensor([[1.0, torch.nan, 0.0, torch.nan, 1.0]], dtype=torch.double)
    found = target.story.hidden_units(latents, {"v": row})
    assert found is not None
    total, weighted = 0.0, np.zeros(3)
    for a, b in itertools.product((0.0, 1.0), repeat=2):
        v = torch.tensor([1.0, a, 0.0, b, 1.0], dtype=torch.double)
        for h in itertools.product((0.0, 1.0), repeat=3):
            hidden = torch.tensor(h, dtype=torch.double)
            score = (
                v @ latents["visible_bias"]
                + hidden @ latents["hidden_bias"]
                + v @ latents["weight"] @ hidden
            )
            total += float(score.exp())
            weighted += float(score.exp()) * np.array(h)
    np.testing.assert_allclose(found["h"][0], weighted / total, rtol=1e-9)


def test_gaussian_pixels_do_not_depend_on_where_zero_is() -> None:
    """Moved and stretched data, bias and scale moved along: the density changes by its volume."""
    target = machine_target("gaussian")
    latents = point_of(target)
    moved = {
        **latents,
        "visible_bias": 10 + 3 * latents["visible_bias"],
        "scale": 3 * latents["scale"],
    }
    before = target.story.marginal(latents, target.data)
    after = target.story.marginal(moved, {"v": 10 + 3 * target.data["v"]})
    assert before is not None and after is not None
    torch.testing.assert_close(after, before - 3 * np.log(3))


# -- whether the likelihood is known ----------------------------------------------------------


def test_the_size_of_the_layers_decides_whether_the_likelihood_is_exact() -> None:
    wide = {"v": torch.zeros(3, 30)}
    assert RestrictedBoltzmann(n_hidden=20).scaled_to(wide).intractable() is None
    assert (
        RestrictedBoltzmann(n_hidden=30).scaled_to({"v": torch.zeros(3, 9)}).intractable() is None
    )
    large = RestrictedBoltzmann(n_hidden=21).scaled_to(wide)
    assert "annealed importance sampling" in str(large.intractable())
    assert large.scaled_to(wide) == large
    grey = RestrictedBoltzmann(n_hidden=21, visible="gaussian").scaled_to({"v": torch.rand(3, 9)})
    assert grey.likelihood == "estimated"
    story = RestrictedBoltzmann(n_hidden=21)
    target = make_target(story, {"v": np.eye(30)})
    assert set(target.structure.sites) == {"weight", "visible_bias", "hidden_bias", "v"}
    with pytest.raises(IntractableError):
        story.marginal(point_of(target), target.data)


def test_constant_pixels_are_told_and_fitted() -> None:
    v = np.c_[IMAGES, np.zeros(40)]
    found = fit(RestrictedBoltzmann(n_hidden=1), {"v": v}, MAP(restarts=1), progress=False)
    assert "1 of 6 columns never change (6): only the prior keeps" in " ".join(found.notes)
    assert float(np.asarray(found.tree["posterior"]["visible_bias"])[0, 0, 5]) < -2


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"n_hidden": 0}, "n_hidden=0 must be at least 1"),
        ({"visible": "gausian"}, "visible='gausian': did you mean 'gaussian'?"),
        ({"likelihood": "exactly"}, "likelihood='exactly': did you mean 'exact'?"),
        ({"levels": 1}, "levels=1 must be at least 2"),
        ({"weight_sd": 0.0}, "weight_sd=0.0 must be above zero"),
        ({"spread": (1.0, -1.0)}, "must be above zero in every column"),
    ],
)
def test_impossible_fields_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        RestrictedBoltzmann(**fields)
    assert said in str(caught.value)


def changed(v: np.ndarray, place: Any, value: float) -> np.ndarray:
    other = v.copy()
    other[place] = value
    return other


@pytest.mark.parametrize(
    ("fields", "v", "said"),
    [
        ({}, changed(IMAGES, (2, 3), 0.5), "row 3, column 4: 0.5 is no value of a bernoulli pixel"),
        (
            {"visible": "categorical", "levels": 3},
            changed(LEVELS, (1, 0), 3),
            "row 2, column 1: 3 is no value of a categorical pixel: give whole numbers from 0 to 2",
        ),
        ({}, changed(IMAGES, 4, np.nan), "row 5 has no value at all"),
        ({}, changed(IMAGES, (slice(None), 1), np.nan), "column 2 has no value at all"),
        ({"visible": "gaussian"}, changed(GREY, (slice(None), 2), 4.0), "column 3 is constant (4)"),
        ({"visible": "gaussian", "spread": (1.0, 2.0)}, GREY, "spread has 2 values, the data 3"),
        ({"n_hidden": 25, "likelihood": "exact"}, np.eye(30), "set n_hidden to at most 20"),
        (
            {"n_hidden": 25},
            changed(np.eye(30), (1, 2), np.nan),
            "row 2, column 3 is missing: its likelihood needs at most 20 hidden units",
        ),
    ],
)
def test_data_that_can_not_be_told_are_refused(
    fields: dict[str, Any], v: np.ndarray, said: str
) -> None:
    with pytest.raises((DataError, SettingError)) as caught:
        make_target(RestrictedBoltzmann(**fields), {"v": v})
    assert said in str(caught.value)


def test_bad_input_is_one_line_by_the_command_line(workdir: Path) -> None:
    np.savetxt(
        "images.csv", changed(IMAGES, (2, 3), 7), delimiter=",", header="a,b,c,d,e", comments=""
    )
    for extra, said in (
        (["--data", "images.csv"], "row 3, column 4: 7 is no value of a bernoulli pixel"),
        (["--data", "bars-and-stripes", "--set", "n_hidden=0"], "n_hidden=0 must be at least 1"),
        (["--data", "bars-and-stripes:side=20"], "side=20 must be from 2 to 12"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "storyzoo", "fit", "rbm", "--method", "map", *extra],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert said in done.stderr
    assert not Path("runs").exists()
