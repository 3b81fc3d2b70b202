"""Untrained networks of the families that a configuration can name."""

from __future__ import annotations

from typing import Any

from collapselab.config import ModelConfig


def untrained(config: ModelConfig, *, vocab: int, separator: int, context: int) -> Any:
    """A network of the configured family and size, with random weights of torch's global generator.

    Args:
        context: longest sequence it can read, in tokens; a bigram model has no longest one.
    """
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    from collapselab import bigram

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
