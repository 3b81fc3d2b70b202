"""The judge `play`: a move is worth what the game ends with, played on by a model on both sides. It knows the rules alone."""

from __future__ import annotations

import numpy as np

from collapselab.judging.episodes import Episodes, Reader
from collapselab.languages.games import LOSS, WIN, Game, Position


def play(episodes: Episodes, reader: Reader) -> np.ndarray:
    """Value of each move to its player, float64 (n,): 1 for a win, .5 for a draw, 0 for a loss. An illegal move loses the game,
    for either player. `judging.model` plays on."""
    game = reader.language
    assert isinstance(game, Game)
    values = np.zeros(len(episodes))
    going: dict[int, Position] = {}
    for row, text in enumerate(reader.texts(episodes)):
        position, move = game.read(text)
        if position is not None and move in game.moves(position):
            assert move is not None
            going[row] = game.after(position, move)
    mine, ply = False, 0  # the other player is to move
    while going:
        for row, position in list(going.items()):
            if (ended := game.over(position)) is not None:  # to who would move
                values[row] = ended if mine else 1 - ended
                del going[row]
        if not going:
            break
        rows = list(going)
        padded = [going[row] for row in rows] + [game.positions[0]] * (len(episodes) - len(rows))
        texts = reader.replies([game.problem(position) for position in padded], f"play/{len(reader.earlier)}/{ply}")
        for row, text in zip(rows, texts, strict=False):
            position = going[row]
            move = game.read(text)[1]
            if move is None or move not in game.moves(position):
                values[row] = LOSS if mine else WIN
                del going[row]
            else:
                going[row] = game.after(position, move)
        mine, ply = not mine, ply + 1
    return values
