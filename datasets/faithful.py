"""Old Faithful's eruptions."""

from __future__ import annotations

from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.files import read_csv
from storyzoo.datasets.remote import fetch


def faithful() -> Dataset:
    """272 eruptions of a geyser: how long each lasted, how long until the next, in minutes."""
    return Dataset("faithful", read_csv(fetch("faithful/faithful.csv")).table)
