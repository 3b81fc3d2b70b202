"""Tables of docs/disagreements.md, made from results/choices/, and the files of the run that results/choices/ keeps.

.venv/bin/python scripts/choices_page.py runs/choices   save protocols.csv and tails.csv, write the page's tables
.venv/bin/python scripts/choices_page.py                write the page's tables
.venv/bin/python scripts/choices_page.py --check        exit with 1 if the page differs from the results

Tables are placed between <!-- made by scripts/choices_page.py: NAME --> and <!-- end -->.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from collapselab.metrics.intervals import mean_interval, with_interval
from collapselab.report.tables import markdown
from collapselab.store.folders import read_json
from collapselab.store.layout import Chain, find_chains, read_metrics

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "disagreements.md"
KEPT = ROOT / "results" / "choices"
MARKED = re.compile(r"(<!-- made by scripts/choices_page\.py: (\w+) -->\n).*?(<!-- end -->)", re.S)

OWN = "own"  # the chain's own protocol, of its evaluation during the run
PARTS = ("split", "context", "stride", "prefix", "tokens", "precision")  # of a protocol, that a likelihood depends on
ARMS = {
    "baseline": "baseline: restart from base, a tenth of fresh real text, T = 1",
    "reuse": "the tenth is generation 0's text again",
    "closed": "no real text after generation 0",
    "continued": "go on from the generation before",
    "scratch": "new random weights",
    "cold_0.9": "temperature 0.9",
    "control": "control: all-real",
    "continued_control": "control, going on",
    "scratch_control": "control, new weights",
}
CONTROLS = {"continued": "continued_control", "scratch": "scratch_control"}  # that start as the arm does, else control
PROTOCOLS = {
    OWN: "128 tokens, side by side",
    "stride 64": "stride 64",
    "stride 32": "stride 32",
    "context 32, stride 32": "32 tokens, side by side",
    "prefix bos": "separator before the text",
    "tokens 8192": "first quarter of the text",
    "split valid": "other held-out speeches",
    "precision bf16": "bf16",
}
TAILS = {"1": "once", "5": "at most 5 times", "20": "at most 20 times", "mass_1": "rarest 1 %", "mass_5": "rarest 5 %"}


# --- files kept of the run ----------------------------------------------------------------------------------------------


def keep(run: Path) -> None:
    """Write protocols.csv (perplexity by protocol) and tails.csv (the baseline's tails under all definitions)."""
    scores, tails = [], []
    for path in find_chains(run):
        chain, arm, seed = Chain(path), path.parent.name.removeprefix("arm="), int(path.name.removeprefix("seed="))
        own = read_json(chain.stage(0, "eval") / "eval.json")["protocol"]
        rows = {OWN: read_metrics(path)}
        for later in sorted((path / "rescored").glob("*/metrics.jsonl")):
            protocol = read_json(chain.rescored(0, later.parent.name, "eval") / "eval.json")["protocol"]
            name = ", ".join(f"{part} {protocol[part]}" for part in PARTS if protocol[part] != own[part])
            rows |= {name: read_metrics(later.parent)} if name else {}
        if len(rows) > 1:
            scores += [
                (arm, seed, name, row["generation"], row["metrics"]["real/perplexity"])
                for name, course in rows.items()
                for row in course
            ]
        if arm == "baseline":
            tails += [
                (seed, row["generation"], key, value)
                for row in rows[OWN]
                for key, value in sorted(row["metrics"].items())
                if key.startswith("tails/")
            ]
    table = pd.DataFrame(scores, columns=["arm", "seed", "protocol", "generation", "perplexity"])
    table.to_csv(KEPT / "protocols.csv", index=False, float_format="%.6g")
    table = pd.DataFrame(tails, columns=["seed", "generation", "metric", "value"])
    table.to_csv(KEPT / "tails.csv", index=False, float_format="%.6g")


# --- tables -------------------------------------------------------------------------------------------------------------


def shown(values: pd.Series) -> str:
    """Format one value per seed as `1.23 ± 0.04`."""
    mean, low, _ = mean_interval(values.to_numpy())
    return with_interval(mean, low)


def courses(table: pd.DataFrame, value: str = "value") -> tuple[pd.Series, pd.Series]:
    """Return (generation 0, last generation), each by seed."""
    by = table.pivot(index="seed", columns="generation", values=value)
    return by[by.columns.min()], by[by.columns.max()]


def of_arm(arm: str, metric: str) -> tuple[pd.Series, pd.Series]:
    """Return an arm's (generation 0, last generation) of a metric, each by seed."""
    metrics = pd.read_csv(KEPT / "metrics.csv")
    return courses(metrics[(metrics["arm"] == arm) & (metrics["metric"] == metric)])


def against(value: Callable[[str], pd.Series], arm: str) -> list[str]:
    """Format an arm's value, and its differences from the baseline's and from its own control's."""
    control = arm if arm.endswith("control") else CONTROLS.get(arm, "control")
    differences = ["–" if other == arm else shown(value(arm) - value(other)) for other in ("baseline", control)]
    return [shown(value(arm)), *differences]


def arms() -> str:
    def ratio(arm: str) -> pd.Series:
        first, last = of_arm(arm, "real/perplexity")
        return last / first

    rows = []
    for arm, words in ARMS.items():
        first, last = of_arm(arm, "real/perplexity")
        rows.append([words, f"{first.mean():.4g}", shown(last), *against(ratio, arm)])
    head = ["choice", "perplexity, gen. 0", "gen. 4", "ratio", "minus baseline", "minus control"]
    return markdown(head, rows, rule="|---")


def text() -> str:
    def rare(arm: str) -> pd.Series:
        return of_arm(arm, "tails/words/coverage_in_context_5_normalised")[1]

    def pairs(arm: str) -> pd.Series:
        return of_arm(arm, "diversity/words/distinct_2")[1]

    rows = [[words, *against(rare, arm), *against(pairs, arm)] for arm, words in ARMS.items()]
    differences = ["minus baseline", "minus control"]
    return markdown(["choice", "rare words", *differences, "distinct-2", *differences], rows, rule="|---")


def protocols() -> str:
    table = pd.read_csv(KEPT / "protocols.csv")
    rows = []
    for name, words in PROTOCOLS.items():
        cells = [words]
        for arm in ("baseline", "continued"):
            chosen = table[table["arm"] == arm].groupby("protocol")
            first, last = courses(chosen.get_group(name), "perplexity")
            own_first, own_last = courses(chosen.get_group(OWN), "perplexity")
            cells += [shown(first)] if arm == "baseline" else []
            cells.append(shown(last / first))
            cells.append("–" if name == OWN else shown(last / first - own_last / own_first))
        rows.append(cells)
    head = ["protocol", "perplexity, gen. 0", "ratio, baseline", "minus the first", "ratio, going on"]
    return markdown([*head, "minus the first"], rows, rule="|---")


def tails() -> str:
    table = pd.read_csv(KEPT / "tails.csv")
    seeds, table = table["seed"].nunique(), table.groupby("metric")
    rows = []
    for unit in ("words", "tokens", "bigrams"):
        for tail, words in TAILS.items():
            key = f"tails/{unit}/coverage_{tail}"
            if key not in table.groups or table.get_group(key)["seed"].nunique() < seeds:
                continue  # a tail of tokens with too few types has no value
            first, last = courses(table.get_group(key))
            over_fresh = courses(table.get_group(f"{key}_normalised"))[1]
            mass_first, mass = courses(table.get_group(f"tails/{unit}/tail_mass_{tail}"))
            lost = (1 - last, 1 - last / over_fresh, 1 - over_fresh, 1 - last / first, 1 - mass, 1 - mass / mass_first)
            rows.append([f"{unit}, {words}", *(percent(values) for values in lost)])
    head = ["% lost", "types", "by fresh text", "types over fresh text", "types since gen. 0", "mass over fresh text"]
    head.append("mass since gen. 0")
    return markdown(head, rows, rule="|---")


def percent(values: pd.Series) -> str:
    mean, low, _ = mean_interval(100 * values.to_numpy())
    return f"{mean:.0f} ± {math.ceil(mean - low):.0f}"


TABLES = {"arms": arms, "text": text, "protocols": protocols, "tails": tails}


def page(text: str) -> str:
    """Return the page with all marked tables rebuilt."""
    return MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", text)


def main() -> int:
    if sys.argv[1:] and sys.argv[1] != "--check":
        keep(Path(sys.argv[1]))
    text = PAGE.read_text(encoding="utf-8")
    updated = page(text)
    if sys.argv[1:] == ["--check"]:
        if text != updated:
            print("docs/disagreements.md differs from the results; run scripts/choices_page.py", file=sys.stderr)
            return 1
    else:
        PAGE.write_text(updated, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
