"""Judges: functions of a batch of episodes to a score for each, nan where they abstain."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

from collapselab.config import RunConfig, UserError, first_line
from collapselab.config.plugins import Records, fault
from collapselab.corpus.prepared import Corpus
from collapselab.evaluation.asking import one_token_per_word, verifier_of
from collapselab.judging.detector import detector
from collapselab.judging.episodes import Episodes, Reader, asked_model, named_model
from collapselab.judging.noise import noisy, numbered_uniforms
from collapselab.judging.play import play
from collapselab.languages import language_of
from collapselab.languages.games import Game
from collapselab.models.pretrained import content_digest
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


def p_true(episodes: Episodes, reader: Reader) -> np.ndarray:
    """Probability of `right` under `judging.model`, asked whether each answer is right or wrong: P(True) of Kadavath et al.
    (2022). It abstains where no answer can be read."""
    return reader.p_right(episodes, reader.config.judging.model)


def valid(episodes: Episodes, reader: Reader) -> np.ndarray:
    """1 for documents that the known language can produce, else 0; with the errors of the settings."""
    classes, answers = reader.truth(episodes)
    assert reader.language is not None and classes is not None
    exact = np.isfinite(reader.language.log_probabilities(reader.texts(episodes)))
    return noisy("valid", exact, classes, answers, episodes, reader)


def answer(episodes: Episodes, reader: Reader) -> np.ndarray:
    """1 for correct answers of the task, else 0; with the errors of the settings."""
    classes, answers = reader.truth(episodes)
    assert classes is not None
    return noisy("answer", classes == 1, classes, answers, episodes, reader)


def majority(episodes: Episodes, reader: Reader) -> np.ndarray:
    """1 for the most frequent answer to a prompt, 0 for others; tied ones share the 1, so that none wins by its place. An
    answer that cannot be read has no vote; without a task the written tokens are the answer."""
    answers = [row.tobytes().hex() for row in episodes.ids[:, episodes.head :]]
    classes, read = reader.truth(episodes) if reader.task is not None else (None, [])
    if classes is not None:
        answers = ["" if kind < 0 else text for text, kind in zip(read, classes, strict=True)]
    votes = Counter((g, one) for g, one in zip(episodes.group.tolist(), answers, strict=True) if one)
    most, tied = dict[int, int](), Counter[int]()
    for (group, _), count in votes.items():
        most[group] = max(count, most.get(group, 0))
    for (group, _), count in votes.items():
        tied[group] += count == most[group]
    wins = [one and votes[g, one] == most[g] for g, one in zip(episodes.group.tolist(), answers, strict=True)]
    return np.array([1 / tied[g] if win else 0.0 for g, win in zip(episodes.group.tolist(), wins, strict=True)])


def duplicate(episodes: Episodes, reader: Reader) -> np.ndarray:
    """0 for near-duplicates of a sequence drawn before, else 1: Jaccard index of word triples of about .8 or more (MinHash;
    Broder 1997)."""
    from datasketch import MinHash, MinHashLSH

    before = [text for rows in reader.earlier for text in reader.texts(Episodes.of(rows, episodes.head, 0))]
    index, scores = MinHashLSH(threshold=0.8, num_perm=128), np.ones(len(before) + len(episodes))
    for at, text in enumerate([*before, *reader.texts(episodes)]):
        words = text.split()
        hashed = MinHash(num_perm=128, seed=1)
        hashed.update_batch([" ".join(words[i : i + 3]).encode() for i in range(max(1, len(words) - 2))])
        if index.query(hashed):
            scores[at] = 0.0
        else:
            index.insert(str(at), hashed)
    return scores[len(before) :]


JUDGES: Records[Judge] = Records("judge", {
    "random": randomly, "likelihood": likelihood, "surprise": surprise, "p_true": p_true, "valid": valid, "answer": answer,
    "majority": majority, "detector": detector, "duplicate": duplicate, "play": play,
})  # fmt: skip


LIBRARIES = {"duplicate": "datasketch", "detector": "sklearn"}


def check_judges(config: RunConfig, corpus: Corpus) -> None:
    """Raise UserError for a judge that nobody has registered, or that has nothing to judge by in this chain."""
    settings, source = config.judging, config.corpus.source
    for name in settings.judges:
        if name not in JUDGES:
            raise UserError(
                f"judging.judges: no judge {name!r}; there are {', '.join(JUDGES)}, and a plugin's (--plugin)"
            )
        if (library := LIBRARIES.get(name, "")) and find_spec(library) is None:
            raise UserError(f"judging.judges: {name} needs {library}; run `pip install collapselab[judges]`")
    documents, judges = config.mixing.unit == "documents", {*settings.judges}
    if "valid" in judges and not (documents and language_of(config.corpus) is not None):
        raise UserError(f"judging.judges: valid needs a known language and mixing.unit=documents, not {source!r}")
    if "answer" in judges and not (documents and task_of(config.corpus) is not None):
        raise UserError(f"judging.judges: answer needs a task and mixing.unit=documents, not {source!r}")
    if "play" in judges and not (documents and isinstance(language_of(config.corpus), Game)):
        raise UserError(f"judging.judges: play needs a game and mixing.unit=documents, not {source!r}")
    if "p_true" in judges:
        asks = verifier_of(language := language_of(config.corpus))
        if not (documents and asks and language and one_token_per_word(corpus, language)):
            raise UserError(
                "judging.judges: p_true needs text that says whether it is right; set corpus.addition.verification or "
                "corpus.facts.verification, and mixing.unit=documents"
            )
    prompted = config.sampling.prompt != "bos"
    if "majority" in judges and not (prompted and config.sampling.repeats > 1):
        raise UserError(
            f"sampling.repeats={config.sampling.repeats}: majority votes among the answers to one prompt; set 2 or more, and a "
            "sampling.prompt other than bos"
        )
    whens = [pattern.get("when", {}) for pattern in settings.errors]
    if not prompted and any("prompt_share" in when for when in whens):
        raise UserError("judging.errors: prompt_share needs prompts; set another sampling.prompt than bos")
    if task_of(config.corpus) is None:
        if any("difficulty" in when for when in whens):
            raise UserError(f"judging.errors: difficulty needs a task, not {source!r}; leave it out")
        if any(when.get("class") in ("hack", "unreadable") for when in whens):
            raise UserError(f"judging.errors: text of {source!r} is wrong or correct; name one of these classes")
    if reads_model(config):
        named_model(config, corpus)


def reads_model(config: RunConfig) -> bool:
    """Return True if `judging.model` may be asked: by `likelihood`, `p_true` or a plugin's judge, or by token editing."""
    settings, plugins = config.judging, JUDGES.keys() - JUDGES.own
    return settings.keep == "edit" or bool({*settings.judges} & {"likelihood", "p_true", "play", *plugins})


def model_digest(config: RunConfig) -> str | None:
    """Digest of the folder in `judging.model`; None if the model is one of the chain's own, or nobody asks it."""
    folder = asked_model(config) if reads_model(config) else None
    return None if folder is None else content_digest(folder)


class _LateError(BaseException):
    """A judge has taken too long; no judge catches it by mistake."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise _LateError in the main thread if the block takes longer, and again every second."""

    def late(*_: Any) -> None:
        raise _LateError

    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def scores_of(name: str, episodes: Episodes, reader: Reader) -> np.ndarray:
    """Ask a judge, float64 (n,). Raises UserError if it fails or answers with anything but a score for each sequence: what it
    did not judge is no score of 0. A plugin's judge that raises on some prompts abstains on those."""
    settings = reader.config.judging
    try:
        with time_limit(settings.seconds):
            scores = _asked(name, episodes, reader)
    except UserError:
        raise
    except _LateError:
        raise UserError(
            f"judging.seconds={settings.seconds:g}: judge {name!r} has not answered; raise it, or fix the judge"
        ) from None
    except (Exception, SystemExit) as error:
        raise UserError(fault(error) or f"judge {name!r} failed ({first_line(error)[:150]}); fix it") from None
    outside = np.isinf(scores) | ((scores < 0) | (scores > 1) if settings.keep != "top_share" else False)
    if outside.any():
        raise UserError(
            f"judge {name!r} returned {scores[outside][0]:g}; with judging.keep={settings.keep} scores lie in [0, 1]"
        )
    silent = float(np.isnan(scores).mean()) if len(scores) else 0.0
    if silent > settings.abstained:
        raise UserError(
            f"judging.abstained={settings.abstained:g}: judge {name!r} abstained on {silent:.0%} of {len(scores)} sequences; "
            "fix the judge, or raise it"
        )
    return scores


def _asked(name: str, episodes: Episodes, reader: Reader) -> np.ndarray:
    """Ask a judge; where a plugin's raises, ask again by halves, down to single prompts, which then have no verdict (nan). Raises
    its first exception once more sequences than `judging.abstained` allows have none."""
    every, of = np.arange(len(episodes)), episodes.group
    if len(episodes) and (of == of[0]).all():
        of = episodes.number  # without different prompts a sequence is judged by itself
    out, left, error = np.full(len(episodes), np.nan), [every], None
    while left:
        rows = left.pop(0)
        try:
            found = JUDGES[name](episodes if len(rows) == len(every) else episodes.part(rows), reader)
        except UserError:
            raise
        except (Exception, SystemExit) as raised:
            error, units = error or raised, np.unique(of[rows])
            lost = int(np.isnan(out).sum() - sum(map(len, left))) if len(units) == 1 else 0
            if name in JUDGES.own or lost > reader.config.judging.abstained * len(every):
                raise error from None
            low = of[rows] < units[len(units) // 2]
            left = [part for part in (rows[low], rows[~low]) if len(units) > 1] + left
            continue
        out[rows] = _checked(name, found, len(rows))
    return out


def _checked(name: str, found: Any, count: int) -> np.ndarray:
    """Return what a judge answered as float64 (count,). Raises UserError if it is nothing of the kind."""
    remedy = f"it must return {count} numbers, nan where it abstains"
    if not isinstance(found, np.ndarray | list | tuple):
        raise UserError(f"judge {name!r} returned {type(found).__name__}; {remedy}")
    scores = np.asarray(found)
    if scores.shape != (count,) or scores.dtype.kind not in "fiub":
        raise UserError(f"judge {name!r} returned {scores.dtype} of shape {scores.shape}; {remedy}")
    return scores.astype(np.float64)


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
