"""The page: one self-contained HTML file that needs neither network nor server.

It has three scripts, and the policy in its head names each by its digest, so nothing else can run whatever a run's text
holds. That text enters escaped by Jinja, or as JSON that the scripts put into text nodes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from collapselab.metrics.intervals import with_interval
from collapselab.metrics.tails import LEAST_TYPES
from collapselab.report import explorer, overlay, protocols, rerun, series, tables, words
from collapselab.report.charts import CHARTS, chooser
from collapselab.report.colours import DIVERGING, NEUTRAL, colour, mark
from collapselab.report.controls import Control, controls
from collapselab.report.files import ChainFiles, RunFiles
from collapselab.report.protocols import Group
from collapselab.report.series import ANY_TAIL, DIVERSITY, LEAST_TOKENS, LIKELIHOOD, TAIL_HEADLINES, present, real_value
from collapselab.report.spec import GAP, HEAD
from collapselab.runtime.console import UNSAFE, inert

LEFT_OUT = {
    "likelihood": "no perplexity, bits per byte or accuracy",
    "tails": f"no coverage of rare words (generation 0's text has fewer than {LEAST_TYPES} of them, or they were not scored)",
    "frequency": f"no loss by frequency with {LEAST_TOKENS} scored tokens in a bucket",
    "diversity": "no measures of diversity",
    "distribution": "no histogram of the samples' losses (evaluation.reference_tokens is 0)",
    "theory": "no metric of these chains has a law",
    "ledger": "no training set with a source",
}
# Characters of UNSAFE that json.dumps has escaped. A pair of backslashes is skipped.
ESCAPE = re.compile(r"\\(u00[01][0-9a-f]|[bfr])|\\.")


@lru_cache
def _plotly() -> tuple[str, str]:
    """plotly.min.js of the Python package, and its digest for the policy."""
    script = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    return _for_script(script)


@lru_cache
def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("collapselab.report.pages", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["typeset"] = words.typeset
    return environment.get_template("page.html.jinja")


def _own(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _for_script(script: str) -> tuple[str, str]:
    """Return a script fit for a page, and its `sha256-...`. Raises ValueError if it would close its own element."""
    script = script.replace("\r\n", "\n")
    if re.search(r"</script|<!--", script, re.IGNORECASE):
        raise ValueError("a script that closes its own element")
    return script, "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def as_json(value: Any) -> str:
    """Return JSON without HTML markup, control characters, or marks that reorder text."""
    result = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    result = ESCAPE.sub(lambda match: "\ufffd" if match[1] else match[0], UNSAFE.sub("\ufffd", result))
    for sign in "<>&":
        result = result.replace(sign, f"\\u{ord(sign):04x}")
    return result


def render(run_files: RunFiles, groups: list[Group], parts: dict[str, Any], files: dict[str, list[str]]) -> str:
    """Return the page as HTML.

    Args:
        parts: tables `summary`, `changes` and `theory`, by the label of each group.
        files: names of the CSV files and PNGs beside the page.
    """
    paired = {group.label: controls(group.chains) for group in groups}
    shown = [_group(run_files, group, parts[group.label], paired[group.label], files["figures"]) for group in groups]
    arms = overlay.by_arm(run_files.chains)
    data = {
        "arms": [
            {"name": a, "colour": colour(m[0].place), "symbol": mark(m[0].place)[0], "control": m[0].is_control}
            for a, m in arms.items()
        ],
        "charts": [{"id": chart["id"], **chart["spec"]} for one in shown for chart in one["charts"]],
        "any": {one["any"]["id"]: one["any"]["shows"] for one in shown},
        "look": {"diverging": DIVERGING, "neutral": NEUTRAL, "gap": GAP, "head": HEAD},
        "explorer": explorer.payload(run_files.chains),
    }
    scripts = [_plotly(), _for_script(_own("page.js")), _for_script(_own("explorer.js"))]
    return _template().render(
        policy=Markup(" ".join(f"'{digest}'" for _, digest in scripts)),
        style=Markup(_own("page.css") + _own("explorer.css")),
        data=Markup(as_json(data)),
        scripts=[Markup(script) for script, _ in scripts],
        name=run_files.name,
        about=words.about(run_files),
        notes=words.notes(run_files, groups, paired),
        groups=shown,
        several=len(groups) > 1,
        differing=protocols.differing(groups),
        chains=[{"name": c.name, "examples": c.examples} for c in run_files.chains],
        settings=protocols.settings_that_differ(run_files.chains),
        configs=[{"name": m[0].name, "text": m[0].config, "plugins": m[0].plugins} for m in arms.values()],
        reproduce=rerun.runs(run_files),
        files=files,
    )


def _shown(value: Any) -> Any:
    """Replace control characters, marks that reorder text and half characters in every expression of the page."""
    return inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _group(
    run_files: RunFiles, group: Group, parts: dict[str, Any], paired: dict[str, Control], figures: list[str]
) -> dict[str, Any]:
    """Build the page's data on the chains of one protocol."""
    chains = group.chains
    arms = overlay.by_arm(chains)
    baseline = run_files.baseline if run_files.baseline in arms and len(arms) > 1 else None
    last, common = tables.last_of_all(chains), None
    if any(len(chain.rows) - 1 > last for chain in chains):
        common = tables.changes(tables.tidy(chains), last, {arm: control.arm for arm, control in paired.items()})
    numbers = words.Numbers(parts["summary"], parts["changes"], parts["theory"], common)
    verdict = words.verdict(chains, numbers)
    charts, missing = [], []
    for name, title, caption, draw in CHARTS:
        spec = draw(chains)
        if spec is None:
            missing += [f"{title}: {LEFT_OUT[name]}"] if name in LEFT_OUT else []  # others belong to some chains only
            continue
        meta = spec["layout"]["meta"]
        png = f"{name}{group.suffix}.png"
        charts.append(
            {
                "id": f"{name}{group.suffix}", "title": title, "caption": caption, "alt": meta.pop("alt"),
                "table": meta.pop("table"), "keys": meta.pop("keys"), "spec": spec,
                "png": png if png in figures else None,
            }
        )  # fmt: skip
    titles = LIKELIHOOD | DIVERSITY
    lacking = [f"{title} ({key})" for key, title in titles.items() if not present(chains, {key: title})]
    lacking += _lacking_tails(chains)
    return {
        "label": group.label, "suffix": group.suffix, "digest": group.digest,
        "protocol": [(key, protocols.shown(group.protocol[key])) for key in sorted(group.protocol)],
        "verdict": verdict,
        "arms": [
            {
                "name": arm, "colour": colour(members[0].place), "seeds": words.seeds(len(members)),
                "is_baseline": arm == baseline, "is_control": members[0].is_control,
                "sentences": [s for s in words.of_arm(arm, members, numbers, baseline, last) if s != verdict],
                "table": _courses(arm, members, numbers),
            }
            for arm, members in arms.items()
        ],
        "controlled": bool(paired),
        "comparison": tables.compared(parts["summary"], baseline, last) if len(arms) > 1 else None,
        "charts": charts, "missing": missing, "lacking": lacking,
        "any": {"id": f"any{group.suffix}", **chooser(chains)},
    }  # fmt: skip


def _lacking_tails(chains: list[ChainFiles]) -> list[str]:
    """Sentences on measures of rare words that are missing, or missing in some arms."""
    notes = []
    thin = {name: count for chain in chains for name, count in chain.thin.items() if name.isdigit()}
    if thin:
        counts = ", ".join(
            f"{count} of at most {name}" for name, count in sorted(thin.items(), key=lambda one: int(one[0]))
        )
        notes.append(
            f"Rare words: too few in generation 0's text for meaningful shares (words by occurrences: {counts}; "
            f"least {LEAST_TYPES})"
        )
    plain = [
        arm for arm, members in overlay.by_arm(chains).items() if not _in_context(members) and _has(members, ANY_TAIL)
    ]
    if plain:
        notes.append(
            f"Coverage in context of {', '.join(plain)}: not measured. The plain coverage shown instead counts words anywhere, "
            "so noise raises it"
        )
    return notes


def _in_context(members: list[ChainFiles]) -> bool:
    return any(_has(members, key) for key in TAIL_HEADLINES if key != ANY_TAIL)


def _has(members: list[ChainFiles], key: str) -> bool:
    return any(key in row["metrics"] for chain in members for row in chain.rows)


def _courses(arm: str, members: list[ChainFiles], numbers: words.Numbers) -> tuple[list[str], list[list[str]]]:
    """(columns, rows) of an arm's headline metrics: a row per generation, then real text at the same budget."""
    keys = series.headline(series.keys_of(chain) for chain in members)
    columns = ["real_share", *keys.values()]
    rows = []
    for g in range(max(len(chain.rows) for chain in members)):
        cells = [numbers.value(arm, g, key) if (arm, g, key) in numbers.at else "–" for key in columns]
        rows.append([str(g), *cells])
    real = [real_value(members, key) for key in keys.values()]
    rows.append(["real text", "", *("–" if value is None else with_interval(value, float("nan")) for value in real)])
    return ["generation", "real share", *keys], rows
