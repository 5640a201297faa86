"""Handwritten digits as tables: a row per image, a column per pixel."""

from __future__ import annotations

import zipfile

import numpy as np
import pandas as pd

from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.remote import fetch
from storyzoo.errors import DataError


def digits() -> Dataset:
    """1,797 digits of 8 by 8 pixels, 0 to 16; rows 1500 onwards are the test split."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.asarray(found["data"], dtype=np.float64)
    labels = pd.Series(np.asarray(found["target"], dtype=np.int64), name="digit")
    return Dataset("digits", _pixels(pixels, 8), labels=labels, test_rows=np.arange(1500, 1797))


def mnist() -> Dataset:
    """MNIST's 10,000 test images of 28 by 28 pixels, 0 to 255, split 8000/1000/1000."""
    pixels = read_idx("mnist/t10k-images-idx3-ubyte.zip").reshape(-1, 28 * 28)
    labels = read_idx("mnist/t10k-labels-idx1-ubyte.zip").astype(np.int64)
    return Dataset(
        "mnist",
        _pixels(pixels.astype(np.float64), 28),
        labels=pd.Series(labels, name="digit"),
        validation_rows=np.arange(8000, 9000),
        test_rows=np.arange(9000, 10000),
    )


def read_idx(path: str) -> np.ndarray:
    """A remote IDX file of unsigned bytes, zipped; shape as its header says.

    The header is two zero bytes, the type (8 = unsigned byte), the number of dims, then each size
    as four bytes, big-endian (LeCun, http://yann.lecun.com/exdb/mnist).
    """
    with zipfile.ZipFile(fetch(path)) as archive:
        content = archive.read(archive.namelist()[0])
    n_dims = content[3]
    shape = tuple(np.frombuffer(content, ">u4", n_dims, offset=4).astype(int))
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * n_dims)
    if content[:3] != b"\0\0\x08" or values.size != np.prod(shape):
        raise DataError(f"{path} is not an IDX file of unsigned bytes: fetch it again")
    return values.reshape(shape)


def _pixels(values: np.ndarray, width: int) -> pd.DataFrame:
    columns = [f"pixel_{i // width}_{i % width}" for i in range(values.shape[1])]
    return pd.DataFrame(values, columns=columns)
