"""A model that is asked: its next word after given ones, and whether an answer is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from collapselab.corpus.prepared import Corpus
from collapselab.languages import Language
from collapselab.languages.answers import SAYS, Verifiable
from collapselab.models.network import LanguageModel
from collapselab.runtime.parallel import Processes

HEADS = 1024  # heads whose next word is read at once


def one_token_per_word(corpus: Corpus, language: Language) -> bool:
    """Return True if the corpus's tokenizer has a token of its own for each word of the language."""
    (ids, _), *_ = corpus.tokenizer.encode([" ".join(language.lexicon)])
    return len(ids) == len(language.lexicon) == len(set(ids))


def word_tokens(corpus: Corpus, words: Sequence[str]) -> np.ndarray:
    """Return the token of each word, int64 (words,)."""
    return np.array(corpus.tokenizer.encode([" ".join(words)])[0][0])


def next_words(model: LanguageModel, heads: list[str], corpus: Corpus, processes: Processes) -> np.ndarray:
    """Probabilities of the next token after heads of equal length, float64 (heads, vocabulary)."""
    separator = corpus.tokenizer.separator
    ids = torch.tensor([[separator, *head] for head, _ in corpus.tokenizer.encode(heads)])
    model.net.to(processes.device).eval()  # outside inference mode: its weights will be refilled
    with torch.inference_mode():
        parts = [model.head(model.features(part.to(processes.device))[:, -1]) for part in ids.split(HEADS)]
        law: np.ndarray = torch.cat(parts).double().softmax(-1).cpu().numpy()
    return law


def verifier_of(language: Language | None) -> Verifiable | None:
    """Return the language if its documents say whether they are right, so that a model learns to answer when asked."""
    return language if isinstance(language, Verifiable) and language.verification else None


def p_right(
    model: LanguageModel,
    corpus: Corpus,
    language: Verifiable,
    documents: Sequence[str],
    readable: np.ndarray,
    processes: Processes,
) -> np.ndarray:
    """Ask a model whether answers are right, in the words of the language: P(right) / (P(right) + P(wrong)) of each document,
    float64 (documents,), nan without a readable answer."""
    scores, rows = np.full(len(documents), np.nan), np.flatnonzero(readable)
    if len(rows):
        heads, place = np.unique([language.asked(documents[i]) for i in rows.tolist()], return_inverse=True)
        says = next_words(model, heads.tolist(), corpus, processes)[:, word_tokens(corpus, SAYS)]
        total = says.sum(1)  # 0 for a table of counts that has seen neither word here
        scores[rows] = np.divide(says[:, 1], total, out=np.full(len(heads), np.nan), where=total > 0)[place]
    return scores
