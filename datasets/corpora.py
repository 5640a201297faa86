"""Named corpora: real prose, read by the same options as the user's own text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from storyzoo.datasets.codecs import Codec, TextCodec
from storyzoo.datasets.corpus import drops_empty, read_reading
from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.remote import fetch
from storyzoo.datasets.selection import READING
from storyzoo.datasets.sequences import Coding, as_sequences
from storyzoo.datasets.text import Texts, as_counts, of_strings, read_lines
from storyzoo.datasets.vocabulary import Reading
from storyzoo.errors import DataError

SHORTEST = 10
"""Sections of Python's manual with fewer words are left out: a heading, a line of code."""


def python_docs(
    way: Reading | Codec | None = None,
    /,
    *,
    tokens: str = "words",
    lowercase: bool = True,
    stop_words: str = "english",
    min_df: str = "1",
    max_df: str = "1.0",
    max_words: int = 0,
    empty: str = "refuse",
    codec: str = "",
    by: str = "document",
    symbols: int = 0,
) -> Dataset:
    """Sections of the language reference that Python carries; the topic is the label.

    Without a list of stop words, half of the words are "the" and its like, and so are the topics.
    """
    from pydoc_data.topics import topics

    found = list(sections(topics))
    texts = of_strings("python-docs", [section.text for section in found])
    names = tuple(f"{section.title} ({section.topic})" for section in found)
    labels = pd.Series([section.topic for section in found], name="topic")
    settings = {"tokens": tokens, "lowercase": lowercase, "stop_words": stop_words}
    settings |= {"min_df": min_df, "max_df": max_df, "max_words": max_words}
    texts = Texts(texts.name, texts.blocks, "section", names, labels)
    coding = Coding(codec, by, symbols)
    return _as_dataset(texts, way, settings, empty, coding)


def bbc_news(
    way: Reading | Codec | None = None,
    /,
    *,
    tokens: str = "spaces",
    lowercase: bool = False,
    stop_words: str = "",
    min_df: str = "1",
    max_df: str = "1.0",
    max_words: int = 0,
    empty: str = "refuse",
    codec: str = "",
    by: str = "document",
    symbols: int = 0,
) -> Dataset:
    """2,225 articles of the BBC, already in words, with their split and five sections as labels."""
    path = fetch("bbc-news/corpus.tsv")
    rows = [line.split("\t") for lines in read_lines(path) for line in lines]
    if any(len(row) != 3 for row in rows):
        raise DataError(f"{path} is not the corpus: fetch it again")
    words, part, labels = zip(*rows, strict=True)
    settings = {"tokens": tokens, "lowercase": lowercase, "stop_words": stop_words}
    settings |= {"min_df": min_df, "max_df": max_df, "max_words": max_words}
    texts = Texts(
        "bbc-news",
        of_strings("bbc-news", words).blocks,
        labels=pd.Series(labels, name="section"),
        validation_rows=np.flatnonzero(np.array(part) == "val"),
        test_rows=np.flatnonzero(np.array(part) == "test"),
    )
    coding = Coding(codec, by, symbols)
    return _as_dataset(texts, way, settings, empty, coding)


def _as_dataset(
    texts: Texts,
    way: Reading | Codec | None,
    settings: Mapping[str, object],
    empty: str,
    coding: Coding,
) -> Dataset:
    """Counts of words; or sequences where a codec is asked for, or was by the fit."""
    if isinstance(way, TextCodec):
        return as_sequences(texts, way)
    if coding.kind:
        return as_sequences(texts, coding)
    options = {key: str(value) for key, value in settings.items()}
    reading = way if isinstance(way, Reading) else None
    wanted = reading or read_reading(texts.name, options, READING)
    return as_counts(texts, wanted, drops_empty(texts.name, {"empty": empty}))


class Section(NamedTuple):
    """A heading of the manual, and what stands below it up to the next."""

    topic: str
    title: str
    text: str


_HEADING = re.compile(r"^(?P<title>\S[^\n]*)\n(?P<rule>([*=\-~^\"#])\3+)$", re.MULTILINE)


def sections(topics: Mapping[str, str]) -> Iterator[Section]:
    """Topics cut at their underlined headings, in alphabetical order of topic.

    Topics overlap: what ``with`` says stands in ``compound`` too. Each section is taken once, under
    the shortest topic that holds it.
    """
    found: dict[str, Section] = {}
    for topic in sorted(topics, key=lambda topic: (len(topics[topic]), topic)):
        text = topics[topic]
        heads = [h for h in _HEADING.finditer(text) if len(h["rule"]) == len(h["title"])]
        ends = [head.start() for head in heads[1:]] + [len(text)]
        for head, end in zip(heads, ends, strict=True):
            body = text[head.end() : end].strip()
            if len(re.findall(r"\b\w\w+\b", body)) >= SHORTEST:
                found.setdefault(body, Section(topic, head["title"], body))
    return iter(sorted(found.values(), key=lambda section: section.topic))
