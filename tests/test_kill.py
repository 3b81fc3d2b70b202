"""A chain that is killed again and again ends with the bytes of one that is not (scripts/kill_again.py; long form there)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_twenty_five_kills_at_random_moments_change_nothing() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "kill_again.py"), "--kills", "25", "--fork"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=400, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] >= 25 and sum(result["struck"].values()) == result["kills"]
    assert len(result["struck"]) >= 2, result  # they did not all strike the same stage
