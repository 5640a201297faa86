"""nutpie's chains: exact where the answer is known, begun where they are told, ended cleanly."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from storyzoo.inference.engine import nutpie_nuts as module
from storyzoo.inference.engine.chains import Gathered, Schedule
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.nutpie_nuts import (
    UnavailableError,
    Walker,
    extension,
    run_walkers,
    walk_by_function,
    walk_by_pointer,
)
from storyzoo.inference.engine.progress import Budget
from storyzoo.inference.engine.rows import STATISTICS, statistics
from storyzoo.inference.engine.statistics import array_stats

pytestmark = pytest.mark.skipif(find_spec("nutpie") is None, reason="needs nutpie")
compiles = pytest.mark.skipif(which("cc") is None, reason="needs a C compiler")

RHO = 0.95
COVARIANCE = np.array([[1.0, RHO], [RHO, 1.0]])
START = np.array([0.3, -0.4])

SOURCE = f"""
#include <math.h>
#include <stdint.h>
#include <string.h>
/* A normal with unit variances and correlation {RHO}. User data, where there are any: a wall below
   which x is refused, then the first point that was asked for and whether there was one. */
int64_t density(uint64_t dim, const double *q, double *gradient, double *value, void *user) {{
    double c = 1 / (1 - {RHO} * {RHO});
    double *told = user;
    if (told && !told[3]) memcpy(told + 1, q, 2 * sizeof(double)), told[3] = 1;
    if (told && q[0] < told[0]) return 1;
    gradient[0] = -c * (q[0] - {RHO} * q[1]);
    gradient[1] = -c * (q[1] - {RHO} * q[0]);
    *value = 0.5 * (q[0] * gradient[0] + q[1] * gradient[1]);
    return 0;
}}
"""


@dataclass
class Compiled:
    """The normal as machine code."""

    address: int
    keep: Any
    user_data: int = 0

    def telling(self, told: np.ndarray) -> Compiled:
        """The same with user data."""
        return Compiled(self.address, told, told.ctypes.data)


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder: Path = tmp_path_factory.mktemp("normal")
    (folder / "normal.c").write_text(SOURCE)
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", "normal.so", "normal.c", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "normal.so"))
    address = ctypes.cast(library.density, ctypes.c_void_p).value
    return Compiled(cast(int, address), library)


@dataclass
class Written:
    """The normal as a Python function, with what a model may do at a point."""

    at: Callable[[np.ndarray], None] = lambda q: None
    points: list[np.ndarray] = field(default_factory=list)

    def value_and_gradient(self, q: Tensor) -> tuple[Tensor, Tensor]:
        self.points.append(q.numpy().copy())
        self.at(self.points[-1])
        gradient = -torch.as_tensor(np.linalg.inv(COVARIANCE)) @ q
        return 0.5 * q.dot(gradient), gradient


def schedule(**changed: Any) -> Schedule:
    settings = {"warmup": 200, "draws": 300, "target_accept": 0.8, "max_tree_depth": 10}
    return Schedule(**{**settings, **changed})


def run(chains: dict[int, Callable[[], Walker]], **options: Any) -> Gathered:
    settings: dict[str, Any] = {
        "cores": 2,
        "warmup": 200,
        "budget": Budget(None),
        "on_progress": lambda chain, iterations, divergences: None,
        "on_end": lambda chain, rows: None,
    }
    return run_walkers(chains, **{**settings, **options})


def by_pointer(native: Compiled, seeds: int = 4, **changed: Any) -> dict[int, Callable[[], Walker]]:
    how = schedule(**changed)
    return {i: partial(walk_by_pointer, native, START, 7 + i, how) for i in range(seeds)}


def by_function(
    density: Written, seeds: int = 1, **changed: Any
) -> dict[int, Callable[[], Walker]]:
    how, known = schedule(**changed), cast(LogDensity, density)
    return {i: partial(walk_by_function, known, START, 7 + i, how) for i in range(seeds)}


def drawn(gathered: Gathered, warmup: int = 200) -> np.ndarray:
    """Rows (chain, draw, C) after warm-up."""
    return np.stack([gathered.rows(chain)[warmup:] for chain in sorted(gathered.blocks)])


def z_scores(draws: np.ndarray, known: Any) -> np.ndarray:
    """How many Monte Carlo standard errors the means of (chain, draw, k) lie off."""
    ess = array_stats.ess(np.moveaxis(draws, 2, 0), chain_axis=1, draw_axis=2, method="mean")
    se = draws.std((0, 1)) / np.sqrt(ess)
    return np.asarray(np.abs(draws.mean((0, 1)) - known) / se)


def is_that_normal(draws: np.ndarray) -> bool:
    products = draws[..., [0, 0, 1]] * draws[..., [0, 1, 1]]
    return bool(z_scores(draws, 0.0).max() < 4 and z_scores(products, [1, RHO, 1]).max() < 4)


# -- draws -------------------------------------------------------------------------------------


@compiles
def test_draws_by_address_are_those_of_the_normal(native: Compiled) -> None:
    assert is_that_normal(drawn(run(by_pointer(native, draws=1000)))[..., :2])


def test_draws_by_a_function_are_those_of_the_normal() -> None:
    assert is_that_normal(drawn(run(by_function(Written(), seeds=2, draws=400)))[..., :2])


@compiles
def test_both_ways_give_the_same_statistics(native: Compiled) -> None:
    for rows in (drawn(run(by_pointer(native, 1))), drawn(run(by_function(Written())))):
        told = statistics(rows)
        assert set(told) == set(STATISTICS)
        q = rows[..., :2]
        density = -0.5 * np.einsum("cdi,ij,cdj->cd", q, np.linalg.inv(COVARIANCE), q)
        assert np.allclose(told["lp"], density, atol=1e-12)
        assert (told["energy"] + told["lp"] >= 0).all()
        assert (told["n_steps"] >= 2.0 ** told["tree_depth"] - 1).all()
        assert ((told["acceptance_rate"] >= 0) & (told["acceptance_rate"] <= 1)).all()
        assert not told["diverging"].any()


def test_a_chain_begins_exactly_where_it_is_told() -> None:
    density = Written()
    run(by_function(density, warmup=5, draws=5))
    assert np.array_equal(density.points[0], START)


@compiles
def test_a_chain_by_address_begins_exactly_where_it_is_told(native: Compiled) -> None:
    told = np.array([-np.inf, 0, 0, 0])
    run(by_pointer(native.telling(told), 1, warmup=5, draws=5))
    assert np.array_equal(told[1:3], START)


@compiles
def test_gradients_are_counted(native: Compiled) -> None:
    density = Written()
    rows = run(by_function(density)).rows(0)
    # Beyond the trajectories: the start and the search for a first step size.
    assert 0 <= len(density.points) - rows[-1, -1] < 30
    assert rows[-1, -1] == statistics(rows)["n_steps"].sum()


@compiles
def test_same_draws_whatever_the_cores(native: Compiled) -> None:
    one, two = (run(by_pointer(native), cores=cores) for cores in (1, 2))
    assert np.array_equal(drawn(one), drawn(two))
    assert len(np.unique(drawn(one)[:, -1, 0])) == 4
    alone = run({2: by_pointer(native)[2]})
    assert np.array_equal(alone.rows(2), two.rows(2))


@compiles
def test_a_mass_matrix_of_low_rank_saves_gradients(native: Compiled) -> None:
    spent = {}
    for kind in ("diagonal", "lowrank"):
        gathered = run(by_pointer(native, mass_matrix=kind, warmup=400), warmup=400)
        draws = drawn(gathered, 400)
        assert is_that_normal(draws[..., :2])
        spent[kind] = statistics(draws)["n_steps"].sum()
    assert spent["lowrank"] < 0.7 * spent["diagonal"]


def test_a_gradient_of_zero_is_no_mistake() -> None:
    density = Written()
    flat = torch.tensor([1.0, 0.0], dtype=torch.float64)
    density.value_and_gradient = lambda q: (-0.5 * q[0].square(), -q * flat)  # type: ignore[method-assign]
    gathered = run(by_function(density, warmup=100, draws=50, max_tree_depth=5), warmup=100)
    assert not gathered.failures
    assert gathered.rows(0)[:, 1].std() > 1e3


# -- points outside the support ----------------------------------------------------------------


def off_domain(q: np.ndarray) -> None:
    if q[0] > 1:
        raise RuntimeError("linalg.cholesky: the input is not positive-definite")


def test_a_matrix_that_is_not_positive_definite_is_a_wall() -> None:
    gathered = run(by_function(Written(off_domain)))
    assert not gathered.failures
    assert gathered.rows(0)[:, 0].max() <= 1


@compiles
def test_what_machine_code_refuses_is_a_wall(native: Compiled) -> None:
    rows = run(by_pointer(native.telling(np.array([-1.0, 0, 0, 0])), 1)).rows(0)
    assert rows[:, 0].min() >= -1
    assert statistics(rows)["diverging"].any()


def test_what_a_model_raises_ends_its_chain_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    density = Written()

    def fail(q: np.ndarray) -> None:
        if len(density.points) > 50:
            raise ValueError("scale is\nnegative")

    density.at = fail
    ended: list[int] = []
    gathered = run(by_function(density), on_end=lambda chain, rows: ended.append(chain))
    assert gathered.failures == {0: "ValueError: scale is negative"}
    assert not ended
    assert not capfd.readouterr().err


# -- ended early -------------------------------------------------------------------------------


@compiles
def test_progress_is_told_and_ctrl_c_keeps_the_rows(native: Compiled) -> None:
    seen: list[tuple[int, int]] = []

    def press(chain: int, iterations: int, divergences: int) -> None:
        seen.append((chain, iterations))
        if iterations > 1000:
            raise KeyboardInterrupt

    gathered = run(by_pointer(native, draws=10**6), on_progress=press)
    assert gathered.stopped == "interrupted"
    assert len(gathered.rows(0)) >= 1000
    assert len(gathered.rows(1)) > 0
    assert gathered.rows(2).shape == (0, 0)
    counts = [iterations for chain, iterations in seen if chain == 0]
    assert counts == sorted(counts)


@compiles
def test_a_spent_budget_keeps_the_rows(native: Compiled) -> None:
    gathered = run(by_pointer(native, draws=10**6), budget=Budget(0.005))
    assert gathered.stopped == "minutes"
    assert len(gathered.rows(0)) > 10


def test_ctrl_c_ends_a_chain_by_a_function() -> None:
    density = Written()

    def press(chain: int, iterations: int, divergences: int) -> None:
        if iterations > 100:
            raise KeyboardInterrupt

    gathered = run(by_function(density, draws=10**6), on_progress=press)
    assert gathered.stopped == "interrupted"
    assert len(gathered.rows(0)) >= 100
    before = len(density.points)
    time.sleep(0.05)
    assert len(density.points) == before


@compiles
def test_what_the_end_of_a_chain_raises_ends_the_others(native: Compiled) -> None:
    def refuse(chain: int, rows: np.ndarray) -> None:
        raise ValueError("improper")

    chains = by_pointer(native, 1) | {5: by_pointer(native, draws=10**6)[1]}
    with pytest.raises(ValueError, match="improper"):
        run(chains, on_end=refuse)


def test_nothing_of_nutpie_is_left_to_be_freed_by_a_forked_chain() -> None:
    gc.collect()
    gc.disable()
    try:
        run(by_function(Written(), draws=10**6), budget=Budget(0.005))
        left = [type(o).__name__ for o in gc.get_objects()]
    finally:
        gc.enable()
    assert "_BackgroundSampler" not in left


# -- how nutpie is had -------------------------------------------------------------------------


@compiles
def test_the_extension_is_loaded_without_its_package() -> None:
    script = (
        "import sys; from storyzoo.inference.engine.nutpie_nuts import extension; extension();"
        "print('nutpie' in sys.modules, 'arviz' in sys.modules); import nutpie; extension()"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["False", "False"]


def test_another_shape_is_told_and_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    extension.cache_clear()
    monkeypatch.setitem(module._SIGNATURES, ("LogpFunc",), "(dim, ptr)")
    with pytest.raises(UnavailableError, match="nutpie's LogpFunc has another shape"):
        extension()
    extension.cache_clear()
