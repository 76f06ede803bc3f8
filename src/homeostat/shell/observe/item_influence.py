"""Whether the items of a batch influence one another: a copy of the network answers for the same items twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.core.signals import pass_on
from homeostat.diagnosis.facts import ItemFacts
from homeostat.shell.unit_graph.sandbox import copy_without_hooks, map_tensors, quarantine

STEPS = 100
"""Steps after which it is looked at: a network that learns does not need it."""
LOOKS = 2
"""How often it is looked at."""
FEWEST = 4
"""Smallest number of items."""


class ItemInfluence:
    """Compares the outputs for some items of a batch before and after the other items are replaced.

    The copy shares the parameters and runs in evaluation mode, where no norm uses the statistics of the batch. Inputs
    without another dimension than items and features are left out: they may be one sequence, and its time steps
    depend on each other rightly.
    """

    def __init__(self) -> None:
        self._facts = ItemFacts()
        self._last: Tensor | None = None

    def facts(self) -> ItemFacts:
        """The facts so far."""
        return self._facts

    def due(self, step: int, known: float) -> bool:
        """Whether to look, where the network knows this much of its newest batch."""
        return step >= STEPS and self._facts.looks < LOOKS and known < 0.5

    def look(self, model: nn.Module, args: Any, kwargs: Any, along: int, scores: Callable[[Any], Tensor]) -> None:
        """Look at a batch.

        Args:
            model: the network.
            args, kwargs: its arguments.
            along: the axis of the items in the first argument.
            scores: from an output to the scores of the items [N, ...].
        """
        tensors: list[Tensor] = []
        map_tensors(lambda t: tensors.append(t) or t, (args, kwargs))
        if not tensors or not _separate(tensors, along):
            return
        first, self._last = self._last, tensors[0]
        if first is None or (first.shape == tensors[0].shape and torch.equal(first, tensors[0])):
            return  # the whole data at once, such as a graph with its nodes
        items = tensors[0].shape[along]
        other = torch.arange(items, device=tensors[0].device)
        other[0::2] = other[1::2][torch.arange(len(other[0::2])) % max(items // 2, 1)]

        def replaced(tensor: Tensor) -> Tensor:
            return tensor.index_select(along, other.to(tensor.device)) if _has_items(tensor, items, along) else tensor

        try:
            copy = copy_without_hooks(model, share=True).eval()
            answers = list[Tensor]()
            for change in (torch.clone, replaced):
                with quarantine(model):  # each time with the same random numbers
                    output = copy(*map_tensors(change, args), **map_tensors(change, kwargs))
                    answers.append(_by_item(scores(output), items))
        except Exception as error:
            pass_on(error)
            self._facts = ItemFacts(looks=LOOKS)
            return
        whole, changed = (one[1::2] for one in answers)
        spread = float(whole.std(0).mean())
        if spread > 1e-5 * float(whole.abs().mean()):
            influence = float((changed - whole).abs().mean()) / spread
            self._facts = ItemFacts(self._facts.looks + 1, max(influence, self._facts.influence), items)


def _separate(tensors: list[Tensor], along: int) -> bool:
    """Whether the batch is made of items with a structure of their own."""
    batch = tensors[0]
    items = batch.shape[along]
    inner = [size for axis, size in enumerate(batch.shape) if axis != along]
    inner = inner[:-1] if batch.is_floating_point() else inner
    structured = any(size > 1 for size in inner)
    return items >= FEWEST and structured and all(_has_items(t, items, along) for t in tensors if t.ndim)


def _has_items(tensor: Tensor, items: int, along: int) -> bool:
    return tensor.ndim > along and tensor.shape[along] == items


def _by_item(scores: Tensor, items: int) -> Tensor:
    """Scores [N, ...] of single items, as numbers [items, -1]."""
    return scores.detach().float().reshape(items, -1)
