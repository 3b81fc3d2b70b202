"""Languages of exactly known distribution: a planted channel, a world of facts, and true logic expressions."""

from __future__ import annotations

from collapselab.config import CorpusConfig
from collapselab.languages.facts import Facts
from collapselab.languages.logic import Logic
from collapselab.languages.planted import Planted

Language = Planted | Facts | Logic
KINDS: dict[str, type[Language]] = {"planted": Planted, "facts": Facts, "logic": Logic}

LANGUAGE_VERSION = 1  # of words and laws; raise it when equal keys give different documents


def language_of(config: CorpusConfig) -> Language | None:
    """Return the language that `corpus.source` names, or None for natural text."""
    kind = KINDS.get(config.source)
    return kind(**vars(getattr(config, config.source))) if kind else None
