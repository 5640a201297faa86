"""Rows of a shared table: equal to the dense categorical, which it never makes."""

from __future__ import annotations

import numpy as np
import torch
from pyro.distributions import Categorical

from storyzoo.models.distributions.row_categorical import RowCategorical

TABLE = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.0, 0.5]], dtype=torch.float64)
ROW = torch.tensor([0, 1, 1, 0])


def test_log_probabilities_are_those_of_the_dense_form() -> None:
    value = torch.tensor([1, 0, 2, 2])
    found = RowCategorical(TABLE, ROW).log_prob(value)
    torch.testing.assert_close(found, Categorical(TABLE[ROW]).log_prob(value))


def test_enumerated_rows_broadcast_against_values() -> None:
    found = RowCategorical(TABLE, torch.tensor([[0], [1]])).log_prob(torch.tensor([0, 2]))
    torch.testing.assert_close(found, TABLE[:, [0, 2]].log())


def test_the_support_is_that_of_the_dense_form() -> None:
    own, dense = RowCategorical(TABLE, ROW), Categorical(TABLE[ROW])
    for expand in (False, True):
        assert torch.equal(own.enumerate_support(expand), dense.enumerate_support(expand))
    assert bool(own.support.check(torch.tensor([0, 2])).all())
    assert not bool(own.support.check(torch.tensor(3)))


def test_draws_have_the_rows_frequencies_and_never_what_has_none() -> None:
    torch.manual_seed(0)
    row = torch.tensor([0, 1]).repeat_interleave(40_000)
    drawn = RowCategorical(TABLE, row).sample()
    for k in (0, 1):
        share = np.bincount(drawn[row == k].numpy(), minlength=3) / 40_000
        np.testing.assert_allclose(share, TABLE[k], atol=0.01)
        assert (share[TABLE[k].numpy() == 0] == 0).all()


def test_many_draws_share_one_table() -> None:
    """Ten million draws over 1,000 values: 80 GB if every draw had its row."""
    table = torch.full((1, 1000), 1e-3, dtype=torch.float64)
    row = torch.zeros((), dtype=torch.long).expand(10_000_000)
    assert RowCategorical(table, row).log_prob(torch.zeros(10_000_000).long()).shape == row.shape


def test_expanded_it_says_the_same() -> None:
    wide = RowCategorical(TABLE, ROW).expand([5, 4])
    assert wide.batch_shape == (5, 4) and wide.sample().shape == (5, 4)
    value = torch.tensor([1, 0, 2, 2])
    torch.testing.assert_close(wide.log_prob(value)[3], RowCategorical(TABLE, ROW).log_prob(value))
