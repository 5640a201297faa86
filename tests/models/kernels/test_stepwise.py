"""A network a step at a time answers as torch's own module over whole sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from storyzoo.models.kernels.recurrent import CORES, State, lifted
from storyzoo.models.kernels.stepwise import Stepwise


@pytest.mark.parametrize("embedding", [None, 3])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("core", CORES)
def test_steps_are_those_of_the_module(core: str, layers: int, embedding: int | None) -> None:
    network = lifted(core, 4, embedding, 5, layers, 6)
    weights = network.small(np.random.default_rng(0), 1)
    generator = torch.Generator().manual_seed(0)
    if embedding is None:
        inputs = torch.rand(7, 8, 4, generator=generator)
    else:
        inputs = torch.randint(4, (7, 8), generator=generator)
    wanted, last = network(weights, inputs, (), None)
    walk = Stepwise(core, layers, weights)
    state: State = ()
    for step in range(8):
        logits, state = walk(inputs[:, step], state)
        torch.testing.assert_close(logits, wanted[:, step])
    for found, part in zip(state, last, strict=True):
        torch.testing.assert_close(found, part)


def test_the_state_of_one_goes_on_as_many() -> None:
    weights = lifted("lstm", 4, 3, 5, 1, 6).small(np.random.default_rng(0), 1)
    walk = Stepwise("lstm", 1, weights)
    _, alone = walk(torch.tensor([3]), ())
    _, many = walk(torch.tensor([3, 3]), ())
    followed = torch.tensor([0, 2])
    torch.testing.assert_close(walk(followed, alone), walk(followed, many))
