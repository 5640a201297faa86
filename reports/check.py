"""One named check: what was measured, what is asked of it, where it is worst, what to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

Scope = Literal["posterior", "loo", "likelihood", "optimum"]
"""What a check speaks of; only ``posterior`` and ``optimum`` decide a verdict."""

DECIDING: tuple[Scope, ...] = ("posterior", "optimum")


class Kind(NamedTuple):
    """What holds for every check of a name."""

    title: str
    """The question in words, as a page shows it."""
    scope: Scope
    source: str


ARITHMETIC = "arithmetic: a mean over a draw that is not finite is not finite"
VEHTARI_2021 = (
    "Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and "
    "localization: an improved R-hat, Bayesian Analysis 16(2)"
)
VEHTARI_2024 = (
    "Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling, JMLR 25(72)"
)
YAO_2018 = "Yao, Vehtari, Simpson & Gelman (2018), Yes, but did it work? Evaluating VI, ICML"
BETANCOURT_2017 = (
    "Betancourt (2017), A conceptual introduction to Hamiltonian Monte Carlo, arXiv:1701.02434"
)
BETANCOURT_2016 = (
    "Betancourt (2016), Diagnosing suboptimal cotangent disintegrations in HMC, arXiv:1604.00695"
)
MARGOSSIAN_2024 = (
    "Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari & Gelman (2024), Nested R-hat: assessing "
    "the convergence of Markov chain Monte Carlo when running many short chains, Bayesian Analysis"
)
HOFFMAN_2014 = "Hoffman & Gelman (2014), The No-U-Turn Sampler, JMLR 15"
GELMAN_2013 = "Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., §10.5"
YAO_2022 = (
    "Yao, Vehtari & Gelman (2022), Stacking for non-mixing Bayesian computations, JMLR 23(79)"
)
KUCUKELBIR_2017 = (
    "Kucukelbir, Tran, Ranganath, Gelman & Blei (2017), Automatic differentiation variational "
    "inference, JMLR 18(14)"
)
BLEI_2017 = (
    "Blei, Kucukelbir & McAuliffe (2017), Variational inference: a review for statisticians, "
    "JASA 112(518)"
)
ZHANG_2022 = (
    "Zhang, Carpenter, Gelman & Vehtari (2022), Pathfinder: parallel quasi-Newton variational "
    "inference, JMLR 23(306)"
)
MCLACHLAN_2000 = "McLachlan & Peel (2000), Finite Mixture Models, Wiley"
VEHTARI_2017 = (
    "Vehtari, Gelman & Gabry (2017), Practical Bayesian model evaluation using leave-one-out "
    "cross-validation and WAIC, Statistics and Computing 27(5)"
)
BURDA_2015 = (
    "Burda, Grosse & Salakhutdinov (2015), Accurate and conservative estimates of MRF "
    "log-likelihood using reverse annealing, AISTATS"
)
WELLING_2011 = (
    "Welling & Teh (2011), Bayesian learning via stochastic gradient Langevin dynamics, ICML"
)
FISCHER_2014 = (
    "Fischer & Igel (2014), Training restricted Boltzmann machines: an introduction, Pattern "
    "Recognition 47(1)"
)
PRECHELT_2012 = (
    "Prechelt (2012), Early stopping: but when?, Neural Networks: Tricks of the Trade, 2nd ed."
)

KINDS: dict[str, Kind] = {
    "finite": Kind("Every number is finite", "posterior", ARITHMETIC),
    "moving": Kind("Every chain moves", "posterior", VEHTARI_2021),
    "divergences": Kind("No divergent transitions", "posterior", BETANCOURT_2017),
    "gradient_noise": Kind("The gradient's noise is drowned", "posterior", WELLING_2011),
    "e_bfmi": Kind("Energy mixes (E-BFMI ≥ 0.3)", "posterior", BETANCOURT_2016),
    "tree_depth": Kind("Trajectories end by themselves", "posterior", HOFFMAN_2014),
    "chains": Kind("Enough chains to compare (4)", "posterior", VEHTARI_2021),
    "multimodality": Kind("Chains found the same mode", "posterior", YAO_2022),
    "r_hat": Kind("Chains agree (R-hat ≤ 1.01)", "posterior", VEHTARI_2021),
    "nested_r_hat": Kind("Superchains agree (nested R-hat)", "posterior", MARGOSSIAN_2024),
    "ess_bulk": Kind("Enough effective draws (bulk)", "posterior", VEHTARI_2021),
    "ess_tail": Kind("Enough effective draws (tails)", "posterior", VEHTARI_2021),
    "mcse": Kind("Means are sharp (MCSE ≤ 0.1 sd)", "posterior", GELMAN_2013),
    "elbo": Kind("The ELBO has settled", "optimum", KUCUKELBIR_2017),
    "starts": Kind("Several starts agree", "optimum", BLEI_2017),
    "paths": Kind("Several paths carry the weight", "optimum", ZHANG_2022),
    "k_hat": Kind("Close enough to the posterior (k-hat)", "posterior", YAO_2018),
    "learning_curve": Kind("The learning curve has settled", "optimum", FISCHER_2014),
    "over_fitting": Kind("Rows kept apart are told as well as ever", "optimum", PRECHELT_2012),
    "converged": Kind("The ascent converged", "optimum", MCLACHLAN_2000),
    "degenerate": Kind("The best mode is not degenerate", "optimum", MCLACHLAN_2000),
    "restarts": Kind("Restarts agree (20 % at the best mode)", "optimum", MCLACHLAN_2000),
    "k_hat_loo": Kind("Leave-one-out scores are reliable", "loo", VEHTARI_2017),
    "likelihood_known": Kind("The likelihood is known (bounds meet)", "likelihood", BURDA_2015),
}
"""Every named check in order of cause: what comes first may explain what comes after."""


@dataclass(frozen=True)
class Check:
    """A named check of a fit."""

    name: str
    """Also what ``zoo explain`` knows it by."""
    scope: Scope
    passed: bool
    value: float | None
    threshold: float | None
    where: str
    """The worst place, in words: ``lowest 28 at tau``."""
    meaning: str
    advice: str
    """What to do next; empty where nothing needs doing."""
    source: str

    @property
    def title(self) -> str:
        """The check as a question in words."""
        return KINDS[self.name].title if self.name in KINDS else self.name.replace("_", " ")

    @property
    def decides(self) -> bool:
        """Whether the verdict rests on it."""
        return self.scope in DECIDING


def check(
    name: str,
    passed: bool,
    *,
    value: float | None = None,
    threshold: float | None = None,
    where: str = "",
    meaning: str = "",
    advice: str = "",
) -> Check:
    """A check of a known name; its advice is kept only where it failed."""
    kind = KINDS[name]
    return Check(
        name=name,
        scope=kind.scope,
        passed=passed,
        value=None if value is None or math.isnan(value) else float(value),
        threshold=threshold,
        where=where,
        meaning=meaning,
        advice="" if passed else advice,
        source=kind.source,
    )


def order_of_cause(name: str) -> int:
    """Place of a check in the order of causes; unknown ones come last."""
    known = list(KINDS)
    return known.index(name) if name in known else len(known)
