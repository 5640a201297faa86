"""Maximum a posteriori: the highest point of the posterior density.

``theta* = argmax sum_n log p(x_n | theta) + log prior(theta)``

The density is that of the *constrained* parameters, discrete sites summed out: no Jacobian of the
transforms is counted, so that the answer does not depend on them. With the Jacobian the mode is
another point, and it would move with every choice of coordinates. A Dirichlet with a
concentration below one has no mode on the simplex and is taken in the softmax basis (MacKay
1998). The answer is a point: it has no width, and where a posterior is skewed or a funnel it can
lie far from where the mass is.

A conjugate story with nothing discrete tells its mode itself (``maximise``). Else the climb is by
L-BFGS from many starts or, for the thousands of weights of a network over
sequences, by Adam on windows of them, see :mod:`storyzoo.inference.engine.stochastic_ascent`: one
start, stopped where rows kept apart are told best, so that the point is near a mode, not at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.learning_curve import LearningInfo, fields_of, levelled_off
from storyzoo.inference.engine.method import (
    Info,
    Kind,
    Method,
    Outcome,
    PointInfo,
    needs_density,
    require,
)
from storyzoo.inference.engine.progress import Budget, Progress
from storyzoo.inference.engine.restarts import Modes, Search, compile_seconds
from storyzoo.inference.engine.resume import Keeper, fingerprint
from storyzoo.inference.engine.stochastic_ascent import Schedule, StochasticAscent
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import draws_of, posterior_tree
from storyzoo.inference.engine.window_gradient import refuses_windows
from storyzoo.story import Story


@dataclass(frozen=True, kw_only=True)
class MAPInfo(PointInfo):
    """How the restarts ended, and what a resumed run was spared."""

    resumed_evaluations: int = 0
    """Of the gradient evaluations: how many came from a checkpoint."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Info:  # type: ignore[override]
        """That of either optimiser, told apart by the learning curve."""
        kind: type[Info] = AscentInfo if "curve_steps" in values and cls is MAPInfo else cls
        return super(MAPInfo, kind).from_dict(values) if kind is cls else kind.from_dict(values)


@dataclass(frozen=True, kw_only=True)
class AscentInfo(LearningInfo):
    """How Adam's climb went; scores in nats per step."""


@dataclass(frozen=True)
class MAP(Method):
    """The mode of the posterior, or of the likelihood, over the constrained parameters.

    ``objective="likelihood"`` drops the priors of the global sites. ``optimiser``: ``auto`` is none
    for stories that know their mode, ``adam`` for those that unroll sequences, else
    ``quasi-newton``. Of that are ``restarts``,
    ``max_steps`` and ``tolerance``, the nats that may be left to gain. Adam makes ``epochs`` passes
    over all steps, ``batch_size`` rows side by side in windows of ``truncate`` steps (None for
    whole sequences); the ``learning_rate`` falls to zero, gradients are clipped to a length of
    ``clip`` nats per step. ``validation`` is the share that is not fitted but scored, at ``curve``
    points; unset it is the set's own, else a tenth; after ``patience`` points without a better one
    the climb ends.
    """

    name: ClassVar[str] = "map"
    kind: ClassVar[Kind] = "point"
    info_type: ClassVar[type[Info]] = MAPInfo

    restarts: int = 8
    objective: Literal["posterior", "likelihood"] = "posterior"
    max_steps: int = 2000
    tolerance: float = 1e-9
    optimiser: Literal["auto", "quasi-newton", "adam"] = "auto"
    learning_rate: float = 0.003
    epochs: int = 30
    batch_size: int = 32
    truncate: int | None = 100
    clip: float = 1.0
    validation: float | None = None
    patience: int | None = 5
    curve: int = 20
    minutes: float | None = None

    def __post_init__(self) -> None:
        check_ascent("map", self.restarts, self.max_steps, self.tolerance, self.minutes)
        words: dict[str, tuple[str, ...]] = {
            "objective": ("posterior", "likelihood"),
            "optimiser": ("auto", "quasi-newton", "adam"),
        }
        for setting, known in words.items():
            value = getattr(self, setting)
            require(value in known, "map", setting, value, " or ".join(known))
        for setting in ("epochs", "batch_size", "truncate", "patience", "curve"):
            value = getattr(self, setting)
            require(value is None or value >= 1, "map", setting, value, "at least 1")
        for setting in ("learning_rate", "clip"):
            require(getattr(self, setting) > 0, "map", setting, getattr(self, setting), "above 0")
        share = self.validation is None or 0 <= self.validation < 1
        require(share, "map", "validation", self.validation, "at least 0 and below 1")

    def refuses(self, story: Story, structure: Structure) -> str | None:
        """An ascent moves continuous sites."""
        reason = needs_density(story)
        if reason is not None:
            return reason
        if not structure.latents:
            return "it has no continuous latent site to move"
        return refuses_windows(story) if self.optimiser == "adam" else None

    def _adaptive(self, story: Story) -> bool:
        """Whether Adam climbs."""
        return self.optimiser == "adam" or (self.optimiser == "auto" and story.has("unroll"))

    def _known(self, target: Target) -> bool:
        """Whether the story tells its mode in closed form."""
        hidden = target.structure.discrete or target.structure.local
        return self.optimiser == "auto" and not hidden and target.story.has("maximise")

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        """Climb from every start, side by side.

        Raises NoModeError where the objective has no maximum, SettingError where Adam runs away.
        """
        if self._known(target):
            return self._take(target)
        if self._adaptive(target.story):
            return self._run_adam(target, seed, progress, checkpoint)
        density = target.density(jacobian=False, prior=self.objective == "posterior")
        seconds = compile_seconds(density)
        keeper = Keeper(checkpoint, fingerprint(self, target, seed))
        search = Search(
            target, density, self.restarts, self.max_steps, self.tolerance, self._remedy()
        )
        modes = search.run(seed, keeper, Budget(self.minutes), progress)
        if modes.stopped != "interrupted":
            keeper.remove()
        point = density.unflatten(modes.mode.q)
        tree = posterior_tree(
            target.structure, {n: v.cpu().numpy()[None, None] for n, v in point.items()}, {}
        )
        return Outcome(tree, self._info(modes, density, seconds))

    def _take(self, target: Target) -> Outcome:
        """The mode in closed form."""
        prior = self.objective == "posterior"
        density = target.density(jacobian=False, prior=prior)
        with target.context():
            point = target.story.maximise({}, target.data, prior)
            assert point is not None
            height = density.batch(density.flatten(point)[None])
        values = {name: value.cpu().numpy()[None, None] for name, value in point.items()}
        info = MAPInfo(
            stopped="settled",
            start="none: the story knows its mode",
            engine="the story's closed form",
            path=(float(height),),
            prior=prior,
        )
        return Outcome(posterior_tree(target.structure, values, {}), info)

    def _run_adam(
        self, target: Target, seed: int, progress: Progress, checkpoint: Checkpoint | None
    ) -> Outcome:
        """Climb from one start by windows of the sequences, keep the best answer."""
        keeper = Keeper(checkpoint, fingerprint(self, target, seed))
        schedule = Schedule(
            self.learning_rate, self.epochs, self.batch_size, self.truncate, self.clip,
            self.validation, self.patience, self.curve,
        )  # fmt: skip
        climb = StochasticAscent(schedule, target, self.objective == "posterior", seed, keeper)
        stopped = climb.run(Budget(self.minutes), progress)
        state = climb.finished()
        if stopped != "interrupted":
            keeper.remove()
        point = climb.density.views(state.best.q)
        tree = posterior_tree(
            target.structure, {n: v.cpu().numpy()[None, None] for n, v in point.items()}, {}
        )
        own = target.story.has("initial")
        return Outcome(
            tree,
            AscentInfo(
                gradient_evaluations=round(state.step * self.epochs / climb.most),
                stopped=stopped,
                start="the story's own start" if own else "a prior draw",
                engine="windows of the sequences, eager",
                notes=tuple(climb.notes()),
                prior=self.objective == "posterior",
                converged=stopped == "settled" or levelled_off(state.curve),
                steps=state.step,
                kept_step=state.best.step,
                resumed_steps=climb.resumed,
                per="step",
                **fields_of(state.curve),  # type: ignore[arg-type]
            ),
        )

    def _remedy(self) -> str:
        if self.objective == "likelihood":
            return "use objective=posterior with a prior that holds it, or a simpler story"
        return (
            "give it a prior that falls to zero there (LogNormal, InverseGamma), write the story "
            "in another form (non-centred), or use nuts"
        )

    def _info(self, modes: Modes, density: LogDensity, seconds: float) -> MAPInfo:
        return MAPInfo(
            gradient_evaluations=modes.evaluations,
            compile_seconds=seconds,
            stopped=modes.stopped,
            start=modes.start,
            engine=density.engine,
            notes=modes.notes,
            objectives=tuple(ascent.value for ascent in modes.ascents),
            degenerate=modes.degenerate,
            best=modes.best,
            path=modes.mode.path,
            prior=density.prior,
            converged=modes.mode.converged,
            resumed_evaluations=modes.resumed_evaluations,
        )


def ascended(climb: MAP, target: Target, seed: int) -> dict[str, Tensor]:
    """The point at which a climb ends, by site, for methods that start there.

    Nothing of it is kept on Ctrl-C, which ends the method too.
    """
    outcome = climb.run(target, seed=seed, progress=Progress(quiet=True))
    if outcome.info.stopped == "interrupted":
        raise KeyboardInterrupt
    return {
        name: torch.as_tensor(value[0, 0], device=target.device)
        for name, value in draws_of(target.structure, outcome.tree["posterior"]).items()
    }


def check_ascent(
    method: str, restarts: int, max_steps: int, tolerance: float, minutes: float | None
) -> None:
    """Raise SettingError for impossible settings of an ascent."""
    require(restarts >= 1, method, "restarts", restarts, "at least 1")
    require(max_steps >= 1, method, "max_steps", max_steps, "at least 1")
    require(tolerance >= 0, method, "tolerance", tolerance, "at least 0")
    require(minutes is None or minutes > 0, method, "minutes", minutes, "above 0")
