"""Pyro where functional transforms can pass through it; only within a context manager.

Pyro's safe logarithm is an autograd function of the old form, which neither ``torch.func.grad``
nor a trace can enter. Its enumeration reads the shape of ``value.data``, which vmap forbids.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.distributions import coalescent, hmm
from pyro.ops.einsum import torch_log
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

_USERS: tuple[Any, ...] = (hmm, torch_log, coalescent)
"""Modules of Pyro's that took the safe logarithm by name."""


@contextmanager
def functional_pyro() -> Iterator[None]:
    """Within it, Pyro's safe logarithm is one of plain operations, and enumeration reads shapes."""
    before = [module.safe_log for module in _USERS]
    remember = EnumMessenger._pyro_post_sample

    def remember_by_shape(self: EnumMessenger, msg: Any) -> None:
        value = msg["value"]
        if isinstance(value, Tensor):  # in its place, something of its shape
            msg["value"] = torch.empty(()).expand(value.shape)
        try:
            remember(self, msg)
        finally:
            msg["value"] = value

    for module in _USERS:
        module.safe_log = _safe_log
    EnumMessenger._pyro_post_sample = remember_by_shape  # type: ignore[method-assign]
    try:
        yield
    finally:
        EnumMessenger._pyro_post_sample = remember  # type: ignore[method-assign]
        for module, original in zip(_USERS, before, strict=True):
            module.safe_log = original


def _safe_log(x: Tensor) -> Tensor:
    """``log max(x, tiny)``: of zero a large negative number, whose gradient is zero."""
    return x.clamp(min=torch.finfo(x.dtype).tiny).log()
