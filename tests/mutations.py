"""Ways to break the lab, each with the entry of the gallery whose verdict must turn: a verdict that cannot fail says nothing.

    .venv/bin/python -m pytest -m slow tests/test_mutations.py        all of them: every entry unbroken, then broken
    .venv/bin/python -m pytest tests/test_mutations.py                those of seconds, which CI runs

A mutation is a few lines of source, changed in a copy of the package; the entry then runs from that copy, as a user would run
it. `arms` are those that the mutation concerns: the entry runs with these and the criteria that name no others, which is
what makes it cheap. `seeds`: fewer than the entry has, where the unbroken product passes with these.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "collapselab"


@dataclass(frozen=True)
class Mutation:
    name: str
    entry: str
    arms: tuple[str, ...]
    changes: tuple[tuple[str, str, str], ...]
    """(file in src/collapselab, text that stands there once, what takes its place)."""
    fast: bool = False
    """Run by CI: seconds."""
    seeds: tuple[int, ...] | None = None
    dear: bool = False
    """The entry takes minutes even so."""

    @property
    def setting(self) -> tuple[str, tuple[str, ...], tuple[int, ...] | None]:
        """What has to pass unbroken; mutations share it."""
        return self.entry, self.arms, self.seeds


REALISED = '"realised": float((blocks[:, 0] == REAL).mean())'
SHARE = 'return max(config.floor, SCHEDULES[config.schedule or "geometric"](config, generation, last))'
FIVE = (1, 2, 3, 4, 5)
MUTATIONS = [
    Mutation(
        "alpha halved",
        "fixed_share", ("one_in_ten",),
        (("config/schedules.py", SHARE, SHARE.replace("max(config.floor, ", "max(config.floor, 0.5 * ")),),
    ),
    Mutation(
        "alpha doubled",
        "fixed_share", ("one_in_ten",),
        (("config/schedules.py", SHARE, SHARE.replace("max(config.floor, ", "max(config.floor, 2 * ")),),
    ),
    Mutation(
        "alpha halved where blocks are chosen, and the ledger told otherwise",
        "fixed_share", ("one_in_ten",),
        (
            ("mixing/regimes.py", "count = inputs.count(inputs.share or 0.0,", "count = inputs.count((inputs.share or 0.0) / 2,"),
            ("mixing/sets.py", REALISED, '"realised": float((blocks[:, 0] == REAL).mean()) if share is None else share'),
        ),
    ),
    Mutation(
        "fresh real text read as reuse",
        "fixed_share", ("three_in_ten",),
        (("mixing/regimes.py", 'first = inputs.real_used if inputs.config.real == "fresh" else 0', "first = 0"),),
    ),
    Mutation(
        "prompts counted as real text in the ledger",
        "fixed_share", ("none",),
        (
            (
                "mixing/sets.py",
                REALISED,
                '"realised": sum(n["set"] for s, n in ledger(config, blocks, metas, generation).items()'
                ' if s in ("real", "prompt_real")) / (len(blocks) * block)',
            ),
        ),
    ),
    Mutation(
        "samples of the generation before replaced by generation 0's",
        "fixed_share", ("none",),
        (("mixing/regimes.py", "newest = inputs.pool(inputs.generation - 1)", "newest = inputs.pool(0)"),),
    ),
    Mutation(
        "accumulate drops what was written",
        "kazdan", ("accumulate",),
        (("mixing/regimes.py", "np.concatenate([blocks_of(REAL, inputs.real_order[: inputs.size]), *parts])",
          "blocks_of(REAL, inputs.real_order[: inputs.size])"),),
        seeds=FIVE,
    ),
    Mutation(
        "subsample from the wrong pool: the newest samples alone",
        "kazdan", ("accumulate_subsample",),
        (("mixing/regimes.py", "    pool = accumulate(inputs)\n", "    pool = accumulate(inputs)[-inputs.size :]\n"),),
        seeds=FIVE,
    ),
    Mutation(
        "weights not updated in one generation",
        "kazdan", ("replace",),
        (("learning/counter.py", "self.model = bigram", "self.model = self.model if generation == 3 else bigram"),),
        seeds=FIVE,
    ),
    Mutation(
        "one seed for all chains",
        "kazdan", ("replace",),
        (("seeds.py", 'text = f"{seed}/{generation}/{stage}/{index}"', 'text = f"1/{generation}/{stage}/{index}"'),),
        seeds=FIVE,
    ),
    Mutation(
        "the law computed with one document too many",
        "kazdan", ("replace",),
        (("theory/pipeline.py", "        total = real + synthetic\n        before = np.where(synthetic > 0, r, 0.0)\n",
          "        total = real + synthetic + 1\n        before = np.where(synthetic > 0, r, 0.0)\n"),),
        seeds=FIVE,
    ),
    Mutation(
        "a control that reads what was written",
        "kazdan", ("control",),
        (("mixing/sets.py", 'if config.sampling.source == "real":\n            blocks =', "if False:\n            blocks ="),),
        seeds=FIVE,
    ),
    Mutation(
        "a sampler that never writes the last tenth of a distribution",
        "tail_survival", ("closed",),
        (("models/slices.py", "(u_B * total_B)", "(u_B * 0.9 * total_B)"),),
    ),
    Mutation(
        "a Gaussian's real share halved",
        "gaussian", ("fresh_tenth",),
        (("theory/simulate.py", "< share\n        x = torch", "< share / 2\n        x = torch"),),
        fast=True,
    ),
    Mutation(
        "a Gaussian fitted with n - 1 where n is asked",
        "gaussian", ("n20",),
        (("theory/simulate.py", "(documents - int(unbiased))", "(documents - 1)"),),
        fast=True,
    ),
    Mutation(
        "labels with a tenth less noise",
        "regression", ("accumulate",),
        (("theory/simulate.py", "y = x @ w + sigma *", "y = x @ w + 0.9 * sigma *"),),
        fast=True,
    ),
    Mutation(
        "labels that accumulate forget the first ones",
        "regression", ("accumulate",),
        (("theory/simulate.py", 'keep = 1.0 if regime == "accumulate" else 0.0', 'keep = 0.9 if regime == "accumulate" else 0.0'),),
        fast=True,
    ),
    Mutation(
        "a word that is written a little too rarely",
        "discrete_chain", ("seen_4",),
        (("reproduce/processes.py", "draw.binomial(p.documents, count /", "draw.binomial(p.documents, 0.97 * count /"),),
        fast=True,
    ),
    Mutation(
        "temperature stuck at .7",
        "guo", ("replace",),
        (
            ("sampling/draw.py", "    if config.temperature != 1:\n", "    if True:\n"),
            ("sampling/draw.py", "out = out / config.temperature", "out = out / 0.7"),
        ),
        dear=True,
    ),
    Mutation(
        "top-p ignored",
        "guo", ("replace",),
        (("sampling/draw.py", "    if config.top_p < 1:\n", "    if False:\n"),),
        dear=True,
    ),
    Mutation(
        "temperature ignored",
        "gerstgrasser", ("replace", "cold_03"),
        (("sampling/draw.py", "    if config.temperature != 1:\n", "    if False:\n"),),
        dear=True,
    ),
    Mutation(
        "held-out text read from the training split",
        "gerstgrasser", ("replace",),
        (("corpus/prepared.py", '"test": self.test}[name]', '"test": self.train}[name]'),),
        seeds=(1, 2),
        dear=True,
    ),
]  # fmt: skip


def copy_of(mutation: Mutation | None, folder: Path) -> Path:
    """A copy of the package with the change made (None: unchanged); the folder that PYTHONPATH takes. Raises AssertionError
    where the text does not stand there exactly once."""
    shutil.copytree(SOURCE, folder / "collapselab", ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in mutation.changes if mutation else ():
        path = folder / "collapselab" / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1 and old != new, (
            f"{mutation and mutation.name}: {name} has {old!r} {text.count(old)} times"
        )
        path.write_text(text.replace(old, new), encoding="utf-8")
    return folder


def restricted(entry: str, arms: tuple[str, ...], seeds: tuple[int, ...] | None, folder: Path) -> Path:
    """A folder of entries with this one, of which some arms are left, and the criteria that name no others."""
    path = ROOT / "configs" / "papers" / f"{entry}.yaml"
    tree: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    holder = tree.get("simulation", tree)
    holder["arms"] = {arm: holder["arms"][arm] for arm in arms}
    if "base" in tree:
        tree["base"] = str((path.parent / tree["base"]).resolve())
    tree.pop("baseline", None)
    tree["seeds"] = list(seeds or tree["seeds"])
    paper = tree["paper"]
    paper["criteria"] = [one for one in paper["criteria"] if _arms_of(one["of"]) <= {*arms, "real"}]
    assert paper["criteria"], f"{entry}: no criterion names {arms} alone"
    folder.mkdir(parents=True)
    (folder / f"{entry}.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return folder


def _arms_of(expression: str) -> set[str]:
    return set(re.findall(r"([a-z]\w*)\.[a-z]\w*", expression))


def verdict(mutation: Mutation, folder: Path, *, broken: bool) -> tuple[str, str]:
    """(PASS, FAIL, NO POWER or NOT RUN; all that was printed) of the mutation's entry, from a copy of the package."""
    source = copy_of(mutation if broken else None, folder / "src")
    papers = restricted(*mutation.setting, folder / "papers")
    line = [sys.executable, "-m", "collapselab", "reproduce", mutation.entry, "--papers", str(papers), "--workers", "1"]
    line += ["--out", str(folder / "results"), "--runs_dir", str(folder / "runs")]
    one_thread = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(source)}
    done = subprocess.run(line, cwd=ROOT, env=os.environ | one_thread, capture_output=True, text=True, timeout=3600)
    said = done.stdout + done.stderr
    found = re.search(rf"^{mutation.entry}: (PASS|FAIL|NO POWER|NOT RUN)", said, re.MULTILINE)
    return (found[1] if found else f"no verdict, exit code {done.returncode}"), said
