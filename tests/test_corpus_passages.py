"""Held-out text is new text: passages that also stand in the training text are cut out of it, and what is left is said."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from test_corpus import check, opened, own_cache, texts, write  # noqa: F401 - a fixture

from collapselab.config import CorpusConfig, UserError
from collapselab.corpus import passages
from collapselab.corpus.passages import STRIDE, WINDOW, Passages
from collapselab.corpus.prepared import prepare
from collapselab.models import pretrained

ROOT = Path(__file__).parents[1]
ALWAYS = WINDOW + STRIDE - 1  # letters of a passage that is always found


def words(seed: int, count: int = 60) -> str:
    """Text that no other seed writes."""
    chance = random.Random(seed)
    return " ".join("".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 9))) for _ in range(count))


def letters(seed: int, count: int) -> str:
    return "".join(random.Random(seed).choices("qrstuvwxyz", k=count))


def files(tmp_path: Path, **split: Any) -> Path:
    for name, documents in split.items():
        rows = documents if isinstance(documents, list) else [documents]
        write(tmp_path / "text" / f"{name}.jsonl", "".join(json.dumps({"text": row}) + "\n" for row in rows))
    return tmp_path / "text" / "*"


@pytest.mark.parametrize("tokenizer", ["bpe", "gpt2"])
def test_no_fifty_tokens_of_the_default_held_out_text_stand_in_its_training_text(tokenizer: str) -> None:
    cut = prepare(CorpusConfig(tokenizer=tokenizer))
    check(cut)
    shared = cut.facts["shared_passages"]
    assert shared["valid"]["left"] == shared["test"]["left"] == 0
    assert {name: (part["passages"], part["bytes"], part["documents"]) for name, part in shared.items()} == {
        "valid": (206, 51797, 11),
        "test": (66, 13589, 13),
    }
    whole = prepare(CorpusConfig(tokenizer=tokenizer, shared_passages="keep"))
    assert whole.facts["shared_passages"]["test"]["left"] > 0.003 < whole.facts["shared_passages"]["valid"]["left"]
    assert whole.train.ids.tobytes() == cut.train.ids.tobytes()
    for name in ("valid", "test"):
        sizes = [corpus.facts["splits"][name]["bytes"] for corpus in (whole, cut)]
        assert sizes[0] - sizes[1] == shared[name]["bytes"] < 0.06 * sizes[0]
    assert whole.train_digest == cut.train_digest and whole.digest != cut.digest


def test_the_base_model_has_seen_the_training_text_alone(tmp_path: Path) -> None:
    base = str(ROOT / "data" / "base")
    assert pretrained.has_seen_only(base, prepare(CorpusConfig()))
    assert pretrained.has_seen_only(base, prepare(CorpusConfig(shared_passages="keep")))
    assert not pretrained.has_seen_only(base, prepare(CorpusConfig(tokenizer="bytes")))
    corpus = opened(files(tmp_path, train=words(1), valid=words(2), test=words(3)))
    for facts, seen in (
        ({"training_text": corpus.train_digest}, True),
        ({"training_text": "0" * 64}, False),
        ({}, False),
    ):
        write(tmp_path / "model" / "collapselab.json", json.dumps(facts))
        write(tmp_path / "model" / "config.json", "{}")
        assert pretrained.has_seen_only(str(tmp_path / "model"), corpus) is seen


def test_a_copied_passage_is_cut_out_and_its_surroundings_are_documents_of_their_own(
    own_cache: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    a, b, c, shared = words(1), words(2), words(3), words(4, 30)
    train = [f"{a} {shared} {b}", c]
    source = files(
        tmp_path,
        train=train,
        valid=[f"{words(5)}\n\n{shared.upper()}, {words(6)}"],
        test=[words(7), f"{shared}. {words(8)}", words(9)],
    )
    corpus = opened(source)
    check(corpus)
    assert texts(corpus, "train") == train
    assert texts(corpus, "valid") == [words(5), words(6)]  # the comma goes with the word before it
    assert texts(corpus, "test") == [words(7), words(8), words(9)]
    facts = corpus.facts["shared_passages"]
    assert [(facts[s]["passages"], facts[s]["documents"]) for s in ("valid", "test")] == [(1, 1), (1, 1)]
    assert facts["test"]["bytes"] == len(f"{shared}. ")
    assert texts(opened(source, shared_passages="keep"), "test")[1] == f"{shared}. {words(8)}"


def test_what_stands_in_valid_and_test_is_cut_from_valid(own_cache: Path, tmp_path: Path) -> None:  # noqa: F811
    shared = words(4, 30)
    corpus = opened(
        files(tmp_path, train=words(1), valid=f"{shared} {words(2)}", test=f"{words(3)} {shared} {words(5)}")
    )
    assert texts(corpus, "valid") == [words(2)]
    assert texts(corpus, "test") == [f"{words(3)} {shared} {words(5)}"]


@pytest.mark.parametrize("slice_", [1 << 20, 97])
@pytest.mark.parametrize("seed", range(20))
def test_passages_are_found_from_a_length_on_wherever_they_begin(
    monkeypatch: pytest.MonkeyPatch, seed: int, slice_: int
) -> None:
    monkeypatch.setattr(passages, "SLICE", slice_)
    chance = random.Random(seed)
    long, short = letters(seed, ALWAYS), letters(seed + 100, WINDOW - 1)
    held = f"{'A' * chance.randint(0, 30)} {words(1)} {long.upper()} {words(2)} {short} {words(3)}"
    training = f"{'b, ' * chance.randint(0, 30)}{words(4)} {'-'.join(long)} {words(5)} {short}! {words(6)}"
    found = Passages()
    found.remember("test", [words(7), held])
    found.look([words(8), training, words(9)], ("valid", "test"))
    assert found.cut("test", [words(7), held]) == [words(7), *held.split(f" {long.upper()} ")]
    assert found.removed["test"]["passages"] == 1


def test_documents_are_compared_one_by_one() -> None:
    """Neighbours in both texts are no passage: each is shorter than a window."""
    lines = [words(seed, 8) for seed in range(20)]
    found = Passages()
    found.remember("test", lines)
    found.look(lines, ("test",))
    assert found.cut("test", lines) == lines
    assert found.removed["test"] == {"passages": 0, "bytes": 0, "documents": 0}


def test_what_is_left_between_two_copies_is_a_window_at_least() -> None:
    first, second, own = words(1, 30), words(2, 30), words(3, 60)
    found = Passages()
    found.remember("test", [f"{own} {first} a word or two {second} {words(4)}"])
    found.look([f"{first} {words(5)} {second}"], ("test",))
    before, after = found.cut("test", [f"{own} {first} a word or two {second} {words(4)}"])
    assert before.startswith(own) and len(before) - len(own) <= 2 * STRIDE  # a copy's edge, where no window began
    assert after.endswith(words(4)) and len(after) - len(words(4)) <= 2 * STRIDE
    assert found.removed["test"]["passages"] == 2


def test_text_without_white_space_is_compared_too(own_cache: Path, tmp_path: Path) -> None:  # noqa: F811
    def signs(seed: int, count: int) -> str:
        return "".join(chr(random.Random(seed * 1000 + i).randint(0x4E00, 0x9FA0)) for i in range(count))

    shared = signs(1, 30)  # 30 ideographs say as much as 20 words
    corpus = opened(
        files(
            tmp_path,
            train=f"{signs(2, 80)}{shared}{signs(3, 80)}",
            valid=signs(4, 80),
            test=f"{signs(5, 80)}。{shared}。{signs(6, 80)}",
        )
    )
    left = "".join(texts(corpus, "test"))
    assert not any(shared[i : i + 15] in left for i in range(15))
    assert signs(5, 80)[:40] in left and signs(6, 80)[40:] in left


def test_splits_are_the_same_for_every_tokenizer(own_cache: Path, tmp_path: Path) -> None:  # noqa: F811
    documents = [f"{words(i)} {words(1000 + i % 7, 25)} {words(2000 + i)}" for i in range(80)]
    path = write(tmp_path / "a.txt", "\n".join(documents))
    found = [opened(path, document="line", tokenizer=name) for name in ("bytes", "gpt2", "bpe")]
    for name in ("train", "valid", "test"):
        assert texts(found[0], name) == texts(found[1], name) == texts(found[2], name)
        assert len({json.dumps(corpus.facts["text_digest"]) for corpus in found}) == 1
    assert found[0].facts["shared_passages"]["test"]["passages"] > 5
    assert all(corpus.facts["shared_passages"]["test"]["left"] == 0 for corpus in found[1:])


def test_known_languages_are_left_whole(own_cache: Path) -> None:  # noqa: F811
    found = prepare(CorpusConfig(source="planted", documents=300))
    assert found.facts["shared_passages"] is None
    assert found.digest == prepare(CorpusConfig(source="planted", documents=300, shared_passages="keep")).digest


def test_held_out_text_of_which_nothing_is_left_says_why(own_cache: Path, tmp_path: Path) -> None:  # noqa: F811
    source = files(tmp_path, train=[words(1), words(2), words(3)], valid=words(4), test=words(1)[5:] + " end")
    with pytest.raises(UserError, match=r"test split has 0 tokens.*also occur in other splits.*shared_passages"):
        opened(source)


@pytest.mark.parametrize("seed", range(3))
def test_the_share_left_is_that_of_a_plain_search(own_cache: Path, tmp_path: Path, seed: int) -> None:  # noqa: F811
    chance = random.Random(seed)
    train = [words(i, 200) for i in range(6)]
    held = [" ".join(chance.choice([words(100 + i, 30), train[i][100:400]]) for i in range(6)) for _ in range(4)]
    corpus = opened(files(tmp_path, train=train, valid=words(50), test=held), shared_passages="keep")
    training = bytes(1) + b"\x00".join(text.encode() for text in train)
    windows = [t.encode()[i : i + 50] for t in held for i in range(len(t.encode()) - 49)]
    assert corpus.facts["shared_passages"]["test"]["left"] == pytest.approx(
        sum(window in training for window in windows) / len(windows)
    )
