"""From a traced graph to C: every node in turn, then the schedule, then the text."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from storyzoo.inference.engine.lowering.buffer import Buffer, Kind
from storyzoo.inference.engine.lowering.builder import CHEAP, LONGEST, Builder
from storyzoo.inference.engine.lowering.emit import emit
from storyzoo.inference.engine.lowering.operations import (
    RULES,
    MissingOperation,
    Result,
    Rule,
    put_where,
)
from storyzoo.inference.engine.lowering.schedule import schedule
from storyzoo.inference.engine.lowering.symbolic import Array, of_buffer

FUNCTIONS_PER_UNIT = 4
PIECES = {"add", "clone", "detach", "alias", "view", "slice_scatter", "constant_pad_nd", "sum"}
"""Operations that take an array in pieces as it is."""


@dataclass(frozen=True)
class Program:
    """C sources, the constants that they read, and the shapes of what they write."""

    sources: tuple[str, ...]
    constants: tuple[np.ndarray, ...]
    dim: int
    outputs: tuple[tuple[int, ...], ...]


def lower(graph: fx.GraphModule, point: Tensor) -> Program:
    """C for a functional aten graph of one vector (D,) in float64.

    Raises MissingOperation where the graph holds something that the table of operations lacks.
    """
    builder = Builder()
    values = _results(graph, point)
    arrays: dict[fx.Node, Any] = {}
    outputs: list[Buffer] = []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            arrays[node] = of_buffer(builder.buffer(tuple(point.shape), "double", "input"))
        elif node.op == "get_attr":
            arrays[node] = builder.constant(_numbers(values[node]))
        elif node.op == "output":
            outputs = _outputs(builder, node, arrays, values)
        else:
            arrays[node] = _lowered(builder, node, arrays, values)
    emission = emit(schedule(builder.statements), point.numel(), outputs)
    constants = tuple(
        np.ascontiguousarray(np.transpose(buffer.values, order))  # type: ignore[arg-type]
        for buffer, order in zip(emission.constants, emission.orders, strict=True)
    )
    sources = tuple(emission.sources(FUNCTIONS_PER_UNIT))
    return Program(
        sources, constants + emission.tables, point.numel(), tuple(b.shape for b in outputs)
    )


def _results(graph: fx.GraphModule, point: Tensor) -> dict[fx.Node, Any]:
    """Every node's value at one point: shapes and types are read off it, and known values."""
    found: dict[fx.Node, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            found[n] = super().run_node(n)
            return found[n]

    with torch.no_grad():
        Recorder(graph).run(point)
    return found


def _lowered(
    builder: Builder, node: fx.Node, arrays: dict[fx.Node, Any], values: dict[fx.Node, Any]
) -> Any:
    if node.target is operator.getitem:
        return arrays[node.args[0]][node.args[1]]  # type: ignore[index]
    name = _name(node)
    rule: Rule | None = RULES.get(name)
    if rule is None:
        raise MissingOperation(f"{name} has no form in C yet")
    rule = put_where if _is_masked(node, arrays, values) else rule
    builder.title = f"{node.name} = {name}"

    def operand(n: fx.Node) -> Any:
        array = arrays[n]
        return builder.whole(array) if isinstance(array, Array) and name not in PIECES else array

    args: Any = fx.node.map_arg(node.args, operand)
    kwargs: Any = {
        k: v for k, v in fx.node.map_arg(node.kwargs, operand).items() if k not in LAYOUT
    }
    result = rule(builder, _result(values[node], node), *args, **kwargs)
    return _settled(builder, node, result)


def _is_masked(node: fx.Node, arrays: dict[fx.Node, Any], values: dict[fx.Node, Any]) -> bool:
    """Whether something is put where a mask holds that is not known beforehand.

    Raises MissingOperation for any other use of such a mask.
    """
    if _name(node) not in ("index", "index_put", "_unsafe_index", "_unsafe_index_put"):
        return False
    indices = node.args[1]
    assert isinstance(indices, list | tuple)
    masks = [
        index
        for index in indices
        if isinstance(index, fx.Node)
        and values[index].dtype == torch.bool
        and arrays[index].values is None
    ]
    if not masks:
        return False
    if "put" in _name(node) and len(indices) == 1 and values[node.args[2]].numel() == 1:  # type: ignore[index]
        return True
    raise MissingOperation("an index by a mask that depends on the unknowns has no form in C")


LAYOUT = {"layout", "device", "pin_memory", "memory_format", "non_blocking", "implicit"}
"""What an op may say of how a tensor lies in memory: nothing to us."""


def _settled(builder: Builder, node: fx.Node, result: Any) -> Any:
    """Stored where it is worth it."""
    if not isinstance(result, Array) or result.pieces:
        return result
    if result.cost > LONGEST or (len(node.users) > 1 and result.cost > CHEAP):
        return builder.stored(result)
    return result


def _name(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        raise MissingOperation(f"{node.target} is no tensor operation")
    name: str = schema.name.partition("::")[2]
    return name.removesuffix("_copy") if name != "_to_copy" and name != "lift_fresh_copy" else name


def _kind(value: Tensor) -> Kind:
    if value.dtype == torch.float64:
        return "double"
    if value.dtype.is_floating_point or value.dtype.is_complex:
        raise MissingOperation(f"numbers of type {str(value.dtype).removeprefix('torch.')}")
    return "int64_t"


def _result(value: Any, node: fx.Node) -> Result:
    if isinstance(value, Tensor):
        return Result(tuple(value.shape), _kind(value))
    tensors = [v for v in value if isinstance(v, Tensor)]
    shapes = tuple((tuple(v.shape), _kind(v)) for v in tensors)
    return Result(*shapes[0], others=shapes[1:])


def _numbers(value: Tensor) -> np.ndarray:
    if value.dtype.is_complex:
        raise MissingOperation("complex numbers")
    known = value.detach().cpu()  # single precision, known: exact in double
    return (known.double() if value.dtype.is_floating_point else known).numpy()


def _outputs(
    builder: Builder, node: fx.Node, arrays: dict[fx.Node, Any], values: dict[fx.Node, Any]
) -> list[Buffer]:
    told = node.args[0]
    nodes = told if isinstance(told, tuple | list) else (told,)
    outputs = []
    for each in nodes:
        if not isinstance(each, fx.Node):
            raise MissingOperation("an output that is no tensor")
        array = arrays[each]
        out = builder.buffer(tuple(values[each].shape), "double", "output")
        builder.title = "output"
        builder.write(array, out)
        outputs.append(out)
    return outputs
