"""A run on text keeps how it was read, and reads new text in the same way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import storyzoo as sz
from storyzoo.cli import main
from storyzoo.datasets import load
from storyzoo.models.lda import LatentDirichletAllocation

pytestmark = pytest.mark.usefixtures("workdir")

OLD = [
    "Ape ape bee the cat",
    "bee cat cat dog",
    "ape dog the bee",
    "cat dog dog the",
    "ape bee",
] * 4
"""Five documents, four times each."""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a text and of a fit of topics to it."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "old.txt").write_text("\n".join(OLD))
    fit = sz.fit(
        LatentDirichletAllocation(n_topics=2),
        sz.load(f"{folder}/old.txt:stop_words=english,min_df=2"),
        sz.EM(collapsed=True, max_steps=20),
        out=folder / "run",
        progress=False,
    )
    assert fit.folder is not None
    return folder


@pytest.fixture
def run(fitted: Path, workdir: Path) -> Path:
    """The same in the current folder."""
    shutil.copytree(fitted, workdir, dirs_exist_ok=True)
    return Path("run")


def test_the_folder_holds_the_reading(run: Path) -> None:
    record = json.loads((run / "fit.json").read_text())["reading"]
    assert record == {
        "tokens": "words",
        "lowercase": True,
        "stop_words": "english",
        "min_df": 2,
        "max_df": 1.0,
        "max_words": 0,
        "n_words": 4,
        "vocabulary": ["ape", "bee", "cat", "dog"],
        "usual_unknown": 0.0,
    }
    reading = sz.Fit.load(run).reading
    assert reading == load("old.txt:stop_words=english,min_df=2").reading


def test_new_text_is_read_as_the_old_was(run: Path) -> None:
    Path("new.txt").write_text("EMU the Ape\ncat dog cat\n")
    found = load("new.txt", sz.Fit.load(run).reading)
    assert np.asarray(found.arrays["word"]).tolist() == [0, 2, 3]
    assert np.asarray(found.arrays["count"]).tolist() == [1, 2, 1]
    assert found.arrays["n_words"] == 4
    assert found.notes == ("new.txt: 1 of 5 words are not in the vocabulary, and are left out",)


def test_text_read_in_another_way_is_refused(run: Path) -> None:
    Path("new.txt").write_text("emu ape\n")
    with pytest.raises(sz.DataError, match=r"new\.txt: was not read by the vocabulary of the fit"):
        sz.Fit.load(run).log_density(load("new.txt"))


@pytest.mark.parametrize("command", ["score", "latent"])
def test_commands_read_by_the_run(
    command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("new.txt").write_text("emu fox\nape\n")
    assert main([command, str(run), "--data", "new.txt"]) == 2
    assert "new.txt, line 1: no word of the document is among the 4" in capsys.readouterr().err
    assert main([command, str(run), "--data", "new.txt:min_df=1"]) == 2
    assert "text is read as the run's was: leave min_df= out" in capsys.readouterr().err


def test_a_damaged_reading_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = json.loads((run / "fit.json").read_text())
    description["reading"]["vocabulary"] = ["ape", "ape", "bee", "cat"]
    (run / "fit.json").write_text(json.dumps(description))
    Path("new.txt").write_text("ape\n")
    assert main(["score", str(run), "--data", "new.txt"]) == 2
    assert capsys.readouterr().err == "zoo: the run's vocabulary is damaged: fit again\n"


def test_the_cards_of_corpora_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--data", "python-docs"]) == 0
    assert "sections of Python's language reference" in capsys.readouterr().out


# -- gaps, and documents off topic -------------------------------------------------------------


def test_impute_names_words_for_every_gap(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("new.txt").write_text("ape [?] [?] bee\ncat dog\ncat [?]\n")
    assert main(["impute", str(run), "--data", "new.txt", "--words", "2", "--out", "w.csv"]) == 0
    frame = pd.read_csv("w.csv")
    assert list(frame.columns) == ["document", "gap", "word", "probability"]
    assert list(zip(frame["document"], frame["gap"], strict=True)) == [
        (1, 1), (1, 1), (1, 2), (1, 2), (3, 1), (3, 1)
    ]  # fmt: skip
    assert set(frame["word"]) <= {"ape", "bee", "cat", "dog"}
    said = capsys.readouterr().err
    assert "1 of 3 documents have no gap ([?]), and are left out" in said


def test_impute_names_one_more_word_of_counts(run: Path) -> None:
    assert main(["impute", str(run), "--words", "4", "--out", "w.csv"]) == 0
    frame = pd.read_csv("w.csv")
    assert list(frame.columns) == ["document", "word", "probability"]
    np.testing.assert_allclose(frame.groupby("document")["probability"].sum(), 1)
    assert len(frame) == len(OLD) * 4


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("ape bee\n", [], r"new.txt: no document has a gap: write [?] where a word is missing"),
        ("ape [?]\n", ["--words", "0"], "--words 0: at least 1"),
        ("ape [?]\n", ["--draws", "0"], "--draws 0: at least 1"),
        ("[?] [?]\n", [], "new.txt, line 1: no word of the document is among the 4"),
    ],
)
def test_gaps_that_can_not_be_filled_are_refused(
    run: Path, text: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("new.txt").write_text(text)
    assert main(["impute", str(run), "--data", "new.txt", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_score_tells_known_and_unknown_words(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("new.txt").write_text("ape bee emu the\nape bee cat\nape gnu gnu gnu gnu gnu gnu gnu\n")
    assert main(["score", str(run), "--data", "new.txt", "--out", "s.csv"]) == 0
    frame = pd.read_csv("s.csv")
    assert frame["words_known"].tolist() == [2, 3, 1]
    assert frame["words_unknown"].tolist() == [1, 0, 7]
    np.testing.assert_allclose(frame["share_unknown"], [1 / 3, 0, 7 / 8])
    assert frame["many_unknown"].tolist() == [False, False, True]
    assert "documents off topic have few nats per word" in capsys.readouterr().err


def test_a_damaged_usual_share_is_refused(run: Path) -> None:
    path = run / "fit.json"
    content = json.loads(path.read_text())
    content["reading"]["usual_unknown"] = 2
    path.write_text(json.dumps(content))
    with pytest.raises(sz.DataError, match="the run's vocabulary is damaged"):
        _ = sz.Fit.load(run).reading
