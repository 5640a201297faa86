"""The multivariate normal that can leave out what is missing."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy.stats import multivariate_normal
from torch import Tensor

from storyzoo.models.distributions import partial_normal
from storyzoo.models.distributions.partial_normal import PartialNormal

ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.2, 0.5]]).double()
OBSERVED = torch.tensor(
    [[True, True, True], [True, False, True], [False, True, False], [False, False, False]]
)


def normal() -> PartialNormal:
    return PartialNormal(torch.tensor([0.5, -1.0, 2.0]).double(), scale_tril=ROOT)


def by_hand(value: Tensor, observed: Tensor) -> float:
    columns = observed.nonzero().flatten().tolist()
    if not columns:
        return 0.0
    q = normal()
    covariance = (ROOT @ ROOT.T).numpy()[np.ix_(columns, columns)]
    peer = multivariate_normal(q.loc.numpy()[columns], covariance)
    return float(peer.logpdf(value.numpy()[columns]))


def test_each_row_has_the_marginal_density_of_what_is_observed() -> None:
    values = torch.randn(4, 3).double()
    found = normal().expand((4,)).mask_missing(OBSERVED).log_prob(values)
    expected = [by_hand(*row) for row in zip(values, OBSERVED, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_without_a_batch() -> None:
    value = torch.randn(3).double()
    found = normal().mask_missing(OBSERVED[1]).log_prob(value)
    np.testing.assert_allclose(found, by_hand(value, OBSERVED[1]))


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(4, 3).double()
    locs = torch.randn(2, 1, 3).double()
    q = PartialNormal(locs, scale_tril=ROOT.expand(2, 1, 3, 3)).expand((2, 4))
    whole = q.mask_missing(OBSERVED).log_prob(values)
    monkeypatch.setattr(partial_normal, "_BLOCK_ENTRIES", 1)
    rows = q.mask_missing(OBSERVED).log_prob(values)
    assert whole.shape == (2, 4)
    torch.testing.assert_close(rows, whole)


def test_with_nothing_missing_it_is_the_multivariate_normal() -> None:
    values = torch.randn(4, 3).double()
    peer = dist.MultivariateNormal(normal().loc, scale_tril=ROOT).log_prob(values)
    torch.testing.assert_close(normal().log_prob(values), peer)
    whole = torch.ones(4, 3, dtype=torch.bool)
    torch.testing.assert_close(normal().expand((4,)).mask_missing(whole).log_prob(values), peer)


def test_a_plate_keeps_the_mask() -> None:
    values = torch.randn(4, 3).double()

    def model() -> None:
        with pyro.plate("point", 4):
            pyro.sample("y", normal().mask_missing(OBSERVED), obs=values)

    trace = poutine.trace(model).get_trace()
    expected = sum(by_hand(*row) for row in zip(values, OBSERVED, strict=True))
    np.testing.assert_allclose(trace.log_prob_sum(), expected)
