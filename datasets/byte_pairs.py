"""Byte-pair encoding: the bytes of text, and the pairs that were joined most, as tokens.

Sennrich, Haddow and Birch (2016), over bytes as in GPT-2, so that no text is unknown. The package
``tokenizers`` learns the pairs and cuts text; a run keeps the pairs, as plain JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

from storyzoo.datasets.codecs import TextCodec
from storyzoo.errors import DataError, SettingError

DEFAULT_SIZE = 1024
"""Tokens, the 256 bytes among them, where no size is asked for."""

_ESCAPED = re.compile("([\udc80-\udcff])")
"""A byte that is no UTF-8, as Python escapes it."""


@dataclass(frozen=True)
class BytePairs(TextCodec):
    """Runs of bytes that stand together often, a token each.

    Token 0 to 255 are the bytes in the order of their value, the others are what the pairs make.
    """

    pairs: tuple[tuple[int, int], ...]
    """Pairs of tokens in the order in which they are joined; the n-th makes token 256 + n."""
    by: str = "document"
    kind: ClassVar[str] = "bpe"

    @property
    def n_tokens(self) -> int:
        """Bytes and pairs."""
        return 256 + len(self.pairs)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The text of each token, U+FFFD where it is but a part of a character."""
        return tuple(content.decode("utf-8", "replace") for content in self._content)

    @classmethod
    def learn(cls, texts: Iterable[str], most: int = 0, by: str = "document") -> Self:
        """The pairs that stand together most, joined one after another."""
        size = most or DEFAULT_SIZE
        if size < 257:
            raise SettingError(f"symbols={size}: bpe needs more than the 256 bytes: ask for 257")
        module = _tokenizers()
        model = module.Tokenizer(module.models.BPE())
        model.pre_tokenizer = _by_words(module)
        trainer = module.trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=list(_SHOWN), show_progress=False
        )
        model.train_from_iterator((_ESCAPED.sub("", text) for text in texts), trainer)
        place = {shown: byte for byte, shown in enumerate(_SHOWN)}
        pairs: list[tuple[int, int]] = []
        for left, right in json.loads(model.to_str())["model"]["merges"]:
            if left + right not in place:
                place[left + right] = 256 + len(pairs)
                pairs.append((place[left], place[right]))
        return cls(tuple(pairs), by)

    def encode(self, text: str) -> list[int]:
        """The tokens; a byte that is no UTF-8 is a token of its own."""
        parts = _ESCAPED.split(text)
        tokens: list[int] = []
        for place, part in enumerate(parts):
            if place % 2:
                tokens += part.encode("utf-8", "surrogateescape")
            elif part:
                tokens += self._model.encode(part).ids
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Bytes that are no UTF-8 become surrogate escapes."""
        content = b"".join(self._content[token] for token in tokens)
        return content.decode("utf-8", "surrogateescape")

    @cached_property
    def _content(self) -> list[bytes]:
        """The bytes of each token."""
        found = [bytes([byte]) for byte in range(256)]
        for left, right in self.pairs:
            found.append(found[left] + found[right])
        return found

    @cached_property
    def _model(self) -> Any:
        module = _tokenizers()
        shown = ["".join(_SHOWN[byte] for byte in content) for content in self._content]
        vocabulary = {text: place for place, text in enumerate(shown)}
        merges = [(shown[left], shown[right]) for left, right in self.pairs]
        model = module.Tokenizer(module.models.BPE(vocabulary, merges))
        model.pre_tokenizer = _by_words(module)
        return model

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Each pair joins tokens that stand before it."""
        codec = super().from_values(values)
        for place, (left, right) in enumerate(codec.pairs):
            if not (0 <= left < 256 + place and 0 <= right < 256 + place):
                raise ValueError(f"pair {place + 1} joins no tokens")
        if len(set(codec._content)) != codec.n_tokens:
            raise ValueError("a token stands twice")
        return codec


def _by_words(module: Any) -> Any:
    """Text is cut into words with the space before them, and no pair reaches across."""
    return module.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _shown_bytes() -> tuple[str, ...]:
    """A printable character for each byte: its own in Latin-1, or one from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


_SHOWN = _shown_bytes()


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise DataError(
            "codec=bpe needs the package tokenizers: pip install 'storyzoo[text]', or take "
            "codec=characters"
        ) from error
    return tokenizers
