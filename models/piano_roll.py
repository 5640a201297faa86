"""Music as a piano roll: at each step every key is down or not, foretold from the steps before.

What the story says
-------------------
::

    w           ~ Normal(0, weight_sd)                         every weight
    h_t         = core(x_{t-1}, h_{t-1})                       x_0 = 0, h_0 = 0
    x_tk        ~ Bernoulli(sigmoid((output_weight h_t + output_bias)_k))      k = 1 ... K keys

Given the past the keys of one step are independent, as in the published comparisons; that a chord
is no product of its notes is what the story can't tell. The first step counts, foretold from the
zero state. A piece has no END: its length is given. The published figure is ``sum of nats / sum
of steps`` over all pieces of the test set, in which long pieces weigh more, as here
(``nats per step``).

Priors, data and sites
----------------------
``weight_sd`` and ``dropout`` as in `sequence`. Data: ``key`` (step, pitch), zeros and ones, all
pieces end to end; ``length`` (piece), steps of each. Sites: core_weight_ih_l0 and so on,
output_weight (pitch, hidden), output_bias (pitch). The weights have symmetries: compare what fits
foretell.

References
----------
Boulanger-Lewandowski, Bengio and Vincent (2012), ICML. Bai, Kolter and Koltun (2018),
arXiv:1803.01271, table 1: LSTM 8.45, GRU 8.43, RNN 8.91 and TCN 8.10 nats per step on JSB Chorales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from storyzoo.errors import DataError
from storyzoo.models.distributions.deferred import Deferred
from storyzoo.models.kernels.symbols import check_lengths, first_steps
from storyzoo.models.recurrence import Core, Recurrence, UnrolledSequences, Walk
from storyzoo.story import Data, Latents


@dataclass(frozen=True)
class PianoRoll(Recurrence):
    """Every key is down or not, given all steps before (Boulanger-Lewandowski et al. 2012)."""

    core: Core = "lstm"
    n_hidden: int = 200
    n_layers: int = 1
    weight_sd: float = 1.0
    """Prior deviation of each weight."""
    dropout: float = 0.5
    """Share of what the core tells that is left out at a time while a mode is sought."""

    data_dims = {"key": ("step", "pitch"), "length": ("sequence",)}
    identified = ("key",)
    exclusive = False

    def __post_init__(self) -> None:
        self.check_fields()

    @property
    def event_dims(self) -> Mapping[str, tuple[str, ...]]:
        return {
            "output_weight": ("next_pitch", "hidden"),
            "output_bias": ("next_pitch",),
            "key": ("pitch",),
        }

    def model(self, key: Tensor, length: Tensor) -> None:
        """The story in the module's docstring; the network runs where a probability is asked."""
        n_keys = key.shape[1]
        weights = self.lifted(n_keys, None, n_keys).sample(self.weight_sd)
        binary = dist.constraints.independent(dist.constraints.boolean, 1)
        data = {"key": key, "length": length}
        with pyro.plate("step", len(key)):
            told = Deferred(
                lambda: dist.Bernoulli(logits=self.steps(data).logits(weights)).to_event(1),
                key.shape[:1], key.shape[1:], binary,
            )  # fmt: skip
            pyro.sample("key", told, obs=key)

    def log_prob(self, logits: Tensor, targets: Tensor) -> Tensor:
        """``sum_k log p(x_k)``, each key by itself."""
        nats = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, targets, reduction="none"
        )
        return -nats.sum(-1)

    def steps(self, data: Data) -> UnrolledSequences:
        """The keys before each step, none before the first."""
        key, length = data["key"].to(torch.empty(0)), data["length"]
        inputs = torch.cat([key.new_zeros(1, key.shape[1]), key[:-1]])
        inputs = torch.where(first_steps(length)[:, None], 0.0, inputs)
        network = self.lifted(key.shape[1], None, key.shape[1])
        return UnrolledSequences(self, network, inputs, key, length)

    def stepper(self, latents: Latents) -> Walk:
        """The keys (K,) of the next step, or (B, K) of pieces side by side."""
        first = torch.zeros_like(latents["output_bias"])
        return Walk(self, latents, first, lambda logits: dist.Bernoulli(logits=logits).to_event(1))

    def initial(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """Small weights, and each key as often down as it is in the data."""
        n_keys = data["key"].shape[1]
        start = self.lifted(n_keys, None, n_keys).small(rng, self.n_hidden)
        share = (data["key"].double().sum(0) + 0.5) / (len(data["key"]) + 1.0)
        start["output_bias"] = share.logit().to(start["output_bias"])
        return start

    def check(self, data: Data) -> None:
        """Refuse keys that are neither down nor up, and lengths that don't add up."""
        key = data["key"]
        check_lengths(data["length"], len(key), "key")
        wrong = ((key != 0) & (key != 1)).nonzero()
        if len(wrong):
            step, place = (int(i) for i in wrong[0])
            raise DataError(
                f"'key' at step {step + 1}, key {place + 1} is {key[step, place].item()}: a key "
                "is 0 or 1"
            )
