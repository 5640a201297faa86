"""Adam on windows of sequences: known answers, resuming, interruption, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import storyzoo as sz
from storyzoo.errors import RefusedError, SettingError
from storyzoo.inference.engine import adam
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import make_target
from storyzoo.inference.engine.window_gradient import WindowDensity
from storyzoo.inference.engine.windows import Place, Windows, chosen, cut, last_steps, whole
from storyzoo.inference.map import MAP, AscentInfo, MAPInfo
from storyzoo.models.ngram import NGram
from storyzoo.models.sequence import Sequence
from tests.inference.interrupting import Interrupting
from tests.models.recurrences import WORDS, drawn, tensors

QUIET = Progress(quiet=True)
RNG = np.random.default_rng(5)
LENGTHS = RNG.integers(0, 30, size=25)
TEXTS = {"token": RNG.integers(0, 4, size=LENGTHS.sum()), "length": LENGTHS, "n_tokens": 4}
SMALL: Any = {"n_hidden": 6, "n_embedding": 3, "weight_sd": 0.5}
SHORT: Any = {"epochs": 3, "batch_size": 4, "truncate": 7, "curve": 3}


def unrolled(story: Sequence, data: Any) -> Any:
    target = make_target(story, data)
    with target.context():
        return target, story.unroll(target.data)


def passed(windows: Windows, passes: int = 1) -> list[Place]:
    """Every place of the last of so many passes."""
    generator = torch.Generator().manual_seed(3)
    place = windows.first(generator)
    for _ in range(passes):
        count, places = windows.per_pass(place), []
        for _ in range(count):
            places.append(place)
            place = windows.after(place, generator)
    return places


@pytest.mark.parametrize("truncate", [None, 7, 1])
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_a_pass_sees_every_step_once(rows: int, truncate: int | None) -> None:
    _, found = unrolled(Sequence(**SMALL), TEXTS)
    windows = Windows(found, whole(found), rows, truncate)
    for count in (1, 2):
        seen = [windows.at(place) for place in passed(windows, count)]
        symbols = torch.cat([w.targets[w.inside.bool()] for w in seen])
        assert torch.equal(symbols.sort().values, found.targets.sort().values)


def test_pieces_are_cut_to_equal_shares() -> None:
    _, found = unrolled(Sequence(**SMALL, end="no"), {**WORDS, "length": np.array([7])})
    pieces = cut(whole(found), 3, 2)
    assert pieces.begin.tolist() == [0, 2, 4]
    assert pieces.length.tolist() == [2, 2, 3]
    assert len(cut(whole(found), 3, None).length) == 1


def test_last_steps_are_kept_apart() -> None:
    _, found = unrolled(Sequence(**SMALL), WORDS)
    training, apart = last_steps(whole(found), 0.3)
    assert training.length.tolist() == [2, 1, 3, 1]  # of 3, 1, 5 and 2 steps
    assert apart.length.tolist() == [1, 2, 1]
    assert apart.begin.tolist() == [2, 7, 10]


def test_windows_with_their_state_tell_what_whole_sequences_do() -> None:
    story = Sequence(**SMALL)
    target, weights = drawn(story, TEXTS)
    latents = tensors(target, weights)
    with target.context(), torch.no_grad():
        found = story.unroll(target.data)
        windows = Windows(found, whole(found), 5, 6)
        total = 0.0
        state: tuple[torch.Tensor, ...] = ()
        for place in passed(windows):
            window = windows.at(place)
            state = window.carried(state) if place.window else ()
            nats, state = found.nats(latents, window.inputs, window.targets, state)
            total += float((nats * window.inside).sum())
        assert total == pytest.approx(float(story.marginal(latents, target.data).sum()), rel=1e-5)
        scored = windows.scored(latents)
        assert scored.mean() * windows.steps == pytest.approx(total, rel=1e-5)
        level = {name: torch.zeros_like(value) for name, value in latents.items()}
        even = windows.scored(level)  # each step tells as much, however long its piece
        assert even == pytest.approx(-np.log(5), rel=1e-5)


def test_gradients_of_a_pass_sum_to_that_of_the_density() -> None:
    story = Sequence(**SMALL)
    target, weights = drawn(story, TEXTS, size=0.3)
    density = target.density(jacobian=False)
    with target.context():
        q = density.flatten(tensors(target, weights))
        found = story.unroll(target.data)
        windows = Windows(found, whole(found), 5, None)  # none is cut: the gradient is exact
        windowed = WindowDensity(target, found, prior=True)
        places = passed(windows)
        told = [windowed(q, windows.at(p), (), len(places), None).gradient for p in places]
        mean = torch.stack(told).mean(0)
    with density.running():
        leaf = q.clone().requires_grad_()
        (exact,) = torch.autograd.grad(density.parts(leaf).total(), leaf)
    torch.testing.assert_close(mean, exact, rtol=1e-3, atol=1e-3)


def test_rows_of_the_own_validation_part_are_kept_apart() -> None:
    _, found = unrolled(Sequence(**SMALL), WORDS)
    assert chosen(found, np.array([2, 3])).length.tolist() == [5, 2]


# -- the method --------------------------------------------------------------------------------


def climbed(method: MAP, path: Path | None = None, seed: int = 0) -> Any:
    target = make_target(Sequence(**SMALL, dropout=0.3), TEXTS)
    checkpoint = None if path is None else Checkpoint(path)
    return method.run(target, seed=seed, progress=QUIET, checkpoint=checkpoint)


def values(outcome: Any) -> np.ndarray:
    posterior = outcome.tree["posterior"].to_dataset()
    return np.concatenate([v.values.ravel() for v in posterior.data_vars.values()])


def test_one_seed_gives_one_answer() -> None:
    first, again, other = (climbed(MAP(**SHORT), seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(values(first), values(again))
    assert not np.array_equal(values(first), values(other))


@pytest.mark.parametrize("after", [1, 8, 23])
def test_resuming_after_a_kill_ends_at_the_same_bits(tmp_path: Path, after: int) -> None:
    straight = climbed(MAP(**SHORT))
    target = make_target(Sequence(**SMALL, dropout=0.3), TEXTS)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    cut_short: Any = MAP(**SHORT).run(
        target, seed=0, progress=Interrupting(after=after), checkpoint=checkpoint
    )
    assert cut_short.info.stopped == "interrupted"
    resumed: Any = MAP(**SHORT).run(target, seed=0, progress=QUIET, checkpoint=checkpoint)
    assert resumed.info.resumed_steps == after
    assert np.array_equal(values(straight), values(resumed))
    assert straight.info.training == resumed.info.training
    assert not (tmp_path / "checkpoint.npz").exists()


def shuffled(arrays: Any, rng: np.random.Generator) -> Any:
    """The symbols of each sequence in another order."""
    pieces = np.split(arrays["token"], np.cumsum(arrays["length"])[:-1])
    return {"token": np.concatenate([rng.permutation(piece) for piece in pieces])}


def test_each_pass_is_drawn_anew_and_by_itself() -> None:
    story = Sequence(**SMALL, end="yes")
    target = replace(make_target(story, TEXTS), redraw=shuffled)

    def drawn_anew(rng: np.random.Generator) -> Any:
        found = shuffled({n: np.asarray(v) for n, v in target.data.items()}, rng)
        return story.unroll({**target.data, "token": torch.as_tensor(found["token"])})

    with target.context():
        unrolled: Any = story.unroll(target.data)
        windows = Windows(unrolled, whole(unrolled), 25, None, drawn_anew)
        generator = torch.Generator().manual_seed(0)
        places = [windows.first(generator) for _ in range(2)]
        first, second, again = (windows.at(places[i]).targets for i in (0, 1, 0))
        plain = Windows(unrolled, whole(unrolled), 25, None)
        fixed = plain.at(places[0]).targets
        weights = {n: torch.zeros(s.shape) for n, s in target.structure.latents.items()}
        scored = (
            windows.scored(weights),
            Windows(unrolled, whole(unrolled), 25, None).scored(weights),
        )
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert not torch.equal(first, fixed) and first.shape == fixed.shape
    assert np.array_equal(*scored)


def test_passes_that_are_drawn_anew_resume_to_the_same_bits(tmp_path: Path) -> None:
    target = replace(make_target(Sequence(**SMALL), TEXTS), redraw=shuffled)
    method = MAP(**SHORT, validation=0.0)  # so that the answer is not the start
    straight: Any = method.run(target, seed=0, progress=QUIET)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz")
    stop = Interrupting(after=straight.info.steps // 2 + 1)
    method.run(target, seed=0, progress=stop, checkpoint=checkpoint)
    resumed: Any = method.run(target, seed=0, progress=QUIET, checkpoint=checkpoint)
    assert resumed.info.resumed_steps > 0
    assert np.array_equal(values(straight), values(resumed))
    plain: Any = method.run(replace(target, redraw=None), seed=0, progress=QUIET)
    assert not np.array_equal(values(straight), values(plain))
    assert straight.info.training[-1] != plain.info.training[-1]
    assert any("drawn anew" in note for note in straight.info.notes)


def test_the_objective_rises_and_the_curve_tells_it() -> None:
    info = climbed(MAP(epochs=30, batch_size=8, learning_rate=0.01, patience=None)).info
    assert isinstance(info, AscentInfo)
    assert info.training[-1] > info.training[0]
    assert info.kept_step == info.curve_steps[int(np.argmax(info.validation))]
    assert info.per == "step"


def test_patience_ends_the_climb() -> None:
    info = climbed(MAP(epochs=300, batch_size=8, learning_rate=0.05, patience=2)).info
    assert info.stopped == "settled"
    assert info.kept_step < info.steps < 300 * 8


def test_steps_that_are_too_large_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match="ran away at step 2; take smaller steps"):
        climbed(MAP(**{**SHORT, "learning_rate": 1e38}))


def test_adam_is_refused_where_nothing_is_unrolled() -> None:
    with pytest.raises(RefusedError, match="unrolls no sequences"):
        sz.fit(NGram(), WORDS, MAP(optimiser="adam"), progress=False)


def test_a_fit_comes_back_from_its_folder(tmp_path: Path) -> None:
    fit = sz.fit(
        Sequence(**SMALL), TEXTS, MAP(**SHORT), holdout=0.2, out=tmp_path / "run", progress=False
    )
    again = sz.Fit.load(tmp_path / "run", story=fit.story)
    assert isinstance(again.info, AscentInfo)
    assert again.info == fit.info
    np.testing.assert_array_equal(again.log_density().nats, fit.log_density().nats)
    assert isinstance(MAPInfo.from_dict(MAPInfo(best=1).as_dict()), MAPInfo)


def test_steps_over_a_whole_vector_are_those_of_adam() -> None:
    q = torch.tensor([0.5, -1.0, 2.0])
    moments, other = adam.begin(q)._replace(taken=torch.zeros(())), adam.begin(q)
    moved = expected = q
    for step in range(5):
        slope = torch.tensor([1.0, -0.1, 0.01]) * (step + 1) * (-1) ** step
        moved, moments = adam.moved(moved, moments, slope, 0.1)
        other = adam.told(other, slope)
        expected = expected + 0.1 * adam.direction(other)
    torch.testing.assert_close(moved, expected)


def test_normal_priors_are_those_of_the_model() -> None:
    target, weights = drawn(Sequence(**SMALL), WORDS)
    with target.context():
        found = WindowDensity(target, target.story.unroll(target.data), prior=True)
        q = target.density().flatten(tensors(target, weights))
        assert found._normal is not None
        density = target.density(jacobian=False)
        assert float(found.log_prior(q)) == pytest.approx(float(density.log_prior(q)), rel=1e-5)
        leaf = q.clone().requires_grad_()
        (slope,) = torch.autograd.grad(density.log_prior(leaf), leaf)
        torch.testing.assert_close(found._normal.add_gradient(torch.zeros_like(q), q, 1.0), slope)
