"""Natural gradients: coordinate ascent where all is seen, bounds, recovery, resuming, streams."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.special import digamma, gammaln

import storyzoo as sz
from storyzoo.datasets import load
from storyzoo.errors import DataError, RefusedError, SettingError
from storyzoo.inference.engine import natural, resume
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.method import Outcome
from storyzoo.inference.engine.natural import NaturalFit, Schedule
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.resume import Keeper
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.svi import SVI, SVIInfo
from storyzoo.models.lda import LatentDirichletAllocation
from storyzoo.reports.verdict import judge
from tests.cases import Mixture
from tests.inference.test_em import StopAfter
from tests.models.corpora import TINY, Known, drawn_corpus, log_evidence

ALL = 10**6
"""A batch of all examples."""


def fitted(target: Target, seed: int = 0, **settings: Any) -> tuple[Any, SVIInfo]:
    svi = SVI(**{"draws": 50, **settings})
    assert svi.refuses(target.story, target.structure) is None
    tree, info = svi.run(target, seed=seed, progress=Progress(quiet=True))
    assert isinstance(info, SVIInfo)
    return tree, info


def known(seed: int = 1, **shape: Any) -> Known:
    return drawn_corpus(np.random.default_rng(seed), **shape)


def topics_of(corpus: Known, **fields: Any) -> Target:
    story = LatentDirichletAllocation(n_topics=len(corpus.topics), alpha=0.2, eta=0.05, **fields)
    return make_target(story, corpus.arrays)


def climb(target: Target) -> NaturalFit:
    usual: dict[str, Any] = {"batch_size": ALL, "delay": 10.0, "forgetting": 0.7}
    usual |= {"max_steps": 50, "starts": 1, "window": 50, "draws": 10}
    usual |= {"megabytes": 200}
    with target.context():
        return NaturalFit(Schedule(**usual), target, 0, Keeper(None, ""))


# -- all examples at every step ------------------------------------------------------------------


def table_of(arrays: Mapping[str, Any]) -> np.ndarray:
    """Counts (D, V)."""
    table = np.zeros((len(arrays["length"]), arrays["n_words"]))
    table[np.repeat(np.arange(len(table)), arrays["length"]), arrays["word"]] = arrays["count"]
    return table


def expected_log(concentration: np.ndarray) -> np.ndarray:
    return np.asarray(digamma(concentration) - digamma(concentration.sum(-1, keepdims=True)))


def weights(topics: np.ndarray, mixture: np.ndarray) -> np.ndarray:
    """(D, K, V): each word's topics, written with nothing left out."""
    log = expected_log(mixture)[:, :, None] + expected_log(topics)[None]
    share = np.exp(log - log.max(1, keepdims=True))
    return np.asarray(share / share.sum(1, keepdims=True))


def dirichlet_divergence(q: np.ndarray, p: np.ndarray) -> float:
    """KL of Dirichlets with concentrations (…, K), summed."""

    def log_norm(a: np.ndarray) -> np.ndarray:
        return np.asarray(gammaln(a.sum(-1)) - gammaln(a).sum(-1))

    return float((log_norm(q) - log_norm(p) + ((q - p) * expected_log(q)).sum(-1)).sum())


def bound(
    topics: np.ndarray, mixture: np.ndarray, table: np.ndarray, alpha: float, eta: float
) -> float:
    """The ELBO term by term, with the weights' own entropy."""
    share = weights(topics, mixture)
    log = expected_log(mixture)[:, :, None] + expected_log(topics)[None] - np.log(share)
    words = float((table[:, None] * share * log).sum())
    return (
        words
        - dirichlet_divergence(mixture, np.full_like(mixture, alpha))
        - dirichlet_divergence(topics, np.full_like(topics, eta))
    )


def test_all_examples_at_once_are_coordinate_ascent() -> None:
    target = make_target(LatentDirichletAllocation(n_topics=2, alpha=0.5, eta=0.3), TINY)
    fit = climb(target)
    table, topics = table_of(TINY), fit.state.parameters["topics"].numpy()
    mixture = 0.5 + table.sum(1, keepdims=True).repeat(2, 1) / 2
    for _ in range(1000):
        for _ in range(10):
            mixture = 0.5 + (table[:, None] * weights(topics, mixture)).sum(-1)
        topics = 0.3 + (table[:, None] * weights(topics, mixture)).sum(0)
    steps = fit._batches(0, 0)
    with target.context():
        for _ in range(1000):
            fit.state = fit._step(fit.state, next(steps))
        answer = fit.answer()
    np.testing.assert_allclose(fit.state.parameters["topics"].numpy(), topics, rtol=2e-3)
    np.testing.assert_allclose(fit.state.local["mixture"].numpy(), mixture, rtol=2e-3)
    assert answer.elbo == pytest.approx(bound(topics, mixture, table, 0.5, 0.3), abs=1e-4)


def test_the_bound_never_falls_and_stays_below_the_evidence() -> None:
    target = make_target(LatentDirichletAllocation(n_topics=2, alpha=0.5, eta=0.3), TINY)
    evidence = log_evidence(TINY, 2, 0.5, 0.3)
    for seed in range(3):
        _, info = fitted(target, seed, batch_size=ALL, max_steps=100)
        assert (np.diff(info.elbo) > -1e-5).all()
        assert max(info.elbo) < evidence
        assert info.elbo[-1] > evidence - 3


def test_the_bound_never_falls_on_a_corpus() -> None:
    _, info = fitted(topics_of(known()), batch_size=ALL, max_steps=60)
    assert (np.diff(info.elbo) > -1e-7 * abs(info.elbo[-1])).all()
    assert info.settled


# -- a few examples at every step ----------------------------------------------------------------


def distance(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Total variation between topics matched to the true ones."""
    costs = 0.5 * np.abs(found[:, None] - truth[None]).sum(-1)
    return np.asarray(costs[linear_sum_assignment(costs)])


def test_known_topics_are_recovered_from_small_batches() -> None:
    corpus = known(documents=600)
    tree, info = fitted(topics_of(corpus), batch_size=50)
    posterior = tree["posterior"]
    found = posterior["topics"].mean(["chain", "draw"]).values
    assert distance(found, corpus.topics).max() < 0.1
    costs = np.abs(found[:, None] - corpus.topics[None]).sum(-1)
    order = linear_sum_assignment(costs.T)[1]
    mixture = posterior["mixture"].mean(["chain", "draw"]).values[:, order]
    assert np.abs(mixture - corpus.mixture).mean() < 0.05
    assert info.settled and info.guide == "natural"
    together = fitted(topics_of(corpus), batch_size=ALL)[1].elbo[-1]
    assert info.elbo[-1] == pytest.approx(together, rel=0.01)
    story = topics_of(corpus).story
    assert judge(tree, info, kind="approximation", story=story).verdict == "approximate"


def test_a_large_story_says_that_k_hat_is_unknown_and_a_small_one_tells_it() -> None:
    large, said = fitted(topics_of(known()))
    assert "sample_stats" not in large.children
    assert any("k-hat was not computed" in note for note in said.notes)
    small, info = fitted(
        make_target(LatentDirichletAllocation(n_topics=2, alpha=0.7, eta=0.7), TINY), draws=400
    )
    gaps = (small["sample_stats"]["lp"] - small["sample_stats"]["log_q"]).values
    assert gaps.mean() > info.elbo[-1]  # the words' topics are summed out of it
    assert gaps.mean() < log_evidence(TINY, 2, 0.7, 0.7)


def test_draws_that_would_be_too_large_are_left_out() -> None:
    tree, info = fitted(topics_of(known()), megabytes=0.1)
    assert set(tree["posterior"].data_vars) == {"topics"}
    assert any("draws of mixture were left out" in note for note in info.notes)
    with pytest.raises(SettingError, match="megabytes=0.001 is the most"):
        fitted(topics_of(known()), megabytes=0.001)


def test_a_fit_without_mixtures_is_asked_like_any_other() -> None:
    corpus = known(documents=60)
    story = LatentDirichletAllocation(n_topics=4)
    fit = sz.fit(story, corpus.arrays, SVI(megabytes=0.02, draws=20), progress=False)
    assert fit.verdict.verdict == "approximate"
    assert fit.latent().shape == (60, 8)
    assert len(fit.log_density().nats) == 60
    assert len(fit.simulate(3)["length"]) == 3


# -- resuming ------------------------------------------------------------------------------------


def run(target: Target, checkpoint: Checkpoint, progress: Progress, size: int) -> Outcome:
    method = SVI(batch_size=size, max_steps=30, draws=5)
    return method.run(target, seed=3, progress=progress, checkpoint=checkpoint)


@pytest.mark.parametrize("size", [40, ALL])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(natural, "RISE", 0.0)
    monkeypatch.setattr(resume, "SECONDS", 0.0)
    target = topics_of(known())
    whole = run(target, Checkpoint(tmp_path / "a.npz"), Progress(quiet=True), size)
    kept = Checkpoint(tmp_path / "b.npz")
    cut = run(target, kept, StopAfter(9), size)
    assert cut.info.stopped == "interrupted" and kept.path.exists()
    again = run(target, kept, Progress(quiet=True), size)
    for name in ("topics", "mixture"):
        assert np.array_equal(again.tree["posterior"][name], whole.tree["posterior"][name])
    assert again.info.as_dict() | {"resumed_evaluations": 0} == whole.info.as_dict()
    assert not kept.path.exists()


def test_minutes_end_it() -> None:
    _, info = fitted(topics_of(known()), minutes=1e-9)
    assert (info.stopped, info.steps, info.settled) == ("minutes", 1, False)


# -- refusals ------------------------------------------------------------------------------------


def test_what_has_no_conjugate_family_is_refused() -> None:
    story = Mixture()
    target = make_target(story, {"y": np.zeros((3, 2))})
    reason = SVI(guide="natural").refuses(story, target.structure)
    assert reason is not None and "no conjugate family" in reason
    unknown = make_target(LatentDirichletAllocation(n_topics=2, learn_alpha=True), TINY)
    reason = SVI(guide="natural").refuses(unknown.story, unknown.structure)
    assert reason is not None and "learn_alpha=true has no conjugate family" in reason


@pytest.mark.parametrize(
    ("setting", "value"), [("delay", 0.5), ("forgetting", 0.5), ("megabytes", 0)]
)
def test_impossible_settings_are_refused(setting: str, value: float) -> None:
    with pytest.raises(SettingError, match=setting):
        SVI(**{setting: value})  # type: ignore[arg-type]


# -- streams -------------------------------------------------------------------------------------


def write_corpus(path: Path, corpus: Known) -> Path:
    table = table_of(corpus.arrays).astype(int)
    lines = (" ".join(f"word{v:02}" for v in np.repeat(np.arange(len(row)), row)) for row in table)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.slow
def test_topics_are_recovered_from_a_stream(tmp_path: Path) -> None:
    corpus = known(documents=600)
    data = load(f"{write_corpus(tmp_path / 'big.txt', corpus)}:stream=true")
    story = LatentDirichletAllocation(n_topics=4, alpha=0.2, eta=0.05)
    target = replace(make_target(story, data.arrays, coords=data.coords), stream=data.stream)
    tree, _ = fitted(target, batch_size=50)
    found = tree["posterior"]["topics"].mean(["chain", "draw"])
    truth = corpus.topics[:, [int(str(word)[4:]) for word in found["word"].values]]
    assert distance(found.values, truth).max() < 0.1


def test_a_run_from_a_stream_keeps_topics_and_tells_of_new_text(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "big.txt", known(documents=60))
    svi = SVI(batch_size=25, draws=10, max_steps=6)
    story = LatentDirichletAllocation(n_topics=2)
    fit = sz.fit(story, f"{path}:stream=true", svi, out=tmp_path / "run", progress=False)
    assert "mixture" not in fit.tree["posterior"]
    assert fit.description["data"]["rows"] == 60
    loaded = sz.Fit.load(tmp_path / "run")
    assert loaded.latent(load(str(path), loaded.reading)).shape == (60, 4)
    with pytest.raises(RefusedError, match="was streamed, and is not kept"):
        loaded.latent()


def test_a_stream_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natural, "RISE", 0.0)
    monkeypatch.setattr(natural, "NOISE", 0.0)
    monkeypatch.setattr(resume, "SECONDS", 0.0)
    path = write_corpus(tmp_path / "big.txt", known())
    dataset = load(f"{path}:stream=true")
    story = LatentDirichletAllocation(n_topics=4)
    target = replace(make_target(story, dataset.arrays), stream=dataset.stream)
    whole = run(target, Checkpoint(tmp_path / "a.npz"), Progress(quiet=True), 40)
    kept = Checkpoint(tmp_path / "b.npz")
    run(target, kept, StopAfter(9), 40)
    again = run(target, kept, Progress(quiet=True), 40)
    assert np.array_equal(again.tree["posterior"]["topics"], whole.tree["posterior"]["topics"])


def test_the_fingerprint_of_a_stream_is_of_its_last_document_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storyzoo.datasets.text.BLOCK", 25)
    path = write_corpus(tmp_path / "big.txt", known(documents=60))
    lines, found = path.read_text(encoding="utf-8"), set()
    for last in ("word00", "word01"):
        path.write_text(f"{lines}{last}\n", encoding="utf-8")
        dataset = load(f"{path}:stream=true")
        target = make_target(LatentDirichletAllocation(n_topics=4), dataset.arrays)
        mark = resume.fingerprint(SVI(), replace(target, stream=dataset.stream), 0)
        found |= {dataset.sha256, mark}
    assert len(found) == 4


@dataclass(frozen=True)
class Endless:
    """So many documents of 100 words, made as they are asked for."""

    n_examples: int
    sha256: str = ""

    def blocks(self, size: int) -> Iterator[Mapping[str, Any]]:
        rng = np.random.default_rng(0)
        for start in range(0, self.n_examples, size):
            n = min(size, self.n_examples - start)
            word = np.sort(rng.integers(0, 500, (n, 100)), axis=1)
            first = np.diff(word, axis=1, prepend=-1) > 0
            entry = np.flatnonzero(first)
            count = np.diff(entry, append=word.size)
            yield {
                "length": first.sum(1), "word": word.ravel()[entry], "count": count, "n_words": 500,
            }  # fmt: skip


def test_memory_does_not_grow_with_the_stream() -> None:
    def peak(documents: int) -> int:
        stream = Endless(documents)
        story = LatentDirichletAllocation(n_topics=5)
        target = replace(make_target(story, next(stream.blocks(100))), stream=stream)
        tracemalloc.start()
        SVI(batch_size=100, draws=5, max_steps=documents // 100).run(
            target, seed=0, progress=Progress(quiet=True)
        )
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(200)  # what is imported on the way
    assert peak(4000) < 1.2 * peak(1000) + 2**16


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("stream=true", {"holdout": 0.2}, "is streamed, and none of it can be held out"),
        ("stream=maybe", {}, "stream='maybe' should be true or false"),
        ("stream=true", {"method": "em"}, "it needs all data in memory"),
        ("stream=true,min_df=1000", {}, "leave no word possible"),
    ],
)
def test_streams_that_cannot_be_are_refused(
    spec: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write_corpus(tmp_path / "big.txt", known())
    method = options.pop("method", SVI(draws=5, max_steps=5))
    with pytest.raises((SettingError, RefusedError, DataError), match=message):
        sz.fit("lda", f"{path}:{spec}", method, progress=False, **options)
    assert not list(tmp_path.glob("run*"))
