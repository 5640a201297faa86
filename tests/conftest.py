"""What every test shares: CI sees every skip, no test writes into the checkout or user's cache."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

NO_SKIPS = bool(os.environ.get("STORYZOO_NO_SKIPS"))
"""Set by CI: a test that could not run is then a failure."""


def pytest_configure() -> None:
    """A background job of a shell ignores Ctrl-C, and so would the processes that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _failed_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _failed_if_skipped((yield))


def _failed_if_skipped(report: Report) -> Report:
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where STORYZOO_NO_SKIPS allows none: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Code is compiled once per run, whichever worker needs it first; STORYZOO_CACHE keeps it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # each worker has a folder in that of the run
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORYZOO_CACHE", os.environ.get("STORYZOO_CACHE") or str(folder / "cache"))
        yield


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mirror() -> Path:
    """The folder of remote files; the test is skipped where there is none."""
    folder = os.environ.get("STORYZOO_MIRROR", "")
    if not Path(folder, "faithful/faithful.csv").is_file():
        pytest.skip("needs remote files: set STORYZOO_MIRROR to a folder that holds them")
    return Path(folder)
