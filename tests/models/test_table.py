"""The table of stories, read without torch, says what the classes say."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint

import pytest

from storyzoo import models
from storyzoo.binding import bind
from storyzoo.datasets import DATASETS, load
from storyzoo.errors import SettingError, StoryzooError
from storyzoo.inference import METHODS, load_method
from storyzoo.inference.engine.target import make_target
from storyzoo.models import STORIES, load_story, story_names
from storyzoo.source import load_class, read_card
from storyzoo.story import Story

NAMES = list(STORIES)


@pytest.mark.parametrize("name", NAMES)
def test_entry_says_what_the_class_says(name: str) -> None:
    entry, story = STORIES[name], load_story(name)
    assert issubclass(story, Story)
    assert story.name == name
    assert entry.data.partition(":")[0] in DATASETS
    assert len(entry.summary) <= 80


@pytest.mark.parametrize("name", NAMES)
def test_card_is_read_from_the_source(name: str) -> None:
    card, story = read_card(STORIES[name].location), load_story(name)
    own = " ".join((story.__doc__ or "").split())
    assert own and " ".join(card.text.split()).endswith(own)
    fields = dataclasses.fields(story)
    assert [field.name for field in card.fields] == [field.name for field in fields]
    for shown, field in zip(card.fields, fields, strict=True):
        if field.default is not dataclasses.MISSING:
            assert shown.default == repr(field.default)


@pytest.mark.parametrize("name", NAMES)
def test_listed_methods_are_those_that_do_not_refuse(
    name: str, request: pytest.FixtureRequest
) -> None:
    entry, story = STORIES[name], load_story(name)()
    if DATASETS[entry.data.partition(":")[0]].remote:
        request.getfixturevalue("mirror")
    bound = bind(story, load(entry.data))
    target = make_target(story, bound.arrays, coords=bound.coords)
    applying = [m for m in METHODS if load_method(m)().refuses(story, target.structure) is None]
    assert list(entry.methods) == applying


def test_unknown_story_says_the_nearest() -> None:
    with pytest.raises(SettingError, match="no story 'gmmm': did you mean 'gmm'"):
        load_story("gmmm")


def test_other_packages_add_stories_but_take_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("lotka", "storyzoo.models.eight_schools:EightSchools", models.ENTRY_POINTS),
        EntryPoint("gmm", "elsewhere.gmm:Mixture", models.ENTRY_POINTS),
        EntryPoint("broken", "nowhere.at.all:Story", models.ENTRY_POINTS),
    ]

    def entry_points(group: str) -> Iterable[EntryPoint]:
        assert group == "storyzoo.stories"
        return points

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    assert {"lotka", "gmm"} <= set(story_names())
    assert load_story("lotka").__name__ == "EightSchools"
    assert models.find_story("gmm") == STORIES["gmm"]
    with pytest.raises(StoryzooError, match="nowhere.at.all:Story can't be imported"):
        load_story("broken")


def test_missing_class_is_named() -> None:
    with pytest.raises(StoryzooError, match="has no class 'Nothing'"):
        load_class("storyzoo.models.eight_schools:Nothing")
    with pytest.raises(StoryzooError, match="has no class 'Nothing'"):
        read_card("storyzoo.models.eight_schools:Nothing")


@pytest.mark.parametrize(
    "code",
    [
        "import storyzoo",
        "import storyzoo.models, storyzoo.inference, storyzoo.datasets",
        "from storyzoo.models import story_names; story_names()",
        "from storyzoo.source import read_card; from storyzoo.models import STORIES; "
        "read_card(STORIES['eight-schools'].location)",
        "import storyzoo.cli",
    ],
)
def test_no_heavy_import(code: str) -> None:
    heavy = "torch", "numpy", "pandas", "pyro", "sklearn", "pyarrow"
    check = f"import sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
