"""The command line: what it answers at once, and how it refuses."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storyzoo.cli import COMMANDS, main
from storyzoo.datasets import DATASETS
from storyzoo.inference import METHODS
from storyzoo.models import STORIES

Output = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("workdir")


def zoo(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "storyzoo", *argv],
        text=True,
        stderr=subprocess.PIPE,
        check=False,
        **{"stdout": subprocess.PIPE, **options},
    )


def refused(output: Output, argv: list[str]) -> str:
    """The one line with which a command ends."""
    before = sorted(Path().rglob("*"))
    assert main(argv) == 2
    captured = output.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("zoo: ")
    assert captured.err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before, "bad input leaves no folder"
    return captured.err


# -- what is answered at once ------------------------------------------------------------------


def test_list_names_everything(capsys: Output) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in [*STORIES, *METHODS])
    assert main(["list", "--data"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in DATASETS)


def test_list_shows_cards(capsys: Output) -> None:
    assert main(["list", "eight-schools"]) == 0
    text = capsys.readouterr().out
    assert "tau      ~ HalfCauchy(5)" in text and "centred  bool  = False" in text
    assert "zoo compare eight-schools --data eight-schools" in text
    assert main(["list", "em"]) == 0
    assert "Settings (--with)" in capsys.readouterr().out
    assert main(["list", "--data", "wine"]) == 0
    assert "Licence" in capsys.readouterr().out


@pytest.mark.parametrize("what", [[], ["gmm"], ["em"], ["--data"], ["--data", "iris"]])
def test_list_as_json(what: list[str], capsys: Output) -> None:
    assert main(["list", *what, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_explain(capsys: Output) -> None:
    assert main(["explain", "R-hat"]) == 0
    assert "chains agree" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(name: str, capsys: Output) -> None:
    assert main([name, "--help"]) == 0
    assert f"Example: zoo {name}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("argv", [["--help"], ["list"], ["list", "--data"], ["explain", "k_hat"]])
def test_answers_in_a_tenth_of_a_second(argv: list[str]) -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        assert zoo(*argv).returncode == 0
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    assert min(seconds() for _ in range(5)) < 0.15  # the tenth, and some for a busy machine


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("fti gmm", "no command 'fti': did you mean 'fit'?"),
        ("", "COMMAND"),
        ("list gmmm", "no story or method 'gmmm': did you mean 'gmm'?"),
        ("list gmm --data iris", "not both"),
        ("list --data irs", "no data set 'irs': did you mean 'iris'?"),
        ("list --jsn", "zoo list takes no '--jsn': did you mean '--json'?"),
        ("fit gmm", "the following arguments are required: --data, --method (see zoo fit --help)"),
        ("fit gm --data iris --method em", "no story 'gm': did you mean 'gmm'?"),
        ("fit gmm --data irsi --method em", "no data set 'irsi': did you mean 'iris'?"),
        ("fit gmm --data iris --method emm", "no method 'emm': did you mean 'em'?"),
        ("fit gmm --data no.csv --method em", "no file 'no.csv'"),
        ("fit gmm --data iris --method em --seed x", "argument --seed: invalid int value: 'x'"),
        ("fit gmm --data iris --method em --set n_component=2", "did you mean 'n_components'?"),
        ("fit gmm --data iris --method em --set n_components", "write NAME=VALUE"),
        ("fit gmm --data iris --method em --set n_components=x", "should be a whole number"),
        ("fit gmm --data iris --method em --set n_components=0", "n_components"),
        ("fit gmm --data iris --method em --set n_components=500", "500"),
        ("fit gmm --data iris --method em --set covariance=ful", "did you mean 'full'?"),
        ("fit gmm --data iris --method em --set n_components=1..3", "use zoo compare"),
        ("fit gmm --data iris --method em --set n_components=1 --set n_components=2", "twice"),
        ("fit gmm --data iris --method em --with restart=2", "did you mean 'restarts'?"),
        ("fit gmm --data iris --method em --with restarts=0", "restarts"),
        ("fit gmm --data iris --method em --with nuts.draws=2", "--with nuts.draws"),
        ("fit gmm --data iris --method em --target petal_length", "leave --target out"),
        ("fit gmm --data iris --method em --holdout 2", "holdout"),
        ("fit gmm --data iris --method em --device cuda:77", "device"),
        ("fit eight-schools --data iris --method em", "needs 'effect', 'stderr'"),
        ("fit eight-schools --data eight-schools --method em", "em can't fit eight-schools"),
        ("compare gmm --data iris --methods em,emm", "no method 'emm'"),
        ("compare gmm,gmn --data iris --methods em", "no story 'gmn'"),
        ("compare gmm --data iris --methods em,em", "'em' is named twice"),
        ("compare gmm --data iris --methods em --jobs 0", "--jobs 0: at least 1"),
        ("compare gmm --data iris --methods em,nuts --with nut.draws=5", "did you mean 'nuts'?"),
        ("compare gmm --data iris --methods em,nuts --with drows=5", "did you mean 'draws'?"),
        ("report nowhere", "nowhere: holds no run"),
        ("simulate nowhere", "nowhere: holds no run"),
        ("score nowhere", "nowhere: holds no run"),
        ("new 3d", "'3d' can't name a story"),
        ("new class", "'class' can't name a story"),
        ("new gmm", "the zoo has a story 'gmm' already"),
        ("explain rhatt", "did you mean 'rhat'?"),
    ],
)
def test_bad_input_is_one_line(argv: str, said: str, capsys: Output) -> None:
    assert said in refused(capsys, argv.split())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\nx,4\n", "column 'a', row 2: 'x' is no number"),
        ("a,b\n1,2\n3,inf\n", "column 'b', row 2 is infinite"),
        ("a,b\n", "has no rows"),
        ("a,b\n1,2\n3\n", "line 3 has 1 values"),
        ("a,b\nx,y\n", "no column of numbers"),
    ],
)
def test_bad_files_are_one_line(content: str, said: str, capsys: Output) -> None:
    Path("toy.csv").write_text(content)
    assert said in refused(capsys, ["fit", "gmm", "--data", "toy.csv", "--method", "em"])


def test_errors_of_the_system_are_one_line(capsys: Output) -> None:
    with open("/dev/full", "w") as full:
        done = zoo("list", stdout=full)
    assert done.returncode == 2
    assert done.stderr.startswith("zoo: No space left on device: free some space")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = f"{sys.executable} -m storyzoo list --data mnist | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "0"


# -- exit codes --------------------------------------------------------------------------------


def fit_that(does: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a fit, whose work is replaced."""
    monkeypatch.setattr("storyzoo.run.fit", does)
    return ["fit", "gmm", "--data", "iris-petal", "--method", "em"]


def answer(word: str, cut_short: bool = False) -> SimpleNamespace:
    named = SimpleNamespace(name="x")
    return SimpleNamespace(
        story=named,
        method=named,
        seed=0,
        data_name="x",
        folder=None,
        notes=(),
        summary={"metrics": {}},
        info=SimpleNamespace(cut_short=cut_short),
        verdict=SimpleNamespace(
            verdict=word,
            headline="so it is",
            do_next=("more draws",),
            notes=(),
            likelihood_known=True,
        ),
    )


@pytest.mark.parametrize(
    ("word", "strict", "code"),
    [
        ("trust", True, 0),
        ("approximate", True, 0),
        ("point estimate", True, 0),
        ("do not trust", True, 3),
        ("too short", True, 3),
        ("do not trust", False, 0),
    ],
)
def test_strict_exit_codes(
    word: str, strict: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    argv = fit_that(lambda *_, **__: answer(word), monkeypatch)
    assert main([*argv, "--strict"] if strict else argv) == code
    text = capsys.readouterr().out
    assert word.upper() in text and "next: more draws" in text


def test_interruption_has_its_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    assert main(fit_that(interrupt, monkeypatch)) == 130
    assert capsys.readouterr().err == "zoo: interrupted before anything was drawn\n"
    assert main(fit_that(lambda *_, **__: answer("trust", True), monkeypatch)) == 130


def test_default_folder_names_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []

    def remember(*_: Any, out: str, **__: Any) -> SimpleNamespace:
        folders.append(out)
        return answer("trust")

    argv = fit_that(remember, monkeypatch)
    Path("some").mkdir()
    Path("some/toy file.csv").write_text("a\n1\n2\n")
    main(argv)
    main(["fit", "gmm", "--data", "some/toy file.csv", "--method", "em", "--seed", "3"])
    main([*argv, "--out", "here"])
    assert folders == [
        "runs/gmm-iris-petal-em-0",
        "runs/gmm-toy-file.csv-em-3",
        "here",
    ]


# -- the commands together ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of EM on two columns of iris."""
    folder = tmp_path_factory.mktemp("run") / "em"
    argv = "fit gmm --data iris-petal --method em --set n_components=2 --with restarts=3 --out"
    assert main([*argv.split(), str(folder)]) == 0
    return folder


def lines(output: Output) -> list[list[str]]:
    return [line.split(",") for line in output.readouterr().out.splitlines()]


def test_a_fit_leaves_its_files(run_folder: Path) -> None:
    names = {path.name for path in run_folder.iterdir()}
    assert {"fit.json", "draws.nc", "summary.json", "report.html"} <= names
    assert not [name for name in names if name.startswith(".")]


def test_fit_as_json(capsys: Output) -> None:
    argv = "fit gmm --data iris-petal --method em --with restarts=2 --json"
    assert main(argv.split()) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["story"] == "gmm" and summary["verdict"]
    assert Path("runs/gmm-iris-petal-em-0/report.html").exists()


def test_columns_left_out_are_said_on_stderr(capsys: Output) -> None:
    rows = "\n".join(f"{i % 7},{i % 5}.5,word" for i in range(40))
    Path("toy.csv").write_text(f"a,b,c\n{rows}\n")
    argv = "fit gmm --data toy.csv --method em --set n_components=1 --with restarts=1"
    assert main(argv.split()) == 0
    assert "column 'c' is text and is left out" in capsys.readouterr().err


def test_simulate_score_impute_latent(run_folder: Path, capsys: Output) -> None:
    folder = str(run_folder)
    assert main(["simulate", folder, "-n", "7", "--out", "new.csv"]) == 0
    new = Path("new.csv").read_text().splitlines()
    assert new[0] == "petal_length,petal_width" and len(new) == 8
    assert main(["score", folder, "--data", "new.csv"]) == 0
    scores = lines(capsys)
    assert scores[0] == ["row", "log_density_nats"] and len(scores) == 8
    assert main(["latent", folder, "--data", "new.csv"]) == 0
    assert len(lines(capsys)) == 8
    Path("holes.csv").write_text("petal_length,petal_width\n1.4,\n5.0,1.8\n")
    assert main(["impute", folder, "--data", "holes.csv", "--sd"]) == 0
    filled = lines(capsys)
    assert filled[0] == ["petal_length", "petal_width", "petal_length_sd", "petal_width_sd"]
    assert float(filled[1][0]) == 1.4 and 0.1 < float(filled[1][1]) < 0.4
    assert float(filled[2][3]) == 0.0 and float(filled[1][3]) > 0


def test_a_column_of_the_fit_that_is_empty_is_filled_in(run_folder: Path, capsys: Output) -> None:
    Path("empty.csv").write_text("petal_length,petal_width,remark\n1.4,,\n5.0,,\n")
    assert main(["impute", str(run_folder), "--data", "empty.csv"]) == 0
    out, err = capsys.readouterr()
    rows = [line.split(",") for line in out.splitlines()]
    assert rows[0] == ["petal_length", "petal_width"]
    assert 0.1 < float(rows[1][1]) < 0.4 and 1.0 < float(rows[2][1]) < 2.5
    assert err.splitlines() == ["zoo: empty.csv: column 'remark' is empty and is left out"]


def test_other_columns_than_those_fitted_are_refused(run_folder: Path, capsys: Output) -> None:
    Path("new.csv").write_text("a,b\n1,2\n")
    assert "petal_length" in refused(capsys, ["score", str(run_folder), "--data", "new.csv"])


def test_the_same_folder_for_another_run_is_refused(run_folder: Path, capsys: Output) -> None:
    argv = ["fit", "gmm", "--data", "iris-petal", "--method", "em", "--out", str(run_folder)]
    assert "holds another run" in refused(capsys, argv)


@pytest.mark.parametrize("out", ["/dev/null/run", "/proc/run"])
def test_a_folder_that_cannot_be_written(out: str, capsys: Output) -> None:
    argv = "fit gmm --data iris-petal --method em --with restarts=1 --out"
    assert out in refused(capsys, [*argv.split(), out])


def test_a_full_disk_is_one_line() -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    argv = "fit gmm --data iris-petal --method em --with restarts=1 --out run"
    done = zoo(*argv.split(), preexec_fn=small_files)
    assert done.returncode == 2
    assert done.stderr.startswith("zoo: run") and done.stderr.count("\n") == 1
    assert not Path("run").exists()


def test_compare_writes_a_table_and_a_page(capsys: Output) -> None:
    argv = "compare gmm --data iris-petal --methods em --set n_components=1..2 --with restarts=2"
    assert main([*argv.split(), "--out", "both"]) == 0
    text = capsys.readouterr().out
    assert "both/report.html" in text
    assert Path("both/table.csv").exists() and Path("both/report.html").exists()
    assert main(["report", "both", "--out", "page.html"]) == 0
    assert Path("page.html").read_text().lstrip().lower().startswith("<!doctype html>")


def test_report_of_one_run(run_folder: Path) -> None:
    assert main(["report", str(run_folder), "--out", "page.html"]) == 0
    assert "petal_length" in Path("page.html").read_text()


def test_cache_clears_code_and_leaves_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output
) -> None:
    monkeypatch.setenv("STORYZOO_CACHE", str(tmp_path / "a cache"))
    code, data = tmp_path / "a cache/compiled", tmp_path / "a cache/datasets"
    assert main(["cache"]) == 0
    assert f"compiled code: 0 files, 0 bytes in {code}\n" in capsys.readouterr().out
    for folder, name in [(code, "0" * 64 + ".so"), (code, "not-ours"), (data, "x")]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(2_000))
    assert main(["cache"]) == 0
    said = capsys.readouterr().out
    assert f"compiled code: 1 file, 2,000 bytes in {code}\n" in said
    assert f"data sets: 1 file, 2,000 bytes in {data}\n" in said
    assert main(["cache", "--clear"]) == 0
    said = capsys.readouterr().out
    assert f"compiled code: removed 1 file, 2,000 bytes in {code}\n" in said
    assert f"to remove them: rm -r '{data}'\n" in said
    assert sorted(path.name for path in (tmp_path / "a cache").rglob("*") if path.is_file()) == [
        "not-ours",
        "x",
    ]


def test_cache_imports_no_torch() -> None:
    asked = (
        "import sys; from storyzoo.cli import main; main(['cache']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_new_story_passes_its_test_as_it_lies(capsys: Output) -> None:
    assert main(["new", "my-story"]) == 0
    assert "wrote my_story.py and test_my_story.py" in capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert "my_story.py exists" in refused(capsys, ["new", "my_story"])


def test_a_single_new_row_is_scored(run_folder: Path, capsys: Output) -> None:
    Path("one.csv").write_text("petal_length,petal_width\n1.4,0.2\n")
    for command in ("score", "latent"):
        assert main([command, str(run_folder), "--data", "one.csv"]) == 0
        assert len(lines(capsys)) == 2


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_drawn() -> None:
    argv = (
        "fit eight-schools --data eight-schools --method nuts --with draws=60000 --with cores=1 "
        "--out run"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "storyzoo", *argv.split()], start_new_session=True
    ) as running:
        while not list(Path("run").glob("checkpoint*")) and running.poll() is None:
            time.sleep(0.05)  # until the first of four chains has ended
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        assert running.wait(timeout=120) == 130
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["cut_short"]
    assert Path("run/report.html").exists() and Path("run/draws.nc").exists()
