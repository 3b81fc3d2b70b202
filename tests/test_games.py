"""Games: their solutions beside independent ones, their text, the judge that plays on, and self-play from the rules alone."""

from __future__ import annotations

import functools
import json
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Lab

from collapselab.config import CorpusConfig, UserError
from collapselab.config.corpus import NimConfig, TicTacToeConfig
from collapselab.judging.episodes import Episodes
from collapselab.judging.play import play
from collapselab.languages.games import DRAW, LINES, LOSS, WIN, Game, Nim, TicTacToe
from collapselab.store.layout import read_metrics
from collapselab.tasks.tasks import CORRECT, UNREADABLE, WRONG, task_of

GAMES: tuple[Game, ...] = (
    Nim(correct=0.3),
    TicTacToe(correct=0.3),
    Nim(heaps=1, most=1),
    Nim(heaps=2, most=3, correct=1.0),
)


@pytest.mark.parametrize(("heaps", "most"), [(3, 7), (1, 5), (2, 4), (4, 3)])
def test_nim_is_won_where_the_heaps_do_not_cancel(heaps: int, most: int) -> None:
    """Bouton 1901: a position is lost if and only if the binary sum without carry of its heaps is 0."""
    game = Nim(heaps=heaps, most=most)
    assert len(game.positions) == (most + 1) ** heaps - 1
    for position in game.positions:
        total = functools.reduce(operator.xor, position)
        assert (game.values[position] == WIN) == (total != 0) and game.values[position] in (WIN, LOSS)
        best = [m for m in game.moves(position) if functools.reduce(operator.xor, game.after(position, m)) == 0]
        assert game.optimal(position) == (best if total else game.moves(position))


@functools.cache
def minimax(board: tuple[int, ...]) -> float:
    """Value to who moves, written independently: x has 1, o has 2."""
    mover = 1 + board.count(1) - board.count(2)
    if any(board[a] == board[b] == board[c] == 3 - mover for a, b, c in LINES):
        return 0.0
    free = [cell for cell in range(9) if board[cell] == 0]
    return max((1 - minimax((*board[:c], mover, *board[c + 1 :])) for c in free), default=0.5)


def test_tic_tac_toe_is_a_draw_and_its_positions_are_all_there() -> None:
    game = TicTacToe()
    assert len(game.values) == 5478 and len(game.positions) == 5478 - 958, (
        "positions, and those in which a game has ended"
    )
    assert game.values[(0,) * 9] == DRAW and all(value == minimax(board) for board, value in game.values.items())
    assert game.optimal((1, 1, 0, 2, 2, 0, 0, 0, 0)) == [(2,)] and game.optimal(
        (1, 0, 0, 0, 2, 0, 0, 0, 1)
    ) != game.moves((1, 0, 0, 0, 2, 0, 0, 0, 1))


@pytest.mark.parametrize("game", GAMES, ids=str)
def test_documents_have_their_exact_probabilities(game: Game) -> None:
    every = [game.document(position, move) for position in game.positions for move in game.moves(position)]
    logs = game.log_probabilities(every)
    p = np.exp(logs)
    assert p.sum() == pytest.approx(1) and len(set(every)) == len(every)
    assert -(p[p > 0] * logs[p > 0]).sum() == pytest.approx(game.entropy)
    drawn = list(game.documents(400, "train"))
    assert drawn[:50] == list(game.documents(50, "train")) and np.isfinite(game.log_probabilities(drawn)).all()
    assert {len(document.split()) for document in drawn} == {game.words_per_document}
    assert {word for document in drawn for word in document.split()} <= set(game.lexicon)
    for document in drawn:
        position, move = game.read(document)
        assert position is not None and move is not None and game.document(position, move) == document
    good = np.mean([move in game.optimal(position) for position, move in map(game.read, drawn) if position])
    assert abs(good - game.share_optimal) < 4 * np.sqrt(0.25 / 400)


@pytest.mark.parametrize(
    ("source", "text", "answer", "kind", "difficulty"),
    [
        ("nim", "3 5 2 : b 4 .", "b 4", CORRECT, 2),
        ("nim", "3 5 2 : b 1 .", "b 1", WRONG, 2),
        ("nim", "3 5 2 : c 3 .", "c 3", WRONG, 2),  # more than there are
        ("nim", "3 5 2 : c 0 .", "c 0", WRONG, 2),
        ("nim", "1 2 3 : a 1 .", "a 1", CORRECT, 0),  # every move loses
        ("nim", "3 5 2 : d 1 .", "", UNREADABLE, 2),
        ("nim", "3 5 2 : b 4 4", "", UNREADABLE, 2),
        ("nim", "0 0 0 : a 1 .", "", UNREADABLE, -1),
        ("nim", "3 5 : b 4 .", "", UNREADABLE, -1),
        ("tic_tac_toe", "x x - o o - - - - : 3 .", "3", CORRECT, 2),
        ("tic_tac_toe", "x x - o o - - - - : 1 .", "1", WRONG, 2),
        ("tic_tac_toe", "- - - - - - - - - : 9 .", "9", CORRECT, 1),
        ("tic_tac_toe", "x x x o o - - - - : 6 .", "", UNREADABLE, -1),  # is over
        ("tic_tac_toe", "x x - - - - - - - : 6 .", "", UNREADABLE, -1),  # cannot be reached
    ],
)
def test_moves_are_read_and_judged(source: str, text: str, answer: str, kind: int, difficulty: int) -> None:
    task = task_of(CorpusConfig(source=source))
    assert task is not None
    assert tuple(task.read([text])[0]) == (answer, kind, difficulty)
    assert task.prompts([text]) == [text.split(" :")[0] + " :"] or difficulty < 0
    assert sum(task.shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: NimConfig(heaps=5), "corpus.nim.heaps=5: must lie in"),
        (lambda: NimConfig(correct=1.5), "corpus.nim.correct=1.5"),
        (lambda: TicTacToeConfig(correct=-1), "corpus.tic_tac_toe.correct=-1"),
        (lambda: CorpusConfig(source="nim", tic_tac_toe=TicTacToeConfig(correct=0.5)), "only corpus.source=tic_tac_toe has it"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_one_line(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


class Scripted:
    """Reader whose model answers by a table, and notes what it was asked."""

    def __init__(self, game: Game, replies: dict[str, str]):
        self.language, self.script, self.earlier = game, replies, []
        self.asked: list[list[str]] = []

    def texts(self, episodes: Episodes) -> list[str]:
        return [self.moves[i] for i in episodes.number]  # type: ignore[has-type]

    def replies(self, problems: list[str], stream: str) -> list[str]:
        self.asked.append(problems)
        return [f"{problem} {self.script.get(problem, '? ? ?')}" for problem in problems]


def test_a_move_is_worth_what_the_game_ends_with() -> None:
    """By hand, Nim with two heaps: taking the last object wins; who cannot move on, or makes an illegal move, loses."""
    script = {"0 1 :": "b 1 .", "1 0 :": "a 1 .", "1 1 :": "a 1 .", "2 1 :": "b 7 .", "0 2 :": "b 1 ."}
    reader = Scripted(Nim(heaps=2, most=2), script)
    reader.moves = [  # type: ignore[attr-defined]
        "1 0 : a 1 .",  # takes the last one: 1
        "1 1 : a 1 .",  # leaves 0 1, the other takes it: 0
        "2 1 : a 1 .",  # leaves 1 1; a 1 leaves 0 1; I take it: 1
        "2 2 : b 1 .",  # leaves 2 1, the other's move is illegal: 1
        "2 1 : a 2 .",  # leaves 0 1: 0
        "2 1 : a 3 .",  # is illegal: 0
        "2 1 : what .",  # is none: 0
        "2 2 : a 2 .",  # leaves 0 2; b 1 leaves 0 1; I take it: 1
    ]
    rows = Episodes.of(np.arange(16).reshape(8, 2), 1, 0)
    assert play(rows, reader).tolist() == [1, 0, 1, 1, 0, 0, 0, 1]  # type: ignore[arg-type]
    assert all(len(problems) == 8 for problems in reader.asked), "batches of one size"
    board = Scripted(TicTacToe(), {"x o x x o o o x - :": "9 ."})
    board.moves = ["x o x x o o - x - : 7 ."]  # type: ignore[attr-defined]
    draw = play(Episodes.of(np.array([[0, 1]]), 1, 0), board)  # type: ignore[arg-type]
    assert draw.tolist() == [DRAW]


NIM = (
    *("run", "--progress=false", "--corpus.source=nim", "--corpus.nim.heaps=2", "--corpus.nim.most=2", "--corpus.documents=256"),
    *("--mixing.unit=documents", "--mixing.tokens=1792", "--mixing.schedule=constant", "--mixing.start=0", "--training.block=7"),
    *("--sampling.prompt=real_prefix", "--sampling.prompt-tokens=4", "--model.layers=1", "--model.width=32", "--model.heads=2"),
    *("--model.start=previous", "--training.skip-first=true", "--training.weight-decay=0", "--evaluation.prefix=bos"),
    *("--evaluation.tokens=350", "--evaluation.self-bleu-samples=0", "--evaluation.overlap=false"),
    *("--evaluation.reference-tokens=0", "--judging.judges=[play]", "--judging.model=newest"),
)  # fmt: skip


def test_self_play_learns_from_the_rules_alone(lab: Lab, tmp_path: Path) -> None:
    """A small Nim, no game seen: GRPO on who wins (the course depends on a machine's last bits: .9 here); the exact law of its
    moves beside documents read one by one."""
    asked = ("--training.objective=grpo", "--policy.steps=150", "--policy.prompts=16", "--policy.lr=0.003")
    asked += ("--policy.kl=0.1", "--policy.estimator=exact", "--policy.scaled=false", "--training.beta2=0.999")
    code, _, err = lab(*NIM, *asked, f"--runs-dir={tmp_path}", "--name=n", "--generations=2")
    assert code == 0, err
    chain = tmp_path / "n" / "arm=main" / "seed=1"
    rows = [row["metrics"] for row in read_metrics(chain)]
    assert rows[0]["truth/task/p_correct_won"] < 0.1 and rows[2]["truth/task/p_correct_won"] > 0.2, [
        row["truth/task/p_correct_won"] for row in rows
    ]
    assert rows[2]["truth/task/p_illegal"] < 0.7 < rows[0]["truth/task/p_illegal"]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, game = chain / "gen_002" / "train", Nim(heaps=2, most=2)
    net, words = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = json.loads((chain / "gen_002/eval/eval.json").read_text())["sums"]["truth/task/moves"]
    for position, p in zip(game.positions, found, strict=True):
        total = 0.0
        for move in game.optimal(position):
            ids = words(game.document(position, move), add_special_tokens=False)["input_ids"]
            row = torch.tensor([[words.bos_token_id, *ids]])
            logs = net(row).logits[0, :-1].log_softmax(-1).gather(1, row[0, 1:, None])[:, 0]
            total += float(logs[3:].detach().sum().exp())
        assert total == pytest.approx(p, abs=1e-5)


def test_expert_iteration_by_play_keeps_moves_that_won(lab: Lab, tmp_path: Path) -> None:
    """From random legal moves: those that won are kept, and the next generation plays better."""
    asked = ("--training.skip-first=false", "--training.epochs=8", "--training.lr=0.01", "--generations=2")
    code, _, err = lab(*NIM, *asked, f"--runs-dir={tmp_path}", "--name=e")
    assert code == 0, err
    rows = [row["metrics"] for row in read_metrics(tmp_path / "e" / "arm=main" / "seed=1")]
    assert 0 < rows[0]["judge/accepted"] < 1
    assert rows[2]["truth/task/p_correct_won"] > rows[0]["truth/task/p_correct_won"] + 0.03
