"""Metrics for Hugging Face `evaluate`, loaded by path and without a network:

    import datasets, evaluate
    from collapselab import hf_metrics

    bleu = evaluate.load(hf_metrics.path("self_bleu"))
    bleu.compute(predictions=texts, references=real_texts)
    evaluate.combine([evaluate.load(hf_metrics.path(name)) for name in hf_metrics.names()])

`predictions` are sampled texts, one string per sequence; `references` are real texts. Metrics that read references
(overlap, tails, unigram_distance) fail without them, and `evaluate` needs as many references as predictions: cut or
join the real text accordingly. Words are the lab's: `\\w+`, lower-cased; a prediction is a whole text. The metrics of
`ANSWERS` read answers by prompt, or verdicts. Keys are those of metrics.jsonl without their unit, and no two share one.
"""

from __future__ import annotations

from pathlib import Path

from collapselab.config import UserError

ANSWERS = ("answer_diversity", "gv_gap", "judge_calibration", "maj_at_k", "pass_at_k")


def names() -> list[str]:
    """Names of all metrics of texts."""
    files = Path(__file__).parent.glob("*/*.py")
    return sorted(file.stem for file in files if file.stem == file.parent.name and file.stem not in ANSWERS)


def path(name: str) -> str:
    """Path of a metric for `evaluate.load`. Raises UserError for an unknown name."""
    if name not in (*names(), *ANSWERS):
        raise UserError(f"metric={name!r}: no such metric; choose one of {', '.join((*names(), *ANSWERS))}")
    return str(Path(__file__).parent / name / f"{name}.py")
