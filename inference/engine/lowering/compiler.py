"""The C compiler of this machine: which it is, the flags that it takes, sources to one library.

``STORYZOO_CC`` names the compiler to use, before ``CC``; ``STORYZOO_CC=none`` means that there is
none, so that whoever wants machine code has to do without.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CHOICE = "STORYZOO_CC"
COMMON_NAMES = ("cc", "gcc", "clang")

FLAGS = (
    "-march=native",
    "-mprefer-vector-width=512",
    "-fopenmp-simd",
    "-ffast-math",
    "-fno-tree-slp-vectorize",  # gcc 12's loses terms of sums that it makes of several loops
    "-fno-finite-math-only",  # after -ffast-math, which would turn it on: densities do overflow
)
"""Whichever of these the compiler takes."""
LINK_FLAGS = (
    "-Wl,-Bsymbolic",  # a name that the process has too means the library's own
    "-Wl,-z,defs",  # a missing symbol is an error here, not where the library is loaded
    "-lm",
)
VECTOR_LIBRARY = "-lmvec"
NO_VECTOR_LIBRARY = "-DSCALAR_MATH"
"""Tells the sources not to ask for vector forms of the mathematical functions."""
ALWAYS = ("-fPIC", "-w")
WANTED = (*ALWAYS, *FLAGS, *LINK_FLAGS, VECTOR_LIBRARY)

VECTOR_FORMS = ("exp", "log", "log1p", "expm1", "tanh", "erf", "sin", "cos")
"""Functions of one number that the vector library has to offer in vector form."""
TIMEOUT = 120.0
"""Seconds that one library may take."""
FULL = 1_000_000
"""Bytes: with fewer left on the disk that is what is wrong, even if there was no room to say so."""
COMPLAINT = re.compile(r"error|undefined|cannot|can't|signal|failed")
POLL = 0.002
"""Seconds between two looks at the compilers."""


class CompilerError(Exception):
    """Why there is no machine code, in one line."""


class Refused(CompilerError):
    """The compiler ran, and said what it did not like."""


@dataclass(frozen=True)
class Compiler:
    """A command that compiles C."""

    command: tuple[str, ...]
    """Absolute path, then whatever stood after it in ``STORYZOO_CC`` or ``CC``."""
    version: str
    """First line of what it says of itself; empty where it says nothing."""

    @property
    def name(self) -> str:
        """Name of its file, for messages."""
        return Path(self.command[0]).name


@dataclass(frozen=True)
class Flags:
    """What a compiler takes of the flags that are wanted."""

    compile: tuple[str, ...]
    link: tuple[str, ...]


# -- which compiler there is -------------------------------------------------------------------


def find_compiler() -> Compiler | None:
    """``$STORYZOO_CC``, else ``$CC``, else the first of cc, gcc and clang on the path."""
    return _found(*(os.environ.get(name, "") for name in (CHOICE, "CC", "PATH")))


def why_no_compiler() -> str:
    """What to say where :func:`find_compiler` found none."""
    for name in (CHOICE, "CC"):
        if chosen := os.environ.get(name, "").strip():
            if name == CHOICE and chosen == "none":
                return f"{CHOICE}=none turns the C compiler off"
            return f"{name}={chosen} is no C compiler on this machine"
    return f"no C compiler on this machine: install one, or name it in {CHOICE}"


@cache
def _found(choice: str, cc: str, path: str) -> Compiler | None:
    chosen = choice.strip() or cc.strip()
    if os.name != "posix" or choice.strip() == "none":
        return None
    try:
        candidates = [shlex.split(chosen)] if chosen else [[name] for name in COMMON_NAMES]
    except ValueError:  # a quotation mark without its other half
        return None
    for name, *options in candidates:
        if place := shutil.which(name, path=path or None):
            command = (os.path.abspath(place), *options)
            return Compiler(command, _version(command))
    return None


def _version(command: tuple[str, ...]) -> str:
    try:
        said = subprocess.run(
            [*command, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""  # what is wrong with it is said when it has to compile
    return said.partition("\n")[0].strip()


# -- what it takes -----------------------------------------------------------------------------

PLAIN_PROBE = "#include <math.h>\nint probe(double x) { return x > 1.0; }\n"
VECTOR_PROBE = "".join(
    f'__attribute__((simd("notinbranch"))) double {name}(double);\n'
    f"void probe_{name}(double *x) {{ for (int i = 0; i < 64; ++i) x[i] = {name}(x[i]); }}\n"
    for name in VECTOR_FORMS
)


@cache
def accepted_flags(compiler: Compiler, timeout: float = TIMEOUT) -> Flags:
    """The flags that the compiler takes, found out once per process.

    Raises CompilerError where it can't compile the plainest of sources.
    """

    def attempt(compiling: Sequence[str], linking: Sequence[str], source: str) -> None:
        with scratch_folder() as folder:
            flags = Flags((*ALWAYS, "-O3", *compiling), tuple(linking))
            _build(compiler, flags, [source], folder, time.monotonic() + timeout)

    def takes(compiling: Sequence[str], linking: Sequence[str], source: str = PLAIN_PROBE) -> bool:
        try:
            attempt(compiling, linking, source)
        except Refused:
            return False
        return True

    if takes(FLAGS, (*LINK_FLAGS, VECTOR_LIBRARY), VECTOR_PROBE):
        return Flags((*ALWAYS, *FLAGS), (*LINK_FLAGS, VECTOR_LIBRARY))
    attempt((), (), PLAIN_PROBE)
    compiling = tuple(flag for flag in FLAGS if takes((flag,), ()))
    linking = tuple(flag for flag in LINK_FLAGS if takes((), (flag,)))
    if takes(compiling, (*linking, VECTOR_LIBRARY), VECTOR_PROBE):
        return Flags((*ALWAYS, *compiling), (*linking, VECTOR_LIBRARY))
    return Flags((*ALWAYS, *compiling, NO_VECTOR_LIBRARY), linking)


# -- from sources to a library -----------------------------------------------------------------


def compile_sources(
    compiler: Compiler,
    sources: Sequence[str],
    folder: Path,
    *,
    optimise: str = "-O3",
    timeout: float = TIMEOUT,
) -> Path:
    """One shared library in ``folder`` from several translation units, compiled side by side.

    Raises CompilerError: the compiler's first complaint, a signal that ended it, ``timeout``
    seconds passed, no room in the folder. No compiler is left running, whatever happens.
    """
    deadline = time.monotonic() + timeout
    accepted = accepted_flags(compiler, timeout)
    flags = Flags((optimise, *accepted.compile), accepted.link)
    return _build(compiler, flags, sources, folder, deadline)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder that is gone afterwards. Raises CompilerError where none can be made."""
    try:
        scratch = tempfile.TemporaryDirectory(prefix="storyzoo-", ignore_cleanup_errors=True)
    except OSError as error:
        raise CompilerError(f"no temporary folder to compile in: {error.strerror}") from error
    with scratch as name:
        yield Path(name)


def _build(
    compiler: Compiler, flags: Flags, sources: Sequence[str], folder: Path, deadline: float
) -> Path:
    objects, commands = [], []
    for number, source in enumerate(sources):
        path, compiled = folder / f"unit{number}.c", folder / f"unit{number}.o"
        try:
            path.write_text(source, encoding="utf-8")
        except OSError as error:
            raise CompilerError(f"no room to compile in {folder}: {error.strerror}") from error
        commands.append([*compiler.command, *flags.compile, "-c", path.name, "-o", compiled.name])
        objects.append(compiled.name)
    _run(compiler, commands, folder, deadline)
    # Without the flags of compiling: -ffast-math here would have the library, once loaded, flush
    # small numbers to zero in the whole process.
    link = [*compiler.command, "-shared", "-o", "library.so", *objects, *flags.link]
    _run(compiler, [link], folder, deadline)
    return folder / "library.so"


def _run(
    compiler: Compiler, commands: Sequence[Sequence[str]], folder: Path, deadline: float
) -> None:
    """Run commands in the folder, as many at a time as there are processors."""
    waiting = list(enumerate(commands))
    running: dict[int, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < _processors():
                number, command = waiting.pop(0)
                running[number] = _start(command, folder, folder / f"said{number}")
            for number in [n for n, process in running.items() if process.poll() is not None]:
                code = running.pop(number).returncode
                if code:
                    raise _failure(compiler, code, folder, folder / f"said{number}")
            if time.monotonic() > deadline:
                raise CompilerError(f"{compiler.name} took too long and was stopped")
            time.sleep(POLL)
    finally:
        for process in running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the driver and the passes that it started
            process.wait()


def _start(command: Sequence[str], folder: Path, said: Path) -> subprocess.Popen[bytes]:
    """A session of its own, so that it can be stopped as one and sees no Ctrl-C of the terminal."""
    try:
        with open(said, "wb") as stream:
            return subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "LC_ALL": "C", "TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise CompilerError(f"{command[0]} can't be run: {error.strerror}") from error


def _failure(compiler: Compiler, code: int, folder: Path, said: Path) -> CompilerError:
    lines = said.read_text(encoding="utf-8", errors="replace").splitlines()
    line = _first_complaint([line.replace(f"{folder}/", "") for line in lines])
    line = line or f"exit status {code} without a word"
    if code == -signal.SIGKILL or "Killed signal" in line:  # the latter of a pass, by its driver
        return CompilerError(f"{compiler.name} was killed (signal 9): out of memory?")
    if code < 0:
        return CompilerError(f"{compiler.name} was ended by signal {-code}")
    if "No space left" in line or shutil.disk_usage(folder).free < FULL:
        return CompilerError(
            f"{compiler.name}: the disk that holds {folder.parent} is full: {line}"
        )
    return Refused(f"{compiler.name}: {line}")


def _first_complaint(lines: Sequence[str]) -> str:
    """The first line that is about what is wrong, else the first with a word in it."""
    spoken = [line.strip() for line in lines if line.strip()]
    telling = [line for line in spoken if COMPLAINT.search(line)]
    return (telling or spoken or [""])[0]


def _processors() -> int:
    """Those that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
