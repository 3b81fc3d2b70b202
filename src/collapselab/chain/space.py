"""Room on the disk: what a chain will take, and a refusal before the start where there is not as much."""

from __future__ import annotations

import shutil
from pathlib import Path

from collapselab.config import RunConfig, UserError
from collapselab.corpus.prepared import Corpus
from collapselab.models import families
from collapselab.models.pretrained import size_of
from collapselab.store.layout import Chain

SCORES = 2 << 20  # bytes of a generation's scores, explorer (20 KB), mixture and log, at most in a usual run
REPORT = 6 << 20  # of a run's report: the page brings a library of 4.7 MB along, PNGs and tables take half a MB
PAIR = 16  # bytes of a pair of tokens and its count, and of a block's source and place
CHECKPOINT = 3  # times the weights: the weights and two moments


def weight_bytes(config: RunConfig, vocab: int, blocks: int) -> int:
    """Bytes of a published model, without building one.

    Args:
        blocks: of a training set, which bound the pairs that a bigram model counts.
    """
    if config.model.family == "bigram":
        return 12 * min(vocab * vocab, blocks * config.training.block) + 16 * vocab
    if config.model.pretrained is not None:
        return 4 * size_of(config.model.pretrained)[0]
    return 4 * families.parameters(config.model, vocab=vocab, context=config.model.context or config.training.block)


def needed(config: RunConfig, weights: int, vocab: int, budget: int, sets: list[int], fresh: bool) -> int:
    """Bytes that a chain takes for its generations that are left, unfinished stages and the report of its run included.

    Args:
        weights: bytes of a published model. budget: tokens that a generation writes.
        sets: blocks of the training set of each generation. fresh: generation 0 is among them.
    """
    left = len(sets)
    if not left:
        return 0
    models = (
        left if config.retain == "all" else min(left, 3)
    )  # the newest, the one before while it is trained, the last end
    text = budget * (2 if vocab <= 1 << 16 else 4)
    checkpoints = 0 if config.model.family == "bigram" else 2 * CHECKPOINT * weights
    reference = PAIR * min(vocab * vocab, sets[0] * config.training.block) if fresh else 0
    return models * weights + (left + 1) * text + checkpoints + reference + PAIR * sum(sets) + left * SCORES + REPORT


def check_space(config: RunConfig, chain: Chain, corpus: Corpus, budget: int, done: int, blocks: list[int]) -> None:
    """Raises UserError where the disk has less room than the rest of a chain takes.

    Args:
        done: generations that are finished; of the next one, what is there already is not needed again. blocks: of
            the training set of every generation.
    """
    vocab = corpus.tokenizer.size
    sets = blocks[done : config.generations + 1]
    weights = weight_bytes(config, vocab, max(sets, default=0))
    wanted = needed(config, weights, vocab, budget, sets, done == 0)
    free = free_at(chain.root) + sum(path.stat().st_size for path in chain.generation(done).rglob("*"))
    if wanted > free:
        other = "" if config.retain != "all" else ", or set retain=last"
        raise UserError(
            f"runs_dir={config.runs_dir!r}: the chain takes about {wanted / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; "
            f"free some, lower generations or mixing.tokens{other}"
        )


def free_at(path: Path) -> int:
    """Free bytes on the disk that a path lies on or will lie on."""
    return shutil.disk_usage(path if path.exists() else _existing(path.absolute())).free


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
