"""The user's own files: read as they are, or refused in one line with place and remedy."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storyzoo.datasets import files, load, text_table
from storyzoo.datasets.dataset import Dataset
from storyzoo.errors import DataError, SettingError, StoryzooError


def csv(content: str | bytes, name: str = "toy.csv", options: str = "") -> Dataset:
    """Load a file of that content in the current folder."""
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return load(name + options)


def table(content: str | bytes, name: str = "toy.csv", options: str = "") -> pd.DataFrame:
    found = csv(content, name, options).table
    assert found is not None
    return found


pytestmark = pytest.mark.usefixtures("workdir")


# -- what is read ------------------------------------------------------------------------------


def test_numbers_missing_values_and_truths() -> None:
    found = table("a,b,c,d\n1, 2.5 ,true,1e5\n,NA,False,-.5\n")
    assert found["a"].isna().tolist() == [False, True]
    assert found["b"].tolist()[0] == 2.5
    assert found["c"].tolist() == [1.0, 0.0]
    assert found["d"].tolist() == [1e5, -0.5]


def test_byte_order_mark_windows_lines_quotes_and_blank_lines() -> None:
    found = table(b'\xef\xbb\xbf"a, b",c\r\n1,2\r\n\r\n3,4\r\n')
    assert found.columns.tolist() == ["a, b", "c"]
    assert found.to_numpy().tolist() == [[1, 2], [3, 4]]


def test_types_may_change_far_down() -> None:
    rows = ["1"] * 600_000 + ["2.5"]
    found = table("a\n" + "\n".join(rows))
    assert found["a"].iloc[-1] == 2.5 and len(found) == 600_001


def test_tabs() -> None:
    assert table("a\tb\n1\t2\n", "toy.tsv").to_numpy().tolist() == [[1, 2]]


def test_columns_of_text_are_left_out_with_a_note() -> None:
    found = csv("a,species,when,hole\n1,setosa,2020-01-01,\n2,virginica,2020-01-02,\n")
    assert found.table is not None and found.table.columns.tolist() == ["a"]
    assert "column 'species' is text and is left out" in found.notes[0]
    assert "'when' is text" in found.notes[1]
    assert "'hole' is empty" in found.notes[2]


def test_empty_columns_can_be_asked_back() -> None:
    found = csv("b,a,hole\n,1,\n,2,\n")
    assert found.table is not None and found.empty == ("b", "hole")
    asked = found.with_empty(("a", "b", "c"))
    assert asked.table is not None and asked.table.columns.tolist() == ["a", "b"]
    assert np.isnan(asked.table["b"]).all() and asked.table["a"].tolist() == [1, 2]
    assert asked.empty == ("hole",) and len(asked.notes) == 1 and "'hole'" in asked.notes[0]
    assert found.with_empty(("a",)) is found


def test_row_numbers_without_a_name_are_left_out() -> None:
    buffer = io.StringIO()
    pd.DataFrame({"a": [1.5, 2.5]}).to_csv(buffer)
    found = csv(buffer.getvalue())
    assert found.table is not None and found.table.columns.tolist() == ["a"]
    assert "without a name" in found.notes[0]


def test_options_of_files() -> None:
    content = "a,b,species\n1,x1,setosa\n2,3,virginica\n"
    found = csv(content, options=":drop=b,labels=species")
    assert found.labels is not None and found.labels.tolist() == ["setosa", "virginica"]
    assert found.table is not None and found.table.columns.tolist() == ["a"]
    assert not found.notes
    assert found.name == "toy.csv:drop=b,labels=species"
    assert table("a,b\n1,2\n", options=":columns=b").columns.tolist() == ["b"]


def test_one_table_in_three_formats_has_one_fingerprint() -> None:
    frame = pd.DataFrame({"a": [1.0, np.nan], "b": [3.0, 4.0]})
    frame.to_parquet("toy.parquet", index=False)
    frame.to_csv("toy.csv", index=False)
    assert load("toy.csv").sha256 == load("toy.parquet").sha256


def test_parquet_types() -> None:
    frame = pd.DataFrame(
        {
            "whole": pd.array([1, None], dtype="Int64"),
            "truth": [True, False],
            "word": ["1", "2"],
            "when": pd.to_datetime(["2020-01-01", "2020-01-02"]),
        },
        index=["r1", "r2"],
    )
    frame.to_parquet("toy.parquet")
    found = load("toy.parquet")
    assert found.table is not None and found.table.columns.tolist() == ["whole", "truth"]
    assert np.isnan(found.table["whole"].iloc[1])
    assert len(found.notes) == 3


def test_arrays() -> None:
    np.savez("toy.npz", x=np.ones((3, 2)), label=np.array(["a", "b", "a"]), n=np.arange(3))
    found = load("toy.npz:labels=label")
    assert set(found.arrays) == {"x", "n"} and found.labels is not None
    assert "array 'label'" in load("toy.npz").notes[0]


def test_constant_columns_load_but_cannot_be_standardised() -> None:
    assert table("a,b\n0.1,1\n0.1,2\n0.1,3\n")["a"].tolist() == [0.1] * 3
    with pytest.raises(DataError, match=r"column 'a' is constant \(0.1\).*drop=a"):
        load("toy.csv:standardize=true")


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n3,x\n", "toy.csv: column 'b', row 2: 'x' is no number"),
        ("a,b\n1,?\n3,4\n", "leave it empty where it is missing"),
        ("a,b\n1,2\n3,inf\n", "toy.csv: column 'b', row 2 is infinite"),
        ("a,b\n1,-Infinity\n", "column 'b', row 1 is infinite"),
        ("a,b\n1,1e999\n", "column 'b', row 1 is infinite"),
        ("a,b\n", "toy.csv has no rows"),
        ("", "toy.csv is empty (0 bytes)"),
        ("\n\n", "toy.csv has no column names"),
        ("a,b\n1,2\n\n3\n4,5\n", "toy.csv, line 4 has 1 values where the first line has 2"),
        ("a,b\n1,2\n3,4,5\n", "toy.csv, line 3 has 3 values where the first line has 2"),
        ("a,b\nx,y\n", "toy.csv has no column of numbers (columns: a, b)"),
        ("a,b,a\n1,2,3\n", "toy.csv has two columns 'a': rename one"),
        ("1,2\n3,4\n", "the first line holds numbers, not column names"),
        ("a;b\n1;2\n", "toy.csv is separated by semicolons: write it with ',' between"),
        (b"a,b\n1,2\n\xe9,3\n", "toy.csv, line 3 is not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "is not UTF-8"),
        (b"a,b\n1,\0\n", "toy.csv is not text"),
    ],
)
def test_bad_text_is_refused(content: str | bytes, said: str) -> None:
    with pytest.raises(DataError) as caught:
        csv(content)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def write_parquet(content: Callable[[bytes], bytes]) -> None:
    buffer = io.BytesIO()
    pd.DataFrame({"a": np.arange(100.0)}).to_parquet(buffer)
    Path("toy.parquet").write_bytes(content(buffer.getvalue()))


def write_npz(content: Callable[[bytes], bytes]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(100.0), b=np.arange(100.0))
    Path("toy.npz").write_bytes(content(buffer.getvalue()))


@pytest.mark.parametrize(
    "cut", [lambda c: c[:-20], lambda c: c[:30], lambda c: b"PAR1", lambda c: b"not at all"]
)
def test_truncated_binary_files_are_refused(cut: Callable[[bytes], bytes]) -> None:
    write_parquet(cut)
    with pytest.raises(DataError, match=r"toy\.parquet can't be read as Parquet \(truncated"):
        load("toy.parquet")
    write_npz(cut)
    with pytest.raises(DataError, match=r"toy\.npz can't be read as NPZ \(truncated"):
        load("toy.npz")


def test_a_damaged_member_of_an_npz_is_refused() -> None:
    write_npz(lambda c: c[:300] + bytes(100) + c[400:])
    with pytest.raises(DataError, match="write it again"):
        load("toy.npz")


def test_python_objects_are_never_unpickled() -> None:
    np.savez("toy.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(DataError, match="never unpickled: save plain numbers"):
        load("toy.npz")


def test_a_header_that_lies_about_its_size_is_refused() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(8))
    lie = buffer.getvalue().replace(b"(8,), }" + b" " * 14, b"(999999999999999,), }", 1)
    assert b"999999999999999" in lie
    import zipfile

    with zipfile.ZipFile("toy.npz", "w") as archive:
        archive.writestr("a.npy", lie)
    with pytest.raises(DataError, match="write it again"):
        load("toy.npz")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": np.zeros((0, 2))}, "array 'a' is empty, of shape (0, 2)"),
        ({"a": np.array([[1.0, np.inf]])}, "array 'a' is infinite at [0, 1]"),
        ({"a": np.array(["x"])}, "no array of numbers (arrays: a)"),
    ],
)
def test_bad_arrays_are_refused(arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez("toy.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        load("toy.npz")
    assert said in str(caught.value)


def test_standardize_is_for_tables() -> None:
    write_npz(bytes)
    with pytest.raises(SettingError, match="standardize is for tables"):
        load("toy.npz:standardize=true")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("toi.csv", "no file 'toi.csv': did you mean 'toy.csv'?"),
        ("nowhere/toy.csv", "there is no folder 'nowhere'"),
        ("toy.xlsx", "toy.xlsx is none of .csv, .tsv, .parquet, .pq, .npz"),
        ("folder", "folder holds no .txt file: put a document in each"),
        ("toy.csv:colums=a", "no option 'colums': did you mean 'columns'?"),
        ("toy.csv:drop=aa", "no column 'aa': did you mean 'a'?"),
        ("toy.csv:columns=word", "column 'word' is text: leave it out of columns="),
        ("toy.csv:labels=lbl", "no column 'lbl'"),
    ],
)
def test_wrong_names_are_refused(spec: str, said: str) -> None:
    Path("toy.csv").write_text("a,word\n1,x\n")
    Path("toy.xlsx").write_text("x")
    Path("folder").mkdir()
    with pytest.raises(StoryzooError) as caught:
        load(spec)
    assert said in str(caught.value)


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_NUMBERS", 50)
    monkeypatch.setattr(text_table, "MAX_BYTES", 5)
    write_parquet(bytes)
    write_npz(bytes)
    Path("toy.csv").write_text("a\n1\n2\n3\n")
    for name, said in [
        ("toy.parquet", "holds 1e\\+02 values"),
        ("toy.npz", "unpacks to"),
        ("toy.csv", "store it as Parquet"),
    ]:
        with pytest.raises(DataError, match=said):
            load(name)
