"""Model families for `model.family`, one record each. No library is imported here.

A new family of transformers is one more record in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from collapselab.config.plugins import Records
from collapselab.config.values import check

if TYPE_CHECKING:
    from collapselab.config.learning import ModelConfig


@dataclass(frozen=True)
class Family:
    """Class and settings of an untrained network, and properties of its family."""

    network: str
    """Class of its networks, in `module`."""
    settings: Callable[[ModelConfig, int], dict[str, Any]]
    """Function from a model's settings and longest sequence (tokens) to keywords of the network's own configuration."""
    keys: tuple[str, ...] = ()
    """Optional keys that the family has, of `kv_heads` and `dropout`."""
    rotary: bool = False
    """True if positions are rotations of pairs, so that heads must have an even width."""
    causal: bool = False
    """True if the head is one product, without a bias, of the last norm's output, and the attention mask is purely causal
    (a sliding window would be lost with the mask)."""
    layers: bool = True
    """False if it has no layers, and so no hidden states, no cache and no longest sequence."""
    module: str = "transformers"
    """Module of `network`; another one than transformers has to be imported before a published model can be loaded."""
    limits: tuple[tuple[str, Callable[[Any], bool], str], ...] = ()
    """Settings of which it takes some values only: key, whether it takes a value, and the remedy."""
    learner: str = "trainer"
    """Name in `LEARNERS` (learning/learners.py)."""

    def check(self, part: Any, prefix: str, name: str) -> None:
        """Raise UserError if a part of a configuration is outside its limits; `name`: of this family."""
        for key, takes, remedy in self.limits:
            if key.startswith(f"{prefix}."):
                value = getattr(part, key.removeprefix(f"{prefix}."))
                check(takes(value), key, value, remedy.format(family=f"the {name} family"))


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


COUNTS = (
    ("model.pretrained", lambda value: value is None, "{family} counts; leave null"),
    ("model.start", lambda value: value != "previous", "counts begin at 0; {family} has base"),
    ("sampling.beams", lambda value: value == 1, "{family} has no beam search; leave 1"),
    ("training.objective", lambda value: value == "likelihood", "{family} counts; leave likelihood"),
    ("training.loss_below", lambda value: value is None, "{family} counts; leave null"),
    ("evaluation.embeddings", lambda value: value is None, "a table of counts has no hidden states; leave null"),
)  # fmt: skip

FAMILIES = Records("family", {
    "gpt2": Family("GPT2LMHeadModel", _gpt2, keys=("dropout",), causal=True),
    "llama": Family("LlamaForCausalLM", _llama, keys=("kv_heads",), rotary=True, causal=True),
    "bigram": Family(
        "BigramForCausalLM", lambda *_: {}, keys=("dropout",), layers=False, module="collapselab.models.bigram",
        limits=COUNTS, learner="counter",
    ),
})  # fmt: skip
