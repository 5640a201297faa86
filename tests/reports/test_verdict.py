"""The verdict on fits whose faults are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from storyzoo.inference.engine.method import Info
from storyzoo.reports.check import KINDS, check
from storyzoo.reports.verdict import Check, Verdict, judge
from tests.reports.trees import (
    AscentInfo,
    LaplaceInfo,
    ManyModes,
    Network,
    SampledInfo,
    Schools,
    VariationalInfo,
    autoregressive,
    normal_draws,
    sampler_stats,
    tree_of,
)


def sampled(
    posterior: dict[str, Any] | None = None, stats: dict[str, Any] | None = None, **settings: Any
) -> Verdict:
    """Verdict on draws of a sampler; healthy where nothing else is said."""
    posterior = normal_draws() if posterior is None else posterior
    chains, draws = posterior["mu"].shape
    stats = sampler_stats(chains, draws) if stats is None else stats
    info = settings.pop("info", SampledInfo())
    story = settings.pop("story", Schools())
    groups = settings.pop("groups", {})
    return judge(tree_of(posterior, stats, **groups), info, kind="draws", story=story, **settings)


def named(verdict: Verdict, name: str) -> Check:
    """The check of that name."""
    return next(c for c in verdict.checks if c.name == name)


def failed(verdict: Verdict) -> list[str]:
    """Names of the failed checks, in the verdict's order."""
    return [c.name for c in verdict.checks if not c.passed]


def test_independent_draws_are_trusted() -> None:
    verdict = sampled()
    assert (verdict.verdict, failed(verdict), verdict.do_next) == ("trust", [], ())
    assert len(verdict.checks) == 11
    assert verdict.headline.startswith("All 11 checks pass: worst R-hat 1.0")
    assert all(c.source and c.title and not c.advice for c in verdict.checks)


def test_a_shifted_chain_fails_r_hat_and_is_named() -> None:
    draws = normal_draws()
    draws["theta"][2, :, 0] += 4.0
    verdict = sampled(draws)
    assert verdict.verdict == "do not trust"
    assert failed(verdict)[0] == "r_hat"
    r_hat = named(verdict, "r_hat")
    assert r_hat.value is not None and r_hat.value > 1.05
    assert "theta[Choate]" in r_hat.where and r_hat.threshold == 1.01
    assert "--with draws=2000" in verdict.do_next[0]


def test_slow_chains_fail_ess() -> None:
    draws = normal_draws()
    draws["tau"] = autoregressive(0.99, 4, 1000)
    verdict = sampled(draws)
    assert verdict.verdict == "do not trust"
    assert {"ess_bulk", "ess_tail"} <= set(failed(verdict))
    bulk = named(verdict, "ess_bulk")
    assert bulk.where.startswith("lowest bulk ESS ") and bulk.where.endswith("at tau")
    assert bulk.threshold == 400
    assert "reparameterise" in verdict.do_next[-1]


def test_ess_threshold_follows_the_chains_and_advice_the_shortfall() -> None:
    draws = normal_draws(draws=60)
    verdict = sampled(draws)
    bulk = named(verdict, "ess_bulk")
    assert bulk.value is not None and bulk.value < 400 == bulk.threshold
    wanted = int(bulk.advice.split("draws=")[1].rstrip("`"))
    assert 60 * 400 / 300 < wanted < 500
    assert named(sampled(normal_draws(chains=6)), "ess_bulk").threshold == 600


def test_nearly_agreeing_chains_are_too_short() -> None:
    draws = normal_draws()
    draws["mu"][0] += 1.2  # 0.4 sd: R-hat about 1.02
    verdict = sampled(draws)
    r_hat = named(verdict, "r_hat")
    assert r_hat.value is not None and 1.01 < r_hat.value < 1.05
    assert verdict.verdict == "too short"
    assert "mu" in verdict.headline
    # Not when anything else fails.
    stats = sampler_stats(diverging=np.arange(4000).reshape(4, 1000) == 7)
    assert sampled(draws, stats).verdict == "do not trust"


def test_divergences_come_first_and_name_the_funnel() -> None:
    draws = normal_draws()
    neck = draws["tau"] < np.quantile(draws["tau"], 0.02)
    draws["mu"][1] += 9.0
    stats = sampler_stats(diverging=neck)
    verdict = sampled(draws, stats, story=Schools(centred=True))
    assert verdict.verdict == "do not trust"
    divergences = named(verdict, "divergences")
    assert divergences.where == "80 of 4000 draws diverged (2.0%), gathered where tau is small"
    assert failed(verdict)[0] == "divergences"
    assert verdict.do_next[0] == "Write the story non-centred: `--set centred=false`"
    assert failed(verdict).index("divergences") < failed(verdict).index("r_hat")
    # Scattered ones are nowhere in particular; another story gets another remedy.
    stats = sampler_stats(diverging=np.random.default_rng(0).random((4, 1000)) < 0.01)
    verdict = sampled(stats=stats)
    assert "gathered" not in named(verdict, "divergences").where
    assert "Reparameterise" in verdict.do_next[0] and "centred=" not in verdict.do_next[0]


def test_energy_that_creeps_fails_e_bfmi() -> None:
    energy = np.stack([*np.random.default_rng(0).normal(size=(3, 1000)),
                       autoregressive(0.98, 1, 1000)[0]])  # fmt: skip
    verdict = sampled(stats=sampler_stats(energy=energy))
    assert failed(verdict) == ["e_bfmi"]
    assert verdict.verdict == "do not trust"
    assert named(verdict, "e_bfmi").where.startswith("E-BFMI 0.0")


def test_tree_depth_tolerates_a_few() -> None:
    reached = np.zeros((4, 1000), bool)
    reached[0, :100] = True
    assert sampled(stats=sampler_stats(reached_max_treedepth=reached)).verdict == "trust"
    reached[1] = True
    verdict = sampled(stats=sampler_stats(reached_max_treedepth=reached))
    assert failed(verdict) == ["tree_depth"]
    assert named(verdict, "tree_depth").where == "1100 of 4000 draws at the deepest tree"


def test_few_chains() -> None:
    verdict = sampled(normal_draws(chains=2))
    assert (verdict.verdict, failed(verdict)) == ("do not trust", ["chains"])
    assert verdict.do_next == ("Run four chains: `--with chains=4`",)
    alone = sampled(normal_draws(chains=1))
    assert "r_hat" not in {c.name for c in alone.checks}
    assert alone.verdict == "do not trust"


def test_chains_in_two_modes_come_before_r_hat() -> None:
    draws = normal_draws()
    draws["mu"][2:] += 40.0
    stats = sampler_stats()
    stats["lp"][2:] -= 25.0
    verdict = sampled(draws, stats)
    assert failed(verdict)[:2] == ["multimodality", "r_hat"]
    where = named(verdict, "multimodality").where
    assert "at mu: chains 0, 1 near 3.9" in where and "chains 2, 3 near 44" in where
    assert "(log density -50.0)" in where and "(log density -74.9)" in where
    assert "--method map" in verdict.do_next[0]
    assert any("Run longer" in step for step in verdict.do_next)


def test_a_story_that_has_many_modes_says_what_to_do_with_them() -> None:
    draws = normal_draws()
    draws["mu"][2:] += 40.0
    verdict = sampled(draws, story=ManyModes())
    assert failed(verdict)[:2] == ["multimodality", "r_hat"]
    assert verdict.do_next == ("Read what they share.",)


def test_drifting_chains_are_not_called_modes() -> None:
    draws = normal_draws()
    draws["mu"] = np.cumsum(draws["mu"] - 4, axis=1)
    verdict = sampled(draws)
    assert named(verdict, "multimodality").passed
    assert not named(verdict, "r_hat").passed


def test_one_starting_point_is_said_and_does_not_fail() -> None:
    verdict = sampled(info=SampledInfo(one_mode=True))
    assert verdict.verdict == "trust"
    assert "Multimodality not tested" in verdict.headline
    assert "multimodality" not in {c.name for c in verdict.checks}
    assert any(note.startswith("multimodality not tested") for note in verdict.notes)
    assert "start=prior" in verdict.do_next[0]


def test_constants_are_fine_and_a_stuck_chain_is_not() -> None:
    draws = normal_draws()
    draws["one"] = np.ones((4, 1000))
    assert sampled(draws).verdict == "trust"
    draws["theta"][3, :, 1] = 2.5
    verdict = sampled(draws)
    assert failed(verdict)[0] == "moving"
    assert named(verdict, "moving").where == "chain 3 at theta[Deerfield] = 2.5"
    assert verdict.verdict == "do not trust"


def test_a_sampler_that_never_moved() -> None:
    still = {name: np.ones_like(values) for name, values in normal_draws().items()}
    verdict = sampled(still)
    assert failed(verdict) == ["moving"]
    assert named(verdict, "moving").where == "all 4 chains are at one point each"
    still["mu"] *= np.arange(4)[:, None]
    assert "moving" in failed(sampled(still))


def test_draws_that_are_not_finite() -> None:
    draws = normal_draws()
    draws["theta"][1, 17, 2] = np.inf
    verdict = sampled(draws)
    assert verdict.verdict == "do not trust"
    assert failed(verdict) == ["finite"]
    assert named(verdict, "finite").where == "1 value not finite; first at theta, chain 1, draw 17"


def test_three_draws_are_no_evidence() -> None:
    verdict = sampled(normal_draws(draws=3))
    assert {"r_hat", "ess_bulk", "ess_tail", "mcse"} <= set(failed(verdict))
    assert verdict.verdict == "do not trust"


def test_what_a_sampler_does_not_record_is_said_to_be_unchecked() -> None:
    verdict = sampled(stats={})
    assert verdict.verdict == "trust"
    assert {"divergences", "e_bfmi", "tree_depth"}.isdisjoint(c.name for c in verdict.checks)
    assert verdict.notes == (
        "not checked, since the sampler records none: divergences, E-BFMI, tree depth",
    )


def test_how_the_run_ended_and_the_engine_are_said() -> None:
    info = SampledInfo(stopped="interrupted", notes=("no compiler found: eager gradients",))
    verdict = sampled(info=info)
    assert verdict.verdict == "trust"
    assert "Cut short" in verdict.headline
    assert "--resume" in verdict.do_next[0]
    assert verdict.notes[-1] == "no compiler found: eager gradients"
    assert "minutes" in sampled(info=SampledInfo(stopped="minutes")).notes[0]


def test_identified_quantities_are_judged_where_a_story_names_them() -> None:
    draws = normal_draws()
    draws["prediction"] = np.random.default_rng(5).normal(size=(4, 1000, 3))
    draws["mu"][0] += 50.0  # a symmetry of the weights
    assert sampled(draws, story=Schools()).verdict == "do not trust"
    verdict = sampled(draws, story=Network())
    assert verdict.verdict == "trust"
    assert "prediction" in verdict.notes[0]
    del draws["prediction"]
    verdict = sampled(draws, story=Network())
    assert verdict.verdict == "do not trust"
    assert verdict.notes[0].startswith("not kept: prediction")


def test_loo_k_hats_never_decide() -> None:
    # One example whose likelihood hangs on a heavy tail of the draws.
    draws = normal_draws()
    heavy = np.random.default_rng(0).standard_cauchy((4, 1000))
    effect = np.stack([np.full((4, 1000), -1.0), -np.abs(heavy), draws["mu"] / 99], axis=-1)
    verdict = sampled(draws, groups={"log_likelihood": {"effect": effect}})
    assert verdict.verdict == "trust"
    loo = named(verdict, "k_hat_loo")
    assert (loo.scope, loo.passed) == ("loo", False)
    assert "1 of 3 examples" in loo.where and "school Deerfield" in loo.where
    assert "All 11 checks pass" in verdict.headline
    assert "held-out" in verdict.do_next[-1]


def test_checks_of_the_caller_are_kept_and_only_their_scope_decides() -> None:
    rough = Check("ais", "likelihood", False, 2.0, 0.5, "se 2 nats", "noisy", "More runs", "–")
    verdict = sampled(also=[rough])
    assert verdict.verdict == "trust"
    assert verdict.checks[-1] is rough
    assert verdict.do_next == ("More runs",)
    assert rough.title == "ais"
    assert sampled(also=[replace(rough, scope="posterior")]).verdict == "do not trust"


def test_every_check_stands_in_order_of_cause() -> None:
    draws = normal_draws(chains=3)
    draws["mu"][0] += 99.0
    draws["tau"][1] = 1.0
    draws["theta"][..., 0] = autoregressive(0.995, 3, 1000)
    draws["theta"][0, 0, 1] = np.nan
    stats = sampler_stats(
        3,
        energy=autoregressive(0.99, 3, 1000),
        diverging=np.ones((3, 1000), bool),
        reached_max_treedepth=np.ones((3, 1000), bool),
    )
    verdict = sampled(draws, stats)
    names = [name for name in KINDS if name in {c.name for c in verdict.checks}]
    assert [c.name for c in verdict.checks] == names
    assert set(failed(verdict)) == set(names)
    assert verdict.headline.startswith("11 of 11 checks fail: ")
    assert verdict.headline.endswith("and 8 more.")
    advice = [c.advice for c in verdict.checks]
    assert list(verdict.do_next) == list(dict.fromkeys(advice))


# -- approximations ------------------------------------------------------------------------


def approximated(width: float, info: Info, draws: int = 2000, dims: int = 5) -> Verdict:
    """Verdict on normal draws that are ``width`` times as wide as the normal posterior."""
    x = width * np.random.default_rng(0).normal(size=(1, draws, dims))
    stats = {
        "lp": norm.logpdf(x).sum(axis=-1),
        "log_q": norm.logpdf(x, scale=width).sum(axis=-1),
    }
    tree = tree_of({"weight": x}, stats)
    return judge(tree, info, kind="approximation", story=Schools())


def test_a_good_guide_is_approximate() -> None:
    verdict = approximated(1.0, VariationalInfo())
    assert (verdict.verdict, verdict.do_next) == ("approximate", ())
    assert [c.name for c in verdict.checks] == ["finite", "elbo", "starts", "k_hat"]
    assert "biased by construction" in verdict.headline


def test_a_narrow_guide_is_not_trusted() -> None:
    verdict = approximated(0.3, VariationalInfo())
    assert (verdict.verdict, failed(verdict)) == ("do not trust", ["k_hat"])
    assert named(verdict, "k_hat").threshold == pytest.approx(1 - 1 / np.log10(2000))
    assert "guide=multivariate" in verdict.do_next[0] and "--method nuts" in verdict.do_next[0]


def test_past_the_richest_guide_another_method_is_advised() -> None:
    verdict = approximated(0.3, VariationalInfo(guide="multivariate"))
    assert "guide=" not in verdict.do_next[0] and "--method nuts" in verdict.do_next[0]


def test_an_elbo_that_still_rises_comes_before_k_hat() -> None:
    info = VariationalInfo(settled=False, stopped="max_steps", starts=(-200.0, -260.0))
    verdict = approximated(0.3, info)
    assert failed(verdict) == ["elbo", "starts", "k_hat"]
    assert "max_steps" in verdict.do_next[0]
    assert named(verdict, "starts").where == "1 of 2 starts at the best ELBO (-200 nats)"


def test_one_start_of_svi_is_said() -> None:
    verdict = approximated(1.0, VariationalInfo(starts=(-200.0,)))
    assert verdict.verdict == "approximate"
    assert "other optima not looked for: one start only" in verdict.notes
    assert verdict.do_next == ("Look for other optima: `--with starts=10`",)


def test_k_hat_that_is_unknown_is_no_pass() -> None:
    verdict = approximated(1.0, VariationalInfo(), draws=20)
    assert (verdict.verdict, failed(verdict)) == ("do not trust", ["k_hat"])
    tree = tree_of({"theta": np.random.default_rng(0).normal(size=(1, 500, 3))}, {})
    verdict = judge(tree, VariationalInfo(), kind="approximation", story=Schools())
    assert verdict.verdict == "do not trust"


def test_laplace_is_judged_by_its_restarts_and_k_hat() -> None:
    info = LaplaceInfo(objectives=(-200.0,) * 5 + (-230.0,) * 5, degenerate=("",) * 10)
    verdict = approximated(1.0, info)
    assert verdict.verdict == "approximate"
    assert [c.name for c in verdict.checks] == [
        "finite",
        "k_hat",
        "converged",
        "degenerate",
        "restarts",
    ]
    assert approximated(0.3, info).verdict == "do not trust"
    lonely = replace(info, objectives=(-200.0,) + (-230.0,) * 9)
    assert failed(approximated(1.0, lonely)) == ["restarts"]


# -- points --------------------------------------------------------------------------------


def climbed(info: Info) -> Verdict:
    """Verdict on a point."""
    tree = tree_of({"mu": np.ones((1, 1)), "theta": np.ones((1, 1, 3))})
    return judge(tree, info, kind="point", story=Schools())


def test_a_point_that_restarts_agree_on() -> None:
    info = AscentInfo(
        stopped="settled",
        objectives=(-180.2, -180.185, -190.0, -185.0, -180.19),
        degenerate=("",) * 5,
        best=1,
    )
    verdict = climbed(info)
    assert (verdict.verdict, failed(verdict), verdict.do_next) == ("point estimate", [], ())
    assert named(verdict, "restarts").value == 0.6
    assert "3 of 5 restarts at the best mode (-180.185 nats)" in verdict.headline


def test_a_mode_that_one_in_ten_restarts_found() -> None:
    info = AscentInfo(objectives=(-180.0,) + (-190.0,) * 9, degenerate=("",) * 10)
    verdict = climbed(info)
    assert (verdict.verdict, failed(verdict)) == ("do not trust", ["restarts"])
    assert named(verdict, "restarts").value == pytest.approx(0.1)
    assert verdict.do_next == ("Search on: `--with restarts=50`",)
    more = replace(info, objectives=(-180.0,) + (-190.0,) * 49, degenerate=("",) * 50)
    assert climbed(more).do_next == ("Search on: `--with restarts=250`",)


def test_the_tolerance_is_relative_to_the_objective() -> None:
    near = AscentInfo(objectives=(-1e6,) + (-1e6 - 50,) * 9, degenerate=("",) * 10)
    assert climbed(near).verdict == "point estimate"
    far = AscentInfo(objectives=(-100.0,) + (-150.0,) * 9, degenerate=("",) * 10)
    assert climbed(far).verdict == "do not trust"


def test_degenerate_restarts_are_set_aside_and_a_degenerate_best_fails() -> None:
    spike = "component 2 sits on two points; use objective=posterior"
    info = AscentInfo(
        objectives=(-99.0, -180.0, -180.0, -180.0), degenerate=(spike, "", "", ""), best=1
    )
    verdict = climbed(info)
    assert verdict.verdict == "point estimate"
    assert named(verdict, "restarts").value == 0.75
    assert named(verdict, "degenerate").where == "1 of 4 restarts were, and were set aside"
    verdict = climbed(replace(info, best=0))
    assert (verdict.verdict, failed(verdict)) == ("do not trust", ["degenerate"])
    assert named(verdict, "degenerate").where == spike
    verdict = climbed(AscentInfo(objectives=(-99.0, -98.0), degenerate=(spike, spike)))
    assert failed(verdict) == ["degenerate", "restarts"]
    assert named(verdict, "restarts").where == "none of 2 restarts ended at a sane mode"


@pytest.mark.parametrize(
    ("stopped", "told"),
    [("max_steps", "max_steps"), ("minutes", "minutes"), ("interrupted", "--resume")],
)
def test_an_ascent_that_ran_out(stopped: str, told: str) -> None:
    info = AscentInfo(objectives=(-180.0,) * 5, degenerate=("",) * 5, stopped=stopped)
    verdict = climbed(info)
    assert (verdict.verdict, failed(verdict)) == ("do not trust", ["converged"])
    assert told in verdict.do_next[0]


def test_one_restart_is_said() -> None:
    verdict = climbed(AscentInfo(objectives=(-180.0,), degenerate=("",)))
    assert verdict.verdict == "point estimate"
    assert verdict.do_next == ("Look for other optima: `--with restarts=10`",)


def test_advice_is_for_failures_alone() -> None:
    assert check("r_hat", True, advice="x").advice == ""
    assert check("r_hat", False, value=float("nan"), advice="x").value is None
