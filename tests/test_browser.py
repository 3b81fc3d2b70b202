"""The report in a real browser: headless Chromium reads the page from disk, with no network and no console error."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import fragile_config, undrawn
from report_runs import fabricate, under_protocol
from untrusted_runs import MARKS, reseal

from collapselab.chain.run import run
from collapselab.report.pages import write_report
from collapselab.store.folders import read_json

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright drives the browser; install collapselab[dev]"
)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = (360, 800, 1600)
GENERATIONS = 3
MARKUP = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>\"></script><script>window.owned = 1</script>"
RIGHT_TO_LEFT = "שלום עולם، مرحبا بالعالم"
NASTY = [
    MARKUP,
    "w" * (1 << 20),
    RIGHT_TO_LEFT,
    f"bidi {MARKS} end",
    "\x1b[2J\x1b[31mred",
    "a\x00b",
    "\ud800",
    "{{ 7 * 7 }}",
    "&lt;b&gt;",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium or Chrome here: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of two arms of three generations, one of them judged: as a stranger gives them away; and as they are, beside two
    arms of two seeds under another protocol, of which one is shorter and one never writes a rare word in its first seed."""
    folder = tmp_path_factory.mktemp("runs")
    for arm, start in (("half", 0.5), ("none", 0.0)):
        changes = {"arm": arm, "mixing__start": start, "generations": GENERATIONS - 1, "corpus__tokenizer": "bpe"}
        changes |= {"judging__judges": ["random"] if arm == "half" else [], "judging__second": 0}
        changes |= {"mixing__tokens": 4096, "sampling__batch_size": 128}
        run(fragile_config(folder, retain="all", training__checkpoint_steps=None, **changes))
    real, hostile = folder / "test", folder / "hostile"
    known_truth(real / "arm=half" / "seed=1" / "gen_002" / "judged" / "examples.json")
    shutil.copytree(real, hostile)
    spoil(hostile)
    fabricate(real / "arm=half" / "seed=1", real, ["other", "short"], 2, GENERATIONS - 1)
    for chain in (*real.glob("arm=other/seed=*"), *real.glob("arm=short/seed=*")):
        under_protocol(chain, stride=16)
    rows = real / "arm=short" / "seed=1" / "metrics.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:2]))
    for file in real.glob("arm=other/seed=1/gen_*/eval/tail_words.bin"):
        nothing = bytes(file.stat().st_size)
        file.unlink()  # a hard link
        file.write_bytes(nothing)
    with undrawn():  # pages hold no PNG
        return {"real": write_report(real), "hostile": write_report(hostile)}


def known_truth(file: Path) -> None:
    """Examples as a task has them: with classes, and some that nobody judged."""
    kinds = ["correct", "hack", "wrong", "unreadable"]
    groups = [example("accepted", kind, 4 * i + 1, 1.0, 3) for i, kind in enumerate(kinds)]
    groups += [example("rejected", "correct", 80, 0.25, 2), example("abstained", "wrong", 10, None, 1)]
    file.write_text(json.dumps({"groups": groups}))


def example(verdict: str, kind: str | None, count: int, score: float | None, shown: int) -> dict[str, Any]:
    one = {"number": 1, "prompt": "2 + 2 =", "text": f" {kind} {verdict}", "score": score}
    return {"verdict": verdict, "class": kind, "count": count, "examples": [one] * shown}


def spoil(root: Path) -> None:
    """Markup, huge words, right-to-left text and control characters wherever a report takes text from."""
    for file in root.rglob("gen_*/eval/explorer.json"):
        saved = read_json(file)
        for p, one in enumerate(saved["prompts"]):
            one["pieces"] = [
                NASTY[i % len(NASTY)][: 1000 if p or i > len(NASTY) else None] for i in range(len(one["ids"]))
            ]
        file.write_text(json.dumps(saved))
    for file in root.rglob("gen_*/eval/examples.json"):
        file.write_text(json.dumps(NASTY))
    for file in root.rglob("judged/examples.json"):
        saved = read_json(file)
        for group in saved["groups"]:
            some = {"number": 1, "score": -1e150}
            group["examples"] = [some | {"prompt": text[:1000], "text": text} for text in NASTY]
        file.write_text(json.dumps(saved))
    for file in root.rglob("reference/tails.json"):
        saved = read_json(file)
        rare = sorted(word for word, count in saved["words"].items() if count <= 20)
        for old, new in zip(rare, NASTY, strict=False):
            saved["words"][new] = saved["words"].pop(old)
        file.write_text(json.dumps(saved))
    for file in root.rglob("environment.json"):
        file.write_text(json.dumps(read_json(file) | {"note": MARKUP + RIGHT_TO_LEFT, "device": MARKUP}))
    for file in root.rglob("gen_*/eval/eval.json"):
        saved = read_json(file)
        saved["protocol"] |= {MARKUP: MARKUP, "huge": "p" * 5000}
        file.write_text(json.dumps(saved))
    reseal(root)


class Opened:
    """A page that was opened, and what it did that it should not have."""

    def __init__(self, browser: Any, path: Path, width: int, theme: str = "light"):
        self.wrong: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, offline=True)
        self.page = context.new_page()
        self.page.set_default_timeout(10_000)
        self.page.on("console", lambda said: self.wrong.append(f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.asked(request.url, path.as_uri()))
        self.page.goto(path.as_uri())

    def asked(self, url: str, own: str) -> None:
        if url != own and not url.startswith(("data:", "blob:")):
            self.wrong.append(f"request: {url}")

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())

    def all(self, selector: str) -> list[str]:
        return list(self.page.locator(selector).all_inner_texts())

    def reset(self) -> Any:
        """The page as it was when it was opened; two arms at the last generation."""
        self.page.locator("#x-group").select_option("0")
        self.page.locator("[name=x-mode][value=arms]").check()
        self.page.locator("[name=x-colour][value=surprise]").check()
        self.page.locator("#x-prompt").select_option("0")
        self.page.locator("#x-generation").fill(str(GENERATIONS - 1))
        self.page.locator("#x-search").fill("")
        return self.page

    def check(self) -> None:
        """Nothing was said, asked or run, and the page is not wider than its window."""
        assert self.wrong == []
        assert self.page.evaluate("window.owned") is None
        wide, window = self.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= window


class Pages:
    """The real report, opened light, and the hostile one, opened dark, both on a phone; given another width where a test
    wants that. A page is loaded once: a second a time."""

    def __init__(self, browser: Any, reports: dict[str, Path]):
        self.browser, self.reports = browser, reports
        self.found: dict[str, Opened] = {}

    def __getitem__(self, wanted: tuple[str, int]) -> Opened:
        name, width = wanted
        if name not in self.found:
            first = (360, "light" if name == "real" else "dark")
            self.found[name] = Opened(self.browser, self.reports[name], *first)
        one = self.found[name]
        if one.page.viewport_size["width"] != width:
            one.page.set_viewport_size({"width": width, "height": 900})
        return one


@pytest.fixture(scope="module")
def opened(browser: Any, reports: dict[str, Path]) -> Iterator[Pages]:
    found = Pages(browser, reports)
    yield found
    for one in found.found.values():
        one.page.context.close()


CONTRAST = """() => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const seen = new Map();
  const rgba = (colour) => {
    if (!seen.has(colour)) {
      context.clearRect(0, 0, 1, 1);
      context.fillStyle = colour;
      context.fillRect(0, 0, 1, 1);
      seen.set(colour, [...context.getImageData(0, 0, 1, 1).data]);
    }
    return seen.get(colour);
  };
  const light = ([r, g, b]) => {
    const part = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const grounds = new Map([[null, [255, 255, 255, 255]]]);
  const behind = (node) => {
    if (!grounds.has(node)) {
      const colour = rgba(getComputedStyle(node).backgroundColor);
      // Half transparent: not used on this page.
      grounds.set(node, colour[3] === 255 ? colour : colour[3] ? null : behind(node.parentElement));
    }
    return grounds.get(node);
  };
  const poor = [];
  let count = 0;
  for (const node of document.body.querySelectorAll("*")) {
    if (!node.checkVisibility() || node.closest("svg, :disabled, script, option")) continue;
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())) continue;
    count += 1;
    const under = behind(node);
    const [a, b] = [light(rgba(getComputedStyle(node).color)), under ? light(under) : NaN];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (!(ratio >= 4.5)) poor.push(`${node.tagName}.${node.className} ${ratio.toFixed(2)} ${node.textContent.slice(0, 40)}`);
  }
  return [count, [...new Set(poor)]];
}"""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["real", "hostile"])
def test_the_page_opens_offline_fits_and_works_without_errors(opened: Pages, name: str, width: int) -> None:
    one = opened[name, width]
    assert one.page.locator("#x-columns .x-block").count() == 2
    one.page.locator(".chart").first.scroll_into_view_if_needed()
    one.page.locator(".chart svg").first.wait_for()
    one.check()
    theme = "light" if name == "real" else "dark"
    assert one.page.evaluate("document.documentElement.dataset.theme") == theme

    page, last = one.page, str(GENERATIONS - 1)
    page.locator("#x-generation").press("ArrowLeft")
    assert one.text("#x-now") == str(GENERATIONS - 2)
    page.locator("#x-next").click()
    assert one.text("#x-now") == last
    for colour, entries in (("frequency", 6), ("none", 0), ("surprise", 6)):
        page.locator(f"[name=x-colour][value={colour}]").check()
        assert page.locator("#x-legend li").count() == entries
    every = one.text("#x-page")
    page.locator("#x-search").fill("e")
    assert one.text("#x-page") != every and page.locator(".x-hit").count() > 0
    page.locator("#x-search").fill("")
    assert one.text("#x-page") == every and page.locator(".x-hit").count() == 0
    before = page.evaluate("document.documentElement.dataset.theme")
    for now in ({"light", "dark"} - {before}, {before}):
        page.locator("#theme").click()
        assert {page.evaluate("document.documentElement.dataset.theme")} == now
    one.check()


def test_the_slider_moves_by_mouse_and_by_keyboard(opened: Pages) -> None:
    one = opened["real", 1600]
    one.reset().locator("#x-generation").scroll_into_view_if_needed()
    slider = one.page.locator("#x-generation")
    before = one.all("#x-columns .x-text")
    assert one.text("#x-now") == str(GENERATIONS - 1) and slider.get_attribute("aria-valuetext") == "generation 2"
    box = slider.bounding_box()
    one.page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
    assert one.text("#x-now") == "0" and one.page.locator("#x-prev").is_disabled()
    first = one.all("#x-columns .x-text")
    assert first[0] == first[1] != before[0]  # one generation 0
    slider.press("ArrowRight")
    assert one.text("#x-now") == "1" and "generation 1" in one.text("#x-columns h4 >> nth=0")
    slider.press("End")
    assert one.all("#x-columns .x-text") == before
    one.page.locator("#x-prev").click()
    assert one.text("#x-now") == "1"
    one.page.locator("#x-next").click()
    one.check()


def test_the_slider_shows_what_the_files_say(opened: Pages, reports: dict[str, Path]) -> None:
    one, root = opened["real", 1600], reports["real"].parents[1]
    for g in (0, 2):
        one.page.locator("#x-generation").fill(str(g))
        for arm, place in (("half", 0), ("none", 1)):
            saved = read_json(root / f"arm={arm}" / "seed=1" / f"gen_{g:03d}" / "eval" / "explorer.json")
            first, head = saved["prompts"][0], saved["prompt_length"]
            body = one.page.locator("#x-columns .x-text").nth(place)
            shown = "".join(body.locator(".x-token").evaluate_all("found => found.map((token) => token.textContent)"))
            written = "".join(first["pieces"][head:])
            assert [c for c in shown if c.isprintable()] == [c for c in written if c.isprintable()]
            assert "".join(first["pieces"][:head]).strip() in body.text_content()
            told = float(one.text(f"#x-columns h4 >> nth={place}").split("· ")[1].split()[0])
            assert told == pytest.approx(sum(first["nll"]) / len(first["nll"]), abs=0.011)


def test_tokens_tell_their_numbers_to_the_mouse_and_to_the_keyboard(opened: Pages, reports: dict[str, Path]) -> None:
    one, page = opened["real", 1600], opened["real", 1600].reset()
    page.locator("#x-columns .x-text >> nth=0 >> .x-token >> nth=1").hover()
    told = one.text("#x-panel")
    assert (
        "nats" in told and "bits" in told and "in real text" in told and "2 of" in told and "half, generation 2" in told
    )
    page.locator("#x-columns .x-token[tabindex='0']").focus()
    assert "1 of" in one.text("#x-panel") and "half" in one.text("#x-panel")
    page.keyboard.press("ArrowRight")
    assert one.text("#x-panel") == told
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "x-panel"
    assert page.locator("#x-columns [tabindex='0']").count() == 1
    page.keyboard.press("ArrowDown")
    assert "2 of" in one.text("#x-panel") and "none" in one.text("#x-panel")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    assert "half" in one.text("#x-panel")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("End")
    last = page.locator("#x-columns .x-text >> nth=0 >> .x-token").count()
    assert f"{last} of {last}" in one.text("#x-panel")
    one.check()


def test_the_switch_colours_by_surprise_by_frequency_or_not_at_all(opened: Pages, reports: dict[str, Path]) -> None:
    one = opened["real", 1600]
    one.reset()
    tints = "found => found.map((token) => getComputedStyle(token).backgroundColor)"
    tokens, shown = one.page.locator("#x-columns .x-token"), {}
    for colour in ("surprise", "frequency", "none"):
        one.page.locator(f"[name=x-colour][value={colour}]").check()
        shown[colour] = tokens.evaluate_all(tints)
        assert one.page.locator("#x-legend li").count() == (0 if colour == "none" else 6)
    assert len(set(shown["none"])) == 1 and len({*map(tuple, shown.values())}) == 3
    one.page.locator("[name=x-colour][value=surprise]").check()
    # The more surprising, the deeper.
    root = reports["real"].parents[1]
    saved = read_json(root / "arm=half" / "seed=1" / "gen_002" / "eval" / "explorer.json")["prompts"][0]
    joined, total = [], 0.0
    for piece, nats in zip(saved["pieces"][-len(saved["nll"]) :], saved["nll"], strict=True):
        total += nats
        if piece:
            joined.append(total)
            total = 0.0
    levels = one.page.locator("#x-columns .x-text >> nth=0 >> .x-token").evaluate_all(
        "found => found.map((token) => Number(token.dataset.level))"
    )
    assert levels == [sum(nats >= least for least in (0.5, 1.5, 3, 5, 8)) for nats in joined]
    one.check()


def test_search_filters_rare_words_and_marks_them_in_the_samples(opened: Pages, reports: dict[str, Path]) -> None:
    one, root = opened["real", 1600], reports["real"].parents[1]
    one.reset()
    counts = read_json(next(root.glob("**/reference/tails.json")))["words"]
    rare = {word: count for word, count in counts.items() if count <= 20}
    assert f"of {len(rare):,}" in one.text("#x-page") and one.page.locator("#x-words tbody tr").count() == 20
    one.page.locator("#x-search").fill("  TH ")
    wanted = sorted(word for word in rare if "th" in word)
    assert one.text("#x-page").endswith(f"of {len(wanted):,}") and f"{len(wanted):,} rare words" in one.text("#x-found")
    shown = []
    for _ in range(-(-len(wanted) // 20)):
        shown += one.all("#x-words tbody th")
        if one.page.locator("#x-on").is_enabled():
            one.page.locator("#x-on").click()
    assert sorted(shown) == wanted
    text = one.page.locator("#x-columns .x-text").evaluate_all(
        "found => found.map((body) => [...body.querySelectorAll('.x-token')].map((token) => token.textContent).join(''))"
    )
    places = sum(one_text.lower().count("th") for one_text in text)
    assert one.text("#x-found").startswith(f"{places} place{'' if places == 1 else 's'} in") and (
        one.page.locator(".x-hit").count() > 0
    ) == (places > 0)
    one.page.locator("#x-words thead button >> nth=1").click()
    cells = [int(cell) for cell in one.all("#x-words tbody td:nth-child(2)")]
    assert cells == sorted(cells) and one.page.locator("#x-words [aria-sort=ascending]").count() == 1
    one.page.locator("#x-words thead button >> nth=1").press("Enter")
    cells = [int(cell) for cell in one.all("#x-words tbody td:nth-child(2)")]
    assert cells == sorted(cells, reverse=True)
    everything = "\n".join(text).lower()
    once = next(
        part
        for n in range(2, 80)
        for part in [everything.strip()[:n]]
        if everything.count(part) == 1 and part.strip() == part
    )
    one.page.locator("#x-search").fill(once)
    assert one.text("#x-found").startswith("1 place in the text shown, ")
    one.page.locator("#x-search").fill(sorted(rare, key=len)[-1])
    assert one.text("#x-found").endswith(", 1 rare word")
    one.page.locator("#x-search").fill("no such word")
    assert one.text("#x-page") == "0 to 0 of 0" and one.page.locator("#x-on").is_disabled()
    one.page.locator("#x-search").fill("")
    one.check()


@pytest.mark.parametrize("name, width", [("real", 1600), ("hostile", 360)])
def test_text_has_contrast_enough_in_both_themes(opened: Pages, name: str, width: int) -> None:
    one = opened[name, width]
    one.page.locator("#x-search").fill("e")
    for _ in range(2):
        for colour in ("surprise", "frequency"):
            one.page.locator(f"[name=x-colour][value={colour}]").check()
            count, poor = one.page.evaluate(CONTRAST)
            assert poor == [] and count > 100
            levels = one.page.locator(".x-token").evaluate_all(
                "found => [...new Set(found.map((token) => token.dataset.level))]"
            )
            assert len(levels) == 6  # the legend has every one of them
        before = one.page.evaluate("document.documentElement.dataset.theme")
        one.page.locator("#theme").click()
        assert {before, one.page.evaluate("document.documentElement.dataset.theme")} == {"light", "dark"}
    one.page.locator("#x-search").fill("")
    one.check()


def test_one_arm_is_shown_growing_from_generation_to_generation(opened: Pages) -> None:
    one = opened["real", 360]
    one.reset().locator("[name=x-mode][value=generations]").check()
    one.page.locator("#x-arm").select_option("1")
    heads = one.all("#x-columns h4")
    assert [head.split("\n")[0] for head in heads] == [f"generation {g}" for g in range(GENERATIONS)]
    one.page.locator("#x-generation").press("ArrowLeft")
    assert one.page.locator("#x-columns .x-block").count() == GENERATIONS - 1 and one.text("#x-now") == "0 to 1"
    one.page.locator("#x-prompt").select_option("3")
    one.page.locator("[name=x-mode][value=arms]").check()
    assert one.page.locator("#x-columns .x-block").count() == 2 and one.text("#x-now") == "1"
    one.page.locator("[name=x-mode][value=generations]").check()
    assert one.text("#x-now") == "0 to 1"
    one.reset()
    one.check()


def test_what_judges_let_through_is_shown_by_verdict_and_class(opened: Pages, reports: dict[str, Path]) -> None:
    one, root = opened["real", 360], reports["real"].parents[1]
    arms, generations = one.page.locator("#x-judged-arm"), one.page.locator("#x-judged-generation")
    assert not arms.is_visible()  # one arm has judges
    assert one.all("#x-judged-generation option") == ["0", "1", "2"] and generations.input_value() == "2"
    assert one.text("#x-judged-said") == "half, seed 1, generation 2"
    titles = [" ".join(title.split()) for title in one.all("#x-judged h4")]
    assert titles[0] == "let through 28 of 118 samples · 23.7 %" and titles[2] == "no verdict 10 of 118 samples · 8.5 %"
    heads = [" ".join(head.split()) for head in one.all("#x-judged h5")]
    error = " · an error of the judges"
    assert heads == [
        "correct 1",
        f"hack 5{error}",
        f"wrong 9{error}",
        f"unreadable 13{error}",
        f"correct 80{error}",
        "wrong 10",
    ]
    items = [" ".join(item.split()) for item in one.all("#x-judged li")]
    assert len(items) == 15 and items[0] == "score 1 2 + 2 = correct accepted"
    assert items[-3:] == ["score 0.25 2 + 2 = correct rejected"] * 2 + ["no score 2 + 2 = wrong abstained"]
    generations.focus()
    one.page.keyboard.press("ArrowUp")
    assert generations.input_value() == "1" and one.text("#x-judged-said") == "half, seed 1, generation 1"
    assert one.page.evaluate("document.activeElement.id") == "x-judged-generation"
    saved = read_json(root / "arm=half" / "seed=1" / "gen_001" / "judged" / "examples.json")["groups"]
    titles = [title.split("\n")[0] for title in one.all("#x-judged h4")]
    assert titles == ["let through", "rejected"] and one.page.locator("#x-judged h5").count() == 0  # text has no truth
    written = [each["prompt"] + each["text"] for group in saved for each in group["examples"]]
    shown = one.page.locator("#x-judged .x-text").evaluate_all("found => found.map((one) => one.textContent)")
    letters = [["".join(filter(str.isalnum, text)) for text in texts] for texts in (shown, written)]
    assert letters[0] == letters[1] and min(map(len, letters[0])) > 20
    one.page.locator("#x-group").select_option("1")
    assert not one.page.locator("#x-judged").is_visible()  # copies of its scores alone
    one.reset()
    assert one.page.locator("#x-judged").is_visible() and one.text("#x-judged-said").endswith("generation 2")
    one.check()


def test_arms_of_two_protocols_are_never_side_by_side(opened: Pages) -> None:
    one, beginning = opened["real", 360], "other prompts, tokens or another measure of surprise"
    one.reset()
    assert one.all("#x-group option") == ["protocol A: half, none", "protocol B: other, short"]
    assert "Not shown beside these: other, short (protocol B). " in one.text("#x-why") and beginning in one.text(
        "#x-why"
    )
    assert "are never side by side" in one.text("#explorer > .caption")
    one.page.locator("#x-group").select_option("1")
    assert [head.split("\n")[0] for head in one.all("#x-columns h4")] == ["other", "short"]
    assert one.text("#x-now") == "1"  # the last generation that both have
    one.page.locator("#x-next").click()
    assert "ends at generation 1" in one.text("#x-columns .x-text >> nth=1")
    assert "Not shown beside these: half, none (protocol A). " in one.text("#x-why")
    assert "protocol B" in one.text("#x-tails-caption") and one.all("#x-bars .x-arm") == ["other", "short"]
    one.reset()
    assert [head.split("\n")[0] for head in one.all("#x-columns h4")] == ["half", "none"]
    one.check()


def test_a_rare_word_says_which_seed_and_fits_a_phone_and_paper(opened: Pages) -> None:
    one = opened["real", 360]
    one.page.locator("#x-group").select_option("1")
    cells = [" ".join(cell.split()) for cell in one.all("#x-words tbody td:nth-child(3)")]
    assert cells and all(re.fullmatch("other: never in seed 1 at generation 2: [01] of 2 seeds", c) for c in cells)
    cells = [" ".join(cell.split()) for cell in one.all("#x-words tbody td:nth-child(4)")]
    said = "short: (never|still|generation 0) in seed 1 at generation 1: [0-2] of 2 seeds"
    assert cells and all(re.fullmatch(said, cell) for cell in cells)
    cut = """() => [...document.querySelectorAll("#x-words :is(th, td)")].filter((cell) => cell.checkVisibility() &&
      cell.getBoundingClientRect().right > document.documentElement.clientWidth).length"""
    assert one.page.evaluate(cut) == 0 and not one.page.locator("#x-cue").is_visible()
    one.page.emulate_media(media="print")
    one.page.set_viewport_size({"width": 720, "height": 900})  # A4 without its margins
    assert one.page.evaluate(cut) == 0 and one.page.locator("#x-words tbody td").first.is_visible()
    exact = "getComputedStyle(document.querySelector('#explorer .x-dot')).printColorAdjust"
    assert one.page.evaluate(exact) == "exact"
    one.page.emulate_media(media="screen")
    assert not one.page.locator("#x-cue").is_visible()
    style = one.page.add_style_tag(content="#explorer .x-words td { min-width: 30rem; }")  # as wide as many arms are
    one.page.set_viewport_size({"width": 800, "height": 900})
    one.page.locator("#x-cue").wait_for()
    style.evaluate("node => node.remove()")
    one.reset()
    one.check()


def test_print_shows_the_state_in_light(opened: Pages) -> None:
    one = opened["real", 800]
    one.page.locator("#theme").click()
    one.page.emulate_media(media="print")
    assert (
        not one.page.locator("#x-text .x-controls").is_visible()
        and one.page.locator("#x-columns .x-token").first.is_visible()
    )
    assert one.page.evaluate("document.documentElement.dataset.theme") == "dark"
    light, poor = one.page.evaluate("getComputedStyle(document.body).backgroundColor"), one.page.evaluate(CONTRAST)[1]
    assert light == "rgb(255, 255, 255)" and poor == []
    one.page.emulate_media(media="screen")
    one.page.locator("#theme").click()
    one.check()


def test_everything_is_reached_and_seen_by_the_keyboard_alone(opened: Pages) -> None:
    one = opened["real", 800]
    one.page.locator("body").evaluate("body => { document.activeElement.blur(); window.scrollTo(0, 0); }")
    one.page.mouse.click(1, 1)  # from where Tab goes on
    wanted = one.page.evaluate(
        """() => [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")]
          .filter((node) => node.checkVisibility() && !node.disabled && !node.closest("svg, .modebar"))
          .filter((node) => node.type !== "radio" || node.checked).length"""
    )
    reached, hidden = set(), []
    for _ in range(2 * wanted + 20):
        one.page.keyboard.press("Tab")
        place, said, visible = one.page.evaluate(
            """() => { const at = document.activeElement; const style = getComputedStyle(at);
              at.dataset.reached ??= window.reached = (window.reached ?? 0) + 1;
              return [Number(at.dataset.reached), at.cloneNode().outerHTML.slice(0, 80),
                style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1]; }"""
        )
        if said.startswith("<body") or place in reached:
            break
        reached.add(place)
        if not visible:
            hidden.append(said)
    assert hidden == [] and len(reached) >= wanted > 15
    one.check()


def test_every_chart_and_picture_says_in_words_what_it_shows(opened: Pages) -> None:
    for one in (opened["real", 800], opened["hostile", 360]):
        said = one.page.evaluate(
            """() => [...document.querySelectorAll("img, .chart, .x-bar, [role=img]")].map((node) =>
              (node.alt ?? "") || node.getAttribute("aria-label") || "")"""
        )
        assert len(said) > 3 and all(len(words) > 15 for words in said)
        unlabelled = one.page.evaluate(
            """() => [...document.querySelectorAll("#explorer :is(input, select, button)")].filter((node) =>
              !node.labels?.length && !node.getAttribute("aria-label") && !node.textContent.trim()).map((node) => node.outerHTML)"""
        )
        assert unlabelled == []


def test_strange_text_is_shown_and_never_obeyed(opened: Pages) -> None:
    for width in WIDTHS:
        one = opened["hostile", width]
        for g in range(GENERATIONS):
            one.page.locator("#x-generation").fill(str(g))
        one.page.locator("#x-search").fill("<script>")
        assert "<script>window.owned" in one.page.locator("#x-words tbody").inner_text()
        one.page.locator("#x-search").fill("")
        assert one.page.evaluate("document.querySelectorAll('script').length") == 4  # data and three of the page's own
        assert one.page.evaluate("document.querySelectorAll('#explorer :is(script, img, b)').length") == 0
        body = one.page.locator("#x-columns .x-text").first.text_content()
        assert "<script>window.owned = 1</script>" in body and RIGHT_TO_LEFT in body and "{{ 7 * 7 }}" in body
        for details in one.page.locator("#explorer .x-samples, #explorer .x-samples details >> nth=0").all():
            details.evaluate("node => { node.open = true; }")
        one.check()
    assert not set(MARKS + "\x00\x1b") & set(one.page.evaluate("document.body.textContent"))


def test_any_metric_is_chosen_by_the_keyboard(opened: Pages) -> None:
    one = opened["real", 800]
    select = one.page.locator("select.any").first
    box = one.page.locator(".chart.any").first
    select.scroll_into_view_if_needed()
    box.locator("svg").first.wait_for()
    for _ in range(2):
        before = select.input_value()
        select.press("ArrowDown")
        key = select.input_value()
        assert key != before and box.get_attribute("aria-label").startswith(key)
        assert one.page.locator(".chart.any + [role=status]").first.inner_text().startswith(key)
        assert key in box.locator(".annotation-text").first.text_content()
    one.check()
