"""Settings of the model and of a generation's training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from collapselab.config.families import FAMILIES
from collapselab.config.settings import setting
from collapselab.config.values import check_no_secret, needs


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The language model and the weights that each generation starts from."""

    pretrained: str | None = None
    """A model folder, a hub name, a .gguf file, or `package:NAME/FILE` for a file inside an installed Python package.
    null builds a new model from the keys below; otherwise only `dropout`, `pad_vocabulary` and `start` apply."""
    family: str = "gpt2"
    """Architecture of a new model. bigram is the exact learner: it counts pairs of tokens in the training set, without a
    gradient, so that sizes, learning rate and other settings of the optimiser have no meaning for it."""
    layers: int = 4
    """Number of transformer blocks."""
    width: int = 128
    """Hidden size, a multiple of `heads`."""
    heads: int = 4
    """Attention heads per layer."""
    kv_heads: int | None = None
    """Key-value heads (llama only; grouped-query attention); null means as many as `heads`."""
    mlp_width: int | None = None
    """Inner size of the feed-forward layer; null means 4 x width (gpt2) or 8/3 x width rounded up to 8 (llama)."""
    context: int | None = None
    """Longest sequence the model can read, in tokens; null means `training.block`."""
    tie_embeddings: bool = True
    """Use one matrix for input and output embeddings."""
    dropout: float = setting(0.0, decides="model", fork=True)
    """Dropout rate in training, [0, 1); 0 also overrides a pretrained configuration's own."""
    pad_vocabulary: int = 64
    """Multiple to which the vocabulary is padded in memory (faster products on a GPU). Padded entries are never sampled or
    counted, and models are published at their true size."""
    start: Literal["base", "previous", "scratch"] = setting("base", decides="model", fork=True)
    """Initial weights of each generation: those that generation 0 started from (base), those of the previous generation
    (previous), or new random ones (scratch)."""

    def __post_init__(self) -> None:
        check_no_secret("model.pretrained", self.pretrained)
        need, family, name = needs(self, "model"), FAMILIES[self.family], self.family
        for key in ("layers", "width", "heads", "pad_vocabulary"):
            need(getattr(self, key) >= 1, key, "must be 1 or more")
        need(self.layers <= 10**4, "layers", "must be at most 10000")
        for key in ("kv_heads", "mlp_width", "context"):
            need(getattr(self, key) is None or getattr(self, key) >= 1, key, "must be 1 or more, or null")
        need(self.width % self.heads == 0, "width", f"must be a multiple of heads={self.heads}")
        if self.kv_heads is not None:
            owners = " or ".join(other for other, record in FAMILIES.items() if "kv_heads" in record.keys)
            need("kv_heads" in family.keys, "kv_heads", f"only the {owners} family has it; leave null")
            need(self.heads % self.kv_heads == 0, "kv_heads", f"must divide heads={self.heads}")
        if self.pretrained is None:
            even = self.width // self.heads % 2 == 0
            need(even or not family.rotary, "width", f"{name} needs an even width / heads")
            needless = self.dropout == 0 or "dropout" in family.keys
            need(needless, "dropout", f"the {name} family has no dropout; leave 0")
        family.check(self, "model", name)
        need(0 <= self.dropout < 1, "dropout", "must be at least 0 and below 1")


FAMILIES.offer((ModelConfig, "family"))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Training of one generation. The optimiser is AdamW, with a new state in each generation."""

    block: int = setting(128, decides="model")
    """Length of the packed blocks that the model is trained on, in tokens."""
    batch_size: int = 32
    """Blocks per optimiser step, over all processes and accumulation steps."""
    accumulation: int = 1
    """Micro-batches that one optimiser step is divided into, per process."""
    epochs: int | None = None
    """Passes over the training set; null means 1 unless `tokens` is given."""
    tokens: int | None = None
    """Tokens shown to the model per generation, rounded down to whole blocks; instead of `epochs`."""
    lr: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after the warm-up: constant, or falling to `min_lr_ratio` x lr."""
    min_lr_ratio: float = 0.1
    """Final learning rate as a share of `lr`, [0, 1], for linear and cosine."""
    warmup_steps: int = 0
    """Optimiser steps over which the learning rate rises linearly from 0 to `lr`."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only (not on biases and norms)."""
    beta1: float = 0.9
    """AdamW's first-moment decay."""
    beta2: float = 0.95
    """AdamW's second-moment decay."""
    eps: float = 1e-8
    """AdamW's denominator term, [1e-37, 1)."""
    clip: float = 1.0
    """Largest gradient norm (all parameters together); 0 switches clipping off."""
    loss_on_last: int | None = None
    """Take the loss on the last n tokens of each block only (for prompted protocols); null means on all."""
    skip_first: bool = setting(False, decides="set", since="0.2")
    """Leave generation 0 untrained: it is `model.pretrained` as it is, or new weights, and real text enters in later generations
    alone."""
    loss_below: float | None = None
    """Truncated cross-entropy (Shabgahi et al. 2025, who set .99): a target to which the model gives more than this
    probability, (0, 1], has no loss and no gradient. The sum is still divided by the number of all targets, as in their
    code, and all of them count in the ledger. null means the whole cross-entropy."""
    objective: Literal[
        "likelihood", "reinforce", "rloo", "grpo", "dpo"
    ] = setting("likelihood", decides="later sets", fork=True, since="0.2")  # fmt: skip
    """What generations 1 and up learn by (generation 0: by likelihood): the likelihood of their training set, or the rewards
    of `judging.judges` for their own answers (`policy`). reinforce: against the mean of the batch; rloo: against the other
    answers to a prompt; grpo: against all of them; dpo: the best against the worst."""
    tune: bool = setting(False, decides="later sets", fork=True, since="0.2")
    """Learn by likelihood first, then by rewards; otherwise the training set is a source of prompts only."""
    precision: Literal["auto", "bf16", "fp32", "bf16_pure"] = "auto"
    """Arithmetic: bf16 autocast over float32 weights, fp32, or bf16_pure (weights and optimiser in bf16 too, as in some
    papers). auto means bf16 on CUDA and fp32 on a CPU."""
    compile: bool | None = None
    """Compile the training step with torch, once per process (needs a C++ compiler); null means on CUDA."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention in training: torch's fused kernels (sdpa), or explicit products (eager)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    checkpoint_seconds: float | None = setting(10.0, decides="files")
    """Seconds between two checkpoints within a generation's training or sampling; more if writing one takes long, so that
    checkpoints never take more than a twentieth of the time. null means by steps alone."""
    checkpoint_steps: int | None = setting(None, decides="files")
    """Optimiser steps between two checkpoints within a generation's training; null means by seconds alone."""

    def __post_init__(self) -> None:
        need, block = needs(self, "training"), self.block
        for key, least in (("block", 2), ("batch_size", 1), ("accumulation", 1)):
            need(getattr(self, key) >= least, key, f"must be {least} or more")
        need(self.epochs is None or self.epochs >= 1, "epochs", "must be 1 or more")
        one = self.epochs is None or self.tokens is None
        need(one, "tokens", "set either training.epochs or training.tokens, not both")
        enough = self.tokens is None or self.tokens >= block
        need(enough, "tokens", f"must hold at least one block of {block} tokens")
        need(self.accumulation <= self.batch_size, "accumulation", f"cannot exceed batch_size={self.batch_size}")
        need(0 < self.lr < math.inf, "lr", "must be above 0")
        need(0 <= self.min_lr_ratio <= 1, "min_lr_ratio", "must lie in [0, 1]")
        for key in ("warmup_steps", "weight_decay", "clip"):
            need(0 <= getattr(self, key) < math.inf, key, "must be 0 or more")
        for key in ("beta1", "beta2"):
            need(0 <= getattr(self, key) < 1, key, "must be in [0, 1)")
        need(1e-37 <= self.eps < 1, "eps", "must lie in [1e-37, 1): smaller values are 0 in float32")
        decay = self.lr * self.weight_decay
        remedy = f"each step removes lr x weight_decay = {decay:.3g} of every weight; set less than 1"
        need(decay < 1, "lr" if self.lr > 1 else "weight_decay", remedy)
        below = self.loss_below is None or 0 < self.loss_below <= 1
        need(below, "loss_below", "must be above 0 and at most 1, or null (off)")
        need(not self.tune or self.objective != "likelihood", "tune", "name an objective: reinforce, rloo, grpo or dpo")
        seconds, every, last = self.checkpoint_seconds, self.checkpoint_steps, self.loss_on_last
        need(seconds is None or 0 < seconds < math.inf, "checkpoint_seconds", "must be above 0, or null")
        need(every is None or every >= 1, "checkpoint_steps", "must be 1 or more, or null")
        need(
            last is None or 1 <= last < block, "loss_on_last", f"must be between 1 and block - 1 = {block - 1}, or null"
        )
