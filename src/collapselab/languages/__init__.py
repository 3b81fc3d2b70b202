"""Languages of exactly known distribution: a planted channel, a world of facts, true logic expressions, arithmetic, games."""

from __future__ import annotations

from collapselab.config import CorpusConfig
from collapselab.languages.addition import Addition
from collapselab.languages.facts import Facts
from collapselab.languages.games import Nim, TicTacToe
from collapselab.languages.logic import Logic
from collapselab.languages.modular import Modular
from collapselab.languages.planted import Planted

Language = Planted | Facts | Logic | Addition | Modular | Nim | TicTacToe
KINDS: dict[str, type[Language]] = {
    "planted": Planted, "facts": Facts, "logic": Logic, "addition": Addition, "modular": Modular,
    "nim": Nim, "tic_tac_toe": TicTacToe,
}  # fmt: skip

LANGUAGE_VERSION = 1  # of words and laws; raise it when equal keys give different documents


def language_of(config: CorpusConfig) -> Language | None:
    """Return the language that `corpus.source` names, or None for natural text."""
    kind = KINDS.get(config.source)
    return kind(**vars(getattr(config, config.source))) if kind else None
