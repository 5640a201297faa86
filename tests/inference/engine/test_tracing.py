"""Graphs of functions: equal to the function, or refused with the reason."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from storyzoo.inference.engine.tracing import UntraceableError, script, trace_function
from tests.cases import CASES, Case

POINTS = [torch.tensor([0.5, -1.0], dtype=torch.float64) * k for k in (1, 2, -3)]
ELSEWHERE = torch.tensor([0.1, 0.7], dtype=torch.float64)


def heavy(q: Tensor) -> Tensor:
    """Has a part that does not depend on ``q``."""
    matrix = torch.arange(4.0, dtype=q.dtype).reshape(2, 2)
    known = torch.linalg.matrix_exp(matrix @ matrix.T / 10).log1p()
    total: Tensor = (known @ q).sin().sum()
    return total


def test_constants_are_folded_and_the_values_stay() -> None:
    graph = trace_function(heavy, POINTS)
    assert isinstance(graph, torch.fx.GraphModule)
    operations = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert operations.isdisjoint({"aten.linalg_matrix_exp.default", "aten.log1p.default"})
    for point in (*POINTS, ELSEWHERE):
        torch.testing.assert_close(graph(point), heavy(point))


def test_several_answers_are_all_kept() -> None:
    graph = trace_function(lambda q: (q.sum(), torch.ones(2, dtype=q.dtype), q * 2), POINTS)
    for found, expected in zip(graph(ELSEWHERE), (ELSEWHERE.sum(), 1, 2 * ELSEWHERE), strict=True):
        torch.testing.assert_close(found, torch.as_tensor(expected).to(found).expand_as(found))


def test_a_graph_that_answers_otherwise_is_refused() -> None:
    calls = itertools.count()

    def counting(q: Tensor) -> Tensor:
        return q.sum() * next(calls)

    with pytest.raises(UntraceableError, match="differs by .* at check point 0"):
        trace_function(counting, POINTS)


def test_a_difference_at_any_check_point_is_seen() -> None:
    def stepped(q: Tensor) -> Tensor:
        return q.sum() if float(q.detach().abs().max()) < 1.5 else q.prod()

    with pytest.raises(UntraceableError):
        trace_function(stepped, POINTS)


def test_a_function_that_draws_is_no_graph() -> None:
    with pytest.raises(UntraceableError, match="draws at random outside its sample sites"):
        trace_function(lambda q: q.sum() + torch.rand((), dtype=q.dtype), POINTS)


def branching(q: Tensor) -> Tensor:
    return q.sum() if q[0] > 0 else q.prod()


def asking(q: Tensor) -> Tensor:
    return q * q[0].item()


def failing(q: Tensor) -> Tensor:
    raise RuntimeError("no\nluck today")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (branching, "reads the value of a tensor"),
        (asking, "reads the value of a tensor"),
        (failing, "RuntimeError: no luck today"),
    ],
)
def test_what_can_not_be_traced_is_told_in_one_line(function: object, said: str) -> None:
    assert callable(function)
    with pytest.raises(UntraceableError, match=said) as raised:
        trace_function(function, POINTS)
    assert "\n" not in str(raised.value)


def test_not_a_number_equals_itself() -> None:
    graph = trace_function(lambda q: (q.sum() + 5).log(), [POINTS[0] * 100, POINTS[0]])
    assert bool(graph(POINTS[0] * 100).isnan())


def test_script_gives_the_same() -> None:
    graph = trace_function(heavy, POINTS)
    assert isinstance(graph, torch.fx.GraphModule)
    scripted = script(graph, POINTS[0])
    for point in (*POINTS, ELSEWHERE):
        torch.testing.assert_close(scripted(point), heavy(point))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_densities_of_the_cases_run_as_graphs(case: Case) -> None:
    density = case.target().density()
    density.value_and_gradient(density.flatten(case.latents()))
    assert density.rung == "c", density.notes
    assert density.engine.startswith("machine code (C")
