"""Numbers of every step, or nearly: the loss, the norms of the gradients and of the update, the learning rate."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from homeostat.diagnosis.history import STEP_SERIES
from homeostat.diagnosis.loss_tasks import LossTasks
from homeostat.shell.hooks.backward_hooks import Loss, stacked
from homeostat.shell.hooks.module_tree import parameters_in
from homeostat.shell.hooks.torch_internals import is_plain
from homeostat.shell.observe.cadence import Credit
from homeostat.shell.observe.observer import Row

LOSS, GRADIENT, UPDATE, RATE = STEP_SERIES

BLOCK = 512
"""Losses that are kept as single tensors before they are put together."""
DENSE = 200
"""Steps at the start of which the norms are read at every one, as long as `DENSE_SECONDS` last."""
DENSE_SECONDS = 0.2
SHARE = 0.004
"""Of the time of a step that the norms may take after that; they are read at every k-th step. Both times are of this
thread's processor, so that other processes do not change the pace."""
MOST_HELD = 2**26
"""Parameters up to which the norm of the update is read, because it takes a copy of them."""
RECENT = 9
"""Readings from which their cost and the time of a step are estimated."""
FINE = 1000
"""A series is recorded whole up to twice this step; in each later doubling of the run it gets so many points."""


class StepSeries:
    """Those of one network. Nothing here waits for a device: values leave it when `rows` is called.

    The loss is the one that `backward` was called on; where several were before one step, their sum. Norms are over
    the network's parameters of the optimizer that steps, as it finds and leaves them. Of a series that has more points
    than are kept, each block keeps its largest.

    Args:
        layer: the name that the network has in records.
        every: steps between two readings of the norms; None lets their cost decide.
        reads_norms: whether parameters are whole in this process.
        credit: pays for the readings at the start.

    Attributes:
        tasks: the jumps of the loss.
    """

    def __init__(self, layer: str, every: int | None, reads_norms: bool = True, credit: Credit | None = None) -> None:
        self._layer = layer
        self.every, self._fixed = every or 1, every is not None
        self.next: int | None = 1 if reads_norms else None
        self.tasks = LossTasks()
        self._losses: list[Loss] = []
        self._steps: list[int] = []
        self._folded: tuple[Tensor | None, int] = (None, 0)
        self._unread: list[tuple[str, list[int], Tensor]] = []
        self._largest: dict[str, tuple[int, int, float | None]] = {}
        self._own: dict[int, bool] = {}
        self._held: list[tuple[Tensor, Tensor]] = []
        self._found: list[tuple[str, Tensor]] = []
        self._seconds, self._dense, self._credit = 0.0, DENSE_SECONDS, credit
        self._costs: deque[float] = deque(maxlen=RECENT)
        self._marks: deque[tuple[int, float]] = deque(maxlen=RECENT)

    # ---- the loss

    def add_loss(self, step: int, loss: Loss | None) -> None:
        """Keep the loss of a step, if there was one."""
        if loss is None:
            return
        self._losses.append(loss)
        self._steps.append(step)
        if len(self._losses) >= BLOCK:
            self._fold()

    def mean_loss(self) -> Tensor | None:
        """Mean loss over the steps since the last call, 0-dim, or None when there was none."""
        self._fold()
        (total, count), self._folded = self._folded, (None, 0)
        return None if total is None else total / count

    def _fold(self) -> None:
        if not self._losses:
            return
        total, count = self._folded
        losses = stacked(self._losses)
        added = losses.sum()
        self._folded = (added if total is None else total.to(added.device) + added, count + len(self._losses))
        self._unread.append((LOSS, self._steps, losses))
        self._losses, self._steps = [], []

    # ---- the norms

    def before_update(self, step: int, optimizer: Optimizer, model: nn.Module) -> None:
        """An optimizer is about to read the gradients of this step: keep what is compared later."""
        if self.next is None or step < self.next or self._found:
            return
        began = time.thread_time()
        held = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if any(id(p) not in self._own for p in held):
            inside = {id(p) for p in parameters_in(model)}
            self._own = {id(p): id(p) in inside for p in held}
        parameters = [p for p in held if self._own[id(p)]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not all(map(is_plain, [*parameters, *gradients])) or any(p.is_complex() for p in parameters):
            self.next = None
            return
        if not parameters or getattr(optimizer, "grad_scale", None) is not None:
            return  # the optimizer itself unscales the gradients
        rate = optimizer.param_groups[0].get("lr", math.nan)
        with torch.no_grad():
            if sum(p.numel() for p in parameters) <= MOST_HELD:
                self._held = [(p, p.detach().clone()) for p in parameters]
            self._found = [
                (GRADIENT, get_total_norm([g.detach() for g in gradients]).float()),
                (RATE, rate.detach().float() if isinstance(rate, Tensor) else torch.tensor(rate, dtype=torch.float64)),
            ]
        self._seconds = time.thread_time() - began

    def after_update(self, step: int) -> None:
        """The step is over; plan the next reading."""
        if self.next is None or step < self.next:
            return
        began = time.thread_time()
        if self._held:
            with torch.no_grad():
                update = get_total_norm([p.detach() - w for p, w in self._held if p.shape == w.shape])
            self._found.append((UPDATE, update.float()))
        self._unread += [(name, [step], value.reshape(1)) for name, value in self._found]
        self.leave_out()
        now = time.thread_time()
        self._seconds += now - began
        self._plan(step, now)

    def leave_out(self) -> None:
        """The step was left out: what was kept for it counts for nothing."""
        self._held, self._found = [], []

    def _plan(self, step: int, now: float) -> None:
        self._costs.append(self._seconds)
        self._marks.append((step, now))
        spent, self._seconds = self._seconds, 0.0
        if not self._fixed:
            self._dense -= spent
            if step < DENSE and self._dense > 0:
                self.every = 1
                if self._credit is not None:
                    self._credit.pay(spent)
            elif len(self._marks) > 1:
                (first, then), cost = self._marks[0], statistics.median(self._costs)
                a_step = (now - then - sum(list(self._costs)[1:])) / (step - first)
                wanted = math.ceil(cost / (SHARE * max(a_step, 1e-7)))
                self.every = min(max(wanted, self.every // 2), 2 * self.every)
        self.next = (step // self.every + 1) * self.every if self._fixed else step + self.every

    # ---- what is recorded

    def rows(self) -> list[Row]:
        """What has come in since the last call, in one transfer for each device; forgets them."""
        self._fold()
        unread, self._unread = self._unread, []
        read = _read(unread)
        self.tasks.extend([math.nan if value is None else value for _, value in read.get(LOSS, [])])
        return [row for name, points in read.items() for row in self._thinned(name, points)]

    def last_rows(self) -> list[Row]:
        """What is left of blocks that are not full: the run is over."""
        left, self._largest = self._largest, {}
        return [(step, name, self._layer, value) for name, (_, step, value) in left.items()]

    def _thinned(self, name: str, points: Iterable[tuple[int, float | None]]) -> Iterator[Row]:
        for step, value in points:
            width = block_width(step)
            if width == 1:
                yield step, name, self._layer, value
                continue
            block, kept = step // width * width, self._largest.get(name)
            if kept is not None and kept[0] != block:
                yield kept[1], name, self._layer, kept[2]
                kept = None
            if kept is None or (kept[2] is not None and (value is None or value > kept[2])):
                self._largest[name] = (block, step, value)

    def state_dict(self) -> dict[str, Any]:
        """What a later process needs to go on: the losses since the last sample, and what is not recorded yet."""
        return {
            "losses": list(self._losses),
            "steps": list(self._steps),
            "folded": list(self._folded),
            "unread": [[name, list(steps), values] for name, steps, values in self._unread],
            "largest": {name: list(kept) for name, kept in self._largest.items()},
            "tasks": self.tasks.state_dict(),
            "next": self.next,
            "every": self.every,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._losses, self._steps = list(state["losses"]), list(state["steps"])
        self._folded = (state["folded"][0], state["folded"][1])
        self._unread = [(name, list(steps), values) for name, steps, values in state["unread"]]
        self._largest = {name: (kept[0], kept[1], kept[2]) for name, kept in state["largest"].items()}
        self.tasks.load_state_dict(state["tasks"])
        self.next, self.every = state["next"], state["every"]


def block_width(step: int) -> int:
    """Steps of which one point is recorded, at this step: a power of two."""
    return 1 << max((step // FINE).bit_length() - 1, 0)


def _read(unread: Iterable[tuple[str, list[int], Tensor]]) -> dict[str, list[tuple[int, float | None]]]:
    """Name -> (step, value), values that are no numbers as None."""
    parts: dict[tuple[str, torch.device], tuple[list[int], list[Tensor]]] = {}
    for name, steps, values in unread:
        at, tensors = parts.setdefault((name, values.device), ([], []))
        at += steps
        tensors.append(values)
    found: dict[str, list[tuple[int, float | None]]] = {}
    for (name, _), (steps, tensors) in parts.items():
        numbers = torch.cat(tensors).tolist()
        found.setdefault(name, []).extend(
            (step, value if value == value else None) for step, value in zip(steps, numbers, strict=True)
        )
    return {name: sorted(points, key=lambda point: point[0]) for name, points in found.items()}
