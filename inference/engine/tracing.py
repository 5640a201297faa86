"""A function of a flat vector, its Python traced away once: what is left is a graph of tensor ops.

Pyro pays Python for every handler at every evaluation; the graph does not. The function is run
once, and every tensor operation that depends on its input is written down as it is dispatched,
below autograd and functorch, so that value and gradient come as one flat list of aten operations
without mutation. What does not depend on the input is a constant, known when the trace ends.

A function that can't be traced (a branch on a value, ``.item()``, a draw of its own) is named with
the reason and the sample site after which it happened.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache as once
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, fx
from torch._C._functorch import TransformType
from torch._decomp import core_aten_decompositions, decomposition_table
from torch._functorch.autograd_function import custom_function_call
from torch.distributions.utils import probs_to_logits
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from storyzoo.inference.engine.decompositions import CHECKED, DECOMPOSITIONS, where_it_exists
from storyzoo.inference.engine.lowering.operations import RULES

Function = Callable[..., Any]

MOST_OPERATIONS = 200_000
"""Operations above which a graph is no use: a loop that was written out."""

SMALL = 1000
"""Elements up to which equal constants are told to be one."""

_READS_A_VALUE = {"_local_scalar_dense", "item", "equal", "is_nonzero"}
_SHAPED_BY_VALUES = {"nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim"}


class UntraceableError(Exception):
    """Why a function can't be traced."""


def trace_function(function: Function, points: Sequence[Tensor]) -> fx.GraphModule:
    """The graph of ``function``, checked against it at every one of the points.

    Raises UntraceableError with the reason.
    """
    graph = trace(function, points[0])
    for place, point in enumerate(points):
        compare(function(point), graph(point), f"check point {place}")
    return graph


def trace(function: Function, point: Tensor) -> fx.GraphModule:
    """The graph of a function of one vector, as it runs at ``point``.

    Raises UntraceableError with the reason.
    """
    recorder = _Recorder(point)
    site = _LastSite()
    try:
        with _traceable(), site, recorder:
            answer = torch.func.functionalize(function)(point)
    except UntraceableError as reason:
        raise UntraceableError(f"{reason}{site.words}") from None
    except Exception as error:  # torch and the model may raise anything here; the reason is kept
        told = " ".join(str(error).split())[:200]
        raise UntraceableError(f"{type(error).__name__}: {told}{site.words}") from error
    return recorder.finish(answer)


def most_entries(graph: Function, point: Tensor) -> int:
    """Entries of the largest tensor that a graph makes on its way; 0 of what is no graph."""
    if not isinstance(graph, fx.GraphModule):
        return 0
    sizes = _Sizes(graph)
    sizes.run(point)
    return sizes.most


class _Sizes(fx.Interpreter):
    """Runs a graph and remembers the largest tensor that it made."""

    most = 0

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op == "call_function":
            self.most = max(self.most, value.numel())
        return value


@contextmanager
def unfused() -> Iterator[None]:
    """Within it torch writes an LSTM out in steps.

    oneDNN's is one operation whose gradient TorchScript does not know.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings that this does not touch
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def script(graph: fx.GraphModule, point: Tensor) -> Function:
    """The graph run by TorchScript's interpreter, which costs a third of Python's per operation."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        scripted: Function = torch.jit.trace(graph, point, check_trace=False)
        for _ in range(2):  # its first two runs profile and optimise
            scripted(point)
    return scripted


def compare(expected: Any, found: Any, where: str, tolerance: float | None = None) -> None:
    """Raise UntraceableError where two answers differ by more than rounding."""
    flat_expected, _ = tree_flatten(expected)
    flat_found, _ = tree_flatten(found)
    for a, b in zip(flat_expected, flat_found, strict=True):
        near = tolerance or (1e-8 if a.dtype == torch.float64 else 1e-4)
        if not torch.allclose(a, b, rtol=near, atol=near, equal_nan=True):
            gap = (a - b).abs().max()
            raise UntraceableError(f"the traced graph differs by {gap:.3g} at {where}")


@once
def _decompositions() -> dict[Any, Function]:
    """Simpler operations by operation; torch takes a tenth of a second to list them."""
    return {**decomposition_table, **core_aten_decompositions()}


class _Recorder(TorchDispatchMode):
    """Writes down what depends on the input, and runs everything."""

    def __init__(self, point: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = fx.Graph()
        self._module = fx.GraphModule({}, self._graph)
        self._decompositions = _decompositions()
        self._nodes: dict[int, fx.Node] = {id(point): self._graph.placeholder("q")}
        self._constants: dict[int, fx.Node] = {}
        self._contents: dict[Any, fx.Node] = {}
        self._kept: list[Any] = [point]  # so that no tensor's id is given to another
        self._known: dict[str, fx.Node] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        depends = self._depends(args, kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise UntraceableError(
                f"it draws at random outside its sample sites ({name}; a plate that subsamples?)"
            )
        if not depends:
            return func(*args, **kwargs)
        if name in _READS_A_VALUE:
            raise UntraceableError(
                "it reads the value of a tensor that depends on the unknowns (.item(), or an if)"
            )
        if name == "_linalg_check_errors":  # NaN tells it, from where the factor was made
            return None
        if name in CHECKED:
            factor, found = func(*args, **kwargs)
            self._write(func, args, kwargs, (factor, found))
            with self:
                return where_it_exists(factor, found)
        if name in _SHAPED_BY_VALUES or (name == "index" and self._by_mask(args[1])):
            raise UntraceableError(
                f"the shape of what it computes depends on the unknowns ({name})"
            )
        if name not in RULES:
            with self:
                answer = self._decomposed(func, args, kwargs)
            if answer is not NotImplemented:
                return answer
        answer = func(*args, **kwargs)
        self._write(func, args, kwargs, answer)
        return answer

    def _by_mask(self, indices: Any) -> bool:
        """Whether an index is a mask that depends on the input."""
        return any(
            isinstance(i, Tensor) and i.dtype == torch.bool and id(i) in self._nodes
            for i in indices
        )

    def _decomposed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The answer by simpler operations, where there are any."""
        name = func._schema.name.partition("::")[2]
        if name in DECOMPOSITIONS:
            return DECOMPOSITIONS[name](*args, **kwargs)
        if func in self._decompositions:
            return self._decompositions[func](*args, **kwargs)
        return func.decompose(*args, **kwargs)

    def _depends(self, args: Any, kwargs: Any) -> bool:
        flat, _ = tree_flatten((args, kwargs))
        return any(isinstance(x, Tensor) and id(x) in self._nodes for x in flat)

    def _write(self, func: Any, args: Any, kwargs: Any, answer: Any) -> None:
        if torch.Tag.inplace_view in func.tags:  # on what an operation has just made
            func = _out_of_place(func)
        args, kwargs = self._as_nodes((args, kwargs))
        node = self._same_as_before(func, args, kwargs)
        if len(self._known) > MOST_OPERATIONS:
            raise UntraceableError(f"more than {MOST_OPERATIONS:,} operations")
        if isinstance(answer, Tensor):
            self._keep(answer, node)
            return
        for place, each in enumerate(answer):
            if isinstance(each, Tensor):
                self._keep(each, self._same_as_before(operator.getitem, (node, place), {}))

    def _same_as_before(self, func: Any, args: Any, kwargs: Any) -> fx.Node:
        """The node of an operation; the same one where the same was done before."""
        key = repr((func, args, kwargs))
        if key not in self._known:
            self._known[key] = self._graph.call_function(func, args, kwargs)
        return self._known[key]

    def _keep(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._kept.append(tensor)

    def _as_nodes(self, values: Any) -> Any:
        return tree_map(lambda x: self._node(x) if isinstance(x, Tensor) else x, values)

    def _node(self, tensor: Tensor) -> fx.Node:
        if id(tensor) in self._nodes:
            return self._nodes[id(tensor)]
        if id(tensor) not in self._constants:
            self._constants[id(tensor)] = self._constant(tensor.detach())
            self._kept.append(tensor)
        return self._constants[id(tensor)]

    def _constant(self, tensor: Tensor) -> fx.Node:
        """The node of known values; the same one where small ones were met before.

        Else the steps of a chain, each with labels of its own making, would have nothing in
        common.
        """
        key: Any = _content(tensor) or len(self._contents)
        if key not in self._contents:
            name = f"constant_{len(self._contents)}"
            self._module.register_buffer(name, tensor, persistent=False)
            self._contents[key] = self._graph.get_attr(name)
        return self._contents[key]

    def finish(self, answer: Any) -> fx.GraphModule:
        """The graph whose output is the function's answer."""
        plain = tree_map(_bare, answer)
        self._graph.output(self._as_nodes(plain))
        self._graph.eliminate_dead_code()
        self._module.recompile()
        return self._module


def _content(tensor: Tensor) -> Any:
    """What a small tensor holds; None where it is large, or is wrapped by a transform."""
    if tensor.numel() > SMALL:
        return None
    try:
        return str(tensor.dtype), tuple(tensor.shape), tensor.cpu().numpy().tobytes()
    except RuntimeError:
        return None


def _out_of_place(func: Any) -> Any:
    """The operation that leaves its operand as it is, of one like ``squeeze_``."""
    packet = getattr(torch.ops.aten, func._schema.name.partition("::")[2].removesuffix("_"))
    return getattr(packet, func._overloadname)


def _bare(value: Any) -> Any:
    """A tensor without the wrapper that functionalisation left on it."""
    if isinstance(value, Tensor) and torch._is_functional_tensor(value):
        torch._sync(value)  # type: ignore[attr-defined, no-untyped-call]
        return torch._from_functional_tensor(value)
    return value


# -- what Pyro would do that a graph can't, or had better not ------------------------------------


class _LastSite(Messenger):
    """Remembers the sample site that was met last."""

    def __init__(self) -> None:
        super().__init__()
        self._name = ""

    def _pyro_sample(self, msg: Any) -> None:
        self._name = str(msg["name"])

    @property
    def words(self) -> str:
        """Where it happened."""
        return f", after site '{self._name}'" if self._name else ""


@contextmanager
def _traceable() -> Iterator[None]:
    """Pyro without what makes a graph dense, and torch with a way through functions that bring
    their own gradient; only while a trace is made."""
    before = torch.distributions.Categorical.log_prob
    rules, key = custom_function_call.functorch_table, TransformType.Functionalize
    rule = rules[key]
    torch.distributions.Categorical.log_prob = _log_prob_by_index  # type: ignore[method-assign]
    rules[key] = _run_forward
    try:
        yield
    finally:
        torch.distributions.Categorical.log_prob = before  # type: ignore[method-assign]
        rules[key] = rule


def _run_forward(interpreter: Any, function: Any, *operands: Any, **_: Any) -> Any:
    """What an ``autograd.Function`` does below all gradients: torch has no rule for that yet."""
    return function.forward(*operands)


def _log_prob_by_index(self: Any, value: Tensor) -> Tensor:
    """A categorical's log-probability by looking it up.

    The original broadcasts the table of log-probabilities to every value before it looks; its
    gradient is then as large as values times categories.
    """
    known = "logits" in vars(self)
    logits = _narrowed(self.logits) if known else probs_to_logits(_narrowed(self.probs))
    value = value.long()
    shape = torch.broadcast_shapes(value.shape, self.batch_shape)
    logits = logits.reshape((1,) * (len(shape) + 1 - logits.dim()) + tuple(logits.shape))
    value = value.reshape((1,) * (len(shape) - value.dim()) + tuple(value.shape))
    places = [
        torch.arange(size, device=value.device).reshape((size,) + (1,) * (len(shape) - 1 - dim))
        if size > 1
        else torch.zeros((1,) * len(shape), dtype=torch.long, device=value.device)
        for dim, size in enumerate(logits.shape[:-1])
    ]
    return logits[(*places, value)].expand(shape)


def _narrowed(table: Tensor) -> Tensor:
    """Without the dims along which a plate has merely repeated it."""
    for dim in range(table.dim() - 1):
        if table.shape[dim] > 1 and table.stride(dim) == 0:
            table = table.narrow(dim, 0, 1)
    return table
