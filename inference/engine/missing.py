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
from storyzoo.story import Story


class ObservedMessenger(Messenger):
    """Masks what is missing at observed sites; given the data, names the argument of each.

    Sites of independent events get the mask on their base, so that each observed element still
    counts; a joint event can only be observed or missing as a whole.

    Raises DataError where an event is partly missing and its distribution can't be split.
    """

    def __init__(self, missing: bool, data: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._missing = missing
        self._data = {
            name: value
            for name, value in (data or {}).items()
            if isinstance(value, Tensor) and value.numel()
        }

    def _pyro_sample(self, msg: Any) -> None:
        value = msg["value"]
        if not msg["is_observed"] or msg["infer"].get("_deterministic"):
            return
        if not isinstance(value, Tensor) or not value.numel():
            return
        if self._data:  # a model that observes something computed may say of which argument
            own = msg["infer"].get("observes")
            msg["infer"]["observes"] = self._argument_of(value) or own
        if self._missing and value.is_floating_point():
            msg["fn"], msg["value"] = _masked(msg["name"], msg["fn"], value)

    def _argument_of(self, value: Tensor) -> str | None:
        """The argument that a value is a part of, or the whole of in another dtype."""
        for name, whole in self._data.items():
            if is_part(value, whole):
                return name
        for name, whole in self._data.items():
            same = value.shape == whole.shape and value.dtype != whole.dtype
            if same and torch.equal(value, whole.to(value.dtype)):
                return name
        return None


def is_part(value: Tensor, whole: Tensor) -> bool:
    """Whether a tensor is a view of (a part of) another."""
    return value.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


def has_missing(data: Mapping[str, Any]) -> bool:
    """Whether any argument holds NaN."""
    return any(
        isinstance(value, Tensor) and value.is_floating_point() and bool(torch.isnan(value).any())
        for value in data.values()
    )


def filled(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data with a finite value in every hole: for runs whose likelihood is not read."""
    return {
        name: _fill(value)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel()
        else value
        for name, value in data.items()
    }


def runnable(story: Story, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data that a model runs on where only its latents are read, not its likelihood.

    A story with its own marginal likelihood need not bear NaN in its model.
    """
    return filled(data) if story.has("marginal") else data


def _fill(value: Tensor) -> Tensor:
    """Holes filled by the median of what is observed: an element, and so in the data's support."""
    return torch.where(torch.isnan(value), value.nanmedian().nan_to_num(), value)


def _masked(site: str, fn: Any, value: Tensor) -> tuple[Any, Tensor]:
    """The distribution with its missing elements masked, and the value with a finite fill."""
    observed, finite = ~torch.isnan(value), _fill(value)
    if hasattr(fn, "mask_missing"):
        return fn.mask_missing(observed), finite
    if isinstance(fn, dist.Independent):
        base, _ = _masked(site, fn.base_dist, value)
        return base.to_event(fn.reinterpreted_batch_ndims), finite
    if fn.event_dim == 0:
        return fn.mask(observed), finite
    if get_proxy_mode() is None:
        row = partly_missing(fn, value)
        if row is not None:
            raise DataError(
                f"site '{site}', row {row}: partly missing, but {type(fn).__name__} is one joint "
                "event; give the story a `marginal` that takes NaN, or drop the row"
            )
    return fn.mask(observed.flatten(observed.dim() - fn.event_dim).all(-1)), finite


def partly_missing(fn: Any, value: Tensor) -> int | None:
    """The first row (counted from 1) of which a joint event is partly missing, if any."""
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    if fn.event_dim == 0:
        return None
    missing = torch.isnan(value)
    events = missing.flatten(missing.dim() - fn.event_dim)
    partly = (events.any(-1) & ~events.all(-1)).nonzero()
    if not len(partly):
        return None
    return int(partly[0][0]) + 1 if partly.shape[1] else 1
