"""What follows exactly from an incomplete row of a Boltzmann machine with few hidden units.

Given a state of the hidden units the visible ones are independent, so those that are missing are
summed out one by one, and the hidden states, all 2^H of them, have the posterior

``p(h | v_o) ~ exp(c·h + x(v_o)·W_o h) prod_{i missing} sum_{v_i} exp(a(v_i) + x(v_i)·W_i h)``

A draw of it, then of each missing unit given it, is an independent draw of what is missing.
Shapes: values (N, V), NaN where missing; S = 2^H states.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from storyzoo.models.distributions.boltzmann import Boltzmann
from storyzoo.models.kernels.layer_states import binary_states

_BLOCK_ENTRIES = 2**22
"""Rows times states that are held at a time."""


def draw_missing(machine: Boltzmann, value: Tensor, generator: Generator) -> Tensor:
    """The rows with an exact draw of what is missing: (N, V)."""
    states = binary_states(machine.n_hidden, machine.weight)
    drawn = []
    for rows, share in _posteriors(machine, value, states):
        hidden = states[torch.multinomial(share, 1, generator=generator).squeeze(-1)]
        filling = machine.units.draw(hidden @ machine.coupling.mT, generator)
        drawn.append(torch.where(rows.isnan(), filling, rows))
    return torch.cat(drawn)


def hidden_given_seen(machine: Boltzmann, value: Tensor) -> Tensor:
    """``p(h = 1 | v_o)`` of each hidden unit: (N, H)."""
    states = binary_states(machine.n_hidden, machine.weight)
    return torch.cat([share @ states for _, share in _posteriors(machine, value, states)])


def _posteriors(
    machine: Boltzmann, value: Tensor, states: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some rows at a time, and the posterior of the hidden states given each: (n, S)."""
    units, activation = machine.units, states @ machine.coupling.mT
    log_integral, log_weight = units.log_integral(activation), states @ machine.hidden_bias
    for rows in value.split(max(1, _BLOCK_ENTRIES // len(states))):
        seen = (~rows.isnan()).to(value.dtype)
        driving = units.features(rows.nan_to_num(0.0)) * units.by_feature(seen)
        total = log_weight + driving @ activation.mT + (1 - seen) @ log_integral.mT
        yield rows, total.softmax(-1)
