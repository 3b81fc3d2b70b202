"""Whole chains through files: continue, extend, fork, refuse, repair, report, replay."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import yaml
from helpers import STAGES, samples_of, small_config, wandb_files, wandb_rows

from collapselab.chain import stages
from collapselab.chain.run import run
from collapselab.config import EvaluationConfig, UserError
from collapselab.report.pages import write_report
from collapselab.store.folders import manifest_of, read_json
from collapselab.store.layout import Chain, read_metrics


def digests(path, generations: int) -> dict:
    chain = Chain(path)
    found = {f"{g}/{s}": manifest_of(chain.stage(g, s))["digest"] for g in range(generations + 1) for s in STAGES}
    return found | {"reference": manifest_of(path / "reference")["digest"]}


def times(path) -> dict:
    return {str(p): p.stat().st_mtime_ns for p in path.rglob("manifest.json")}


def without_time(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "time"} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished chain of generations 0 to 2 (do not change it: copy it)."""
    folder = tmp_path_factory.mktemp("runs")
    config = small_config(runs_dir=str(folder))
    path, rows = run(config)
    return config, path, rows


@pytest.fixture
def copied(finished, tmp_path):
    config, path, _ = finished
    shutil.copytree(path.parent.parent, tmp_path / "test")
    return dataclasses.replace(config, runs_dir=str(tmp_path)), tmp_path / "test" / "arm=main" / "seed=1"


def test_a_chain_publishes_every_stage(finished) -> None:
    config, path, rows = finished
    assert [row["generation"] for row in rows] == [0, 1, 2]
    assert [row["real_share"] for row in rows] == pytest.approx([1.0, 0.5, 0.25])
    assert len(digests(path, 2)) == 13
    saved = yaml.safe_load((path / "config.yaml").read_text())
    assert saved["mixing"]["tokens"] == config.mixing.tokens and saved["seed"] == 1
    for row in read_metrics(path):
        assert row["schema"] == 1 and row["arm"] == "main" and row["time"]["train_seconds"] > 0
        for key in (
            "real/perplexity", "real/bits_per_byte", "real/accuracy", "real/nll_by_frequency/>500",
            "diversity/tokens/distinct_4", "diversity/words/distinct_2", "diversity/tokens/rep_2",
            "diversity/tokens/diversity", "diversity/tokens/ngram_entropy_2_miller_madow", "diversity/unigram_kl",
            "diversity/unigram_js", "diversity/unigram_tv", "diversity/words/budget", "tails/words/known_triples",
            "tails/bigrams/coverage_5_normalised", "tails/bigrams/tail_mass_20",
            "real/next_token_entropy", "real/effective_support", "real/gini", "reference/nll", "reference/nll_p99",
            "diversity/tokens/seq_rep_4", "diversity/words/self_bleu", "diversity/words/zipf_exponent",
            "diversity/words/zipf_ranks", "diversity/tokens/good_turing_coverage", "diversity/words/chao1",
            "diversity/compression_ratio",
        ):  # fmt: skip
            assert isinstance(row["metrics"][key], float), key


def test_every_sample_metric_stands_in_the_reference_row_too(finished) -> None:
    _, path, rows = finished
    real = read_json(path / "reference" / "eval.json")["metrics"]
    of_samples = {k for k in rows[1]["metrics"] if not k.startswith(("real/", "theory/", "diversity/degenerate/"))}
    assert of_samples == set(real)


def test_samples_are_scored_by_generation_0_and_not_by_their_own_model(finished) -> None:
    """Plain transformers reads generation 2's samples with generation 0's folder, prompts left out of the loss."""
    import torch
    from transformers import AutoModelForCausalLM

    _, path, rows = finished
    ids = torch.from_numpy(samples_of(path / "gen_002" / "samples").astype("int64")).view(-1, 32)
    scored = read_json(path / "gen_002" / "eval" / "eval.json")["sums"]["reference/nll"]["tokens"]
    found = []
    for generation in (0, 2):
        model = AutoModelForCausalLM.from_pretrained(path / f"gen_{generation:03d}" / "train")
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(
                model(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
            )
        found.append(float(loss[: int(scored)].mean()))
    assert rows[2]["metrics"]["reference/nll"] == pytest.approx(found[0], rel=1e-5)
    assert abs(found[1] / found[0] - 1) > 1e-4


def test_overlap_is_measured_unless_it_is_switched_off(tmp_path) -> None:
    changes = {"generations": 0, "mixing__tokens": 512, "evaluation__overlap": EvaluationConfig().overlap}
    path, rows = run(small_config(runs_dir=str(tmp_path), **changes))
    for metrics in (read_json(path / "reference" / "eval.json")["metrics"], rows[0]["metrics"]):
        assert 0 <= metrics["diversity/overlap_13"] <= metrics["diversity/overlap_8"] < 1


def test_optional_metrics_and_those_that_are_switched_off(tmp_path) -> None:
    pytest.importorskip("mauve")
    less = {f"evaluation__{k}": v for k, v in {"reference_tokens": 0, "self_bleu_samples": 0, "overlap": False}.items()}
    path, rows = run(small_config(runs_dir=str(tmp_path), generations=1, evaluation__embeddings=40, **less))
    reference = read_json(path / "reference" / "eval.json")
    assert reference["protocol"]["embeddings"] == 40 and reference["protocol"]["overlap"] == []
    for metrics in (reference["metrics"], *(row["metrics"] for row in rows)):
        assert 0 < metrics["reference/mauve"] <= 1 <= metrics["reference/vendi"] <= 40
        assert not [k for k in metrics if "self_bleu" in k or "overlap" in k or k.startswith("reference/nll")]
    assert len({row["metrics"]["reference/mauve"] for row in rows} | {reference["metrics"]["reference/mauve"]}) == 3


def test_running_again_redoes_nothing(copied) -> None:
    config, path = copied
    before, rows = times(path), read_metrics(path)
    assert run(config)[1] == rows
    assert times(path) == before


def test_an_extended_chain_equals_one_run_in_one_go(copied, tmp_path) -> None:
    config, path = copied
    before = times(path)
    _, rows = run(dataclasses.replace(config, generations=3))
    straight, other = run(dataclasses.replace(config, generations=3, name="straight"))
    assert digests(path, 3) == digests(straight, 3)
    assert without_time(rows) == without_time(other)
    assert {k: v for k, v in times(path).items() if k in before} == before
    with pytest.raises(UserError, match="has reached 3"):
        run(config)


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_chain_ends_with_the_same_bytes(copied, finished, stage: str, monkeypatch) -> None:
    """Stopped inside a stage (an exception in the middle of its work), then continued."""
    config, path = copied
    shutil.rmtree(path / "gen_002")
    shutil.rmtree(path / "gen_001" / stage)

    def stopped(session, generation, out, *_):
        (out / "half.bin").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(stages.STAGES, stage, dataclasses.replace(stages.STAGES[stage], make=stopped))
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert manifest_of(path / "gen_001" / stage) is None
    _, rows = run(config)
    assert digests(path, 2) == digests(finished[1], 2)
    assert without_time(rows) == without_time(finished[2])
    assert not list(path.rglob("half.bin"))


@pytest.mark.parametrize("damage", ["delete", "truncate", "flip"])
@pytest.mark.parametrize("victim", ["train/model.safetensors", "samples/tokens-00000.bin", "mixture/blocks.bin"])
def test_damage_is_found_and_redone(copied, finished, damage: str, victim: str) -> None:
    config, path = copied
    file = path / "gen_001" / victim
    data = bytearray(file.read_bytes())
    if damage == "delete":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data if damage == "flip" else data[:-3])
    run(config)
    assert digests(path, 2) == digests(finished[1], 2)


def test_another_configuration_is_refused_with_the_keys_that_differ(copied) -> None:
    config, path = copied
    changed = dataclasses.replace(config, training=dataclasses.replace(config.training, lr=0.5, clip=3.0))
    before = digests(path, 2)
    with pytest.raises(UserError, match=r"training\.clip was 1\.0, is 3\.0; training\.lr was 0\.003, is 0\.5"):
        run(changed)
    assert digests(path, 2) == before


def test_harmless_keys_may_change(copied) -> None:
    config, _ = copied
    run(dataclasses.replace(config, progress=True, data_dir="/nowhere"))


def test_a_fork_shares_its_past_and_goes_its_own_way(copied) -> None:
    config, path = copied
    other = dataclasses.replace(config, name="fork", mixing=dataclasses.replace(config.mixing, start=0.9, ratio=1.0))
    forked, rows = run(other, fork=(path, 1))
    ours, theirs = digests(forked, 2), digests(path, 2)
    assert {k for k in ours if ours[k] == theirs[k]} >= {f"{g}/{s}" for g in (0, 1) for s in STAGES} | {"reference"}
    assert ours["2/mixture"] != theirs["2/mixture"]
    assert [row["real_share"] for row in rows] == pytest.approx([1.0, 0.5, 0.9], abs=0.02)
    assert read_json(forked / "fork.json")["at"] == 1
    run(other)  # goes on without --fork


@pytest.mark.parametrize(
    ("changes", "at", "message"),
    [
        ({"seed": 7}, 1, "no chain|fork"),
        ({"training__block": 16}, 1, r"training\.block was 32, is 16"),
        ({"corpus__tokenizer": "bpe"}, 1, r"corpus\.tokenizer"),
        ({}, 9, "--at 9"),
        ({}, -1, "--at -1"),
    ],
)
def test_forks_that_cannot_be_are_refused(copied, changes, at: int, message: str, tmp_path) -> None:
    config, path = copied
    other = small_config(name="fork", runs_dir=config.runs_dir, **changes)
    if "seed" in changes:  # real text is dealt by the seed: another seed would show the same text twice
        message = "seed"
    with pytest.raises(UserError, match=message):
        run(other, fork=(path, at))


def test_changed_text_is_refused(tmp_path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"line {i} of a text with words {i % 7}" for i in range(2000)))
    config = small_config(
        runs_dir=str(tmp_path), corpus__source=f"path:{text}", corpus__document="line", generations=0,
        mixing__tokens=512,
    )  # fmt: skip
    run(config)
    text.write_text(text.read_text().replace("words", "other"))
    with pytest.raises(UserError, match="changed since the start"):
        run(config)


def test_a_second_writer_is_told_who_holds_the_chain(copied) -> None:
    import fcntl

    config, path = copied
    with (path / "lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.truncate(0)
        held.write('{"pid": 4242}')
        held.flush()
        with pytest.raises(UserError, match="process 4242 has locked this chain; wait for it or stop it"):
            run(config)


@pytest.mark.parametrize("start", ["base", "previous", "scratch"])
def test_each_generation_starts_where_it_is_told_to(tmp_path, start: str) -> None:
    config = small_config(runs_dir=str(tmp_path), model__start=start, generations=1, name=start)
    path, _ = run(config)
    began = [read_json(path / f"gen_00{g}" / "train" / "collapselab.json")["started_from"] for g in (0, 1)]
    from collapselab.models import network

    first = network.weights_digest(network.load(str(path / "gen_000" / "train"), pad=64))
    assert (began[0] == began[1]) == (start == "base")
    assert (began[1] == first) == (start == "previous")


@pytest.mark.parametrize("regime", ["accumulate", "accumulate_subsample", "balanced", "incremental", "expanding"])
def test_other_regimes_run(tmp_path, regime: str) -> None:
    config = small_config(runs_dir=str(tmp_path), mixing__regime=regime, sampling__prompt_from="previous")
    path, rows = run(config)
    ledger = read_json(path / "gen_002" / "mixture" / "mixture.json")["tokens"]
    assert {"real", "generation_0", "generation_1", "prompt_previous"} == set(ledger)
    assert rows[1]["real_share"] == pytest.approx(2 / 3 if regime == "expanding" else 0.5, abs=0.15)


def test_report_shows_every_generation_and_the_reference(copied) -> None:
    _, path = copied
    page = write_report(path.parent.parent)
    text = page.read_text()
    assert "real text" in text and text.count('<div class="chart"') == 5  # too few rare words for those of tails
    lines = (page.parent / "metrics.csv").read_text().splitlines()
    values = [line.split(",")[-1] for line in lines if line.startswith("main,1,2,real/perplexity,")]
    assert [float(v) for v in values] == [read_metrics(path)[2]["metrics"]["real/perplexity"]]
    real = (page.parent / "reference.csv").read_text().splitlines()
    assert any(line.startswith("main,1,diversity/words/distinct_2,") for line in real)
    assert {p.name for p in page.parent.glob("*.png")} >= {"likelihood.png", "diversity.png"}


def test_markup_in_samples_is_shown_inert(copied) -> None:
    _, path = copied
    file = path / "gen_001" / "eval" / "examples.json"
    file.write_text(json.dumps(["<script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x1b[31m"]))
    text = write_report(path).read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text and "<img src=x" not in text


def test_sync_replays_every_row_to_wandb(copied, capsys) -> None:
    from collapselab.cli.main import main

    _, path = copied
    assert main(["sync", str(path), "--wandb", "offline"]) == 0
    rows = {row["generation"]: row for row in wandb_rows(*wandb_files(path))}
    for row in read_metrics(path):
        for key, value in row["metrics"].items():
            assert rows[row["generation"]][key] == pytest.approx(value), key


def test_no_pickle_in_a_run(copied, capsys) -> None:
    """In no file of a run, its report and its wandb folder, nor in the cache of tokenised text: neither by name, nor by the
    opcodes that a pickle begins with, nor as an archive, which is what torch.save writes."""
    from collapselab.cli.main import main
    from collapselab.corpus.prepared import cache_root

    _, path = copied
    run = path.parent.parent
    assert main(["report", str(run)]) == 0 and main(["sync", str(path), "--wandb", "offline"]) == 0
    allowed = {".json", ".jsonl", ".bin", ".yaml", ".safetensors", ".log", ".png", ".csv", ".parquet", ".html", ""}
    files = [file for folder in (run, cache_root()) for file in folder.rglob("*") if file.is_file()]
    assert {"wandb", "report"} <= {part for file in files for part in file.parts}
    for file in files:
        ours = "wandb" not in file.parts
        assert not ours or (file.suffix in allowed and (file.suffix or file.name == "lock")), file
        with file.open("rb") as stream:
            head = stream.read(2)
        numbers = file.suffix == ".bin"  # raw numbers may begin with any byte, and are read as numbers
        assert numbers or not (head[:1] == b"\x80" and 0 < head[1] <= 5), file
        assert head != b"PK" or numbers, file


def test_changed_samples_redo_all_that_was_made_from_them(copied) -> None:
    """Other text under a valid manifest, as when lost samples are made again on another machine."""
    import numpy as np

    from collapselab.store.folders import publishing

    config, path = copied
    before = digests(path, 2)
    kept = {n: (path / "gen_000" / "samples" / n).read_bytes() for n in ("meta.json", "continuations.json")}
    tokens = np.fromfile(path / "gen_000" / "samples" / "tokens-00000.bin", "<u2")
    inputs = manifest_of(path / "gen_000" / "samples")["inputs"]
    with publishing(path / "gen_000" / "samples", inputs=inputs) as out:
        tokens[::-1].tofile(out / "tokens-00000.bin")
        for name, data in kept.items():
            (out / name).write_bytes(data)
    run(config)
    after = digests(path, 2)
    assert after["0/train"] == before["0/train"]
    assert all(after[f"{g}/{s}"] != before[f"{g}/{s}"] for g in (1, 2) for s in ("mixture", "train", "samples", "eval"))


def test_other_weights_in_the_pretrained_folder_are_noticed(tmp_path, finished) -> None:
    _, path, _ = finished
    base = tmp_path / "base"
    shutil.copytree(path / "gen_000" / "train", base)
    config = small_config(runs_dir=str(tmp_path), model__pretrained=str(base), corpus__tokenizer=None, generations=0)
    run(config)
    shutil.copy(path / "gen_001" / "train" / "model.safetensors", base / "model.safetensors")
    with pytest.raises(UserError, match="not the weights that generation 0"):
        run(dataclasses.replace(config, generations=1))


def test_what_a_pretrained_model_may_have_seen_is_said(tmp_path, finished) -> None:
    """Trained here from random weights on this corpus: clean. From elsewhere: said, and it stays said."""
    _, path, _ = finished
    own = small_config(
        runs_dir=str(tmp_path), model__pretrained=str(path / "gen_000" / "train"), corpus__tokenizer=None,
        generations=0, name="own",
    )  # fmt: skip
    first, _ = run(own)
    assert "trained by this lab" in read_json(first / "environment.json")["note"]
    stranger = tmp_path / "stranger"
    shutil.copytree(path / "gen_000" / "train", stranger)
    (stranger / "collapselab.json").unlink()
    second, _ = run(
        dataclasses.replace(own, name="other", model=dataclasses.replace(own.model, pretrained=str(stranger)))
    )
    assert "may have seen" in read_json(second / "environment.json")["note"]
    assert "corpus" not in read_json(second / "gen_000" / "train" / "collapselab.json")
    assert "may have seen the held-out text" in write_report(second).read_text()


def test_documents_as_unit_write_documents(tmp_path) -> None:
    import numpy as np

    text = tmp_path / "text.txt"
    chance = np.random.default_rng(0)
    text.write_text("\n".join("".join(chance.choice(list("abcdefgh "), 14)) + "." for _ in range(1500)))
    config = small_config(
        runs_dir=str(tmp_path), corpus__source=f"path:{text}", corpus__document="line", mixing__unit="documents",
        training__block=16, sampling__prompt="bos", mixing__tokens=1024, generations=1, evaluation__tokens=512,
    )  # fmt: skip
    path, _ = run(config)
    rows = np.fromfile(path / "gen_000" / "samples" / "tokens-00000.bin", "<u2").reshape(-1, 16)
    assert (rows[:, 0] == 256).all()
    ledger = read_json(path / "gen_001" / "mixture" / "mixture.json")["tokens"]
    assert ledger["prompt_separator"]["set"] * 15 == ledger["generation_0"]["set"]
    with pytest.raises(UserError, match="begins like a document"):
        small_config(mixing__unit="documents", sampling__prompt="first_token")


def test_a_second_fork_elsewhere_is_refused(copied) -> None:
    config, path = copied
    other = dataclasses.replace(config, name="twice")
    run(other, fork=(path, 1))
    run(other, fork=(path, 1))
    with pytest.raises(UserError, match="not forked there"):
        run(other, fork=(path, 0))
    with pytest.raises(UserError, match="ends at generations=1"):
        run(dataclasses.replace(config, name="short", generations=1), fork=(path, 2))


def test_a_run_mirrors_its_rows_while_it_runs(copied) -> None:
    config, path = copied
    watched = dataclasses.replace(config, generations=3, tracking=dataclasses.replace(config.tracking, wandb="offline"))
    _, rows = run(watched)
    mirrored = wandb_rows(*wandb_files(path))
    assert [row["generation"] for row in mirrored] == [0, 1, 2, 3]
    assert [row["real/perplexity"] for row in mirrored] == [row["metrics"]["real/perplexity"] for row in rows]


def test_a_refused_run_removes_nothing_it_did_not_make(copied, tmp_path) -> None:
    """Generations without identity.json, and a folder that another process has just locked, are left as they are."""
    import fcntl

    config, path = copied
    for name in ("identity.json", "identity.copy.json"):
        (path / name).unlink()
    before = digests(path, 2)
    with pytest.raises(UserError, match=r"no identity\.json"):
        run(config)
    assert digests(path, 2) == before

    other = tmp_path / "starting" / "arm=main" / "seed=1"
    other.mkdir(parents=True)
    with (other / "lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process has locked this chain"):
            run(dataclasses.replace(config, name="starting"))
        assert (other / "lock").is_file()


def test_a_refused_fork_leaves_no_trace(copied, tmp_path) -> None:
    config, path = copied
    with pytest.raises(UserError, match="--at 9"):
        run(dataclasses.replace(config, name="never", generations=9), fork=(path, 9))
    assert not (tmp_path / "never").exists()
