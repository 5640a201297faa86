"""Story and data as one function of a flat unconstrained vector: the log density of everything.

``log p(q) = log prior(theta(q)) + sum_n log p(x_n | theta(q)) [+ log |d theta / d q|]``

Discrete sites are summed out. One object serves MAP, Laplace, NUTS and the diagnostics of VI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions.transforms import ComposeTransform, IndependentTransform, Transform

from storyzoo.errors import StoryError
from storyzoo.inference.engine.factors import (
    Parts,
    parts_of,
    priors_of,
    run_model,
    slice_examples,
    slice_local,
    tied,
)
from storyzoo.inference.engine.functional import functional_pyro
from storyzoo.inference.engine.ladder import Ladder, Rung
from storyzoo.inference.engine.missing import ObservedMessenger, runnable
from storyzoo.inference.engine.native import Native
from storyzoo.inference.engine.structure import StartMessenger, Structure, defaults
from storyzoo.inference.engine.tracing import UntraceableError, most_entries, trace_function
from storyzoo.inference.engine.transforms import to_support
from storyzoo.story import Latents, Story

TRIES = 100
"""Starts that are tried before a story is said to have no finite density."""


@dataclass(frozen=True)
class Slot:
    """Where one site lies in the flat vector."""

    name: str
    transform: Transform
    event_dim: int
    """Dims of one event of the support."""
    shape: torch.Size
    """Constrained shape."""
    unconstrained: torch.Size
    offset: int

    @property
    def end(self) -> int:
        """One past the last place."""
        return self.offset + self.unconstrained.numel()

    @cached_property
    def is_identity(self) -> bool:
        """Whether the site lies in the vector as it is."""
        transform = self.transform
        while isinstance(transform, IndependentTransform):
            transform = transform.base_transform
        return isinstance(transform, ComposeTransform) and not transform.parts

    def piece(self, q: Tensor) -> Tensor:
        """The site's part of vectors ``(…, D)``: ``(…, *unconstrained)``."""
        return q[..., self.offset : self.end].reshape((*q.shape[:-1], *self.unconstrained))

    def value(self, q: Tensor) -> Tensor:
        """The site's constrained value: ``(…, *shape)``."""
        piece = self.piece(q)
        return piece if self.is_identity else self.transform(piece)


class LogDensity:
    """Log density over the continuous latents of a story, as a function of a flat vector (D,).

    ``jacobian`` counts the volume change of the transforms (posterior density of the vector,
    for NUTS and Laplace; without it the density of the constrained parameters, for MAP).
    ``prior`` counts the priors of the global sites. A Dirichlet with a concentration below one
    has no mode on the simplex: without the Jacobian it is taken in the softmax basis, which
    multiplies its density by ``prod_k theta_k`` (MacKay 1998, "Choice of basis for Laplace
    approximation").
    """

    def __init__(
        self,
        story: Story,
        data: Mapping[str, Any],
        structure: Structure,
        device: str,
        *,
        jacobian: bool = True,
        prior: bool = True,
    ) -> None:
        self.story, self.data, self.structure = story, dict(data), structure
        self.device, self.dtype = device, getattr(torch, story.dtype)
        self.jacobian, self.prior = jacobian, prior
        self.slots = _slots(structure)
        self.dim = self.slots[-1].end if self.slots else 0
        self.evaluations = 0
        self._compiled: dict[str, Any] = {}

    # -- coordinates ---------------------------------------------------------------------

    def unflatten(self, q: Tensor) -> dict[str, Tensor]:
        """Constrained values by site; ``(…, D)`` gives ``(…, *shape)``."""
        return {s.name: s.value(q) for s in self.slots}

    def flatten(self, latents: Latents) -> Tensor:
        """The flat vector of constrained values; leading dims are kept."""
        pieces = []
        for slot in self.slots:
            value = torch.as_tensor(latents[slot.name], dtype=self.dtype, device=self.device)
            leading = value.shape[: value.dim() - len(slot.shape)]
            pieces.append(slot.transform.inv(value).reshape((*leading, -1)))
        return torch.cat(pieces, -1) if pieces else torch.zeros(0, dtype=self.dtype)

    def _volume(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Log volume change of the global sites (a scalar) and of the local ones, by example."""
        total = torch.zeros((), dtype=self.dtype, device=self.device)
        local = torch.zeros(1, dtype=self.dtype, device=self.device)
        for slot in self.slots:
            site = self.structure.sites[slot.name]
            piece = slot.piece(q)
            value = slot.transform(piece)
            if self.jacobian:
                change = slot.transform.log_abs_det_jacobian(piece, value)
            elif site.softmax_basis and (self.prior or site.local):
                change = value.log()
            else:
                continue
            if site.local and site.examples_axis is not None:
                moved = change.movedim(site.examples_axis, 0)
                local = local + moved.reshape(moved.shape[0], -1).sum(-1)
            else:
                total = total + change.sum()
        return total, local

    def volume(self, q: Tensor) -> Tensor:
        """Log volume change that counts here, of all sites: a scalar."""
        total, local = self._volume(q)
        return total + local.sum()

    # -- values --------------------------------------------------------------------------

    def parts(self, q: Tensor) -> Parts:
        """The log joint by prior and example, Jacobian terms beside the priors they belong to."""
        return self._parts(q, self.data)

    def _parts(self, q: Tensor, data: Mapping[str, Any], index: Tensor | None = None) -> Parts:
        latents = self.unflatten(q)
        change, local_change = self._volume(q)
        if index is not None:
            latents = slice_local(latents, self.structure, index)
            local_change = local_change[index] if len(local_change) > 1 else local_change
        parts = parts_of(self.story, data, latents, self.structure)
        return Parts(
            log_prior=(parts.log_prior if self.prior else 0.0 * parts.log_prior) + change,
            local_prior=parts.local_prior + local_change,
            log_likelihood=parts.log_likelihood,
            shared=parts.shared,
        )

    def _priors(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """The priors alone, global and local, with the Jacobian terms that belong to them."""
        change, local_change = self._volume(q)
        latents = self.unflatten(q)
        log_prior, local = priors_of(self.story, self.data, latents, self.structure)
        return (log_prior if self.prior else 0.0 * log_prior) + change, local + local_change

    def _value(self, q: Tensor) -> Tensor:
        return self.parts(q).total()

    def _gradient_and_value(self, q: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.grad_and_value(self._value)(q)

    def __call__(self, q: Tensor) -> Tensor:
        """Log density at ``q`` (D,), a scalar in nats; differentiable."""
        return self._at("value", q)  # type: ignore[no-any-return]

    def value_and_gradient(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Log density and its gradient (D,) at ``q`` (D,)."""
        self.evaluations += 1
        gradient, value = self._ladder(q)
        return value, gradient

    def batch(self, q: Tensor) -> Tensor:
        """Log densities (B,) at the rows of ``q`` (B, D)."""
        native = self.native()
        if native is not None:
            return native.on_tensors(q)[0]
        return self._mapped("value", q)  # type: ignore[no-any-return]

    def batch_value_and_gradient(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Log densities (B,) and gradients (B, D) at the rows of ``q`` (B, D)."""
        self.evaluations += len(q)
        ladder = self._ladder
        if ladder.native is not None:
            return ladder.native.on_tensors(q)
        if ladder.graph is not None:
            gradient, value = self._by_blocks("gradient_and_value", ladder.graph, q)
        else:
            gradient, value = _stacked([ladder(row) for row in q])
        return value, gradient

    def per_example(self, q: Tensor) -> Tensor:
        """(N,): log likelihood plus the priors of what belongs to each example."""
        parts = self._at("parts", q)
        return parts[1] + parts[2]  # type: ignore[no-any-return]

    def log_likelihood(self, q: Tensor) -> Tensor:
        """(N,), or (B, N) for (B, D): observed sites given the continuous latents, nats.

        Raises StoryError where a discrete site is shared among the examples.
        """
        if self.story.examples is not None and self._is_shared():
            raise StoryError(
                f"{self.story.name}: a discrete site outside the plate '{self.story.examples}' "
                "ties the examples together, so they have no likelihoods of their own"
            )
        if q.dim() == 2:
            return self._mapped("parts", q)[2]  # type: ignore[no-any-return]
        return self._at("parts", q)[2]  # type: ignore[no-any-return]

    def log_prior(self, q: Tensor) -> Tensor:
        """Log prior of the global sites (with their Jacobian, if that counts): scalar or (B,).

        Known even where the likelihood is intractable.
        """
        name = "parts" if self.story.intractable() is None else "priors"
        return (self._mapped if q.dim() == 2 else self._at)(name, q)[0]  # type: ignore[no-any-return]

    def deterministic(self, q: Tensor) -> dict[str, Tensor]:
        """Values of the deterministic sites at the rows of ``q`` (B, D), each ``(B, *shape)``."""
        names = list(self.structure.of_kind("deterministic"))
        if not names:
            return {}
        return dict(zip(names, self._mapped("deterministic", q), strict=True))

    def _deterministic(self, q: Tensor) -> tuple[Tensor, ...]:
        data = runnable(self.story, self.data)
        trace = run_model(
            self.story, data, self.unflatten(q), self.structure, enumerate_sites=False
        )
        sites = self.structure.of_kind("deterministic")
        return tuple(trace.nodes[name]["value"].expand(site.shape) for name, site in sites.items())

    def _is_shared(self) -> bool:
        return bool(tied(self.story, self.structure))

    def on_rows(self, index: Tensor) -> Callable[[Tensor], Tensor]:
        """The density estimated from some of the examples: prior + N / |rows| times their part.

        The factor meets the per-example vector after the discrete sites are summed out.
        """
        rows = slice_examples(self.story, self.data, index)
        factor = self.structure.n_examples / len(index)

        def estimate(q: Tensor) -> Tensor:
            with self.running():
                parts = self._parts(q, rows, index)
            by_example = parts.local_prior + parts.log_likelihood
            return parts.log_prior + parts.shared + factor * by_example.sum()

        return estimate

    # -- compiled forms ------------------------------------------------------------------

    def share(self, compiled: dict[str, Any]) -> None:
        """Use what another density of the same story, data and options has compiled."""
        self._compiled = compiled

    @property
    def engine(self) -> str:
        """What evaluates value and gradient, in words."""
        ladder = self._compiled.get("ladder")
        return "not compiled yet" if ladder is None else str(ladder.words)

    @property
    def rung(self) -> Rung:
        """The same in a word: ``c``, ``torchscript`` or ``eager``."""
        return self._ladder.rung

    @property
    def notes(self) -> tuple[str, ...]:
        """Why it is not machine code, or why that is not kept for the next time."""
        return tuple(self._ladder.notes)

    def native(self) -> Native | None:
        """The machine code of value and gradient; None where there is none."""
        return self._ladder.native

    @property
    def _ladder(self) -> Ladder:
        """Value and gradient, compiled at their first use."""
        if "ladder" not in self._compiled:
            self._compiled["ladder"] = Ladder(
                self._gradient_and_value, self._check_points(), self.running
            )
        ladder: Ladder = self._compiled["ladder"]
        return ladder

    @contextmanager
    def running(self) -> Iterator[None]:
        """The story's dtype and device as defaults, and a Pyro that can be differentiated."""
        with defaults(self.dtype, self.device), functional_pyro():
            yield

    def _at(self, name: str, q: Tensor) -> Any:
        """A function at one point: the graph where there is one, else the model itself."""
        function = self._function(name)
        if isinstance(function, torch.fx.GraphModule):
            return function(q)
        with self.running():
            return function(q)

    def _function(self, name: str) -> Callable[..., Any]:
        """One of the functions of ``q``, traced at its first use where it can be."""
        if name not in self._compiled:
            with self.running():
                self._compiled[name] = self._traced(name)
        function: Callable[..., Any] = self._compiled[name]
        return function

    def _traced(self, name: str) -> Callable[..., Any]:
        function = self._plain(name)
        if self.story.has("unroll"):  # a graph would hold every step of every sequence
            return function
        try:
            return trace_function(function, self._spread(generator_of(0), (0.1, 0.5, 1.0)))
        except UntraceableError:
            return function

    def _plain(self, name: str) -> Callable[[Tensor], Any]:
        functions: dict[str, Callable[[Tensor], Any]] = {
            "value": lambda q: self._value(q),
            "parts": lambda q: tuple(self.parts(q)),
            "priors": lambda q: self._priors(q),
            "deterministic": lambda q: self._deterministic(q),
        }
        return functions[name]

    def _mapped(self, name: str, q: Tensor) -> Any:
        """A function at many points: a graph over a block of points at once, or one by one.

        A single point is not worth a trace, which takes several runs of the model.
        """
        if len(q) == 1 and name not in self._compiled:
            with self.running():
                return _stacked([self._plain(name)(q[0])])
        return self._by_blocks(name, self._function(name), q)

    def _by_blocks(self, name: str, function: Callable[..., Any], q: Tensor) -> Any:
        # A graph over a block pays from a few points on.
        mapped = self._block_function(name, function) if len(q) > 1 else None
        if mapped is None:
            with self.running():
                return _stacked([function(row) for row in q])
        size = self._block(name, function)
        padding = -len(q) % size
        blocks = torch.cat([q, q[-1:].expand(padding, -1)]).split(size)
        answers = [mapped(block) for block in blocks]
        if isinstance(answers[0], tuple | list):
            return tuple(torch.cat(column)[: len(q)] for column in zip(*answers, strict=True))
        return torch.cat(answers)[: len(q)]

    def _block_function(self, name: str, function: Callable[..., Any]) -> Callable[..., Any] | None:
        """A function over a block of points; None where it is no graph, or can't be mapped."""
        if not isinstance(function, torch.fx.GraphModule):
            return None
        key = f"{name}:block"
        if key not in self._compiled:
            size = self._block(name, function)
            block = torch.stack(self._spread(generator_of(0), [0.5] * size))
            try:
                with self.running():
                    self._compiled[key] = trace_function(torch.vmap(function), [block])
            except UntraceableError:  # what a graph may do to one point can depend on the point
                self._compiled[key] = None
        mapped: Callable[..., Any] | None = self._compiled[key]
        return mapped

    def _block(self, name: str, function: Callable[..., Any]) -> int:
        """Points evaluated at once: what keeps a block of a wide story within some megabytes."""
        key = f"{name}:entries"
        if key not in self._compiled:
            (point,) = self._spread(generator_of(0), [0.5])
            with self.running():
                self._compiled[key] = most_entries(function, point)
        entries: int = max(1, 16 * self.structure.n_examples, self._compiled[key])
        return max(1, min(64, 8_000_000 // entries))

    def _check_points(self) -> list[Tensor]:
        """Ten points at which a compiled form is held against the model: near, far, and drawn."""
        generator = generator_of(0)
        points = self._spread(generator, (0.1, 0.5, 1.0, 2.0, 4.0))
        with self.running():
            points += [self.flatten(self.draw(generator)) for _ in range(3)]
            points += [self.flatten(self.draw(generator, uniform=True)) for _ in range(2)]
        return [point for point in points if bool(point.isfinite().all())]

    def _spread(self, generator: torch.Generator, sizes: Sequence[float]) -> list[Tensor]:
        """Normal points of some sizes, unconstrained."""
        return [
            size * torch.randn(self.dim, generator=generator, dtype=self.dtype).to(self.device)
            for size in sizes
        ]

    # -- starts --------------------------------------------------------------------------

    def start(self, rng: np.random.Generator, kind: str = "prior") -> Tensor:
        """A point (D,) of finite density: a prior draw, or ``uniform`` on (−2, 2).

        Improper priors are drawn from uniformly in either case. Raises StoryError when no
        finite start is found, naming the first site whose density is not finite.
        """
        generator = generator_of(int(rng.integers(2**62)))
        q = torch.zeros(self.dim, dtype=self.dtype, device=self.device)
        for _ in range(TRIES):
            with self.running():
                q = self.flatten(self.draw(generator, uniform=kind == "uniform"))
            value, gradient = self.value_and_gradient(q)
            if bool(torch.isfinite(value)) and bool(torch.isfinite(gradient).all()):
                return q
        raise StoryError(
            f"{self.story.name}: no finite start after {TRIES} tries; {self._blame(q)}"
        )

    def draw(self, generator: torch.Generator, uniform: bool = False) -> dict[str, Tensor]:
        """Latents from the prior (or uniform on the unconstrained scale); call under defaults."""
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator, device="cpu")))
        with (
            poutine.trace() as tracer,
            StartMessenger(generator, everywhere=uniform),
            ObservedMessenger(self.structure.missing),
        ):
            self.story.model(**runnable(self.story, self.data))
        nodes: Any = tracer.trace.nodes
        return {name: nodes[name]["value"].detach() for name in self.structure.latents}

    def _blame(self, q: Tensor) -> str:
        with self.running():
            parts = self.parts(q)
        if not bool(torch.isfinite(parts.log_prior + parts.local_prior.sum())):
            return "the log prior is not finite: check the scales of the priors"
        bad = (~torch.isfinite(parts.log_likelihood)).nonzero()
        row = f" (first at row {int(bad[0][0]) + 1})" if len(bad) else ""
        sites = ", ".join(self.structure.observed)
        return f"the log likelihood of '{sites}' is not finite{row}"


def generator_of(seed: int) -> torch.Generator:
    """A source of random numbers of its own."""
    return torch.Generator().manual_seed(seed)


def _slots(structure: Structure) -> list[Slot]:
    slots, offset = [], 0
    for site in structure.latents.values():
        event_dim = site.support.event_dim
        shape = torch.Size(site.shape)
        transform = to_support(site.support, shape[len(shape) - event_dim :])
        unconstrained = torch.Size(transform.inverse_shape(shape))
        slots.append(Slot(site.name, transform, event_dim, shape, unconstrained, offset))
        offset = slots[-1].end
    return slots


def _stacked(rows: list[Any]) -> Any:
    if isinstance(rows[0], tuple):
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))
    return torch.stack(rows)
