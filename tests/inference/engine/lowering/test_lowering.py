"""Programs as wholes: loops that share tiles, memory used again, functions cut into units."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from storyzoo.inference.engine.lowering.lower import FUNCTIONS_PER_UNIT, Program, lower
from storyzoo.inference.engine.lowering.operations import MissingOperation
from storyzoo.inference.engine.lowering.rolling import LINES
from storyzoo.inference.engine.lowering.schedule import SINGLE, TILE
from storyzoo.inference.engine.tracing import trace
from tests.inference.engine.lowering.compiled import Function, assert_as_torch, compiled, difference

BORDERS = (1, 2, 31, 32, 33, TILE - 1, TILE, TILE + 1, SINGLE - 1, SINGLE, SINGLE + 1, 1000)
"""Lengths at which loops change their form."""
DIM = 1100
POINTS = [
    size * torch.randn(DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for seed, size in enumerate((0.3, 1.0))
]
KNOWN = torch.randn(4 * DIM, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
GROUP = torch.arange(DIM) * 7919 % 5


@pytest.fixture(autouse=True)
def default_dtype() -> Iterator[None]:
    """That of stories."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# -- rows of any number ------------------------------------------------------------------------


def regression(n: int, q: Tensor) -> Tensor:
    x = KNOWN[: 3 * n].reshape(n, 3)
    gap = KNOWN[:n] - x @ q[:3]
    return -0.5 * (gap / q[3].exp()).square().sum() - n * q[3]


def mixture(n: int, q: Tensor) -> Tensor:
    apart = KNOWN[:n, None] - q[:3]
    by_part = q[3:6].log_softmax(0) - 0.5 * apart.square() / q[6:9].exp() - 0.5 * q[6:9]
    return by_part.logsumexp(1).sum()


def groups(n: int, q: Tensor) -> Tensor:
    effect = q[0] + q[1].exp() * q[2:7]
    return (effect[GROUP[:n]] * KNOWN[:n]).tanh().sum()


def locals_of_groups(n: int, q: Tensor) -> Tensor:
    rows = q[:n]
    total = torch.zeros(5).scatter_add(0, GROUP[:n], rows.exp())
    return (total[GROUP[:n]].log1p() * rows).sum() + total.sum()


def walk(n: int, q: Tensor) -> Tensor:
    level = (q[0].exp() * q[:n]).cumsum(0)
    return -(KNOWN[:n] - level).square().sum() / n


def neighbours(n: int, q: Tensor) -> Tensor:
    rows = q[:n]
    return ((rows[1:] - 0.9 * rows[:-1]).square().sum() + rows.flip(0) @ rows) / n


def centred(n: int, q: Tensor) -> Tensor:
    rows = q[:n]
    return ((rows - rows.mean()).square() * rows.softmax(0)).sum() + rows.logsumexp(0)


def there_and_back(n: int, q: Tensor) -> Tensor:
    table = q[:n, None] * KNOWN[: 3 * n].reshape(n, 3)
    level = table.mean(0)
    again = (table - level).tanh()
    scale = again.square().sum(1, keepdim=True)
    return (again / (1 + scale)).sum(0)


def extremes(n: int, q: Tensor) -> Tensor:
    table = q[:n, None].sin() * KNOWN[: 3 * n].reshape(n, 3)
    return table.amax(0) - table.amin(0) + table.max(1).values.sum()


def all_along(n: int, q: Tensor) -> Tensor:
    rows = q[:n].tanh()
    return torch.stack([rows.cumsum(0).sin(), rows.logcumsumexp(0)])


ROWS: tuple[Callable[[int, Tensor], Tensor], ...] = (
    regression,
    mixture,
    groups,
    locals_of_groups,
    walk,
    neighbours,
    centred,
    there_and_back,
    extremes,
    all_along,
)


@pytest.mark.parametrize("n", BORDERS)
def test_rows_of_any_number(n: int) -> None:
    assert_as_torch({function.__name__: partial(function, n) for function in ROWS}, POINTS)


def test_several_lengths_in_one_program() -> None:
    lengths = (33, 257, 513)
    assert_as_torch({f"{f.__name__} {n}": partial(f, n) for f in ROWS for n in lengths}, POINTS)


# -- two long dims -----------------------------------------------------------------------------


def square(n: int, q: Tensor) -> Tensor:
    """Rows against columns of one matrix, both ways."""
    table = (q[:n, None] * KNOWN[:n]).sin()
    return (table * table.T).cumsum(0).sum(1) + (table.T - table.mean(0)).amax(0)


def distances(n: int, q: Tensor) -> Tensor:
    gap = (q[:n, None] - q[:n]).square()
    return (-gap / 2).exp().sum(1).log() + gap.sum(0)


def process(n: int, q: Tensor) -> Tensor:
    kernel = (-0.5 * (KNOWN[:n, None] - KNOWN[:n]).square() / q[0].exp()).exp()
    factor = torch.linalg.cholesky(kernel + (0.1 + q[1].exp()) * torch.eye(n))
    half = torch.linalg.solve_triangular(factor, KNOWN[:n, None], upper=False)
    density: Tensor = -0.5 * half.square().sum() - factor.diagonal().log().sum()
    return density


def oblong(n: int, q: Tensor) -> Tensor:
    table = q[:n, None] * KNOWN[: 2 * n + 1]
    other = table.T.tanh()
    return (other @ table).diagonal() + other.sum(1) * table.sum(0)


def unfolded(n: int, q: Tensor) -> Tensor:
    table = q[:n, None] * KNOWN[:n].exp()
    return table.reshape(n * n)[: n * (n - 1)].reshape(n - 1, n).sum(0) + table.T.reshape(-1)[:n]


@pytest.mark.parametrize("n", (2, 31, 33, 70))
def test_two_long_dims(n: int) -> None:
    functions = (square, distances, process, oblong, unfolded)
    assert_as_torch({function.__name__: partial(function, n) for function in functions}, POINTS)


# -- long programs -----------------------------------------------------------------------------


def chain(steps: int, n: int, q: Tensor) -> Tensor:
    """Every step is used twice, so that every one is stored."""
    x = q[:n]
    for k in range(steps):
        x = 0.6 * (x + 0.1 * k).sin() + 0.4 * x.flip(0)
    return x


FORMS = (torch.sin, torch.tanh, torch.sigmoid, torch.atan, torch.cos, torch.erf)


def uneven(steps: int, n: int, q: Tensor) -> Tensor:
    """The same, but no stretch of steps comes again."""
    choose = random.Random(0)
    x = q[:n]
    for k in range(steps):
        other = choose.choice((x, x.flip(0), x.roll(1, 0)))
        x = 0.6 * choose.choice(FORMS)(x + 0.1 * k) + 0.4 * choose.choice(FORMS)(other)
    return x


def assert_as_torch_at_length(function: Function, point: Tensor, units: int) -> None:
    """Value and gradient of a program of at least so many units."""
    gradient = torch.func.grad(lambda q: function(q).sum())
    code = compiled(lambda q: (function(q), gradient(q)), point)
    assert len(code.program.sources) >= units
    for expected, found in zip((function(point), gradient(point)), code(point), strict=True):
        assert difference(expected, found) < 1e-10


@pytest.mark.parametrize("n", (1, 3, 40, 600))
def test_a_program_of_several_units(n: int) -> None:
    assert_as_torch_at_length(partial(uneven, 300, n), POINTS[1], units=2)


@pytest.mark.parametrize("n", (1, 3, 40, 600))
def test_steps_that_come_again_are_a_loop(n: int) -> None:
    assert_as_torch_at_length(partial(chain, 300, n), POINTS[1], units=1)


def test_a_loop_is_no_longer_for_more_turns() -> None:
    def size(steps: int) -> int:
        gradient = torch.func.grad(lambda q: chain(steps, 3, q).sum())
        return sum(map(len, lower(trace(gradient, POINTS[0]), POINTS[0]).sources))

    assert size(900) < 1.1 * size(300)


def test_functions_and_units_stay_short() -> None:
    program = lower(trace(partial(uneven, 900, 3), POINTS[0]), POINTS[0])
    assert len(program.sources) > 2
    for source in program.sources:
        bodies = source.split("\nvoid part")[1:]
        functions = [body for body in bodies if "{" in body.partition("\n")[0]]
        assert len(functions) <= FUNCTIONS_PER_UNIT
        assert all(body.partition("\n}")[0].count("\n") < 2 * LINES for body in bodies)


def workspace(program: Program) -> int:
    """Numbers that a thread has to keep."""
    return int(program.sources[-1].partition("double F[")[2].partition("]")[0])


def test_memory_is_used_again() -> None:
    def smooth(q: Tensor) -> Tensor:
        x = q[:1000]
        for _ in range(40):
            x = x.cumsum(0) / 30 + x.flip(0)
        return x

    assert workspace(lower(trace(smooth, POINTS[0]), POINTS[0])) < 10 * 1000


def test_what_is_needed_within_a_tile_takes_the_room_of_a_tile() -> None:
    n = 100_000
    data = torch.linspace(-1, 1, n)

    def mixture_of_many(q: Tensor) -> Tensor:
        apart = (data[:, None] - q[:3]).square()
        return (q[3:6] - apart).logsumexp(1).sum()

    gradient = torch.func.grad_and_value(mixture_of_many)
    assert workspace(lower(trace(gradient, POINTS[0][:6]), POINTS[0][:6])) < 100 * TILE


# -- the text ----------------------------------------------------------------------------------

ASK = """
import torch
from tests.inference.engine.lowering.test_lowering import POINTS, mixture, partial, chain, groups
from storyzoo.inference.engine.lowering.lower import lower
from storyzoo.inference.engine.tracing import trace
for f in (partial(mixture, 600), partial(chain, 30, 600), partial(groups, 40)):
    graph = trace(torch.func.grad_and_value(lambda q: f(q).sum()), POINTS[0])
    print(*lower(graph, POINTS[0]).sources)
"""


def test_two_processes_write_the_same_text() -> None:
    """Else no process would find what another has compiled."""
    texts = {
        subprocess.run(
            [sys.executable, "-c", ASK],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONMALLOC": malloc},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, malloc in (("1", "pymalloc"), ("2", "malloc"))
    }
    assert len(texts) == 1
    assert len(texts.pop()) > 10_000


def test_constants_of_data_are_no_part_of_the_text() -> None:
    def at(data: Tensor) -> tuple[str, ...]:
        function = torch.func.grad_and_value(lambda q: (data * q[0]).tanh().sum())
        return lower(trace(function, POINTS[0]), POINTS[0]).sources

    assert at(KNOWN[:600]) == at(KNOWN[600:1200])
    assert max(len(source) for source in at(KNOWN)) < 30_000


def test_known_values_that_do_not_change_are_not_stored() -> None:
    ones = torch.ones(600, 3)
    program = lower(trace(lambda q: (ones * q[0]).sum(), POINTS[0]), POINTS[0])
    assert not any(constant.size > 1 for constant in program.constants)


# -- what has no form --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda q: q.sort().values, "sort"),
        (lambda q: torch.linalg.eigvalsh(torch.outer(q[:3], q[:3])), "_linalg_eigh"),
        (lambda q: torch.polygamma(3, q.exp()), "polygamma of order 3"),
        (lambda q: q.float().sin(), "numbers of type float32"),
        (lambda q: torch.fft.fft(q).abs(), "_fft_r2c|complex"),
    ],
    ids=["sort", "eigh", "polygamma", "float32", "fft"],
)
def test_what_is_missing_is_named(function: Function, named: str) -> None:
    with pytest.raises(MissingOperation, match=named):
        lower(trace(function, POINTS[0]), POINTS[0])
