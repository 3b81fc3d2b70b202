"""Next-token distributions after given texts."""

from __future__ import annotations

import numpy as np
import torch

from collapselab.corpus.prepared import Corpus
from collapselab.models.network import LanguageModel
from collapselab.runtime.parallel import Processes

HEADS = 1024  # heads whose next word is read at once


def next_words(model: LanguageModel, heads: list[str], corpus: Corpus, processes: Processes) -> np.ndarray:
    """Probabilities of the next token after heads of equal length, float64 (heads, vocabulary)."""
    separator = corpus.tokenizer.separator
    ids = torch.tensor([[separator, *head] for head, _ in corpus.tokenizer.encode(heads)])
    model.net.to(processes.device).eval()  # outside inference mode: its weights will be refilled
    with torch.inference_mode():
        parts = [model.head(model.features(part.to(processes.device))[:, -1]) for part in ids.split(HEADS)]
        law: np.ndarray = torch.cat(parts).double().softmax(-1).cpu().numpy()
    return law
