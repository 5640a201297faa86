"""NUTS against posteriordb's reference draws: every mean within the joint Monte Carlo error.

Eight schools is in test_nuts.py; a mixture here; the others are slow.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.statistics import array_stats
from storyzoo.inference.engine.target import make_target
from storyzoo.inference.engine.tree import draws_of
from storyzoo.inference.nuts import NUTS
from storyzoo.models.distributions.flat import Flat
from storyzoo.models.distributions.ordered import Ordered
from storyzoo.story import Story


@dataclass(frozen=True)
class FiveLags(Story):
    """arK: each value from the five before it."""

    data_dims = {"y": ("time",)}
    event_dims = {"beta": ("lag",)}

    def model(self, y: Any) -> None:
        alpha = pyro.sample("alpha", dist.Normal(0, 10))
        beta = pyro.sample("beta", dist.Normal(0, 10).expand([5]).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
        past = torch.stack([y[5 - k : len(y) - k] for k in range(1, 6)], -1)
        with pyro.plate("step", len(y) - 5):
            pyro.sample("y", dist.Normal(alpha + past @ beta, sigma), obs=y[5:])


@dataclass(frozen=True)
class TwoHills(Story):
    """low_dim_gauss_mix: two normals with ordered means."""

    data_dims = {"y": ("row",)}
    examples = "row"

    def model(self, y: Any) -> None:
        mu = pyro.sample("mu", Ordered(dist.Normal(0, 2).expand([2])))
        with pyro.plate("hill", 2):
            sigma = pyro.sample("sigma", dist.HalfNormal(2))
        theta = pyro.sample("theta", dist.Beta(5, 5))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.stack([theta, 1 - theta])))
            pyro.sample("y", dist.Normal(mu[z], sigma[z]), obs=y)


@dataclass(frozen=True)
class KidScore(Story):
    """kidscore_momiq: a line with flat priors on its coefficients."""

    data_dims = {"mom_iq": ("child",), "kid_score": ("child",)}
    event_dims = {"beta": ("coefficient",)}
    examples = "child"

    def model(self, mom_iq: Any, kid_score: Any) -> None:
        beta = pyro.sample("beta", Flat(dist.constraints.real_vector, event_shape=(2,)))
        sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
        with pyro.plate("child", len(kid_score)):
            line = beta[0] + beta[1] * mom_iq
            pyro.sample("kid_score", dist.Normal(line, sigma), obs=kid_score)


@dataclass(frozen=True)
class Known:
    """A posterior of posteriordb: how its parameters are named there."""

    name: str
    data: str
    story: Story
    parameters: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def by_name(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``beta`` (chain, draw, 2) as ``beta[1]`` and ``beta[2]``."""
    columns = {}
    for name, values in draws.items():
        if values.ndim == 2:
            columns[name] = values
        for k in range(values.shape[2] if values.ndim == 3 else 0):
            columns[f"{name}[{k + 1}]"] = values[..., k]
    return columns


CASES = [
    pytest.param(Known("arK-arK", "arK", FiveLags(), by_name), id="arK", marks=pytest.mark.slow),
    pytest.param(
        Known("low_dim_gauss_mix-low_dim_gauss_mix", "low_dim_gauss_mix", TwoHills(), by_name),
        id="low_dim_gauss_mix",
    ),
    pytest.param(
        Known("kidiq-kidscore_momiq", "kidiq", KidScore(), by_name),
        id="kidscore_momiq",
        marks=pytest.mark.slow,
    ),
]


def stored(path: Path) -> Any:
    with zipfile.ZipFile(path) as packed:
        return json.loads(packed.read(packed.namelist()[0]))


def mean_and_error(draws: np.ndarray) -> tuple[float, float, float]:
    """Mean, its Monte Carlo standard error, and R-hat of (chain, draw)."""
    ess = float(array_stats.ess(draws, chain_axis=0, draw_axis=1, method="mean"))
    hat = float(array_stats.rhat(draws, chain_axis=0, draw_axis=1, method="rank"))
    return float(draws.mean()), float(draws.std() / np.sqrt(ess)), hat


@pytest.mark.parametrize("known", CASES)
def test_means_and_spreads_are_those_of_the_reference(known: Known, mirror: Path) -> None:
    folder = mirror / "posteriordb"
    content = stored(folder / "data/data" / f"{known.data}.json.zip")
    chains = stored(folder / "reference_posteriors/draws/draws" / f"{known.name}.json.zip")
    arrays = {name: np.array(content[name], dtype=float) for name in known.story.arguments()}
    target = make_target(known.story, arrays)
    method = NUTS(draws=500, warmup=500)
    outcome = method.run(target, seed=0, progress=Progress(quiet=True))
    draws = draws_of(target.structure, outcome.tree["posterior"].to_dataset())
    ours = known.parameters(draws)
    assert set(ours) == set(chains[0])
    for name, values in ours.items():
        reference = np.array([chain[name] for chain in chains])
        for power in (1, 2):  # means, and spreads about the reference's mean
            centre = 0.0 if power == 1 else reference.mean()
            mean, error, hat = mean_and_error((values - centre) ** power)
            wanted, wanted_error, _ = mean_and_error((reference - centre) ** power)
            z = (mean - wanted) / np.hypot(error, wanted_error)
            assert abs(z) < 4, f"{name}: {mean} against {wanted}, z = {z:.1f}"
            assert power == 2 or hat < 1.02
