"""Langevin steps by slices of sequences, and a mean field over a network's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storyzoo.errors import SettingError
from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import make_target
from storyzoo.inference.engine.weight_guide import WeightGuide
from storyzoo.inference.engine.window_source import WindowSource
from storyzoo.inference.engine.windows import Windows, whole
from storyzoo.inference.sgld import SGLD
from storyzoo.inference.svi import SVI
from storyzoo.models.sequence import Sequence
from tests.inference.interrupting import Interrupting
from tests.models.recurrences import WORDS

STORY = Sequence(n_hidden=3, n_embedding=2, weight_sd=0.5)
SHORT: Any = {
    "chains": 2, "draws": 8, "thin": 3, "warmup": 10, "batch_size": 2, "epochs": 2, "step": 0.01,
}  # fmt: skip


def walked(path: Path | None = None, after: int | None = None, **settings: Any) -> Any:
    progress = Progress(quiet=True) if after is None else Interrupting(after=after)
    checkpoint = None if path is None else Checkpoint(path)
    method = SGLD(**{**SHORT, **settings})
    return method.run(make_target(STORY, WORDS), seed=0, progress=progress, checkpoint=checkpoint)


def test_slices_of_all_pieces_give_the_gradient_of_the_density() -> None:
    target = make_target(STORY, WORDS)
    density = target.density()
    with target.context():
        q = 0.3 * torch.randn(density.dim, generator=torch.Generator().manual_seed(0))
        source = WindowSource(target, None, None, lambda fitted, chain: np.zeros(density.dim))
        batch = source.slices.first(torch.Generator().manual_seed(1))
        found, _ = source(q[None], batch, ())
    _, exact = density.value_and_gradient(q)
    torch.testing.assert_close(found[0], exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", [{"cycles": 2}, {"momentum": 0.8}])
def test_a_walk_goes_on_to_the_same_bits(tmp_path: Path, settings: dict[str, Any]) -> None:
    straight = walked(**settings)
    path = tmp_path / "checkpoint.npz"
    cut_short = walked(path, after=45, **settings)
    assert cut_short.info.stopped == "interrupted"
    resumed = walked(path, **settings)
    for name, values in straight.tree["posterior"].to_dataset().data_vars.items():
        np.testing.assert_array_equal(values, resumed.tree["posterior"][str(name)])


def test_chains_start_at_modes_of_their_own() -> None:
    first = walked(step=1e-8, warmup=1, draws=2, thin=1).tree["posterior"]
    for name in ("output_weight", "core_weight_hh_l0"):
        one, other = first[name].values[:, 0]
        assert np.abs(one - other).max() > 0.01


def test_draws_that_would_take_too_much_are_refused() -> None:
    with pytest.raises(SettingError, match="more than megabytes=0.001"):
        walked(megabytes=0.001)


def test_gradients_of_the_elbo_are_those_of_its_mean() -> None:
    """By differences of the ELBO, at draws that all steps share."""
    target = make_target(STORY, WORDS)
    with target.context():
        found = STORY.unroll(target.data)
        guide = WeightGuide(target, found)
        windows = Windows(found, whole(found), 10, None)
        window = windows.at(windows.first(torch.Generator().manual_seed(0)))
        start = guide.start(np.random.default_rng(0))

        def elbo(parameters: torch.Tensor) -> float:
            width = guide._log_width(parameters).exp()
            nats, _ = found.perturbed_nats(
                guide.sites(parameters[: guide.dim]), guide.sites(width),
                window.inputs, window.targets, (), torch.Generator().manual_seed(7),
            )  # fmt: skip
            likelihood = (nats * window.inside).double().sum()
            return float(likelihood + guide.log_prior(parameters).double())

        told = guide(start, window, (), 1.0, torch.Generator().manual_seed(7)).gradient
        direction = torch.randn(len(start), generator=torch.Generator().manual_seed(2)) * 1e-2
        difference = elbo(start + direction) - elbo(start - direction)
    assert difference == pytest.approx(2 * float(told @ direction), rel=0.02)


def test_the_divergence_of_normals_is_known() -> None:
    target = make_target(STORY, WORDS)
    with target.context():
        guide = WeightGuide(target, STORY.unroll(target.data))
        q = guide.start(np.random.default_rng(0))
        q = q + 0.02 * torch.randn(len(q), generator=torch.Generator().manual_seed(1))
        normal = torch.distributions.Normal(q[: guide.dim], guide._log_width(q).exp())
        prior = torch.distributions.Normal(0.0, STORY.weight_sd)
        exact = torch.distributions.kl_divergence(normal, prior).sum()
        torch.testing.assert_close(guide.log_prior(q), -exact, rtol=1e-5, atol=1e-4)


@pytest.fixture(scope="module")
def texts() -> Any:
    rng = np.random.default_rng(5)
    lengths = rng.integers(0, 12, size=25)
    return {"token": rng.integers(0, 4, size=lengths.sum()), "length": lengths, "n_tokens": 4}


def test_a_mean_field_goes_on_to_the_same_bits(texts: Any, tmp_path: Path) -> None:
    """Of a network that is too large for guides which see all data at every step."""
    target = make_target(Sequence(n_hidden=24, n_embedding=4), texts)
    method = SVI(epochs=4, batch_size=8, draws=3)
    path = tmp_path / "checkpoint.npz"
    straight = method.run(target, seed=0, progress=Progress(quiet=True))
    cut_short = method.run(
        target, seed=0, progress=Interrupting(after=7), checkpoint=Checkpoint(path)
    )
    assert cut_short.info.stopped == "interrupted"
    resumed = method.run(target, seed=0, progress=Progress(quiet=True), checkpoint=Checkpoint(path))
    assert resumed.tree.identical(straight.tree)
    assert straight.info.start == "narrow, around the end of an ascent by Adam"
    assert straight.tree["posterior"].sizes["draw"] == 3


def test_a_mean_field_whose_time_ran_out_has_not_settled(texts: Any) -> None:
    """Its curve is flat at once, as it begins near the end."""
    target = make_target(Sequence(n_hidden=24, n_embedding=4), texts)
    method = SVI(epochs=4, batch_size=8, draws=3, minutes=1e-9)
    info: Any = method.run(target, seed=0, progress=Progress(quiet=True)).info
    assert (info.stopped, info.settled) == ("minutes", False)
