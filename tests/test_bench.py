"""The benchmarks: what is compared does the same work, and what is printed and kept is what was measured."""

from __future__ import annotations

import dataclasses
import functools
import json

import pytest
import torch

from collapselab.bench import cases, obvious, sampler
from collapselab.bench.run import Case, Row, keep, measured, show
from collapselab.bench.sampler import Size, parity

TINY = Size("tiny", 1, 16, 2, 64)
CPU = torch.device("cpu")


def test_a_bench_from_the_command_line(lab, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cases, "SMALL", [TINY])
    code, out, _ = lab("bench", "training", "--device", "cpu", "--out", str(tmp_path))
    assert code == 0 and "transformers model, eager" in out
    document = json.loads(out.splitlines()[-1])
    assert document["bench"] == "training" and document["machine"]["torch"] == torch.__version__
    (case,) = document["cases"]
    assert [row["name"].split()[0] for row in case["rows"]] == ["reference", "transformers", "ours"]
    for row in case["rows"]:
        assert len(row["seconds"]) == 5 and 0 < row["share"] < 1
        assert row["rate"] == pytest.approx(16 * 32 * 128 / sorted(row["seconds"])[2])
    (kept,) = tmp_path.glob("*-training.json")
    assert json.loads(kept.read_text()) == document
    (page,) = tmp_path.glob("*.md")
    assert f"{case['rows'][2]['rate']:,.0f}" in page.read_text() and kept.name in page.read_text()


@pytest.mark.parametrize(("what", "rows"), [("training", 1), ("sampling", 2), ("generation", 1)])
def test_ours_alone_is_measured_once(lab, monkeypatch, what: str, rows: int) -> None:
    monkeypatch.setattr(cases, "SMALL", [dataclasses.replace(TINY, vocab=2048)] * 2)
    monkeypatch.setattr(sampler, "SMALL", [TINY])
    monkeypatch.setattr(cases, "_generation", functools.partial(short_generation, cases._generation))
    code, out, err = lab("bench", what, "--device", "cpu", "--ours", "--repeats", "1", "--only", "1")
    assert code == 0, err
    (case,) = json.loads(out.splitlines()[-1])["cases"]
    assert [row["name"].split()[0].strip(",") for row in case["rows"]] == ["ours"] * rows
    assert all(len(row["seconds"]) == 1 and row["rate"] > 0 for row in case["rows"])


def short_generation(measure, config, size, tokens, *more):
    few = 32 * 128
    settings = {"training": {"tokens": few}, "mixing": {"tokens": few}, "evaluation": {"tokens": 512}}
    for section, changes in settings.items():
        config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **changes)})
    config = dataclasses.replace(config, corpus=dataclasses.replace(config.corpus, tokenizer="bytes", vocab_size=2048))
    return measure(config, size, few, *more)


def test_what_does_not_fit_into_memory_is_a_row_too(capsys) -> None:
    def too_large() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 127.00 GiB")

    rows = [measured("theirs", too_large, 1, CPU, 5), measured("ours", lambda: None, 1, CPU, 5)]
    assert rows[0].rate is None and rows[0].seconds == [] and rows[1].rate is not None
    show(Case("A case", rows))
    assert "does not fit into memory here" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="shapes"):
        measured("wrong", lambda: torch.zeros(2, 3) @ torch.zeros(2, 3), 1, CPU, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["everything"], "must be sampling, training, metrics, generation or policy"),
        (["metrics", "--repeats", "3"], "--repeats=3: must be 5 or more"),
        (["metrics", "--repeats", "0", "--ours"], "--repeats=0: must be 1 or more"),
        (["metrics", "--ours", "--out", "there"], "--out: keeps figures with their comparisons only"),
        (["metrics", "--only", "-1"], "--only=-1: cases are counted from 1"),
        (["training", "--only", "9", "--device", "cpu"], "--only=9: bench training has no such case here"),
        (["metrics", "--device", "tpu"], "device='tpu': must be auto, cpu or cuda"),
    ],
)
def test_what_cannot_be_measured_is_one_line(lab, arguments: list[str], message: str) -> None:
    code, _, err = lab("bench", *arguments)
    assert code == 2 and message in err and len(err.splitlines()) == 1


def test_parity_holds_and_would_show_a_wrong_engine(monkeypatch) -> None:
    model = Size("small", 2, 32, 2, 500).model(24)
    good = parity(model, 24, CPU)
    assert good["largest error of a logit, as a share of the largest logit"] < 1e-5
    assert good["greedy tokens equal to float32 transformers"] == 1
    assert abs(good["mean log-probability + entropy, in standard errors"]) < 4
    monkeypatch.setattr(sampler.Engine, "_add_norm", lambda self, x, y, bias, weight, last: self._norm(x, weight, last))
    assert parity(model, 24, CPU)["largest error of a logit, as a share of the largest logit"] > 1e-3


def test_the_obvious_script_does_the_same_work() -> None:
    net = TINY.model(32, pad=1).net
    blocks = torch.randint(64, (40, 32), generator=torch.Generator().manual_seed(0))
    before = obvious.perplexity(net, blocks, 8, bf16=False)
    for _ in range(20):
        obvious.train(net, blocks, 8, bf16=False, lr=3e-3)
    assert obvious.perplexity(net, blocks, 8, bf16=False) < 0.95 * before
    samples = obvious.generate(net, blocks[:, :3], 32, 16)
    assert samples.shape == (40, 32) and (samples[:, :3] == blocks[:, :3]).all() and samples.max() < 64


def test_pages_of_several_benches_stand_together(tmp_path, capsys) -> None:
    facts = {"hardware": "two cores", "date": "2026-01-02", "torch": "2"}
    case = Case("A case", [Row("ours", 12345.0, [1.0, 2.0, 3.0], share=0.5, peak_bytes=10**9)], limit="copying")
    show(case)
    assert "12,345" in capsys.readouterr().out
    from dataclasses import asdict

    for name in ("sampling", "training"):
        page = keep({"bench": name, "command": f"bench {name}", "machine": facts, "cases": [asdict(case)]}, tmp_path)
    text = page.read_text()
    assert (
        page.name == "2026-01-02-cpu.md" and text.count("### A case") == 2 and "| 12,345 | 2 | 1 .. 3 | 50 % |" in text
    )
