"""The cache of compiled code: what is found again, and what is not trusted."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storyzoo.inference.engine.lowering import cache

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
LIBRARY = b"machine code" * 100


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("STORYZOO_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches/compiled"


def flipped(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


def test_what_is_kept_is_found(folder: Path) -> None:
    assert cache.find(KEY) is None
    path = cache.keep(KEY, LIBRARY)
    assert path.parent == folder == cache.compiled_folder()
    assert cache.find(KEY) == path
    assert path.read_bytes().startswith(LIBRARY)
    assert cache.find(OTHER) is None


def test_nobody_else_may_read_or_write(folder: Path) -> None:
    before = os.umask(0)
    try:
        path = cache.keep(KEY, LIBRARY)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "without its last byte": lambda content: content[:-1],
    "with a byte more": lambda content: content + b"\0",
    "without a trailer": lambda content: LIBRARY,
    "flipped in the code": lambda content: flipped(content, 5),
    "flipped in the key": lambda content: flipped(content, -32 - 16 - 1),
    "flipped in the magic": lambda content: flipped(content, -32 - 1),
    "flipped in the digest": lambda content: flipped(content, -1),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_not_found_until_it_is_replaced(how: str) -> None:
    path = cache.keep(KEY, LIBRARY)
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    assert cache.find(KEY) is None
    assert cache.keep(KEY, LIBRARY) == cache.find(KEY)


def test_the_file_of_another_key_is_not_found() -> None:
    path = cache.keep(KEY, LIBRARY)
    path.rename(path.with_name(f"{OTHER.hex()}.so"))
    assert cache.find(OTHER) is None


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_write_is_not_found_until_it_is_replaced(mode: int) -> None:
    path = cache.keep(KEY, LIBRARY)
    path.chmod(mode)
    assert cache.find(KEY) is None
    assert cache.keep(KEY, LIBRARY) == cache.find(KEY)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path = cache.keep(KEY, LIBRARY)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert cache.find(KEY) is None


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_can_write_is_not_used(folder: Path, mode: int) -> None:
    cache.keep(KEY, LIBRARY)
    folder.chmod(mode)
    assert cache.find(KEY) is None
    with pytest.raises(cache.Unusable, match=r"can be written by others.*chmod it to 700"):
        cache.keep(KEY, LIBRARY)


def test_what_belongs_to_another_user_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    cache.keep(KEY, LIBRARY)
    another = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: another)
    assert cache.find(KEY) is None
    with pytest.raises(cache.Unusable, match="belongs to another user"):
        cache.keep(KEY, LIBRARY)


def test_a_folder_that_cannot_be_made(folder: Path) -> None:
    folder.parent.write_text("a file")
    assert cache.find(KEY) is None
    with pytest.raises(cache.Unusable, match=r"compiled can't be written \(.+\)$"):
        cache.keep(KEY, LIBRARY)
    assert cache.usage() == cache.clear() == (0, 0)


def test_a_disk_without_room_leaves_what_was_there(folder: Path) -> None:
    path = cache.keep(KEY, LIBRARY)
    keep = (
        "from storyzoo.inference.engine.lowering import cache\n"
        f"cache.keep({OTHER!r}, bytes(2_000_000))\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", keep],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Unusable" in done.stderr.splitlines()[-1]
    assert list(folder.iterdir()) == [path]


def test_what_was_used_longest_ago_is_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [bytes([n]) * 32 for n in range(4)]
    for n, key in enumerate(keys[:3]):
        os.utime(cache.keep(key, LIBRARY), (n, n))
    cache.find(keys[0])  # used just now, so the second is the oldest
    monkeypatch.setattr(cache, "LIMIT", 3 * (len(LIBRARY) + 80))
    cache.keep(keys[3], LIBRARY)
    assert [cache.find(key) is not None for key in keys] == [True, False, True, True]
    monkeypatch.setattr(cache, "LIMIT", 10)
    path = cache.keep(keys[1], LIBRARY)
    assert list(folder.iterdir()) == [path], "what is in use stays, whatever its size"


def test_clearing_removes_ours_alone(folder: Path) -> None:
    path = cache.keep(KEY, LIBRARY)
    half_written = path.with_name(f".{path.name}.123-0123abcd")
    half_written.write_bytes(b"half")
    (folder / "mine.so").write_bytes(b"not ours")
    expected = cache.Usage(2, path.stat().st_size + 4)
    assert cache.usage() == expected
    assert cache.clear() == expected
    assert [left.name for left in folder.iterdir()] == ["mine.so"]
    (folder / "mine.so").unlink()
    assert cache.clear() == (0, 0)
    assert not folder.exists()
