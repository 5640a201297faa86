"""The log joint of a story as factors, with its discrete sites summed out exactly.

The model is run once with every discrete site enumerated in a dim of its own; each site then gives
a log-probability factor, and the factors are contracted along the plates by Pyro's tensor
message passing (Obermeyer et al. 2019, "Tensor variable elimination for plated factor graphs"),
here over a ring whose sums stay differentiable under functional transforms.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import config_enumerate
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.packed import pack
from pyro.ops.rings import LogRing
from pyro.poutine.messenger import Messenger
from torch import Tensor

from storyzoo.errors import IntractableError
from storyzoo.inference.engine.missing import ObservedMessenger, filled
from storyzoo.inference.engine.structure import Structure
from storyzoo.story import Data, Latents, Story

Trace = Any  # pyro.poutine.Trace has no public type for its nodes


class Parts(NamedTuple):
    """The log joint of a story, by what a method needs of it; every part in nats."""

    log_prior: Tensor
    """Scalar: the priors of the global latents."""
    local_prior: Tensor
    """(N,): the priors of the latents that belong to single examples."""
    log_likelihood: Tensor
    """(N,): the observed sites given the continuous latents, discrete sites summed out."""
    shared: Tensor
    """Scalar: what can't be split by examples, since a discrete site is shared among them."""

    def total(self) -> Tensor:
        """The log joint."""
        return self.log_prior + self.shared + (self.local_prior + self.log_likelihood).sum()


class ValueMessenger(Messenger):
    """Gives latent sites their values, which stay latent: a trace tells them from data."""

    def __init__(self, values: Latents, first_label: bool = False) -> None:
        super().__init__()
        self._values, self._first_label = values, first_label

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"]:
            return
        if msg["name"] in self._values:
            msg["value"], msg["done"] = self._values[msg["name"]], True
        elif self._first_label and getattr(msg["fn"], "has_enumerate_support", False):
            fn = msg["fn"]
            first = fn.enumerate_support(expand=False)[0]
            msg["value"], msg["done"] = first.expand(fn.batch_shape + fn.event_shape), True


def tied(story: Story, structure: Structure) -> tuple[str, ...]:
    """Discrete sites outside the plate of the examples, whose sum can't be split by example.

    None where the story sums them out itself.
    """
    if story.has("marginal"):
        return ()
    return tuple(n for n, s in structure.discrete.items() if story.examples not in s.plates)


def run_model(
    story: Story, data: Data, latents: Latents, structure: Structure, *, enumerate_sites: bool
) -> Trace:
    """Trace of the model at given latents; discrete sites enumerated, or at their first label."""
    model: Callable[..., Any] = story.model
    if enumerate_sites:
        model = config_enumerate(story.model, default="parallel")
    with ExitStack() as stack:
        tracer = stack.enter_context(poutine.trace())
        stack.enter_context(ValueMessenger(latents, first_label=not enumerate_sites))
        if enumerate_sites:  # within, so that it sees what the latents that are given depend on
            stack.enter_context(poutine.enum(first_available_dim=-1 - structure.max_plate_nesting))
        stack.enter_context(ObservedMessenger(structure.missing))
        model(**data)
    return tracer.trace


def parts_of(story: Story, data: Data, latents: Latents, structure: Structure) -> Parts:
    """The log joint at given latents, split by global prior, local prior and example.

    Raises IntractableError where the likelihood can only be estimated.
    """
    reason = story.intractable()
    if reason is not None:
        raise IntractableError(f"{story.name} has no exact log likelihood: {reason}")
    if story.has("marginal"):
        return _parts_by_marginal(story, data, latents, structure)
    trace = run_model(story, data, latents, structure, enumerate_sites=structure.enumerated)
    return contract(trace, site_log_probs(trace), structure, story)


def _parts_by_marginal(story: Story, data: Data, latents: Latents, structure: Structure) -> Parts:
    """The story's own marginal likelihood beside the priors."""
    log_prior, local_prior = priors_of(story, data, latents, structure)
    likelihood = story.marginal(latents, data)
    assert likelihood is not None
    zero = log_prior.new_zeros(())
    return Parts(log_prior, local_prior.expand(likelihood.shape), likelihood, zero)


def priors_of(
    story: Story, data: Data, latents: Latents, structure: Structure
) -> tuple[Tensor, Tensor]:
    """Log priors of the continuous latents alone: the global ones' sum, the local ones by example.

    The model is run on a single row where no latent belongs to an example.
    """
    rows = data
    if story.examples is not None and not structure.local:
        rows = slice_examples(story, data, torch.zeros(1, dtype=torch.long))
    trace = run_model(story, filled(rows), latents, structure, enumerate_sites=False)
    return trace_priors(trace, structure)


def trace_priors(trace: Trace, structure: Structure) -> tuple[Tensor, Tensor]:
    """Priors of the continuous latents: the global ones' sum, the local ones by example."""
    total, by_example = torch.zeros(()), torch.zeros(1)
    for name, site in structure.latents.items():
        node = trace.nodes[name]
        log_prob = scale_and_mask(node["fn"].log_prob(node["value"]), node["scale"], node["mask"])
        if site.local:
            by_example = by_example + _by_example(log_prob, node, structure)
        else:
            total = total + log_prob.sum()
    return total, by_example


def _by_example(log_prob: Tensor, node: Any, structure: Structure) -> Tensor:
    """Sum everything but the examples' dim: (N,)."""
    site = structure.sites[node["name"]]
    assert site.examples_axis is not None
    moved = log_prob.movedim(site.examples_axis, 0)
    return moved.reshape(moved.shape[0], -1).sum(-1)


def slice_examples(story: Story, data: Data, index: Tensor) -> dict[str, Any]:
    """The rows of the data at ``index``, and their pieces of what is ragged.

    Arguments without the examples' dim or a ragged one stay whole.
    """
    places: dict[str | None, Tensor] = {
        dim: pieces(data[length], index.to(data[length].device))
        for dim, length in story.ragged.items()
    }
    places[story.examples] = index
    sliced = {}
    for name, value in data.items():
        dims = story.data_dims.get(name, ())
        along = next((dim for dim in dims if dim in places), None)
        if isinstance(value, Tensor) and along is not None:
            rows = places[along].to(value.device)
            sliced[name] = value.index_select(dims.index(along), rows)
        else:
            sliced[name] = value
    return sliced


def pieces(length: Tensor, index: Tensor) -> Tensor:
    """Where the pieces at ``index`` (B,) lie, end to end, given the lengths (N,) of all pieces.

    >>> pieces(torch.tensor([2, 3, 1]), torch.tensor([2, 0]))
    tensor([5, 0, 1])
    """
    chosen = length[index]
    begin = (length.cumsum(0) - length)[index]
    shift = begin - (chosen.cumsum(0) - chosen)
    return torch.arange(int(chosen.sum()), device=length.device) + shift.repeat_interleave(chosen)


def slice_local(latents: Latents, structure: Structure, index: Tensor) -> dict[str, Tensor]:
    """The latents for some of the examples: local sites gathered by the examples' index."""
    return {
        name: value.index_select(structure.sites[name].examples_axis or 0, index.to(value.device))
        if name in structure.local
        else value
        for name, value in latents.items()
    }


def site_log_probs(trace: Trace) -> dict[str, Tensor]:
    """Log-probability of every stochastic site, in its batch shape (enumeration dims leftmost)."""
    return {
        name: scale_and_mask(node["fn"].log_prob(node["value"]), node["scale"], node["mask"])
        for name, node in trace.nodes.items()
        if node["type"] == "sample"
        and not poutine.util.site_is_subsample(node)
        and not node["infer"].get("_deterministic")
    }


def contract(
    trace: Trace,
    log_probs: Mapping[str, Tensor],
    structure: Structure,
    story: Story,
    *,
    hard: bool = False,
) -> Parts:
    """Sum (or, ``hard``, maximise) the discrete sites out of the factors."""
    trace.symbolize_dims()
    enumerated = set(trace.symbol_to_dim) - set(trace.plate_to_symbol.values())
    of_examples = trace.plate_to_symbol.get(story.examples)
    size = _count(trace, story)
    log_prior, shared, local_prior, likelihood = (
        torch.zeros(()),
        torch.zeros(()),
        torch.zeros(size),
        torch.zeros(size),
    )
    tree: OrderedDict[frozenset[str], list[Any]] = OrderedDict()
    for name, log_prob in log_probs.items():
        site, node = structure.sites[name], trace.nodes[name]
        packed = _packed(log_prob, node)
        if site.kind == "latent" and enumerated.isdisjoint(packed._pyro_dims):
            if site.local:
                local_prior = local_prior + _along(packed, of_examples)
            else:
                log_prior = log_prior + packed.sum()
            continue
        ordinal = frozenset(
            trace.plate_to_symbol[f.name] for f in node["cond_indep_stack"] if f.vectorized
        )
        tree.setdefault(ordinal, []).append(packed)
    ring = _MaxRing() if hard else _SumRing()  # type: ignore[no-untyped-call]
    for ordinal, terms in contract_tensor_tree(tree, enumerated, ring=ring).items():
        for term in terms:
            if of_examples in ordinal:
                likelihood = likelihood + _along(term, of_examples)
            elif story.examples is None:
                likelihood = likelihood + term.sum()
            else:
                shared = shared + term.sum()
    return Parts(log_prior, local_prior, likelihood, shared)


def _count(trace: Trace, story: Story) -> int:
    """How many examples this run of the model saw."""
    for node in trace.nodes.values():
        if node["type"] == "sample":
            for frame in node["cond_indep_stack"]:
                if frame.vectorized and frame.name == story.examples:
                    return int(frame.size)
    return 1


def _packed(log_prob: Tensor, node: Any) -> Any:
    """The factor without dims of size one, its dims named by symbols; unplated dims summed."""
    symbols = node["infer"]["_dim_to_symbol"]
    loose = [
        dim for dim in range(-log_prob.dim(), 0) if log_prob.shape[dim] > 1 and dim not in symbols
    ]
    return pack(log_prob.sum(loose, keepdim=True) if loose else log_prob, symbols)


def _along(term: Any, symbol: str | None) -> Tensor:
    """Sum a packed term over all dims but one; a scalar where that dim has size one."""
    place = term._pyro_dims.find(symbol)
    if place < 0:
        return term.sum()  # type: ignore[no-any-return]
    return term.movedim(place, 0).reshape(term.shape[place], -1).sum(-1)  # type: ignore[no-any-return]


class _SumRing(LogRing):
    """Sums in log space whose gradients stay finite and which functional transforms can see."""

    _backend = "storyzoo.inference.engine.logspace"


class _MaxRing(LogRing):
    """The same message passing with maxima: the best labelling instead of all of them."""

    _backend = "storyzoo.inference.engine.maxspace"
