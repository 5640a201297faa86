"""Text on the page: passages as they are, or each piece on a ground the fuller the less foretold.

The one kind of panel that is no drawing. What came from data is escaped; line feeds stay, and
control characters, and those that turn the direction of writing, are replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from storyzoo.reports.figures import Panel
from storyzoo.reports.figures.svg import plain

STEP = 1.5
"""Bits from one shade to the next."""
SHADES = 5
"""How many there are; the stylesheet says what they look like, the fullest being 48 % of a colour,
on which text is legible by day and by night."""
FEED, END = "⏎", "∎"
"""How the end of a line and of a sequence are shown where they have a shade."""


class Piece(NamedTuple):
    """A token's text, and how surprising it was."""

    text: str
    bits: float


def passages(texts: Sequence[str], alt: str, title: str = "") -> Panel:
    """Texts, one below the other."""
    return _panel([Markup("<p>{}</p>").format(shown(text)) for text in texts], alt, title)


def shaded(texts: Sequence[Sequence[Piece]], alt: str, title: str = "") -> Panel:
    """Texts whose pieces have the shade of their bits."""
    return _panel([Markup("<p>{}</p>").format(_spans(pieces)) for pieces in texts], alt, title)


def _panel(paragraphs: Sequence[Markup], alt: str, title: str) -> Panel:
    body = Markup("").join(paragraphs)
    alt = plain(alt)
    content = Markup('<div class="passage" role="img" aria-label="{}">{}</div>').format(alt, body)
    return Panel(svg=str(content), alt=alt, title=title)


def shown(text: str) -> str:
    """Text with its line feeds, and without what can't be shown.

    >>> shown("a\\x00b\\nc")
    'a�b\\nc'
    """
    return "\n".join(_whole(line) for line in text.replace("\r\n", "\n").split("\n"))


def _whole(line: str) -> str:
    """One line; its spaces stay as many as they are."""
    return " ".join(plain(part) for part in line.replace("\t", "    ").split(" "))


def level_of(bits: float) -> int:
    """Shade of a piece, 0 being none."""
    return min(SHADES, int(bits / STEP))


def _spans(pieces: Sequence[Piece]) -> Markup:
    """Neighbours of one shade share their ground."""
    parts: list[Markup] = []
    held, level = "", 0
    for piece in pieces:
        if level_of(piece.bits) != level:
            parts.append(_span(held, level))
            held, level = "", level_of(piece.bits)
        held += piece.text.replace("\n", f"{FEED}\n")
    parts.append(_span(held, level))
    return Markup("").join(parts)


def _span(text: str, level: int) -> Markup:
    content = escape(shown(text))
    if not text or not level:
        return content
    return Markup('<span class="s{}">{}</span>').format(level, content)
