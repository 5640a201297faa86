"""The gradient of a Boltzmann machine's log likelihood, told by chains, and its centred direction.

::

    d sum_n log p(v_n) = sum_n d(-F(v_n)) - N d log Z,        d log Z = E_p[d(-F(v))]

The expectation is the mean over chains that sample the machine. They go on from one gradient to
the next (persistent: Younes 1989; Tieleman 2008), which is unbiased in the limit of small steps,
or begin at the data (contrastive divergence: Hinton 2002), which is not. Hidden units are summed
out of both terms, so that only the visible ones bring noise.

Centring writes the energy in ``v - mu`` and ``h - lambda`` (Montavon and Müller 2012). With
``theta = T theta_centred``, T linear, the steepest way in those parameters is ``T T' g`` in the
plain ones (Melchior, Fischer and Wiskott 2016, §3)::

    W_centred = W,  b_centred = b + s W lambda,  c_centred = c + mu·W

with s = 1 but for gaussian units. It is zero where g is, so g must be the gradient of the whole
objective, its prior included.
Shapes: W (V, H) or (V, L, H), b (V,) or (V, L), c (H,), v (N, V).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from storyzoo.models.distributions.boltzmann import Boltzmann
from storyzoo.models.kernels.boltzmann import gibbs
from storyzoo.story import Fantasies, Latents

FILLING_SWEEPS = 10
"""That fill what is missing where chains begin."""
SLIDING = 0.01
"""Share of the latest batch in the running means that units are centred on."""


class Layers(NamedTuple):
    """Rows as the weights meet them."""

    visible: Tensor
    """``x(v)``: (N, V) or, categorical, one-hot (N, V, L); ``(v - b) / s`` of gaussian units."""
    hidden: Tensor
    """``p(h = 1 | v)``: (N, H)."""


def slopes(latents: Latents, layers: Layers) -> dict[str, Tensor]:
    """``sum_n d(-F(v_n))`` by site, of complete rows.

    ::

        dW = x' h,  dc = sum_n h,  db = sum_n x
        gaussian, with r = h W' - x:  db = -sum_n r / s,  ds = -sum_n r x / s
    """
    visible, hidden = layers
    weight = latents["weight"]
    found = {
        "weight": (visible.flatten(1).mT @ hidden).reshape(weight.shape),
        "hidden_bias": hidden.sum(0),
    }
    if "scale" not in latents:
        return {**found, "visible_bias": visible.sum(0)}
    scale, pull = latents["scale"], hidden @ weight.mT - visible
    return {
        **found,
        "visible_bias": -pull.sum(0) / scale,
        "scale": -(pull * visible).sum(0) / scale,
    }


def contrast(latents: Latents, seen: Layers, dreamt: Layers) -> dict[str, Tensor]:
    """``sum_n d(-F(seen_n)) - N mean_c d(-F(dreamt_c))`` by site."""
    ratio = len(seen.hidden) / len(dreamt.hidden)
    first, second = slopes(latents, seen), slopes(latents, dreamt)
    return {name: torch.sub(first[name], second[name], alpha=ratio) for name in first}


def contrast_of_holed(
    log_weight: Callable[[Latents, Tensor], Tensor], latents: Latents, seen: Tensor, dreamt: Tensor
) -> dict[str, Tensor]:
    """The same by differentiating the unnormalised log density, whose rows may have holes."""
    leaves = {name: value.detach().requires_grad_() for name, value in latents.items()}
    with torch.enable_grad():
        gap = log_weight(leaves, seen).sum() - len(seen) * log_weight(leaves, dreamt).mean()
        slopes = torch.autograd.grad(gap, list(leaves.values()))
    return dict(zip(leaves, slopes, strict=True))


def beginning(state: Fantasies, machine: Boltzmann, batch: Tensor) -> Tensor:
    """Where the chains go on: where they stood or, at first, rows of the batch.

    Chains that do not persist begin at the batch itself, one for each row.
    """
    if state.persistent and state.values is not None:
        return state.values.to(batch)
    missing = batch.isnan()
    if bool(missing.any()):
        batch = gibbs(machine, batch, FILLING_SWEEPS, state.generator, known=~missing)
    if not state.persistent:
        return batch
    places = torch.randint(
        len(batch), (state.count,), generator=state.generator, device=batch.device
    )
    return batch[places]


def remembered(memory: Mapping[str, Tensor], layers: Layers) -> dict[str, Tensor]:
    """Running means of both layers."""
    latest = {"visible": layers.visible.mean(0), "hidden": layers.hidden.mean(0)}
    return {
        name: torch.lerp(memory[name].to(value), value, SLIDING) if name in memory else value
        for name, value in latest.items()
    }


def centred(
    gradient: Mapping[str, Tensor], memory: Mapping[str, Tensor], scale: Tensor | None
) -> dict[str, Tensor]:
    """``T T' g`` for the weight and both biases; other sites as they are."""
    visible, hidden = memory["visible"], memory["hidden"]
    width = torch.ones_like(gradient["visible_bias"]) if scale is None else scale
    bias = gradient["hidden_bias"]
    weight = (
        gradient["weight"]
        - (width * gradient["visible_bias"]).unsqueeze(-1) * hidden
        - visible.unsqueeze(-1) * bias
    )
    pixels = tuple(range(visible.dim()))
    return {
        **gradient,
        "weight": weight,
        "visible_bias": gradient["visible_bias"] - width * (weight @ hidden),
        "hidden_bias": bias - (weight * visible.unsqueeze(-1)).sum(pixels),
    }
