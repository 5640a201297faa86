"""Libraries: compiled once, then found by every process, and never one that isn't trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from storyzoo.inference.engine.lowering import cache
from storyzoo.inference.engine.lowering.compiler import CompilerError
from storyzoo.inference.engine.lowering.library import build

SOURCES = (
    "double square(double x) { return x * x; }",
    "double square(double); double f(double x) { return square(x) + 1; }",
)
ASK = """
import ctypes, json, sys
from storyzoo.inference.engine.lowering.library import build
optimise, *sources = sys.argv[1:]
library = build(sources, optimise=optimise)
function = library.cdll.f
function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
said = {"cached": library.cached, "seconds": library.seconds, "note": library.note}
print(json.dumps({**said, "value": function(3.0)}))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("STORYZOO_CACHE", str(tmp_path / "caches"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    return tmp_path / "caches/compiled"


def start(*sources: str, optimise: str = "-O1") -> subprocess.Popen[str]:
    """Another process that builds the sources and calls ``f(3)``."""
    return subprocess.Popen(
        [sys.executable, "-c", ASK, optimise, *(sources or SOURCES)],
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(process.communicate(timeout=60)[0])
    assert not list(Path(os.environ["TMPDIR"]).iterdir()), "no temporary file is left"
    return said


def test_the_second_process_finds_what_the_first_compiled(folder: Path) -> None:
    first, second = answer(start()), answer(start())
    assert first["value"] == second["value"] == 10.0
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["seconds"] > 0 and second["seconds"] == 0
    assert first["note"] == second["note"] == ""
    assert len(list(folder.iterdir())) == 1


def test_other_sources_or_flags_are_another_library(folder: Path) -> None:
    answer(start())
    assert answer(start(optimise="-O2"))["cached"] is False
    assert answer(start("double f(double x) { return -x; }"))["value"] == -3.0
    assert answer(start("".join(SOURCES)))["cached"] is False, "units are told apart"
    assert len(list(folder.iterdir())) == 4


def test_a_process_gets_the_same_object(tmp_path: Path) -> None:
    sources = [f"double f(double x) {{ return x; }} /* {tmp_path} */"]
    with ThreadPoolExecutor(4) as pool:
        libraries = list(pool.map(lambda _: build(sources), range(4)))
    assert all(library is libraries[0] for library in libraries)


def test_processes_at_once(folder: Path) -> None:
    said = [process.communicate(timeout=60)[0] for process in [start() for _ in range(4)]]
    assert [json.loads(text)["value"] for text in said] == [10.0] * 4
    assert len(list(folder.iterdir())) == 1
    assert answer(start())["cached"] is True


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[:5000],
    "flipped": lambda content: content[:3000] + bytes([content[3000] ^ 255]) + content[3001:],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_compiled_anew_and_replaced(folder: Path, how: str) -> None:
    answer(start())
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[how](whole))
    again = answer(start())
    assert (again["value"], again["cached"], again["note"]) == (10.0, False, "")
    assert answer(start())["cached"] is True


def test_a_whole_file_that_this_machine_cannot_load_is_compiled_anew(folder: Path) -> None:
    answer(start())
    (path,) = folder.iterdir()
    cache.keep(bytes.fromhex(path.stem), b"\x7fELF of another machine" * 100)
    again = answer(start())
    assert (again["value"], again["cached"]) == (10.0, False)


def test_a_file_that_others_can_write_is_not_loaded(folder: Path) -> None:
    answer(start())
    (path,) = folder.iterdir()
    path.chmod(0o620)
    assert answer(start())["cached"] is False


def test_code_that_cannot_be_kept_runs_all_the_same(folder: Path) -> None:
    folder.parent.write_text("a file where the folder should be")
    said = answer(start())
    assert (said["value"], said["cached"]) == (10.0, False)
    assert said["note"].startswith(f"compiled code is not kept: {folder} can't be written (")


def test_a_folder_that_others_can_write_is_left_alone(folder: Path) -> None:
    answer(start())
    folder.chmod(0o777)
    said = answer(start())
    assert (said["value"], said["cached"]) == (10.0, False)
    assert "can be written by others, who could put code there" in said["note"]


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYZOO_CC", "none")
    with pytest.raises(CompilerError, match="^STORYZOO_CC=none turns the C compiler off$"):
        build(SOURCES)


def test_the_compilers_complaint_reaches_the_caller(tmp_path: Path) -> None:
    with pytest.raises(CompilerError, match=r"unit0\.c:1:.*error"):
        build([f"double f(double x) {{ return {tmp_path.name}; }}"])
    assert not list((tmp_path / "scratch").iterdir())
