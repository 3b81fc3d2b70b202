"""The stage `judged`: a generation's samples are judged, and what passes is kept, as many tokens as before."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.config import JudgingConfig, UserError
from collapselab.judging.editing import edited
from collapselab.judging.episodes import Episodes, Reader
from collapselab.judging.examples import examples
from collapselab.judging.judges import committee, scores_of
from collapselab.metrics.calibration import Sums, calibration_sums
from collapselab.mixing.sets import read_meta, read_samples
from collapselab.sampling.shards import SHARD_TOKENS, write_shard
from collapselab.seeds import generator
from collapselab.store.folders import write_bytes, write_json
from collapselab.store.unfinished import Unfinished

Keep = Callable[[np.ndarray, int, JudgingConfig, np.random.Generator], np.ndarray]
"""(scores, nan where nobody judged; sequences to keep; settings; random numbers) -> the kept ones in order, int64; fewer if
there are not enough."""


def threshold(scores: np.ndarray, count: int, settings: JudgingConfig, _: np.random.Generator) -> np.ndarray:
    """Keep the first sequences of at least `judging.threshold`."""
    return np.flatnonzero(scores >= settings.threshold)[:count]


def top_share(scores: np.ndarray, count: int, settings: JudgingConfig, _: np.random.Generator) -> np.ndarray:
    """Keep the best sequences of the first `count` / `judging.share`, in the order in which they were drawn; of equal ones the
    first."""
    drawn = _drawn_for(settings, count)
    if len(scores) < drawn:
        return np.empty(0, np.int64)  # more must be drawn
    first = scores[:drawn]
    order = np.argsort(-np.where(np.isnan(first), -np.inf, first), kind="stable")[:count]
    return np.sort(order[~np.isnan(first[order])])


def resample(scores: np.ndarray, count: int, _: JudgingConfig, draw: np.random.Generator) -> np.ndarray:
    """Draw sequences with replacement, with probabilities proportional to the odds s / (1 - s) of their scores: the ratio of
    densities if a score is the probability of being real text (importance resampling)."""
    sure = np.minimum(np.nan_to_num(scores), 1 - 1e-6)
    weight = sure / (1 - sure)
    return (
        np.sort(draw.choice(len(scores), count, p=weight / weight.sum())) if weight.sum() > 0 else np.empty(0, np.int64)
    )


KEEPS: dict[str, Keep] = {"threshold": threshold, "top_share": top_share, "resample": resample}


def judge(s: Any, g: int, out: Path, unfinished: Unfinished) -> None:
    """Judge the samples of a generation, write and judge more until enough pass, and publish them like samples.

    Rounds of as many sequences as the samples have are judged one after the other, and each is kept in `unfinished`: a killed
    process goes on with the next round. Beside meta.json and the tokens `out` gets numbers.bin (int64, the kept sequences'
    numbers), scores.bin (float64 of all that were drawn), judged.json and examples.json.
    """
    config, settings, samples = s.config, s.config.judging, s.place(g, "samples")
    meta, reader = read_meta(samples), Reader(s, g)
    if settings.keep == "edit":
        _edit(s, reader, samples, meta, out)
        return
    length, count = config.sequence_length, -(-meta["tokens"] // config.sequence_length)
    scores, rows = np.empty(0), list[np.ndarray]()
    rounds = _Rounds(unfinished, count, length, config.plugins)
    while True:
        part = s.processes.broadcast(rounds.read(len(rows)) if s.processes.is_main else None)
        if part is None:
            reader.earlier = rows
            part = _round(s, g, reader, samples, len(rows), count)
            if s.processes.is_main:
                rounds.write(len(rows), *part)
        rows.append(part[0].astype(meta["dtype"]))
        reader.opening = reader.opening or Episodes.of(rows[0], config.prompt_length, 0)
        scores = np.concatenate([scores, part[1]])
        kept = KEEPS[settings.keep](scores, count, settings, generator(config.seed, g, "judge/keep"))
        if len(kept) == count:
            break
        _check_drawn(scores, count, kept, settings)
    opening, own = reader.opening, scores[:count]
    accepted = own >= settings.threshold if settings.keep == "threshold" else np.isin(np.arange(count), kept)
    truth = reader.truth(opening)
    calibration = {"samples": _calibration(reader, opening, own, accepted, truth)}
    if settings.second:
        again = Reader(s, g, "second")
        again.opening = opening
        more = Episodes.of(s.write_more(g, 0, settings.second, "second"), config.prompt_length, 0)
        found = judged(more, again)
        calibration["second"] = _calibration(again, more, found, _accepted(found, settings), again.truth(more))
    if s.processes.is_main:
        write_json(out / "examples.json", examples(reader, opening, own, accepted, truth[0]))
        _publish(np.concatenate(rows), kept, scores, meta, settings, out, calibration)


def draws(settings: JudgingConfig, count: int) -> tuple[int, int]:
    """Least and most sequences that are drawn, the samples among them, for `count` that are kept."""
    if settings.keep == "threshold":
        return count, settings.most * count
    rounds = math.ceil(_drawn_for(settings, count) / count) if settings.keep == "top_share" else 1
    return rounds * count, rounds * count


def _drawn_for(settings: JudgingConfig, count: int) -> int:
    """Sequences of which `top_share` keeps `count`."""
    return math.ceil(count / settings.share - 1e-9)


def _check_drawn(scores: np.ndarray, count: int, kept: np.ndarray, settings: JudgingConfig) -> None:
    """Raise UserError if more sequences would not help, or are not allowed."""
    if len(scores) >= draws(settings, count)[1]:
        passed = int((scores >= settings.threshold).sum()) if settings.keep == "threshold" else len(kept)
        raise UserError(
            f"judging.most={settings.most}: of {len(scores):,} sequences {passed:,} passed, {count:,} are needed; raise it, "
            "look at the judge, or start a run with a lower judging.threshold"
        )


def _accepted(scores: np.ndarray, settings: JudgingConfig) -> np.ndarray:
    """Sequences that the rule would let through of these alone, bool (n,)."""
    if settings.keep == "threshold":
        return np.asarray(scores >= settings.threshold)
    share = settings.share if settings.keep == "top_share" else 1.0
    count = max(1, math.floor(len(scores) * share + 1e-9))
    return np.isin(
        np.arange(len(scores)), KEEPS[settings.keep](scores, count, settings, generator(0, 0, "judge/second"))
    )


def _edit(s: Any, reader: Reader, samples: Path, meta: dict[str, Any], out: Path) -> None:
    """Publish all samples with tokens of high probability drawn again."""
    length, head = s.config.sequence_length, s.config.prompt_length
    flat = np.asarray(read_samples(samples)).astype(np.int64)
    rows = np.pad(flat, (0, -len(flat) % length), constant_values=reader.corpus.tokenizer.separator).reshape(-1, length)
    changed, count = edited(rows, head, reader)
    if s.processes.is_main:
        facts = {"edited": count, "drawn": len(rows)}
        _write(changed, np.arange(len(rows)), meta, facts | {"calibration": {}}, s.config.judging, out)


def judged(episodes: Episodes, reader: Reader) -> np.ndarray:
    """Scores of the chain's judges together, float64 (n,), nan where nobody judged: those of process 0, on every process."""
    settings, processes = reader.config.judging, reader.session.processes
    error: UserError | None = None
    scores = np.empty(0)
    try:
        votes = {name: scores_of(name, episodes, reader) for name in settings.judges}
        scores = committee(votes, settings.committee, settings.threshold)
    except UserError as caught:
        error = caught
    for failed in processes.all_gather(error):
        if failed is not None:
            raise failed
    return np.asarray(processes.broadcast(scores))


def _calibration(
    reader: Reader,
    episodes: Episodes,
    scores: np.ndarray,
    accepted: np.ndarray,
    truth: tuple[np.ndarray | None, list[str]],
) -> Sums:
    """Compare verdicts with the exact checker (`Reader.truth`), sequences of one prompt as one unit; without a checker only what
    needs none."""
    classes, answers = truth
    lengths = np.array([len(one) for one in answers], float)
    groups = episodes.group if reader.config.sampling.prompt != "bos" else None
    known = np.full(len(scores), -1) if classes is None else classes
    sums = calibration_sums(scores, accepted & ~np.isnan(scores), known, lengths, groups)
    return sums if classes is not None else {key: sums[key] for key in ("accepted", "abstained", "length_correlation")}


def _round(s: Any, g: int, reader: Reader, samples: Path, number: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, scores) of the sequences `number` x `count` and up: those of the samples, then more of the same model."""
    length, head = s.config.sequence_length, s.config.prompt_length
    first, rows = number * count, np.empty((0, length), np.int64)
    if number == 0:
        flat = np.asarray(read_samples(samples))
        rows = flat[: len(flat) // length * length].reshape(-1, length).astype(np.int64)
    if len(rows) < count:
        rows = np.concatenate([rows, s.write_more(g, first + len(rows), count - len(rows))])
    episodes = Episodes.of(rows, head, first)
    return rows, judged(episodes, reader)


class _Rounds:
    """Judged rounds on disk, one part each."""

    def __init__(self, unfinished: Unfinished, count: int, length: int, plugins: list[dict[str, str]]):
        made_as = {"round": str(count)} | {one["name"]: one["digest"] for one in plugins}
        self.unfinished, self.shape, self.made_as = unfinished, (count, length), made_as

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray] | None:
        folder = self.unfinished.parts(self.made_as)[0].get(number)
        if folder is None:
            return None
        return np.fromfile(folder / "rows.bin", "<i8").reshape(self.shape), np.fromfile(folder / "scores.bin", "<f8")

    def write(self, number: int, rows: np.ndarray, scores: np.ndarray) -> None:
        with self.unfinished.write(number, self.made_as) as out:
            write_bytes(out / "rows.bin", rows.astype("<i8").data)
            write_bytes(out / "scores.bin", scores.astype("<f8").data)


def _publish(
    rows: np.ndarray,
    kept: np.ndarray,
    scores: np.ndarray,
    meta: dict[str, Any],
    settings: JudgingConfig,
    out: Path,
    calibration: dict[str, Sums],
) -> None:
    """Write the kept sequences as a samples folder, their scores, and what became of the others."""
    write_bytes(out / "scores.bin", scores.astype("<f8").data)
    facts = {"drawn": len(scores), "abstained": int(np.isnan(scores).sum()), "calibration": calibration}
    _write(rows, kept, meta, facts, settings, out)


def _write(
    rows: np.ndarray, kept: np.ndarray, meta: dict[str, Any], facts: dict[str, Any], settings: JudgingConfig, out: Path
) -> None:
    left, names = meta["tokens"], list[str]()
    at_once = max(1, SHARD_TOKENS // rows.shape[1])
    for start in range(0, len(kept), at_once):
        part = rows[kept[start : start + at_once]].astype(meta["dtype"])
        names.append(write_shard(part, left, len(names), out))
        left -= part.size
    write_bytes(out / "numbers.bin", kept.astype("<i8").data)
    write_json(out / "meta.json", meta | {"sequences": len(kept), "shards": names})
    facts |= {
        "judges": settings.judges,
        "keep": settings.keep,
        "tokens": meta["tokens"],
        "sequences": len(kept),
        "kept": len(np.unique(kept)),
    }
    write_json(out / "judged.json", facts)
