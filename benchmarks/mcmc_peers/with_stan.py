"""Stan, by PyStan 3: each row is a program in stan/, with Stan's own functions for such models.

Chains run in processes of PyStan's, as many at a time as this process may use cores. The time is
PyStan's from the call to the draws, its parsing of Stan's output included; Stan's own clock, of
the chains alone, is told beside it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpstan.cache  # type: ignore[import-not-found]
import numpy as np
import stan  # type: ignore[import-not-found]

from benchmarks.mcmc_peers.worker import Drawn, Task, Values, serve

FOLDER = Path(__file__).parent / "stan"

Given = dict[str, Any]

DATA: dict[str, Callable[[Values], Given]] = {
    "eight_schools": lambda d: {"J": 8, "effect": d["effect"], "noise": d["stderr"]},
    "gauss_mix": lambda d: {"N": len(d["y"]), "y": d["y"]},
    "logistic": lambda d: _rows(d) | {"y": d["y"].astype(int)},
    "gmm": lambda d: (
        {"N": len(d["y"]), "K": 3, "D": 2}
        | {name: d[name] for name in ("y", "centre", "scatter", "half_df", "shrinkage")}
    ),
    "hmm": lambda d: {"T": len(d["y"]), "y": d["y"]},
    "lda": lambda d: {
        "M": len(d["count"]),
        "V": d["count"].shape[1],
        "K": 2,
        "count": d["count"],
    },
    "linear": lambda d: _rows(d) | {"y": d["y"]},
}


def _rows(data: Values) -> Given:
    return {"N": data["x"].shape[0], "D": data["x"].shape[1], "x": data["x"]}


@dataclass
class Compiled:
    """A program with its data."""

    task: Task
    program: Any
    start: str
    notes: tuple[str, ...] = ()

    def log_density(self, point: Values) -> float:
        """Without the Jacobian."""
        given = {name: value.tolist() for name, value in point.items()}
        place = self.program.unconstrain_pars(given)
        return float(self.program.log_prob(place, adjust_transform=False))

    def sample(self, seed: int) -> Drawn:
        """Draws by PyStan."""
        fit = self._fit(seed, self.task.warmup, self.task.draws)
        shapes = dict(zip(fit.param_names, fit.dims, strict=True))
        draws = {name: self._by_chain(fit[name], shapes[name]) for name in fit}
        own = sum(map(_seconds, fit.stan_outputs))
        return Drawn(draws, int(fit["divergent__"].sum()), own_seconds=own)

    def _fit(self, seed: int, warmup: int, draws: int) -> Any:
        settings: dict[str, Any] = {"num_chains": self.task.chains}
        if self.task.start is not None:
            given = {name: value.tolist() for name, value in self.task.start.items()}
            settings["init"] = [given] * self.task.chains
        program = replace(self.program, random_seed=seed)
        return program.sample(**settings, num_warmup=warmup, num_samples=draws)

    def _by_chain(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """(chain, draw, *shape) of PyStan's (*shape, draw * chain)."""
        apart = values.reshape(*shape, -1, self.task.chains)
        return np.moveaxis(apart, (-1, -2), (0, 1))


def _seconds(output: bytes) -> float:
    """Warm-up and sampling of a chain, by Stan's clock."""
    return float(re.findall(rb"([\d.e-]+) seconds \(Total\)", output)[-1])


def build(task: Task) -> Compiled:
    """Translate and compile; a run of a few draws starts PyStan's processes.

    PyStan keeps the fit of every seed and would answer with it: what it has kept is removed.
    """
    program = stan.build((FOLDER / f"{task.row}.stan").read_text(), DATA[task.row](task.data))
    shutil.rmtree(httpstan.cache.model_directory(program.model_name) / "fits", ignore_errors=True)
    start = "one given point" if task.start else "uniform on (-2, 2), unconstrained"
    compiled = Compiled(task, program, start)
    compiled._fit(0, 5, 5)
    return compiled


if __name__ == "__main__":
    serve(build, ["pystan", "httpstan"])
