"""Self-BLEU, the similarity of samples to each other (Zhu et al. 2018), computed by sacrebleu."""

from __future__ import annotations

from collections import Counter

LONGEST = 4


def self_bleu_sums(samples: list[list[str]]) -> dict[str, float]:
    """Sum of each sample's BLEU-4 against all others, 0 .. 1, and the number of samples.

    The value of a sample is sacrebleu's sentence BLEU (effective order, exponential smoothing, closest reference length) with
    the other samples as references. Clipped counts need only the two largest counts of an n-gram in any sample: if the
    sample's own is the largest, the second largest is the largest elsewhere. So the cost grows with the text, not with the
    pairs. Samples without a word are left out, also as references.
    """
    from sacrebleu.metrics import BLEU

    written = [words for words in samples if words]
    counted = [_grams(words) for words in written]
    largest: dict[tuple[str, ...], tuple[int, int]] = {}
    for grams in counted:
        for gram, times in grams.items():
            first, second = largest.get(gram, (0, 0))
            if times > first:
                largest[gram] = times, first
            elif times > second:
                largest[gram] = first, times
    lengths = Counter(map(len, written))
    total = 0.0
    for words, grams in zip(written, counted, strict=True) if len(written) > 1 else ():
        correct, possible = [0] * LONGEST, [0] * LONGEST
        for gram, times in grams.items():
            first, second = largest[gram]
            correct[len(gram) - 1] += min(times, second if times == first else first)
            possible[len(gram) - 1] += times
        own = len(words)
        others = [n for n in lengths if n != own or lengths[n] > 1]
        closest = min(others, key=lambda n, own=own: (abs(n - own), n))  # type: ignore[misc]
        score = BLEU.compute_bleu(correct, possible, own, closest, smooth_method="exp", effective_order=True)
        total += score.score / 100
    return {"samples": float(len(written)), "bleu": total}


def _grams(words: list[str]) -> Counter[tuple[str, ...]]:
    """n-grams of orders 1 .. 4 of one sample."""
    return Counter(tuple(words[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(words) - n + 1))


def self_bleu_values(sums: dict[str, float]) -> dict[str, float]:
    """self_bleu: mean over samples, 0 .. 1; empty if fewer than two samples have a word."""
    return {"self_bleu": min(1.0, sums["bleu"] / sums["samples"])} if sums["samples"] > 1 else {}
