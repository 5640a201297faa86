"""A network of torch's whose parameters become latent sites with priors.

The module is made without storage and never holds a value: every call gets the weights from
outside (``torch.func.functional_call``), so that an optimiser, a sampler or a guide can keep them
all in one flat vector. A site is called like the parameter, with ``_`` in place of each dot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.func import functional_call


class Lifted:
    """A network as a function of its weights and its inputs."""

    def __init__(self, make: Callable[[], torch.nn.Module]) -> None:
        with torch.device("meta"):
            self._network = make()
        self._parameters = {
            name.replace(".", "_"): name for name, _ in self._network.named_parameters()
        }
        self.shapes = {
            name.replace(".", "_"): tuple(value.shape)
            for name, value in self._network.named_parameters()
        }
        """Shape of each site, in the network's order."""

    def sample(self, sd: float) -> dict[str, Tensor]:
        """Every weight as a latent site, ``Normal(0, sd)`` each; for use in a model."""
        return {
            name: pyro.sample(name, dist.Normal(0.0, sd).expand(shape).to_event(len(shape)))
            for name, shape in self.shapes.items()
        }

    def __call__(self, weights: Mapping[str, Tensor], *inputs: Any) -> Any:
        """What the network gives for some inputs under these weights."""
        named = {parameter: weights[site] for site, parameter in self._parameters.items()}
        return functional_call(self._network, named, inputs)

    def small(self, rng: np.random.Generator, width: int) -> dict[str, Tensor]:
        """Weights to start an ascent from: uniform within ``1 / sqrt(width)`` of zero, by site."""
        generator = torch.Generator(device="cpu").manual_seed(int(rng.integers(2**62)))
        start = {}
        for name, shape in self.shapes.items():
            uniform = torch.rand(shape, generator=generator, device="cpu")
            start[name] = ((2 * uniform - 1) / math.sqrt(width)).to(torch.empty(0))
        return start
