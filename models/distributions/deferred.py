"""A distribution whose parameters are worked out only when something is asked of it.

A pass over long sequences takes minutes, and a model is run for many reasons that need no
probability of its data: for the shapes of its sites, for its priors, for a start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor


class Deferred(TorchDistribution):
    """What ``make`` gives, of known shapes and support; ``make`` is called at most once."""

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self,
        make: Callable[[], Any],
        batch_shape: torch.Size,
        event_shape: torch.Size,
        support: Any,
    ) -> None:
        self._make, self._support = make, support
        super().__init__(batch_shape, event_shape, validate_args=False)

    @cached_property
    def made(self) -> Any:
        """The distribution itself."""
        return self._make()

    @property
    def support(self) -> Any:
        """Known before the distribution is."""
        return self._support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Deferred:
        """To a larger batch."""
        size = torch.Size(batch_shape)
        return Deferred(lambda: self.made.expand(size), size, self.event_shape, self._support)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws."""
        drawn: Tensor = self.made.sample(sample_shape)
        return drawn

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability, nats."""
        nats: Tensor = self.made.log_prob(value)
        return nats
