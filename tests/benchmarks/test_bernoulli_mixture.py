"""The mixture of Bernoulli pixels that the benchmark sets beside networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.bernoulli_mixture import BernoulliMixture
from storyzoo.inference.em import EM
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import make_target
from storyzoo.story import Story

IMAGES = np.random.default_rng(0).integers(0, 2, size=(30, 6)).astype(np.float64)


@dataclass(frozen=True)
class Generic(BernoulliMixture):
    """The same without hooks."""

    expect = Story.expect  # type: ignore[assignment]
    maximise = Story.maximise  # type: ignore[assignment]
    marginal = Story.marginal  # type: ignore[assignment]


def test_hooks_say_what_the_model_does() -> None:
    target = make_target(BernoulliMixture(3), {"v": IMAGES})
    start = target.story.initial(target.data, np.random.default_rng(1))
    assert start is not None
    density = target.density(jacobian=False)
    generic = make_target(Generic(3), {"v": IMAGES}).density(jacobian=False)
    q = density.flatten(start)[None]
    torch.testing.assert_close(density.log_likelihood(q), generic.log_likelihood(q))


def test_em_ends_where_it_does_without_hooks() -> None:
    found = []
    for story in (BernoulliMixture(3), Generic(3)):
        target = make_target(story, {"v": IMAGES})
        outcome = EM(restarts=1, max_steps=400).run(target, seed=0, progress=Progress(quiet=True))
        info: Any = outcome.info
        path = np.asarray(info.path)
        assert (np.diff(path) >= -1e-9 * abs(path[0])).all()
        found.append(path[-1])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
