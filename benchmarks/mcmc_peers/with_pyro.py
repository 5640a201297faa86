"""Pyro's own NUTS on the very programs that our side fits, its density traced by ``torch.jit``."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer.autoguide.initialization import init_to_uniform, init_to_value
from pyro.infer.mcmc import MCMC
from pyro.infer.mcmc import NUTS as Kernel
from pyro.infer.mcmc.util import initialize_model

from benchmarks.mcmc_peers.stories import TELLINGS, Telling
from benchmarks.mcmc_peers.worker import Drawn, Task, Values, serve
from storyzoo.inference.engine.target import Target, make_target


@dataclass
class Ready:
    """A story's model with its data."""

    task: Task
    target: Target
    telling: Telling
    start: str
    notes: tuple[str, ...] = ()

    def log_density(self, point: Values) -> float:
        """Pyro's potential, without the Jacobian."""
        sites = {n: torch.as_tensor(v) for n, v in self.telling.to_sites(point).items()}
        with self.target.context():
            _, potential, to_reals, _ = initialize_model(
                self.target.story.model,
                model_kwargs=self.target.data,
                max_plate_nesting=self.target.structure.max_plate_nesting,
                init_strategy=init_to_uniform,
            )
            place = {name: transform(sites[name]) for name, transform in to_reals.items()}
            volume = sum(
                transform.log_abs_det_jacobian(sites[name], place[name]).sum()
                for name, transform in to_reals.items()
            )
            return float(volume - potential(place))

    def sample(self, seed: int) -> Drawn:
        """Chains one after the other, on each core its share of them."""
        task = self.task
        seeds = [seed * task.chains + chain for chain in range(task.chains)]
        shares = [seeds[core :: task.cores] for core in range(task.cores)]
        chains = [chain for found in self._side_by_side(shares) for chain in found]
        sites = {name: np.stack([draws[name] for draws, _ in chains]) for name in chains[0][0]}
        return Drawn(self.telling.to_parameters(sites), sum(count for _, count in chains))

    def _side_by_side(self, shares: list[list[int]]) -> list[list[tuple[Values, int]]]:
        """Each share in a process of its own, forked, since a model can't be pickled."""
        if len(shares) == 1:
            return [[self.chain(seed) for seed in shares[0]]]
        context = multiprocessing.get_context("fork")
        pipes = [context.Pipe(duplex=False) for _ in shares]
        for share, (_, writer) in zip(shares, pipes, strict=True):
            context.Process(target=self._send, args=(share, writer)).start()
        return [reader.recv() for reader, _ in pipes]

    def _send(self, seeds: list[int], writer: Connection) -> None:
        writer.send([self.chain(seed) for seed in seeds])

    def chain(self, seed: int) -> tuple[Values, int]:
        """Draws of one chain, and how many diverged."""
        torch.set_default_dtype(torch.float64)
        pyro.set_rng_seed(seed)
        kernel = Kernel(
            self.target.story.model,
            jit_compile=True,
            ignore_jit_warnings=True,
            max_plate_nesting=self.target.structure.max_plate_nesting,
            init_strategy=self._strategy(),
        )
        mcmc = MCMC(
            kernel, num_samples=self.task.draws, warmup_steps=self.task.warmup, disable_progbar=True
        )
        with pyro.validation_enabled(False):
            mcmc.run(**self.target.data)
        found = mcmc.get_samples()
        draws = {name: found[name].numpy() for name in self.target.structure.latents}
        return draws, len(mcmc.diagnostics()["divergences"]["chain 0"])

    def _strategy(self) -> Any:
        if self.task.start is None:
            return init_to_uniform
        sites = self.telling.to_sites(self.task.start)
        return init_to_value(values={n: torch.as_tensor(v) for n, v in sites.items()})


def build(task: Task) -> Ready:
    """Nothing is compiled apart: torch traces the density when a chain first calls it."""
    telling = TELLINGS[task.row]
    arrays = {name: task.data[name] for name in telling.arguments}
    target = make_target(telling.story(task.data), arrays)
    words = "one given point" if task.start else "uniform on (-2, 2), unconstrained"
    return Ready(task, target, telling, words)


if __name__ == "__main__":
    serve(build, ["pyro-ppl", "torch"])
