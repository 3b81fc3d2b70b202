"""What a report reads: the finished files of chains, each held to what this lab writes."""

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
from collapselab.store.checks import metrics, number, reading, text, whole
from collapselab.store.folders import read_json
from collapselab.store.layout import Chain, find_chains, read_metrics, run_root

MOST_BINS = 1000  # of a histogram; this lab writes 81
TAIL = re.compile(r"(?:theory/)?tails/words/(?:coverage(?:_in_context)?|tail_mass)_(mass_\d+|\d+)(?:_normalised|_se)?")


class ChainFiles:
    """What a report needs of one chain. Raises UserError that names the file which this lab cannot have written."""

    def __init__(self, path: Path):
        named = re.fullmatch(r"arm=(.+)/seed=(\d+)", f"{path.parent.name}/{path.name}")
        if named is None:
            raise UserError(
                f"{path}: a chain lies in arm=NAME/seed=NUMBER; give the folder its name back, or remove it"
            )
        self.path, self.chain = path, Chain(path)
        self.arm, self.seed = named[1], int(named[2])
        self.run = run_root(path).name
        self.place = 0  # of its arm in the report: decides the colour; below zero for a control
        _check_name(self.arm, path)
        rows = read_metrics(path)
        with reading(path / "metrics.jsonl"):
            self.rows: list[dict[str, Any]] = [  # their `metrics` without thin tails
                {"generation": g, "real_share": float(row["real_share"]), "metrics": row["metrics"]}
                for g, row in enumerate(rows)
            ]
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
        self.histograms: list[list[int] | None] = [found["histogram"] for found in scores]
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
        """Whether its models are trained on fresh real text in the place of what earlier ones write."""
        return self.settings.get("sampling.source") == "real"

    @property
    def plugins(self) -> list[dict[str, str]]:
        """The records of the plugins that it was made with. Raises UserError where its settings have something else there."""
        return check_records(self.settings.get("plugins", []))

    @property
    def planned(self) -> int | None:
        """The last generation that its settings ask for; None where they do not say."""
        found = self.settings.get("generations")
        return found if type(found) is int else None


def _check_name(name: str, path: Path) -> None:
    """The rule for names: one that begins with = is a formula in a table."""
    try:
        RunConfig(arm=name)
    except UserError as error:
        raise UserError(f"{path}: {error}; give the folder such a name") from None


def _one_protocol(found: list[str]) -> str:
    if len(set(found)) > 1:
        raise ValueError("its generations were scored under different protocols")
    return found[0] if found else ""


def _scores(path: Path) -> dict[str, Any]:
    """An eval.json as far as a report uses it: its metrics are those of metrics.jsonl, and only a reference's are taken."""
    found = read_json(path)
    with reading(path):
        sums = found["sums"]
        histogram = sums.get("reference/nll", {}).get("histogram")
        if histogram is not None and (not isinstance(histogram, list) or len(histogram) > MOST_BINS):
            raise ValueError("the histogram of reference/nll is a list of counts")
        return {
            "metrics": metrics(found["metrics"]),
            "protocol": {text(key): _short(value) for key, value in found["protocol"].items()},
            "scored": {text(b): number(s["tokens"]) for b, s in sums.get("real/nll_by_frequency", {}).items()},
            "histogram": None if histogram is None else [whole(count) for count in histogram],
            "thin": _thin(sums.get("tails/words", {})),
            "band": {text(key): _band(entry) for key, entry in found.get("band", {}).items()},
        }


def _thin(tails: dict[str, Any]) -> dict[str, int]:
    """The word tails that have too few types for a share of them to say anything, with their types."""
    types = {text(name): whole(int(number(part["types"])), 0) for name, part in tails.items()}
    return {name: count for name, count in types.items() if count < LEAST_TYPES}


def _of_tail(key: str) -> str | None:
    """The word tail that a metric is of: `5` for `tails/words/coverage_5_normalised`; None where it is of none."""
    found = TAIL.fullmatch(key)
    return found and found[1]


def _band(entry: dict[str, Any]) -> tuple[float, float]:
    """(low, high) of what equal draws of held-out real text score."""
    low, high = number(entry["low"]), number(entry["high"])
    if low > high:
        raise ValueError("a band begins below its end")
    return low, high


def _examples(path: Path) -> list[str]:
    found = read_json(path)
    with reading(path):
        return [text(one) for one in found]


def _short(value: Any) -> Any:
    """A value of the protocol, which is a number or a few words."""
    return value if isinstance(value, int | float | str | None) else json.dumps(value)


def flat_settings(config: str) -> dict[str, Any]:
    """The keys of a config.yaml by their dotted names; nothing where it cannot be read as that: the page shows the file as
    it is, and `find_chains` has compared it with the chain's own seal."""
    try:
        if "*" in config and any(isinstance(e, yaml.AliasEvent) for e in yaml.parse(config, yaml.SafeLoader)):
            return {}
        tree = yaml.safe_load(config)
        return flatten(tree) if isinstance(tree, dict) else {}
    except (ValueError, yaml.YAMLError, RecursionError, LookupError, TypeError, AttributeError):
        return {}


@dataclass
class Opened:
    """One run, or several that are compared."""

    name: str
    chains: list[ChainFiles]
    """Those with a finished generation, arm by arm."""
    baseline: str | None
    waiting: list[str]
    """Names of chains that were asked for and have no finished generation."""
    asked: dict[str, str]
    """The text of experiment.yaml by the name of its run, where there is one."""


def opened(run: Path) -> Opened:
    """A run by its directory or by that of a chain, which stands for the whole run.

    Raises UserError where no generation is finished.
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
    wanted = [f"arm={arm}/seed={seed}" for arm in order for seed in seeds]
    wanted += [f"{path.parent.name}/{path.name}" for path, finished in has_rows.items() if not finished]
    there = {f"arm={chain.arm}/seed={chain.seed}" for chain in chains}
    waiting = [one for one in dict.fromkeys(wanted) if one not in there]
    return Opened(root.name, chains, baseline, waiting, {root.name: source} if source else {})


def _as_counted(name: str) -> list[Any]:
    """For sorting: arm_2 before arm_10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", name))]


def _give_places(chains: list[ChainFiles]) -> None:
    arms = list(dict.fromkeys(chain.arm for chain in chains if not chain.is_control))
    controls = list(dict.fromkeys(chain.arm for chain in chains if chain.is_control))
    for chain in chains:
        chain.place = -1 - controls.index(chain.arm) if chain.is_control else arms.index(chain.arm)


def open_run(run: Path) -> tuple[list[ChainFiles], str | None]:
    """The chains of a run that have a finished generation, in the order of the experiment's arms, and the baseline arm.

    Args:
        run: the run directory, or a chain of it, which stands for the whole run.

    Raises UserError where no generation is finished.
    """
    found = opened(run)
    return found.chains, found.baseline


def open_runs(runs: list[Path]) -> Opened:
    """Several runs as one, their arms named RUN/ARM; the first run's baseline is that of all.

    Raises UserError for a run that is given twice, and for two runs of one name.
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
    found = [opened(run) for run in runs]
    for one in found:
        for chain in one.chains:
            chain.arm = f"{one.name}/{chain.arm}"
    chains = [chain for one in found for chain in one.chains]
    _give_places(chains)
    first = found[0].baseline
    baseline = f"{found[0].name}/{first}" if first is not None else chains[0].arm
    waiting = [f"{one.name}/{name}" for one in found for name in one.waiting]
    asked = {name: source for one in found for name, source in one.asked.items()}
    return Opened(" + ".join(one.name for one in found), chains, baseline, waiting, asked)


def _asked(path: Path) -> tuple[list[str], str | None, list[int], str]:
    """(arms in their order, baseline, seeds, text) of an experiment; nothing where there is none. Raises UserError for a
    broken file."""
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
