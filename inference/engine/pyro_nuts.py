"""One chain of the No-U-Turn sampler by Pyro's kernel, on a flat unconstrained vector.

The trajectory is doubled forwards or backwards until it turns; a point of it is drawn with
weight ``exp(-H(q, r))``, ``H(q, r) = -log p(q) + r.r / 2`` in momenta scaled to unit mass.
Warm-up adapts the step size by dual averaging and a diagonal mass matrix in doubling windows.

Pyro's are the tree, its U-turn criterion and the adaptation. Ours is the leapfrog step: Pyro's
own goes through dicts of sites and autograd, which costs more than a small model's density.

Sources: Hoffman and Gelman (2014), "The No-U-Turn sampler", JMLR 15; Betancourt (2017), "A
conceptual introduction to Hamiltonian Monte Carlo", arXiv:1701.02434.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer.mcmc import nuts as pyro_nuts
from torch import Tensor

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Log density (scalar) and its gradient (D,) at a point (D,)."""

_Kernel: Any = pyro_nuts.NUTS  # Pyro's methods carry no types

_SITE = "q"
_BLOCK = (_SITE,)
_LARGEST_ERROR = 1000.0
"""Energy error above which a trajectory has diverged, as in Stan."""


def walk(
    evaluate: Evaluate,
    start: Tensor,
    seed: int,
    *,
    warmup: int,
    draws: int,
    target_accept: float,
    max_tree_depth: int,
) -> Iterator[np.ndarray]:
    """Yield ``warmup + draws`` rows, each as in :mod:`storyzoo.inference.engine.rows`.

    The last entry counts this chain's evaluations of the gradient since its start. The same seed
    gives the same rows.
    """
    devices = [start.device] if start.is_cuda else []
    with torch.random.fork_rng(devices=devices), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        kernel = FlatKernel(evaluate, start, target_accept, max_tree_depth)
        kernel.setup(warmup)
        for _ in range(warmup + draws):
            point, statistics = kernel.draw()
            yield np.array([*point, *statistics, kernel.evaluations])


class FlatKernel(_Kernel):  # type: ignore[misc]
    """Pyro's NUTS on one flat vector, with a leapfrog step of few operations.

    Momenta are kept scaled to unit mass throughout, under the name that Pyro calls unscaled.
    What Pyro calls the gradients of a point also carries the energy at that point.
    """

    def __init__(
        self, evaluate: Evaluate, start: Tensor, target_accept: float, max_tree_depth: int
    ) -> None:
        super().__init__(
            potential_fn=lambda z: -evaluate(z[_SITE])[0],
            target_accept_prob=target_accept,
            max_tree_depth=max_tree_depth,
        )
        self._function, self.evaluations = evaluate, 0
        self._start = start.detach().clone()
        self.initial_params = {_SITE: self._start}
        self._inverse_mass: Tensor | None = None
        self._sd = start

    # -- what Pyro calls -----------------------------------------------------------------

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Evaluate the start and find a first step size."""
        self._warmup_steps = warmup_steps
        value, gradient = self._evaluate(self._start)
        self._cache({_SITE: self._start}, -value, {_SITE: gradient, "energy": -float(value)})
        self._initialize_adapter()

    def _sample_r(self, name: str) -> tuple[dict[Any, Tensor], dict[Any, Tensor]]:
        momentum = {_BLOCK: torch.randn_like(self._z_last[_SITE])}
        return momentum, momentum

    def _find_reasonable_step_size(self, z: dict[str, Tensor]) -> float:
        """Double or halve the step until its acceptance crosses 0.8 (Stan's rule)."""
        q = z[_SITE]
        value, gradient = self._evaluate(q)
        step, factor = float(self.step_size), 0.0
        while self._min_stepsize < step < self._max_stepsize:
            r = self._sample_r("")[1][_BLOCK]
            energy = _energy(value, r)
            _, new_r, new_value, _ = self._leap(q, r, gradient, step)
            rises = energy - _energy(new_value, new_r) > self._direction_threshold
            if not factor:
                factor = 2.0 if rises else 0.5
            elif rises != (factor > 1):
                break
            step *= factor
        return float(min(max(step, self._min_stepsize), self._max_stepsize))

    def _build_basetree(
        self,
        z: dict[str, Tensor],
        r: dict[Any, Tensor],
        z_grads: dict[str, Any],
        log_slice: Tensor,
        direction: int,
        energy_current: Tensor,
    ) -> Any:
        """A tree of one leapfrog step, the leaf of every trajectory."""
        step = self.step_size if direction == 1 else -self.step_size
        q, momentum, value, gradient = self._leap(z[_SITE], r[_BLOCK], z_grads[_SITE], step)
        energy = _energy(value, momentum)
        error = energy - float(energy_current)
        accept = math.exp(min(0.0, -error))
        diverging = error > _LARGEST_ERROR
        self._n_steps += 1
        self._accept_sum += accept
        self._diverged |= diverging
        z, r, z_grads = {_SITE: q}, {_BLOCK: momentum}, {_SITE: gradient, "energy": energy}
        end = (z, r, r, z_grads)
        potential, weight = -value, value.new_tensor(-error)
        proposal = (z, potential, z_grads)
        return pyro_nuts._TreeInfo(
            *end, *end, *proposal, r, weight, False, diverging, value.new_tensor(accept), 1
        )

    def _build_tree(self, *args: Any) -> Any:
        """Pyro's; the depth grows with each doubling that came to its end."""
        tree = super()._build_tree(*args)
        depth = args[5]
        if depth == self._depth and not (tree.turning or tree.diverging):
            self._depth += 1
        return tree

    # -- one draw ------------------------------------------------------------------------

    def draw(self) -> tuple[list[float], list[float]]:
        """The next point and its statistics, as in a row."""
        self._n_steps, self._depth, self._accept_sum, self._diverged = 0, 0, 0.0, False
        step_size, before = float(self.step_size), self._z_grads_last
        self.sample(self.initial_params)
        if self._z_grads_last is before:  # no point of the trajectory was taken
            before["energy"] = self._energy_at_start
        statistics = [
            -float(self._potential_energy_last),
            self._z_grads_last["energy"],
            self._depth,
            step_size,
            self._accept_sum / self._n_steps,
            self._diverged,
            self._n_steps,
            self._depth >= self._max_tree_depth,
        ]
        return self._z_last[_SITE].tolist(), [float(value) for value in statistics]

    def _kinetic_energy(self, r_unscaled: dict[Any, Tensor]) -> Tensor:
        """Pyro asks for it once per trajectory, at its start."""
        kinetic: Tensor = 0.5 * r_unscaled[_BLOCK].dot(r_unscaled[_BLOCK])
        self._energy_at_start = float(kinetic + self._potential_energy_last)
        return kinetic

    def _leap(
        self, q: Tensor, r: Tensor, gradient: Tensor, step: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Half a kick, a drift, half a kick: point, momentum, log density, gradient."""
        sd = self._scale()
        r = torch.addcmul(r, sd, gradient, value=0.5 * step)
        q = torch.addcmul(q, sd, r, value=step)
        value, gradient = self._evaluate(q)
        return q, torch.addcmul(r, sd, gradient, value=0.5 * step), value, gradient

    def _scale(self) -> Tensor:
        """Standard deviations (D,) by the present mass matrix."""
        inverse_mass = self.inverse_mass_matrix[_BLOCK]
        if inverse_mass is not self._inverse_mass:
            self._inverse_mass, self._sd = inverse_mass, inverse_mass.sqrt()
        return self._sd

    def _evaluate(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Log density and gradient; NaN where a matrix is not positive definite to rounding."""
        self.evaluations += 1
        try:
            return self._function(q)
        except RuntimeError as error:
            if not off_domain(error):
                raise
            return q.new_tensor(math.nan), torch.zeros_like(q)


def off_domain(error: Exception) -> bool:
    """Whether a density can't be told at a point because a matrix is not positive definite."""
    told = str(error)
    return isinstance(error, RuntimeError) and ("positive-definite" in told or "singular" in told)


def _energy(value: Tensor, momentum: Tensor) -> float:
    """``H = -log p + r.r / 2``; infinite where the density can't be told, so never taken."""
    energy = 0.5 * float(momentum.dot(momentum)) - float(value)
    return energy if math.isfinite(energy) else math.inf
