"""The inverse-Wishart against scipy, and under the transforms that methods use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import invwishart
from torch.fx.experimental.proxy_tensor import make_fx

from storyzoo.models.distributions.inverse_wishart import InverseWishart, cholesky

SCALES = {
    1: np.array([[2.0]]),
    2: np.array([[2.0, 0.3], [0.3, 1.0]]),
    3: np.array([[1.5, 0.2, -0.4], [0.2, 1.0, 0.1], [-0.4, 0.1, 0.7]]),
}


def distribution(size: int, df: float) -> InverseWishart:
    return InverseWishart(df, torch.as_tensor(SCALES[size]), validate_args=False)


@pytest.mark.parametrize("size", SCALES)
@pytest.mark.parametrize("extra", [0.5, 2.0, 7.3])
def test_log_prob_is_scipys(size: int, extra: float) -> None:
    df = size - 1 + extra
    peer = invwishart(df, SCALES[size])
    values = peer.rvs(20, random_state=0).reshape(20, size, size)
    expected = [peer.logpdf(value) for value in values]
    found = distribution(size, df).log_prob(torch.as_tensor(values))
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_draws_have_the_moments_of_theory() -> None:
    torch.manual_seed(0)
    q = distribution(3, 12.0)
    draws = q.sample((40_000,))
    peer = invwishart(12.0, SCALES[3])
    np.testing.assert_allclose(draws.mean(0), peer.mean(), atol=0.005)
    np.testing.assert_allclose(draws.var(0), peer.var(), rtol=0.1)
    assert torch.allclose(draws, draws.mT)


def test_mean_and_mode() -> None:
    q = distribution(2, 6.0)
    np.testing.assert_allclose(q.mean, invwishart(6.0, SCALES[2]).mean())
    np.testing.assert_allclose(q.mode, invwishart(6.0, SCALES[2]).mode())
    assert torch.isinf(distribution(2, 2.5).mean).all()


def test_batches_and_expand() -> None:
    scales = torch.as_tensor(SCALES[2]) * torch.tensor([1.0, 2.0, 3.0]).double()[:, None, None]
    q = InverseWishart(torch.tensor([4.0, 5.0, 6.0]).double(), scales)
    assert q.batch_shape == (3,)
    assert q.event_shape == (2, 2)
    value = q.sample()
    alone = [InverseWishart(4.0 + k, scales[k]).log_prob(value[k]) for k in range(3)]
    torch.testing.assert_close(q.log_prob(value), torch.stack(alone))
    wide = q.expand((5, 3))
    assert wide.sample((7,)).shape == (7, 5, 3, 2, 2)
    torch.testing.assert_close(wide.log_prob(value)[2], q.log_prob(value))


def test_gradients_trace_and_map_over_values() -> None:
    q = distribution(3, 7.0)
    values = q.sample((4,))

    def gradient(value: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.grad(lambda x: q.log_prob(x))(value)
        return found

    traced = make_fx(torch.vmap(gradient))(values)
    one_by_one = torch.stack([gradient(value) for value in values])
    torch.testing.assert_close(traced(values), one_by_one)


def test_a_draw_is_differentiable_in_its_scale() -> None:
    scale = torch.as_tensor(SCALES[2]).clone().requires_grad_()
    InverseWishart(5.0, scale).rsample().sum().backward()
    assert scale.grad is not None
    assert torch.isfinite(scale.grad).all()


def test_what_is_not_positive_definite_has_no_factor_but_raises_nothing() -> None:
    matrices = torch.stack([torch.eye(2), -torch.eye(2)]).double()
    factors = cholesky(matrices)
    torch.testing.assert_close(factors[0], torch.eye(2).double())
    assert torch.isnan(factors[1]).all()
