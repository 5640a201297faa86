"""One fit in numbers: what ``summary.json`` holds, in the units that its names say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from storyzoo.inference.engine.heldout import Completed, Predictive, Sequential
from storyzoo.inference.engine.method import Info, Method
from storyzoo.reports.optimum_checks import finals
from storyzoo.reports.verdict import Verdict
from storyzoo.story import Story

HELDOUT = "heldout_log_likelihood_nats_per_example"


class Judged(Protocol):
    """What a summary reads of a fit."""

    @property
    def story(self) -> Story: ...
    @property
    def method(self) -> Method: ...
    @property
    def seed(self) -> int: ...
    @property
    def info(self) -> Info: ...
    @property
    def verdict(self) -> Verdict: ...
    @property
    def data_name(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def heldout(self) -> Predictive | None: ...
    @property
    def fitted(self) -> Predictive | None: ...
    @property
    def completed(self) -> Completed | None: ...
    @property
    def sequential(self) -> Sequential | None: ...


def summary_of(fit: Judged) -> dict[str, Any]:
    """The content of ``summary.json``; numbers that are not finite become None."""
    summary = {
        "story": fit.story.name,
        "data": fit.data_name,
        "method": fit.method.name,
        "seed": fit.seed,
        "seconds": fit.seconds,
        "compile_seconds": fit.info.compile_seconds,
        "gradient_evaluations": fit.info.gradient_evaluations,
        "cut_short": fit.info.cut_short,
        "verdict": fit.verdict.verdict,
        "checks": [
            {
                "name": check.name,
                "scope": check.scope,
                "passed": check.passed,
                "value": check.value,
                "threshold": check.threshold,
                "where": check.where,
                "advice": check.advice,
            }
            for check in fit.verdict.checks
        ],
        "metrics": metrics_of(fit),
    }
    plain: dict[str, Any] = json_safe(summary)
    return plain


def metrics_of(fit: Judged) -> dict[str, float]:
    """Every metric that applies, by a name that carries its unit."""
    metrics = heldout_metrics(fit.heldout) | completion_metrics(fit.completed)
    metrics |= fitted_metrics(fit.fitted)
    metrics |= left_to_right_metrics(fit.sequential)
    loo = fit.verdict.loo
    if loo is not None:
        metrics |= {"elpd_loo": loo.value, "elpd_loo_se": loo.se}
    metrics |= _of_objective(fit.info)
    values = {check.name: check.value for check in fit.verdict.checks}
    named = {
        "k_hat": "k_hat",
        "r_hat": "r_hat_max",
        "nested_r_hat": "r_hat_max",
        "ess_bulk": "ess_bulk_min",
        "ess_tail": "ess_tail_min",
    }
    for check, metric in named.items():
        value = values.get(check)
        if value is not None:
            metrics[metric] = value
    sampling = fit.seconds - fit.info.compile_seconds
    if "ess_bulk_min" in metrics and sampling > 0:
        metrics["ess_per_second"] = metrics["ess_bulk_min"] / sampling
    return metrics


def heldout_metrics(heldout: Predictive | None) -> dict[str, float]:
    """Log predictive density of the held-out examples, with the standard error of its mean.

    ``se^2 = var_n / N + (Monte Carlo error)^2``: over examples, and over draws. The latter alone
    is ``_se_over_draws``.
    """
    if heldout is None or not heldout.nats.size:
        return {}
    nats = np.asarray(heldout.nats)
    known = nats.size > 1 and np.isfinite(nats).all()
    over_examples = nats.var(ddof=1) / nats.size if known else math.nan
    error = float(np.sqrt(over_examples + heldout.mean_se**2))
    return {f"heldout_{name}": value for name, value in _likelihoods(heldout, error).items()}


def fitted_metrics(fitted: Predictive | None) -> dict[str, float]:
    """Log predictive density of the examples fitted; exact but for the draws and the likelihood."""
    if fitted is None or not fitted.nats.size:
        return {}
    return _likelihoods(fitted, fitted.mean_se or None)


def _likelihoods(found: Predictive, error: float | None) -> dict[str, float]:
    """In nats, nats per example and (discrete data) bits per dim, with error and bounds.

    ``error`` is that of the mean over the examples, nats; None where there is none. What of it is
    Monte Carlo error stands beside, but where it is the normaliser's and there are bounds.
    """
    size = found.nats.size
    factors = {"log_likelihood_nats": float(size), "log_likelihood_nats_per_example": 1.0}
    if found.values is not None and found.values.sum() > 0:
        factors["bits_per_dim"] = -size / (math.log(2) * float(found.values.sum()))
    metrics = {}
    for name, factor in factors.items():
        metrics[name] = factor * float(found.nats.mean())
        if error is not None:
            metrics[f"{name}_se"] = abs(factor) * error
        if found.lower is None and found.mean_se:
            metrics[f"{name}_se_over_draws"] = abs(factor) * found.mean_se
        if found.lower is not None and found.upper is not None:
            ends = [factor * float(end.mean()) for end in (found.lower, found.upper)]
            metrics[f"{name}_lower"], metrics[f"{name}_upper"] = min(ends), max(ends)
    return metrics | _by_observation(found)


def _by_observation(found: Predictive) -> dict[str, float]:
    """Sequences by their steps: nats and bits of each, and the perplexity.

    ``r = sum_n nats_n / sum_n size_n`` over all steps, END among them where sequences tell it;
    ``se^2 = N / (N - 1) sum_n (nats_n - r size_n)^2 / (sum_n size_n)^2``, with the Monte Carlo
    error beside it. Bits are ``-r / log 2``, perplexity is ``exp(-r)``.
    """
    if found.sizes is None or not found.observation or not found.sizes.sum():
        return {}
    n, steps = found.nats.size, float(found.sizes.sum())
    rate = float(found.nats.sum()) / steps
    metrics = {
        f"log_likelihood_nats_per_{found.observation}": rate,
        f"bits_per_{found.observation}": -rate / math.log(2),
        "perplexity": math.exp(min(700.0, -rate)),
    }
    if found.nats_by_step is not None:
        metrics[f"step_by_step_nats_per_{found.observation}"] = found.nats_by_step
    if n > 1:
        spread = np.square(found.nats - rate * found.sizes).sum() * n / (n - 1)
        error = math.hypot(math.sqrt(spread), n * found.mean_se) / steps
        factors = (1.0, 1 / math.log(2), metrics["perplexity"])
        metrics |= {
            f"{name}_se": factor * error
            for name, factor in zip(list(metrics)[: len(factors)], factors, strict=True)
        }
    return metrics


def completion_metrics(completed: Completed | None) -> dict[str, float]:
    """Halves of held-out examples foretold from the others: nats per observation, perplexity."""
    if completed is None:
        return {}
    name = f"heldout_completion_nats_per_{completed.observation}"
    perplexity = completed.perplexity
    return {
        name: completed.nats,
        f"{name}_se": completed.se,
        "heldout_perplexity": perplexity,
        "heldout_perplexity_se": perplexity * completed.se,
    }


def left_to_right_metrics(found: Sequential | None) -> dict[str, float]:
    """Held-out examples read from left to right: nats per example and per observation.

    ``_se`` is over examples and particles together, ``_se_over_particles`` over these alone. Per
    observation it is ``r = sum_n nats_n / sum_n size_n``, with ``se^2 = (N / (N - 1) sum_n (nats_n
    - r size_n)^2 + sum_n se_n^2) / (sum_n size_n)^2``.
    """
    if found is None or not found.nats.size:
        return {}
    n, words = found.nats.size, found.sizes.sum()
    ratio, particles = found.nats.sum() / words, np.sqrt(np.square(found.se).sum())
    many = n > 1
    over_words = np.square(found.nats - ratio * found.sizes).sum() * n / (n - 1) if many else np.nan
    over_examples = found.nats.var(ddof=1) * n if many else np.nan
    metrics = {}
    for what, value, spread, size in (
        (found.observation, ratio, over_words, words),
        ("example", found.nats.mean(), over_examples, n),
    ):
        name = f"heldout_left_to_right_nats_per_{what}"
        metrics[name] = float(value)
        metrics[f"{name}_se"] = float(np.sqrt(spread + particles**2) / size)
        metrics[f"{name}_se_over_particles"] = float(particles / size)
    return metrics


def _of_objective(info: Info) -> dict[str, float]:
    """What the method climbed or estimated, nats."""
    found = {}
    elbo, objectives = finals(info, "elbo"), finals(info, "objectives")
    if elbo.size:
        found["elbo_nats"] = float(elbo[-1])
        se = float(getattr(info, "elbo_se", math.nan))
        if math.isfinite(se):
            found["elbo_nats_se"] = se
    if objectives.size:
        found["objective_nats"] = float(objectives[int(getattr(info, "best", 0))])
    elif (path := finals(info, "path")).size:  # in closed form, without a search
        found["objective_nats"] = float(path[-1])
    evidence = getattr(info, "log_evidence", None)
    if evidence is not None:
        found["log_evidence_nats"] = float(evidence)
    return found


def json_safe(value: Any) -> Any:
    """Plain values that any JSON reader takes: None where a number is not finite."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, np.ndarray):
        return json_safe(value.tolist())
    if isinstance(value, np.generic):
        return json_safe(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
