"""Untrained networks of the families that a configuration can name."""

from __future__ import annotations

import dataclasses
from typing import Any

from collapselab.config import ModelConfig
from collapselab.runtime.memory import check_memory, on_gpu


def parameters(config: ModelConfig, *, vocab: int, context: int) -> int:
    """Parameters of a network of the configured family and size, a bigram model's left out; nothing is built."""
    width, kv_width = config.width, config.width // config.heads * (config.kv_heads or config.heads)
    tables = vocab * width * (1 if config.tie_embeddings else 2)
    if config.family == "bigram":
        return 0
    if config.family == "gpt2":
        inner = config.mlp_width or 4 * width
        layer = 4 * width**2 + 4 * width + 2 * width * inner + inner + width + 4 * width
        return tables + context * width + config.layers * layer + 2 * width
    inner = config.mlp_width or -(-width * 8 // 3 // 8) * 8
    return tables + config.layers * (2 * width**2 + 2 * width * kv_width + 3 * width * inner + 2 * width) + width


def check_size(config: ModelConfig, *, vocab: int, context: int) -> None:
    """Raises UserError, by the key that makes it so large, where a new model cannot be trained in this machine's memory."""

    def size(**changes: Any) -> int:
        changed = dataclasses.replace(config, **changes)
        padded = -(-vocab // changed.pad_vocabulary) * changed.pad_vocabulary
        return parameters(changed, vocab=padded, context=changed.context or context)

    head = 2 if config.family == "llama" else 1
    smaller: dict[str, dict[str, Any]] = {
        "width": {"width": head * config.heads},
        "layers": {"layers": 1},
        "mlp_width": {"mlp_width": None},
        "context": {"context": None},
        "pad_vocabulary": {"pad_vocabulary": 1},
    }
    key = min(smaller, key=lambda name: size(**smaller[name]))
    # float32: the start weights, their copy in training, its gradient and two moments; on a GPU the last three lie there.
    copies = 2 if on_gpu() else 5
    what = f"a model of {size():,} parameters, in {copies} copies"
    check_memory(4 * copies * size(), f"model.{key}", getattr(config, key), what)


def untrained(config: ModelConfig, *, vocab: int, separator: int, context: int) -> Any:
    """A network of the configured family and size, with random weights of torch's global generator.

    Args:
        context: longest sequence it can read, in tokens; a bigram model has no longest one.
    """
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    from collapselab.models import bigram

    ids = {"bos_token_id": separator, "eos_token_id": separator}
    if config.family == "bigram":
        return bigram.BigramForCausalLM(bigram.BigramConfig(vocab_size=vocab, **ids)).eval()
    if config.family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocab,
                n_positions=context,
                n_embd=config.width,
                n_layer=config.layers,
                n_head=config.heads,
                n_inner=config.mlp_width,
                resid_pdrop=config.dropout,
                embd_pdrop=config.dropout,
                attn_pdrop=config.dropout,
                tie_word_embeddings=config.tie_embeddings,
                **ids,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=config.width,
            intermediate_size=config.mlp_width or -(-config.width * 8 // 3 // 8) * 8,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads or config.heads,
            max_position_embeddings=context,
            tie_word_embeddings=config.tie_embeddings,
            **ids,
        )
    )
