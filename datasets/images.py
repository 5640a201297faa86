"""Handwritten digits as tables: a row per image, a column per pixel."""

from __future__ import annotations

import zipfile

import numpy as np
import pandas as pd

from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.remote import fetch
from storyzoo.errors import DataError, SettingError

INK = 0.5
"""Share of the range of grey above which a pixel of `digits-binary` is ink."""


def digits() -> Dataset:
    """1,797 digits of 8 by 8 pixels, 0 to 16; rows 1500 onwards are the test split."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.asarray(found["data"], dtype=np.float64)
    labels = pd.Series(np.asarray(found["target"], dtype=np.int64), name="digit")
    return Dataset("digits", as_pixels(pixels, 8), labels=labels, test_rows=np.arange(1500, 1797))


def digits_binary() -> Dataset:
    """The same digits as ink (above half of the range) or paper; 1,500 rows to fit, 297 to score.

    The rows to score are drawn by a fixed seed: hands that wrote them wrote others to fit.
    """
    grey = digits()
    assert grey.table is not None
    order = np.random.default_rng(0).permutation(len(grey.table))
    ink = (grey.table / 16 > INK).astype(np.float64)
    return Dataset("digits-binary", ink, labels=grey.labels, test_rows=np.sort(order[1500:]))


def mnist(binarize: str = "none", seed: int = 0) -> Dataset:
    """MNIST's 10,000 test images of 28 by 28 pixels, 0 to 255, split 8000/1000/1000.

    ``binarize``: a share of the range above which a pixel is 1, else 0; or ``sampled``, 1 with
    the probability of its share (Salakhutdinov and Murray 2008), drawn once by ``seed``.
    """
    grey = read_idx("mnist/t10k-images-idx3-ubyte.zip").reshape(-1, 28 * 28)
    pixels = _binarized(grey.astype(np.float64) / 255, binarize, seed)
    labels = read_idx("mnist/t10k-labels-idx1-ubyte.zip").astype(np.int64)
    return Dataset(
        "mnist",
        as_pixels(grey.astype(np.float64) if pixels is None else pixels, 28),
        labels=pd.Series(labels, name="digit"),
        validation_rows=np.arange(8000, 9000),
        test_rows=np.arange(9000, 10000),
    )


def _binarized(share: np.ndarray, binarize: str, seed: int) -> np.ndarray | None:
    """Zeros and ones from shares of the range; None where grey is to stay."""
    if binarize == "none":
        return None
    if binarize == "sampled":
        if seed < 0:
            raise SettingError(f"data 'mnist': seed={seed} must be at least 0")
        return (np.random.default_rng(seed).random(share.shape) < share).astype(np.float64)
    try:
        threshold = float(binarize)
    except ValueError:
        threshold = -1.0
    if not 0 <= threshold < 1:
        raise SettingError(
            f"data 'mnist': binarize={binarize!r} should be 'sampled', 'none' or a share of the "
            "range from 0 to below 1"
        )
    return (share > threshold).astype(np.float64)


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


def as_pixels(values: np.ndarray, width: int) -> pd.DataFrame:
    """Images (N, pixels) as a table, columns named by row and column from the upper left."""
    columns = [f"pixel_{i // width}_{i % width}" for i in range(values.shape[1])]
    return pd.DataFrame(values, columns=columns)
