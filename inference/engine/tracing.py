"""A function of tensors, its Python traced away once: what is left is a graph of tensor operations.

Pyro pays Python for every handler at every evaluation; the graph does not, and it can be mapped
over many points at once. A function that can't be traced (a branch on a value, ``.item()``) or
whose graph answers otherwise than the function itself is named with the reason and runs as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

Function = Callable[..., Any]


class UntraceableError(Exception):
    """Why a function can't be traced."""


def trace_function(function: Function, points: Sequence[Tensor]) -> Function:
    """The graph of ``function``, checked against it at every one of the points.

    Raises UntraceableError with the reason.
    """
    try:
        graph = make_fx(function)(points[0])
    except Exception as error:  # torch and the model may raise anything here; the reason is kept
        reason = " ".join(str(error).split())[:200]
        raise UntraceableError(f"{type(error).__name__}: {reason}") from error
    _fold_constants(graph)
    for place, point in enumerate(points):
        _compare(function(point), graph(point), place)
    return graph


def script(graph: torch.fx.GraphModule, point: Tensor) -> Function:
    """The graph run by TorchScript's interpreter, which costs a third of Python's per operation."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        scripted: Function = torch.jit.trace(graph, point, check_trace=False)
        for _ in range(2):  # its first two runs profile and optimise
            scripted(point)
    return scripted


def _fold_constants(module: torch.fx.GraphModule) -> None:
    """Evaluate, once, all that does not depend on the graph's input."""
    graph, known = module.graph, {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(module, node.target)
        elif node.op == "call_function" and all(n in known for n in node.all_input_nodes):
            places, named = torch.fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*places, **named)
    for node, value in known.items():
        outside = any(user not in known for user in node.users)
        if node.op == "call_function" and isinstance(value, Tensor) and outside:
            name = f"_folded_{node.name}"
            module.register_buffer(name, value.detach().clone(), persistent=False)
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.get_attr(name))
    graph.eliminate_dead_code()
    module.recompile()


def _compare(expected: Any, found: Any, place: int) -> None:
    flat_expected, _ = torch.utils._pytree.tree_flatten(expected)
    flat_found, _ = torch.utils._pytree.tree_flatten(found)
    for a, b in zip(flat_expected, flat_found, strict=True):
        tolerance = 1e-8 if a.dtype == torch.float64 else 1e-4
        if not torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True):
            gap = (a - b).abs().max()
            raise UntraceableError(f"the traced graph differs by {gap:.3g} at check point {place}")
