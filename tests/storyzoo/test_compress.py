"""Files come back bit by bit, in another process too; bad ones are told before any is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import storyzoo as sz
from storyzoo.cli import main
from storyzoo.compress import Compressor, read
from storyzoo.models.lda import LatentDirichletAllocation
from storyzoo.models.ngram import NGram
from storyzoo.models.piano_roll import PianoRoll

pytestmark = pytest.mark.usefixtures("workdir")

TEXT = "the cat sat on the mat, and the hat sat on the cat\n\nthat is that\n" * 8


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of runs on text, by a point and by draws, and of one on images."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "old.txt").write_text(TEXT)
    digits = np.random.default_rng(0).integers(0, 4, (40, 6))
    names = ",".join(f"p{i}" for i in range(6))
    np.savetxt(folder / "old.csv", digits, "%d", ",", header=names, comments="")
    (folder / "old.edges").write_text("a b\nb c\nc a\n\na b\nb c\nb d\n\n" * 3)
    rolls, length = np.random.default_rng(1).random((30, 4)) < 0.3, np.full(5, 6)
    np.savez(folder / "old.npz", key=rolls.astype(float), length=length)
    np.savez(folder / "plain.npz", token=digits.ravel(), length=np.full(8, 30), n_tokens=4)
    for name, data, story, method in (
        ("point", "old.txt:codec=characters,by=line", NGram(), sz.MAP(restarts=1)),
        ("draws", "old.txt:codec=characters,by=line", NGram(), sz.Gibbs(draws=20, warmup=20)),
        ("words", "old.txt:codec=words,by=document", NGram(), sz.MAP(restarts=1)),
        ("images", "old.csv:codec=raster", NGram(), sz.MAP(restarts=1)),
        ("graphs", "old.edges", NGram(), sz.MAP(restarts=1)),
        ("rolls", "old.npz", PianoRoll(n_hidden=3), sz.MAP(epochs=1)),
        ("tokens", "plain.npz", NGram(), sz.MAP(restarts=1)),
        ("counts", "old.txt:empty=drop", LatentDirichletAllocation(n_topics=2), sz.EM(max_steps=3)),
    ):
        sz.fit(story, sz.load(f"{folder}/{data}"), method, out=folder / name, progress=False)
    return folder


@pytest.fixture
def runs(fitted: Path, workdir: Path) -> Path:
    """The same in the current folder."""
    shutil.copytree(fitted, workdir, dirs_exist_ok=True)
    return workdir


CONTENTS = [
    TEXT.encode(),
    b"the hat\n",
    b"the hat",
    b"\n\n\n",
    "zoë → \U0001f600\r\n".encode(),
    b"\xff\x00\xfe no text at all \x80",
    bytes(range(256)),
]


@pytest.mark.parametrize("name", ["point", "draws", "words"])
@pytest.mark.parametrize("content", CONTENTS)
def test_any_file_comes_back_bit_by_bit(name: str, content: bytes, runs: Path) -> None:
    compressor = Compressor(sz.Fit.load(runs / name), progress=False)
    assert compressor.decompress("x.zoo", compressor.compress("x", content)) == content


@pytest.mark.parametrize(("name", "draws"), [("point", 1), ("draws", 20)])
def test_the_payload_is_as_long_as_the_scored_bits(name: str, draws: int, runs: Path) -> None:
    fit = sz.Fit.load(runs / name)
    Path("new.txt").write_text("the mat sat on the cat\nis that the hat?\n" * 30)
    content = Path("new.txt").read_bytes()
    compressed = Compressor(fit, draws, progress=False).compress("new.txt", content)
    header, payload = read("new.txt.zoo", compressed)
    scored = -fit.log_density(sz.load("new.txt", fit.way)).nats.sum() / np.log(2)
    end_of_file = 8  # a line after the last line feed, of no symbols
    assert scored <= 8 * len(payload) <= 1.01 * scored + 8 * 64 + end_of_file
    assert header.payload == len(payload) and len(compressed) - len(payload) < 128
    assert header.draws == draws


def zoo(threads: int, *arguments: str) -> str:
    """A command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "storyzoo", *arguments],
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_file_is_decompressed_by_another_process(runs: Path) -> None:
    Path("new.txt").write_text("the cat is on the mat\nwhat?\n")
    assert zoo(1, "compress", "point", "new.txt").startswith("new.txt.zoo: 28 bytes to ")
    zoo(2, "decompress", "point", "new.txt.zoo", "--out", "back.txt")
    assert Path("back.txt").read_bytes() == Path("new.txt").read_bytes()


def test_images_come_back(runs: Path) -> None:
    content = np.random.default_rng(1).integers(0, 4, (100, 6)).astype(np.uint8).tobytes()
    Path("new.grey").write_bytes(content)
    assert main(["compress", "images", "new.grey"]) == 0
    Path("new.grey").unlink()
    assert main(["decompress", "images", "new.grey.zoo"]) == 0
    assert Path("new.grey").read_bytes() == content


GRAPHS = "0 1\n0 2\n1 2\n\n0\n\n0 1\n0 2\n1 3\n\n0 1\n2\n3\n"
EMPTY = "sequence,0,1,2,3\n"
ROLLS = "sequence,0,1,2,3\n1,0,1,0,0\n1,1,1,0,0\n2,0,0,0,1\n2,0,0,0,0\n2,1,0,0,1\n"
TOKENS = "sequence,token\n1,0\n1,3\n2,1\n2,2\n2,0\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [("graphs", GRAPHS), ("rolls", ROLLS), ("rolls", EMPTY), ("tokens", TOKENS)],
)
def test_what_is_written_as_it_should_comes_back(name: str, content: str, runs: Path) -> None:
    compressor = Compressor(sz.Fit.load(runs / name), progress=False)
    found = compressor.decompress("x.zoo", compressor.compress("x", content.encode()))
    assert found.decode() == content


@pytest.mark.parametrize("name", ["rolls", "tokens"])
def test_what_the_fit_draws_is_a_file_that_it_compresses(name: str, runs: Path) -> None:
    assert main(["simulate", name, "-n", "9", "--out", "drawn.csv"]) == 0
    assert main(["compress", name, "drawn.csv"]) == 0
    assert main(["decompress", name, "drawn.csv.zoo", "--out", "back.csv"]) == 0
    assert Path("back.csv").read_bytes() == Path("drawn.csv").read_bytes()


def test_keys_take_the_bits_that_they_score(runs: Path) -> None:
    fit = sz.Fit.load(runs / "rolls")
    rolls = (np.random.default_rng(2).random((400, 4)) < 0.3).astype(int)
    head = "sequence,0,1,2,3"
    rows = np.column_stack([np.arange(400) // 50 + 1, rolls])
    np.savetxt("new.csv", rows, "%d", ",", header=head, comments="")
    content = Path("new.csv").read_bytes()
    _, payload = read("x", Compressor(fit, progress=False).compress("new.csv", content))
    data = {"key": rolls.astype(float), "length": np.full(8, 50)}
    scored = -fit.log_density(data).nats.sum() / np.log(2)
    assert scored <= 8 * len(payload) <= 1.01 * scored + 8 * 64


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("graphs", "a b\n", "graph 1 has a node called 'a': number its 2 nodes from 0 to 1"),
        ("graphs", "1 0\n", "line 1 is '1 0' and would come back as '0 1'"),
        ("graphs", "0 1\n# so\n", "line 2 is '# so' and would come back as ''"),
        ("graphs", "0 1", "ends otherwise at line 1"),
        ("graphs", "0 1 2\n", "line 1 has 3 values: an edge is two nodes"),
        ("graphs", "0 4\n1\n2\n3\n", "reaches back 4 of them, but the largest of the fit has 4"),
        ("rolls", "a,b\n1,2\n", "line 1 does not name the columns 'sequence,0,1,2,3'"),
        ("rolls", ROLLS + "2,0\n", "line 7 is not 5 whole numbers"),
        ("rolls", ROLLS + "2,0,0.5,0,0\n", "line 7 is not 5 whole numbers"),
        ("rolls", ROLLS + "2,0,00,1,0\n", "line 7 is '2,0,00,1,0' and would come back as '2,0,0,1"),
        ("rolls", ROLLS + "4,0,0,1,0\n", "line 7 is '4,0,0,1,0' and would come back as '3,0,0,1"),
        ("rolls", ROLLS + "2,0,0,2,0\n", "sequence 2, step 4 holds 2: symbols"),
        ("tokens", TOKENS + "2,9\n", "sequence 2, step 4 holds 9: symbols of the fit go from 0"),
    ],
)
def test_a_file_that_would_come_back_otherwise_is_one_line(
    name: str, content: str, said: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("new.file").write_text(content)
    assert said in refused(["compress", name, "new.file"], capsys)


@dataclass(frozen=True)
class Switching(sz.Story):
    """One series of zeros and ones, each as its neighbour before it or not."""

    data_dims = {"state": ("time",)}

    def model(self, state: Any) -> None:
        stay = pyro.sample("stay", dist.Beta(1.0, 1.0))
        kept = (state[1:] == state[:-1]).double()
        pyro.factor("changes", (kept * stay.log() + (1 - kept) * (1 - stay).log()).sum())
        with pyro.plate("time", len(state)):
            pyro.sample("state", dist.Bernoulli(0.5).mask(False), obs=state)

    def step(self, latents: Any, state: Any) -> Any:
        if state is None:
            return dist.Categorical(torch.tensor([0.5, 0.5])), None
        stay = latents["stay"]
        first = torch.where(state[1] == 0, stay, 1 - stay)
        return dist.Categorical(torch.stack([first, 1 - first])), None


def test_a_story_of_ones_own_compresses_one_series() -> None:
    state = (np.random.default_rng(0).random(300) < 0.1).cumsum() % 2
    fit = sz.fit(Switching(), {"state": state}, sz.MAP(restarts=1), progress=False)
    content = ("state\n" + "".join(f"{value}\n" for value in state)).encode()
    compressor = Compressor(fit, progress=False)
    found = compressor.compress("x.csv", content)
    assert compressor.decompress("x.csv.zoo", found) == content
    stay = float(fit.tree["posterior"]["stay"].mean())
    changes = int(np.diff(state).astype(bool).sum())
    bits = 1 - changes * np.log2(1 - stay) - (299 - changes) * np.log2(stay)
    assert bits <= 8 * len(read("x", found)[1]) <= 1.01 * bits + 8 * 64


@pytest.fixture
def compressed(runs: Path) -> Path:
    Path("new.txt").write_text("the cat is on the mat\nwhat?\n")
    assert main(["compress", "point", "new.txt"]) == 0
    Path("new.txt").unlink()
    return Path("new.txt.zoo")


@pytest.mark.parametrize("size", [0, 2, 10, 60, 88, -1])
def test_a_file_cut_short_is_one_line(
    size: int, compressed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compressed.write_bytes(compressed.read_bytes()[:size])
    said = refused(["decompress", "point", str(compressed)], capsys)
    assert "is cut short" in said or "was not written by zoo compress" in said


@pytest.mark.parametrize("place", range(0, 120, 7))
def test_a_damaged_file_is_one_line(
    place: int, compressed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(compressed.read_bytes())
    content[place % len(content)] ^= 1
    compressed.write_bytes(content)
    said = refused(["decompress", "point", str(compressed)], capsys)
    assert any(
        word in said for word in ("damaged", "cut short", "not written by", "is of format 0")
    )


CRAFTED: list[dict[str, Any]] = [
    {"sequences": 2**32 - 1},
    {"sequences": 0},
    {"steps": 2**62},
    {"draws": 0},
    {"lengths": (3, 1)},
    {"lengths": (3, -1, 26)},
    {"original": 2**62, "sequences": 2**32 - 1},
    {"original": 2**62, "steps": 2**62, "sequences": 2**31},
]


@pytest.mark.parametrize("values", CRAFTED, ids=str)
def test_a_crafted_header_is_one_line(
    values: dict[str, Any], compressed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, payload = read("x", compressed.read_bytes())
    compressed.write_bytes(head._replace(**values).packed() + payload)
    said = refused(["decompress", "point", str(compressed)], capsys)
    assert "is damaged" in said or "can't be decompressed here" in said


def test_another_run_is_named(compressed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["decompress", "draws", str(compressed)], capsys)
    assert "was compressed by another fit (characters) than draws: name the folder" in said


def test_a_file_of_another_program_is_refused(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("foreign.zoo").write_bytes(b"\x1f\x8b\x08 not ours")
    said = refused(["decompress", "point", "foreign.zoo"], capsys)
    assert "foreign.zoo was not written by zoo compress" in said


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with; nothing is written."""
    before = sorted(Path().iterdir())
    capsys.readouterr()
    assert main(command) == 2
    assert sorted(Path().iterdir()) == before
    said = capsys.readouterr().err
    assert said.startswith("zoo: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("compress point empty.txt", "empty.txt is empty (0 bytes)"),
        ("compress point nowhere.txt", "no file 'nowhere.txt'"),
        ("compress point there.txt", "there.txt.zoo is there already"),
        ("compress point there.txt --draws 0", "--draws 0: at least 1"),
        ("compress counts there.txt --out a", "does not tell sequences step by step"),
        ("compress images there.txt --out a", "an image of the fit has 6 pixels"),
        ("compress images large.grey", "image 2, pixel 1 is 9: pixels of the fit go from 0 to 3"),
        ("decompress point there.txt", "there.txt does not end in .zoo: name a file with --out"),
    ],
)
def test_bad_input_is_one_line(
    command: str, said: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.txt").touch()
    Path("there.txt").write_text("the cat")
    Path("there.txt.zoo").write_text("in the way")
    Path("large.grey").write_bytes(bytes([0, 1, 2, 3, 0, 1, 9, 1, 2, 3, 0, 1]))
    assert said in refused(command.split(), capsys)


def test_fewer_levels_than_values_can_not_be_given_back(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description = json.loads(Path("images/fit.json").read_text())
    description["codec"]["levels"] = 2
    Path("images/fit.json").write_text(json.dumps(description))
    Path("new.grey").write_bytes(bytes(6))
    said = refused(["compress", "images", "new.grey"], capsys)
    assert "has fewer levels than pixels have values" in said
