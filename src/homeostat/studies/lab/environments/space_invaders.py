"""Space Invaders on a grid of 10 x 10, after MinAtar."""

from __future__ import annotations

import torch
from torch import Tensor

from homeostat.studies.lab.environments.batched import Environment
from homeostat.studies.lab.environments.breakout import SIZE, STICKY

COOL_DOWN, MOVE_EVERY, SHOT_EVERY = 5, 12, 10
_CELLS = SIZE * SIZE
_COLUMNS = torch.arange(SIZE)


class SpaceInvaders(Environment):
    """Shoot aliens from a cannon (0 stay, 1 left, 2 right, 3 fire) before they land; reward 1 an alien.

    Aliens move sideways every `min(12, aliens)` steps and down at a wall. Every 10 steps the alien nearest to the
    cannon's column shoots. A bullet or an alien at the cannon ends the episode. A new wave comes when all are gone.
    Observations [6, 10, 10]: cannon, aliens, aliens moving left, aliens moving right, own bullets, their bullets.

    State: cannon, direction of the aliens (-1 or 1), steps until the cannon can fire, until the aliens move, until they
    shoot, the last action, then three grids: aliens, own bullets, their bullets.

    Source: Young and Tian (2019), "MinAtar", arXiv:1903.03176, without difficulty ramping.
    """

    observation, actions, limit, starts, chances = (6, SIZE, SIZE), 4, 2_000, 1, 1

    def start(self, draws: Tensor) -> Tensor:
        state = torch.zeros(len(draws), 6 + 3 * _CELLS, dtype=torch.float64)
        state[:, :6] = torch.tensor([5, -1, 0, MOVE_EVERY, SHOT_EVERY, 0], dtype=torch.float64)
        state[:, 6 : 6 + _CELLS] = _wave().flatten()
        return state

    def advance(self, state: Tensor, action: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        assert draws is not None
        cannon, way, cool, moves, shots, before = state[:, :6].long().unbind(-1)
        aliens, own, theirs = (state[:, 6:] > 0).reshape(-1, 3, SIZE, SIZE).unbind(1)
        rows = torch.arange(len(state))
        action = torch.where(draws[:, 0] < STICKY, before, action)
        fires = (action == 3) & (cool == 0)
        own = own.clone()
        own[rows, SIZE - 1, cannon] |= fires
        cool = torch.where(fires, COOL_DOWN, cool)
        cannon = (cannon + (action == 2).long() - (action == 1).long()).clamp(0, SIZE - 1)
        own = torch.cat([own[:, 1:], torch.zeros_like(own[:, :1])], 1)
        theirs = torch.cat([torch.zeros_like(theirs[:, :1]), theirs[:, :-1]], 1)
        ended = theirs[rows, -1, cannon] | aliens[rows, -1, cannon]

        aliens, way, landed, moved = _marched(aliens, way, moves == 0)
        moves = torch.where(moved, aliens.flatten(1).sum(-1).clamp(max=MOVE_EVERY), moves)
        ended |= landed | (moved & aliens[rows, -1, cannon])
        shoots = shots == 0
        shots = torch.where(shoots, SHOT_EVERY, shots)
        theirs = theirs | (_nearest(aliens, cannon) & shoots[:, None, None])
        killed = aliens & own
        aliens, own = aliens & ~killed, own & ~killed
        cool, moves, shots = cool - (cool > 0).long(), moves - 1, shots - 1
        gone = ~aliens.flatten(1).any(-1)
        aliens = torch.where(gone[:, None, None], _wave() > 0, aliens)
        numbers = torch.stack([cannon, way, cool, moves, shots, action], -1).double()
        grids = torch.stack([aliens, own, theirs], 1).flatten(1).double()
        return torch.cat([numbers, grids], -1), killed.flatten(1).sum(-1).double(), ended

    def observe(self, state: Tensor) -> Tensor:
        planes = torch.zeros(len(state), *self.observation)
        aliens, own, theirs = state[:, 6:].float().reshape(-1, 3, SIZE, SIZE).unbind(1)
        left = (state[:, 1] < 0).float()[:, None, None]
        planes[torch.arange(len(state)), 0, SIZE - 1, state[:, 0].long()] = 1.0
        planes[:, 1], planes[:, 2], planes[:, 3] = aliens, aliens * left, aliens * (1 - left)
        planes[:, 4], planes[:, 5] = own, theirs
        return planes


def _wave() -> Tensor:
    """Twenty-four aliens at the top."""
    grid = torch.zeros(SIZE, SIZE, dtype=torch.float64)
    grid[0:4, 2:8] = 1.0
    return grid


def _marched(aliens: Tensor, way: Tensor, due: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The aliens [N, 10, 10] and their directions after a move where it is due, who has landed, and who moved."""
    at_wall = torch.where(way < 0, aliens[:, :, 0].any(-1), aliens[:, :, -1].any(-1))
    turns, steps = due & at_wall, due & ~at_wall
    landed = turns & aliens[:, -1].any(-1)
    sideways = torch.where((way < 0)[:, None, None], aliens.roll(-1, 2), aliens.roll(1, 2))
    moved = torch.where(turns[:, None, None], aliens.roll(1, 1), aliens)
    moved = torch.where(steps[:, None, None], sideways, moved)
    return moved, torch.where(turns, -way, way), landed, due


def _nearest(aliens: Tensor, cannon: Tensor) -> Tensor:
    """The lowest alien of the column nearest to the cannon, the left one of two: bool [N, 10, 10]."""
    empty = ~aliens.any(1)
    distance = 2 * (_COLUMNS - cannon[:, None]).abs() + empty * 100 + (_COLUMNS > cannon[:, None]).long()
    column = distance.argmin(-1)
    lowest = aliens & (aliens.flip(1).cumsum(1).flip(1) == 1)
    return lowest & (_COLUMNS == column[:, None])[:, None, :]
