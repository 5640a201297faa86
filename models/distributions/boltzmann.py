"""The restricted Boltzmann machine as a distribution over its visible units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from storyzoo.errors import IntractableError, StoryError, nearest
from storyzoo.models.distributions.inverse_wishart import Size
from storyzoo.models.kernels import boltzmann as kernels
from storyzoo.models.kernels.gaussian import complete_rows, has_missing
from storyzoo.models.kernels.layer_states import binary_states, digits, log_sum_pairs
from storyzoo.models.kernels.visible_units import (
    KINDS,
    Binary,
    Categorical,
    Gaussian,
    VisibleUnits,
    softplus,
)

MOST_UNITS = 20
"""Binary units of the smaller layer over whose states is summed; or as many states otherwise."""
_BLOCK_STATES = 2**14
_BLOCK_ENTRIES = 2**21
"""States times rows, or times features, that are held at a time."""


class Halves(NamedTuple):
    """One layer's states as pairs ``(i, j)`` of those of its two halves."""

    first: Tensor
    """(I, …): what a state of the first half adds to the activation of the other layer."""
    second: Tensor
    """(J, …)."""
    first_own: Tensor
    """(I,): what it adds to the log weight by its own biases."""
    second_own: Tensor
    """(J,)."""


class Boltzmann(TorchDistribution):
    """Visible vectors under ``p(v) = exp(-F(v)) / Z``, the binary hidden units summed out.

    ::

        bernoulli    -F(v) = b·v + sum_h softplus(c_h + v·W_h)
        categorical  -F(v) = sum_i b_i,v_i + sum_h softplus(c_h + sum_i W_i,v_i,h)
        gaussian     -F(v) = -sum_i (v_i - b_i)^2 / (2 s_i^2) + sum_h softplus(c_h + (v / s)·W_h)

    Shapes: weight (V, H) and visible_bias (V,), for categorical units (V, L, H) and (V, L), whose
    values are 0 … L - 1; hidden_bias (H,); scale s (V,), in the units of v like a Gaussian's b;
    values (*batch, V). NaN is a missing value: ``log_prob`` is then that of what is observed, zero
    where nothing is. So it is for the rows of :meth:`mask_missing`.

    ``log_partition`` is a log Z known from elsewhere, an estimate; without it log Z is the exact
    sum over the states of the smaller layer, and ``log_prob`` raises IntractableError where neither
    layer has few states. Everything is in nats, and nothing branches on a parameter.

    Source: Smolensky (1986), "Information processing in dynamical systems"; categorical units:
    Salakhutdinov, Mnih and Hinton (2007); Gaussian ones: Cho, Ilin and Raiko (2011).
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    _observed: Tensor | None = None

    def __init__(
        self,
        weight: Tensor,
        visible_bias: Tensor,
        hidden_bias: Tensor,
        *,
        visible: str = "bernoulli",
        scale: Tensor | None = None,
        log_partition: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        _check_shapes(weight, visible_bias, hidden_bias, visible, scale)
        self.weight, self.visible_bias, self.hidden_bias = weight, visible_bias, hidden_bias
        self.visible, self.scale, self.log_partition = visible, scale, log_partition
        super().__init__(torch.Size(), visible_bias.shape[:1], validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: Boltzmann | None = None) -> Boltzmann:
        new: Boltzmann = self._get_checked_instance(Boltzmann, _instance)  # type: ignore[no-untyped-call]
        new.weight, new.visible_bias, new.hidden_bias = (
            self.weight,
            self.visible_bias,
            self.hidden_bias,
        )
        new.visible, new.scale, new.log_partition = self.visible, self.scale, self.log_partition
        new._observed = self._observed
        super(Boltzmann, new).__init__(
            torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def mask_missing(self, observed: Tensor) -> Boltzmann:
        """The distribution of the elements where ``observed`` (*rows, V) is true."""
        new = self.expand(self.batch_shape)
        new._observed = observed
        return new

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        return constraints.independent(self.units.support, 1)

    # -- the two layers ------------------------------------------------------------------

    @property
    def units(self) -> VisibleUnits:
        """The visible units."""
        if self.visible == "categorical":
            return Categorical(self.visible_bias.flatten(), self.visible_bias.shape[1])
        if self.visible == "gaussian":
            assert self.scale is not None
            return Gaussian(self.visible_bias, self.scale)
        return Binary(self.visible_bias)

    @property
    def coupling(self) -> Tensor:
        """Weights by visible feature: (F, H)."""
        return self.weight.reshape(-1, self.weight.shape[-1])

    @property
    def n_hidden(self) -> int:
        """Hidden units."""
        return self.weight.shape[-1]

    def hidden_logits(self, value: Tensor) -> Tensor:
        """``c + x(v)·W``: (*batch, H)."""
        return self.units.features(value) @ self.coupling + self.hidden_bias

    def hidden_probabilities(self, value: Tensor) -> Tensor:
        """``p(h = 1 | v)``: (*batch, H)."""
        return self.hidden_logits(value).sigmoid()

    def hidden_given(self, value: Tensor) -> dist.Distribution:
        """``p(h | v)``, independent units."""
        given: dist.Distribution = dist.Bernoulli(logits=self.hidden_logits(value)).to_event(1)
        return given

    def visible_given(self, hidden: Tensor) -> dist.Distribution:
        """``p(v | h)``, independent units, of hidden (*batch, H)."""
        return self.units.given(hidden @ self.coupling.mT)

    # -- densities -----------------------------------------------------------------------

    def free_energy(self, value: Tensor) -> Tensor:
        """``F(v)``, nats: (*batch,)."""
        return -self.units.log_weight(value).sum(-1) - softplus(self.hidden_logits(value)).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        observed, complete = self._observed, None
        plain = value.detach() if value.requires_grad else value
        if observed is None and has_missing(plain):
            observed, complete = ~torch.isnan(value), complete_rows(plain)
        if observed is not None:
            value = torch.where(observed, value, 0.0)
        if self._validate_args:
            self._validate_sample(value)
        log_partition = self.log_partition
        if log_partition is None:
            log_partition = self.exact_log_partition()
        log_weight = (
            -self.free_energy(value)
            if observed is None
            else self._log_marginal(value, observed, complete)
        )
        log_density = log_weight - log_partition
        return log_density.expand(torch.broadcast_shapes(log_density.shape, self.batch_shape))

    def _log_marginal(self, value: Tensor, observed: Tensor, complete: np.ndarray | None) -> Tensor:
        """``log sum exp(-F)`` over what is missing: rows known to be complete by free energy."""
        shape = torch.broadcast_shapes(value.shape, observed.shape)
        value, observed = value.expand(shape).flatten(0, -2), observed.expand(shape).flatten(0, -2)
        if complete is None:
            return self._log_marginal_of_holed(value, observed).reshape(shape[:-1])
        whole, holed = (torch.as_tensor(np.flatnonzero(x)) for x in (complete, ~complete))
        parts = [
            -self.free_energy(value[whole]),
            self._log_marginal_of_holed(value[holed], observed[holed]),
        ]
        order = np.concatenate([np.flatnonzero(complete), np.flatnonzero(~complete)]).argsort()
        return torch.cat(parts)[torch.as_tensor(order)].reshape(shape[:-1])

    def _log_marginal_of_holed(self, value: Tensor, observed: Tensor) -> Tensor:
        if self.n_hidden > MOST_UNITS and self.units.log2_states > MOST_UNITS:
            raise IntractableError(f"the marginal of what is observed in {self._too_many}")
        by_hidden = self.n_hidden <= MOST_UNITS
        compatible = self._by_hidden_states if by_hidden else self._by_visible_states
        step = max(1, _BLOCK_ENTRIES // _BLOCK_STATES)
        rows = zip(value.split(step), observed.split(step), strict=True)
        return torch.cat([compatible(v, seen.to(value.dtype)) for v, seen in rows])

    def _by_hidden_states(self, value: Tensor, seen: Tensor) -> Tensor:
        """Given a hidden state, what is missing is summed out unit by unit."""
        units, totals = self.units, []
        driving = units.features(value) * units.by_feature(seen)
        for number in self._numbers(2**self.n_hidden, len(self.coupling)):
            states = digits(number, self.n_hidden, 2).to(value.dtype)
            activation = states @ self.coupling.mT
            missing = (1 - seen) @ units.log_integral(activation).mT
            total = states @ self.hidden_bias + driving @ activation.mT + missing
            totals.append(total.logsumexp(-1))
        return torch.stack(totals).logsumexp(0) + (units.log_weight(value) * seen).sum(-1)

    def _by_visible_states(self, value: Tensor, seen: Tensor) -> Tensor:
        """The visible states that agree with what is observed."""
        size, totals = self.event_shape[0], []
        for number in self._numbers(self._levels**size, self.n_hidden):
            states = digits(number, size, self._levels).to(value.dtype)
            differs = (value.unsqueeze(1) != states).to(value.dtype) * seen.unsqueeze(1)
            log_weight = torch.where(differs.sum(-1) == 0, -self.free_energy(states), -math.inf)
            totals.append(log_weight.logsumexp(-1))
        return torch.stack(totals).logsumexp(0)

    def _numbers(self, states: int, width: int) -> tuple[Tensor, ...]:
        """Numbers of all states, in blocks whose states of that width are held at a time."""
        number = torch.arange(states, device=self.weight.device)
        step = max(1, min(_BLOCK_STATES, _BLOCK_ENTRIES // width))
        return torch.split(number, step)

    @property
    def _levels(self) -> int:
        return self.visible_bias.shape[1] if self.visible == "categorical" else 2

    # -- sums over all states ------------------------------------------------------------

    @property
    def tractable(self) -> bool:
        """Whether one layer has few enough states that all are summed."""
        return min(self.n_hidden, self.units.log2_states) <= MOST_UNITS

    @property
    def _over_hidden(self) -> bool:
        """Whether the hidden layer is the one whose states are summed, rather than the visible."""
        hidden = self.n_hidden + math.log2(len(self.coupling))
        return hidden <= self.units.log2_states + math.log2(self.n_hidden)

    def exact_log_partition(self) -> Tensor:
        """``log Z`` by all states of the smaller layer, nats: a scalar.

        Raises IntractableError where neither layer is small.
        """
        return self._log_weights(self._halves()).logsumexp((0, 1))

    def visible_mean(self) -> Tensor:
        """``E[v]`` (V,), exact, in the units of v; probabilities (V, L) of categorical levels."""
        mean = self.weight.new_zeros(len(self.coupling))
        for weight, x in self._conditional_means():
            mean = mean + weight @ x
        return self.units.in_units(mean)

    def visible_second_moment(self) -> Tensor:
        """``E[v v']`` (V, V), exact; for categorical units ``E[x x']`` of one-hot x, (V L, V L)."""
        size = len(self.coupling)
        mean, outer = self.weight.new_zeros(size), self.weight.new_zeros(size, size)
        for weight, x in self._conditional_means():
            mean = mean + weight @ x
            outer = outer + (x * weight.unsqueeze(-1)).mT @ x
        moment = self.units.second_moment(mean, outer)
        return moment if self.scale is None else moment * self.scale * self.scale.unsqueeze(-1)

    def exact_sample(self, shape: Size, generator: torch.Generator) -> Tensor:
        """Independent draws (*shape, V): a state of the summed layer, then the other layer."""
        halves = self._halves()
        probability = self._log_weights(halves).detach().flatten().softmax(0)
        count = torch.Size(shape).numel()
        drawn = torch.multinomial(probability, max(1, count), True, generator=generator)[:count]
        i, j = drawn // len(halves.second), drawn % len(halves.second)
        if self._over_hidden:
            value = self.units.draw((halves.first[i] + halves.second[j]).detach(), generator)
        else:
            value = digits(drawn, self.event_shape[0], self._levels).to(self.weight.dtype)
        return value.reshape(*shape, -1)

    def _halves(self) -> Halves:
        """Activations of the other layer by the states of the halves of the smaller one."""
        if not self.tractable:
            raise IntractableError(f"log Z of {self._too_many}")
        if self._over_hidden:
            half, columns = self.n_hidden // 2, self.coupling.mT
            states = (
                binary_states(half, columns),
                binary_states(self.n_hidden - half, columns),
            )
            own = self.hidden_bias
        else:
            half, columns = self.event_shape[0] // 2, self.coupling
            states = self.units.states(0, half), self.units.states(half, self.event_shape[0])  # type: ignore[union-attr]
            own = self.units.bias
        border = states[0].shape[1]
        return Halves(
            states[0] @ columns[:border],
            states[1] @ columns[border:],
            states[0] @ own[:border],
            states[1] @ own[border:],
        )

    def _log_weights(self, halves: Halves) -> Tensor:
        """``log`` of the sum of ``exp(-energy)`` over the other layer, by state: (I, J)."""
        if self._over_hidden:
            pairs = self.units.log_integral_pairs(halves.first, halves.second)
        else:
            first = (halves.first + self.hidden_bias).unsqueeze(-1)
            pairs = log_sum_pairs(first, halves.second.unsqueeze(-1))
        return pairs + halves.first_own.unsqueeze(-1) + halves.second_own

    def _conditional_means(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Probabilities (S,) of a block of states, and ``E[x | state]`` (S, F)."""
        halves = self._halves()
        probability = self._log_weights(halves).flatten().softmax(0)
        for number in self._numbers(len(probability), len(self.coupling)):
            if self._over_hidden:
                i, j = number // len(halves.second), number % len(halves.second)
                yield probability[number], self.units.mean(halves.first[i] + halves.second[j])
            else:
                states = digits(number, self.event_shape[0], self._levels).to(self.weight.dtype)
                yield probability[number], self.units.features(states)

    @property
    def _too_many(self) -> str:
        return (
            f"a Boltzmann machine of {self.event_shape[0]} visible and {self.n_hidden} hidden "
            f"units: neither layer has at most 2^{MOST_UNITS} states; estimate it by annealed "
            "importance sampling"
        )

    # -- draws ---------------------------------------------------------------------------

    def sample(self, sample_shape: Size = ()) -> Tensor:
        """Exact where a layer is small, else where chains of tempered Gibbs sampling end."""
        shape = (*sample_shape, *self.batch_shape)
        seed = int(torch.randint(2**62, (), device="cpu"))
        generator = torch.Generator(self.weight.device).manual_seed(seed)
        with torch.no_grad():
            if self.tractable:
                return self.exact_sample(shape, generator)
            chains = torch.Size(shape).numel()
            drawn = kernels.tempered(self, chains, kernels.SWEEPS, generator)
            return drawn.values.reshape(*shape, -1)


def _check_shapes(
    weight: Tensor,
    visible_bias: Tensor,
    hidden_bias: Tensor,
    visible: str,
    scale: Tensor | None,
) -> None:
    """Raise StoryError where a machine of such parts can't be."""
    if visible not in KINDS:
        raise StoryError(f"visible units '{visible}': {nearest(visible, KINDS)}")
    layers = "(V, L), weight (V, L, H)" if visible == "categorical" else "(V,), weight (V, H)"
    fits = (
        visible_bias.dim() == 1 + (visible == "categorical")
        and hidden_bias.dim() == 1
        and weight.shape == visible_bias.shape + hidden_bias.shape
        and weight.numel() > 0
    )
    if not fits:
        raise StoryError(
            f"a Boltzmann machine with weight {tuple(weight.shape)}, visible bias "
            f"{tuple(visible_bias.shape)} and hidden bias {tuple(hidden_bias.shape)}: {visible} "
            f"units want visible bias {layers} and hidden bias (H,), of at least one unit each"
        )
    if (scale is None) == (visible == "gaussian"):
        raise StoryError(
            f"a Boltzmann machine of {visible} units "
            + ("needs their scale" if scale is None else "has no scale: it is for gaussian ones")
        )
    if scale is not None and scale.shape != visible_bias.shape:
        raise StoryError(
            f"scale {tuple(scale.shape)} of a Boltzmann machine's gaussian units: "
            f"one each, {tuple(visible_bias.shape)}"
        )
