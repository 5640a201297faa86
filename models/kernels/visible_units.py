"""The visible units of a restricted Boltzmann machine: binary, categorical or Gaussian.

Each kind has features ``x(v)`` (…, F), by which it drives the hidden units with ``x·W``, and a log
weight of its own, ``a(v)``. Given the activation ``u`` (…, F) that comes back from the hidden units
the visible ones are independent, with log weight ``a(v) + x(v)·u``::

    binary       x = v                  a = b v
    categorical  x = one-hot of v       a = b_v
    Gaussian     x = v / s              a = -(v - b)^2 / (2 s^2)

All kinds answer alike; what they answer is said at the binary ones. Shapes: V units; F features,
V of them but for categorical units with L levels, V L; biases may have leading dims.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Generator, Tensor

from storyzoo.models.kernels.gaussian import LOG_2PI
from storyzoo.models.kernels.layer_states import level_states, log_sum_pairs


@dataclass(frozen=True)
class Binary:
    """Zeros and ones."""

    bias: Tensor
    """(…, V)."""

    @property
    def support(self) -> constraints.Constraint:
        """Of one unit."""
        return constraints.boolean

    @property
    def log2_states(self) -> float:
        """Logarithm to base 2 of the number of states of all units; infinite for real ones."""
        return float(self.bias.shape[-1])

    def states(self, begin: int, end: int) -> Tensor:
        """Features of all states of the units from ``begin`` on before ``end``: (S, F')."""
        return level_states(end - begin, 2, self.bias)[..., 1]

    def features(self, value: Tensor) -> Tensor:
        """``x(v)``: (…, F) of (…, V)."""
        return value

    def by_feature(self, unit: Tensor) -> Tensor:
        """What holds of a unit, (…, V), for each of its features: (…, F)."""
        return unit

    def log_weight(self, value: Tensor) -> Tensor:
        """``a(v)`` by unit: (…, V)."""
        return self.bias * value

    def log_integral(self, activation: Tensor) -> Tensor:
        """``log sum_v exp(a(v) + x(v)·u)`` by unit, an integral for real ones: (…, V)."""
        return softplus(self.bias + activation)

    def log_integral_pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """The same for each ``u = first_i + second_j``, over all units: (I, J)."""
        return log_sum_pairs((self.bias + first).unsqueeze(-1), second.unsqueeze(-1))

    def mean(self, activation: Tensor) -> Tensor:
        """``E[x | u]``: (…, F)."""
        return (self.bias + activation).sigmoid()

    def second_moment(self, mean: Tensor, outer: Tensor) -> Tensor:
        """``E[x x']`` (F, F) of ``E[x]`` and ``E[m m']``, where m is ``E[x | u]``."""
        return _with_diagonal(outer, mean)

    def in_units(self, feature: Tensor) -> Tensor:
        """Means of features in the units and shape of the data."""
        return feature

    def given(self, activation: Tensor) -> dist.Distribution:
        """The distribution of values given ``u``."""
        given: dist.Distribution = dist.Bernoulli(logits=self.bias + activation).to_event(1)
        return given

    def draw(self, activation: Tensor, generator: Generator) -> Tensor:
        """Values given ``u``: (…, V)."""
        return coin(self.mean(activation), generator)

    def bias_under(self, activation: Tensor) -> Tensor:
        """The bias of units that without any activation are as these are under ``u``."""
        return self.bias + activation

    def toward(self, base_bias: Tensor, heat: Tensor | float) -> Binary:
        """Units whose bias is ``heat`` times their own, the rest ``base_bias``."""
        return replace(self, bias=torch.lerp(base_bias, self.bias, _weight(heat, self.bias)))


@dataclass(frozen=True)
class Categorical:
    """Levels 0 … L - 1, given as numbers."""

    bias: Tensor
    """(…, V L), the levels of a unit side by side."""
    levels: int

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.levels - 1)

    @property
    def log2_states(self) -> float:
        return self.bias.shape[-1] / self.levels * math.log2(self.levels)

    def states(self, begin: int, end: int) -> Tensor:
        return level_states(end - begin, self.levels, self.bias).flatten(1)

    def features(self, value: Tensor) -> Tensor:
        level = torch.arange(self.levels, device=value.device)
        return (value.unsqueeze(-1) == level).to(self.bias.dtype).flatten(-2)

    def by_feature(self, unit: Tensor) -> Tensor:
        return unit.repeat_interleave(self.levels, -1)

    def log_weight(self, value: Tensor) -> Tensor:
        return self._by_unit(self.bias * self.features(value)).sum(-1)

    def log_integral(self, activation: Tensor) -> Tensor:
        return self._by_unit(self.bias + activation).logsumexp(-1)

    def log_integral_pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """Each level is taken against the first one, whose own part is a sum of two."""
        a, b = self._by_unit(self.bias + first), self._by_unit(second)
        reference = a[..., 0].sum(-1).unsqueeze(-1) + b[..., 0].sum(-1)
        return reference + log_sum_pairs(a[..., 1:] - a[..., :1], b[..., 1:] - b[..., :1])

    def mean(self, activation: Tensor) -> Tensor:
        return self._by_unit(self.bias + activation).softmax(-1).flatten(-2)

    def second_moment(self, mean: Tensor, outer: Tensor) -> Tensor:
        unit = torch.arange(len(mean), device=mean.device) // self.levels
        other = (unit.unsqueeze(-1) != unit).to(mean.dtype)
        return _with_diagonal(outer * other, mean)

    def in_units(self, feature: Tensor) -> Tensor:
        """Probabilities of the levels: (…, V, L)."""
        return self._by_unit(feature)

    def given(self, activation: Tensor) -> dist.Distribution:
        logits = self._by_unit(self.bias + activation)
        given: dist.Distribution = dist.Categorical(logits=logits).to_event(1)
        return given

    def draw(self, activation: Tensor, generator: Generator) -> Tensor:
        total = self._by_unit(self.mean(activation)).cumsum(-1)
        shape, kind = total.shape[:-1], total.dtype
        at = torch.rand(shape, generator=generator, dtype=kind, device=total.device)
        return (total[..., :-1] < at.unsqueeze(-1)).sum(-1).to(kind)

    def bias_under(self, activation: Tensor) -> Tensor:
        return self.bias + activation

    def toward(self, base_bias: Tensor, heat: Tensor | float) -> Categorical:
        return replace(self, bias=torch.lerp(base_bias, self.bias, _weight(heat, self.bias)))

    def _by_unit(self, feature: Tensor) -> Tensor:
        units = feature.shape[-1] // self.levels
        return feature.reshape(*feature.shape[:-1], units, self.levels)


@dataclass(frozen=True)
class Gaussian:
    """Real values with noise of known scale."""

    bias: Tensor
    """(…, V), in the units of the data; so the scale."""
    scale: Tensor

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real

    @property
    def log2_states(self) -> float:
        return math.inf

    def features(self, value: Tensor) -> Tensor:
        return value / self.scale

    def by_feature(self, unit: Tensor) -> Tensor:
        return unit

    def log_weight(self, value: Tensor) -> Tensor:
        return -0.5 * ((value - self.bias) / self.scale).square()

    def log_integral(self, activation: Tensor) -> Tensor:
        quadratic = activation * (self.bias / self.scale + 0.5 * activation)
        return quadratic + self.scale.log() + 0.5 * LOG_2PI

    def log_integral_pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """A square of two summands: a matrix product."""
        left = self.log_integral(first).sum(-1)
        right = (second * (self.bias / self.scale + 0.5 * second)).sum(-1)
        return left.unsqueeze(-1) + right + first @ second.mT

    def mean(self, activation: Tensor) -> Tensor:
        return self.bias / self.scale + activation

    def second_moment(self, mean: Tensor, outer: Tensor) -> Tensor:
        return outer + torch.eye(len(mean), dtype=mean.dtype, device=mean.device)

    def in_units(self, feature: Tensor) -> Tensor:
        return self.scale * feature

    def given(self, activation: Tensor) -> dist.Distribution:
        loc = self.in_units(self.mean(activation))
        given: dist.Distribution = dist.Normal(loc, self.scale).to_event(1)
        return given

    def draw(self, activation: Tensor, generator: Generator) -> Tensor:
        mean = self.mean(activation)
        shape, kind = mean.shape, mean.dtype
        noise = torch.randn(shape, generator=generator, dtype=kind, device=mean.device)
        return self.in_units(mean + noise)

    def bias_under(self, activation: Tensor) -> Tensor:
        return self.bias + self.scale * activation

    def toward(self, base_bias: Tensor, heat: Tensor | float) -> Gaussian:
        return replace(self, bias=torch.lerp(base_bias, self.bias, _weight(heat, self.bias)))


VisibleUnits = Binary | Categorical | Gaussian
KINDS = ("bernoulli", "categorical", "gaussian")
"""What a machine calls them."""


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp x)``, to the last digit: torch's own begins to round at x = 20."""
    return torch.nn.functional.softplus(x, threshold=40.0)


def coin(probability: Tensor, generator: Generator) -> Tensor:
    """Ones with that probability, else zeros."""
    shape, kind = probability.shape, probability.dtype
    at = torch.rand(shape, generator=generator, dtype=kind, device=probability.device)
    return (at < probability).to(kind)


def _with_diagonal(matrix: Tensor, diagonal: Tensor) -> Tensor:
    eye = torch.eye(len(diagonal), dtype=matrix.dtype, device=matrix.device)
    return matrix * (1 - eye) + torch.diag_embed(diagonal)


def _weight(heat: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(heat, dtype=like.dtype, device=like.device)
