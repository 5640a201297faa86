"""Guides over the flat unconstrained vector: independent normals, one normal, or of low rank.

A draw is ``q = centre + unit * (loc + spread(noise))``: ``centre`` and ``unit`` are fixed per start
(a point near a mode, and the width of each coordinate there), so that the parameters, and the
steps that they take, are in units of the posterior's own width.

``log_q`` is differentiated through the draw alone, not through the parameters of the density: the
expectation of what is left out is zero, and near the optimum so is the variance of the rest
(Roeder, Wu and Duvenaud 2017, "Sticking the landing").
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Guide(Protocol):
    """A family of approximations; rows of its parameters are starts of their own."""

    size: int
    """Parameters of one start."""

    def initial(self) -> Tensor:
        """Where every start begins: (starts, size)."""

    def draw(
        self,
        parameters: Tensor,
        starts: Tensor,
        particles: int,
        generator: torch.Generator,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws ``q`` (A, M, D) and ``log q(q)`` (A, M), both differentiable in the parameters.

        ``parameters`` (A, size) belong to the starts numbered ``starts`` (A,). ``weight`` (D,)
        counts each coordinate's term of ``log_q``; only independent guides take it.
        """


class FlatGuide:
    """What the normal guides share: ``centre`` and ``unit`` (starts, D)."""

    def __init__(self, centre: Tensor, unit: Tensor) -> None:
        self.centre, self.unit = centre, unit
        self.dim = centre.shape[1]
        self.size = 2 * self.dim

    def initial(self) -> Tensor:
        """At the centre, one unit wide."""
        return self.centre.new_zeros(len(self.centre), self.size)

    def _noise(self, like: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=like.dtype, device="cpu").to(like)

    def _placed(self, x: Tensor, starts: Tensor) -> Tensor:
        """From units of the posterior's width to the flat vector."""
        return self.centre[starts].unsqueeze(1) + self.unit[starts].unsqueeze(1) * x

    def _volume(self, starts: Tensor) -> Tensor:
        """Log volume of the units, and the constant of a normal: (A, 1)."""
        constant = 0.5 * self.dim * math.log(2 * math.pi)
        return self.unit[starts].log().sum(-1, keepdim=True) + constant


class NormalGuide(FlatGuide):
    """``Normal(loc, diag(exp(log_scale))^2)``: every coordinate on its own. 2 D parameters.

    Too narrow wherever the posterior is correlated (Turner and Sahani 2011).
    """

    def draw(
        self,
        parameters: Tensor,
        starts: Tensor,
        particles: int,
        generator: torch.Generator,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws and their log density."""
        loc, log_scale = parameters.unsqueeze(1).split(self.dim, -1)
        noise = self._noise(loc, (len(starts), particles, self.dim), generator)
        x = loc + log_scale.exp() * noise
        residual = (x - loc.detach()) / log_scale.detach().exp()
        unit = self.unit[starts].unsqueeze(1).log()
        terms = -0.5 * residual.square() - log_scale.detach() - unit - 0.5 * math.log(2 * math.pi)
        log_q = (terms if weight is None else weight * terms).sum(-1)
        return self._placed(x, starts), log_q


class MultivariateGuide(FlatGuide):
    """``Normal(loc, L L^T)`` with a lower triangular ``L``: D + D (D + 1) / 2 parameters.

    What lies below the diagonal is held as ``sqrt(D) L_ij``, so that a step of all of them at
    once moves a draw no further than one of the diagonal.
    """

    def __init__(self, centre: Tensor, unit: Tensor) -> None:
        super().__init__(centre, unit)
        self._below = torch.tril_indices(self.dim, self.dim, -1, device=centre.device)
        self.size = 2 * self.dim + self._below.shape[1]

    def draw(
        self,
        parameters: Tensor,
        starts: Tensor,
        particles: int,
        generator: torch.Generator,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws and their log density."""
        assert weight is None
        loc, root = parameters[:, None, : self.dim], self._root(parameters)
        noise = self._noise(loc, (len(starts), particles, self.dim), generator)
        x = loc + noise @ root.mT
        gap = (x - loc.detach()).mT
        residual = torch.linalg.solve_triangular(root.detach(), gap, upper=False)
        log_scale = parameters[:, self.dim : 2 * self.dim].detach().sum(-1, keepdim=True)
        log_q = -0.5 * residual.square().sum(1) - log_scale - self._volume(starts)
        return self._placed(x, starts), log_q

    def _root(self, parameters: Tensor) -> Tensor:
        """(A, D, D) lower triangular with a positive diagonal."""
        diagonal = torch.diag_embed(parameters[:, self.dim : 2 * self.dim].exp())
        starts = torch.arange(len(parameters), device=parameters.device)[:, None]
        places = (starts, self._below[0], self._below[1])
        below = parameters[:, 2 * self.dim :] / math.sqrt(self.dim)
        return diagonal.index_put(places, below)


class LowRankGuide(FlatGuide):
    """``Normal(loc, diag(scale)^2 + W W^T)`` with ``W`` (D, rank): D (2 + rank) parameters."""

    def __init__(self, centre: Tensor, unit: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__(centre, unit)
        self.rank = rank
        self.size = self.dim * (2 + rank)
        shape = (len(centre), self.dim * rank)
        # At zero the gradient of W vanishes, so it starts beside it.
        self._factor = 0.1 * self._noise(centre, shape, generator)

    def initial(self) -> Tensor:
        """At the centre, one unit wide, with slight correlations at random."""
        return torch.cat([super().initial()[:, : 2 * self.dim], self._factor], -1)

    def draw(
        self,
        parameters: Tensor,
        starts: Tensor,
        particles: int,
        generator: torch.Generator,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws and their log density."""
        assert weight is None
        loc, log_scale, flat = parameters.split([self.dim, self.dim, self.dim * self.rank], -1)
        factor = flat.reshape(-1, self.dim, self.rank)
        own = self._noise(loc, (len(starts), particles, self.dim), generator)
        common = self._noise(loc, (len(starts), particles, self.rank), generator)
        x = loc.unsqueeze(1) + log_scale.exp().unsqueeze(1) * own + common @ factor.mT
        density = torch.distributions.LowRankMultivariateNormal(
            loc.detach().unsqueeze(1),
            factor.detach().unsqueeze(1),
            (2 * log_scale.detach()).exp().unsqueeze(1),
            validate_args=False,
        )
        constant = 0.5 * self.dim * math.log(2 * math.pi)  # counted by the density itself
        return self._placed(x, starts), density.log_prob(x) - self._volume(starts) + constant
