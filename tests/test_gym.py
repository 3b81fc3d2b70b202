"""Problems of reasoning-gym as a corpus and a task: documents, streams, the checker, data sets that are refused, a chain."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Lab
from helpers import undrawn
from kill_again import import_lab, kill_chains, quick_folder

from collapselab.config import CorpusConfig, RunConfig, UserError
from collapselab.config.identity import identity
from collapselab.config.keys import from_tree
from collapselab.corpus.prepared import prepare
from collapselab.languages import gym
from collapselab.mixing.sets import read_samples
from collapselab.seeds import derive
from collapselab.store.layout import read_metrics
from collapselab.tasks.tasks import CORRECT, UNREADABLE, WRONG, Task, task_of

factory = pytest.importorskip("reasoning_gym.factory", reason="the extra gym is not installed: it needs a C compiler")
DATASETS, create_dataset = factory.DATASETS, factory.create_dataset

EASY = {"max_terms": 2, "max_digits": 1, "operators": ["+", "-"], "allow_parentheses": False}


@pytest.fixture(autouse=True)
def no_drawings() -> Any:
    with undrawn():
        yield


def corpus(name: str, documents: int = 50, **keys: Any) -> CorpusConfig:
    return from_tree(CorpusConfig, {"source": f"gym:{name}", "documents": documents, "gym": keys})


def task(name: str, documents: int = 50, **keys: Any) -> Task:
    found = task_of(corpus(name, documents, **keys))
    assert found is not None
    return found


def drawn(name: str, count: int, split: str = "train", **keys: Any) -> list[str]:
    return list(gym.gym_of(corpus(name, **keys)).documents(count, split))


# --- documents --------------------------------------------------------------------------------------------------------


def test_a_document_is_a_problem_and_its_answer_in_fields() -> None:
    texts = drawn("basic_arithmetic", 200, problem=40, answer=9, options=EASY)
    for text in texts:
        found = re.fullmatch(r"( *)Calculate (\d+) ([+-]) (\d+)\.\nAnswer: (-?\d+)(\n\n+)", text)
        assert found, text
        assert len(text.encode()) == 49 and text.index("Answer: ") == 32
        first, sign, second, answer = found.groups()[1:5]
        assert int(answer) == int(first) + int(second) * (-1 if sign == "-" else 1)
    assert len(set(texts)) > 100


def test_fields_are_bytes_and_a_problem_may_have_lines_of_its_own() -> None:
    texts = drawn("rotate_matrix", 20, problem=420, answer=210)
    assert {len(text.encode()) for text in texts} == {630} and any("\n" in gym.parse(text).answer for text in texts)  # type: ignore[union-attr]
    sums = drawn("prime_factorization", 5, problem=200, answer=60)  # whose problems are no ASCII
    assert {len(text.encode()) for text in sums} == {260} != {len(text) for text in sums}
    corpus_of = prepare(corpus("prime_factorization", 30, problem=200, answer=60), block=261)
    assert corpus_of.tokenizer.name == "bytes" and set(np.diff(corpus_of.train.starts)) == {261}
    rows = np.asarray(corpus_of.train.ids).reshape(-1, 261)
    assert corpus_of.tokenizer.decode(rows[:5, 1:].tolist()) == sums


def test_streams_continue_and_never_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym, "CHUNK", 16)
    begun: list[int] = []
    opened = gym.data_set

    def recorded(name: str, options: str, seed: int) -> Any:
        if seed:  # 0 is the checker's
            begun.append(seed)
        return opened(name, options, seed)

    monkeypatch.setattr(gym, "data_set", recorded)
    by_split = {}
    for split in gym.SPLITS:
        before = len(begun)
        texts = drawn("chain_sum", 100, split, problem=120)
        assert texts[:37] == drawn("chain_sum", 37, split, problem=120)
        by_split[split] = {seed + place for seed in begun[before:] for place in range(16)}
        assert len(by_split[split]) == 7 * 16 and max(by_split[split]) < 2**32
    train, valid, test = by_split.values()
    assert not train & valid and not train & test and not valid & test
    assert drawn("chain_sum", 9, problem=120) != drawn("chain_sum", 9, problem=120, seed=1)


def test_documents_are_what_the_package_makes() -> None:
    (text,) = drawn("gcd", 1, "valid", problem=120, seed=3)
    entry = create_dataset("gcd", seed=(derive(3, 0, "gym") + 1) % 2**20 * 4096, size=1)[0]
    assert text.strip() == f"{entry['question']}\nAnswer: {entry['answer']}"


# --- answers ----------------------------------------------------------------------------------------------------------


def test_answers_are_read_and_checked() -> None:
    keys = {"problem": 40, "answer": 9, "options": EASY}
    sums, texts = task("basic_arithmetic", 50, **keys), drawn("basic_arithmetic", 50, **keys)
    answers = [re.search(r"Answer: (-?\d+)", text)[1] for text in texts]  # type: ignore[index]
    assert sums.answers(texts) == answers and sums.classes(texts).tolist() == [CORRECT] * 50
    assert sums.prompts(texts) == [text.lstrip(" ")[: text.lstrip(" ").index(": ") + 2] for text in texts]
    assert sums.asks and sums.shares == (0, 1, 0)
    assert sums.difficulty(texts).tolist() == [3] * 50  # two terms, one digit
    head, answer = texts[0][:40], answers[0]
    cases = {
        f"{answer}\n\n": CORRECT,
        f"{answer}\n\n17\n\n": CORRECT,
        f"{answer}1\n\n": WRONG,
        f"{answer}\n1\n\n": WRONG,
        f"{answer}\nAnswer: 1\n\n": WRONG,
        "\ufffd\n\n": WRONG,
        "\n\n\n": UNREADABLE,
        answer: UNREADABLE,
        f"{answer}\n": UNREADABLE,
        "": UNREADABLE,
    }
    found = sums.read([head + text for text in cases])
    assert [one.kind for one in found] == list(cases.values())
    assert [one.answer == "" for one in found] == [kind == UNREADABLE for kind in cases.values()]
    assert {one.difficulty for one in found} == {3}
    for other in ("", "Calculate 1 + 1.", f"Calculate 77 + 1.\nAnswer: {answer}\n\n", f"\nAnswer: {answer}\n\n"):
        assert sums.read([other])[0] == ("", UNREADABLE, -1)
    held_out = drawn("basic_arithmetic", 3, "test", **keys)
    assert sums.classes(held_out).tolist() == [CORRECT] * 3  # 3 of the 5 that the corpus has


def test_the_checker_is_the_data_set_s_own() -> None:
    """A problem with many correct answers, and partial scores for others."""
    palindromes, (text,) = task("palindrome_generation", problem=480), drawn("palindrome_generation", 1, problem=480)
    problem, answer = gym.parse(text)  # type: ignore[misc]
    letters = list(answer)
    half = len(letters) // 2
    letters[:half], letters[-half:] = letters[:half][::-1], letters[-half:][::-1]
    other = "".join(letters)
    assert other != answer and sorted(other) == sorted(answer)
    entry = gym.problems(gym.gym_of(corpus("palindrome_generation", problem=480)), (("train", 1),)).find(problem)
    assert entry is not None
    score = create_dataset("palindrome_generation", seed=9, size=1).score_answer
    partial = answer[::-1][:-1] + ("z" if answer[0] != "z" else "y")
    assert score(other, entry) == 1 and 0 < score(partial, entry) < 1
    texts = [text.replace(f"Answer: {answer}", f"Answer: {one}") for one in (other, partial)]
    assert palindromes.classes(texts).tolist() == [CORRECT, WRONG]


def test_a_problem_whose_own_answer_fails_is_left_out() -> None:
    """base_conversion writes 0 as nothing: about one problem in 1500."""
    of = gym.gym_of(corpus("base_conversion", problem=220, answer=20))
    bad = next(n for n in range(1000) if of.entry("train", n)["answer"] == "")
    stream = gym.Stream(of, "train", bad + 1)
    entries = list(stream)
    assert len(entries) == bad + 1 and all(e["answer"] for e in entries) and stream.number == bad + 2
    found = task("base_conversion", bad + 1, problem=220, answer=20)
    assert found.classes([of.document(entries[-1], "train")]).tolist() == [CORRECT]


def test_a_search_that_is_interrupted_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"problem": 120}
    texts = drawn("gcd", 40, **keys)
    found, real = gym.Problems(gym.gym_of(corpus("gcd", **keys)), (("train", 40),)), gym.Gym.correct

    def late(self: gym.Gym, answer: str, entry: dict[str, Any]) -> bool:
        if entry["metadata"]["source_index"] == 7:
            raise KeyboardInterrupt
        return real(self, answer, entry)

    last = gym.parse(texts[-1])
    assert last is not None
    with monkeypatch.context() as patch:
        patch.setattr(gym.Gym, "correct", late)
        with pytest.raises(KeyboardInterrupt):
            found.find(last.problem)
    assert found.find(last.problem) is not None and all(found.find(gym.parse(t).problem) for t in texts)  # type: ignore[union-attr]


# --- data sets --------------------------------------------------------------------------------------------------------

HOSTILE = (
    "__import__('os').mkdir('ran')",
    "[[__import__('os').mkdir('ran')]]",
    "1e999999999",
    "9**9**9**9",
    "(((((",
    "²",
)


def outcome(name: str, answer: str, entry: dict[str, Any]) -> str:
    """What a checker does with an answer, in a process of its own."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)
        try:
            score = gym.data_set(name, "{}", 0).score_answer(answer, entry)
            said = "correct" if score == 1 and answer != entry["answer"] else "fine"
        except Exception:
            said = "fine"
        os.write(writer, (said if not Path("ran").exists() else "ran").encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    if Path("ran").exists():
        Path("ran").rmdir()
    return said or "hangs"


def test_refused_data_sets_are_refused_and_no_others() -> None:
    assert set(gym.REFUSED) < set(DATASETS)
    for name in DATASETS:
        if name in gym.REFUSED:
            with pytest.raises(UserError, match=re.escape(gym.REFUSED[name])) as caught:
                gym.gym_of(corpus(name))
            assert len(str(caught.value)) < 200
        else:
            assert gym.gym_of(corpus(name)).name == name


@pytest.mark.parametrize(
    "name", ["lcm", "needle_haystack", "n_queens", "word_sorting", "time_intervals", "mini_sudoku"]
)
def test_a_checker_that_runs_text_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entry = gym.data_set(name, "{}", 4096)[0]
    assert ("ran" in {outcome(name, text, entry) for text in HOSTILE[:2]}) == (name in gym.REFUSED)


HANGS = {name for name, why in gym.REFUSED.items() if why == gym.RUNS_CODE} | {"coin_flip"}
PROGRAM = """
import json, sys
from collapselab.languages import gym
sets = {name: gym.data_set(name, "{}", 4096) for name in json.load(sys.stdin)}
many = lambda name: 60 if gym.REFUSED.get(name) == gym.VARIES else 2
print("\\n" + json.dumps({name: [str(sets[name][n]) for n in range(many(name))] for name in sets}))
"""


@pytest.fixture(scope="module")
def twice() -> list[dict[str, list[str]]]:
    """Entries of every data set, made by two processes with other hashes of text."""
    names = json.dumps(sorted(set(DATASETS) - {"composite", "knight_swap"}))
    out = []
    for seed in ("1", "2"):
        keys = {"input": names, "capture_output": True, "text": True, "check": True}
        ran = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | {"PYTHONHASHSEED": seed}, **keys)  # type: ignore[call-overload]
        out.append(json.loads(ran.stdout.splitlines()[-1]))  # one of them prints dots
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"composite", "knight_swap"}))
def test_every_data_set_is_a_task_or_refused_for_its_reason(
    name: str, twice: list[dict[str, list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The long form: pytest -m slow tests/test_gym.py. Not knight_swap, whose problems take half a second each."""
    monkeypatch.chdir(tmp_path)
    reason, entry = gym.REFUSED.get(name), gym.data_set(name, "{}", 4096)[0]
    differs = twice[0][name] != twice[1][name]
    assert differs == (reason == gym.VARIES or name == "polynomial_multiplication")
    assert (entry["answer"] is None) == (reason == gym.SILENT)
    if reason != gym.SILENT:
        does = {outcome(name, text, entry) for text in HOSTILE}
        assert ("ran" in does) == (reason == gym.RUNS_CODE) and ("hangs" in does) == (name in HANGS), does
    if reason == gym.LAX:
        lies = ("nan", "no answer at all")
        entries = [gym.data_set(name, "{}", 4096)[n] for n in range(20)]
        assert any(outcome(name, text, one) == "correct" for text in lies for one in entries)
    if reason is None:
        keys = {"problem": 60000, "answer": 20000}
        texts, found = drawn(name, 2, **keys), task(name, 2, **keys)
        assert found.classes(texts).tolist() == [CORRECT] * 2 and (found.difficulty(texts) >= 0).all()


# --- settings ---------------------------------------------------------------------------------------------------------


def test_options_are_one_key_and_older_chains_keep_their_identity() -> None:
    assert not [key for key in identity(RunConfig()) if "gym" in key]
    config = from_tree(RunConfig, {"corpus": {"source": "gym:gcd", "gym": {"options": {"max_value": 9}}}})
    assert identity(config)["corpus.gym.options"] == {"max_value": 9}


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("corpus.gym.problem=64: only corpus.source=gym:NAME has it", ("--corpus.gym.problem=99",)),
        ("did you mean 'basic_arithmetic'", ("--corpus.source=gym:basic_aritmetic",)),
        ("name one of its 106, such as", ("--corpus.source=gym:zzzzz",)),
        ("corpus.gym.options='x': must be a mapping", ("--corpus.source=gym:gcd", "--corpus.gym.options=x")),
        (
            "corpus.gym.answer=4: one of test takes 5 bytes (its first 50: up to 5)",
            ("--corpus.source=gym:gcd", "--corpus.gym.answer=4"),
        ),
        ("only corpus.source=planted or facts", ("--corpus.source=gym:gcd", "--corpus.tokenizer=words")),
        ("corpus.joiner", ("--corpus.source=gym:gcd", "--corpus.joiner=x")),
    ],
)
def test_settings_that_cannot_work(said: str, changes: tuple[str, ...], lab: Lab, tmp_path: Path) -> None:
    code, _, err = lab("run", f"--runs-dir={tmp_path}", "--corpus.gym.problem=120", *changes)
    if "only corpus.source=gym" in said:
        code, _, err = lab("run", f"--runs-dir={tmp_path}", *changes)
        said = said.replace("64", "99")
    assert code == 2 and said in err and err.count("\n") == 1, err


# --- a chain ----------------------------------------------------------------------------------------------------------

QUICK = (
    "run", f"--config={ROOT}/configs/gym.yaml", "--progress=false", "--generations=1", "--corpus.documents=2000",
    "--model.layers=1", "--model.width=32", "--model.heads=2", "--training.epochs=4", "--training.batch-size=16",
    "--mixing.tokens=59200", "--evaluation.tokens=1024", "--sampling.batch-size=64", "--sampling.tokens=59200",
)  # fmt: skip


def test_a_judged_chain_on_problems_recounted_from_its_files(lab: Lab, tmp_path: Path) -> None:
    code, _, err = lab(*QUICK, f"--runs-dir={tmp_path}", "--judging.fpr=0.2", "--judging.second=64")
    assert code == 0, err
    chain = tmp_path / "gym" / "arm=main" / "seed=1"
    language = gym.gym_of(corpus("basic_arithmetic", problem=30, answer=6, options=EASY))
    real = set(language.documents(2000, "train"))
    for g, row in enumerate(read_metrics(chain)):
        ids, found = read_samples(chain / f"gen_{g:03d}" / "samples").reshape(-1, 37), row["metrics"]
        texts = [bytes(part).decode(errors="replace") for part in np.where(ids > 255, 10, ids)[:, 1:].astype(np.uint8)]
        parsed = [re.match(r" *Calculate (\d+) ([+-]) (\d+)\.\nAnswer: ([^\n]*(?:\n[^\n]+)*)(\n\n)?", t) for t in texts]
        assert all(parsed) and {text[:30] for text in texts} <= {text[:30] for text in real}
        right = [bool(m[5]) and m[4] == str(int(m[1]) + int(m[3]) * (1 if m[2] == "+" else -1)) for m in parsed if m]
        assert found["truth/task/correct"] == np.mean(right) > 0 and found["truth/task/hack"] == 0
        groups = np.array(right).reshape(-1, 8)
        assert (ids[:, :31].reshape(-1, 8, 31) == ids[::8, None, :31]).all()
        assert np.mean(right) / 2 < found["task/pass_at_1"] < found["task/pass_at_8"] <= 1
        assert found["task/pass_at_8"] >= groups.any(1).mean() - 0.01  # as problems recur, with more answers to each
        scores = np.fromfile(chain / f"gen_{g:03d}" / "judged" / "scores.bin", "<f8")[: len(right)]
        assert (scores[np.array(right)] == 1).all()
        assert found["judge/tpr"] == 1 and found["judge/fpr"] == pytest.approx(scores[~np.array(right)].mean())
        assert {"judge/second/j", "task/maj_at_8", "task/diversity_correct"} <= found.keys()
        assert not {"truth/kl", "truth/validity", "truth/entropy"} & found.keys()
    shown = json.loads((chain / "gen_001/samples/continuations.json").read_text())
    assert shown["prompt_length"] == 31  # a whole problem
    metrics = json.loads((chain / "reference" / "eval.json").read_text())["metrics"]
    assert {k: v for k, v in metrics.items() if k.startswith("truth")} == {
        "truth/task/correct": 1, "truth/task/hack": 0, "truth/task/unreadable": 0,
    }  # fmt: skip
    code, _, err = lab(*QUICK, f"--runs-dir={tmp_path}", "--judging.judges=[valid]", "--name=other")
    assert code == 2 and "valid needs a known language" in err


def test_a_majority_votes_on_answers(lab: Lab, tmp_path: Path) -> None:
    asked = ("--judging.judges=[majority]", "--generations=0", "--judging.second=0", "--judging.threshold=0.1")
    code, _, err = lab(*QUICK, f"--runs-dir={tmp_path}", *asked)
    assert code == 0, err
    folder = tmp_path / "gym" / "arm=main" / "seed=1" / "gen_000"
    rows, scores = read_samples(folder / "samples").reshape(-1, 37), np.fromfile(folder / "judged/scores.bin", "<f8")
    texts = [bytes(np.where(row > 255, 10, row)[1:].astype(np.uint8)).decode(errors="replace") for row in rows]
    answers = [text.partition("Answer: ")[2].partition("\n\n")[0] if "\n\n" in text else "" for text in texts]
    for i in range(0, len(texts), 8):  # a prompt's problem may come again, and its votes are then counted together
        same = [j for j in range(len(texts)) if texts[j][:30] == texts[i][:30]]
        votes = {a: sum(answers[j] == a for j in same) for a in {answers[j] for j in same} - {""}}
        best = [a for a, n in votes.items() if n == max(votes.values())]
        assert [scores[j] for j in range(i, i + 8)] == [
            1 / len(best) if answers[j] in best else 0 for j in range(i, i + 8)
        ]


def test_a_chain_on_problems_that_is_killed_ends_with_the_same_bytes() -> None:
    import_lab()
    asked = [*QUICK[1:], "--judging.fpr=0.3", "--judging.second=64", "--training.checkpoint-steps=7"]
    asked += ["--training.checkpoint-seconds=0.05", "--training.epochs=1"]
    with quick_folder() as root:
        result = kill_chains(Path(root), 6, 3, True, asked)
    assert result["kills"] >= 6
