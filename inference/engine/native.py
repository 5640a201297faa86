"""A density that is machine code: called by address, with no Python in between."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from storyzoo.inference.engine.lowering.library import Library, build
from storyzoo.inference.engine.lowering.lower import Program, lower

LARGE = 400_000
"""Characters of C above which the compiler is not asked for all that it can do: it would take
minutes."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Native:
    """Value and gradient of a function of one vector (D,), float64, in machine code.

    The gradient may be by the first G entries only, where the others are given numbers.

    ``address`` is that of ``int64_t f(uint64_t dim, const double *q, double *gradient, double
    *value, void *user_data)``, which returns 0 where both are finite, ``user_data`` that of what
    it is to be given last. Threads may call it at once. Both hold as long as this object lives.
    """

    dim: int
    program: Program
    library: Library
    _constants: NDArray[np.uintp]

    @property
    def address(self) -> int:
        """Where the function begins."""
        return _address(self.library, "evaluate")

    @property
    def expand_address(self) -> int:
        """``int64_t f(uint64_t dim, uint64_t expanded, const double *q, double *out, void *)``:
        copies the vector, for samplers that ask what to keep of a point."""
        return _address(self.library, "expand")

    @property
    def user_data(self) -> int:
        """Where the addresses of the constants lie."""
        return int(self._constants.ctypes.data)

    def __call__(self, q: Array) -> tuple[float, Array]:
        """Value and gradient (G,) at ``q`` (D,)."""
        value, gradient = self.rows(np.asarray(q)[None])
        return float(value[0]), gradient[0]

    def rows(self, q: Array) -> tuple[Array, Array]:
        """Values (B,) and gradients (B, G) at the rows of ``q`` (B, D)."""
        points = np.ascontiguousarray(q, dtype=np.float64)
        value = np.empty(len(points))
        gradient = np.empty((len(points), *self.program.outputs[0]))
        self.library.cdll.evaluate_rows(
            ctypes.c_int64(len(points)),
            _pointer(points),
            _pointer(gradient),
            _pointer(value),
            ctypes.c_void_p(self.user_data),
        )
        return value, gradient

    def on_tensors(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """The same for tensors: ``q`` (D,) or (B, D)."""
        value, gradient = self.rows(q.detach().numpy().reshape(-1, self.dim))
        shape = q.shape[:-1]
        slopes = torch.from_numpy(gradient).reshape(*shape, gradient.shape[-1])
        return torch.from_numpy(value).reshape(shape), slopes


def make_native(graph: fx.GraphModule, point: Tensor) -> Native:
    """Machine code for a graph of one vector that gives ``(gradient, value)``.

    Raises MissingOperation where the graph has no form in C, CompilerError where there is no
    compiler or it fails.
    """
    program = lower(graph, point)
    size = sum(len(source) for source in program.sources)
    library = build(program.sources, optimise="-O1" if size > LARGE else "-O3")
    places = [constant.ctypes.data for constant in program.constants]
    return Native(program.dim, program, library, np.array(places or [0], dtype=np.uintp))


def _address(library: Library, name: str) -> int:
    address = ctypes.cast(getattr(library.cdll, name), ctypes.c_void_p).value
    assert address is not None
    return address


def _pointer(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
