"""Hamiltonian Monte Carlo by many chains in step, which learn its step and its length together.

All chains take the same number of leapfrog steps, so that one batch of gradients moves them all.
With ``H(q, p) = -log p(q) + p' V p / 2``, ``V`` diagonal, each proposal is accepted with
probability ``min(1, exp(H(q, p) - H(q', p')))``. While adapting,

- the step size follows dual averaging on the *harmonic* mean over chains of that probability,
  which no chain in a narrow place can hide from (Hoffman and Gelman 2014, §3.2.1);
- the longest time ``T`` climbs the criterion ``ChEES = E[(|x' - m|^2 - |x - m|^2)^2] / 4`` by
  Adam without momentum on ``log T``; a trajectory takes ``h T``, ``h`` the next number of
  Halton's sequence, so that no period of the target is hit every time. Its gradient is
  ``h T (|x' - m'|^2 - |x - m|^2) (x' - m')'v'``, averaged with the acceptance probabilities;
- ``V`` is the geometric mean of the chains' variance and of that which their gradients tell,
  ``V^2 = var(q) / var(grad log p(q))``. Both are over chains, coordinate by coordinate. A normal
  density gives its own variance wherever the chains still are.

Sources: Hoffman, Radul and Sountsov (2021), "An adaptive MCMC scheme for setting trajectory
lengths in Hamiltonian Monte Carlo", AISTATS (criterion, jitter, averages); Hoffman and Gelman
(2014), "The No-U-Turn sampler", JMLR 15 (dual averaging); Seyboldt, Carlson and Carpenter (2026),
"Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence", arXiv:2603.18845 (V,
which the first paper leaves out); Beskos et al. (2013), Bernoulli 19(5) (acceptance of 0.651).
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

LARGEST_ERROR = 1000.0
"""Energy error above which a trajectory has diverged, as in Stan."""
SHRINKAGE, DELAY, FORGETTING = 0.5, 10.0, 0.75
"""Dual averaging's gamma, t0 and kappa (Hoffman and Gelman 2014, §3.2.1)."""
RATE, SQUARES = 0.025, 0.95
"""Adam's step in log T, and its decay of the squared gradient (Hoffman et al. 2021)."""
MEMORY = 3.0
"""The average of log V counts about the last third of the iterations."""


class Density(Protocol):
    """What the chains ask of a density."""

    def batch_value_and_gradient(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Log densities (C,) and gradients (C, D) at the rows of ``q`` (C, D)."""


class Chains(NamedTuple):
    """Where all chains are."""

    position: Tensor
    """(C, D), unconstrained."""
    value: Tensor
    """Log density (C,)."""
    gradient: Tensor
    """(C, D)."""


class Lengths(NamedTuple):
    """What a trajectory is made of."""

    step_size: float
    variance: Tensor
    """The diagonal of V (D,)."""
    n_steps: int


class Transition(NamedTuple):
    """One iteration of all chains; every tensor runs over chains first."""

    chains: Chains
    """Where they are after it."""
    proposal: Tensor
    """(C, D)."""
    velocity: Tensor
    """V p at the proposal (C, D)."""
    acceptance: Tensor
    """Probability of acceptance (C,)."""
    energy: Tensor
    """H at the point that was kept (C,)."""
    diverging: Tensor
    """Whether the energy ran away (C,)."""


def move(density: Density, chains: Chains, lengths: Lengths, noise: torch.Generator) -> Transition:
    """Draw fresh momenta, follow the trajectories, accept or reject."""
    position, value, gradient = chains
    momentum = torch.empty_like(position).normal_(generator=noise) / lengths.variance.sqrt()
    threshold = torch.empty_like(value).uniform_(generator=noise).log()
    energy = kinetic(momentum, lengths.variance) - value
    end, thrown = leapfrog(density, chains, momentum, lengths)
    at_end = kinetic(thrown, lengths.variance) - end.value
    error = torch.where(at_end.isfinite(), at_end - energy, torch.inf)
    accepted = threshold < -error
    kept = accepted.unsqueeze(-1)
    return Transition(
        Chains(
            torch.where(kept, end.position, position),
            torch.where(accepted, end.value, value),
            torch.where(kept, end.gradient, gradient),
        ),
        proposal=end.position,
        velocity=thrown * lengths.variance,
        acceptance=(-error).clamp(max=0.0).exp(),
        energy=torch.where(accepted, at_end, energy),
        diverging=error > LARGEST_ERROR,
    )


def kinetic(momentum: Tensor, variance: Tensor) -> Tensor:
    """``p' V p / 2`` of each row (C,)."""
    return 0.5 * (momentum.square() * variance).sum(-1)


def leapfrog(
    density: Density, chains: Chains, momentum: Tensor, lengths: Lengths
) -> tuple[Chains, Tensor]:
    """Where trajectories end, and with which momenta (C, D)."""
    step, drift = lengths.step_size, lengths.step_size * lengths.variance
    position, value, gradient = chains
    momentum = momentum.add(gradient, alpha=0.5 * step)
    for remaining in range(lengths.n_steps - 1, -1, -1):
        position = torch.addcmul(position, momentum, drift)
        value, gradient = density.batch_value_and_gradient(position)
        momentum = momentum.add(gradient, alpha=step if remaining else 0.5 * step)
    return Chains(position, value, gradient), momentum


def halton(place: int) -> float:
    """Number ``place`` >= 1 of Halton's sequence in base two: 1/2, 1/4, 3/4, 1/8, …

    >>> [halton(place) for place in (1, 2, 3, 4)]
    [0.5, 0.25, 0.75, 0.125]
    """
    value, weight = 0.0, 0.5
    while place:
        value += weight * (place & 1)
        place >>= 1
        weight /= 2
    return value


# -- adaptation --------------------------------------------------------------------------------


class Adaptation(NamedTuple):
    """What the chains have learnt; logarithms of the step size, of T and of V."""

    taken: int
    centre: float
    """What dual averaging shrinks the step towards."""
    lack: float
    """Its average of how far acceptance fell short of its target."""
    step: float
    step_average: float
    length: float
    length_average: float
    square: float
    """Adam's average of the squared gradient in log T."""
    variance: Tensor
    """(D,)."""


def begin(density: Density, chains: Chains, noise: torch.Generator) -> Adaptation:
    """From the starts: V by their gradients, a step that is accepted at all, T of one step."""
    variance = told_variance(chains)
    step = math.log(first_step(density, chains, variance.exp(), noise))
    return Adaptation(
        taken=0,
        centre=math.log(10.0) + step,
        lack=0.0,
        step=step,
        step_average=step,
        length=step,
        length_average=step,
        square=0.0,
        variance=variance,
    )


def told_variance(chains: Chains) -> Tensor:
    """``log V`` (D,) by positions and gradients of all chains."""
    smallest = torch.finfo(chains.position.dtype).tiny
    wide, steep = (
        values.nan_to_num(posinf=0.0, neginf=0.0).std(0).clamp(min=smallest)
        for values in (chains.position, chains.gradient)
    )
    return wide.log() - steep.log()


def first_step(density: Density, chains: Chains, variance: Tensor, noise: torch.Generator) -> float:
    """The largest power of two at which one step is accepted half the time (harmonic mean)."""
    size, doubled = 1.0, False
    for _ in range(60):
        made = move(density, chains, Lengths(size, variance, 1), noise)
        if float(harmonic_mean(made.acceptance)) < 0.5:
            size /= 2
            if doubled:
                break
        elif size < 1.0:
            break
        else:
            size, doubled = 2 * size, True
    return size


def harmonic_mean(acceptance: Tensor) -> Tensor:
    """Of probabilities (C,): a scalar in float64, zero where one of them is."""
    return 1.0 / (1.0 / acceptance.double()).mean()


def lengths_of(adaptation: Adaptation, place: int, longest: int, *, settled: bool) -> Lengths:
    """The trajectory of iteration ``place`` >= 1; from the averages once ``settled``."""
    step, length = adaptation.step, adaptation.length
    if settled:
        step, length = adaptation.step_average, adaptation.length_average
    n_steps = math.ceil(halton(place) * math.exp(length - step))
    return Lengths(math.exp(step), adaptation.variance.exp(), min(max(n_steps, 1), longest))


def adapt(
    adaptation: Adaptation, before: Chains, made: Transition, target: float, longest: int
) -> Adaptation:
    """Learn from one iteration, that went from ``before`` by :func:`lengths_of` its place."""
    taken = adaptation.taken + 1
    scale = adaptation.variance.mul(0.5).exp()
    accepted, slope = figures(before, made, scale)
    # Dual averaging of the step size.
    weight = 1.0 / (taken + DELAY)
    lack = (1.0 - weight) * adaptation.lack + weight * (target - accepted)
    step = adaptation.centre - math.sqrt(taken) / SHRINKAGE * lack
    weight = taken**-FORGETTING
    step_average = (1.0 - weight) * adaptation.step_average + weight * step
    # Adam without momentum on log T.
    slope *= halton(taken) * math.exp(adaptation.length)
    square = SQUARES * adaptation.square + (1.0 - SQUARES) * slope**2
    unbiased = square / (1.0 - SQUARES**taken)
    climb = RATE * slope / math.sqrt(unbiased) if unbiased > 0.0 else 0.0
    length = min(adaptation.length + climb, step + math.log(longest))
    weight = taken**-0.5
    length_average = (1.0 - weight) * adaptation.length_average + weight * length
    # The metric.
    weight = min(1.0, MEMORY / (taken + MEMORY))
    variance = torch.lerp(adaptation.variance, told_variance(made.chains), weight)
    return Adaptation(
        taken, adaptation.centre, lack, step, step_average, length, length_average, square, variance
    )


def figures(before: Chains, made: Transition, scale: Tensor) -> tuple[float, float]:
    """Harmonic mean of the acceptance, and the slope of ChEES in the time taken.

    In units of ``scale`` (D,), the square root of V, and of the squared size of the cloud of
    chains, without which starts far out would set Adam's pace for long. One transfer from the
    device.
    """
    start = (before.position - before.position.mean(0)) / scale
    end = (made.proposal / scale).nan_to_num(posinf=0.0, neginf=0.0)
    total = made.acceptance.sum().clamp(min=torch.finfo(end.dtype).tiny)
    end = end - (made.acceptance.unsqueeze(-1) * end).sum(0) / total
    speed = (made.velocity / scale).nan_to_num(posinf=0.0, neginf=0.0)
    change = end.square().sum(-1) - start.square().sum(-1)
    slopes = (made.acceptance * change * (end * speed).sum(-1)).nan_to_num(posinf=0.0, neginf=0.0)
    slope = slopes.sum() / total / start.square().sum(-1).mean().square()
    accepted, steep = torch.stack([harmonic_mean(made.acceptance), slope.double()]).tolist()
    return accepted, steep if math.isfinite(steep) else 0.0
