"""Topics that documents were drawn from are found again up to their order, by every method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import storyzoo as sz
from storyzoo.inference.em import EM
from storyzoo.inference.engine.method import Method
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.target import make_target
from storyzoo.inference.gibbs import Gibbs
from storyzoo.inference.svi import SVI
from storyzoo.models.lda import LatentDirichletAllocation
from tests.models.corpora import drawn_corpus


@dataclass(frozen=True)
class Case:
    """What a corpus is drawn from; ``gap`` is how far topics may be from the true ones at most.

    Distances are total variation, between 0 and 1.
    """

    k: int
    documents: int
    n_words: int
    size: int
    alpha: float | tuple[float, ...]
    eta: float = 0.05
    gap: float = 0.1

    def __str__(self) -> str:
        return f"{self.k}-topics-{self.documents}x{self.size}-of-{self.n_words}"


CASES = [
    Case(2, 100, 20, 50, 0.2),
    Case(4, 300, 60, 80, 0.2),
    Case(3, 300, 100, 60, (0.1, 0.3, 0.6), gap=0.2),  # the rarest has few words
    Case(6, 400, 200, 100, 0.1),
    Case(5, 300, 40, 100, 0.5, eta=0.1, gap=0.2),
]
METHODS: dict[str, Method] = {
    "em": EM(restarts=5, max_steps=300),
    "em-collapsed": EM(collapsed=True, restarts=5),
    "svi": SVI(guide="natural", batch_size=50, starts=3, draws=50),
    "svi-amortised": SVI(guide="story", particles=4, starts=2, max_steps=300, draws=50),
    "gibbs": Gibbs(chains=1, draws=40, warmup=300, thin=2, cores=1),
}
SMALL = [
    Case(2, 12, 8, 80, 0.3, eta=0.5, gap=0.2),
    Case(3, 20, 10, 100, 0.3, eta=0.5, gap=0.2),
]
"""Few enough documents for every mixture to be an unknown of NUTS."""


def largest_gap(case: Case, method: Method) -> float:
    """Total variation between the worst matched topic and its own, means over draws of a chain."""
    known = drawn_corpus(
        np.random.default_rng(case.documents),
        k=case.k,
        n_words=case.n_words,
        documents=case.documents,
        size=case.size,
        alpha=np.asarray(case.alpha),
        eta=case.eta,
    )
    story = LatentDirichletAllocation(n_topics=case.k, alpha=case.alpha, eta=case.eta)
    target = make_target(story, known.arrays)
    tree, _ = method.run(target, seed=1, progress=Progress(quiet=True))
    found = tree["posterior"]["topics"].isel(chain=0).mean("draw").to_numpy()
    gaps = 0.5 * np.abs(known.topics[:, None] - found[None]).sum(-1)
    return float(gaps[linear_sum_assignment(gaps)].max())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_topics_are_found_again_up_to_their_order(case: Case, name: str) -> None:
    assert largest_gap(case, METHODS[name]) < case.gap


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_nuts_finds_the_topics_of_a_small_corpus(case: Case) -> None:
    assert largest_gap(case, sz.NUTS(chains=1, draws=300, warmup=300)) < case.gap
