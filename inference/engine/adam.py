"""Adam's averages of a noisy gradient, and the direction that they give.

``mean <- mean + (1 - .9) (g - mean)``, ``square <- square + (1 - .999) (g^2 - square)``; the
direction is ``mean / sqrt(square)``, each divided by the part of an average that has been filled.

Source: Kingma and Ba 2015, "Adam: a method for stochastic optimization", ICLR.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

MOMENTUM, SQUARES, SMALL = 0.9, 0.999, 1e-8
"""Adam's decay of its two averages, and what keeps it from dividing by zero."""


class Moments(NamedTuple):
    """What is remembered of the gradients so far; all of one shape."""

    mean: Tensor
    square: Tensor
    taken: Tensor
    """Steps that each parameter has taken."""


def begin(like: Tensor) -> Moments:
    """Before the first step."""
    zero = torch.zeros_like(like)
    return Moments(zero, zero, zero)


def told(moments: Moments, slope: Tensor, moving: Tensor | float = 1.0) -> Moments:
    """After one more gradient; parameters whose ``moving`` is zero stay as they are."""
    return Moments(
        moments.mean + moving * (1 - MOMENTUM) * (slope - moments.mean),
        moments.square + moving * (1 - SQUARES) * (slope.square() - moments.square),
        moments.taken + moving,
    )


def average(moments: Moments) -> Tensor:
    """The gradient averaged over the last steps: heavy-ball momentum's direction."""
    return moments.mean / (1 - MOMENTUM ** moments.taken.clamp(min=1))


def direction(moments: Moments) -> Tensor:
    """The same in units of the gradient's size, coordinate by coordinate."""
    filled = 1 - SQUARES ** moments.taken.clamp(min=1)
    return average(moments) / ((moments.square / filled).sqrt() + SMALL)


def moved(q: Tensor, moments: Moments, slope: Tensor, rate: float) -> tuple[Tensor, Moments]:
    """``q`` after a step along the direction, and the averages after ``slope``.

    The same as :func:`told` and :func:`direction` where all parameters have taken as many steps,
    ``taken`` being one number, in few passes over them.
    """
    taken = moments.taken + 1
    mean = torch.lerp(moments.mean, slope, 1 - MOMENTUM)
    square = moments.square.mul(SQUARES).addcmul_(slope, slope, value=1 - SQUARES)
    steps = float(taken)
    size = square.sqrt().div_(math.sqrt(1 - SQUARES**steps)).add_(SMALL)
    after = q.addcdiv(mean, size, value=rate / (1 - MOMENTUM**steps))
    return after, Moments(mean, square, taken)
