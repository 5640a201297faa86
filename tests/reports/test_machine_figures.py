"""Figures of Boltzmann machines: images, learning curves, bounds of a likelihood, filled halves."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr

from storyzoo.inference.engine.estimated import BOUNDS
from storyzoo.inference.engine.method import Info, Kind
from storyzoo.inference.engine.target import make_target
from storyzoo.inference.engine.tree import draws_of
from storyzoo.models.rbm import RestrictedBoltzmann
from storyzoo.reports.figures import Figure, own_figures
from storyzoo.reports.figures.curve import curve_figures
from storyzoo.reports.figures.images import (
    GAP,
    UNSEEN,
    Scale,
    diverging,
    heat_map,
    mosaic,
    outline,
    side_of,
)
from storyzoo.reports.figures.likelihood import likelihood_figures
from storyzoo.reports.figures.rbm import (
    CELLS,
    FILLS,
    dreams,
    fills,
    measured,
    pixels_of,
    slope,
    typical,
)
from storyzoo.reports.figures.svg import PALETTE, SWATCHES
from storyzoo.reports.page import fit_page
from storyzoo.reports.verdict import judge
from tests.reports.pages import Array, PageFit, make_fit, values_of
from tests.reports.test_page import read

KINDS = ("bernoulli", "categorical", "gaussian")


@dataclass(frozen=True, kw_only=True)
class LearntInfo(Info):
    """As contrastive divergence gives it."""

    curve_steps: tuple[int, ...] = tuple(range(0, 1100, 100))
    training: tuple[float, ...] = tuple(-5 - 20 * np.exp(-np.arange(11.0)))
    training_se: tuple[float, ...] = (0.1,) * 11
    validation: tuple[float, ...] = tuple(-6 - 20 * np.exp(-np.arange(11.0)))
    validation_se: tuple[float, ...] = (0.3,) * 11
    normaliser_se: tuple[float, ...] = (0.0,) * 11
    exact: bool = True
    kept_step: int = 1000


def machine_fit(
    kind: str = "bernoulli",
    *,
    size: int = 9,
    n_hidden: int = 3,
    rows: int = 40,
    draws: tuple[int, int] = (1, 1),
    stored: bool = True,
    seed: int = 0,
    weight: Array | None = None,
    data: Array | None = None,
    coords: dict[str, list[str]] | None = None,
    **more: Any,
) -> PageFit:
    """A machine at hand-made weights; as many draws of them, and rows it might have drawn."""
    rng = np.random.default_rng(seed)
    levels = {"bernoulli": 2, "categorical": 4, "gaussian": 2}[kind]
    rows = rows if data is None else len(data)
    drawn = rng.integers(0, levels, (rows, size)).astype(float)
    if kind == "gaussian":
        drawn = rng.normal(size=(rows, size)) * np.arange(1, size + 1)
    data = drawn if data is None else data
    story = RestrictedBoltzmann(n_hidden, kind, levels)  # type: ignore[arg-type]
    story = story.scaled_to({"v": make_target(story, {"v": data}).data["v"]})
    target = make_target(story, {"v": data}, coords=coords)
    units = (size, levels) if kind == "categorical" else (size,)
    sites = {
        "weight": rng.normal(size=(*draws, *units, n_hidden)),
        "visible_bias": np.zeros((*draws, *units)),
        "hidden_bias": np.zeros((*draws, n_hidden)),
    }
    if kind == "gaussian":
        sites["scale"] = np.ones((*draws, size))
    if weight is not None:
        sites["weight"] = np.broadcast_to(weight, sites["weight"].shape).copy()
    whole = np.broadcast_to(drawn, (*draws, *drawn.shape)).copy()
    fit_kind: Kind = "point" if draws == (1, 1) else "draws"
    return make_fit(target, fit_kind, sites, simulated={"v": whole} if stored else None, **more)


def named(figures: list[Figure]) -> dict[str, Figure]:
    """Figures by name, each well formed, legible and in colours of the page."""
    for figure in figures:
        assert figure.caption
        for key in (*figure.keys, *(key for panel in figure.panels for key in panel.keys)):
            assert key.mark in SWATCHES
            assert key.role in PALETTE
        for panel in figure.panels:
            assert panel.alt
            ElementTree.fromstring(panel.svg)
            assert not re.search(r"(fill|stroke):#", panel.svg)
    return {figure.name: figure for figure in figures}


# -- images ------------------------------------------------------------------------------------


def covered(path: str, shape: tuple[int, int]) -> Array:
    """How often each cell lies in the rectangles of a path."""
    count = np.zeros(shape)
    for x, y, width, back in re.findall(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z", path):
        assert width == back
        count[int(y), int(x) : int(x) + int(width)] += 1
    return count


@pytest.mark.parametrize("seed", range(5))
def test_an_outline_covers_each_cell_of_its_mask_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 12, 2)) < 0.6
    np.testing.assert_array_equal(covered(outline(mask), mask.shape), mask)


def test_values_become_levels_from_paper_to_ink() -> None:
    scale = Scale(2.0, 10.0)
    levels = scale.levels(np.array([1.0, 2.0, 3.0, 10.0, 99.0, np.nan, np.inf]))
    assert levels.tolist() == [0, 0, 1, 8, 8, UNSEEN, UNSEEN]
    assert scale.style(8) == "fill:var(--ink);fill-opacity:1"


def test_a_diverging_scale_has_zero_on_paper_and_both_signs_apart() -> None:
    scale = diverging(np.array([-3.0, 0.0, 1.5, np.nan]))
    assert scale.low == -scale.high
    low, zero, high = scale.levels(np.array([-2.0, 0.0, 2.0]))
    assert zero == 0
    assert low == -high < 0
    assert "--c1" in scale.style(int(low))
    assert "--c0" in scale.style(int(high))
    assert diverging(np.zeros(4)).levels(np.zeros(4)).tolist() == [0] * 4


@pytest.mark.parametrize(
    ("size", "names", "side"),
    [
        (16, None, 4),
        (784, [f"pixel_{i // 28}_{i % 28}" for i in range(784)], 28),
        (9, [str(i) for i in range(9)], 3),
        (9, ["length", "width", *"abcdefg"], None),
        (4, None, None),
        (15, None, None),
    ],
)
def test_a_square_of_numbered_pixels_is_an_image(
    size: int, names: list[str] | None, side: int | None
) -> None:
    assert side_of(size, names) == side


def test_a_mosaic_has_a_frame_and_all_pixels_of_each_image() -> None:
    images = (np.random.default_rng(0).random((7, 4, 4)) < 0.5).astype(float)
    panel = mosaic(images, Scale(0.0, 1.0), "seven", across=3)
    root = ElementTree.fromstring(panel.svg)
    paths = [node.get("d", "") for node in root.iter("path")]
    assert len(re.findall("M", paths[-1])) == 7
    assert covered(paths[0], (40, 40)).sum() == images.sum()
    assert root.get("aria-label") == "seven"


def test_a_heat_map_names_its_rows_unless_there_are_too_many() -> None:
    few = heat_map(np.eye(3), Scale(0.0, 1.0), "few", names=["<a>", "b", "c" * 40])
    texts = ["".join(node.itertext()) for node in ElementTree.fromstring(few.svg).iter("text")]
    assert texts[:2] == ["<a>", "b"]
    assert len(texts[2]) == 18
    many = heat_map(np.eye(90), Scale(0.0, 1.0), "many", names=[*"abc" * 30])
    assert "<text" not in many.svg


def test_what_lies_between_images_is_never_drawn() -> None:
    assert GAP not in Scale(0.0, 1.0).levels(np.array([np.nan, -1e9, 1e9]))


# -- machines ----------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [(1, 1), (2, 3)])
@pytest.mark.parametrize("size", [9, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_a_machine_shows_filters_fantasies_and_filled_halves(
    kind: str, size: int, draws: tuple[int, int]
) -> None:
    figures = named(own_figures(machine_fit(kind, size=size, draws=draws)))
    assert list(figures) == ["filters", "fantasies", "imputations"]
    assert [len(figure.panels) for figure in figures.values()] == [1, 2, 4]
    image = size == 9
    assert figures["filters"].panels[0].keys
    assert ("Each image" in figures["filters"].caption) == image
    assert ("<text" in figures["filters"].panels[0].svg) != image
    assert ("lower half" in figures["imputations"].caption) == image
    assert ("draw" in figures["filters"].caption) == (draws != (1, 1))
    frames = figures["imputations"].panels[0].svg.split("<path")[-1].count("M")
    assert frames == (8 if image else 1)


def test_a_large_machine_has_fewer_and_smaller_drawings() -> None:
    fit = machine_fit(size=784, n_hidden=64, rows=60)
    figures = named(own_figures(fit))
    assert f"{CELLS // 784} of 64 units are drawn" in figures["filters"].caption
    assert len(fit_page(fit).encode()) < 1_200_000


@pytest.mark.parametrize("kind", KINDS)
def test_fills_keep_what_is_known_and_come_out_the_same_again(kind: str) -> None:
    fit = machine_fit(kind, draws=(2, 3))
    draws = draws_of(fit.structure, fit.tree["posterior"])
    holed = fit.target.data["v"][:5].numpy().copy()
    holed[:, 4:] = np.nan
    filled = fills(fit, draws, holed)
    assert filled.shape[0] >= FILLS
    assert np.isfinite(filled).all()
    assert (filled[..., :4] == holed[:, :4]).all()
    assert len(np.unique(filled[..., 4:])) > 1
    np.testing.assert_array_equal(filled, fills(fit, draws, holed))


def test_a_machine_that_knows_the_rest_fills_it_in_right() -> None:
    rows = np.repeat(np.arange(40.0)[:, None] % 2, 9, axis=1)
    fit = machine_fit(n_hidden=1, data=rows, weight=np.full((9, 1), 12.0))
    values_of(fit, "visible_bias")[:] = -6.0
    values_of(fit, "hidden_bias")[:] = -54.0
    figure = named(own_figures(fit))["imputations"]
    assert "right in 100 % of the pixels" in figure.caption
    assert "each pixel's own median would be in 50 %" in figure.caption


def test_fills_of_numbers_are_measured_by_how_far_they_miss() -> None:
    fit = machine_fit("gaussian")
    data = fit.target.data["v"].numpy()
    pixels = pixels_of(fit, data)
    truth = data[:10]
    holed = truth.copy()
    holed[:, 5:] = np.nan
    filled = np.stack([truth + 2.5, truth - 1.5])
    assert "misses by 0.500 " in measured(pixels, data, truth, holed, filled)


def test_weights_of_levels_are_drawn_by_their_slope() -> None:
    rng = np.random.default_rng(0)
    two = rng.normal(size=(5, 2, 3))
    np.testing.assert_allclose(slope(two), two[:, 1] - two[:, 0])
    line = rng.normal(size=(5, 3))
    np.testing.assert_allclose(slope(7 + np.arange(4.0)[None, :, None] * line[:, None]), line)


def test_the_draw_that_stands_for_all_has_the_median_log_density() -> None:
    fit = machine_fit(draws=(1, 5), stats={"lp": np.array([[9.0, -4.0, 2.0, 3.0, 1.0]])})
    draws = draws_of(fit.structure, fit.tree["posterior"])
    assert typical(fit, draws) == 2
    plain = machine_fit(draws=(1, 5))
    assert typical(plain, draws_of(plain.structure, plain.tree["posterior"])) == 4


def test_fantasies_are_those_of_the_tree_or_drawn_now() -> None:
    kept, none = machine_fit(draws=(2, 3)), machine_fit(draws=(2, 3), stored=False)
    found = []
    for fit in (kept, none):
        draws = draws_of(fit.structure, fit.tree["posterior"])
        found.append(dreams(fit, fit.tree, draws, 12))
    simulated = values_of(kept, "v", "posterior_predictive")[0, 0]
    assert all((row == simulated).all(1).any() for row in found[0])
    assert found[1].shape == (12, 9)
    assert set(np.unique(found[1])) <= {0.0, 1.0}


def test_no_fantasy_is_shown_twice() -> None:
    rows = np.array([[int(bit) for bit in f"{n:09b}"] for n in range(30)], float)
    fit = machine_fit(data=rows)
    values_of(fit, "v", "posterior_predictive")[:] = rows
    draws = draws_of(fit.structure, fit.tree["posterior"])
    assert len(np.unique(dreams(fit, fit.tree, draws, 30), axis=0)) == 30
    data, drawn = named(own_figures(fit))["fantasies"].panels
    assert data.svg.split("<g")[1:] == drawn.svg.split("<g")[1:]


def test_missing_pixels_are_drawn_as_such() -> None:
    data = (np.random.default_rng(1).random((30, 9)) < 0.5).astype(float)
    data[::3, 2] = np.nan
    figures = named(own_figures(machine_fit(data=data)))
    assert [key.label for key in figures["fantasies"].keys] == ["1", "not observed"]
    assert "var(--c0)" in figures["fantasies"].panels[0].svg
    assert "var(--c0)" not in figures["imputations"].panels[0].svg


def test_weights_that_are_no_numbers_still_have_a_page() -> None:
    fit = machine_fit(weight=np.full((9, 3), np.nan))
    assert list(named(own_figures(fit))) == ["filters"]


# -- learning curves ---------------------------------------------------------------------------


def curve(**changes: Any) -> Figure:
    """The learning curve of a fit that went so."""
    (figure,) = curve_figures(replace(machine_fit(), info=replace(LearntInfo(), **changes)))
    named([figure])
    return figure


def test_a_learning_curve_says_what_was_kept_and_how_rows_apart_were_told() -> None:
    figure = curve()
    assert "exact" in figure.caption
    assert "−5.0 ± 0.1 nats on rows fitted and −6.0 ± 0.3 nats on rows kept apart" in (
        figure.caption
    )
    assert figure.caption.endswith("no over-fitting shows.")
    assert "The start lies below the panel." in figure.caption
    assert [key.label for key in figure.keys] == [
        "rows fitted",
        "rows kept apart",
        "the answer kept",
    ]


def test_over_fitting_is_told_in_nats() -> None:
    falling = (-9.0, -8.0, -7.0, -6.5, -6.0, -6.1, -6.2, -6.3, -6.4, -6.45, -6.5)
    figure = curve(validation=falling, kept_step=400)
    assert "step 400, with" in figure.caption
    assert "best at step 400; by the end they lost 0.50 nats per example" in figure.caption
    little = curve(validation=(*falling[:5], *(-6.01,) * 6))
    assert "next to no worse at the end, by 0.01" in little.caption
    unsure = curve(validation=falling, exact=False, normaliser_se=(0.4,) * 11)
    assert "no worse at the end, up to the error of the estimate" in unsure.caption
    assert "estimated" in unsure.caption
    assert "at most 0.40 nats" in unsure.caption


def test_a_curve_may_lack_rows_kept_apart_or_not_be_there() -> None:
    assert "No rows were kept apart" in curve(validation=(), validation_se=()).caption
    assert curve_figures(machine_fit()) == []
    fit = replace(machine_fit(), info=replace(LearntInfo(), curve_steps=(0,)))
    assert curve_figures(fit) == []


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_curve_that_broke_off_is_drawn_as_far_as_it_goes(value: float) -> None:
    training = (*LearntInfo().training[:-1], value)
    validation = (*LearntInfo().validation[:-1], value)
    assert "Not all scores are finite" in curve(training=training, validation=validation).caption


# -- likelihoods that are estimates ------------------------------------------------------------


def estimated_fit(gap: float, draws: int = 1, effective: float = 0.9, **more: Any) -> PageFit:
    """A fit whose log likelihoods are estimates with bounds so far apart."""
    fit = machine_fit(**more)
    dims = ("chain", "draw", "row")
    value = np.full((1, draws, 40), -20.0)
    bounds = {
        "lower": (dims, value - gap),
        "upper": (dims, value),
        "standard_error": (dims[:2], np.full((1, draws), 0.03)),
        "effective": (dims[:2], np.full((1, draws), effective)),
    }
    fit.tree["log_likelihood"] = xr.DataTree(xr.Dataset({"v": (dims, value)}))
    fit.tree[BOUNDS] = xr.DataTree(xr.Dataset(bounds))
    return replace(fit, verdict=judge(fit.tree, fit.info, kind="point", story=fit.story))


@pytest.mark.parametrize(
    ("gap", "effective", "said"),
    [
        (0.1, 0.9, "It is well enough known: bounds 0.10 nats apart"),
        (3.0, 0.9, "It is not known: bounds 3.0 nats apart"),
        (0.1, 0.01, "It is not known: only 1% of the samples are effective"),
    ],
)
def test_bounds_stand_beside_the_estimate(gap: float, effective: float, said: str) -> None:
    (figure,) = likelihood_figures(estimated_fit(gap, effective=effective))
    named([figure])
    assert said in figure.caption
    assert "The estimate is itself the upper bound." in figure.caption
    assert figure.items == (
        "rows fitted: −20.000 ± 0.030 nats per example, "
        f"lower bound −{20 + gap:.3f}, upper −20.000",
    )


@pytest.mark.parametrize("gap", [-0.1, 0.1])
def test_bounds_that_crossed_are_said_to_have(gap: float) -> None:
    (figure,) = likelihood_figures(estimated_fit(gap))
    assert ("may cross, as here" in figure.caption) == (gap < 0)


def test_rows_held_out_have_the_error_of_the_same_normaliser() -> None:
    name = "log_likelihood_nats_per_example"
    ends = {"": -22.0, "_se": 0.9, "_lower": -22.1, "_upper": -22.0}
    metrics = {f"heldout_{name}{end}": value for end, value in ends.items()}
    fit = estimated_fit(0.1, draws=3, metrics=metrics | {f"{name}_se": 0.03})
    (figure,) = likelihood_figures(fit)
    assert [item.split(":")[0] for item in figure.items] == [
        "rows fitted, draw 1", "rows fitted, draw 2", "rows fitted, draw 3", "rows held out",
    ]  # fmt: skip
    assert figure.items[-1].startswith("rows held out: −22.000 ± 0.030")


def test_an_exact_likelihood_needs_no_bounds() -> None:
    assert likelihood_figures(machine_fit()) == []
    assert likelihood_figures(estimated_fit(np.inf)) == []


# -- the page ----------------------------------------------------------------------------------


def test_a_page_of_a_machine_is_whole() -> None:
    fit = replace(estimated_fit(0.1), info=LearntInfo())
    page = fit_page(fit)
    reading = read(page)
    assert not reading.unbalanced
    assert not {"script", "img", "iframe"} & set(reading.tags)
    assert len(reading.ids) == len(set(reading.ids))
    for title in ("Filters", "Data and fantasies", "Halves filled in", "The learning curve"):
        assert title in reading.words
    assert "How well the likelihood is known" in reading.words
