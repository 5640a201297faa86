"""Normals from the steps of an ascent: the matrix of the textbooks, its density, its exactness."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from storyzoo.inference.engine.ascent import Array
from storyzoo.inference.engine.quasi_newton import PathNormal, curvatures, diagonal, factorised

Pairs = list[tuple[Array, Array]]


def made(dim: int, count: int, seed: int = 0) -> tuple[Array, Pairs, Array]:
    """A diagonal, pairs of a quadratic, and the inverse Hessian of the BFGS update, dense."""
    rng = np.random.default_rng(seed)
    alpha = rng.uniform(0.2, 3.0, dim)
    root = rng.normal(size=(dim, dim))
    precision = root @ root.T + np.eye(dim)
    pairs = [(s, precision @ s) for s in rng.normal(size=(count, dim))]
    dense = np.diag(alpha)
    for step, fall in pairs:
        product = step @ fall
        turn = np.eye(dim) - np.outer(step, fall) / product
        dense = turn @ dense @ turn.T + np.outer(step, step) / product
    return alpha, pairs, dense


SIZES = [(1, 0), (1, 1), (1, 3), (5, 2), (5, 9), (40, 6)]


@pytest.mark.parametrize(("dim", "count"), SIZES)
def test_density_is_that_of_the_dense_normal(dim: int, count: int) -> None:
    alpha, pairs, dense = made(dim, count)
    normal = factorised(alpha, pairs)._replace(mean=np.linspace(-1, 1, dim))
    points = np.random.default_rng(1).normal(size=(3, 7, dim))
    exact = multivariate_normal(normal.mean, dense).logpdf(points).reshape(3, 7)
    np.testing.assert_allclose(normal.log_density(points), exact, rtol=1e-9)


@pytest.mark.parametrize(("dim", "count"), SIZES)
def test_root_and_step_are_those_of_the_dense_matrix(dim: int, count: int) -> None:
    alpha, pairs, dense = made(dim, count)
    normal = factorised(alpha, pairs)
    root = normal.at(np.eye(dim)).T
    np.testing.assert_allclose(root @ root.T, dense, rtol=1e-8, atol=1e-10)
    vector = np.random.default_rng(2).normal(size=dim)
    np.testing.assert_allclose(normal.newton(vector), dense @ vector, rtol=1e-8, atol=1e-10)


def test_compact_form_of_the_paper_is_the_same_matrix() -> None:
    """``diag(alpha) + beta gamma beta^T`` (Zhang et al. 2022, algorithm 3)."""
    alpha, pairs, _ = made(30, 4)
    steps, falls = (np.stack(column, axis=1) for column in zip(*pairs, strict=True))
    product = steps.T @ falls
    upper = np.linalg.inv(np.triu(product))
    middle = np.diag(np.diag(product)) + falls.T @ (alpha[:, None] * falls)
    beta = np.hstack([alpha[:, None] * falls, steps])
    gamma = np.block([[np.zeros((4, 4)), -upper], [-upper.T, upper.T @ middle @ upper]])
    root = factorised(alpha, pairs).at(np.eye(30)).T
    np.testing.assert_allclose(root @ root.T, np.diag(alpha) + beta @ gamma @ beta.T, atol=1e-9)


def test_draws_have_the_density_of_their_noise() -> None:
    normal = factorised(*made(6, 4)[:2])._replace(mean=np.full(6, 3.0))
    noise = np.random.default_rng(0).normal(size=(50, 6))
    at_draws = normal.log_density(normal.at(noise))
    np.testing.assert_allclose(at_draws, normal.log_density_of_noise(noise), rtol=1e-9)


def test_diagonal_is_that_of_the_direct_update_inverted() -> None:
    """Gilbert and Lemaréchal update ``diag(alpha)^-1`` by BFGS and keep its diagonal, once the
    curvature has been scaled by ``y^T diag(alpha) y / s^T y``.
    """
    alpha, [(step, fall)], _ = made(6, 1)
    scaled = np.diag(1 / alpha) * (fall @ (alpha * fall)) / (step @ fall)
    bent = scaled @ step
    direct = scaled - np.outer(bent, bent) / (step @ bent) + np.outer(fall, fall) / (step @ fall)
    np.testing.assert_allclose(1 / diagonal(alpha, step, fall), np.diag(direct), rtol=1e-9)


def test_one_dim_is_exact_after_one_step() -> None:
    known = curvatures(np.array([[5.0], [4.0]]), np.array([[-1.0], [-0.5]]), memory=6)
    first, second = (curvature.normal() for curvature in known)
    assert first.mean == pytest.approx(4.0)
    assert first.log_volume == 0.0
    assert second.mean == pytest.approx(3.0)
    assert second.log_volume == pytest.approx(np.log(2.0))


def test_conjugate_steps_give_the_quadratic_itself() -> None:
    """Along eigenvectors the last D pairs tell all there is."""
    rng = np.random.default_rng(3)
    vectors = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    precision = vectors @ np.diag([0.1, 0.5, 1.0, 4.0, 30.0]) @ vectors.T
    points = np.cumsum([rng.normal(size=5), *vectors.T], axis=0)
    normal = curvatures(points, -points @ precision, memory=5)[-1].normal()
    root = normal.at(np.eye(5)).T - normal.mean[:, None]
    np.testing.assert_allclose(root @ root.T, np.linalg.inv(precision), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(normal.mean, 0.0, atol=1e-9)


@pytest.mark.parametrize("fall", [[-1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
def test_steps_without_curvature_are_not_remembered(fall: list[float]) -> None:
    gradients = np.array([[0.0, 0.0], [-f for f in fall]])
    known = curvatures(np.array([[0.0, 0.0], [1.0, 0.0]]), gradients, memory=6)
    assert known[1].pairs == ()
    np.testing.assert_array_equal(known[1].alpha, np.ones(2))


def test_only_the_last_pairs_are_kept() -> None:
    points = np.arange(12.0)[:, None]
    known = curvatures(points, -points, memory=3)
    assert [len(curvature.pairs) for curvature in known] == [0, 1, 2, *[3] * 9]


def test_tiny_and_huge_scales_stay_definite() -> None:
    rng = np.random.default_rng(4)
    scales = np.array([1e-8, 1e-3, 1.0, 1e4, 1e9])
    alpha, pairs = np.ones(5), []
    for _ in range(40):
        step = scales * rng.normal(size=5)
        fall = step / scales**2
        alpha = diagonal(alpha, step, fall)
        pairs.append((step, fall))
    normal: PathNormal = factorised(alpha, pairs[-20:])
    assert np.isfinite(normal.log_volume)
    noise = rng.normal(size=(20, 5))
    again = normal._whitened(normal.at(noise))
    np.testing.assert_allclose(again, noise, atol=1e-4)
