"""What one more observation of an example would be, given its others.

With draws theta_s of the shared latents, an example x_n and a value v of one more observation,

    p(v | x_n, y) ~ 1/S sum_s p(v | x_n, theta_s)

and beside it the standard deviation over the draws of what is averaged. An observation that is
missing among exchangeable ones, a word of a bag, is just one more; of several that are missing each
has these probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storyzoo.inference.engine.factors import slice_examples
from storyzoo.inference.engine.groups import each_draw
from storyzoo.inference.engine.target import Target

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

AT_ONCE = 128
"""Examples whose probabilities of all values are held at a time."""


class OneMore(NamedTuple):
    """The most probable values of one more observation of each example, best first."""

    value: Places
    """(N, M): their places among all values."""
    probability: Array
    """(N, M): means over the draws."""
    sd: Array
    """(N, M): standard deviations over the draws; zero of a single point."""


def one_more(
    target: Target, draws: Mapping[str, np.ndarray], examples: Places, most: int
) -> OneMore:
    """For the examples at some places, given draws ``(S, *shape)`` by site.

    Only the shared latents are read. The story has the hook of this name.
    """
    shared = {n: v for n, v in draws.items() if n not in target.structure.local}
    with target.context(), torch.no_grad():
        blocks = [
            _of_some(target, shared, torch.as_tensor(examples[start : start + AT_ONCE]), most)
            for start in range(0, len(examples), AT_ONCE)
        ]
    return OneMore(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


def _of_some(
    target: Target, draws: Mapping[str, np.ndarray], examples: Tensor, most: int
) -> OneMore:
    data = slice_examples(target.story, target.data, examples)
    total = square = torch.zeros(())
    count = 0
    for latents in each_draw(draws):
        found = target.story.one_more(latents, data)
        assert found is not None
        total, square, count = total + found, square + found.square(), count + 1
    mean = total / count
    best = mean.topk(min(most, mean.shape[1]))
    variance = (square / count - mean.square()).gather(1, best.indices).clamp(min=0)
    return OneMore(
        best.indices.cpu().numpy(), best.values.cpu().numpy(), variance.sqrt().cpu().numpy()
    )
