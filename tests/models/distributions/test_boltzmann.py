"""The Boltzmann machine against sums over all its states, and under the transforms of methods."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Generator, Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from storyzoo.errors import IntractableError, StoryError
from storyzoo.inference.engine.native import make_native
from storyzoo.inference.engine.tracing import trace
from storyzoo.models.distributions import boltzmann
from storyzoo.models.distributions.boltzmann import Boltzmann
from storyzoo.models.kernels import layer_states

SIZES = [(4, 3), (3, 5), (1, 1), (5, 1), (2, 7)]
"""Visible and hidden units: either layer the smaller, and halves without a unit."""


def machine(kind: str, visible: int, hidden: int, strength: float = 1.5) -> Boltzmann:
    """A machine with three levels where it is categorical."""
    rng = Generator().manual_seed(17 * visible + hidden)
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


def every(levels: int, units: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(levels), repeat=units))).double()


def energy(m: Boltzmann, value: Tensor, hidden: Tensor) -> Tensor:
    """(N, S) of values (N, V) and hidden states (S, H), written down from the definition."""
    if m.visible == "categorical":
        rows = torch.arange(m.weight.shape[0])
        own = m.visible_bias[rows, value.long()].sum(-1)
        driving = m.weight[rows, value.long()].sum(1)
    elif m.visible == "gaussian":
        assert m.scale is not None
        own = -((value - m.visible_bias).square() / (2 * m.scale.square())).sum(-1)
        driving = (value / m.scale) @ m.weight
    else:
        own, driving = value @ m.visible_bias, value @ m.weight
    return -(own.unsqueeze(-1) + driving @ hidden.mT + hidden @ m.hidden_bias)


def brute_log_prob(m: Boltzmann, value: Tensor) -> Tensor:
    """By a sum over all states of both layers; of binary and categorical units."""
    hidden = every(2, m.n_hidden)
    states = every(3 if m.visible == "categorical" else 2, m.event_shape[0])
    log_partition = (-energy(m, states, hidden)).logsumexp((0, 1))
    return (-energy(m, value, hidden)).logsumexp(-1) - log_partition


def mixture_log_prob(m: Boltzmann, value: Tensor) -> Tensor:
    """A Gaussian machine is a mixture of Gaussians, one for each hidden state."""
    assert m.scale is not None
    hidden = every(2, m.n_hidden)
    loc = m.visible_bias + m.scale * (hidden @ m.weight.mT)
    square = (loc / m.scale).square().sum(-1) - (m.visible_bias / m.scale).square().sum()
    mix = dist.Categorical(logits=hidden @ m.hidden_bias + 0.5 * square)
    return dist.MixtureSameFamily(mix, dist.Normal(loc, m.scale).to_event(1)).log_prob(value)  # type: ignore[no-any-return]


discrete = pytest.mark.parametrize("kind", ["bernoulli", "categorical"])
each_kind = pytest.mark.parametrize("kind", ["bernoulli", "categorical", "gaussian"])
each_size = pytest.mark.parametrize(("visible", "hidden"), SIZES)


def states_of(m: Boltzmann) -> Tensor:
    """All values of a discrete machine, a few of a Gaussian one."""
    if m.visible == "gaussian":
        rng = Generator().manual_seed(3)
        return 3 * torch.randn(9, m.event_shape[0], generator=rng, dtype=torch.float64)
    return every(3 if m.visible == "categorical" else 2, m.event_shape[0])


def oracle(m: Boltzmann, value: Tensor) -> Tensor:
    return (mixture_log_prob if m.visible == "gaussian" else brute_log_prob)(m, value)


# -- densities -----------------------------------------------------------------------------------


@each_kind
@each_size
def test_log_prob_is_that_of_all_states(kind: str, visible: int, hidden: int) -> None:
    m = machine(kind, visible, hidden)
    value = states_of(m)
    torch.testing.assert_close(m.log_prob(value), oracle(m, value), rtol=1e-11, atol=1e-11)


@discrete
@each_size
def test_densities_sum_to_one(kind: str, visible: int, hidden: int) -> None:
    m = machine(kind, visible, hidden)
    assert float(m.log_prob(states_of(m)).exp().sum()) == pytest.approx(1, abs=1e-12)


def test_a_gaussian_density_integrates_to_one() -> None:
    m = machine("gaussian", 2, 3)
    axis = torch.linspace(-20, 20, 801, dtype=torch.float64)
    density = m.log_prob(torch.cartesian_prod(axis, axis)).exp()
    assert float(density.sum()) * 0.05**2 == pytest.approx(1, abs=1e-9)


@each_kind
@each_size
def test_the_gradient_is_that_of_all_states(kind: str, visible: int, hidden: int) -> None:
    m = machine(kind, visible, hidden)
    value = states_of(m)
    parts = [x for x in (m.weight, m.visible_bias, m.hidden_bias, m.scale) if x is not None]
    leaves = [part.clone().requires_grad_() for part in parts]
    scale = leaves[3] if kind == "gaussian" else None
    same = Boltzmann(*leaves[:3], visible=kind, scale=scale)
    wanted = torch.autograd.grad(oracle(same, value).sum(), leaves)
    found = torch.autograd.grad(same.log_prob(value).sum(), leaves)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@each_kind
def test_the_curvature_is_that_of_all_states(kind: str) -> None:
    m = machine(kind, 3, 4)

    def log_partition(weight: Tensor) -> Tensor:
        parts = (weight, m.visible_bias, m.hidden_bias)
        return Boltzmann(*parts, visible=kind, scale=m.scale).exact_log_partition()

    value = states_of(m)[:1]

    def by_hand(weight: Tensor) -> Tensor:
        same = Boltzmann(weight, m.visible_bias, m.hidden_bias, visible=kind, scale=m.scale)
        hidden = every(2, 4)
        return (-energy(same, value, hidden)).logsumexp(-1)[0] - oracle(same, value)[0]

    found = torch.func.jacrev(torch.func.grad(log_partition))(m.weight)
    wanted = torch.func.jacrev(torch.func.grad(by_hand))(m.weight)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@discrete
def test_log_partition_is_the_same_by_either_layer(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = machine(kind, 4, 5)
    both = []
    for over_hidden in (True, False):
        monkeypatch.setattr(Boltzmann, "_over_hidden", over_hidden)
        both.append(m.exact_log_partition())
    torch.testing.assert_close(both[0], both[1], rtol=1e-13, atol=0)


def test_blocks_do_not_change_log_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    m = machine("bernoulli", 9, 8)
    whole = torch.func.grad_and_value(_log_partition_of(m))(m.weight)
    monkeypatch.setattr(layer_states, "_MOST_ENTRIES", 3 * 16 * 9)
    in_parts = torch.func.grad_and_value(_log_partition_of(m))(m.weight)
    torch.testing.assert_close(in_parts, whole, rtol=1e-12, atol=1e-13)


def _log_partition_of(m: Boltzmann):  # type: ignore[no-untyped-def]
    return lambda w: Boltzmann(w, m.visible_bias, m.hidden_bias).exact_log_partition()


def test_huge_weights_neither_overflow_nor_vanish() -> None:
    """One state carries all; activations of the two halves cancel at a thousand."""
    weight = torch.tensor([[1000.0, -990.0], [-1000.0, 900.0]]).double()
    m = Boltzmann(weight, torch.zeros(2).double(), torch.zeros(2).double())
    value = every(2, 2)
    torch.testing.assert_close(m.log_prob(value), brute_log_prob(m, value))
    many = Boltzmann(
        torch.zeros(1500, 2).double(), torch.zeros(1500).double(), torch.ones(2).double()
    )
    expected = 1500 * math.log(2.0) + 2 * math.log1p(math.e)
    assert float(many.exact_log_partition()) == pytest.approx(expected, rel=1e-9)


def test_sixteen_by_sixteen_agrees_with_the_transposed_machine() -> None:
    m = machine("bernoulli", 16, 15, strength=0.5)
    turned = Boltzmann(m.weight.mT, m.hidden_bias, m.visible_bias)
    torch.testing.assert_close(
        m.exact_log_partition(), turned.exact_log_partition(), rtol=1e-13, atol=0
    )


# -- missing values --------------------------------------------------------------------------------


@discrete
@each_size
@pytest.mark.parametrize("listed", ["hidden", "visible"])
def test_a_missing_value_is_summed_out(
    kind: str, visible: int, hidden: int, listed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = machine(kind, visible, hidden)
    if listed == "visible":
        monkeypatch.setattr(Boltzmann, "_by_hidden_states", Boltzmann._by_visible_states)
    states = states_of(m)
    log_prob = brute_log_prob(m, states)
    rows, wanted = [], []
    rng = Generator().manual_seed(5)
    for _ in range(12):
        row = states[int(torch.randint(len(states), (), generator=rng))].clone()
        known = torch.rand(visible, generator=rng) < 0.5
        agreeing = (states[:, known] == row[known]).all(-1)
        wanted.append(log_prob[agreeing].logsumexp(0))
        rows.append(torch.where(known, row, math.nan))
    found = m.expand([12]).log_prob(torch.stack(rows))
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-11, atol=1e-11)


def test_a_missing_gaussian_value_is_integrated_out() -> None:
    m = machine("gaussian", 2, 3)
    axis = torch.linspace(-20, 20, 8001, dtype=torch.float64)
    grid = torch.stack([torch.full_like(axis, 0.7), axis], -1)
    wanted = (m.log_prob(grid).exp().sum() * 0.005).log()
    found = m.log_prob(torch.tensor([[0.7, math.nan]]).double())
    assert float(found) == pytest.approx(float(wanted), abs=1e-8)


@each_kind
def test_rows_with_and_without_holes_keep_their_order(kind: str) -> None:
    m = machine(kind, 4, 3)
    value = states_of(m)[:6].clone()
    alone = m.log_prob(value)
    value[1, 2] = value[4, 0] = math.nan
    value[3] = math.nan
    found = m.log_prob(value)
    whole = torch.tensor([0, 2, 5])
    torch.testing.assert_close(found[whole], alone[whole])
    assert float(found[3]) == pytest.approx(0, abs=1e-12)
    one_by_one = torch.cat([m.log_prob(row.unsqueeze(0)) for row in value])
    torch.testing.assert_close(found, one_by_one)


@each_kind
def test_a_mask_of_what_is_missing_says_the_same_as_nan(kind: str) -> None:
    m = machine(kind, 4, 3)
    value = states_of(m)[:6]
    observed = torch.rand(6, 4, generator=Generator().manual_seed(1)) < 0.6
    masked = m.expand([6]).mask_missing(observed).expand([6]).log_prob(value)
    torch.testing.assert_close(masked, m.log_prob(torch.where(observed, value, math.nan)))


def test_holes_in_a_machine_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boltzmann, "MOST_UNITS", 3)
    m = machine("bernoulli", 4, 4)
    known = Boltzmann(m.weight, m.visible_bias, m.hidden_bias, log_partition=2.0)
    value = torch.ones(1, 4).double()
    assert float(known.log_prob(value)) == pytest.approx(-float(m.free_energy(value)) - 2)
    value[0, 0] = math.nan
    with pytest.raises(IntractableError, match="marginal of what is observed.*4 visible"):
        known.log_prob(value)


# -- moments and conditionals ----------------------------------------------------------------------


@discrete
@each_size
def test_moments_are_those_of_all_states(kind: str, visible: int, hidden: int) -> None:
    m = machine(kind, visible, hidden)
    states = states_of(m)
    probability = brute_log_prob(m, states).exp()
    x = states
    if kind == "categorical":
        x = (states.unsqueeze(-1) == torch.arange(3)).double().flatten(1)
    torch.testing.assert_close(m.visible_mean().flatten(), probability @ x)
    wanted = (x * probability.unsqueeze(-1)).mT @ x
    torch.testing.assert_close(m.visible_second_moment(), wanted)


def test_gaussian_moments_are_those_of_the_mixture() -> None:
    m = machine("gaussian", 2, 3)
    axis = torch.linspace(-25, 25, 1001, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    probability = mixture_log_prob(m, grid).exp() * 0.05**2
    torch.testing.assert_close(m.visible_mean(), probability @ grid)
    wanted = (grid * probability.unsqueeze(-1)).mT @ grid
    torch.testing.assert_close(m.visible_second_moment(), wanted)


@each_kind
def test_conditionals_are_those_of_the_joint(kind: str) -> None:
    m = machine(kind, 3, 4)
    value, hidden = states_of(m)[2:3], every(2, 4)
    joint = (-energy(m, value, hidden)).softmax(-1)
    torch.testing.assert_close(m.hidden_probabilities(value), joint @ hidden)
    given = m.hidden_given(value.expand(16, 3)).log_prob(hidden)
    torch.testing.assert_close(given.exp(), joint[0])
    values = states_of(m)
    found = m.visible_given(hidden[5].expand(len(values), 4)).log_prob(values)
    difference = found + energy(m, values, hidden[5:6])[:, 0]
    torch.testing.assert_close(difference, difference[:1].expand(len(values)))


# -- draws -----------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize(("visible", "hidden"), [(4, 3), (3, 5)])
def test_exact_draws_have_the_exact_means(kind: str, visible: int, hidden: int) -> None:
    m = machine(kind, visible, hidden)
    value = m.exact_sample((20_000,), Generator().manual_seed(0))
    x = m.units.in_units(m.units.features(value)).flatten(1)
    z = (x.mean(0) - m.visible_mean().flatten()) / (x.std(0) / math.sqrt(len(x)))
    assert float(z.abs().max()) < 4


@each_kind
def test_a_draw_fits_its_shapes_and_its_seed(kind: str) -> None:
    m = machine(kind, 4, 3).expand([5])
    torch.manual_seed(3)
    value = m.sample((2,))
    torch.manual_seed(3)
    assert value.shape == (2, 5, 4)
    assert torch.equal(value, m.sample((2,)))
    assert not torch.equal(value, m.sample((2,)))
    assert bool(m.support.check(value).all())


def test_a_machine_too_large_is_drawn_by_tempering(monkeypatch: pytest.MonkeyPatch) -> None:
    m = machine("bernoulli", 4, 4)
    mean = m.visible_mean()
    monkeypatch.setattr(boltzmann, "MOST_UNITS", 3)
    torch.manual_seed(0)
    value = m.sample((2000,))
    z = (value.mean(0) - mean) / (value.std(0) / math.sqrt(2000))
    assert float(z.abs().max()) < 4


def test_a_model_observes_it_under_a_plate() -> None:
    m = machine("bernoulli", 4, 3)
    value = states_of(m)

    def model(v: Tensor | None) -> None:
        with pyro.plate("row", 16):
            pyro.sample("v", m, obs=v)

    seen = poutine.trace(model).get_trace(value)
    seen.compute_log_prob()
    torch.testing.assert_close(seen.nodes["v"]["log_prob"], m.log_prob(value))
    drawn = poutine.trace(model).get_trace(None).nodes["v"]["value"]
    assert drawn is not None and drawn.shape == (16, 4)


# -- transforms ------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("holes", [False, True])
def test_it_maps_traces_and_compiles(kind: str, holes: bool) -> None:
    m = machine(kind, 3, 4)
    value = states_of(m).clone()
    if holes:
        value[2, 1] = value[5, 0] = math.nan

    def log_prob(weight: Tensor) -> Tensor:
        parts = (weight.reshape(m.weight.shape), m.visible_bias, m.hidden_bias)
        same = Boltzmann(*parts, visible=kind, scale=m.scale, validate_args=False)
        return same.log_prob(value).sum()

    pair = torch.func.grad_and_value(log_prob)
    points = torch.stack([m.weight.flatten(), 0.3 * m.weight.flatten() + 0.1])
    expected = [pair(point) for point in points]
    mapped = torch.vmap(pair)(points)
    graph = trace(pair, points[0])
    pure = make_fx(pair)(points[0])
    code = make_native(graph, points[0])
    for k, (gradient, total) in enumerate(expected):
        for found in (
            (mapped[0][k], mapped[1][k]),
            graph(points[k]),
            pure(points[k]),
            tuple(reversed(code.on_tensors(points[k]))),
        ):
            torch.testing.assert_close(found[0], gradient, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(found[1], total, rtol=1e-9, atol=1e-9)


def test_moments_trace() -> None:
    m = machine("bernoulli", 4, 3)

    def moments(weight: Tensor) -> Tensor:
        same = Boltzmann(weight.reshape(4, 3), m.visible_bias, m.hidden_bias)
        return torch.cat([same.visible_mean(), same.visible_second_moment().flatten()])

    flat = m.weight.flatten()
    torch.testing.assert_close(trace(moments, flat)(0.5 * flat), moments(0.5 * flat))


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "visible", "hidden", "kind", "scale", "words"),
    [
        ((4, 3), (4,), (2,), "bernoulli", None, r"weight \(4, 3\).*hidden bias \(2,\)"),
        ((4, 0), (4,), (0,), "bernoulli", None, "at least one unit each"),
        ((4, 3), (4,), (3,), "bernouli", None, "did you mean 'bernoulli'"),
        ((4, 3), (4,), (3,), "categorical", None, r"want visible bias \(V, L\)"),
        ((4, 3), (4,), (3,), "gaussian", None, "gaussian units needs their scale"),
        ((4, 3), (4,), (3,), "gaussian", (3,), r"scale \(3,\)"),
        ((4, 3), (4,), (3,), "bernoulli", (4,), "has no scale"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    weight: tuple[int, ...],
    visible: tuple[int, ...],
    hidden: tuple[int, ...],
    kind: str,
    scale: tuple[int, ...] | None,
    words: str,
) -> None:
    with pytest.raises(StoryError, match=words) as told:
        Boltzmann(
            torch.zeros(weight),
            torch.zeros(visible),
            torch.zeros(hidden),
            visible=kind,
            scale=None if scale is None else torch.ones(scale),
        )
    assert "\n" not in str(told.value)


def test_a_machine_of_two_large_layers_has_no_exact_partition() -> None:
    m = Boltzmann(torch.zeros(21, 21), torch.zeros(21), torch.zeros(21))
    assert not m.tractable
    with pytest.raises(IntractableError, match="21 visible and 21 hidden.*annealed"):
        m.log_prob(torch.zeros(1, 21))


def test_a_gaussian_machine_is_tractable_by_its_hidden_layer_only() -> None:
    weight = torch.zeros(2, 21)
    m = Boltzmann(weight, torch.zeros(2), torch.zeros(21), visible="gaussian", scale=torch.ones(2))
    assert not m.tractable


def test_values_outside_the_support_are_refused() -> None:
    m = machine("bernoulli", 4, 3)
    value = torch.tensor([[0.0, 1.0, 0.5, math.nan]]).double()
    with pytest.raises(ValueError, match="support"):
        Boltzmann(m.weight, m.visible_bias, m.hidden_bias, validate_args=True).log_prob(value)
