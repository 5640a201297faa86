"""Files that are fetched once: pinned origin, hash and licence, then the user's cache folder.

``STORYZOO_MIRROR`` names a folder or a URL that holds the same files under the same paths; it is
then the only place that is asked. Whatever the place, the hash decides. ``STORYZOO_CACHE`` names
the folder of all caches; without it, it is the user's cache folder.
"""

from __future__ import annotations

import csv
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from storyzoo.errors import DataError

MIRROR = "STORYZOO_MIRROR"
CACHE = "STORYZOO_CACHE"


class Origin(NamedTuple):
    """One row of ``remote.tsv``."""

    path: str
    sha256: str
    bytes: int
    url: str
    licence: str


def origins() -> dict[str, Origin]:
    """The rows of ``remote.tsv`` by path."""
    text = (Path(__file__).parent / "remote.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return {
        row["path"]: Origin(
            row["path"], row["sha256"], int(row["bytes"]), row["origin"], row["licence"]
        )
        for row in rows
    }


def fetch(path: str) -> Path:
    """Where the file lies on this machine; fetched first if it has to be."""
    origin = origins()[path]
    mirror = os.environ.get(MIRROR, "")
    if mirror.startswith(("http://", "https://")):
        return _download(origin, f"{mirror.rstrip('/')}/{path}")
    if mirror:
        return _from_folder(origin, Path(mirror))
    return _download(origin, origin.url)


def cache_folder() -> Path:
    """The cache folder for data; it need not exist."""
    if named := os.environ.get(CACHE, ""):
        return Path(named).absolute() / "datasets"
    import pooch

    return Path(pooch.os_cache("storyzoo")) / "datasets"


def _from_folder(origin: Origin, folder: Path) -> Path:
    found = folder / origin.path
    if not found.is_file():
        raise DataError(
            f"{MIRROR}={folder} has no {origin.path}: put it there, or unset {MIRROR} "
            f"to fetch it from {origin.url}"
        )
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    if digest != origin.sha256:
        raise DataError(
            f"{found} is not the file that is wanted (its SHA-256 is {digest[:12]}…, "
            f"not {origin.sha256[:12]}…): copy it anew from {origin.url}"
        )
    return found


def _download(origin: Origin, url: str) -> Path:
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    folder = cache_folder() / Path(origin.path).parent
    try:
        found = pooch.retrieve(
            url, f"sha256:{origin.sha256}", fname=Path(origin.path).name, path=folder
        )
    except ValueError as error:  # pooch's word for another hash
        raise DataError(
            f"what {url} sends is not the file that is wanted (another SHA-256): "
            f"name a folder that holds {origin.path} in {MIRROR}"
        ) from error
    except requests.RequestException as error:
        raise DataError(
            f"{url} can't be fetched ({type(error).__name__}): go online once, or name a folder "
            f"that holds {origin.path} in {MIRROR}"
        ) from error
    return Path(found)
