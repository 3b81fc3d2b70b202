"""The report: its words, charts, protocols, palette and page."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import Lab
from helpers import cpu_units, quiet, small_config, undrawn
from report_runs import fabricate, under_protocol

from collapselab.chain.run import run
from collapselab.metrics.likelihood import BUCKETS
from collapselab.report import (
    colours,
    files,
    overlay,
    page,
    pages,
    protocols,
    rerun,
    series,
    spec,
    tables,
    tasks,
    words,
)
from collapselab.report.charts import CHARTS
from collapselab.report.files import RunFiles
from collapselab.runtime.console import Console
from collapselab.store.layout import Chain, read_metrics, run_root

# Tokens enough for a tail of words, and for the rare buckets of bytes.
QUICK: dict[str, Any] = {"evaluation__tokens": 4096, "mixing__tokens": 8192}
ARMS = [f"arm_{i:02d}" for i in range(12)]

PLAIN = [
    chart for chart in CHARTS if chart[0] not in ("answers", "accepted", "fan", "difficulty", "judges")
]  # of chains without a task or judges


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain of two generations beside generation 0."""
    config = small_config(runs_dir=str(tmp_path_factory.mktemp("real")), **QUICK)
    return run(config)[0]


@pytest.fixture(scope="module")
def made(real: Path) -> Path:
    """The page of that chain's run."""
    with undrawn():
        return pages.write_report(real)


@pytest.fixture(scope="module")
def many(real: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, Page]:
    """The page of 12 arms x 5 seeds x 20 generations, the CPU that it took (helpers.cpu_units), and what stands in it."""
    folder = fabricate(real, tmp_path_factory.mktemp("many") / "many", ARMS, 5, 20)
    asked = {"arms": {arm: {} for arm in ARMS}, "seeds": [1, 2, 3, 4, 5, 6], "baseline": ARMS[0]}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(asked))
    made: list[Path] = []
    units = cpu_units(lambda: made.append(pages.write_report(folder)))
    return made[0], units, opened(made[0])


class Page(HTMLParser):
    """The elements of a page in their order, and its texts by element."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.data: dict[str, Any] = {}
        self.inside = ""
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.inside = tag + str(dict(attrs).get("type", "")) if tag in ("script", "style") else ""
        self.scripts += [""] if self.inside == "script" else []

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside:
            self.data = json.loads(data) if self.inside == "scriptapplication/json" else self.data
        else:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def opened(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def drawn(run: Path) -> Page:
    """The page of a run, without the tables and PNGs beside it, which take most of the time."""
    found = files.open_run(run)
    groups = protocols.grouped(found.chains)
    parts = {group.label: pages.tables_of(group, found.baseline) for group in groups}
    return Page(page.render(found, groups, parts, {"tables": [], "figures": []}))


# --- the page ----------------------------------------------------------------------------------------------------------


def test_a_page_has_its_parts_in_order_and_lets_its_own_three_scripts_run(made: Path) -> None:
    found = opened(made)
    sections = [section["id"] for section in found.all("section")]
    assert sections == ["summary", "charts", "any", "explorer", "protocol", "settings", "reproduce", "files"]
    assert [figure["id"] for figure in found.all("figure")] == [name for name, *_ in PLAIN]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in found.scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    (policy,) = [meta["content"] for meta in found.all("meta") if "http-equiv" in meta]
    rest = "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    assert policy == f"default-src 'none'; script-src {allowed}; {rest}"
    assert len(digests) == 3 and not any("src" in script for script in found.all("script"))


def test_a_page_can_be_heard_and_used_by_keyboard(made: Path) -> None:
    found = opened(made)
    assert [level for tag, _ in found.elements if re.fullmatch("h[1-6]", tag) for level in [int(tag[1])]][:2] == [1, 2]
    assert found.all("html")[0]["lang"] == "en" and found.all("a")[0]["class"] == "skip"
    ids = {attributes["id"] for _, attributes in found.elements if "id" in attributes}
    assert {link["href"][1:] for link in found.all("a") if link["href"].startswith("#")} <= ids
    assert all(cell["scope"] in ("col", "row") for cell in found.all("th"))
    boxes = [box for box in found.all("div") if box.get("class") == "chart"]
    assert len(boxes) == len(PLAIN) == len(found.all("figcaption"))
    assert all(box["role"] == "img" and len(box["aria-label"]) > 40 for box in boxes)
    assert all(
        box["tabindex"] == "0" and box["aria-label"]
        for box in found.all("div")
        if box.get("class", "").startswith("wide")
    )


def test_links_lead_to_what_lies_beside_the_page(made: Path) -> None:
    links = {link["href"] for link in opened(made).all("a") if not link["href"].startswith("#")}
    assert links == {p.name for p in made.parent.iterdir() if p.suffix in (".csv", ".png")}
    assert {"metrics.csv", "summary.csv", "changes.csv", "ledger.csv", "distribution.csv", "likelihood.png"} <= links


def test_alternative_text_has_the_numbers_of_the_curve(real: Path, made: Path) -> None:
    rows = read_metrics(real)
    first, last = (f"{rows[g]['metrics']['real/perplexity']:.4g}" for g in (0, 2))
    box = next(box for box in opened(made).all("div") if box.get("data-chart") == "likelihood")
    said = f"perplexity on held-out real text rises from {first} to {last} over generations 0 to 2 in arm main"
    assert said in box["aria-label"]


def test_data_are_text_to_an_html_parser_and_control_nothing() -> None:
    value = {"</script><!--&": "\u202e\u2028\x1b\x00\b\f\r\n\t\ud800 \\u001b \\\\b \\"}
    found = page.as_json(value)
    assert not re.search("[<>&\u2028\u202e\ud800\x1b]", found)
    assert json.loads(found) == {"</script><!--&": "\ufffd" * 7 + "\n\t\ufffd \\u001b \\\\b \\"}
    with pytest.raises(ValueError, match="JSON"):
        page.as_json(math.nan)


# --- words -------------------------------------------------------------------------------------------------------------


def test_the_words_have_the_numbers_of_the_tables(many: tuple[Path, float, Page]) -> None:
    from scipy import stats  # half a second, of every worker that reads this file

    folder, text = many[0].parent, many[2].text
    metrics, summary, changes = (pd.read_csv(folder / f"{n}.csv") for n in ("metrics", "summary", "changes"))
    key = "real/perplexity"
    for arm in ARMS:
        at = summary[(summary.arm == arm) & (summary.metric == key)].set_index("generation")
        ends = [tables.with_interval(at.loc[g, "mean"], at.loc[g, "low"]) for g in (0, 20)]
        change = changes[(changes.arm == arm) & (changes.metric == key)].iloc[0]
        wide = metrics[(metrics.arm == arm) & (metrics.metric == key)].pivot(
            index="seed", columns="generation", values="value"
        )
        expected = stats.ttest_rel(wide[20], wide[0]).confidence_interval(0.95)
        assert (change["low"], change["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
        said = tables.with_interval(change["change"], change["low"])
        assert f"rose from {ends[0]} to {ends[1]} (change +{said}, " in text, arm
        if arm != ARMS[0]:
            gap = tables.with_interval(at.loc[20, "difference"], at.loc[20, "difference_low"])
            said = rf"Against {ARMS[0]} at generation 20 \(5 pairs by seed\): [^;:]*perplexity \+{re.escape(gap)},"
            assert re.search(said, text), arm
    most = re.search(r"rose in every arm over generations 0 to 20: most in (\S+), .*?; least in (\S+),", text)
    assert most and (most[1], most[2]) == (ARMS[11], ARMS[0])


def first_words(real: Path, run: Path, courses: dict[str, list[list[float]]]) -> str:
    """The first sentence about chains with these perplexities by arm, seed and generation, and the sentences of each arm."""
    for arm, by_seed in courses.items():
        fabricate(real, run, [arm], len(by_seed), max(map(len, by_seed)) - 1, drop=("theory/",))
        for seed, course in enumerate(by_seed, 1):
            chain = run / f"arm={arm}" / f"seed={seed}"
            rows = read_metrics(chain)[: len(course)]
            for row, value in zip(rows, course, strict=True):
                row["metrics"] = {"real/perplexity": value}
            Chain(chain).write_metrics(rows)
    chains, last = (
        pages.open_run(run).chains,
        min(len(course) for by_seed in courses.values() for course in by_seed) - 1,
    )
    tidy = tables.tidy(chains)
    summary, laws = tables.summary(tidy, None), overlay.agreement(chains)
    own, common = (
        words.Numbers(summary, changes, laws) for changes in (tables.changes(tidy), tables.changes(tidy, last))
    )
    arms = overlay.by_arm(chains)
    said = [
        words.verdict(chains, common),
        *(s for arm, m in arms.items() for s in words.of_arm(arm, m, own, None, last)),
    ]
    return " | ".join(said).replace("Perplexity on held-out real text (lower is better)", "It")


def test_a_headline_says_who_rose_and_who_fell(real: Path, tmp_path: Path) -> None:
    up, more, down = [[10.0, 12.0], [11.0, 13.1]], [[10.0, 14.0], [11.0, 15.1]], [[10.0, 9.0], [11.0, 10.1]]
    still = [[10.0, 9.0], [11.0, 12.1]]
    found = first_words(real, tmp_path / "a", {"up": up, "more": more, "down": down, "still": still}).split(" | ")[0]
    assert found.startswith(
        "It rose in more and up, fell in down and did not change measurably in still over generations 0 to 1: it rose most in "
        "more, from 10.5 ± 6.4 to 14.6 ± 7.0 (change +4.05 ± 0.64, +39 %); it fell in down, from 10.5 ± 6.4 to 9.6 ± 7.0 "
    )
    found = first_words(real, tmp_path / "b", {"up": up, "more": more})
    assert (
        found.startswith("It rose in every arm over generations 0 to 1: most in more, from 10.5")
        and "least in up" in found
    )


def test_a_headline_claims_nothing_of_one_seed_or_of_no_change(real: Path, tmp_path: Path) -> None:
    found = first_words(real, tmp_path / "a", {"one": [[28.01, 38.01]]})
    assert found.startswith(
        "It went from 28.01 to 38.01 (change +10, +36 %; one seed: no interval) over generations 0 to 1."
    )
    assert "rose" not in first_words(real, tmp_path / "b", {"one": [[28.0, 38.0]], "two": [[28.0, 39.0]]})
    found = first_words(real, tmp_path / "c", {"x": [[1.0, 1.0], [1.0, 1.0]]})
    assert found.startswith("It stayed at 1 over generations 0 to 1.")
    found = first_words(real, tmp_path / "d", {"x": [[10.0, 9.0], [10.0, 11.1], [10.0, 10.0]]})
    assert found.startswith("It did not change measurably, from 10 to 10.0 ± 2.6 (change +0.0 ± 2.6, +0.3 %)")


def test_numbers_are_set_as_in_books() -> None:
    said = words.typeset("change -0.5 ± 0.1, -38 % (-1) in cold-0.8, 1e-05, arm_-2, 3-4, -.5")
    assert said == "change −0.5\xa0±\xa00.1, −38\xa0% (−1) in cold-0.8, 1e-05, arm_-2, 3-4, −.5"


def test_a_headline_compares_arms_at_the_generation_that_all_have(real: Path, tmp_path: Path) -> None:
    long, short = [[10.0, 11.0, 50.0], [10.0, 11.1, 51.0]], [[10.0, 13.0], [10.0, 13.1]]
    first, *rest = first_words(real, tmp_path / "a", {"long": long, "short": short}).split(" | ")
    assert (
        "over generations 0 to 1: most in short, from 10 to 13.05" in first
        and "least in long, from 10 to 11.05" in first
    )
    assert "to 50.5 ± 6.4" in rest[0] and "over generations 0 to 2" in rest[0] and "0 to 1" in rest[1]
    assert "Not every arm" in first_words(real, tmp_path / "b", {"long": long, "short": [[10.0]]})


def test_chains_that_have_not_finished_are_named(real: Path, tmp_path: Path) -> None:
    folder = fabricate(real, tmp_path / "half", ["a", "b"], 2, 2)
    rows = folder / "arm=b" / "seed=2" / "metrics.jsonl"
    rows.write_text(rows.read_text().splitlines()[0] + "\n")
    (folder / "arm=a" / "seed=2" / "metrics.jsonl").write_text("")
    asked = {"arms": {"a": {}, "b": {}, "c": {}}, "seeds": [1, 2], "baseline": "a"}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(asked))
    text = drawn(folder).text
    assert "Not finished: b, seed 2 (generation 0 of 2)." in text
    assert "Without a finished generation: arm=a/seed=2, arm=c/seed=1, arm=c/seed=2." in text
    assert "Arms are compared at generation 0, the last one that every chain has." in text
    assert "One seed only (a): no interval can be given" in text


# --- the commands that make it again -------------------------------------------------------------------------------------


def again(page: Path, lab: Lab, *more: str) -> list[str]:
    """Runs the command that a page shows, with more options where given; returns its words."""
    section = page.read_text().split('id="reproduce"')[1]
    (command,) = re.findall(r"<pre class=\"command\" tabindex=\"0\">(collapselab .*)</pre>", section)
    words = shlex.split(html.unescape(command))
    with undrawn():
        assert lab(*words[1:], *more)[0] == 0
    return words


def scores(chain: Path) -> list[dict[str, float]]:
    return [row["metrics"] for row in read_metrics(chain)]


def test_the_command_that_a_page_shows_makes_the_same_numbers(
    real: Path, made: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = real.parents[2]
    monkeypatch.chdir(runs.parent)
    words = again(made, lab)
    assert words[3:] == [f"{runs.name}/test/arm=main/seed=1/config.yaml", "--name", "test_again"]
    assert scores(runs / "test_again" / "arm=main" / "seed=1") == scores(real)


def test_a_fork_with_a_dashboard_has_its_report_before_that_ends_and_its_command_takes_from_the_same_parent(
    real: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = real.parents[2]
    config = small_config(
        **QUICK, runs_dir=str(runs), name="forked", sampling__temperature=0.5, tracking__wandb="offline"
    )
    with undrawn():
        forked = run(config, (real, 1), make_report=pages.attempt_report)[0]
    made = run_root(forked) / "report" / "index.html"
    assert made == runs / "forked" / "report" / "index.html" and made.is_file()
    monkeypatch.chdir(runs.parent)
    words = again(made, lab, "--tracking.wandb=off")
    assert words[:6] == ["collapselab", "run", "--fork", f"{runs.name}/test/arm=main/seed=1", "--at", "1"]
    assert scores(runs / "forked_again" / "arm=main" / "seed=1") == scores(forked) != scores(real)
    said = "was forked: generations 0 to 1 are those of"
    assert said in opened(made).text and "sampling.temperature (was 1.0, is 0.5)." in opened(made).text


def test_chains_without_an_experiment_have_a_command_each(real: Path, tmp_path: Path) -> None:
    folder = fabricate(real, tmp_path / "many", ["arm_10", "arm_2"], 7, 0)
    chains = pages.open_run(folder).chains
    assert [chain.arm for chain in chains[::7]] == ["arm_2", "arm_10"]  # as people count
    (found,) = rerun.runs(RunFiles("many", chains, None, [], {}))
    assert len(found["commands"]) == 12 and found["more"] == 2 and found["folder"] == tmp_path.name
    assert f"{tmp_path.name}/many/arm=arm_2/seed=7/config.yaml" in found["commands"][6]


# --- charts ------------------------------------------------------------------------------------------------------------


def test_sixty_chains_are_reported_in_time_and_in_a_page_of_a_few_megabytes(many: tuple[Path, float, Page]) -> None:
    path, units, found = many
    assert units < 500
    assert sum(file.stat().st_size for file in path.parent.glob("index.html")) < 10e6
    data = found.data
    assert {cell["data-label"] for cell in found.all("td") if "data-label" in cell} == {
        "chains",
        "mean",
        f"minus {ARMS[0]}",
    }
    assert [arm["name"] for arm in data["arms"]] == ARMS
    assert [arm["colour"] for arm in data["arms"]] == list(colours.PALETTE)
    for chart in data["charts"]:
        for trace in chart["data"]:
            if trace["type"] == "scatter" and trace["legendgroup"].startswith("arm_"):
                arm = trace["legendgroup"].split()[0]
                colour = colours.PALETTE[ARMS.index(arm)]
                assert colour in json.dumps(trace) or trace.get("fillcolor") == colours.faint(ARMS.index(arm), 0.16)
    assert "arm=arm_00/seed=6" in found.text


def unscattered(value: float) -> series.Level:
    """Real text's value where nothing is known of its scatter."""
    return series.Level(value, math.nan, math.nan)


def test_intervals_of_two_chains_neither_flatten_a_curve_nor_leave_what_is_possible() -> None:
    Point = series.Point
    curve = [Point(0, 2, 0.9, -5.0, 6.8), Point(1, 2, 0.5, 0.4, 0.6)]
    assert series.extent([curve], None, (0.0, math.inf), from_zero=True) == (0, pytest.approx(1.365))
    assert series.extent([curve], unscattered(0.7), series.possible("real/accuracy"), from_zero=False) == pytest.approx(
        (0.055, 1.045)
    )
    low, high = series.extent([[Point(0, 1, 3.0, math.nan, math.nan)]], None, (0.0, math.inf), from_zero=False)
    assert low < 3 < high
    figure = spec.Figure()
    figure.panel("", 2)
    figure.curve("", "arm", 0, curve, "arm", (0.0, 1.0))
    assert figure.traces[0]["y"] == [1.0, 0.6, 0.4, 0.0]


def test_zero_is_seen_below_every_law_and_no_arm_has_a_colour_of_the_ledger(real: Path) -> None:
    drawn = {name: draw(pages.open_run(real).chains) for name, _, _, draw in PLAIN}
    theory, ledger = drawn["theory"], drawn["ledger"]
    assert theory is not None and ledger is not None
    ranges = [axis["range"] for name, axis in theory["layout"].items() if name[0] == "y" and axis["zeroline"]]
    assert ranges and all(low < 0 < high for low, high in ranges)
    shades = {trace["marker"]["color"] for trace in ledger["data"]}
    assert not shades & set(colours.PALETTE)
    hatched = {trace["meta"] for trace in ledger["data"] if "pattern" in trace["marker"]}
    assert hatched == {"prompt_real"} and {"real", "generation_0"} <= {trace["meta"] for trace in ledger["data"]}


def test_plotly_takes_every_chart(real: Path) -> None:
    import plotly.graph_objects as go

    chains = pages.open_run(real).chains
    for name, _, _, draw in PLAIN:
        spec = draw(chains)
        assert spec is not None, name
        figure = go.Figure(spec)  # refuses what is no key of plotly's
        assert len(figure.data) == len(spec["data"]) > 0
        shown = json.loads(json.dumps(spec["layout"]["meta"], allow_nan=False))
        assert shown["alt"] and all(len(row) == len(shown["table"]["columns"]) for row in shown["table"]["rows"])


def asked(arm: str, seed: int, place: int, *courses: dict[str, float]) -> SimpleNamespace:
    """As much of a chain as the charts of a task ask for; its metrics by generation."""
    rows = [{"generation": g, "metrics": metrics} for g, metrics in enumerate(courses)]
    reference: dict[str, Any] = {"metrics": {}, "band": {}}
    return SimpleNamespace(arm=arm, seed=seed, place=place, is_control=place < 0, rows=rows, reference=reference)


def test_what_judges_accept_is_drawn_beside_what_is_correct() -> None:
    import plotly.graph_objects as go

    def shares(accepted: float, gold: float, hack: float) -> dict[str, float]:
        return {"judge/accepted": accepted, "truth/task/correct": gold, "truth/task/hack": hack}

    judged = [asked("hacked", s, 0, shares(0.3, 0.3, 0.1), shares(0.5 + s / 100, 0.2, 0.4)) for s in (1, 2)]
    other = asked("mild", 1, 1, shares(0.3, 0.3, 0.1))
    plain = asked("plain", 1, 2, {"truth/task/correct": 0.3, "truth/task/hack": 0.1})
    spec_ = tasks.accepted([*judged, other, plain])
    assert spec_ is not None and go.Figure(spec_).data
    assert [note["text"] for note in spec_["layout"]["annotations"]] == ["hacked", "mild"]
    drawn = {one["name"]: one["y"] for one in spec_["data"] if one["xaxis"] == "x" and one["mode"] == "lines+markers"}
    assert drawn["accepted by the judges"] == [0.3, pytest.approx(0.515)] and drawn["correct (gold)"] == [0.3, 0.2]
    said, table = spec_["layout"]["meta"]["alt"], spec_["layout"]["meta"]["table"]
    assert "accepted by the judges rises from 0.3 to 0.515" in said and "correct (gold) falls from 0.3 to 0.2" in said
    assert table["columns"][:2] == ["arm", "share"] and ["mild", "hacks", "0.1", "–"] in table["rows"]
    assert spec_["layout"]["yaxis"]["range"] == spec_["layout"]["yaxis2"]["range"]
    assert tasks.accepted([plain]) is None


def test_the_fan_of_pass_at_k_shows_where_its_curves_cross() -> None:
    import plotly.graph_objects as go

    def passes(*shares: float) -> dict[str, float]:
        return {f"task/pass_at_{4**i}": share for i, share in enumerate(shares)} | {"task/pass_at_0": 1.0}

    sharper = [asked("sharper", s, 0, passes(0.2, 0.6, 0.9), *[passes(0.4, 0.55 + s / 100, 0.6)] * 11) for s in (1, 2)]
    single = asked("single", 1, 1, passes(0.5))
    spec_ = tasks.fan([*sharper, single])
    assert spec_ is not None and go.Figure(spec_).data
    assert [note["text"] for note in spec_["layout"]["annotations"]] == ["sharper"]
    lines = {one["name"]: one for one in spec_["data"] if one["mode"] == "lines+markers"}
    assert len(lines) == tasks.MOST_CURVES and {"generation 0", "generation 11"} <= set(lines)
    assert lines["generation 0"]["x"] == [1, 4, 16] and lines["generation 0"]["y"] == [0.2, 0.6, 0.9]
    assert lines["generation 0"]["line"]["dash"] == "dash" != lines["generation 11"]["line"]["dash"]
    areas = [one["name"] for one in spec_["data"] if one["mode"] == "lines"]
    assert areas == ["generation 0: interval", "generation 11: interval"]
    axis, meta = spec_["layout"]["xaxis"], spec_["layout"]["meta"]
    assert axis["type"] == "log" and axis["tickvals"] == [1, 4, 16] and axis["range"][0] < 0 < 1.2 < axis["range"][1]
    assert "pass@1 from 0.2 to 0.4 and pass@16 from 0.9 to 0.6; from k = 4 on generation 0 is ahead" in meta["alt"]
    assert len(meta["table"]["rows"]) == 12 and meta["table"]["columns"][2:] == ["pass@1", "pass@4", "pass@16"]
    assert tasks.fan([single]) is None and tasks.fan([asked("none", 1, 0, {}, {})]) is None
    odd = tasks.fan([asked("odd", 1, 0, {"task/pass_at_1": 0.1, "task/pass_at_2": 0.2}, {"task/pass_at_8": 0.5})])
    assert odd is not None and "have no k in common" in odd["layout"]["meta"]["alt"]


@pytest.mark.parametrize("generations", [0, 50])
def test_one_generation_and_fifty(real: Path, tmp_path: Path, generations: int) -> None:
    made = drawn(fabricate(real, tmp_path / "run", ["only"], 1, generations))
    assert len(made.data["charts"]) == len(PLAIN)
    for chart in made.data["charts"]:
        for name, axis in chart["layout"].items():
            if name.startswith("xaxis") and "generation" in axis["title"]["text"]:
                assert (
                    axis["range"][1] >= max(0.5, generations)
                    and (axis["range"][1] - axis["range"][0]) / axis["dtick"] < 12
                )
    ridges = next(chart for chart in made.data["charts"] if chart["id"] == "distribution")
    assert len(ridges["data"]) == 1 + min(8, generations + 1)
    assert ("Generation by generation: only" in made.text) == (generations > 12)  # folded where it is long
    said = "so there is no change to report" if not generations else "over generations 0 to 50"
    assert said in made.text


def test_what_is_missing_is_left_out_and_said(real: Path, tmp_path: Path) -> None:
    lost = ("theory/", "tails/", "real/perplexity", "diversity/words/distinct_2", "real/nll_by_frequency/")
    folder = fabricate(real, tmp_path / "less", ["main"], 2, 2, drop=lost)
    for scores in folder.glob("arm=*/seed=*/gen_*/eval/eval.json"):
        found = json.loads(scores.read_text())
        found["sums"].pop("reference/nll")
        scores.write_text(json.dumps(found))
    made = opened(pages.write_report(folder))
    assert [chart["id"] for chart in made.data["charts"]] == ["likelihood", "diversity", "ledger"]
    lines = [
        "Rare words: no coverage of rare words",
        "Which tokens get worse: no loss by frequency",
        "Beside exact theory: no metric of these chains has a law",
        "no histogram of the samples' losses",
        "perplexity on held-out real text (real/perplexity)",
        "distinct-2 (words) (diversity/words/distinct_2)",
    ]
    for line in lines:
        assert line in made.text
    assert not (folder / "report" / "theory.csv").exists()


def test_the_heat_map_shows_the_change_since_generation_0(real: Path) -> None:
    chains = pages.open_run(real).chains
    heat = series.frequency(chains)
    assert heat is not None and heat.buckets == [name for _, name in BUCKETS if chains[0].scored.get(name)]
    rows = read_metrics(real)
    for i, bucket in enumerate(heat.buckets):
        losses = [row["metrics"][f"real/nll_by_frequency/{bucket}"] for row in rows]
        if heat.scored[i] >= series.LEAST_TOKENS:
            assert heat.change[i] == pytest.approx(np.array(losses) - losses[0])
        else:
            assert np.isnan(heat.change[i]).all() and np.isnan(heat.loss[i]).all()


def test_ridges_are_the_histograms_of_the_files(real: Path) -> None:
    chains = pages.open_run(real).chains
    table = tables.distribution(chains)
    for g, shares in series.distribution(chains).items():
        sums = json.loads((real / f"gen_{g:03d}" / "eval" / "eval.json").read_text())["sums"]["reference/nll"]
        assert shares * sums["sequences"] == pytest.approx(np.array(sums["histogram"]))
        assert table[table.generation == g].samples.sum() == sums["sequences"]
        middle = (np.arange(len(shares)) + 0.5) * 0.25
        assert abs(shares @ middle - sums["nats"] / sums["tokens"]) < 0.5


def test_colours_can_be_told_apart_on_both_themes() -> None:
    """Contrast by WCAG 2.2; distances in Oklab under normal sight and as Machado et al. (2009) simulate its lack."""
    lacks = {
        "none": np.eye(3),
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }
    light = np.array([_linear(colour) for colour in colours.PALETTE])
    for ground in ("#ffffff", "#0d1117"):
        for colour in (*colours.PALETTE, colours.NEUTRAL):
            assert _contrast(colour, ground) >= 3, (colour, ground)
    for lack, matrix in lacks.items():
        seen = _oklab(np.clip(light @ np.array(matrix).T, 0, 1))
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=2) + np.eye(len(seen))
        assert distances[:8, :8].min() >= 0.1, lack
        assert distances.min() >= 0.06, lack
    assert len(colours.PALETTE) == len(set(colours.PALETTE)) == 12
    assert len({colours.mark(i) for i in range(72)}) == 72 and len({colours.mark(i)[0] for i in range(12)}) == 12


def test_text_of_both_themes_meets_aa() -> None:
    style = (Path(page.__file__).parent / "page.css").read_text()
    for rule in re.findall(r"color-scheme: \w+; (--bg[^}]+)}", style):
        found = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", rule))
        for ground in (found["bg"], found["panel"]):
            assert all(_contrast(found[name], ground) >= 4.5 for name in ("fg", "soft", "accent")), rule


def _linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _contrast(one: str, other: str) -> float:
    bright, dim = sorted((float(_linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _oklab(linear: np.ndarray) -> np.ndarray:
    """Ottosson (2020), from linear sRGB."""
    cones = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
             [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
    lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
           [0.0259040371, 0.7827717662, -0.8086757660]]  # fmt: skip
    return np.cbrt(linear @ np.array(cones).T) @ np.array(lab).T


# --- in a browser ------------------------------------------------------------------------------------------------------

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
READY = "() => [...document.querySelectorAll('.chart')].every((box) => box.querySelector('.main-svg'))"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
def test_charts_are_drawn_at_every_width_in_both_themes_and_for_paper(made: Path) -> None:
    from playwright.sync_api import sync_playwright

    said: list[str] = []
    asked: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        view = browser.new_page(viewport={"width": 360, "height": 800}, color_scheme="dark")
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.on("request", lambda request: asked.append(request.url))
        view.goto(made.as_uri())
        assert view.evaluate("document.documentElement.dataset.theme") == "dark"
        assert view.evaluate("document.querySelectorAll('.main-svg').length") == 0  # none is near the first screen
        for width in (360, 1600):  # test_browser.py has more
            view.set_viewport_size({"width": width, "height": 800})
            for box in view.query_selector_all(".chart"):
                box.evaluate("box => box.scrollIntoView()")
                view.wait_for_function("box => Number(box.dataset.drawn) === Math.floor(box.clientWidth)", arg=box)
                assert box.evaluate(
                    "box => box.querySelector('.main-svg').getBoundingClientRect().width <= box.clientWidth + 1"
                )
            assert view.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        ink = "getComputedStyle(document.querySelector('.xtick text')).fill"
        dark = view.evaluate(ink)
        view.focus("#theme")
        view.keyboard.press("Enter")
        assert view.evaluate("document.documentElement.dataset.theme") == "light" and view.evaluate(ink) != dark
        view.reload()
        assert view.evaluate("document.documentElement.dataset.theme") == "light"
        assert not view.evaluate(READY)
        assert len(view.pdf()) > 10_000  # printing draws them all
        assert view.evaluate(READY)
        browser.close()
    assert not said and set(asked) == {made.as_uri()}


# --- several runs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(real: Path, tmp_path: Path) -> list[Path]:
    """Runs a and b of one protocol, c of another."""
    runs = [
        fabricate(real, tmp_path / name, arms, 2, 2) for name, arms in (("a", ["x", "y"]), ("b", ["x"]), ("c", ["x"]))
    ]
    for chain in runs[2].glob("arm=*/seed=*"):
        under_protocol(chain, stride=16, tokenizer="f" * 64)
    return runs


def test_runs_are_compared_and_protocols_kept_apart(three: list[Path], lab: Lab) -> None:
    with undrawn():
        code, out, _ = lab("report", *map(str, three))
    path = three[0].parent / "compared" / "a+b+c" / "index.html"
    assert code == 0 and out == f"report: {path}\n"
    made = opened(path)
    assert [arm["name"] for arm in made.data["arms"]] == ["a/x", "a/y", "b/x", "c/x"]
    for chart in made.data["charts"]:
        drawn = {trace["legendgroup"].split(" ")[0] for trace in chart["data"]} & {"a/x", "a/y", "b/x", "c/x"}
        assert drawn <= ({"c/x"} if chart["id"].endswith("-b") else {"a/x", "a/y", "b/x"}), chart["id"]
    assert {chart["id"] for chart in made.data["charts"]} == {name + end for name, *_ in PLAIN for end in ("", "-b")}
    assert "scored under 2 protocols, whose numbers do not compare" in made.text
    groups = protocols.grouped(pages.open_runs(three).chains)
    differ = {row[0]: row[1:] for row in protocols.differing(groups)}
    assert (
        differ.keys() == {"stride", "tokenizer"}
        and differ["stride"] == ["32", "16"]
        and differ["tokenizer"][1] == "f" * 12 + "… (corpus.tokenizer bytes)"
    )
    assert all(cell in made.text for row in differ.values() for cell in row)
    summary = pd.read_csv(path.parent / "summary.csv")
    assert summary.groupby("arm").protocol.nunique().eq(1).all() and summary.protocol.nunique() == 2
    assert set(summary[summary.pairs > 0].arm) == {"a/y", "b/x"}  # paired with a/x, and nothing across protocols
    assert {file.name for file in path.parent.glob("likelihood*.png")} == {"likelihood.png", "likelihood-b.png"}
    for name in ("metrics", "reference"):
        table = pd.read_csv(path.parent / f"{name}.csv")
        assert table.groupby("arm").protocol.first().to_dict() == summary.groupby("arm").protocol.first().to_dict()
    assert not (three[0] / "report").exists()


def test_arms_of_an_experiment_under_two_protocols_are_kept_apart_too(real: Path, tmp_path: Path) -> None:
    folder = fabricate(real, tmp_path / "run", ["x", "y"], 2, 1)
    for chain in folder.glob("arm=y/seed=*"):
        under_protocol(chain, sample_tokens=1)
    opened = pages.open_run(folder)
    title, _, rows = pages.compare(opened.chains, opened.baseline)
    assert "2 protocols" in title and {row[1] for row in rows} == {"x", "y"}
    assert "protocol B" in drawn(folder).text


def test_a_run_is_compared_with_others_alone(three: list[Path], tmp_path: Path, lab: Lab) -> None:
    a, b, _ = map(str, three)
    for again in (a, f"{a}/arm=x/seed=1", f"{a}/../a"):
        code, _, err = lab("report", a, again)
        assert code == 2 and err.count("\n") == 1 and "the same run as" in err, err
    shutil.copytree(b, tmp_path / "elsewhere" / "a")
    code, _, err = lab("report", a, str(tmp_path / "elsewhere" / "a"))
    assert code == 2 and err.count("\n") == 1 and "has the name of" in err
    for option in ("--out", "--command"):
        code, _, err = lab("report", a, b, option, str(tmp_path / "kept"))
        assert code == 2 and err.count("\n") == 1 and f"{option}: keeps the tables of one run" in err
    assert lab("report", a, str(tmp_path / "nothing"))[0] == 2


# --- where it is written -------------------------------------------------------------------------------------------------


def test_a_report_that_cannot_be_written_is_said_in_a_line(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fabricate(real, tmp_path / "run", ["main"], 1, 0)
    (folder / "report").write_text("in the way")
    assert pages.attempt_report(folder, Console()) is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"note: no report ({folder}/report: cannot be written" in said
    (folder / "report").unlink()
    with undrawn():
        assert pages.attempt_report(folder, quiet()) == run_root(folder) / "report" / "index.html"
