"""Functions in machine code, held against torch: the oracle of every test of the lowering."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from storyzoo.inference.engine.lowering.library import Library, build
from storyzoo.inference.engine.lowering.lower import Program, lower
from storyzoo.inference.engine.tracing import trace

Function = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Compiled:
    """A program with any number of outputs, which :class:`Native` does not have."""

    program: Program
    library: Library

    def __call__(self, q: Tensor) -> list[Tensor]:
        """All outputs at ``q`` (D,)."""
        point = q.numpy()
        # The sentinel shows an element that nothing was written to.
        made = [np.full(math.prod(shape), 7e77) for shape in self.program.outputs]
        constants = [constant.ctypes.data for constant in self.program.constants]
        user = np.array(constants or [0], dtype=np.uintp)
        out = (ctypes.c_void_p * len(made))(*(array.ctypes.data for array in made))
        run = self.library.cdll.run
        run(ctypes.c_void_p(point.ctypes.data), out, ctypes.c_void_p(user.ctypes.data))
        shapes = self.program.outputs
        return [torch.from_numpy(a.reshape(s)) for a, s in zip(made, shapes, strict=True)]


def compiled(function: Function, point: Tensor) -> Compiled:
    """Machine code for a function of one vector (D,) that gives tensors."""
    program = lower(trace(function, point), point)
    return Compiled(program, build(program.sources))


def with_gradient(function: Function) -> Function:
    """The function's answers, and the gradient of their sum under weights that tell them apart."""

    def both(q: Tensor) -> tuple[Tensor, ...]:
        answers = list(tree_flatten(function(q))[0])
        smooth = [place for place, answer in enumerate(answers) if answer.is_floating_point()]
        if not smooth:
            return tuple(answers)

        def total(x: Tensor) -> Tensor:
            again = tree_flatten(function(x))[0]
            return torch.stack([(again[k] * weights(again[k])).sum() for k in smooth]).sum()

        return (*answers, torch.func.grad(total)(q))

    return both


def weights(answer: Tensor) -> Tensor:
    """One number for every element, none like another."""
    count = torch.arange(answer.numel(), dtype=answer.dtype).reshape(answer.shape)
    return torch.cos(1.7 * count + 0.3)


def assert_as_torch(
    functions: Mapping[str, Function], points: Sequence[Tensor], tolerance: float = 1e-10
) -> None:
    """Values and gradients of all functions, in one program, are torch's at every point."""
    pairs = {name: with_gradient(function) for name, function in functions.items()}
    code = compiled(lambda q: [x for both in pairs.values() for x in both(q)], points[0])
    wrong = {}
    for point in points:
        found = iter(code(point))
        for name, both in pairs.items():
            for place, expected in enumerate(both(point)):
                gap = difference(expected, next(found))
                if not gap <= tolerance:
                    wrong[name] = f"output {place} differs by {gap:.3g}"
    assert not wrong, wrong


def difference(expected: Tensor, found: Tensor) -> float:
    """Largest difference relative to the largest entry, or to one where that is smaller."""
    a, b = expected.detach().double().numpy().reshape(-1), found.double().numpy().reshape(-1)
    assert a.shape == b.shape
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    size = max(1.0, np.abs(a[np.isfinite(a)]).max(initial=0.0))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a - b) / size)
    return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))
