"""Figures of a report: each a few SVG panels that one stylesheet colours for light, dark and print.

A story's own figures live in ``reports/figures/NAME.py``, NAME being the story's name with
underscores: a function ``figures(fit) -> list[Figure]`` that reads the tree by dims.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

if TYPE_CHECKING:
    from storyzoo.reports.page import Fitted

ID_PREFIX = "\ue000"
"""Stands before each id in a panel; the page puts something unique in its place."""


@dataclass(frozen=True)
class Key:
    """One line of a legend: a mark told apart by shape as well as by the colour of its role."""

    mark: str
    role: str
    label: str


@dataclass(frozen=True)
class Panel:
    """One SVG drawing and what it shows, in words."""

    svg: str
    alt: str
    title: str = ""
    keys: tuple[Key, ...] = ()
    items: tuple[str, ...] = ()
    """Lines below the drawing."""

    def markup(self, prefix: str) -> Markup:
        """The drawing, its ids made unique on the page by ``prefix``."""
        return Markup(self.svg.replace(ID_PREFIX, prefix))


@dataclass(frozen=True)
class Figure:
    """What stands together under one caption."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    keys: tuple[Key, ...] = ()
    """Legend of all panels."""
    items: tuple[str, ...] = ()
    """Lines below the caption: what can't be drawn but must be named."""
    layout: Literal["panels", "natural", "natural wide", "small"] = "panels"
    """``natural``: one drawing at its own size, in a box that scrolls where it must; ``wide``: over
    all columns; ``small``: many small panels, as many side by side as there is room for."""


def own_figures(fit: Fitted, like: Fitted | None = None) -> list[Figure]:
    """The figures that the story, or the nearest story it derives from, brings; else none.

    ``like`` is a fit beside which they will stand: where ``figures`` takes it as a second
    argument, it chooses the same axes for both.
    """
    for cls in type(fit.story).__mro__:
        name = getattr(cls, "name", "").replace("-", "_")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            continue
        place = f"{__name__}.{name}"
        if importlib.util.find_spec(place) is None:
            continue
        draw = getattr(importlib.import_module(place), "figures", None)
        if draw is not None:
            several = len(inspect.signature(draw).parameters) > 1
            found: list[Figure] = draw(fit, like) if several else draw(fit)
            return found
    return []
