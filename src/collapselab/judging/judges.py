"""Judges: functions of a batch of episodes to a score for each, nan where they abstain."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from collapselab.config import RunConfig, UserError, first_line
from collapselab.config.plugins import Records, fault
from collapselab.judging.detector import detector
from collapselab.judging.episodes import Episodes, Reader
from collapselab.judging.noise import noisy, numbered_uniforms
from collapselab.languages import language_of
from collapselab.tasks.tasks import task_of

Judge = Callable[[Episodes, Reader], np.ndarray]
"""(episodes, reader) -> float64 (n,): the score of each sequence, nan to abstain. Scores lie in [0, 1], except under
`keep: top_share`, where only their order counts."""


def randomly(episodes: Episodes, reader: Reader) -> np.ndarray:
    """Give each sequence a uniform random number, the same whatever is judged with it."""
    return numbered_uniforms(reader, episodes, "judge/random")


def likelihood(episodes: Episodes, reader: Reader) -> np.ndarray:
    """Mean probability per written token (geometric) under `judging.model`."""
    return np.asarray(np.exp(-reader.nll(episodes, reader.config.judging.model)))


def surprise(episodes: Episodes, reader: Reader) -> np.ndarray:
    """One minus the mean probability per token under the model that wrote: surprising text first (Gambetta et al. 2024)."""
    return np.asarray(1 - np.exp(-reader.nll(episodes, "newest")))


def valid(episodes: Episodes, reader: Reader) -> np.ndarray:
    """1 for documents that the known language can produce, else 0; with the errors of the settings."""
    assert reader.language is not None
    exact = np.isfinite(reader.language.log_probabilities(reader.texts(episodes)))
    return noisy(exact, *reader.truth(episodes), episodes, reader)


def answer(episodes: Episodes, reader: Reader) -> np.ndarray:
    """1 for correct answers of the task, else 0; with the errors of the settings."""
    classes, answers = reader.truth(episodes)
    return noisy(classes == 1, classes, answers, episodes, reader)


def majority(episodes: Episodes, reader: Reader) -> np.ndarray:
    """1 for the most frequent continuation of a prompt, 0 for others; tied ones share the 1, so that none wins by its place."""
    written = episodes.ids[:, episodes.head :]
    pairs = np.column_stack([episodes.group, written])
    _, which, count = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    which = np.asarray(which).ravel()
    votes = count[which]
    top = np.zeros(int(episodes.group.max(initial=0)) + 1, np.int64)
    np.maximum.at(top, episodes.group, votes)
    wins = votes == top[episodes.group]
    winners = np.zeros(len(top))
    first = np.zeros(len(count), bool)
    first[which[wins]] = True
    group_of = np.zeros(len(count), np.int64)
    group_of[which] = episodes.group
    np.add.at(winners, group_of[first], 1)
    return np.where(wins, 1 / winners[episodes.group], 0.0)


def duplicate(episodes: Episodes, reader: Reader) -> np.ndarray:
    """0 for near-duplicates of a sequence drawn before, else 1: Jaccard index of word triples of about .8 or more (MinHash;
    Broder 1997)."""
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        raise UserError("judge 'duplicate': needs datasketch; run `pip install datasketch`") from None
    index, scores = MinHashLSH(threshold=0.8, num_perm=128), np.ones(len(reader.earlier) + len(episodes))
    before = Episodes(reader.earlier, episodes.head, *[np.arange(len(reader.earlier))] * 2)
    for at, text in enumerate([*reader.texts(before), *reader.texts(episodes)]):
        words = text.split()
        hashed = MinHash(num_perm=128, seed=1)
        hashed.update_batch([" ".join(words[i : i + 3]).encode() for i in range(max(1, len(words) - 2))])
        if index.query(hashed):
            scores[at] = 0.0
        else:
            index.insert(str(at), hashed)
    return scores[len(reader.earlier) :]


JUDGES: Records[Judge] = Records("judge", {
    "random": randomly, "likelihood": likelihood, "surprise": surprise, "valid": valid, "answer": answer, "majority": majority,
    "detector": detector,
    "duplicate": duplicate,
})  # fmt: skip


def check_judges(config: RunConfig) -> None:
    """Raise UserError for a judge that nobody has registered, or that has nothing to judge by in this chain."""
    judges, source = config.judging.judges, config.corpus.source
    for name in judges:
        if name not in JUDGES:
            raise UserError(
                f"judging.judges: no judge {name!r}; there are {', '.join(JUDGES)}, and a plugin's (--plugin)"
            )
    documents = config.mixing.unit == "documents"
    if "valid" in judges and not (documents and language_of(config.corpus) is not None):
        raise UserError(f"judging.judges: valid needs a known language and mixing.unit=documents, not {source!r}")
    if "answer" in judges and not (documents and task_of(config.corpus) is not None):
        raise UserError(f"judging.judges: answer needs a task and mixing.unit=documents, not {source!r}")
    if "majority" in judges and config.sampling.prompt == "bos":
        raise UserError("sampling.prompt='bos': majority votes on continuations of a prompt; set real_prefix")


@contextmanager
def time_limit(seconds: float, name: str) -> Iterator[None]:
    """Raise UserError in the main thread if the block takes longer."""

    def late(*_: Any) -> None:
        raise UserError(f"judging.seconds={seconds:g}: judge {name!r} has not answered; raise it or mend the judge")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def scores_of(name: str, episodes: Episodes, reader: Reader) -> np.ndarray:
    """Ask a judge, float64 (n,). Raises UserError if it fails or answers with anything but a score for each sequence: what it
    did not judge is no score of 0."""
    settings = reader.config.judging
    try:
        with time_limit(settings.seconds, name):
            found = JUDGES[name](episodes, reader)
    except UserError:
        raise
    except Exception as error:
        raise UserError(fault(error) or f"judge {name!r} failed ({first_line(error)}); mend it") from None
    remedy = f"it must return {len(episodes)} numbers, nan where it abstains"
    if not isinstance(found, np.ndarray | list | tuple):
        raise UserError(f"judge {name!r} returned {type(found).__name__}; {remedy}")
    scores = np.asarray(found)
    if scores.shape != (len(episodes),) or scores.dtype.kind not in "fiub":
        raise UserError(f"judge {name!r} returned {scores.dtype} of shape {scores.shape}; {remedy}")
    scores = scores.astype(np.float64)
    outside = np.isinf(scores) | ((scores < 0) | (scores > 1) if settings.keep != "top_share" else False)
    if outside.any():
        raise UserError(
            f"judge {name!r} returned {scores[outside][0]:g}; with judging.keep={settings.keep} scores lie in [0, 1]"
        )
    silent = float(np.isnan(scores).mean()) if len(scores) else 0.0
    if silent > settings.abstained:
        raise UserError(
            f"judging.abstained={settings.abstained:g}: judge {name!r} abstained on {silent:.0%} of {len(scores)} sequences; "
            "mend the judge, or raise it"
        )
    return scores


def committee(judges: dict[str, np.ndarray], rule: str | None, threshold: float) -> np.ndarray:
    """Combine the scores of several judges, float64 (n,). A sequence on which a member abstains is judged by the others; on
    which all abstain, by none."""
    votes = np.stack(list(judges.values()))
    if rule is None:
        return np.asarray(votes[0])
    counted = ~np.isnan(votes)
    n = counted.sum(0)
    with np.errstate(invalid="ignore"):
        if rule == "all":
            least = np.where(counted, votes, np.inf).min(0)
            return np.where(n > 0, least, np.nan)
        of = (votes >= threshold).astype(float) if rule == "majority" else votes
        return np.asarray(np.where(counted, of, 0).sum(0) / np.where(n > 0, n, np.nan))
