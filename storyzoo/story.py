"""A story: how the data came about, written once as a Pyro model and fitted by every method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from ctypes import CDLL
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from torch import Generator, Tensor
from torch.distributions import Distribution

Latents = Mapping[str, Tensor]
"""Constrained values of the latent sites, by name, in the shapes that the model draws them."""

Data = Mapping[str, Tensor]
"""What the model takes, by argument: tensors in the story's dtype, NaN where a value is missing."""


class Expectation(NamedTuple):
    """What one E-step over a chunk of the examples yields; both parts add up over chunks."""

    log_likelihood: Tensor
    """Scalar, nats: ``sum_n log p(x_n | latents)``; under hard EM the joint at the best label."""
    statistics: dict[str, Tensor]
    """Expected sufficient statistics, additive over the examples."""
    by_example: Mapping[str, Tensor] = MappingProxyType({})
    """Those of the latents of single examples, ``(N, …)``: joined over chunks, not added."""


class Completion(NamedTuple):
    """Half of each example foretold from its other half."""

    nats: Tensor
    """(N,): log probability of the half that was not seen."""
    size: Tensor
    """(N,): observations in that half; zero where an example is too small to be halved."""


class LeftToRight(NamedTuple):
    """Whole examples foretold from left to right, their own latents integrated out."""

    nats: Tensor
    """(N,): estimate of ``log p(x_n | shared latents)``."""
    se: Tensor
    """(N,): its Monte Carlo standard error."""
    size: Tensor
    """(N,): observations of each example; zero where it was not read."""


class Sweep(NamedTuple):
    """What one pass of a collapsed ascent over all examples yields."""

    score: float
    """Nats: log probability of every observation given all others, as the ascent has it."""
    change: float
    """Mean share of a label's weight that moved, between 0 and 1."""


class Collapsed(Protocol):
    """An ascent in the weights of discrete labels alone, the continuous latents integrated out.

    It changes as it goes; :meth:`state` and :meth:`restore` are for checkpoints.
    """

    def sweep(self) -> Sweep:
        """One pass over the examples."""

    def latents(self) -> dict[str, Tensor]:
        """What the weights say of the continuous sites: their posterior means."""

    def state(self) -> dict[str, Tensor]:
        """All that continues."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""


class GibbsChain(Protocol):
    """A chain of Gibbs sweeps, on the processor, which changes as it goes.

    Continuous latents may be integrated out of it. :meth:`state` and :meth:`restore` are for
    checkpoints; the generator is kept by whoever calls.
    """

    def sweep(self, rng: np.random.Generator) -> None:
        """Move everything once, leaving the posterior as it is."""

    def draw(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Every continuous latent site: one exact draw given where the chain is."""

    def log_joint(self) -> float:
        """Log joint density of the data and where the chain is, nats."""

    def state(self) -> dict[str, np.ndarray]:
        """All that continues."""

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""


class Unrolled(Protocol):
    """The steps of sequences end to end, each foretold from those before it in its sequence."""

    @property
    def inputs(self) -> Tensor:
        """(E, …): what stands before each step."""

    @property
    def targets(self) -> Tensor:
        """(E, …): the step itself."""

    @property
    def lengths(self) -> Tensor:
        """(N,): steps of each sequence, so that ``E = sum_n lengths_n``."""

    def nats(
        self,
        latents: Latents,
        inputs: Tensor,
        targets: Tensor,
        state: tuple[Tensor, ...],
        generator: Generator | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Log probabilities (B, W) of a window (B, W, …) of rows side by side.

        ``state`` is what came out for the window before, parts of shape (…, B, …) along their
        second dim; empty at the rows' first window. A generator drops units out, for training.
        """

    @property
    def exclusive(self) -> bool:
        """Whether a step is one of V symbols (softmax); else V numbers, each 0 or 1 by itself."""

    def features(
        self, latents: Latents, inputs: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the story's last layer sees (B, W, F) in a window, and the state after it."""

    def perturbed_nats(
        self,
        mean: Latents,
        width: Latents,
        inputs: Tensor,
        targets: Tensor,
        state: tuple[Tensor, ...],
        generator: Generator,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """:meth:`nats` under weights ``Normal(mean, width^2)``, drawn anew for each row.

        The draws of two rows may depend on each other, as in flipout; each by itself is of that
        normal, so that the mean over draws is that of independent ones.
        """


class LikelihoodEstimate(NamedTuple):
    """Log likelihoods whose normaliser is known only by sampling, nats."""

    value: Tensor
    """(N,): the estimate of ``log p(x_n | latents)``."""
    standard_error: float
    """Of the normaliser, which all examples share: their mean has this error too."""
    lower: Tensor
    """(N,): a stochastic lower bound."""
    upper: Tensor
    """(N,): a stochastic upper bound."""
    effective: float = 1.0
    """Share of the samples behind it that carry weight: with few, bounds may meet by chance."""


@dataclass(frozen=True)
class Fantasies:
    """Chains of the model's own, from which the gradient of a normaliser is told.

    A method makes one from its settings, hands it to :meth:`Story.stochastic_gradient` and keeps
    the one that comes back: it is the method's state, so that a checkpoint can hold it.
    """

    generator: Generator
    count: int = 100
    """Chains."""
    sweeps: int = 1
    """Gibbs sweeps of each chain for one gradient."""
    persistent: bool = True
    """Whether chains go on from where they were; else they begin at the batch (CD)."""
    centred: bool = False
    """Whether the story keeps what :meth:`Story.direction` needs: the means to centre on."""
    values: Tensor | None = None
    """Where the chains stand, ``(count, …)``; None before the first gradient."""
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """What the story itself remembers from one gradient to the next (running means)."""


class LocalStep(NamedTuple):
    """What a mean field tells of some examples, given the shared latents' parameters."""

    statistics: dict[str, Tensor]
    """Expected sufficient statistics of the shared sites, additive over the examples."""
    elbo: Tensor
    """Scalar, nats: the examples' part of the ELBO."""
    parameters: dict[str, Tensor]
    """``(N, …)``: of q over the latents of single examples; a warm start for the next step."""


class MeanField(Protocol):
    """A factorised q of a conditionally conjugate story, each factor of the family of its prior.

    Given all else, the best parameters of the shared sites are ``prior + statistics``. They and
    the statistics are in one dtype, whatever the examples are told in.
    """

    prior: Mapping[str, Tensor]
    """Parameters of the shared sites' priors."""

    def start(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """Parameters of the shared sites, at random, as these examples alone would have them."""

    def local_step(self, parameters: Latents, data: Data, warm: Latents | None = None) -> LocalStep:
        """The best q of the latents of some examples given the shared sites' parameters.

        From ``warm``, their parameters before, it never lowers the ELBO.
        """

    def shared(self, parameters: Latents) -> dict[str, Distribution]:
        """q of the shared sites, in the shapes that the model draws them."""

    def local(self, parameters: Latents) -> dict[str, Distribution]:
        """q of the latents of single examples."""


@dataclass(frozen=True)
class Story:
    """A generative story: hyperparameters are the fields, :meth:`model` is a plain Pyro program.

    A subclass is a frozen dataclass. It has no state and no training loop; its model calls no
    ``pyro.param``: every unknown is a latent site with a prior, which is what lets EM, SVI and
    MCMC share it. Nothing in a model names a dtype or a device; the runner sets both as defaults.

    Class attributes say what can't be read off the model:

    - ``data_dims``: argument of the model -> names of its dims; ``("point", "feature")``.
    - ``event_dims``: site -> names of its event dims. Batch dims are the plates around it. A dim
      that stands twice needs two names: ``("state", "next_state")``.
    - ``examples``: the dim over which rows are independent, along which data can be sliced.
    - ``ragged``: a dim that holds the examples' pieces end to end -> the argument that says how
      long each piece is; ``{"entry": "length"}`` for the words of documents.
    - ``observation``: what an example is made of, ``"word"``, where scores are usual by that.
    - ``exchangeable``: group -> the dims that one relabelling permutes together.
    - ``label_values``: discrete site -> the group whose labels are its values.
    - ``sweeps_source``: C that :meth:`sweeps` calls, as the text of one translation unit.
    - ``several_modes``: what to do where chains settle apart, if they do so for most data: then
      neither longer runs nor a search for the highest mode help.
    - ``gap_symbol``: the value of a discrete observation that stands for a missing one.
    - ``identified``: sites (deterministic ones too) on which R-hat is judged where parameters
      have symmetries that no relabelling mends.
    - ``last_layer``: of a network that :meth:`unroll` tells, the weight (V, F) and the bias (V,) of
      its output, ``logits = weight features + bias``.
    - ``units``: site -> how it follows the units of the data under ``y -> (y - shift) / scale``:
      ``"location"``, ``"scale"``, ``"variance"`` or ``"covariance"``, along the ``feature`` dim.
      Sites not named here have no unit.

    The hooks (:meth:`guide` to :meth:`statistics`) are optional; each default returns None, and a
    method that needs an absent one refuses the story with the reason.
    """

    name: ClassVar[str] = ""
    observation: ClassVar[str] = ""
    dtype: ClassVar[str] = "float64"
    data_dims: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    examples: ClassVar[str | None] = None
    ragged: ClassVar[Mapping[str, str]] = {}
    exchangeable: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    label_values: ClassVar[Mapping[str, str]] = {}
    sweeps_source: ClassVar[str] = ""
    several_modes: ClassVar[str] = ""
    identified: ClassVar[tuple[str, ...]] = ()
    gap_symbol: ClassVar[int | None] = None
    last_layer: ClassVar[tuple[str, ...]] = ()

    @property
    def event_dims(self) -> Mapping[str, tuple[str, ...]]:
        """Names of each site's event dims; most stories set a plain class attribute."""
        return {}

    @property
    def units(self) -> Mapping[str, str]:
        """How each site follows the units of the data; most stories set a class attribute."""
        return {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = _kebab(cls.__name__)

    def model(self, *args: Any, **kwargs: Any) -> Any:
        """The generative story, a Pyro program of the data."""
        raise TypeError(f"{type(self).__name__} has no model: write `def model(self, y): ...`")

    # -- what a story may add --------------------------------------------------------------

    def check(self, data: Data) -> None:
        """Raise DataError where the data can't be told by this story (K > N, a negative count)."""

    def scaled_to(self, data: Data) -> Story:
        """A copy whose prior scales are set once from the data; by default the story itself."""
        return self

    def guide(self, data: Data) -> Any:
        """The story's own variational family: a Pyro program over the continuous latent sites."""
        return None

    def initial(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor] | None:
        """A sane start for an ascent: constrained values of every continuous latent site."""
        return None

    def expect(self, latents: Latents, data: Data, hard: bool) -> Expectation | None:
        """The E-step with its own sufficient statistics, for a chunk of the examples.

        Latents of single examples come for the chunk alone.
        Where absent, the statistics that :meth:`maximise` gets are the responsibilities:
        ``{site: (number of values, *batch shape)}``.
        """
        return None

    def maximise(
        self, expected: Mapping[str, Tensor], data: Data, prior: bool
    ) -> dict[str, Tensor] | None:
        """The closed M-step: latents that maximise the expected complete log joint.

        ``prior`` says whether the priors of the global sites count (``objective="posterior"``).
        It tells of every continuous site, those of single examples too, where there are some. A
        story that hides nothing discrete gets no statistics: its answer is then the mode itself.
        """
        return None

    def collapse(self, data: Data, rng: np.random.Generator) -> Collapsed | None:
        """A collapsed ascent from a random start, for EM with ``collapsed``."""
        return None

    def mean_field(self, data: Data) -> MeanField | None:
        """The conjugate variational family, for natural gradients; none is kept of the data."""
        return None

    def marginal(self, latents: Latents, data: Data) -> Tensor | None:
        """``log p(x_n | latents)`` with discrete sites summed out, shape ``(N,)``, nats.

        It also takes NaN: then the exact marginal likelihood of what is observed.
        """
        return None

    def by_step(self, latents: Latents, data: Data) -> Tensor | None:
        """Log probability of each step of all sequences given those before it, end to end, nats."""
        return None

    def sizes(self, data: Data) -> Tensor | None:
        """(N,): of how many observations each example is made, where ``observation`` names one."""
        return None

    def fold_in(self, latents: Latents, data: Data) -> dict[str, Distribution] | None:
        """Approximate posterior of the latents of single examples that no fit has seen.

        One distribution for each such site, by example, given the shared latents alone.
        """
        return None

    def complete(
        self, draws: Iterable[Latents], data: Data, rng: np.random.Generator
    ) -> Completion | None:
        """Half of each example, chosen by ``rng``, foretold from the other, given shared latents.

        The probability of an observation is averaged over the draws.
        """
        return None

    def one_more(self, latents: Latents, data: Data) -> Tensor | None:
        """(N, V): probability of each value of one more observation of each example.

        Given its others and the shared latents, for examples of exchangeable discrete observations.
        """
        return None

    def left_to_right(
        self, latents: Latents, data: Data, rng: np.random.Generator
    ) -> LeftToRight | None:
        """Log probability of examples that no fit has seen, given shared latents alone.

        An example is read an observation at a time, by particles; ``rng`` may choose some examples
        where all would take long.
        """
        return None

    def as_data(self, drawn: Latents, data: Data) -> dict[str, Tensor] | None:
        """Simulated values by site as arguments of the model, where a site observes something
        computed from them (which it names by ``infer={"observes": argument}``)."""
        return None

    def step(self, latents: Latents, state: Any) -> tuple[Distribution, Any] | None:
        """Distribution of the next observation of a sequence, and the state after it.

        The first ``state`` is None; later ones are ``(state, observation)``. Where sequences are
        ``ragged`` the observations may be those of (B,) sequences side by side; in the tensors of
        the state these lie along the last dim but one, in vectors along the only one.
        """
        return None

    def stepper(self, latents: Latents) -> Callable[[Any], tuple[Distribution, Any] | None]:
        """:meth:`step` for latents that stay, which may work out in advance what stays with them.

        Whoever walks many steps asks for it once.
        """
        return partial(self.step, latents)

    def unroll(self, data: Data) -> Unrolled | None:
        """Every step of every sequence, for ascents that see windows of some steps at a time."""
        return None

    def ends(self, data: Data) -> int | None:
        """The value of :meth:`step` that ends a sequence; None where lengths are given."""
        return None

    def sweeps(self, data: Data, rng: np.random.Generator, code: CDLL | None) -> GibbsChain | None:
        """A chain of Gibbs sweeps from a random start.

        ``code`` is :attr:`sweeps_source` in machine code; None where there is no compiler, or no
        source: then the sweeps have to do without.
        """
        return None

    def intractable(self) -> str | None:
        """Why the likelihood can't be computed exactly; None where it can.

        Asked of a story that :meth:`scaled_to` has seen the data. Methods that need the density
        refuse such a story with this reason.
        """
        return None

    def stochastic_gradient(
        self, latents: Latents, batch: Data, state: Fantasies
    ) -> tuple[dict[str, Tensor], Fantasies] | None:
        """Estimated gradient of ``sum_n log p(x_n | latents)`` over a batch, by latent site.

        For a likelihood with an intractable normaliser; the second is the state after it.
        """
        return None

    def direction(
        self, latents: Latents, gradient: Mapping[str, Tensor], state: Fantasies
    ) -> dict[str, Tensor] | None:
        """Another uphill direction with the same zero as ``gradient``, better conditioned.

        ``gradient`` is that of the whole objective, its priors included, by latent site; asked
        after :meth:`stochastic_gradient` where ``state.centred``.
        """
        return None

    def log_likelihood_estimate(
        self, latents: Latents, data: Data, rng: np.random.Generator
    ) -> LikelihoodEstimate | None:
        """The log likelihood of each example where its normaliser can only be estimated."""
        return None

    def trajectories(
        self, latents: Latents, data: Data, rng: np.random.Generator
    ) -> dict[str, Tensor] | None:
        """Test statistics along the chains that simulate this story, each ``(chain, draw)``.

        For a story whose simulation is itself a Markov chain: started apart, and as long as those
        whose ends :meth:`model` draws. What does not mix here is not simulated either.
        """
        return None

    def impute(
        self, latents: Latents, data: Data, rng: np.random.Generator
    ) -> dict[str, Tensor] | None:
        """A draw of the missing values given the observed ones: the data without NaN."""
        return None

    def hidden_units(self, latents: Latents, data: Data) -> dict[str, Tensor] | None:
        """What is hidden of each example where the model has no site for it, (N,) or (N, K).

        By name: probabilities, or expected values, of units that the likelihood sums out.
        """
        return None

    def remarks(self, data: Data) -> tuple[str, ...]:
        """What a user should know of these data under this story, a line each."""
        return ()

    def statistics(self, data: Data) -> dict[str, float]:
        """Test quantities of one data set, for predictive checks."""
        return {}

    def diagnose(self, latents: Latents, data: Data) -> dict[str, str]:
        """What is degenerate about a point: ``{where: why and the remedy}``; empty where sane."""
        return {}

    def scores(self, latents: Latents, data: Data) -> dict[str, float]:
        """Figures of merit of a point that users of this story know, by name (k-means' J).

        Of draws the point is their mean, labels matched.
        """
        return {}

    def agreement(self, runs: Sequence[Latents]) -> dict[str, float]:
        """How far runs that started apart found the same, by name; each run is a point."""
        return {}

    def lacks(self, hook: str) -> str | None:
        """Why a hook that the class defines does not apply under these fields; else None."""
        return None

    # -- what follows ----------------------------------------------------------------------

    def has(self, hook: str) -> bool:
        """Whether this story defines the optional hook of that name itself, and it applies."""
        defined = getattr(type(self), hook) is not getattr(Story, hook)
        return defined and self.lacks(hook) is None

    def arguments(self) -> tuple[str, ...]:
        """Names of what the model takes, in order."""
        parameters = list(inspect.signature(type(self).model).parameters)
        return tuple(parameters[1:])


def _kebab(name: str) -> str:
    """``EightSchools`` -> ``eight-schools``."""
    return "".join("-" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))
