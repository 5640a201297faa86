"""The embedded and remote sets are what their cards say; options select and standardise."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storyzoo.datasets import DATASETS, card, load
from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.remote import fetch, origins
from storyzoo.errors import DataError, SettingError

EMBEDDED = [name for name, entry in DATASETS.items() if not entry.remote]
REMOTE = [name for name, entry in DATASETS.items() if entry.remote]


def check_shape(name: str) -> None:
    found = load(name)
    if found.reading is not None:
        check_corpus(name, found)
        return
    if "length" in found.arrays:
        check_sequences(name, found)
        return
    table = found.table
    assert table is not None
    assert table.shape == (DATASETS[name].rows, DATASETS[name].columns)
    assert (table.dtypes == np.float64).all()
    assert np.isfinite(table.to_numpy()).all()


def check_sequences(name: str, found: Dataset) -> None:
    """Steps lie end to end; they are tokens, or keys of a piano."""
    length = np.asarray(found.arrays["length"])
    steps = np.asarray(found.arrays["key" if "key" in found.arrays else "token"])
    different = steps.shape[1] if steps.ndim == 2 else found.arrays["n_tokens"]
    assert (len(length), different) == (DATASETS[name].rows, DATASETS[name].columns)
    assert len(steps) == length.sum() and steps.min() >= 0
    assert steps.max() < (2 if steps.ndim == 2 else different)


def check_corpus(name: str, found: Dataset) -> None:
    """The text of python-docs is that of the Python that runs: its card tells of one release."""
    size = (len(np.asarray(found.arrays["length"])), found.arrays["n_words"])
    if name == "python-docs" and sys.version_info[:3] != (3, 11, 7):
        assert 100 < size[0] < 300 and 2000 < int(size[1]) < 8000
        return
    assert size == (DATASETS[name].rows, DATASETS[name].columns)


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_sets_have_the_listed_shape(name: str) -> None:
    check_shape(name)


@pytest.mark.parametrize("name", REMOTE)
def test_remote_sets_have_the_listed_shape(name: str, mirror: Path) -> None:
    check_shape(name)


@pytest.mark.parametrize("name", DATASETS)
def test_every_set_has_a_card(name: str) -> None:
    text = card(name)
    for section in ("Rows", "Columns", "Source", "Licence", "Good for"):
        assert f"\n{section}\n" in text, section
    assert len(text.splitlines()) > 20
    assert f"{DATASETS[name].rows:,}" in text


def test_values_by_hand() -> None:
    iris = load("iris")
    assert iris.table is not None and iris.labels is not None
    assert iris.table.iloc[0].tolist() == [5.1, 3.5, 1.4, 0.2]
    assert iris.labels.groupby(iris.labels).size().tolist() == [50, 50, 50]
    schools = load("eight-schools").table
    assert schools is not None
    assert schools.index[0] == "A" and schools.to_numpy()[0].tolist() == [28.0, 15.0]


def test_outcomes_by_hand() -> None:
    diabetes, cancer, sprays = load("diabetes"), load("breast-cancer"), load("insect-sprays")
    assert diabetes.table is not None and cancer.table is not None
    assert sprays.table is not None and sprays.labels is not None
    assert diabetes.table.iloc[0][["age", "bmi", "progression"]].tolist() == [59.0, 32.1, 151.0]
    assert cancer.table["malignant"].sum() == 212
    assert cancer.table["mean_radius"][cancer.table["malignant"] == 1].mean() > 17
    means = sprays.table["count"].groupby(sprays.labels).mean()
    assert means.round(2).tolist() == [14.5, 15.33, 2.08, 4.92, 3.5, 16.67]
    assert (
        sprays.table["spray_F"][sprays.labels == "F"].sum() == sprays.table["spray_F"].sum() == 12
    )


def test_lynx_by_hand() -> None:
    counts, logs = load("lynx:log=false").table, load("lynx").table
    assert counts is not None and logs is not None
    trapped = counts["trapped"]
    assert trapped.describe().round(1).tolist()[1:] == [
        1538.0,
        1585.8,
        39,
        348.2,
        771,
        2566.8,
        6991,
    ]
    assert (trapped.index[0], trapped["1904"], trapped.index[-1]) == ("1821", 6991, "1934")
    assert logs["log10_trapped"].mean() == pytest.approx(2.9036, abs=1e-4)  # Moran (1953)


def test_faithful_and_mnist_by_hand(mirror: Path) -> None:
    faithful, mnist = load("faithful"), load("mnist")
    assert faithful.table is not None and mnist.table is not None and mnist.labels is not None
    assert faithful.table.iloc[0].tolist() == [3.6, 79.0]
    assert mnist.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert mnist.table.to_numpy().max() == 255
    assert mnist.test_rows is not None and mnist.validation_rows is not None
    assert (mnist.test_rows[0], mnist.test_rows[-1]) == (9000, 9999)
    assert (mnist.validation_rows[0], mnist.validation_rows[-1]) == (8000, 8999)


def test_every_bar_and_stripe_is_there_once() -> None:
    found = load("bars-and-stripes:side=3")
    assert found.table is not None and found.labels is not None
    images = found.table.to_numpy().reshape(-1, 3, 3)
    assert len(np.unique(images.reshape(-1, 9), axis=0)) == len(images) == 14
    columns_alike, rows_alike = (
        np.ptp(images, axis=1).max(1) == 0,
        np.ptp(images, axis=2).max(1) == 0,
    )
    assert (columns_alike | rows_alike).all()
    kinds = {(True, False): "bar", (False, True): "stripe", (True, True): "both"}
    told = [kinds[pair] for pair in zip(columns_alike, rows_alike, strict=True)]
    assert found.labels.tolist() == told
    for side in (2, 12):
        table = load(f"bars-and-stripes:side={side}").table
        assert table is not None and table.shape == (2 ** (side + 1) - 2, side * side)
        assert not table.duplicated().any()


def test_bars_and_stripes_are_drawn_evenly_by_their_seed() -> None:
    drawn = load("bars-and-stripes:side=2,rows=6000")
    assert drawn.table is not None
    counts = drawn.table.value_counts()
    assert len(counts) == 6 and ((counts - 1000).abs() < 5 * np.sqrt(1000 * 5 / 6)).all()
    assert load("bars-and-stripes:side=2,rows=6000").sha256 == drawn.sha256
    assert load("bars-and-stripes:side=2,rows=6000,seed=1").sha256 != drawn.sha256


def test_binary_digits_by_hand() -> None:
    found, grey = load("digits-binary"), load("digits").table
    assert found.table is not None and found.test_rows is not None and grey is not None
    assert np.array_equal(found.table.to_numpy(), grey.to_numpy() > 8)
    assert (found.table.nunique() == 1).sum() == 13
    rows = found.table.to_numpy()
    test, train = rows[found.test_rows], np.delete(rows, found.test_rows, axis=0)
    assert (len(train), len(test)) == (1500, 297)
    share = train.mean(0).clip(0.5 / 1500, 1 - 0.5 / 1500)
    pixels = np.where(test == 1, np.log(share), np.log1p(-share)).sum(1)
    assert pixels.mean() == pytest.approx(-24.5027, abs=1e-4)


def test_binary_mnist_keeps_its_split(mirror: Path) -> None:
    grey = load("mnist").table
    assert grey is not None
    cut, drawn = load("mnist:binarize=0.5"), load("mnist:binarize=sampled")
    assert cut.table is not None and drawn.table is not None
    assert np.array_equal(cut.table.to_numpy(), grey.to_numpy() >= 128)
    assert np.isin(drawn.table.to_numpy(), (0, 1)).all()
    sure = (grey.to_numpy() == 0) | (grey.to_numpy() == 255)
    assert np.array_equal(drawn.table.to_numpy()[sure], (grey.to_numpy() == 255)[sure])
    assert drawn.table.to_numpy().mean() == pytest.approx(grey.to_numpy().mean() / 255, abs=1e-4)
    assert load("mnist:binarize=sampled,seed=0").sha256 == drawn.sha256
    assert load("mnist:binarize=sampled,seed=1").sha256 != drawn.sha256
    for found in (cut, drawn):
        assert found.test_rows is not None and found.validation_rows is not None
        assert (found.test_rows[0], found.validation_rows[0]) == (9000, 8000)


def test_standardising_is_undone_by_its_inverse() -> None:
    plain, standard = load("wine").table, load("wine:standardize=true")
    assert plain is not None and standard.table is not None and standard.standardised is not None
    assert np.allclose(standard.table.mean(), 0) and np.allclose(standard.table.std(ddof=0), 1)
    values = standard.table.to_numpy()
    assert np.allclose(standard.standardised.inverse(values), plain.to_numpy())
    assert np.allclose(standard.standardised.forward(plain.to_numpy()), values)
    one = standard.standardised.select(["hue"])
    assert np.allclose(one.inverse(standard.table[["hue"]].to_numpy())[:, 0], plain["hue"])


def test_options_select_columns() -> None:
    assert list(_columns("iris:columns=petal_width+sepal_width")) == ["petal_width", "sepal_width"]
    assert list(_columns("iris:drop=petal_width+petal_length")) == ["sepal_length", "sepal_width"]
    assert load("iris:columns=petal_length+petal_width").sha256 == load("iris-petal").sha256
    assert load("iris").sha256 != load("iris:standardize=true").sha256


def test_a_yes_or_no_to_be_foretold_is_not_standardised() -> None:
    table = load("breast-cancer:standardize=true").table
    assert table is not None
    assert set(table["malignant"]) == {0, 1}
    assert np.allclose(table.drop(columns="malignant").std(ddof=0), 1)


def _columns(spec: str) -> pd.Index[str]:
    table = load(spec).table
    assert table is not None
    return table.columns


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("irsi", "no data set 'irsi': did you mean 'iris'?"),
        ("nothing-like-it", "known: iris, iris-petal"),
        ("iris:standardise=true", "no option 'standardise': did you mean 'standardize'?"),
        ("iris:labels=species", "no option 'labels'"),
        ("iris:standardize=perhaps", "should be true or false"),
        ("iris:standardize", "the option 'standardize' has no value"),
        ("iris:drop=petal_widht", "no column 'petal_widht': did you mean 'petal_width'?"),
        ("iris-petal:drop=petal_width+petal_length", "no column is left"),
        ("digits:standardize=true", "column 'pixel_0_0' is constant (0)"),
        ("bars-and-stripes:side=13", "side=13 must be from 2 to 12"),
        ("bars-and-stripes:side=four", "side='four' should be of type int"),
        ("bars-and-stripes:rows=-1", "rows=-1 must be from 1 to 100000, or 0 for each image once"),
        ("bars-and-stripes:rows=5,seed=-1", "seed=-1 must be at least 0"),
    ],
)
def test_unknown_names_and_options_say_the_nearest(spec: str, said: str) -> None:
    with pytest.raises((DataError, SettingError)) as caught:
        load(spec)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_card_for_an_unknown_set() -> None:
    with pytest.raises(DataError, match="did you mean 'wine'"):
        card("whine")


# -- where remote files come from --------------------------------------------------------------


def test_the_mirror_is_checked_by_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYZOO_MIRROR", str(tmp_path))
    with pytest.raises(DataError, match=r"has no faithful/faithful\.csv: put it there"):
        load("faithful")
    (tmp_path / "faithful").mkdir()
    (tmp_path / "faithful/faithful.csv").write_text("eruptions,waiting\n1,2\n")
    with pytest.raises(DataError, match=r"SHA-256 is .*copy it anew from https://"):
        load("faithful")


def test_a_mirror_may_be_an_address(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def retrieve(url: str, known_hash: str, fname: str, path: Path) -> str:
        asked.append(url)
        assert known_hash.startswith("sha256:")
        return str(mirror / "faithful" / fname)

    monkeypatch.setattr("pooch.retrieve", retrieve)
    monkeypatch.setenv("STORYZOO_MIRROR", "https://example.org/data/")
    assert fetch("faithful/faithful.csv").is_file()
    monkeypatch.delenv("STORYZOO_MIRROR")
    fetch("faithful/faithful.csv")
    assert asked == [
        "https://example.org/data/faithful/faithful.csv",
        origins()["faithful/faithful.csv"].url,
    ]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("requests.ConnectionError", "can't be fetched (ConnectionError): go online once"),
        ("builtins.ValueError", "is not the file that is wanted (another SHA-256)"),
    ],
)
def test_no_network_and_a_changed_file_are_one_line(
    error: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    module, _, name = error.rpartition(".")
    kind = getattr(importlib.import_module(module), name)

    def retrieve(*_: object, **__: object) -> str:
        raise kind("no")

    monkeypatch.setattr("pooch.retrieve", retrieve)
    monkeypatch.delenv("STORYZOO_MIRROR", raising=False)
    with pytest.raises(DataError) as caught:
        fetch("faithful/faithful.csv")
    assert said in str(caught.value)
    assert "STORYZOO_MIRROR" in str(caught.value)


def test_every_origin_is_pinned(mirror: Path) -> None:
    for origin in origins().values():
        content = (mirror / origin.path).read_bytes()
        assert len(content) == origin.bytes
        assert hashlib.sha256(content).hexdigest() == origin.sha256
        assert origin.url.startswith("https://") and origin.licence


@pytest.mark.parametrize("text", ["2", "-0.1", "half", "nan"])
def test_impossible_thresholds_are_refused(text: str, mirror: Path) -> None:
    with pytest.raises(SettingError, match=f"binarize='{text}' should be 'sampled'"):
        load(f"mnist:binarize={text}")
