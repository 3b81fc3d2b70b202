"""Settings of training sets and of the samples that pass from generation to generation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from collapselab.config.plugins import Records
from collapselab.config.settings import setting
from collapselab.config.values import needs

ONE_REGIME = {"schedule": "replace", "replaced": "incremental", "added": "expanding"}
"""Keys of `mixing` that apply to one regime only and are null under all others; `Regime.keys` lists a regime's keys."""


@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """Training sets of generations 1 and later: shares of real text and of text from earlier generations."""

    tokens: int | None = setting(131072, decides="set")
    """Tokens in one training set (in the first, for regimes that add to it), rounded down to whole blocks; null means the
    whole training split."""
    regime: Literal[
        "replace", "accumulate", "accumulate_subsample", "keep_real", "balanced", "incremental", "expanding"
    ] = "replace"
    """`replace`: real text by the schedule, the rest samples of the previous generation. `accumulate`: generation 0's real
    text and every generation's samples, a growing set. `accumulate_subsample`: `tokens` drawn at random from that pool.
    `keep_real`: all of generation 0's real text and all of the newest generation's samples. `balanced`: `tokens` in equal
    parts from the sources of accumulate. `incremental`: the previous set, the share `replaced` of it replaced by the newest
    samples. `expanding`: the previous set and newest samples, `added` times the size of the first set."""
    replaced: float | None = None
    """`incremental` only: share of the previous training set, drawn at random, that new samples replace, (0, 1]; null means
    0.5."""
    added: float | None = None
    """`expanding` only: samples, drawn at random, that each generation adds, as a share of the first set's size, (0, 1];
    null means 0.5."""
    schedule: str | None = None
    """Real share alpha_g of generation g's training set, g = 1..G, for `replace`; null means geometric. constant:
    start; geometric: start x ratio^(g-1); linear and cosine: from start to end over g = 1..G; harmonic: 1/(g+1);
    power: (g+1)^-power; list: `values`. The other regimes have no schedule and refuse one."""
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
    """Least real share, [0, 1]."""
    real: Literal["fresh", "reuse"] = "fresh"
    """Real text of later generations: text not used before in this chain, or generation 0's items again (always the same
    first ones, as many as the share requires)."""
    unit: Literal["tokens", "documents"] = setting("tokens", decides="set")
    """Unit in which real text is counted and drawn: blocks of packed text, or whole documents of exactly
    `training.block` tokens each, separator included."""

    def __post_init__(self) -> None:
        need = needs(self, "mixing")
        need(self.tokens is None or self.tokens >= 1, "tokens", "must be 1 or more, or null")
        for key in ("start", "ratio", "end", "floor"):
            need(0 <= getattr(self, key) <= 1, key, "must lie in [0, 1]")
        need(0 <= self.power < float("inf"), "power", "must be 0 or more")
        need(all(0 <= v <= 1 for v in self.values), "values", "each must lie in [0, 1]")
        remedy = f"regime {self.regime} has no schedule; set one or the other"
        need(self.has_schedule or self.schedule is None, "schedule", remedy)
        for key, regime in ONE_REGIME.items():
            value = getattr(self, key)
            if key != "schedule" and value is not None:
                need(self.regime == regime or self._reads(key), key, f"only mixing.regime={regime} has it; set null")
                need(0 < value <= 1, key, "must be above 0 and at most 1")
        remedy = "give the shares here and set mixing.schedule=list, or neither"
        need((self.schedule == "list") == bool(self.values), "values", remedy)

    def _reads(self, key: str) -> bool:
        """Return True if the regime's record, once mixing/regimes.py or a plugin has added it, lists the key."""
        return key in getattr(dict(Records.every.get("regime", {})).get(self.regime), "keys", ())

    @property
    def has_schedule(self) -> bool:
        """True if a schedule, not the regime, decides the real share of a training set."""
        return self.regime == ONE_REGIME["schedule"] or self._reads("schedule")

    @property
    def replaced_share(self) -> float:
        """Share of the previous training set that new samples replace, for `incremental`."""
        return 0.5 if self.replaced is None else self.replaced

    @property
    def added_share(self) -> float:
        """Share of the first training set's size that each generation adds, for `expanding`."""
        return 0.5 if self.added is None else self.added

    @property
    def uses_horizon(self) -> bool:
        """True if the shares depend on the number of generations, so that a chain cannot be extended."""
        return self.schedule in ("linear", "cosine")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Generation of text by a model. The default is pure ancestral sampling: truncation is a confound."""

    source: Literal["model", "real"] = setting("model", decides="later sets", fork=True)
    """Text that later generations receive as samples: `model`, text that the chain's models write; `real`, for an all-real
    control, fresh real text in the same places and amounts, as if every model were perfect. Its models still write, and
    their text is measured, but no model is trained on it."""

    tokens: int | None = setting(None, decides="samples")
    """Exact number of tokens written per generation, prompts included; null means as many as a training set has."""
    length: int | None = setting(None, decides="samples")
    """Tokens per sequence, prompt included; null means `training.block`."""
    prompt: Literal["bos", "first_token", "real_prefix"] = setting("first_token", decides="samples")
    """Beginning of each sequence: the document separator (stored only with mixing.unit=documents), one token from a random
    place of a text, or the first `prompt_tokens` tokens of a training block."""
    prompt_tokens: int = setting(32, decides="samples")
    """Length of a `real_prefix`, in tokens."""
    repeats: int = setting(1, decides="samples", since="0.2")
    """Sequences written for each prompt, one after the other."""
    prompt_from: Literal["real", "previous"] = "real"
    """Text that prompts are taken from: real training text, or the training set of the generation that samples
    (which closes the loop). The ledger counts prompt tokens as a separate source."""
    temperature: float = 1.0
    """Divisor of the logits, above 0; 1 leaves the model's own distribution."""
    top_k: int = 0
    """Draw among the k most likely tokens; 0 is off."""
    top_p: float = 1.0
    """Draw among the smallest set of tokens with this much probability, (0, 1]; 1 is off."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one, [0, 1); 0 is off."""
    repetition_penalty: float = 1.0
    """Divisor of positive and factor of negative logits of tokens already in the sequence; 1 is off."""
    beams: int = 1
    """Beam search with this many beams instead of drawing (deterministic, and slow); 1 draws."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the sampling model; auto means bf16 on CUDA and fp32 on a CPU. Logits are always float32."""
    batch_size: int | None = None
    """Sequences computed side by side; null means 128 on a CPU, on CUDA as many as fit into free memory (recorded, and
    used again when a run resumes). Part of the result: text does not depend on the number of processes or threads, but it
    does on this (products differ in the last bits with the number of rows)."""

    def __post_init__(self) -> None:
        need = needs(self, "sampling")
        for key in ("tokens", "length"):
            need(getattr(self, key) is None or getattr(self, key) >= 2, key, "must be 2 or more, or null")
        for key in ("prompt_tokens", "repeats", "beams", "batch_size"):
            need(getattr(self, key) is None or getattr(self, key) >= 1, key, "must be 1 or more")
        need(0 < self.temperature < float("inf"), "temperature", "must be above 0")
        need(self.top_k >= 0, "top_k", "must be 0 (off) or more")
        need(0 < self.top_p <= 1, "top_p", "must be above 0 and at most 1 (off)")
        need(0 <= self.min_p < 1, "min_p", "must be at least 0 (off) and below 1")
        need(0 < self.repetition_penalty < float("inf"), "repetition_penalty", "must be above 0; 1 is off")
        remedy = "beam search draws nothing: leave temperature, top_k, top_p, min_p and repetition_penalty off"
        need(self.beams == 1 or not self.shapes, "beams", remedy)

    @property
    def truncates(self) -> bool:
        """True if some tokens can never be drawn."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def shapes(self) -> bool:
        """True if tokens are drawn from another distribution than the model's own."""
        return self.truncates or self.temperature != 1 or self.repetition_penalty != 1
