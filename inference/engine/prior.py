"""The priors of a story alone, as a density of the flat unconstrained vector.

``log prior(theta(q)) [+ log |d theta / d q|]``

What is left of the log density where the likelihood can't be computed: the model is run, but no
observed site is asked for its density.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from storyzoo.inference.engine.density import LogDensity
from storyzoo.inference.engine.factors import Parts, priors_of
from storyzoo.inference.engine.target import Target


class LogPrior(LogDensity):
    """The log density of :class:`LogDensity` without its likelihood, compiled like it."""

    @classmethod
    def of(cls, target: Target, *, jacobian: bool = True, prior: bool = True) -> LogPrior:
        """That of a target, by the options of its density."""
        return cls(
            target.story, target.data, target.structure, target.device,
            jacobian=jacobian, prior=prior,
        )  # fmt: skip

    def _parts(self, q: Tensor, data: Mapping[str, Any], index: Tensor | None = None) -> Parts:
        latents = self.unflatten(q)
        change, local_change = self._volume(q)
        log_prior, local_prior = priors_of(self.story, data, latents, self.structure)
        return Parts(
            log_prior=(log_prior if self.prior else 0.0 * log_prior) + change,
            local_prior=local_prior + local_change,
            log_likelihood=0.0 * local_prior,
            shared=0.0 * log_prior,
        )
