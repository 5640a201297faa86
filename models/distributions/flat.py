"""A flat prior over a constrained space: improper, of density one everywhere."""

from __future__ import annotations

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from storyzoo.errors import StoryError
from storyzoo.models.distributions.inverse_wishart import Size


class Flat(TorchDistribution):
    """The improper prior with ``log p(x) = 0`` on the support of a constraint.

    ``Flat(constraints.positive)`` is one number above zero; ``Flat(constraints.real, (3,))`` a
    vector of three; ``Flat(constraints.simplex, (4,))`` a point of a simplex. Flat is meant in the
    constrained value: ``Flat(positive)`` is not flat in its logarithm.

    There is nothing to draw from: ``sample`` raises StoryError, and a story with such a prior has
    no prior draws, no simulation-based calibration and no evidence. Conditioned or given a value,
    the site works in any Pyro trace, where ``pyro.distributions.ImproperUniform`` does not.
    """

    arg_constraints = {}
    improper = True
    """What marks a story that holds such a site."""

    def __init__(
        self,
        constraint: constraints.Constraint,
        event_shape: tuple[int, ...] = (),
        validate_args: bool | None = None,
    ) -> None:
        event_shape = torch.Size(event_shape)
        extra = len(event_shape) - constraint.event_dim
        if extra < 0:
            raise StoryError(
                f"Flat: a value of {constraint} has {constraint.event_dim} dims: "
                f"give an event_shape with as many, not {tuple(event_shape)}"
            )
        self._support = constraints.independent(constraint, extra) if extra else constraint
        super().__init__(torch.Size(), event_shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return self._support

    def expand(self, batch_shape: Size, _instance: Flat | None = None) -> Flat:
        new: Flat = self._get_checked_instance(Flat, _instance)  # type: ignore[no-untyped-call]
        new._support = self._support
        super(Flat, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = value.shape[: value.dim() - self.event_dim]
        return value.new_zeros(torch.broadcast_shapes(shape, self.batch_shape))

    def sample(self, sample_shape: Size = ()) -> Tensor:
        raise StoryError(
            "an improper prior can't be drawn from: give the site a proper prior, or a value"
        )
