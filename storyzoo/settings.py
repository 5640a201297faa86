"""Settings given as text, ``n_components=3``, turned into fields of stories and methods."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, overload

from storyzoo.errors import SettingError, nearest

Settable = TypeVar("Settable")


@overload
def with_settings(thing: type[Settable], settings: Mapping[str, Any]) -> Settable: ...
@overload
def with_settings(thing: Settable, settings: Mapping[str, Any]) -> Settable: ...
def with_settings(thing: Any, settings: Mapping[str, Any]) -> Any:
    """A story or method with some of its fields set; texts are read by the field's type.

    ``thing`` is a dataclass (then its other fields have their defaults) or an instance of one
    (then a copy is given back). SettingError on an unknown field, with the nearest, or on a value
    that isn't of the field's type.

    >>> with_settings(NUTS, {"draws": "500"})
    NUTS(draws=500, ...)
    """
    kind = thing if isinstance(thing, type) else type(thing)
    hints = field_types(kind)
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in hints:
            raise SettingError(f"{shown_name(kind)} has no setting {name!r}: {_known(name, hints)}")
        values[name] = read_value(f"{shown_name(kind)}: {name}", value, hints[name])
    if isinstance(thing, type):
        return thing(**values)
    return dataclasses.replace(thing, **values)


def field_types(kind: type) -> dict[str, Any]:
    """Type of each field that can be set."""
    try:
        hints = get_type_hints(kind)
    except NameError as error:
        raise SettingError(
            f"{kind.__module__}: the type of a field is unknown where it runs ({error}): "
            "import it outside TYPE_CHECKING"
        ) from error
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def shown_name(kind: type) -> str:
    """What the user calls a story or method: ``gmm``, not ``GaussianMixture``."""
    return str(getattr(kind, "name", "") or kind.__name__)


def read_value(where: str, value: Any, hint: Any) -> Any:
    """A value of the type that ``hint`` says, read from text where it is text.

    >>> read_value("gmm: n_components", "3", int)
    3
    """
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _read_union(where, value, get_args(hint))
    if origin is Literal:
        return _read_literal(where, value, get_args(hint))
    if origin is tuple:
        return _read_tuple(where, value, get_args(hint))
    if hint in (bool, int, float, str):
        return _read_scalar(where, value, hint)
    if isinstance(value, str):
        raise SettingError(f"{where} can't be given as text: set it in Python")
    return value


def expand(name: str, text: str, hint: Any) -> list[str]:
    """The single values meant by a range ``1..8`` or a list ``1,2,4``.

    >>> expand("n_components", "1..4", int)
    ['1', '2', '3', '4']
    """
    if get_origin(hint) is tuple:
        return [text]
    values: list[str] = []
    for part in text.split(","):
        low, dots, high = part.partition("..")
        if dots:
            try:
                span = range(int(low), int(high) + 1)
            except ValueError:
                raise SettingError(
                    f"{name}={part}: a range goes from one whole number to another, as in 1..8"
                ) from None
            if not span:
                raise SettingError(f"{name}={part}: the range is empty: write {high}..{low}")
            values.extend(map(str, span))
        else:
            values.append(part.strip())
    return values


def _read_union(where: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """The first choice that takes the value; None is written ``none``."""
    if type(None) in choices and (value is None or str(value).lower() == "none"):
        return None
    rest = [choice for choice in choices if choice is not type(None)]
    for choice in rest:
        try:
            return read_value(where, value, choice)
        except SettingError:
            if choice is rest[-1]:
                raise
    raise SettingError(f"{where}={value!r} should be none")


def _read_literal(where: str, value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if value == choice or str(value) == str(choice):
            return choice
    raise SettingError(f"{where}={value!r}: {nearest(str(value), map(str, choices))}")


def _read_tuple(where: str, value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """``(int, ...)`` or ``(float, float)``, written with commas between."""
    texts = value.split(",") if isinstance(value, str) else list(value)
    parts = [part.strip() if isinstance(part, str) else part for part in texts if part != ""]
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(parts)
    if len(parts) != len(kinds):
        raise SettingError(f"{where} takes {len(kinds)} values, separated by commas: got {value!r}")
    return tuple(read_value(where, part, kind) for part, kind in zip(parts, kinds, strict=True))


def _read_scalar(where: str, value: Any, kind: type) -> Any:
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
    wrong = SettingError(f"{where}={value!r} should be {wanted}")
    if kind is str:
        if not isinstance(value, str):
            raise wrong
        return value
    if kind is bool:
        truth = {"true": True, "yes": True, "false": False, "no": False}.get(str(value).lower())
        if truth is None:
            raise wrong
        return truth
    if isinstance(value, bool):
        raise wrong
    try:
        number = kind(value)
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    if not isinstance(value, str) and number != value:
        raise wrong
    return number


def _known(name: str, hints: Mapping[str, Any]) -> str:
    return nearest(name, hints) if hints else "it has none"
