"""The verdict on a fit: named checks, one word, and what to do next in order of cause.

Checks of the posterior and of the optimum decide; those of leave-one-out scores and of likelihood
estimates qualify those numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from storyzoo.inference.engine.estimated import BOUNDS
from storyzoo.inference.engine.method import Info
from storyzoo.inference.engine.psis import Loo, elpd_loo, proposal_stats
from storyzoo.reports.check import Check, check, order_of_cause
from storyzoo.reports.diagnostics import (
    Diagnostics,
    diagnose,
    example_name,
    superchains_of,
)
from storyzoo.reports.draw_checks import checks_of_draws
from storyzoo.reports.numbers import rounded
from storyzoo.reports.optimum_checks import (
    RESUME,
    checks_of_approximation,
    checks_of_point,
    finals,
)
from storyzoo.reports.stochastic_checks import checks_of_learning, noise_drowned
from storyzoo.story import Story

__all__ = ["Check", "Verdict", "judge"]

TRUST = "trust"
TOO_SHORT = "too short"
DO_NOT_TRUST = "do not trust"
APPROXIMATE = "approximate"
POINT = "point estimate"

COLLAPSED = (
    "a collapsed variational point: continuous latents were integrated out approximately, without "
    "a bound that could be checked to rise; it is a posterior mean under the final weights, no "
    "mode, and has no uncertainty of its own"
)

NEARLY = 1.05
"""R-hat up to which draws whose ESS passes are merely too few."""
EFFECTIVE = 0.25
"""Least share of effective samples for an estimated likelihood to be known."""
MEETING = 1.0
"""Nats per example up to which the bounds of an estimated log likelihood meet."""

RECORDED = {
    "diverging": "divergences",
    "energy": "E-BFMI",
    "reached_max_treedepth": "tree depth",
}
"""Statistics that a sampler may record, and the check that needs each."""


MIXING = ("r_hat", "nested_r_hat", "ess_bulk", "ess_tail", "mcse")
"""Checks that longer runs would mend, were there one mode."""


@dataclass(frozen=True)
class Verdict:
    """What to think of a fit."""

    verdict: str
    """``trust``, ``too short``, ``do not trust``, ``approximate`` or ``point estimate``."""
    headline: str
    checks: tuple[Check, ...]
    do_next: tuple[str, ...]
    """In order of cause, without repeats."""
    notes: tuple[str, ...] = ()
    """What was not checked, how the run ended, and what the engine had to say."""
    loo: Loo | None = field(default=None, repr=False, compare=False)
    """The leave-one-out score that was judged, where there is one."""

    @property
    def likelihood_known(self) -> bool:
        """Whether it is exact, or an estimate whose bounds meet."""
        return all(c.passed for c in self.checks if c.scope == "likelihood")


def judge(
    tree: xr.DataTree,
    info: Info,
    *,
    kind: str,
    story: Story,
    also: Sequence[Check] = (),
) -> Verdict:
    """Judge a fit whose labels are already matched.

    ``kind``: ``draws``, ``approximation`` or ``point``. ``also`` holds checks that only the
    caller can make, such as one of a likelihood estimate.
    """
    posterior = tree["posterior"].to_dataset()
    stats = tree["sample_stats"].to_dataset() if "sample_stats" in tree.children else xr.Dataset()
    notes = list(notes_of(info, kind, stats))
    if kind == "draws":
        judged, said = _judged(tree, story, superchains_of(info))
        notes += said
        found = list(checks_of_draws(posterior, stats, info, story, judged))
    elif kind == "approximation" and posterior.sizes["chain"] > 1:
        judged, said = _judged(tree, story, superchains_of(info))
        notes += said
        found = [noise_drowned(info), *checks_of_draws(posterior, stats, info, story, judged)]
    elif kind == "approximation":
        found = list(checks_of_approximation(posterior, proposal_stats(tree), info))
    elif hasattr(info, "training"):
        found = list(checks_of_learning(posterior, info))
    else:
        found = list(checks_of_point(posterior, info))
    loo = elpd_loo(tree, kind)
    if loo is not None:
        found.append(leave_one_out(loo))
    if BOUNDS in tree.children:
        found.append(likelihood_known(tree[BOUNDS].to_dataset()))
        if kind != "point":
            notes.append("no ELPD-LOO: it needs the exact likelihood of every draw, not estimates")
    checks = tuple(sorted([*found, *also], key=lambda c: order_of_cause(c.name)))
    word = decide(checks, "approximation" if getattr(info, "collapsed", False) else kind)
    return Verdict(
        verdict=word,
        headline=headline(word, checks, info),
        checks=checks,
        do_next=do_next(checks, info, kind, story),
        notes=tuple(notes),
        loo=loo,
    )


def decide(checks: Sequence[Check], kind: str) -> str:
    """The word that the checks of scope posterior and optimum come to."""
    failed = [c for c in checks if c.decides and not c.passed]
    if not failed:
        return {"draws": TRUST, "approximation": APPROXIMATE}.get(kind, POINT)
    only = failed[0]
    nearly = only.value is not None and only.value <= NEARLY
    if len(failed) == 1 and only.name in ("r_hat", "nested_r_hat") and nearly:
        return TOO_SHORT
    return DO_NOT_TRUST


def do_next(checks: Sequence[Check], info: Info, kind: str, story: Story) -> tuple[str, ...]:
    """Advice of the failed checks in order of cause, then what was left untested."""
    failed = [c for c in checks if not c.passed and c.advice]
    if story.several_modes and any(c.name == "multimodality" for c in failed):
        failed = [c for c in failed if c.name not in MIXING]
    steps = [c.advice for c in failed]
    if kind == "draws":
        if info.stopped == "interrupted":
            steps.append(RESUME)
        if getattr(info, "one_mode", False):
            steps.append(
                "Test for other modes: start the chains apart (`--with start=prior`), or look at "
                "`--method map --with restarts=50`"
            )
    elif _starts(info) == 1:
        setting = "starts" if finals(info, "starts").size else "restarts"
        steps.append(f"Look for other optima: `--with {setting}=10`")
    return tuple(dict.fromkeys(steps))


def notes_of(info: Info, kind: str, stats: xr.Dataset) -> list[str]:
    """How the run ended, what was not tested, and the engine's own notes."""
    notes = []
    if info.stopped == "interrupted":
        notes.append("cut short: interrupted before the end; judged on what there is")
    elif info.stopped == "minutes":
        notes.append("ended when its minutes were spent")
    if kind == "draws":
        if getattr(info, "one_mode", False):
            notes.append("multimodality not tested: all chains started at one mode")
        of_one_length = hasattr(info, "trajectory_length")  # such trajectories are no trees
        missing = [
            words
            for name, words in RECORDED.items()
            if name not in stats and not (of_one_length and words == "tree depth")
        ]
        if missing:
            notes.append(f"not checked, since the sampler records none: {', '.join(missing)}")
    elif _starts(info) == 1:
        notes.append("other optima not looked for: one start only")
    if getattr(info, "collapsed", False):
        notes += [COLLAPSED, *_spread(finals(info, "objectives"))]
    return [*notes, *info.notes]


def _spread(scores: np.ndarray) -> list[str]:
    """How far apart collapsed restarts ended, which never just agree."""
    if scores.size < 2:
        return []
    return [
        f"{scores.size} restarts ended between {scores.min():.6g} and {scores.max():.6g} nats; the "
        "best is shown, and others may read as well"
    ]


def headline(word: str, checks: Sequence[Check], info: Info) -> str:
    """One or two sentences: what the word rests on."""
    failed = [c for c in checks if c.decides and not c.passed]
    deciding = [c for c in checks if c.decides]
    worst = "; ".join(c.where for c in failed[:3] if c.where)
    more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
    by_name = {c.name: c for c in checks}
    text = {
        TRUST: f"All {len(deciding)} checks pass{_sampled(by_name)}.",
        TOO_SHORT: f"Sound but too short: {worst}. Run longer.",
        DO_NOT_TRUST: f"{len(failed)} of {len(deciding)} checks fail: {worst}{more}.",
        APPROXIMATE: f"Sound as far as its {len(deciding)} checks see"
        f"{_said(by_name, 'k_hat') or _said(by_name, 'r_hat')}, but biased by construction.",
        POINT: f"One point, without uncertainty{_said(by_name, 'restarts')}.",
    }[word]
    known = by_name.get("likelihood_known")
    if known is not None and not known.passed:
        text += f" The likelihood is not known: {known.where.partition(',')[0]}."
    if getattr(info, "collapsed", False):
        text += " One point, without uncertainty."
    if getattr(info, "one_mode", False):
        text += " Multimodality not tested: all chains started at one mode."
    if getattr(info, "held", 0):
        text += f" {info.held:,} weights are held at one point."  # type: ignore[attr-defined]
    if info.stopped == "interrupted":
        text += " Cut short: judged on what was drawn."
    return text


def leave_one_out(loo: Loo) -> Check:
    """k-hat of every example's leave-one-out weights; speaks of ELPD alone."""
    values = loo.k_hats.to_numpy()
    known = np.where(np.isnan(values), -np.inf, values)
    above = int((known >= loo.threshold).sum())
    seen = int((~np.isnan(values)).sum())
    if not seen:
        where, worst = "too few draws", float("nan")
    else:
        index = np.unravel_index(int(known.argmax()), known.shape)
        place = example_name(loo.k_hats, tuple(int(i) for i in index))
        worst = float(known[index])
        where = f"worst {worst:.2f} at {place}"
        where = f"{above} of {seen} examples; {where}" if above else where
    return check(
        "k_hat_loo",
        bool(seen) and not above,
        value=worst,
        threshold=loo.threshold,
        where=where,
        meaning="Leaving one of these examples out moves the posterior too far for reweighting: "
        "ELPD-LOO is too hopeful. The draws themselves may be perfect.",
        advice="Compare by held-out data instead of ELPD-LOO: `zoo compare`, or "
        "`zoo fit --holdout 0.2`",
    )


def likelihood_known(bounds: xr.Dataset) -> Check:
    """Whether the bounds of an estimated log likelihood meet; speaks of the likelihood alone.

    ``lower`` and ``upper`` are (chain, draw, example), nats: their mean gap at the worst draw.
    Bounds of few effective samples may meet by chance, since all may have missed a mode.
    """
    gaps = (bounds["upper"] - bounds["lower"]).to_numpy()
    gap = float(np.abs(gaps.reshape(*gaps.shape[:2], -1).mean(-1)).max())
    error, effective = float(bounds["standard_error"].max()), float(bounds["effective"].min())
    apart = f"bounds {rounded(gap, digits=2)} nats apart"
    weight = f"{effective:.0%} of the samples are effective"
    told = [apart, weight] if effective >= EFFECTIVE else [f"only {weight}", apart]
    return check(
        "likelihood_known",
        gap <= MEETING and effective >= EFFECTIVE,
        value=gap,
        threshold=MEETING,
        where=f"{', '.join(told)}, standard error {rounded(error, digits=2)} nats",
        meaning="The likelihood can only be estimated, here between a stochastic lower and upper "
        "bound. Where these don't meet its value is not known, however small its standard error, "
        "and neither are scores that rest on it; the parameters may be sound.",
        advice="Read every log likelihood as lying between its bounds. A smaller model, or priors "
        "that hold the parameters nearer to zero, is easier to estimate",
    )


def _judged(tree: xr.DataTree, story: Story, superchains: int) -> tuple[Diagnostics, list[str]]:
    """Diagnostics of what R-hat and ESS are judged on, and a note where that is a choice."""
    posterior = tree["posterior"].to_dataset()
    if not story.identified:
        return diagnose(posterior, superchains=superchains), []
    groups = [posterior]
    if "log_likelihood" in tree.children and BOUNDS not in tree.children:
        groups.append(tree["log_likelihood"].to_dataset())
    for group in groups:
        known = tuple(name for name in story.identified if name in group)
        if known:
            note = f"R-hat and ESS are judged on what is identified: {', '.join(known)}"
            return diagnose(group, known, superchains), [note]
    missing = ", ".join(story.identified)
    note = f"not kept: {missing}; R-hat and ESS are judged on all unknowns"
    return diagnose(posterior, superchains=superchains), [note]


def _starts(info: Info) -> int:
    """How many starts an ascent or SVI made; 0 where the method has none."""
    return max(finals(info, "objectives").size, finals(info, "starts").size)


def _sampled(checks: dict[str, Check]) -> str:
    said = [checks[name].where for name in ("r_hat", "nested_r_hat", "ess_bulk") if name in checks]
    said = [text for text in said if text]
    return f": {'; '.join(said)}" if said else ""


def _said(checks: dict[str, Check], name: str) -> str:
    return f" ({checks[name].where})" if name in checks and checks[name].where else ""
