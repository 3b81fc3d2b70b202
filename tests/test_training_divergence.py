"""Training that diverges: the lab records results that it can read again, or the run ends with one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import small_config, undrawn

from collapselab.chain.opening import chain_path
from collapselab.chain.run import run
from collapselab.config import UserError
from collapselab.report.pages import write_report
from collapselab.store.checks import LARGEST, drawable, metrics
from collapselab.store.layout import read_metrics

SMALL: dict[str, Any] = {
    "generations": 1, "model__layers": 1, "model__width": 16, "training__warmup_steps": 0, "mixing__tokens": 1024,
    "sampling__batch_size": 32, "evaluation__tokens": 256, "evaluation__sample_tokens": 256,
    "evaluation__self_bleu_samples": 0, "training__schedule": "constant", "training__checkpoint_steps": 1,
    "training__weight_decay": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("lr", [30.0, 1e4, 1e9, 1e25, 1e36])
@pytest.mark.parametrize(("start", "clip"), [("scratch", 0.0), ("previous", 0.0), ("scratch", 1.0)])
def test_a_run_that_diverges_can_be_read_and_continued_or_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lr: float, start: str, clip: float
) -> None:
    keys = SMALL | {"runs_dir": str(tmp_path), "training__lr": lr, "model__start": start, "training__clip": clip}
    config = small_config(**keys)
    for generations in (1, 2):  # then it is continued
        try:
            path, rows = run(small_config(**keys | {"generations": generations}))
        except UserError as error:
            said = str(error)
            assert said.startswith(f"training.lr={lr}: ") and "lower lr" in said and len(said) <= 300, said
            assert "not written by this lab" not in said
            continue
        assert rows == read_metrics(path) and len(rows) == generations + 1
        with undrawn():
            assert write_report(path).is_file()
        for row in rows:
            nll, lost = row["metrics"]["real/nll_nats"], row["metrics"].get("real/overflow")
            assert ("real/perplexity" in row["metrics"]) == (nll < 345) == (lost is None)
        if any("real/overflow" in row["metrics"] for row in rows):
            assert "real/perplexity" in capsys.readouterr().err
    for file in chain_path(config).rglob("*.json*"):
        for line in file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]:
            json.loads(line, parse_constant=pytest.fail)


def test_values_too_large_to_draw_are_not_recorded() -> None:
    values = {"a": 1.0, "b": 2.5e289, "c": -LARGEST, "d": -1e151, "e": float("inf"), "f": float("nan"), "g": 3}
    assert drawable(values) == {"a": 1.0, "c": -LARGEST, "g": 3}
    for wrong in (2.54e289, float("nan"), float("inf"), "1", None, True, 10**400):
        with pytest.raises((ValueError, ArithmeticError)):
            metrics({"a": wrong})
