"""The dashboard mirrors metrics.jsonl, and whatever is wrong with it a chain neither stops nor waits."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from conftest import Lab
from helpers import quiet, small_config, undrawn, wandb_files, wandb_items, wandb_records, wandb_rows

from collapselab import tracking
from collapselab.chain.run import run
from collapselab.cli.experiment import _compare
from collapselab.config import TrackingConfig, UserError
from collapselab.experiments.experiment import Experiment
from collapselab.metrics import HEADLINE
from collapselab.report.pages import write_report
from collapselab.runtime.console import UNSAFE
from collapselab.sampling.side_by_side import side_by_side
from collapselab.store.folders import manifest_of, sha256_of, write_json
from collapselab.store.layout import read_metrics
from collapselab.store.seals import sealed
from collapselab.tracking import Tracker, replay

KEY = "5ecret" + "k" * 34  # 40 characters, as wandb wants them
TOKEN = "hf_5ecrettoken"
ENDS = ("low", "high")
NOWHERE = "http://127.0.0.1:9"  # nothing listens there: refused at once, and tried again and again


def rows_of(generations: int) -> list[dict]:
    return [
        {
            "schema": 1,
            "generation": g,
            "real_share": 0.5**g,
            "metrics": {"real/perplexity": 100.0 + g, "nested/a/b": g / 3},
            **({"intervals": {"nested/a/b": [g / 4, g / 2]}} if g else {}),
        }
        for g in range(generations)
    ]


@pytest.fixture
def chain(tmp_path) -> Path:
    """The folder of a chain with four rows in its metrics.jsonl."""
    folder = tmp_path / "test" / "arm=main" / "seed=1"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(4)))
    return folder


@pytest.fixture
def online(monkeypatch, tmp_path) -> pytest.MonkeyPatch:
    """The environment of a user with a key whose network reaches nobody."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", NOWHERE)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_SILENT", raising=False)
    return monkeypatch


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class Dashboard(BaseHTTPRequestHandler):
    """As much of wandb's server as a run needs that is begun and resumed. Its summary of a run is always damaged."""

    runs: ClassVar[dict[str, list[str]]] = {}
    """Lines of history that were taken, by id."""

    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/file_stream"):
            self.history(self.path.split("/")[-2], json.loads(body)["files"])
        answer = json.dumps(self.answer(json.loads(body)) if self.path == "/graphql" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def history(self, name: str, files: dict) -> None:
        found = files.get("wandb-history.jsonl")
        if found:
            self.runs[name][found["offset"] :] = found["content"]

    def answer(self, asked: dict) -> dict:
        name, operation = asked["variables"].get("name"), asked["operationName"]
        project = {"id": "p", "name": "p", "internalId": "1", "entity": {"id": "e", "name": "e"}}
        run = {"id": "r", "name": name, "displayName": name, "config": "{}", "wandbConfig": '{"t": 1}', "tags": []}
        lines = self.runs.get(name, [])
        run |= {"historyLineCount": len(lines), "eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]"}
        run |= {
            "historyTail": json.dumps(lines[-1:]),
            "summaryMetrics": '{"generation": "damaged"}',
            "project": project,
        }
        if operation == "RunResumeStatus":
            return {"data": {"model": project | {"bucket": run if name in self.runs else None}}}
        if operation == "UpsertBucket":
            self.runs.setdefault(name, [])
            return {"data": {"upsertBucket": {"bucket": run, "inserted": not lines}}}
        if operation == "CreateRunFiles":
            return {"data": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": []}}}
        return {"data": {}}


@pytest.fixture
def dashboard() -> Iterator[str]:
    Dashboard.runs.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def content(file: Path) -> list[dict]:
    """What an offline file says, but for the clock."""
    return [{k: v for k, v in row.items() if k not in ("_timestamp", "_runtime")} for row in wandb_rows(file)]


def expected(rows: list[dict]) -> list[dict]:
    ends = [
        {
            f"{key}/{end}": value
            for key, pair in r.get("intervals", {}).items()
            for end, value in zip(ENDS, pair, strict=True)
        }
        for r in rows
    ]
    return [
        {"_step": r["generation"], "generation": r["generation"], "real_share": r["real_share"], **r["metrics"], **more}
        for r, more in zip(rows, ends, strict=True)
    ]


def another_second(file: Path) -> None:
    """wandb names its folders by the second: waits until the next one has another name."""
    while time.strftime("%Y%m%d_%H%M%S") <= file.parent.name.split("-")[2]:
        time.sleep(0.05)


KNOWN = """
import sys, time
from pathlib import Path
from collapselab import tracking
from collapselab.config import RunConfig
from collapselab.runtime.console import Console

chain, rows = Path({chain!r}), {rows!r}

tracking.LEAVE_SECONDS = 0.5

def tracker(mode):
    return tracking.Tracker(RunConfig(name="test"), chain, Console(), mode)

"""
"""What a process begins with that has `tracker(mode)` of a chain, and its `rows`."""

READY = """
import json, os, socket, sys, time
from pathlib import Path
from collapselab import tracking
from collapselab.config import RunConfig
from collapselab.runtime.console import Console
import wandb, wandb.apis.public
wandb.Table(columns=["text"], data=[["imports pandas"]])

asked, code = socket.socket(fileno=int(sys.argv[1])), ""
while not code:
    request, streams, _, _ = socket.recv_fds(asked, 1 << 17, 4)
    if not request:
        os._exit(0)
    if not os.fork():  # one that waits for the process itself, and says how it ended
        child = os.fork()
        if child:
            for stream in (*streams[:3], asked.fileno()):
                os.close(stream)
            os.write(streams[3], f"{child} ".encode())
            os.write(streams[3], str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
            os._exit(0)
        for number, stream in enumerate(streams[:3]):
            os.dup2(stream, number)
        told = json.loads(request)
        os.environ.clear()
        os.environ.update(told["environment"])
        code = told["code"]
        asked.close()
    for stream in streams:
        os.close(stream)
exec(code)
"""


class Process:
    """One that was forked from a prepared one. `status` says its number, and later how it ended."""

    def __init__(self, output: int, status: int):
        self.output, self.status = output, status
        self.number = int(self._until(status, 60, " "))  # the first one waits for the imports

    def line(self, seconds: float) -> str:
        """The next line of what it says."""
        return self._until(self.output, seconds, "\n") + "\n"

    def said(self, seconds: float) -> str:
        """All that it says, when nobody can say any more."""
        return self._until(self.output, seconds, None)

    def ended(self, seconds: float) -> int:
        """Its exit code, when it has ended; minus the number of the signal that ended it."""
        return int(self._until(self.status, seconds, None))

    @staticmethod
    def _until(stream: int, seconds: float, sign: str | None) -> str:
        found, end = b"", time.monotonic() + seconds
        while select.select([stream], [], [], max(0, end - time.monotonic()))[0]:
            one = os.read(stream, 1)
            if not one or one.decode(errors="replace") == sign:
                return found.decode()
            found += one
        raise TimeoutError(f"after {seconds} s: {found!r}")


class Prepared:
    """A process that has imported what every other one would import for seconds, and forks: its children begin where a
    fresh process would, and end as one, through all that Python does at its exit."""

    def __init__(self) -> None:
        self.asks, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-c", READY, str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])

    def start(self, code: str, chain: Path, terminal: int | None = None) -> Process:
        """Runs code in a process of its own with today's environment.

        Args:
            terminal: in the place of its three streams; without one it has no input, and both others can be read here.
        """
        output, theirs = os.pipe()
        status, keeps = os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        streams = [nothing, theirs, theirs] if terminal is None else [terminal] * 3
        told = {"code": KNOWN.format(chain=str(chain), rows=rows_of(4)) + code, "environment": dict(os.environ)}
        socket.send_fds(self.asks, [json.dumps(told).encode()], [*streams, keeps])
        for stream in (theirs, keeps, nothing):
            os.close(stream)
        return Process(output, status)


@pytest.fixture(scope="module")
def prepared() -> Iterator[Prepared]:
    found = Prepared()
    yield found
    found.asks.close()
    found.process.wait(10)


def test_each_row_takes_the_step_of_its_generation_and_a_replay_repeats_it(chain) -> None:
    config = small_config()
    assert replay(config, chain, quiet(), "offline") == 4
    another_second(*wandb_files(chain))
    assert replay(config, chain, quiet(), "offline") == 4
    first, second = wandb_files(chain)
    assert first.name == second.name  # the run's id
    assert content(first) == content(second) == expected(rows_of(4))


def test_a_chain_that_was_killed_and_resumed_ends_with_a_complete_file(chain, prepared) -> None:
    killed = prepared.start(
        "t = tracker('offline'); t.log(rows[:2])\n"
        "while not t.items.empty(): time.sleep(0.05)\n"
        "time.sleep(0.2); print('now', flush=True); time.sleep(60)",
        chain,
    )
    assert killed.line(60) == "now\n"
    os.kill(killed.number, signal.SIGKILL)
    assert killed.ended(60) == -signal.SIGKILL
    (first,) = wandb_files(chain)
    tracker = Tracker(small_config(), chain, quiet(), "offline")
    tracker.log(rows_of(3))
    tracker.log(rows_of(4))
    tracker.finish()
    assert not tracker.failed
    (second,) = set(wandb_files(chain)) - {first}  # named by the second, which may be the same one
    assert content(first) == expected(rows_of(2))[: len(content(first))]  # wandb writes its file now and then
    assert content(second) == expected(rows_of(4))


def test_a_resumed_run_sends_what_is_missing_and_no_row_twice(online, chain, dashboard) -> None:
    online.setenv("WANDB_BASE_URL", dashboard)
    for count in (2, 3):
        tracker = Tracker(small_config(), chain, quiet(), "online")
        tracker.log(rows_of(count))
        tracker.finish()
        assert not tracker.failed
    for _ in range(2):
        assert replay(small_config(), chain, quiet(), "online") == 4
    (lines,) = Dashboard.runs.values()
    taken = [{k: v for k, v in json.loads(line).items() if k not in ("_timestamp", "_runtime")} for line in lines]
    assert taken == expected(rows_of(4))


def test_neither_a_key_nor_a_token_reaches_a_file_or_a_stream(online, tmp_path, capfd) -> None:
    online.setenv("HF_TOKEN", TOKEN)
    online.setattr(tracking, "FINISH_SECONDS", 0.3)
    for mode in ("offline", "online"):
        if mode == "online":  # nobody takes the report
            online.setattr(tracking, "REPORT_SECONDS", 0)
            online.setattr(tracking, "LEAVE_SECONDS", 0.3)
        with undrawn() if mode == "offline" else nullcontext():
            run(small_config(runs_dir=str(tmp_path / "runs"), name=mode, generations=0, tracking__wandb=mode))
    out, err = capfd.readouterr()
    assert err.count("wandb") == 1 and "not all was sent within 0.3 s" in err and "collapselab sync" in err, err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.suffix == ".wandb" for path in files) == 2 and len(files) > 40
    for text in (out.encode(), err.encode(), *(path.read_bytes() for path in files)):
        assert KEY.encode() not in text and TOKEN.encode() not in text


def test_a_slow_server_delays_neither_a_row_nor_a_fork(online, chain, silent_server) -> None:
    online.setenv("WANDB_BASE_URL", silent_server)
    online.setattr(tracking, "LEAVE_SECONDS", 0.3)
    tracker = Tracker(small_config(), chain, quiet(), "online", patience=0.3)
    for count in range(1, 201):
        tracker.log(rows_of(count))
    assert tracker.items.qsize() == len(rows_of(200))  # they wait, and nobody waits for them
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(10):
            with quiet().bar("", 8):
                made = dict(side_by_side(lambda i: (torch.eye(8) * i).numpy(), list(range(8)), torch.device("cpu")))
            assert [int(np.trace(made[i])) for i in range(8)] == [8 * i for i in range(8)]
    finally:
        torch.set_num_threads(threads)
    assert tracker.thread is not None and tracker.thread.is_alive()
    join, waits = tracker.thread.join, []
    online.setattr(tracker.thread, "join", lambda seconds: waits.append(seconds) or join(seconds))
    tracker.finish()
    assert waits == [0.3, tracking.LEAVE_SECONDS]
    assert "not all was sent within 0.3 s" in tracker.failed


def test_sync_says_that_nothing_was_taken(online, chain) -> None:
    online.setattr(tracking, "INIT_SECONDS", 1)
    with pytest.raises(UserError, match=r"wandb did not take the rows .*(refused|deadline)"):
        replay(small_config(), chain, quiet(), "online")
    online.setenv("WANDB_API_KEY", "short")
    with pytest.raises(UserError, match="API key must have 40"):
        replay(small_config(), chain, quiet(), "online")
    online.setenv("WANDB_BASE_URL", "no address")
    with pytest.raises(UserError, match="wandb did not take the rows"):
        replay(small_config(), chain, quiet(), "online")


def test_without_a_key_nobody_is_asked_for_one(online, chain, prepared) -> None:
    online.delenv("WANDB_API_KEY")
    online.setenv("NETRC", str(chain / "no-netrc"))
    here, there = pty.openpty()  # a terminal: wandb would prompt
    process = prepared.start("t = tracker('online'); t.log(rows); t.finish()", chain, there)
    assert process.ended(20) == 0
    os.close(there)
    said = os.read(here, 1 << 16).decode()
    os.close(here)
    assert said.count("\n") == 1 and "no API key here; set WANDB_API_KEY" in said


def beside(chain: Path) -> Path:
    """A copy of a chain, as another seed's."""
    return Path(shutil.copytree(chain, chain.with_name("seed=2")))


def test_a_process_ends_though_its_thread_waits(online, chain, prepared) -> None:
    """Left in the middle, as by an error: while wandb tries to reach the server, and where wandb itself hangs."""
    code = "tracking.INIT_SECONDS = 900; t = tracker('online'); t.log(rows); time.sleep(1); sys.exit(3)"
    hangs = "import wandb; wandb.init = lambda **_: time.sleep(900)\n"
    processes = [prepared.start(before + code, place) for before, place in (("", chain), (hangs, beside(chain)))]
    for process, before in zip(processes, ("", hangs), strict=True):
        said = process.said(
            120
        )  # without a limit 900 s; all, when nobody holds the pipe any more, wandb's process neither
        assert process.ended(60) == 3 and (before or said == ""), said


# --- what appears there -----------------------------------------------------------------------------------------------


def sent(file: Path, kind: str) -> list:
    """The records of one kind in an offline file."""
    return [record for record in wandb_records(file) if type(record).__name__ == f"{kind}Record"]


def summary_of(file: Path) -> dict[str, object]:
    """What the summary of a run ends with, nested keys by slashes."""
    found: dict[str, object] = {}
    for record in sent(file, "Summary"):
        found |= wandb_items(record.update)
    return found


def table_of(file: Path, row: dict, name: str) -> dict:
    """A table that a row of history points to: {columns, data}."""
    assert row[f"{name}/_type"] == "table-file"
    path = file.parent / "files" / row[f"{name}/path"]
    assert sha256_of(path) == row[f"{name}/sha256"]
    return json.loads(path.read_text())


def artifact_of(file: Path) -> dict[str, bytes]:
    """The files of the only report that was logged, as wandb keeps them until they are sent."""
    (record,) = [one for one in sent(file, "Artifact") if one.type == "report"]
    found = {one.path: Path(one.local_path).read_bytes() for one in record.manifest.contents}
    for one in record.manifest.contents:
        assert base64.b64encode(hashlib.md5(found[one.path]).digest()).decode() == one.digest
    return found


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a chain that was mirrored while it ran, its offline file). Do not change it."""
    folder = tmp_path_factory.mktemp("tracked")
    config = small_config(
        runs_dir=str(folder), name="mirror", generations=2, tracking__wandb="offline", seed=7, training__epochs=1
    )
    with undrawn():
        path, _ = run(config)
    return path, wandb_files(path)[0]


def test_every_value_of_metrics_jsonl_is_there_under_its_own_name(tracked) -> None:
    path, file = tracked
    rows, found = read_metrics(path), wandb_rows(file)
    assert [row["_step"] for row in found] == [row["generation"] for row in rows] == [0, 1, 2]
    for row, one in zip(rows, found, strict=True):
        ours = {k: v for k, v in one.items() if k[0] != "_" and not k.startswith("samples/")}
        assert ours == {**row["metrics"], "generation": row["generation"], "real_share": row["real_share"]}
        assert len(ours) > 60


def test_generation_is_the_axis_and_the_headline_has_a_summary(tracked) -> None:
    path, file = tracked
    metrics = {one.glob_name or one.name: one for one in sent(file, "Metric")}
    assert metrics["*"].step_metric == "generation" and "generation" in metrics
    rows, summary = read_metrics(path), summary_of(file)
    shown = [key for key in HEADLINE.values() if key in rows[0]["metrics"]]
    assert len(shown) >= 4
    for key in shown:
        values = [row["metrics"][key] for row in rows]
        assert summary[key] == values[-1] and summary[f"{key}/first"] == values[0]
        assert summary[f"{key}/change"] == values[-1] - values[0]
        assert (summary[f"{key}/min"], summary[f"{key}/max"]) == (min(values), max(values))
    assert summary["real/accuracy"] == rows[-1]["metrics"]["real/accuracy"] and summary["generation"] == 2


def test_a_run_is_grouped_and_named_and_has_every_setting(tracked) -> None:
    path, file = tracked
    (one,) = sent(file, "Run")
    assert (one.run_group, one.job_type, one.display_name) == ("mirror", "main", "mirror/7")
    assert list(one.tags) == ["arm=main", "seed=7"] and one.project == "collapselab"
    config = {item.key: json.loads(item.value_json) for item in one.config.update}
    wanted = yaml.safe_load((path / "config.yaml").read_text())
    assert {k: v for k, v in config.items() if k != "_wandb"} == wanted


def test_each_generation_has_a_table_of_its_first_samples(tracked) -> None:
    path, file = tracked
    for generation, row in enumerate(wandb_rows(file)):
        table = table_of(file, row, "samples")
        assert table["columns"] == ["generation", "prompt", "text"]
        explored = json.loads((path / f"gen_{generation:03d}/eval/explorer.json").read_text())
        whole = [tracking.inert("".join(one["pieces"])) for one in explored["prompts"]]
        assert [prompt + text for _, prompt, text in table["data"]] == whole and len(whole) == 6
        assert all(at == generation and prompt and text for at, prompt, text in table["data"])


def republished(stage: Path, name: str, value: object) -> None:
    """Writes a file of a published stage and has its manifest say so."""
    write_json(stage / name, value)
    manifest = manifest_of(stage, check="nothing")
    assert manifest is not None
    facts = {"bytes": (stage / name).stat().st_size, "sha256": sha256_of(stage / name)}
    manifest["files"][name] = facts
    digest = tracking.digest({key: entry["sha256"] for key, entry in manifest["files"].items()})
    write_json(stage / "manifest.json", sealed(manifest | {"digest": digest}))


def test_prompts_and_continuations_are_told_apart_where_the_explorer_has_them(tracked, tmp_path) -> None:
    path = copied(tracked[0], tmp_path)
    stage = path / "gen_001" / "eval"
    prompts = [{"ids": [1, 2, 3], "pieces": ["The ", "union", " is\x1b[2J"], "nll": [1.0]}] * 2
    republished(stage, "explorer.json", {"prompt_length": 2, "prompts": prompts})
    (path / "gen_002" / "eval" / "explorer.json").write_text('["not what was published"]')
    write_json(path / "gen_000" / "eval" / "explorer.json", {"prompt_length": 1, "prompts": prompts})  # not published
    assert replay(small_config(), path, quiet(), "offline") == 3
    file = wandb_files(path)[-1]
    rows = wandb_rows(file)
    table = table_of(file, rows[1], "samples")
    assert table["data"] == [[1, "The union", " is\ufffd[2J"]] * 2 and not UNSAFE.search(str(table["data"]))
    assert "samples/path" not in rows[2] and rows[2]["real/perplexity"] > 0  # damaged: no table, but the row


def copied(path: Path, folder: Path) -> Path:
    run_of = path.parents[1]
    shutil.copytree(run_of, folder / run_of.name, ignore=shutil.ignore_patterns("wandb"))
    return folder / run_of.name / path.relative_to(run_of)


def test_a_runs_report_is_an_artifact_of_its_chain(tracked, tmp_path, lab: Lab) -> None:
    path = copied(tracked[0], tmp_path)
    with undrawn():
        page = write_report(path)
    code, out, err = lab("sync", str(path), "--wandb", "offline")
    assert code == 0 and "3 generations sent" in out, err
    (file,) = wandb_files(path)
    found = artifact_of(file)
    assert found["index.html"] == page.read_bytes()
    tables = {one.name: one.read_bytes() for one in page.parent.glob("*.csv")}
    assert tables and {name: data for name, data in found.items() if name != "index.html"} == tables
    (record,) = [one for one in sent(file, "Artifact") if one.type == "report"]
    assert record.name == "report-mirror"


def test_an_experiments_report_and_comparison_are_a_run_of_their_own(tmp_path, capsys, lab: Lab) -> None:
    arms = {
        arm: small_config(
            runs_dir=str(tmp_path), name="duel", generations=0, mixing__start=start, tracking__wandb="offline"
        )
        for arm, start in (("none", 0.0), ("half", 0.5))
    }
    asked = Experiment(arms, {"none": ["mixing.start"], "half": ["mixing.start"]}, [1], "none")
    asked.save()
    for config in asked.chains():
        run(dataclasses.replace(config, tracking=TrackingConfig()), shares_generation_0=True)
    with undrawn():
        _compare(asked)
    (during,) = wandb_files(asked.root)
    assert "wandb" not in capsys.readouterr().err
    asked.save()  # what wandb keeps in the run's folder is its own, links too
    another_second(during)
    assert lab("sync", str(asked.root), "--wandb", "offline")[0] == 0
    later = wandb_files(asked.root)[-1]
    assert later.name == during.name and later != during  # one run, replayed
    runs = [sent(*wandb_files(path), "Run")[0] for path in sorted(asked.root.glob("arm=*/seed=1"))]
    assert [(one.run_group, one.job_type, one.display_name) for one in runs] == [
        ("duel", "half", "half/1"),
        ("duel", "none", "none/1"),
    ]
    for path in asked.root.glob("arm=*/seed=1"):
        assert not [one for one in sent(*wandb_files(path), "Artifact") if one.type == "report"]
    for file in (during, later):
        (one,) = sent(file, "Run")
        assert (one.run_group, one.job_type, one.display_name) == ("duel", "report", "duel/report")
        assert artifact_of(file)["index.html"] == (asked.root / "report" / "index.html").read_bytes()
        (row,) = wandb_rows(file)
        table = table_of(file, row, "comparison")
        assert table["columns"][:4] == ["metric", "arm", "chains", "mean"]
        assert {line[1] for line in table["data"]} == {"none", "half"}


def test_a_report_that_wandb_does_not_take_changes_nothing_but_a_line(online, chain, capfd) -> None:
    """A server that has not answered is not waited for as long as one that takes a report."""
    online.setattr(tracking, "FINISH_SECONDS", 0.3)
    online.setattr(tracking, "LEAVE_SECONDS", 0.3)
    page = chain / "index.html"
    page.write_text("x")
    config = small_config(tracking__wandb="online")
    join, waits = threading.Thread.join, []
    online.setattr(
        threading.Thread, "join", lambda thread, seconds=None: waits.append(seconds) or join(thread, seconds)
    )
    tracking.send_report(config, chain.parents[1], page, ["metric"], [["perplexity"]])
    assert waits[:2] == [0.3, tracking.LEAVE_SECONDS] and tracking.REPORT_SECONDS not in waits
    out, err = capfd.readouterr()
    assert err.count("\n") == 1 and "not all was sent within 0.3 s" in err and KEY not in err + out


def test_names_are_as_long_as_wandb_takes(tmp_path) -> None:
    arm = "a" * 100
    config = small_config(arm=arm, name="n" * 100, seed=2**62, tracking__wandb="offline")
    path = tmp_path / ("n" * 100) / f"arm={arm}" / f"seed={2**62}"
    path.mkdir(parents=True)
    tracker = Tracker(config, path, quiet())
    tracker.log(rows_of(1))
    tracker.finish()
    assert not tracker.failed
    (one,) = sent(*wandb_files(path), "Run")
    assert one.display_name == f"{arm}/{2**62}" and len(one.display_name) <= 128 and len(one.tags[0]) == 64


def test_a_sweeps_agent_chooses_id_and_project(chain, monkeypatch) -> None:
    for key, value in {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1", "WANDB_PROJECT": "theirs"}.items():
        monkeypatch.setenv(key, value)
    tracker = Tracker(small_config(tracking__wandb="offline"), chain, quiet())
    tracker.log(rows_of(1))
    tracker.finish()
    assert not tracker.failed
    (file,) = wandb_files(chain)
    (one,) = sent(file, "Run")
    assert (one.run_id, one.sweep_id, one.run_group) == ("r1", "s1", "test")
    assert one.project in ("theirs", "") and file.name == "run-r1.wandb"


def test_the_thread_does_not_import_what_a_forked_process_may_want(chain) -> None:
    """A process that is forked while a thread imports has that module's lock for ever."""
    code = """
t = tracker('offline')
known = set(sys.modules)
t.log(rows); t.keep(Path(__import__('os').devnull)); t.finish()
print(t.failed, [m for m in set(sys.modules) - known if m.split('.')[0] in ('pandas', 'numpy', 'pyarrow')])
"""
    begin = KNOWN.format(chain=str(chain), rows=rows_of(4))
    started = subprocess.run([sys.executable, "-c", begin + code], text=True, timeout=60, capture_output=True)
    assert started.stdout + started.stderr == " []\n"
