"""The table of methods says what the classes say."""

from __future__ import annotations

import dataclasses

import pytest

from storyzoo.errors import SettingError
from storyzoo.inference import METHODS, load_method
from storyzoo.inference.engine.method import Info, Method
from storyzoo.source import read_card


@pytest.mark.parametrize("name", METHODS)
def test_entry_says_what_the_class_says(name: str) -> None:
    entry, method = METHODS[name], load_method(name)
    assert issubclass(method, Method)
    assert (method.name, method.kind) == (name, entry.kind)
    assert issubclass(method.info_type, Info)
    assert "minutes" in {field.name for field in dataclasses.fields(method)}
    assert len(entry.summary) <= 80
    assert method() == method()


@pytest.mark.parametrize("name", METHODS)
def test_card_is_read_from_the_source(name: str) -> None:
    card, method = read_card(METHODS[name].location), load_method(name)
    own = " ".join((method.__doc__ or "").split())
    assert own and " ".join(card.text.split()).endswith(own)
    shown = {field.name for field in card.fields}
    assert shown == {field.name for field in dataclasses.fields(method)}


def test_unknown_method_says_the_nearest() -> None:
    with pytest.raises(SettingError, match="no method 'nut': did you mean 'nuts'"):
        load_method("nut")
