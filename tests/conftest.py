"""What every test shares: no skip goes unseen in CI, no test writes into the checkout."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

NO_SKIPS = bool(os.environ.get("STORYZOO_NO_SKIPS"))
"""Set by CI: a test that could not run is then a failure."""


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
