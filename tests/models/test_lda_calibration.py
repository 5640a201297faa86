"""Topics by samplers, held against 200 corpora whose topics and mixtures are known.

Ranked are topics and mixtures, labels matched, and two quantities that know no labels: the log
likelihood and the log joint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from storyzoo.calibrate import calibrate
from storyzoo.inference.engine.method import Method
from storyzoo.inference.gibbs import Gibbs
from storyzoo.inference.nuts import NUTS
from storyzoo.models.lda import LatentDirichletAllocation
from storyzoo.reports.calibration import CALIBRATED
from storyzoo.story import Data, Latents

pytestmark = pytest.mark.slow

SMALL = {
    "length": np.array([2, 2, 1, 2]),
    "word": np.array([0, 1, 1, 2, 3, 0, 2]),
    "count": np.array([4, 4, 5, 3, 8, 6, 2]),
    "n_words": 4,
}
"""Four documents of eight words, by whose sizes others are simulated."""
QUICK = NUTS(chains=2, draws=500, warmup=300, cores=1)


@dataclass(frozen=True)
class Twice(LatentDirichletAllocation):
    """Topics whose likelihood counts every word twice."""

    name = "twice"

    def marginal(self, latents: Latents, data: Data) -> torch.Tensor:
        return 2 * super().marginal(latents, data)


@pytest.mark.parametrize(
    ("method", "alpha"),
    [(QUICK, 1.0), (Gibbs(chains=2, draws=200, warmup=50, cores=1), 0.4)],
    ids=["nuts", "gibbs"],
)
def test_draws_of_topics_are_calibrated(method: Method, alpha: float) -> None:
    story = LatentDirichletAllocation(n_topics=2, alpha=alpha, eta=0.8)
    found = calibrate(story, SMALL, method, jobs=2, progress=False)
    names = set(found.table["name"])
    assert {"log_likelihood", "log_joint", "topics[0, 3]", "mixture[3, 0]"} <= names
    assert not found.evidence.failed
    assert found.verdict == CALIBRATED, found.judged.headline


def test_a_likelihood_that_counts_twice_is_seen() -> None:
    story = Twice(n_topics=2, alpha=1.0, eta=0.8)
    found = calibrate(story, SMALL, QUICK, simulations=60, jobs=2, progress=False)
    assert found.verdict != CALIBRATED
