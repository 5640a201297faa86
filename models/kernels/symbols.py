"""Sequences of symbols end to end: checks of the data, and what stands before each step."""

from __future__ import annotations

import torch
from torch import Tensor

from storyzoo.errors import DataError
from storyzoo.story import Data

GAP = -1
"""A symbol that is missing."""


def one_length(length: Tensor) -> bool:
    """Whether there are several sequences, all equally long: then their end says nothing."""
    return len(length) > 1 and bool((length == length[0]).all())


def unrolled(data: Data, end: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (E',), targets (E',) and steps (N,) of each sequence; START is numbered ``n_tokens``.

    >>> data = {"token": torch.tensor([4, 5]), "length": torch.tensor([2, 0]), "n_tokens": 7}
    >>> unrolled(data, 7)[1]
    tensor([4, 5, 7, 7])
    """
    token, length = data["token"], data["length"]
    start, extra = int(data["n_tokens"]), 0 if end is None else 1
    steps = length + extra
    owner = torch.arange(len(length), device=length.device).repeat_interleave(length)
    place = torch.arange(len(token), device=token.device) + extra * owner
    total = len(token) + extra * len(length)
    targets = token.new_full((total,), start if end is None else end).scatter(0, place, token)
    inputs = token.new_full((total + 1,), start).scatter(0, place + 1, token)[:total]
    return torch.where(first_steps(steps), start, inputs), targets, steps


def first_steps(lengths: Tensor) -> Tensor:
    """(E,): whether a step is the first of its sequence, given the lengths (N,) of all."""
    begin = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    return torch.arange(len(begin), device=lengths.device) == begin


def check_symbols(data: Data) -> None:
    """Raise DataError where symbols are out of range, missing, or not as many as lengths say."""
    token, length, n_tokens = data["token"], data["length"], int(data["n_tokens"])
    check_lengths(length, len(token), "token")
    if n_tokens < 1:
        raise DataError(f"n_tokens={n_tokens}: there must be at least one symbol")
    if token.is_floating_point():
        raise DataError("'token' holds numbers with a point: give whole numbers from 0")
    refuse_gaps(data)
    wrong = ((token < 0) | (token >= n_tokens)).nonzero()
    if len(wrong):
        place = int(wrong[0])
        raise DataError(
            f"'token' at step {place + 1} is {int(token[place])}: symbols go from 0 to "
            f"{n_tokens - 1} (n_tokens={n_tokens})"
        )


def check_lengths(length: Tensor, steps: int, name: str) -> None:
    """Raise DataError where lengths are negative or don't add up to the steps there are."""
    if length.is_floating_point() or bool((length < 0).any()):
        raise DataError("'length' must hold whole numbers from 0, one for each sequence")
    if int(length.sum()) != steps:
        raise DataError(
            f"the lengths add up to {int(length.sum())} steps, but {name!r} has {steps}: "
            "make them agree"
        )


def refuse_gaps(data: Data) -> None:
    """Raise DataError where a symbol is missing."""
    places = (data["token"] == GAP).nonzero()
    if len(places):
        raise DataError(
            f"'token' is missing at step {int(places[0]) + 1}: fill the gaps first (zoo impute)"
        )
