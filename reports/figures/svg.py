"""From matplotlib to an SVG that takes its colours from the page.

A canvas is drawn in the light palette; every colour is then replaced by a CSS variable (or a
``color-mix`` of two), so that one figure serves light, dark and print. Text stays text
(``svg.fonttype = none``) and is never read as mathematics: names come from data.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from storyzoo.reports.figures import ID_PREFIX, Panel

PALETTE: dict[str, tuple[str, str]] = {
    "ink": ("#16191f", "#e8ebf0"),
    "muted": ("#59606c", "#a3abb8"),
    "axis": ("#8b93a1", "#6b7380"),
    "band": ("#e3e7ed", "#2a313b"),
    "paper": ("#fefefe", "#11151b"),
    "good": ("#0f6b2f", "#63d48e"),
    "bad": ("#b0201b", "#ff8177"),
    "warn": ("#855300", "#f2bd55"),
    "c0": ("#0b62c4", "#6cabff"),
    "c1": ("#b8500c", "#ff9f59"),
    "c2": ("#14795a", "#5cd3a4"),
    "c3": ("#8b3cab", "#d49df2"),
    "c4": ("#8a6a00", "#e3c355"),
    "c5": ("#c0286e", "#ff8bb5"),
    "c6": ("#2f7286", "#7bcfe2"),
    "c7": ("#64652a", "#c6c97a"),
}
"""Role -> its colour in light and in dark; ``c0`` to ``c7`` tell chains and components apart."""

SERIES = tuple(role for role in PALETTE if re.fullmatch(r"c\d", role))
SHAPES = ("o", "^", "s", "D", "v", "P", "X", "h")

SWATCHES = {
    "line": '<path d="M1 6H17" class="stroke" stroke-width="2.4"/>',
    "dashed": '<path d="M1 6H17" class="stroke" stroke-width="2.4" stroke-dasharray="4 2.5"/>',
    "interval": '<path d="M0 6H18" class="stroke" stroke-width="1.4"/>'
    '<path d="M4 6H14" class="stroke" stroke-width="5"/>',
    "tick": '<path d="M9 1V11" class="stroke" stroke-width="1.6"/>',
    "x": '<path d="M5 2L13 10M13 2L5 10" class="stroke" stroke-width="1.8"/>',
    "+": '<path d="M9 1V11M4 6H14" class="stroke" stroke-width="1.8"/>',
    "o": '<circle cx="9" cy="6" r="4"/>',
    "^": '<path d="M9 1.5L13.5 10H4.5z"/>',
    "s": '<path d="M5 2H13V10H5z"/>',
    "D": '<path d="M9 .8L14 6L9 11.2L4 6z"/>',
    "v": '<path d="M9 10.5L13.5 2H4.5z"/>',
    "P": '<path d="M7.3 1.5H10.7V4.3H13.5V7.7H10.7V10.5H7.3V7.7H4.5V4.3H7.3z"/>',
    "X": '<path d="M6.6 1L9 3.5L11.4 1L14 3.6L11.5 6L14 8.4L11.4 11L9 8.5L6.6 11L4 8.4L6.5 6L4 '
    '3.6z"/>',
    "h": '<path d="M9 1L13.3 3.5V8.5L9 11L4.7 8.5V3.5z"/>',
    **{
        f"s{level}": f'<path d="M1 1H17V11H1z" fill-opacity="{0.096 * level:.2f}"/>'
        for level in range(1, 6)
    },
    "unknown": '<ellipse cx="9" cy="6" rx="7.5" ry="4.6" class="stroke" stroke-width="1.3"/>',
    "discrete": '<ellipse cx="9" cy="6" rx="7.5" ry="4.6" class="stroke" stroke-width="1.3" '
    'stroke-dasharray="3 2"/>',
    "observed": '<ellipse cx="9" cy="6" rx="7.5" ry="4.6" class="shaded" stroke-width="1.3"/>',
    "computed": '<rect x="2" y="1.5" width="14" height="9" rx="2" class="stroke" '
    'stroke-width="1.3"/>',
    "plate": '<rect x="1" y="1" width="16" height="10" rx="2.5" class="stroke" stroke-width="1"/>',
}
"""The marks of legends, drawn, since not every phone has a glyph for each."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "storyzoo",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 6),
    "axes.unicode_minus": True,
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 9.5,
    "axes.titlepad": 6.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": PALETTE["axis"][0],
    "xtick.color": PALETTE["axis"][0],
    "ytick.color": PALETTE["axis"][0],
    "xtick.labelcolor": PALETTE["muted"][0],
    "ytick.labelcolor": PALETTE["muted"][0],
    "axes.labelcolor": PALETTE["muted"][0],
    "axes.titlecolor": PALETTE["ink"][0],
    "text.color": PALETTE["ink"][0],
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "path.simplify": True,
    "path.simplify_threshold": 0.3,
}

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_NUMBER = re.compile(r"-?\d+\.\d+")
_UNSEEN = {"Cc", "Cs", "Co", "Cn"}
_TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u2028\u2029")


def plain(text: object, limit: int | None = None) -> str:
    """A name from data as it may be shown: one line, no control characters, at most ``limit`` long.

    >>> plain("a\\x00b\\nc"), plain("abcdefghij", 7)
    ('a�b c', 'abcd…ij')
    """
    one_line = " ".join(str(text).split())
    shown = "".join(
        "\ufffd" if unicodedata.category(char) in _UNSEEN or char in _TURNING else char
        for char in one_line
    )
    if limit is None or len(shown) <= limit:
        return shown
    head = (limit - 1) * 2 // 3
    return shown[:head] + "…" + shown[len(shown) - (limit - 1 - head) :]


def series(index: int) -> str:
    """Role of the ``index``-th chain or component; the colours come round again after eight."""
    return SERIES[index % len(SERIES)]


def swatch(mark: str, role: str) -> Markup:
    """A mark of a legend in the colour of its role."""
    return Markup(
        f'<svg class="swatch" viewBox="0 0 18 12" aria-hidden="true" '
        f'style="color:var(--{role})">{SWATCHES[mark]}</svg>'
    )


def colour(role: str) -> str:
    """The colour of a role in the light palette, as matplotlib takes it."""
    return PALETTE[role][0]


class Canvas:
    """One panel in the making: a matplotlib figure of one axes, sizes in points."""

    def __init__(self, width: float = 345, height: float = 225) -> None:
        with matplotlib.rc_context(STYLE):
            self._drawing = Drawing(figsize=(width / 72, height / 72), layout="constrained")
            self.axes: Axes = self._drawing.subplots()
            self.axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
            self.axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
            self.axes.tick_params(length=3)
        self._names = {light: f"var(--{role})" for role, (light, _) in PALETTE.items()}

    def mix(self, role: str, other: str, share: float) -> str:
        """A colour that has ``share`` of one role and the rest of another."""
        ones, others = (_channels(colour(name)) for name in (role, other))
        mixed = [round(share * a + (1 - share) * b) for a, b in zip(ones, others, strict=True)]
        light = "#" + "".join(f"{channel:02x}" for channel in mixed)
        css = f"color-mix(in srgb,var(--{role}) {round(100 * share)}%,var(--{other}))"
        self._names.setdefault(light, css)
        return light

    def title(self, text: str) -> None:
        """A title at the left, one line."""
        self.axes.set_title(plain(text, 44), loc="left", fontsize=9.5, color=colour("ink"))

    def panel(self, alt: str) -> Panel:
        """The finished drawing."""
        for text in self._drawing.findobj(Text):
            text.set_parse_math(False)
        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            buffer = io.BytesIO()
            self._drawing.savefig(buffer, format="svg", metadata={"Date": None})
        alt = plain(alt)
        return Panel(svg=themed(buffer.getvalue(), alt, self._names), alt=alt)


def _channels(light: str) -> tuple[int, int, int]:
    return int(light[1:3], 16), int(light[3:5], 16), int(light[5:7], 16)


def themed(source: bytes, alt: str, names: dict[str, str]) -> str:
    """Rewrite matplotlib's SVG to stand inside a page: small, themed, with ids of its own.

    ``names`` maps a colour as drawn to its CSS expression. What goes: the header, the metadata,
    the global style, ids that nothing refers to, sizes in points, digits beyond a tenth of one.
    """
    root = ElementTree.fromstring(source)
    referred = set(_references(root))
    box = root.get("viewBox", "")
    body = "".join(_element(child, names, referred, digits=1) for child in root)
    width = box.split()[2] if box else "345"
    return (
        f'<svg viewBox="{escape(box)}" role="img" aria-label="{escape(alt)}" '
        f'style="--natural:{float(width):.0f}" stroke-linejoin="round">{body}</svg>'
    )


def _references(root: ElementTree.Element) -> Iterable[str]:
    for node in root.iter():
        for value in node.attrib.values():
            yield from re.findall(r"url\(#([^)]+)\)", value)
        if _HREF in node.attrib:
            yield node.attrib[_HREF].removeprefix("#")


def _element(
    node: ElementTree.Element, names: dict[str, str], referred: set[str], digits: int
) -> str:
    tag = node.tag.removeprefix(_SVG)
    if tag in ("metadata", "style") or not node.tag.startswith(_SVG):
        return ""
    digits = 3 if tag == "defs" else digits
    _hoist(node)
    attributes = "".join(_attributes(node, tag, names, referred, digits))
    inner = str(escape(node.text)) if node.text and tag in ("text", "tspan") else ""
    inner += "".join(_element(child, names, referred, digits) for child in node)
    if not inner and tag in ("g", "defs"):
        return ""
    return f"<{tag}{attributes}>{inner}</{tag}>" if inner else f"<{tag}{attributes}/>"


def _attributes(
    node: ElementTree.Element, tag: str, names: dict[str, str], referred: set[str], digits: int
) -> Iterable[str]:
    for name, value in node.attrib.items():
        if name == "id":
            if value in referred:
                yield f' id="{ID_PREFIX}{escape(value)}"'
        elif name == _HREF:
            yield f' href="#{ID_PREFIX}{escape(value.removeprefix("#"))}"'
        elif name == "style":
            yield f' style="{escape(_style(value, tag, names))}"'
        elif not name.startswith("{") and not value.startswith("rotate(-0 "):
            shown = re.sub(r"url\(#", f"url(#{ID_PREFIX}", value)
            if name in ("d", "x", "y", "transform", "points"):
                shown = " ".join(_NUMBER.sub(lambda hit: _short(hit[0], digits), shown).split())
            yield f' {name}="{escape(shown)}"'


def _style(style: str, tag: str, names: dict[str, str]) -> str:
    """One style attribute: colours by role, the page's own font, no defaults."""
    kept = []
    if "stroke-opacity: 0" in style.split("; "):
        style = re.sub(r"stroke: #[0-9a-f]{6}; stroke-opacity: 0(?=;|$)", "stroke: none", style)
    for part in style.split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if not value or name in ("font-family", "stroke-linejoin"):
            continue
        found = _COLOUR.search(value)
        if found:
            css = names.get(found[0], found[0])
            if css.startswith("color-mix"):  # an older browser keeps the colour before it
                kept.append(f"{name}:{found[0]}")
            value = css
        if name == "font":
            name, value = "font-size", re.sub(r"^.*?([\d.]+px).*$", r"\1", value)
        kept.append(f"{name}:{value}")
    if tag in ("text", "tspan") and not any(part.startswith("fill:") for part in kept):
        kept.append("fill:var(--ink)")
    return ";".join(kept)


def _short(number: str, digits: int) -> str:
    shown = f"{float(number):.{digits}f}".rstrip("0").rstrip(".")
    return "0" if shown == "-0" else shown


def _hoist(node: ElementTree.Element) -> None:
    """Markers that all look alike say so once, on their group."""
    uses = [child for child in node if child.tag == f"{_SVG}use"]
    styles = {child.get("style") for child in uses}
    if len(uses) < 2 or len(uses) < len(node) or len(styles) != 1:
        return
    style = styles.pop()
    if style is not None and "style" not in node.attrib:
        node.set("style", style)
        for child in uses:
            del child.attrib["style"]
