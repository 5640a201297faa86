"""Data by name or file. A family of data is imported only when one of its sets is asked for."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from storyzoo.errors import DataError, SettingError, nearest

if TYPE_CHECKING:
    from storyzoo.datasets.codecs import Codec
    from storyzoo.datasets.dataset import Dataset
    from storyzoo.datasets.vocabulary import Reading

    Way = Reading | Codec
    """How a fit's data were read: as counts of words, or as tokens."""


class DataEntry(NamedTuple):
    """One row of ``zoo list --data``; a test holds it against the data."""

    location: str
    """``package.module:function``; the function's keywords are the set's own options.

    What a name holds after a colon, as in ``posteriordb:arK-arK``, is its sole argument; that of a
    corpus is a reading.
    """
    summary: str
    rows: int
    columns: int
    """Columns of a table, different words of a corpus, different tokens of sequences, keys."""
    remote: bool = False


DATASETS: dict[str, DataEntry] = {
    "iris": DataEntry(
        "storyzoo.datasets.tables:iris", "lengths of petals and sepals, three species", 150, 4
    ),
    "iris-petal": DataEntry(
        "storyzoo.datasets.tables:iris_petal", "the two petal columns of iris", 150, 2
    ),
    "wine": DataEntry(
        "storyzoo.datasets.tables:wine", "chemistry of Italian wines, three cultivars", 178, 13
    ),
    "digits": DataEntry(
        "storyzoo.datasets.images:digits", "handwritten digits, 8 by 8 pixels", 1797, 64
    ),
    "digits-binary": DataEntry(
        "storyzoo.datasets.images:digits_binary", "the same digits, ink or paper", 1797, 64
    ),
    "bars-and-stripes": DataEntry(
        "storyzoo.datasets.bars_and_stripes:bars_and_stripes",
        "images of upright bars or lying stripes, 4 by 4",
        30,
        16,
    ),
    "eight-schools": DataEntry(
        "storyzoo.datasets.tables:eight_schools", "effects of coaching and their errors", 8, 2
    ),
    "diabetes": DataEntry(
        "storyzoo.datasets.tables:diabetes", "patients, and how far their disease went", 442, 11
    ),
    "breast-cancer": DataEntry(
        "storyzoo.datasets.tables:breast_cancer", "tumours, and which were malignant", 569, 31
    ),
    "insect-sprays": DataEntry(
        "storyzoo.datasets.tables:insect_sprays", "insects counted after six sprays", 72, 6
    ),
    "lynx": DataEntry(
        "storyzoo.datasets.tables:lynx", "lynx trapped each year, a cycle of ten years", 114, 1
    ),
    "python-docs": DataEntry(
        "storyzoo.datasets.corpora:python_docs", "sections of Python's reference", 168, 3294
    ),
    "bbc-news": DataEntry(
        "storyzoo.datasets.corpora:bbc_news",
        "news in words, five sections",
        2225,
        2949,
        remote=True,
    ),
    "graph-atlas": DataEntry(
        "storyzoo.datasets.graphs:graph_atlas", "all connected graphs of up to 7 nodes", 996, 7
    ),
    "tiny-shakespeare": DataEntry(
        "storyzoo.datasets.shakespeare:tiny_shakespeare",
        "speeches from his plays, in characters",
        7222,
        66,
        remote=True,
    ),
    "jsb-chorales": DataEntry(
        "storyzoo.datasets.piano_rolls:jsb_chorales",
        "chorales of Bach, as piano rolls",
        382,
        88,
        remote=True,
    ),
    "enzymes": DataEntry(
        "storyzoo.datasets.graphs:enzymes", "graphs of proteins, six classes", 600, 126, remote=True
    ),
    "faithful": DataEntry(
        "storyzoo.datasets.faithful:faithful", "eruptions of Old Faithful", 272, 2, remote=True
    ),
    "mnist": DataEntry(
        "storyzoo.datasets.images:mnist", "handwritten digits, 28 by 28", 10000, 784, remote=True
    ),
    "posteriordb:eight_schools-eight_schools_centered": DataEntry(
        "storyzoo.datasets.posteriordb:posterior",
        "eight schools, funnel and all",
        8,
        2,
        remote=True,
    ),
    "posteriordb:eight_schools-eight_schools_noncentered": DataEntry(
        "storyzoo.datasets.posteriordb:posterior",
        "the same, its reference draws",
        8,
        2,
        remote=True,
    ),
    "posteriordb:arK-arK": DataEntry(
        "storyzoo.datasets.posteriordb:posterior",
        "a series to be told by five lags",
        200,
        1,
        remote=True,
    ),
    "posteriordb:low_dim_gauss_mix-low_dim_gauss_mix": DataEntry(
        "storyzoo.datasets.posteriordb:posterior",
        "numbers from two normals",
        1000,
        1,
        remote=True,
    ),
    "posteriordb:hmm_example-hmm_example": DataEntry(
        "storyzoo.datasets.posteriordb:posterior",
        "a series that switches between two levels",
        100,
        1,
        remote=True,
    ),
    "posteriordb:kidiq-kidscore_momiq": DataEntry(
        "storyzoo.datasets.posteriordb:posterior",
        "children's test scores by their mothers' IQ",
        434,
        2,
        remote=True,
    ),
}


def load(spec: str, way: Way | None = None, gaps: bool = False) -> Dataset:
    """Data by name or file, with options after a colon.

    >>> load("iris:standardize=true").standardised.columns
    ('sepal_length', 'sepal_width', 'petal_length', 'petal_width')

    Every table takes ``columns=a+b``, ``drop=a+b`` and ``standardize=true``; files also take
    ``labels=a``, a column of known classes that no model is to see. Text takes ``min_df=2``,
    ``max_df=0.5``, ``stop_words=english`` and more, and becomes counts of words; with
    ``codec=characters`` it becomes sequences of tokens, and a table of images does with
    ``codec=raster,levels=2``. With the ``way`` of a fit data are read as they were then; with
    ``gaps`` a text may hold the mark of a gap, and an image lack pixels. Raises DataError or
    SettingError with the place and the remedy.
    """
    name, options = _split(spec)
    if name in DATASETS:
        return _named(spec, name, options, way)
    return _from_file(name, options, way, gaps)


def card(name: str) -> str:
    """The page-long card of a data set: rows, columns and their meaning, source, licence."""
    if name not in DATASETS:
        raise DataError(f"no data set {name!r}: {nearest(name, DATASETS)}")
    family = name.partition(":")[0]
    return (Path(__file__).parent / "cards" / f"{family}.md").read_text(encoding="utf-8")


def _split(spec: str) -> tuple[str, dict[str, str]]:
    """Name and options. The name of a posterior holds a colon itself: ``posteriordb:arK-arK``."""
    from storyzoo.datasets.selection import split_spec

    family, _, rest = spec.partition(":")
    if family != "posteriordb":
        return split_spec(spec)
    member, options = split_spec(rest)
    if f"{family}:{member}" not in DATASETS:
        known = [name.removeprefix("posteriordb:") for name in DATASETS if ":" in name]
        raise DataError(f"no posterior {member!r} of posteriordb: {nearest(member, known)}")
    return f"{family}:{member}", options


def _named(spec: str, name: str, options: dict[str, str], way: Way | None) -> Dataset:
    from storyzoo.datasets import selection, sequences

    module, _, function = DATASETS[name].location.partition(":")
    make: Callable[..., Dataset] = getattr(importlib.import_module(module), function)
    parameters = inspect.signature(make).parameters
    own = {key: p for key, p in parameters.items() if p.kind is not p.POSITIONAL_ONLY}
    text = "way" in parameters
    generic = [key for key in (*selection.SELECTING, *selection.RASTER) if key != "labels"]
    selection.check_options(name, options, own if text else [*own, *generic])
    if text and way is not None:
        selection.leave_reading(name, options, (*selection.READING, *selection.CODING))
    elif text and not own["codec"].default:
        sequences.refuse_reading(name, options)
    values = {
        key: selection.read_option(name, key, text, type(own[key].default))
        for key, text in options.items()
        if key in own
    }
    member = name.partition(":")[2]
    given = [way] if text else [member] if member else []
    dataset = make(*given, **values)
    wanted = selection.read_selection(name, options)
    if dataset.table is None:
        selection.check_options(name, options, own)  # there is nothing to select from
    else:
        dataset = dataclasses.replace(dataset, table=wanted.of_table(name, dataset.table))
    return _finish(spec, dataset, options, way)


def _from_file(name: str, options: dict[str, str], way: Way | None, gaps: bool) -> Dataset:
    from storyzoo.datasets import corpus, files, graphs, selection, sequences
    from storyzoo.datasets.adjacency import Adjacency
    from storyzoo.datasets.codecs import TextCodec
    from storyzoo.datasets.vocabulary import Reading

    path = Path(name)
    suffixes = (*files.SUFFIXES, *files.TEXTS, *graphs.SUFFIXES)
    if path.suffix.lower() not in suffixes and not path.exists():
        raise DataError(
            f"no data set {name!r}: {nearest(name, DATASETS)} "
            f"(a file would end in {', '.join(suffixes)})"
        )
    text = ",".join(f"{key}={value}" for key, value in options.items())
    spec = f"{path.name}:{text}" if text else path.name
    if path.suffix.lower() in graphs.SUFFIXES:
        files.check_file(path)
        of_fit = way if isinstance(way, Adjacency) else None
        return _finish(spec, graphs.read_file(path, options, of_fit), {}, way)
    if form := corpus.form_of(path, options):
        files.check_file(path)
        if isinstance(way, TextCodec) or (way is None and "codec" in options):
            codec = way if isinstance(way, TextCodec) else None
            return _finish(spec, sequences.read_file(path, form, options, codec, gaps), {}, way)
        reading = way if isinstance(way, Reading) else None
        if reading is None:
            sequences.refuse_reading(path.name, options)
        return _finish(spec, corpus.read_corpus(path, form, options, reading), {}, way)
    selection.check_options(path.name, options, (*selection.SELECTING, *selection.RASTER))
    wanted = selection.read_selection(name, options)
    return _finish(spec, files.read_file(path, wanted), options, way, gaps)


def _finish(
    spec: str, dataset: Dataset, options: dict[str, str], way: Way | None, gaps: bool = False
) -> Dataset:
    """Standardise or make tokens of a table where asked, and take the fingerprint."""
    import numpy as np

    from storyzoo.datasets.dataset import fingerprint, table_fingerprint
    from storyzoo.datasets.selection import read_selection
    from storyzoo.datasets.standardise import standardise

    standardize = read_selection(dataset.name, options).standardize
    if dataset.codec is None:
        dataset = _rastered(dataset, options, way, standardize, gaps)
    if dataset.table is None:
        texts = {dim: "\n".join(names) for dim, names in dataset.coords.items()}
        if dataset.stream is not None:  # of which the arrays hold but the first block
            texts["stream"] = dataset.stream.sha256
        as_bytes = {key: np.frombuffer(t.encode(), np.uint8) for key, t in texts.items()}
        digest = fingerprint({**dataset.arrays, **as_bytes})
        return dataclasses.replace(dataset, name=spec, sha256=digest)
    table, scale = dataset.table, None
    if standardize:
        table, scale = standardise(table, spec, outcome=dataset.target)
    return dataclasses.replace(
        dataset, name=spec, table=table, standardised=scale, sha256=table_fingerprint(table)
    )


def _rastered(
    dataset: Dataset, options: dict[str, str], way: Way | None, standardize: bool, gaps: bool
) -> Dataset:
    """A table of images as sequences, where asked, or where the data of a fit were."""
    from storyzoo.datasets import selection
    from storyzoo.datasets.raster import Raster, as_raster

    name = dataset.name
    if isinstance(way, Raster) and dataset.table is not None:
        selection.leave_reading(name, options, selection.RASTER)
        return as_raster(dataset, 0, way, gaps)
    if options.get("codec", "raster") != "raster":
        raise SettingError(f"data {name!r}: codec={options['codec']!r} is no codec of a table: "
                           "take codec=raster for images")  # fmt: skip
    if not set(selection.RASTER) & set(options):
        return dataset
    if standardize:
        raise SettingError(f"data {name!r}: tokens can't be standardised: leave standardize= out")
    levels = selection.read_option(name, "levels", options.get("levels", "0"), int)
    return as_raster(dataset, int(levels))
