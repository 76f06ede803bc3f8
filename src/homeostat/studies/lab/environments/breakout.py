"""Breakout on a grid of 10 x 10, after MinAtar."""

from __future__ import annotations

import torch
from torch import Tensor

from homeostat.studies.lab.environments.batched import Environment

SIZE, ROWS = 10, 3
STICKY = 0.1
"""Probability that an action is replaced by the one before it, as in MinAtar."""
_RIGHT = torch.tensor([False, True, True, False])
_DOWN = torch.tensor([False, False, True, True])
_ACROSS, _BACK_UP, _AROUND = (torch.tensor(turn) for turn in ([1, 0, 3, 2], [3, 2, 1, 0], [2, 3, 0, 1]))
"""New direction after a side wall, after ceiling, brick or paddle, and after the paddle's edge."""


class Breakout(Environment):
    """Move a paddle (0 stay, 1 left, 2 right) so that a ball removes three rows of bricks; reward 1 a brick.

    The ball moves diagonally, one cell a step: directions 0 up left, 1 up right, 2 down right, 3 down left. It bounces
    off walls, bricks and the paddle. The episode ends when it passes the paddle. New bricks appear when the last is
    gone and the ball is at the bottom. Observations [4, 10, 10]: paddle, ball, its place before, bricks.

    State: ball x, y and direction, paddle, whether a brick was hit in the step before, the ball's last x and y, the
    last action, then the bricks of rows 1 to 3.

    Source: Young and Tian (2019), "MinAtar", arXiv:1903.03176; without difficulty ramping, which Breakout lacks there.
    """

    observation, actions, limit, starts, chances = (4, SIZE, SIZE), 3, 2_000, 1, 1

    def start(self, draws: Tensor) -> Tensor:
        left = draws[:, 0] < 0.5
        state = torch.zeros(len(draws), 8 + ROWS * SIZE, dtype=torch.float64)
        state[:, 0] = state[:, 5] = torch.where(left, 0.0, SIZE - 1.0)
        state[:, 1] = state[:, 6] = 3.0
        state[:, 2] = torch.where(left, 2.0, 3.0)
        state[:, 3] = 4.0
        state[:, 8:] = 1.0
        return state

    def advance(self, state: Tensor, action: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        assert draws is not None
        x, y, way, paddle, struck, _, _, before = state[:, :8].long().unbind(-1)
        bricks, rows = state[:, 8:].clone(), torch.arange(len(state))
        action = torch.where(draws[:, 0] < STICKY, before, action)
        paddle = (paddle + (action == 2).long() - (action == 1).long()).clamp(0, SIZE - 1)
        to_x, to_y = x + _RIGHT[way].long() * 2 - 1, y + _DOWN[way].long() * 2 - 1
        way = torch.where((to_x < 0) | (to_x >= SIZE), _ACROSS[way], way)
        to_x = to_x.clamp(0, SIZE - 1)

        ceiling = to_y < 0
        to_y = to_y.clamp(min=0)
        cell = ((to_y - 1) * SIZE + to_x).clamp(0, ROWS * SIZE - 1)
        brick = ~ceiling & (to_y >= 1) & (to_y <= ROWS) & (bricks[rows, cell] > 0)
        hit = brick & (struck == 0)
        bricks[rows, cell] = torch.where(hit, 0.0, bricks[rows, cell])

        bottom = ~ceiling & ~brick & (to_y == SIZE - 1)
        renewed = bottom & (bricks.sum(-1) == 0)
        bricks = torch.where(renewed.unsqueeze(-1), 1.0, bricks)
        middle, edge = bottom & (x == paddle), bottom & (x != paddle) & (to_x == paddle)
        way = torch.where(ceiling | hit | middle, _BACK_UP[way], torch.where(edge, _AROUND[way], way))
        to_y = torch.where(hit | middle | edge, y, to_y)
        ended = bottom & ~middle & ~edge
        numbers = torch.stack([to_x, to_y, way, paddle, brick.long(), x, y, action], -1).double()
        return torch.cat([numbers, bricks], -1), hit.double(), ended

    def observe(self, state: Tensor) -> Tensor:
        planes = torch.zeros(len(state), *self.observation)
        x, y, _, paddle, _, last_x, last_y, _ = state[:, :8].long().unbind(-1)
        rows = torch.arange(len(state))
        planes[rows, 0, SIZE - 1, paddle] = 1.0
        planes[rows, 1, y, x] = 1.0
        planes[rows, 2, last_y, last_x] = 1.0
        planes[:, 3, 1 : ROWS + 1] = state[:, 8:].reshape(-1, ROWS, SIZE).float()
        return planes
