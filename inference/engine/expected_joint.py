"""What a generic M-step climbs: the expected complete log joint, compiled once.

``Q(q) = sum_f <w_f, log p_f(theta(q))> [+ log prior(theta(q))] + log-volume of the softmax basis``

The weights ``w`` of the last E-step are input beside the point, so that one function serves all
steps of all restarts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from storyzoo.inference.engine.density import LogDensity, generator_of
from storyzoo.inference.engine.enumeration import expected_log_joint
from storyzoo.inference.engine.factors import priors_of
from storyzoo.inference.engine.ladder import Ladder, Pair

SPREAD = (0.0, 0.1, 0.5, 1.0, 2.0)
"""How far from the first point the compiled form is held against the model."""


class ExpectedJoint:
    """``Q`` and its gradient at unconstrained points, for any weights of some shapes."""

    def __init__(self, density: LogDensity, weights: Mapping[str, Tensor], q: Tensor) -> None:
        self._density = density
        self._shapes = {name: weight.shape for name, weight in weights.items()}
        noise = torch.randn((len(SPREAD), *q.shape), generator=generator_of(0), dtype=q.dtype).to(
            q.device
        )
        points = [
            torch.cat([q + size * step, self._flat(weights)])
            for size, step in zip(SPREAD, noise, strict=True)
        ]
        self._ladder = Ladder(self._gradient_and_value, points, density.running)

    @property
    def engine(self) -> str:
        """What evaluates it, in words."""
        return self._ladder.words

    @property
    def notes(self) -> tuple[str, ...]:
        """Why it is not machine code."""
        return tuple(self._ladder.notes)

    def value_and_gradient(self, q: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """``Q`` and its gradient (D,) at ``q`` (D,)."""
        gradient, value = self._ladder(torch.cat([q, self._flat(weights)]))
        return value, gradient

    def _flat(self, weights: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([weights[name].reshape(-1) for name in self._shapes])

    def _gradient_and_value(self, both: Tensor) -> Pair:
        q, rest = both[: self._density.dim], both[self._density.dim :]
        weights = {}
        for name, shape in self._shapes.items():
            weights[name], rest = rest[: shape.numel()].reshape(shape), rest[shape.numel() :]
        pair: Pair = torch.func.grad_and_value(lambda point: self._value(point, weights))(q)
        return pair

    def _value(self, q: Tensor, weights: dict[str, Tensor]) -> Tensor:
        density = self._density
        story, data, structure = density.story, density.data, density.structure
        at = density.unflatten(q)
        joint = expected_log_joint(story, data, at, structure, weights) + density.volume(q)
        return joint + priors_of(story, data, at, structure)[0] if density.prior else joint
