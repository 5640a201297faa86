"""Fits: what they answer, their round trip through a folder, their units."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

from storyzoo.datasets import load
from storyzoo.errors import DataError, RefusedError, RunFolderError
from storyzoo.fit import Fit
from storyzoo.inference.em import EM
from storyzoo.models.eight_schools import EightSchools
from storyzoo.models.gmm import GaussianMixture
from storyzoo.run import compare, fit
from tests.cases import Mixture

METHOD = EM(restarts=4)
STORY = GaussianMixture(n_components=3)


@pytest.fixture(scope="module")
def iris() -> Fit:
    return fit(STORY, "iris", METHOD, holdout=0.2, progress=False)


@pytest.fixture(scope="module")
def standard() -> Fit:
    return fit(STORY, "iris:standardize=true", METHOD, holdout=0.2, progress=False)


def values(answer: Fit, group: str, name: str) -> np.ndarray:
    """Values of one variable of one group."""
    return np.asarray(answer.tree[group].to_dataset()[name].values)


def density_by_hand(answer: Fit, y: np.ndarray) -> np.ndarray:
    point = answer.tree["posterior"].to_dataset().isel(chain=0, draw=0)
    terms = [
        np.log(w) + stats.multivariate_normal.logpdf(y, m, c)
        for w, m, c in zip(
            point["weight"].values, point["loc"].values, point["covariance"].values, strict=True
        )
    ]
    return np.asarray(special.logsumexp(terms, axis=0))


def test_the_tree_has_every_group_that_applies(iris: Fit) -> None:
    expected = {
        "posterior",
        "log_likelihood",
        "log_prior",
        "prior",
        "prior_predictive",
        "posterior_predictive",
        "observed_data",
    }
    assert expected <= set(iris.tree.children)
    assert iris.tree["posterior"].to_dataset()["loc"].dims == (
        "chain",
        "draw",
        "component",
        "feature",
    )
    assert list(iris.coords["feature"]) == list(load("iris").table.columns)  # type: ignore[union-attr]
    assert iris.tree["log_likelihood"].to_dataset()["y"].sizes["point"] == 120


def test_scores_are_the_mixture_density(iris: Fit) -> None:
    y = values(iris, "observed_data", "y")
    np.testing.assert_allclose(iris.log_density().nats, density_by_hand(iris, y), rtol=1e-9)


def test_held_out_rows_are_those_of_the_fixed_split(iris: Fit) -> None:
    table = load("iris").table
    assert table is not None and iris.heldout is not None
    order = np.random.default_rng(0).permutation(150)
    rows = np.sort(order[:30])
    expected = density_by_hand(iris, table.to_numpy()[rows])
    np.testing.assert_allclose(iris.heldout.nats, expected, rtol=1e-9)
    metric = iris.summary["metrics"]["heldout_log_likelihood_nats_per_example"]
    assert metric == pytest.approx(expected.mean())


def test_simulated_rows_have_the_moments_of_the_data(iris: Fit) -> None:
    y = iris.simulate(20_000, seed=1)["y"]
    seen = values(iris, "observed_data", "y")
    assert y.shape == (20_000, 4)
    np.testing.assert_allclose(y.mean(0), seen.mean(0), atol=0.06)
    np.testing.assert_allclose(np.cov(y.T), np.cov(seen.T), atol=0.15)


def test_simulate_repeats_by_seed(iris: Fit) -> None:
    assert np.array_equal(iris.simulate(7, seed=3)["y"], iris.simulate(7, seed=3)["y"])
    assert not np.array_equal(iris.simulate(7, seed=3)["y"], iris.simulate(7, seed=4)["y"])


def test_hidden_labels_are_the_exact_responsibilities(iris: Fit) -> None:
    frame = iris.latent()
    chances = frame[[c for c in frame.columns if c.startswith("P(")]].to_numpy()
    np.testing.assert_allclose(chances.sum(1), 1)
    point = iris.tree["posterior"].to_dataset().isel(chain=0, draw=0)
    y = values(iris, "observed_data", "y")
    joint = np.stack(
        [
            np.log(point["weight"].values[k])
            + stats.multivariate_normal.logpdf(
                y, point["loc"].values[k], point["covariance"].values[k]
            )
            for k in range(3)
        ],
        axis=1,
    )
    np.testing.assert_allclose(chances, special.softmax(joint, axis=1), atol=1e-9)
    assert list(frame["z"]) == list(chances.argmax(1))


def test_holes_are_filled_near_the_truth_and_the_rest_left_alone(iris: Fit) -> None:
    table = load("iris").table
    assert table is not None
    holes = table.iloc[:40].copy()
    holes.iloc[::2, 2] = np.nan
    found = iris.impute(holes, draws=200, seed=0)
    kept = ~holes.isna().to_numpy()
    assert np.array_equal(found.mean["y"][kept], holes.to_numpy()[kept])
    assert (found.sd["y"][kept] == 0).all() and (found.sd["y"][~kept] > 0).all()
    wrong = np.abs(found.mean["y"] - table.iloc[:40].to_numpy())[~kept]
    assert wrong.mean() < 0.3


def test_new_data_need_the_columns_of_the_fit(iris: Fit) -> None:
    with pytest.raises(DataError, match="but the fit was to"):
        iris.log_density(load("iris-petal"))
    one = load("iris").table
    assert one is not None
    assert iris.log_density(one.iloc[:1]).nats.shape == (1,)


# -- units -------------------------------------------------------------------------------------


def test_what_was_standardised_is_shown_in_the_units_of_the_data(iris: Fit, standard: Fit) -> None:
    """The two fits differ by their priors only: the same clouds in the same units."""
    for group, name in (("observed_data", "y"), ("posterior_predictive", "y")):
        assert values(standard, group, name).mean() == pytest.approx(
            values(iris, group, name).mean(), abs=0.15
        )
    ours, theirs = (np.sort(values(f, "posterior", "loc")[0, 0], axis=0) for f in (standard, iris))
    np.testing.assert_allclose(ours, theirs, atol=0.15)
    y = values(standard, "observed_data", "y")
    np.testing.assert_allclose(standard.log_density().nats, density_by_hand(standard, y), rtol=1e-7)
    pointwise = values(standard, "log_likelihood", "y")[0, 0]
    np.testing.assert_allclose(pointwise, density_by_hand(standard, y), rtol=1e-7)
    assert standard.simulate(500)["y"].mean() == pytest.approx(y.mean(), abs=0.3)
    a, b = (
        f.summary["metrics"]["heldout_log_likelihood_nats_per_example"] for f in (iris, standard)
    )
    assert a == pytest.approx(b, abs=0.3)


# -- folders -----------------------------------------------------------------------------------


def test_save_and_load_round_trip_exactly(iris: Fit, tmp_path: Path) -> None:
    folder = iris.save(tmp_path / "run")
    back = Fit.load(folder)
    for name, group in iris.tree.children.items():
        assert back.tree[name].to_dataset().identical(group.to_dataset()), name
    assert back.story == iris.story and back.method == iris.method and back.info == iris.info
    assert back.verdict == iris.verdict and back.seed == iris.seed
    assert back.summary == json.loads((folder / "summary.json").read_text())
    np.testing.assert_array_equal(back.log_density().nats, iris.log_density().nats)
    assert np.array_equal(back.simulate(5)["y"], iris.simulate(5)["y"])
    names = {path.name for path in folder.iterdir()}
    assert names == {"fit.json", "draws.nc", "summary.json", "report.html"}


def test_standardised_fits_round_trip(standard: Fit, tmp_path: Path) -> None:
    back = Fit.load(standard.save(tmp_path / "run"))
    np.testing.assert_allclose(back.log_density().nats, standard.log_density().nats, rtol=1e-9)
    assert back.units.by_argument["y"].columns == standard.units.by_argument["y"].columns


def test_a_story_that_is_not_registered_is_given(tmp_path: Path) -> None:
    y = np.random.default_rng(0).normal(size=(30, 2))
    answer = fit(Mixture(), {"y": y}, EM(restarts=1), out=tmp_path / "run", progress=False)
    with pytest.raises(RunFolderError, match="not registered"):
        Fit.load(tmp_path / "run")
    back = Fit.load(tmp_path / "run", story=Mixture())
    np.testing.assert_allclose(back.log_density().nats, answer.log_density().nats)


def test_a_truncated_tree_is_one_clear_line(iris: Fit, tmp_path: Path) -> None:
    folder = iris.save(tmp_path / "run")
    whole = (folder / "draws.nc").read_bytes()
    (folder / "draws.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunFolderError, match=r"draws\.nc: truncated or no NetCDF"):
        Fit.load(folder)


def test_an_unknown_format_is_refused(iris: Fit, tmp_path: Path) -> None:
    folder = iris.save(tmp_path / "run")
    content = json.loads((folder / "fit.json").read_text())
    (folder / "fit.json").write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(RunFolderError, match="format 99 is unknown"):
        Fit.load(folder)
    (folder / "fit.json").write_text("{ not json")
    with pytest.raises(RunFolderError, match="can't be read as JSON"):
        Fit.load(folder)
    with pytest.raises(RunFolderError, match="holds no run"):
        Fit.load(tmp_path)


def test_a_folder_with_another_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    fit(STORY, "iris-petal", EM(restarts=1), out=tmp_path / "run", progress=False)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(RunFolderError, match="holds another run"):
        fit(STORY, "iris-petal", EM(restarts=2), out=tmp_path / "run", progress=False)
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    fit(STORY, "iris-petal", EM(restarts=1), out=tmp_path / "run", progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(RunFolderError, match="is not empty"):
        fit(STORY, "iris-petal", EM(restarts=1), out=tmp_path / "mine", progress=False)


def test_same_seed_same_bits(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        fit(STORY, "iris-petal", EM(restarts=2), out=tmp_path / name, seed=5, progress=False)
        files.append(Fit.load(tmp_path / name).tree)
    for group in files[0].children:
        assert files[0][group].to_dataset().identical(files[1][group].to_dataset()), group


def test_bad_input_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fit(GaussianMixture(n_components=999), "iris", METHOD, out=tmp_path / "run")
    with pytest.raises(RefusedError, match="no discrete site"):
        fit(EightSchools(), "eight-schools", METHOD, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- comparison --------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_compare_trains_all_on_the_same_rows(tmp_path: Path, jobs: int) -> None:
    stories = [GaussianMixture(n_components=k) for k in (1, 3)]
    found = compare(stories, "iris", [METHOD], out=tmp_path / "c", jobs=jobs, progress=False)
    assert len(found.fits) == len(found.table) == 2
    assert {f.description["data"]["rows"] for f in found.fits} == {120}
    scores = found.table["heldout_log_likelihood_nats_per_example"]
    assert scores[1] > scores[0] + 0.2
    assert found.best == 1 and found.page is not None and found.page.exists()
    assert (tmp_path / "c" / "table.csv").read_text().count("\n") == 3
    folders = {path.name for path in (tmp_path / "c").iterdir() if path.is_dir()}
    assert folders == {"gmm-n_components=1-em", "gmm-n_components=3-em"}


def test_compare_says_what_was_refused() -> None:
    with pytest.raises(RefusedError, match="no discrete site"):
        compare(["eight-schools"], "eight-schools", [METHOD], progress=False)
