"""A categorical distribution whose probabilities are a row of a table that many draws share."""

from __future__ import annotations

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from storyzoo.models.distributions.inverse_wishart import Size


class RowCategorical(TorchDistribution):
    """``P(value = v) = table[row, v]``: looked up, never spread out over the draws.

    ``Categorical(table[row])`` holds a row for every draw; a million words over a vocabulary of
    50,000 would take 400 GB. Here the table (R, V) is kept once, beside the rows' indices.

    Shapes: table (R, V), each row on the simplex; row (*batch) of int64; values (*batch).
    """

    arg_constraints = {}
    has_enumerate_support = True

    def __init__(self, table: Tensor, row: Tensor, validate_args: bool | None = None) -> None:
        self.table, self.row = table, row
        super().__init__(row.shape, torch.Size(), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.table.shape[-1] - 1)

    def expand(self, batch_shape: Size, _instance: RowCategorical | None = None) -> RowCategorical:
        new: RowCategorical = self._get_checked_instance(  # type: ignore[no-untyped-call]
            RowCategorical, _instance
        )
        new.table, new.row = self.table, self.row.expand(batch_shape)
        super(RowCategorical, new).__init__(
            torch.Size(batch_shape), torch.Size(), validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        tiny = torch.finfo(self.table.dtype).tiny
        log_density: Tensor = self.table.clamp(min=tiny).log()[self.row, value]
        return log_density

    def sample(self, sample_shape: Size = ()) -> Tensor:
        """By inversion: the rows' cumulative shares lie end to end, so one search finds all."""
        with torch.no_grad():
            rows, size = self.table.shape
            share = self.table.double().cumsum(-1)
            share = share / share[:, -1:]
            ends = (share + torch.arange(rows).unsqueeze(-1)).reshape(-1)
            row = self.row.expand(torch.Size(sample_shape) + self.batch_shape)
            place = row + torch.rand(row.shape, dtype=torch.float64)
            found = torch.searchsorted(ends, place, right=True) - row * size
            return found.clamp(max=size - 1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = torch.arange(self.table.shape[-1], device=self.row.device)
        values = values.reshape((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1, *self.batch_shape)) if expand else values
