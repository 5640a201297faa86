"""Several draws of one scalar distribution, known only in increasing order."""

from __future__ import annotations

import math

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from storyzoo.errors import StoryError
from storyzoo.models.distributions.inverse_wishart import Size


class Ordered(TorchDistribution):
    """K draws of a scalar distribution, restricted to ``x_1 < x_2 < … < x_K``.

    ::

        log p(x) = sum_k log p_base(x_k)                    as Stan's `ordered` means it
                 + log K!                                   with normalised=True

    ``Ordered(Normal(0, 2).expand([3]))`` is a vector of three: the last batch dim of the base
    becomes the event. The base is one distribution, the same along that dim; only then is the
    second form the density of the sorted draws, and only then does ``sample``, which sorts,
    draw from it. Stan's `ordered[K] x; x ~ normal(0, 2);` leaves ``log K!`` out, and so does the
    default here: posteriors are the same, evidence and prior densities differ by that constant.

    The restriction undoes label switching by choosing one of the K! arrangements; a transformed
    distribution over :class:`OrderedTransform` is something else, as it is the differences that
    get the base's density there.

    Source: Stan Reference Manual, "Ordered vector"; David and Nagaraja (2003), Order Statistics.
    """

    arg_constraints = {}
    support = constraints.ordered_vector

    def __init__(
        self,
        base: TorchDistribution,
        normalised: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        if base.event_shape or not base.batch_shape:
            raise StoryError(
                "Ordered: the base must be scalar with the vector's length as its last batch dim: "
                "Ordered(Normal(0, 2).expand([3]))"
            )
        self.base = base
        self.normalised = normalised
        super().__init__(base.batch_shape[:-1], base.batch_shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: Ordered | None = None) -> Ordered:
        new: Ordered = self._get_checked_instance(Ordered, _instance)  # type: ignore[no-untyped-call]
        batch_shape = torch.Size(batch_shape)
        new.base = self.base.expand(batch_shape + self.event_shape)
        new.normalised = self.normalised
        super(Ordered, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_density: Tensor = self.base.log_prob(value).sum(-1)
        if self.normalised:
            log_density = log_density + math.lgamma(self.event_shape[0] + 1)
        return log_density

    def sample(self, sample_shape: Size = ()) -> Tensor:
        draws: Tensor = self.base.sample(sample_shape)
        return draws.sort(-1).values
