"""Simulate from a story: its model run with the observed sites sampled instead of given.

What the model observes is replaced by placeholders. That is right only where the model does not
read what it observes; this is checked once by running it on two different placeholders under one
seed, and a story that does read its own past simulates by its ``step``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from storyzoo.errors import RefusedError
from storyzoo.inference.engine.continuation import AS_TOLD, Sampling, longest, walk
from storyzoo.inference.engine.factors import ValueMessenger, slice_examples
from storyzoo.inference.engine.missing import is_part
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.story import Latents

FEW_ROWS = 10
"""Rows on which a story is checked where drawing a row takes a Markov chain."""


class Simulator:
    """Draws data sets of any size from a story, given its latents or from its prior."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.story, self.structure = target.story, target.structure
        with target.context():
            self.reads_past = self._reads_past()

    def refuses(self) -> str | None:
        """Why nothing can be simulated; None where it can."""
        for name, site in self.structure.observed.items():
            if site.argument is None:
                return f"site '{name}' observes something computed from the data"
        if self.reads_past and not self.story.has("step"):
            return "the model reads earlier observed values; give the story a `step`"
        return None

    def refuses_prior(self) -> str | None:
        """Why nothing can be drawn from the prior; None where it can."""
        if self.structure.improper:
            names = [name for name, site in self.structure.sites.items() if site.improper]
            return f"the prior of {', '.join(names)} is improper"
        return self.refuses()

    def data(
        self,
        latents: Latents,
        rng: np.random.Generator,
        n: int | None = None,
        sampling: Sampling = AS_TOLD,
    ) -> dict[str, Any]:
        """One data set by argument of the model: ``n`` examples, or as many as the data hold.

        Latents of single examples are drawn anew for a new size. Covariates of a new size are
        rows of the data at hand, drawn with replacement. A story that names no examples is one
        whole, which gets a new length only by its ``step``. Raises RefusedError with the reason.
        """
        sites, given = self.sites(latents, rng, n, sampling)
        return {name: sites.get(name, value) for name, value in given.items()}

    def sites(
        self,
        latents: Latents,
        rng: np.random.Generator,
        n: int | None = None,
        sampling: Sampling = AS_TOLD,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Every simulated value by site, the outcomes by argument too; and the data given."""
        reason = self.refuses()
        if reason is None and n is not None and not self._resizes:
            reason = "it names no independent examples, so its data have just the size at hand"
        if reason is None and sampling != AS_TOLD and not (self.reads_past and self.story.ragged):
            reason = "temperature, top_k, nucleus, prefix and most are for sequences of symbols"
        if reason is not None:
            raise RefusedError(f"{self.story.name} can't be simulated: {reason}")
        with self.target.context():
            torch.manual_seed(int(rng.integers(2**31)))
            if self.reads_past and self.story.ragged:
                return self._sequences(latents, rng, n, sampling), dict(self.target.data)
            given = self._placeholders(n, rng)
            if self.reads_past:
                return {self.structure.outcomes[0]: self._walk(latents, n)}, given
            kept = latents if n is None else self._of_all_examples(latents)
            return self._run(kept, given), given

    def prior(self, rng: np.random.Generator) -> dict[str, Any]:
        """Latents and data of the size at hand, drawn together from the prior; by site."""
        reason = self.refuses_prior()
        if reason is not None:
            raise RefusedError(f"{self.story.name} has no prior draws: {reason}")
        with self.target.context():
            torch.manual_seed(int(rng.integers(2**31)))
            if self.reads_past and self.story.ragged:
                latents = self.prior_latents(rng)
                return latents | self._sequences(latents, rng, None, AS_TOLD)
            values = self._run({}, self._placeholders(None, rng))
            if not self.reads_past:
                return values
            latents = {name: values[name] for name in self.structure.latents}
            return latents | {self.structure.outcomes[0]: self._walk(latents, None)}

    def prior_latents(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Latents alone, drawn from the prior. Raises RefusedError where it is improper."""
        reason = self.refuses_prior()
        if reason is not None:
            raise RefusedError(f"{self.story.name} has no prior draws: {reason}")
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        density = self.target.density()
        with density.running():
            return density.draw(generator)

    # -- parts ---------------------------------------------------------------------------

    @property
    def _resizes(self) -> bool:
        return self.reads_past or self.story.examples is not None

    def _of_all_examples(self, latents: Latents) -> dict[str, Tensor]:
        return {k: v for k, v in latents.items() if k not in self.structure.local}

    def _run(self, latents: Latents, given: Mapping[str, Any]) -> dict[str, Tensor]:
        with poutine.trace() as tracer, ValueMessenger(latents):
            poutine.uncondition(self.story.model)(**given)
        nodes: Any = tracer.trace.nodes
        values = {
            name: nodes[name]["value"].detach() for name in self.structure.sites if name in nodes
        }
        values |= simulated(tracer.trace, self.structure, given)
        return values | (self.story.as_data(values, given) or {})

    def _placeholders(self, n: int | None, rng: np.random.Generator) -> dict[str, Any]:
        """Data of the wanted size: zeros for what is observed, rows at hand for what is given."""
        data = self.target.data
        if n is not None and self.story.examples is not None:
            rows = torch.as_tensor(rng.integers(self.target.n_examples, size=n))
            data = slice_examples(self.story, data, rows)
        zeros = {
            name: torch.zeros_like(data[name])
            for name in self.structure.outcomes
            if isinstance(data[name], Tensor)
        }
        return {**data, **zeros}

    def _walk(self, latents: Latents, n: int | None) -> Tensor:
        """Sequences by the story's step: each observation is read by the next.

        One of length ``n`` or, where the examples are sequences, ``n`` of the length at hand.
        """
        outcome = self.structure.outcomes[0]
        dims, shape = self.story.data_dims.get(outcome, ()), self.target.data[outcome].shape
        if self.story.examples not in dims:
            return self._sequence(latents, n or shape[0])
        axis = dims.index(self.story.examples)
        length = next(size for place, size in enumerate(shape) if place != axis)
        return torch.stack([self._sequence(latents, length) for _ in range(n or shape[axis])], axis)

    def _sequences(
        self, latents: Latents, rng: np.random.Generator, n: int | None, sampling: Sampling
    ) -> dict[str, Tensor]:
        """Sequences of lengths of their own, end to end, and those lengths.

        Where none tells its end the lengths are those of sequences at hand.
        """
        dim, name = next(iter(self.story.ragged.items()))
        at_hand = self.target.data[name]
        rows = np.arange(len(at_hand)) if n is None else rng.integers(len(at_hand), size=n)
        length, end = at_hand[torch.as_tensor(rows)], self.story.ends(self.target.data)
        if end is not None:
            length = torch.full_like(length, sampling.most or longest(at_hand))
        elif sampling.most is not None:
            length = length.clamp(max=sampling.most)
        with torch.no_grad():
            walked = walk(self.story, latents, length, end, sampling)
        outcome = next(o for o in self.structure.outcomes if self.story.data_dims[o][0] == dim)
        return {outcome: walked.values, name: walked.length}

    def _sequence(self, latents: Latents, length: int) -> Tensor:
        state: Any = None
        observations, step = [], self.story.stepper(latents)
        for _ in range(length):
            answer = step(state)
            assert answer is not None
            distribution, inner = answer
            observation = distribution.sample()
            observations.append(observation)
            state = (inner, observation)
        return torch.stack(observations)

    def _reads_past(self) -> bool:
        if self.story.has("step") and self.story.ragged:
            return True  # each run of the model would walk all sequences
        few = None if self.story.intractable() is None else FEW_ROWS  # each drawn by a chain
        first = self._placeholders(few, np.random.default_rng(0))
        second = {
            name: value + _uneven(value) if name in self.structure.outcomes else value
            for name, value in first.items()
        }
        generator = torch.Generator().manual_seed(0)
        latents = self.target.density().draw(generator, uniform=True)
        runs = []
        for given in (first, second):
            torch.manual_seed(1)
            runs.append(self._run(latents, given))
        return any(
            not torch.equal(runs[0][name], runs[1][name])
            for name in self.structure.observed
            if name in runs[0] and name in runs[1]
        )


def _uneven(like: Tensor) -> Tensor:
    """Ones with some zeros, without a pattern that differences or means would take away."""
    places = torch.arange(like.numel()).reshape(like.shape)
    return 1 - (places * places % 7 % 2).to(like)


def simulated(trace: Any, structure: Structure, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """What an unconditioned run drew, by the argument that would observe it.

    A site that observes a part of an argument (a column, a step in time) fills just that part.
    """
    outcomes: dict[str, Tensor] = {}
    for name, site in structure.observed.items():
        if site.argument is None or name not in trace.nodes:
            continue
        whole, node = given[site.argument], trace.nodes[name]
        drawn, place = node["value"].detach(), node["infer"]["obs"]
        if not is_part(place, whole):  # the same in another dtype
            outcomes[site.argument] = drawn
            continue
        if site.argument not in outcomes:
            outcomes[site.argument] = whole.to(torch.result_type(whole, drawn), copy=True)
        outcome = outcomes[site.argument]
        outcome.as_strided(place.shape, place.stride(), place.storage_offset()).copy_(drawn)
    return outcomes
