"""Checks of draws from a sampler: are they draws from the posterior, and are there enough?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.stats import rankdata

from storyzoo.inference.engine.method import Info
from storyzoo.inference.engine.statistics import array_stats
from storyzoo.reports.check import Check, check
from storyzoo.reports.diagnostics import Array, Diagnostics
from storyzoo.story import Story

Flags = npt.NDArray[np.bool_]

E_BFMI = 0.3
CHAINS = 4
SETTLED = 0.5
"""Share of many short chains whose halves must agree before modes are told apart."""
LISTED = 8
"""Chains that are named one by one."""
MCSE = 0.1
"""Monte Carlo error of a mean in posterior sd: adds half a per cent to its uncertainty."""
TREE_DEPTH = 0.05
"""Share of draws cut off at the deepest tree: they stay valid but mix slowly (Stan's manual)."""
LINKED = 4.0
"""Standard errors by which the ranks of divergent draws must lie off centre to name a place."""
APART = 2.0
"""Within-chain sd between two modes: closer, two equal normals have one (Schilling et al. 2002)."""


def checks_of_draws(
    posterior: xr.Dataset, stats: xr.Dataset, info: Info, story: Story, judged: Diagnostics
) -> Iterator[Check]:
    """Every check of MCMC draws that the statistics at hand allow, in order of cause.

    ``judged`` holds the diagnostics of what R-hat and ESS are judged on.
    """
    yield finite(posterior)
    yield moving(judged, _chain_names(posterior))
    if "diverging" in stats:
        yield divergences(_by_chain(stats["diverging"]) > 0, judged, story)
    if "energy" in stats and stats.sizes["draw"] > 1:
        values = _by_chain(stats["energy"])
        yield energy_together(values) if judged.nested else energy(values, _chain_names(stats))
    if "reached_max_treedepth" in stats:
        yield tree_depth(_by_chain(stats["reached_max_treedepth"]) > 0)
    yield enough_chains(posterior.sizes["chain"])
    if posterior.sizes["chain"] > 1:
        if not getattr(info, "one_mode", False):
            lp = _by_chain(stats["lp"]) if "lp" in stats else None
            yield one_mode(judged, _chain_names(posterior), lp, story)
        yield agreement(judged, getattr(info, "warmup", 0))
    more = _more_draws(judged)
    yield effective(judged, "ess_bulk", judged.ess_bulk, more)
    yield effective(judged, "ess_tail", judged.ess_tail, more)
    yield sharp_means(judged, more)


def finite(posterior: xr.Dataset) -> Check:
    """No draw is nan or infinite."""
    worst, total = "", 0
    for name, array in posterior.data_vars.items():
        bad = ~np.isfinite(array.transpose("chain", "draw", ...).to_numpy())
        if bad.any() and not worst:
            chain, draw = np.argwhere(bad)[0][:2]
            worst = f"first at {name}, chain {_chain_names(posterior)[chain]}, draw {draw}"
        total += int(bad.sum())
    return check(
        "finite",
        total == 0,
        value=total,
        threshold=0,
        where=f"{total} value{'s' * (total > 1)} not finite; {worst}" if total else "",
        meaning="A draw that is not finite is no number to reason with; averages over it are void.",
        advice="Something overflows: standardise the data (`--data NAME:standardize=true`) or "
        "narrow the priors",
    )


def moving(judged: Diagnostics, chains: list[str]) -> Check:
    """No chain stays at one point: all its draws equal where other draws differ.

    An element that is constant over all chains is one by construction, unless every one is.
    """
    still = np.ptp(judged.draws, axis=2) == 0 if judged.draws.size else np.zeros((0, 0), bool)
    everything = bool(len(judged.names)) and not judged.varies.any() and bool(still.all())
    stuck = still if everything else still & judged.varies[:, None]
    places = np.argwhere(stuck)
    where = ""
    if everything:
        where = f"all {len(chains)} chains are at one point each"
    elif len(places):
        element, chain = places[0]
        held = sorted({int(c) for _, c in places})
        where = f"{_listed([chains[c] for c in held])} at {judged.names[element]}"
        where += f" = {judged.draws[element, chain, 0]:.4g}"
    return check(
        "moving",
        not len(places),
        value=len({int(c) for _, c in places}),
        threshold=0,
        where=where,
        meaning="A chain that stays where it is rejects every step: it says nothing about the "
        "posterior, and averages over it are wrong.",
        advice="Start elsewhere (another `--seed`) and warm up longer; a chain that sticks again "
        "sits at a point from which the density falls off too steeply: widen the priors there",
    )


def divergences(diverging: Flags, judged: Diagnostics, story: Story) -> Check:
    """No trajectory broke down; names the element whose tail the divergent draws gather in."""
    count, total = int(diverging.sum()), diverging.size
    place = gathering(diverging, judged)
    where = f"{count} of {total} draws diverged ({count / max(total, 1):.1%})"
    return check(
        "divergences",
        count == 0,
        value=count,
        threshold=0,
        where=where + (f", gathered where {place}" if place else "") if count else "",
        meaning="The integrator broke down where the posterior bends too sharply for its step "
        "(a funnel, a boundary), so the draws leave that region out and averages are biased.",
        advice=_unbend(story, place),
    )


def gathering(diverging: Flags, judged: Diagnostics) -> str:
    """Where divergent draws gather: ``tau is small``; empty where nowhere in particular.

    ``z = (mean rank of the divergent - 1/2) sqrt(12 n)`` for ranks uniform in (0, 1).
    """
    n = int(diverging.sum())
    if n < 5 or diverging.shape != judged.draws.shape[1:] or not judged.varies.any():
        return ""
    names = [name for name, varies in zip(judged.names, judged.varies, strict=True) if varies]
    flat = judged.draws[judged.varies].reshape(len(names), -1)
    ranks = (rankdata(flat, axis=1) - 0.5) / flat.shape[1]
    z = (ranks[:, diverging.ravel()].mean(axis=1) - 0.5) * math.sqrt(12 * n)
    worst = int(np.abs(z).argmax())
    if abs(z[worst]) < LINKED:
        return ""
    return f"{names[worst]} is {'large' if z[worst] > 0 else 'small'}"


def energy(values: Array, chains: list[str]) -> Check:
    """E-BFMI of each chain: ``sum (E_s - E_{s-1})^2 / sum (E_s - mean E)^2``."""
    with np.errstate(all="ignore"):
        bfmi = np.asarray(array_stats.bfmi(values), dtype=np.float64)
    known = bfmi[np.isfinite(bfmi)]
    lowest = float(known.min()) if known.size else float("nan")
    listed = ", ".join(
        f"{b:.2f} in chain {chain}" for chain, b in zip(chains, bfmi, strict=True) if b < E_BFMI
    )
    return _energy_mixes(not listed, lowest, f"E-BFMI {listed or f'lowest {lowest:.2f}'}")


def energy_together(values: Array) -> Check:
    """E-BFMI over many chains at once, each of which is too short for a sound one of its own."""
    with np.errstate(all="ignore"):
        bfmi = float((np.diff(values, axis=1) ** 2).mean() / values.var())
    return _energy_mixes(not bfmi < E_BFMI, bfmi, f"E-BFMI {bfmi:.2f} over all chains")


def _energy_mixes(passed: bool, value: float, where: str) -> Check:
    return check(
        "e_bfmi",
        passed,
        value=value,
        threshold=E_BFMI,
        where=where,
        meaning="Each draw changes the energy too little to cross the posterior: tails are heavy "
        "or a funnel is not reached to its end.",
        advice="Heavy tails or a funnel: use lighter-tailed priors or write the scale's group "
        "non-centred, and warm up longer",
    )


def tree_depth(reached: Flags) -> Check:
    """Few trajectories were cut off at the deepest tree."""
    share = float(reached.mean()) if reached.size else 0.0
    return check(
        "tree_depth",
        share <= TREE_DEPTH,
        value=share,
        threshold=TREE_DEPTH,
        where=f"{int(reached.sum())} of {reached.size} draws at the deepest tree",
        meaning="Trajectories are cut off before they turn back: the steps are tiny against the "
        "posterior's length, so that chains creep.",
        advice="Scales differ too much or parameters are nearly collinear: standardise the data "
        "(`--data NAME:standardize=true`), warm up longer, or `--with max_tree_depth=12`",
    )


def enough_chains(n_chains: int) -> Check:
    """Four chains or more, so that their disagreement can be seen."""
    return check(
        "chains",
        n_chains >= CHAINS,
        value=n_chains,
        threshold=CHAINS,
        where=f"{n_chains} chain{'s' * (n_chains != 1)}",
        meaning="With so few chains a mode that all of them miss, or a chain that is stuck, "
        "can't be seen.",
        advice="Run four chains: `--with chains=4`",
    )


def one_mode(judged: Diagnostics, chains: list[str], lp: Array | None, story: Story) -> Check:
    """No two groups of chains that each settled at a place of their own.

    So it is where, at one element, every chain's two halves agree (means within half its sd)
    while the chains' means leave a gap of more than two within-chain sd. Of many short chains some
    seem to drift by chance: there half of them will do.
    """
    place = _split(judged)
    where = "no chain settled at a place of its own"
    if place is not None:
        element, upper = place
        where = f"at {judged.names[element]}: " + " and ".join(
            _group(judged.draws[element], lp, chains, group) for group in (~upper, upper)
        )
    return check(
        "multimodality",
        place is None,
        where=where,
        meaning="Each chain settled in a mode of its own. How much weight a mode has can't be "
        "read off such draws: that is set by how many chains started near it.",
        advice=story.several_modes
        or "Several modes: find the highest with `--method map --with restarts=50`, then "
        "give priors that rule the others out, or report the modes one by one",
    )


def _split(judged: Diagnostics) -> tuple[int, Flags] | None:
    """The element with the widest gap between settled chains, and which chains lie above it."""
    if judged.draws.shape[2] < 4 or not judged.varies.any():
        return None
    half = judged.draws.shape[2] // 2
    with np.errstate(all="ignore"):
        mean, sd = judged.draws.mean(axis=2), judged.draws.std(axis=2)
        drift = judged.draws[..., :half].mean(axis=2) - judged.draws[..., -half:].mean(axis=2)
        share = SETTLED if judged.nested else 1.0
        settled = ((np.abs(drift) < 0.5 * sd).mean(axis=1) >= share) & judged.varies
        ordered = np.sort(mean, axis=1)
        gaps = np.diff(ordered, axis=1)
        within = np.sqrt((sd**2).mean(axis=1))
        width = np.where(settled, gaps.max(axis=1) / within, -np.inf)
    element = int(np.nanargmax(width))
    if not width[element] > APART:
        return None
    at = int(gaps[element].argmax())
    return element, mean[element] > ordered[element, at : at + 2].mean()


def _group(draws: Array, lp: Array | None, chains: list[str], group: Flags) -> str:
    """``chains 0, 2 near -3.1 (log density -210.4)``."""
    names = [name for name, member in zip(chains, group, strict=True) if member]
    text = f"{_listed(names)} near {draws[group].mean():.3g}"
    return text if lp is None else f"{text} (log density {lp[group].mean():.1f})"


def agreement(judged: Diagnostics, warmup: int) -> Check:
    """Rank-normalised split R-hat of every element, or nested R-hat of many short chains."""
    worst, name = _worst(judged, judged.r_hat, highest=True)
    limit = judged.limits.r_hat
    above = int((judged.r_hat[judged.varies] > limit).sum())
    many = f"; {above} of {len(judged.names)} above {limit:.4g}" if above > 1 else ""
    draws = judged.draws.shape[2]
    longer = f"`--with draws={_nice(2 * draws)}"
    longer += f" --with warmup={_nice(2 * warmup)}`" if warmup and worst > 1.05 else "`"
    parts = "The superchains" if judged.nested else "The chains, or the halves of one,"
    return check(
        "nested_r_hat" if judged.nested else "r_hat",
        not name or worst <= limit,
        value=worst,
        threshold=limit,
        where=f"worst {'nested ' * judged.nested}R-hat {worst:.3f} at {name}{many}" if name else "",
        meaning=f"{parts} have not forgotten where they started: they do not yet describe one "
        "distribution.",
        advice=f"Run longer: {longer}"
        + ("; if R-hat stays, look at the ranks for a stuck chain" if worst > 1.05 else ""),
    )


def effective(judged: Diagnostics, name: str, ess: Array, more: str) -> Check:
    """Effective sample size of every element: 100 per chain, or 400 of many short chains."""
    threshold = judged.limits.ess
    worst, element = _worst(judged, ess, highest=False)
    part = name.removeprefix("ess_")
    bulk = "means and R-hat itself" if part == "bulk" else "the ends of the intervals"
    return check(
        name,
        not element or worst >= threshold,
        value=worst,
        threshold=threshold,
        where=f"lowest {part} ESS {worst:,.0f} at {element}" if element else "",
        meaning=f"The draws are so alike that they count as few independent ones; {bulk} are "
        "not reliable yet.",
        advice=more,
    )


def sharp_means(judged: Diagnostics, more: str) -> Check:
    """Monte Carlo standard error of each posterior mean against the posterior's own sd."""
    worst, name = _worst(judged, judged.mcse, highest=True)
    return check(
        "mcse",
        not name or worst <= MCSE,
        value=worst,
        threshold=MCSE,
        where=f"worst MCSE {worst:.3f} sd at {name}" if name else "",
        meaning="Another run would give visibly different means.",
        advice=more,
    )


def _worst(judged: Diagnostics, values: Array, *, highest: bool) -> tuple[float, str]:
    """The worst value over what varies and its element; one that is unknown counts as worst.

    nan and no name where nothing varies.
    """
    if not judged.varies.any():
        return math.nan, ""
    bad = np.inf if highest else 0.0
    known = np.where(np.isfinite(values), values, bad)
    ranked = np.where(judged.varies, known, -np.inf if highest else np.inf)
    place = int(ranked.argmax() if highest else ranked.argmin())
    return float(known[place]), judged.names[place]


def _more_draws(judged: Diagnostics) -> str:
    """How many draws would do, or that more of the same won't."""
    wanted = judged.limits.ess
    if not judged.varies.any():
        return ""
    got = min(_worst(judged, ess, highest=False)[0] for ess in (judged.ess_bulk, judged.ess_tail))
    means = _worst(judged, judged.mcse, highest=True)[0]
    factor = max(wanted / max(got, 1.0), (means / MCSE) ** 2 if math.isfinite(means) else 1.0)
    draws = _nice(1.2 * factor * judged.draws.shape[2])
    if factor <= 10:
        return f"Draw more: `--with draws={draws}`"
    return (
        f"Slow mixing rarely cures itself (`--with draws={draws}` would be needed): put right what "
        "stands above, or reparameterise"
    )


def _unbend(story: Story, place: str) -> str:
    """What to do about divergences, for this story."""
    if getattr(story, "centred", False):
        return "Write the story non-centred: `--set centred=false`"
    spot = f" where {place}" if place else ""
    return (
        f"Reparameterise{spot} (a non-centred form, a prior that keeps scales off zero); if few "
        "are left, take smaller steps: `--with target_accept=0.95`"
    )


def _listed(chains: list[str]) -> str:
    """``chains 0, 2``, or how many where they are too many to name."""
    if len(chains) > LISTED:
        return f"{len(chains)} chains"
    return f"chain{'s' * (len(chains) > 1)} {', '.join(chains)}"


def _nice(count: float) -> int:
    """Rounded up to two leading digits: 1234 -> 1300."""
    step = int(10 ** max(int(math.log10(max(count, 1.0))) - 1, 0))
    return math.ceil(count / step) * step


def _by_chain(array: xr.DataArray) -> Array:
    """Values in the shape (chain, draw)."""
    return np.asarray(array.transpose("chain", "draw").to_numpy(), dtype=np.float64)


def _chain_names(dataset: xr.Dataset) -> list[str]:
    if "chain" in dataset.coords:
        return [str(chain) for chain in dataset.coords["chain"].to_numpy()]
    return [str(chain) for chain in range(dataset.sizes["chain"])]
