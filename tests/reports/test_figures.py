"""Figures: what they compute, and how they are drawn."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from scipy.stats import multivariate_normal
from torch import Tensor

from storyzoo.inference.engine.method import Info
from storyzoo.inference.engine.target import make_target
from storyzoo.models.gmm import GaussianMixture
from storyzoo.reports.figures import Figure, Panel, gmm, own_figures
from storyzoo.reports.figures.approximation import approximation_figures
from storyzoo.reports.figures.compared import aligned, forest, side_by_side
from storyzoo.reports.figures.graph import (
    HEIGHT,
    Node,
    boxes_of,
    draw,
    folded,
    graph_figure,
    layers,
    nodes_of,
    placed,
)
from storyzoo.reports.figures.kmeans import assign
from storyzoo.reports.figures.optimum import optimum_figures, restarts
from storyzoo.reports.figures.predictive import bins, predictive_figures
from storyzoo.reports.figures.sampler import (
    rank_band,
    rank_difference,
    sampler_figures,
    telling_pair,
)
from storyzoo.reports.figures.scatter import POINTS, separating_pair, thinned
from storyzoo.reports.figures.svg import PALETTE, SERIES, SWATCHES, Canvas, colour, plain
from storyzoo.reports.parameters import Scalar, parameters_of
from storyzoo.story import Story
from tests.reports.pages import HOSTILE, Array, mixture_fit, schools_fit, values_of

# -- drawing -----------------------------------------------------------------------------------


@pytest.fixture
def panel() -> Panel:
    canvas = Canvas()
    x, y = np.random.default_rng(0).normal(size=(2, 300))
    canvas.axes.plot(x, y, "o", color=colour("c0"), mec="none")
    canvas.axes.plot(x[:9], y[:9], "s", color=canvas.mix("c0", "c1", share=0.3), mec="none")
    canvas.axes.set_xlabel('$x_{<b>"id="a"')
    canvas.title("<script>&")
    return canvas.panel('what it "shows" <i>')


def test_a_panel_takes_its_colours_from_the_page(panel: Panel) -> None:
    styles = " ".join(re.findall(r'style="([^"]*)"', panel.svg))
    assert "fill:var(--c0)" in styles
    assert "stroke:var(--axis)" in styles
    assert "color-mix(in srgb,var(--c0) 30%,var(--c1))" in styles
    assert "#" not in re.sub(r"(fill|stroke):#[0-9a-f]{6};\1:color-mix", "", styles)
    assert "DejaVu" not in panel.svg  # the page chooses the font


def test_names_in_a_panel_are_text_and_no_mathematics(panel: Panel) -> None:
    root = ElementTree.fromstring(panel.svg)
    texts = ["".join(node.itertext()) for node in root.iter("text")]
    assert '$x_{<b>"id="a"' in texts
    assert "<script>&" in texts
    assert root.get("aria-label") == 'what it "shows" <i>'
    assert root.get("role") == "img"


def test_ids_are_made_unique_and_every_reference_resolves(panel: Panel) -> None:
    first, second = panel.markup("f1-"), panel.markup("f2-")
    for markup, prefix in ((first, "f1-"), (second, "f2-")):
        ids = re.findall(r' id="([^"]+)"', markup)
        referred = {
            *re.findall(r'href="#([^"]+)"', markup),
            *re.findall(r"url\(#([^)]+)\)", markup),
        }
        assert len(ids) == len(set(ids)) > 0
        assert set(ids) == referred
        assert all(name.startswith(prefix) for name in ids)


def test_markers_share_one_style_and_numbers_are_short(panel: Panel) -> None:
    uses = re.findall(r"<use [^>]*>", panel.svg)
    assert len([use for use in uses if "style" not in use]) >= 300
    assert not [use for use in uses if re.search(r'"-?\d+\.\d{2,}"', use)]
    assert len(panel.svg) < 30_000


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x00b\x1b[31m", "a�b�[31m"),
        ("line\nbreak\tand   space", "line break and space"),
        ("turn\u202eround", "turn�round"),
        ("\ud800", "�"),
        ("\ue000id", "�id"),
        ("Süßes 中文", "Süßes 中文"),
    ],
)
def test_a_name_is_shown_on_one_line_without_control_characters(name: str, shown: str) -> None:
    assert plain(name) == shown


def test_a_long_name_keeps_its_ends() -> None:
    assert plain("abcdefghij" * 9, 10) == "abcdef…hij"
    assert len(plain("x" * 999, 40)) == 40


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2)."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_role_stands_out_from_the_paper(scheme: int) -> None:
    paper = PALETTE["paper"][scheme]
    for role in ("ink", "muted", "good", "bad", "warn", *SERIES):
        assert contrast(PALETTE[role][scheme], paper) >= 4.5, role
    assert contrast(PALETTE["axis"][scheme], paper) >= 3


def figures_of_every_kind() -> list[Figure]:
    """All figures that pages of three kinds of fit have."""
    drawn, approximated, climbed = schools_fit(), mixture_fit("approximation"), mixture_fit("point")
    return [
        *sampler_figures(drawn, parameters_of(drawn).varying),
        *approximation_figures(approximated),
        *optimum_figures(climbed),
        *predictive_figures(drawn),
        *predictive_figures(climbed),
        *own_figures(approximated),
        graph_figure(drawn),
        *forest([drawn], ["drawn"], drawn),
        *side_by_side([climbed, approximated], ["a", "b"], climbed),
    ]


def test_every_figure_is_well_formed_and_says_what_it_shows() -> None:
    figures = figures_of_every_kind()
    names = {figure.name for figure in figures}
    assert {"ranks", "traces", "pair", "energy", "elbo", "importance", "restarts", "graph"} < names
    for figure in figures:
        assert figure.panels
        for key in (*figure.keys, *(key for panel in figure.panels for key in panel.keys)):
            assert key.mark in SWATCHES
            assert key.role in PALETTE
        for panel in figure.panels:
            assert panel.alt
            ElementTree.fromstring(panel.svg)


# -- chains ------------------------------------------------------------------------------------


def test_the_rank_difference_is_that_of_the_definition() -> None:
    draws = np.array([[1.0, 2.0, 7.0], [3.0, 5.0, 9.0]])
    place, lines = rank_difference(draws)
    ranks = np.array([[1, 2, 5], [3, 4, 6]]) / 6
    expected = (ranks[:, :, None] <= place + 1e-12).mean(1) - place
    np.testing.assert_allclose(lines, expected, atol=1e-12)
    np.testing.assert_allclose(lines[:, -1], 0)


def leaves_the_band(draws: Array) -> bool:
    """Whether some chain leaves the 95 % band between ranks 0.02 and 0.98."""
    place, lines = rank_difference(draws)
    low, high = rank_band(*draws.shape)
    where = np.linspace(0, 1, len(low))
    inner = (place > 0.02) & (place < 0.98)
    outside = (lines > np.interp(place, where, high)) | (lines < np.interp(place, where, low))
    return bool(outside[:, inner].any())


@pytest.mark.parametrize("chains", [2, 4])
def test_the_rank_band_holds_nineteen_of_twenty_runs_that_agree(chains: int) -> None:
    rng = np.random.default_rng(7)
    outside = np.mean([leaves_the_band(rng.normal(size=(chains, 100))) for _ in range(400)])
    assert 0.01 <= outside <= 0.09  # 0.05 within four standard errors


@pytest.mark.parametrize("chains", [2, 4])
def test_a_chain_that_disagrees_leaves_the_rank_band(chains: int) -> None:
    draws = np.random.default_rng(1).normal(size=(chains, 200))
    draws[0] += 1.0
    assert leaves_the_band(draws)


def scalar(label: str, draws: Array) -> Scalar:
    """A number with nothing but its draws."""
    return Scalar(label, draws, *[float("nan")] * 8)


def test_the_funnel_is_found_and_named() -> None:
    fit = schools_fit()
    scalars = parameters_of(fit).varying
    divergent = np.asarray(fit.tree["sample_stats"]["diverging"].values)
    vertical, horizontal, funnel = telling_pair(scalars, divergent)
    assert scalars[vertical].label == "tau"
    assert scalars[horizontal].label.startswith("theta")
    assert funnel
    figure = next(f for f in sampler_figures(fit, scalars) if f.name == "pair")
    assert figure.caption == "Divergences gather where tau is small: the funnel."
    assert any(key.label == f"divergent ({divergent.sum()})" for key in figure.keys)


def test_without_divergences_the_pair_shows_what_goes_together() -> None:
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 4, 100))
    scalars = [scalar("a", a), scalar("b", b), scalar("c", c + a)]
    assert telling_pair(scalars, np.zeros((4, 100), bool)) == (0, 2, False)


@pytest.mark.parametrize("chains", [1, 2, 5])
def test_sampler_figures_take_any_number_of_chains(chains: int) -> None:
    fit = schools_fit(chains=chains, count=40)
    figures = sampler_figures(fit, parameters_of(fit).varying)
    assert [figure.name for figure in figures] == ["ranks", "traces", "pair", "energy"]


def test_nothing_is_drawn_of_chains_that_never_moved() -> None:
    assert sampler_figures(schools_fit(), []) == []


# -- ascents and approximations ----------------------------------------------------------------


def test_restarts_say_how_many_agree_and_name_the_degenerate() -> None:
    figure = restarts((-10.0, -10.0005, -14.0, 3.0), ("", "", "", "component 1 holds 2 points"))
    assert figure.caption.startswith("2 of 4 restarts reached the best mode, −10.000 nats.")
    assert figure.items == ("Restart 4 (3.000 nats): component 1 holds 2 points",)
    labels = [key.label for key in figure.keys]
    assert labels == ["best mode (2)", "another end (1)", "degenerate (1)"]


def test_restarts_may_all_be_degenerate() -> None:
    figure = restarts((1.0, float("inf")), ("spike", "spike"))
    assert figure.caption == "None of 2 restarts reached a sane mode."
    assert len(figure.items) == 2


def test_the_elbo_says_whether_it_settled() -> None:
    fit = mixture_fit("approximation")
    elbo, importance = approximation_figures(fit)
    assert "It has settled at −20.0 nats." in elbo.caption
    assert "k-hat" in importance.caption
    assert approximation_figures(replace(fit, info=Info())) == [importance]


# -- data against the fit ----------------------------------------------------------------------


def test_few_observations_get_an_interval_each_by_name() -> None:
    figure = predictive_figures(schools_fit(names=[f"school {c}" for c in "ABCDEFGH"]))[0]
    assert len(figure.panels) == 1
    assert ">school B</text>" in figure.panels[0].svg


def test_many_observations_are_binned_by_feature_and_missing_ones_left_out() -> None:
    figure = predictive_figures(mixture_fit(missing=True))[0]
    assert len(figure.panels) == 3
    assert ">depth</text>" in figure.panels[2].svg


def test_whole_numbers_get_a_bin_each() -> None:
    counts = np.array([0.0, 1.0, 1.0, 4.0])
    np.testing.assert_allclose(bins(counts, counts[None]), np.arange(-0.5, 5.0))


@pytest.mark.parametrize("value", [0.0, 7.0, 0.25])
def test_a_constant_still_has_bins(value: float) -> None:
    edges = bins(np.full(5, value), np.full((2, 5), value))
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= value <= edges[-1]


# -- mixtures ----------------------------------------------------------------------------------


def test_the_pair_of_features_is_the_one_that_separates() -> None:
    rng = np.random.default_rng(0)
    groups = np.arange(300) % 3
    points = rng.normal(size=(300, 5))
    points[:, 3] += 9 * (groups == 1)
    points[:, 1] += 9 * (groups == 2)
    assert separating_pair(points, groups) == (1, 3)
    points[::7, 0] = np.nan
    assert separating_pair(points, groups) == (1, 3)


def test_memberships_are_bayes_rule_averaged_over_draws() -> None:
    rng = np.random.default_rng(3)
    weight = np.array([[0.2, 0.8], [0.5, 0.5]])
    loc = rng.normal(size=(2, 2, 2))
    root = rng.normal(size=(2, 2, 2, 2))
    covariance = root @ root.swapaxes(-1, -2) + np.eye(2)
    points = np.array([[0.0, 1.0], [2.0, np.nan], [np.nan, np.nan]])
    found = gmm.memberships(gmm.Mixture(weight, loc, covariance), points)
    expected = np.zeros((3, 2))
    for s, (n, point) in itertools.product(range(2), enumerate(points)):
        seen = np.flatnonzero(np.isfinite(point))
        density = [
            weight[s, k]
            * (
                multivariate_normal(loc[s, k, seen], covariance[s, k][np.ix_(seen, seen)]).pdf(
                    point[seen]
                )
                if len(seen)
                else 1.0
            )
            for k in range(2)
        ]
        expected[n] += np.array(density) / np.sum(density) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
def test_a_mixture_is_read_by_its_dims(covariance: str) -> None:
    posterior = mixture_fit(covariance=covariance).tree["posterior"].to_dataset()
    mixture = gmm.mixture_of(posterior)
    assert mixture.weight.shape == (400, 3)
    assert mixture.covariance.shape == (400, 3, 3, 3)
    np.testing.assert_allclose(mixture.loc[101, 2, 0], posterior["loc"].values[1, 1, 2, 0])
    np.testing.assert_allclose(mixture.covariance, mixture.covariance.swapaxes(-1, -2))
    shuffled = posterior.transpose(..., "chain", "draw")
    np.testing.assert_allclose(gmm.mixture_of(shuffled).covariance, mixture.covariance)


def test_an_ellipse_lies_two_standard_deviations_out() -> None:
    covariance = np.array([[2.0, 0.7], [0.7, 0.5]])
    outline = np.stack(gmm.ellipse(np.array([1.0, -1.0]), covariance)) - [[1.0], [-1.0]]
    distance = np.sqrt((outline * np.linalg.solve(covariance, outline)).sum(0))
    np.testing.assert_allclose(distance, 2.0)


def test_more_points_than_can_be_seen_are_thinned() -> None:
    fit = mixture_fit("point", rows=5000)
    figure = own_figures(fit)[0]
    assert f"{POINTS:,}".replace(",", "\u202f") in figure.caption
    assert len(re.findall("<use ", figure.panels[0].svg)) < POINTS + 60
    assert len(figure.panels[0].svg) < 150_000
    assert len(thinned(5000)) == POINTS
    np.testing.assert_array_equal(thinned(7), np.arange(7))


def test_known_classes_stand_beside_the_fit_and_look_like_what_holds_them() -> None:
    labels = np.array(["setosa", "virginica", "versicolor"])[np.arange(120) % 3]
    fitted, known = own_figures(mixture_fit("point", labels=labels))[0].panels
    assert "known classes" in known.title
    assert [key.mark for key in fitted.keys] == ["o", "^", "s"]
    assert {key.label: key.mark for key in known.keys} == {
        "setosa": "o",
        "virginica": "^",
        "versicolor": "s",
    }


def test_one_feature_is_a_histogram_under_densities() -> None:
    figure = own_figures(mixture_fit(features=["height"]))[0]
    assert "Histogram of height" in figure.panels[0].alt
    assert any(key.mark == "line" for key in figure.panels[0].keys)


def test_a_point_goes_to_its_nearest_centre() -> None:
    centres = np.array([[0.0, 0.0], [4.0, 4.0]])
    points = np.array([[1.0, 1.0], [3.0, 2.5], [np.nan, 3.9]])
    np.testing.assert_array_equal(assign(points, centres), [0, 1, 1])


def test_fits_side_by_side_show_the_same_features() -> None:
    fits = [mixture_fit("point", seed=0), mixture_fit("draws", seed=1)]
    panels = side_by_side(fits, ["em", "nuts"], fits[0])[0].panels
    assert [panel.title for panel in panels] == ["em", "nuts"]
    assert panels[0].alt.split(":")[0] == panels[1].alt.split(":")[0] == "length against depth"


# -- figures by story --------------------------------------------------------------------------


@dataclass(frozen=True)
class NotedMixture(GaussianMixture):
    """A mixture of someone's own."""


@dataclass(frozen=True)
class Sampler(Story):
    """A story that happens to be called like a file of figures."""


def test_a_story_inherits_its_figures() -> None:
    fit = mixture_fit("point")
    story = NotedMixture(3)
    assert own_figures(replace(fit, target=replace(fit.target, story=story)))[0].name == "mixture"


@pytest.mark.parametrize("name", ["sampler", "Not A Name", "../gmm", "unheard-of"])
def test_a_story_without_figures_has_none(name: str) -> None:
    class Named(Sampler):
        """Without figures."""

    Named.name = name
    fit = mixture_fit("point")
    assert own_figures(replace(fit, target=replace(fit.target, story=Named()))) == []


# -- the graph ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nested(Story):
    """Nested plates, a plate that stands alone, two enumerated sites."""

    data_dims = {"y": ("row", "column")}
    examples = "row"

    def model(self, y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("column", y.shape[1], dim=-1):
            b = pyro.sample("b", dist.Normal(a, 1.0))
        with pyro.plate("row", y.shape[0], dim=-2):
            u = pyro.sample("u", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            with pyro.plate("column_of_row", y.shape[1], dim=-1):
                v = pyro.sample("v", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
                pyro.sample("y", dist.Normal(b + u + v, 1.0), obs=y)


@dataclass(frozen=True)
class Chain(Story):
    """A hidden chain, unrolled."""

    data_dims = {"y": ("sequence", "time")}
    examples = "sequence"
    event_dims = {"transition": ("next_state",)}

    def model(self, y: Tensor) -> None:
        with pyro.plate("state", 2):
            transition = pyro.sample("transition", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("sequence", len(y)):
            x: Any = 0
            for t in pyro.markov(range(y.shape[1])):
                x = pyro.sample(
                    f"x_{t}", dist.Categorical(transition[x]), infer={"enumerate": "parallel"}
                )
                pyro.sample(f"y_{t}", dist.Normal(1.0 * x, 1.0), obs=y[:, t])


@dataclass(frozen=True)
class Fickle(Story):
    """Runs when it is fitted, fails when it is run again."""

    data_dims = {"y": ("row",)}
    broken: bool = False

    def model(self, y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        if self.broken:
            raise ValueError("no <more>")
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(a, 1.0), obs=y)


@dataclass
class _Graphed:
    """As much of a fit as its graph needs."""

    target: Any
    tree: Any

    @property
    def story(self) -> Any:
        """What was fitted."""
        return self.target.story

    @property
    def structure(self) -> Any:
        """Its sites."""
        return self.target.structure


def graph_of(story: Story, y: Array) -> tuple[list[Node], str]:
    """Nodes of a story's graph, and the note."""
    tree = xr.DataTree.from_dict({"observed_data": xr.Dataset({"y": (("i", "j")[: y.ndim], y)})})
    return nodes_of(_Graphed(make_target(story, {"y": y}), tree))  # type: ignore[arg-type]


def test_arrows_run_from_what_a_site_depends_on() -> None:
    nodes, note = graph_of(Nested(), np.zeros((5, 4)))
    assert {node.name: set(node.parents) for node in nodes} == {
        "a": set(),
        "b": {"a"},
        "u": set(),
        "v": set(),
        "y": {"b", "u", "v"},
    }
    assert {node.name: node.kind for node in nodes}["u"] == "discrete"
    assert {node.name: node.plates for node in nodes}["y"] == ("row", "column_of_row")
    assert note == ""


CROSSED = [
    Node("left", "latent", "", ("i",), ()),
    Node("right", "latent", "", ("j",), ()),
    Node("both", "observed", "", ("i", "j"), ("left", "right")),
    Node("free", "latent", "", (), ()),
]
GRAPHS: dict[str, Callable[[], list[Node]]] = {
    "nested": lambda: graph_of(Nested(), np.zeros((5, 4)))[0],
    "chain": lambda: graph_of(Chain(), np.zeros((3, 6)))[0],
    "mixture": lambda: nodes_of(mixture_fit("point"))[0],
    "schools": lambda: nodes_of(schools_fit("point"))[0],
    "crossed": lambda: CROSSED,
}
"""Graphs to lay out."""


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_plate_holds_its_members_and_nothing_else(graph: str) -> None:
    nodes = GRAPHS[graph]()
    centres = placed(nodes)
    for box in boxes_of(nodes, centres):
        for node in nodes:
            x, y = centres[node.name]
            if box.name in node.plates:
                assert box.left <= x - node.width / 2
                assert x + node.width / 2 <= box.right
                assert box.top <= y - HEIGHT / 2
                assert y + HEIGHT / 2 <= box.bottom
            else:
                apart_x = abs(x - (box.left + box.right) / 2) - (box.right - box.left) / 2
                apart_y = abs(y - (box.top + box.bottom) / 2) - (box.bottom - box.top) / 2
                assert apart_x >= node.width / 2 or apart_y >= HEIGHT / 2, (box.name, node.name)


@pytest.mark.parametrize("graph", GRAPHS)
def test_no_two_nodes_overlap_and_arrows_point_down(graph: str) -> None:
    nodes = GRAPHS[graph]()
    centres = placed(nodes)
    for a, b in itertools.combinations(nodes, 2):
        (ax, ay), (bx, by) = centres[a.name], centres[b.name]
        assert abs(ax - bx) >= (a.width + b.width) / 2 or abs(ay - by) >= HEIGHT
    for node in nodes:
        assert all(centres[parent][1] < centres[node.name][1] for parent in node.parents)


def test_an_unrolled_chain_is_drawn_as_one_site() -> None:
    nodes, _ = graph_of(Chain(), np.zeros((3, 6)))
    assert {node.name: node.parents for node in nodes} == {
        "transition": (),
        "x_0 … 5": ("transition",),
        "y_0 … 5": ("x_0 … 5",),
    }
    few = [Node(f"x_{i}", "latent", "", (), ()) for i in range(3)]
    assert folded(few) == few


def test_a_cycle_does_not_hang_the_layout() -> None:
    nodes = [Node("a", "latent", "", (), ("b",)), Node("b", "latent", "", (), ("a",))]
    assert set(layers(nodes)) == {"a", "b"}
    ElementTree.fromstring(draw(nodes, {}))


def test_a_model_that_cannot_be_run_again_is_drawn_without_arrows() -> None:
    target = make_target(Fickle(), {"y": np.zeros(4)})
    tree = xr.DataTree.from_dict({"observed_data": xr.Dataset({"y": ("row", np.zeros(4))})})
    fit = _Graphed(replace(target, story=Fickle(broken=True)), tree)
    figure = graph_figure(fit)  # type: ignore[arg-type]
    assert "The arrows could not be traced (no <more>)." in figure.caption
    assert "marker-end" not in figure.panels[0].svg


def test_the_graph_shows_kinds_by_shape_and_escapes_names() -> None:
    svg = draw(
        [
            Node(HOSTILE[0], "latent", "Normal", (HOSTILE[1],), ()),
            Node("z", "discrete", "Categorical", (), ()),
            Node("y", "observed", "Normal", (), (HOSTILE[0], "z")),
            Node("f", "deterministic", "", (), ()),
        ],
        {HOSTILE[1]: 3},
    )
    root = ElementTree.fromstring(svg)
    assert [t.text for t in root.iter("title")][0] == HOSTILE[0]
    assert svg.count("stroke-dasharray") == 1
    assert svg.count("var(--shade)") == 1
    assert svg.count("marker-end") == 2
    assert "<script" not in svg
    assert "<img" not in svg


def test_missing_values_do_not_stop_the_graph() -> None:
    nodes, note = nodes_of(mixture_fit("point", missing=True))
    assert note == ""
    assert set(next(node.parents for node in nodes if node.name == "y")) == {
        "loc",
        "covariance",
        "z",
    }


# -- parameters by fit -------------------------------------------------------------------------


def test_the_forest_has_a_panel_for_each_feature_and_differences_for_the_rest() -> None:
    fits = [mixture_fit("draws"), mixture_fit("point")]
    figure = forest(fits, ["nuts", "em"], fits[0])[0]
    titles = [panel.title for panel in figure.panels]
    assert titles == ["weight", "loc[·, length]", "loc[·, width]", "loc[·, depth]", "covariance"]
    assert "difference from nuts, in sd" in figure.panels[-1].svg
    assert [key.label for key in figure.keys] == ["nuts", "em (point)"]
    assert len({key.mark for key in figure.keys}) == 2


def test_the_forest_leaves_out_fits_of_another_shape() -> None:
    fits = [mixture_fit("draws"), mixture_fit("draws", components=2), schools_fit("point")]
    panels = forest(fits, ["a", "b", "c"], fits[0])[0].panels
    assert len(panels) == 5


def test_labels_are_matched_whatever_the_order_of_the_sites() -> None:
    fit, reference = mixture_fit("point"), mixture_fit("point")
    for name in ("weight", "loc", "covariance"):
        values = values_of(fit, name)
        values[:] = np.roll(values, 1, axis=2)  # (chain, draw, component, ...)
    posterior = reference.tree["posterior"].to_dataset()
    reference.tree = xr.DataTree.from_dict(
        {"posterior": posterior[["loc", "covariance", "weight"]]}
    )
    matched = aligned([fit, reference], reference)[0].tree["posterior"].to_dataset()
    xr.testing.assert_allclose(matched["loc"], posterior["loc"])
    xr.testing.assert_allclose(matched["weight"], posterior["weight"])
