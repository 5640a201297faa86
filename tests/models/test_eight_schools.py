"""Both ways to write eight schools are the same story."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from storyzoo.binding import bind
from storyzoo.datasets import load
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.models.eight_schools import EightSchools

MU, TAU = 4.0, 3.0
RAW = torch.linspace(-1, 1, 8, dtype=torch.float64)


def target(centred: bool) -> Target:
    story = EightSchools(centred=centred)
    bound = bind(story, load("eight-schools"))
    return make_target(story, bound.arrays, coords=bound.coords)


@pytest.mark.parametrize("centred", [False, True])
def test_log_joint_by_hand(centred: bool) -> None:
    table = load("eight-schools").table
    assert table is not None
    theta = MU + TAU * RAW.numpy()
    prior = stats.norm(0, 5).logpdf(MU) + stats.halfcauchy(scale=5).logpdf(TAU)
    effects = stats.norm(MU, TAU).logpdf(theta).sum() if centred else stats.norm.logpdf(RAW).sum()
    seen = stats.norm(theta, table["stderr"]).logpdf(table["effect"]).sum()
    density = target(centred).density(jacobian=False)
    local = {"theta": torch.as_tensor(theta)} if centred else {"theta_raw": RAW}
    q = density.flatten({"mu": torch.tensor(MU), "tau": torch.tensor(TAU), **local})
    assert float(density(q)) == pytest.approx(prior + effects + seen, abs=1e-9)


def test_schools_have_names() -> None:
    structure = target(centred=False).structure
    assert list(structure.coords["school"]) == list("ABCDEFGH")
    assert structure.sites["theta"].dims == ("school",)
