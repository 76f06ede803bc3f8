"""Shared code of studies of forgetting: held-out items, accuracies of every task over time, and their summaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from homeostat.core.random import Draw
from homeostat.streams.data import Data


def held_out(data: Data, seed: int, share: float = 0.25) -> tuple[Data, Data]:
    """A random split of the data into training items and held-out items (`share` of all items)."""
    order = torch.randperm(len(data), generator=Draw(seed, ("study", "held out")).generator("order"))
    cut = len(data) - round(share * len(data))
    return tuple(  # type: ignore[return-value]
        Data(data.inputs[part], data.labels[part], data.classes, data.name) for part in (order[:cut], order[cut:])
    )


def shifted(data: Data, width: int = 8) -> Data:
    """The images, and each image shifted by one pixel up, down, left and right: five items per image."""
    images = data.inputs.reshape(len(data), -1, width)
    moves = [images, *(_moved(images, by, along) for along in (1, 2) for by in (-1, 1))]
    inputs = torch.cat(moves).reshape(len(moves) * len(data), *data.inputs.shape[1:])
    return Data(inputs, data.labels.repeat(len(moves)), data.classes, data.name)


def _moved(images: Tensor, by: int, along: int) -> Tensor:
    rolled = images.roll(by, along)
    rolled.select(along, 0 if by > 0 else -1).zero_()
    return rolled


@torch.no_grad()
def accuracies(model: nn.Module, tasks: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    """Accuracy of the model on each task, in evaluation mode."""
    model.eval()
    right = (model(torch.cat([x for x, _ in tasks])).argmax(-1) == torch.cat([y for _, y in tasks])).double()
    model.train()
    return [float(part.mean()) for part in right.split([len(y) for _, y in tasks])]


@dataclass
class Diary:
    """Accuracies of all tasks met so far, step by step.

    Args:
        entries: (step, accuracies of tasks 0 .. current), in the order of the steps.
    """

    entries: list[tuple[int, list[float]]] = field(default_factory=list)

    def note(self, step: int, found: list[float]) -> None:
        """Add the accuracies of all tasks met so far, after `step` steps."""
        self.entries.append((step, found))

    def average(self) -> list[float]:
        """Mean accuracy over the tasks met so far, at every entry."""
        return [sum(found) / len(found) for _, found in self.entries]

    def ends(self) -> list[list[float]]:
        """Accuracies at the end of every task: row k has k + 1 of them."""
        last = {len(found): found for _, found in self.entries}
        return [last[count] for count in sorted(last)]

    def final(self) -> float:
        """Mean accuracy over all tasks at the end."""
        return self.average()[-1]

    def learned(self) -> float:
        """Accuracy on a task at the end of that task, mean over tasks."""
        ends = self.ends()
        return sum(found[-1] for found in ends) / len(ends)

    def forgetting(self) -> float:
        """Best accuracy at the end of any task minus the final accuracy, mean over the old tasks."""
        ends = self.ends()
        lost = [max(found[task] for found in ends[task:-1]) - ends[-1][task] for task in range(len(ends) - 1)]
        return sum(lost) / len(lost)

    def worst_case(self) -> float:
        """Mean of the last task's accuracy and the lowest accuracy of each old task since its end (WC-ACC).

        Source: De Lange et al. (2023), arXiv:2205.13452.
        """
        tasks = len(self.entries[-1][1])
        lowest = [min(found[j] for _, found in self.entries if len(found) > j + 1) for j in range(tasks - 1)]
        return (sum(lowest) + self.entries[-1][1][-1]) / tasks

    def dip(self, window: int) -> float:
        """Largest drop of the old tasks' mean accuracy within `window` steps after a switch, mean over switches."""
        falls = []
        for before, task in zip(self.ends(), range(1, len(self.ends())), strict=False):
            start = max(step for step, found in self.entries if len(found) == task)
            after = [sum(a[:task]) / task for step, a in self.entries if len(a) == task + 1 and step <= start + window]
            falls.append(max(0.0, sum(before) / task - min(after)))
        return sum(falls) / len(falls)
