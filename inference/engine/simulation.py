"""Simulate from a story: its model run with the observed sites sampled instead of given.

What the model observes is replaced by placeholders. That is right only where the model does not
read what it observes; this is checked once by running it on two different placeholders under one
seed, and a story that does read its own past simulates by its ``step``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from storyzoo.errors import RefusedError
from storyzoo.inference.engine.factors import ValueMessenger, slice_examples
from storyzoo.inference.engine.target import Target
from storyzoo.story import Latents


class Simulator:
    """Draws data sets of any size from a story, given its latents or from its prior."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.story, self.structure = target.story, target.structure
        with target.context():
            self.reads_past = self._reads_past()

    def refuses(self) -> str | None:
        """Why nothing can be simulated; None where it can."""
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
        self, latents: Latents, rng: np.random.Generator, n: int | None = None
    ) -> dict[str, Any]:
        """One data set by argument of the model: ``n`` examples, or as many as the data hold.

        Latents of single examples are drawn anew for a new size. Covariates of a new size are
        rows of the data at hand, drawn with replacement. Raises RefusedError with the reason.
        """
        sites, given = self.sites(latents, rng, n)
        return {name: sites.get(name, value) for name, value in given.items()}

    def sites(
        self, latents: Latents, rng: np.random.Generator, n: int | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Every simulated value by site, the outcomes by argument too; and the data given."""
        reason = self.refuses()
        if reason is not None:
            raise RefusedError(f"{self.story.name} can't be simulated: {reason}")
        with self.target.context():
            torch.manual_seed(int(rng.integers(2**31)))
            given = self._placeholders(n, rng)
            if self.reads_past:
                return {self.structure.outcomes[0]: self._walk(latents, n)}, given
            kept = latents if n is None else self._of_all_examples(latents)
            values = self._run(kept, given)
        return values | self._by_argument(values), given

    def prior(self, rng: np.random.Generator) -> dict[str, Any]:
        """Latents and data of the size at hand, drawn together from the prior; by site."""
        reason = self.refuses_prior()
        if reason is not None:
            raise RefusedError(f"{self.story.name} has no prior draws: {reason}")
        with self.target.context():
            torch.manual_seed(int(rng.integers(2**31)))
            if not self.reads_past:
                values = self._run({}, self._placeholders(None, rng))
                return values | self._by_argument(values)
            values = self._run({}, self._placeholders(None, rng))
            latents = {name: values[name] for name in self.structure.latents}
            return latents | {self.structure.outcomes[0]: self._walk(latents, None)}

    # -- parts ---------------------------------------------------------------------------

    def _of_all_examples(self, latents: Latents) -> dict[str, Tensor]:
        return {k: v for k, v in latents.items() if k not in self.structure.local}

    def _run(self, latents: Latents, given: Mapping[str, Any]) -> dict[str, Tensor]:
        with poutine.trace() as tracer, ValueMessenger(latents):
            poutine.uncondition(self.story.model)(**given)
        return {
            name: tracer.trace.nodes[name]["value"].detach()
            for name in self.structure.sites
            if name in tracer.trace.nodes
        }

    def _by_argument(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What was simulated, by the argument that would observe it."""
        outcomes = {}
        for argument in self.structure.outcomes:
            names = [n for n, s in self.structure.observed.items() if s.argument == argument]
            pieces = [values[name] for name in names if name in values]
            if len(pieces) == 1:
                outcomes[argument] = pieces[0]
            elif pieces:
                outcomes[argument] = torch.stack(pieces)
        return outcomes

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
        """A sequence by the story's step: each observation is read by the next."""
        length = n or self.target.data[self.structure.outcomes[0]].shape[0]
        state: Any = None
        observations = []
        for _ in range(length):
            answer = self.story.step(latents, state)
            assert answer is not None
            distribution, inner = answer
            observation = distribution.sample()
            observations.append(observation)
            state = (inner, observation)
        return torch.stack(observations)

    def _reads_past(self) -> bool:
        first = self._placeholders(None, np.random.default_rng(0))
        second = {
            name: value + 1 if name in self.structure.outcomes else value
            for name, value in first.items()
        }
        generator = torch.Generator().manual_seed(0)
        latents = self.target.density().draw(generator, uniform=True)
        runs = []
        for given in (first, second):
            pyro.set_rng_seed(1)
            runs.append(self._run(latents, given))
        return any(
            not torch.equal(runs[0][name], runs[1][name])
            for name in self.structure.observed
            if name in runs[0] and name in runs[1]
        )
