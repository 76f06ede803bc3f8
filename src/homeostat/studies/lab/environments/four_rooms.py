"""A grid world of four rooms."""

from __future__ import annotations

import torch
from torch import Tensor

from homeostat.studies.lab.environments.batched import Environment

SIZE = 11
_MAP = """
.....#.....
.....#.....
...........
.....#.....
.....#.....
#.####.....
.....###.##
.....#.....
.....#.....
...........
.....#.....
"""
_OPEN = torch.tensor([[cell == "." for cell in line] for line in _MAP.split()])
_FREE = _OPEN.nonzero()
_MOVES = torch.tensor([[-1, 0], [1, 0], [0, -1], [0, 1]])


class FourRooms(Environment):
    """Walk (0 up, 1 down, 2 left, 3 right) from a random cell to a random goal through four rooms.

    The reward is 1 at the goal. A step into a wall does nothing. An episode ends at the goal or after 200 steps.
    Observations [3, 11, 11]: walls, walker, goal. State: row and column of the walker, row and column of the goal.

    Source: the map of Sutton, Precup and Singh (1999), "Between MDPs and semi-MDPs", Artificial Intelligence 112.
    """

    observation, actions, limit, starts = (3, SIZE, SIZE), 4, 200, 2

    def start(self, draws: Tensor) -> Tensor:
        count = len(_FREE)
        walker = (draws[:, 0] * count).long()
        goal = (walker + 1 + (draws[:, 1] * (count - 1)).long()) % count  # never the same cell
        return torch.cat([_FREE[walker], _FREE[goal]], -1).double()

    def advance(self, state: Tensor, action: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        at, goal = state[:, :2].long(), state[:, 2:]
        to = (at + _MOVES[action]).clamp(0, SIZE - 1)
        to = torch.where(_OPEN[to[:, 0], to[:, 1]].unsqueeze(-1), to, at).double()
        ended = (to == goal).all(-1)
        return torch.cat([to, goal], -1), ended.double(), ended

    def observe(self, state: Tensor) -> Tensor:
        planes, rows = torch.zeros(len(state), *self.observation), torch.arange(len(state))
        walker_row, walker_column, row, column = state.long().unbind(-1)
        planes[:, 0] = (~_OPEN).float()
        planes[rows, 1, walker_row, walker_column] = 1.0
        planes[rows, 2, row, column] = 1.0
        return planes
