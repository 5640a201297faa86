"""Scores of text (bits per character, and the bytes that programs for any file need) and images."""

from __future__ import annotations

import gzip
import lzma
import math

import numpy as np

from storyzoo.datasets.codecs import Codec, TextCodec
from storyzoo.datasets.raster import Raster
from storyzoo.inference.engine.heldout import Predictive
from storyzoo.inference.engine.target import Target

LARGEST = 2**24
"""Bytes of text that other programs are asked to compress, 16 MiB."""


def coded_scores(
    codec: Codec | None, target: Target | None, scored: Predictive | None
) -> dict[str, float]:
    """Bits per character of text, and its bytes as coded by the story, gzip, xz and zstd.

    Bits are those of whole sequences, what tells their ends among them; characters are those of
    the sequences, what stood between them not counted. Of images bits per pixel. Nothing else.
    """
    if isinstance(codec, Raster) and target is not None and scored is not None:
        return {"bits_per_dim": -float(scored.nats.sum()) / math.log(2) / len(target.data["token"])}
    if not isinstance(codec, TextCodec) or target is None or scored is None:
        return {}
    token, length = (np.asarray(target.data[name].cpu()) for name in ("token", "length"))
    parts = np.split(token, np.cumsum(length)[:-1])
    texts = [codec.decode(part.tolist()) for part in parts]
    characters = sum(map(len, texts))
    bits = -float(scored.nats.sum()) / math.log(2)
    if not characters or not math.isfinite(bits):
        return {}
    content = codec.joined(texts).encode("utf-8", "surrogateescape")
    found = {"bits_per_character": bits / characters}
    if len(content) <= LARGEST:
        found |= {"text_bytes": len(content), "coded_bytes": math.ceil(bits / 8)}
        found |= _by_programs(content)
    return found


def _by_programs(content: bytes) -> dict[str, float]:
    """Bytes by each program at its strongest; by zstd where it is installed."""
    sizes: dict[str, float] = {
        "gzip_bytes": len(gzip.compress(content, 9, mtime=0)),
        "xz_bytes": len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)),
    }
    try:
        import zstandard
    except ImportError:
        return sizes
    compressor = zstandard.ZstdCompressor(level=19)
    return {**sizes, "zstd_bytes": len(compressor.compress(content))}
