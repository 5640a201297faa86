"""The restricted Boltzmann machine as a distribution over its visible units."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from storyzoo.errors import IntractableError, StoryError
from storyzoo.models.distributions.inverse_wishart import Size

MOST_UNITS = 20
"""Binary units of the smaller layer over whose states is summed."""
_BLOCK_STATES = 2**14


class Boltzmann(TorchDistribution):
    """Visible vectors under ``p(v) = exp(-F(v)) / Z``, hidden units summed out.

    ::

        -F(v) = b·v + sum_h softplus(c_h + v·W_h)

    Shapes: weight (V, H), visible_bias (V,), hidden_bias (H,), values (*batch, V) of zeros and
    ones. ``log_partition`` is a log Z known from elsewhere; without it the sum over all states of
    the smaller layer. Raises IntractableError where neither layer is small.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.boolean, 1)

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
        if visible != "bernoulli":
            raise StoryError(f"visible units '{visible}': known: bernoulli")
        if weight.shape != (*visible_bias.shape, *hidden_bias.shape) or 0 in weight.shape:
            raise StoryError(
                f"a Boltzmann machine of weight {tuple(weight.shape)}, visible bias "
                f"{tuple(visible_bias.shape)} and hidden bias {tuple(hidden_bias.shape)}: "
                "the weight must be (visible, hidden), neither of them zero"
            )
        self.weight, self.visible_bias, self.hidden_bias = weight, visible_bias, hidden_bias
        self.visible, self.scale, self.log_partition = visible, scale, log_partition
        super().__init__((), visible_bias.shape, validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: Boltzmann | None = None) -> Boltzmann:
        new: Boltzmann = self._get_checked_instance(Boltzmann, _instance)  # type: ignore[no-untyped-call]
        for name in (
            "weight",
            "visible_bias",
            "hidden_bias",
            "visible",
            "scale",
            "log_partition",
        ):
            setattr(new, name, getattr(self, name))
        shape = torch.Size(batch_shape)
        super(Boltzmann, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def tractable(self) -> bool:
        """Whether log Z is summed exactly: one layer is small."""
        return min(self.weight.shape) <= MOST_UNITS

    def free_energy(self, value: Tensor) -> Tensor:
        """``F(v)``, nats: (*batch,)."""
        return -(value @ self.visible_bias) - _softplus(self._field(value)).sum(-1)

    def hidden_probabilities(self, value: Tensor) -> Tensor:
        """``p(h = 1 | v)``: (*batch, H)."""
        return torch.sigmoid(self._field(value))

    def _field(self, value: Tensor) -> Tensor:
        return value @ self.weight + self.hidden_bias

    def exact_log_partition(self) -> Tensor:
        """``log Z`` by the states of the smaller layer, nats: a scalar."""
        if not self.tractable:
            visible, hidden = self.weight.shape
            raise IntractableError(
                f"log Z of a Boltzmann machine of {visible} visible and {hidden} hidden units: "
                f"neither layer has at most {MOST_UNITS}; estimate it by annealed sampling"
            )
        small, large = self.hidden_bias, self.visible_bias
        weight = self.weight.mT
        if len(small) > len(large):
            small, large, weight = large, small, weight.mT
        states = torch.arange(2 ** len(small), device=weight.device).split(_BLOCK_STATES)
        totals = []
        for block in states:
            bits = ((block.unsqueeze(-1) >> torch.arange(len(small)).to(block.device)) & 1).to(
                weight.dtype
            )
            totals.append(bits @ small + _softplus(bits @ weight + large).sum(-1))
        return torch.cat(totals).logsumexp(0)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_partition = self.log_partition
        if log_partition is None:
            log_partition = self.exact_log_partition()
        log_density = -self.free_energy(value) - log_partition
        return log_density.expand(torch.broadcast_shapes(log_density.shape, self.batch_shape))


def _softplus(x: Tensor) -> Tensor:
    """``log(1 + exp x)``; torch's own is off by 2e-9 above 20."""
    return -F.logsigmoid(-x)
