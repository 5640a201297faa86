"""Files compressed by a fit, without loss: a story that foretells well says much in few bits.

A compressed file is a header and a payload. The header holds what the file was and by which model
it was coded, so that a wrong model, a damaged or a shortened file is told before anything is
written; see :class:`Header`. The payload is that of ``inference/engine/coding.py``: at most a
hundredth above the bits that the content is scored by, and some bytes.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from storyzoo.contents import Content, content_of
from storyzoo.errors import DataError, RefusedError
from storyzoo.fit import Fit, describe_story
from storyzoo.folder import plain
from storyzoo.inference.engine import coding
from storyzoo.inference.engine.progress import Progress

MAGIC = b"zoo\x00"
FORMAT = 1
DIGITS = 21
"""Bytes that the length of a sequence takes at most, with the comma and space behind it."""
MOST_TOKENS = 22
"""Tokens that a byte becomes at most: an escape and a code point in 21 binary digits."""
DRAWS = 8
"""Draws of the posterior that foretell together; each takes as long as one alone."""

_FIXED = struct.Struct("<4sBBHIQQQ16s16sII")


class Header(NamedTuple):
    """What stands before the payload, and a checksum of it all behind."""

    codec: str
    """Kind of the codec; ``table`` where there is none."""
    draws: int
    """Draws that foretold together."""
    sequences: int
    """How many sequences the content was cut into."""
    steps: int
    """Tokens of them all, without END."""
    original: int
    """Bytes of the content."""
    payload: int
    """Bytes of what follows."""
    model: bytes
    """Half of the SHA-256 of the story's fields, its draws and the codec."""
    content: bytes
    """Half of the SHA-256 of the content."""
    checksum: int
    """CRC-32 of the payload."""
    lengths: tuple[int, ...]
    """Of the sequences, where the story does not tell their ends."""

    def packed(self) -> bytes:
        """As bytes."""
        name, lengths = self.codec.encode(), zlib.compress(json.dumps(self.lengths).encode())
        told = b"" if not self.lengths else lengths
        fixed = _FIXED.pack(
            MAGIC, FORMAT, len(name), self.draws, self.sequences, self.steps, self.original,
            self.payload, self.model, self.content, self.checksum, len(told),
        )  # fmt: skip
        head = fixed + name + told
        return head + struct.pack("<I", zlib.crc32(head))


def read(name: str, content: bytes) -> tuple[Header, bytes]:
    """Header and payload of a compressed file; DataError where it is none, or not as written."""
    if content[:4] != MAGIC[: len(content)] or not content:
        raise DataError(f"{name} was not written by zoo compress: give a file that was")
    if len(content) < _FIXED.size:
        raise DataError(_cut_short(name, len(content), _FIXED.size))
    (
        _, form, size, draws, sequences, steps, original, payload, model, digest, checksum, told,
    ) = _FIXED.unpack(content[: _FIXED.size])  # fmt: skip
    if form != FORMAT:
        raise DataError(
            f"{name} is of format {form}, and this version reads format {FORMAT}: use the storyzoo "
            "that wrote it"
        )
    end = _FIXED.size + size + told
    if len(content) < end + 4:
        raise DataError(_cut_short(name, len(content), end + 4))
    if zlib.crc32(content[:end]) != struct.unpack("<I", content[end : end + 4])[0]:
        raise DataError(f"{name} is damaged (its header's checksum is wrong): copy it again")
    body = content[end + 4 :]
    if len(body) < payload:
        raise DataError(_cut_short(name, len(content), end + 4 + payload))
    if len(body) > payload or zlib.crc32(body) != checksum:
        raise DataError(f"{name} is damaged (its checksum is wrong): copy it again")
    kind = content[_FIXED.size : _FIXED.size + size].decode(errors="replace")
    lengths = _lengths(content[end - told : end], sequences) if told else ()
    possible = draws > 0 and sequences <= original + 1 and steps <= MOST_TOKENS * original
    if not possible or lengths is None or (told and sum(lengths) != steps):
        raise DataError(f"{name} is damaged (its header tells of what can't be): copy it again")
    head = Header(
        kind, draws, sequences, steps, original, payload, model, digest, checksum, lengths
    )
    return head, body


def _lengths(packed: bytes, sequences: int) -> tuple[int, ...] | None:
    """Of the sequences, None where they are none; no more is unpacked than so many numbers take."""
    try:
        told = zlib.decompressobj().decompress(packed, DIGITS * sequences + 2)
        lengths = tuple(map(int, json.loads(told)))
    except (zlib.error, ValueError, TypeError, OverflowError, RecursionError):
        return None
    return lengths if len(lengths) == sequences and all(n >= 0 for n in lengths) else None


def _cut_short(name: str, size: int, wanted: int) -> str:
    return f"{name} is cut short ({size:,} of at least {wanted:,} bytes): copy it again"


@dataclass(frozen=True)
class Compressor:
    """A fit as a codec of files."""

    fit: Fit
    draws: int = DRAWS
    progress: bool = True

    def compress(self, name: str, content: bytes) -> bytes:
        """The content of a file, compressed. DataError where the fit's codec can't take it."""
        form = self._content()
        if not content:
            raise DataError(f"{name} is empty (0 bytes): there is nothing to compress")
        sequences = form.encode(name, content)
        latents, end = self.fit.latents(self.draws), self._end()
        steps = sum(map(len, sequences))
        bar = self._bar("compress", steps)
        try:
            payload = coding.encode(self.fit.story, latents, sequences, end, bar)
        finally:
            bar.close()
        head = Header(
            codec=self._kind(),
            draws=len(next(iter(latents.values()))),
            sequences=len(sequences),
            steps=steps,
            original=len(content),
            payload=len(payload),
            model=self._model(latents),
            content=_half(content),
            checksum=zlib.crc32(payload),
            lengths=() if end is not None else tuple(map(len, sequences)),
        )
        return head.packed() + payload

    def decompress(self, name: str, content: bytes) -> bytes:
        """What :meth:`compress` was given. DataError where that can't be had back."""
        form = self._content()
        head, payload = read(name, content)
        latents = self.fit.latents(head.draws)
        if self._model(latents) != head.model:
            raise DataError(
                f"{name} was compressed by another fit ({head.codec}) than "
                f"{self.fit.folder or 'this'}: name the folder of that run"
            )
        if len(head.lengths) != (head.sequences if self._end() is None else 0):
            raise DataError(f"{name} is damaged (of other sequences than the fit's): copy it again")
        bar = self._bar("decompress", head.steps)
        try:
            found = coding.decode(
                self.fit.story,
                latents,
                payload,
                coding.Extent(head.sequences, head.steps, head.lengths or None),
                self._end(),
                bar,
            )
            original = form.decode(found)
        except (coding.OtherSymbolsError, ValueError):  # of which UnicodeError is one
            original = b""
        finally:
            bar.close()
        if len(original) != head.original or _half(original) != head.content:
            raise DataError(
                f"{name} can't be decompressed here, since this machine or version of torch rounds "
                "in another way: decompress it where it was compressed"
            )
        return original

    # -- the model ---------------------------------------------------------------------------

    def _content(self) -> Content:
        """What files hold; RefusedError where the fit can't tell them."""
        if not self.fit.story.has("step"):
            raise RefusedError(
                f"{self.fit.story.name} can't compress: it does not tell sequences step by step; "
                "fit sequence or ngram"
            )
        return content_of(self.fit)

    def _end(self) -> int | None:
        return self.fit.story.ends(self.fit.target.data)

    def _kind(self) -> str:
        codec = self.fit.codec
        return "table" if codec is None else codec.kind

    def _model(self, latents: Mapping[str, np.ndarray]) -> bytes:
        """Half of a SHA-256 of all that the probabilities depend on."""
        codec = self.fit.codec
        told = [describe_story(self.fit.story), None if codec is None else codec.as_record()]
        digest = hashlib.sha256(json.dumps(plain(told), sort_keys=True).encode())
        for name in sorted(latents):
            value = np.ascontiguousarray(latents[name])
            digest.update(f"{name}\0{value.dtype.str}{value.shape}\0".encode())
            digest.update(value.data)
        return digest.digest()[:16]

    def _bar(self, label: str, total: int | None) -> Progress:
        bar = Progress(label, quiet=not self.progress)
        bar.start(total)
        return bar


def _half(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:16]
