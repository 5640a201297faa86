"""Tiny Shakespeare: 1,115,394 characters of his plays, as sequences of characters."""

from __future__ import annotations

import dataclasses

import numpy as np

from storyzoo.datasets.codecs import Codec, TextCodec
from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.remote import fetch
from storyzoo.datasets.sequences import Coding, of_texts, read_text
from storyzoo.datasets.vocabulary import Reading
from storyzoo.errors import SettingError

ENDS = (0.9, 0.95)
"""Shares of the text, by position, at which the parts to fit and to validate end."""


def tiny_shakespeare(
    way: Codec | Reading | None = None,
    /,
    *,
    by: str = "speech",
    codec: str = "characters",
    symbols: int = 0,
) -> Dataset:
    """Speeches, parted by blank lines; or, with ``by=text``, three sequences: 90, 5 and 5 %.

    The split is by position; a speech belongs to the part in which it begins. The codec is learnt
    from the part to fit alone.
    """
    if by not in ("speech", "text"):
        raise SettingError(f"data 'tiny-shakespeare': by={by!r} should be speech or text")
    text = read_text(fetch("tiny-shakespeare/input.txt"))
    ends = [int(share * len(text)) for share in ENDS]
    if by == "text":
        sequences, part = [text[: ends[0]], text[ends[0] : ends[1]], text[ends[1] :]], np.arange(3)
    else:
        sequences = text.removesuffix("\n").split("\n\n")
        starts = np.cumsum([0] + [len(speech) + 2 for speech in sequences[:-1]])
        part = np.searchsorted(ends, starts, side="right")
    if isinstance(way, TextCodec):
        found = way
    else:
        fitted = [sequence for sequence, p in zip(sequences, part, strict=True) if p == 0]
        unit = "paragraph" if by == "speech" else "document"
        found = Coding(codec, unit, symbols).learn("tiny-shakespeare", fitted)
    return dataclasses.replace(
        of_texts("tiny-shakespeare", sequences, found),
        validation_rows=np.flatnonzero(part == 1),
        test_rows=np.flatnonzero(part == 2),
    )
