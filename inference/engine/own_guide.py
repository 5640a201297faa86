"""A story's own guide: a Pyro program over the continuous latent sites.

``story.guide(data)`` is that program, or gives one that takes the model's arguments. Its
parameters are what it declares by ``pyro.param``; they are gathered into one flat vector of
unconstrained values, so that Pyro's parameter store is read once, at the start, and never again.
Particles are a plate around the program where it allows that, else it is run for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import transform_to

from storyzoo.errors import StoryError
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.target import Target

Program = Callable[[], Any]


class Parameter(NamedTuple):
    """One ``pyro.param`` of the guide and its place in the flat vector."""

    name: str
    constraint: Any
    shape: torch.Size
    """Unconstrained."""
    offset: int


class ParamMessenger(Messenger):
    """Gives the guide's parameters their values."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] in self._values:
            msg["value"], msg["done"] = self._values[msg["name"]], True


class OwnGuide:
    """The story's guide from several starts; call everything under the target's context.

    Raises StoryError where the guide does not tell of exactly the story's continuous latents, or
    draws one from a distribution that has no reparametrised draws.
    """

    def __init__(self, target: Target, density: LogDensity, starts: int, seed: int) -> None:
        self._target, self._density = target, density
        self._programs: list[Program] = []
        vectors = []
        for start in range(starts):
            torch.manual_seed((seed + start) % 2**63)
            program, vector = self._begin()
            self._programs.append(program)
            vectors.append(vector)
        self._initial = torch.stack(vectors)
        self.size = self._initial.shape[1]
        self.vectorised = self._can_be_vectorised()

    def initial(self) -> Tensor:
        """Where the guide itself begins, by start."""
        return self._initial.clone()

    def draw(
        self,
        parameters: Tensor,
        starts: Tensor,
        particles: int,
        generator: torch.Generator,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws ``q`` (A, M, D) and their log densities (A, M) on the unconstrained scale."""
        assert weight is None
        drawn = []
        for vector, start in zip(parameters, starts.tolist(), strict=True):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator, device="cpu")))
            program, values = self._programs[start], self._values(vector)
            latents, log_q = self._sampled(program, values, particles)
            q = self._density.flatten(latents)
            drawn.append((q, log_q + log_volume(self._density, q)))
        return torch.stack([q for q, _ in drawn]), torch.stack([log_q for _, log_q in drawn])

    # -- the program ---------------------------------------------------------------------

    def _begin(self) -> tuple[Program, Tensor]:
        """Run the guide for the first time, which sets its parameters."""
        target = self._target
        with pyro.get_param_store().scope():
            program = _program(target)
            with poutine.trace() as tracer:
                program()
            self._check(tracer.trace)
            state = pyro.get_param_store().get_state()
        self._parameters = list(_laid_out(state))
        if not self._parameters:
            raise StoryError(f"{target.story.name}: its guide declares no pyro.param to fit")
        pieces = [state["params"][p.name].detach().reshape(-1) for p in self._parameters]
        return program, torch.cat(pieces).to(self._density.dtype)

    def _check(self, trace: Any) -> None:
        """Refuse a guide that tells of other sites than the story's, or can't be differentiated."""
        story, wanted = self._target.story.name, set(self._target.structure.latents)
        sites = {
            name: node
            for name, node in trace.nodes.items()
            if node["type"] == "sample" and not poutine.util.site_is_subsample(node)
        }
        missing, extra = sorted(wanted - set(sites)), sorted(set(sites) - wanted)
        if missing:
            raise StoryError(f"{story}: its guide draws no '{missing[0]}'")
        if extra:
            raise StoryError(
                f"{story}: its guide draws '{extra[0]}', which is no continuous latent of the model"
            )
        for name, node in sites.items():
            if not node["fn"].has_rsample:
                kind = type(node["fn"]).__name__
                raise StoryError(
                    f"{story}: its guide draws '{name}' from {kind}, which has no reparametrised "
                    "draws to differentiate through"
                )

    def _values(self, vector: Tensor) -> dict[str, Tensor]:
        """Constrained values of the guide's parameters."""
        return {
            p.name: transform_to(p.constraint)(
                vector[p.offset : p.offset + p.shape.numel()].reshape(p.shape)
            )
            for p in self._parameters
        }

    def _sampled(
        self, program: Program, values: Mapping[str, Tensor], particles: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Constrained draws ``(M, *shape)`` by site and their log density (M,)."""
        if self.vectorised:
            return self._at_once(program, values, particles)
        one = [self._at_once(program, values, None) for _ in range(particles)]
        names = self._target.structure.latents
        latents = {name: torch.cat([draw[name] for draw, _ in one]) for name in names}
        return latents, torch.cat([log_q for _, log_q in one])

    def _at_once(
        self, program: Program, values: Mapping[str, Tensor], particles: int | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One run of the program, with all particles in a plate around it or with none."""
        structure = self._target.structure
        with ExitStack() as stack:
            tracer = stack.enter_context(poutine.trace())
            if particles is not None:
                dim = -1 - structure.max_plate_nesting
                stack.enter_context(pyro.plate("_particle", particles, dim=dim))
            stack.enter_context(ParamMessenger(values))
            program()
        tracer.trace.compute_log_prob()
        nodes: Any = tracer.trace.nodes
        count = particles or 1
        latents, log_q = {}, torch.zeros(count)
        for name, site in structure.latents.items():
            latents[name] = nodes[name]["value"].reshape((count, *site.shape))
            log_q = log_q + nodes[name]["log_prob"].reshape(count, -1).sum(-1)
        return latents, log_q

    def _can_be_vectorised(self) -> bool:
        """Whether a plate around the program gives the densities that single runs give."""
        program, values = self._programs[0], self._values(self._initial[0])
        try:
            latents, log_q = self._at_once(program, values, 3)
        except (RuntimeError, ValueError, IndexError):  # the program indexes from the left
            return False
        for particle in range(3):
            fixed = {name: value[particle] for name, value in latents.items()}
            with ParamMessenger(values), poutine.trace() as tracer, poutine.condition(data=fixed):
                program()
            alone = torch.as_tensor(tracer.trace.log_prob_sum())
            if not torch.isclose(alone, log_q[particle], rtol=1e-4, atol=1e-4):
                return False
        return True


def log_volume(density: LogDensity, q: Tensor) -> Tensor:
    """``log |d theta / d q|`` at the rows of ``q`` (M, D): (M,)."""
    total = q.new_zeros(len(q))
    for slot in density.slots:
        piece = q[:, slot.offset : slot.end].reshape((len(q), *slot.unconstrained))
        change = slot.transform.log_abs_det_jacobian(piece, slot.transform(piece))
        total = total + change.reshape(len(q), -1).sum(-1)
    return total


def _program(target: Target) -> Program:
    """The guide as a program without arguments."""
    given = target.story.guide(target.data)
    if callable(given):
        return lambda: given(**target.data)
    return lambda: target.story.guide(target.data)


def _laid_out(state: Any) -> Iterator[Parameter]:
    offset = 0
    for name, value in state["params"].items():
        yield Parameter(name, state["constraints"][name], value.shape, offset)
        offset += value.numel()
