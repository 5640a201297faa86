"""The closed M-step: eigenvalue floors, weights, and empty components."""

from __future__ import annotations

import numpy as np
import torch

from storyzoo.models.kernels import conjugate


def log_likelihood(covariance: torch.Tensor, sample: torch.Tensor) -> float:
    return float(-covariance.logdet() - (sample @ covariance.inverse()).trace())


def test_the_floor_is_the_most_likely_covariance_above_it() -> None:
    rng = np.random.default_rng(0)
    root = torch.as_tensor(rng.normal(size=(4, 4)))
    sample = root @ torch.diag(torch.tensor([1e-9, 1e-4, 0.5, 2.0]).double()) @ root.mT
    floor = torch.tensor([1e-2, 1e-3, 2e-2, 1e-2]).double()
    best = conjugate.floor_eigenvalues(sample, floor)
    unit = floor.sqrt()
    assert float(torch.linalg.eigvalsh(best / torch.outer(unit, unit))[0]) > 1 - 1e-9
    for _ in range(200):
        noise = torch.as_tensor(rng.normal(size=(4, 4))) * unit
        other = conjugate.floor_eigenvalues(best + 0.3 * noise.mT @ noise - 0.3 * best, floor)
        assert log_likelihood(other, sample) <= log_likelihood(best, sample) + 1e-9


def test_what_lies_above_the_floor_is_left_alone() -> None:
    covariance = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()
    floor = torch.full((2,), 1e-6).double()
    torch.testing.assert_close(conjugate.floor_eigenvalues(covariance, floor), covariance)


def test_weights_are_the_mode_of_the_dirichlet() -> None:
    count = torch.tensor([6.0, 3.0, 0.0]).double()
    torch.testing.assert_close(
        conjugate.weights(count, 2.0), torch.tensor([7.0, 4.0, 1.0]).double() / 12
    )
    shares = conjugate.weights(count, 1.0)
    assert float(shares[2]) > 0
    torch.testing.assert_close(shares[:2], count[:2] / 9)


def test_weights_below_one_are_the_mode_in_the_softmax_basis() -> None:
    count = torch.tensor([6.0, 3.0, 0.0]).double()
    torch.testing.assert_close(
        conjugate.weights(count, 0.5), torch.tensor([6.5, 3.5, 0.5]).double() / 10.5
    )


def test_an_empty_component_stays_finite_without_a_prior() -> None:
    expected = {
        "rows": torch.tensor(9.0).double(),
        "origin": torch.ones(2, 3).double() * 9,
        "count": torch.tensor([9.0, 0.0]).double(),
        "first": torch.zeros(2, 3).double(),
        "second": torch.stack([torch.eye(3) * 9, torch.zeros(3, 3)]).double(),
    }
    floor = torch.full((3,), 1e-6).double()
    loc, covariance = conjugate.full(expected, None, floor)
    torch.testing.assert_close(loc, torch.ones(2, 3).double())
    torch.testing.assert_close(covariance[1], torch.eye(3).double() * 1e-6)
