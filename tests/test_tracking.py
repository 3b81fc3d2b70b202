"""The dashboard mirrors metrics.jsonl, and whatever is wrong with it a chain neither stops nor waits."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers import quiet, small_config, wandb_files, wandb_rows

from collapselab import tracking
from collapselab.chain import run
from collapselab.config import UserError
from collapselab.sampling.side_by_side import side_by_side
from collapselab.tracking import Tracker, replay

KEY = "5ecret" + "k" * 34  # 40 characters, as wandb wants them
TOKEN = "hf_5ecrettoken"
NOWHERE = "http://127.0.0.1:9"  # nothing listens there: refused at once, and tried again and again


def rows_of(generations: int) -> list[dict]:
    return [
        {
            "schema": 1,
            "generation": g,
            "real_share": 0.5**g,
            "metrics": {"real/perplexity": 100.0 + g, "nested/a/b": g / 3},
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
    return [
        {"_step": r["generation"], "generation": r["generation"], "real_share": r["real_share"], **r["metrics"]}
        for r in rows
    ]


def other_process(code: str, chain: Path, **streams) -> subprocess.Popen:
    """A process that knows `tracker(mode)` of the chain, and its `rows`."""
    begin = f"""
import sys, time
from pathlib import Path
from typing import ClassVar
from collapselab import tracking
from collapselab.config import RunConfig
from collapselab.console import Console

chain, rows = Path({str(chain)!r}), {rows_of(4)!r}

tracking.LEAVE_SECONDS = 0.5

def tracker(mode):
    return tracking.Tracker(RunConfig(name="test"), chain, Console(), mode)

"""
    return subprocess.Popen([sys.executable, "-c", begin + code], text=True, **streams)


def test_each_row_takes_the_step_of_its_generation_and_a_replay_repeats_it(chain) -> None:
    config = small_config()
    assert replay(config, chain, quiet(), "offline") == 4
    time.sleep(1)  # wandb names its folders by the second
    assert replay(config, chain, quiet(), "offline") == 4
    first, second = wandb_files(chain)
    assert first.name == second.name  # the run's id
    assert content(first) == content(second) == expected(rows_of(4))


def test_a_chain_that_was_killed_and_resumed_ends_with_a_complete_file(chain) -> None:
    killed = other_process(
        "t = tracker('offline'); t.log(rows[:2])\n"
        "while not t.rows.empty(): time.sleep(0.05)\n"
        "time.sleep(0.2); print('now', flush=True); time.sleep(60)",
        chain,
        stdout=subprocess.PIPE,
    )
    assert killed.stdout is not None and killed.stdout.readline() == "now\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    tracker = Tracker(small_config(), chain, quiet(), "offline")
    tracker.log(rows_of(3))
    tracker.log(rows_of(4))
    tracker.finish()
    assert not tracker.failed
    first, second = wandb_files(chain)
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
    online.setattr(tracking, "FINISH_SECONDS", 1)
    for mode in ("offline", "online"):
        run(small_config(runs_dir=str(tmp_path / "runs"), name=mode, generations=0, tracking__wandb=mode))
    out, err = capfd.readouterr()
    assert err.count("wandb") == 1 and "not all was sent within 1 s" in err and "collapselab sync" in err, err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.suffix == ".wandb" for path in files) == 2 and len(files) > 40
    for text in (out.encode(), err.encode(), *(path.read_bytes() for path in files)):
        assert KEY.encode() not in text and TOKEN.encode() not in text


def test_a_slow_server_delays_neither_a_row_nor_a_fork(online, chain, silent_server) -> None:
    online.setenv("WANDB_BASE_URL", silent_server)
    started = time.perf_counter()
    tracker = Tracker(small_config(), chain, quiet(), "online", patience=1)
    for count in range(200):
        tracker.log(rows_of(count))
    assert time.perf_counter() - started < 2  # most of it is the import of wandb
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
    started = time.perf_counter()
    tracker.finish()
    assert time.perf_counter() - started < 1 + tracking.LEAVE_SECONDS + 1
    assert "not all was sent within 1 s" in tracker.failed


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


def test_without_a_key_nobody_is_asked_for_one(online, chain) -> None:
    online.delenv("WANDB_API_KEY")
    online.setenv("NETRC", str(chain / "no-netrc"))
    here, there = pty.openpty()  # a terminal: wandb would prompt
    process = other_process(
        "t = tracker('online'); t.log(rows); t.finish()", chain, stdin=there, stdout=there, stderr=there
    )
    assert process.wait(20) == 0
    os.close(there)
    said = os.read(here, 1 << 16).decode()
    os.close(here)
    assert said.count("\n") == 1 and "no API key here; set WANDB_API_KEY" in said


@pytest.mark.parametrize("before", ["", "import wandb; wandb.init = lambda **_: time.sleep(99)\n"])
def test_a_process_ends_though_its_thread_waits(online, chain, before) -> None:
    """Left in the middle, as by an error: while wandb tries to reach the server, and where wandb itself hangs."""
    code = f"{before}t = tracker('online'); t.log(rows); time.sleep(1); sys.exit(3)"
    process = other_process(code, chain, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    started = time.perf_counter()
    said, _ = process.communicate(timeout=30)  # returns when nobody holds the pipe any more, wandb's process neither
    assert process.returncode == 3 and (before or said == ""), said
    assert (
        time.perf_counter() - started < 7
    )  # a start of Python, 1 s, and twice LEAVE_SECONDS; without a limit 30 and 99
