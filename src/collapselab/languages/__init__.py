"""Languages whose distribution is known exactly: a planted channel, a world of facts, and expressions that are true."""

from __future__ import annotations

from collapselab.config import CorpusConfig
from collapselab.languages.facts import Facts
from collapselab.languages.logic import Logic
from collapselab.languages.planted import Planted

Language = Planted | Facts | Logic

LANGUAGE_VERSION = 1  # of words and laws: raise it when the same keys give other documents


def language_of(config: CorpusConfig) -> Language | None:
    """The language that `corpus.source` names, or None for natural text."""
    if config.source == "planted":
        return Planted(config.contexts or 8, config.values or 64, _exponent(config), config.language_seed or 0)
    if config.source == "facts":
        return Facts(config.entities or 512, _exponent(config), config.language_seed or 0)
    if config.source == "logic":
        return Logic(config.depth or 5, config.language_seed or 0)
    return None


def _exponent(config: CorpusConfig) -> float:
    return 1.0 if config.zipf is None else config.zipf
