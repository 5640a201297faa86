"""A loaded library from C sources: out of this process, out of the cache, or from the compiler."""

from __future__ import annotations

import ctypes
import hashlib
import json
import platform
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

from storyzoo.inference.engine.lowering import cache
from storyzoo.inference.engine.lowering.compiler import (
    TIMEOUT,
    WANTED,
    Compiler,
    CompilerError,
    compile_sources,
    find_compiler,
    scratch_folder,
    why_no_compiler,
)

CPU_FIELDS = ("vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU part")
"""What /proc/cpuinfo says of a processor's kind, on x86 and on ARM."""


@dataclass(frozen=True, eq=False)
class Library:
    """Machine code in this process; it stays until the process ends."""

    cdll: ctypes.CDLL
    """Its functions, by the names that they have in C."""
    cached: bool
    """Whether it was compiled earlier."""
    seconds: float
    """What compiling took; 0 where it was cached."""
    note: str = ""
    """Why it could not be kept for later; empty where it was."""


def build(sources: Sequence[str], *, optimise: str = "-O3", timeout: float = TIMEOUT) -> Library:
    """The library of some translation units of C, each a text; compiled if it has to be.

    Asked twice, a process gets the same object; another process finds the file in the cache, as
    long as sources, flags, compiler and processor are the same. Without a place to keep the file
    it is compiled anew, with the reason in ``note``.

    Raises CompilerError, with the reason in one line.
    """
    compiler = find_compiler()
    if compiler is None:
        raise CompilerError(why_no_compiler())
    key = _key(compiler, sources, optimise)
    loaded, lock = _loaded()
    with lock:
        if key not in loaded:
            loaded[key] = _cached(key) or _compiled(compiler, key, sources, optimise, timeout)
        return loaded[key]


@once
def _loaded() -> tuple[dict[bytes, Library], threading.Lock]:
    """What this process has, by key."""
    return {}, threading.Lock()


def _cached(key: bytes) -> Library | None:
    path = cache.find(key)
    if path is None:
        return None
    try:
        return Library(ctypes.CDLL(str(path)), cached=True, seconds=0.0)
    except OSError:  # made where another C library is, as in a home folder of several machines
        return None


def _compiled(
    compiler: Compiler, key: bytes, sources: Sequence[str], optimise: str, timeout: float
) -> Library:
    begun = time.perf_counter()
    with scratch_folder() as folder:
        fresh = compile_sources(compiler, sources, folder, optimise=optimise, timeout=timeout)
        seconds = time.perf_counter() - begun
        try:
            cdll, note = ctypes.CDLL(str(cache.keep(key, fresh.read_bytes()))), ""
        except (cache.Unusable, OSError) as reason:
            cdll, note = _load(fresh), f"compiled code is not kept: {reason}"
        return Library(cdll, cached=False, seconds=seconds, note=note)


def _load(path: Path) -> ctypes.CDLL:
    """A library that may be deleted once it is loaded."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CompilerError(f"the compiled library can't be loaded: {error}") from error


def _key(compiler: Compiler, sources: Sequence[str], optimise: str) -> bytes:
    """SHA-256 of all that the machine code depends on.

    Which of the wanted flags are taken follows from the compiler, so it need not be found out.
    """
    made_by = [compiler.command, compiler.version, optimise, WANTED, _cpu()]
    content = [cache.MAGIC.decode(), made_by, list(sources)]
    return hashlib.sha256(json.dumps(content).encode()).digest()


@once
def _cpu() -> list[str]:
    """What -march=native depends on."""
    found = [platform.system(), platform.machine()]
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return found
    first_processor = text.partition("\n\n")[0].splitlines()
    return found + [line for line in first_processor if line.startswith(CPU_FIELDS)]
