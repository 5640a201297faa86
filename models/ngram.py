"""Sequences of symbols, each foretold from the few just before it: a table, no network.

What the story says
-------------------
With ``order`` n the next symbol depends on the n - 1 before it, the context c; before the first
symbol stands START as often as needed, and after the last comes END, numbered ``n_tokens``::

    next_c      ~ Dirichlet(concentration, ..., concentration)       for each context c
    x_t         ~ Categorical(next_{x_{t-n+1} ... x_{t-1}})

Contexts are independent, and counts are all that matters of the data: with n_cv how often symbol v
follows context c, the posterior is ``next_c ~ Dirichlet(concentration + n_c)`` in closed form:
`gibbs` draws from it, `svi` has it as its family, and `map` takes its mode, ``(n_cv + concentration
- 1) / sum_v``. Below a concentration of one that is no mode on the simplex, and the mode in the
softmax basis is taken, ``(n_cv + concentration) / sum_v``: the posterior mean. Where all sequences
have one length there is no END (``end`` = auto).

``order`` 1 knows no context, 2 is a Markov chain over symbols. Contexts that were never seen are
told by the prior alone: no shorter context steps in for a longer one, as it does by Kneser-Ney.

The data
--------
As for `sequence`: ``token`` (step), ``length`` (sequence), ``n_tokens``. A token of -1 is a gap.

When to use it, and what it can't do
------------------------------------
As the baseline that a network has to beat, and where data are few. The table has ``(n_tokens + 1)
^ (order - 1)`` contexts, at most four million numbers in all; nothing before the context is
remembered.

Sites: next (context, symbol).

Sources: Shannon (1948), A Mathematical Theory of Communication; MacKay and Peto (1995), Natural
Language Engineering 1, on the Dirichlet.
"""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import CDLL
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.special import gammaln
from torch import Tensor
from torch.distributions import Distribution

from storyzoo.errors import DataError, SettingError
from storyzoo.models.distributions.deferred import Deferred
from storyzoo.models.distributions.row_categorical import RowCategorical
from storyzoo.models.kernels import conjugate
from storyzoo.models.kernels.symbols import check_symbols, one_length, refuse_gaps, unrolled
from storyzoo.story import Data, Latents, LocalStep, Story

MOST_ENTRIES = 2**22
"""Numbers in the largest table."""


@dataclass(frozen=True)
class NGram(Story):
    """Each symbol is foretold from the ``order`` - 1 before it, by a table (Shannon 1948)."""

    order: int = 2
    concentration: float = 0.5
    """Of the prior of each context's next symbol: how often each was seen before any data."""
    end: Literal["auto", "yes", "no"] = "auto"
    """Whether a sequence tells its own end; auto: unless all are equally long."""

    name = "ngram"
    data_dims = {"token": ("step",), "length": ("sequence",)}
    event_dims = {"next": ("symbol",)}
    examples = "sequence"
    observation = "step"
    ragged = {"step": "length"}
    gap_symbol = -1

    def __post_init__(self) -> None:
        if not isinstance(self.order, int) or self.order < 1:
            raise SettingError(f"ngram: order={self.order!r} must be at least 1")
        if not self.concentration > 0:
            raise SettingError(f"ngram: concentration={self.concentration!r} must be above zero")
        if self.end not in ("auto", "yes", "no"):
            raise SettingError(f"ngram: end={self.end!r} must be auto, yes or no")

    def model(self, token: Tensor, length: Tensor, n_tokens: int) -> None:
        """The story in the module's docstring."""
        data: Any = {"token": token, "length": length, "n_tokens": n_tokens}
        n_contexts, n_symbols = self._sizes(data)
        prior = dist.Dirichlet(torch.full((n_symbols,), float(self.concentration)))
        with pyro.plate("context", n_contexts):
            table = pyro.sample("next", prior)
        symbols = dist.constraints.integer_interval(0, n_tokens - 1)
        if len(token):  # Pyro knows no plate of size zero
            with pyro.plate("step", len(token)):
                told = Deferred(
                    lambda: RowCategorical(table, self._steps(data)[0][self._of_tokens(data)]),
                    token.shape, torch.Size(), symbols,
                )  # fmt: skip
                pyro.sample("token", told, obs=token)
        if self.ends(data) is None:
            return
        with pyro.plate("sequence", len(length)):
            ending = Deferred(
                lambda: dist.Delta(length, log_density=self._of_ends(table, data)),
                length.shape, torch.Size(), dist.constraints.nonnegative_integer,
            )  # fmt: skip
            pyro.sample("length", ending, obs=length)

    # -- the data as counts ------------------------------------------------------------------

    def ends(self, data: Data) -> int | None:
        """The number of END, where sequences tell their own end."""
        said = self.end == "yes" or (self.end == "auto" and not one_length(data["length"]))
        return int(data["n_tokens"]) if said else None

    def _sizes(self, data: Data) -> tuple[int, int]:
        """Contexts, and symbols that may follow one."""
        n_tokens = int(data["n_tokens"])
        return (n_tokens + 1) ** (self.order - 1), n_tokens + (self.ends(data) is not None)

    def _steps(self, data: Data) -> tuple[Tensor, Tensor, Tensor]:
        """Context (E,) and symbol (E,) of every step, ENDs among them; steps (N,) by sequence.

        Contexts are numbers in base ``n_tokens + 1``, the symbol just before being the last digit.
        """
        refuse_gaps(data)
        start = int(data["n_tokens"])
        inputs, targets, steps = unrolled(data, self.ends(data))
        begin = (steps.cumsum(0) - steps).repeat_interleave(steps)
        place = torch.arange(len(inputs), device=inputs.device)
        context = torch.zeros_like(inputs)
        for back in range(self.order - 1):
            inside = place - back >= begin
            symbol = torch.where(inside, inputs[(place - back).clamp(min=0)], start)
            context = context + symbol * (start + 1) ** back
        return context, targets, steps

    def _of_tokens(self, data: Data) -> Tensor:
        """Which steps are tokens."""
        return self._steps(data)[1] < int(data["n_tokens"])

    def _of_ends(self, table: Tensor, data: Data) -> Tensor:
        """Log probability of each sequence's END (N,)."""
        context, targets, _ = self._steps(data)
        tiny = torch.finfo(table.dtype).tiny
        return table[context[targets == int(data["n_tokens"])], -1].clamp(min=tiny).log()

    def counts(self, data: Data) -> Tensor:
        """How often each symbol follows each context, ``(context, symbol)``."""
        context, targets, _ = self._steps(data)
        n_contexts, n_symbols = self._sizes(data)
        flat = torch.bincount(context * n_symbols + targets, minlength=n_contexts * n_symbols)
        return flat.reshape(n_contexts, n_symbols).to(torch.get_default_dtype())

    # -- hooks -------------------------------------------------------------------------------

    def marginal(self, latents: Latents, data: Data) -> Tensor:
        """``sum_t log next_{c_t, x_t}``: (N,), nats."""
        context, targets, steps = self._steps(data)
        table = latents["next"]
        nats = table[context, targets].clamp(min=torch.finfo(table.dtype).tiny).log()
        owner = torch.arange(len(steps), device=steps.device).repeat_interleave(steps)
        return nats.new_zeros(len(steps)).index_add(0, owner, nats)

    def sizes(self, data: Data) -> Tensor:
        """(N,): steps of each sequence; its END is one, where it has one."""
        return data["length"] + (self.ends(data) is not None)

    def initial(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """The mode."""
        return self.maximise({}, data, prior=True)

    def maximise(
        self, expected: Mapping[str, Tensor], data: Data, prior: bool
    ) -> dict[str, Tensor]:
        """The mode: counts and concentration, in the softmax basis where that is below one.

        Without the prior the shares of the counts; a context never seen then has no mode of its
        own, and gets equal ones.
        """
        return {"next": conjugate.weights(self.counts(data), self.concentration if prior else 1.0)}

    def mean_field(self, data: Data) -> ContextTables:
        """The posterior itself, a Dirichlet for each context."""
        return ContextTables(self, data)

    def sweeps(self, data: Data, rng: np.random.Generator, code: CDLL | None) -> IndependentDraws:
        """Draws of the posterior, each independent of the last."""
        return IndependentDraws(self, data)

    def step(self, latents: Latents, state: Any) -> tuple[Any, Tensor]:
        """The next symbol, END being the last; states of (B,) sequences go side by side."""
        table = latents["next"]
        base = table.shape[1] + (self.end == "no")
        if state is None:
            context = torch.tensor(len(table) - 1, device=table.device)
        else:
            before, symbol = state
            context = (before * base + symbol) % len(table)
        return dist.Categorical(probs=table[context]), context

    def scaled_to(self, data: Data) -> NGram:
        """A copy that says whether sequences tell their end."""
        return replace(self, end="yes" if self.ends(data) is not None else "no")

    def check(self, data: Data) -> None:
        """Refuse symbols out of range, and tables that are too large."""
        check_symbols(data)
        n_contexts, n_symbols = self._sizes(data)
        if n_contexts * n_symbols > MOST_ENTRIES:
            raise DataError(
                f"ngram: order={self.order} over {n_symbols} symbols needs a table of "
                f"{n_contexts * n_symbols:,} numbers, more than {MOST_ENTRIES:,}: take a lower "
                "order, or sequence"
            )


class ContextTables:
    """The posterior of all contexts, which one step of natural gradients reaches."""

    def __init__(self, story: NGram, data: Data) -> None:
        shape = story._sizes(data)
        self._story = story
        self.prior: Mapping[str, Tensor] = {
            "next": torch.full(shape, float(story.concentration), dtype=torch.float64)
        }

    def start(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """The prior."""
        return {"next": self.prior["next"].clone()}

    def local_step(self, parameters: Latents, data: Data, warm: Latents | None = None) -> LocalStep:
        """Counts, and ``sum_cv n_cv E log next_cv``."""
        counts, table = self._story.counts(data).double(), parameters["next"]
        expected = torch.digamma(table) - torch.digamma(table.sum(-1, keepdim=True))
        return LocalStep({"next": counts}, (counts * expected).sum(), {})

    def shared(self, parameters: Latents) -> dict[str, Distribution]:
        """A Dirichlet for each context."""
        return {"next": torch.distributions.Dirichlet(parameters["next"])}

    def local(self, parameters: Latents) -> dict[str, Distribution]:
        """Nothing belongs to single sequences."""
        return {}


class IndependentDraws:
    """A Gibbs chain whose one block is all that is unknown: its draws are independent."""

    def __init__(self, story: NGram, data: Data) -> None:
        self._concentration = story.concentration
        self._counts = story.counts(data).double().cpu().numpy()

    def sweep(self, rng: np.random.Generator) -> None:
        """Nothing is hidden but what every draw is made anew of."""

    def draw(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """``next_c ~ Dirichlet(concentration + n_c)``."""
        gamma = rng.standard_gamma(self._counts + self._concentration)
        gamma = np.maximum(gamma, np.finfo(float).tiny)
        return {"next": torch.from_numpy(gamma / gamma.sum(-1, keepdims=True))}

    def log_joint(self) -> float:
        """Log evidence: the table is integrated out."""
        a, counts = self._concentration, self._counts
        size = counts.shape[1]
        by_symbol = (gammaln(a + counts) - gammaln(a)).sum(-1)
        by_context = gammaln(size * a) - gammaln(size * a + counts.sum(-1))
        return float((by_symbol + by_context).sum())

    def state(self) -> dict[str, np.ndarray]:
        """Nothing continues."""
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Nothing continues."""
