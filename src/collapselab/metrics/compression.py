"""Repetition measured by a compressor."""

from __future__ import annotations

import zlib
from collections.abc import Iterable


def compression_sums(texts: Iterable[str]) -> dict[str, float]:
    """UTF-8 bytes of all texts, each ended by a newline, before and after zlib at level 9, whose window is 32 KiB."""
    squeeze = zlib.compressobj(9)
    plain = packed = 0
    for text in texts:
        data = text.encode("utf-8", errors="replace") + b"\n"
        plain += len(data)
        packed += len(squeeze.compress(data))
    return {"bytes": float(plain), "compressed": float(packed + len(squeeze.flush()))}


def compression_values(sums: dict[str, float]) -> dict[str, float]:
    """compression_ratio = bytes / compressed bytes; higher is more repetitive."""
    return {"compression_ratio": sums["bytes"] / sums["compressed"]}
