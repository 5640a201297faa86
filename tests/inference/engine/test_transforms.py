"""Bijections of least dimension: inverse, and volume against the determinant by autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from storyzoo.inference.engine.transforms import (
    CovarianceVector,
    LowerCholeskyVector,
    to_support,
)

SIZES = (1, 2, 4)
TRANSFORMS = [kind(size) for kind in (LowerCholeskyVector, CovarianceVector) for size in SIZES]
each = pytest.mark.parametrize(
    "transform", TRANSFORMS, ids=lambda t: f"{type(t).__name__}-{t.size}"
)


def vectors(size: int, *leading: int) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    shape = (*leading, size * (size + 1) // 2)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@each
def test_values_lie_in_the_support(transform: Any) -> None:
    y = transform(vectors(transform.size, 5))
    assert y.shape == (5, transform.size, transform.size)
    assert bool(transform.codomain.check(y).all())


@each
def test_inverse_takes_values_back(transform: Any) -> None:
    x = vectors(transform.size, 2, 3)
    torch.testing.assert_close(transform.inv(transform(x)), x)


@each
def test_shapes_are_told_beforehand(transform: Any) -> None:
    x = vectors(transform.size, 2, 3)
    assert transform.forward_shape(x.shape) == transform(x).shape
    assert transform.inverse_shape(transform(x).shape) == x.shape


@each
def test_volume_is_the_determinant_of_the_free_entries(transform: Any) -> None:
    """A symmetric or triangular matrix has D(D+1)/2 free entries: those of its lower half."""
    x = vectors(transform.size)
    rows, columns = torch.tril_indices(transform.size, transform.size)
    jacobian = torch.func.jacfwd(lambda v: transform(v)[rows, columns])(x)
    found = transform.log_abs_det_jacobian(x, transform(x))
    torch.testing.assert_close(found, torch.linalg.slogdet(jacobian).logabsdet)
    many = vectors(transform.size, 3)
    assert transform.log_abs_det_jacobian(many, transform(many)).shape == (3,)


@each
def test_gradients_pass_through_the_inverse(transform: Any) -> None:
    x = vectors(transform.size)
    y = transform(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(transform.inv(y).sum(), y)
    assert bool(gradient.isfinite().all())


def test_transforms_of_one_kind_and_size_are_equal() -> None:
    assert CovarianceVector(3) == CovarianceVector(3)
    assert CovarianceVector(3) != CovarianceVector(2)
    assert LowerCholeskyVector(3) != CovarianceVector(3)


@pytest.mark.parametrize(
    ("support", "event_shape", "kind"),
    [
        (constraints.positive_definite, (3, 3), CovarianceVector),
        (constraints.positive_semidefinite, (3, 3), CovarianceVector),
        (constraints.lower_cholesky, (3, 3), LowerCholeskyVector),
        (constraints.independent(constraints.positive_definite, 1), (2, 3, 3), CovarianceVector),
    ],
)
def test_matrices_get_as_many_numbers_as_they_are_free(
    support: Any, event_shape: tuple[int, ...], kind: type
) -> None:
    transform = to_support(support, torch.Size(event_shape))
    assert isinstance(transform, kind)
    assert transform.inverse_shape(torch.Size((5, *event_shape)))[-1] == 6


@pytest.mark.parametrize(
    "support",
    [constraints.real, constraints.positive, constraints.simplex, constraints.unit_interval],
    ids=str,
)
def test_other_supports_get_torchs_own(support: Any) -> None:
    own: Transform = biject_to(support)
    x = torch.linspace(-1, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(to_support(support, torch.Size((3,)))(x), own(x))
