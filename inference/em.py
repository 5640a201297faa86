"""Expectation maximisation, for any story whose discrete sites can be summed out.

E-step: the exact posterior weights of the discrete sites at the present point, from the gradient
of the log marginal, or the story's own expected statistics. M-step: the story's closed
``maximise``, or L-BFGS on the expected complete log joint. The objective,

``sum_n log p(x_n | theta) [+ log prior(theta)]``,

never goes down (Dempster, Laird and Rubin 1977). With ``hard`` all weight goes to the best
labelling: Lloyd's algorithm for a mixture, Viterbi training for a chain. The answer is a point.

Latents of single examples (a document's mixture) are climbed like all others where the story's own
two steps tell of them.

With ``collapsed`` the continuous latents are integrated out instead, as far as the story knows how:
its own ascent in the labels' weights (``story.collapse``) goes on until the weights stand still.
That is a variational approximation without a bound; its objective is the score of every
observation given all others, which may fall now and then, and its point the posterior mean under
the final weights, not a mode (Asuncion, Welling, Smyth and Teh 2009).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from storyzoo.errors import NoModeError, RefusedError
from storyzoo.inference.engine.ascent import ascend
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.enumeration import responsibilities, under_labels
from storyzoo.inference.engine.expected_joint import ExpectedJoint
from storyzoo.inference.engine.factors import priors_of, slice_examples, slice_local
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
from storyzoo.inference.engine.tree import posterior_tree, with_restarts
from storyzoo.story import Collapsed, Expectation, Story

THREADED_ROWS = 20_000
"""Rows of data above which a step is spread over threads; below, starting them costs more."""
RESTARTS, LOCAL_RESTARTS, COLLAPSED_RESTARTS = 10, 6, 1
"""Restarts where none are asked for; fewer where single examples have latents to climb."""
TOLERANCE, LOCAL_TOLERANCE, COLLAPSED_TOLERANCE = 1e-8, 1e-2, 2e-3
"""Nats per example; the same where single examples have latents, which creep on for thousands of
steps and foretell no better (topics of news: perplexity 878 after 165 steps, 877 after 778); mean
share of a label's weight that a sweep moves."""


@dataclass(frozen=True)
class EM(Method):
    """Expectation maximisation from several starts.

    ``objective="posterior"`` includes the priors (a MAP estimate of the constrained parameters),
    ``"likelihood"`` drops those of the global sites.
    """

    name: ClassVar[str] = "em"
    kind: ClassVar[Kind] = "point"
    info_type: ClassVar[type[Info]] = PointInfo

    restarts: int | None = None
    """10 by default; 6 where single examples have continuous latents; collapsed 1, as topics hardly
    ever come out twice alike."""
    max_steps: int = 2000
    tolerance: float | None = None
    """Gain at which it ends, 1e-8 nats per example, or 0.01 where single examples have continuous
    latents; collapsed, the mean share of a label's weight that a sweep still moves, 0.002."""
    objective: Literal["posterior", "likelihood"] = "posterior"
    hard: bool = False
    collapsed: bool = False
    """Whether continuous latents are integrated out; only for stories with a ``collapse`` hook."""
    minutes: float | None = None

    def __post_init__(self) -> None:
        some = self.restarts is None or self.restarts >= 1
        require(some, "em", "restarts", self.restarts, "at least 1")
        require(self.max_steps >= 1, "em", "max_steps", self.max_steps, "at least 1")
        sound = self.tolerance is None or self.tolerance >= 0
        require(sound, "em", "tolerance", self.tolerance, "at least 0")
        known = ("posterior", "likelihood")
        require(self.objective in known, "em", "objective", self.objective, " or ".join(known))
        alone = not (self.collapsed and (self.hard or self.objective != "posterior"))
        require(alone, "em", "collapsed", True, "without hard and objective=likelihood")

    def starts(self, structure: Structure) -> int:
        """How many restarts."""
        if self.restarts is not None:
            return self.restarts
        usual = LOCAL_RESTARTS if structure.local else RESTARTS
        return COLLAPSED_RESTARTS if self.collapsed else usual

    def least_gain(self, structure: Structure) -> float:
        """The tolerance."""
        if self.tolerance is not None:
            return self.tolerance
        usual = LOCAL_TOLERANCE if structure.local else TOLERANCE
        return COLLAPSED_TOLERANCE if self.collapsed else usual

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
        if self.collapsed:
            if story.has("collapse"):
                return None
            return "it has no collapsed form; leave collapsed out"
        if structure.local and not (story.has("expect") and story.has("maximise")):
            names = ", ".join(structure.local)
            return story.lacks("maximise") or (
                f"'{names}' is continuous and belongs to single examples; use svi or nuts"
            )
        return None

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        """Climb from every start, a step of each in turn, until all have settled."""
        climb = Climb(self, target, seed, checkpoint)
        stopped = "settled"
        progress.start(None)
        try:
            with target.context(), _threads(_rows(target), self.collapsed) as pool:
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
    collapsed: Collapsed | None = None
    """What climbs in its stead, where latents are integrated out."""


class Chunk(NamedTuple):
    """Some of the examples."""

    rows: Tensor | None
    """Which; None where it is all of them."""
    data: dict[str, Any]


class Climb:
    """The state of a run: its restarts, taken a step at a time in turn."""

    def __init__(self, method: EM, target: Target, seed: int, checkpoint: Checkpoint | None):
        self.method, self.target = method, target
        self._starts = method.starts(target.structure)
        self._least_gain = method.least_gain(target.structure)
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
        if target.story.has("expect") or self.method.collapsed:
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
        seeds = np.random.SeedSequence(seed).spawn(self._starts)
        return [self._start(np.random.default_rng(s)) for s in seeds]

    def _start(self, rng: np.random.Generator) -> Restart:
        story, data = self.target.story, self.target.data
        with self.target.context():
            if self.method.collapsed:
                return Restart({}, collapsed=story.collapse(data, rng))
            initial = story.initial(data, rng)
        if initial is not None:
            return Restart(dict(initial))
        return Restart(self.density.unflatten(self.density.start(rng)))

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
        if restart.collapsed is not None:
            self._sweep(restart, restart.collapsed)
            return
        likelihood, expected = self._expect(restart.latents, pool)
        self.passes += 1
        objective = likelihood + self._prior(restart.latents)
        if not np.isfinite(objective):
            restart.over = "ran away"
            return
        gain = objective - restart.path[-1] if restart.path else np.inf
        restart.path.append(objective)
        if gain <= self._least_gain * self.target.n_examples:
            restart.over = "settled"
        elif len(restart.path) > self.method.max_steps:
            restart.over = "max_steps"
        else:
            restart.latents = self._maximise(restart.latents, expected)

    def _sweep(self, restart: Restart, collapsed: Collapsed) -> None:
        """One pass of a collapsed ascent, which ends when the weights stand still."""
        score, change = collapsed.sweep()
        self.passes += 1
        restart.path.append(score)
        if change <= self._least_gain:
            restart.over = "settled"
        elif len(restart.path) >= self.method.max_steps:
            restart.over = "max_steps"
        if restart.over or self.budget.spent:
            restart.latents = collapsed.latents()

    def _prior(self, latents: Mapping[str, Tensor]) -> float:
        """Log priors that count, in the basis in which they have a mode."""
        target, structure = self.target, self.target.structure
        if not (self.density.prior or structure.local):
            return 0.0
        log_prior, local = priors_of(target.story, target.data, latents, structure)
        basis = [
            latents[name].log().sum()
            for name, site in structure.latents.items()
            if site.softmax_basis and (self.density.prior or site.local)
        ]
        return float(log_prior * self.density.prior + local.sum() + sum(basis, torch.zeros(())))

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
        chunks = self._chunks() if pool is not None else [Chunk(None, self.target.data)]

        def expect(chunk: Chunk) -> Expectation:
            own = latents
            if chunk.rows is not None:
                own = slice_local(latents, self.target.structure, chunk.rows)
            found = story.expect(own, chunk.data, hard)
            assert found is not None
            return found

        answers = list(map(expect, chunks) if pool is None else pool.map(expect, chunks))
        first = answers[0]
        statistics = {
            name: sum((a.statistics[name] for a in answers[1:]), value)
            for name, value in first.statistics.items()
        }
        joined = {n: torch.cat([a.by_example[n] for a in answers]) for n in first.by_example}
        return float(sum(float(a.log_likelihood) for a in answers)), {**statistics, **joined}

    def _chunks(self) -> list[Chunk]:
        if not hasattr(self, "_sliced"):
            places = np.array_split(np.arange(self.target.n_examples), os.cpu_count() or 1)
            self._sliced = [self._chunk(torch.as_tensor(rows)) for rows in places if len(rows)]
        return self._sliced

    def _chunk(self, rows: Tensor) -> Chunk:
        return Chunk(rows, slice_examples(self.target.story, self.target.data, rows))

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
            for name, value in self._continues(restart).items():
                state[f"{i}/latents/{name}"] = value.cpu().numpy()
        return state

    @staticmethod
    def _continues(restart: Restart) -> Mapping[str, Tensor]:
        return restart.latents if restart.collapsed is None else restart.collapsed.state()

    def _resumed(self) -> list[Restart] | None:
        state = self.kept.load()
        if state is None:
            return None
        self.passes = int(state["passes"])
        return [self._restored(state, i) for i in range(self._starts)]

    def _restored(self, state: Mapping[str, np.ndarray], i: int) -> Restart:
        prefix, path = f"{i}/latents/", [float(v) for v in state[f"{i}/path"]]
        latents = {
            name.removeprefix(prefix): torch.as_tensor(value, device=self.target.device)
            for name, value in state.items()
            if name.startswith(prefix)
        }
        restart = Restart(latents, path, str(state[f"{i}/over"]))
        if self.method.collapsed:
            restart.collapsed = self._start(np.random.default_rng(0)).collapsed
            assert restart.collapsed is not None
            restart.collapsed.restore(latents)
            restart.latents = restart.collapsed.latents()
        return restart

    def outcome(self, stopped: str) -> Outcome:
        """The best sane restart as a point, and how all of them ended."""
        if stopped == "interrupted":
            self.kept.save(self._state())
        else:
            self.kept.remove()
        for restart in self.restarts:
            if restart.collapsed is not None and not restart.latents:
                restart.latents = restart.collapsed.latents()
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
            collapsed=self.method.collapsed,
            converged=chosen.over == "settled",
        )
        tree = posterior_tree(self.target.structure, point, {})
        if self.target.story.has("agreement"):
            found = [r.latents for i, r in enumerate(self.restarts) if i in sane]
            ends = [{name: v.detach().cpu().numpy() for name, v in end.items()} for end in found]
            tree = with_restarts(tree, self.target.structure, ends)
        return Outcome(tree, info)

    def _engine_in_words(self) -> str:
        if self.method.collapsed:
            return "the story's own collapsed ascent"
        if self.target.story.has("expect"):
            return "the story's own statistics"
        ascent = f", M-step by {self.expected.engine}" if self.expected else ""
        return f"enumeration of the discrete sites{ascent}"

    def _start_in_words(self) -> str:
        own = self.target.story.has("initial") or self.method.collapsed
        where = "the story's own starts" if own else "prior draws"
        return f"{len(self.restarts)} restarts from {where}"

    def _degenerate(self, restart: Restart) -> str:
        if restart.over == "ran away":
            return "the objective rises without bound"
        if restart.collapsed is not None:  # its objective is a probability, and bounded
            return ""
        q = self.density.flatten(restart.latents)
        away = runaway(self.density, q)
        if away is not None:
            return f"the objective rises without bound as {away}"
        found = self.target.story.diagnose(restart.latents, self.target.data)
        return "; ".join(f"{where}: {why}" for where, why in found.items())


def _rows(target: Target) -> int:
    """Length of the longest of the data: examples, or the entries that they are made of."""
    sizes = [len(v) for v in target.data.values() if isinstance(v, Tensor) and v.dim()]
    return max([target.n_examples, *sizes])


@contextmanager
def _threads(rows: int, in_order: bool) -> Iterator[ThreadPoolExecutor | None]:
    """A pool over the cores with one intra-op thread each, where there is work enough for it."""
    if in_order or rows < THREADED_ROWS:
        yield None
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
