"""The last layer of a network given all before it: its mode, and a normal around that.

A step's logits are linear in the last layer's weights, ``eta_v = w_v . f`` with f the features that
the rest tells, a one added for the bias. Given the rest the log joint is concave, and with the
prior's ``1 / sigma^2`` on the diagonal the negative Hessian is exactly

``P = sum_t Lambda_t x f_t f_t^T + diag(1 / sigma^2)``

- of V outputs that are 0 or 1 each by itself ``Lambda_t = diag(p_t (1 - p_t))``: one block for each
  output, and nothing between them;
- of one symbol among V ``Lambda_t = diag(p_t) - p_t p_t^T``: kept whole where it is small, else by
  its Kronecker factors ``sum_t Lambda_t x sum_t f_t f_t^T / T`` plus the prior, an approximation.

(For a linear layer the generalised Gauss-Newton matrix is the Hessian.) The mode is sought by
Newton steps, each curvature serving for several.

Sources: Daxberger et al. (2021), "Laplace Redux", NeurIPS; Kristiadi, Hein and Hennig (2020),
"Being Bayesian, even just a bit, fixes overconfidence in ReLU networks", ICML, on the last layer
alone; Ritter, Botev and Barber (2018), ICLR, on Kronecker factors.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from storyzoo.errors import RefusedError
from storyzoo.inference.engine.target import Target
from storyzoo.inference.engine.window_gradient import WindowDensity
from storyzoo.inference.engine.windows import State, Windows, whole
from storyzoo.story import Latents, Unrolled

MOST_WHOLE = 3000
"""Weights of a layer up to which the Hessian of a softmax is kept whole."""
MOST_FEATURES = 100_000_000
"""Numbers that are kept of what the layer sees."""
ROWS = 64
"""Sequences that run side by side while the features are told."""
AT_ONCE = 4096
"""Steps whose curvature is added up at a time."""
ROUNDS, CHORDS, HALVES = 12, 10, 30
"""Curvatures that are told on the way to the mode, steps by each, and halvings of a step."""
NEAR = 1e-6
"""Nats that may be left to gain."""


class Curvature(Protocol):
    """The negative Hessian P of the log joint in a layer's weights (V, F), the bias last."""

    words: str

    def solve(self, gradient: Tensor) -> Tensor:
        """``P^-1 g``."""

    def spread(self, noise: Tensor) -> Tensor:
        """Standard normal noise (V, F) as a draw of ``Normal(0, P^-1)``."""

    def dense(self) -> Tensor:
        """P itself, (V F, V F)."""


class Seen(NamedTuple):
    """All steps as the last layer sees them, and what they turned out to be."""

    features: Tensor
    """(E, F): the last is one."""
    targets: Tensor
    """(E,) symbols, or (E, V) zeros and ones."""


class LastLayer:
    """The log joint of a story as a function of its last layer. Call under the target's context."""

    def __init__(self, target: Target, point: Latents) -> None:
        unrolled = target.story.unroll(target.data)
        assert unrolled is not None
        self.weight, self.bias = target.story.last_layer
        self._exclusive = unrolled.exclusive
        self._seen = _seen(target, unrolled, point, len(point[self.bias]))
        joint = WindowDensity(target, unrolled, prior=True, jacobian=True)
        self._loc, self._precision = self._priors(target, joint)

    def _priors(self, target: Target, joint: WindowDensity) -> tuple[Tensor, Tensor]:
        """Means and precisions (V, F) of the layer's priors."""
        known = joint.priors_by_site()
        if known is None:
            raise RefusedError(
                f"laplace can't fit {target.story.name}'s last layer: its priors are not plain "
                "normals; use svi"
            )
        return tuple(self.joined(part) for part in known)  # type: ignore[return-value]

    def joined(self, latents: Latents) -> Tensor:
        """The layer (V, F) in double precision."""
        weight, bias = latents[self.weight].double(), latents[self.bias].double()
        return torch.cat([weight, bias[:, None]], 1)

    def sites(self, layer: Tensor) -> dict[str, Tensor]:
        """The two sites of a layer (…, V, F)."""
        layer = layer.to(torch.get_default_dtype())
        return {self.weight: layer[..., :-1], self.bias: layer[..., -1]}

    def value_and_gradient(self, layer: Tensor) -> tuple[float, Tensor]:
        """Log joint at a layer (V, F) up to the priors' constants, nats, and its gradient."""
        total, slope = 0.0, torch.zeros_like(layer)
        for features, targets in self._blocks():
            logits = (features @ layer.to(features).mT).double()
            if self._exclusive:
                table = logits.log_softmax(-1)
                total += float(table.gather(1, targets[:, None]).sum())
                miss = -table.exp()
                miss.scatter_add_(1, targets[:, None], torch.ones_like(miss[:, :1]))
            else:
                softplus = torch.nn.functional.softplus(logits)
                total += float((targets * logits - softplus).sum())
                miss = targets - logits.sigmoid()
            slope += (miss.to(features).mT @ features).double()
        off = layer - self._loc
        total -= 0.5 * float((self._precision * off.square()).sum())
        return total, slope - self._precision * off

    def _blocks(self) -> list[tuple[Tensor, Tensor]]:
        split = (part.split(AT_ONCE) for part in self._seen)
        return list(zip(*split, strict=True))

    def curvature(self, layer: Tensor) -> Curvature:
        """P at a layer (V, F)."""
        if not self._exclusive:
            return Blocks(self._by_output(layer) + torch.diag_embed(self._precision))
        if layer.numel() <= MOST_WHOLE:
            return Whole(self._by_pairs(layer), self._precision)
        return self._factored(layer)

    def _by_output(self, layer: Tensor) -> Tensor:
        """``sum_t p_tv (1 - p_tv) f_t f_t^T``: (V, F, F)."""
        found = layer.new_zeros(len(layer), layer.shape[1], layer.shape[1])
        for features, _ in self._blocks():
            p = (features @ layer.to(features).mT).sigmoid()
            for output, weight in enumerate((p * (1 - p)).unbind(1)):
                found[output] += (features.mT @ (features * weight[:, None])).double()
        return found

    def _by_pairs(self, layer: Tensor) -> Tensor:
        """``sum_t (diag(p_t) - p_t p_t^T) x f_t f_t^T``: (V, F, V, F)."""
        size, width = layer.shape
        found = layer.new_zeros(size, width, size, width)
        for features, _ in self._blocks():
            p = (features @ layer.to(features).mT).softmax(-1)
            by_pair = (p[:, :, None] * features[:, None]).flatten(1)
            found -= (by_pair.mT @ by_pair).double().view(found.shape)
            for output, weight in enumerate(p.unbind(1)):
                found[output, :, output] += (features.mT @ (features * weight[:, None])).double()
        return found

    def _factored(self, layer: Tensor) -> Kronecker:
        size, width = layer.shape
        of_outputs, of_features = layer.new_zeros(size, size), layer.new_zeros(width, width)
        for features, _ in self._blocks():
            p = (features @ layer.to(features).mT).softmax(-1)
            of_outputs += (p.sum(0).diag() - p.mT @ p).double()
            of_features += (features.mT @ features).double()
        if not bool((self._precision == self._precision[0, 0]).all()):
            raise RefusedError(
                f"laplace: the last layer has {layer.numel()} weights with priors of several "
                "widths, too many for a whole Hessian; use svi"
            )
        of_features = of_features / len(self._seen.features)
        return Kronecker(of_outputs, of_features, float(self._precision[0, 0]))

    def mode(self, layer: Tensor) -> Climbed:
        """The highest layer (V, F), from one to start with."""
        height, slope = self.value_and_gradient(layer)
        evaluations = 1
        for _ in range(ROUNDS):
            curvature = self.curvature(layer)
            promised = 0.5 * float((slope * curvature.solve(slope)).sum())
            if promised < NEAR + self._rounding(height):
                return Climbed(layer, curvature, True, evaluations)
            for _ in range(CHORDS):
                move = curvature.solve(slope)
                if 0.5 * float((slope * move).sum()) < NEAR:
                    break
                found = self._risen(layer, move, height)
                evaluations += found.tries
                if found.height <= height:
                    break
                layer, height, slope = found.layer, found.height, found.slope
        return Climbed(layer, self.curvature(layer), False, evaluations)

    def _rounding(self, height: float) -> float:
        """What features in single precision leave open."""
        return float(np.finfo(np.float32).eps) * abs(height) * 1e-2

    def _risen(self, layer: Tensor, move: Tensor, height: float) -> Risen:
        """The longest of a move's halvings that rises; the start where none does."""
        for tries in range(1, HALVES + 1):
            ahead = layer + move
            value, slope = self.value_and_gradient(ahead)
            if value > height:
                return Risen(ahead, value, slope, tries)
            move = 0.5 * move
        return Risen(layer, height, slope, HALVES)


class Climbed(NamedTuple):
    """Where Newton's steps ended."""

    layer: Tensor
    """(V, F)."""
    curvature: Curvature
    converged: bool
    evaluations: int
    """Passes over the features for a gradient."""


class Risen(NamedTuple):
    """After one step."""

    layer: Tensor
    height: float
    slope: Tensor
    tries: int


def _seen(target: Target, unrolled: Unrolled, point: Latents, n_outputs: int) -> Seen:
    """What the last layer sees at every step of every sequence."""
    width = point[target.story.last_layer[0]].shape[1] + 1
    steps = int(unrolled.lengths.sum())
    if steps * width > MOST_FEATURES:
        raise RefusedError(
            f"laplace can't keep {width} features of each of {steps:,} steps, more than "
            f"{MOST_FEATURES:,} numbers; use svi"
        )
    windows = Windows(unrolled, whole(unrolled), ROWS, None)
    place = windows.first(torch.Generator().manual_seed(0))
    features, targets = [], []
    nothing: State = ()
    with torch.no_grad():
        for batch in range(windows.per_pass(place)):
            window = windows.at(place._replace(batch=batch))
            told, _ = unrolled.features(point, window.inputs, nothing)
            inside = window.inside.bool()
            features.append(told[inside])
            targets.append(window.targets[inside])
    every = torch.cat(features)
    return Seen(torch.cat([every, torch.ones_like(every[:, :1])], 1), torch.cat(targets))


# -- forms of the curvature --------------------------------------------------------------------


class Blocks:
    """One block (F, F) for each output; exact for outputs that are independent."""

    def __init__(self, precision: Tensor) -> None:
        self._precision = _symmetric(precision)
        self._root = torch.linalg.cholesky(self._precision)
        count, width = len(precision), precision.shape[1]
        self.words = f"exact: {count} blocks of {width} x {width}"

    def solve(self, gradient: Tensor) -> Tensor:
        """``P^-1 g``, (V, F)."""
        solved: Tensor = torch.cholesky_solve(gradient.unsqueeze(-1), self._root)
        return solved.squeeze(-1)

    def spread(self, noise: Tensor) -> Tensor:
        """``L^-T z``, with ``P = L L^T``."""
        column = noise.unsqueeze(-1)
        drawn: Tensor = torch.linalg.solve_triangular(self._root.mT, column, upper=True)
        return drawn.squeeze(-1)

    def dense(self) -> Tensor:
        """(V F, V F), zero between outputs."""
        whole: Tensor = torch.block_diag(*self._precision)
        return whole


def _symmetric(matrix: Tensor) -> Tensor:
    """Without what rounding made lopsided."""
    return torch.lerp(matrix, matrix.mT, 0.5)


class Whole:
    """All of it, by its Cholesky root; exact."""

    def __init__(self, pairs: Tensor, prior: Tensor) -> None:
        size = prior.numel()
        self._precision = _symmetric(pairs.reshape(size, size)) + prior.flatten().diag()
        self._root = torch.linalg.cholesky(self._precision)
        self._shape = prior.shape
        self.words = f"exact: {size} x {size}"

    def solve(self, gradient: Tensor) -> Tensor:
        """``P^-1 g``, (V, F)."""
        solved: Tensor = torch.cholesky_solve(gradient.reshape(-1, 1), self._root)
        return solved.view(self._shape)

    def spread(self, noise: Tensor) -> Tensor:
        """``L^-T z``, with ``P = L L^T``."""
        column = noise.reshape(-1, 1)
        drawn: Tensor = torch.linalg.solve_triangular(self._root.mT, column, upper=True)
        return drawn.view(self._shape)

    def dense(self) -> Tensor:
        """(V F, V F)."""
        return self._precision


class Kronecker:
    """``A x B + tau I`` by the eigenvectors of A (V, V) and B (F, F); approximate."""

    def __init__(self, of_outputs: Tensor, of_features: Tensor, prior: float) -> None:
        first, self._left = torch.linalg.eigh(_symmetric(of_outputs))
        second, self._right = torch.linalg.eigh(_symmetric(of_features))
        self._values = first.clamp(min=0)[:, None] * second.clamp(min=0) + prior
        self.words = (
            f"approximate: Kronecker factors of {len(first)} x {len(first)} and {len(second)} x "
            f"{len(second)}"
        )

    def solve(self, gradient: Tensor) -> Tensor:
        """``P^-1 g``, (V, F)."""
        turned = self._left.mT @ gradient @ self._right
        solved: Tensor = self._left @ (turned / self._values) @ self._right.mT
        return solved

    def spread(self, noise: Tensor) -> Tensor:
        """Noise over the roots of the eigenvalues, turned back."""
        drawn: Tensor = self._left @ (noise / self._values.sqrt()) @ self._right.mT
        return drawn

    def dense(self) -> Tensor:
        """(V F, V F)."""
        basis = torch.kron(self._left, self._right)
        whole: Tensor = (basis * self._values.flatten()) @ basis.mT
        return whole
