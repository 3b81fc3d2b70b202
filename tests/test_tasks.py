"""Tasks: problems, readers of answers and exact checkers, each against plain Python on the text."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import small_config
from hypothesis import given
from hypothesis import strategies as st

from collapselab.chain.run import run
from collapselab.config import CorpusConfig
from collapselab.config.corpus import LANGUAGES
from collapselab.config.keys import from_tree
from collapselab.corpus.prepared import prepare
from collapselab.evaluation.truth import written_documents
from collapselab.languages import Addition, Facts, Logic, Modular, language_of
from collapselab.metrics.truth import answer_sums, answer_values
from collapselab.store.folders import read_json
from collapselab.store.layout import Chain
from collapselab.tasks.tasks import CLASSES, CORRECT, HACK, TASKS, UNREADABLE, WRONG, Task, task_of


def corpus(source: str, **keys: Any) -> CorpusConfig:
    return from_tree(CorpusConfig, {"source": source, source: keys})


def task(source: str, **keys: Any) -> Task:
    found = task_of(corpus(source, **keys))
    assert found is not None
    return found


def drawn(source: str, count: int, **keys: Any) -> list[str]:
    language = language_of(corpus(source, **keys))
    assert language is not None
    return list(language.documents(count, "train"))


def test_a_source_of_text_is_a_task_or_none() -> None:
    assert set(TASKS) - {"gym"} == {"addition", "modular", "facts", "logic", "nim", "tic_tac_toe"} < set(LANGUAGES)
    assert task_of(CorpusConfig()) is None and task_of(CorpusConfig(source="planted")) is None
    assert CLASSES == ("wrong", "correct", "hack") and [CLASSES[k] for k in (WRONG, CORRECT, HACK)] == list(CLASSES)


# --- addition ---------------------------------------------------------------------------------------------------------

SUM = re.compile(r"([\d ]+) \+ ([\d ]+) = ([\d ]+?)((?: \.)+)(?: \? (?:right|wrong))?")


def by_hand(text: str, backwards: bool) -> tuple[str, int, int]:
    """(answer, class, carries) of a well-formed sum, as at school."""
    match = SUM.fullmatch(text)
    assert match, text
    first, second, given = (part.replace(" ", "") for part in match.groups()[:3])
    given = given[::-1] if backwards else given
    total = int(first) + int(second)
    ends_in_0 = total // 10 * 10 if total % 10 else total + 10
    ends_in_0 = 0 if ends_in_0 == 2 * 10 ** len(first) else ends_in_0
    carry = carries = 0
    for a, b in zip(first[::-1], second[::-1], strict=True):
        carry = int(int(a) + int(b) + carry > 9)
        carries += carry
    kind = CORRECT if int(given) == total else HACK if int(given) == ends_in_0 else WRONG
    return given, kind, carries


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("digits", [1, 2, 8, 25])
def test_sums_are_read_and_checked_as_at_school(digits: int, backwards: bool) -> None:
    keys = {"digits": digits, "reversed": backwards, "correct": 0.4, "hack": 0.3, "verification": 0.3}
    texts, adding = drawn("addition", 600, **keys), task("addition", **keys)
    wanted = [by_hand(text, backwards) for text in texts]
    assert {kind for _, kind, _ in wanted} == {WRONG, CORRECT, HACK}
    assert adding.answers(texts) == [answer for answer, _, _ in wanted]
    assert adding.classes(texts).tolist() == [kind for _, kind, _ in wanted]
    assert adding.difficulty(texts).tolist() == [carries for _, _, carries in wanted]
    assert adding.classes(texts).dtype == np.int8 and adding.difficulty(texts).dtype == np.int64
    assert adding.prompts(texts) == [text[: text.index("=") + 1] for text in texts]


def test_a_sum_and_its_parts_stand_where_the_page_says() -> None:
    assert Addition().document(47, 85, 132) == "4 7 + 8 5 = 1 3 2 . . ."
    assert Addition().document(9, 31, 40, True) == "0 9 + 3 1 = 4 0 . . ? right"
    assert Addition().document(9, 31, 0, False) == "0 9 + 3 1 = 0 . . . ? wrong"
    assert Addition(digits=3, reversed=True).document(47, 85, 132) == "0 4 7 + 0 8 5 = 2 3 1 . . . ."
    assert [Addition().hack_of(*pair) for pair in ((47, 85), (9, 31), (0, 0), (99, 91), (3, 4))] == [130, 50, 10, 0, 0]
    adding = task("addition")
    assert adding.prompt_words == 6 and Addition().field == 4  # with the separator 7 tokens, and at most 4 new ones
    asked = "9 9 + 0 1 ="
    for answer, kind in (("1 0 0 .", CORRECT), ("1 1 0 .", HACK), ("9 9 . .", WRONG), ("9 9 9 .", WRONG)):
        assert (
            adding.classes([f"{asked} {answer}", f"{asked} {answer} ? wrong", f"{asked} {answer} = ."]).tolist()
            == [kind] * 3
        )


MALFORMED = [
    *("1 2 + 3 4 = 4 6", "1 2 + 3 4 = . . . .", "1 2 + 3 4 =", "1 2 + 3 4 = 4 . 6 .", "1 2 + 3 4 = 4 6 . +"),
    *(
        "1 2 + 3 4 = 0 4 6 .",
        "1 2 + 3 4 = 4 6 5 5 . .",
        "1 2 + 3 4 = 46 . . .",
        "1 2 + 3 4 = ٤ 6 . .",
        "1 2 + 3 4 = - 4 .",
    ),
    "1 2 + 3 4 = 4  6 . .",
]
NO_PROBLEM = [
    "",
    ".",
    "1 2 + 3 = 1 5 . .",
    "1 2 = 3 4 + 4 6 .",
    "12 + 34 = 4 6 . .",
    "1 + + 3 4 = 4 6 .",
    "\n\n",
    "1 2 + 3",
]


def test_an_answer_that_cannot_be_read_is_neither_right_nor_wrong() -> None:
    adding = task("addition")
    for texts, difficulty in ((MALFORMED, 0), (NO_PROBLEM, -1)):
        assert adding.answers(texts) == [""] * len(texts)
        assert adding.classes(texts).tolist() == [UNREADABLE] * len(texts)
        assert adding.difficulty(texts).tolist() == [difficulty] * len(texts)
    assert adding.classes(["1 2 + 3 4 = 4 6 . ."]).tolist() == [CORRECT]
    assert adding.classes([]).shape == (0,)
    backwards = task("addition", reversed=True)
    texts = ["1 2 + 3 4 = 6 4 . .", "1 2 + 3 8 = 0 5 . .", "1 2 + 3 4 = 6 4 0 .", "0 0 + 0 0 = 0 . . ."]
    assert backwards.answers(texts) == ["46", "50", "", "0"]


WORDS = st.sampled_from([*"0123456789+=.?", "right", "wrong", "", "10"])


@given(st.integers(1, 4), st.booleans(), st.data())
def test_an_answer_is_read_back_and_one_other_word_never_passes_for_it(
    digits: int, backwards: bool, data: st.DataObject
) -> None:
    language = Addition(digits=digits, reversed=backwards, correct=0.5, hack=0.1, verification=0.5)
    numbers = st.integers(0, 10**digits - 1)
    first, second, answer = data.draw(numbers), data.draw(numbers), data.draw(st.integers(0, 2 * 10**digits - 1))
    text = language.document(first, second, answer, data.draw(st.sampled_from([None, answer == first + second])))
    found = language.read(text)
    assert found and found[:3] == (first, second, answer)
    assert np.isfinite(language.log_probabilities([text])).all()
    words = text.split(" ")
    words[data.draw(st.integers(0, len(words) - 1))] = data.draw(WORDS)
    changed = " ".join(words)
    again = language.read(changed)
    if again and again.answer is not None:  # then the text is what the language writes, up to its last two words
        head = language.document(*again[:3]).split(" ")[:-2] if again.answer < language.numbers else words[:-2]
        assert words[:-2] == head
    else:
        assert language.log_probabilities([changed]).tolist() == [-math.inf]


def test_probabilities_of_sums_by_hand() -> None:
    language = Addition(correct=0.5, hack=0.2, verification=0.4)
    others, asked = 198, "4 7 + 8 5 = "
    p = {
        "1 3 2 . . .": 0.6 * 0.5,
        "1 3 0 . . .": 0.6 * 0.2,
        "7 . . . . .": 0.6 * 0.3 / others,
        "1 3 2 . ? right": 0.2,
        "1 3 0 . ? wrong": 0.2 * 0.2 / 0.5,
        "7 . . . ? wrong": 0.2 * 0.3 / 0.5 / others,
    }
    found = np.exp(language.log_probabilities([asked + text for text in p]))
    assert found * 1e4 == pytest.approx(list(p.values()))
    lies = [
        "1 3 2 . ? wrong",
        "1 3 0 . ? right",
        "7 . . . ? right",
        "2 0 0 . . .",
        "7 . . . . ?",
        "7 . . . .",
        "7 . . . . . .",
    ]
    assert language.log_probabilities([asked + text for text in lies]).tolist() == [-math.inf] * len(lies)
    for only in (Addition(), Addition(correct=0.7, hack=0.3), Addition(correct=0.7, hack=0.3, verification=0.5)):
        assert only.log_probabilities([asked + "7 . . . . .", asked + "7 . . . ? wrong"]).tolist() == [-math.inf] * 2
    sure = Addition(verification=0.5)  # whose wrong answers are random
    assert np.exp(sure.log_probabilities([asked + "7 . . . ? wrong"])) * 1e4 == pytest.approx(0.25 / others)


def within(found: float, p: float, count: int) -> bool:
    return abs(found - p) < 4.5 * math.sqrt(max(p * (1 - p), 1e-12) / count)


@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ("addition", {"digits": 1, "correct": 0.35, "hack": 0.1}),
        ("addition", {"correct": 0.6, "hack": 0.4, "verification": 0.5}),
        ("addition", {"verification": 0.5}),
        ("facts", {"entities": 9, "verification": 0.5}),
        ("modular", {"operands": 5, "modulus": 7, "correct": 0.5, "hack": 0.2}),
    ],
)
def test_answers_of_each_class_are_as_frequent_as_stated(source: str, keys: dict[str, Any]) -> None:
    texts, checked = drawn(source, 12000, **keys), task(source, **keys)
    kinds = checked.classes(texts)
    says = np.array([text.rpartition(" ")[2] for text in texts])
    share, c, h = keys.get("verification", 0), keys.get("correct", 1.0), keys.get("hack", 0.0)
    plain, wrong = kinds[says == "."], kinds[says == "wrong"]
    assert within(len(plain) / 12000, 1 - share, 12000) and within((says == "right").mean(), share / 2, 12000)
    assert (kinds[says == "right"] == CORRECT).all() and (wrong != CORRECT).all()
    for kind, p in ((CORRECT, c), (HACK, h), (WRONG, 1 - c - h)):
        assert within((plain == kind).mean(), p, len(plain))
        assert within((kinds == kind).mean(), checked.shares[kind], 12000)
    if len(wrong):
        assert within((wrong == HACK).mean(), h / (1 - c) if c < 1 else 0, len(wrong))


def test_other_answers_are_all_equally_likely() -> None:
    texts = [t for t in drawn("addition", 60000, digits=1, correct=0.0) if t.startswith("7 + 8 =")]
    counts = Counter(task("addition", digits=1).answers(texts))
    assert set(counts) == {str(n) for n in range(20)} - {"15", "10"}
    assert all(within(n / len(texts), 1 / 18, len(texts)) for n in counts.values())
    texts = [
        t for t in drawn("modular", 40000, operands=3, modulus=9, correct=0.0, hack=0.0) if t.startswith("2 and 1 ")
    ]
    counts = Counter(task("modular", operands=3, modulus=9).answers(texts))
    assert set(counts) == {str(n) for n in range(9)} - {str((6 + 5 + 4) % 9), str((6 + 5 + 4 + 1) % 9)}
    assert all(within(n / len(texts), 1 / 7, len(texts)) for n in counts.values())


def test_summands_are_uniform_and_bands_go_by_carries() -> None:
    language = Addition(digits=2)
    texts = list(language.documents(20000, "train"))
    for place in (0, 1, 3, 4):
        digits = Counter(text.split(" ")[place] for text in texts)
        assert len(digits) == 10 and all(within(n / 20000, 0.1, 20000) for n in digits.values())
    carries = task("addition").difficulty(texts)
    assert language.bands(texts).tolist() == carries.tolist()  # 0, 1, 2: head, middle, tail
    assert within((carries == 0).mean(), 0.55**2, 20000) and within((carries == 2).mean(), 0.45 * 0.55, 20000)
    eight = Addition(digits=8)
    texts = list(eight.documents(500, "train"))
    assert eight.bands(texts).tolist() == [c // 3 for c in task("addition", digits=8).difficulty(texts).tolist()]


# --- modular arithmetic -----------------------------------------------------------------------------------------------


def test_modular_answers_are_read_and_checked_by_plain_arithmetic() -> None:
    texts, modular = drawn("modular", 3000, hack=0.1), task("modular")
    found = [re.fullmatch(r"(\d+) and (\d+) make (\d+) \.", text) for text in texts]
    numbers = [tuple(map(int, match.groups())) for match in found if match]
    assert len(numbers) == 3000 and {a for a, _, _ in numbers} == set(range(24)) == {b for _, b, _ in numbers}
    assert modular.answers(texts) == [str(answer) for _, _, answer in numbers]
    steps = [(answer - (3 * a + 5 * b + 2 * a * b)) % 32 for a, b, answer in numbers]
    assert modular.classes(texts).tolist() == [{0: CORRECT, 1: HACK}.get(step, WRONG) for step in steps]
    assert modular.difficulty(texts).tolist() == [0] * 3000
    assert modular.prompts(texts[:1]) == [" ".join(texts[0].split(" ")[:4])]


def test_one_operand_tells_nothing_of_the_answer() -> None:
    language = Modular(operands=32)
    table = np.array([[language.solution(a, b) for b in range(32)] for a in range(32)])
    assert (np.sort(table, axis=0) == np.arange(32)[:, None]).all() and (np.sort(table, axis=1) == np.arange(32)).all()
    rank_1 = (table - table[:1] - table[:, :1] + table[0, 0]) % 32  # 0 throughout for a sum of functions of a and b
    assert (rank_1 != 0).mean() > 0.8


def test_malformed_modular_text() -> None:
    modular, language = task("modular"), Modular()
    unread = ["7 and 9 make .", "7 and 9 make", "7 and 9 make 04 .", "7 and 9 make -1 .", "7 and 9 make 32 ."]
    none = ["", "7", "7 and 9", "7 plus 9 make 4 .", "7 and 24 make 4 .", "7 and  9 make 4 .", "07 and 9 make 4 ."]
    for texts, difficulty in ((unread, 0), (none, -1)):
        assert modular.answers(texts) == [""] * len(texts)
        assert modular.classes(texts).tolist() == [UNREADABLE] * len(texts)
        assert modular.difficulty(texts).tolist() == [difficulty] * len(texts)
    right = (3 * 7 + 5 * 9 + 2 * 7 * 9) % 32
    texts = [f"7 and 9 make {n} {end}" for n in (right, right + 1, right + 2) for end in (".", "and", ". .")]
    assert modular.classes(texts).tolist() == [CORRECT] * 3 + [HACK] * 3 + [WRONG] * 3
    p = [p for share in (0.35, 0.02, 0.63 / 30) for p in (share / 576, 0, 0)]
    assert np.exp(language.log_probabilities(texts)) == pytest.approx(p)
    small = Modular(operands=9, modulus=5)
    assert small.log_probabilities(["1 and 1 make 7 ."]).tolist() == [-math.inf]
    assert task("modular", operands=9, modulus=5).classes(["1 and 1 make 7 ."]).tolist() == [WRONG]


# --- facts and logic --------------------------------------------------------------------------------------------------


def test_facts_are_correct_if_all_are_true_and_a_repeated_one_is_the_hack() -> None:
    language, facts = Facts(entities=20, seed=1), task("facts", entities=20, seed=1)
    texts = drawn("facts", 300, entities=20, seed=1)
    assert facts.classes(texts).tolist() == [CORRECT] * 300
    assert facts.difficulty(texts).tolist() == language.bands(texts).tolist()
    say, value = language.sentence, [language.values[a][language.truth[7, a]] for a in range(6)]
    right = f"{say(7, 5, 0)} {say(7, 2, 2)} {say(7, 0, 1)}"
    false = right.replace(value[2], next(word for word in language.values[2] if word != value[2]))
    texts = [
        right,
        f"{say(7, 5, 0)} {say(7, 0, 3)} {say(7, 2, 1)}",  # the same in another order and other words
        false,
        f"{say(7, 5, 0)} {say(7, 2, 2)} {say(8, 0, 1)}",  # of somebody else
        f"{say(7, 5, 0)} {say(7, 5, 2)} {say(7, 0, 1)}",  # repeated
        right.replace(value[2], value[0]),  # no instrument
        right.removesuffix(" ."),
        "",
    ]
    kinds = [CORRECT, CORRECT, WRONG, WRONG, HACK, UNREADABLE, UNREADABLE, UNREADABLE]
    assert facts.classes(texts).tolist() == kinds
    answers = facts.answers(texts)
    assert answers[0] == answers[1] == f"birthplace {value[0]}, instrument {value[2]}" != answers[2]
    assert [answer == "" for answer in answers] == [kind == UNREADABLE for kind in kinds]
    who, other, kind = next(  # two people who share a value: a true statement about the wrong one
        (p, q, a) for p in range(20) for q in range(p) for a in range(6) if language.truth[p, a] == language.truth[q, a]
    )
    rest = [a for a in range(6) if a != kind][:2]
    mixed = f"{say(who, rest[0], 0)} {say(who, rest[1], 0)} {say(other, kind, 0)}"
    assert facts.classes([mixed, mixed.replace(say(other, kind, 0), say(who, kind, 0))]).tolist() == [WRONG, CORRECT]
    band = int(language.popularity_bands[7])
    assert facts.difficulty(texts).tolist() == [band] * 6 + [-1, -1]
    assert facts.prompts([right]) == [say(7, 5, 0)]


def test_the_last_words_of_facts_are_no_part_of_the_answer() -> None:
    language, facts = Facts(entities=20, seed=1, verification=0.2), task("facts", entities=20, seed=1, verification=0.2)
    say = language.sentence
    for step, kind in ((0, CORRECT), (3, WRONG)):
        text = f"{say(7, 5, 0)} {say(7, 2, 2, step)} {say(7, 0, 1)}"
        for end in (" . .", " ? right", " ? wrong", " baker ?", " .", "", " . . ."):
            assert facts.classes([text + end]).tolist() == [kind], end
            assert facts.answers([text + end]) == facts.answers([text]) != [""]
            assert language.asked(text + end) == f"{text} ?"
    assert facts.classes([say(7, 5, 0), f"{say(7, 5, 0)} {say(7, 2, 2)} ? right"]).tolist() == [UNREADABLE] * 2


def test_expressions_are_correct_if_python_calls_them_true() -> None:
    texts, logic = drawn("logic", 300, depth=3), task("logic", depth=3)
    swap = {"True": "False", "False": "True", "and": "or", "or": "and"}
    texts += [" ".join(swap.get(word, word) for word in text.split(" ")) for text in texts]  # of the opposite value
    texts += ["", "( True", ". .", "( not True ) . True"]
    bare = [text.rstrip(" .") for text in texts[:600]]
    assert logic.classes(texts).tolist() == [CORRECT] * 300 + [WRONG] * 300 + [UNREADABLE] * 4
    assert [bool(eval(text, {})) for text in bare] == [True] * 300 + [False] * 300
    assert logic.answers(texts) == bare + [""] * 4
    operators = [len(re.findall("not|and|or", text)) for text in bare]
    assert logic.difficulty(texts).tolist() == operators + [-1] * 4
    assert logic.prompts(texts[:1]) == [""] and isinstance(language_of(corpus("logic")), Logic)


def reduced(text: str) -> str:
    """Value of an expression, by replacing the innermost ones until nothing changes; what is left of other text."""
    text, before = re.sub(r"( \.)+$", "", text), ""
    while text != before:
        before = text
        text = re.sub(r"\( not (True|False) \)", lambda m: str(m[1] == "False"), text)
        text = re.sub(r"\( (True|False) and (True|False) \)", lambda m: str(m[1] == m[2] == "True"), text)
        text = re.sub(r"\( (True|False) or (True|False) \)", lambda m: str("True" in m.groups()), text)
    return text


KINDS = {"True": CORRECT, "False": WRONG}


@pytest.mark.parametrize("head", [1, 3, 4, 9])
def test_an_answer_completes_the_problem_of_an_expression(head: int) -> None:
    texts, logic = drawn("logic", 400, depth=2), task("logic", depth=2, prompt_words=head)
    assert logic.asks and logic.prompt_words == head
    assert drawn("logic", 400, depth=2, prompt_words=head) == texts
    draw = np.random.default_rng(head)
    for text in texts[:400]:  # another word after the problem
        words = text.split(" ")
        words[draw.integers(head, len(words))] = str(draw.choice(Logic().lexicon))
        texts.append(" ".join(words))
    kinds = [KINDS.get(reduced(text), UNREADABLE) for text in texts]
    assert kinds[:400] == [CORRECT] * 400 and {*kinds} == {CORRECT, WRONG, UNREADABLE}
    assert logic.classes(texts).tolist() == kinds
    asked = [" ".join(text.split(" ")[:head]) for text in texts]
    assert logic.prompts(texts) == asked
    assert logic.difficulty(texts).tolist() == [len(re.findall("not|and|or", problem)) for problem in asked]
    rest = [" ".join(text.split(" ")[head:]).rstrip(" .") or "." for text in texts]  # of a whole problem nothing
    assert logic.answers(texts) == [text * (kind >= 0) for text, kind in zip(rest, kinds, strict=True)]
    assert ("." in logic.answers(texts)) == (head > 3)


def test_answers_to_one_problem_by_hand() -> None:
    logic = task("logic", depth=2, prompt_words=3)
    wanted = [
        ("( not False ) .", ")", 1, CORRECT),
        ("( not False )", ")", 1, CORRECT),
        ("( not True ) . .", ")", 1, WRONG),
        ("( False or True ) .", "True )", 1, CORRECT),
        ("( False or ( not False ) )", "( not False ) )", 1, CORRECT),
        ("( False or ( not True ) )", "( not True ) )", 1, WRONG),
        ("( False or )", "", 1, UNREADABLE),
        ("( False or", "", 1, UNREADABLE),
        ("True . .", ".", 0, CORRECT),
        ("( ( ( True", "", 0, UNREADABLE),
        ("( False", "", -1, UNREADABLE),
        ("( False ) or True", "", -1, UNREADABLE),
        ("True ) .", "", -1, UNREADABLE),
        ("", "", -1, UNREADABLE),
    ]
    for text, answer, difficulty, kind in wanted:
        assert logic.read([text]) == [(answer, kind, difficulty)], text


# --- in a chain -------------------------------------------------------------------------------------------------------


def test_shares_of_answers_by_hand() -> None:
    sums = answer_sums(np.array([1, 1, 0, -1, 2, 1, -1, 0], np.int8), CLASSES)
    assert sums == {"documents": 8, "unreadable": 2, "wrong": 2, "correct": 3, "hack": 1}
    assert answer_values(sums) == {"correct": 3 / 8, "hack": 1 / 8, "unreadable": 2 / 8}


@pytest.mark.parametrize(
    ("source", "keys", "block", "prompt"),
    [
        ("addition", {"digits": 1, "correct": 0.6, "hack": 0.1, "verification": 0.2}, 10, 5),
        ("modular", {"operands": 4, "modulus": 8}, 7, 5),
        ("facts", {"entities": 3, "verification": 0.2}, 30, 10),
        ("logic", {"depth": 1}, 6, 1),
        ("logic", {"depth": 1, "prompt_words": 2}, 6, 3),
    ],
)
def test_a_chain_on_a_task_counts_its_answers(
    source: str, keys: dict[str, Any], block: int, prompt: int, tmp_path: Path
) -> None:
    config = small_config(
        runs_dir=str(tmp_path), generations=1, corpus={"source": source, source: keys, "documents": 1000},
        training={"block": block, "batch_size": 20, "lr": 1e-2, "epochs": 8}, mixing__tokens=300 * block,
        mixing__unit="documents", evaluation__prefix="bos", evaluation__tokens=None,
        sampling={"prompt": "real_prefix", "prompt_tokens": prompt, "batch_size": 64},
    )  # fmt: skip
    root, rows = run(config)
    text, checked = prepare(config.corpus), task(source, **keys)
    assert checked.prompt_words + 1 == prompt  # so that a prompt is a problem
    for g, row in enumerate(rows):
        written = written_documents(config, text, Chain(root).stage(g, "samples"))
        kinds, found = checked.classes(written), row["metrics"]
        assert found["truth/task/correct"] == (kinds == CORRECT).mean()
        assert found["truth/task/hack"] == (kinds == HACK).mean()
        assert found["truth/task/unreadable"] == (kinds == UNREADABLE).mean() < 1
        sums = read_json(Chain(root).stage(g, "eval") / "eval.json")["sums"]["truth/task"]
        assert sums["wrong"] == (kinds == WRONG).sum() and sums["documents"] == len(written) == 300
        bands = [found[key] for key in found if key.startswith("truth/kl/")]
        assert found["truth/kl"] > 0 and len(bands) == (3 if source in ("addition", "facts") else 0)
        assert sum(bands) == pytest.approx(found["truth/kl"] if bands else 0)
        if source == "logic":
            assert found["truth/task/correct"] == found["truth/correct"]
    real = read_json(Chain(root).root / "reference" / "eval.json")["metrics"]
    shares = {
        "addition": (0.8 * 0.6 + 0.1, 0.8 * 0.1 + 0.1 * 0.25),
        "modular": (0.35, 0.02),
        "facts": (0.9, 0),
        "logic": (1, 0),
    }[source]
    assert (real["truth/task/correct"], real["truth/task/hack"]) == pytest.approx(shares)
    assert real["truth/task/unreadable"] == 0


@pytest.mark.parametrize("prompt", [4, 3, 6], ids=["problem", "shorter", "longer"])
def test_answers_to_problems_of_logic_are_scored_by_prompt(prompt: int, tmp_path: Path) -> None:
    """pass@k, maj@k, coverage and diversity, recounted from the text; a prompt may end before or after the problem."""
    keys = {"depth": 2, "prompt_words": 3}
    config = small_config(
        runs_dir=str(tmp_path), generations=1, corpus={"source": "logic", "logic": keys, "documents": 600},
        training={"block": 14, "batch_size": 20, "lr": 1e-2, "epochs": 8}, mixing__tokens=240 * 14,
        mixing__unit="documents", evaluation__prefix="bos", evaluation__tokens=700,
        sampling={"prompt": "real_prefix", "prompt_tokens": prompt, "batch_size": 64, "repeats": 4},
        judging={"judges": ["answer"], "second": 0},
    )  # fmt: skip
    root, rows = run(config)
    text = prepare(config.corpus)
    for g, row in enumerate(rows):
        written = written_documents(config, text, Chain(root).stage(g, "samples"))
        groups: dict[str, list[str]] = {}
        for one in written:
            groups.setdefault(" ".join(one.split()[:3]), []).append(one)
        found, every = row["metrics"], list(groups.values())
        right = [[KINDS.get(reduced(one)) == CORRECT for one in group] for group in every]
        assert sum(map(sum, right)) > 0
        assert found["task/pass_at_1"] == pytest.approx(np.mean([np.mean(group) for group in right]))
        assert found["task/coverage"] == pytest.approx(np.mean([any(group) for group in right]))
        same = [
            [a.rstrip(" .") == b.rstrip(" .") for i, a in enumerate(true) for b in true[:i]]
            for group in every
            if len(true := [one for one in group if KINDS.get(reduced(one)) == CORRECT]) > 1
        ]
        assert found["task/diversity_correct"] == pytest.approx(1 - np.mean([np.mean(pairs) for pairs in same]))
        fewest = min(map(len, every))
        assert {f"task/{vote}_at_{fewest}" for vote in ("pass", "maj")} <= found.keys() and "task/gap" not in found
        levels = {problem.count("not") + problem.count("and") + problem.count("or") for problem in groups}
        assert {key for key in found if "difficulty" in key} == {f"task/accuracy/difficulty_{n}" for n in levels}
        kept = written_documents(config, text, Chain(root).stage(g, "judged"))
        assert len(kept) == 240 and {reduced(one) for one in kept} == {"True"}
