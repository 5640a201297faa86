"""Chains and annealing of Boltzmann machines against the exact answers of small ones."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Generator, Tensor

from storyzoo.errors import SettingError
from storyzoo.models.distributions.boltzmann import Boltzmann
from storyzoo.models.kernels.boltzmann import (
    LogPartition,
    annealed_draws,
    annealed_log_partition,
    gibbs,
    tempered,
)

KINDS = ["bernoulli", "categorical", "gaussian"]
each_kind = pytest.mark.parametrize("kind", KINDS)
SEEDS = 120
ROUGH = {"bernoulli": 4.0, "categorical": 1.5, "gaussian": 0.8}
"""Strengths of machines for which few steps are too few."""


def machine(kind: str, visible: int = 5, hidden: int = 4, strength: float = 0.8) -> Boltzmann:
    rng = Generator().manual_seed(visible + hidden)
    shape = (visible, 3) if kind == "categorical" else (visible,)
    weight = strength * torch.randn(*shape, hidden, generator=rng, dtype=torch.float64)
    visible_bias = torch.randn(*shape, generator=rng, dtype=torch.float64)
    hidden_bias = torch.randn(hidden, generator=rng, dtype=torch.float64)
    scale = 0.5 + torch.rand(visible, generator=rng, dtype=torch.float64)
    return Boltzmann(
        weight,
        visible_bias,
        hidden_bias,
        visible=kind,
        scale=scale if kind == "gaussian" else None,
    )


def two_moded(pull: float) -> Boltzmann:
    """All on or all off, equally likely, with a gap between them that grows with the pull."""
    weight = torch.full((10, 2), pull, dtype=torch.float64)
    visible_bias = -torch.full((10,), pull, dtype=torch.float64)
    hidden_bias = -torch.full((2,), 5 * pull, dtype=torch.float64)
    return Boltzmann(weight, visible_bias, hidden_bias)


def rng(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def largest_z(m: Boltzmann, value: Tensor) -> float:
    """Standard errors by which means of draws (N, V) miss the exact ones, at the worst."""
    x = m.units.in_units(m.units.features(value)).flatten(1)
    error = x.std(0) / math.sqrt(len(x))
    return float(((x.mean(0) - m.visible_mean().flatten()) / error).abs().max())


# -- chains ----------------------------------------------------------------------------------------


@each_kind
def test_gibbs_chains_reach_the_exact_means(kind: str) -> None:
    m = machine(kind)
    value = gibbs(m, torch.full((4000, 5), math.nan).double(), 60, rng(0))
    assert largest_z(m, value) < 4


@each_kind
def test_gibbs_leaves_exact_draws_where_they_are(kind: str) -> None:
    """The machine is invariant: a single sweep of its own draws has its own means."""
    m = machine(kind, strength=2.0)
    value = gibbs(m, m.exact_sample((10_000,), rng(1)), 1, rng(2))
    assert largest_z(m, value) < 4


@each_kind
def test_clamped_gibbs_draws_what_is_missing_given_what_is_known(kind: str) -> None:
    """The last value against all its completions, by the exact density."""
    m = machine(kind)
    row = m.exact_sample((1,), rng(4))
    known = torch.tensor([[True, True, True, True, False]])
    start = torch.where(known, row, math.nan).expand(4000, 5)
    value = gibbs(m, start, 40, rng(5), known.expand(4000, 5))
    assert bool((value[:, :4] == row[:, :4]).all())
    step = 0.01 if kind == "gaussian" else 1.0
    levels = torch.arange(-30, 30, step) if kind == "gaussian" else torch.arange(3.0)
    completions = row.repeat(len(levels), 1)
    completions[:, 4] = levels.double()
    log_weight = m.log_prob(completions) if kind != "bernoulli" else m.log_prob(completions[:2])
    probability = log_weight.softmax(0)
    mean = float(probability @ levels[: len(probability)].double())
    found = value[:, 4]
    assert abs(float(found.mean()) - mean) < 4 * float(found.std()) / math.sqrt(4000)


@each_kind
def test_tempered_chains_reach_the_exact_means(kind: str) -> None:
    m = machine(kind, strength=1.5)
    found = tempered(m, 2000, 30, rng(0))
    assert largest_z(m, found.values) < 4
    assert found.free_energy.shape == (2000, 30)
    torch.testing.assert_close(found.free_energy[:, -1], m.free_energy(found.values))
    assert bool((found.swap_rate > 0.3).all() & (found.swap_rate <= 1).all())


def test_tempering_crosses_where_gibbs_is_stuck() -> None:
    m = two_moded(pull=4.0)
    assert float(m.visible_mean()[0]) == pytest.approx(0.5)
    start = torch.zeros(500, 10).double()
    stuck = gibbs(m, start, 100, rng(0))
    assert float(stuck.mean()) < 0.05
    assert largest_z(m, tempered(m, 500, 100, rng(0)).values) < 4


def test_a_single_temperature_is_gibbs_sampling() -> None:
    m = machine("bernoulli")
    found = tempered(m, 4000, 60, rng(0), temperatures=torch.ones(1))
    assert found.swap_rate.shape == (0,)
    assert largest_z(m, found.values) < 4


# -- annealed importance sampling ------------------------------------------------------------------


@cache
def annealings(kind: str) -> tuple[float, list[LogPartition]]:
    """Exact log Z, and estimates by so few chains and steps that bounds stand apart from it."""
    m = machine(kind, strength=ROUGH[kind])
    exact = float(m.exact_log_partition())
    return exact, [annealed_log_partition(m, 3, 4, rng(s), sweeps=20) for s in range(SEEDS)]


@each_kind
def test_annealing_is_within_three_standard_errors_of_exact(kind: str) -> None:
    m = machine(kind)
    exact = float(m.exact_log_partition())
    for seed in range(5):
        found = annealed_log_partition(m, 100, 150, rng(seed), sweeps=40)
        assert abs(found.value - exact) < 3 * found.standard_error
        assert abs(found.upper - exact) < 3.5 * found.upper_standard_error
        assert found.met
        assert 90 < found.ess <= 100 + 1e-9


@each_kind
def test_bounds_are_on_their_sides_on_average(kind: str) -> None:
    exact, found = annealings(kind)
    lower = torch.tensor([each.lower - exact for each in found])
    upper = torch.tensor([each.upper - exact for each in found])
    assert float(lower.mean()) < 2 * float(lower.std()) / math.sqrt(SEEDS)
    assert float(upper.mean()) > -2 * float(upper.std()) / math.sqrt(SEEDS)
    gap = upper - lower
    assert float(gap.mean()) > float(gap.std()) / math.sqrt(SEEDS)


@each_kind
def test_the_mean_weight_is_unbiased(kind: str) -> None:
    exact, found = annealings(kind)
    ratio = torch.tensor([math.exp(each.value - exact) for each in found])
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(SEEDS)


def test_the_standard_error_is_the_spread_over_seeds() -> None:
    m = machine("bernoulli", strength=1.5)
    found = [annealed_log_partition(m, 100, 30, rng(s), sweeps=5) for s in range(40)]
    spread = torch.tensor([each.value for each in found]).std()
    told = torch.tensor([each.standard_error for each in found]).mean()
    assert float(spread / told) == pytest.approx(1, abs=0.4)


@each_kind
def test_base_biases_and_schedules_lead_to_the_same_answer(kind: str) -> None:
    m = machine(kind)
    base = torch.full_like(m.visible_bias, 0.3)
    schedule = torch.linspace(0, 1, 200).square()
    found = annealed_log_partition(m, 200, 1, rng(1), base_bias=base, schedule=schedule, sweeps=40)
    exact = float(m.exact_log_partition())
    assert abs(found.value - exact) < 3 * found.standard_error
    assert abs(found.upper - exact) < 3 * found.upper_standard_error


def test_reverse_runs_from_values_near_both_modes_know_of_both() -> None:
    m = two_moded(pull=6.0)
    exact = float(m.exact_log_partition())
    near = torch.cat([torch.ones(100, 10), torch.zeros(100, 10)])
    found = annealed_log_partition(m, 200, 300, rng(0), sweeps=5, near=near)
    assert abs(found.upper - exact) < 3.5 * found.upper_standard_error


@each_kind
def test_annealed_draws_are_the_machines(kind: str) -> None:
    m = machine(kind)
    drawn = annealed_draws(m, 5000, 40, rng(0), None)
    assert drawn.shape == (5000, 5)
    assert largest_z(m, drawn) < 5.0


def test_bounds_that_do_not_meet_leave_the_likelihood_unknown() -> None:
    """Too few steps for a machine of two modes."""
    m = machine("bernoulli", 30, 25, strength=3.0)
    found = annealed_log_partition(m, 50, 3, rng(0), sweeps=20)
    assert not found.met
    assert found.ess < 10


def test_bounds_that_agree_by_few_weights_do_not_meet() -> None:
    """Where annealing misses modes, tempering may too: both bounds are then too low."""
    m = two_moded(pull=6.0)
    weight = torch.block_diag(*[m.weight] * 4)
    many = Boltzmann(weight, m.visible_bias.repeat(4), m.hidden_bias.repeat(4))
    found = [annealed_log_partition(many, 40, 4, rng(s), sweeps=5) for s in range(5)]
    exact = float(many.exact_log_partition())
    assert all(each.ess < 10 for each in found)
    assert any(abs(each.value - exact) > 3 * each.standard_error for each in found)
    assert not any(each.met for each in found)


def test_the_same_seed_gives_the_same_bits() -> None:
    m = machine("categorical")
    one, other = (annealed_log_partition(m, 20, 20, rng(7)) for _ in range(2))
    assert one == other
    first, second = (tempered(m, 20, 20, rng(7)) for _ in range(2))
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.free_energy, second.free_energy)
    start = first.values
    assert torch.equal(gibbs(m, start, 3, rng(1)), gibbs(m, start, 3, rng(1)))


def test_annealing_is_done_in_double_precision() -> None:
    m = machine("gaussian")
    assert m.scale is not None
    single = Boltzmann(
        m.weight.float(),
        m.visible_bias.float(),
        m.hidden_bias.float(),
        visible="gaussian",
        scale=m.scale.float(),
    )
    a, b = (annealed_log_partition(x, 20, 20, rng(0)) for x in (m, single))
    assert a.value == pytest.approx(b.value, abs=1e-4)


# -- what is refused -------------------------------------------------------------------------------


def test_impossible_settings_are_refused() -> None:
    m = machine("bernoulli")
    with pytest.raises(SettingError, match="1 chains in 10 steps"):
        annealed_log_partition(m, 1, 10, rng(0))
    with pytest.raises(SettingError, match="at least 2 and 1"):
        annealed_log_partition(m, 10, 0, rng(0))
    with pytest.raises(SettingError, match=r"base_bias \(4,\).*\(5,\)"):
        annealed_log_partition(m, 10, 10, rng(0), base_bias=torch.zeros(4))
    with pytest.raises(SettingError, match="begins at 0"):
        annealed_log_partition(m, 10, 10, rng(0), schedule=torch.tensor([0.5, 1.0]))
    for wrong in ([0.0, 0.5], [0.0, 0.7, 0.4, 1.0], [-0.1, 1.0]):
        with pytest.raises(SettingError, match="inverse temperatures"):
            tempered(m, 10, 10, rng(0), temperatures=torch.tensor(wrong))
