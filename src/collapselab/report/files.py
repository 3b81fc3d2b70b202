"""Reader of finished chains, for reports: every file is checked against the lab's format."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from collapselab.config import RunConfig, UserError
from collapselab.config.plugins import check_records
from collapselab.config.values import flatten
from collapselab.metrics.tails import LEAST_TYPES
from collapselab.mixing.sets import read_mixture
from collapselab.store.checks import interval, metrics, number, reading, text, whole
from collapselab.store.folders import read_json
from collapselab.store.layout import Chain, find_chains, read_metrics, run_root

MOST_BINS = 1000  # of a histogram; this lab writes 81
TAIL = re.compile(r"(?:theory/)?tails/words/(?:coverage(?:_in_context)?|tail_mass)_(mass_\d+|\d+)(?:_normalised|_se)?")


class ChainFiles:
    """The files of one chain that a report reads. Raises UserError naming a file that is not in the lab's format."""

    def __init__(self, path: Path):
        named = re.fullmatch(r"arm=(.+)/seed=(\d+)", f"{path.parent.name}/{path.name}")
        if named is None:
            raise UserError(
                f"{path}: a chain lies in arm=NAME/seed=NUMBER; give the folder its name back, or remove it"
            )
        self.path, self.chain = path, Chain(path)
        self.arm, self.seed = named[1], int(named[2])
        self.run = run_root(path).name
        self.place = 0  # of its arm in the report, which decides the colour; negative for a control
        _check_name(self.arm, path)
        rows = read_metrics(path)
        with reading(path / "metrics.jsonl"):
            self.rows: list[dict[str, Any]] = [  # `metrics` without thin tails
                {
                    "generation": g, "real_share": float(row["real_share"]), "metrics": row["metrics"],
                    "intervals": row.get("intervals", {}),
                }
                for g, row in enumerate(rows)
            ]  # fmt: skip
            self.digest = _one_protocol([text(row["protocol"]) for row in rows])
        with reading(path / "config.yaml"):
            self.config = (path / "config.yaml").read_text(encoding="utf-8")
        self.settings = flat_settings(self.config)
        environment = read_json(path / "environment.json")
        with reading(path / "environment.json"):
            self.environment = {text(key): value for key, value in environment.items()}
            self.note = text(environment["note"]).removeprefix("note: ").capitalize()
        places = [self.chain.stage(g, "eval") / "eval.json" for g in range(len(rows))]
        scores = [_scores(place) for place in places]
        self.protocol: dict[str, Any] = scores[0]["protocol"] if scores else {}
        self.scored: dict[str, float] = scores[0]["scored"] if scores else {}
        self.histograms: list[list[int] | None] = [score["histogram"] for score in scores]
        reference = _scores(self.chain.stage(0, "reference") / "eval.json")
        self.reference: dict[str, Any] = {name: reference[name] for name in ("metrics", "histogram", "band")}
        self.thin: dict[str, int] = scores[0]["thin"] if scores else {}
        for part in (*(row["metrics"] for row in self.rows), self.reference["metrics"], self.reference["band"]):
            for key in [key for key in part if _of_tail(key) in self.thin]:
                del part[key]
        self.ledgers = [read_mixture(self.chain.stage(g, "mixture"))["tokens"] for g in range(len(rows))]
        self.examples = [(g, _examples(self.chain.stage(g, "eval") / "examples.json")) for g in range(len(rows))]

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.seed}"

    @property
    def is_control(self) -> bool:
        """True if its models are trained on fresh real text instead of samples."""
        return self.settings.get("sampling.source") == "real"

    @property
    def plugins(self) -> list[dict[str, str]]:
        """Records of the plugins that the chain was run with. Raises UserError if they are malformed."""
        return check_records(self.settings.get("plugins", []))

    @property
    def planned(self) -> int | None:
        """The last generation that its settings ask for; None if they name none."""
        last = self.settings.get("generations")
        return last if type(last) is int else None


def _check_name(name: str, path: Path) -> None:
    """Refuse names that break the rule for names: one that begins with = would be a formula in a spreadsheet."""
    try:
        RunConfig(arm=name)
    except UserError as error:
        raise UserError(f"{path}: {error}; give the folder such a name") from None


def _one_protocol(digests: list[str]) -> str:
    if len(set(digests)) > 1:
        raise ValueError("its generations were scored under different protocols")
    return digests[0] if digests else ""


def _scores(path: Path) -> dict[str, Any]:
    """Read the parts of an eval.json that a report uses; `metrics` is used of a reference only, as metrics.jsonl has the others."""
    scores = read_json(path)
    with reading(path):
        sums = scores["sums"]
        histogram = sums.get("reference/nll", {}).get("histogram")
        if histogram is not None and (not isinstance(histogram, list) or len(histogram) > MOST_BINS):
            raise ValueError("the histogram of reference/nll is a list of counts")
        return {
            "metrics": metrics(scores["metrics"]),
            "protocol": {text(key): _short(value) for key, value in scores["protocol"].items()},
            "scored": {text(b): number(s["tokens"]) for b, s in sums.get("real/nll_by_frequency", {}).items()},
            "histogram": None if histogram is None else [whole(count) for count in histogram],
            "thin": _thin(sums.get("tails/words", {})),
            "band": {text(key): _band(entry) for key, entry in scores.get("band", {}).items()},
        }


def _thin(tails: dict[str, Any]) -> dict[str, int]:
    """Word tails with too few types for shares to be meaningful, with their number of types."""
    types = {text(name): whole(int(number(part["types"])), 0) for name, part in tails.items()}
    return {name: count for name, count in types.items() if count < LEAST_TYPES}


def _of_tail(key: str) -> str | None:
    """Name of a metric's word tail: `5` for `tails/words/coverage_5_normalised`; None for other metrics."""
    match = TAIL.fullmatch(key)
    return match and match[1]


def _band(entry: dict[str, Any]) -> tuple[float, float]:
    """(low, high) of the scores of equal draws of held-out real text."""
    return interval((entry["low"], entry["high"]))


def _examples(path: Path) -> list[str]:
    examples = read_json(path)
    with reading(path):
        return [text(example) for example in examples]


def _short(value: Any) -> Any:
    """Shorten a value of the protocol to a number or a few words."""
    return value if isinstance(value, int | float | str | None) else json.dumps(value)


def flat_settings(config: str) -> dict[str, Any]:
    """Parse the text of a config.yaml into dotted keys; empty if it cannot be parsed.

    The page shows the text itself, and `find_chains` has checked it against the chain's seal.
    """
    try:
        if "*" in config and any(isinstance(e, yaml.AliasEvent) for e in yaml.parse(config, yaml.SafeLoader)):
            return {}
        tree = yaml.safe_load(config)
        return flatten(tree) if isinstance(tree, dict) else {}
    except (ValueError, yaml.YAMLError, RecursionError, LookupError, TypeError, AttributeError):
        return {}


@dataclass
class RunFiles:
    """One run, or several runs to compare."""

    name: str
    chains: list[ChainFiles]
    """Chains with a finished generation, arm by arm."""
    baseline: str | None
    waiting: list[str]
    """Names of requested chains without a finished generation."""
    asked: dict[str, str]
    """Text of experiment.yaml by run, for runs that have one."""


def open_run(run: Path) -> RunFiles:
    """Open a run by its directory, or by that of one of its chains.

    Raises UserError if no generation is finished.
    """
    root = run_root(find_chains(run)[0])
    paths = find_chains(root)
    has_rows = {path: (path / "metrics.jsonl").is_file() and bool(read_metrics(path)) for path in paths}
    chains = [ChainFiles(path) for path, finished in has_rows.items() if finished]
    if not chains:
        raise UserError(f"{run}: no generation is finished yet; continue the run first")
    order, baseline, seeds, source = _asked(root / "experiment.yaml")
    order += sorted({chain.arm for chain in chains} - set(order), key=_as_counted)
    chains = sorted(chains, key=lambda chain: (order.index(chain.arm), chain.seed))
    _give_places(chains)
    requested = [f"arm={arm}/seed={seed}" for arm in order for seed in seeds]
    requested += [f"{path.parent.name}/{path.name}" for path, finished in has_rows.items() if not finished]
    have = {f"arm={chain.arm}/seed={chain.seed}" for chain in chains}
    waiting = [name for name in dict.fromkeys(requested) if name not in have]
    return RunFiles(root.name, chains, baseline, waiting, {root.name: source} if source else {})


def _as_counted(name: str) -> list[Any]:
    """Sort key that puts arm_2 before arm_10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", name))]


def _give_places(chains: list[ChainFiles]) -> None:
    arms = list(dict.fromkeys(chain.arm for chain in chains if not chain.is_control))
    controls = list(dict.fromkeys(chain.arm for chain in chains if chain.is_control))
    for chain in chains:
        chain.place = -1 - controls.index(chain.arm) if chain.is_control else arms.index(chain.arm)


def open_runs(runs: list[Path]) -> RunFiles:
    """Open several runs as one, with arms named RUN/ARM and the first run's baseline.

    Raises UserError for a run given twice and for two runs of the same name.
    """
    roots: dict[Path, Path] = {}
    for run in runs:
        root = run_root(find_chains(run)[0]).resolve()
        if root in roots:
            raise UserError(f"{run}: the same run as {roots[root]}; give every run once (a chain stands for its run)")
        same = next((other for known, other in roots.items() if known.name == root.name), None)
        if same is not None:
            raise UserError(
                f"{run}: has the name of {same}; arms are named RUN/ARM, so give one of the folders another"
            )
        _check_name(root.name, root)
        roots[root] = run
    opened = [open_run(run) for run in runs]
    for one in opened:
        for chain in one.chains:
            chain.arm = f"{one.name}/{chain.arm}"
    chains = [chain for one in opened for chain in one.chains]
    _give_places(chains)
    first = opened[0].baseline
    baseline = f"{opened[0].name}/{first}" if first is not None else chains[0].arm
    waiting = [f"{one.name}/{name}" for one in opened for name in one.waiting]
    asked = {name: source for one in opened for name, source in one.asked.items()}
    return RunFiles(" + ".join(one.name for one in opened), chains, baseline, waiting, asked)


def _asked(path: Path) -> tuple[list[str], str | None, list[int], str]:
    """(arms in order, baseline, seeds, text) of an experiment.yaml; empty if there is none. Raises UserError if it is broken."""
    if not path.is_file():
        return [], None, [], ""
    try:
        asked = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(asked, yaml.SafeLoader)):
            raise ValueError("a few lines of references to references can stand for more than fits in memory")
        tree = yaml.safe_load(asked)
        arms, baseline = list(map(text, tree["arms"].keys())), tree["baseline"]
        seeds = [whole(seed) for seed in tree["seeds"]]
        if baseline is not None:
            text(baseline)
    except (OSError, ValueError, yaml.YAMLError, RecursionError, LookupError, TypeError, AttributeError):
        raise UserError(
            f"{path}: not written by this lab (it needs arms, seeds and baseline); run the experiment again to have it rewritten"
        ) from None
    return arms, baseline, seeds, asked
