"""Sources of text: their numbers in blocks.bin, and their names in the ledger and in mixture.json.

| number | name | block |
|---|---|---|
| -1 (`REAL`) | `real` | of the corpus |
| g >= 0 | `generation_g` | written by generation g |
| -2 - g | `control_g` | of the corpus, replacing one written by generation g (all-real control) |

`prompt_...` names tokens inside a written block that no model wrote; these have no number. Only this file makes and parses
numbers and names. Samples of another lineage would get numbers from 2^32 on (index << 32 | generation) and names like
`generation_3@b`: in `name_of`, in `NAME`, and in what parses it.
"""

from __future__ import annotations

import re
from typing import overload

import numpy as np

REAL = -1
PROMPTS = {origin: f"prompt_{origin}" for origin in ("real", "previous", "separator")}
"""Ledger names by `prompt_from` of a samples folder."""
NAME = re.compile(rf"real|generation_(?P<writer>\d{{1,6}})|control_(?P<place>\d{{1,6}})|{'|'.join(PROMPTS.values())}")


def stand_in(generation: int) -> int:
    """Source number of the real blocks that replace a generation's in an all-real control. Its own inverse."""
    return -2 - generation


@overload
def is_real(source: int) -> bool: ...
@overload
def is_real(source: np.ndarray) -> np.ndarray: ...
def is_real(source: int | np.ndarray) -> bool | np.ndarray:
    """Return True for source numbers of real text, including real text that replaces a generation's (elementwise)."""
    return source <= REAL


def generation_of(source: int) -> int:
    """Return the generation that wrote the text of a source number, which must not be real text."""
    return source & 0xFFFFFFFF


def name_of(source: int) -> str:
    """Name of a source number."""
    if source < REAL:
        return f"control_{stand_in(source)}"
    return "real" if source == REAL else f"generation_{generation_of(source)}"


def written_by(name: str) -> int | None:
    """Return the generation that wrote the source of this name; None for any other source."""
    return _generation(name, "writer")


def in_place_of(name: str) -> int | None:
    """Return the generation that this name's real text replaces in an all-real control; None for any other source."""
    return _generation(name, "place")


def _generation(name: str, group: str) -> int | None:
    match = NAME.fullmatch(name)
    return int(match[group]) if match and match[group] else None


def reading_order(name: str) -> tuple[bool, bool, int, str]:
    """Sort key of source names: real text, prompts, then generations, oldest first."""
    return name != name_of(REAL), name not in PROMPTS.values(), len(name), name
