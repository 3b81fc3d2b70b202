"""What all tests share. The environment is set here, before collapselab or a Hugging Face library is imported."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _cache() -> Path:
    """One cache per user, checkout and version of the corpus code, so that xdist workers tokenise the default once."""
    state = hashlib.sha256(str(ROOT).encode())
    rooms = (ROOT / "src" / "collapselab" / room for room in ("corpus", "languages"))
    for path in sorted(path for room in rooms for path in room.glob("*.py")):
        state.update(path.read_bytes())
    return Path(tempfile.gettempdir()) / f"collapselab-tests-{os.getuid()}" / state.hexdigest()[:16]


os.environ["COLLAPSELAB_CACHE"] = str(_cache())
os.environ["HF_DATASETS_CACHE"] = str(_cache().parent / "datasets")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ.pop("COLLAPSELAB_DATA", None)
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as in a background job; the processes that tests start inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
ON_GPU = os.environ.get("LAB_TEST_GPU") == "1"
"""The tests of the engine alone, with its kernels on a GPU: other tests fork, and mix devices in one process."""
if not ON_GPU:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["TRITON_INTERPRET"] = "1"  # without a GPU, Triton's interpreter runs the kernels (read at import)

gc.disable()  # while the tests and all that they import are read: a tenth of that time, and nothing of it is garbage


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.pluginmanager.hasplugin("dsession"):  # what hands tests to workers collects none
        gc.enable()


def pytest_collection_finish() -> None:
    """What was imported stays, and is not looked through again and again."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Libraries that count what they leave behind find nothing."""
    gc.unfreeze()


Lab = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of corpora and models that lies beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: the corpora and models beside the checkout are needed")
    return folder


@pytest.fixture
def lab(capsys: pytest.CaptureFixture[str]) -> Lab:
    """Runs a command line in this process: lab("run", "--seed", "2") gives (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        from collapselab.cli.main import main

        capsys.readouterr()
        try:
            code = main(list(arguments))
        except SystemExit as stop:  # --help and --print_config
            assert isinstance(stop.code, int)
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def workers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments that the test runs in its own process fork their workers."""
    from helpers import Forking

    from collapselab.experiments import local

    monkeypatch.setattr(local, "CONTEXT", Forking())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if ON_GPU and item.path.name != "test_engine.py":
            item.add_marker(pytest.mark.skip(reason="LAB_TEST_GPU=1: the engine's tests alone run on a GPU"))
        if item.get_closest_marker("slow") and "slow" not in config.option.markexpr:
            item.add_marker(pytest.mark.skip(reason=f"a long form: pytest -m slow {item.location[0]}"))
