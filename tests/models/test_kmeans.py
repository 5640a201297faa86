"""k-means as a story: Lloyd's algorithm step for step, its objective, empty clusters."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import sklearn.cluster
import torch
from scipy import stats
from scipy.special import logsumexp
from sklearn.datasets import load_digits, load_iris
from torch import Tensor

from storyzoo.errors import DataError, SettingError, StoryError
from storyzoo.inference.engine.target import make_target
from storyzoo.models.kmeans import KMeans

IRIS = load_iris().data
# Counts of pixels tie often, and which of two centres wins a tie is nobody's business.
DIGITS = load_digits().data + np.random.default_rng(0).normal(size=(1797, 64)) * 1e-3


def scaled(y: np.ndarray, k: int = 3) -> tuple[KMeans, dict[str, Tensor]]:
    data = {"y": torch.as_tensor(y)}
    return KMeans(k).scaled_to(data), data


def lloyd(
    story: KMeans, data: dict[str, Tensor], point: dict[str, Tensor], steps: int = 300
) -> tuple[dict[str, Tensor], list[float]]:
    """Hard EM until nothing changes: the centres and the objective J by step."""
    path: list[float] = []
    for _ in range(steps):
        path.append(story.inertia(point, data))
        if len(path) > 1 and path[-1] == path[-2]:
            break
        expected = story.expect(point, data, True)
        point = story.maximise(expected.statistics, data, True)
    return point, path


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("name", "k"), [("iris", 3), ("digits", 10)])
def test_hard_em_is_scikit_learns_lloyd(name: str, k: int, seed: int) -> None:
    y = {"iris": IRIS, "digits": DIGITS}[name]
    story, data = scaled(y, k)
    start = story.initial(data, np.random.default_rng(seed))
    point, path = lloyd(story, data, start)
    peer = sklearn.cluster.KMeans(k, init=start["loc"].numpy(), n_init=1, tol=0, max_iter=500)
    peer.fit(y)
    np.testing.assert_allclose(point["loc"], peer.cluster_centers_, rtol=1e-9, atol=1e-9)
    assert path[-1] == pytest.approx(peer.inertia_, rel=1e-9)
    assert np.diff(path).max() <= 1e-9 * path[0]


def test_the_objective_is_a_constant_less_the_inertia() -> None:
    story, data = scaled(IRIS)
    assert story.sd is not None
    points = [story.initial(data, np.random.default_rng(seed)) for seed in range(4)]
    joints = [float(story.expect(point, data, True).log_likelihood) for point in points]
    inertias = [story.inertia(point, data) for point in points]
    constants = [a + j / (2 * story.sd**2) for a, j in zip(joints, inertias, strict=True)]
    np.testing.assert_allclose(constants, constants[0], rtol=1e-9)
    n, d = IRIS.shape
    expected = -n * (np.log(3) + 0.5 * d * np.log(2 * np.pi * story.sd**2))
    assert constants[0] == pytest.approx(expected, rel=1e-6)


def test_hard_statistics_add_up_over_chunks_and_are_lloyds() -> None:
    story, data = scaled(IRIS)
    point = story.initial(data, np.random.default_rng(0))
    whole = story.expect(point, data, True)
    labels = ((IRIS[:, None] - point["loc"].numpy()) ** 2).sum(-1).argmin(1)
    for k in range(3):
        own = IRIS[labels == k] - point["loc"][k].numpy()
        assert float(whole.statistics["count"][k]) == len(own)
        np.testing.assert_allclose(whole.statistics["first"][k], own.sum(0), atol=1e-9)
    parts = [story.expect(point, {"y": y}, True) for y in data["y"].tensor_split(4)]
    torch.testing.assert_close(sum(p.log_likelihood for p in parts), whole.log_likelihood)
    for name, value in whole.statistics.items():
        torch.testing.assert_close(sum(p.statistics[name] for p in parts), value)


def test_soft_steps_are_those_of_equal_tiny_spheres() -> None:
    story, data = KMeans(3, sd=0.7), {"y": torch.as_tensor(IRIS)}
    point = story.initial(data, np.random.default_rng(0))
    joint = np.stack(
        [
            stats.multivariate_normal(loc, 0.49 * np.eye(4)).logpdf(IRIS) - np.log(3)
            for loc in point["loc"].numpy()
        ]
    )
    found = story.expect(point, data, False)
    np.testing.assert_allclose(found.log_likelihood, logsumexp(joint, axis=0).sum(), rtol=1e-9)
    np.testing.assert_allclose(story.marginal(point, data), logsumexp(joint, axis=0), rtol=1e-9)
    share = np.exp(joint - logsumexp(joint, axis=0))
    expected = (share @ IRIS) / share.sum(1, keepdims=True)
    np.testing.assert_allclose(
        story.maximise(found.statistics, data, False)["loc"], expected, rtol=1e-9
    )


def test_far_from_the_origin_nothing_cancels() -> None:
    near, far = (IRIS * 64).round() / 64, 2.0**30
    ends = []
    for shift in (0.0, far):
        story, data = scaled(near + shift)
        start = {"loc": data["y"][[0, 60, 120]]}
        ends.append(lloyd(story, data, start)[1][-1])
    assert ends[1] == pytest.approx(ends[0], rel=1e-6)


def test_an_empty_cluster_goes_to_the_farthest_row_as_in_scikit_learn() -> None:
    y = np.concatenate([np.random.default_rng(0).normal(size=(40, 2)), [[30.0, 0.0], [0.0, 20.0]]])
    story, data = scaled(y, 4)
    start = np.array([[0.0, 0.0], [0.5, 0.5], [500.0, 0.0], [0.0, 500.0]])
    point, path = lloyd(story, data, {"loc": torch.as_tensor(start)})
    peer = sklearn.cluster.KMeans(4, init=start, n_init=1, tol=0).fit(y)
    assert path[-1] == pytest.approx(peer.inertia_)
    assert np.diff(path).max() <= 0
    assert not story.diagnose(point, data)
    by_row = [tuple(row) for row in np.round(point["loc"].numpy(), 6)]
    assert (30.0, 0.0) in by_row
    assert (0.0, 20.0) in by_row


def test_a_cluster_without_rows_is_named() -> None:
    story, data = scaled(IRIS)
    point = {"loc": torch.as_tensor(np.concatenate([IRIS[[0, 100]], [[99.0] * 4]]))}
    assert "lower n_clusters" in story.diagnose(point, data)["cluster 2"]


def test_permuting_the_clusters_changes_nothing() -> None:
    story, data = scaled(IRIS)
    loc = story.initial(data, np.random.default_rng(0))["loc"]
    marginal = story.marginal({"loc": loc}, data)
    for order in itertools.permutations(range(3)):
        torch.testing.assert_close(story.marginal({"loc": loc[list(order)]}, data), marginal)


def test_dims_and_the_improper_prior() -> None:
    target = make_target(KMeans(3), {"y": IRIS})
    dims = {name: site.dims for name, site in target.structure.sites.items()}
    assert dims == {"loc": ("cluster", "feature"), "z": ("point",), "y": ("point", "feature")}
    assert target.structure.improper
    with target.context(), pytest.raises(StoryError, match="improper prior"):
        target.story.model(**target.data)


def test_scaling_sets_sd_once() -> None:
    story, data = scaled(IRIS)
    deviation = np.sqrt(((IRIS - IRIS.mean(0)) ** 2).mean())
    assert story.sd == pytest.approx(1e-3 * deviation)
    assert KMeans(sd=0.5).scaled_to(data).sd == 0.5


@pytest.mark.parametrize("fields", [{"n_clusters": 0}, {"n_clusters": 1.5}, {"sd": 0.0}])
def test_impossible_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="kmeans"):
        KMeans(**fields)


def hole() -> np.ndarray:
    y = np.array(IRIS)
    y[4, 2] = np.nan
    return y


BAD = {
    "missing": (hole(), "row 5, column 3 is missing: k-means needs complete rows"),
    "no rows": (np.zeros((0, 2)), "no rows"),
    "K > N": (IRIS[:2], "n_clusters to at most 2"),
    "infinite": (np.array([[1.0, np.inf], [0.0, 1.0], [2.0, 2.0]]), "row 1, column 2 is infinite"),
    "duplicates": (np.repeat(IRIS[:2], 9, axis=0), "3 clusters for 2 distinct rows"),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_k_means_cannot_take(name: str) -> None:
    y, reason = BAD[name]
    with pytest.raises(DataError, match=reason):
        KMeans(3).check({"y": torch.as_tensor(y)})
