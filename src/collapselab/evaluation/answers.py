"""Exact laws of a model's answers to problems: the probability of every answer, read from its logits."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np

from collapselab.corpus.prepared import Corpus
from collapselab.evaluation.asking import next_words
from collapselab.languages.addition import Addition
from collapselab.languages.answers import CLASSES
from collapselab.languages.games import WIN, Game
from collapselab.languages.modular import Modular
from collapselab.models.network import LanguageModel
from collapselab.runtime.parallel import Processes
from collapselab.seeds import generator

MOST_PROBLEMS = 128  # of a language with more of them than MOST_IN_ALL: the first different ones of the held-out text
MOST_IN_ALL = 1024
MOST_ANSWERS = 1024  # beyond, a language has no exact law: a step reads problems x answers
ATTEMPTS = (1, 4, 16, 64, 256)  # k of pass@k
VOTES = 512  # simulated per problem: a standard error of at most .002 of the mean over 128 problems

Scores = tuple[dict[str, Any], dict[str, float]]


def answer_scores(
    model: LanguageModel,
    corpus: Corpus,
    language: Addition | Modular,
    split: str,
    votes: int | None,
    processes: Processes,
) -> Scores:
    """Scores of the exact law of the answers; nothing for a language with more than MOST_ANSWERS answers.

    Args:
        votes: size of a group of samples of one problem, whose most frequent answer wins (ties at random); None: no vote.

    Returns (sums, values): `task/problems` and, with `votes`, `task/won`, lists (problems, classes and unreadable) of the
    probability of each class for an answer and for the winner of a vote; `task/p_{class}`, means over the problems;
    `task/pass_at_{k}`, probability that k independent answers hold a correct one; `task/mode_right`, share of the problems whose
    most probable answer is correct (tied ones share); `task/confidence`, mean probability of the most probable answer;
    `task/same_answer`, probability that two problems have the same most probable answer.
    """
    if language.numbers > MOST_ANSWERS:
        return {}, {}
    problems = problems_of(language, split)
    law = answer_law(model, corpus, [language.problem(*one) for one in problems], language.endings, processes)
    right = np.array([language.solution(*one) for one in problems])
    hack = np.array([language.hack_of(*one) for one in problems])
    names, shares = (*CLASSES, "unreadable"), _by_class(law, right, hack)
    values = {f"p_{name}": float(p) for name, p in zip(names, shares.mean(0), strict=True)}
    p = shares[:, 1]
    values |= {f"pass_at_{k}": float(-np.expm1(k * np.log1p(-np.minimum(p, 1 - 1e-16))).mean()) for k in ATTEMPTS}
    best = law == law.max(1, keepdims=True)
    best = best / best.sum(1, keepdims=True)
    values["mode_right"] = float(best[np.arange(len(p)), right].mean())
    values["confidence"] = float(law.max(1).mean())
    values["same_answer"] = _same(best)
    sums: dict[str, Any] = {"task/problems": shares.tolist()}
    if votes is not None:
        sums["task/won"] = _by_class(vote_winners(law, votes), right, hack).tolist()
    return sums, {f"task/{key}": value for key, value in values.items()}


def move_scores(model: LanguageModel, corpus: Corpus, game: Game, processes: Processes) -> Scores:
    """Scores of the exact law of the moves in all positions of a game.

    Returns (sums, values): `task/moves`, a list (positions) of the probability of an optimal move; `task/p_correct`, its mean over
    the positions, and `task/p_correct_won` over those that can be won; `task/p_illegal`, mean probability of a move that is none or
    is not legal; `task/mode_right_won`, share of the positions that can be won whose most probable move is optimal.
    """
    moves = game.endings
    law = answer_law(
        model,
        corpus,
        [game.problem(one) for one in game.positions],
        [game.move_written(move) for move in moves],
        processes,
    )
    place = {move: column for column, move in enumerate(moves)}
    best, legal = np.zeros(law.shape, bool), np.zeros(law.shape, bool)
    for row, position in enumerate(game.positions):
        best[row, [place[move] for move in game.optimal(position)]] = True
        legal[row, [place[move] for move in game.moves(position)]] = True
    p, won = (law * best).sum(1), np.array([game.values[position] == WIN for position in game.positions])
    modes = best[np.arange(len(law)), law.argmax(1)]
    values = {"p_correct": p.mean(), "p_correct_won": p[won].mean(), "p_illegal": 1 - (law * legal).sum(1).mean()}
    values["mode_right_won"] = modes[won].mean()
    return {"task/moves": p.tolist()}, {f"task/{key}": float(value) for key, value in values.items()}


def problems_of(language: Addition | Modular, split: str) -> list[tuple[int, int]]:
    """Problems whose answers are read: all of a small language, else the first different ones of the held-out text."""
    if isinstance(language, Modular) and language.operands**2 <= MOST_IN_ALL:
        return [(a, b) for a in range(language.operands) for b in range(language.operands)]
    found = (language.read(document) for document in language.documents(8 * MOST_PROBLEMS, split))
    return list(islice(dict.fromkeys(one[:2] for one in found if one), MOST_PROBLEMS))


def answer_law(
    model: LanguageModel, corpus: Corpus, heads: list[str], endings: list[str], processes: Processes
) -> np.ndarray:
    """Probability of each ending after each head, float64 (heads, endings); heads have equal lengths, endings too. Beginnings
    that endings share are read once."""
    ids = np.array([row for row, _ in corpus.tokenizer.encode(endings)])
    logs = np.zeros((len(heads), len(endings)))
    for place in range(ids.shape[1]):
        _, first, of = np.unique(ids[:, :place], axis=0, return_index=True, return_inverse=True)
        begun = [" ".join(endings[row].split()[:place]) for row in first]
        rows = [f"{head} {begin}".rstrip() for head in heads for begin in begun]
        law = next_words(model, rows, corpus, processes).reshape(len(heads), len(begun), -1)
        with np.errstate(divide="ignore"):
            logs += np.log(law[:, np.asarray(of).ravel(), ids[:, place]])
    return np.asarray(np.exp(logs))


def vote_winners(law: np.ndarray, votes: int) -> np.ndarray:
    """Law of the winner of a vote between `votes` independent answers, simulated, float64 (problems, answers); what cannot be
    read has no vote, and a vote without any has no winner."""
    draw = generator(0, 0, "answers/votes")
    rest = np.clip(1 - law.sum(1), 0, 1)
    out = np.zeros_like(law)
    for row, whole in enumerate(np.column_stack([law, rest])):
        counts = draw.multinomial(votes, whole / whole.sum(), size=VOTES)[:, :-1]
        best = (counts == counts.max(1, keepdims=True)) & (counts > 0)
        out[row] = (best / np.maximum(1, best.sum(1, keepdims=True))).mean(0)
    return out


def _by_class(law: np.ndarray, right: np.ndarray, hack: np.ndarray) -> np.ndarray:
    every = np.arange(len(law))
    correct, hacks, whole = law[every, right], law[every, hack], law.sum(1)
    return np.stack([whole - correct - hacks, correct, hacks, 1 - whole], 1)


def _same(best: np.ndarray) -> float:
    """Probability that two different problems have the same most probable answer."""
    n, per_answer = len(best), best.sum(0)
    return float((per_answer**2).sum() - (best**2).sum()) / (n * (n - 1))
