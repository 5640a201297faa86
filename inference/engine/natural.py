"""Natural gradients: stochastic variational inference for conditionally conjugate stories.

Each step sees B of N examples. Given the parameters lambda of the shared sites, the story finds the
best q of the latents of those B, and what they add to the statistics; then

    lambda <- (1 - rho_t) lambda + rho_t (prior + N / B statistics),   rho_t = (t + delay)^-kappa

which is a step along the natural gradient of the ELBO as the B tell it. Nothing of single examples
is kept from step to step, so that memory does not grow with N, and they may come from a stream.

With all examples at every step rho is 1: coordinate ascent, whose ELBO never falls. Each example's
q is found anew until the ELBO would fall, and from then on goes on from its last: to go on from the
first steps would hold it to what they took it for (on news, perplexity 1146 instead of 972).

Labels that are summed out elsewhere have a factor of q here, so that the ELBO is a little lower
than the mean of ``lp - log_q``, in which they are summed out.

The ELBO, ``N / B`` times the examples' part less ``KL(q || prior)`` of the shared sites, is
averaged over a pass of the examples, or over a window of steps where that is shorter; the run has
settled when two windows in a row rise by less than 5e-4 of it, or than their noise.

Where a run ends up depends on where it begins: of several starts, which the story makes from some
of the examples, the one with the highest ELBO goes on.

Sources: Hoffman, Blei, Wang and Paisley (2013), "Stochastic variational inference", JMLR 14;
Hoffman, Blei and Bach (2010), "Online learning for latent Dirichlet allocation", NIPS 23.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from storyzoo.errors import SettingError
from storyzoo.inference.engine.factors import slice_examples
from storyzoo.inference.engine.own_guide import log_volume
from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.inference.engine.resume import Keeper
from storyzoo.inference.engine.stepping import Shown, Stepping
from storyzoo.inference.engine.target import Target
from storyzoo.story import Data, LocalStep

RISE, PATIENCE = 5e-4, 2
"""Share of the ELBO that counts as a rise, and windows without one before the run has settled."""
NOISE = 2.0
"""Standard errors by which a window's ELBO must exceed the last one's to count as risen."""
BATCH = 256
"""Examples per step where no number is asked for."""
BLOCK = 10_000
"""Examples that the starts look at, and whose latents are told of at once in the end."""
FEWEST_DRAWS = 10
"""Where fewer draws with the latents of single examples fit, those are left out."""
MOST_DIMS = 1000
"""Dims up to which draws are weighed against the posterior."""


@dataclass(frozen=True)
class Schedule:
    """What natural gradients are set by."""

    batch_size: int | None
    delay: float
    forgetting: float
    """Kappa."""
    max_steps: int
    starts: int
    window: int
    """Most steps that the ELBO is averaged over."""
    draws: int
    megabytes: float
    """Most that the draws may take."""


class State(NamedTuple):
    """All that continues; no tensor in it is ever changed."""

    parameters: dict[str, Tensor]
    """Of q of the shared sites."""
    local: dict[str, Tensor]
    """Of q of single examples, where every step sees them all; else empty."""
    warm: int
    """1 once the local step goes on from there."""
    steps: int
    turn: int
    """The pass over the examples."""
    place: int
    """Examples of this pass that were seen."""
    seen: int
    """Examples seen in all."""
    window: tuple[float, ...]
    """ELBOs of the steps since the last whole window."""
    elbos: tuple[float, ...]
    """Means of whole windows."""
    errors: tuple[float, ...]
    """Their standard errors."""


class Batch(NamedTuple):
    """Some examples."""

    data: Mapping[str, Any]
    size: int
    turn: int
    place: int
    """Examples of its pass that were seen once it was."""


class Answer(NamedTuple):
    """Draws of q, and how good it is."""

    draws: dict[str, np.ndarray]
    """``(1, S, *shape)`` by site."""
    stats: dict[str, np.ndarray]
    """``lp`` and ``log_q``, where they can be told; else empty."""
    elbo: float
    se: float
    notes: tuple[str, ...]


class NaturalFit:
    """One run: the family, the examples, and the state. Call everything under the context."""

    def __init__(self, schedule: Schedule, target: Target, seed: int, keeper: Keeper) -> None:
        self.schedule, self.target, self.keeper = schedule, target, keeper
        family = target.story.mean_field(target.data)
        assert family is not None
        self.family = family
        self.seed = seed
        stream = target.stream
        self.n_examples = target.n_examples if stream is None else stream.n_examples
        self.size = min(schedule.batch_size or BATCH, self.n_examples)
        self.whole = stream is None and self.size == self.n_examples
        per_pass = math.ceil(self.n_examples / self.size)
        self.exact = per_pass <= schedule.window
        """Whether a window sees every example just once, so that it has no noise."""
        self.window = min(per_pass, schedule.window)
        stored = keeper.load()
        self.state = self._begin() if stored is None else _restored(stored, target.device)
        self.resumed = self.state.seen

    def _begin(self) -> State:
        """At the start with the highest ELBO, as some of the examples in memory tell it."""
        seeds = [np.random.default_rng([self.seed, 0, i]) for i in range(self.schedule.starts)]
        rows = np.sort(seeds[0].permutation(self.target.n_examples)[:BLOCK])
        some = slice_examples(self.target.story, self.target.data, torch.from_numpy(rows))
        scale = self.n_examples / len(rows)
        found = [self._scaled(self.family.start(some, rng), scale) for rng in seeds]
        heights = [self._height(parameters, some, scale) for parameters in found]
        return State(found[int(np.argmax(heights))], {}, 0, 0, 0, 0, 0, (), (), ())

    def _scaled(self, parameters: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
        """Parameters of some examples, as all would have them."""
        prior = self.family.prior
        return {n: prior[n] + scale * (value - prior[n]) for n, value in parameters.items()}

    def _height(self, parameters: Mapping[str, Tensor], some: Data, scale: float) -> float:
        """The ELBO."""
        if self.schedule.starts == 1:
            return 0.0
        told = float(self.family.local_step(parameters, some).elbo)
        return scale * told - self._divergence(parameters)

    # -- the examples --------------------------------------------------------------------

    def _batches(self, turn: int, place: int) -> Iterator[Batch]:
        """Batches without end, from a place in a pass."""
        while True:
            batches = self._of_memory if self.target.stream is None else self._of_stream
            yield from batches(turn, place)
            turn, place = turn + 1, 0

    def _of_memory(self, turn: int, place: int) -> Iterator[Batch]:
        """One pass, in an order that follows from the seed and the pass alone."""
        if self.whole:
            yield Batch(self.target.data, self.size, turn, self.size)
            return
        order = torch.from_numpy(
            np.random.default_rng([self.seed, 1, turn]).permutation(self.n_examples)
        )
        while place < self.n_examples:
            rows = order[place : place + self.size].sort().values
            place += len(rows)
            data = slice_examples(self.target.story, self.target.data, rows)
            yield Batch(data, len(rows), turn, place)

    def _of_stream(self, turn: int, place: int) -> Iterator[Batch]:
        """One pass in the order of the stream; what was seen of it is read over."""
        assert self.target.stream is not None
        before = 0
        for block in self.target.stream.blocks(self.size):
            data = {n: self._as_tensor(value) for n, value in block.items()}
            size = len(data[next(iter(self.target.story.ragged.values()))])
            before += size
            if before > place:
                yield Batch(data, size, turn, before)

    def _as_tensor(self, value: Any) -> Any:
        if np.isscalar(value):
            return value
        return torch.from_numpy(value).to(self.target.device)

    # -- the run -------------------------------------------------------------------------

    def run(self, budget: Budget, progress: Progress) -> str:
        """Step until the ELBO has levelled off; how it ended. The state is whole at any time."""
        most = self.schedule.max_steps
        stepping = Stepping(self.keeper, self._stored, lambda: bool(self.state.steps))
        stopped = stepping.run(self._steps(), self.state.steps, most, budget, progress)
        if stopped != "done":
            return stopped
        return "settled" if self.settled else "max_steps"

    def _steps(self) -> Iterator[Shown]:
        batches = self._batches(self.state.turn, self.state.place)
        while self.state.steps < self.schedule.max_steps and not self.settled:
            self.state = self._step(self.state, next(batches))
            yield {"elbo": f"{(*self.state.elbos, *self.state.window)[-1]:.6g}"}

    @property
    def settled(self) -> bool:
        """Whether the last windows have not risen."""
        elbos, errors = self.state.elbos, self.state.errors
        if len(elbos) <= PATIENCE:
            return False
        return not any(
            elbos[-i] - elbos[-i - 1]
            > max(RISE * abs(elbos[-i]), NOISE * math.hypot(errors[-i], errors[-i - 1]))
            for i in range(1, PATIENCE + 1)
        )

    def _step(self, state: State, batch: Batch) -> State:
        """The local step, and the shared sites' along the natural gradient."""
        scale = self.n_examples / batch.size
        divergence = self._divergence(state.parameters)
        found = self.family.local_step(
            state.parameters, batch.data, state.local if state.warm else None
        )
        elbo, warm = scale * float(found.elbo) - divergence, state.warm
        if self.whole and not warm and state.elbos and elbo < state.elbos[-1]:
            found = self.family.local_step(state.parameters, batch.data, state.local)
            elbo, warm = float(found.elbo) - divergence, 1
        rho = 1.0 if self.whole else self._rho(state.steps)
        parameters = {
            name: (1 - rho) * state.parameters[name]
            + rho * (prior + scale * found.statistics[name])
            for name, prior in self.family.prior.items()
        }
        state = state._replace(
            parameters=parameters,
            local=found.parameters if self.whole else {},
            warm=warm,
            steps=state.steps + 1,
            turn=batch.turn,
            place=batch.place,
            seen=state.seen + batch.size,
            window=(*state.window, elbo),
        )
        return self._next_window(state) if len(state.window) == self.window else state

    def _rho(self, steps: int) -> float:
        return float((steps + self.schedule.delay) ** -self.schedule.forgetting)

    def _next_window(self, state: State) -> State:
        values = np.array(state.window)
        error = 0.0 if self.exact else float(values.std(ddof=1) / math.sqrt(len(values)))
        return state._replace(
            window=(),
            elbos=(*state.elbos, float(values.mean())),
            errors=(*state.errors, error),
        )

    def _divergence(self, parameters: Mapping[str, Tensor]) -> float:
        """KL(q || prior) of the shared sites, nats."""
        q, prior = self.family.shared(parameters), self.family.shared(self.family.prior)
        return float(sum(kl_divergence(q[name], prior[name]).sum() for name in q))

    @property
    def passes(self) -> int:
        """Passes over all examples so far."""
        return round(self.state.seen / self.n_examples)

    # -- the answer ----------------------------------------------------------------------

    def answer(self) -> Answer:
        """Draws of q, and its ELBO: of all examples in memory; of a stream, the last window's."""
        count, with_local, notes = self._plan()
        local, elbo, se = self._told(with_local)
        shared = self.family.shared(self.state.parameters)
        torch.manual_seed(int(np.random.SeedSequence([self.seed, 2]).generate_state(1)[0]))
        factors = {**shared, **(self.family.local(local) if local else {})}
        draws = {name: q.sample((count,)).to(_default()) for name, q in factors.items()}
        size = sum(math.prod(s.shape) for s in self.target.structure.latents.values())
        stats: dict[str, np.ndarray] = {}
        if not with_local or size > MOST_DIMS:
            notes.append(
                f"k-hat was not computed: {size:,} dims are far too many for importance weights"
                if with_local
                else "k-hat was not computed: it needs the latents of single examples"
            )
        else:
            stats = self._densities(draws, factors)
        arrays = {name: value.cpu().numpy()[None] for name, value in draws.items()}
        return Answer(arrays, stats, elbo, se, tuple(notes))

    def _plan(self) -> tuple[int, bool, list[str]]:
        """How many draws fit, whether with the latents of single examples, and why not."""
        structure = self.target.structure
        local = sum(math.prod(site.shape) for site in structure.local.values())
        shared = sum(math.prod(site.shape) for site in structure.latents.values()) - local
        fit, with_local = self._fitting(shared + local), True
        notes = []
        names = ", ".join(structure.local)
        if self.target.stream is not None:
            with_local = False
            notes.append(f"a stream's examples are not kept, nor is their {names}")
        elif fit < min(FEWEST_DRAWS, self.schedule.draws):
            with_local = False
            notes.append(
                f"draws of {names} were left out: {FEWEST_DRAWS} would take "
                f"{8e-6 * FEWEST_DRAWS * (shared + local):.0f} MB, and "
                f"megabytes={self.schedule.megabytes:g} is the most"
            )
        count = min(self.schedule.draws, fit if with_local else self._fitting(shared))
        if count < 1:
            raise SettingError(
                f"svi: a draw takes {8e-6 * shared:.0f} MB, and "
                f"megabytes={self.schedule.megabytes:g} is the most: raise it"
            )
        if count < self.schedule.draws:
            notes.append(
                f"{count} of {self.schedule.draws} draws fit in "
                f"megabytes={self.schedule.megabytes:g}"
            )
        return count, with_local, notes

    def _fitting(self, size: int) -> int:
        return int(self.schedule.megabytes / (8e-6 * size))

    def _told(self, with_local: bool) -> tuple[dict[str, Tensor], float, float]:
        """q of single examples where it is asked for, and the ELBO with its standard error."""
        state = self.state
        if self.target.stream is not None:
            values = np.array(state.window) if len(state.window) > 1 or not state.elbos else None
            if values is None:
                return {}, state.elbos[-1], state.errors[-1]
            se = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
            return {}, float(values.mean()), float(se)
        found = list(self._local_steps(with_local))
        total = sum(float(step.elbo) for step in found) - self._divergence(state.parameters)
        names = found[0].parameters if with_local else {}
        return {n: torch.cat([f.parameters[n] for f in found]) for n in names}, total, 0.0

    def _local_steps(self, with_local: bool) -> Iterator[LocalStep]:
        """All examples, a block at a time."""
        story, data, state = self.target.story, self.target.data, self.state
        for rows in torch.arange(self.n_examples).split(BLOCK):
            warm = {n: value[rows] for n, value in state.local.items()} or None
            block = slice_examples(story, data, rows)
            found = self.family.local_step(state.parameters, block, warm)
            yield found if with_local else found._replace(parameters={}, statistics={})

    def _densities(
        self, draws: Mapping[str, Tensor], factors: Mapping[str, Distribution]
    ) -> dict[str, np.ndarray]:
        """Log densities of posterior and q at the draws, on the unconstrained scale, nats."""
        density = self.target.density()
        flat = density.flatten(draws)
        log_q = sum(
            (q.log_prob(draws[name]).flatten(1).sum(1) for name, q in factors.items()),
            log_volume(density, flat),
        )
        log_p = density.batch(flat).detach().nan_to_num(nan=-torch.inf)
        return {"lp": log_p.cpu().numpy()[None], "log_q": log_q.cpu().numpy()[None]}

    # -- what is stored ------------------------------------------------------------------

    def _stored(self) -> dict[str, Any]:
        state = self.state
        stored: dict[str, Any] = {
            name: np.asarray(getattr(state, name)) for name in State._fields[2:]
        }
        for part in ("parameters", "local"):
            for name, value in getattr(state, part).items():
                stored[f"{part}/{name}"] = value.cpu().numpy()
        return stored


def _restored(stored: Mapping[str, np.ndarray], device: str) -> State:
    tensors: dict[str, dict[str, Tensor]] = {"parameters": {}, "local": {}}
    for key, value in stored.items():
        part, slash, name = key.partition("/")
        if slash:
            tensors[part][name] = torch.as_tensor(value, device=device)
    counts = {name: int(stored[name]) for name in ("warm", "steps", "turn", "place", "seen")}
    paths = {name: tuple(stored[name].tolist()) for name in ("window", "elbos", "errors")}
    return State(**tensors, **counts, **paths)  # type: ignore[arg-type]


def _default() -> torch.dtype:
    return torch.get_default_dtype()
