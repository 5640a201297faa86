"""A normal over the last layer alone: its Hessian, its mode, and what a run says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import storyzoo as sz
from storyzoo.errors import RefusedError
from storyzoo.inference.engine import last_layer
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.last_layer import Curvature, LastLayer
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import make_target
from storyzoo.inference.laplace import Laplace
from storyzoo.models.ngram import NGram
from storyzoo.models.piano_roll import PianoRoll
from storyzoo.models.sequence import Sequence
from storyzoo.story import Story
from tests.inference.interrupting import Interrupting
from tests.models.recurrences import WORDS, drawn, tensors

RNG = np.random.default_rng(4)
ROLL: Any = {"key": (RNG.random((60, 3)) < 0.4).astype(float), "length": np.array([25, 35])}
SYMBOLS = Sequence(n_hidden=4, n_embedding=2, weight_sd=0.7)
KEYS = PianoRoll(n_hidden=4, weight_sd=0.7)
BOTH = pytest.mark.parametrize(("story", "data"), [(SYMBOLS, WORDS), (KEYS, ROLL)])


def layered(story: Story, data: Any) -> tuple[Any, dict[str, Tensor], LastLayer]:
    """A target, weights, and the last layer given them."""
    target, weights = drawn(story, data, size=0.5)
    latents = tensors(target, weights)
    with target.context():
        return target, latents, LastLayer(target, latents)


@BOTH
def test_curvature_is_the_whole_hessian_restricted_to_the_layer(story: Any, data: Any) -> None:
    """By differentiating the story's likelihood and priors twice."""
    target, latents, layer = layered(story, data)
    at = layer.joined(latents)

    def log_joint(flat: Tensor) -> Tensor:
        own = {name: value.float() for name, value in layer.sites(flat.view(at.shape)).items()}
        prior = torch.distributions.Normal(0.0, story.weight_sd).log_prob(flat).sum()
        total: Tensor = story.marginal(latents | own, target.data).double().sum() + prior
        return total

    with target.context():
        hessian = torch.autograd.functional.hessian(log_joint, at.flatten())
        found = layer.curvature(at).dense()
        _, gradient = layer.value_and_gradient(at)
        (slope,) = torch.autograd.grad(log_joint(leaf := at.flatten().requires_grad_()), leaf)
    torch.testing.assert_close(found, -hessian, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient.flatten(), slope, rtol=1e-4, atol=1e-4)


def test_the_mode_is_that_of_logistic_regressions() -> None:
    """One for each key, on what the core tells, as scikit-learn finds them."""
    target, latents, layer = layered(KEYS, ROLL)
    with target.context():
        found = layer.mode(layer.joined(latents))
        features = layer._seen.features.numpy().astype(float)
        outcomes = layer._seen.targets.numpy()
    assert found.converged
    for key, mode in enumerate(found.layer.numpy()):
        peer = LogisticRegression(
            C=KEYS.weight_sd**2, fit_intercept=False, tol=1e-10, max_iter=1000
        ).fit(features, outcomes[:, key])
        np.testing.assert_allclose(mode, peer.coef_[0], atol=1e-3)


@BOTH
def test_the_mode_is_where_the_gradient_vanishes(story: Any, data: Any) -> None:
    target, latents, layer = layered(story, data)
    with target.context():
        found = layer.mode(layer.joined(latents))
        _, gradient = layer.value_and_gradient(found.layer)
    assert found.converged
    assert 0.5 * float((gradient * found.curvature.solve(gradient)).sum()) < 1e-5


def consistent(curvature: Curvature, shape: Any) -> None:
    """Draws and solutions belong to one matrix."""
    precision = curvature.dense()
    basis = torch.eye(len(precision), dtype=torch.float64).view(-1, *shape)
    root = torch.stack([curvature.spread(each).flatten() for each in basis], 1)
    solved = torch.stack([curvature.solve(each).flatten() for each in basis], 1)
    identity = torch.eye(len(precision), dtype=torch.float64)
    torch.testing.assert_close(precision @ solved, identity, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(root @ root.mT, solved, rtol=1e-6, atol=1e-8)


@BOTH
def test_draws_have_the_inverse_curvature(story: Any, data: Any) -> None:
    target, latents, layer = layered(story, data)
    with target.context():
        at = layer.joined(latents)
        consistent(layer.curvature(at), at.shape)


def test_kronecker_factors_are_exact_where_all_steps_are_told_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, latents, layer = layered(SYMBOLS, WORDS)
    with target.context():
        at = torch.zeros_like(layer.joined(latents))
        whole = layer.curvature(at)
        monkeypatch.setattr(last_layer, "MOST_WHOLE", 0)
        factored = layer.curvature(at)
        consistent(factored, at.shape)
    assert "exact" in whole.words
    assert "Kronecker" in factored.words
    torch.testing.assert_close(factored.dense(), whole.dense(), rtol=1e-5, atol=1e-5)


def test_a_run_holds_all_other_weights() -> None:
    method = Laplace(layers="last", epochs=2, draws=20)
    found = sz.fit(SYMBOLS, WORDS, method, progress=False)
    assert found.verdict.verdict == "approximate"
    assert "weights are held at one point" in found.verdict.headline
    assert any("output_weight and output_bias" in note for note in found.verdict.notes)
    posterior = found.tree["posterior"].to_dataset()
    for name, values in posterior.data_vars.items():
        moves = bool(values.std("draw").max() > 1e-6)
        assert moves == (name in SYMBOLS.last_layer)


def test_a_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    target, path = make_target(SYMBOLS, WORDS), tmp_path / "checkpoint.npz"
    method = Laplace(layers="last", epochs=10, draws=5)
    straight = method.run(target, seed=0, progress=Progress(quiet=True))
    cut_short = method.run(
        target, seed=0, progress=Interrupting(after=3), checkpoint=Checkpoint(path)
    )
    assert cut_short.info.stopped == "interrupted"
    resumed = method.run(target, seed=0, progress=Progress(quiet=True), checkpoint=Checkpoint(path))
    assert resumed.tree.identical(straight.tree)


def test_large_networks_get_it_unasked_and_others_are_refused() -> None:
    target = make_target(Sequence(n_hidden=40), WORDS)
    assert Laplace().refuses(target.story, target.structure) is None
    assert "Hessian" in (Laplace(layers="all").refuses(target.story, target.structure) or "")
    with pytest.raises(RefusedError, match="no network that marks its last layer"):
        sz.fit(NGram(order=2), WORDS, Laplace(layers="last"), progress=False)


def test_features_that_would_take_too_much_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_layer, "MOST_FEATURES", 10)
    with pytest.raises(RefusedError, match="features of each of 11 steps"):
        layered(SYMBOLS, WORDS)
