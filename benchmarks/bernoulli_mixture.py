"""A mixture of independent Bernoulli pixels, the plainest density of black and white images.

Source: Bishop (2006), Pattern Recognition and Machine Learning, 9.3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from storyzoo.story import Data, Expectation, Story


@dataclass(frozen=True)
class BernoulliMixture(Story):
    """Each image picks a template, then draws every pixel by itself.

    ::

        weight ~ Dirichlet(2)
        rate_k ~ Beta(prior, prior) for each pixel
        z_n    ~ Categorical(weight)
        v_n    ~ Bernoulli(rate_{z_n})
    """

    n_components: int = 30
    prior: float = 1.1

    data_dims = {"v": ("image", "pixel")}
    event_dims = {"weight": ("component",)}
    examples = "image"

    def model(self, v: Tensor) -> None:
        k, pixels = self.n_components, v.shape[1]
        weight = pyro.sample("weight", dist.Dirichlet(torch.full((k,), 2.0)))
        with pyro.plate("component", k):
            beta = dist.Beta(self.prior, self.prior).expand([pixels]).to_event(1)
            rate = pyro.sample("rate", beta)
        with pyro.plate("image", len(v)):
            z = pyro.sample("z", dist.Categorical(weight), infer={"enumerate": "parallel"})
            pyro.sample("v", dist.Bernoulli(rate[z]).to_event(1), obs=v)

    def initial(self, data: Data, rng: np.random.Generator) -> dict[str, Tensor]:
        """Templates half way between the mean and a random image each."""
        v, k = data["v"], self.n_components
        some = v[torch.as_tensor(rng.choice(len(v), k, replace=False))]
        rate = 0.25 * some + 0.75 * v.mean(0).clamp(0.01, 0.99)
        return {"weight": torch.full((k,), 1 / k).to(v), "rate": rate}

    def expect(self, latents: Mapping[str, Tensor], data: Data, hard: bool) -> Expectation:
        """Images (K,) and ink (K, V) that fall to each template; none is held by template."""
        joint = self._log_joint(latents, data["v"])
        total, shares = joint.logsumexp(1).sum(), joint.softmax(1)
        if hard:
            best = joint.max(1)
            total, shares = best.values.sum(), one_hot(best.indices, joint.shape[1]).to(joint)
        return Expectation(total, {"count": shares.sum(0), "ink": shares.T @ data["v"]})

    def maximise(
        self, expected: Mapping[str, Tensor], data: Data, prior: bool
    ) -> dict[str, Tensor]:
        """Counts, and what the prior adds to them."""
        count, extra = expected["count"], self.prior - 1 if prior else 0.0
        rate = (expected["ink"] + extra) / (count[:, None] + 2 * extra)
        weight = count + (1.0 if prior else 0.0)
        return {"weight": weight / weight.sum(), "rate": rate}

    def marginal(self, latents: Mapping[str, Tensor], data: Data) -> Tensor:
        """``log sum_k weight_k prod_d rate_kd^v_nd (1 - rate_kd)^(1 - v_nd)``: (N,), nats."""
        return self._log_joint(latents, data["v"]).logsumexp(1)

    def _log_joint(self, latents: Mapping[str, Tensor], v: Tensor) -> Tensor:
        rate = latents["rate"]
        ink, paper = rate.log(), (-rate).log1p()
        return v @ (ink - paper).T + paper.sum(1) + latents["weight"].log()
