"""The benchmark of Boltzmann machines: one code scores all sides, and figures are what is said."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from benchmarks import rbm
from benchmarks.rbm import (
    PEER,
    PROBLEMS,
    Annealing,
    Answer,
    Nats,
    Problem,
    Promise,
    Rows,
    Score,
    Setting,
    as_machine,
    best_peer,
    draw_samples,
    independent_pixels,
    log_partition,
    measure,
    scikit_learn,
    score,
    shortfalls,
    table,
)
from storyzoo.inference.map import MAP
from storyzoo.models.distributions.boltzmann import Boltzmann

STATES = np.array(list(product((0.0, 1.0), repeat=4)))
TWO = Rows(
    STATES[[0, 3, 3, 12, 15, 15]], STATES[[0, 3, 12, 15]],
    np.array([0, 1, 1, 2, 3, 3]), np.array([0, 1, 2, 3]),
)  # fmt: skip
SIX = Rows(np.tile(STATES[:, :3], 2), np.tile(STATES[:, 1:], 2))
TINY = Problem(
    "tiny", "two by two", lambda: TWO, 3, (Setting(MAP(restarts=2), "defaults", promised=True),),
    Promise(above_peer=0.0, features=True), rates=(0.1,), batch=4,
)  # fmt: skip


def machine(size: int, hidden: int, seed: int = 0) -> Boltzmann:
    draw = torch.Generator().manual_seed(seed)
    shapes = ((size, hidden), (size,), (hidden,))
    return Boltzmann(*(torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes))


def joint(of: Boltzmann, visible: np.ndarray) -> np.ndarray:
    """``log sum_h exp(b·v + c·h + v·W h)`` with every hidden state listed."""
    hidden = np.array(list(product((0.0, 1.0), repeat=of.n_hidden)))
    weight, b, c = (x.numpy() for x in (of.weight, of.visible_bias, of.hidden_bias))
    total: np.ndarray = logsumexp(visible @ weight @ hidden.T + hidden @ c, axis=1) + visible @ b
    return total


def test_score_is_that_of_all_states_listed() -> None:
    found = score(TINY, machine(4, 3), TWO)
    log_z = logsumexp(joint(machine(4, 3), STATES))
    for told, pixels in ((found.train, TWO.train), (found.test, TWO.test)):
        wanted = joint(machine(4, 3), pixels).mean() - log_z
        assert told.value == pytest.approx(wanted, abs=1e-10)
        assert told.error == 0 and told.known and told.lower == told.upper == told.value


def test_annealed_score_holds_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    of = machine(6, 5, seed=1)
    exact = log_partition(of, Annealing(2, 1), SIX)
    monkeypatch.setattr(Boltzmann, "tractable", False)
    found = log_partition(of, Annealing(500, 500), SIX)
    assert found.known and 0 < found.error < 0.05
    assert found.value == pytest.approx(exact.value, abs=4 * found.error)
    assert found.lower <= found.value <= found.upper
    monkeypatch.undo()
    assert log_partition(of, Annealing(2, 1), SIX).error == 0


def test_independent_pixels_have_their_frequencies() -> None:
    found = score(TINY, independent_pixels(TWO), TWO)
    share = (TWO.train.sum(0) + 0.5) / (len(TWO.train) + 1)
    wanted = (TWO.test * np.log(share) + (1 - TWO.test) * np.log1p(-share)).sum(1).mean()
    assert found.test.value == pytest.approx(wanted)


def test_digits_have_the_split_and_baseline_that_are_told() -> None:
    rows = PROBLEMS["digits-16"].rows()
    assert rows.train.shape == (1500, 64) and rows.test.shape == (297, 64)
    assert rows.test_classes is not None and len(rows.test_classes) == 297
    found = score(PROBLEMS["digits-16"], independent_pixels(rows), rows)
    assert found.test.value == pytest.approx(-24.50, abs=0.01)


def test_whole_row_gives_the_peer_as_much_time(tmp_path: Path) -> None:
    answers = measure(TINY, TWO, repeats=1)
    assert [answer.side for answer in answers] == ["independent", "map", PEER, PEER]
    assert answers[3].cpu >= answers[1].cpu
    ours = answers[1].score
    assert ours.train.value > answers[0].score.train.value
    told = table(TINY, TWO, answers)
    assert len(told.splitlines()) == 3 + len(answers)
    assert "defaults *" in told and f"{ours.test.value:.3f}" in told and told.count("(best)") == 1
    draw_samples(tmp_path / "new" / "tiny.png", TWO, answers)
    assert (tmp_path / "new" / "tiny.png").read_bytes().startswith(b"\x89PNG")


def test_peer_is_read_as_it_reads_itself() -> None:
    fitted = scikit_learn(TINY, TWO, 0.1, 50, 0)
    found = as_machine(fitted)
    features = found.hidden_probabilities(torch.tensor(STATES)).numpy()
    np.testing.assert_allclose(features, fitted.transform(STATES), atol=1e-12)
    np.testing.assert_allclose(found.free_energy(torch.tensor(STATES)), fitted._free_energy(STATES))


# -- what is promised ------------------------------------------------------------------------------


def answer(side: str, nats: float, right: float = 0.9, *, known: bool = True) -> Answer:
    told = Nats(nats, 0.1, nats - 0.3, nats, known)
    return Answer(side, "so", 1.0, Score(told, told, right), promised=side != PEER)


PROMISED = replace(TINY, promise=Promise(nats=-3.0, above_peer=0.5, features=True))


def test_kept_promises_are_silent() -> None:
    assert shortfalls(PROMISED, [answer("map", -2.9), answer(PEER, -3.4)]) == []


@pytest.mark.parametrize(
    "ours, peer, said",
    [
        (answer("map", -3.1), answer(PEER, -4.0), r"-3\.100 nats, not -3\.0"),
        (answer("map", -2.9), answer(PEER, -3.3), r"\+0\.400 nats to scikit-learn's best"),
        (answer("map", -2.9, 0.8), answer(PEER, -4.0), r"0\.8 correct"),
        (answer("map", -2.9, known=False), answer(PEER, -4.0), "not known"),
        (answer("map", float("nan")), answer(PEER, -4.0), "nan nats"),
    ],
)
def test_broken_promise_is_told(ours: Answer, peer: Answer, said: str) -> None:
    found = shortfalls(PROMISED, [ours, peer])
    assert any(re.search(said, line) for line in found)
    assert all(line.startswith("MISSED at tiny, map, so:") for line in found)


def test_peer_of_unknown_likelihood_counts_by_its_bound() -> None:
    known, doubtful = answer(PEER, -3.1), answer(PEER, -3.0, known=False)
    assert best_peer([doubtful, known]) is known
    assert best_peer([doubtful, answer(PEER, -3.4)]) is doubtful


@pytest.mark.parametrize("words", [["--rows", "iris"], ["--repeats", "0"]])
def test_bad_options_are_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["rbm", *words])
    with pytest.raises(SystemExit):
        rbm.main()
    assert words[0] in capsys.readouterr().err


def test_missed_promise_is_the_exit_status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    never = replace(TINY, promise=Promise(nats=0.1))
    monkeypatch.setitem(PROBLEMS, "tiny", never)
    monkeypatch.setattr("sys.argv", ["rbm", "--rows", "tiny", "--json", str(tmp_path / "a.json")])
    assert rbm.main() == 1
    assert '"cpu_seconds"' in (tmp_path / "a.json").read_text()
