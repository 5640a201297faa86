"""The compiler: which one is found, which flags it takes, what is said when it fails."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storyzoo.inference.engine.lowering.compiler import (
    Compiler,
    CompilerError,
    accepted_flags,
    compile_sources,
    find_compiler,
    why_no_compiler,
)

DOUBLE = "double twice(double x) { return 2 * x; }"


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """The compiler of this machine, whatever the environment says."""
    for name in ("STORYZOO_CC", "CC"):
        monkeypatch.delenv(name, raising=False)
    found = find_compiler()
    assert found is not None, "these tests need a C compiler"
    return found


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Compiler]:
    """A compiler that does as a shell script says."""

    def write(text: str) -> Compiler:
        path = tmp_path / "fake-cc"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o700)
        return Compiler((str(path),), text)

    return write


def compiled(compiler: Compiler, folder: Path, *sources: str, timeout: float = 120) -> ctypes.CDLL:
    return ctypes.CDLL(str(compile_sources(compiler, sources, folder, timeout=timeout)))


def value(library: ctypes.CDLL, name: str, x: float) -> float:
    function = getattr(library, name)
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
    return float(function(x))


# -- which compiler there is -------------------------------------------------------------------


def test_the_compiler_of_the_machine_says_its_version(real: Compiler) -> None:
    assert Path(real.command[0]).is_absolute()
    assert any(digit in real.version for digit in "0123456789")


def test_our_variable_goes_before_cc(
    real: Compiler, script: Callable[[str], Compiler], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = script("echo 'the fake 1.0'; echo more")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert find_compiler() is None
    assert why_no_compiler() == "CC=no-such-compiler is no C compiler on this machine"
    monkeypatch.setenv("STORYZOO_CC", f"{fake.command[0]} -m64 '-DA=b c'")
    command = (*fake.command, "-m64", "-DA=b c")
    assert find_compiler() == Compiler(command, "the fake 1.0")


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ("none", "STORYZOO_CC=none turns the C compiler off"),
        ("'half", "STORYZOO_CC='half is no C compiler on this machine"),
        ("/etc", "STORYZOO_CC=/etc is no C compiler on this machine"),
    ],
)
def test_no_compiler_by_choice(
    real: Compiler, chosen: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYZOO_CC", chosen)
    assert find_compiler() is None
    assert why_no_compiler() == reason


def test_no_compiler_on_the_path(
    real: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler() is None
    assert why_no_compiler().startswith("no C compiler on this machine: install one")


# -- what it makes -----------------------------------------------------------------------------


def test_several_units_are_one_library(real: Compiler, tmp_path: Path) -> None:
    units = [f"double f{n}(double x) {{ return x + {n}; }}" for n in range(5)]
    calls = " + ".join(f"f{n}(x)" for n in range(5))
    declared = "".join(f"double f{n}(double);" for n in range(5))
    units.append(f"{declared} double total(double x) {{ return {calls}; }}")
    assert value(compiled(real, tmp_path, *units), "total", 1.0) == 15.0


def test_nan_and_infinity_are_told_from_numbers(real: Compiler, tmp_path: Path) -> None:
    library = compiled(
        real,
        tmp_path,
        "#include <math.h>\n"
        "double is_nan(double x) { return x != x; }\n"
        "double is_infinite(double x) { return fabs(x) == INFINITY; }\n",
    )
    assert [value(library, "is_nan", x) for x in (math.nan, 1.0)] == [1, 0]
    assert [value(library, "is_infinite", x) for x in (math.inf, -math.inf, 1.0)] == [1, 1, 0]


def test_loading_leaves_small_numbers_in_the_process_alone(real: Compiler, tmp_path: Path) -> None:
    compiled(real, tmp_path, DOUBLE)
    assert np.float64(5e-324) * np.float64(1.0) > 0
    assert np.float64(2.3e-308) / np.float64(4.0) > 0


def test_vector_forms_agree_with_numpy(real: Compiler, tmp_path: Path) -> None:
    scalar = "-DSCALAR_MATH" in accepted_flags(real).compile
    form = "" if scalar else '__attribute__((simd("notinbranch")))'
    library = compiled(
        real,
        tmp_path,
        f"{form} double exp(double);\n"
        "void all(long n, double *x) { for (long i = 0; i < n; ++i) x[i] = exp(x[i]); }\n",
    )
    x = np.linspace(-30, 30, 1001)
    y = x.copy()
    library.all(ctypes.c_long(len(y)), y.ctypes.data_as(ctypes.POINTER(ctypes.c_double)))
    np.testing.assert_allclose(y, np.exp(x), rtol=2e-15)


def test_a_name_of_the_c_library_means_the_librarys_own(real: Compiler, tmp_path: Path) -> None:
    library = compiled(
        real,
        tmp_path,
        "double cbrt(double x) { return 42 + x; }",
        "double cbrt(double); double f(double x) { return cbrt(x); }",
    )
    assert value(library, "f", 0.0) == 42.0


def test_a_flag_that_is_refused_is_left_out(
    real: Compiler, script: Callable[[str], Compiler], tmp_path: Path
) -> None:
    picky = script(
        'for flag; do case "$flag" in -mprefer*|-lmvec) echo "error: unknown $flag"; exit 1;; '
        f'esac; done; exec {real.command[0]} "$@"'
    )
    flags = accepted_flags(picky)
    assert "-mprefer-vector-width=512" not in flags.compile
    assert {"-ffast-math", "-fno-finite-math-only", "-DSCALAR_MATH"} <= set(flags.compile)
    assert "-lm" in flags.link and "-lmvec" not in flags.link
    assert value(compiled(picky, tmp_path, DOUBLE), "twice", 4.0) == 8.0


# -- what is said when it fails ----------------------------------------------------------------


def complaint(compiler: Compiler, folder: Path, *sources: str, timeout: float = 120) -> str:
    with pytest.raises(CompilerError) as caught:
        compile_sources(compiler, sources, folder, timeout=timeout)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_error_in_the_source_is_named_with_its_line(real: Compiler, tmp_path: Path) -> None:
    said = complaint(real, tmp_path, DOUBLE, "\ndouble f(double x) { return y; }")
    assert said.startswith(f"{real.name}: unit1.c:2:") and "error" in said and "y" in said


def test_a_missing_symbol_is_named(real: Compiler, tmp_path: Path) -> None:
    source = "double missing(double); double f(double x) { return missing(x); }"
    said = complaint(real, tmp_path, source)
    assert "undefined" in said and "missing" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo 'note: hm'; echo 'fatal error: out of licences' >&2; exit 1", "out of licences"),
        ("exit 7", "exit status 7 without a word"),
        ("kill -9 $$", "fake-cc was killed (signal 9): out of memory?"),
        ("echo 'cc: fatal error: Killed signal terminated program cc1'; exit 1", "out of memory?"),
        ("kill -11 $$", "fake-cc was ended by signal 11"),
        ("echo 'unit0.s: fatal error: No space left on device'; exit 1", "is full: unit0.s"),
    ],
)
def test_a_compiler_that_fails(
    script: Callable[[str], Compiler], tmp_path: Path, text: str, said: str
) -> None:
    assert said in complaint(script(text), tmp_path, DOUBLE)


def test_a_compiler_that_hangs_is_stopped(
    script: Callable[[str], Compiler], tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    hanging = script(f"sleep 60 & echo $! >> {pids}; wait")
    assert "took too long" in complaint(hanging, tmp_path, DOUBLE, timeout=0.5)
    assert not alive(pids)


def test_a_compiler_that_is_no_program(tmp_path: Path) -> None:
    said = complaint(Compiler((str(tmp_path / "gone"),), ""), tmp_path, DOUBLE)
    assert said.endswith("gone can't be run: No such file or directory")


def test_no_temporary_folder(
    real: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    fresh = Compiler(real.command, "seen for the first time")
    assert "no temporary folder to compile in" in complaint(fresh, tmp_path, DOUBLE)


def test_no_room_for_the_sources(real: Compiler, tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-B", "-c", COMPILE, "//" + 100_000 * "x", *real.command],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    ).stderr
    assert "CompilerError: no room to compile in" in said.splitlines()[-1]
    assert not list(tmp_path.iterdir())


# -- what is left behind -----------------------------------------------------------------------

COMPILE = """
import sys
from storyzoo.inference.engine.lowering.compiler import Compiler, compile_sources, scratch_folder
source, *command = sys.argv[1:]
with scratch_folder() as folder:
    compile_sources(Compiler(tuple(command), ""), [source], folder)
"""


def alive(pids: Path) -> list[int]:
    """Those processes of the file that run after a moment."""
    listed = [int(pid) for pid in pids.read_text().split()]
    deadline = time.monotonic() + 5
    while (left := [pid for pid in listed if runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text() if Path("/proc/self/stat").exists() else ""
    except (ProcessLookupError, FileNotFoundError):
        return False
    return ") Z " not in state  # ended, but nobody has asked after it


def test_ctrl_c_leaves_no_file_and_no_process(
    script: Callable[[str], Compiler], tmp_path: Path
) -> None:
    pids, scratch = tmp_path / "pids", tmp_path / "scratch"
    scratch.mkdir()
    hanging = script(f"echo > half-done.s; sleep 60 & echo $! >> {pids}; wait")
    process = subprocess.Popen(
        [sys.executable, "-c", COMPILE, DOUBLE, *hanging.command],
        env={**os.environ, "TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while not (pids.exists() and pids.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert "KeyboardInterrupt" in said
    assert not alive(pids)
    assert not list(scratch.iterdir())
