"""A run on tokens keeps its codec, and makes tokens of new data in the same way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import storyzoo as sz
from storyzoo.cli import main
from storyzoo.models.lda import LatentDirichletAllocation
from storyzoo.models.ngram import NGram
from storyzoo.models.piano_roll import PianoRoll
from storyzoo.story import Story

pytestmark = pytest.mark.usefixtures("workdir")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a text and of a fit to its characters."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "old.txt").write_text("abba\nbaab\n\nab\n" * 5)
    data = sz.load(f"{folder}/old.txt:codec=characters")
    method = sz.Gibbs(draws=4, warmup=0, chains=2)
    sz.fit(NGram(), data, method, out=folder / "run", progress=False)
    return folder


@pytest.fixture
def run(fitted: Path, workdir: Path) -> Path:
    """The same in the current folder."""
    shutil.copytree(fitted, workdir, dirs_exist_ok=True)
    return Path("run")


def test_the_folder_holds_the_codec(run: Path) -> None:
    record = json.loads((run / "fit.json").read_text())["codec"]
    assert record == {"kind": "characters", "known": ["a", "b"], "by": "line"}
    fit = sz.Fit.load(run)
    assert fit.codec == sz.load("old.txt:codec=characters").codec == fit.way


def test_new_text_is_scored_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("new.txt").write_text("ab\naéb\n")
    assert main(["score", str(run), "--data", "new.txt"]) == 0
    said = capsys.readouterr()
    assert "new.txt: 1 different symbols, used 1 times, have no token and are spelt out" in said.err
    assert len(said.out.splitlines()) == 3
    nats = sz.Fit.load(run).log_density(sz.load("new.txt", sz.Fit.load(run).way)).nats
    assert np.isfinite(nats).all() and nats[1] < nats[0]


@pytest.mark.parametrize(
    ("data", "content", "said"),
    [
        ("new.txt:codec=bytes", "ab\n", "text is read as the run's was: leave codec= out"),
        ("new.txt", "", "new.txt is empty (0 bytes)"),
        ("new.txt", "\n\n", "new.txt holds nothing but empty sequences"),
        ("new.csv", "x\n1\n", "ngram tells sequences of tokens, not rows"),
    ],
)
def test_bad_new_data_are_one_line(
    data: str, content: str, said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(data.partition(":")[0]).write_text(content)
    assert main(["score", str(run), "--data", data]) == 2
    assert said in capsys.readouterr().err


def test_gaps_in_text_are_filled_in(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("new.txt").write_text("ab[?]a\nb[?]é\n")
    assert main(["impute", str(run), "--data", "new.txt", "--draws", "20", "--sd"]) == 0
    said = capsys.readouterr()
    assert "1 different symbols, used 1 times" in said.err  # é, and nothing of the mark
    head, first, second = said.out.splitlines()
    assert head == "text,text_sd"
    assert first[:4] in ("abaa", "abba") and second[:3] in ("baé", "bbé")
    assert 0 <= float(first.rpartition(",")[2]) <= 1


def test_the_mark_of_a_gap_is_text_elsewhere(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("new.txt").write_text("ab[?]a\n")
    assert main(["score", str(run), "--data", "new.txt"]) == 0
    assert "3 different symbols, used 3 times" in capsys.readouterr().err


@pytest.fixture
def images(workdir: Path) -> Path:
    """A fit to images whose rows of pixels are alike, and images without their lower half."""
    rows = np.random.default_rng(0).integers(0, 3, (60, 2))
    table = np.hstack([rows, rows])
    for name, cells in (("old", table), ("half", table[:4])):
        lines = [",".join(map(str, row[: 2 if name == "half" else 4])) for row in cells]
        more = ",," if name == "half" else ""
        Path(f"{name}.csv").write_text("p0,p1,p2,p3\n" + "".join(f"{s}{more}\n" for s in lines))
    data = sz.load("old.csv:codec=raster")
    story = NGram(order=3, concentration=0.01)
    sz.fit(story, data, sz.MAP(restarts=1), out="run", progress=False)
    return Path("run")


def test_the_lower_half_of_images_is_filled_in(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["impute", str(images), "--data", "half.csv", "--out", "whole.csv"]) == 0
    found = np.loadtxt("whole.csv", delimiter=",", skiprows=1)
    wanted = np.loadtxt("old.csv", delimiter=",", skiprows=1)[:4]
    assert (found == wanted).all()
    assert "left out" not in capsys.readouterr().err
    assert main(["score", str(images), "--data", "whole.csv"]) == 0


def test_images_are_drawn_as_pixels(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(images), "-n", "5", "--out", "new.csv"]) == 0
    assert Path("new.csv").read_text().startswith("p0,p1,p2,p3\n")
    assert main(["score", str(images), "--data", "new.csv"]) == 0


def test_a_missing_pixel_is_named_where_none_may_be(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("hole.csv").write_text("p0,p1,p2,p3\n1,0,1,0\n2,,2,0\n")
    assert main(["score", str(images), "--data", "hole.csv"]) == 2
    assert "row 2, column 'p1' is missing: fill it first (zoo impute)" in capsys.readouterr().err


def test_a_sequence_longer_than_any_is_told_of(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("new.txt").write_text("ab\nabababab\n")
    assert main(["score", str(run), "--data", "new.txt"]) == 0
    said = "1 of 2 sequences are longer than any of the fit (row 2 has 9 steps, the longest"
    assert said in capsys.readouterr().err


def test_another_codec_is_refused(run: Path) -> None:
    Path("new.txt").write_text("abc\n")
    with pytest.raises(sz.DataError, match="was not made tokens by the codec of the fit"):
        sz.Fit.load(run).log_density(sz.load("new.txt:codec=characters"))


def test_a_damaged_codec_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = json.loads((run / "fit.json").read_text())
    description["codec"]["known"] = ["a", "a"]
    (run / "fit.json").write_text(json.dumps(description))
    assert main(["score", str(run), "--data", "old.txt"]) == 2
    assert "the run's codec is damaged (a symbol stands twice)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("story", "data", "said"),
    [
        (NGram(), "old.txt", "not counts of words: add codec=characters to the options"),
        (NGram(), "digits", "sequences of tokens, not rows: of images add :codec=raster"),
        (LatentDirichletAllocation(), "old.txt:codec=words", "leave codec= out of the options"),
        (PianoRoll(), "graph-atlas", "it holds sequences of tokens, and piano-roll takes 'key'"),
    ],
)
def test_data_of_another_kind_are_one_line(story: Story, data: str, said: str) -> None:
    Path("old.txt").write_text("to be or not to be\n")
    with pytest.raises(sz.DataError) as caught:
        sz.fit(story, data, sz.MAP(), out="out", progress=False)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("out").exists()


def test_chorales_are_for_piano_rolls(mirror: Path) -> None:
    with pytest.raises(sz.DataError, match="it holds piano rolls, and ngram takes 'token'"):
        sz.fit(NGram(), "jsb-chorales", sz.MAP(), progress=False)
