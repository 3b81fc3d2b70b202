"""Data of the report's explorer: the same prompts continued by every generation, each token with its surprise and its count
in real text, the last generation that wrote each rare word, and what judges let through.

Each arm shows its first seed, because a sample is one text and not a mean; the number of seeds that still write a word counts
all of them. Arms of different protocols are never side by side: their tokens and their measure of surprise differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from collapselab.config.identity import DEFAULTS, shared_digests
from collapselab.metrics.tails import rare_words
from collapselab.report.judged import MOST_CHARACTERS, judged
from collapselab.report.overlay import by_arm
from collapselab.report.protocols import grouped
from collapselab.runtime.console import inert
from collapselab.store.checks import number, reading, text, whole
from collapselab.store.folders import read_json

if TYPE_CHECKING:
    from collapselab.report.files import ChainFiles

MOST_TOKENS, MOST_WORDS = 300_000, 5_000  # per page: about 4 MB
MOST_PROMPTS, LONGEST = 64, 4096  # prompts of a generation, and tokens of each, at most
LONGEST_PIECE = 100  # characters shown of a token or word
HIGHEST = 999.0  # nats; larger surprises are cut, as only a broken model has them
INFINITE = -1  # written instead of an infinite surprise


@dataclass
class Vocabulary:
    """Distinct (text, count) of all tokens; a token is referred to by its place."""

    places: dict[tuple[str, int], int] = field(default_factory=dict)

    def place(self, piece: str, count: int) -> int:
        return self.places.setdefault((inert(_cut(piece, LONGEST_PIECE)), count), len(self.places))


@dataclass(frozen=True)
class Counts:
    """Counts in generation 0's real training text."""

    tokens: dict[str, int]
    words: dict[str, int]
    """Rare words only, in order."""


@dataclass(frozen=True)
class Continued:
    """One prompt as continued by one generation."""

    prompt: str
    tokens: list[tuple[str, list[int], float | None]]
    """(text, ids, nats) of the tokens after the prompt; nats None for probability 0."""


def payload(chains: list[ChainFiles]) -> dict[str, Any] | None:
    """Build DATA.explorer for explorer.js; None if no chain has text to show.

    `vocabulary`: `text` and `count` (in generation 0's real training text) of each distinct token. `groups`: one per
    protocol, see `_group`, each with an equal part of the page's bounds.

    Raises UserError naming a file that is not in the lab's format.
    """
    protocols, counts, vocabulary = grouped(chains), _Counted(), Vocabulary()
    groups = []
    for one in protocols:
        most = tuple(bound // len(protocols) for bound in (MOST_TOKENS, MOST_WORDS, MOST_CHARACTERS))
        groups.append({"label": one.label} | _group(one.chains, most, counts, vocabulary))
    if not any(group["prompts"] or group["tails"] or any(group["judged"]) for group in groups):
        return None
    texts, occurrences = ([pair[i] for pair in vocabulary.places] for i in (0, 1))
    return {"groups": groups, "vocabulary": {"text": texts, "count": occurrences}}


def _group(chains: list[ChainFiles], most: tuple[int, ...], counts: _Counted, vocabulary: Vocabulary) -> dict[str, Any]:
    """Build the data of the arms of one protocol.

    `prompts`: their texts. `arms`: name, seed, number of generations, `base` (equal for equal models of generation 0),
    and `cells`: for each prompt, by generation, [places in the vocabulary, surprises in hundredths of a nat (-1: infinite),
    [tokens, counting those within a character]]. `generations`: those on the slider, including the last that all arms have.
    `tails`: see `_tails`. `judged`: of each arm, see `judged`. `notes`: sentences about what was left out.

    Args:
        most: tokens, words, and characters of judged samples.
    """
    most_tokens, most_words, most_characters = most
    members = list(by_arm(chains).values())
    firsts = [chains[0] for chains in members]
    notes: list[str] = []
    shown, prompts = _within_bounds(firsts, most_tokens, notes)
    heads: dict[str, int] = {}
    bases: dict[tuple[str, int], int] = {}
    left = most_tokens
    arms: list[dict[str, Any]] = []
    for chain in firsts:
        cells: dict[int, dict[int, list[list[int]]]] = {}
        for g in shown:
            for one in read_continued(chain, g)[:prompts] if g < len(chain.rows) else []:
                left -= len(one.tokens)
                if left >= 0:
                    place = heads.setdefault(one.prompt, len(heads))
                    cells.setdefault(place, {})[g] = _cell(one, counts.of(chain).tokens, vocabulary)
        base = bases.setdefault(_base(chain), len(bases))
        arm = {"name": inert(chain.arm), "seed": chain.seed, "generations": len(chain.rows), "base": base}
        arms.append(arm | {"cells": cells})
    if left < 0:
        notes.append(f"Text beyond {most_tokens:,} tokens is left out.")
    return {
        "generations": shown,
        "prompts": [inert(head) for head in heads],
        "arms": [arm | {"cells": [arm["cells"].get(i, {}) for i in range(len(heads))]} for arm in arms],
        "tails": _tails(members, most_words, counts),
        "judged": judged(firsts, most_characters, notes),
        "notes": notes,
    }


def _base(chain: ChainFiles) -> tuple[str, int]:
    """(digest of settings, seed) that decide generation 0's model, which measures surprise."""
    settings = {
        key: v if v is None or isinstance(v, str) else repr(v) for key, v in (DEFAULTS | chain.settings).items()
    }
    return shared_digests(settings, str(chain.protocol.get("corpus")))["model"], chain.seed


def _within_bounds(chains: list[ChainFiles], most_tokens: int, notes: list[str]) -> tuple[list[int], int]:
    """Choose (generations on the slider, number of prompts) that fit into a page; add to `notes` what is left out."""
    last = max(len(chain.rows) for chain in chains) - 1
    common = min(len(chain.rows) for chain in chains) - 1
    sizes = [[len(one.tokens) for one in read_continued(chain, 0)] for chain in chains]
    most = max(map(len, sizes))
    prompts = most
    while prompts > 1 and 2 * sum(sum(size[:prompts]) for size in sizes) > most_tokens:
        prompts -= 1
    each = sum(sum(size[:prompts]) for size in sizes)
    count = min(last + 1, max(2, most_tokens // max(1, each) - (common < last)))
    shown = sorted({common, *(int(g) for g in np.linspace(0, last, count).round())})
    if len(shown) <= last:
        notes.append(
            f"{len(shown)} of {last + 1} generations, evenly spaced: the page has room for {most_tokens:,} tokens of these arms."
        )
    if prompts < most:
        notes.append(f"{prompts} of {most} prompts: the page has room for {most_tokens:,} tokens of these arms.")
    return shown, prompts


# --- text -------------------------------------------------------------------------------------------------------------


def read_continued(chain: ChainFiles, generation: int) -> list[Continued]:
    """Read explorer.json of a generation. Raises UserError if it is not in the lab's format.

    Tokens that share a character are joined, and their surprises added.
    """
    path = chain.chain.stage(generation, "eval") / "explorer.json"
    saved = read_json(path)
    with reading(path):
        head, rows = whole(saved["prompt_length"], 1, LONGEST), list(saved["prompts"])
        if len(rows) > MOST_PROMPTS:
            raise ValueError(f"{len(rows)} prompts")
        return [_continued(row["ids"], row["pieces"], row["nll"], head) for row in rows]


def _continued(ids: list[Any], pieces: list[Any], nats: list[Any], head: int) -> Continued:
    if not len(ids) == len(pieces) == head + len(nats) or len(ids) > LONGEST:
        raise ValueError("a text for each token, a surprise for each after the prompt")
    tokens: list[tuple[str, list[int], float | None]] = []
    joined: list[int] = []
    total: float | None = 0.0
    for at, (token, piece, nll) in enumerate(zip(ids[head:], pieces[head:], nats, strict=True)):
        joined.append(whole(token))
        total = None if nll is None or total is None else total + max(0.0, number(nll))
        if text(piece) or at == len(nats) - 1:
            tokens.append((piece, joined, total))
            joined, total = [], 0.0
    return Continued("".join(_cut(text(piece), LONGEST_PIECE) for piece in pieces[:head]), tokens)


def _cell(one: Continued, counts: dict[str, int], vocabulary: Vocabulary) -> list[list[int]]:
    places = [vocabulary.place(piece, min(counts.get(str(i), 0) for i in ids)) for piece, ids, _ in one.tokens]
    surprises = [INFINITE if nats is None else round(100 * min(nats, HIGHEST)) for *_, nats in one.tokens]
    return [places, surprises, [sum(len(ids) for _, ids, _ in one.tokens)]]


def _cut(long: str, most: int) -> str:
    return long if len(long) <= most else long[:most] + "…"


# --- rare words -------------------------------------------------------------------------------------------------------


class _Counted:
    """Counts of generation 0's text, cached by file, because arms of one seed share it."""

    def __init__(self) -> None:
        self.read: dict[Path, Counts] = {}

    def of(self, chain: ChainFiles) -> Counts:
        path = chain.chain.stage(0, "reference") / "tails.json"
        if path not in self.read:
            saved = read_json(path)
            with reading(path):
                tokens = {key: whole(count) for key, count in saved["tokens"].items()}
                words = {key: whole(count) for key, count in saved["words"].items()}
                self.read[path] = Counts(tokens, {word: words[word] for word in rare_words(words)})
        return self.read[path]


def _tails(arms: list[list[ChainFiles]], most: int, counts: _Counted) -> dict[str, Any] | None:
    """Find when rare words were last written; None if generation 0's text has none.

    `words`, `counts`: in generation 0's real text of the first arm that has the word; `total`: number of rare words, of which
    these were chosen evenly over counts. For each arm: `last`: the last generation of its first seed that writes each word
    (-1: none, null: not a rare word of its text); `seeds` and `of`: how many of the seeds that have the word write it at
    generation `at`, the last that all have; `histogram`: numbers of rare words never written and last written by generation
    0, 1, ...
    """
    c0: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for chains in arms:
        written = [_written(chains[0], g, counts) for g in range(len(chains[0].rows))]
        words = counts.of(chains[0]).words
        for word, count in words.items():
            c0.setdefault(word, count)
        last = np.full(len(words), -1)
        for g, bits in enumerate(written):
            last[bits] = g
        histogram = np.bincount(last + 1, minlength=len(written) + 1).tolist()
        rows.append({"last": dict(zip(words, last.tolist(), strict=True)), "histogram": histogram})
    if not c0:
        return None
    chosen = _evenly_over_counts(c0, most)
    for chains, arm in zip(arms, rows, strict=True):
        arm |= _seeds(chains, chosen, counts) | {"last": [arm["last"].get(word) for word in chosen]}
    shown = [inert(_cut(word, LONGEST_PIECE)) for word in chosen]
    return {"words": shown, "counts": [c0[word] for word in chosen], "total": len(c0), "arms": rows}


def _seeds(chains: list[ChainFiles], chosen: list[str], counts: _Counted) -> dict[str, Any]:
    at = min(len(chain.rows) for chain in chains) - 1
    seeds, of = np.zeros(len(chosen), np.int64), np.zeros(len(chosen), np.int64)
    for chain in chains:
        bits = _written(chain, at, counts)
        writes = dict(zip(counts.of(chain).words, bits.tolist(), strict=True))
        seeds += [writes.get(word, False) for word in chosen]
        of += [word in writes for word in chosen]
    return {"at": at, "seeds": seeds.tolist(), "of": of.tolist()}


def _written(chain: ChainFiles, generation: int, counts: _Counted) -> np.ndarray:
    """Rare words that a generation writes, bool (words,)."""
    path = chain.chain.stage(generation, "eval") / "tail_words.bin"
    words = len(counts.of(chain).words)
    with reading(path):
        bits = np.fromfile(path, np.uint8)
        if len(bits) != -(-words // 8):
            raise ValueError(f"{len(bits)} bytes for {words} words")
        return np.unpackbits(bits, count=words).astype(bool)


def _evenly_over_counts(c0: dict[str, int], most: int) -> list[str]:
    """Choose at most `most` words, as evenly over counts as possible, sorted by count and name."""
    by_count: dict[int, list[str]] = {}
    for word in sorted(c0):
        by_count.setdefault(c0[word], []).append(word)
    left, out = most, []
    for done, words in enumerate(sorted(by_count.values(), key=len)):
        take = min(len(words), left // (len(by_count) - done))
        out += [words[i * len(words) // take] for i in range(take)]
        left -= take
    return sorted(out, key=lambda word: (c0[word], word))
