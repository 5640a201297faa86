"""The corpus of docstrings holds what it says: long ones, each on one line."""

from __future__ import annotations

from pathlib import Path

from benchmarks.docstrings import SHORTEST, docstrings

LONG = "word " * SHORTEST


def test_long_docstrings_are_told_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        f'"""Module.\n\n{LONG}\n"""\n\nclass C:\n    """Too short."""\n\n    def f(self):\n'
        f'        """Method {LONG}"""\n'
    )
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "two.py").write_text(f'"""Elsewhere {LONG}"""\n')
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "zero.py").write_text(f'"""Zero \\0 {LONG}"""\n')
    found = list(docstrings(tmp_path))
    assert [text.split()[0] for text in found] == ["Module.", "Method"]
    assert all("\n" not in text and len(text.split()) > SHORTEST for text in found)
