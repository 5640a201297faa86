"""Missing values: NaN at the door becomes a finite fill plus a mask on the observed site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from storyzoo.errors import DataError


class ObservedMessenger(Messenger):
    """Masks what is missing at observed sites; given the data, names the argument of each.

    Sites of independent events get the mask on their base, so that each observed element still
    counts; a joint event can only be observed or missing as a whole.

    Raises DataError where an event is partly missing and its distribution can't be split.
    """

    def __init__(self, missing: bool, data: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._missing = missing
        self._storages = {
            value.untyped_storage().data_ptr(): name
            for name, value in (data or {}).items()
            if isinstance(value, Tensor) and value.numel()
        }

    def _pyro_sample(self, msg: Any) -> None:
        value = msg["value"]
        if not msg["is_observed"] or msg["infer"].get("_deterministic"):
            return
        if not isinstance(value, Tensor) or not value.numel():
            return
        if self._storages:
            msg["infer"]["observes"] = self._storages.get(value.untyped_storage().data_ptr())
        if self._missing and value.is_floating_point():
            msg["fn"], msg["value"] = _masked(msg["name"], msg["fn"], value)


def has_missing(data: Mapping[str, Any]) -> bool:
    """Whether any argument holds NaN."""
    return any(
        isinstance(value, Tensor) and value.is_floating_point() and bool(torch.isnan(value).any())
        for value in data.values()
    )


def _masked(site: str, fn: Any, value: Tensor) -> tuple[Any, Tensor]:
    """The distribution with its missing elements masked, and the value with a finite fill.

    The fill is the median of what is observed, an element of the data and so in their support.
    """
    observed = ~torch.isnan(value)
    filled = torch.where(observed, value, value.nanmedian().nan_to_num())
    if hasattr(fn, "mask_missing"):
        return fn.mask_missing(observed), filled
    if isinstance(fn, dist.Independent) and fn.base_dist.event_dim == 0:
        base = fn.base_dist.mask(observed)
        return base.to_event(fn.reinterpreted_batch_ndims), filled
    if fn.event_dim == 0:
        return fn.mask(observed), filled
    elements = observed.flatten(observed.dim() - fn.event_dim)
    whole = elements.all(-1)
    if get_proxy_mode() is None:
        _refuse_partly_missing(site, fn, elements.any(-1) & ~whole)
    return fn.mask(whole), filled


def _refuse_partly_missing(site: str, fn: Any, partly: Tensor) -> None:
    if not bool(partly.any()):
        return
    row = f", row {int(partly.nonzero()[0][0])}" if partly.dim() else ""
    raise DataError(
        f"site '{site}'{row}: partly missing, but {type(fn).__name__} is one joint event; "
        "give the story a `marginal` that takes NaN, or drop the row"
    )
