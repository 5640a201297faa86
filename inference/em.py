"""Expectation maximisation, for any story whose discrete sites can be summed out.

E-step: the exact posterior weights of the discrete sites at the present point, from the gradient
of the log marginal, or the story's own expected statistics. M-step: the story's closed
``maximise``, or L-BFGS on the expected complete log joint. The objective,

``sum_n log p(x_n | theta) [+ log prior(theta)]``,

never goes down (Dempster, Laird and Rubin 1977). With ``hard`` all weight goes to the best
labelling: Lloyd's algorithm for a mixture, Viterbi training for a chain. The answer is a point.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from storyzoo.errors import NoModeError, RefusedError
from storyzoo.inference.engine.ascent import ascend
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.enumeration import responsibilities, under_labels
from storyzoo.inference.engine.expected_joint import ExpectedJoint
from storyzoo.inference.engine.factors import priors_of, slice_examples
from storyzoo.inference.engine.method import (
    Info,
    Kind,
    Method,
    Outcome,
    PointInfo,
    needs_density,
    require,
)
from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.inference.engine.resume import Keeper, fingerprint
from storyzoo.inference.engine.runaway import runaway
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.story import Expectation, Story

THREADED_ROWS = 20_000
"""Examples above which a step is spread over threads; below, starting them costs more."""


@dataclass(frozen=True)
class EM(Method):
    """Expectation maximisation from several starts.

    ``objective="posterior"`` includes the priors (a MAP estimate of the constrained parameters),
    ``"likelihood"`` drops those of the global sites. ``tolerance`` is in nats per example.
    """

    name: ClassVar[str] = "em"
    kind: ClassVar[Kind] = "point"
    info_type: ClassVar[type[Info]] = PointInfo

    restarts: int = 10
    max_steps: int = 2000
    tolerance: float = 1e-8
    objective: Literal["posterior", "likelihood"] = "posterior"
    hard: bool = False
    minutes: float | None = None

    def __post_init__(self) -> None:
        require(self.restarts >= 1, "em", "restarts", self.restarts, "at least 1")
        require(self.max_steps >= 1, "em", "max_steps", self.max_steps, "at least 1")
        require(self.tolerance >= 0, "em", "tolerance", self.tolerance, "at least 0")
        known = ("posterior", "likelihood")
        require(self.objective in known, "em", "objective", self.objective, " or ".join(known))

    def refuses(self, story: Story, structure: Structure) -> str | None:
        """EM sums discrete sites out; a story without any has nothing to expect."""
        if story.has("stochastic_gradient"):
            use = "map" if story.intractable() is None else "contrastive"
            return (
                "no M-step is closed: what it hides is summed out already, but its normaliser "
                f"depends on every unknown; use {use}"
            )
        reason = needs_density(story)
        if reason is not None:
            return reason
        if not structure.discrete:
            return "it has no discrete site to take expectations over; use map"
        if structure.local:
            names = ", ".join(structure.local)
            return f"'{names}' is continuous and belongs to single examples; use svi or nuts"
        return None

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        """Climb from every start, a step of each in turn, until all have settled."""
        climb = Climb(self, target, seed, checkpoint)
        stopped = "settled"
        progress.start(None)
        try:
            with target.context(), _threads(target.n_examples) as pool:
                for still in climb.steps(pool):
                    progress.update(1, best=f"{climb.best_objective:.4f}", climbing=still)
        except KeyboardInterrupt:
            if not climb.started:
                raise
            stopped = "interrupted"
        finally:
            progress.close()
        return climb.outcome(stopped)


@dataclass
class Restart:
    """One ascent: where it stands, and the objective at every step."""

    latents: dict[str, Tensor]
    path: list[float] = field(default_factory=list)
    over: str = ""
    """Why it ended; empty while it climbs."""


class Climb:
    """The state of a run: its restarts, taken a step at a time in turn."""

    def __init__(self, method: EM, target: Target, seed: int, checkpoint: Checkpoint | None):
        self.method, self.target = method, target
        # The mark is a hash of all the data: only where something is kept.
        mark = "" if checkpoint is None else fingerprint(method, target, seed)
        self.kept = Keeper(checkpoint, mark)
        self.budget = Budget(method.minutes)
        self.density = target.density(jacobian=False, prior=method.objective == "posterior")
        self.expected: ExpectedJoint | None = None
        self.passes = 0
        self.restarts = self._resumed() or self._started(seed)
        self._refuse_labelled_priors()

    def _refuse_labelled_priors(self) -> None:
        """EM takes the priors of continuous sites outside the expectation over discrete ones."""
        target = self.target
        if target.story.has("expect"):
            return
        with target.context():
            found = under_labels(
                target.story, target.data, self.restarts[0].latents, target.structure
            )
        if found:
            raise RefusedError(
                f"em can't fit {target.story.name}: the prior of '{found[0]}' depends on a "
                "discrete site; use map, svi or nuts"
            )

    @property
    def started(self) -> bool:
        """Whether there is anything to keep."""
        return any(restart.path for restart in self.restarts)

    @property
    def best_objective(self) -> float:
        """The highest objective so far."""
        return max((r.path[-1] for r in self.restarts if r.path), default=-np.inf)

    def _started(self, seed: int) -> list[Restart]:
        seeds = np.random.SeedSequence(seed).spawn(self.method.restarts)
        return [Restart(self._start(np.random.default_rng(s))) for s in seeds]

    def _start(self, rng: np.random.Generator) -> dict[str, Tensor]:
        with self.target.context():
            initial = self.target.story.initial(self.target.data, rng)
        if initial is not None:
            return dict(initial)
        return self.density.unflatten(self.density.start(rng))

    def steps(self, pool: ThreadPoolExecutor | None) -> Iterator[int]:
        """Take a step of every restart that still climbs; yields how many do."""
        while climbing := [r for r in self.restarts if not r.over]:
            for restart in climbing:
                self._step(restart, pool)
            if self.budget.spent:
                for restart in climbing:
                    restart.over = restart.over or "minutes"
            if self.kept.due:
                self.kept.save(self._state())
            yield len(climbing)

    def _step(self, restart: Restart, pool: ThreadPoolExecutor | None) -> None:
        """E at the present point, which also gives its objective, then M."""
        likelihood, expected = self._expect(restart.latents, pool)
        self.passes += 1
        objective = likelihood + self._prior(restart.latents)
        if not np.isfinite(objective):
            restart.over = "ran away"
            return
        gain = objective - restart.path[-1] if restart.path else np.inf
        restart.path.append(objective)
        if gain <= self.method.tolerance * self.target.n_examples:
            restart.over = "settled"
        elif len(restart.path) > self.method.max_steps:
            restart.over = "max_steps"
        else:
            restart.latents = self._maximise(restart.latents, expected)

    def _prior(self, latents: Mapping[str, Tensor]) -> float:
        if not self.density.prior:
            return 0.0
        target = self.target
        log_prior, _ = priors_of(target.story, target.data, latents, target.structure)
        basis = [
            latents[name].log().sum()
            for name, site in target.structure.latents.items()
            if site.softmax_basis
        ]
        return float(log_prior + sum(basis, torch.zeros(())))

    # -- the two steps -------------------------------------------------------------------

    def _expect(
        self, latents: Mapping[str, Tensor], pool: ThreadPoolExecutor | None
    ) -> tuple[float, dict[str, Tensor]]:
        story, hard = self.target.story, self.method.hard
        if not story.has("expect"):
            answer = responsibilities(
                story, self.target.data, latents, self.target.structure, hard=hard
            )
            by = answer.by_site if story.has("maximise") else answer.by_factor
            return float(answer.log_likelihood), by
        chunks = self._chunks() if pool is not None else [self.target.data]

        def expect(rows: Mapping[str, Any]) -> Expectation:
            found = story.expect(latents, rows, hard)
            assert found is not None
            return found

        answers = list(map(expect, chunks) if pool is None else pool.map(expect, chunks))
        statistics = {
            name: sum((a.statistics[name] for a in answers[1:]), answers[0].statistics[name])
            for name in answers[0].statistics
        }
        return float(sum(float(a.log_likelihood) for a in answers)), statistics

    def _chunks(self) -> list[dict[str, Any]]:
        if not hasattr(self, "_sliced"):
            places = np.array_split(np.arange(self.target.n_examples), os.cpu_count() or 1)
            self._sliced = [
                slice_examples(self.target.story, self.target.data, torch.as_tensor(rows))
                for rows in places
            ]
        return self._sliced

    def _maximise(
        self, latents: dict[str, Tensor], expected: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        story, data = self.target.story, self.target.data
        if story.has("maximise"):
            new = story.maximise(expected, data, self.density.prior)
            assert new is not None
            return new
        return self._ascend(latents, expected)

    def _ascend(self, latents: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """L-BFGS on the expected complete log joint, in the unconstrained coordinates."""
        q = self.density.flatten(latents)
        if self.expected is None:
            self.expected = ExpectedJoint(self.density, weights, q)
        found = ascend(partial(self.expected.value_and_gradient, weights=weights), q)
        return self.density.unflatten(found.q)

    # -- checkpoint and answer -----------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"passes": self.passes}
        for i, restart in enumerate(self.restarts):
            state[f"{i}/path"], state[f"{i}/over"] = np.array(restart.path), restart.over
            for name, value in restart.latents.items():
                state[f"{i}/latents/{name}"] = value.cpu().numpy()
        return state

    def _resumed(self) -> list[Restart] | None:
        state = self.kept.load()
        if state is None:
            return None
        self.passes = int(state["passes"])
        return [self._restored(state, i) for i in range(self.method.restarts)]

    def _restored(self, state: Mapping[str, np.ndarray], i: int) -> Restart:
        latents = {
            name: torch.as_tensor(state[f"{i}/latents/{name}"], device=self.target.device)
            for name in self.target.structure.latents
        }
        return Restart(latents, [float(v) for v in state[f"{i}/path"]], str(state[f"{i}/over"]))

    def outcome(self, stopped: str) -> Outcome:
        """The best sane restart as a point, and how all of them ended."""
        if stopped == "interrupted":
            self.kept.save(self._state())
        else:
            self.kept.remove()
        degenerate = tuple(self._degenerate(restart) for restart in self.restarts)
        finals = [r.path[-1] if r.path else -np.inf for r in self.restarts]
        sane = [i for i, text in enumerate(degenerate) if not text and np.isfinite(finals[i])]
        if not sane and all("without bound" in text for text in degenerate):
            raise NoModeError(
                f"no mode exists: {degenerate[0]}, in each of {len(finals)} restarts; "
                "use objective=posterior, or a prior that keeps it from there"
            )
        best = max(sane or range(len(finals)), key=finals.__getitem__)
        chosen = self.restarts[best]
        if stopped != "interrupted":
            stopped = chosen.over
        point = {name: v.detach().cpu().numpy()[None, None] for name, v in chosen.latents.items()}
        info = PointInfo(
            gradient_evaluations=self.passes,
            stopped=stopped,
            start=self._start_in_words(),
            engine=self._engine_in_words(),
            notes=self.expected.notes if self.expected else (),
            objectives=tuple(finals),
            degenerate=degenerate,
            best=best,
            path=tuple(chosen.path),
            prior=self.density.prior,
            converged=chosen.over == "settled",
        )
        return Outcome(posterior_tree(self.target.structure, point, {}), info)

    def _engine_in_words(self) -> str:
        if self.target.story.has("expect"):
            return "the story's own statistics"
        ascent = f", M-step by {self.expected.engine}" if self.expected else ""
        return f"enumeration of the discrete sites{ascent}"

    def _start_in_words(self) -> str:
        own = "the story's own starts" if self.target.story.has("initial") else "prior draws"
        return f"{len(self.restarts)} restarts from {own}"

    def _degenerate(self, restart: Restart) -> str:
        if restart.over == "ran away":
            return "the objective rises without bound"
        q = self.density.flatten(restart.latents)
        away = runaway(self.density, q)
        if away is not None:
            return f"the objective rises without bound as {away}"
        found = self.target.story.diagnose(restart.latents, self.target.data)
        return "; ".join(f"{where}: {why}" for where, why in found.items())


@contextmanager
def _threads(rows: int) -> Iterator[ThreadPoolExecutor | None]:
    """A pool over the cores with one intra-op thread each, where there is work enough for it."""
    if rows < THREADED_ROWS:
        yield None
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
