"""The stub card and the first run on a GPU name what the code has: they are run seldom, and must fit when they are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Forked

from collapselab.bench.cases import BENCHES
from collapselab.config import RunConfig, as_dict
from collapselab.config.values import flatten
from collapselab.store.layout import Chain

ROOT = Path(__file__).parents[1]
CHECK = (ROOT / "scripts" / "gpu_check.sh").read_text()
sys.path.insert(0, str(ROOT / "scripts" / "stub_card"))

import lab as stub  # noqa: E402 - the stub card's

SMALL = ["--corpus.tokenizer", "bytes", "--mixing.tokens", "512", "--generations", "1", "--model.layers", "1"]
SMALL += ["--model.width", "16", "--model.heads", "2", "--training.block", "16", "--evaluation.tokens", "128"]
SMALL += ["--device", "cpu", "--progress", "false"]


@pytest.mark.parametrize("place", list(stub.REPLACED))
def test_what_the_stub_card_replaces_is_there(place: str) -> None:
    owner, name = stub.locate(place)
    assert callable(getattr(owner, name))


def test_a_name_that_moved_is_found_out(monkeypatch) -> None:
    monkeypatch.delattr("collapselab.learning.trainer.Trainer.train")
    with pytest.raises(AttributeError, match="train"):
        stub.locate("collapselab.learning.trainer:Trainer.train")


def test_on_a_cpu_the_stub_card_changes_nothing(tmp_path) -> None:
    """Each replacement is called as its original is, and gives what that gives."""

    def replaced(arguments: list[str]) -> int:
        from collapselab.cli.main import main

        stub.install()
        return main(arguments)

    for name, call in (("own", {}), ("stub", {"call": replaced})):
        done = Forked("run", *SMALL, "--runs_dir", str(tmp_path), "--name", name, output=tmp_path / "said.log", **call)
        assert done.wait(120) == 0, done.said()[-3000:]
    own, other = (Chain(tmp_path / name / "arm=main" / "seed=1") for name in ("own", "stub"))
    for generation in range(2):
        for stage in ("train", "samples", "eval"):
            assert own.digest_of(generation, stage) == other.digest_of(generation, stage)


def test_the_first_run_on_a_gpu_asks_for_what_there_is() -> None:
    keys = set(flatten(as_dict(RunConfig()))) | {"config", "name", "runs_dir", "ours", "repeats", "only", "device"}
    asked = set(re.findall(r"(?<=--)[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)?(?= )", CHECK))
    of_others = {"query-gpu", "format", "kill-after", "maxfail"}
    assert asked - of_others <= keys and {"mixing.tokens", "training.precision", "deterministic", "ours"} <= asked
    for bench in re.findall(r"lab bench (\w+)", CHECK):
        assert bench in BENCHES
    for file in re.findall(r"(?:configs|scripts|tests)/[\w/]+\.\w+", CHECK):
        assert (ROOT / file).is_file(), file
    (chosen,) = re.findall(r'-k "\((.+?)\) and not (?:\w+)"', CHECK)
    engine = (ROOT / "tests" / "test_engine.py").read_text()
    for word in chosen.split(" or "):
        assert re.search(rf"def test_\w*{word}", engine), word


def test_the_figures_of_a_check_can_be_read(tmp_path) -> None:
    figures = ROOT / "scripts" / "gpu_figures.py"
    row = '{"name": "ours", "rate": 5000.0, "share": 0.5, "peak_bytes": 2000000000, "note": ""}'
    none = '{"name": "theirs", "rate": null, "share": null, "peak_bytes": null, "note": "does not fit"}'
    case = f'{{"title": "Training", "rows": [{row}, {none}], "parity": {{}}}}'
    (tmp_path / "training.json").write_text(f'{{"cases": [{case}]}}')
    (tmp_path / "torn.json").write_text("")
    done = subprocess.run([sys.executable, str(figures), str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "training: Training: ours: 5,000 tokens/s, 50 % of the limit, 2.0 GB at most",
        "training: Training: theirs: does not fit",
    ]


def test_the_stub_card_answers_for_what_torch_asks(tmp_path) -> None:
    """missing.py: a product is a launch, what only asks is not, what is written by hand stays out."""
    import shutil

    if shutil.which("gcc") is None or shutil.which("nm") is None:
        pytest.skip("gcc and nm build it")
    folder = tmp_path / "torch" / "lib"
    folder.mkdir(parents=True)
    for name, code in {
        "libtorch_cuda.so": "int cublasSgemm_v2(), cublasSetMathMode(), cublasLtMatmul(), cudaMalloc();"
        "int f() { return cublasSgemm_v2() + cublasSetMathMode() + cublasLtMatmul() + cudaMalloc(); }",
        "mine.so": "int cublasCreate_v2() { return 0; }",
    }.items():
        (tmp_path / "code.c").write_text(code)
        subprocess.run(
            ["gcc", "-w", "-shared", "-fPIC", str(tmp_path / "code.c"), "-o", str(folder / name)], check=True
        )
    source = ROOT / "scripts" / "stub_card"
    made = subprocess.run(
        [sys.executable, str(source / "missing.py"), str(tmp_path), "cublas", str(folder / "mine.so")],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert made.splitlines()[1:] == [
        "API int cublasSetMathMode(void) { return 0; }",
        'API int cublasSgemm_v2(void **handle) { return stub_launch("cublasSgemm_v2", *handle), 0; }',
    ]
