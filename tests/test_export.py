"""A generation handed on: read back by the libraries it is meant for, and a card that says what it is."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import Lab
from helpers import samples_of, small_config
from test_untrusted_runs import fault
from untrusted_runs import TEXTS, change, files_of, reseal

from collapselab.chain import run as chain
from collapselab.cli.options import config_from
from collapselab.config import CorpusConfig, ModelConfig, RunConfig, UserError
from collapselab.corpus.tokenizers import load_tokenizer
from collapselab.export import cards
from collapselab.export import generation as export
from collapselab.report.pages import ChainFiles
from collapselab.runtime.console import UNSAFE, Console
from collapselab.store.folders import publishing, read_json, write_json
from collapselab.store.layout import Chain


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished chain of three generations whose middle weights are pruned (do not change it)."""
    folder = tmp_path_factory.mktemp("chain")
    return chain.run(small_config(runs_dir=str(folder), retain="last", sampling__tokens=2100))[0]


@pytest.fixture(scope="module")
def out(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generation 2 of it, exported (do not change it)."""
    place = tmp_path_factory.mktemp("out") / "new" / "folder"
    export.export(ChainFiles(root), config_from(root / "config.yaml"), 2, place, console=Console(speaks=False))
    return place


def head_and_body(page: Path) -> tuple[dict[str, Any], str]:
    empty, head, body = page.read_text(encoding="utf-8").split("---\n", 2)
    assert not empty
    return yaml.safe_load(head), body


def loaded(folder: Path, tmp_path: Path) -> Any:
    from datasets import load_dataset

    return load_dataset(str(folder), split="train", cache_dir=str(tmp_path))


def flat(table: Any) -> list[int]:
    return [token for tokens in table["tokens"] for token in tokens]


def test_datasets_reads_every_sequence_with_its_tokens_and_text(root: Path, out: Path, tmp_path: Path) -> None:
    stage, table = Chain(root).stage(2, "samples"), loaded(out / "samples", tmp_path)
    assert table.column_names == export.SCHEMA.names and len(table) == 66
    assert flat(table) == samples_of(stage).tolist()
    assert [len(tokens) for tokens in table["tokens"]] == [32] * 65 + [20]
    assert table["sequence"][:] == list(range(66)) and set(table["generation"]) == {2}
    assert set(table["arm"]) == {"main"} and set(table["seed"]) == {1} and set(table["prompt_tokens"]) == {1}
    tokenizer = load_tokenizer(str(out / "model"))
    assert table["text"][:] == tokenizer.decode(table["tokens"][:])


def test_datasets_reads_the_files_by_their_names_too(out: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    files = {"train": str(out / "samples" / "*.parquet")}
    assert len(load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))["train"]) == 66


def test_text_without_separators_is_what_transformers_decodes(out: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer, table = AutoTokenizer.from_pretrained(out / "model"), loaded(out / "samples", tmp_path)
    rows = [row for row in table if tokenizer.bos_token_id not in row["tokens"]]
    assert len(rows) > 20 and all(tokenizer.decode(row["tokens"]) == row["text"] for row in rows)


def test_transformers_reads_the_model_and_it_computes_the_same(root: Path, out: Path) -> None:
    from transformers import AutoModelForCausalLM

    ids = torch.arange(32)[None]
    theirs, ours = (
        AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids).logits
        for folder in (out / "model", Chain(root).stage(2, "train"))
    )
    assert torch.equal(theirs, ours)
    names = {path.name for path in (out / "model").iterdir()}
    assert not names & {"manifest.json", "log.jsonl"} and {"README.md", "tokenizer.json", "model.safetensors"} <= names


def test_an_exported_model_starts_another_chain(out: Path, tmp_path: Path) -> None:
    made = small_config(
        runs_dir=str(tmp_path), generations=0, model__pretrained=str(out / "model"), corpus__tokenizer=None
    )
    assert len(chain.run(made)[1]) == 1


@pytest.mark.parametrize("family", ["gpt2", "bigram"])
def test_the_code_on_a_models_card_runs(family: str, tmp_path: Path) -> None:
    made = small_config(runs_dir=str(tmp_path), generations=0, model__family=family)
    export.export(ChainFiles(chain.run(made)[0]), made, 0, tmp_path / "out", console=Console(speaks=False))
    _, body = head_and_body(tmp_path / "out" / "model" / "README.md")
    code = body.split("```python\n")[1].split("```")[0]
    asked = f"{code}\nprint(model(**tokenizer('ab', return_tensors='pt')).logits.shape[1])"
    ended = subprocess.run([sys.executable, "-c", asked], cwd=tmp_path / "out", capture_output=True, text=True)
    assert ended.returncode == 0 and int(ended.stdout) >= 2, ended.stderr


def test_the_cards_have_front_matter_that_the_hub_reads(out: Path) -> None:
    from huggingface_hub import DatasetCard, ModelCard

    model, _ = head_and_body(out / "model" / "README.md")
    assert model["library_name"] == "transformers" and model["pipeline_tag"] == "text-generation"
    assert "trained-on-synthetic-text" in model["tags"] and "base_model" not in model and "license" not in model
    assert ModelCard.load(out / "model" / "README.md").data.to_dict() == model
    samples, _ = head_and_body(out / "samples" / "README.md")
    assert samples["size_categories"] == ["n<1K"] and "synthetic" in samples["tags"]
    assert DatasetCard.load(out / "samples" / "README.md").data.to_dict() == samples


def test_the_cards_say_what_it_is_and_give_its_numbers(root: Path, out: Path) -> None:
    facts = ChainFiles(root)
    row, ledger = facts.rows[2], facts.ledgers[2]
    written = sum(entry["set"] for source, entry in ledger.items() if source.startswith("generation"))
    share = 100 * written / sum(entry["set"] for entry in ledger.values())
    for folder in ("model", "samples"):
        _, body = head_and_body(out / folder / "README.md")
        assert f"trained on synthetic text.** {share:.3g} % of the tokens" in body
        assert "0: 1, 1: 0.5, 2: 0.25" in body and f"| `real` | {ledger['real']['set']:,} |" in body
        assert f"| `real/perplexity` | {row['metrics']['real/perplexity']:.6g} |" in body
        real = facts.reference["metrics"]["diversity/words/distinct_2"]
        assert next(x for x in body.splitlines() if x.startswith("| `diversity/words/distinct_2`")).endswith(
            f"| {real:.6g} |"
        )
        assert f"`{facts.protocol['tokenizer']}`" in body
    assert "this is synthetic text" in body and "were copied from real text" in body


def test_the_settings_on_a_card_are_those_of_the_chain(root: Path, out: Path, tmp_path: Path) -> None:
    _, body = head_and_body(out / "model" / "README.md")
    (tmp_path / "settings.yaml").write_text(body.split("````yaml\n")[1].split("````")[0])
    again, ran = config_from(tmp_path / "settings.yaml"), config_from(root / "config.yaml")
    for part in ("corpus", "model", "training", "mixing", "sampling", "evaluation", "seed", "generations", "retain"):
        assert getattr(again, part) == getattr(ran, part), part


def test_generation_0_is_said_to_have_seen_real_text_alone(root: Path, lab: Lab, tmp_path: Path) -> None:
    code, said, _ = lab("export", str(root), "--generation", "0", "--out", str(tmp_path / "first"))
    assert code == 0 and str(tmp_path / "first") in said
    head, body = head_and_body(tmp_path / "first" / "model" / "README.md")
    assert "trained on real text alone" in body and "trained on synthetic" not in body
    assert "trained-on-synthetic-text" not in head["tags"]
    assert "this is synthetic text" in (tmp_path / "first" / "samples" / "README.md").read_text()


def test_without_options_it_is_the_last_generation_in_exports(
    root: Path, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert lab("export", str(root), "--what", "samples")[0] == 0
    place = tmp_path / "exports" / "test-main-seed1-gen2"
    assert sorted(path.name for path in place.iterdir()) == ["samples"]
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_text_in_several_shards_comes_out_in_several_files_a_few_rows_at_a_time(
    mine: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = mine() / "arm=main" / "seed=1"
    stage = Chain(copy).stage(2, "samples")
    whole, meta = samples_of(stage), read_json(stage / "meta.json")
    names = [f"tokens-0000{number}.bin" for number in range(3)]
    with publishing(stage, inputs=read_json(stage / "manifest.json")["inputs"]) as place:
        for name, part in zip(names, np.split(whole, [50, 1000]), strict=True):  # in the midst of a sequence
            part.tofile(place / name)
        write_json(place / "meta.json", meta | {"shards": names})
    monkeypatch.setattr(export, "FILE_TOKENS", 32 * 25)
    monkeypatch.setattr(export, "GROUP_TOKENS", 32 * 10)
    files = ChainFiles(copy)
    export.export(
        files, config_from(copy / "config.yaml"), 2, tmp_path / "out", "samples", console=Console(speaks=False)
    )
    import pyarrow.parquet as pq

    made = sorted((tmp_path / "out" / "samples").glob("*.parquet"))
    assert [path.name for path in made] == [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    groups = [pq.ParquetFile(path).metadata for path in made]
    assert [[m.row_group(i).num_rows for i in range(m.num_row_groups)] for m in groups] == [[10, 10, 5]] * 2 + [[10, 6]]
    table = loaded(tmp_path / "out" / "samples", tmp_path / "cache")
    assert flat(table) == whole.tolist() and table["sequence"][:] == list(range(66))


def refused(answer: tuple[int, str, str], *words: str) -> None:
    code, _, err = answer
    assert code == 2 and err.count("\n") == 1 and all(word in err for word in words), err


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(root: Path, lab: Lab, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")]
    refused(lab("export", str(root), "--generation", "1", *out), "--generation 1", "pruned", "0, 2")
    refused(lab("export", str(root), "--generation", "7", *out), "--generation 7", "0 to 2")
    refused(lab("export", str(root), "--generation", "-1", *out), "--generation -1")
    refused(lab("export", str(root), "--what", "weights", *out), "--what='weights'", "all, samples or model")
    refused(lab("export", str(root), "--out", str(root / "gen_002" / "mine")), "lies in a chain")
    refused(lab("export", str(tmp_path)), "no run here")
    (tmp_path / "link").symlink_to(root)
    refused(lab("export", str(root), "--out", str(tmp_path / "link" / "mine")), "lies in a chain")
    (tmp_path / "link").unlink()
    assert not list(tmp_path.iterdir())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    refused(lab("export", str(root), "--out", str(tmp_path / "full")), "holds files already", "name a new folder")
    refused(lab("export", str(root), "--out", str(tmp_path / "full" / "mine.txt")), "cannot be written")
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"]


def test_samples_of_a_generation_without_weights_are_exported(root: Path, lab: Lab, tmp_path: Path) -> None:
    assert lab("export", str(root), "--generation", "1", "--what", "samples", "--out", str(tmp_path / "out"))[0] == 0
    assert len(loaded(tmp_path / "out" / "samples", tmp_path / "cache")) == 66


def test_an_export_that_ends_midway_leaves_nothing_and_one_that_was_killed_is_no_hindrance(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, config, quiet = ChainFiles(root), config_from(root / "config.yaml"), Console(speaks=False)
    whole = export.write_text

    def full(path: Path, text: str) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(export, "write_text", full)
    with pytest.raises(UserError, match=r"cannot be written .No space left on device"):
        export.export(files, config, 2, tmp_path / "out", console=quiet)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(export, "write_text", whole)
    (tmp_path / ".out.partial" / "model").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    export.export(files, config, 2, tmp_path / "out", console=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def mine(root: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the run that may be changed."""

    def make() -> Path:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(root.parents[1], tmp_path / "run")
        return tmp_path / "run"

    return make


def test_a_damaged_stage_is_not_exported(mine: Callable[[], Path], lab: Lab, tmp_path: Path) -> None:
    for file in ("samples/tokens-00000.bin", "train/model.safetensors"):
        run = mine()
        path = run / "arm=main" / "seed=1" / "gen_002" / file
        path.write_bytes(path.read_bytes()[:-2] + b"\0\1")
        refused(
            lab("export", str(run), "--out", str(tmp_path / "out")),
            "missing, damaged or out of date",
            "continue the run",
        )
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", [*TEXTS, "a\n```\n````\n---\n# b", "x' y\" |\n| # &amp; <b>", "`` a ``` b ````"])
def test_a_value_on_a_card_stays_one_value(text: str) -> None:
    shown = cards._code(text)
    assert "\n" not in shown and UNSAFE.search(shown) is None and len(shown) < 2 * cards.LONGEST + 10
    assert shown == "–" or (shown[0] == shown[-1] == "`" and "`" not in shown[1:-1])
    assert shown.count("|") == shown.count("\\|")
    line = cards._value(text)
    assert "\n" not in line and UNSAFE.search(line) is None
    if "/" not in text and UNSAFE.search(text) is None and "\x7f" not in text:
        assert yaml.safe_load(line) == text


def test_settings_with_markup_neither_end_the_block_nor_the_front_matter(root: Path) -> None:
    odd = "hub:a\n````\n---\nlicense: mit\n# <script>alert(1)</script>"
    config = RunConfig(corpus=CorpusConfig(source=odd, column="\n````\n"))
    head, body = cards.model_card(ChainFiles(root), config, 2).split("---\n", 2)[1:]
    assert "license" not in yaml.safe_load(head) and "datasets" not in yaml.safe_load(head)
    block = yaml.safe_load(body.split("````yaml\n")[1].split("\n````\n")[0])
    assert block["corpus.source"] == odd and block["corpus.column"] == "\n````\n"
    assert "\n# <script>" not in body


def test_where_it_came_from_is_named_and_paths_of_the_machine_are_not(root: Path, tmp_path: Path) -> None:
    files = ChainFiles(root)

    def head(source: str, pretrained: str, start: Any = "base") -> tuple[dict[str, Any], str]:
        config = RunConfig(corpus=CorpusConfig(source=source), model=ModelConfig(pretrained=pretrained, start=start))
        page = cards.model_card(files, config, 2)
        return yaml.safe_load(page.split("---\n")[1]), page

    found, page = head("hub:some/texts", "openai-community/gpt2")
    assert found["base_model"] == "openai-community/gpt2" and found["datasets"] == ["some/texts"]
    assert "It began as `openai-community/gpt2`" in page
    assert "base_model" not in head("sotu", "openai-community/gpt2", "scratch")[0]
    (tmp_path / "secret" / "model").mkdir(parents=True)
    found, page = head(f"path:{tmp_path}/secret/*.txt", f"{tmp_path}/secret/model")
    assert not found.keys() & {"base_model", "datasets"} and str(tmp_path) not in page and "secret" not in page
    assert "`path:.../*.txt`" in page and "`.../model`" in page
    assert "such text came in with generation 1" in head("sotu", "gpt2", "previous")[1]


@pytest.mark.parametrize("seed", range(12))
def test_a_strangers_run_is_exported_or_refused_in_one_line(
    seed: int, mine: Callable[[], Path], lab: Lab, tmp_path: Path
) -> None:
    run, draw = mine(), random.Random(seed)
    file = draw.choice(files_of(run))
    change(run / file, draw)
    reseal(run)
    code, out, err = lab("export", str(run), "--out", str(tmp_path / "out"))
    assert not fault(code, out, err), (file, err)
    assert (tmp_path / "out").exists() == (code == 0), (file, err)
