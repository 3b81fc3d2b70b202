"""Sources of text: their numbers in blocks.bin, and their names in the ledger and in mixture.json.

| number | name | block |
|---|---|---|
| -1 (`REAL`) | `real` | of the corpus |
| g >= 0 | `generation_g` | that generation g wrote |
| -2 - g | `control_g` | of the corpus, in the place of one that generation g wrote (all-real control) |

`prompt_...` names tokens inside a written block that no model wrote; these have no number. Numbers and names are made and
parsed in this file alone. Samples of another lineage would get numbers from 2^32 on (index << 32 | generation) and names like
`generation_3@b`: in `name_of`, in `NAME`, and in what parses it.
"""

from __future__ import annotations

import re
from typing import overload

import numpy as np

REAL = -1
PROMPTS = {origin: f"prompt_{origin}" for origin in ("real", "previous", "separator")}
"""Names by `prompt_from` of a samples folder."""
NAME = re.compile(rf"real|generation_(?P<writer>\d{{1,6}})|control_(?P<place>\d{{1,6}})|{'|'.join(PROMPTS.values())}")


def stand_in(generation: int) -> int:
    """Number of the real blocks that an all-real control takes in the place of a generation's. Its own inverse."""
    return -2 - generation


@overload
def is_real(source: int) -> bool: ...
@overload
def is_real(source: np.ndarray) -> np.ndarray: ...
def is_real(source: int | np.ndarray) -> bool | np.ndarray:
    """Whether blocks of this number, or of each of these, are real text; those that stand in for others are too."""
    return source <= REAL


def name_of(source: int) -> str:
    """Name of a number."""
    if source < REAL:
        return f"control_{stand_in(source)}"
    return "real" if source == REAL else f"generation_{source}"


def written_by(name: str) -> int | None:
    """Generation that wrote the text of this name; None for all other text."""
    return _generation(name, "writer")


def in_place_of(name: str) -> int | None:
    """Generation in whose place an all-real control takes the real text of this name; None for all other text."""
    return _generation(name, "place")


def _generation(name: str, group: str) -> int | None:
    found = NAME.fullmatch(name)
    return int(found[group]) if found and found[group] else None


def reading_order(name: str) -> tuple[bool, bool, int, str]:
    """Key that sorts names: real text, prompts, then generations, the oldest first."""
    return name != name_of(REAL), name not in PROMPTS.values(), len(name), name
