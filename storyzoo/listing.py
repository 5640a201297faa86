"""``zoo list`` and ``zoo explain``: answered from static tables and source text alone."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from storyzoo.datasets import DATASETS, card
from storyzoo.errors import SettingError, nearest
from storyzoo.inference import METHODS
from storyzoo.models import STORIES, story_entries
from storyzoo.source import Card, read_card


def list_(options: argparse.Namespace) -> int:
    """All stories and methods, or one card; with ``--data`` the data sets."""
    if options.data is not None:
        if options.name:
            raise SettingError(
                f"zoo list takes a story or --data, not both: leave {options.name!r}"
            )
        content = _data(options.data)
    elif options.name:
        content = _named(options.name)
    else:
        content = _overview()
    out = json.dumps(content.as_json, indent=2) if options.json else content.text
    sys.stdout.write(out.rstrip("\n") + "\n")
    return 0


def explain(options: argparse.Namespace) -> int:
    """A word of a verdict, from the glossary."""
    from storyzoo.reports.glossary import explain as explained

    sys.stdout.write(explained(options.word) + "\n")
    return 0


class _Content:
    """The same as text and for JSON."""

    def __init__(self, text: str, as_json: Any) -> None:
        self.text, self.as_json = text, as_json


def _overview() -> _Content:
    stories, methods = story_entries(), METHODS
    text = "\n".join(
        [
            "Stories",
            *columns((name, entry.summary) for name, entry in stories.items()),
            "",
            "Methods",
            *columns((name, entry.summary) for name, entry in methods.items()),
            "",
            "zoo list NAME shows a card, zoo list --data the data sets.",
        ]
    )
    as_json = {
        "stories": [{"name": name, **entry._asdict()} for name, entry in stories.items()],
        "methods": [{"name": name, **entry._asdict()} for name, entry in methods.items()],
    }
    return _Content(text, as_json)


def _named(name: str) -> _Content:
    """The card of a story or method."""
    if name in METHODS:
        method = METHODS[name]
        found = read_card(method.location)
        lines = [found.text, "", "Settings (--with)", *_fields(found)]
        return _Content("\n".join(lines), {"name": name, **method._asdict(), **_json(found)})
    entries = STORIES if name in STORIES else story_entries()
    if name not in entries:
        known = [*entries, *METHODS]
        raise SettingError(f"no story or method {name!r}: {nearest(name, known)}")
    story = entries[name]
    found = read_card(story.location)
    lines = [f"{name}: {story.summary}", "", found.text, "", "Fields (--set)", *_fields(found)]
    if story.data:
        tries = f"zoo compare {name} --data {story.data} --methods {','.join(story.methods)}"
        lines += ["", "Try", f"  {tries}"]
    return _Content("\n".join(lines), {"name": name, **story._asdict(), **_json(found)})


def _data(name: str) -> _Content:
    """The data sets, or the card of one."""
    if name:
        text = card(name)
        return _Content(text, {"name": name, **DATASETS[name]._asdict(), "card": text})
    rows = [
        (key, f"{e.rows:,} x {e.columns}", e.summary + (" (fetched once)" if e.remote else ""))
        for key, e in DATASETS.items()
    ]
    text = "\n".join(["Data", *columns(rows), "", "zoo list --data NAME shows a card."])
    return _Content(text, [{"name": key, **entry._asdict()} for key, entry in DATASETS.items()])


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines in which the cells of a column stand below one another."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _fields(found: Card) -> list[str]:
    if not found.fields:
        return ["  none"]
    return columns((f.name, f.type, f"= {f.default}" if f.default else "") for f in found.fields)


def _json(found: Card) -> dict[str, Any]:
    return {"card": found.text, "fields": [field._asdict() for field in found.fields]}
