"""Sequences of symbols, each foretold from all before it by a recurrent network.

What the story says
-------------------
By the chain rule a sequence is told symbol by symbol, and then that it ends::

    p(x_1 ... x_T) = p(x_1) p(x_2 | x_1) ... p(x_T | x_1 ... x_{T-1}) p(END | x_1 ... x_T)

A network carries what matters of the past from step to step (its core: an LSTM, a GRU or the tanh
recurrence of the textbooks) and gives the log odds of the next symbol::

    w           ~ Normal(0, weight_sd)                 every weight
    h_t         = core(embedding[x_{t-1}], h_{t-1})    x_0 = START, h_0 = 0
    x_t         ~ Categorical(softmax(output_weight h_t + output_bias))

END is one more symbol, numbered ``n_tokens``. Where all sequences have one length (images) nothing
is said of it and there is no END; ``end`` = auto decides so by the data.

Priors
------
``weight_sd`` is the prior deviation of each weight. It acts as weight decay: a mode of the
posterior minimises ``-log p(data) + sum w^2 / (2 weight_sd^2)``. ``dropout`` is no part of the
story: it leaves out some of what the core tells while a mode is sought, and never else.

The data
--------
``token`` (step), all sequences end to end without END, from 0 to ``n_tokens`` - 1; ``length``
(sequence), how many symbols each has, 0 for one that ends at once; ``n_tokens``. A token of -1 is
a gap that `impute` fills.

When to use it, and what it can't do
------------------------------------
For text, images in raster order, graphs as rows of adjacencies, and whatever else can be written
as symbols in a row. Weights have many symmetries (hidden units can be permuted, and of a tanh
recurrence turned over), so that no two fits agree on them; compare what they foretell. For little
data `ngram` is the baseline to beat: a network needs thousands of symbols.

Sites: embedding_weight (START and symbols, embedding), unless ``core`` has one layer
core_weight_ih_l0, core_weight_hh_l0, core_bias_ih_l0, core_bias_hh_l0 and so on for each layer, in
torch's layout; output_weight (symbol, hidden), output_bias (symbol).

References
----------
Elman (1990), Cognitive Science 14. Hochreiter and Schmidhuber (1997), Neural Computation 9. Cho et
al. (2014), EMNLP. Graves (2013), arXiv:1308.0850. van den Oord, Kalchbrenner and Kavukcuoglu
(2016), ICML, on images. You et al. (2018), ICML, on graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from storyzoo.errors import SettingError
from storyzoo.models.distributions.deferred import Deferred
from storyzoo.models.kernels.lifted import Lifted
from storyzoo.models.kernels.recurrent import frequencies
from storyzoo.models.kernels.symbols import check_symbols, one_length, refuse_gaps, unrolled
from storyzoo.models.recurrence import Core, Recurrence, UnrolledSequences, Walk
from storyzoo.story import Data, Latents


@dataclass(frozen=True)
class Sequence(Recurrence):
    """Each symbol is foretold from all before it by a recurrent network (Graves 2013)."""

    core: Core = "lstm"
    n_hidden: int = 128
    n_embedding: int = 32
    n_layers: int = 1
    weight_sd: float = 1.0
    """Prior deviation of each weight."""
    dropout: float = 0.0
    """Share of what the core tells that is left out at a time while a mode is sought."""
    end: Literal["auto", "yes", "no"] = "auto"
    """Whether a sequence tells its own end; auto: unless all are equally long."""

    data_dims = {"token": ("step",), "length": ("sequence",)}
    identified = ("token+length", "token")
    exclusive = True
    gap_symbol = -1

    def __post_init__(self) -> None:
        self.check_fields()
        if not isinstance(self.n_embedding, int) or self.n_embedding < 1:
            raise SettingError(f"sequence: n_embedding={self.n_embedding!r} must be at least 1")
        if self.end not in ("auto", "yes", "no"):
            raise SettingError(f"sequence: end={self.end!r} must be auto, yes or no")

    @property
    def event_dims(self) -> Mapping[str, tuple[str, ...]]:
        return {
            "embedding_weight": ("input_symbol", "embedding"),
            "output_weight": ("symbol", "hidden"),
            "output_bias": ("symbol",),
        }

    def model(self, token: Tensor, length: Tensor, n_tokens: int) -> None:
        """The story in the module's docstring; the network runs where a probability is asked."""
        data: Any = {"token": token, "length": length, "n_tokens": n_tokens}
        weights = self._lifted(data).sample(self.weight_sd)
        symbols = dist.constraints.integer_interval(0, n_tokens - 1)
        if len(token):  # Pyro knows no plate of size zero
            with pyro.plate("step", len(token)):
                told = Deferred(
                    lambda: dist.Categorical(logits=self._logits(weights, data)[0]),
                    token.shape, torch.Size(), symbols,
                )  # fmt: skip
                pyro.sample("token", told, obs=token)
        if self.ends(data) is None:
            return
        with pyro.plate("sequence", len(length)):
            ending = Deferred(
                lambda: dist.Delta(length, log_density=self._logits(weights, data)[1]),
                length.shape, torch.Size(), dist.constraints.nonnegative_integer,
            )  # fmt: skip
            pyro.sample("length", ending, obs=length)

    def _lifted(self, data: Data) -> Lifted:
        n_tokens = int(data["n_tokens"])
        n_outputs = n_tokens + (self.ends(data) is not None)
        return self.lifted(n_tokens + 1, self.n_embedding, n_outputs)

    def _logits(self, weights: Latents, data: Data) -> tuple[Tensor, Tensor]:
        """Log probabilities of all symbols at each token (E, V), and of END after each sequence."""
        steps = self.steps(data)
        table = steps.logits(weights).log_softmax(-1)
        is_token = steps.targets < int(data["n_tokens"])
        return table[is_token], table[~is_token, -1]

    def log_prob(self, logits: Tensor, targets: Tensor) -> Tensor:
        """``logits_x - log sum_v exp logits_v``."""
        flat = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none"
        )
        return -flat.view(targets.shape)

    def steps(self, data: Data) -> UnrolledSequences:
        """What stands before each symbol, START first, and the symbols with END after each.

        Raises DataError where a symbol is missing.
        """
        refuse_gaps(data)
        return UnrolledSequences(self, self._lifted(data), *unrolled(data, self.ends(data)))

    def ends(self, data: Data) -> int | None:
        """The number of END, where sequences tell their own end."""
        said = self.end == "yes" or (self.end == "auto" and not one_length(data["length"]))
        return int(data["n_tokens"]) if said else None

    def stepper(self, latents: Latents) -> Walk:
        """The next symbol, END being the last."""
        start = len(latents["embedding_weight"]) - 1
        first = torch.full((), start, device=latents["output_bias"].device)
        told = partial(dist.Categorical, None, validate_args=False)  # by logits
        return Walk(self, latents, first, told)

    def initial(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """Small weights, and the symbols as often as they are in the data."""
        network = self._lifted(data)
        start = network.small(rng, self.n_hidden)
        n_outputs = network.shapes["output_bias"][0]
        shares = frequencies(self.steps(data).targets, n_outputs)
        start["output_bias"] = torch.as_tensor(shares).to(start["output_bias"])
        start["embedding_weight"] = torch.nn.functional.normalize(
            start["embedding_weight"] - start["embedding_weight"].mean(), dim=1
        )
        return start

    def scaled_to(self, data: Data) -> Sequence:
        """A copy that says whether sequences tell their end."""
        return replace(self, end="yes" if self.ends(data) is not None else "no")

    def check(self, data: Data) -> None:
        """Refuse symbols out of range, and lengths that don't add up."""
        check_symbols(data)
