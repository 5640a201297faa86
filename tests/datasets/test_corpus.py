"""Every form of a corpus gives the same arrays; what is wrong is named by place and remedy."""

from __future__ import annotations

import gzip
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from storyzoo.datasets import load
from storyzoo.datasets.blocks import count_words, iterate_blocks
from storyzoo.datasets.counts import Counts, joined
from storyzoo.datasets.vocabulary import Reading
from storyzoo.errors import StoryzooError
from tests.datasets.corpora import (
    as_csr,
    as_lda_c,
    as_text,
    as_uci,
    counts_of,
    random_counts,
    same,
    write,
)

pytestmark = pytest.mark.usefixtures("workdir")

WORDS = [f"word{i:02}" for i in range(30)]


def vocabulary(path: str) -> str:
    return write(path, "".join(f"{word}\n" for word in WORDS))


def npz(matrix: Any) -> bytes:
    content = io.BytesIO()
    sparse.save_npz(content, matrix)
    return content.getvalue()


def written(form: str, counts: Counts) -> str:
    """The corpus in a form, with its vocabulary beside or named; what to load."""
    vocabulary("words.txt")
    if form == "uci":
        vocabulary("vocab.toy.txt")
        return write("docword.toy.txt", as_uci(counts))
    if form == "uci.gz":
        vocabulary("vocab.toy.txt")
        return write("docword.toy.txt.gz", gzip.compress(as_uci(counts).encode()))
    if form == "lda-c":
        vocabulary("toy.vocab")
        return write("toy.ldac", as_lda_c(counts))
    if form == "lda-c, odd spaces":
        odd = as_lda_c(counts).replace(" ", "  ").replace("\n", " \r\n")
        return write("toy.dat", odd) + ":format=lda-c,vocabulary=words.txt"
    if form in ("csr", "csc", "coo"):
        matrix = getattr(as_csr(counts), f"to{form}")()
        return write(f"{form}.npz", npz(matrix)) + ":vocabulary=words.txt"
    if form == "floats":
        return write("f.npz", npz(as_csr(counts) * 1.0)) + ":vocabulary=words.txt"
    lines = as_text(counts, WORDS)
    if form == "lines":
        return write("toy.txt", lines)
    if form == "lines.gz":
        return write("toy.txt.gz", gzip.compress(lines.encode(), mtime=0))
    if form == "windows":
        return write("dos.txt", "\ufeff" + lines.replace("\n", "\r\n").removesuffix("\r\n"))
    if form == "folder":
        for number, line in enumerate(lines.splitlines()):
            write(f"texts/{number:03}.txt", line)
        return "texts"
    frame = pd.DataFrame({"body": lines.splitlines(), "topic": "x"})
    if form == "csv":
        frame.to_csv("toy.csv")
        return "toy.csv:text=body,labels=topic"
    frame.to_parquet("toy.parquet")
    return "toy.parquet:text=body"


FORMS = [
    "uci", "uci.gz", "lda-c", "lda-c, odd spaces", "csr", "csc", "coo", "floats",
    "lines", "lines.gz", "windows", "folder", "csv", "parquet",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_every_form_gives_the_same_arrays(form: str, seed: int) -> None:
    counts = random_counts(seed)
    found = load(written(form, counts))
    assert same(counts_of(found), counts)
    assert list(found.coords["word"]) == WORDS
    assert found.table is None and found.reading is not None


@pytest.mark.parametrize("form", [form for form in FORMS if "gz" not in form])
def test_blocks_are_the_whole(form: str) -> None:
    counts = random_counts(1)
    path, _, options = written(form, counts).partition(":")
    given = dict(option.split("=") for option in options.split(",") if option)
    reading = count_words(path, options=given)
    for block in (1, 7, 40, 1000):
        blocks = list(iterate_blocks(path, reading, block, options=given))
        assert {len(b.length) for b in blocks[:-1]} <= {block}
        assert same(joined(blocks, blocks[0].n_words), counts)


@pytest.mark.parametrize("form", ["uci", "lda-c", "lda-c, odd spaces"])
def test_documents_may_cross_the_pieces_that_are_read(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = random_counts(2)
    spec = written(form, counts)
    monkeypatch.setattr("storyzoo.datasets.text.whole_lines.__defaults__", (50,))
    assert same(counts_of(load(spec)), counts)


def test_lines_in_any_order_within_a_document() -> None:
    write("docword.toy.txt", "2\n3\n4\n1 3 5\n1 1 2\n2 2 1\n2 1 7\n")
    found = counts_of(load("docword.toy.txt"))
    assert found.word.tolist() == [0, 2, 0, 1] and found.count.tolist() == [2, 5, 7, 1]
    assert found.length.tolist() == [2, 2]


def test_counts_without_names_have_places() -> None:
    write("toy.ldac", "1 4:2\n2 0:1 1:1\n")
    found = load("toy.ldac")
    assert found.arrays["n_words"] == 5 and "word" not in found.coords
    write("new.ldac", "1 0:3\n")
    assert load("new.ldac", found.reading).arrays["n_words"] == 5
    write("more.ldac", "1 5:3\n")
    with pytest.raises(StoryzooError, match="document 1 has a word in place 6, but"):
        load("more.ldac", found.reading)


def test_counts_may_be_filtered() -> None:
    write("words.txt", "ape\nthe\ncat\ndog\n")
    write("toy.ldac", "3 0:1 1:5 3:1\n2 0:2 1:1\n2 0:1 3:4\n")
    found = load("toy.ldac:vocabulary=words.txt,min_df=2,stop_words=english")
    assert found.coords["word"] == ("ape", "dog")
    assert counts_of(found).count.tolist() == [1, 1, 2, 1, 4]


def test_counts_meet_a_vocabulary_by_name() -> None:
    write("old.txt", "ape bee cat\nape ape dog\n")
    fitted = load("old.txt")
    write("words.txt", "dog\nemu\nape\n")
    write("new.ldac", "3 0:1 1:4 2:2\n")
    found = load("new.ldac:vocabulary=words.txt", fitted.reading)
    assert counts_of(found).word.tolist() == [0, 3] and counts_of(found).count.tolist() == [2, 1]
    assert found.notes == ("new.ldac: 4 of 7 words are not in the vocabulary, and are left out",)


def test_text_can_be_read_by_a_fit_to_counts_that_says_how() -> None:
    write("toy.vocab", "ape\nbee\n")
    write("toy.ldac", "2 0:1 1:1\n")
    write("new.txt", "Bee bee ape\n")
    with pytest.raises(StoryzooError, match="give counts, or fit with tokens=words"):
        load("new.txt", load("toy.ldac").reading)
    assert counts_of(load("new.txt", load("toy.ldac:tokens=words").reading)).count.tolist() == [
        1,
        2,
    ]


# -- documents, names, labels ------------------------------------------------------------------


def test_folders_give_names_and_labels() -> None:
    write("news/sport/a.txt", "ball game")
    write("news/politics/b.txt", "vote vote")
    found = load("news")
    assert found.coords["document"] == ("politics/b.txt", "sport/a.txt")
    assert found.labels is not None and found.labels.tolist() == ["politics", "sport"]
    write("news/c.txt", "neither")
    assert load("news").labels is None


def test_columns_give_names_and_labels() -> None:
    write("a.csv", 'id,topic,body\nx,1,"ball, game"\ny,2,"vote\nvote"\n')
    found = load("a.csv:text=body,labels=topic,names=id")
    assert found.coords["document"] == ("x", "y") and found.coords["word"] == (
        "ball", "game", "vote",
    )  # fmt: skip
    assert found.labels is not None and found.labels.tolist() == ["1", "2"]


def test_empty_documents_may_be_left_out() -> None:
    write("toy.txt", "ape bee\n\na\nbee\n")
    found = load("toy.txt:empty=drop")
    assert found.coords["document"] == ("1", "4") and counts_of(found).length.tolist() == [2, 1]
    assert found.notes == ("toy.txt: 2 without words left out (line 2, line 3)",)
    write("new.txt", "ape\nemu\n")
    again = load("new.txt:empty=drop", found.reading)
    assert again.coords["document"] == ("1",)
    assert again.notes[-1] == "new.txt: 1 without words left out (line 2)"


def test_stop_words_from_a_file() -> None:
    write("stop.txt", "The\nbee\n")
    write("toy.txt", "the ape Bee\ncat\n")
    assert load("toy.txt:stop_words=stop.txt").coords["word"] == ("ape", "cat")


def test_the_fingerprint_sees_words() -> None:
    write("a.txt", "ape bee\n")
    write("b.txt", "ape cat\n")
    assert load("a.txt").sha256 != load("b.txt").sha256
    assert load("a.txt").sha256 == load("a.txt:lowercase=true").sha256


# -- what is wrong -----------------------------------------------------------------------------

LDA_C = "2 0:1 1:1\n"
UCI = "2\n3\n2\n"
BAD: dict[str, list[tuple[str | bytes, str]]] = {
    "toy.txt": [
        ("ape\n\nbee\n", "toy.txt, line 2 is an empty document: remove it"),
        ("ape\n  \t\nbee\n", "toy.txt, line 2 is an empty document"),
        ("ape\na b ;\n", "line 2: the document has no words but stop words or single letters"),
        (b"ape\nbee\nna\xefve\n", "toy.txt, line 3 is not UTF-8: save the file as UTF-8"),
        (b"ape\n\x00\n", "toy.txt, line 2 holds a zero byte"),
        ("", "toy.txt is empty (0 bytes)"),
        ("ape " * 20_000_000, "toy.txt has a line of more than 64 MiB: break it up"),
    ],
    "toy.txt:min_df=2": [
        ("ape bee\nape\ncat\n", "line 3: no word of the document is in the vocabulary (1 words)"),
        ("ape bee\ncat\n", "since min_df=2 leaves out all words (3) in 2 documents: lower it"),
    ],
    "toy.txt:min_df=2.5": [("ape\n", "min_df=2.5 should be a share from 0.0 to 1.0, or a count")],
    "toy.txt:min_df=x": [("ape\n", "min_df='x' should be of type int")],
    "toy.txt:mindf=2": [("ape\n", "no option 'mindf': did you mean 'min_df'?")],
    "toy.txt:empty=keep": [("ape\n", "empty='keep' should be refuse or drop")],
    "toy.txt:format=word": [("ape\n", "format='word': known: lines, folder")],
    "toy.txt:stop_words=none.txt": [("ape\n", "should be english, or a file with a word per line")],
    "toy.txt.gz": [
        (b"no gzip", "toy.txt.gz is truncated or no gzip file"),
        (gzip.compress(b"ape\n" * 999, mtime=0)[:20], "toy.txt.gz is truncated or no gzip file"),
    ],
    "toy.csv:text=body": [
        ("a,body\n1,ape\n2,\n", "toy.csv, row 2 is an empty document"),
        ("a,text\n1,ape\n", "no column 'body': known: a, text"),
        ("a,body\n", "toy.csv has no rows"),
    ],
    "toy.ldac": [
        (LDA_C * 9 + "1 0:-1\n", "toy.ldac, line 10: '-1' should be a whole number, 0 or more"),
        (LDA_C * 9 + "1 0:1.5\n", "toy.ldac, line 10: '1.5' should be a whole number"),
        (LDA_C * 9 + "3 0:1 1:1\n", "toy.ldac, line 10 says it has 3 words, but it has 2"),
        (LDA_C * 9 + "2 0:1 0:1\n", "toy.ldac, line 10: a word stands twice: add its counts up"),
        (LDA_C * 9 + "1 0:0\n", "toy.ldac, line 10: a count is 0: leave it out"),
        (LDA_C * 9 + "1 0 1\n", "toy.ldac, line 10: '0' should be WORD:COUNT"),
        (LDA_C * 9 + "2 1 2:3:4\n", "toy.ldac, line 10: '1' should be WORD:COUNT"),
        (LDA_C * 9 + "0\n", "toy.ldac, document 10 is empty: remove it"),
        (LDA_C * 9 + "\n" + LDA_C, "toy.ldac, document 10 is empty: remove it"),
        (LDA_C + "1 99999999999:1\n", "line 2: a word is beyond place 16,777,215"),
        (LDA_C + f"1 {'9' * 400}:1\n", "line 2: '999999999999999999999999999999' should be a"),
        (LDA_C + f"1 1:{10**15}\n", "line 2: a count is above 1,099,511,627,776: correct it"),
        ("0\n", "toy.ldac holds no counts"),
        (b"\xff\xfe\x00", "line 1 is not UTF-8"),
    ],
    "toy.ldac:vocabulary=words.txt": [(LDA_C + "1 2:1\n", "a word is beyond place 1, the last")],
    "docword.toy.txt": [
        (UCI + "1 1 1\n2 2 0\n", "line 5: the count is 0: leave the entry out"),
        (UCI + "1 1 1\n2 2 -4\n", "line 5: '-4' should be a whole number, 0 or more"),
        (UCI + "1 1 1\n2 2 0.5\n", "line 5: '0.5' should be a whole number, 0 or more"),
        (UCI + "1 1 1\n2 4 1\n", "line 5: the word is none of 3, as the second line says"),
        (UCI + "1 1 1\n3 2 1\n", "line 5: the document is none of 2, as the first line says"),
        (UCI + "1 1 1\n2 0 1\n", "line 5: documents and words are counted from 1"),
        (UCI + "2 1 1\n1 2 1\n", "line 5: the document comes after a later one: sort the lines"),
        (UCI + "1 1 1\n1 1 1\n", "document 1 has word 1 twice: add the counts up"),
        (UCI + "1 1 1\n1 2\n", "line 5 has 2 numbers, not three"),
        (UCI + "1 1 1\n", "says it has 2 entries, but it has 1: it is truncated"),
        (UCI + "1 1 1\n1 2 1\n", "docword.toy.txt, document 2 is empty"),
        ("9\n9\n", "docword.toy.txt ends before its third line"),
        ("some text\n", "line 1: 'some text' should be a number: the first three lines say"),
        (f"{10**12}\n3\n1\n1 1 1\n", "and at most 67,108,864 and 16,777,216 are read"),
    ],
}


@pytest.mark.parametrize(
    ("spec", "content", "said"), [(spec, *case) for spec, cases in BAD.items() for case in cases]
)
def test_bad_files_are_refused_in_one_line(spec: str, content: str | bytes, said: str) -> None:
    write("words.txt", "ape\nbee\n")
    write(spec.partition(":")[0], content)
    with pytest.raises(StoryzooError) as caught:
        load(spec)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 240


def test_a_document_of_unknown_words_is_named() -> None:
    write("old.txt", "ape bee\n")
    write("new.txt", "bee\nemu fox\n")
    said = "new.txt, line 2: no word of the document is among the 2 of the vocabulary: remove it"
    with pytest.raises(StoryzooError, match=said):
        load("new.txt", load("old.txt").reading)


def test_bad_files_of_a_folder_are_named() -> None:
    write("texts/a.txt", "ape")
    write("texts/b.txt", b"\xff")
    with pytest.raises(StoryzooError, match=r"b\.txt, line 1 is not UTF-8"):
        load("texts")
    write("texts/b.txt", " ")
    with pytest.raises(StoryzooError, match=r"texts, file 'b\.txt' is an empty document"):
        load("texts")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ape\n\n", "words.txt, line 2 is empty"),
        ("ape\nbee\nape\n", "words.txt, line 3: 'ape' stands on line 1 too"),
        ("ape\n", "toy.npz has 3 words, but its vocabulary names 1"),
    ],
)
def test_bad_vocabularies_are_refused(words: str, said: str) -> None:
    write("words.txt", words)
    write("toy.npz", npz(sparse.csr_array([[1, 0, 2]])))
    with pytest.raises(StoryzooError) as caught:
        load("toy.npz:vocabulary=words.txt")
    assert said in str(caught.value)


def arrays(**content: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **content)
    return file.getvalue()


CSR: dict[str, Any] = {
    "format": "csr",
    "shape": [2, 3],
    "data": [1, 2],
    "indices": [0, 2],
    "indptr": [0, 1, 2],
}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npz(sparse.csr_array([[1, 0.5]])), "document 1, word 2: the count 0.5 should be a whole"),
        (npz(sparse.csr_array([[1], [-2]])), "document 2, word 1: the count -2 should be a whole"),
        (npz(sparse.csr_array([[1.0, np.nan]])), "word 2: the count nan should be a whole"),
        (npz(sparse.csr_array([[1], [0]])), "document 2 is empty"),
        (npz(sparse.csr_array((3, 4))), "holds no counts"),
        (npz(sparse.csr_array([[1, 2]]))[:200], "can't be read as NPZ (truncated"),
        (npz(sparse.dia_array(np.eye(3))), "a sparse matrix of format 'dia': save it as csr"),
        (arrays(**(CSR | {"indices": [0, 9]})), "is no sound sparse matrix"),
        (arrays(**(CSR | {"indptr": [0, 5, 2]})), "is no sound sparse matrix"),
        (arrays(**(CSR | {"shape": [2, 10**12]})), "give documents by words, at most"),
        (arrays(**(CSR | {"shape": [2]})), "has shape [2]: give documents by words"),
        (arrays(**(CSR | {"shape": ["a", "b"]})), "has shape []: give documents by words"),
        (arrays(**(CSR | {"format": [1, 2]})), "a sparse matrix of format '[1, 2]': save it"),
        (arrays(**(CSR | {"data": [1e300, 2]})), "word 1: the count 1e+300 should be a whole"),
        (arrays(**(CSR | {"data": ["a", "b"]})), "holds <U1: give whole numbers"),
        (arrays(**{k: v for k, v in CSR.items() if k != "indptr"}), "no array 'indptr'"),
        (arrays(**(CSR | {"data": np.array([{}, None])})), "which is never unpickled"),
    ],
)
def test_bad_matrices_are_refused(content: bytes, said: str) -> None:
    write("toy.npz", content)
    with pytest.raises(StoryzooError) as caught:
        load("toy.npz")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_one_bad_line_among_many_is_found_fast() -> None:
    n = 200_000
    lines = ["ape bee cat"] * n
    lines[n // 2] = ""
    write("toy.txt", "\n".join(lines))
    begun = time.process_time()
    with pytest.raises(StoryzooError, match=f"toy.txt, line {n // 2 + 1} is an empty document"):
        load("toy.txt")
    entries = ["2 0:1 1:3"] * n
    entries[n - 2] = "2 0:1 1:3.5"
    write("toy.ldac", "\n".join(entries))
    with pytest.raises(StoryzooError, match=f"toy.ldac, line {n - 1}: '3.5' should be a whole"):
        load("toy.ldac")
    assert time.process_time() - begun < 10


def test_blocks_name_an_empty_line_and_keep_unknown_documents() -> None:
    write("old.txt", "ape bee\n")
    reading = count_words("old.txt")
    write("new.txt", "emu\nape\n")
    assert [b.length.tolist() for b in iterate_blocks("new.txt", reading)] == [[0, 1]]
    write("new.txt", "emu\nape\n\n")
    with pytest.raises(StoryzooError, match=r"new\.txt, line 3 is an empty document"):
        list(iterate_blocks("new.txt", reading))
    with pytest.raises(StoryzooError, match=r"no file 'none\.txt'"):
        count_words("none.txt")


def test_a_vocabulary_may_be_given() -> None:
    write("new.txt", "ape bee ape\nemu bee\n")
    blocks = list(iterate_blocks("new.txt", Reading(vocabulary=("bee", "ape"), n_words=2)))
    assert blocks[0].word.tolist() == [0, 1, 0] and blocks[0].count.tolist() == [1, 2, 1]


def test_a_missing_file_names_the_nearest(workdir: Path) -> None:
    write("news.txt", "ape\n")
    with pytest.raises(StoryzooError, match=r"no file 'new\.txt': did you mean 'news\.txt'"):
        load("new.txt")
