"""Runs of many chains for tests of the report, derived from one real chain: its files under other names, its rows varied,
written by the lab's own writers. Files that no test overwrites are hard links."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

from collapselab.store.folders import read_json, write_json, write_text
from collapselab.store.layout import Chain, read_metrics

FILES = ("config.yaml", "identity.json", "identity.copy.json", "environment.json")
STAGES = {"mixture": ["mixture.json"], "eval": ["eval.json", "examples.json", "explorer.json", "tail_words.bin"]}


def fabricate(
    real: Path,
    run: Path,
    arms: list[str],
    seeds: int,
    generations: int,
    *,
    drop: tuple[str, ...] = (),
) -> Path:
    """A run of len(arms) x seeds chains with generations 0 to `generations`; returns its directory.

    The metrics of arm i (from 0) at generation g are those of the real chain's first or last generation times
    1 + 0.02 i g + noise of 0.01 that is another for each seed.

    Args:
        real: a chain.
        drop: beginnings of metrics that are left out.
    """
    real_chain, real_rows = Chain(real), read_metrics(real)
    for i, arm in enumerate(arms):
        for seed in range(1, seeds + 1):
            chain = Chain(run / f"arm={arm}" / f"seed={seed}")
            chain.root.mkdir(parents=True)
            for name in FILES:
                shutil.copyfile(real / name, chain.root / name)
            shutil.copytree(real / "reference", chain.root / "reference", copy_function=_linked)
            draw = random.Random(seed)
            rows: list[dict[str, Any]] = []
            for g in range(generations + 1):
                like = min(g, len(real_rows) - 1)
                for stage, files in STAGES.items():
                    chain.stage(g, stage).mkdir(parents=True)
                    for file in files:
                        _linked(real_chain.stage(like, stage) / file, chain.stage(g, stage) / file)
                factor = 1 + 0.02 * i * g + 0.01 * draw.random()
                kept = {k: v for k, v in real_rows[like]["metrics"].items() if not k.startswith(drop or ("\0",))}
                rows.append(real_rows[like] | {"arm": arm, "seed": seed, "generation": g})
                rows[-1]["metrics"] = {key: value * factor for key, value in kept.items()}
            chain.write_metrics(rows)
    return run


def _linked(source: str | Path, place: str | Path) -> None:
    if Path(place).name == "eval.json":  # tests write others in its place
        shutil.copyfile(source, place)
    else:
        os.link(source, place)


def under_protocol(chain: Path, **changes: Any) -> None:
    """Gives a chain's scores another protocol."""
    rows = [json.loads(line) for line in (chain / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["protocol"] = f"another: {sorted(changes)}"
        scores = Chain(chain).stage(row["generation"], "eval") / "eval.json"
        found = read_json(scores)
        write_json(scores, found | {"protocol": found["protocol"] | changes})
    write_text(chain / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
