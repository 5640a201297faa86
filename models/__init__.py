"""The zoo: stories by name. A story is imported only when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from storyzoo.errors import SettingError, nearest
from storyzoo.source import load_class

if TYPE_CHECKING:
    from storyzoo.story import Story


class StoryEntry(NamedTuple):
    """One row of ``zoo list``; a test holds it against the class."""

    location: str
    """``package.module:Class``."""
    summary: str
    data: str
    """A data set to try it on; empty where none is at hand."""
    methods: tuple[str, ...]
    """The methods that don't refuse it with its default fields on that data set."""


STORIES: dict[str, StoryEntry] = {
    "gmm": StoryEntry(
        "storyzoo.models.gmm:GaussianMixture",
        "each point picks a component, then falls around its centre",
        "iris",
        ("em", "map", "laplace", "pathfinder", "svi", "nuts", "chees", "sgld"),
    ),
    "kmeans": StoryEntry(
        "storyzoo.models.kmeans:KMeans",
        "equal weights and one tiny spherical variance: hard EM is Lloyd's algorithm",
        "iris",
        ("em", "map", "laplace", "pathfinder", "svi", "nuts", "chees", "sgld"),
    ),
    "eight-schools": StoryEntry(
        "storyzoo.models.eight_schools:EightSchools",
        "effects of a course in eight schools, drawn towards their common mean",
        "eight-schools",
        ("map", "laplace", "pathfinder", "svi", "nuts", "chees", "sgld"),
    ),
    "linear-regression": StoryEntry(
        "storyzoo.models.linear_regression:LinearRegression",
        "an outcome on a line through its features, plus normal noise",
        "diabetes",
        ("map", "laplace", "pathfinder", "svi", "nuts", "chees", "sgld"),
    ),
    "logistic-regression": StoryEntry(
        "storyzoo.models.logistic_regression:LogisticRegression",
        "a yes or no whose log odds are a weighted sum of features",
        "breast-cancer",
        ("map", "laplace", "pathfinder", "svi", "nuts", "chees", "sgld"),
    ),
    "poisson-regression": StoryEntry(
        "storyzoo.models.poisson_regression:PoissonRegression",
        "a count whose log rate is a weighted sum of features",
        "insect-sprays",
        ("map", "laplace", "pathfinder", "svi", "nuts", "chees", "sgld"),
    ),
    "autoregression": StoryEntry(
        "storyzoo.models.autoregression:Autoregression",
        "each value of a series is a weighted sum of those just before it",
        "lynx",
        ("map", "laplace", "pathfinder", "svi", "nuts", "chees"),
    ),
    "ordered-mixture": StoryEntry(
        "storyzoo.models.ordered_mixture:OrderedMixture",
        "a mixture of normals on a line, told apart by the order of their locations",
        "iris-petal:columns=petal_length",
        ("em", "map", "laplace", "pathfinder", "svi", "nuts", "chees", "sgld"),
    ),
    "rbm": StoryEntry(
        "storyzoo.models.rbm:RestrictedBoltzmann",
        "hidden units, each tied to every pixel, make pixels agree",
        "bars-and-stripes",
        ("map", "contrastive", "laplace", "pathfinder", "svi", "nuts", "chees", "sgld"),
    ),
    "sequence": StoryEntry(
        "storyzoo.models.sequence:Sequence",
        "each symbol is foretold from all before it by a recurrent network",
        "graph-atlas",
        ("map", "laplace", "svi", "sgld"),
    ),
    "piano-roll": StoryEntry(
        "storyzoo.models.piano_roll:PianoRoll",
        "which keys are down is foretold from all before by a recurrent network",
        "jsb-chorales",
        ("map", "laplace", "svi", "sgld"),
    ),
    "ngram": StoryEntry(
        "storyzoo.models.ngram:NGram",
        "each symbol is foretold from the few just before it, by a table",
        "graph-atlas",
        ("map", "laplace", "pathfinder", "svi", "nuts", "chees", "sgld", "gibbs"),
    ),
    "lda": StoryEntry(
        "storyzoo.models.lda:LatentDirichletAllocation",
        "each document mixes a few topics, and each word is drawn from one of them",
        "python-docs",
        ("em", "map", "pathfinder", "svi", "nuts", "chees", "gibbs"),
    ),
}

ENTRY_POINTS = "storyzoo.stories"
"""Group of Python entry points by which another package adds its stories."""


def story_entries() -> dict[str, StoryEntry]:
    """Every story by name: ours, then those of other packages; ours win where names clash."""
    from importlib.metadata import entry_points  # reads the disk: only when asked

    others = {}
    for point in entry_points(group=ENTRY_POINTS):
        package = point.module.partition(".")[0]
        others[point.name] = StoryEntry(point.value, f"from the package {package}", "", ())
    return others | STORIES


def story_names() -> list[str]:
    """Names that :func:`load_story` knows."""
    return list(story_entries())


def find_story(name: str) -> StoryEntry:
    """The entry of that name; SettingError with the nearest name where there is none."""
    if name in STORIES:
        return STORIES[name]
    entries = story_entries()
    if name not in entries:
        raise SettingError(f"no story {name!r}: {nearest(name, entries)}")
    return entries[name]


def load_story(name: str) -> type[Story]:
    """The class of a story, by name.

    >>> load_story("gmm")(n_components=2)
    GaussianMixture(n_components=2, ...)
    """
    story: type[Story] = load_class(find_story(name).location)
    return story
