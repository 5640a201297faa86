"""The Gaussian mixture: its densities, closed M-step, starts, imputation and refusals."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.optim import PyroOptim
from scipy import stats
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.datasets import load_iris
from torch import Tensor

from storyzoo.errors import DataError, SettingError
from storyzoo.inference.engine.enumeration import responsibilities
from storyzoo.inference.engine.factors import priors_of
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.models.gmm import GaussianMixture, Shape

IRIS = load_iris().data
SHAPES = get_args(Shape)
Point = dict[str, Tensor]


def holes(y: np.ndarray, share: float = 0.15) -> np.ndarray:
    """The rows with some values missing, and one row with none left."""
    gaps = np.random.default_rng(3).random(y.shape) < share
    gaps[3] = True
    return np.where(gaps, np.nan, y)


def target_of(covariance: Shape, y: np.ndarray = IRIS, **fields: Any) -> Target:
    fields.setdefault("n_components", 3)
    story = GaussianMixture(covariance=covariance, **fields)
    return make_target(story.scaled_to({"y": torch.as_tensor(y)}), {"y": y})


def mixture_of(target: Target) -> GaussianMixture:
    assert isinstance(target.story, GaussianMixture)
    return target.story


def start_of(target: Target, seed: int = 0) -> Point:
    return mixture_of(target).initial(target.data, np.random.default_rng(seed))


def covariances(point: Point, size: int) -> np.ndarray:
    """The components' covariances (K, D, D), whatever their shape."""
    k = len(point["weight"])
    if "covariance" in point:
        return point["covariance"].expand(k, size, size).numpy()
    variance = point["variance"].reshape(k, -1).expand(k, size)
    return variance.diag_embed().numpy()


def climb(target: Target, prior: bool, steps: int, tolerance: float = 0.0) -> tuple[Point, Any]:
    """EM as plain as can be: the latents and the objective by step."""
    story, point, path = mixture_of(target), start_of(target), [-np.inf]
    with target.context():
        for _ in range(steps):
            expected = story.expect(point, target.data, False)
            log_prior = priors_of(story, target.data, point, target.structure)[0]
            path.append(float(expected.log_likelihood) + (float(log_prior) if prior else 0.0))
            if path[-1] - path[-2] <= tolerance:
                break
            point = story.maximise(expected.statistics, target.data, prior)
    return point, np.array(path[1:])


# -- densities -------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "holes"])
@pytest.mark.parametrize("covariance", SHAPES)
def test_marginal_is_the_log_sum_of_scipys_densities(covariance: Shape, missing: bool) -> None:
    y = holes(IRIS) if missing else IRIS
    target = target_of(covariance, y)
    point = start_of(target)
    by_hand = np.zeros(len(y))
    for n, row in enumerate(y):
        o = np.flatnonzero(~np.isnan(row))
        joint = point["weight"].log().numpy().copy()
        for k, s in enumerate(covariances(point, 4)) if len(o) else ():
            loc = point["loc"][k].numpy()[o]
            joint[k] += stats.multivariate_normal(loc, s[np.ix_(o, o)]).logpdf(row[o])
        by_hand[n] = logsumexp(joint)
    found = mixture_of(target).marginal(point, target.data)
    np.testing.assert_allclose(found, by_hand, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "holes"])
@pytest.mark.parametrize("covariance", SHAPES)
def test_marginal_is_the_model_with_z_summed_out(covariance: Shape, missing: bool) -> None:
    """The model's own trace, enumerated by the engine, missing values masked there."""
    target = target_of(covariance, holes(IRIS) if missing else IRIS)
    point = start_of(target)
    with target.context():
        enumerated = responsibilities(target.story, target.data, point, target.structure)
    found = mixture_of(target).expect(point, target.data, False)
    total = mixture_of(target).marginal(point, target.data).sum()
    torch.testing.assert_close(enumerated.log_likelihood, total)
    torch.testing.assert_close(found.log_likelihood, total)
    torch.testing.assert_close(enumerated.by_site["z"].sum(-1), found.statistics["count"])


@pytest.mark.parametrize("covariance", SHAPES)
def test_priors_are_those_the_docstring_states(covariance: Shape) -> None:
    target = target_of(covariance)
    story, point = mixture_of(target), start_of(target)
    scatter = IRIS.var(0) / 3 ** (2 / 4)
    expected = stats.dirichlet(np.full(3, 5.0)).logpdf(point["weight"].numpy())
    for k, s in enumerate(covariances(point, 4)):
        expected += stats.multivariate_normal(IRIS.mean(0), s / 0.01).logpdf(point["loc"][k])
        if covariance == "full":
            expected += stats.invwishart(6, np.diag(scatter)).logpdf(s)
        elif covariance == "diagonal":
            expected += stats.invgamma(3, scale=scatter / 2).logpdf(s.diagonal()).sum()
        elif covariance == "spherical":
            expected += stats.invgamma(3, scale=scatter.mean() / 2).logpdf(s[0, 0])
    if covariance == "tied":
        expected += stats.invwishart(6, np.diag(scatter)).logpdf(point["covariance"].numpy())
    with target.context():
        found = priors_of(story, target.data, point, target.structure)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("covariance", SHAPES)
def test_sites_have_the_dims_that_the_card_names(covariance: Shape) -> None:
    dims = {name: site.dims for name, site in target_of(covariance).structure.sites.items()}
    seconds: dict[str, dict[str, tuple[str, ...]]] = {
        "full": {"covariance": ("component", "feature", "feature_other")},
        "tied": {"covariance": ("feature", "feature_other")},
        "diagonal": {"variance": ("component", "feature")},
        "spherical": {"variance": ("component",)},
    }
    assert dims == {
        "weight": ("component",),
        "loc": ("component", "feature"),
        "z": ("point",),
        "y": ("point", "feature"),
        **seconds[covariance],
    }


@pytest.mark.parametrize("covariance", SHAPES)
def test_permuting_the_components_changes_nothing(covariance: Shape) -> None:
    target = target_of(covariance, holes(IRIS))
    density, point = target.density(jacobian=False), start_of(target)
    at = float(density(density.flatten(point)))
    for order in itertools.permutations(range(3)):
        other = {
            name: value[list(order)]
            if target.structure.sites[name].dims[0] == "component"
            else value
            for name, value in point.items()
        }
        assert float(density(density.flatten(other))) == pytest.approx(at, rel=1e-12)


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "holes"])
@pytest.mark.parametrize("covariance", SHAPES)
def test_the_density_can_be_traced_and_mapped(covariance: Shape, missing: bool) -> None:
    target = target_of(covariance, holes(IRIS) if missing else IRIS)
    density = target.density()
    q = density.flatten(start_of(target))
    points = torch.stack([q, q + 0.1, q - 0.1])
    values, gradients = density.batch_value_and_gradient(points)
    assert "eager" not in density.engine
    for row, value, gradient in zip(points, values, gradients, strict=True):
        one_value, one_gradient = density.value_and_gradient(row)
        torch.testing.assert_close(value, one_value)
        torch.testing.assert_close(gradient, one_gradient)


# -- EM --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [True, False], ids=["posterior", "likelihood"])
@pytest.mark.parametrize("covariance", SHAPES)
def test_nothing_is_better_than_the_m_step(covariance: Shape, prior: bool) -> None:
    """L-BFGS on the expected complete log joint starts at the M-step's answer and stays there."""
    target = target_of(covariance)
    story, before = mixture_of(target), start_of(target)
    density = target.density(jacobian=False, prior=prior)
    with target.context():
        weights = responsibilities(story, target.data, before, target.structure).by_site["z"]
        statistics = story.expect(before, target.data, False).statistics
        found = story.maximise(statistics, target.data, prior)

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            q = torch.tensor(flat, requires_grad=True)
            point = density.unflatten(q)
            joint = point["weight"].log().unsqueeze(-1) + story._log_components(
                point, target.data["y"]
            )
            value = (weights * joint).sum()
            if prior:
                value = value + priors_of(story, target.data, point, target.structure)[0]
            (gradient,) = torch.autograd.grad(value, q)
            return -float(value.detach()), -gradient.numpy()

        q = density.flatten(found).numpy()
        value, gradient = loss(q)
        best = minimize(loss, q, jac=True, method="L-BFGS-B")
        elsewhere = minimize(loss, density.flatten(before).numpy(), jac=True, method="L-BFGS-B")
    assert np.abs(gradient).max() < 1e-7
    assert best.fun > value - 1e-7
    assert elsewhere.fun > value - 1e-7


@pytest.mark.parametrize("prior", [True, False], ids=["posterior", "likelihood"])
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "holes"])
@pytest.mark.parametrize("covariance", SHAPES)
def test_em_climbs_to_a_stationary_point(covariance: Shape, missing: bool, prior: bool) -> None:
    y = holes(IRIS, 0.05) if missing else IRIS
    target = target_of(covariance, y, n_components=2)
    point, path = climb(target, prior, steps=3000)
    assert np.diff(path).min() > -1e-11 * abs(path[-1])
    density = target.density(jacobian=False, prior=prior)
    _, gradient = density.value_and_gradient(density.flatten(point))
    assert float(gradient.abs().max()) < 1e-3


def test_concentrations_below_one_climb_in_the_softmax_basis() -> None:
    target = target_of("diagonal", n_components=4, concentration=0.5)
    story, point = mixture_of(target), start_of(target)
    path = []
    with target.context():
        for _ in range(50):
            expected = story.expect(point, target.data, False)
            log_prior = priors_of(story, target.data, point, target.structure)[0]
            basis = point["weight"].log().sum()
            path.append(float(expected.log_likelihood + log_prior + basis))
            point = story.maximise(expected.statistics, target.data, True)
    assert np.diff(path).min() > -1e-9


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "holes"])
@pytest.mark.parametrize("covariance", SHAPES)
def test_starts_are_sane_and_differ_by_seed(covariance: Shape, missing: bool) -> None:
    y = holes(IRIS) if missing else IRIS
    target = target_of(covariance, y, n_components=5)
    density = target.density()
    starts = [start_of(target, seed) for seed in (0, 0, 1)]
    torch.testing.assert_close(starts[0], starts[1], rtol=0, atol=0)
    assert not torch.equal(starts[0]["loc"], starts[2]["loc"])
    for start in starts:
        torch.testing.assert_close(density.unflatten(density.flatten(start)), start)
        assert bool(torch.isfinite(density(density.flatten(start))))
        assert not mixture_of(target).diagnose(start, target.data)


def test_starts_take_fewer_distinct_rows_than_components() -> None:
    y = np.repeat([[0.0, 1.0], [2.0, 0.0]], 10, axis=0)
    target = target_of("full", y, n_components=4)
    assert all(torch.isfinite(value).all() for value in start_of(target).values())


def test_units_of_the_data_change_nothing() -> None:
    """Columns in other units give the same memberships and the same floor."""
    scale = np.array([1e-6, 1.0, 1e3, 1e5])
    paths = [climb(target_of("full", y), prior=False, steps=20)[1] for y in (IRIS, IRIS * scale)]
    shift = len(IRIS) * np.log(scale).sum()
    np.testing.assert_allclose(paths[1] + shift, paths[0], rtol=1e-8)


# -- degenerate components -------------------------------------------------------------------


def test_a_collapsed_component_is_named_with_the_remedy() -> None:
    y = np.concatenate([np.random.default_rng(0).normal(size=(60, 2)), np.full((8, 2), 9.0)])
    target = target_of("full", y, n_components=2)
    point, path = climb(target, prior=False, steps=300)
    assert np.isfinite(path).all()
    (where, why), *rest = mixture_of(target).diagnose(point, target.data).items()
    assert not rest
    assert where.startswith("component ")
    assert "floor" in why
    assert "objective=posterior" in why
    regular, _ = climb(target, prior=True, steps=300)
    assert not mixture_of(target).diagnose(regular, target.data)


@pytest.mark.parametrize(("covariance", "n", "sane"), [("full", 3, False), ("diagonal", 3, True)])
def test_too_few_rows_are_named(covariance: Shape, n: int, sane: bool) -> None:
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(size=(60, 2)), 30 + rng.normal(size=(n, 2))])
    target = target_of(covariance, y, n_components=2)
    point, _ = climb(target, prior=True, steps=200)
    found = mixture_of(target).diagnose(point, target.data)
    assert (not found) == sane
    assert sane or f"it holds {n}.0 rows" in next(iter(found.values()))


# -- missing values --------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", SHAPES)
def test_imputed_values_have_the_conditional_moments(covariance: Shape) -> None:
    target = target_of(covariance)
    story, point = mixture_of(target), start_of(target)
    row = IRIS[60].copy()
    o, m = [0, 2], [1, 3]
    row[m] = np.nan
    y = torch.as_tensor(np.tile(row, (40_000, 1)))
    drawn = story.impute(point, {"y": y}, np.random.default_rng(0))["y"].numpy()
    np.testing.assert_array_equal(drawn[:, o], y[:, o])
    log_share, means, seconds = np.zeros(3), np.zeros((3, 2)), np.zeros((3, 2, 2))
    for k, s in enumerate(covariances(point, 4)):
        loc = point["loc"][k].numpy()
        peer = stats.multivariate_normal(loc[o], s[np.ix_(o, o)])
        log_share[k] = float(point["weight"][k].log()) + peer.logpdf(row[o])
        regression = s[np.ix_(m, o)] @ np.linalg.inv(s[np.ix_(o, o)])
        means[k] = loc[m] + regression @ (row[o] - loc[o])
        seconds[k] = s[np.ix_(m, m)] - regression @ s[np.ix_(o, m)]
        seconds[k] += np.outer(means[k], means[k])
    share = np.exp(log_share - logsumexp(log_share))
    mean = share @ means
    covariance_found = np.einsum("k,kij->ij", share, seconds) - np.outer(mean, mean)
    np.testing.assert_allclose(drawn[:, m].mean(0), mean, atol=0.015)
    np.testing.assert_allclose(np.cov(drawn[:, m].T), covariance_found, atol=0.02)


@pytest.mark.parametrize("covariance", SHAPES)
def test_a_row_without_any_value_is_drawn_from_the_mixture(covariance: Shape) -> None:
    target = target_of(covariance)
    story, point = mixture_of(target), start_of(target)
    empty = {"y": torch.full((20_000, 4), torch.nan).double()}
    assert float(story.marginal(point, empty).abs().max()) < 1e-9
    drawn = story.impute(point, empty, np.random.default_rng(0))["y"]
    mean = point["weight"] @ point["loc"]
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.05, rtol=0)


def test_imputing_complete_data_changes_nothing() -> None:
    target = target_of("full")
    drawn = mixture_of(target).impute(start_of(target), target.data, np.random.default_rng(0))
    torch.testing.assert_close(drawn["y"], target.data["y"], rtol=0, atol=0)


# -- the guide -------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", SHAPES)
def test_the_guide_covers_every_latent_and_climbs(covariance: Shape) -> None:
    target = target_of(covariance)
    with target.context():
        torch.manual_seed(0)
        guide = target.story.guide(target.data)
        trace = poutine.trace(guide).get_trace(**target.data)
        drawn = {n for n in trace.stochastic_nodes if n != "component"}
        assert drawn == set(target.structure.latents)
        for name in drawn:
            assert tuple(trace.nodes[name]["value"].shape) == target.structure.sites[name].shape
        svi = SVI(
            target.story.model,
            guide,
            PyroOptim(torch.optim.Adam, {"lr": 0.02}),
            TraceEnum_ELBO(max_plate_nesting=1),
        )
        losses = [svi.step(**target.data) for _ in range(120)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-40:]) < np.mean(losses[:10])


def test_the_model_has_no_parameter_of_its_own() -> None:
    target = target_of("full")
    with target.context():
        trace = poutine.trace(target.story.model).get_trace(**target.data)
    assert not trace.param_nodes


# -- fields and data -------------------------------------------------------------------------


def test_scaling_sets_what_is_unset_and_keeps_the_rest() -> None:
    y = torch.as_tensor(holes(IRIS))
    scaled = GaussianMixture(spread=2.0).scaled_to({"y": y})
    assert scaled.spread == 2.0
    np.testing.assert_allclose(np.asarray(scaled.centre), np.nanmean(y, axis=0))
    whole = GaussianMixture().scaled_to({"y": y})
    np.testing.assert_allclose(np.asarray(whole.spread), np.nanstd(y, axis=0))
    assert whole.scaled_to({"y": 100 * y}) == whole


def test_fields_survive_json() -> None:
    story = GaussianMixture().scaled_to({"y": torch.as_tensor(IRIS)})
    kept = json.loads(json.dumps(dataclasses.asdict(story)))
    assert GaussianMixture(**kept) == story


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"n_components": 0}, "at least 1"),
        ({"n_components": 2.5}, "at least 1"),
        ({"covariance": "diag"}, "did you mean 'diagonal'"),
        ({"concentration": 0.0}, "above zero"),
        ({"shrinkage": -1.0}, "above zero"),
        ({"spread": (1.0, 0.0)}, "every column"),
    ],
)
def test_impossible_fields_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        GaussianMixture(**fields)


def column(values: Any) -> np.ndarray:
    y = np.array(IRIS[:10])
    y[:, 2] = values
    return y


BAD = {
    "no rows": (np.zeros((0, 2)), "no rows"),
    "no columns": (np.zeros((5, 0)), "numeric columns"),
    "one row": (IRIS[:1], "one row"),
    "K > N": (IRIS[:2], "n_components to at most 2"),
    "infinite": (column(np.inf), "row 1, column 3 is infinite"),
    "constant": (column(7.0), "column 3 is constant"),
    "constant where observed": (column([7.0] + [np.nan] * 9), "column 3 is constant"),
    "unseen": (column(np.nan), "column 3 has no value"),
    "duplicates": (np.tile(IRIS[:1], (9, 1)), "all rows are the same"),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_no_mixture_can_be_told_of(name: str) -> None:
    y, reason = BAD[name]
    story = GaussianMixture(n_components=1 if name == "one row" else 3)
    with pytest.raises(DataError, match=reason):
        story.check({"y": torch.as_tensor(y)})


def test_a_centre_of_another_width_is_refused() -> None:
    with pytest.raises(SettingError, match="centre has 2 values, the data 4 columns"):
        GaussianMixture(centre=(0.0, 1.0)).check({"y": torch.as_tensor(IRIS)})


def test_statistics_are_free_of_units() -> None:
    y = torch.as_tensor(holes(IRIS))
    story = GaussianMixture()
    found = story.statistics({"y": y})
    assert story.statistics({"y": 10 * y + 3}) == pytest.approx(found)
    sample = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    normal = story.statistics({"y": sample})
    assert normal["skewness"] == pytest.approx(0.0, abs=0.05)
    assert normal["kurtosis"] == pytest.approx(3.0, abs=0.1)
