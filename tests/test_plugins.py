"""A plugin is a file that the command line names: what it adds works like the package's own, and no record of it loads it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Lab
from helpers import small_config, undrawn

from collapselab.chain.run import run
from collapselab.config import MixingConfig, RunConfig, plugins
from collapselab.config.identity import identity
from collapselab.evaluation.samples import METRICS, Metric
from collapselab.mixing.regimes import REGIMES
from collapselab.store.layout import read_metrics

(EXAMPLE,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "extending.md").read_text(), re.M | re.S)
SMALL = {
    "model.family": "bigram", "corpus.tokenizer": "bytes", "training.block": 32, "mixing.tokens": 2048, "generations": 2,
    "evaluation.tokens": 512, "evaluation.overlap": False, "evaluation.self_bleu_samples": 0, "progress": False,
}  # fmt: skip
KEY = "plugin/long_words"


@pytest.fixture(autouse=True)
def no_plugins_left() -> Any:
    with undrawn():
        yield
    plugins.load([])


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugin of docs/extending.md, in the folder where commands are given."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(EXAMPLE)
    return path


def options(**more: Any) -> list[str]:
    flat = SMALL | {key.replace("__", "."): value for key, value in more.items()}
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in flat.items()]


def line(result: tuple[int, str, str]) -> str:
    code, _, err = result
    assert code == 2 and "Traceback" not in err, (code, err)
    return err.splitlines()[-1].removeprefix("collapselab: error: ")


def changed(path: Path) -> None:
    path.write_text(path.read_text().replace(">= 8", ">= 9"))


def test_the_plugin_of_the_page_runs_is_reported_and_is_asked_for(file: Path, lab: Lab) -> None:
    assert len(EXAMPLE.splitlines()) <= 30 and {"REGIMES[", "METRICS["} <= set(re.findall(r"[A-Z]+\[", EXAMPLE))
    asked = ["run", *options(mixing__regime="last_two", name="mine")]
    code, _, err = lab(*asked, "--plugin", "mine.py")
    assert code == 0, err
    chain = Path("runs/mine/arm=main/seed=1")
    rows = read_metrics(chain)
    assert len(rows) == 3 and all(0 < row["metrics"][KEY] < 1 for row in rows)
    assert [row["real_share"] for row in rows] == [1.0, 0.5, 0.0]
    sums = json.loads((chain / "gen_001/eval/eval.json").read_text())["sums"][KEY]
    assert rows[1]["metrics"][KEY] == sums["long"] / sums["words"]
    reference = json.loads((chain / "reference/eval.json").read_text())["metrics"]
    (record,) = json.loads((chain / "identity.json").read_text())["config"]["plugins"]
    assert record["name"] == "mine.py" and yaml.safe_load((chain / "config.yaml").read_text())["plugins"] == [record]

    page = Path("runs/mine/report/index.html").read_text()
    assert f"<option>{KEY}</option><option>diversity/" in page and record["digest"] in page
    assert "_again --plugin mine.py" in page
    shown = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])["any"]["any"]["shown"]  # type: ignore[index]
    assert shown[0]["title"] == KEY and shown[0]["curves"]["main (one seed)"] == [
        [0, 1, 2],
        [r["metrics"][KEY] for r in rows],
    ]
    assert shown[0]["curves"]["real text, same budget"][1] == [reference[KEY]] * 2
    assert len(shown) == page.count("<option>")

    asks = f"plugins: made with mine.py (sha256 {record['digest'][:12]}), which is not loaded; add --plugin mine.py"
    later = (
        ("report", "runs/mine"),
        ("eval", "runs/mine"),
        ("sample", "runs/mine"),
        ("export", "runs/mine"),
        ("sync", "runs/mine"),
    )
    for command in (
        ("run", "--config", f"{chain}/config.yaml"),
        ("run", "--fork", str(chain), "--at=1", "--name=b"),
        *later,
    ):
        assert line(lab(*command)) == asks, command
    assert "mixing.regime='last_two'" in line(lab(*asked))
    code, _, err = lab("report", "runs/mine", "--plugin=mine.py")
    assert code == 0, err
    code, _, err = lab(*asked, "--plugin", "mine.py", "--generations=3")
    assert code == 0 and "resumes after generation 2" in err, err

    changed(file)
    for command in (("run", "--config", f"{chain}/config.yaml"), *later):
        said = line(lab(*command, "--plugin", "mine.py"))
        assert said.startswith("--plugin mine.py: sha256=") and record["digest"][:12] in said, command


def test_a_run_made_without_it_is_scored_beside_its_own_scores(file: Path, lab: Lab) -> None:
    assert lab("run", *options(name="old", generations=1))[0] == 0
    before = {path: path.read_bytes() for path in Path("runs/old/arm=main/seed=1").rglob("eval/*")}
    assert "plugins" not in Path("runs/old/arm=main/seed=1/config.yaml").read_text()
    code, out, err = lab("eval", "runs/old", "--plugin", "mine.py")
    assert code == 0, err
    (scores,) = Path("runs/old/arm=main/seed=1/rescored").iterdir()
    assert scores.name in out and all(KEY in json.loads(row)["metrics"] for row in (scores / "metrics.jsonl").open())
    assert lab("eval", "runs/old")[0] == 0 and len(list(scores.parent.iterdir())) == 2
    assert {path: path.read_bytes() for path in before} == before

    said = line(lab("run", *options(name="old", generations=2), "--plugin", "mine.py"))
    assert "the chain has another configuration (plugins was [], is [{'name': 'mine.py'" in said
    fork = ["run", "--fork", "runs/old", "--at", "1", "--name", "new", "--generations", "2", "--plugin", "mine.py"]
    code, _, err = lab(*fork)  # from generation 2 on
    assert code == 0, err
    rows = read_metrics(Path("runs/new/arm=main/seed=1"))
    assert [KEY in row["metrics"] for row in rows] == [False, False, True]


def test_a_metric_that_is_added_to_the_package_leaves_old_chains_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """METRICS_VERSION counts changes of old values alone."""
    few = {"model__family": "bigram", "evaluation__self_bleu_samples": 0, "runs_dir": str(tmp_path)}
    chain, _ = run(small_config(generations=1, **few))
    before = {path: path.read_bytes() for path in chain.rglob("eval/*")}
    more = Metric(lambda text: {"sequences": len(text.rows)}, lambda sums: {"sequences": sums["sequences"]})
    dict.__setitem__(METRICS, "diversity/sequences", more)
    try:
        _, rows = run(small_config(generations=2, **few))
    finally:
        del METRICS["diversity/sequences"]
    assert ["diversity/sequences" in row["metrics"] for row in rows] == [False, False, True]
    assert {path: path.read_bytes() for path in before} == before


def test_workers_of_an_experiment_load_it_too(file: Path, lab: Lab, workers_at_once: None) -> None:
    arms = {"a": {"mixing.regime": "last_two"}, "b": {}}
    Path("arms.yaml").write_text(yaml.safe_dump({"arms": arms, "seeds": [1], "name": "both", "generations": 1}))
    flat = [item for item in options() if not item.startswith("--generations")]
    code, _, err = lab("experiment", "--config", "arms.yaml", "--workers", "1", "--plugin", "mine.py", *flat)
    assert code == 0, err
    assert all(KEY in read_metrics(Path(f"runs/both/arm={arm}/seed=1"))[1]["metrics"] for arm in arms)
    assert line(lab("experiment", "--config", "runs/both/experiment.yaml")).startswith("plugins: made with mine.py")
    said = line(lab("experiment", "--config", "arms.yaml", "--plugin", "mine.py", "--arms", '{"a": {"plugins": []}}'))
    assert said.startswith("arms.a.plugins: not a key that an arm may set; it is the same for all arms")


def test_a_worker_of_its_own_process_loads_it(file: Path, lab: Lab) -> None:
    """Spawned, not forked: a Python that has seen nothing of the plugin."""
    flat = [item for item in options(generations=0) if not item.startswith("--name")]
    arms = json.dumps({"a": {"mixing.regime": "last_two"}})
    code, _, err = lab("experiment", "--arms", arms, "--seeds", "[1]", "--name=one", "--plugin", str(file), *flat)
    assert code == 0, err
    assert KEY in read_metrics(Path("runs/one/arm=a/seed=1"))[0]["metrics"]


def test_the_record_is_part_of_the_identity_and_absent_without_plugins(file: Path) -> None:
    assert "plugins" not in identity(RunConfig())
    plugins.load(["mine.py"])
    records = plugins.check_loaded([])
    assert identity(RunConfig(plugins=records))["plugins"] == records
    plugins.load([])
    assert plugins.LOADED == {} and "last_two" not in REGIMES and KEY not in METRICS
    assert "last_two" not in MixingConfig.__annotations__["regime"]


def test_help_names_what_a_plugin_adds(file: Path, lab: Lab) -> None:
    file.write_text(
        "from collapselab.config.schedules import SCHEDULES\n"
        "from collapselab.mixing.regimes import REGIMES, Law, Regime, replace\n"
        "SCHEDULES['half'] = lambda config, g, last: 0.5\n"
        "REGIMES['twin'] = Regime(replace, Law(none='none'), keys=('schedule', 'added'))\n"
    )
    text = " ".join(lab("run", "--plugin", "mine.py", "--help")[1].split())
    assert ",expanding,twin}" in text and ",list,half}" in text
    asked = options(mixing__schedule="half", mixing__regime="twin", mixing__added=0.25, name="half")
    code, _, err = lab("run", *asked, "--plugin", "mine.py")
    assert code == 0, err
    rows = read_metrics(Path("runs/half/arm=main/seed=1"))
    assert [row["real_share"] for row in rows] == [1.0, 0.5, 0.5]
    assert "mixing.replaced" in line(lab("run", *asked, "--mixing.replaced=0.5", "--plugin", "mine.py"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_there", "line 1: ModuleNotFoundError: No module named 'nothing_there'"),
        ("\ndef (", "line 2: SyntaxError: "),
        ("a = 1\n\0", "mine.py"),
        (
            "from collapselab.mixing.regimes import REGIMES\nREGIMES['replace'] = REGIMES['balanced']",
            "line 2: regime 'replace': the name is taken or invalid; choose an unused one that matches "
            "[a-z][a-z0-9_]*; change the file",
        ),
        ("raise SystemExit('bye')", "line 1: SystemExit: bye; change the file"),
        (
            "from collapselab.evaluation.samples import METRICS\nMETRICS['real/nll'] = METRICS['diversity/overlap']",
            "line 2: metric 'real/nll': the name is taken or invalid; choose an unused one that matches plugin/[a-z0-9_]+",
        ),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_one_line(file: Path, lab: Lab, text: str, said: str) -> None:
    file.write_text(text)
    result = line(lab("run", *options(), "--plugin", "mine.py"))
    assert result.startswith("--plugin mine.py") and said in result, result
    assert not Path("runs").exists()


def test_what_a_plugin_raises_in_a_run_is_one_line(file: Path, lab: Lab) -> None:
    file.write_text(EXAMPLE.replace("len(words)}", "1 / 0}"))
    said = line(lab("run", *options(name="broken"), "--plugin", "mine.py"))
    assert re.fullmatch(r"--plugin mine.py, line \d+: ZeroDivisionError: division by zero; change the file", said)


def test_a_set_of_another_size_than_the_plugin_declares_is_refused(file: Path, lab: Lab) -> None:
    few = options(name="few", mixing__regime="last_two", sampling__tokens=512)
    assert "a generation needs 1024 tokens written by the previous one" in line(lab("run", *few, "--plugin", "mine.py"))
    file.write_text(EXAMPLE.replace("    needs=lambda outlook: Needs(written=outlook.size - outlook.size // 2),\n", ""))
    assert "Needs(written" not in file.read_text()
    assert line(lab("run", *few, "--plugin", "mine.py")).startswith(
        "mixing.regime='last_two': chose 48 blocks for generation 1, not the 64 of its size; change the plugin"
    )


def test_an_error_of_the_lab_inside_a_plugin_keeps_its_own_line(file: Path, lab: Lab) -> None:
    text = EXAMPLE.replace("    half, g =", "    check(False, 'key', 1, 'a remedy')\n    half, g =")
    file.write_text(text.replace("import numpy", "from collapselab.config.values import check\nimport numpy"))
    said = line(lab("run", *options(name="wrap", mixing__regime="last_two"), "--plugin", "mine.py"))
    assert said == "key=1: a remedy", said


def test_a_file_of_settings_loads_nothing(file: Path, lab: Lab) -> None:
    file.write_text("raise SystemExit('loaded')")
    Path("a.yaml").write_text("plugin: mine.py\n")
    assert "plugin: give it on the command line, as --plugin" in line(lab("run", "--config", "a.yaml"))
    for wrong in (
        "mine.py",
        "[mine.py]",
        "[{name: mine.py}]",
        "{mine.py: 3}",
        "[{name: mine.py, digest: abc}]",
        "[[1]]",
    ):
        Path("a.yaml").write_text(f"plugins: {wrong}\n")
        assert "plugins" in line(lab("run", "--config", "a.yaml")), wrong
    Path("a.yaml").write_text(f"plugins: [{{name: mine.py, digest: '{'0' * 64}'}}]\n")
    assert line(lab("run", "--config", "a.yaml")).startswith("plugins: made with mine.py (sha256 000000000000)")
    assert line(lab("run", "--plugin", "none.py")).startswith("--plugin none.py: ")
    shutil.copy(file, "again.py")
    file.write_text("")
    Path("sub").mkdir()
    shutil.copy(file, "sub/mine.py")
    assert "give each name once" in line(lab("run", "--plugin", "mine.py", "--plugin", "sub/mine.py"))


FAMILY = """
from collapselab.config.families import FAMILIES, Family


def settings(model, context):
    return {
        "hidden_size": model.width, "intermediate_size": 4 * model.width, "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads, "max_position_embeddings": context,
        "tie_word_embeddings": model.tie_embeddings,
    }


FAMILIES["gpt_neox"] = Family("GPTNeoXForCausalLM", settings, rotary=True)
"""


def test_a_family_of_a_plugin_is_planned_trained_scored_and_asked_for(file: Path, lab: Lab) -> None:
    file.write_text(FAMILY)
    sizes = {"model__layers": 1, "model__width": 16, "model__heads": 2, "generations": 1}
    asked = ["run", *options(model__family="gpt_neox", name="neox", **sizes), "--plugin", "mine.py"]
    code, out, err = lab(*asked, "--dry-run")
    assert code == 0 and "parameters" in out, err
    code, _, err = lab(*asked)
    assert code == 0, err
    chain = Path("runs/neox/arm=main/seed=1")
    assert len(read_metrics(chain)) == 2
    assert json.loads((chain / "gen_001/train/config.json").read_text())["model_type"] == "gpt_neox"
    assert "is not loaded; add --plugin mine.py" in line(lab("eval", "runs/neox"))
    code, out, err = lab("eval", str(chain / "gen_001/train"), "--run", str(chain), "--plugin", "mine.py")
    assert code == 0 and "real/perplexity" in out, err


def test_an_entry_of_the_gallery_that_needs_a_plugin_asks_for_it(file: Path, lab: Lab, workers_at_once: None) -> None:
    assert lab("run", *options(name="mine", generations=1), "--plugin", "mine.py")[0] == 0
    record = json.loads(Path("runs/mine/arm=main/seed=1/identity.json").read_text())["config"]["plugins"]
    nested: dict[str, Any] = {}
    for key, value in (SMALL | {"mixing.regime": "last_two"}).items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    paper = {
        "title": "Some words are long", "cite": "Nobody 2026", "protocol": "none", "open": "nothing", "minutes": 0.1,
        "published": [{"what": "share", "value": ".01", "source": "made up for this test"}],
        "quantities": {"long": KEY}, "plot": ["long"],
        "criteria": [{"says": "some words are long", "of": "main.long[1]", "at_least": 0.01}],
    }  # fmt: skip
    Path("papers").mkdir()
    entry = nested | {"name": "long", "seeds": [1, 2, 3], "arms": {"main": {}}, "plugins": record, "paper": paper}
    Path("papers/long.yaml").write_text(yaml.safe_dump(entry))
    asked = ["reproduce", "long", "--papers", "papers", "--out", "kept", "--workers", "1"]
    assert "is not loaded; add --plugin mine.py" in line(lab(*asked))
    code, out, err = lab(*asked, "--plugin", "mine.py")
    assert code == 0 and "long: PASS" in out, (out, err)
    assert "collapselab reproduce long --plugin mine.py" in Path("kept/long/table.md").read_text()
