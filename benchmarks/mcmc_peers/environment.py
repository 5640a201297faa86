"""The peers' own environment, and how a side's process is started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "benchmarks" / ".peers"
REQUIREMENTS = Path(__file__).parent / "requirements.txt"

LOOK = 2.0
"""Seconds between two looks at what a process has spent."""
THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA")


class SideError(Exception):
    """Why a side gave no answer, in one line."""


class TimedOutError(SideError):
    """It took longer than it was given."""


@dataclass(frozen=True)
class Side:
    """A program that samples."""

    name: str
    module: str
    options: Sequence[str] = ()
    own_environment: bool = True
    """Whether it runs in the peers' environment; otherwise in the project's."""

    @property
    def python(self) -> str:
        """The interpreter that runs it."""
        return str(PEERS / "bin" / "python") if self.own_environment else sys.executable


SIDES = {
    side.name: side
    for side in (
        Side("storyzoo", "with_storyzoo", own_environment=False),
        Side("numpyro", "with_numpyro"),
        Side("numpyro-vmap", "with_numpyro", ("--vectorised",)),
        Side("pymc", "with_pymc"),
        Side("stan", "with_stan"),
        Side("pyro", "with_pyro", own_environment=False),
    )
}


def make_environment() -> None:
    """Install the peers where they are not, or not at the pinned versions.

    Raises SideError where pip can't install them.
    """
    mark, wanted = PEERS / "installed", REQUIREMENTS.read_text()
    if mark.is_file() and mark.read_text() == wanted:
        return
    print(f"installing the peers in {PEERS.relative_to(ROOT)}: some minutes, 2 GB", flush=True)
    venv.create(PEERS, with_pip=True)
    pip = [str(PEERS / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise SideError(f"pip can't install the peers: {done.stderr.strip().splitlines()[-1]}")
    mark.write_text(wanted)


class Worker:
    """A side's process, in a process group of its own, on as many cores as it may use."""

    def __init__(self, side: Side, settings: dict[str, Any], cores: int, cache: Path, log: Path):
        affinity = sorted(os.sched_getaffinity(0))[:cores]
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [side.python, "-m", f"benchmarks.mcmc_peers.{side.module}", *side.options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_environment(cores, cache),
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, affinity),
        )
        self.alive = True
        self._cores = cores
        self._send(settings)

    def ask(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a job within so many CPU seconds on each core.

        Raises TimedOutError, which ends the process, or SideError.
        """
        done = Event()
        watch = Thread(target=self._watch, args=(done, self._spent() + seconds * self._cores))
        watch.start()
        try:
            self._send(job)
            line = _piped(self._process.stdout).readline()
        except BrokenPipeError:
            line = b""
        finally:
            done.set()
            watch.join()
        if not line and not self.alive:
            raise TimedOutError(f"did not finish in {seconds:.0f} s")
        if not line:
            self.end()
            raise SideError(f"ended by itself; see {self._log.name}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SideError(" ".join(answer["error"].split())[:300])
        return answer

    def _watch(self, done: Event, most: float) -> None:
        """End the process once it has spent more CPU seconds than that."""
        while not done.wait(LOOK):
            if self._spent() > most:
                self.end()
                return

    def _spent(self) -> float:
        """CPU seconds of the process and of all that it has started."""
        listed = ["ps", "-s", str(self._process.pid), "-o", "cputimes=", "S"]
        told = subprocess.run(listed, capture_output=True, text=True).stdout
        return sum(map(float, told.split()))

    def _send(self, message: dict[str, Any]) -> None:
        pipe = _piped(self._process.stdin)
        pipe.write(json.dumps(message).encode() + b"\n")
        pipe.flush()

    def end(self) -> None:
        """End the process and all that it has started."""
        if self.alive:
            self.alive = False
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._log.close()


def _piped(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _environment(cores: int, cache: Path) -> dict[str, str]:
    """One thread per chain for all; compiled things where no earlier run has left any."""
    flags = f"--xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count={cores}"
    return {
        **os.environ,
        **{f"{library}_NUM_THREADS": "1" for library in THREADS},
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "XDG_CACHE_HOME": str(cache),
        "STORYZOO_CACHE": str(cache / "storyzoo"),
        "PYTENSOR_FLAGS": f"base_compiledir={cache / 'pytensor'}",
        "PYTHONPATH": "",
    }
