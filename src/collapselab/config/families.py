"""Families of models that `model.family` names: one record each, from which the accepted names follow. No library is imported.

A new family of transformers is a record in `FAMILIES` and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from collapselab.config.plugins import Records

if TYPE_CHECKING:
    from collapselab.config.learning import ModelConfig


@dataclass(frozen=True)
class Family:
    """How an untrained network is built, and what else depends on the family before there is one."""

    network: str
    """Class of its networks, in transformers or in models/bigram.py."""
    settings: Callable[[ModelConfig, int], dict[str, Any]]
    """Size and longest sequence (tokens) as keywords of the network's own configuration."""
    keys: tuple[str, ...] = ()
    """Of `kv_heads` and `dropout`, which not every family has, those that may be set."""
    rotary: bool = False
    """Positions are rotations of pairs, so that the width of a head is even."""
    causal: bool = False
    """The head is one product, without a bias, of the last norm's output, and the attention mask is the causal one and
    nothing else (a sliding window would be lost with the mask)."""
    counts: bool = False
    """A table of counts: no layers, hidden states, cache or gradient, and probabilities that can be 0."""
    learner: str = "trainer"
    """Name in `LEARNERS` (learning/learners.py)."""


def _gpt2(model: ModelConfig, context: int) -> dict[str, Any]:
    return {
        "n_positions": context, "n_embd": model.width, "n_layer": model.layers, "n_head": model.heads,
        "n_inner": model.mlp_width, "tie_word_embeddings": model.tie_embeddings,
        "resid_pdrop": model.dropout, "embd_pdrop": model.dropout, "attn_pdrop": model.dropout,
    }  # fmt: skip


def _llama(model: ModelConfig, context: int) -> dict[str, Any]:
    inner = model.mlp_width or -(-model.width * 8 // 3 // 8) * 8
    return {
        "max_position_embeddings": context, "hidden_size": model.width, "intermediate_size": inner,
        "num_hidden_layers": model.layers, "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads or model.heads, "tie_word_embeddings": model.tie_embeddings,
    }  # fmt: skip


FAMILIES = Records("family", {
    "gpt2": Family("GPT2LMHeadModel", _gpt2, keys=("dropout",), causal=True),
    "llama": Family("LlamaForCausalLM", _llama, keys=("kv_heads",), rotary=True, causal=True),
    "bigram": Family("BigramForCausalLM", lambda *_: {}, keys=("dropout",), counts=True, learner="counter"),
})  # fmt: skip
