"""Maximum a posteriori: the highest point of the posterior density, by L-BFGS from many starts.

``theta* = argmax sum_n log p(x_n | theta) + log prior(theta)``

The density is that of the *constrained* parameters, discrete sites summed out: no Jacobian of the
transforms is counted, so that the answer does not depend on them. With the Jacobian the mode is
another point, and it would move with every choice of coordinates. A Dirichlet with a
concentration below one has no mode on the simplex and is taken in the softmax basis (MacKay
1998). The answer is a point: it has no width, and where a posterior is skewed or a funnel it can
lie far from where the mass is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from storyzoo.inference.engine.checkpoint import Checkpoint
from storyzoo.inference.engine.density import LogDensity
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
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.tree import posterior_tree
from storyzoo.story import Story


@dataclass(frozen=True, kw_only=True)
class MAPInfo(PointInfo):
    """How the restarts ended, and what a resumed run was spared."""

    resumed_evaluations: int = 0
    """Of the gradient evaluations: how many came from a checkpoint."""


@dataclass(frozen=True)
class MAP(Method):
    """The mode of the posterior, or of the likelihood, over the constrained parameters.

    ``objective="likelihood"`` drops the priors of the global sites. ``tolerance``: nats that may
    be left to gain.
    """

    name: ClassVar[str] = "map"
    kind: ClassVar[Kind] = "point"
    info_type: ClassVar[type[Info]] = MAPInfo

    restarts: int = 8
    objective: Literal["posterior", "likelihood"] = "posterior"
    max_steps: int = 2000
    tolerance: float = 1e-9
    minutes: float | None = None

    def __post_init__(self) -> None:
        check_ascent("map", self.restarts, self.max_steps, self.tolerance, self.minutes)
        known = ("posterior", "likelihood")
        require(self.objective in known, "map", "objective", self.objective, " or ".join(known))

    def refuses(self, story: Story, structure: Structure) -> str | None:
        """An ascent moves continuous sites."""
        reason = needs_density(story)
        if reason is not None:
            return reason
        if not structure.latents:
            return "it has no continuous latent site to move"
        return None

    def run(
        self, target: Target, *, seed: int, progress: Progress, checkpoint: Checkpoint | None = None
    ) -> Outcome:
        """Climb from every start, side by side.

        Raises NoModeError where the objective has no maximum.
        """
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


def check_ascent(
    method: str, restarts: int, max_steps: int, tolerance: float, minutes: float | None
) -> None:
    """Raise SettingError for impossible settings of an ascent."""
    require(restarts >= 1, method, "restarts", restarts, "at least 1")
    require(max_steps >= 1, method, "max_steps", max_steps, "at least 1")
    require(tolerance >= 0, method, "tolerance", tolerance, "at least 0")
    require(minutes is None or minutes > 0, method, "minutes", minutes, "above 0")
