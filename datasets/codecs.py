"""From symbols to tokens and back: the codecs of text, and what every codec is.

A token is a whole number from 0; a sequence is tokens (T,) without END, which the story adds. A
codec is a frozen value that is stored as plain JSON with a run, so that new data become tokens in
the same way. Decoding inverts encoding exactly. A codec of its own kind of data lives in a file of
its own: ``byte_pairs.py`` (text), ``raster.py`` (images), ``adjacency.py`` (graphs).
"""

from __future__ import annotations

import importlib
import re
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from storyzoo.datasets.gaps import GAP
from storyzoo.errors import DataError, SettingError, nearest

MISSING = -1
"""What stands in a sequence where a token is not known."""

MAX_TOKENS = 2**20
"""More different tokens than these, a million, are refused: a story gives each a probability."""

ESCAPE = "\N{SYMBOL FOR ESCAPE}"
"""How the escape token is shown."""

CODECS = {
    "characters": "storyzoo.datasets.codecs:Characters",
    "bytes": "storyzoo.datasets.codecs:Bytes",
    "words": "storyzoo.datasets.codecs:Words",
    "bpe": "storyzoo.datasets.byte_pairs:BytePairs",
    "raster": "storyzoo.datasets.raster:Raster",
    "graph": "storyzoo.datasets.adjacency:Adjacency",
}
"""Kind -> where its class is."""

TEXT = ("characters", "bytes", "words", "bpe")
"""Those of text."""


@dataclass(frozen=True)
class Codec(ABC):
    """How data of one kind become tokens."""

    kind: ClassVar[str] = ""

    @property
    @abstractmethod
    def n_tokens(self) -> int:
        """How many different tokens there are, END not among them."""

    @property
    @abstractmethod
    def symbols(self) -> tuple[str, ...]:
        """What each token stands for, to be shown."""

    @property
    def remark(self) -> str:
        """What who reads a score of such sequences should know."""
        return ""

    def as_record(self) -> dict[str, Any]:
        """Plain values, as ``fit.json`` keeps them."""
        return {"kind": self.kind, **asdict(self)}

    def arrays(self, sequences: Sequence[Sequence[int] | np.ndarray]) -> dict[str, Any]:
        """Tokens of sequences end to end, and how long each is: what a story of tokens takes."""
        tokens = [np.asarray(sequence, np.int64) for sequence in sequences]
        return {
            "token": np.concatenate(tokens),
            "length": np.array([len(found) for found in tokens], np.int64),
            "n_tokens": self.n_tokens,
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """The codec of what :meth:`as_record` gave, the kind taken off."""
        if set(values) != {field.name for field in fields(cls)}:
            raise ValueError(f"it holds {', '.join(values)}")
        return cls(**{key: _frozen(value) for key, value in values.items()})


def from_record(record: Mapping[str, Any]) -> Codec:
    """What :meth:`Codec.as_record` gave. DataError where it holds anything else."""
    try:
        values = dict(record)
        codec: Codec = _class_of(values.pop("kind")).from_values(values)
    except (TypeError, KeyError, ValueError, AttributeError, SettingError) as error:
        raise DataError(f"the run's codec is damaged ({error}): fit again") from error
    return codec


def codec_class(name: str, kind: str, known: Sequence[str] = TEXT) -> type[Any]:
    """The class of a codec by its name in an option of the data called ``name``."""
    if kind not in known:
        raise SettingError(f"data {name!r}: codec={kind!r}: {nearest(kind, known)}")
    return _class_of(kind)


def _class_of(kind: str) -> type[Any]:
    module, _, name = CODECS[kind].partition(":")
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def _frozen(value: Any) -> Any:
    """Lists of JSON as tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


# -- text --------------------------------------------------------------------------------------


BETWEEN = {"line": "\n", "paragraph": "\n\n", "document": ""}
"""What a sequence is -> what stands between two of a document."""


def cut(document: str, by: str) -> list[str]:
    """The texts of the sequences of a document; ``BETWEEN[by].join`` undoes it."""
    if by not in BETWEEN:
        raise SettingError(f"by={by!r}: {nearest(by, BETWEEN)}")
    return document.split(BETWEEN[by]) if BETWEEN[by] else [document]


class TextCodec(Codec):
    """A codec of strings. Of bytes that are no UTF-8, Python's surrogate escapes are encoded."""

    by: str
    """What a sequence is, a key of :data:`BETWEEN`."""

    def __post_init__(self) -> None:
        if self.by not in BETWEEN:
            raise SettingError(f"by={self.by!r}: {nearest(self.by, BETWEEN)}")

    def cut(self, document: str) -> list[str]:
        """The texts of the sequences of a document."""
        return cut(document, self.by)

    def joined(self, texts: Iterable[str]) -> str:
        """The document of such texts: what :meth:`cut` undoes."""
        return BETWEEN[self.by].join(texts)

    @classmethod
    @abstractmethod
    def learn(cls, texts: Iterable[str], most: int = 0, by: str = "document") -> Self:
        """The codec for texts like these, of at most so many symbols where ``most`` is not 0."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; what no text encodes to gives U+FFFD."""

    def encode_with_gaps(self, text: str) -> list[int]:
        """The tokens of a text in which each :data:`~storyzoo.datasets.gaps.GAP` is one missing.

        >>> Bytes().encode_with_gaps("a[?]c")
        [97, -1, 99]
        """
        tokens: list[int] = []
        for place, part in enumerate(text.split(GAP)):
            tokens += [MISSING] * (place > 0) + self.encode(part)
        return tokens

    @property
    def marks(self) -> tuple[int, ...]:
        """Tokens that are no text by themselves: what is missing is none of them."""
        return ()

    def spans(self, tokens: Sequence[int]) -> list[int]:
        """How many tokens stand for one piece of text each, one after another."""
        return [1] * len(tokens)

    def unknown(self, texts: Iterable[str]) -> Counter[str]:
        """Symbols that have no token of their own and are spelt out, and how often they stand."""
        return Counter()


@dataclass(frozen=True)
class Bytes(TextCodec):
    """UTF-8, a byte a token: no symbol is ever unknown.

    >>> Bytes().encode("né")
    [110, 195, 169]
    """

    by: str = "document"
    kind: ClassVar[str] = "bytes"

    @property
    def n_tokens(self) -> int:
        """256."""
        return 256

    @property
    def symbols(self) -> tuple[str, ...]:
        """ASCII as it is, the rest in hexadecimal."""
        return tuple(chr(b) if 32 <= b < 127 else f"0x{b:02x}" for b in range(256))

    @classmethod
    def learn(cls, texts: Iterable[str], most: int = 0, by: str = "document") -> Self:
        """There is nothing to learn."""
        if most:
            raise SettingError("bytes are always 256 symbols: leave symbols= out")
        return cls(by)

    def encode(self, text: str) -> list[int]:
        """The bytes."""
        return list(text.encode("utf-8", "surrogateescape"))

    def decode(self, tokens: Sequence[int]) -> str:
        """Bytes that are no UTF-8 become surrogate escapes, which encode to the same bytes."""
        return bytes(tokens).decode("utf-8", "surrogateescape")


class Spelling(TextCodec):
    """Known pieces of text are tokens; every other character is spelt out after an escape.

    The escape is the last token, ``B - 1`` of ``B``. After it the character's code point is written
    in base ``B`` with as many digits as the largest code point needs, each digit being a token. So
    any text has tokens, and tokens of a text are read back as that text.
    """

    known: tuple[str, ...]

    @property
    def n_tokens(self) -> int:
        """The known pieces and the escape."""
        return len(self.known) + 1

    @property
    def symbols(self) -> tuple[str, ...]:
        """The known pieces and the escape."""
        return (*self.known, ESCAPE)

    @staticmethod
    @abstractmethod
    def pieces(text: str) -> Sequence[str]:
        """What a text is cut into; joined they are the text."""

    @classmethod
    def learn(cls, texts: Iterable[str], most: int = 0, by: str = "document") -> Self:
        """All pieces, or those used most; of equal ones the first in the alphabet."""
        uses: Counter[str] = Counter()
        for text in texts:
            uses.update(cls.pieces(text))
        if not uses:
            raise DataError("there is nothing in it but empty sequences: give some text")
        kept = sorted(uses, key=lambda piece: (-uses[piece], piece))[: most or None]
        if len(kept) >= MAX_TOKENS:
            raise DataError(
                f"it has {len(kept):,} different symbols: keep those used most, with symbols=10000"
            )
        return cls(tuple(sorted(kept)), by)  # type: ignore[call-arg]  # a subclass is a dataclass

    @property
    def marks(self) -> tuple[int, ...]:
        """The escape."""
        return (self.n_tokens - 1,)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {piece: place for place, piece in enumerate(self.known)}

    @cached_property
    def _digits(self) -> int:
        """How many digits a code point has."""
        count = 1
        while self.n_tokens**count <= sys.maxunicode:
            count += 1
        return count

    def encode(self, text: str) -> list[int]:
        """Known pieces by their place, others by character."""
        tokens: list[int] = []
        for piece in self.pieces(text):
            place = self._place.get(piece)
            if place is None:
                for character in piece:
                    tokens += self._spelt(character)
            else:
                tokens.append(place)
        return tokens

    def _spelt(self, character: str) -> list[int]:
        if character in self._place:
            return [self._place[character]]
        code, digits = ord(character), []
        for _ in range(self._digits):
            code, digit = divmod(code, self.n_tokens)
            digits.append(digit)
        return [self.n_tokens - 1, *reversed(digits)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text; an escape that is cut short, or of no code point, gives U+FFFD."""
        shown, read = [], iter(tokens)
        for token in read:
            if token < len(self.known):
                shown.append(self.known[token])
                continue
            digits = [digit for _, digit in zip(range(self._digits), read, strict=False)]
            code = 0
            for digit in digits:
                code = code * self.n_tokens + digit
            whole = len(digits) == self._digits and code <= sys.maxunicode
            shown.append(chr(code) if whole else "\ufffd")
        return "".join(shown)

    def spans(self, tokens: Sequence[int]) -> list[int]:
        """One, or an escape with its digits."""
        found, place = [], 0
        while place < len(tokens):
            size = 1 if tokens[place] < len(self.known) else 1 + self._digits
            found.append(min(size, len(tokens) - place))
            place += size
        return found

    def unknown(self, texts: Iterable[str]) -> Counter[str]:
        """Pieces that are spelt out."""
        return Counter(
            piece for text in texts for piece in self.pieces(text) if piece not in self._place
        )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Known pieces are different strings, none of them empty."""
        codec = super().from_values(values)
        known = codec.known
        if not all(isinstance(piece, str) and piece for piece in known) or not known:
            raise ValueError("a symbol is no text")
        if len(set(known)) != len(known):
            raise ValueError("a symbol stands twice")
        return codec


@dataclass(frozen=True)
class Characters(Spelling):
    """A character a token: those that were seen, and an escape for the rest.

    >>> Characters.learn(["abba"], 0).encode("ab")
    [0, 1]
    """

    known: tuple[str, ...]
    by: str = "document"
    kind: ClassVar[str] = "characters"

    @staticmethod
    def pieces(text: str) -> Sequence[str]:
        """The characters."""
        return text


@dataclass(frozen=True)
class Words(Spelling):
    """A word, or a character between words, a token; unknown words are spelt out.

    A word is an unbroken run of letters, digits and underscores.
    """

    known: tuple[str, ...]
    by: str = "document"
    kind: ClassVar[str] = "words"

    @staticmethod
    def pieces(text: str) -> Sequence[str]:
        r"""Runs of ``\w``, and single characters between them."""
        return re.findall(r"\w+|\W", text)
