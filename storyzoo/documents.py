"""Tables of what is told of new documents: words for their gaps, and how many are unknown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.unread import UNLIKELY, USUAL, Unread, many
from storyzoo.inference.engine.one_more import OneMore


def names_of(dataset: Dataset | None, count: int) -> Sequence[Any]:
    """What the documents are called; by their number from 1 where the data do not say."""
    names = None if dataset is None else dataset.coords.get("document")
    return range(1, count + 1) if names is None else names


def foretold_frame(
    found: OneMore,
    names: Sequence[Any],
    gaps: np.ndarray | None,
    values: Sequence[Any],
    observation: str,
    several: bool,
) -> pd.DataFrame:
    """A row for each value of each gap; without ``gaps`` (N,) for each value of each example.

    ``several`` says whether there are draws, and deviations over them.
    """
    each = np.ones(len(names), np.int64) if gaps is None else gaps
    most = found.value.shape[1]
    place = np.repeat(np.arange(len(names)), each * most)
    columns = {"document": np.asarray(names)[place]}
    if gaps is not None:
        numbers = np.concatenate([np.arange(1, count + 1) for count in each])
        columns["gap"] = numbers.repeat(most)

    def by_gap(table: np.ndarray) -> np.ndarray:
        return np.repeat(table, each, axis=0).ravel()

    columns[observation] = np.asarray(values)[by_gap(found.value)]
    columns["probability"] = by_gap(found.probability)
    if several:
        columns["sd"] = by_gap(found.sd)
    return pd.DataFrame(columns)


def unread_frame(unread: Unread, known: np.ndarray, usual: float | None) -> pd.DataFrame:
    """Known and unknown words of each document, the share of the unknown, and whether it is large.

    ``usual`` is the largest usual share; None where it is not known.
    """
    total = unread.unknown + known
    share = unread.unknown / total
    found = pd.DataFrame(
        {"words_known": known, "words_unknown": unread.unknown, "share_unknown": share}
    )
    if usual is not None:
        found["many_unknown"] = many(unread.unknown, total, usual)
    return found


def told_of_unknown(usual: float | None) -> str:
    """How documents are found to be off topic, in words."""
    if usual is None:
        return (
            "share_unknown: words that the vocabulary of the fit lacks, stop words not counted; "
            "what is usual is not known, as the documents fitted were streamed"
        )
    return (
        "documents off topic have few nats per word and many unknown words. many_unknown: more of "
        f"them than chance gives ({UNLIKELY:g}) where a share of {usual:.3g}, or one word, is "
        f"unknown; documents of a larger share hold {100 * (1 - USUAL):.0f} % of the words fitted, "
        "each document read as if it were new, without stop words"
    )
