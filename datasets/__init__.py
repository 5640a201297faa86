"""Data by name or file. A family of data is imported only when one of its sets is asked for."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from storyzoo.errors import DataError, nearest

if TYPE_CHECKING:
    from storyzoo.datasets.dataset import Dataset
    from storyzoo.datasets.vocabulary import Reading


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
    """Columns of a table, different words of a corpus."""
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


def load(spec: str, reading: Reading | None = None) -> Dataset:
    """Data by name or file, with options after a colon.

    >>> load("iris:standardize=true").standardised.columns
    ('sepal_length', 'sepal_width', 'petal_length', 'petal_width')

    Every table takes ``columns=a+b``, ``drop=a+b`` and ``standardize=true``; files also take
    ``labels=a``, a column of known classes that no model is to see. Text takes ``min_df=2``,
    ``max_df=0.5``, ``stop_words=english`` and more; with a ``reading``, that of a fit, it is read
    as it was then. Raises DataError or SettingError with the place and the remedy.
    """
    name, options = _split(spec)
    if name in DATASETS:
        return _named(spec, name, options, reading)
    return _from_file(name, options, reading)


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


def _named(spec: str, name: str, options: dict[str, str], reading: Reading | None) -> Dataset:
    from storyzoo.datasets import selection

    module, _, function = DATASETS[name].location.partition(":")
    make: Callable[..., Dataset] = getattr(importlib.import_module(module), function)
    parameters = inspect.signature(make).parameters
    own = {key: p for key, p in parameters.items() if p.kind is not p.POSITIONAL_ONLY}
    text = "reading" in parameters
    generic = [key for key in selection.SELECTING if key != "labels" and not text]
    selection.check_options(name, options, [*own, *generic])
    if text and reading is not None:
        selection.leave_reading(name, options)
    values = {
        key: selection.read_option(name, key, text, type(own[key].default))
        for key, text in options.items()
        if key in own
    }
    member = name.partition(":")[2]
    given = [reading] if text else [member] if member else []
    dataset = make(*given, **values)
    wanted = selection.read_selection(name, options)
    if dataset.table is not None:
        dataset = dataclasses.replace(dataset, table=wanted.of_table(name, dataset.table))
    return _finish(spec, dataset, wanted.standardize)


def _from_file(name: str, options: dict[str, str], reading: Reading | None) -> Dataset:
    from storyzoo.datasets import corpus, files, selection

    path = Path(name)
    suffixes = (*files.SUFFIXES, *files.TEXTS)
    if path.suffix.lower() not in suffixes and not path.exists():
        raise DataError(
            f"no data set {name!r}: {nearest(name, DATASETS)} "
            f"(a file would end in {', '.join(suffixes)})"
        )
    text = ",".join(f"{key}={value}" for key, value in options.items())
    spec = f"{path.name}:{text}" if text else path.name
    if form := corpus.form_of(path, options):
        files.check_file(path)
        return _finish(spec, corpus.read_corpus(path, form, options, reading), False)
    selection.check_options(name, options, selection.SELECTING)
    wanted = selection.read_selection(name, options)
    return _finish(spec, files.read_file(path, wanted), wanted.standardize)


def _finish(spec: str, dataset: Dataset, standardize: bool) -> Dataset:
    """Standardise where asked, and take the fingerprint."""
    import numpy as np

    from storyzoo.datasets.dataset import fingerprint, table_fingerprint
    from storyzoo.datasets.standardise import standardise

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
