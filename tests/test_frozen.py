"""Runs of an earlier version go on as that version would have gone on: equal digests of all that is made (frozen_runs.py)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Lab
from frozen_runs import ACTIONS, ARCHIVE, EXPECTED, REMOVE, digests, machine, unpacked
from helpers import undrawn

WANTED = json.loads(EXPECTED.read_text())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLLAPSELAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of workers: sums are made in the order of threads
    unpacked(tmp_path)
    return tmp_path


def test_what_is_frozen_is_small_and_whole(here: Path) -> None:
    assert sum(path.stat().st_size for path in ARCHIVE.parent.iterdir()) <= 300_000
    assert digests(here) == WANTED["start"]
    chains = {path.parent.relative_to(here / "runs").as_posix() for path in here.glob("runs/*/arm=*/*/identity.json")}
    assert chains == {
        f"{arm}/seed=1" for arm in ("counts/arm=replace", "counts/arm=accumulate", "net/arm=gpt2", "net/arm=llama")
    }
    assert any(json.loads(path.read_text()).get("pruned") for path in here.rglob("manifest.json"))
    assert list(here.glob("runs/*/shared/*/seed=1/gen_000"))


@pytest.mark.parametrize("action", ACTIONS)
def test_the_code_of_today_makes_the_same_of_it(action: str, here: Path, lab: Lab) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for verb, *rest in ACTIONS[action]:
            if verb == REMOVE:
                shutil.rmtree(here / rest[0])
                continue
            with undrawn():
                code, _, err = lab(verb, *rest)
            if "training does not give the same ones again here" in err and machine() != WANTED["machine"]:
                pytest.skip(
                    "this machine trains other bits than the one that made the frozen runs; the lab refuses to mix them"
                )
            assert code == 0, err
            rebuilt = [line for line in err.splitlines() if "rebuilt" in line or "restored from" in line]
            assert not rebuilt or action.startswith("rebuild"), rebuilt
        found, same_bits = digests(here), machine() == WANTED["machine"]
    finally:
        torch.set_num_threads(threads)
    assert found.keys() == WANTED[action].keys()
    changed = {
        name: digest for name, digest in found.items() if name in WANTED["start"] and digest != WANTED["start"][name]
    }
    assert {name for name in changed if not name.endswith("identity.json")} == set()
    if not same_bits:
        pytest.skip("this machine or its libraries compute other bits than those that made the frozen runs")
    assert found == WANTED[action]
