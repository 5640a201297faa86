"""Texts become fields by their types; what can't is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest

from storyzoo.errors import SettingError
from storyzoo.settings import expand, read_value, with_settings


@dataclass(frozen=True)
class Toy:
    name: ClassVar[str] = "toy"
    n_components: int = 3
    spread: float = 5.0
    covariance: Literal["full", "tied"] = "full"
    prior: bool = True
    minutes: float | None = None
    sizes: tuple[int, ...] = ()
    word: str = ""


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("3", int, 3),
        ("1e-3", float, 1e-3),
        ("no", bool, False),
        ("True", bool, True),
        ("none", float | None, None),
        ("2", float | None, 2.0),
        ("tied", Literal["full", "tied"], "tied"),
        ("2", Literal[1, 2], 2),
        ("1,2,3", tuple[int, ...], (1, 2, 3)),
        ("1,x", tuple[int, str], (1, "x")),
        ("3", str, "3"),
        (3, float, 3.0),
        ((1, 2), tuple[int, ...], (1, 2)),
    ],
)
def test_text_is_read_by_type(text: Any, hint: Any, value: Any) -> None:
    found = read_value("toy: x", text, hint)
    assert found == value
    assert type(found) is type(value)


def test_class_and_instance() -> None:
    assert with_settings(Toy, {"n_components": "4"}) == Toy(n_components=4)
    assert with_settings(Toy(spread=2.0), {"sizes": "1,2"}) == Toy(spread=2.0, sizes=(1, 2))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_component": "3"}, "toy has no setting 'n_component': did you mean 'n_components'?"),
        ({"name": "x"}, "toy has no setting 'name'"),
        ({"n_components": "three"}, "toy: n_components='three' should be a whole number"),
        ({"n_components": "2.5"}, "whole number"),
        ({"n_components": 2.5}, "whole number"),
        ({"n_components": True}, "whole number"),
        ({"spread": "wide"}, "toy: spread='wide' should be a number"),
        ({"covariance": "ful"}, "toy: covariance='ful': did you mean 'full'?"),
        ({"prior": "maybe"}, "true or false"),
        ({"minutes": "soon"}, "toy: minutes='soon' should be a number"),
        ({"sizes": "1,b"}, "toy: sizes='b' should be a whole number"),
        ({"word": 3}, "should be a text"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        with_settings(Toy, settings)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ranges_and_lists_expand() -> None:
    assert expand("n", "1..4", int) == ["1", "2", "3", "4"]
    assert expand("n", "1,3..4", int) == ["1", "3", "4"]
    assert expand("sizes", "1,2", tuple[int, ...]) == ["1,2"]
    with pytest.raises(SettingError, match="goes from one whole number to another"):
        expand("n", "a..4", int)
    with pytest.raises(SettingError, match="range is empty"):
        expand("n", "4..1", int)
