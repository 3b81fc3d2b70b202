"""Languages whose distribution is known: what they say of themselves, and what a chain says of them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import samples_of
from hypothesis import given
from hypothesis import strategies as st

from collapselab.chain.run import run
from collapselab.cli.options import config_from
from collapselab.config import CorpusConfig, RunConfig, UserError
from collapselab.config.corpus import AdditionConfig, FactsConfig, LogicConfig, ModularConfig, PlantedConfig
from collapselab.config.keys import from_tree
from collapselab.corpus.prepared import Corpus, prepare
from collapselab.evaluation.planted_documents import document_counts
from collapselab.evaluation.truth import written_documents
from collapselab.languages import Addition, Facts, Language, Logic, Modular, Planted, language_of
from collapselab.languages.facts import ATTRIBUTES, HOLES, SENTENCE_WORDS, TEMPLATES
from collapselab.languages.laws import frequency_bands, zipf_law
from collapselab.languages.planted import SLOT_PLACE, TAIL, TOWN_PLACE
from collapselab.metrics.truth import (
    divergence_sums,
    divergence_values,
    edit_distances,
    expression_sums,
    expression_values,
    recall_sums,
    recall_values,
    slot_divergence,
    slot_sums,
    slot_values,
)
from collapselab.mixing import sets, sources
from collapselab.models import network
from collapselab.store.folders import read_json
from collapselab.store.layout import Chain

ROOT = Path(__file__).parents[1]
BANDS = ("head", "middle", "tail")
LARGEST = (
    Planted(contexts=400, values=1500),
    Facts(entities=4096),
    Logic(depth=6),
    Addition(digits=100, correct=0.5, hack=0.1, verification=0.2),
    Modular(operands=1000, modulus=1000),
)


def drawn(language: Language, count: int = 2000, split: str = "train") -> list[str]:
    return list(language.documents(count, split))


# --- the languages themselves -----------------------------------------------------------------------------------------


def every_planted(language: Planted) -> list[str]:
    return [" ".join(words) for words in itertools.product(*language.places)]


def every_fact(language: Facts) -> list[str]:
    attributes, wordings = range(len(ATTRIBUTES)), range(4)
    return [
        " ".join(language.sentence(person, a, w) for a, w in zip(chosen, how, strict=True))
        for person in range(language.entities)
        for chosen in itertools.permutations(attributes, 3)
        for how in itertools.product(wordings, repeat=3)
    ]


def every_expression(language: Logic) -> list[str]:
    grown = ["True", "False"]
    for _ in range(language.depth):
        below = [f"( {a} {op} {b} )" for a in grown for b in grown for op in ("and", "or")]
        above = ["True", "False", *(f"( not {e} )" for e in grown), *below]
        grown = above
    named = {"True": True, "False": False}
    true = [text for text in grown if text not in named and eval(text, {})]  # Python reads them too
    return [text + " ." * (language.words_per_document - text.count(" ") - 1) for text in true]


def every_sum(language: Addition) -> list[str]:
    numbers, answers = range(10**language.digits), range(2 * 10**language.digits)
    return [
        language.document(a, b, answer, says)
        for a, b, answer in itertools.product(numbers, numbers, answers)
        for says in ([None, answer == a + b] if language.verification else [None])
    ]


def every_modular(language: Modular) -> list[str]:
    operands = range(language.operands)
    return [f"{a} and {b} make {c} ." for a, b, c in itertools.product(operands, operands, range(language.modulus))]


def every(language: Language) -> list[str]:
    if isinstance(language, Addition):
        return every_sum(language)
    if isinstance(language, Modular):
        return every_modular(language)
    if isinstance(language, Logic):
        return every_expression(language)
    return every_planted(language) if isinstance(language, Planted) else every_fact(language)


@pytest.mark.parametrize(
    "language",
    [
        *(Planted(contexts=3, values=4, seed=4), Facts(entities=2, seed=4), Logic(depth=1), Logic(depth=2)),
        *(Addition(digits=1, correct=0.5, hack=0.2), Addition(digits=1, correct=0.3, hack=0.1, verification=0.4)),
        Addition(digits=1, reversed=True, correct=0.3, hack=0.1, verification=0.4),
        *(Modular(operands=4, modulus=5), Modular(operands=3, modulus=3, correct=0.1, hack=0.6)),
    ],
)
def test_probabilities_of_all_documents_sum_to_1_and_give_the_entropy(
    language: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collapselab.languages.planted.TAIL", TAIL[:5])  # with all nine places there are too many
    texts = every(language)
    assert len(set(texts)) == len(texts)
    log_p = language.log_probabilities(texts)
    p = np.exp(log_p)
    assert p.min() > 0
    assert p.sum() == pytest.approx(1, abs=1e-9)
    assert -(p * log_p).sum() == pytest.approx(language.entropy, abs=1e-9)
    assert set(drawn(language)) <= set(texts)


@pytest.mark.parametrize(
    "language",
    [
        *(Planted(), Facts(), Logic(depth=3), Planted(contexts=3, values=5, zipf=0, seed=9), Modular()),
        *(Addition(correct=0.9), Addition(digits=2, correct=0.4, hack=0.3, verification=0.2)),
        Facts(verification=0.4),
    ],
)
def test_entropy_is_the_mean_surprise_of_what_is_drawn(language: Language) -> None:
    log_p = language.log_probabilities(drawn(language, 20000))
    error = log_p.std(ddof=1) / math.sqrt(len(log_p))
    assert abs(-log_p.mean() - language.entropy) < 4 * error < 0.1


@pytest.mark.parametrize("kind", [Planted, Facts, Logic, Addition, Modular])
def test_documents_are_a_function_of_seed_and_split_alone(kind: type[Language]) -> None:
    texts = drawn(kind(seed=3), 500)
    assert texts == drawn(kind(seed=3), 500)
    assert texts == drawn(kind(seed=3), 9000)[:500]  # more documents are the same ones and others
    assert texts != drawn(kind(seed=4), 500)
    assert texts != drawn(kind(seed=3), 500, "test")


@pytest.mark.parametrize(
    "language", [Planted(), Facts(), Facts(verification=0.3), Logic(), Addition(), Modular(), *LARGEST]
)
def test_documents_are_equally_long_and_made_of_the_lexicon(language: Language) -> None:
    lexicon = set(language.lexicon)
    assert len(lexicon) == len(language.lexicon)  # no word in two places, so that each tells what it is
    for text in drawn(language, 300):
        words = text.split(" ")
        assert len(words) == language.words_per_document
        assert set(words) <= lexicon
    assert np.isfinite(language.log_probabilities(drawn(language, 300))).all()


def test_goods_follow_the_law_of_their_town() -> None:
    language = Planted(contexts=3, values=6, zipf=1.5, seed=2)
    pairs = Counter((words[TOWN_PLACE], words[SLOT_PLACE]) for words in map(str.split, drawn(language, 30000)))
    law = language.slot_law
    assert not np.array_equal(law[0], law[1])
    np.testing.assert_allclose(np.sort(law[1])[::-1], zipf_law(6, 1.5))
    for c, v in itertools.product(range(3), range(6)):
        p = law[c, v] / 3
        found = pairs[language.towns[c], language.goods[v]] / 30000
        assert abs(found - p) < 4.5 * math.sqrt(p * (1 - p) / 30000)


def test_people_are_as_popular_as_their_law_says() -> None:
    language = Facts(entities=5, zipf=1.0, seed=1)
    people = language.facts_of(drawn(language, 20000))[:, 0] // len(ATTRIBUTES)
    for person, p in enumerate(language.popularity):
        assert abs((people == person).mean() - p) < 4.5 * math.sqrt(p * (1 - p) / 20000)


def test_a_sentence_reads_in_one_way_only() -> None:
    """Two wordings that one sentence could be have the same word, or a hole each of the same kind, at every place."""
    assert {len(template) for template in TEMPLATES} == {SENTENCE_WORDS}
    holes = {number: [word if word in HOLES else "" for word in template] for number, template in enumerate(TEMPLATES)}
    for a, b in itertools.combinations(range(len(TEMPLATES)), 2):
        assert holes[a] != holes[b] or any(
            x != y for x, y in zip(TEMPLATES[a], TEMPLATES[b], strict=True) if x not in HOLES
        )
    language = Facts(entities=40, seed=5)
    told = [language.sentence(p, a, w) for p in range(40) for a in range(len(ATTRIBUTES)) for w in range(4)]
    assert len(set(told)) == len(told)
    rows = language.facts_of([" ".join(told[i : i + 3]) for i in range(0, len(told), 3)])
    assert rows.ravel().tolist() == [fact for fact in range(40 * len(ATTRIBUTES)) for _ in range(4)]


def test_what_cannot_be_said_has_no_probability() -> None:
    planted = Planted(seed=1)
    text = drawn(planted, 1)[0]
    words = text.split(" ")
    swapped = [*words[:1], words[SLOT_PLACE], words[TOWN_PLACE], *words[3:]]
    wrong = [
        " ".join(swapped),
        " ".join(words[:-1]),
        f"{text} {words[-1]}",
        text.replace(" ", "  ", 1),
        text.lower(),
        "",
    ]
    wrong += [text.replace(words[3], "flew"), f"\n\n{text}"]
    assert np.isfinite(planted.log_probabilities([text]))
    assert planted.log_probabilities(wrong).tolist() == [-math.inf] * len(wrong)


def test_a_false_fact_has_no_probability() -> None:
    language = Facts(entities=20, seed=1)
    say = language.sentence
    value = language.values[0][language.truth[7, 0]]
    other = next(word for word in language.values[0] if word != value)
    of_another_kind = language.values[1][0]
    right = f"{say(7, 0, 0)} {say(7, 1, 1)} {say(7, 2, 2)}"
    wrong = [
        right.replace(value, other),  # false
        right.replace(value, of_another_kind),  # no place
        f"{say(7, 0, 0)} {say(7, 1, 1)} {say(8, 2, 2)}",  # two people
        f"{say(7, 0, 0)} {say(7, 1, 1)} {say(7, 0, 2)}",  # one fact twice
        f"{say(7, 0, 0)} {say(7, 1, 1)}",
        right.removesuffix(" ."),
    ]
    expected = math.log(language.popularity[7]) - math.log(6 * 5 * 4) - 3 * math.log(4)
    assert language.log_probabilities([right])[0] == pytest.approx(expected)
    assert language.log_probabilities(wrong).tolist() == [-math.inf] * len(wrong)


def ends(language: Facts, text: str) -> dict[str, float]:
    """Every document that begins with these true statements, up to one value, and its probability given them, by hand."""
    words, v = text.split(" "), language.verification
    found = {f"{text} . .": 1 - v, f"{text} ? right": v / 2}
    for place in range(SENTENCE_WORDS, len(words)):
        for values in language.values:
            if words[place] in values:
                others = [[*words[:place], word, *words[place + 1 :]] for word in values if word != words[place]]
                found |= {f"{' '.join(other)} ? wrong": v / 2 / 46 for other in others}
    return found


def test_a_document_of_facts_can_say_whether_it_is_right() -> None:
    language, silent = Facts(entities=9, seed=2, verification=0.3), Facts(entities=9, seed=2)
    texts, entropy = drawn(silent, 40), 0.0
    for text in texts:
        of_end = ends(language, text)
        assert len(of_end) == 2 + 2 * 23
        found, alone = language.log_probabilities([*of_end]), silent.log_probabilities([text])[0]
        assert np.exp(found - alone) == pytest.approx(list(of_end.values()))
        assert np.exp(found - alone).sum() == pytest.approx(1)
        entropy = -sum(p * math.log(p) for p in of_end.values())
    assert language.entropy == pytest.approx(silent.entropy + entropy)
    assert [word for word in language.lexicon if word not in silent.lexicon] == ["?", "wrong", "right"]


def test_what_a_document_of_facts_cannot_say_of_itself() -> None:
    language = Facts(entities=9, seed=2, verification=0.3)
    say, far = language.sentence, {a: language.sentence(4, a, 0, 5) for a in (0, 2, 3)}
    true, false = f"{say(4, 0, 0)} {say(4, 2, 0)} {say(4, 3, 0)}", f"{say(4, 0, 0)} {far[2]} {say(4, 3, 0)}"
    both, first = f"{say(4, 0, 0)} {far[2]} {far[3]}", f"{far[0]} {say(4, 2, 0)} {say(4, 3, 0)}"
    possible = [f"{true} . .", f"{true} ? right", f"{false} ? wrong"]
    lies = [f"{true} ? wrong", f"{false} ? right", f"{false} . .", f"{both} ? wrong", f"{first} ? wrong"]
    lies += [f"{say(4, 0, 0)} {say(4, 2, 0)} {say(4, 0, 1)} . .", f"{say(4, 0, 0)} {say(5, 2, 0)} {say(4, 3, 0)} . ."]
    lies += [true, f"{true} .", f"{true} ? .", f"{true} right", f"{true} . . .", f"{true} ? right right", ""]
    assert np.isfinite(language.log_probabilities(possible)).all()
    assert language.log_probabilities(lies).tolist() == [-math.inf] * len(lies)
    for v, one in ((0.0, true), (1.0, f"{true} ? right")):
        only = Facts(entities=9, seed=2, verification=v)
        texts = [true, *possible]
        assert np.isfinite(only.log_probabilities(texts)).tolist() == [
            text == one or bool(v) & ("?" in text) for text in texts
        ]


def test_false_statements_are_drawn_as_the_law_says() -> None:
    language = Facts(entities=30, seed=2, verification=0.6)
    texts = drawn(language, 20000)
    assert texts[:500] == drawn(language, 500)
    said = Counter(text.rpartition(" ")[2] for text in texts)
    for word, p in ((".", 0.4), ("right", 0.3), ("wrong", 0.3)):
        assert abs(said[word] / 20000 - p) < 4.5 * math.sqrt(p * (1 - p) / 20000)
    facts, values = language.statements(texts)
    steps = (values - language.truth.ravel()[facts]) % 24
    wrong = np.array([text.endswith("wrong") for text in texts])
    assert not steps[~wrong].any() and not steps[:, 0].any() and ((steps[wrong] > 0).sum(1) == 1).all()
    counts = Counter(tuple(row) for row in steps[wrong].tolist())
    n, p = int(wrong.sum()), 1 / 46
    assert len(counts) == 46 and all(abs(m / n - p) < 4.5 * math.sqrt(p * (1 - p) / n) for m in counts.values())


def test_an_expression_is_read_as_python_reads_it() -> None:
    language = Logic(depth=3, seed=2)
    for text in drawn(language, 300):
        words = text.split(" ")
        for place, word in enumerate(words[:-1]):  # one word exchanged: another value, or no expression
            other = {"True": "False", "False": "True", "and": "or", "or": "and", ")": "("}.get(word, ")")
            changed = " ".join([*words[:place], other, *words[place + 1 :]])
            read = language.parse(changed)
            expression = changed.rstrip(" .")
            try:
                wanted = eval(expression, {}) if "." not in expression else None
            except (SyntaxError, TypeError):
                wanted = None
            assert (read.value if read else None) is wanted, changed
            if word == ".":
                break


def test_what_is_no_true_expression_of_the_language_has_no_probability() -> None:
    language = Logic(depth=2)

    def padded(text: str) -> str:
        return text + " ." * (13 - len(text.split(" ")))

    deep = "( not ( not ( not False ) ) )"
    p = {padded("( not False )"): 2 / 3 / 4 / 2, padded("( not ( not True ) )"): 2 / 3 / 4 / 2}
    assert np.exp(language.log_probabilities(list(p))) == pytest.approx(list(p.values()))
    wrong = [padded(text) for text in ("( not True )", "True", deep, "( True and )", "( True and True ) )", "")]
    wrong += ["( not False )", padded("( not False )") + " .", padded("( not False )")[:-1] + "(", "", "\n\n"]
    assert language.log_probabilities(wrong).tolist() == [-math.inf] * len(wrong)
    assert language.parse(padded(deep)) == (True, -math.inf)  # an expression, too deep to be drawn
    assert language.parse("True . .") == (True, -math.inf)


def test_bands_by_hand() -> None:
    law = np.array([[0.05, 0.5, 0.4, 0.05], [0.25, 0.25, 0.25, 0.25]])
    assert frequency_bands(law).tolist() == [[2, 0, 1, 2], [0, 0, 1, 1]]
    language = Planted(contexts=2, values=4, seed=3)
    texts = drawn(language, 50)
    for text, band in zip(texts, language.bands(texts).tolist(), strict=True):
        words = text.split(" ")
        c, v = language.towns.index(words[TOWN_PLACE]), language.goods.index(words[SLOT_PLACE])
        law = language.slot_law[c]
        above = law[law > law[v]].sum()
        assert band == int(above >= 0.5 - 1e-12) + int(above >= 0.9 - 1e-12)


# --- as a corpus ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"source": "planted", "planted": PlantedConfig(seed=2)},
        {"source": "facts", "facts": FactsConfig(entities=2)},
        {"source": "facts", "facts": FactsConfig(entities=2, verification=0.5)},
        {"source": "logic", "logic": LogicConfig(depth=2)},
        {"source": "logic", "logic": LogicConfig(depth=2, prompt_words=3)},
        {"source": "addition", "addition": AdditionConfig(digits=1, correct=0.5, verification=0.5)},
        {"source": "modular", "modular": ModularConfig(operands=12)},
    ],
)
def test_a_word_is_a_token_and_a_document_a_block(settings: dict[str, Any]) -> None:
    count = 4000
    config = CorpusConfig(documents=count, **settings)
    corpus, language = prepare(config), language_of(config)
    assert language is not None
    assert corpus.tokenizer.name == "words"
    assert corpus.tokenizer.size == len(language.lexicon) + 1
    for split, documents in (("train", count), ("valid", count // 20), ("test", count // 10)):
        tokens, texts = corpus.split(split), drawn(language, documents, split)
        assert np.diff(tokens.starts).tolist() == [language.words_per_document + 1] * documents
        rows = np.asarray(tokens.ids).reshape(documents, -1)
        assert corpus.tokenizer.decode(rows[:, 1:].tolist()) == texts
        assert tokens.nbytes.sum() == sum(len(text.encode()) for text in texts)
    # With two people, one document stands in several splits: they are draws of one law, and nothing leaks.
    assert settings["source"] == "planted" or set(drawn(language, count)) & set(drawn(language, 400, "test"))


def test_facts_that_say_nothing_of_themselves_are_the_text_of_version_0_1() -> None:
    """Digests that the code before `corpus.facts.verification` computed: chains and caches of that text stay what they are."""
    for keys, corpus_digest, drawn_digest in (
        ({}, "2c63b44b96965797d3701081534804b22c243b4b01615d6ec2e643c5ac9a4161", "be04c01940f6298c23b9765d1f314aec"),
        (
            {"entities": 24, "zipf": 1.5, "seed": 3},
            "f0aee8bf7df03dd706bd917ffdf98fa41cf0781c7b7995a1eef1171314f83e1f",
            "7e590e0033c4b02ffb13de66e0a75f82",
        ),
    ):
        corpus = prepare(from_tree(CorpusConfig, {"source": "facts", "documents": 300, "facts": keys}))
        assert corpus.digest == corpus_digest and corpus.facts["read"]["digest"].startswith(drawn_digest)
        other = prepare(
            from_tree(CorpusConfig, {"source": "facts", "documents": 300, "facts": {**keys, "verification": 0.1}})
        )
        assert corpus.facts["read"]["digest"] != other.facts["read"]["digest"]


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_other_tokenizers_read_the_same_text(tokenizer: str) -> None:
    corpus = prepare(CorpusConfig(source="planted", documents=200, tokenizer=tokenizer, vocab_size=400))
    text = corpus.tokenizer.decode([np.asarray(corpus.train.ids[: corpus.train.starts[1]]).tolist()])[0]
    assert text == "\n\n" + drawn(Planted(), 1)[0]


def test_keys_that_a_source_lacks_are_refused_by_name() -> None:
    for settings, named in (
        ({"planted": {"contexts": 4}}, "corpus.planted.contexts=4: only corpus.source=planted has it"),
        ({"source": "facts", "planted": {"values": 8}}, "corpus.planted.values=8"),
        ({"source": "planted", "facts": {"entities": 9}}, "corpus.facts.entities=9"),
        ({"source": "planted", "hub": {"subset": "x"}}, "corpus.hub.subset='x': only corpus.source=hub:NAME has it"),
        ({"documents": 100}, "corpus.documents=100"),
        ({"source": "planted", "planted": {"contexts": 401}}, "corpus.planted.contexts=401: must lie in [1, 400]"),
        ({"source": "planted", "planted": {"zipf": -0.5}}, "corpus.planted.zipf=-0.5"),
        ({"source": "planted", "joiner": ""}, "corpus.joiner=''"),
        ({"source": "logic", "facts": {"zipf": 1.5}}, "corpus.facts.zipf=1.5"),
        ({"source": "facts", "facts": {"verification": 1.5}}, "corpus.facts.verification=1.5: must lie in [0, 1]"),
        ({"source": "facts", "logic": {"depth": 2}}, "corpus.logic.depth=2"),
        ({"source": "logic", "logic": {"depth": 7}}, "corpus.logic.depth=7: must lie in [1, 6]"),
        ({"source": "logic", "logic": {"prompt_words": -1}}, "corpus.logic.prompt_words=-1: must lie in [0, 124]"),
        (
            {"source": "logic", "logic": {"depth": 2, "prompt_words": 13}},
            "corpus.logic.prompt_words=13: must lie in [0, 12]",
        ),
        (
            {"source": "logic", "addition": {"digits": 3}},
            "corpus.addition.digits=3: only corpus.source=addition has it",
        ),
        ({"source": "addition", "modular": {"modulus": 5}}, "corpus.modular.modulus=5"),
        ({"source": "addition", "addition": {"digits": 101}}, "corpus.addition.digits=101: must lie in [1, 100]"),
        ({"source": "addition", "addition": {"hack": 0.1}}, "corpus.addition.hack=0.1: must be at most 1 - correct"),
        (
            {"source": "addition", "addition": {"verification": 1.5}},
            "corpus.addition.verification=1.5: must lie in [0, 1]",
        ),
        ({"source": "modular", "modular": {"correct": float("nan")}}, "corpus.modular.correct=nan: must lie in [0, 1]"),
        ({"source": "modular", "modular": {"hack": 0.7}}, "corpus.modular.hack=0.7: must be at most 1 - correct"),
        ({"source": "modular", "modular": {"modulus": 2}}, "corpus.modular.modulus=2: must lie in [3, 1000]"),
        ({"tokenizer": "words"}, "corpus.tokenizer='words'"),
    ):
        with pytest.raises(UserError) as error:
            from_tree(CorpusConfig, settings)
        assert named in str(error.value)
        assert "\n" not in str(error.value)


def test_a_vocabulary_of_words_refuses_other_text_in_one_line() -> None:
    tokenizer = prepare(CorpusConfig(source="planted", documents=50)).tokenizer
    with pytest.raises(UserError, match=r"corpus\.tokenizer='words': cannot encode this text"):
        tokenizer.encode(["In Ashford nobody sold anything."])


# --- metrics by hand --------------------------------------------------------------------------------------------------


def test_slot_metrics_by_hand() -> None:
    truth = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    found = np.array([[0.4, 0.4, 0.0], [0.1, 0.1, 0.8]])  # in the first town 0.2 goes to words that are no goods
    bands = np.array([[0, 1, 2], [1, 1, 0]])
    sums = slot_sums(found, truth, bands, BANDS, np.array([4, 5]))
    law = np.array([[0.5, 0.5, 0.0], [0.1, 0.1, 0.8]])
    values = slot_values(sums)
    assert values["leak"] == pytest.approx(0.1)
    assert values["diversity"] == pytest.approx((0.5 / 0.62 + 0.34 / 0.56) / 2)
    assert values["drift"] == pytest.approx((0.08 / 0.62 + 0.06 / 0.56) / 2)
    assert values["entropy"] == pytest.approx((math.log(2) - (0.2 * math.log(0.1) + 0.8 * math.log(0.8))) / 2)
    assert values["survivors"] == pytest.approx((2 + 1) / 2)  # of more than 1/8, and of more than 1/10
    assert [values[f"mass_{band}"] for band in BANDS] == pytest.approx([(0.5 + 0.8) / 2, (0.5 + 0.2) / 2, 0.0])
    assert slot_divergence(found, truth, bands, BANDS) == {}  # infinite: a good that is never sold
    parts = slot_divergence(law[1:], truth[1:], bands[1:], BANDS)
    assert parts["kl"] == pytest.approx(0.4 * math.log(2) + 0.6 * math.log(0.75))
    assert parts["kl"] == pytest.approx(sum(parts[f"kl_{band}"] for band in BANDS))


def test_survivors_of_an_exact_learner_are_the_values_it_saw() -> None:
    language = Planted(contexts=5, values=64, seed=6)
    counts = np.zeros((5, 64))
    for words in map(str.split, drawn(language, 400)):
        counts[language.towns.index(words[TOWN_PLACE]), language.goods.index(words[SLOT_PLACE])] += 1
    n = counts.sum(axis=1)
    sums = slot_sums(counts / n[:, None], language.slot_law, language.slot_bands, BANDS, n)
    assert sums["survivors"] == (counts > 0).sum(axis=1).tolist()


def test_divergence_and_recall_by_hand() -> None:
    truth, model = np.array([-1.0, -2.0, -3.0, -1.0]), np.array([-2.0, -2.5, -3.0, -0.5])
    sums = divergence_sums(truth, model, np.array([0, 1, 2, 0]), BANDS)
    values = divergence_values(sums, BANDS)
    assert values["kl"] == pytest.approx(0.25)
    assert values["kl_se"] == pytest.approx(np.std([1, 0.5, 0, -0.5], ddof=1) / 2)
    assert [values[f"kl/{band}"] for band in BANDS] == pytest.approx([0.5 / 4, 0.5 / 4, 0])
    assert values["impossible"] == 0
    sums = divergence_sums(truth, np.array([-2.0, -math.inf, -3.0, -0.5]), np.array([0, 1, 2, 0]), BANDS)
    assert divergence_values(sums, BANDS) == {"impossible": 0.25}
    assert json.loads(json.dumps(sums, allow_nan=False)) == sums
    seen = np.array([0, 1, 2, 5, 6, 50, 51])
    found = recall_sums(np.linspace(0.1, 0.7, 7), np.array([0, 0, 1, 0, 1, 1, 1], bool), seen)
    assert {name: part["facts"] for name, part in found.items()} == {"0": 1, "1": 1, "2-5": 2, "6-50": 2, ">50": 1}
    means = recall_values(found)
    assert means["recall/2-5"] == pytest.approx(0.35)
    assert means["recall_accuracy/2-5"] == 0.5


def levenshtein(a: Sequence[int], b: Sequence[int]) -> int:
    """By its recursive definition."""

    @functools.cache
    def of(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return of(len(a), len(b))


@given(st.lists(st.tuples(*[st.lists(st.integers(0, 3), max_size=8)] * 2), min_size=1, max_size=5))
def test_edit_distances_are_levenshteins_over_the_longer_length(pairs: list[tuple[list[int], list[int]]]) -> None:
    rows = np.array([[row + [-1] * (8 - len(row)) for row in pair] for pair in pairs])
    wanted = [levenshtein(a, b) / max(len(a), len(b), 1) for a, b in pairs]
    assert edit_distances(rows[:, 0], rows[:, 1]) == pytest.approx(wanted)


def test_expressions_by_hand() -> None:
    language = Logic(depth=1)
    texts = ["( not False ) .", "( not False ) .", "( not True ) .", "( True and True )", ") True . . ."]
    values = [parsed.value if (parsed := language.parse(text)) else None for text in texts]
    found = expression_values(expression_sums(values, language.numbered(texts)))
    wanted = {"syntax": 4 / 5, "correct": 3 / 5, "distinct": 4 / 5, "edit_distance": (0 + 1 / 4 + 2 / 5 + 4 / 5) / 4}
    assert found == pytest.approx(wanted)


# --- a chain ----------------------------------------------------------------------------------------------------------


def smoke(name: str, folder: Path, **sections: dict[str, Any]) -> RunConfig:
    config = dataclasses.replace(
        config_from(ROOT / "configs" / f"{name}_smoke.yaml"), runs_dir=str(folder), device="cpu", progress=False
    )
    changed = {key: dataclasses.replace(getattr(config, key), **values) for key, values in sections.items()}
    return dataclasses.replace(config, **changed)


Ran = tuple[RunConfig, Chain, Corpus, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    config = smoke("planted", tmp_path_factory.mktemp("planted"))
    root, rows = run(config)
    return config, Chain(root), prepare(config.corpus), rows


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    config = dataclasses.replace(smoke("facts", tmp_path_factory.mktemp("facts")), generations=1)
    root, rows = run(config)
    return config, Chain(root), prepare(config.corpus), rows


def test_history_equals_a_slow_count(planted: Ran) -> None:
    config, chain, corpus, _ = planted
    language = language_of(config.corpus)
    assert isinstance(language, Planted)
    found, names = document_counts(config, chain, 2, corpus, language), corpus.tokenizer.hf.convert_ids_to_tokens
    for g in range(3):
        blocks = np.fromfile(chain.stage(g, "mixture") / "blocks.bin", "<i8").reshape(-1, 2)
        data = sets.TrainingSet(config, chain, g, corpus.train)
        counts = {"real": Counter[str](), "synthetic": Counter[str]()}
        for i in range(len(data)):
            town = names(data[np.array([i])][0].tolist())[1 + TOWN_PLACE]
            counts["real" if blocks[i, 0] == sources.REAL else "synthetic"][town] += 1
        assert found.real[g].tolist() == [counts["real"][town] for town in language.towns]
        assert found.synthetic[g].tolist() == [counts["synthetic"][town] for town in language.towns]
        assert found.real[g].sum() + found.synthetic[g].sum() == 400
        written = samples_of(chain.stage(g, "samples")).reshape(-1, 13).tolist()
        towns = Counter(names(row)[1 + TOWN_PLACE] for row in written)
        assert found.written[g].tolist() == [towns[town] for town in language.towns]
    assert found.real[1].sum() == 100  # alpha = 0.25


def test_the_planted_scores_are_those_of_plain_transformers(planted: Ran) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, chain, corpus, rows = planted
    language = language_of(config.corpus)
    assert isinstance(language, Planted)
    folder = chain.stage(2, "train")
    net, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = drawn(language, 200, "test")
    ids = torch.tensor(tokenizer([tokenizer.bos_token + " " + text for text in texts])["input_ids"])
    assert ids.shape == (200, 13)
    assert tokenizer.decode(ids[0, 1:]) == texts[0]
    with torch.no_grad():
        log_p = net(ids).logits.double().log_softmax(-1)
    nll = -log_p[:, :-1].gather(-1, ids[:, 1:, None]).sum((1, 2)).numpy()
    lost = language.log_probabilities(texts) + nll
    metrics = rows[2]["metrics"]
    assert metrics["truth/kl"] == pytest.approx(lost.mean(), rel=1e-5)
    assert metrics["truth/kl_se"] == pytest.approx(lost.std(ddof=1) / math.sqrt(200), rel=1e-4)
    assert metrics["truth/kl"] == pytest.approx(sum(metrics[f"truth/kl/{band}"] for band in BANDS))
    assert metrics["truth/entropy"] == language.entropy

    places = torch.tensor([[words.split(" ")[TOWN_PLACE] == town for town in language.towns] for words in texts])
    first = places.int().argmax(0)  # a document of each town
    assert bool(places.any(0).all())
    goods = tokenizer.convert_tokens_to_ids(language.goods)
    law = log_p[first, SLOT_PLACE].exp()[:, goods].numpy()
    assert metrics["truth/slot/leak"] == pytest.approx(1 - law.sum(1).mean(), abs=1e-6)
    law /= law.sum(1, keepdims=True)
    ratio = (1 - (law**2).sum(1)) / (1 - (language.slot_law**2).sum(1))
    assert metrics["truth/slot/diversity"] == pytest.approx(ratio.mean(), rel=1e-5)
    sums = read_json(chain.stage(2, "eval") / "eval.json")["sums"]["truth/slot"]
    found = document_counts(config, chain, 2, corpus, language)
    assert sums["documents"] == (found.real[2] + found.synthetic[2]).tolist()


def test_validity_is_the_share_of_samples_that_the_language_can_say(planted: Ran) -> None:
    config, chain, corpus, rows = planted
    language = language_of(config.corpus)
    assert isinstance(language, Planted)
    for g in range(3):
        texts = corpus.tokenizer.decode(samples_of(chain.stage(g, "samples")).reshape(-1, 13)[:, 1:].tolist())
        good = [all(word in place for word, place in zip(t.split(" "), language.places, strict=True)) for t in texts]
        assert rows[g]["metrics"]["truth/validity"] == np.mean(good)
        assert 0 < np.mean(good) < 1
    reference = read_json(chain.root / "reference" / "eval.json")["metrics"]
    wanted = {"validity": 1, "kl": 0, "slot/diversity": 1, "slot/drift": 0, "slot/survivors": 16, "slot/leak": 0}
    assert {key: reference[f"truth/{key}"] for key in wanted} == pytest.approx(wanted, abs=1e-12)


def test_recall_goes_by_how_often_a_fact_was_stated(facts: Ran) -> None:
    config, chain, corpus, rows = facts
    language = language_of(config.corpus)
    assert isinstance(language, Facts)
    data = sets.TrainingSet(config, chain, 0, corpus.train)
    text = " ".join(corpus.tokenizer.decode(data[np.arange(len(data))][:, 1:].tolist()))
    stated = [
        sum(text.count(language.sentence(person, attribute, wording)) for wording in range(4))
        for person in range(24)
        for attribute in range(len(ATTRIBUTES))
    ]
    sums = read_json(chain.stage(1, "eval") / "eval.json")["sums"]["truth/recall"]
    limits = {"0": (0, 0), "1": (1, 1), "2-5": (2, 5), "6-50": (6, 50), ">50": (51, 10**9)}
    for name, (low, high) in limits.items():
        assert sums[name]["facts"] == sum(low <= n <= high for n in stated)

    model = network.load(str(chain.stage(1, "train")))
    every = {language.sentence(p, a, w) for p, a, w in itertools.product(range(24), range(len(ATTRIBUTES)), range(4))}
    total = 0.0
    for head, answer in zip(*language.questions(), strict=True):
        assert f"{head} {answer} ." in every
        (ids, _), (wanted, _) = corpus.tokenizer.encode([head, answer])
        with torch.no_grad():
            logits = model.logits(torch.tensor([[corpus.tokenizer.separator, *ids]]))[0, -1]
        total += float(logits.double().softmax(-1)[wanted[0]])
    assert sum(part["probability"] for part in sums.values()) == pytest.approx(total, rel=1e-5)
    frequent = rows[0]["metrics"]["truth/recall/>50"]
    assert frequent > 2 * rows[0]["metrics"]["truth/recall/0"]


def test_the_recorded_numbers_of_a_language_are_a_line_of_json(planted: Ran, facts: Ran) -> None:
    for _, chain, _, rows in (planted, facts):
        lines = (chain.root / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["metrics"] for line in lines] == [row["metrics"] for row in rows]
        assert all(math.isfinite(v) for row in rows for k, v in row["metrics"].items() if k.startswith("truth/"))


def test_bytes_in_packed_blocks_have_every_score_that_needs_no_word_tokens(tmp_path: Path) -> None:
    config = smoke(
        "planted",
        tmp_path,
        corpus={"tokenizer": "bytes", "documents": 1000},
        training={"block": 128, "epochs": 3},
        mixing={"unit": "tokens", "tokens": 25600},
        sampling={"prompt": "first_token"},
    )
    root, rows = run(dataclasses.replace(config, generations=0))
    found = {key for key in rows[0]["metrics"] if key.startswith("truth/")}
    assert found >= {"truth/kl", "truth/kl_se", "truth/entropy", *(f"truth/kl/{band}" for band in BANDS)}
    assert not [key for key in found if key.startswith("truth/slot/")]
    corpus = prepare(config.corpus)
    texts = written_documents(config, corpus, Chain(root).stage(0, "samples"))
    whole = samples_of(Chain(root).stage(0, "samples")).reshape(-1, 128)
    assert len(texts) == sum(max(0, int((row == 256).sum()) - 1) for row in whole) > 0
    assert not any("\n\n" in text for text in texts)


def test_a_chain_of_expressions_is_scored_from_its_samples_alone(tmp_path: Path) -> None:
    config = smoke(
        "planted",
        tmp_path,
        corpus={"source": "logic", "planted": PlantedConfig(), "documents": 400, "logic": LogicConfig(depth=2)},
        training={"block": 14},
        mixing={"tokens": 200 * 14, "regime": "incremental", "schedule": None, "replaced": 0.5},
        sampling={"prompt": "bos"},
    )
    root, rows = run(dataclasses.replace(config, generations=1))
    corpus, language = prepare(config.corpus), language_of(config.corpus)
    assert isinstance(language, Logic)
    for g, row in enumerate(rows):
        found = row["metrics"]
        texts = written_documents(config, corpus, Chain(root).stage(g, "samples"))
        reads = [language.parse(text) for text in texts]
        assert found["truth/syntax"] == np.mean([read is not None for read in reads]) > 0
        assert found["truth/correct"] == np.mean([read is not None and read.value for read in reads])
        assert (
            found["truth/validity"] == np.isfinite(language.log_probabilities(texts)).mean() <= found["truth/correct"]
        )
        assert 0 < found["truth/distinct"] <= 1 and 0 < found["truth/edit_distance"] < 1 and found["truth/kl"] > 0
    real = read_json(Chain(root).root / "reference" / "eval.json")["metrics"]
    assert (real["truth/syntax"], real["truth/correct"], real["truth/validity"]) == (1, 1, 1)
    assert real["truth/edit_distance"] == pytest.approx(0.487, abs=0.05)  # of 4,000 draws
