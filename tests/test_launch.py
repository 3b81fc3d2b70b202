"""Several processes: the same ledger, the same text, nearly the same numbers."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import psutil
import pytest
from accelerate.commands.launch import launch_command, launch_command_parser
from conftest import Lab
from helpers import Forked

from collapselab.chain.opening import open_corpus
from collapselab.cli.options import config_from
from collapselab.evaluation.explorer import explorer_data, read_continuations
from collapselab.models import network
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes
from collapselab.sampling.continuations import write_continuations
from collapselab.store.folders import read_json
from collapselab.store.layout import Chain, read_metrics

ROOT = Path(__file__).parents[1]
SMOKE = str(ROOT / "configs" / "smoke.yaml")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return int(s.getsockname()[1])


def command(processes: int, *arguments: str) -> list[str]:
    # `--multi_gpu` is accelerate's name for "several processes": without a GPU they are CPU processes over gloo.
    kind = ["--multi_gpu"] if processes > 1 else ["--cpu"]
    launcher = [*kind, "--num_machines", "1", "--num_processes", str(processes), "--mixed_precision", "no"]
    launcher += ["--dynamo_backend", "no", "--main_process_port", str(free_port())]
    return [*launcher, "-m", "collapselab", *arguments]


def launcher(arguments: list[str]) -> int:
    """`accelerate launch`, in this process; what it launches are processes of their own."""
    launch_command(launch_command_parser().parse_args(arguments))
    return 0


def launched(*arguments: str, output: Path) -> Forked:
    return Forked(*arguments, output=output, call=launcher, PYTHONPATH=str(ROOT / "src"))


def launch(processes: int, *arguments: str, output: Path) -> int:
    """The exit code of the launcher."""
    return launched(*command(processes, *arguments), output=output).wait(240)


def at_once(processes: int, *arguments: str, output: Path) -> None:
    """As `launch`, without the launcher: processes forked from this one, which find each other as its processes do."""
    world = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    world |= {"LOCAL_WORLD_SIZE": str(processes), "ACCELERATE_USE_CPU": "true"}
    ranks = [
        Forked(*arguments, output=output, RANK=str(rank), LOCAL_RANK=str(rank), **world)
        if processes > 1
        else Forked(*arguments, output=output)
        for rank in range(processes)
    ]
    assert [rank.wait(120) for rank in ranks] == [0] * processes, output.read_text()[-3000:]


@pytest.fixture(scope="module")
def two_and_one(tmp_path_factory) -> dict[int, Path]:
    runs = {}
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"p{processes}")
        # 10,000 tokens: 156 blocks, so that the last batch is short and uneven between two processes
        options = ["run", "--config", SMOKE, "--runs_dir", str(folder), "--mixing.tokens", "10000"]
        if processes == 1:
            one = Forked(*options, output=folder / "said.log")
            assert one.wait(240) == 0, one.said()
        else:
            assert launch(2, *options, output=folder / "said.log") == 0, (folder / "said.log").read_text()[-3000:]
        runs[processes] = folder / "smoke" / "arm=main" / "seed=1"
    return runs


def test_ledgers_are_equal_and_perplexities_near(two_and_one) -> None:
    for n, path in two_and_one.items():
        assert read_json(path / "environment.json")["processes"] == n
    one, two = (Chain(two_and_one[n]) for n in (1, 2))
    for g in range(3):
        mine, theirs = (read_json(chain.stage(g, "mixture") / "mixture.json") for chain in (one, two))
        # Of the written text itself a token or two may differ: two processes add up gradients in another order.
        digests, others = mine.pop("sources"), theirs.pop("sources")
        assert mine == theirs and digests.keys() == others.keys() and digests.get("real") == others.get("real")
    rows = [read_metrics(two_and_one[n]) for n in (1, 2)]
    nll = [r[0]["metrics"]["real/nll_nats"] for r in rows]
    assert nll[1] == pytest.approx(nll[0], rel=1e-3)
    for a, b in zip(*rows, strict=True):
        assert b["metrics"]["real/perplexity"] == pytest.approx(a["metrics"]["real/perplexity"], rel=0.02)


def test_one_model_writes_the_same_shards_with_one_and_two_processes(two_and_one, tmp_path) -> None:
    texts = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        options = [
            "sample",
            str(two_and_one[1]),
            "--generation",
            "2",
            "--tokens",
            "30001",
            "--sampling.batch_size",
            "32",
        ]
        at_once(processes, *options, "--out", str(out), output=tmp_path / f"{processes}.log")
        texts.append({p.name: p.read_bytes() for p in out.iterdir()})
    assert texts[0] == texts[1]
    assert len(texts[0]["tokens-00000.bin"]) == 2 * 30001


def test_two_processes_continue_the_same_prompts_as_one(two_and_one, tmp_path) -> None:
    """What two processes wrote for the explorer, made again by one from the models that they trained."""
    chain = two_and_one[2]
    config = config_from(chain / "config.yaml")
    processes = Processes("cpu", "fp32")
    corpus = open_corpus(config, processes)
    base = network.load(str(chain / "gen_000" / "train"))
    for g in (0, 2):
        samples, model = chain / f"gen_{g:03d}" / "samples", network.load(str(chain / f"gen_{g:03d}" / "train"))
        write_continuations(model, corpus, config, "fp32", processes, tmp_path)
        assert (tmp_path / "continuations.json").read_bytes() == (samples / "continuations.json").read_bytes()
        found = read_continuations(samples, model.vocab)
        shown = explorer_data(found, base, corpus.tokenizer, config, processes, Console(speaks=False))
        written = read_json(chain / f"gen_{g:03d}" / "eval" / "explorer.json")
        for one, other in zip(shown["prompts"], written["prompts"], strict=True):
            assert other.pop("nll") == pytest.approx(one.pop("nll"), abs=2e-3) and one == other


def test_one_process_where_two_were_asked_for_is_said(tmp_path) -> None:
    """accelerate's `--cpu --num_processes 2` starts one process: the run says so, and how to have two."""
    options = ["run", "--config", SMOKE, "--runs_dir", str(tmp_path), "--generations", "0"]
    done = launched("--cpu", "--num_processes", "2", "-m", "collapselab", *options, output=tmp_path / "said.log")
    assert done.wait(240) == 0, done.said()[-3000:]
    facts = read_json(tmp_path / "smoke" / "arm=main" / "seed=1" / "environment.json")
    assert facts["processes"] == 2 or "accelerate started one process" in done.said()


def test_an_error_is_one_line_and_ends_every_process(tmp_path) -> None:
    options = ["run", "--config", SMOKE, "--runs_dir", str(tmp_path), "--corpus.source", "path:none*"]
    assert launch(2, *options, output=tmp_path / "said.log") != 0
    assert (tmp_path / "said.log").read_text().count("collapselab: error:") == 1


def test_a_dead_process_ends_the_others_and_a_signal_stops_all_where_they_can_go_on(two_and_one, tmp_path) -> None:
    """Rank 1 is killed in training; then the launcher is asked to end; what comes out is that of an undisturbed run."""
    options = ["run", "--config", SMOKE, "--runs_dir", str(tmp_path), "--mixing.tokens", "10000"]
    options += ["--training.checkpoint_steps", "1", "--generations", "1"]
    chain = tmp_path / "smoke" / "arm=main" / "seed=1"
    for victim, generation in (("rank 1", 0), ("launcher", 1)):
        launcher = launched(*command(2, *options), output=tmp_path / "output.log")
        until = time.monotonic() + 120
        while not list(chain.glob(f"gen_{generation:03d}/train.unfinished/*/manifest.json")):
            assert launcher.poll() is None and time.monotonic() < until, launcher.said()[-3000:]
            time.sleep(0.01)
        ranks = {p.environ().get("RANK"): p for p in psutil.Process(launcher.pid).children() if p.is_running()}
        at = time.monotonic()
        if victim == "rank 1":
            ranks["1"].kill()
        else:
            launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(60) != 0
        psutil.wait_procs(list(ranks.values()), timeout=max(0, 60 - (time.monotonic() - at)))
        assert not any(p.is_running() for p in ranks.values()), f"{victim}: the others run on after a minute"
    said = (tmp_path / "output.log").read_text()
    assert "collapselab: stopped by SIGTERM" in said
    at_once(2, *options, output=tmp_path / "output.log")
    assert "training resumes after step" in (tmp_path / "smoke" / "events.log").read_text()
    for g in range(2):
        for stage in ("train", "samples", "eval"):
            assert Chain(chain).digest_of(g, stage) == Chain(two_and_one[2]).digest_of(g, stage), (g, stage)


def test_a_launcher_that_is_killed_takes_its_processes_along(tmp_path: Path) -> None:
    options = ["run", "--config", SMOKE, "--runs_dir", str(tmp_path), "--training.epochs", "200"]
    launcher = launched(*command(2, *options), output=tmp_path / "said.log")
    chain = tmp_path / "smoke" / "arm=main" / "seed=1"
    until = time.monotonic() + 120
    while not (chain / "gen_000" / ".train.partial").exists():
        assert launcher.poll() is None and time.monotonic() < until, launcher.said()[-3000:]
        time.sleep(0.02)
    ranks = psutil.Process(launcher.pid).children()
    assert len(ranks) >= 2
    launcher.send_signal(signal.SIGKILL)
    launcher.wait(20)
    _, alive = psutil.wait_procs(ranks, timeout=20)
    for process in alive:
        process.kill()
    assert not alive and "Traceback" not in launcher.said(), launcher.said()[-3000:]


LEFT = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "ACCELERATE_USE_CPU": "true"}


@pytest.mark.parametrize("rank", ["0", "1"])
def test_variables_that_a_launcher_left_end_in_one_line(tmp_path: Path, rank: str) -> None:
    """In a shell where nobody has launched anything: within a bounded time, and at once where asked."""

    def impatient(arguments: list[str]) -> int:
        from collapselab.cli.main import main
        from collapselab.runtime import parallel

        parallel.PATIENCE, parallel.QUIET = (1.5, 0.2) if arguments[-1] == "short" else (60.0, 0.2)
        return main(arguments[:-1])

    left = LEFT | {"MASTER_PORT": str(free_port()), "RANK": rank}
    options = ["run", "--config", SMOKE, "--runs_dir", str(tmp_path)]
    one = Forked(*options, "short", output=tmp_path / "short.log", call=impatient, **left)
    assert one.wait(60) == 2
    waits, refused = [line for line in one.said().splitlines() if "MASTER_ADDR" in line]
    assert waits.startswith(f"process {rank} waits for 2 processes at localhost:")
    assert refused.startswith("collapselab: error: WORLD_SIZE=2: not all of these") and len(refused) <= 300
    assert "Traceback" not in one.said() and not (tmp_path / "smoke").exists()
    for sign in (signal.SIGTERM, signal.SIGINT):
        output = tmp_path / f"{sign.name}.log"
        one = Forked(*options, "long", output=output, call=impatient, **left)
        until = time.monotonic() + 60
        while not (output.exists() and "waits for 2 processes" in output.read_text()):
            assert one.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        one.send_signal(sign)
        at = time.monotonic()
        assert one.wait(20) == 128 + sign and time.monotonic() - at < 5, one.said()


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, "WORLD_SIZE='2': RANK is not set, so no launcher set it"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a"}, "WORLD_SIZE='2': RANK=2 is not smaller, so no launcher"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE='2': set without MASTER_ADDR"),
        ({"PMI_SIZE": "4", "MASTER_ADDR": "localhost"}, "PMI_SIZE='4': PMI_RANK is not set"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE='4': set without MASTER_ADDR"),
        ({"OMPI_COMM_WORLD_SIZE": "many"}, "OMPI_COMM_WORLD_SIZE='many': must be a whole number"),
        ({"PMI_RANK": "-1"}, "PMI_RANK='-1': must be a whole number"),
    ],
)
def test_what_no_launcher_sets_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lab: Lab, left: dict[str, str], said: str
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    code, _, err = lab("run", "--config", SMOKE, "--runs_dir", str(tmp_path))
    assert code == 2 and err.startswith(f"collapselab: error: {said}") and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())
