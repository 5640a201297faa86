"""Every example in the README runs as it stands."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storyzoo.cli import main

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    """Fenced blocks of one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.S)


def test_the_two_commands_come_first() -> None:
    first = blocks("sh")[0]
    assert re.findall(r"^make \S+", first, re.M) == ["make demo", "make test"]


def test_the_story_and_its_fits(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    scope: dict[str, Any] = vars(module)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks("python"):
            exec(compile(block, "README.md", "exec"), scope)
    assert printed.getvalue().splitlines()[0] == "point estimate"
    rates = np.sort(scope["posterior"].tree["posterior"]["rate"].mean(("chain", "draw")).values)
    assert rates == pytest.approx([2.7, 20.9], abs=2)
    assert (workdir / "runs/counts/report.html").exists()


def commands() -> list[str]:
    """Lines of the shell block that call `zoo`, without their comments."""
    lines = [line.partition("#")[0].strip() for line in blocks("sh")[1].splitlines()]
    return [line for line in lines if line.startswith("zoo ")]


@pytest.mark.usefixtures("workdir")
def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """In order, since later lines read what earlier ones wrote; NUTS alone is left to the demo."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 2)) + 5 * rng.integers(2, size=(60, 1))
    lines = [f"{a:.3f},{b:.3f}" for a, b in rows]
    Path("flowers.csv").write_text("\n".join(["width,height", *lines]) + "\n")
    Path("new.csv").write_text("width,height\n0.1,0.2\n40,-40\n")
    Path("holes.csv").write_text("width,height\n0.1,\n,5.2\n")
    Path("book.txt").write_text("the cat sat on the mat\n" * 10)
    Path("new.txt").write_text("that hat\n")
    told = commands()
    assert len(told) >= 10
    for line in told:
        if "--method nuts" in line:
            continue
        assert main(shlex.split(line)[1:]) == 0, f"{line}: {capsys.readouterr().err}"
    out = capsys.readouterr().out
    assert "R-hat" in out and "log_density_nats" in out
