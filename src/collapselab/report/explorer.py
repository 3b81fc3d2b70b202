"""What the page's explorer shows of the samples."""

from __future__ import annotations

from typing import Any


def payload(chains: list[Any]) -> dict[str, Any] | None:
    """Nothing yet: the page has the samples as plain text."""
    return None
