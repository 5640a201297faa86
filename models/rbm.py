"""The restricted Boltzmann machine: pixels that agree because hidden units ask them to.

What the story says
-------------------
A layer of H hidden units, each on or off, is tied to a layer of V visible ones; none is tied to
another of its own layer. An image and a state of the hidden units have a joint density, known but
for a factor, which says how well they go together (Smolensky 1986)::

    weight_ih       ~ Normal(0, weight_sd)          how strongly unit h wants pixel i
    visible_bias_i  ~ Normal(0, bias_sd)            how likely the pixel is by itself
    hidden_bias_h   ~ Normal(0, bias_sd)            how likely the unit is by itself
    log p(v, h)     = b·v + c·h + v·W h - log Z

``visible`` chooses the kind of pixel: ``bernoulli`` (0 or 1, as above), ``categorical`` (0 to
``levels`` - 1, with a weight and a bias for each level: Salakhutdinov, Mnih and Hinton 2007) or
``gaussian`` (real numbers, with a ``scale_i`` of their own)::

    scale_i         ~ LogNormal(log spread_i, 1)
    visible_bias_i  ~ Normal(centre_i, bias_sd spread_i)
    log p(v, h)     = -|(v - b)/s|^2 / 2 + c·h + ((v - b)/s)·W h - log Z

Deviations from the bias meet the weights, so that weight and hidden_bias have no unit and do not
depend on where the data's zero is. The hidden units are summed out exactly: given an image they
are independent, and so are pixels given the hidden units.

Whether the likelihood is known
-------------------------------
Z sums over all states of the smaller layer. Up to 20 units that is done, and the story has an
exact likelihood that any method can climb or sample. Beyond, ``scaled_to`` sets ``likelihood`` to
``estimated``: methods that need the density refuse, those that follow the gradient by chains
(``contrastive``, ``sgld``) remain, and scores are estimates by annealed importance sampling
(Salakhutdinov and Murray 2008) between a stochastic lower and upper bound. ``likelihood`` may also
be set by hand: ``exact`` is refused where it is not possible.

Priors
------
The prior keeps weights, and so contrasts, finite, and it has its price. On bars-and-stripes 4 by 4
with 16 hidden units no machine reaches more than -3.401 nats per image; the best of three ascents
ended at -8.41 under ``weight_sd`` and ``bias_sd`` of 1, at -3.95 under 3 and at -3.49 under 10. The
default, 3, leaves room for pixels that decide another while a sampler still finds its way; lower
it where there are few rows, raise it to see how far a machine can go, or use
``objective=likelihood``. ``centre`` and ``spread``, in the units of v, are set from the data once,
by ``scaled_to``; unset they are 0 and 1. They are read by gaussian pixels only.

Constant pixels
---------------
A pixel that never changes is common at the rim of an image and is no fault: the prior keeps its
log odds finite, and the fit says in a note which pixels they are. Without the prior
(``objective=likelihood``) its bias grows until nothing is left to gain; the other pixels are not
touched by that. A constant gaussian pixel is refused, as no density over it is bounded.

Missing values
--------------
NaN is a pixel that was not observed. Where the likelihood is exact it is that of what was;
elsewhere a row that has to be scored must be complete. ``impute`` draws missing pixels given the
others with either: at once where the hidden layer is small, else by Gibbs sweeps that hold what is
known.

When to use it, and what it can't do
------------------------------------
For binary images and other vectors of which many parts agree or exclude one another, as a density
(simulate, score, fill in) and for features: ``latent`` gives the probability of each hidden unit.
Parameters are not identified beyond the order of the hidden units: a unit can be turned over, or
two of them can share the work of one, so single weights have no meaning across chains. R-hat is
judged on what does not depend on that (``mean_log_likelihood``, ``visible_mean`` and, up to 16
pixels, ``visible_correlation``), which are kept where the sum is quick. Rows must be independent.
Gaussian pixels share their noise whatever the hidden units say: for grey images that is crude.

Sites: weight (pixel, hidden), visible_bias (pixel), hidden_bias (hidden); categorical: weight
(pixel, level, hidden), visible_bias (pixel, level); gaussian: scale (pixel). Deterministic, where
exact: mean_log_likelihood, nats per row (of the data with holes filled by the median, where there
are some), visible_mean (pixel) or (pixel, level), visible_correlation (pair), pairs in the order
(0, 1), (0, 2), …, (1, 2), …. Data: v (row, pixel).

References
----------
Smolensky (1986), Information processing in dynamical systems. Hinton (2002), Neural Computation
14, 1771-1800 (contrastive divergence). Tieleman (2008), ICML (persistent chains). Salakhutdinov
and Murray (2008), ICML (annealed importance sampling). Melchior, Fischer and Wiskott (2016), JMLR
17 (centring). Fischer and Igel (2014), Pattern Recognition 47 (a tutorial).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from storyzoo.errors import DataError, SettingError, nearest
from storyzoo.models.distributions.boltzmann import MOST_UNITS, Boltzmann
from storyzoo.models.kernels import boltzmann, boltzmann_conditional, boltzmann_gradient
from storyzoo.models.kernels.boltzmann_gradient import Layers
from storyzoo.story import Data, Fantasies, Latents, LikelihoodEstimate, Story

Visible = Literal["bernoulli", "categorical", "gaussian"]
Likelihood = Literal["auto", "exact", "estimated"]

KINDS = ("bernoulli", "categorical", "gaussian")
LIKELIHOODS = ("auto", "exact", "estimated")
QUICK_TERMS = 2**22
"""States of the smaller layer times units of the larger, up to which expectations are kept."""
MOST_PAIRED = 16
"""Pixels up to which the correlation of every pair is kept."""
START_SD = 0.1
"""Of the weights at the start of an ascent: small enough for linear units, large enough to part."""
NAMED = 5
"""Constant pixels that a note names."""
LISTED_UNITS = 12
"""Hidden units up to which what is missing is drawn from its exact conditional."""
CLAMPED_SWEEPS = 200
"""Of the chains that fill in what is missing elsewhere."""
TRACED_CHAINS = 8
"""Simulating chains whose free energies are followed."""
ANNEALED_CHAINS, ANNEALED_STEPS = 500, 2000
"""Of the annealed importance sampling that estimates log Z."""
LARGE, FEWER_CHAINS = 50_000, 100
"""Weights above which a machine is annealed in fewer chains: seconds rather than minutes."""


@dataclass(frozen=True)
class RestrictedBoltzmann(Story):
    """Hidden units, each tied to every pixel, that make pixels agree (Smolensky 1986)."""

    n_hidden: int = 16
    visible: Visible = "bernoulli"
    """The kind of pixel."""
    levels: int = 2
    """Of categorical pixels, whose values are 0 to ``levels`` - 1."""
    weight_sd: float = 3.0
    """Prior sd of a weight."""
    bias_sd: float = 3.0
    """Prior sd of a bias; for gaussian pixels in units of ``spread``."""
    likelihood: Likelihood = "auto"
    """Whether log Z is summed or estimated; ``scaled_to`` decides by the size of the layers."""
    centre: float | tuple[float, ...] | None = None
    """Gaussian: prior mean of ``visible_bias``, units of v; by ``scaled_to`` the columns' means."""
    spread: float | tuple[float, ...] | None = None
    """Gaussian: prior median of ``scale``, units of v; by ``scaled_to`` the columns' deviations."""

    name = "rbm"
    data_dims = {"v": ("row", "pixel")}
    examples = "row"
    exchangeable = {"hidden": ("hidden",)}
    identified = ("mean_log_likelihood", "visible_mean", "visible_correlation")

    def __post_init__(self) -> None:
        if not isinstance(self.n_hidden, int) or self.n_hidden < 1:
            raise SettingError(f"rbm: n_hidden={self.n_hidden!r} must be at least 1")
        if self.visible not in KINDS:
            raise SettingError(f"rbm: visible={self.visible!r}: {nearest(self.visible, KINDS)}")
        if self.likelihood not in LIKELIHOODS:
            raise SettingError(
                f"rbm: likelihood={self.likelihood!r}: {nearest(self.likelihood, LIKELIHOODS)}"
            )
        if not isinstance(self.levels, int) or self.levels < 2:
            raise SettingError(f"rbm: levels={self.levels!r} must be at least 2")
        for name in ("weight_sd", "bias_sd"):
            if not getattr(self, name) > 0:
                raise SettingError(f"rbm: {name}={getattr(self, name)!r} must be above zero")
        for name in ("centre", "spread"):
            value = getattr(self, name)
            if isinstance(value, list | tuple | np.ndarray):
                object.__setattr__(self, name, tuple(float(v) for v in value))
        if self.spread is not None and not np.all(np.asarray(self.spread) > 0):
            raise SettingError(f"rbm: spread={self.spread!r} must be above zero in every column")

    @property
    def event_dims(self) -> Mapping[str, tuple[str, ...]]:
        pixel = ("pixel", "level") if self.visible == "categorical" else ("pixel",)
        return {
            "weight": (*pixel, "hidden"),
            "visible_bias": pixel,
            "hidden_bias": ("hidden",),
            "scale": ("pixel",),
            "v": ("pixel",),
            "visible_mean": pixel,
            "visible_correlation": ("pair",),
        }

    @property
    def units(self) -> Mapping[str, str]:
        if self.visible != "gaussian":
            return {}
        return {"visible_bias": "location", "visible_mean": "location", "scale": "scale"}

    def model(self, v: Tensor) -> None:
        """The story in the module's docstring."""
        size = v.shape[-1]
        units = (size, self.levels) if self.visible == "categorical" else (size,)
        latents = {
            "weight": pyro.sample(
                "weight", _normal(torch.zeros(*units, self.n_hidden), self.weight_sd)
            )
        }
        centre, spread = torch.zeros(units), torch.ones(units)
        if self.visible == "gaussian":
            centre = _per_column(self.centre, 0.0, size)
            spread = _per_column(self.spread, 1.0, size)
            latents["scale"] = pyro.sample("scale", dist.LogNormal(spread.log(), 1.0).to_event(1))
        latents["visible_bias"] = pyro.sample(
            "visible_bias", _normal(centre, self.bias_sd * spread)
        )
        latents["hidden_bias"] = pyro.sample(
            "hidden_bias", _normal(torch.zeros(self.n_hidden), self.bias_sd)
        )
        machine = self.machine(latents)
        if self._is_quick(size):
            self._expectations(machine, v)
        with pyro.plate("row", len(v)):
            pyro.sample("v", machine, obs=v)

    def machine(self, latents: Latents, log_partition: float | None = None) -> Boltzmann:
        """The distribution of a row at given latents."""
        hidden_bias = latents["hidden_bias"]
        if self.visible == "gaussian":  # the machine weighs v/s, the story (v - b)/s
            shift = (latents["visible_bias"] / latents["scale"]) @ latents["weight"]
            hidden_bias = hidden_bias - shift
        return Boltzmann(
            latents["weight"],
            latents["visible_bias"],
            hidden_bias,
            visible=self.visible,
            scale=latents.get("scale"),
            log_partition=log_partition,
        )

    def _expectations(self, machine: Boltzmann, v: Tensor) -> None:
        """What is identified, exactly."""
        log_weight = -machine.free_energy(v.to(machine.weight.dtype)).mean()
        pyro.deterministic(
            "mean_log_likelihood", log_weight - machine.exact_log_partition(), event_dim=0
        )
        mean = machine.visible_mean()
        pyro.deterministic("visible_mean", mean, event_dim=mean.dim())
        size = v.shape[-1]
        if self.visible == "categorical" or not 2 <= size <= MOST_PAIRED:
            return
        covariance = machine.visible_second_moment() - mean.unsqueeze(-1) * mean
        sd = covariance.diagonal().clamp(min=torch.finfo(covariance.dtype).tiny).sqrt()
        first, second = torch.triu_indices(size, size, offset=1, device=covariance.device)
        pyro.deterministic(
            "visible_correlation",
            covariance[first, second] / (sd[first] * sd[second]),
            event_dim=1,
        )

    # -- whether the likelihood is known -------------------------------------------------------

    def _smaller(self, size: int) -> float:
        """Binary units over whose states log Z sums; gaussian pixels can't be listed."""
        bits = {"bernoulli": 1.0, "categorical": math.log2(self.levels), "gaussian": math.inf}
        return min(self.n_hidden, size * bits[self.visible])

    def _is_exact(self, size: int) -> bool:
        if self.likelihood == "auto":
            return self._smaller(size) <= MOST_UNITS
        return self.likelihood == "exact"

    def _is_quick(self, size: int) -> bool:
        """Whether expectations under the machine can be kept for every draw."""
        terms = 2 ** min(self._smaller(size), MOST_UNITS) * max(self.n_hidden, size)
        return self._is_exact(size) and terms <= QUICK_TERMS

    def intractable(self) -> str | None:
        """Why log Z is estimated; asked of a story that has seen the data."""
        if self.likelihood != "estimated":
            return None
        return (
            f"its normaliser sums over the states of {self.n_hidden} hidden units or of as many "
            f"pixels as there are, exactly only where either is at most {MOST_UNITS}; it is "
            "estimated by annealed importance sampling"
        )

    # -- the data ------------------------------------------------------------------------------

    def check(self, data: Data) -> None:
        """Refuse what no machine can be told of; missing values are fine where they can be."""
        v = data["v"].double()
        if v.dim() != 2 or v.shape[1] == 0:
            raise DataError(f"the data have shape {tuple(v.shape)}: give rows of pixels")
        if len(v) == 0:
            raise DataError("the data have no rows")
        self._refuse_size(v.shape[1])
        self._refuse_values(v)
        missing = v.isnan()
        empty = missing.all(1).nonzero()
        if len(empty):
            raise DataError(f"row {int(empty[0]) + 1} has no value at all: leave it out")
        empty = missing.all(0).nonzero()
        if len(empty):
            raise DataError(f"column {int(empty[0]) + 1} has no value at all: leave it out")
        if not self._is_exact(v.shape[1]):
            _refuse_missing(v)
        constant = _constant(v)
        if self.visible == "gaussian" and constant:
            column = constant[0]
            value = float(v[:, column].nanmean())
            raise DataError(
                f"column {column + 1} is constant ({value:g}): leave it out, as no density over "
                "a gaussian pixel that never changes is bounded"
            )

    def _refuse_size(self, size: int) -> None:
        if self.likelihood == "exact" and self._smaller(size) > MOST_UNITS:
            raise SettingError(
                f"rbm: likelihood=exact with {size} pixels and {self.n_hidden} hidden units: set "
                f"n_hidden to at most {MOST_UNITS}, or leave likelihood out"
            )
        for name in ("centre", "spread"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != size:
                raise SettingError(f"rbm: {name} has {len(value)} values, the data {size} columns")

    def _refuse_values(self, v: Tensor) -> None:
        """Raise DataError for a value that a pixel can't have."""
        bad, remedy = v.isinf(), "leave it empty"
        if self.visible == "bernoulli":
            bad = ~((v == 0) | (v == 1) | v.isnan())
            remedy = "give 0 or 1, or set visible=gaussian or visible=categorical"
        elif self.visible == "categorical":
            bad = ~(((v >= 0) & (v < self.levels) & (v == v.floor())) | v.isnan())
            remedy = f"give whole numbers from 0 to {self.levels - 1}, or set levels"
        if bool(bad.any()):
            row, column = bad.nonzero()[0].tolist()
            value = float(v[row, column])
            raise DataError(
                f"row {row + 1}, column {column + 1}: {value:g} is no value of a {self.visible} "
                f"pixel: {remedy}"
            )

    def remarks(self, data: Data) -> tuple[str, ...]:
        """Pixels that never change."""
        constant = [column + 1 for column in _constant(data["v"].double())]
        if not constant:
            return ()
        named = ", ".join(map(str, constant[:NAMED])) + (", …" if constant[NAMED:] else "")
        return (
            f"{len(constant)} of {data['v'].shape[1]} columns never change ({named}): only the "
            "prior keeps their biases finite",
        )

    def scaled_to(self, data: Data) -> RestrictedBoltzmann:
        """A copy that knows whether its likelihood is exact and, gaussian, centre and spread."""
        v = data["v"].double()
        changes: dict[str, Any] = {
            "likelihood": "exact" if self._is_exact(v.shape[1]) else "estimated"
        }
        if self.visible == "gaussian":
            mean = v.nanmean(0)
            spread = (v - mean).square().nanmean(0).sqrt()
            spread = torch.where(spread > 0, spread, 1.0)  # `check` tells of a constant column
            if self.centre is None:
                changes["centre"] = tuple(mean.nan_to_num().tolist())
            if self.spread is None:
                changes["spread"] = tuple(spread.nan_to_num(1.0).tolist())
        return dataclasses.replace(self, **changes)

    def statistics(self, data: Data) -> dict[str, float]:
        """The mean pixel, how far rows differ in theirs, and how neighbouring columns agree."""
        v = data["v"].double()
        by_row = v.nanmean(1)
        apart = v - v.nanmean(0)
        together = (
            (apart[:, 1:] * apart[:, :-1]).nanmean() if v.shape[1] > 1 else by_row.new_zeros(())
        )
        return {
            "mean": float(v.nanmean()),
            "spread_of_rows": float(by_row.std(correction=0)),
            "covariance_of_neighbours": float(together),
        }

    def initial(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """Small random weights; the biases of independent pixels."""
        v = data["v"]
        size = v.shape[1]
        units = (size, self.levels) if self.visible == "categorical" else (size,)
        noise = rng.standard_normal((*units, self.n_hidden))
        start = {"weight": torch.as_tensor(START_SD * noise).to(v.device)}
        if self.visible == "gaussian":
            mean = v.double().nanmean(0)
            start["visible_bias"] = mean
            start["scale"] = (v.double() - mean).square().nanmean(0).sqrt()
        else:
            start["visible_bias"] = _log_odds(v.double(), self.visible, self.levels)
        start["hidden_bias"] = torch.zeros(self.n_hidden, dtype=torch.double, device=v.device)
        return {name: value.to(torch.get_default_dtype()) for name, value in start.items()}

    # -- the likelihood ------------------------------------------------------------------------

    def marginal(self, latents: Latents, data: Data) -> Tensor:
        """``log p(v_n | latents)`` of what is observed in each row, exact: (N,), nats.

        Raises IntractableError where neither layer is small.
        """
        machine, v = self.machine(latents), data["v"]
        if v.is_floating_point():
            return machine.log_prob(v)
        return -machine.free_energy(v.to(machine.weight.dtype)) - machine.exact_log_partition()

    def stochastic_gradient(
        self, latents: Latents, batch: Data, state: Fantasies
    ) -> tuple[dict[str, Tensor], Fantasies]:
        """Observed minus dreamt: ``sum_n d(-F(v_n)) - N mean_c d(-F(v_c))`` over the chains c.

        Unbiased as the persistent chains forget where they began; see
        :mod:`storyzoo.models.kernels.boltzmann_gradient`. The gradient itself is never centred:
        ``state.centred`` keeps the means that :meth:`direction` needs.
        """
        v = batch["v"].to(latents["weight"].dtype)
        machine = self.machine(latents)
        start = boltzmann_gradient.beginning(state, machine, v)
        dreamt = boltzmann.gibbs(machine, start, state.sweeps, state.generator)
        rows = v.nan_to_num(0.0)  # offsets bend the way, not its end: a rough mean will do
        seen = self._layers(latents, machine, rows)
        if bool(v.isnan().any()):
            gradient = boltzmann_gradient.contrast_of_holed(
                lambda leaves, rows: self.machine(leaves, log_partition=0.0).log_prob(rows),
                latents,
                v,
                dreamt,
            )
        else:
            again = self._layers(latents, machine, dreamt)
            gradient = boltzmann_gradient.contrast(latents, seen, again)
        memory = state.memory
        if state.centred:
            memory = boltzmann_gradient.remembered(memory, seen)
        return gradient, dataclasses.replace(state, values=dreamt, memory=memory)

    def direction(
        self, latents: Latents, gradient: Mapping[str, Tensor], state: Fantasies
    ) -> dict[str, Tensor]:
        """The gradient that centred units would have: see ``boltzmann_gradient``."""
        if not state.centred:
            return dict(gradient)
        return boltzmann_gradient.centred(gradient, state.memory, latents.get("scale"))

    def _layers(self, latents: Latents, machine: Boltzmann, v: Tensor) -> Layers:
        """Complete rows (N, V) as the weights meet them."""
        hidden = machine.hidden_probabilities(v)
        if self.visible == "gaussian":
            return Layers((v - latents["visible_bias"]) / latents["scale"], hidden)
        if self.visible == "categorical":
            level = torch.arange(self.levels, device=v.device)
            return Layers((v.unsqueeze(-1) == level).to(v), hidden)
        return Layers(v, hidden)

    def log_likelihood_estimate(
        self, latents: Latents, data: Data, rng: np.random.Generator
    ) -> LikelihoodEstimate:
        """By annealed importance sampling of log Z, with stochastic bounds; nats.

        The data have no part in it: rows scored apart under equal random numbers agree. Raises
        DataError for a row with a missing value.
        """
        v = data["v"].to(latents["weight"].dtype)
        _refuse_missing(v)
        machine = self.machine(latents)
        chains = ANNEALED_CHAINS if machine.weight.numel() <= LARGE else FEWER_CHAINS
        found = boltzmann.annealed_log_partition(machine, chains, ANNEALED_STEPS, _generator(rng))
        log_weight = -machine.free_energy(v)
        return LikelihoodEstimate(
            value=log_weight - found.value,
            standard_error=float(found.standard_error),
            lower=log_weight - found.upper,
            upper=log_weight - found.lower,
            effective=min(found.ess, found.upper_ess) / chains,
        )

    # -- what the fit is for -------------------------------------------------------------------

    def trajectories(
        self, latents: Latents, data: Data, rng: np.random.Generator
    ) -> dict[str, Tensor] | None:
        """Free energies, nats, in the second half of the tempered chains that end in a sample.

        None where the machine is sampled exactly.
        """
        machine = self.machine(latents)
        if machine.tractable:
            return None
        found = boltzmann.tempered(machine, TRACED_CHAINS, boltzmann.SWEEPS, _generator(rng))
        return {"free energy": found.free_energy[:, boltzmann.SWEEPS // 2 :]}

    def impute(self, latents: Latents, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """A draw of the missing pixels given those that are known.

        Independent and exact where the hidden layer is small, else the end of Gibbs sweeps.
        """
        v = data["v"].to(latents["weight"].dtype)
        rows = v.isnan().any(1)
        if not bool(rows.any()):
            return {"v": v}
        machine, generator = self.machine(latents), _generator(rng)
        if self.n_hidden <= LISTED_UNITS:
            drawn = boltzmann_conditional.draw_missing(machine, v[rows], generator)
        else:
            drawn = boltzmann.gibbs(
                machine, v[rows], CLAMPED_SWEEPS, generator, known=~v[rows].isnan()
            )
        filled = v.clone()
        filled[rows] = drawn
        return {"v": filled}

    def hidden_units(self, latents: Latents, data: Data) -> dict[str, Tensor]:
        """``p(h = 1 | v_n)`` of each hidden unit given what is observed: (N, H).

        Raises DataError for an incomplete row where the hidden layer is too large to be listed.
        """
        v, machine = data["v"].to(latents["weight"].dtype), self.machine(latents)
        holes = v.isnan().any(1)
        found = machine.hidden_probabilities(v.nan_to_num(0.0))
        if bool(holes.any()):
            if self.n_hidden > LISTED_UNITS:
                raise DataError(
                    f"row {int(holes.nonzero()[0]) + 1} is incomplete: with more than "
                    f"{LISTED_UNITS} hidden units fill it in by `zoo impute` first"
                )
            found[holes] = boltzmann_conditional.hidden_given_seen(machine, v[holes])
        return {"h": found}


def _normal(loc: Tensor, scale: float | Tensor) -> Any:
    """Independent normals as one event of any shape."""
    return dist.Normal(loc, scale * torch.ones_like(loc)).to_event(loc.dim())


def _per_column(value: float | tuple[float, ...] | None, unset: float, size: int) -> Tensor:
    """A field as a vector (V,), in the default dtype and on the default device."""
    return torch.tensor(unset if value is None else value).to(torch.empty(0)).expand(size)


def _constant(v: Tensor) -> list[int]:
    """Columns in which all that is observed is one value."""
    missing = v.isnan()
    least, most = v.masked_fill(missing, torch.inf), v.masked_fill(missing, -torch.inf)
    return (least.amin(0) == most.amax(0)).nonzero().flatten().tolist()


def _refuse_missing(v: Tensor) -> None:
    """Raise DataError where a row isn't complete and its likelihood would have to be estimated."""
    holes = v.isnan().nonzero()
    if len(holes):
        row, column = holes[0].tolist()
        raise DataError(
            f"row {row + 1}, column {column + 1} is missing: its likelihood needs at most "
            f"{MOST_UNITS} hidden units; set n_hidden lower, or fill it in by `zoo impute`"
        )


def _log_odds(v: Tensor, visible: str, levels: int) -> Tensor:
    """Biases of independent pixels, (V,) or (V, L), from shares no nearer 0 than half a row."""
    if visible == "bernoulli":
        ones, zeros = ((v == value).sum(0) + 0.5 for value in (1, 0))
        return (ones / zeros).log()
    counts = torch.stack([(v == level).sum(0) + 0.5 for level in range(levels)], -1)
    logs = counts.log()
    return logs - logs.mean(-1, keepdim=True)


def _generator(rng: np.random.Generator) -> torch.Generator:
    """A source of random numbers for torch, seeded by NumPy's."""
    return torch.Generator().manual_seed(int(rng.integers(2**62)))
