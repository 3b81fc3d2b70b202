"""The exact learner: a bigram model whose weights are counts, learned without gradients.

P(b | a) = c(ab) / c(a), the maximum-likelihood estimate. A pair that was never counted has probability 0 and stays lost, so
a chain of such models forgets by drift alone, for which there are exact laws (Suresh et al. 2024, arXiv:2412.17646).

Counts are sparse (pairs that occurred, row by row). Importing this module registers the network with AutoModelForCausalLM.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from collapselab.models.network import Continue, LanguageModel
from collapselab.models.slices import Slices


class BigramConfig(PreTrainedConfig):  # type: ignore[misc]
    model_type = "collapselab_bigram"
    vocab_size: int = 257
    entries: int = 0
    """Number of different pairs."""
    num_hidden_layers: int = 0  # no cache is needed
    hidden_size: int = 0


class BigramForCausalLM(PreTrainedModel):  # type: ignore[misc]
    """Counts in four buffers: `starts` int64 (V + 1), `tokens` int32 (entries), `counts` int64 (entries), `unigrams`
    int64 (V). Successors of token a are `tokens[starts[a]:starts[a + 1]]`, ascending.

    A token without successors (it occurred at the end of blocks only) has the distribution of `unigrams`, the targets. Without
    any pairs, all tokens are equally likely.
    """

    config_class = BigramConfig

    def __init__(self, config: BigramConfig):
        super().__init__(config)
        self.register_buffer("starts", torch.zeros(config.vocab_size + 1, dtype=torch.int64))
        self.register_buffer("tokens", torch.zeros(config.entries, dtype=torch.int32))
        self.register_buffer("counts", torch.zeros(config.entries, dtype=torch.int64))
        self.register_buffer("unigrams", torch.ones(config.vocab_size, dtype=torch.int64))
        self.post_init()

    @property
    def dtype(self) -> torch.dtype:
        """Data type of its outputs; the library would look for a floating-point weight, and there is none."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        device: torch.device = self.starts.device
        return device

    def as_language_model(self) -> CountedModel:
        """Return it as one of the lab's models."""
        return CountedModel(self, self.config.vocab_size)

    @staticmethod
    def most_bytes(vocab: int, tokens: int) -> int:
        """Bytes of the largest table that so many tokens can fill."""
        return 12 * min(vocab * vocab, tokens) + 16 * vocab

    def _init_weights(self, module: Any) -> None:
        """Mark the table as invalid: the library calls this if a file lacks a tensor."""
        fresh = self.config.entries == 0
        for name, value in (("starts", 0), ("tokens", 0), ("counts", 0), ("unigrams", 1)):
            getattr(self, name).fill_(value if fresh else -1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
    ) -> CausalLMOutput:
        """Return logits ln P(next | token), -inf where P = 0, float32 (B, T, V), or only the last `logits_to_keep` positions.

        Mask and cache have no effect: only the last token counts.
        """
        ids = input_ids[:, -logits_to_keep:]
        token_N = ids.flatten()
        begin_N, width_N = self.starts[token_N], self.starts[token_N + 1] - self.starts[token_N]
        row_E = torch.arange(len(token_N), device=ids.device).repeat_interleave(width_N)
        entry_E = torch.arange(len(row_E), device=ids.device) + (begin_N - (width_N.cumsum(0) - width_N))[row_E]
        count_E = self.counts[entry_E].double()
        total_N = torch.zeros(len(token_N), dtype=torch.float64, device=ids.device).index_add_(0, row_E, count_E)
        logits_NV = torch.full((len(token_N), self.config.vocab_size), -torch.inf, device=ids.device)
        logits_NV[row_E, self.tokens[entry_E].long()] = (count_E / total_N[row_E]).log().float()
        alone_N = width_N == 0
        logits_NV[alone_N] = (self.unigrams.double() / self.unigrams.sum()).log().float()
        return CausalLMOutput(logits=logits_NV.view(*ids.shape, -1))


AutoConfig.register(BigramConfig.model_type, BigramConfig)
AutoModelForCausalLM.register(BigramConfig, BigramForCausalLM)


def arrays(net: BigramForCausalLM) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the table, each int64: starts (V + 1), tokens (entries), counts (entries), unigrams (V)."""
    starts, tokens, counts, unigrams = (
        tensor.cpu().numpy().astype(np.int64) for tensor in (net.starts, net.tokens, net.counts, net.unigrams)
    )
    return starts, tokens, counts, unigrams


def flaw(net: BigramForCausalLM) -> str | None:
    """Return the flaw of an untrusted table of counts, or None."""
    vocab, entries = net.config.vocab_size, net.config.entries
    starts, tokens, counts, unigrams = arrays(net)
    if starts[0] != 0 or starts[-1] != entries or (np.diff(starts) < 0).any():
        return "starts must rise from 0 to the number of entries"
    if ((tokens < 0) | (tokens >= vocab)).any():
        return f"tokens must lie in [0, {vocab})"
    if (np.diff(np.repeat(np.arange(vocab), np.diff(starts)) * vocab + tokens) <= 0).any():
        return "the successors of a token must rise"
    if (counts < 1).any() or (unigrams < 0).any():
        return "counts must be 1 or more, unigrams 0 or more"
    # Sums stay exact in float64, where random numbers become positions.
    if not all(0 < total < 2**53 for total in (unigrams.sum(dtype=float), counts.sum(dtype=float) or 1.0)):
        return "unigrams must not all be 0, and no sum may reach 2^53"
    return None


def scores(net: BigramForCausalLM, before_N: np.ndarray, target_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score each target after the token before it as `forward` would, without computing all other logits.

    Returns:
        nll float32 (N,) in nats, +inf where the probability is 0; correct bool (N,): the target is the most likely token (of
        equally likely ones the first).
    """
    starts, tokens, counts, unigrams = arrays(net)
    vocab = len(unigrams)
    before, target = before_N.astype(np.int64), target_N.astype(np.int64)
    row = np.repeat(np.arange(vocab), np.diff(starts))
    # A sentinel key that matches no pair, for searches that run off the end.
    keys, counted = np.append(row * vocab + tokens, vocab * vocab), np.append(counts, 0)
    pair = before * vocab + target
    place = np.searchsorted(keys, pair)
    alone = np.diff(starts) == 0
    total = np.where(alone, unigrams.sum(), np.bincount(row, counts, minlength=vocab))[before]
    count_N = np.where(alone[before], unigrams[target], np.where(keys[place] == pair, counted[place], 0))
    best = np.full(vocab, unigrams.argmax())
    best[~alone] = tokens[np.lexsort((tokens, -counts, row))[starts[:-1][~alone]]]
    with np.errstate(divide="ignore"):
        return (np.log(total) - np.log(count_N)).astype(np.float32), best[before] == target


@dataclass
class CountedModel(LanguageModel):
    """A table of counts as a language model."""

    trainable: ClassVar[bool] = False
    refills: ClassVar[bool] = False
    zeros: ClassVar[bool] = True

    def check(self, missing: list[str], name: str) -> None:
        if (wrong := flaw(self.net)) is not None:
            raise ValueError(f"not a table of counts: {wrong}")

    def continuer(self) -> Continue:
        return Slices(*arrays(self.net)).write

    def scores(self, stream: np.ndarray, places_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return scores(self.net, stream[places_N - 1], stream[places_N])

    @property
    def parameters(self) -> int:
        return int(self.net.counts.numel() + self.net.unigrams.numel())


# --- counting ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairCounts:
    """Counts of adjacent pairs: keys a V + b ascending, int64; counts int64; unigrams (targets) int64 (V)."""

    keys: np.ndarray
    counts: np.ndarray
    unigrams: np.ndarray

    @property
    def loss(self) -> float:
        """Mean -ln P(b | a) over the counted pairs, in nats: their conditional entropy."""
        vocab = len(self.unigrams)
        rows = np.bincount(self.keys // vocab, self.counts, minlength=vocab)
        nats = self.counts * (np.log(rows[self.keys // vocab]) - np.log(self.counts))
        return float(nats.sum() / max(1, self.counts.sum()))


def count(parts: Iterable[np.ndarray], vocab: int, first_target: int = 1) -> PairCounts:
    """Count the adjacent pairs inside blocks whose second token is at position `first_target` or later.

    Args:
        parts: int64 (blocks, T) each, tokens below `vocab`; one part is in memory at a time.
    """
    keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    unigrams = np.zeros(vocab, np.int64)
    for ids_BT in parts:
        targets = ids_BT[:, first_target:]
        pairs, times = np.unique(ids_BT[:, first_target - 1 : -1] * vocab + targets, return_counts=True)
        unigrams += np.bincount(targets.ravel(), minlength=vocab)
        keys, place = np.unique(np.concatenate([keys, pairs]), return_inverse=True)
        # Integers below 2^53: exact as float64.
        counts = np.bincount(place, np.concatenate([counts, times]), minlength=len(keys)).astype(np.int64)
    return PairCounts(keys, counts, unigrams)


def network(counted: PairCounts) -> BigramForCausalLM:
    """Build the network of these counts, ready to be published."""
    vocab = len(counted.unigrams)
    net = BigramForCausalLM(BigramConfig(vocab_size=vocab, entries=len(counted.keys)))
    net.starts = torch.from_numpy(np.searchsorted(counted.keys, np.arange(vocab + 1) * vocab))
    net.tokens = torch.from_numpy((counted.keys % vocab).astype(np.int32))
    net.counts = torch.from_numpy(counted.counts)
    net.unigrams = torch.from_numpy(counted.unigrams)
    net.eval()
    return net
