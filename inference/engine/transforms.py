"""From the reals to a site's support: torch's bijections, but of the least dimension.

torch maps covariance matrices and Cholesky factors from full square matrices, whose upper half
then has no density. Here they come from the vector of the lower triangle.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform


class LowerCholeskyVector(Transform):
    """Vectors of length D(D+1)/2 to lower triangular matrices with a positive diagonal.

    ``L_ii = exp(x_ii)``, ``L_ij = x_ij`` below; ``log |J| = sum_i x_ii``.
    """

    domain = constraints.real_vector
    codomain = constraints.lower_cholesky
    bijective = True

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self._rows, self._columns = torch.tril_indices(size, size).tolist()
        self._on_diagonal = torch.tensor(self._rows) == torch.tensor(self._columns)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.size == other.size

    def _diagonal(self, x: Tensor) -> Tensor:
        return self._on_diagonal.to(x.device)

    def _call(self, x: Tensor) -> Tensor:
        entries = torch.where(self._diagonal(x), x.exp(), x)
        flat = self._places(x)
        padded = torch.nn.functional.pad(entries, (0, 1))
        return padded[..., flat].reshape(*x.shape[:-1], self.size, self.size)

    def _places(self, x: Tensor) -> Tensor:
        """Where each entry of the matrix comes from in the vector; the last place holds zero."""
        index = torch.full((self.size, self.size), len(self._rows), dtype=torch.long)
        index[self._rows, self._columns] = torch.arange(len(self._rows))
        return index.reshape(-1).to(x.device)

    def _inverse(self, y: Tensor) -> Tensor:
        x = y[..., self._rows, self._columns]
        on = self._diagonal(x)
        return torch.where(on, torch.where(on, x, torch.ones_like(x)).log(), x)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(self._diagonal(x), x, torch.zeros_like(x)).sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], self.size, self.size))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-2], self.size * (self.size + 1) // 2))


class CovarianceVector(Transform):
    """Vectors of length D(D+1)/2 to positive definite matrices ``L L^T``.

    ``log |J| = D log 2 + sum_i (D - i + 1) log L_ii + sum_i log L_ii`` with i = 1…D
    (Muirhead 1982, Theorem 2.1.9).
    """

    domain = constraints.real_vector
    codomain = constraints.positive_definite
    bijective = True

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self._cholesky = LowerCholeskyVector(size)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.size == other.size

    def _call(self, x: Tensor) -> Tensor:
        factor: Tensor = self._cholesky(x)
        return factor @ factor.mT

    def _inverse(self, y: Tensor) -> Tensor:
        return self._cholesky._inverse(torch.linalg.cholesky(y))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        places = [i * (i + 3) // 2 for i in range(self.size)]
        powers = torch.arange(self.size + 1, 1, -1, dtype=x.dtype, device=x.device)
        log2 = torch.full((), 2.0, dtype=x.dtype, device=x.device).log()
        return (x[..., places] * powers).sum(-1) + self.size * log2

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._cholesky.forward_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self._cholesky.inverse_shape(shape)


class StickBreaking(Transform):
    """Vectors of length K-1 to the simplex of K, by breaking a stick K-1 times.

    ``z_k = sigmoid(x_k - log(K - k))``, ``y_k = z_k prod_{j<k} (1 - z_j)``, so that zero is the
    centre; ``log |J| = sum_k log z_k + log(1 - z_k) + sum_{j<k} log(1 - z_j)``. torch's own takes
    a running product, whose gradient costs the square of K; here it is a sum of logarithms.
    """

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def _shifted(self, x: Tensor) -> Tensor:
        left = torch.arange(x.shape[-1], 0, -1, dtype=x.dtype, device=x.device)
        return x - left.log()

    def _left(self, u: Tensor) -> Tensor:
        """Logarithm of what is left of the stick before each break, and after the last."""
        rest = torch.nn.functional.logsigmoid(-u).cumsum(-1)
        return torch.nn.functional.pad(rest, (1, 0))

    def _call(self, x: Tensor) -> Tensor:
        u = self._shifted(x)
        log_z = torch.nn.functional.pad(torch.nn.functional.logsigmoid(u), (0, 1))
        return (log_z + self._left(u)).exp()

    def _inverse(self, y: Tensor) -> Tensor:
        tiny = torch.finfo(y.dtype).tiny
        first = y[..., :-1]
        # What is left is summed from the end: one minus the sum would lose all digits.
        rest = y.flip(-1).cumsum(-1).flip(-1)[..., 1:].clamp(min=tiny)
        left = torch.arange(first.shape[-1], 0, -1, dtype=y.dtype, device=y.device)
        return first.clamp(min=tiny).log() - rest.log() + left.log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        u = self._shifted(x)
        log_sigmoid = torch.nn.functional.logsigmoid
        each: Tensor = log_sigmoid(u) + log_sigmoid(-u) + self._left(u)[..., :-1]
        return each.sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] - 1))


def to_support(support: Any, event_shape: torch.Size) -> Transform:
    """The bijection from the reals to a support, of the least dimension.

    >>> to_support(constraints.positive_definite, torch.Size((3, 3))).inverse_shape((3, 3))
    torch.Size([6])
    """
    inner = support
    while isinstance(inner, constraints.independent):
        inner = inner.base_constraint
    if inner in (constraints.positive_definite, constraints.positive_semidefinite):
        return CovarianceVector(event_shape[-1])
    if inner is constraints.simplex:
        return StickBreaking()
    if inner is constraints.lower_cholesky:
        return LowerCholeskyVector(event_shape[-1])
    transform: Transform = biject_to(support)
    return transform
