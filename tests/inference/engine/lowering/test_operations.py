"""Every operation of the table, in value and gradient, against torch.

Each row of a group is a function of one vector; a group is one program, so that its rows also
share loops and memory. Sizes stand at the borders of tiles and of what is unrolled.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.inference.engine.lowering.compiled import Function, assert_as_torch

DIM = 1100
POINTS = [
    size * torch.randn(DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for seed, size in enumerate((0.3, 1.0, 2.5))
]
KNOWN = torch.randn(DIM, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
"""Data, as a density sees it: constants of the graph."""


def take(q: Tensor, *shape: int) -> Tensor:
    """The first elements of a vector, in a shape."""
    return q[: torch.Size(shape).numel()].reshape(shape)


def later(q: Tensor, *shape: int) -> Tensor:
    """The last elements of a vector, in a shape."""
    return q[len(q) - torch.Size(shape).numel() :].reshape(shape)


def positive(q: Tensor, *shape: int) -> Tensor:
    """Numbers above a half."""
    return 0.5 + take(q, *shape) ** 2


def share(q: Tensor, *shape: int) -> Tensor:
    """Numbers between 0 and 1."""
    return torch.sigmoid(take(q, *shape))


def definite(q: Tensor, *shape: int) -> Tensor:
    """Positive definite matrices, ``shape`` that of the stack with the size of a matrix."""
    a = torch.tanh(take(q, *shape, shape[-1]))
    return a @ a.mT + torch.eye(shape[-1], dtype=q.dtype)


def triangle(q: Tensor, *shape: int) -> Tensor:
    """Lower triangles whose diagonal is above a half."""
    a = torch.tanh(later(q, *shape, shape[-1]))
    return a.tril(-1) + torch.diag_embed(0.5 + a.diagonal(dim1=-2, dim2=-1) ** 2)


def places(high: int, *shape: int, low: int = 0) -> Tensor:
    """Known whole numbers from ``low`` to ``high - 1``."""
    return torch.from_numpy(np.random.default_rng(high + len(shape)).integers(low, high, shape))


@pytest.fixture(autouse=True)
def default_dtype() -> Iterator[None]:
    """That of stories."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


X = 40
"""Length of a row where nothing hangs on it: above the length from which there are tiles."""

ELEMENTWISE: dict[str, Function] = {
    "neg": lambda q: -take(q, X),
    "abs": lambda q: take(q, X).abs(),
    "sign": lambda q: torch.sign(take(q, X)) * take(q, X),
    "sgn": lambda q: torch.sgn(take(q, X)) * take(q, X),
    "sign of zero": lambda q: torch.sign(take(q, X) - take(q, X)),
    "reciprocal": lambda q: positive(q, X).reciprocal(),
    "sqrt": lambda q: positive(q, X).sqrt(),
    "rsqrt": lambda q: positive(q, X).rsqrt(),
    "exp": lambda q: take(q, X).exp(),
    "exp2": lambda q: take(q, X).exp2(),
    "expm1": lambda q: (1e-6 * take(q, X)).expm1() * 1e6,
    "log": lambda q: positive(q, X).log(),
    "log2": lambda q: positive(q, X).log2(),
    "log10": lambda q: positive(q, X).log10(),
    "log1p": lambda q: (1e-6 * take(q, X)).log1p() * 1e6,
    "sin": lambda q: take(q, X).sin(),
    "cos": lambda q: take(q, X).cos(),
    "tan": lambda q: share(q, X).tan(),
    "asin": lambda q: share(q, X).asin(),
    "acos": lambda q: share(q, X).acos(),
    "atan": lambda q: take(q, X).atan(),
    "sinh": lambda q: take(q, X).sinh(),
    "cosh": lambda q: take(q, X).cosh(),
    "tanh": lambda q: take(q, X).tanh(),
    "asinh": lambda q: take(q, X).asinh(),
    "acosh": lambda q: (1 + positive(q, X)).acosh(),
    "atanh": lambda q: (0.9 * share(q, X)).atanh(),
    "sigmoid": lambda q: take(q, X).sigmoid(),
    "relu": lambda q: take(q, X).relu(),
    "square": lambda q: take(q, X).square(),
    "softplus": lambda q: F.softplus(20 * take(q, X)),
    "logsigmoid": lambda q: F.logsigmoid(20 * take(q, X)),
    "silu": lambda q: F.silu(take(q, X)),
    "elu": lambda q: F.elu(take(q, X)),
    "leaky_relu": lambda q: F.leaky_relu(take(q, X)),
    "add": lambda q: take(q, X) + later(q, X),
    "add with alpha": lambda q: torch.add(take(q, X), later(q, X), alpha=-2.5),
    "sub": lambda q: take(q, X) - later(q, X),
    "sub with alpha": lambda q: torch.sub(take(q, X), later(q, X), alpha=0.5),
    "rsub": lambda q: 1 - take(q, X),
    "rsub with alpha": lambda q: torch.rsub(take(q, X), 3.0, alpha=2.0),
    "mul": lambda q: take(q, X) * later(q, X),
    "div": lambda q: take(q, X) / positive(q, X),
    "div of a number": lambda q: 2.0 / positive(q, X),
    "div by a number": lambda q: take(q, X) / -3,
    "addcmul": lambda q: torch.addcmul(take(q, X), later(q, X), KNOWN[:X], value=0.3),
    "addcdiv": lambda q: torch.addcdiv(take(q, X), later(q, X), positive(q, X), value=0.3),
    "lerp": lambda q: torch.lerp(take(q, X), later(q, X), 0.3),
    "hypot": lambda q: torch.hypot(positive(q, X), later(q, X)),
    "atan2": lambda q: torch.atan2(take(q, X), later(q, X)),
    "logaddexp": lambda q: torch.logaddexp(take(q, X), later(q, X)),
    "maximum": lambda q: torch.maximum(take(q, X), later(q, X)),
    "minimum": lambda q: torch.minimum(take(q, X), later(q, X)),
    "nothing": lambda q: take(q, X) * 0 + 1,
    "times nothing": lambda q: torch.zeros(X, dtype=q.dtype) / positive(q, X) + q[0],
    "a product of literals": lambda q: torch.full((X,), 2.0, dtype=q.dtype) * 3 + take(q, X),
}
SPECIAL: dict[str, Function] = {
    "erf": lambda q: take(q, X).erf(),
    "erfc": lambda q: take(q, X).erfc(),
    "erfinv": lambda q: torch.erfinv(torch.tanh(take(q, X))),
    "ndtr": lambda q: torch.special.ndtr(take(q, X)),
    "ndtri": lambda q: torch.special.ndtri(share(q, X)),
    "log_ndtr": lambda q: torch.special.log_ndtr(5 * take(q, X)),
    "erfcx": lambda q: torch.special.erfcx(take(q, X)),
    "lgamma": lambda q: positive(q, X).lgamma(),
    "lgamma below zero": lambda q: (-share(q, X)).lgamma(),
    "digamma": lambda q: positive(q, X).digamma(),
    "digamma below zero": lambda q: (-0.2 - 0.6 * share(q, X)).digamma(),
    "polygamma(0)": lambda q: torch.polygamma(0, positive(q, X)),
    "polygamma(1)": lambda q: torch.polygamma(1, positive(q, X)).detach() * q[0],
    "mvlgamma": lambda q: torch.mvlgamma(2 + positive(q, X), 3),
    "xlogy": lambda q: torch.xlogy(take(q, X), positive(q, X)),
    "xlogy of known counts": lambda q: torch.xlogy(KNOWN[:X].relu(), positive(q, X)),
    "xlogy of nothing": lambda q: torch.xlogy(take(q, X).relu(), take(q, X).detach().relu()),
    "xlog1py": lambda q: torch.special.xlog1py(take(q, X), share(q, X)),
    "logit": lambda q: torch.logit(share(q, X)),
    "sinc": lambda q: torch.sinc(take(q, X)),
    "binary_cross_entropy_with_logits": lambda q: F.binary_cross_entropy_with_logits(
        take(q, X), KNOWN[:X].sigmoid(), reduction="none"
    ),
    "i0e": lambda q: torch.special.i0e(4 * take(q, X)),
    "i1e": lambda q: torch.special.i1e(4 * take(q, X)),
    "i0": lambda q: torch.special.i0(take(q, X)),
}
POWERS: dict[str, Function] = {
    **{
        f"to the {power}": lambda q, power=power: positive(q, X) ** power  # type: ignore[misc]
        for power in (-3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 7)
    },
    **{
        f"below zero to the {power}": lambda q, power=power: take(q, X) ** power  # type: ignore[misc]
        for power in (0, 1, 2, 3, 4, 5.0)
    },
    "to unknown powers": lambda q: positive(q, X) ** later(q, X),
    "to known powers": lambda q: positive(q, X) ** KNOWN[:X],
    "a number to unknown powers": lambda q: 2.5 ** take(q, X),
    "known numbers to unknown powers": lambda q: (1 + KNOWN[:X] ** 2) ** take(q, X),
    "nothing to the two": lambda q: (take(q, X) - take(q, X)) ** 2.0 + q[0],
    "whole numbers": lambda q: (take(q, X) * 3).long() ** 2,
}
ROUNDING: dict[str, Function] = {
    "floor": lambda q: torch.floor(3 * take(q, X)) + take(q, X),
    "ceil": lambda q: torch.ceil(3 * take(q, X)),
    "round": lambda q: torch.round(3 * take(q, X)),
    "round half": lambda q: torch.round(torch.floor(take(q, X)) + 0.5),
    "trunc": lambda q: torch.trunc(3 * take(q, X)),
    "remainder": lambda q: torch.remainder(5 * take(q, X), 1.3),
    "remainder below zero": lambda q: torch.remainder(5 * take(q, X), -1.3),
    "remainder by unknowns": lambda q: torch.remainder(5 * take(q, X), positive(q, X)),
    "fmod": lambda q: torch.fmod(5 * take(q, X), 1.3),
    "division down": lambda q: torch.div(5 * take(q, X), 1.3, rounding_mode="floor"),
    "division to zero": lambda q: torch.div(5 * take(q, X), 1.3, rounding_mode="trunc"),
    "clamp": lambda q: take(q, X).clamp(-0.5, 0.7),
    "clamp_min": lambda q: take(q, X).clamp(min=-0.5),
    "clamp_max": lambda q: take(q, X).clamp(max=0.5),
    "clamp by tensors": lambda q: torch.clamp(take(q, X), -(KNOWN[:X] ** 2), later(q, X) ** 2),
    "clamp by one": lambda q: torch.clamp(take(q, 4, X), min=later(q, 4, 1)),
    "clamp to nothing": lambda q: take(q, X).clamp(min=float("-inf"), max=float("inf")),
    "hardtanh": lambda q: F.hardtanh(take(q, X)),
    "nan_to_num": lambda q: torch.nan_to_num(take(q, X).log(), nan=0.5),
}
CHOICES: dict[str, Function] = {
    "comparisons": lambda q: [
        compare(take(q, X), later(q, X))
        for compare in (torch.eq, torch.ne, torch.gt, torch.ge, torch.lt, torch.le)
    ],
    "logic": lambda q: [
        logic(take(q, X) > 0, later(q, X) > 0)
        for logic in (torch.logical_and, torch.logical_or, torch.logical_xor)
    ],
    "bits": lambda q: [
        (take(q, X) > 0) & (later(q, X) > 0),
        (take(q, X) > 0) | (later(q, X) > 0),
        (take(q, X) > 0) ^ (later(q, X) > 0),
        ~(take(q, X) > 0),
        torch.logical_not(take(q, X) > 0),
    ],
    "truths that count": lambda q: (take(q, X) > 0) * later(q, X) + (take(q, X) > 0.5).sum(),
    "truths of numbers": lambda q: torch.logical_not(take(q, X).relu()),
    "not a number": lambda q: [take(q, X).log().isnan(), (1 / take(q, X).relu()).isinf()],
    "where": lambda q: torch.where(take(q, X) > 0, take(q, X).exp(), later(q, X)),
    "where known": lambda q: torch.where(KNOWN[:X] > 0, take(q, X), later(q, X)),
    "where number": lambda q: torch.where(take(q, X) > 0, take(q, X), 0.0),
    "where always": lambda q: torch.where(torch.ones(X, dtype=torch.bool), take(q, X), q[0]),
    "where never": lambda q: torch.where(torch.zeros((), dtype=torch.bool), q[0], take(q, X)),
    "where broadcast": lambda q: torch.where(take(q, 5, 1) > 0, later(q, X), q[3]),
    "where one side is not a number": lambda q: torch.where(
        take(q, X) > 0.1, take(q, X).clamp(min=0.1).log(), 0.0
    ),
    "where the value is not a number": lambda q: torch.where(
        take(q, X) > 0, take(q, X).detach().log() * later(q, X), later(q, X)
    ),
    "masked_fill": lambda q: take(q, X).masked_fill(later(q, X) > 0, -3.0),
    "masked_fill with infinity": lambda q: torch.logsumexp(
        take(q, 4, X).masked_fill(KNOWN[: 4 * X].reshape(4, X) > 0, float("-inf")), -1
    ),
    "isfinite": lambda q: torch.isfinite(take(q, X).log()),
}
NUMBERS_OF_ALL_KINDS: dict[str, Function] = {
    "whole": lambda q: (5 * take(q, X)).long() * 3 - 2,
    "whole through double": lambda q: (5 * take(q, X)).long().double() / 2,
    "whole and abs": lambda q: (5 * take(q, X)).long().abs() % 3,
    "whole remainder below zero": lambda q: (5 * take(q, X)).long() % -3,
    "whole division": lambda q: (9 * take(q, X)).long() // 4,
    "whole division to zero": lambda q: torch.div(
        (9 * take(q, X)).long(), 4, rounding_mode="trunc"
    ),
    "true division of whole": lambda q: (9 * take(q, X)).long() / 4,
    "whole clamp": lambda q: (9 * take(q, X)).long().clamp(-2, 3),
    "whole extremes": lambda q: torch.maximum((9 * take(q, X)).long(), places(5, X)),
    "whole sum": lambda q: (9 * take(q, X)).long().sum(),
    "whole amax": lambda q: (9 * take(q, 3, X)).long().amax(1),
    "whole cumsum": lambda q: (take(q, X) > 0).cumsum(0),
    "whole where": lambda q: torch.where(take(q, X) > 0, places(9, X), 2),
    "to bool": lambda q: take(q, X).relu().bool(),
    "bool to double": lambda q: (take(q, X) > 0).double() * q[0],
    "known whole numbers": lambda q: places(7, X) * take(q, X),
    "known truths": lambda q: (KNOWN[:X] > 0) * take(q, X),
    "dimensionless": lambda q: q[0] * q[1] + torch.tensor(2.0),
    "single precision, known": lambda q: take(q, X) * KNOWN[:X].float(),
    "dimensionless constant": lambda q: q[0] + torch.tensor(0.25, dtype=q.dtype),
    "dimensionless sum": lambda q: q[0].sum() + q[1].prod() + q[2].amax() + q[3].logsumexp(0),
    "dimensionless cumsum": lambda q: q[0].cumsum(0),
    "no elements": lambda q: take(q, 0),
    "no elements in one dim": lambda q: take(q, 0, 3).sum(0) + q[:3],
    "product of no elements": lambda q: take(q, 0, 3).prod(0) * q[:3],
    "matrix product over no elements": lambda q: take(q, 3, 0) @ later(q, 0, 2) + q[0],
    "no elements, joined": lambda q: torch.cat([take(q, 0), q[:3], take(q, 0)]),
    "ones": lambda q: take(q, 1, 1, X) * later(q, 1, 3, 1),
    "full": lambda q: torch.full_like(take(q, X), 2.5) + q[0],
    "full of an unknown": lambda q: q.new_ones(X) * q[0] + q.new_zeros(X),
    "arange": lambda q: torch.arange(X, dtype=q.dtype) * q[0],
    "linspace": lambda q: torch.linspace(0, 1, X, dtype=q.dtype) * take(q, X),
    "eye": lambda q: torch.eye(X, dtype=q.dtype) * q[0],
    "one_hot": lambda q: F.one_hot(places(5, X), 5) * q[:5],
    "output is the input": lambda q: q,
    "output is a constant": lambda q: KNOWN[:3],
    "the same output twice": lambda q: [take(q, X).exp()] * 2,
}
VIEWS: dict[str, Function] = {
    "transpose": lambda q: take(q, 5, X).mT,
    "t of a vector": lambda q: take(q, X).t(),
    "permute": lambda q: take(q, 3, 5, X).permute(2, 0, 1) * later(q, X, 1, 1),
    "movedim": lambda q: take(q, 3, 5, 7).movedim(0, -1),
    "flip": lambda q: take(q, 3, X).flip(0, 1).cumsum(1),
    "roll": lambda q: take(q, 3, X).roll((1, -7), (0, 1)),
    "roll flat": lambda q: take(q, 3, X).roll(5),
    "select": lambda q: take(q, 3, X)[1] * take(q, 3, X)[:, -1:].sum(),
    "slice": lambda q: take(q, X)[3:-2],
    "slice with steps": lambda q: take(q, X)[1:30:3],
    "diagonal": lambda q: take(q, 7, 7).diagonal(),
    "diagonal above": lambda q: take(q, 4, 7).diagonal(2),
    "diagonal below": lambda q: take(q, 7, 4).diagonal(-3),
    "diagonal of a stack": lambda q: take(q, 5, 3, 5).diagonal(0, 0, 2).exp(),
    "diag_embed": lambda q: torch.diag_embed(take(q, 3, 7)),
    "diag_embed above": lambda q: torch.diag_embed(take(q, 3, 7), 2),
    "diag of a vector": lambda q: torch.diag(take(q, 33)),
    "trace": lambda q: take(q, 7, 7).trace(),
    "tril": lambda q: [take(q, 2, 5, 7).tril(k) for k in (-2, 0, 1)],
    "triu": lambda q: [take(q, 2, 5, 7).triu(k) for k in (-2, 0, 1)],
    "expand": lambda q: take(q, 5, 1).expand(3, 5, X) * later(q, X),
    "repeat": lambda q: take(q, 3, 5).repeat(2, 1, 3),
    "tile": lambda q: take(q, X).tile(3),
    "repeat_interleave": lambda q: take(q, 5).repeat_interleave(3),
    "repeat of one": lambda q: take(q, 1, 5).repeat(4, 2),
    "cat": lambda q: torch.cat([take(q, 3, X), later(q, 2, X).exp()], 0),
    "cat along rows": lambda q: torch.cat([take(q, 3, X), later(q, 3, 2), take(q, 3, 1)], -1),
    "cat with constants": lambda q: torch.cat([torch.zeros(2, dtype=q.dtype), take(q, X)]),
    "stack": lambda q: [torch.stack([take(q, 3, X), later(q, 3, X)], k) for k in (0, 1, 2)],
    "split": lambda q: [part * k for k, part in enumerate(take(q, X).split(7))],
    "unbind": lambda q: sum(take(q, 3, X).unbind(0)),
    "pad": lambda q: F.pad(take(q, X), (2, 3)),
    "pad with a value": lambda q: F.pad(take(q, X), (2, 3), value=1.5),
    "pad two dims": lambda q: F.pad(take(q, 3, X), (0, 1, 2, 0)),
    "pad less": lambda q: F.pad(take(q, 3, X), (-1, -2)),
    "pad here and less there": lambda q: F.pad(take(q, 3, X), (-1, 2, 1, -1), value=-1.0),
    "pad and sum": lambda q: F.pad(take(q, X), (1, 0)).sum() + F.pad(take(q, X), (0, 2)).sum(),
    "pads added": lambda q: F.pad(take(q, 3), (0, 2)) + F.pad(later(q, 2), (3, 0)),
    "pads that overlap": lambda q: F.pad(take(q, 4), (0, 2)) + F.pad(later(q, 4), (2, 0)),
    "merged dims": lambda q: take(q, 3, 5, 7).permute(1, 0, 2).reshape(5, 21) * later(q, 21),
    "split dims": lambda q: take(q, 105).reshape(5, 21).T.reshape(7, 3, 5).exp(),
    "dims that fall apart": lambda q: take(q, 6, 35).T.reshape(10, 21) + q[:21],
    "merged after a broadcast": lambda q: take(q, 5, 1).expand(5, 7).reshape(35) * later(q, 35),
    "squeeze": lambda q: take(q, 1, X, 1).squeeze(),
    "squeeze one": lambda q: take(q, 1, X, 1).squeeze(0),
    "unfold": lambda q: take(q, X).unfold(0, 5, 2),
    "as_strided": lambda q: torch.as_strided(take(q, X), (5, 3), (7, 2), 1),
}
WRITES: dict[str, Function] = {
    "a row": lambda q: written(take(q, 4, X).clone(), (1,), later(q, X)),
    "a column": lambda q: written(take(q, 4, X).clone(), (slice(None), -1), later(q, 4)),
    "a slice": lambda q: written(take(q, X).clone(), (slice(3, 9),), later(q, 6)),
    "a slice with steps": lambda q: written(take(q, X).clone(), (slice(1, 9, 2),), later(q, 4)),
    "a slice of zeros": lambda q: written(q.new_zeros(X), (slice(3, 9),), later(q, 6)),
    "a row of zeros": lambda q: written(q.new_zeros(4, X), (2,), later(q, X)),
    "a block": lambda q: written(
        take(q, 5, 7).clone(), (slice(1, 3), slice(2, 6)), q[:8].view(2, 4)
    ),
    "places": lambda q: written(take(q, X).clone(), (torch.tensor([3, 1, -2]),), later(q, 3)),
    "places in the middle": lambda q: written(
        take(q, 3, 7, 5).clone(), (slice(None), torch.tensor([0, 6, 2])), later(q, 3, 3, 5)
    ),
    "a mask": lambda q: written(take(q, X).clone(), (KNOWN[:X] > 0,), q[0]),
    "a diagonal": lambda q: diagonal_of_ones(take(q, 7, 7)),
    "in place": lambda q: take(q, X).clone().mul_(2).add_(later(q, X)).exp_(),
    "in place through a view": lambda q: doubled_rows(take(q, 4, X).clone()),
    "a running total": lambda q: running_total(take(q, 12)),
    "diagonal_scatter": lambda q: [
        torch.diagonal_scatter(take(q, 5, 7), later(q, 5)),
        torch.diagonal_scatter(take(q, 5, 7), later(q, 4), -1),
        torch.diagonal_scatter(take(q, 3, 5, 7), later(q, 5, 3), 1, 0, 2),
    ],
    "select_scatter": lambda q: torch.select_scatter(take(q, 5, X), later(q, X), 0, -2),
    "slice_scatter": lambda q: torch.slice_scatter(take(q, 5, X), later(q, 2, X), 0, 1, 3),
    "index_put that adds": lambda q: torch.index_put(
        take(q, 7), (places(7, X),), later(q, X), accumulate=True
    ),
    "index_put that adds, far": lambda q: torch.index_put(
        take(q, 7, 5), (places(7, X), places(5, X, low=-5)), later(q, X), accumulate=True
    ),
    "index_add": lambda q: take(q, 7, 3).index_add(0, places(7, X), later(q, X, 3), alpha=0.5),
    "index_copy": lambda q: take(q, 7, 3).index_copy(0, torch.tensor([5, 0]), later(q, 2, 3)),
    "index_fill": lambda q: take(q, 7, 3).index_fill(0, torch.tensor([5, 0]), 2.0),
    "scatter": lambda q: take(q, 3, 7).scatter(1, torch.tensor([[1], [0], [6]]), later(q, 3, 1)),
    "scatter a number": lambda q: take(q, 3, 7).scatter(1, torch.tensor([[1], [0], [6]]), 2.5),
    "scatter_add": lambda q: take(q, 3, 7).scatter_add(1, places(7, 3, X), later(q, 3, X)),
    "scatter_add to a vector": lambda q: take(q, 7).scatter_add(0, places(7, X), later(q, X)),
    "masked_scatter by where": lambda q: torch.where(KNOWN[:X] > 0, q[0], take(q, X)),
}
LOOKUPS: dict[str, Function] = {
    "rows": lambda q: take(q, 7, 3)[places(7, X)],
    "columns": lambda q: take(q, 7, 3)[:, places(3, X)],
    "from the end": lambda q: take(q, 7, 3)[places(7, X, low=-7)],
    "a matrix of rows": lambda q: take(q, 7, 3)[places(7, X, 2)],
    "elements": lambda q: take(q, 7, 3)[places(7, X), places(3, X)],
    "elements on a grid": lambda q: take(q, 7, 5)[places(7, 4, 1), places(5, 3)],
    "middle dims": lambda q: take(q, 2, 7, 5, 3)[:, places(7, X), places(5, X)],
    "dims apart": lambda q: take(q, 7, 5, 3)[places(7, X), :, places(3, X)],
    "dims apart, on a grid": lambda q: take(q, 2, 7, 5, 3)[:, places(7, 4, 1), :, places(3, 6)],
    "a known mask": lambda q: take(q, X)[KNOWN[:X] > 0],
    "a mask of rows": lambda q: take(q, X, 3)[KNOWN[:X] > 0],
    "a mask and a number": lambda q: take(q, X, 3)[KNOWN[:X] > 0, 1],
    "a mask of two dims": lambda q: take(q, X, 3)[KNOWN[: 3 * X].reshape(X, 3) > 0],
    "in order": lambda q: take(q, 7, 3)[torch.arange(7)],
    "in order, backwards": lambda q: take(q, 7, 3)[torch.arange(6, -1, -1)],
    "one place": lambda q: take(q, 7, 3)[torch.tensor([4])],
    "a place without dims": lambda q: take(q, 7, 3)[torch.tensor(-4)],
    "no place": lambda q: take(q, 7, 3)[torch.zeros(0, dtype=torch.long)],
    "of what is computed": lambda q: take(q, 7, 3).exp()[places(7, X)] * later(q, X, 1),
    "of what was looked up": lambda q: take(q, 7)[places(7, 9)][places(9, X)],
    "where unknown": lambda q: take(q, 7)[(take(q, X) > 0).long() + 2],
    "where unknown, from the end": lambda q: take(q, 7)[-1 - (take(q, X) > 0).long()],
    "index_select": lambda q: take(q, 3, 7).index_select(1, places(7, X)),
    "gather": lambda q: take(q, 3, 7).gather(1, places(7, 3, X)),
    "gather of few rows": lambda q: take(q, 3, 7).gather(1, places(7, 2, 5)),
    "gather along the first": lambda q: take(q, 7, X).gather(0, places(7, 2, X)),
    "gather where unknown": lambda q: take(q, 3, 7).exp().gather(1, (take(q, 3, X) > 0).long()),
    "take_along_dim": lambda q: torch.take_along_dim(take(q, X, 5), places(5, X, 1), -1),
    "embedding": lambda q: F.embedding(places(7, X), take(q, 7, 3)),
    "nll_loss": lambda q: F.nll_loss(
        F.log_softmax(take(q, X, 5), -1), places(5, X), reduction="none"
    ),
}
REDUCTIONS: dict[str, Function] = {
    "sum": lambda q: [take(q, 3, 5, X).sum(d) for d in (0, 1, 2, (0, 2), (0, 1, 2))],
    "sum that keeps": lambda q: [take(q, 3, X).sum(d, keepdim=True) for d in (0, 1, (0, 1))],
    "sum of a broadcast": lambda q: (take(q, 5, 1).expand(5, X) + 0).sum(1),
    "sum of a repeated product": lambda q: (take(q, 5, 1) * torch.ones(5, X, dtype=q.dtype)).sum(),
    "sum_to_size": lambda q: take(q, 5, X).sum_to_size(5, 1),
    "mean": lambda q: [take(q, 3, 5, X).mean(d) for d in (0, 2, (0, 2), (0, 1, 2))],
    "mean of a broadcast": lambda q: take(q, 5, 1).expand(5, X).mean(1),
    "var": lambda q: [take(q, 3, 5, X).var(d) for d in (0, 2, (0, 2), None)],
    "var without correction": lambda q: take(q, 3, X).var(1, correction=0, keepdim=True),
    "std": lambda q: take(q, 3, X).std(1),
    "var_mean": lambda q: torch.var_mean(take(q, 3, X), 1),
    "norm": lambda q: [torch.linalg.vector_norm(take(q, 3, X), p, 1) for p in (1, 2, 3)],
    "prod": lambda q: [(1 + share(q, 3, 5, 7)).prod(d) for d in (0, 1, 2)],
    "prod of all": lambda q: (0.9 + 0.1 * share(q, 3, 5)).prod(),
    "prod that keeps": lambda q: (0.9 + 0.1 * share(q, 3, X)).prod(1, keepdim=True),
    "prod of a broadcast": lambda q: (1 + share(q, 3, 1)).expand(3, 5).prod(1),
    "amax": lambda q: [take(q, 3, 5, X).amax(d) for d in (0, 2, (0, 2), (0, 1, 2))],
    "amin": lambda q: [take(q, 3, 5, X).amin(d, keepdim=True) for d in (0, 2, (0, 1))],
    "max of all": lambda q: take(q, 3, X).max(),
    "max with places": lambda q: [take(q, 3, X).max(d) for d in (0, 1)],
    "min with places": lambda q: [take(q, 3, X).min(d, keepdim=True) for d in (0, 1)],
    "max of equals": lambda q: torch.floor(take(q, 3, X)).max(1).indices,
    "argmax": lambda q: [take(q, 3, X).argmax(d) for d in (0, 1, None)],
    "argmin that keeps": lambda q: take(q, 3, X).argmin(1, keepdim=True),
    "any": lambda q: [(take(q, 3, X) > 2).any(d) for d in (0, 1)] + [(take(q, X) > 2).any()],
    "all": lambda q: [(take(q, 3, X) > -2).all(d) for d in (0, 1)] + [(take(q, X) > -2).all()],
    "any of several": lambda q: torch.any(take(q, 3, 5, X) > 2, dim=(0, 2)),
    "count_nonzero": lambda q: torch.count_nonzero(take(q, 3, X) > 0, 1),
    "logsumexp": lambda q: [take(q, 3, 5, X).logsumexp(d) for d in (0, 1, 2, (0, 2))],
    "logsumexp that keeps": lambda q: take(q, 3, X).logsumexp(-1, keepdim=True),
    "logsumexp of nothing": lambda q: torch.cat(
        [take(q, 3, 1) * 0, q.new_full((3, 2), float("-inf"))], 1
    ).logsumexp(1),
    "logsumexp of what is large": lambda q: (1e3 * take(q, 3, X)).logsumexp(1),
    "softmax": lambda q: [take(q, 3, 5, X).softmax(d) for d in (0, 1, 2)],
    "log_softmax": lambda q: [take(q, 3, 5, X).log_softmax(d) for d in (0, 1, 2)],
    "softmax of one": lambda q: take(q, 3, 1).softmax(1) * q[0],
    "cumsum": lambda q: [take(q, 3, 5, X).cumsum(d) for d in (0, 1, 2)],
    "cumprod": lambda q: [(0.9 + 0.2 * share(q, 3, X)).cumprod(d) for d in (0, 1)],
    "logcumsumexp": lambda q: [take(q, 3, X).logcumsumexp(d) for d in (0, 1)],
    "cumsum and back": lambda q: take(q, X).flip(0).cumsum(0).flip(0),
    "diff": lambda q: take(q, 3, X).diff(dim=1),
    "cross_entropy": lambda q: F.cross_entropy(take(q, X, 5), places(5, X)),
    "cdist by hand": lambda q: (take(q, X, 1, 3) - later(q, 1, 5, 3)).square().sum(-1).sqrt(),
    "layer_norm": lambda q: F.layer_norm(take(q, 3, X), (X,)),
}
PRODUCTS: dict[str, Function] = {
    "1-1": lambda q: take(q, X) @ later(q, X),
    "1-2": lambda q: take(q, X) @ later(q, X, 5),
    "2-1": lambda q: take(q, 5, X) @ later(q, X),
    "2-2": lambda q: take(q, 5, X) @ later(q, X, 3),
    "2-2 long": lambda q: take(q, X, 5) @ later(q, 5, 33),
    "3-3": lambda q: take(q, 3, 5, 7) @ later(q, 3, 7, 2),
    "3-3 broadcast": lambda q: take(q, 1, 5, 7) @ later(q, 3, 7, 2),
    "4-4 broadcast": lambda q: take(q, 3, 1, 5, 7) @ later(q, 2, 7, 2),
    "3-2": lambda q: take(q, 3, 5, 7) @ later(q, 7, 2),
    "2-3": lambda q: take(q, 5, 7) @ later(q, 3, 7, 2),
    "3-1": lambda q: take(q, 3, 5, 7) @ later(q, 7),
    "1-3": lambda q: take(q, 7) @ later(q, 3, 7, 2),
    "by a known matrix": lambda q: KNOWN[: 5 * X].reshape(X, 5) @ take(q, 5),
    "by its own transpose": lambda q: take(q, 9, X) @ take(q, 9, X).T,
    "of what is computed": lambda q: take(q, 5, X).exp() @ later(q, X, 3).sin(),
    "outer": lambda q: torch.outer(take(q, X), later(q, 33)),
    "dot": lambda q: torch.dot(take(q, X), later(q, X)),
    "mv": lambda q: torch.mv(take(q, 5, X), later(q, X)),
    "addmm": lambda q: torch.addmm(q[:3], take(q, 5, X), later(q, X, 3), beta=0.5, alpha=2),
    "addmv": lambda q: torch.addmv(q[:5], take(q, 5, X), later(q, X)),
    "baddbmm": lambda q: torch.baddbmm(
        take(q, 3, 5, 2), take(q, 3, 5, 7), later(q, 3, 7, 2), beta=0.3, alpha=-1
    ),
    "linear": lambda q: F.linear(take(q, X, 5), later(q, 3, 5), q[:3]),
    "einsum of two": lambda q: torch.einsum("ij,kj->ik", take(q, 5, X), later(q, 3, X)),
    "einsum of three": lambda q: torch.einsum(
        "nk,kij,nj->ni", take(q, X, 3), later(q, 3, 2, 5), take(q, X, 5)
    ),
    "einsum that broadcasts": lambda q: torch.einsum(
        "...ij,...j->...i", take(q, 4, 5, 7), later(q, 7)
    ),
    "tensordot": lambda q: torch.tensordot(take(q, 3, 5, 7), later(q, 7, 5, 2), ([1, 2], [1, 0])),
    "kron": lambda q: torch.kron(take(q, 3, 5), later(q, 2, 7)),
    "matrix_power": lambda q: torch.linalg.matrix_power(0.2 * take(q, 5, 5), 3),
    "bilinear form": lambda q: ((take(q, X, 3) @ later(q, 3, 3)) * take(q, X, 3)).sum(-1),
}
FACTORS: dict[str, Function] = {
    "cholesky": lambda q: torch.linalg.cholesky(definite(q, 5)),
    "cholesky of one": lambda q: torch.linalg.cholesky(definite(q, 1)),
    "cholesky above": lambda q: torch.linalg.cholesky(definite(q, 5), upper=True),
    "cholesky of a stack": lambda q: torch.linalg.cholesky(definite(q, 2, 3, 4)),
    "cholesky, large": lambda q: torch.linalg.cholesky(definite(q, 33)),
    "log determinant": lambda q: (
        torch.linalg.cholesky(definite(q, 3, 4)).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    ),
    "solve_triangular": lambda q: torch.linalg.solve_triangular(
        triangle(q, 5), take(q, 5, 3), upper=False
    ),
    "solve_triangular above": lambda q: torch.linalg.solve_triangular(
        triangle(q, 5).mT, take(q, 5, 3), upper=True
    ),
    "solve_triangular from the right": lambda q: torch.linalg.solve_triangular(
        triangle(q, 5), take(q, 3, 5), upper=False, left=False
    ),
    "solve_triangular above from the right": lambda q: torch.linalg.solve_triangular(
        triangle(q, 5).mT, take(q, 3, 5), upper=True, left=False
    ),
    "solve_triangular, diagonal of ones": lambda q: torch.linalg.solve_triangular(
        triangle(q, 5), take(q, 5, 3), upper=False, unitriangular=True
    ),
    "solve_triangular of a stack": lambda q: torch.linalg.solve_triangular(
        triangle(q, 2, 4), take(q, 2, 4, 3), upper=False
    ),
    "solve_triangular, broadcast": lambda q: torch.linalg.solve_triangular(
        triangle(q, 4), take(q, 7, 4, 1), upper=False
    ),
    "solve_triangular, the other broadcast": lambda q: torch.linalg.solve_triangular(
        triangle(q, 3, 4), take(q, 4, 2), upper=False
    ),
    "solve_triangular of many": lambda q: torch.linalg.solve_triangular(
        triangle(q, 3), take(q, 3, 300), upper=False
    ),
    "triangular_solve": lambda q: [
        torch.triangular_solve(
            take(q, 5, 3), triangle(q, 5).mT if upper else triangle(q, 5), upper, transpose
        ).solution
        for upper in (False, True)
        for transpose in (False, True)
    ],
    "inverse": lambda q: torch.linalg.inv(definite(q, 5)),
    "inverse without symmetry": lambda q: torch.linalg.inv(
        2 * torch.eye(5, dtype=q.dtype).flip(0) + 0.3 * torch.tanh(take(q, 5, 5))
    ),
    "inverse of a stack": lambda q: torch.linalg.inv(definite(q, 2, 3, 4)),
    "cholesky_solve": lambda q: torch.cholesky_solve(take(q, 5, 3), triangle(q, 5)),
    "cholesky_solve above": lambda q: torch.cholesky_solve(
        take(q, 5, 3), triangle(q, 5).mT, upper=True
    ),
    "cholesky_inverse": lambda q: torch.cholesky_inverse(triangle(q, 5)),
    "precision to scale": lambda q: torch.linalg.cholesky(
        torch.cholesky_inverse(torch.linalg.cholesky(definite(q, 2, 4)))
    ),
    "a normal's exponent": lambda q: (
        torch.linalg.solve_triangular(
            torch.linalg.cholesky(definite(q, 4)), later(q, 4, 33), upper=False
        )
        .square()
        .sum(0)
    ),
}


def written(base: Tensor, at: tuple[object, ...], values: Tensor) -> Tensor:
    """``base`` with ``values`` at a place of it."""
    base[at] = values  # type: ignore[index]
    return base * 2


def diagonal_of_ones(matrix: Tensor) -> Tensor:
    """Written through a view of the diagonal."""
    matrix = matrix.clone()
    matrix.diagonal().fill_(1)
    return matrix.exp()


def doubled_rows(matrix: Tensor) -> Tensor:
    """Written through a view of a view, then read through the base and the view."""
    view = matrix[1:].T
    view *= 2
    view[0].add_(1)
    return matrix + view.sum()


def running_total(x: Tensor) -> Tensor:
    """Each element from the ones before, in place."""
    total = x.clone()
    for t in range(1, len(x)):
        total[t] = 0.5 * total[t - 1] + x[t].sin()
    return total


GROUPS = {
    "elementwise": ELEMENTWISE,
    "special": SPECIAL,
    "powers": POWERS,
    "rounding": ROUNDING,
    "choices": CHOICES,
    "kinds": NUMBERS_OF_ALL_KINDS,
    "views": VIEWS,
    "writes": WRITES,
    "lookups": LOOKUPS,
    "reductions": REDUCTIONS,
    "products": PRODUCTS,
    "factors": FACTORS,
}


TOLERANCES = {"special": 1e-8}
"""Relative; where it is not 1e-10: torch's own trigamma is no better."""


@pytest.mark.parametrize("group", GROUPS)
def test_values_and_gradients_are_those_of_torch(group: str) -> None:
    assert_as_torch(GROUPS[group], POINTS, TOLERANCES.get(group, 1e-10))
