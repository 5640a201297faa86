"""Our side: a story under the method NUTS, as a user calls it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks.mcmc_peers.stories import TELLINGS, Telling
from benchmarks.mcmc_peers.worker import Drawn, Task, Values, serve
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.starts import Starts
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.nuts import NUTS

TARGET_ACCEPT = 0.8
"""Which the peers default to; our own default takes smaller steps."""


@dataclass(frozen=True)
class StartedNUTS(NUTS):
    """NUTS with every chain at a start of the caller's own."""

    at: Any = None

    def _starts(self, target: Target, density: LogDensity, *_: Any) -> Starts:
        return Starts(self.at.expand(self.chains, -1).clone(), "one given point")


@dataclass
class Compiled:
    """A story with its data, and the method."""

    target: Target
    method: NUTS
    telling: Telling
    start: str
    notes: list[str]

    def log_density(self, point: Values) -> float:
        """Without the Jacobian."""
        density = self.target.density(jacobian=False)
        return float(density(_flat(self.target, density, self.telling, point)))

    def sample(self, seed: int) -> Drawn:
        """From the compiled density to draws of the row's parameters."""
        outcome = self.method.run(self.target, seed=seed, progress=Progress(quiet=True))
        posterior = outcome.tree["posterior"].to_dataset()
        values = {str(name): array.to_numpy() for name, array in posterior.items()}
        info: Any = outcome.info
        draws = self.telling.to_parameters(values)
        return Drawn(draws, info.divergences, info.gradient_evaluations)


def build(task: Task) -> Compiled:
    """Compile by a run of a few draws; the target keeps what was compiled."""
    telling = TELLINGS[task.row]
    arrays = {name: task.data[name] for name in telling.arguments}
    target = make_target(telling.story(task.data), arrays)
    settings: dict[str, Any] = {
        "chains": task.chains,
        "draws": task.draws,
        "warmup": task.warmup,
        "cores": task.cores,
        "target_accept": TARGET_ACCEPT,
    }
    method = NUTS(**settings)
    if task.start is not None:
        at = _flat(target, target.density(), telling, task.start)
        method = StartedNUTS(**settings, at=at)
    first = replace(method, draws=5, warmup=5)
    info: Any = first.run(target, seed=0, progress=Progress(quiet=True)).info
    notes = [info.engine, *info.notes]
    return Compiled(target, method, telling, info.start, notes)


def _flat(target: Target, density: LogDensity, telling: Telling, point: Values) -> torch.Tensor:
    sites = telling.to_sites({name: np.asarray(value) for name, value in point.items()})
    latents = {name: torch.as_tensor(sites[name]) for name in target.structure.latents}
    with target.context():
        return density.flatten(latents)


if __name__ == "__main__":
    serve(build, ["torch", "pyro-ppl", "nutpie"])
