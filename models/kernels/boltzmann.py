"""Sampling from a restricted Boltzmann machine, and log Z by annealed importance sampling.

Everything runs along one path of machines from independent visible units to the machine itself,
by the inverse temperature ``t`` from 0 to 1::

    weight t W, hidden bias t c, visible bias (1 - t) b_0 + t b

so that log Z is known at ``t = 0``: ``H log 2 + sum_i log sum_v exp(a_0(v))``. Values are
(chains, V); all randomness comes from the generator that is given.

Sources: Neal (2001), "Annealed importance sampling"; Salakhutdinov and Murray (2008), "On the
quantitative analysis of deep belief networks"; Burda, Grosse and Salakhutdinov (2015), "Accurate
and conservative estimates of MRF log-likelihood using reverse annealing"; tempering: Desjardins et
al. (2010), "Tempered Markov chain Monte Carlo for training of RBMs".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator, Tensor

from storyzoo.errors import SettingError
from storyzoo.models.kernels.visible_units import VisibleUnits, coin, softplus

if TYPE_CHECKING:
    from storyzoo.models.distributions.boltzmann import Boltzmann

SWEEPS = 200
"""Gibbs sweeps after which chains are taken to have forgotten where they began."""
REPLICAS = 10
"""Temperatures of tempered sampling, where none are given."""
MEETING = 3.0
"""Standard errors of their difference within which two bounds are said to meet."""
LEAST_EFFECTIVE = 0.25
"""Share of the weights that must be effective: with fewer, modes are easily missing, from both
bounds alike, and a standard error can't be believed."""


@dataclass(frozen=True)
class Path:
    """The machines from independent units to one machine."""

    machine: Boltzmann
    base_bias: Tensor
    """(F,): visible biases at the beginning."""

    def units(self, heat: Tensor | float) -> VisibleUnits:
        """The visible units at an inverse temperature, or several: (…, 1) or a number."""
        return self.machine.units.toward(self.base_bias, heat)

    def hidden_logits(self, value: Tensor) -> Tensor:
        """``c + x(v)·W`` at the end of the path; elsewhere in proportion: (…, H)."""
        return self.machine.hidden_logits(value)

    def log_weight(self, value: Tensor, logits: Tensor, heat: Tensor | float) -> Tensor:
        """``-F_t(v)``, nats: (…,)."""
        return self.units(heat).log_weight(value).sum(-1) + softplus(heat * logits).sum(-1)

    def sweep(self, logits: Tensor, heat: Tensor | float, generator: Generator) -> Tensor:
        """Hidden units given the visible ones (by their logits), visible ones given those."""
        hidden = coin((heat * logits).sigmoid(), generator)
        return self.units(heat).draw(heat * (hidden @ self.machine.coupling.mT), generator)

    def start(self, shape: tuple[int, ...], generator: Generator) -> Tensor:
        """Independent draws at the beginning: (*shape, V)."""
        activation = self.base_bias.new_zeros(*shape, len(self.base_bias))
        return self.units(0.0).draw(activation, generator)

    def log_partition_of_start(self) -> Tensor:
        """Log Z at the beginning."""
        own = self.units(0.0).log_integral(torch.zeros_like(self.base_bias)).sum()
        return own + self.machine.n_hidden * math.log(2.0)


def path_to(machine: Boltzmann, base_bias: Tensor | None = None) -> Path:
    """The path from units with these biases, in the shape of the machine's own.

    Without them from the machine's own, with every hidden unit half on.
    """
    own = machine.units
    if base_bias is None:
        return Path(machine, own.bias_under(0.5 * machine.coupling.sum(-1)))
    if base_bias.shape != machine.visible_bias.shape:
        raise SettingError(
            f"base_bias {tuple(base_bias.shape)}: one for each of the machine's visible biases, "
            f"{tuple(machine.visible_bias.shape)}"
        )
    return Path(machine, base_bias.flatten())


# -- Gibbs -------------------------------------------------------------------------------------


@torch.no_grad()
def gibbs(
    machine: Boltzmann,
    visible: Tensor,
    sweeps: int,
    generator: Generator,
    known: Tensor | None = None,
) -> Tensor:
    """Values (*chains, V) after sweeps of block Gibbs sampling from ``visible`` on.

    What is ``known`` (a mask of the same shape) stays as it is; NaN elsewhere is a hole that is
    filled at first by the units at half-on hidden ones.
    """
    begin, holes = visible, torch.isnan(visible)
    if bool(holes.any()):
        guess = path_to(machine).start(tuple(visible.shape[:-1]), generator)
        begin = torch.where(holes, guess, visible)
    value, units, back = begin, machine.units, machine.coupling.mT
    for _ in range(sweeps):
        hidden = coin(machine.hidden_probabilities(value), generator)
        value = units.draw(hidden @ back, generator)
        if known is not None:
            value = torch.where(known, begin, value)
    return value


class Tempered(NamedTuple):
    """Where tempered chains ended, and how they went there."""

    values: Tensor
    """(chains, V), at the machine's own temperature."""
    free_energy: Tensor
    """(chains, sweeps): of the machine's own replica after each sweep, nats; R-hat and effective
    sample size of the chains can be told from it."""
    swap_rate: Tensor
    """(temperatures - 1,): share of the swaps between neighbours that were accepted."""


@torch.no_grad()
def tempered(
    machine: Boltzmann,
    chains: int,
    sweeps: int,
    generator: Generator,
    temperatures: Tensor | None = None,
    base_bias: Tensor | None = None,
) -> Tempered:
    """Parallel tempering from independent units: Gibbs sweeps at every temperature, then swaps.

    ``temperatures`` are inverse and ascend from 0 (independent units) to 1 (the machine); a
    single 1 is plain Gibbs sampling. Even and odd pairs of neighbours swap in turn.
    """
    path = path_to(machine, base_bias)
    heats = _ascending(torch.linspace(0, 1, REPLICAS) if temperatures is None else temperatures)
    heat = heats.to(machine.weight).reshape(-1, 1, 1)
    value = path.start((len(heat), chains), generator)
    trace = value.new_empty(chains, sweeps)
    every = torch.arange(len(heat) - 1, device=value.device)
    accepted, tried = value.new_zeros(2, len(every))
    logits = path.hidden_logits(value)
    for step in range(sweeps):
        value = path.sweep(logits, heat, generator)
        logits = path.hidden_logits(value)
        lower = every[step % 2 :: 2]
        order, share = _swaps(path, value, logits, heat, lower, generator)
        value, logits = (x.gather(0, order.expand_as(x)) for x in (value, logits))
        accepted[lower] += share
        tried[lower] += 1
        trace[:, step] = -path.log_weight(value[-1], logits[-1], 1.0)
    return Tempered(value[-1], trace, accepted / tried.clamp(min=1))


def _swaps(
    path: Path, value: Tensor, logits: Tensor, heat: Tensor, lower: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Which replica each temperature takes, (T, chains, 1), and the shares of swaps accepted."""
    upper, chains = lower + 1, value.shape[1]
    cold, hot = heat[upper], heat[lower]

    def log_weight(at: Tensor, by: Tensor) -> Tensor:
        return path.log_weight(value[at], logits[at], by)

    gain = (
        log_weight(lower, cold)
        + log_weight(upper, hot)
        - log_weight(lower, hot)
        - log_weight(upper, cold)
    )
    accept = coin(gain.exp().clamp(max=1.0), generator).bool()
    order = torch.arange(len(heat), device=value.device).unsqueeze(-1).repeat(1, chains)
    order[lower] += accept.long()
    order[upper] -= accept.long()
    return order.unsqueeze(-1), accept.to(value.dtype).mean(-1)


# -- annealed importance sampling ----------------------------------------------------------------


class LogPartition(NamedTuple):
    """Log Z by annealed importance sampling, nats."""

    value: float
    """Log of the mean weight of the forward runs, whose mean weight is unbiased for Z."""
    standard_error: float
    """Of ``value``, by the delta method: sd(w) / (mean(w) sqrt(chains))."""
    lower: float
    """``value`` too: at most log Z in expectation, by Jensen's inequality, whatever the chains do.
    """
    upper: float
    """From the reverse runs: at least log Z in expectation if those begin at draws of the machine.
    """
    upper_standard_error: float
    """Of ``upper``."""
    ess: float
    """Effective sample size of the forward weights, ``(sum w)^2 / sum w^2``; so ``upper_ess``."""
    upper_ess: float
    met: bool
    """Whether the bounds differ by no more than their errors explain, and enough of the weights
    are effective for those to be believed; else log Z is not known."""


@torch.no_grad()
def annealed_log_partition(
    machine: Boltzmann,
    chains: int,
    steps: int,
    generator: Generator,
    base_bias: Tensor | None = None,
    schedule: Tensor | None = None,
    sweeps: int = SWEEPS,
    near: Tensor | None = None,
) -> LogPartition:
    """Log Z of a machine by forward and reverse annealing along :class:`Path`, in float64.

    ``schedule`` gives the inverse temperatures, ascending from 0 to 1, in place of ``steps`` even
    ones. The forward weights ``w = prod_k exp(F_{k-1}(v_k) - F_k(v_k))`` have the mean ``Z / Z_0``
    exactly, so the log of their mean is a lower bound in expectation, without any assumption. The
    reverse runs anneal draws of the machine back to independent units; their weights have the mean
    ``Z_0 / Z``, so minus the log of their mean is an upper bound in expectation, *if the draws are
    the machine's*. They are where ``sweeps`` of tempered Gibbs sampling end, an approximation:
    modes that tempering does not reach are missing from both bounds. With values ``near`` (chains,
    V) the machine's modes, rows that it was fitted to, they are where plain sweeps from those end:
    nearer for a large machine, to which no tempered chain finds its way.
    """
    if chains < 2 or steps < 1:
        raise SettingError(f"annealing of {chains} chains in {steps} steps: at least 2 and 1")
    machine = _in_double(machine)
    base = None if base_bias is None else base_bias.double()
    path = path_to(machine, base)
    even = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    heats = _ascending(even if schedule is None else schedule.double())
    if heats[0] != 0:
        raise SettingError("a schedule of annealing begins at 0, where log Z is known")
    log_start = float(path.log_partition_of_start())
    forward, _ = _anneal(path, path.start((chains,), generator), heats, generator)
    if near is None:
        warm = tempered(machine, chains, sweeps, generator, base_bias=base).values
    else:
        warm = gibbs(machine, near.to(machine.weight), sweeps, generator)
    reverse, _ = _anneal(path, warm, heats.flip(0), generator)
    lower, error, ess = _log_mean(forward)
    back, upper_error, upper_ess = _log_mean(reverse)
    value, upper = log_start + lower, log_start - back
    allowed = MEETING * math.hypot(error, upper_error)
    believable = min(ess, upper_ess) >= LEAST_EFFECTIVE * chains
    met = believable and abs(upper - value) <= allowed
    return LogPartition(value, error, value, upper, upper_error, ess, upper_ess, met)


@torch.no_grad()
def annealed_draws(
    machine: Boltzmann, chains: int, steps: int, generator: Generator, base_bias: Tensor | None
) -> Tensor:
    """Where forward runs end, drawn again by their weights: (chains, V), nearly the machine's.

    Draws that descend from the same run are equal; there are the fewer of them the longer it was.
    """
    path = path_to(machine, base_bias)
    heats = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    log_weight, value = _anneal(path, path.start((chains,), generator), heats, generator)
    drawn = torch.multinomial(log_weight.softmax(0), chains, True, generator=generator)
    return value[drawn]


def _anneal(
    path: Path, value: Tensor, heats: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Log weights (chains,) of runs through the inverse temperatures, up or down, and their ends.

    Each step moves the temperature, which the weight counts, then the chain under the new one.
    """
    total = value.new_zeros(len(value))
    for now, then in pairwise(heats.tolist()):
        logits = path.hidden_logits(value)
        total += path.log_weight(value, logits, then) - path.log_weight(value, logits, now)
        value = path.sweep(logits, then, generator)
    return total, value


def _log_mean(log_weight: Tensor) -> tuple[float, float, float]:
    """Log of the mean weight, its standard error, and the effective number of weights."""
    count = len(log_weight)
    top = log_weight.max()
    weight = (log_weight - top).exp()
    mean = weight.mean()
    error = weight.std() / (mean * math.sqrt(count))
    ess = weight.sum().square() / weight.square().sum()
    return float(mean.log() + top), float(error), float(ess)


def _ascending(temperatures: Tensor) -> Tensor:
    """Inverse temperatures as they should be, else SettingError."""
    rising = bool((temperatures.diff() > 0).all())
    if temperatures.dim() != 1 or not len(temperatures) or temperatures[-1] != 1 or not rising:
        raise SettingError("inverse temperatures must ascend and end at 1, the machine itself")
    if temperatures[0] < 0:
        raise SettingError("inverse temperatures must not be negative")
    return temperatures


def _in_double(machine: Boltzmann) -> Boltzmann:
    scale = None if machine.scale is None else machine.scale.double()
    parts = (machine.weight, machine.visible_bias, machine.hidden_bias)
    weight, visible_bias, hidden_bias = (part.detach().double() for part in parts)
    return type(machine)(weight, visible_bias, hidden_bias, visible=machine.visible, scale=scale)
