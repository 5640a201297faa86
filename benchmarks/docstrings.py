"""A corpus of real prose that every machine has: docstrings of Python and of what it has installed.

One docstring per line, of modules, classes and functions of at least 50 words, none twice, in the
order of their files; where there are more than were asked for, evenly spread over all. Which they
are depends on the versions installed, so that figures of two machines are not those of one corpus.

    python -m benchmarks.docstrings docstrings.txt --most 10000
    python -m benchmarks.topics --corpus docstrings.txt:stop_words=english,min_df=10,max_df=0.2
"""

from __future__ import annotations

import argparse
import ast
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

SHORTEST = 50
"""Words of a docstring that is long enough to be about something."""


def main() -> int:
    """Write the file, and say what it holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--most", type=int, default=10_000, help="documents at most")
    options = parser.parse_args()
    folders = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    found = list(dict.fromkeys(text for folder in folders for text in docstrings(folder)))
    step = max(1.0, len(found) / options.most)
    chosen = [found[int(step * i)] for i in range(int(len(found) / step))]
    options.file.write_text("".join(f"{text}\n" for text in chosen), encoding="utf-8")
    print(f"{options.file}: {len(chosen):,} of {len(found):,} docstrings")
    return 0


def docstrings(folder: Path) -> Iterator[str]:
    """The long docstrings of all Python files below a folder, each on one line."""
    for path in sorted(folder.rglob("*.py")):
        if path.parts[len(folder.parts)] in ("site-packages", "dist-packages"):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            continue  # files that packages test their own parsers with
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                words = (ast.get_docstring(node, clean=False) or "").split()
                text = " ".join(words)
                if len(words) >= SHORTEST and text.isprintable():
                    yield text


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of escapes in other people's files
    sys.exit(main())
