"""A chain that is killed again and again ends with the bytes of one that is not (scripts/kill_again.py; long form there)."""

from __future__ import annotations

from pathlib import Path

import helpers  # noqa: F401 - finds the scripts, and imports what a run does
from kill_again import CHAIN, import_lab, kill_chains, quick_folder

SMALLER = ["--generations=2", "--mixing.tokens=2048", "--evaluation.overlap=false", "--evaluation.self_bleu_samples=0"]


def test_twenty_five_kills_at_random_moments_change_nothing() -> None:
    import_lab()
    with quick_folder() as root:
        result = kill_chains(Path(root), 25, 1, True, [*CHAIN, *SMALLER])
    assert result["kills"] >= 25 and sum(result["struck"].values()) == result["kills"]
    assert len(result["struck"]) >= 2, result  # they did not all strike the same stage
