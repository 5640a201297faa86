"""Value and gradient of a density on the highest rung that it can stand on.

1. Machine code: the traced graph in C, compiled by the machine's own compiler.
2. TorchScript: the traced graph, run by torch's interpreter.
3. Eager: the model itself, under Pyro's handlers.

Before a rung is stood on, value and gradient are compared with the model's own at ten points; a
rung that differs is left, with the reason. A point is no test where the last digit of ``q`` moves
the model's own answer by more than rounding should (a matrix that is all but singular).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, fx

from storyzoo.errors import StoryError
from storyzoo.inference.engine.lowering.compiler import CompilerError, find_compiler
from storyzoo.inference.engine.lowering.operations import MissingOperation
from storyzoo.inference.engine.native import Native, make_native
from storyzoo.inference.engine.tracing import Function, UntraceableError, script, trace, unfused

Rung = Literal["c", "torchscript", "eager"]
Pair = tuple[Tensor, Tensor]
"""Gradient (D,) and value, a scalar."""

CLOSE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Relative difference that is put down to rounding."""
CANCELLED = 1e-4
"""Share of it that the largest entry of a gradient may cost all others."""
STEADY = 0.01
"""Share of it by which an answer may move with the last digit of the point."""
FEWEST = 3
"""Points that must be left to compare at."""


@dataclass
class Ladder:
    """A function ``q -> (gradient, value)``, made once; ``points`` are those to compare at."""

    function: Callable[[Tensor], Pair]
    points: Sequence[Tensor]
    running: Callable[[], AbstractContextManager[None]]
    """The story's dtype and device."""
    rung: Rung = "eager"
    words: str = ""
    """The rung, in words."""
    notes: list[str] = field(default_factory=list)
    """Why no higher rung was taken."""
    native: Native | None = None
    graph: fx.GraphModule | None = None
    _scripted: Function | None = None
    _failure: str = ""
    """What the model said where it failed, in one line."""

    def __post_init__(self) -> None:
        expected = [self._expected(point) for point in self.points]
        if self._failure and all(pair is None for pair in expected):
            raise StoryError(f"the model's density and gradient can't be had: {self._failure}")
        try:
            with self.running(), unfused():
                self.graph = trace(self.function, self.points[0])
        except UntraceableError as reason:
            self._stay_eager(f"the model can't be traced: {reason}")
            return
        if self._climb_to_machine_code(expected):
            return
        self._climb_to_torchscript(expected)

    # -- the rungs -----------------------------------------------------------------------

    def _climb_to_machine_code(self, expected: Sequence[Pair | None]) -> bool:
        assert self.graph is not None
        point = self.points[0]
        if point.device.type != "cpu" or point.dtype != torch.float64:
            where = f"{point.device.type}, {str(point.dtype).removeprefix('torch.')}"
            self.notes.append(f"no machine code: it is for the CPU in float64, not {where}")
            return False
        try:
            native = make_native(self.graph, point)
            self._compare(lambda q: _reversed(native.on_tensors(q)), expected)
        except (MissingOperation, CompilerError) as reason:
            self.notes.append(f"no machine code: {reason}")
            return False
        except UntraceableError as reason:
            self.notes.append(f"machine code is not used: {reason}")
            return False
        except Exception as error:  # a fault of the lowering must not cost the user the fit
            self.notes.append(f"no machine code: {type(error).__name__}: {error}")
            return False
        if native.library.note:
            self.notes.append(native.library.note)
        compiler = find_compiler()
        made_by = f" (C, {compiler.version})" if compiler and compiler.version else ""
        self.rung, self.words, self.native = "c", f"machine code{made_by}", native
        return True

    def _climb_to_torchscript(self, expected: Sequence[Pair | None]) -> None:
        assert self.graph is not None
        try:
            scripted = script(self.graph, self.points[0])
        except RuntimeError as error:  # an operation of the graph that its interpreter hasn't
            self.graph = None
            why = " ".join(str(error).split())[:120]
            inside = "INTERNAL ASSERT" in why  # names places in torch's own source
            why = "an operation of the graph is unknown to its interpreter" if inside else why
            self._stay_eager(f"no TorchScript: {why}")
            return

        def run(q: Tensor) -> Pair:
            with torch.no_grad():
                gradient, value = scripted(q)
            return gradient, value

        try:
            self._compare(run, expected)
        except UntraceableError as reason:
            self.graph = None
            self._stay_eager(f"the traced graph is not used: {reason}")
            return
        self.rung, self.words, self._scripted = "torchscript", "traced graph in TorchScript", run

    def _stay_eager(self, reason: str) -> None:
        self.notes.append(reason)
        self.rung, self.words = "eager", "eager Pyro"

    # -- use -----------------------------------------------------------------------------

    def __call__(self, q: Tensor) -> Pair:
        """Gradient and value at ``q`` (D,)."""
        if self.native is not None:
            return _reversed(self.native.on_tensors(q))
        if self._scripted is not None:
            pair: Pair = self._scripted(q)
            return pair
        with self.running():
            return self.function(q)

    # -- comparison ----------------------------------------------------------------------

    def _expected(self, point: Tensor) -> Pair | None:
        """The model's own answer; None where it fails."""
        try:
            with self.running():
                gradient, value = self.function(point)
        except RuntimeError as error:  # a matrix that is not definite, mostly
            self._failure = " ".join(str(error).split())[:200]
            return None
        return gradient.detach(), value.detach()

    def _is_steady(self, point: Tensor, pair: Pair) -> bool:
        """Whether the model's answer beside the point, a last digit away, is the same."""
        beside = self._expected(point * (1 + 2 * torch.finfo(point.dtype).eps))
        return beside is not None and all(
            difference(a, b) <= STEADY for a, b in zip(pair, beside, strict=True)
        )

    def _compare(self, run: Callable[[Tensor], Pair], expected: Sequence[Pair | None]) -> None:
        """Raise UntraceableError where a rung differs from the model at any of the points."""
        compared = 0
        for place, (point, pair) in enumerate(zip(self.points, expected, strict=True), start=1):
            if pair is None:
                continue
            try:
                found = run(point)
            except RuntimeError as error:
                if not bool(pair[1].isfinite()):
                    continue
                raise UntraceableError(f"it fails at check point {place}: {error}") from error
            if not bool(pair[1].isfinite()):
                if bool(found[1].isfinite()):
                    raise UntraceableError(f"it is finite at check point {place}, the model not")
                continue
            gaps = {
                name: difference(a, b)
                for name, a, b in zip(("gradient", "value"), pair, found, strict=True)
            }
            name, gap = max(gaps.items(), key=lambda item: item[1])
            if gap <= 1:
                compared += 1
            elif self._is_steady(point, pair):
                raise UntraceableError(
                    f"its {name} differs from the model's at check point {place}, "
                    f"{gap:.2g} times what rounding explains"
                )
        if compared < FEWEST:
            raise UntraceableError(
                f"only {compared} of {len(self.points)} check points have an answer to compare"
            )


def difference(expected: Tensor, found: Tensor) -> float:
    """Largest difference, in units of what is put down to rounding.

    An entry is rounded by its own size, and by that of the largest, whose parts may have
    cancelled in it.
    """
    a, b = (x.detach().cpu().double().numpy().reshape(-1) for x in (expected, found))
    if not a.size:
        return 0.0
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    size = np.abs(np.where(np.isfinite(a), a, 0.0))
    allowed = CLOSE.get(expected.dtype, 1e-4) * (
        np.maximum(1.0, size) + CANCELLED * size.max(initial=0.0)
    )
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a - b) / allowed)
    return float(np.where(np.isnan(gap), np.inf, gap).max())


def _reversed(pair: Pair) -> Pair:
    value, gradient = pair
    return gradient, value
