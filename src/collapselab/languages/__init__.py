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
    planted, facts, logic = config.planted, config.facts, config.logic
    if config.source == "planted":
        return Planted(planted.contexts, planted.values, planted.zipf, planted.seed)
    if config.source == "facts":
        return Facts(facts.entities, facts.zipf, facts.seed)
    if config.source == "logic":
        return Logic(logic.depth, logic.seed)
    return None
