"""Checkpoints: whole or not there, on a full disk too; damaged ones are told as such."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from storyzoo.errors import RunFolderError
from storyzoo.inference.engine.checkpoint import (
    Checkpoint,
    numpy_state,
    restore_numpy,
    restore_torch,
    torch_state,
    write_atomically,
)

ARRAYS = {"q": np.linspace(0, 1, 7), "step": np.array(3), "name": np.array("nuts")}


def same(found: dict[str, np.ndarray] | None) -> bool:
    assert found is not None
    return set(found) == set(ARRAYS) and all(np.array_equal(found[n], v) for n, v in ARRAYS.items())


# -- writing -----------------------------------------------------------------------------------


def test_a_file_is_written_whole_with_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    write_atomically(tmp_path / "ours", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from storyzoo.errors import RunFolderError
from storyzoo.inference.engine.checkpoint import Checkpoint
checkpoint = Checkpoint(Path(sys.argv[1]))
checkpoint.save({"q": np.arange(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    checkpoint.save({"q": np.arange(100_000)})
except RunFolderError as error:
    print(error)
"""


def test_a_full_disk_is_told_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{path}: can't be written (File too large); choose another --out\n"
    assert list(tmp_path.iterdir()) == [path]
    stored = Checkpoint(path).load()
    assert stored is not None
    np.testing.assert_array_equal(stored["q"], np.arange(10))


@pytest.mark.parametrize("inside", ["file.bin", "deeper/file.bin"])
def test_a_place_that_can_not_be_written_is_told(tmp_path: Path, inside: str) -> None:
    (tmp_path / "occupied").write_text("a file, not a folder")
    with pytest.raises(RunFolderError, match=r"occupied/.*: can't be written \(.+\); choose"):
        write_atomically(tmp_path / "occupied" / inside, b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["occupied"]


def test_a_device_without_room_is_told() -> None:
    with pytest.raises(RunFolderError, match="/proc/nowhere/file.bin: can't be written"):
        write_atomically(Path("/proc/nowhere/file.bin"), b"x")


def test_an_interruption_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.bin"
    write_atomically(path, b"before")

    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_rename_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.bin"
    write_atomically(path, b"before")

    def refused(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.replace", refused)
    with pytest.raises(RunFolderError, match="Operation not permitted"):
        write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


# -- reading -----------------------------------------------------------------------------------


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    assert checkpoint.load() is None
    checkpoint.save(ARRAYS)
    assert same(checkpoint.load())


def test_a_truncated_checkpoint_is_told_at_whatever_length(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    checkpoint.save(ARRAYS)
    whole = checkpoint.path.read_bytes()
    for length in range(0, len(whole), 13):
        checkpoint.path.write_bytes(whole[:length])
        with pytest.raises(RunFolderError, match="damaged checkpoint; delete it to start over"):
            checkpoint.load()


def test_a_damaged_checkpoint_is_told_or_unharmed(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    checkpoint.save(ARRAYS)
    whole = checkpoint.path.read_bytes()
    told = 0
    for place in range(0, len(whole), 2):
        damaged = bytearray(whole)
        damaged[place] ^= 0x01 if place % 4 else 0xFF
        checkpoint.path.write_bytes(damaged)
        try:
            found = checkpoint.load()
        except RunFolderError:
            told += 1
        else:
            assert found is not None
    assert told > len(whole) / 4


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    checkpoint.path.write_bytes(b"no archive at all")
    with pytest.raises(RunFolderError, match="damaged"):
        checkpoint.load()
    with checkpoint.path.open("wb") as stream:
        np.save(stream, np.arange(3))
    with pytest.raises(RunFolderError, match="damaged"):
        checkpoint.load()


def test_code_is_neither_written_nor_read(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    with pytest.raises(ValueError, match="pickle"):
        checkpoint.save({"q": [object()]})
    assert not checkpoint.path.exists()
    with checkpoint.path.open("wb") as stream:
        np.savez(stream, q=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RunFolderError, match="damaged"):
        checkpoint.load()


def test_children_lie_beside_and_go_with_their_parent(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    first, second = checkpoint.child("chain0"), checkpoint.child("chain1")
    assert first.path == tmp_path / "checkpoint-chain0.npz"
    for one in (checkpoint, first, second):
        one.save(ARRAYS)
    (tmp_path / "draws.nc").touch()
    checkpoint.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["draws.nc"]
    checkpoint.remove()


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    rng, generator = np.random.default_rng(5), torch.Generator().manual_seed(5)
    rng.normal(size=3)
    torch.rand(3, generator=generator)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    checkpoint.save({"numpy": numpy_state(rng), "torch": torch_state(generator)})
    stored = checkpoint.load()
    assert stored is not None
    np.testing.assert_array_equal(restore_numpy(stored["numpy"]).normal(size=4), rng.normal(size=4))
    again = torch.rand(4, generator=restore_torch(stored["torch"]))
    assert torch.equal(again, torch.rand(4, generator=generator))
