"""Checks before a chain starts, in one order: lengths, memory, real and written text, scores, versions, disk space.
`Preflight` holds their results for `run`, `--dry-run`, `sample` and `eval`."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

from collapselab.config import RunConfig, UserError
from collapselab.config.families import FAMILIES
from collapselab.config.schedules import real_share
from collapselab.corpus.prepared import Corpus
from collapselab.corpus.tokenizers import Tokenizer
from collapselab.evaluation.protocol import METRICS_VERSION
from collapselab.evaluation.rows import sample_tokens
from collapselab.evaluation.under_first import check_embeddings
from collapselab.judging.curation import draws
from collapselab.judging.judges import check_judges
from collapselab.learning.learners import learner_of
from collapselab.mixing import sets
from collapselab.mixing.regimes import REGIMES
from collapselab.mixing.sets import Past
from collapselab.models import families, pretrained
from collapselab.runtime.memory import check_memory
from collapselab.store import folders, layout
from collapselab.store.checks import refuse_links
from collapselab.store.layout import Chain
from collapselab.store.seals import recorded

NO_PAST = Past([], [], 0)
SCORES = 2 << 20  # bytes of a generation's scores, explorer (20 KB), mixture and log: the most in a usual run
REPORT = 6 << 20  # bytes of a run's report: the page includes a library of 4.7 MB, PNGs and tables take half a MB
PAIR = 16  # bytes of a pair of tokens and its count, and of a block's source and place
CHECKPOINT = 3  # times the weights: the weights and two moments


@dataclass(frozen=True)
class Preflight:
    """A checked chain and its needs."""

    config: RunConfig
    corpus: Corpus
    chain: Chain
    fork: tuple[Path, int] | None
    """(chain, generation) to start from."""
    budget: int
    """Tokens that a generation writes, prompts included."""
    sizes: list[int]
    """Blocks of the training set of every generation."""
    shares: list[float | None]
    """Real share of every generation: realised if it exists, else scheduled; None if the regime's pool decides."""
    finished: int
    """Number of generations that are finished, or that a fork copies."""
    real_needed: int
    """Tokens of real text that the whole chain shows; only for `run`, as are disk space and note."""
    real_available: int
    """Tokens in whole blocks of the training split."""
    sample_tokens: int
    """Generated tokens that the sample metrics use."""
    disk_needed: int
    """Bytes that the remaining generations take."""
    disk_free: int
    """Bytes free for them."""
    note: str
    """Caveat about a pretrained model; empty without one."""


def preflight(
    config: RunConfig,
    corpus: Corpus,
    chain: Chain,
    fork: tuple[Path, int] | None = None,
    verb: Literal["run", "sample", "eval"] = "run",
) -> Preflight:
    """Check, before anything is written, everything that would stop a chain later. Raises UserError.

    Args:
        fork: (chain, generation) to start from.
        verb: `sample` and `eval` skip what only `run` needs, for they begin no generation; `sample` also skips the scores.
    """
    runs, vocab, block = verb == "run", corpus.tokenizer.size, config.training.block
    if verb != "eval":
        check_lengths(config, corpus.tokenizer)
    chain.judged = config.judged
    if config.judged:
        check_judges(config, corpus)
    if runs and config.model.pretrained is None:
        families.check_size(config.model, vocab=vocab, context=block)
    available = sets.blocks_available(corpus.train, config)
    past = past_sets(chain, fork)
    needed = check_supply(config, available, past) if runs else 0
    budget = sets.sample_budget(config, available)
    check_repeats(config, budget)
    count = sample_tokens(config, corpus, budget) if verb != "sample" else 0
    if verb != "sample":
        check_embeddings(config, corpus, budget)
    if runs:
        check_version(chain)
    check_vocabulary(chain, vocab)
    done = fork[1] + 1 if fork and recorded(chain.root) is None else len(chain.finished())
    sizes = sets.set_blocks(config, available, past.blocks)[: config.generations + 1]
    disk = bytes_needed(config, vocab, budget, sizes[done:], done == 0) if runs else 0
    free = check_space(config, chain, disk, done) if runs else 0
    planned = [real_share(config.mixing, g, config.generations) for g in range(config.generations + 1)]
    shares = [*past.shares, *planned[len(past.shares) :]][: len(planned)]
    note = _note(config, corpus) if runs else ""
    return Preflight(
        config, corpus, chain, fork, budget, sizes, shares, done, needed * block, available * block, count, disk, free, note
    )  # fmt: skip


def past_sets(chain: Chain, fork: tuple[Path, int] | None) -> Past:
    """Existing training sets of the chain, or of the parent that a fork will copy."""
    refuse_links(chain.root, layout.run_root(chain.root))
    source, last = chain, 10**9
    if recorded(chain.root) is None and fork is not None:
        refuse_links(fork[0], layout.run_root(fork[0]))
        source, last = Chain(fork[0]), fork[1]
    past = Past([], [], 0)
    for g in range(last + 1):
        folder = source.stage(g, "mixture")
        if folders.read_published(folder, "mixture.json") is None:
            break
        facts = sets.read_mixture(folder)
        shares, blocks = [*past.shares, facts["real_share"]["realised"]], [*past.blocks, facts["blocks"]]
        past = Past(shares, blocks, facts["real_blocks_used"])
    return past


def check_lengths(config: RunConfig, tokenizer: Tokenizer | None = None) -> None:
    """Refuse sequences longer than a pretrained model reads, and tokenizers with more tokens than it has."""
    if config.model.pretrained is None:
        return
    _, longest, vocab = pretrained.size_of(config.model.pretrained)
    if tokenizer is not None:
        pretrained.check_vocabulary(vocab, tokenizer, config.model.pretrained)
    lengths = {
        "training.block": config.training.block,
        "sampling.length": config.sequence_length,
        "evaluation.context": config.evaluation.context or config.training.block,
    }
    for key, value in lengths.items():
        if longest is not None and value > longest:
            raise UserError(f"{key}={value}: {config.model.pretrained} reads at most {longest} tokens; lower it")


def _note(config: RunConfig, corpus: Corpus) -> str:
    if config.model.pretrained is None:
        return ""
    if pretrained.has_seen_only(config.model.pretrained, corpus):
        return "note: the pretrained model was trained by this lab on this corpus's training split, not on the held-out text"
    return "note: the pretrained model may have seen the held-out text; its perplexity can look better than on new text"


def check_supply(config: RunConfig, available: int, past: Past = NO_PAST) -> int:
    """Count the blocks of real text that the whole chain shows. Raises UserError if real text or samples run out.

    Args:
        past: training sets that exist already (a resumed chain, a fork).
    """
    size, block, done = sets.set_size(config, available), config.training.block, len(past.blocks)
    sizes, regime = sets.set_blocks(config, available, past.blocks), REGIMES[config.mixing.regime]
    left = range(max(1, done), config.generations + 1)
    needs = [regime.needs(sets.outlook(config, available, g, sizes[g - 1])) for g in left]
    later = [each.real if config.mixing.real == "fresh" else 0 for each in needs]
    shown = past.used if done else size
    need = shown + sum(later)
    if need > available:
        most = int(available / (need / size)) * block
        raise UserError(
            f"mixing.tokens={config.mixing.tokens}: the chain needs {need * block:,} tokens of real text never shown before, "
            f"the training split has {available * block:,}; lower mixing.tokens to at most {most}, or set mixing.real=reuse"
        )
    if config.sampling.source == "real":
        need += check_control(config, available, shown, later)
    budget = sets.sample_budget(config, available)
    check_sizes(config, max(sizes[done:], default=size), budget)
    written = budget // block
    if real_share(config.mixing, config.generations, config.generations) is None and not written:
        raise UserError(
            f"sampling.tokens={config.sampling.tokens}: less than one block of {block} tokens, so nothing would be "
            "accumulated; raise it or leave it null"
        )
    least = max((each.written for each in needs), default=0)
    if written < least:
        lower = "" if config.mixing.has_schedule else "".join(f", or lower mixing.{key}" for key in regime.keys)
        raise UserError(
            f"sampling.tokens={config.sampling.tokens}: a generation needs {least * block} tokens written by the previous "
            f"one; raise sampling.tokens or leave it null{lower}"
        )
    return need


def check_control(config: RunConfig, available: int, shown: int, later: list[int]) -> int:
    """Count the real blocks that replace samples in an all-real control (`sampling.source=real`).

    Raises UserError if there are too few, naming the generation that they suffice for.

    Args:
        shown: real blocks of the training sets that exist, or of generation 0's.
        later: real blocks that each further set takes by its schedule.
    """
    generations, block = config.generations, config.training.block
    written = sets.sample_budget(config, available) // block
    taken = [shown] * (generations - len(later)) + list(accumulate(later, initial=shown))[1:]
    reached = next((g - 1 for g, blocks in enumerate(taken, 1) if blocks + g * written > available), generations)
    if reached < generations:
        raise UserError(
            f"sampling.source='real': each generation gives {written * block:,} tokens of real text never shown before, and the "
            f"training split of {available * block:,} reaches generation {reached}; set generations={reached} for this arm, "
            "or lower mixing.tokens"
        )
    return generations * written


def check_sizes(config: RunConfig, size: int, budget: int) -> None:
    """Refuse settings whose batch order, prompts or cache of one sampling batch do not fit into memory."""
    training, sampling = config.training, config.sampling
    key = "epochs" if training.tokens is None else "tokens"
    shown = sets.shows(config, size, 1)
    check_memory(16 * shown, f"training.{key}", getattr(training, key), f"the order of {shown:,} blocks")
    batch, sequences = sampling.batch_size or 1, -(-budget // config.sequence_length)
    rows = -(-sequences // batch) * batch  # the last batch is computed in full
    key = "tokens" if sequences >= batch else "batch_size"
    prompts = 32 * rows * max(1, config.prompt_length)
    check_memory(prompts, f"sampling.{key}", getattr(sampling, key), f"the prompts of {rows:,} sequences")
    model = config.model
    if model.pretrained is None and FAMILIES[model.family].layers:
        factors = {
            "sampling.batch_size": batch,
            "sampling.beams": sampling.beams,
            "sampling.length": config.sequence_length,
            "model.layers": model.layers,
            "model.width": model.width // model.heads * (model.kv_heads or model.heads),
        }
        key = max(factors, key=lambda name: factors[name])
        what = f"keys and values of {batch * sampling.beams:,} sequences side by side"
        needed = 4 * math.prod(factors.values())  # at least two bytes each
        check_memory(needed, key, factors[key], what, on_device=True)


def check_repeats(config: RunConfig, budget: int) -> None:
    """Refuse a number of sequences that cuts the last group of one prompt."""
    repeats, sequences = config.sampling.repeats, -(-budget // config.sequence_length)
    if sequences % repeats:
        raise UserError(f"sampling.repeats={repeats}: must divide the {sequences:,} sequences that a generation writes")


def check_version(chain: Chain) -> None:
    """Refuse to overwrite scores that another version of the metrics computed."""
    manifest = folders.manifest_of(chain.stage(0, "eval"), check="nothing")
    version = manifest and manifest["inputs"].get("metrics")
    if version and version != str(METRICS_VERSION):
        raise UserError(
            f"{chain.root}: scored by metrics version {version}, this is {METRICS_VERSION}; `collapselab eval` re-scores it next "
            "to the old scores; to continue the chain, remove its reference/ and gen_*/eval (or fork it under another name)"
        )


def check_vocabulary(chain: Chain, size: int) -> None:
    """Refuse a chain whose samples have another vocabulary size than the tokenizer's `size`."""
    g = 0
    while (folder := chain.stage(g, "samples")).is_dir():
        g += 1
        if folders.read_published(folder, "meta.json") is None:  # damaged; rebuilt when its stage is reached
            continue
        if (vocab := sets.read_meta(folder)["vocab"]) != size:
            raise UserError(
                f"{folder}: written with {vocab} tokens, the tokenizer has {size}; remove it to have it rebuilt"
            )


def weight_bytes(config: RunConfig, vocab: int, blocks: int) -> int:
    """Bytes of a published model that learned from so many blocks, computed without building one."""
    if config.model.pretrained is not None:
        return 4 * pretrained.size_of(config.model.pretrained)[0]
    context, tokens = config.model.context or config.training.block, blocks * config.training.block
    return families.published_bytes(config.model, vocab=vocab, context=context, tokens=tokens)


def bytes_needed(config: RunConfig, vocab: int, budget: int, left: list[int], fresh: bool) -> int:
    """Bytes of the remaining generations of a chain, including unfinished stages and the run's report.

    Args:
        budget: tokens that a generation writes. left: blocks in the training set of each remaining generation.
        fresh: generation 0 is among them.
    """
    if not left:
        return 0
    count, weights = len(left), weight_bytes(config, vocab, max(left))
    # The newest, the previous one while it is trained, the last end.
    models = count if config.retain == "all" else min(count, 3)
    text = budget * (2 if vocab <= 1 << 16 else 4)
    learner = learner_of(config)
    checkpoints = 2 * CHECKPOINT * weights if learner.keeps_checkpoints else 0
    reference = PAIR * min(vocab * vocab, left[0] * config.training.block) if fresh else 0
    judged = 0
    if (
        config.judged
    ):  # a text of its own, and the least that its judges look at, in eight bytes a token until it is published
        drawn = draws(config.judging, -(-budget // config.sequence_length))[0]
        judged = (count + 1) * text + 8 * (config.sequence_length + 1) * drawn
    written = (count + 1) * text + judged
    return models * weights + written + checkpoints + reference + PAIR * sum(left) + count * SCORES + REPORT


def check_space(config: RunConfig, chain: Chain, needed: int, done: int) -> int:
    """Count the bytes free for the rest of a chain. Raises UserError if they are fewer than `needed`.

    Args:
        done: finished generations; existing files of the next one count as free, since they are not written again.
    """
    free = free_at(chain.root) + sum(path.stat().st_size for path in chain.generation(done).rglob("*"))
    if needed > free:
        other = "" if config.retain != "all" else ", or set retain=last"
        raise UserError(
            f"runs_dir={config.runs_dir!r}: the chain takes about {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; "
            f"free some, lower generations or mixing.tokens{other}"
        )
    return free


def free_at(path: Path) -> int:
    """Free bytes on the disk of a path that need not exist yet."""
    place = path.absolute()
    return shutil.disk_usage(next(each for each in (place, *place.parents) if each.exists())).free
