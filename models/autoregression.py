"""Autoregression: each value of a series is a weighted sum of those just before it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from storyzoo.errors import DataError, SettingError
from storyzoo.story import Data, Latents, Story


@dataclass(frozen=True)
class Autoregression(Story):
    """Each value falls around a weighted sum of the ``order`` values before it.

    ::

        alpha   ~ Normal(0, level_scale)
        beta_k  ~ Normal(0, lag_scale)          k = 1 … K: the weight of the value k steps back
        sigma   ~ HalfCauchy(noise_scale)
        y_t     ~ Normal(alpha + sum_k beta_k y_{t-k}, sigma)        t = K + 1 … T

    The likelihood is conditional on the first K values, about which the story says nothing.
    Nothing keeps ``beta`` where the series is stationary, so that a trend or a wave that grows can
    be told as well. Priors are those of posteriordb's ``arK``, whose reference draws a fit can be
    held against; they suit a series whose level and noise are of the order of one to ten.

    ``start`` is what simulated series begin with: ``scaled_to`` sets it to the series' own first
    values, unset it is zeros. Draws from the wide prior explode within some steps.

    When to use it, and what it can't do: for one evenly spaced series whose ups and downs echo, to
    see for how long and in what rhythm; take the logarithm of what is positive and swings by
    factors. Every value is read by its successors, so none can be missing. Several orders can be
    compared, though not by held-out rows: a series has none that are independent.

    Sites: ``alpha`` (), ``beta`` (lag), ``sigma`` (). Data: ``y`` (time).

    Source: Box, Jenkins and Reinsel (2008), Time Series Analysis, 4th ed., §3.2; posteriordb,
    ``arK-arK``.
    """

    order: int = 1
    level_scale: float = 10.0
    """Prior sd of ``alpha``, units of y."""
    lag_scale: float = 10.0
    """Prior sd of each weight."""
    noise_scale: float = 2.5
    """Scale of the prior of ``sigma``, units of y."""
    start: tuple[float, ...] | None = None
    """What simulated series begin with, ``order`` values in units of y."""

    data_dims = {"y": ("time",)}
    event_dims = {"beta": ("lag",)}

    def __post_init__(self) -> None:
        if not isinstance(self.order, int) or self.order < 1:
            raise SettingError(f"autoregression: order={self.order!r} must be at least 1")
        for name in ("level_scale", "lag_scale", "noise_scale"):
            if not getattr(self, name) > 0:
                value = getattr(self, name)
                raise SettingError(f"autoregression: {name}={value!r} must be above zero")
        if self.start is not None:
            object.__setattr__(self, "start", tuple(float(value) for value in self.start))
        if self.start is not None and len(self.start) != self.order:
            raise SettingError(
                f"autoregression: start has {len(self.start)} values, order is {self.order}: "
                "make them agree, or leave start out"
            )

    def model(self, y: Tensor) -> None:
        order, length = self.order, len(y)
        alpha = pyro.sample("alpha", dist.Normal(0.0, self.level_scale))
        beta = pyro.sample("beta", dist.Normal(0.0, self.lag_scale).expand([order]).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfCauchy(self.noise_scale))
        past = torch.stack([y[order - k : length - k] for k in range(1, order + 1)], -1)
        with pyro.plate("step", length - order):
            pyro.sample("y", dist.Normal(alpha + past @ beta, sigma), obs=y[order:])

    def check(self, data: Data) -> None:
        """More values than lags, not all the same."""
        y = data["y"]
        if self.order >= len(y):
            raise DataError(
                f"order={self.order} for a series of {len(y)} values: "
                f"set order to at most {len(y) - 1}"
            )
        if bool((y == y[0]).all()):
            raise DataError(f"the series never leaves {float(y[0]):g}: there is nothing to model")

    def scaled_to(self, data: Data) -> Autoregression:
        """A copy whose simulations begin as the data do, where ``start`` is unset."""
        if self.start is not None:
            return self
        return dataclasses.replace(self, start=tuple(data["y"][: self.order].tolist()))

    def step(self, latents: Latents, state: Any) -> tuple[Any, list[Tensor]]:
        """The next value: one of ``start`` at first, then around the sum of those before it.

        The state is the last ``order`` values, the latest first, before the latest observation.
        """
        past: list[Tensor] = [] if state is None else [state[1], *state[0]][: self.order]
        if len(past) < self.order:
            value = 0.0 if self.start is None else self.start[len(past)]
            return dist.Delta(torch.tensor(value).to(latents["beta"])), past
        loc = latents["alpha"] + (latents["beta"] * torch.stack(past)).sum()
        return dist.Normal(loc, latents["sigma"]), past
