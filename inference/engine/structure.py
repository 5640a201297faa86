"""What one run of a model tells about a story: its sites, their dims and coords, its data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from storyzoo.errors import DataError, StoryError, StoryzooError
from storyzoo.inference.engine.missing import ObservedMessenger, filled, has_missing, runnable
from storyzoo.inference.engine.transforms import to_support
from storyzoo.story import Data, Story


@dataclass(frozen=True)
class Site:
    """One sample statement, as the data at hand shape it."""

    name: str
    kind: Literal["latent", "discrete", "observed", "deterministic"]
    plates: tuple[str, ...]
    """Batch dims, outermost first."""
    dims: tuple[str, ...]
    """Plates and event dims of the value, each name once; dims of size one left by Pyro dropped."""
    shape: tuple[int, ...]
    """Full shape of the value in the model."""
    sizes: tuple[int, ...]
    """Sizes along ``dims``; the product is that of ``shape``."""
    local: bool
    """A latent under the plate of the examples."""
    support: Any
    improper: bool
    argument: str | None
    """Observed sites: the argument of the model that holds the value."""
    examples_axis: int | None
    """Axis of ``shape`` that runs over the examples, if any."""
    softmax_basis: bool = False
    """A Dirichlet with a concentration below one: no mode on the simplex."""


@dataclass(frozen=True)
class Structure:
    """The sites of a story with data of a given size, in the order of the model."""

    sites: dict[str, Site]
    coords: dict[str, np.ndarray]
    arguments: tuple[str, ...]
    n_examples: int
    max_plate_nesting: int
    missing: bool
    """Whether the data hold NaN."""

    def of_kind(self, kind: str) -> dict[str, Site]:
        """Sites of one kind, by name."""
        return {name: site for name, site in self.sites.items() if site.kind == kind}

    @property
    def latents(self) -> dict[str, Site]:
        """Continuous latent sites: what a posterior is over."""
        return self.of_kind("latent")

    @property
    def discrete(self) -> dict[str, Site]:
        """Discrete latent sites: summed out exactly."""
        return self.of_kind("discrete")

    @property
    def observed(self) -> dict[str, Site]:
        """Observed sites."""
        return self.of_kind("observed")

    @property
    def enumerated(self) -> bool:
        """Whether anything discrete is summed out."""
        return bool(self.discrete)

    @property
    def improper(self) -> bool:
        """Whether a prior is improper: prior draws, calibration and evidence then make no sense."""
        return any(site.improper for site in self.sites.values())

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Arguments of the model that are observed."""
        observed = {site.argument for site in self.observed.values()}
        return tuple(name for name in self.arguments if name in observed)

    @property
    def covariates(self) -> tuple[str, ...]:
        """Arguments of the model that are given, not told by it."""
        return tuple(name for name in self.arguments if name not in self.outcomes)

    @property
    def local(self) -> dict[str, Site]:
        """Continuous latents that belong to single examples."""
        return {name: site for name, site in self.latents.items() if site.local}


class StartMessenger(Messenger):
    """Draws continuous latents from the prior, or uniformly on the unconstrained scale."""

    def __init__(self, generator: torch.Generator, radius: float = 2.0, everywhere: bool = False):
        super().__init__()
        self._generator, self._radius, self._everywhere = generator, radius, everywhere

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["is_observed"] or msg["done"] or poutine.util.site_is_subsample(msg):
            return
        if fn.support.is_discrete:
            return
        if not self._everywhere and not is_improper(fn):
            return
        transform = to_support(fn.support, fn.event_shape)
        shape = transform.inverse_shape(torch.Size((*fn.batch_shape, *fn.event_shape)))
        uniform = torch.rand(shape, generator=self._generator, device="cpu")
        default = torch.empty(0)
        unconstrained = (2 * uniform - 1).to(default) * self._radius
        msg["value"] = transform(unconstrained)
        msg["done"] = True


def is_improper(fn: Any) -> bool:
    """Whether a distribution, or what it wraps, is an improper prior."""
    while fn is not None:
        if getattr(fn, "improper", False):
            return True
        fn = getattr(fn, "base_dist", None)
    return False


@contextmanager
def defaults(dtype: torch.dtype, device: str, validate: bool = False) -> Iterator[None]:
    """A story's dtype and device as torch's defaults, the global random state left untouched."""
    before = torch.get_default_dtype()
    cuda = [torch.device(device)] if device.startswith("cuda") else []
    with (
        torch.random.fork_rng(devices=cuda),
        pyro.validation_enabled(validate),
        pyro.get_param_store().scope(),
        nullcontext()
        if torch.get_default_device() == torch.device(device)
        else torch.device(device),
    ):
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def structure_of(
    story: Story, data: Data, coords: Mapping[str, Sequence[Any] | np.ndarray] | None = None
) -> Structure:
    """Run the model once under a prior draw and read off its sites.

    Call inside :func:`defaults`. Raises StoryError where the model breaks the contract and
    DataError where it can't be run on these data.
    """
    trace = _first_run(story, data)
    _refuse_scaled_labels(story, trace)
    frames = {
        frame.name: frame
        for site in trace.nodes.values()
        if site["type"] == "sample"
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    }
    nesting = max((-frame.dim for frame in frames.values()), default=0)
    sites = {
        name: _site(story, name, node)
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not poutine.util.site_is_subsample(node)
    }
    return Structure(
        sites=sites,
        coords=_coords(story, data, sites, coords or {}),
        arguments=story.arguments(),
        n_examples=count_examples(story, data),
        max_plate_nesting=nesting,
        missing=has_missing(data),
    )


def _first_run(story: Story, data: Data) -> Any:
    known = runnable(story, data)
    try:
        return _run(story, known)
    except StoryzooError:
        raise
    except Exception as error:  # whatever a user's model raises is told in one line
        if has_missing(known):
            _blame_missing(story, known)
        reason = " ".join(str(error).split())[:300]
        raise StoryError(
            f"{story.name}: the model fails on these data ({type(error).__name__}: {reason})"
        ) from error


def _refuse_scaled_labels(story: Story, trace: Any) -> None:
    """Raise StoryError for ``poutine.scale`` beside discrete sites.

    The factor would land inside the sum over them: ``log sum exp`` of scaled terms.
    """
    nodes = {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not poutine.util.site_is_subsample(node)
    }
    discrete = [n for n, v in nodes.items() if not v["is_observed"] and v["fn"].support.is_discrete]
    for name, node in nodes.items():
        if discrete and not (isinstance(node["scale"], int | float) and node["scale"] == 1):
            raise StoryError(
                f"{story.name}: poutine.scale around '{name}' can't be combined with the discrete "
                f"site '{discrete[0]}', which is summed out: repeat the rows, or write `marginal`"
            )


def _run(story: Story, data: Data) -> Any:
    torch.manual_seed(0)
    with (
        poutine.trace() as tracer,
        StartMessenger(torch.Generator().manual_seed(0)),
        ObservedMessenger(has_missing(data), data),
    ):
        story.model(**data)
    return tracer.trace


def _blame_missing(story: Story, data: Data) -> None:
    """Raise DataError where the model runs on the data with their holes filled."""
    try:
        trace = _run(story, filled(data))
    except Exception:  # then it is not the holes that it fails on
        return
    observed = {node["infer"].get("observes") for node in trace.nodes.values() if "infer" in node}
    refuse_missing(data, sorted(story.arguments(), key=lambda name: name in observed))


def refuse_missing(data: Data, arguments: Iterable[str]) -> None:
    """Raise DataError where one of the arguments, which the model reads, holds NaN."""
    for name in arguments:
        value = data.get(name)
        if isinstance(value, Tensor) and value.is_floating_point() and bool(value.isnan().any()):
            row, *others = (int(i) + 1 for i in value.isnan().nonzero()[0]) if value.dim() else (1,)
            place = f"row {row}" + "".join(f", column {column}" for column in others)
            raise DataError(
                f"argument '{name}': missing value at {place}; the model reads '{name}', "
                "so drop the row or fill it in"
            )


def _site(story: Story, name: str, node: Any) -> Site:
    fn, value = node["fn"], node["value"]
    frames = sorted((f for f in node["cond_indep_stack"] if f.vectorized), key=lambda f: f.dim)
    shape = tuple(value.shape)
    batch = len(shape) - _event_rank(story, name, node)
    by_axis = {batch + frame.dim: frame.name for frame in frames}
    axes = [axis for axis in range(batch) if axis in by_axis or shape[axis] > 1]
    batch_dims = [by_axis.get(axis, f"{name}_dim_{axis}") for axis in axes]
    dims = (*batch_dims, *_event_dims(story, name, shape[batch:]))
    if len(set(dims)) < len(dims):
        raise StoryError(
            f"{story.name}: site '{name}' has a dim twice in {dims}; give the second another name"
        )
    if node["infer"].get("_deterministic"):
        kind = "deterministic"
    elif node["is_observed"]:
        kind = "observed"
    else:
        kind = "discrete" if fn.support.is_discrete else "latent"
    along = [axis for axis, dim in by_axis.items() if dim == story.examples]
    return Site(
        name=name,
        kind=kind,  # type: ignore[arg-type]
        plates=tuple(frame.name for frame in frames),
        dims=dims,
        shape=shape,
        sizes=(*(shape[axis] for axis in axes), *shape[batch:]),
        local=kind == "latent" and story.examples in by_axis.values(),
        support=None if kind == "deterministic" else fn.support,
        improper=is_improper(fn),
        argument=node["infer"].get("observes"),
        examples_axis=along[0] if along else None,
        softmax_basis=_has_no_mode(fn),
    )


def _event_rank(story: Story, name: str, node: Any) -> int:
    """Event dims of a value. ``pyro.deterministic`` takes all dims for them unless told otherwise:
    then they are those that the story names, if the plates fit the others."""
    rank, shape = int(node["fn"].event_dim), tuple(node["value"].shape)
    if not node["infer"].get("_deterministic") or rank < len(shape):
        return rank
    named = len(story.event_dims.get(name, ()))
    frames = [frame for frame in node["cond_indep_stack"] if frame.vectorized]
    sizes = {len(shape) - named + frame.dim: frame.size for frame in frames}
    fits = all(axis >= 0 and shape[axis] in (1, size) for axis, size in sizes.items())
    return named if frames and fits else rank


def _event_dims(story: Story, name: str, event_shape: tuple[int, ...]) -> tuple[str, ...]:
    named = story.event_dims.get(name)
    if named is None:
        return tuple(f"{name}_dim_{i}" for i in range(len(event_shape)))
    if len(named) != len(event_shape):
        raise StoryError(
            f"{story.name}: event_dims names {len(named)} dims of site '{name}', "
            f"whose events have {len(event_shape)}"
        )
    return tuple(named)


def _has_no_mode(fn: Any) -> bool:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    if not isinstance(fn, torch.distributions.Dirichlet):
        return False
    return bool((fn.concentration < 1).any())


def count_examples(story: Story, data: Data) -> int:
    """How many rows the data have along the story's examples; one where it names no such dim."""
    sizes = {
        name: value.shape[story.data_dims[name].index(story.examples)]
        for name, value in data.items()
        if isinstance(value, Tensor) and story.examples in story.data_dims.get(name, ())
    }
    if not sizes:
        return 1
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise DataError(f"the arguments disagree on the number of {story.examples}s: {said}")
    return next(iter(sizes.values()))


def _coords(
    story: Story,
    data: Data,
    sites: Mapping[str, Site],
    given: Mapping[str, Sequence[Any] | np.ndarray],
) -> dict[str, np.ndarray]:
    """Coordinates of every dim: as given, as those of the dim it pairs with, or counted."""
    sizes: dict[str, int] = {}
    for site in sites.values():
        sizes.update(zip(site.dims, site.sizes, strict=True))
    for name, value in data.items():
        if isinstance(value, Tensor):
            sizes.update(zip(story.data_dims.get(name, ()), value.shape, strict=False))
    coords = {}
    for dim, size in sizes.items():
        twin = dim.removesuffix("_other").removeprefix("next_")
        labels = given.get(dim, given.get(twin))
        fits = labels is not None and len(labels) == size
        coords[dim] = np.asarray(labels if fits else np.arange(size))
    return coords
