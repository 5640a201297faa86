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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from storyzoo.datasets.codecs import TextCodec
from storyzoo.datasets.raster import Raster
from storyzoo.errors import DataError, RefusedError
from storyzoo.fit import Fit, describe_story
from storyzoo.folder import plain
from storyzoo.inference.engine import coding
from storyzoo.inference.engine.progress import Progress

MAGIC = b"zoo\x00"
FORMAT = 1
DIGITS = 21
"""Bytes that the length of a sequence takes at most, with the comma and space behind it."""
DRAWS = 8
"""Draws of the posterior that foretell together; each takes as long as one alone."""

_FIXED = struct.Struct("<4sBBHIQQQ16s16sII")


class Header(NamedTuple):
    """What stands before the payload, and a checksum of it all behind."""

    codec: str
    """Kind of the codec."""
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
    kind = content[_FIXED.size : _FIXED.size + size].decode()
    lengths = _lengths(content[end - told : end], sequences) if told else ()
    head = Header(
        kind, draws, sequences, steps, original, payload, model, digest, checksum, tuple(lengths)
    )
    return head, body


def _lengths(packed: bytes, sequences: int) -> list[int]:
    """Of the sequences; no more is unpacked than so many numbers take."""
    told = zlib.decompressobj().decompress(packed, DIGITS * sequences + 2)
    return [int(length) for length in json.loads(told)]


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
        self._check()
        if not content:
            raise DataError(f"{name} is empty (0 bytes): there is nothing to compress")
        sequences = self._encode(name, content)
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
        self._check()
        head, payload = read(name, content)
        latents = self.fit.latents(head.draws)
        if self._model(latents) != head.model:
            raise DataError(
                f"{name} was compressed by another fit ({head.codec}) than "
                f"{self.fit.folder or 'this'}: name the folder of that run"
            )
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
            original = self._decode([sequence[:, 0] for sequence in found])
        except (coding.OtherSymbolsError, UnicodeError):
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

    def _check(self) -> None:
        story, codec = self.fit.story, self.fit.codec
        if not story.has("step"):
            raise RefusedError(
                f"{story.name} can't compress: it does not tell sequences step by step; fit "
                "sequence or ngram"
            )
        if not isinstance(codec, TextCodec | Raster):
            raise RefusedError(
                f"{story.name} on {self.fit.data_name} compresses no files: fit it to text with "
                "codec=characters, or to images with codec=raster"
            )
        if isinstance(codec, Raster) and codec.levels != codec.high - codec.low + 1:
            raise RefusedError(
                f"{self.fit.data_name} has fewer levels than pixels have values, so that images "
                "can't be given back: fit with codec=raster alone"
            )

    def _end(self) -> int | None:
        return self.fit.story.ends(self.fit.target.data)

    def _kind(self) -> str:
        codec = self.fit.codec
        return "" if codec is None else codec.kind

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

    # -- files and tokens --------------------------------------------------------------------

    def _encode(self, name: str, content: bytes) -> list[np.ndarray]:
        """Tokens of each sequence: of text cut as the fit's, of images a byte per pixel."""
        codec = self.fit.codec
        if isinstance(codec, Raster):
            size = len(codec.columns)
            if len(content) % size:
                raise DataError(
                    f"{name} has {len(content):,} bytes, but an image of the fit has {size} "
                    "pixels: give images one after another, a byte for each pixel"
                )
            pixels = np.frombuffer(content, np.uint8).reshape(-1, size)
            outside = (pixels < codec.low) | (pixels > codec.high)
            if outside.any():
                image, place = np.argwhere(outside)[0]
                raise DataError(
                    f"{name}: image {image + 1}, pixel {place + 1} is {pixels[image, place]}: "
                    f"pixels of the fit go from {codec.low:g} to {codec.high:g}"
                )
            return [*codec.encode(pixels.astype(float))]
        assert isinstance(codec, TextCodec)
        texts = codec.cut(content.decode("utf-8", "surrogateescape"))
        return [np.array(codec.encode(text), np.int64) for text in texts]

    def _decode(self, sequences: Sequence[np.ndarray]) -> bytes:
        codec = self.fit.codec
        if isinstance(codec, Raster):
            return bytes(codec.decode(np.stack(sequences)).round().astype(np.uint8).tobytes())
        assert isinstance(codec, TextCodec)
        text = codec.joined(codec.decode(sequence.tolist()) for sequence in sequences)
        return text.encode("utf-8", "surrogateescape")


def _half(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:16]
