"""Languages whose distribution is known exactly, written for this lab: a planted channel and a world of facts."""

from __future__ import annotations

from collapselab.config import CorpusConfig
from collapselab.languages.facts import Facts
from collapselab.languages.planted import Planted

LANGUAGE_VERSION = 1  # of words and laws: raise it when the same keys give other documents


def language_of(config: CorpusConfig) -> Planted | Facts | None:
    """The language that `corpus.source` names, or None for natural text."""
    if config.source == "planted":
        return Planted(config.contexts or 8, config.values or 64, _exponent(config), config.language_seed or 0)
    if config.source == "facts":
        return Facts(config.entities or 512, _exponent(config), config.language_seed or 0)
    return None


def _exponent(config: CorpusConfig) -> float:
    return 1.0 if config.zipf is None else config.zipf
