"""Chains of the No-U-Turn sampler by nutpie, in Rust, each in a thread of its own.

nutpie calls a density that is machine code by its address: no Python runs until a chain has ended.
Any other density it calls as a Python function. Warm-up is nutpie's own schedule: the step size by
dual averaging, and a mass matrix from the spread of draws and gradients both, diagonal
``(var(q_i) / var(g_i))^(1/2)`` or of low rank beside that diagonal.

Each chain is a sampler by itself, with a seed of its own, so that its draws depend on neither the
other chains nor the cores.

Sources: Hoffman and Gelman (2014), "The No-U-Turn sampler", JMLR 15; Betancourt (2017), "A
conceptual introduction to Hamiltonian Monte Carlo", arXiv:1701.02434; nutpie and nuts-rs, the
PyMC developers.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any

import numpy as np
import torch

from storyzoo.inference.engine.chains import Gathered, Schedule, in_one_line
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.lowering.compiler import CompilerError
from storyzoo.inference.engine.lowering.library import build
from storyzoo.inference.engine.progress import Budget
from storyzoo.inference.engine.pyro_nuts import off_domain
from storyzoo.inference.engine.rows import divergences

SHORTEST, LONGEST = 0.001, 0.05
"""Seconds for which a chain is waited before the others, the budget and the bar are looked at."""
RATE = 100
"""Milliseconds between two reports of a chain's progress."""

TINY = 1e-300
"""What stands for a gradient of exactly zero, which nutpie takes for a mistake."""

_COLUMNS = {
    "lp": "logp",
    "energy": "energy",
    "tree_depth": "depth",
    "step_size": "step_size",
    "acceptance_rate": "mean_tree_accept",
    "diverging": "diverging",
    "n_steps": "n_steps",
    "reached_max_treedepth": "maxdepth_reached",
}
"""nutpie's names, in the order of a row."""

_SIGNATURES = {
    ("LogpFunc",): "(ptr, user_data_ptr, keep_alive)",
    ("ExpandFunc",): "(dim, expanded_dim, ptr, user_data_ptr, keep_alive)",
    ("PyMcModel",): (
        "(density, expand, variables, dim, dim_sizes, coords, init_func, transform_adapter)"
    ),
    ("PySampler", "from_pymc"): "(settings, cores, model, progress_type, store)",
    ("PySampler", "wait"): "($self, timeout_seconds=None)",
    ("ProgressType", "template_callback"): "(rate, template, n_cores, callback)",
}
"""What is called of nutpie's private classes: their shape is looked at before they are used."""

_BRIDGE = f"""
#include <stdint.h>
#include <string.h>

typedef int64_t density(uint64_t, const double *, double *, double *, void *);
typedef struct {{ density *call; void *data; }} machine;

int64_t evaluate(uint64_t dim, const double *q, double *gradient, double *value, void *user) {{
    const machine *at = user;
    const int64_t refused = at->call(dim, q, gradient, value, at->data);
    for (uint64_t i = 0; i < dim; ++i) if (gradient[i] == 0) gradient[i] = {TINY!r};
    return refused;
}}

int64_t expand(uint64_t dim, uint64_t expanded, const double *q, double *out, void *user) {{
    memcpy(out, q, dim * sizeof(double));
    return 0;
}}
"""
"""What nutpie calls: the density, and what is kept of a draw, which is all of it."""

_SITE, _DIM = "q", "coordinate"
_TOLD = "{% for chain in chains %}{{ chain.finished_draws }} {{ chain.divergences }}{% endfor %}"


class UnavailableError(Exception):
    """Why nutpie, or a part of it, can't be used."""


@dataclass
class Walker:
    """A chain that runs in nutpie's threads."""

    sampler: Any
    dim: int
    iterations: int = 0
    divergences: int = 0
    """Among the draws after warm-up, as far as they were told."""
    failure: str = ""
    """Why it can't go on, in one line."""
    _results: Any = field(default=None, repr=False)
    _rows: np.ndarray | None = field(default=None, repr=False)

    def ended(self, seconds: float) -> bool:
        """Wait so long at most; whether the chain has come to its end, a good one or a bad one."""
        try:
            self._results = self._wait(seconds)
        except TimeoutError:
            return bool(self.failure)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in Rust is no Exception
            self.failure = self.failure or _told(error)
        return True

    def rows(self) -> np.ndarray:
        """The rows (n, C) of a chain that has ended; of any other, those so far: it is ended.

        nutpie's objects are let go of here. Were they still about when another chain is forked,
        the child would free them, and wait for threads of theirs that it does not have.
        """
        if self._rows is None:
            try:
                results = self._stop() if self._results is None else self._results
                draws, stats = results.get_arrow_trace()
                self._rows = _rows(draws[0], stats[0], self.dim) if draws else np.empty((0, 0))
            finally:
                self.sampler = self._results = None
        return self._rows

    def _wait(self, seconds: float) -> Any:
        raise NotImplementedError

    def _stop(self) -> Any:
        raise NotImplementedError


# -- by address --------------------------------------------------------------------------------


class PointerWalker(Walker):
    """A chain on a density that is machine code."""

    def _wait(self, seconds: float) -> Any:
        self.sampler.wait(seconds)
        return self.sampler.take_results()

    def _stop(self) -> Any:
        self.sampler.abort()
        return self.sampler.take_results()

    def hear(self, told: str) -> None:
        """Take a report of nutpie's on its progress."""
        iterations, diverged = told.split()
        self.iterations, self.divergences = int(iterations), int(diverged)


def walk_by_pointer(native: Any, start: np.ndarray, seed: int, schedule: Schedule) -> PointerWalker:
    """Start a chain at ``start`` (D,) on a density's machine code.

    Raises UnavailableError where the machinery can't be had.
    """
    lib, bridge = machinery()
    dim, machine = len(start), np.array([native.address, native.user_data], dtype=np.uintp)
    keep = (native, bridge, machine)
    sizes = {_DIM: dim}
    variables = lib.PyVariable.new_variables([_SITE], ["float64"], [(dim,)], sizes, {_SITE: [_DIM]})
    model = lib.PyMcModel(
        lib.LogpFunc(_address(bridge.evaluate), machine.ctypes.data, keep),
        lib.ExpandFunc(dim, dim, _address(bridge.expand), 0, keep),
        variables,
        dim,
        sizes,
        {_DIM: _names(dim)},
        lambda seed: start,
        None,
    )
    kind = {"diagonal": lib.PyNutsSettings.Diag, "lowrank": lib.PyNutsSettings.LowRank}
    settings = kind[schedule.mass_matrix](seed)
    settings.num_tune, settings.num_draws = schedule.warmup, schedule.draws
    settings.num_chains, settings.maxdepth = 1, schedule.max_tree_depth
    settings.target_accept = schedule.target_accept
    walker = PointerWalker(None, dim)
    told = lib.ProgressType.template_callback(RATE, _TOLD, 1, walker.hear)
    walker.sampler = lib.PySampler.from_pymc(settings, 1, model, told, lib.PyStorage.arrow())
    return walker


@cache
def machinery() -> tuple[Any, ctypes.CDLL]:
    """nutpie's extension, and what it is given to call.

    Raises UnavailableError with the reason where one of them can't be had.
    """
    lib = extension()
    try:
        return lib, build([_BRIDGE]).cdll
    except CompilerError as error:
        raise UnavailableError(str(error)) from error


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@cache
def extension() -> Any:
    """nutpie's compiled part by itself: the package around it imports ArviZ, which takes seconds.

    Raises UnavailableError where it is not there or has not the shape that is needed.
    """
    lib = sys.modules.get("nutpie._lib") or _load()
    for path, wanted in _SIGNATURES.items():
        found = lib
        for name in path:
            found = getattr(found, name, None)
        if getattr(found, "__text_signature__", None) != wanted:
            raise UnavailableError(f"nutpie's {'.'.join(path)} has another shape")
    return lib


def _load() -> Any:
    package = find_spec("nutpie")
    places = package.submodule_search_locations if package else None
    spec = PathFinder.find_spec("nutpie._lib", places) if places else None
    if spec is None or spec.loader is None:
        raise UnavailableError("nutpie is not installed")
    try:
        lib = module_from_spec(spec)
        spec.loader.exec_module(lib)
    except ImportError as error:
        raise UnavailableError(f"nutpie can't be loaded: {in_one_line(error)}") from error
    return lib


# -- by a Python function ----------------------------------------------------------------------


class FunctionWalker(Walker):
    """A chain on a density that Python calls."""

    def _wait(self, seconds: float) -> Any:
        return self.sampler.wait(timeout=seconds)

    def _stop(self) -> Any:
        return self.sampler.abort()


def walk_by_function(
    density: LogDensity, start: np.ndarray, seed: int, schedule: Schedule
) -> FunctionWalker:
    """Start a chain at ``start`` (D,) through nutpie's public ``from_pyfunc``.

    Whatever the model raises ends the chain and is told in its ``failure``. Raises
    UnavailableError where nutpie can't be imported.
    """
    nutpie, dim = public(), len(start)
    walker = FunctionWalker(None, dim)
    nowhere = (math.nan, np.zeros(dim))  # what nutpie takes for a point outside the support

    def evaluate(q: np.ndarray) -> tuple[float, np.ndarray]:
        try:
            value, gradient = density.value_and_gradient(torch.from_numpy(q))
        except Exception as error:
            if not off_domain(error):
                walker.failure = walker.failure or in_one_line(error)
            return nowhere
        found = gradient.numpy()
        found = np.where(found == 0, TINY, found)
        return (float(value), found) if np.isfinite(found).all() else nowhere

    def expand(q: np.ndarray) -> dict[str, np.ndarray]:
        walker.iterations += 1
        return {_SITE: q}

    model = nutpie.compiled_pyfunc.from_pyfunc(
        dim,
        lambda: evaluate,
        lambda seed1, seed2, chain: expand,
        [np.dtype("float64")],
        [(dim,)],
        [_SITE],
        coords={_DIM: _names(dim)},
        dims={_SITE: (_DIM,)},
        make_initial_point_fn=lambda seed: start,
    )
    walker.sampler = nutpie.sample(
        model,
        draws=schedule.draws,
        tune=schedule.warmup,
        chains=1,
        cores=1,
        seed=seed,
        low_rank_modified_mass_matrix=schedule.mass_matrix == "lowrank",
        target_accept=schedule.target_accept,
        maxdepth=schedule.max_tree_depth,
        progress_bar=False,
        return_raw_trace=True,
        blocking=False,
    )
    return walker


@cache
def public() -> Any:
    """nutpie with its door for Python functions. Raises UnavailableError where it can't be had."""
    try:
        import nutpie
        import nutpie.compiled_pyfunc
    except ImportError as error:
        raise UnavailableError(f"nutpie can't be imported: {in_one_line(error)}") from error
    return nutpie


# -- side by side ------------------------------------------------------------------------------


def run_walkers(
    chains: Mapping[int, Callable[[], Walker]],
    *,
    cores: int,
    warmup: int,
    budget: Budget,
    on_progress: Callable[[int, int, int], None],
    on_end: Callable[[int, np.ndarray], None],
) -> Gathered:
    """Run all chains to their end, ``cores`` at a time.

    ``on_progress(chain, iterations, divergences)`` sees how far each chain is, ``on_end(chain,
    rows)`` all rows of a chain that has come to its end. Ctrl-C and a spent budget end every
    chain and keep its rows. A chain that breaks off is named in ``failures``; the others go on.
    """
    gathered = Gathered({chain: [] for chain in chains})
    waiting, running = list(chains), dict[int, Walker]()
    patience = SHORTEST

    def take(chain: int) -> None:
        """A chain that has ended."""
        walker = running[chain]
        if walker.failure:
            gathered.failures[chain] = walker.failure
        rows = _whatever_there_is(walker)
        gathered.blocks[chain] = [rows] if len(rows) else []
        del running[chain]
        if not walker.failure:
            on_end(chain, rows)
        on_progress(chain, len(rows), divergences(rows[warmup:]))

    try:
        with _one_thread_each():
            while waiting or running:
                while waiting and len(running) < cores:
                    chain = waiting.pop(0)
                    running[chain] = chains[chain]()
                over = [c for c, walker in running.items() if walker.ended(patience / len(running))]
                patience = SHORTEST if over else min(2 * patience, LONGEST)
                for chain in over:
                    take(chain)
                for chain, walker in running.items():
                    on_progress(chain, walker.iterations, walker.divergences)
                if budget.spent and (waiting or running):
                    gathered.stopped = "minutes"
                    break
    except KeyboardInterrupt:
        gathered.stopped = "interrupted"
    finally:
        for chain, walker in running.items():
            rows = _whatever_there_is(walker)
            gathered.blocks[chain] = [rows] if len(rows) else []
    return gathered


def _whatever_there_is(walker: Walker) -> np.ndarray:
    """The rows of a chain, none where nutpie has lost them."""
    try:
        return walker.rows()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        walker.failure = walker.failure or _told(error)
        return np.empty((0, 0))


def _told(error: BaseException) -> str:
    """What nutpie raised, in one line, without Rust's stack."""
    told = str(error).split("Stack backtrace")[0].replace("called `Result::unwrap()` on an ", "")
    if "bad initial gradient" in told:
        return "the density's gradient is exactly zero somewhere: it does not depend on every site"
    return f"nutpie: {' '.join(told.split())[:300]}"


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Chains run side by side, so none needs more than one thread of torch's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _rows(draws: Any, stats: Any, dim: int) -> np.ndarray:
    """nutpie's two Arrow batches as rows (n, C)."""
    import pyarrow

    points = pyarrow.record_batch(draws).column(_SITE).flatten().to_numpy().reshape(-1, dim)
    batch = pyarrow.record_batch(stats)
    columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in _COLUMNS.values()]
    steps = batch.column("n_steps").to_numpy()
    return np.column_stack([points, *columns, np.cumsum(steps)]).astype(float, copy=False)


def _names(dim: int) -> list[str]:
    return [str(place) for place in range(dim)]
