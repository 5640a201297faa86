"""The fast E-step against a row-by-row computation of the same expectations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import Tensor

from storyzoo.models.kernels import gmm
from storyzoo.models.kernels.gmm import Mixture

K, SIZE = 3, 4
SHAPES = ("full", "tied", "diagonal")


def mixture(shape: str, narrow: float = 1.0) -> Mixture:
    """``narrow`` shrinks the components without moving them."""
    rng = np.random.default_rng(1)
    weight = torch.as_tensor(rng.dirichlet(np.ones(K)))
    loc = torch.as_tensor(rng.normal(size=(K, SIZE)) * 2)
    root = torch.as_tensor(rng.normal(size=(K, SIZE, SIZE)) + 2 * np.eye(SIZE)) * narrow
    if shape == "diagonal":
        return Mixture(weight, loc, variance=root.diagonal(dim1=1, dim2=2).square())
    return Mixture(weight, loc, covariance=(root @ root.mT)[: 1 if shape == "tied" else K])


def rows(missing: bool, n: int = 90) -> Tensor:
    rng = np.random.default_rng(2)
    y = rng.normal(size=(n, SIZE)) * 3
    if missing:
        y[rng.random(y.shape) < 0.3] = np.nan
        y[5] = np.nan
    return torch.as_tensor(y)


def naive(m: Mixture, y: Tensor, hard: bool) -> tuple[float, dict[str, np.ndarray]]:
    """Row by row: responsibilities, conditional means and covariances of what is missing."""
    covariance = m.covariance if m.variance is None else m.variance.diag_embed()
    assert covariance is not None
    covariances = covariance.expand(K, -1, -1).numpy()
    locs, total = m.loc.numpy(), 0.0
    count, first, seen = np.zeros(K), np.zeros((K, SIZE)), np.zeros((K, SIZE))
    second = np.zeros((K, SIZE, SIZE))
    for row in y.numpy():
        o, gaps = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
        joint = m.weight.log().numpy().copy()
        for k in range(K) if len(o) else ():
            joint[k] += multivariate_normal(locs[k][o], covariances[k][np.ix_(o, o)]).logpdf(row[o])
        share = np.exp(joint - logsumexp(joint))
        if hard:
            share = np.eye(K)[joint.argmax()]
        total += joint.max() if hard else logsumexp(joint)
        for k in range(K):
            deviation, spread = np.zeros(SIZE), np.zeros((SIZE, SIZE))
            deviation[o] = row[o] - locs[k][o]
            if m.variance is None:
                s = covariances[k]
                regression = s[np.ix_(gaps, o)] @ np.linalg.inv(s[np.ix_(o, o)])
                deviation[gaps] = regression @ deviation[o]
                spread[np.ix_(gaps, gaps)] = s[np.ix_(gaps, gaps)] - regression @ s[np.ix_(o, gaps)]
            count[k] += share[k]
            first[k] += share[k] * deviation
            second[k] += share[k] * (np.outer(deviation, deviation) + spread)
            seen[k][o] += share[k]
    statistics = {"count": count, "first": first, "rows": np.array(len(y)), "origin": len(y) * locs}
    if m.variance is not None:
        return total, statistics | {"second": second.diagonal(axis1=1, axis2=2), "seen": seen}
    assert m.covariance is not None
    tied = len(m.covariance) == 1
    return total, statistics | {"second": second.sum(0) if tied else second}


def assert_agrees(m: Mixture, y: Tensor, hard: bool, tolerance: float = 1e-9) -> None:
    total, statistics = gmm.expect(m, y, hard)
    expected_total, expected = naive(m, y.double(), hard)
    np.testing.assert_allclose(total, expected_total, rtol=tolerance)
    assert set(statistics) == set(expected)
    for name, value in expected.items():
        size = np.abs(value).max()
        np.testing.assert_allclose(
            statistics[name], value, atol=tolerance * size, rtol=0, err_msg=name
        )


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_are_those_of_the_definition(shape: str, missing: bool, hard: bool) -> None:
    assert_agrees(mixture(shape), rows(missing), hard)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_very_narrow_components_lose_nothing(shape: str, missing: bool) -> None:
    """Squares about a common shift would lose all digits here: each is centred on its own."""
    m = mixture(shape, narrow=1e-6)
    choice = torch.randint(K, (90,), generator=torch.Generator().manual_seed(0))
    near = m.loc[choice] + 1e-6 * rows(False)
    y = torch.where(torch.isnan(rows(missing)), torch.nan, near)
    assert_agrees(m, y, False, tolerance=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_far_from_the_origin_nothing_cancels(shape: str) -> None:
    m, y, far = mixture(shape), (rows(False) * 64).round() / 64, 2.0**30
    m = m._replace(loc=(m.loc * 64).round() / 64)
    total, near = gmm.expect(m, y, False)
    moved_total, moved = gmm.expect(m._replace(loc=m.loc + far), y + far, False)
    torch.testing.assert_close(moved_total, total, rtol=1e-9, atol=0)
    for name in ("count", "first", "second"):
        torch.testing.assert_close(moved[name], near[name], rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_and_chunks_add_up(
    shape: str, missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    m, y = mixture(shape), rows(missing, n=700)
    total, whole = gmm.expect(m, y, False)
    monkeypatch.setattr(gmm, "_BLOCK_ENTRIES", 1)  # blocks of the least size
    parts = [gmm.expect(m, chunk, False) for chunk in y.tensor_split([100, 399])]
    torch.testing.assert_close(sum(part[0] for part in parts), total)
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[1][name] for part in parts), value)


@pytest.mark.parametrize("shape", SHAPES)
def test_single_precision_keeps_six_digits(shape: str) -> None:
    m, y = mixture(shape), rows(False, n=5000)
    total, double = gmm.expect(m, y, False)
    single_total, single = gmm.expect(m, y.float(), False)
    torch.testing.assert_close(single_total, total, rtol=1e-6, atol=0)
    for name, value in double.items():
        assert single[name].dtype == torch.float64
        torch.testing.assert_close(
            single[name], value, rtol=0, atol=1e-5 * float(value.abs().max())
        )


def test_the_callers_threads_are_left_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gmm.expect(mixture("full"), rows(False), False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_unused_component_counts_nothing() -> None:
    m = mixture("full")
    m = m._replace(weight=torch.tensor([0.0, 0.5, 0.5]).double())
    total, statistics = gmm.expect(m, rows(False), False)
    assert torch.isfinite(total)
    assert float(statistics["count"][0]) < 1e-100
    assert all(torch.isfinite(value).all() for value in statistics.values())
