"""Posteriors of posteriordb: data under the names of the zoo's stories, and reference draws."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from storyzoo.datasets import DATASETS, load, posteriordb
from storyzoo.datasets.posteriordb import POSTERIORS, reference_draws, reference_info
from storyzoo.errors import DataError, SettingError


def test_every_posterior_is_listed() -> None:
    listed = [name.removeprefix("posteriordb:") for name in DATASETS if ":" in name]
    assert set(listed) == set(POSTERIORS)


def test_columns_have_the_names_of_the_stories(mirror: Path) -> None:
    schools = load("posteriordb:eight_schools-eight_schools_noncentered")
    embedded = load("eight-schools").table
    assert schools.table is not None and embedded is not None
    np.testing.assert_array_equal(schools.table["effect"], embedded["effect"])
    np.testing.assert_array_equal(schools.table["stderr"], embedded["stderr"])
    kidiq = load("posteriordb:kidiq-kidscore_momiq")
    assert kidiq.table is not None and kidiq.target == "kid_score"
    assert kidiq.table.iloc[0].tolist() == [pytest.approx(121.117529), 65.0]


def test_options_follow_the_name_of_a_posterior(mirror: Path) -> None:
    one = load("posteriordb:kidiq-kidscore_momiq:columns=mom_iq")
    assert one.table is not None and list(one.table.columns) == ["mom_iq"]


@pytest.mark.parametrize("name", POSTERIORS)
def test_reference_draws_passed_the_gate_that_their_info_names(name: str, mirror: Path) -> None:
    draws, info = reference_draws(name), reference_info(name)
    diagnostics = info["diagnostics"]
    assert set(draws) == set(diagnostics["diagnostic_information"]["names"])
    assert {values.shape for values in draws.values()} == {(10, 1000)}
    assert all(np.isfinite(values).all() for values in draws.values())
    assert max(diagnostics["r_hat"]) < 1.01
    assert sum(diagnostics["divergent_transitions"]) == 0


def test_both_ways_to_write_eight_schools_share_their_draws(mirror: Path) -> None:
    first = reference_draws("eight_schools-eight_schools_centered")
    second = reference_draws("eight_schools-eight_schools_noncentered")
    np.testing.assert_array_equal(first["tau"], second["tau"])
    assert first["mu"].mean() == pytest.approx(4.4, abs=0.1)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("posteriordb:arK-ark", "no posterior 'arK-ark' of posteriordb: did you mean 'arK-arK'?"),
        ("posteriordb:hmm", "known: eight_schools-eight_schools_centered, eight_schools-"),
        ("posteriordb", "known: eight_schools-eight_schools_centered"),
        ("posteriordb:arK-arK:order=5", "no option 'order'"),
    ],
)
def test_unknown_posteriors_say_the_nearest(spec: str, said: str) -> None:
    with pytest.raises((DataError, SettingError)) as caught:
        load(spec)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_draws_of_an_unknown_posterior() -> None:
    with pytest.raises(DataError, match="did you mean 'arK-arK'"):
        reference_draws("ark-arK")


# -- what is no zipped JSON ----------------------------------------------------------------------


def zipped(folder: Path, members: dict[str, str]) -> Path:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    path = folder / "data.json.zip"
    path.write_bytes(buffer.getvalue())
    return path


def test_a_zip_is_measured_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(tmp_path, {"data.json": json.dumps([0] * 100_000)})
    assert len(posteriordb._unpacked(path)) == 100_000
    monkeypatch.setattr(posteriordb, "MOST_BYTES", 100_000)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(DataError, match=r"unpacks to 3e\+05 bytes"):
        posteriordb._unpacked(path)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({}, "holds 0 files"),
        ({"a.json": "1", "b.json": "2"}, "holds 2 files"),
        ({"a.json": "{"}, "no zipped JSON: fetch it again"),
    ],
)
def test_odd_zips_are_refused(tmp_path: Path, members: dict[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        posteriordb._unpacked(zipped(tmp_path, members))


def test_a_truncated_zip_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path, {"a.json": "[1, 2]"})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="no zipped JSON: fetch it again"):
        posteriordb._unpacked(path)
