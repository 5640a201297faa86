"""Simulation-based calibration: does a method, given data of known truth, know what it knows?

Parameters are drawn from the prior, data from the story given them, and the method fits these.
Were it exact, the truth would be one more draw of each posterior: its rank among L draws that are
independent of one another is 0, 1, …, or L with equal chance, for every quantity and every story.

Ranked are the numbers that the story is made of, and two quantities of parameters and data
together, the log likelihood and the log joint, which see what the margins of parameters don't.
Labels that can be permuted are matched to those of one draw that is left out of the ranks: matched
to the truth, the draws nearest to it would be counted, and ranks would not be uniform. Truth and
draws are matched alike, as one sample. Where a story says what is ``identified``, that is ranked.

Sources: Talts, Betancourt, Simpson, Vehtari and Gelman (2018), "Validating Bayesian inference
algorithms with simulation-based calibration", arXiv:1804.06788; Modrák et al. (2023),
"Simulation-based calibration checking for Bayesian computation: the choice of test quantities
shapes sensitivity", Bayesian Analysis 20(2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from xarray import Dataset

from storyzoo.errors import StoryError, StoryzooError
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.factors import run_model
from storyzoo.inference.engine.groups import merged
from storyzoo.inference.engine.method import Method, Outcome
from storyzoo.inference.engine.missing import runnable
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.relabelling import match, permute, why_not_exchangeable
from storyzoo.inference.engine.simulation import Simulator
from storyzoo.inference.engine.statistics import array_stats
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.engine.tree import draws_of, posterior_tree

RANKED = 99
"""Draws among which the truth is ranked: few enough to be nearly independent."""
MOST = 40
"""Elements of one site that are ranked, evenly spaced: effects of single examples may be many."""
TOGETHER = ("log_likelihood", "log_joint")
"""Quantities of parameters and data, nats; the joint is that of the unconstrained parameters."""

Values = dict[str, np.ndarray]


class Unfinished(StoryzooError):
    """A simulation whose fit has no draws to rank among."""


@dataclass(frozen=True)
class Ranked:
    """What one simulation told; arrays run over the quantities."""

    rank: np.ndarray
    """(Q,): how many draws lie below the truth, ties broken at random; NaN where undefined."""
    truth: np.ndarray
    """(Q,)."""
    among: int
    """Draws that the truth was ranked among."""
    divergences: int
    ess: float
    """Bulk ESS of the log density over all draws; NaN where a method records none."""

    def row(self) -> np.ndarray:
        """All of it as numbers (3 + 2 Q,)."""
        return np.concatenate([[self.among, self.divergences, self.ess], self.rank, self.truth])

    @classmethod
    def from_row(cls, row: np.ndarray) -> Ranked:
        """What :meth:`row` gave."""
        rank, truth = row[3:].reshape(2, -1)
        return cls(rank, truth, int(row[0]), int(row[1]), float(row[2]))


class Calibrator:
    """Simulates from a story with data of the size at hand, fits by a method, ranks the truth."""

    def __init__(self, target: Target, method: Method) -> None:
        self.target, self.method = target, method
        self.structure = target.structure
        self._simulator = Simulator(target)
        self.groups, self.notes = ({}, ()) if self.refuses() else self._groups()
        self._places = self._quantities()

    def refuses(self) -> str | None:
        """Why a method or a story can't be calibrated; None where it can."""
        if self.method.kind == "point":
            return f"{self.method.name} gives a point, which has no draws to rank the truth among"
        return (
            self.method.refuses(self.target.story, self.structure)
            or self._simulator.refuses_prior()
        )

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of what is ranked: ``loc[0, width]``."""
        return tuple(
            f"{name}[{', '.join(labels)}]" if labels else name
            for name, places in self._places.items()
            for labels in self._labels(name, places)
        )

    def ranked(self, number: int, seed: int) -> Ranked:
        """Simulation ``number`` of those that a seed stands for, fitted and ranked.

        Raises Unfinished or another StoryzooError where the fit broke off.
        """
        rng = np.random.default_rng([seed, number])
        truth, simulated = self.simulate(rng)
        fit_seed = int(rng.integers(2**31))
        outcome = self.method.run(simulated, seed=fit_seed, progress=Progress(quiet=True))
        if outcome.info.cut_short:
            raise KeyboardInterrupt
        latents, among = self._among(truth, outcome)
        values = self._matched(self._values(simulated, latents))
        rank, true = self._ranks(values, rng)
        divergences = int(getattr(outcome.info, "divergences", 0))
        return Ranked(rank, true, among, divergences, _effective(outcome))

    def simulate(self, rng: np.random.Generator) -> tuple[dict[str, Tensor], Target]:
        """Latents drawn from the prior, and the story with data drawn given them.

        Holes are where the data at hand have theirs. Prior scales stay what they are.
        """
        drawn = self._simulator.prior(rng)
        latents = {name: drawn[name] for name in self.structure.latents}
        story, data = self.target.story, dict(self.target.data)
        if story.ragged:  # how long the examples' pieces are may differ
            data |= {name: drawn[name].cpu().numpy() for name in data if name in drawn}
            return latents, make_target(story, data, device=self.target.device, to_fit=False)
        for name in self.structure.outcomes:
            at_hand = data[name]
            value = drawn[name].to(at_hand)
            if at_hand.is_floating_point():
                value = torch.where(at_hand.isnan(), at_hand, value)
            data[name] = value
        return latents, replace(self.target, data=data)

    # -- what is ranked ------------------------------------------------------------------

    def _quantities(self) -> dict[str, np.ndarray]:
        """By name: which elements of it, in the order of its dims."""
        sites = self.structure.latents | self.structure.of_kind("deterministic")
        known = [name for name in self.target.story.identified if name in sites] or list(sites)
        places = {name: _spaced(int(np.prod(sites[name].sizes))) for name in known}
        if self.target.story.intractable() is None:
            places |= {name: _spaced(1) for name in TOGETHER if name not in sites}
        return places

    def _labels(self, name: str, places: np.ndarray) -> list[list[str]]:
        site = self.structure.sites.get(name)
        if site is None:
            return [[]]
        coords = self.structure.coords
        return [
            [
                str(coords[dim][i]) if dim in coords else str(i)
                for dim, i in zip(site.dims, np.unravel_index(place, site.sizes), strict=True)
            ]
            for place in places
        ]

    def _groups(self) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
        """Groups of labels that can be permuted, by a test on draws of the prior; and notes."""
        groups, notes = {}, []
        rng = np.random.default_rng(0)
        drawn = [self.simulate(rng)[0] for _ in range(3)]
        prior = {
            name: np.stack([np.asarray(one[name].cpu()) for one in drawn])[None]
            for name in self.structure.latents
        }
        tree = posterior_tree(self.structure, prior, {})
        for group, dims in self.target.story.exchangeable.items():
            if not any(set(dims) & set(site.dims) for site in self.structure.latents.values()):
                continue
            reason = why_not_exchangeable(tree, self.target, dims)
            if reason is None:
                groups[group] = dims
            else:
                notes.append(f"labels of '{group}' were left as they are: {reason}")
        return groups, tuple(notes)

    # -- from a fit to ranks -------------------------------------------------------------

    def _among(self, truth: Mapping[str, Tensor], outcome: Outcome) -> tuple[Values, int]:
        """The truth, a draw to match labels to, and the draws to rank among: ``(2 + L, *shape)``.

        Draws are evenly spaced over all chains.
        """
        draws = merged(draws_of(self.structure, outcome.tree["posterior"]))
        size = len(next(iter(draws.values())))
        if size < 3:
            raise Unfinished(f"{self.method.name} gave {size} draws: too few to rank the truth")
        places = np.linspace(0, size - 1, min(RANKED + 1, size)).round().astype(int)
        latents = {
            name: np.concatenate([np.asarray(truth[name].cpu())[None], value[places]])
            for name, value in draws.items()
        }
        return latents, len(places) - 1

    def _values(self, simulated: Target, latents: Values) -> Values:
        """All that may be ranked, or tells labels apart, by name: ``(2 + L, *sizes)``."""
        density = simulated.density()
        with np.errstate(all="ignore"):
            q = density.flatten({name: torch.as_tensor(v) for name, v in latents.items()})
        values = latents | _deterministic(density, q)
        values = {
            name: value.reshape(len(value), *self.structure.sites[name].sizes)
            for name, value in values.items()
        }
        wanted = {name for name in TOGETHER if name in self._places}
        return values | (_together(density, q, wanted) if wanted else {})

    def _matched(self, values: Values) -> Values:
        """Truth and draws ``(1 + L, …)`` with labels matched to the draw that is left out."""
        reference = {name: value[1:2] for name, value in values.items()}
        kept = {name: np.delete(value, 1, axis=0) for name, value in values.items()}
        for dims in self.groups.values():
            kept = self._relabelled(kept, reference, dims)
        return kept

    def _relabelled(self, values: Values, reference: Values, dims: tuple[str, ...]) -> Values:
        """Truth and draws with the labels of one group matched to those of the reference."""
        drawn, against = (self._dataset(v) for v in (values, reference))
        order = match(drawn, dims, against.isel(chain=0, draw=0))
        moved = permute(drawn, dims, order)
        return values | {str(name): moved[name].values[0] for name in moved.data_vars}

    def _dataset(self, values: Values) -> Dataset:
        """Sites along their dims, as one chain."""
        known = {n: v for n, v in values.items() if n in self.structure.sites}
        return Dataset(
            {
                name: (("chain", "draw", *self.structure.sites[name].dims), value[None])
                for name, value in known.items()
            }
        )

    def _ranks(self, values: Values, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rank and truth of every quantity: (Q,) each."""
        columns = [
            values[name].reshape(len(values[name]), -1)[:, places]
            for name, places in self._places.items()
        ]
        block = np.concatenate(columns, axis=1).astype(np.float64)
        truth, draws = block[0], block[1:]
        below, ties = (draws < truth).sum(0), (draws == truth).sum(0)
        rank = (below + rng.integers(0, ties + 1)).astype(np.float64)
        rank[~np.isfinite(block).all(0)] = np.nan
        return rank, truth


def _spaced(size: int) -> np.ndarray:
    return np.unique(np.linspace(0, size - 1, min(size, MOST)).round().astype(int))


def _effective(outcome: Outcome) -> float:
    """Bulk ESS of the log density, which no relabelling changes."""
    stats = outcome.tree.children.get("sample_stats")
    if stats is None or "lp" not in stats.data_vars or stats["lp"].sizes.get("draw", 0) < 4:
        return float("nan")
    with np.errstate(all="ignore"):
        lp = np.asarray(stats["lp"].transpose("chain", "draw").values, dtype=np.float64)
        return float(array_stats.ess(lp[None], method="bulk")[0])


# -- functions of many points ------------------------------------------------------------------


def _deterministic(density: LogDensity, q: Tensor) -> Values:
    """Deterministic sites at the rows of ``q`` (B, D), without a trace where that can be.

    A trace pays when a function is evaluated often; here it is at a hundred points, once.
    """
    sites = density.structure.of_kind("deterministic")
    if not sites:
        return {}
    data = runnable(density.story, density.data)

    def computed(point: Tensor) -> dict[str, Tensor]:
        latents = density.unflatten(point)
        trace = run_model(density.story, data, latents, density.structure, enumerate_sites=False)
        return {name: trace.nodes[name]["value"].expand(s.shape) for name, s in sites.items()}

    found = _at_once(density, computed, q)
    return _arrays(density.deterministic(q) if found is None else found)


def _together(density: LogDensity, q: Tensor, wanted: set[str]) -> Values:
    """Log likelihood and log joint at the rows of ``q`` (B, D), nats: (B,) each."""

    def parts(point: Tensor) -> dict[str, Tensor]:
        found = density.parts(point)
        return {
            "log_likelihood": found.log_likelihood.sum() + found.shared,
            "log_joint": found.total(),
        }

    found = _at_once(density, parts, q)
    if found is None:
        found = {"log_joint": density.batch(q)}
        try:
            found["log_likelihood"] = density.log_likelihood(q).sum(-1)
        except StoryError:  # a label that the examples share: likelihood and prior are one sum
            found["log_likelihood"] = found["log_joint"] - density.log_prior(q)
    return {name: value for name, value in _arrays(found).items() if name in wanted}


def _at_once(density: LogDensity, function: Any, q: Tensor) -> dict[str, Tensor] | None:
    """A function at all rows of ``q`` by one run of the model; None where it can't be mapped."""
    try:
        with density.running():
            found: dict[str, Tensor] = torch.vmap(function)(q)
    except Exception:  # a user's model may fail under a transform in any way; a trace then tells
        return None
    return found


def _arrays(values: Mapping[str, Tensor]) -> Values:
    return {name: value.detach().cpu().numpy() for name, value in values.items()}
