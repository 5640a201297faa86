"""Gaussian densities and conditionals with missing values, against scipy and the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from storyzoo.models.kernels.gaussian import (
    conditional,
    has_missing,
    log_normal,
    log_normal_independent,
    patterns,
)

K, SIZE = 3, 4


def parameters() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(1)
    root = rng.normal(size=(K, SIZE, SIZE)) + 2 * np.eye(SIZE)
    return torch.as_tensor(rng.normal(size=(K, SIZE))), torch.as_tensor(root @ root.swapaxes(1, 2))


def rows(missing: bool) -> Tensor:
    rng = np.random.default_rng(2)
    y = rng.normal(size=(60, SIZE)) * 2
    if missing:
        y[rng.random(y.shape) < 0.3] = np.nan
        y[5] = np.nan
    return torch.as_tensor(y)


def by_hand(y: Tensor, loc: Tensor, covariance: Tensor) -> np.ndarray:
    answer = np.zeros((K, len(y)))
    for k in range(K):
        for n, row in enumerate(y.numpy()):
            o = np.flatnonzero(~np.isnan(row))
            if len(o):
                peer = multivariate_normal(loc[k].numpy()[o], covariance[k].numpy()[np.ix_(o, o)])
                answer[k, n] = peer.logpdf(row[o])
    return answer


@pytest.mark.parametrize("missing", [False, True])
def test_log_normal_is_scipys_marginal(missing: bool) -> None:
    loc, covariance = parameters()
    y = rows(missing)
    np.testing.assert_allclose(
        log_normal(y, loc, covariance), by_hand(y, loc, covariance), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("missing", [False, True])
def test_one_covariance_serves_all_components(missing: bool) -> None:
    loc, covariance = parameters()
    tied = log_normal(rows(missing), loc, covariance[:1])
    torch.testing.assert_close(
        tied, log_normal(rows(missing), loc, covariance[:1].expand(K, -1, -1))
    )


@pytest.mark.parametrize("missing", [False, True])
def test_independent_features_are_a_diagonal_covariance(missing: bool) -> None:
    loc, covariance = parameters()
    variance = covariance.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(
        log_normal_independent(rows(missing), loc, variance),
        log_normal(rows(missing), loc, variance.diag_embed()),
    )


@pytest.mark.parametrize("missing", [False, True])
def test_nothing_cancels_far_from_the_origin(missing: bool) -> None:
    loc, covariance = parameters()
    y, far = (rows(missing) * 64).round() / 64, 2.0**30
    loc = (loc * 64).round() / 64
    torch.testing.assert_close(
        log_normal(y + far, loc + far, covariance),
        log_normal(y, loc, covariance),
        rtol=1e-9,
        atol=0,
    )


@pytest.mark.parametrize("missing", [False, True])
def test_the_density_traces_and_maps_over_parameters(missing: bool) -> None:
    loc, covariance = parameters()
    y = rows(missing)
    points = torch.stack([loc, loc + 0.5])

    def gradient(loc: Tensor) -> Tensor:
        found: Tensor = torch.func.grad(
            lambda at: log_normal(y, at, covariance).logsumexp(0).sum()
        )(loc)
        return found

    traced = make_fx(torch.vmap(gradient))(points)
    torch.testing.assert_close(traced(points), torch.stack([gradient(loc) for loc in points]))


def test_the_graph_does_not_grow_with_the_patterns() -> None:
    loc, covariance = parameters()

    def size(y: Tensor) -> int:
        return len(list(make_fx(lambda at: log_normal(y, at, covariance))(loc).graph.nodes))

    assert size(rows(missing=True)) <= size(rows(missing=False)) + 10


def test_patterns_part_the_rows() -> None:
    y = rows(missing=True)
    found = patterns(y)
    assert sorted(torch.cat([p.rows for p in found]).tolist()) == list(range(len(y)))
    assert len(found) == len(np.unique(np.isnan(y.numpy()), axis=0))
    for pattern in found:
        block = y[pattern.rows]
        assert not torch.isnan(block[:, pattern.observed]).any()
        assert torch.isnan(block[:, pattern.missing]).all()


def test_patterns_of_more_columns_than_an_integer_has_bits() -> None:
    y = torch.zeros(4, 200)
    y[1, 0], y[2, 150], y[3, 150] = torch.nan, torch.nan, torch.nan
    assert sorted(p.rows.tolist() for p in patterns(y)) == [[0], [1], [2, 3]]


def test_conditional_is_the_textbook_formula() -> None:
    _, covariance = parameters()
    y = torch.zeros(1, SIZE)
    y[0, [1, 3]] = torch.nan
    found = conditional(covariance, patterns(y)[0])
    o, m = [0, 2], [1, 3]
    for k in range(K):
        s = covariance[k].numpy()
        regression = s[np.ix_(m, o)] @ np.linalg.inv(s[np.ix_(o, o)])
        np.testing.assert_allclose(found.regression[k], regression, rtol=1e-9)
        residual = s[np.ix_(m, m)] - regression @ s[np.ix_(o, m)]
        np.testing.assert_allclose(found.residual[k], residual, rtol=1e-9)


def test_has_missing() -> None:
    assert not has_missing(rows(missing=False))
    assert has_missing(rows(missing=True))
