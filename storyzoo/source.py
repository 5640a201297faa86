"""What a class says about itself, read from its source text: no import, so no second for torch."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from storyzoo.errors import StoryzooError


class Field(NamedTuple):
    """One field of a dataclass as it is written: ``n_components: int = 3``."""

    name: str
    type: str
    default: str


class Card(NamedTuple):
    """What the docstrings of a file and of its class say, and the class's fields."""

    text: str
    fields: tuple[Field, ...]


def read_card(location: str) -> Card:
    """Docstrings and fields of the class at ``package.module:Class``."""
    module, _, name = location.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise StoryzooError(f"{location}: there is no module {module!r}: reinstall its package")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            texts = [ast.get_docstring(tree) or "", ast.get_docstring(node) or ""]
            return Card("\n\n".join(filter(None, texts)), _fields(node, _choices(tree)))
    raise StoryzooError(f"{location}: {spec.origin} has no class {name!r}")


def load_class(location: str) -> Any:
    """The class at ``package.module:Class``, imported."""
    module, _, name = location.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise StoryzooError(f"{location} can't be imported ({error}): fix its package") from error
    if not hasattr(found, name):
        raise StoryzooError(f"{location}: module {module!r} has no class {name!r}")
    return getattr(found, name)


def _choices(tree: ast.Module) -> dict[str, str]:
    """Names that a file gives to sets of choices: ``Shape = Literal["full", "tied"]``."""
    return {
        line.targets[0].id: ast.unparse(line.value)
        for line in tree.body
        if isinstance(line, ast.Assign)
        and isinstance(line.targets[0], ast.Name)
        and ast.unparse(line.value).startswith("Literal[")
    }


def _fields(node: ast.ClassDef, choices: Mapping[str, str]) -> tuple[Field, ...]:
    found = []
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            kind = ast.unparse(line.annotation)
            if not kind.startswith(("ClassVar", "typing.ClassVar")):
                default = ast.unparse(line.value) if line.value else ""
                found.append(Field(line.target.id, choices.get(kind, kind), default))
    return tuple(found)
