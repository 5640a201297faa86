"""Compiled code on disk: one file per key, in a folder that nobody else can write to.

What lies there will be run, so a file counts only if the folder and the file belong to this user,
nobody else may write to them, and the file ends with the digest of all that precedes::

    library | key (32 bytes) | magic (16 bytes) | SHA-256 of all that precedes (32 bytes)

The loader of libraries minds nothing that stands after the library's own end.

``STORYZOO_CACHE`` names the folder of all caches; without it, it is the user's cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = "STORYZOO_CACHE"
MAGIC = b"storyzoo code 01"
LIMIT = 500_000_000
"""Bytes above which what was used longest ago is dropped."""
OURS = re.compile(r"[0-9a-f]{64}\.so|\.[0-9a-f]{64}\.so\.\d+-[0-9a-f]{8}")
"""Names of libraries, and of those that were being written when a process ended."""
OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Unusable(Exception):
    """Nothing can be kept, and why, in one line."""


class Usage(NamedTuple):
    """How much lies in a cache."""

    files: int
    bytes: int


def compiled_folder() -> Path:
    """Where compiled code is kept; it need not exist."""
    if named := os.environ.get(FOLDER, ""):
        return Path(named).absolute() / "compiled"
    import pooch

    return Path(pooch.os_cache("storyzoo")) / "compiled"


def find(key: bytes) -> Path | None:
    """The library of a key (32 bytes).

    None where it isn't there, is damaged, or could have been put there by somebody else.
    """
    path = _path(key)
    try:
        if _open_to_others(path.parent.stat()):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:
            if _open_to_others(os.fstat(descriptor)) or not _is_whole(stream.read(), key):
                return None
        os.utime(path)  # used now
    except OSError:  # not there, or not to be read, or a link
        return None
    return path


def keep(key: bytes, library: bytes) -> Path:
    """Store a library under its key, replacing what was there.

    Two processes may do so at once: each writes a file of its own, and renaming is atomic.
    Raises Unusable where the folder can't be written, is full, or is open to others.
    """
    path = _path(key)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if reason := _open_to_others(path.parent.stat()):
            raise Unusable(
                f"{path.parent} {reason}, who could put code there: chmod it to 700, "
                f"or name another folder in {FOLDER}"
            )
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(_sealed(key, library))
        os.replace(beside, path)
    except OSError as error:
        raise Unusable(f"{path.parent} can't be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
    _drop_least_used(path)
    return path


def usage() -> Usage:
    """What is kept now."""
    sizes = [found.st_size for _, found in _files()]
    return Usage(len(sizes), sum(sizes))


def clear() -> Usage:
    """Remove what is kept, and nothing else that lies there; says what it was."""
    removed = []
    for path, found in _files():
        path.unlink(missing_ok=True)
        removed.append(found.st_size)
    with contextlib.suppress(OSError):  # not there, or not empty
        compiled_folder().rmdir()
    return Usage(len(removed), sum(removed))


def _path(key: bytes) -> Path:
    return compiled_folder() / f"{key.hex()}.so"


def _files() -> Iterator[tuple[Path, os.stat_result]]:
    folder = compiled_folder()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if OURS.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):  # another process has dropped it
                yield path, path.lstat()


def _drop_least_used(kept: Path) -> None:
    files = sorted(_files(), key=lambda file: file[1].st_mtime_ns)
    total = sum(found.st_size for _, found in files)
    for path, found in files:
        if total <= LIMIT:
            return
        if path != kept:
            with contextlib.suppress(OSError):
                path.unlink()
            total -= found.st_size


# -- whether a file is what it should be -------------------------------------------------------


def _sealed(key: bytes, library: bytes) -> bytes:
    content = library + key + MAGIC
    return content + hashlib.sha256(content).digest()


def _is_whole(content: bytes, key: bytes) -> bool:
    """Whether the trailer is there, is that of the key, and its digest is right."""
    preceding, digest = content[:-32], content[-32:]
    return preceding.endswith(key + MAGIC) and hashlib.sha256(preceding).digest() == digest


def _open_to_others(found: os.stat_result) -> str:
    """How somebody else could have a say in what a folder or file holds; empty where none has."""
    if found.st_uid != os.geteuid():
        return "belongs to another user"
    return "can be written by others" if found.st_mode & OTHERS_MAY_WRITE else ""
