"""Breakout and Space Invaders for one player, cell by cell: the oracles of the batched ones."""

from __future__ import annotations

import numpy as np


class SlowBreakout:
    """One game of Breakout."""

    def __init__(self, left: bool) -> None:
        self.x, self.y, self.way = (0, 3, 2) if left else (9, 3, 3)
        self.last_x, self.last_y, self.paddle, self.struck = self.x, self.y, 4, False
        self.bricks = np.zeros((10, 10))
        self.bricks[1:4] = 1

    def act(self, action: int) -> tuple[int, bool]:
        reward, over = 0, False
        if action == 1:
            self.paddle = max(0, self.paddle - 1)
        elif action == 2:
            self.paddle = min(9, self.paddle + 1)
        self.last_x, self.last_y = self.x, self.y
        dx, dy = [(-1, -1), (1, -1), (1, 1), (-1, 1)][self.way]
        x, y, touched = self.x + dx, self.y + dy, False
        if x < 0 or x > 9:
            x = min(max(x, 0), 9)
            self.way = [1, 0, 3, 2][self.way]
        if y < 0:
            y = 0
            self.way = [3, 2, 1, 0][self.way]
        elif self.bricks[y, x] == 1:
            touched = True
            if not self.struck:
                reward, self.struck, self.bricks[y, x], y = 1, True, 0, self.last_y
                self.way = [3, 2, 1, 0][self.way]
        elif y == 9:
            if not self.bricks.any():
                self.bricks[1:4] = 1
            if self.x == self.paddle:
                self.way, y = [3, 2, 1, 0][self.way], self.last_y
            elif x == self.paddle:
                self.way, y = [2, 3, 0, 1][self.way], self.last_y
            else:
                over = True
        if not touched:
            self.struck = False
        self.x, self.y = x, y
        return reward, over

    def planes(self) -> np.ndarray:
        found = np.zeros((4, 10, 10), dtype=np.float32)
        found[0, 9, self.paddle] = found[1, self.y, self.x] = found[2, self.last_y, self.last_x] = 1
        found[3] = self.bricks
        return found


class SlowInvaders:
    """One game of Space Invaders."""

    def __init__(self) -> None:
        self.cannon, self.way, self.cool, self.moves, self.shots = 5, -1, 0, 12, 10
        self.aliens, self.own, self.theirs = (np.zeros((10, 10)) for _ in range(3))
        self.aliens[0:4, 2:8] = 1

    def act(self, action: int) -> tuple[int, bool]:
        over = False
        if action == 3 and self.cool == 0:
            self.own[9, self.cannon], self.cool = 1, 5
        elif action == 1:
            self.cannon = max(0, self.cannon - 1)
        elif action == 2:
            self.cannon = min(9, self.cannon + 1)
        self.own = np.roll(self.own, -1, 0)
        self.own[9] = 0
        self.theirs = np.roll(self.theirs, 1, 0)
        self.theirs[0] = 0
        over |= bool(self.theirs[9, self.cannon]) or bool(self.aliens[9, self.cannon])
        if self.moves == 0:
            self.moves = min(int(self.aliens.sum()), 12)
            if (self.aliens[:, 0].any() and self.way < 0) or (self.aliens[:, 9].any() and self.way > 0):
                self.way = -self.way
                over |= bool(self.aliens[9].any())
                self.aliens = np.roll(self.aliens, 1, 0)
            else:
                self.aliens = np.roll(self.aliens, self.way, 1)
            over |= bool(self.aliens[9, self.cannon])
        if self.shots == 0:
            self.shots = 10
            for column in sorted(range(10), key=lambda c: abs(c - self.cannon)):
                if self.aliens[:, column].any():
                    self.theirs[np.flatnonzero(self.aliens[:, column]).max(), column] = 1
                    break
        killed = (self.aliens == 1) & (self.own == 1)
        self.aliens[killed] = self.own[killed] = 0
        self.cool -= self.cool > 0
        self.moves -= 1
        self.shots -= 1
        if not self.aliens.any():
            self.aliens[0:4, 2:8] = 1
        return int(killed.sum()), over

    def planes(self) -> np.ndarray:
        found = np.zeros((6, 10, 10), dtype=np.float32)
        found[0, 9, self.cannon] = 1
        found[1] = self.aliens
        found[2 if self.way < 0 else 3] = self.aliens
        found[4], found[5] = self.own, self.theirs
        return found
