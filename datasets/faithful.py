"""Old Faithful's eruptions."""

from __future__ import annotations

import dataclasses

from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.files import read_file
from storyzoo.datasets.remote import fetch


def faithful() -> Dataset:
    """272 eruptions of a geyser: how long each lasted, how long until the next, in minutes."""
    return dataclasses.replace(read_file(fetch("faithful/faithful.csv")), name="faithful")
