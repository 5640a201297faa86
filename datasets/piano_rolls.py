"""Piano rolls: which of a piano's 88 keys are held, step by step."""

from __future__ import annotations

import numpy as np

from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.remote import fetch
from storyzoo.errors import DataError

KEYS = 88
PARTS = ("traindata", "validdata", "testdata")


def jsb_chorales() -> Dataset:
    """382 chorales of Bach, a step per quarter note; split 229/76/77 as published.

    ``key`` (step, 88) is one where a key is held, ``length`` (chorale,) counts steps.
    """
    from scipy.io import loadmat

    path = fetch("jsb-chorales/JSB_Chorales.mat")
    content = loadmat(path)
    rolls = [[np.asarray(roll, np.float64) for roll in content[part][0]] for part in PARTS]
    sizes = [len(part) for part in rolls]
    joined = [roll for part in rolls for roll in part]
    if any(roll.shape[1:] != (KEYS,) or not np.isin(roll, (0, 1)).all() for roll in joined):
        raise DataError(f"{path} does not hold the chorales: fetch it again")
    first = np.cumsum(sizes)
    return Dataset(
        "jsb-chorales",
        arrays={
            "key": np.concatenate(joined),
            "length": np.array([len(roll) for roll in joined], np.int64),
        },
        coords={"pitch": key_names()},
        validation_rows=np.arange(first[0], first[1]),
        test_rows=np.arange(first[1], first[2]),
    )


def key_names() -> list[str]:
    """``A0`` to ``C8``; middle C is ``C4``."""
    notes = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
    return [f"{notes[midi % 12]}{midi // 12 - 1}" for midi in range(21, 21 + KEYS)]
