"""Settings of a chain, with units, ranges and meanings.

Building a configuration refuses values that cannot work, in one line that names key, value and remedy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal

from collapselab.config import schedules  # noqa: F401 - the choices of mixing.schedule
from collapselab.config.corpus import CorpusConfig
from collapselab.config.families import FAMILIES
from collapselab.config.generations import MixingConfig, SamplingConfig
from collapselab.config.judging import JudgingConfig
from collapselab.config.learning import ModelConfig, TrainingConfig
from collapselab.config.plugins import check_records
from collapselab.config.policy import PolicyConfig
from collapselab.config.scores import EvaluationConfig, TrackingConfig
from collapselab.config.settings import setting
from collapselab.config.values import check, needs


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One chain: a model trained, sampled, and retrained on its own samples."""

    name: str = setting("main", decides="files")
    """Name of the run: its directory is runs_dir/name."""
    arm: str = setting("main", decides="files")
    """Name of the arm, one of the chains that a run compares. The directory of a chain is runs_dir/name/arm=.../seed=...
    On a command line and in a file, `{key}` in a name is replaced by that setting's value, as in floor_{mixing.floor}."""
    runs_dir: str = setting("runs", decides="nothing")
    """Directory that holds runs."""
    data_dir: str | None = setting(None, decides="nothing")
    """Directory of named local corpora; null means the environment variable COLLAPSELAB_DATA."""
    seed: int = setting(1, decides="set")
    """Seed of the chain, 0 or more; all other seeds are derived from it."""
    generations: int = setting(5, decides="files", fork=True)
    """Last generation: the chain has generations 0 to this one. May be raised later."""
    device: Literal["auto", "cpu", "cuda"] = setting("auto", decides="model", fork=True)
    """Device to compute on; auto means CUDA if available."""
    deterministic: bool = setting(False, decides="model", fork=True)
    """On CUDA: use deterministic algorithms only, and a sampling batch that does not depend on free memory, so that a run
    can be repeated to the bit on the same kind of card. On a CPU it always can."""
    progress: bool = setting(True, decides="nothing")
    """Show progress bars (on a terminal)."""
    retain: Literal["all", "last", "ends"] = setting("all", decides="files")
    """Weights kept on disk: those of every generation (all); of the last (last); or of the last and of every generation
    at which a run ended (ends; a chain that is extended has several). Generation 0's are always kept. Removed weights are
    retrained, to the bit, if they are needed later."""
    plugins: list[dict[str, str]] = setting(list, decides="set", fork=True)
    """Plugins that the chain was made with, as records {name, digest} that --plugin makes. They load nothing: give --plugin
    again to every command that needs the plugins."""
    corpus: CorpusConfig = setting(CorpusConfig, decides="set")
    """Real text."""
    model: ModelConfig = setting(ModelConfig, decides="model")
    """The language model."""
    training: TrainingConfig = setting(TrainingConfig, decides="model", fork=True)
    """Training of one generation."""
    policy: PolicyConfig = setting(PolicyConfig, decides="later sets", fork=True, since="0.2")
    """Learning from rewards, if `training.objective` says so."""
    mixing: MixingConfig = setting(MixingConfig, decides="later sets", fork=True)
    """Training sets of later generations."""
    sampling: SamplingConfig = setting(SamplingConfig, decides="samples", fork=True)
    """Generation of text."""
    judging: JudgingConfig = setting(JudgingConfig, decides="judged", fork=True, since="0.2")
    """Judging of the text between generations."""
    evaluation: EvaluationConfig = setting(EvaluationConfig, decides="scores")
    """Measurements and their protocol."""
    tracking: TrackingConfig = setting(TrackingConfig, decides="nothing")
    """Dashboard."""

    def __post_init__(self) -> None:
        check_records(self.plugins)
        for key, value in self._whole_numbers():
            check(abs(value) < 2**63, key, value, "must be below 2^63")
        for key in ("name", "arm"):
            value = getattr(self, key)
            plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,99}", value) and ".." not in value
            check(bool(plain), key, value, "use 1 to 100 letters, digits, '.', '_', '-', '=' or '+', without '..'")
        check(bool(self.runs_dir.strip()), "runs_dir", self.runs_dir, "name a folder, as in runs")
        check(self.seed >= 0, "seed", self.seed, "must be 0 or more and below 2^63")
        check(0 <= self.generations <= 10**5, "generations", self.generations, "must lie in [0, 100000]")
        block = self.training.block
        need, tokens = needs(self.mixing, "mixing"), self.mixing.tokens
        enough = tokens is None or tokens >= block
        need(enough, "tokens", f"must hold at least one block of training.block={block} tokens")
        enough = self.mixing.schedule != "list" or len(self.mixing.values) >= self.generations
        need(enough, "values", f"give one share for each of the {self.generations} generations")
        self._check_sequences(block)
        remedy = "generation 0 would teach nothing to later ones; set model.start=base or previous"
        check(self.model.start != "scratch" or not self.training.skip_first, "training.skip_first", True, remedy)
        if self.learns_from_rewards:
            self._check_policy()
        context = self.evaluation.context or block
        stride = self.evaluation.stride or context
        check(stride <= context, "evaluation.stride", stride, f"must be at most evaluation.context={context}")
        check(context >= 3 or stride < context, "evaluation.context", context, "must be 3 or more")
        family = FAMILIES[self.model.family]
        for name in ("sampling", "training", "evaluation"):
            family.check(getattr(self, name), name, self.model.family)
        if self.model.pretrained is None and family.layers:
            limit = self.model.context or block
            lengths = {"training.block": block, "sampling.length": self.sequence_length, "evaluation.context": context}
            for key, value in lengths.items():
                check(value <= limit, key, value, f"longer than model.context={limit}; raise model.context or lower it")

    def _check_policy(self) -> None:
        """Raise UserError if the settings of a policy do not fit together."""
        kind, policy = self.training.objective, self.policy
        remedy = "a policy needs a giver of rewards: name a judge, as in [answer]"
        check(bool(self.judging.judges), "judging.judges", self.judging.judges, remedy)
        remedy = f"training.objective={kind} learns from every score; leave threshold"
        check(self.judging.keep == "threshold", "judging.keep", self.judging.keep, remedy)
        plain = SamplingConfig()
        for key in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "beams"):
            value, usual = getattr(self.sampling, key), getattr(plain, key)
            remedy = f"training.objective={kind} needs answers from the whole distribution; leave {usual}"
            check(value == usual, f"sampling.{key}", value, remedy)
        remedy = f"an all-real control has no answers of its own; set training.objective=likelihood, not {kind}"
        check(self.sampling.source == "model", "sampling.source", self.sampling.source, remedy)
        remedy = "reinforce compares the whole batch, not groups; leave false"
        check(not policy.drop_flat or kind != "reinforce", "policy.drop_flat", policy.drop_flat, remedy)
        check(
            kind != "dpo" or policy.kl > 0, "policy.kl", policy.kl, "it is the beta of dpo: must be above 0, as in 0.1"
        )
        remedy = "only dpo has rejected answers; leave now"
        check(kind == "dpo" or policy.rejected == "now", "policy.rejected", policy.rejected, remedy)

    def _check_sequences(self, block: int) -> None:
        """Raise UserError if prompts or sampled sequences do not fit the training blocks."""
        if self.mixing.unit == "documents" and self.corpus.of_gym:
            self._check_problems(block)
        need, head, length = needs(self.sampling, "sampling"), self.sampling.prompt_tokens, self.sequence_length
        if self.sampling.prompt == "real_prefix":
            need(head < length, "prompt_tokens", f"must be below the sequence length {length}")
            need(head <= block, "prompt_tokens", f"must be at most training.block={block}")
        if self.mixing.unit == "documents":
            remedy = "with mixing.unit=documents a sequence begins like a document: set bos or real_prefix"
            need(self.sampling.prompt != "first_token", "prompt", remedy)
            remedy = f"with mixing.unit=documents a sequence is a document: leave null or set {block}"
            need(length == block, "length", remedy)

    def _check_problems(self, block: int) -> None:
        """Raise UserError if blocks and prompts are not the documents and problems of `gym:NAME`."""
        gym, tokenizer = self.corpus.gym, self.corpus.tokenizer
        in_bytes = tokenizer == "bytes" or (tokenizer is None and self.model.pretrained is None)
        remedy = "problems of gym:NAME have equal lengths in bytes alone; set bytes, or mixing.unit=tokens"
        check(in_bytes, "corpus.tokenizer", tokenizer, remedy)
        size, parts = 1 + gym.problem + gym.answer, "1 + corpus.gym.problem + corpus.gym.answer"
        check(block == size, "training.block", block, f"a document of gym:NAME has {parts} tokens; set {size}")
        head, prompted = self.sampling.prompt_tokens, self.sampling.prompt == "real_prefix"
        remedy = f"a problem of gym:NAME ends after 1 + corpus.gym.problem tokens; set {1 + gym.problem}"
        check(not prompted or head == 1 + gym.problem, "sampling.prompt_tokens", head, remedy)

    def _whole_numbers(self, part: Any = None, prefix: str = "") -> list[tuple[str, int]]:
        numbers: list[tuple[str, int]] = []
        for key, value in vars(part or self).items():
            numbers += self._whole_numbers(value, f"{prefix}{key}.") if is_dataclass(value) else []
            numbers += [(f"{prefix}{key}", value)] if isinstance(value, int) else []
        return numbers

    @property
    def judged(self) -> bool:
        """True if judges stand between samples and later sets; an all-real control has no samples to judge, and a policy's
        judges give rewards instead."""
        return self.judging.on and self.sampling.source == "model" and not self.learns_from_rewards

    @property
    def learns_from_rewards(self) -> bool:
        """True if generations 1 and up are policies."""
        return self.training.objective != "likelihood"

    @property
    def sequence_length(self) -> int:
        """Tokens per sampled sequence, prompt included."""
        return self.sampling.length or self.training.block

    @property
    def prompt_length(self) -> int:
        """Stored prompt tokens at the head of each sampled sequence. A `bos` prompt is stored only if sequences are whole
        documents, which begin with their separator."""
        stored = {
            "bos": int(self.mixing.unit == "documents"),
            "first_token": 1,
            "real_prefix": self.sampling.prompt_tokens,
        }
        return stored[self.sampling.prompt]

    @property
    def epochs(self) -> int:
        """Passes over the training set, unless `training.tokens` is set."""
        return self.training.epochs or 1
