"""Evaluates a few earlier batches on a copy of the network, once the data have changed.

While all batches are alike, there is no forward pass.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.core.signals import pass_on
from homeostat.diagnosis.facts import EarlierFacts
from homeostat.shell.hooks.clock import CLOCK
from homeostat.shell.hooks.loss_graph import Criterion, criteria
from homeostat.shell.hooks.module_hooks import MODULE_HOOKS
from homeostat.shell.hooks.torch_internals import recorded_elsewhere, unseen
from homeostat.shell.network import Network
from homeostat.shell.observe.answers import Cut, Knowledge, Rule, answers, find_rule, knowledge, spread_of
from homeostat.shell.observe.batch_look import Look, difference, look_at, pooled
from homeostat.shell.observe.cadence import Credit
from homeostat.shell.observe.item_influence import ItemInfluence
from homeostat.shell.unit_graph.first_pass import plain_values
from homeostat.shell.unit_graph.pure_forward import impurity
from homeostat.shell.unit_graph.sandbox import copy_without_hooks, map_tensors, quarantine, tracing

KEPT = 12
"""Number of stored batches."""
ITEMS = 32
"""Number of stored items per batch."""
LARGEST = 2**21
"""Largest size of a stored batch in bytes; with `KEPT` batches and the newest, 26 MiB at most."""
KNOWN = 0.5
"""Smallest score of a stored batch, relative to guessing: what was not learned cannot be forgotten."""
RECENT = 3
"""Number of readings that represent the current data."""
EVALUATED = 6
"""Number of earlier batches that are evaluated at a time."""
SHARE = 0.005
"""Share of the time of the run for evaluations, once the credit for start-up readings is used."""
MOST_CALLS = 4
"""Largest number of calls of the network in a step that are used."""


@dataclass(frozen=True)
class Call:
    """A call of the network: arguments and output."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@dataclass(frozen=True)
class Batch:
    """Some items of a batch, detached copies.

    Args:
        step: training step of the batch.
        args, kwargs: arguments of the network.
        rule: how predictions follow from the output.
        criterion: its targets; the scores are not stored.
        then: score in its training step.
        look: summary of the whole batch.
        along: axis of the items in the first argument.
    """

    step: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rule: Rule
    criterion: Criterion
    then: Knowledge
    look: Look
    along: int = 0


class EarlierBatches:
    """Stores a few batches, evenly over the run, and evaluates those that differ from the current data.

    Only losses that compare the output of the whole network with targets are used (cross entropy of class numbers,
    binary cross entropy, and a regression loss without other terms). The copy shares the network's parameters, has
    its own buffers, and runs in evaluation mode without gradients.

    Args:
        network: the network.
        next_reading: returns the step whose loss is read next.
        not_measured: takes (what, why).
        guard: catches and reports errors inside the user's calls.
        alone: returns whether this is the only network of the run.
        credit: pays for evaluations as long as it lasts.

    Attributes:
        items: what the items of a batch have to do with each other.
    """

    def __init__(
        self,
        network: Network,
        next_reading: Callable[[], int],
        not_measured: Callable[[str, str], None],
        guard: Callable[[str], AbstractContextManager[None]],
        alone: Callable[[], bool],
        credit: Credit,
    ) -> None:
        self._alone, self._credit = alone, credit
        self._network, self._next_reading, self._not_measured, self._guard = (
            network,
            next_reading,
            not_measured,
            guard,
        )
        self._handle: Any = None
        self._calls: list[Call] = []
        self._silent_calls = 0
        self._kept: list[Batch] = []
        self._newest: Batch | None = None
        self._recent: deque[Look] = deque(maxlen=RECENT)
        self._due = False
        self._facts = EarlierFacts()
        self._began, self._seconds = time.thread_time(), 0.0
        self._costs: deque[float] = deque([0.0], maxlen=3)
        self._why = "no loss that compares the network's outputs with targets was seen"
        self._read, self._ended = False, False
        self._losses = self._bootstrapped = 0
        self._impurity: str | None = None
        self.items, self._look_at_items = ItemInfluence(), False

    # ---- around the steps that are read

    def after_step(self, step: int) -> int | None:
        """Evaluate due batches and prepare the next reading. Return the step at whose end to call this again."""
        if self._ended or self._impossible():
            self.end()
            return None
        if self._due and not self._pure():
            self.end()
            return None
        if self._due:
            self._due = False
            with self._guard("evaluating earlier batches"):
                self._evaluate(step)
            if self._look_at_items and (newest := self._newest) is not None and self._affordable():
                began = time.thread_time()
                with self._guard("the items of a batch"):
                    self.items.look(self._network.model, newest.args, newest.kwargs, newest.along, newest.rule.scores)
                seconds = time.thread_time() - began
                self._seconds += seconds
                if self._credit.lasts:
                    self._credit.pay(seconds)
        following = self._next_reading()
        if following <= step + 1:
            self._listen()
            return step + 1
        self._ignore()
        return following - 1

    def _impossible(self) -> bool:
        network = self._network
        if not network.alive:
            self._why = "the network is gone"
        elif not self._alone():
            self._why, self._read = "several networks are trained", False
        elif network.compiled:
            self._why = "torch.compile runs the network"
        elif network.ranks is not None and network.ranks.size > 1:
            self._why = "several processes train the network"
        elif name := network.sharded():
            self._why = f"{name} is sharded over processes"
        else:
            return False
        return True

    def _pure(self) -> bool:
        """Whether a pass of a copy leaves the script's objects alone; its code is read once."""
        if self._impurity is None:
            self._impurity = "its code could not be read"
            with self._guard("the code of the network"):
                self._impurity = impurity(self._network.model)
            if self._impurity:
                self._why, self._read = f"no copy of the network is run: {self._impurity}", False
        return not self._impurity

    def _listen(self) -> None:
        self._calls, self._silent_calls = [], 0
        if self._handle is None:
            self._handle = MODULE_HOOKS.place(self._network.model, "output", self._hear)

    def _ignore(self) -> None:
        self._calls = []
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if recorded_elsewhere() or tracing():
            return
        if torch.is_grad_enabled() and len(self._calls) < MOST_CALLS:
            self._calls.append(Call(args, kwargs, output))
        else:
            self._silent_calls += 1

    def see(self, step: int, loss: Tensor) -> None:
        """Read the loss of a step, before its backward pass, together with the observed calls."""
        calls, self._calls = self._calls, []
        if not calls:
            return
        with unseen():
            compared = criteria(loss)
            self._losses += 1
            self._bootstrapped += bool(self._silent_calls) and any(one.kind == "numbers" for one in compared)
            batches = [b for one in compared if (b := self._batch(step, calls, one, loss, len(compared))) is not None]
        if not batches:
            return
        self._read = True
        if self._recent and difference(self._recent[-1], batches[0].look):
            self._facts = replace(self._facts, changes=self._facts.changes + 1)
        self._recent.extend(batch.look for batch in batches)
        self._newest = batches[0]
        self._look_at_items = self.items.due(step, knowledge([batches[0].then], *spread_of(batches[:1])))
        for batch in batches:
            self._keep(batch)
        self._due = True

    def _batch(self, step: int, calls: Sequence[Call], compared: Criterion, loss: Tensor, parts: int) -> Batch | None:
        """The batch of a comparison, with the arguments of the network."""
        if compared.kind == "numbers" and not self._plain_regression(calls, compared, loss, parts):
            return None
        for call in calls:
            tensors: list[Tensor] = []
            if not plain_values((call.args, call.kwargs), tensors) or not tensors:
                self._why = "the network takes more than tensors and numbers"
                continue
            if (rule := find_rule(call.output, compared)) is None:
                self._why = "the loss does not compare what the network returns"
                continue
            if (cut := rule.cut(tensors[0], compared)) is None:
                self._why = "the items of a batch could not be identified"
                continue
            index = cut.index(ITEMS)
            args, kwargs = (map_tensors(partial(_kept, cut, index), given) for given in (call.args, call.kwargs))
            if sum(t.numel() * t.element_size() for t in _tensors(args, kwargs)) > LARGEST:
                self._why = f"{ITEMS} items are larger than {LARGEST // 2**20} MiB"
                continue
            labels, classes = None, 0
            if compared.kind == "classes":
                labels = compared.targets.reshape(-1)
                labels, classes = labels[labels != compared.ignored], compared.scores.shape[1]
            look = look_at(tensors[0].detach().movedim(cut.along, 0), cut.size, labels, min(classes, 10_000))
            then = answers(compared.scores, compared)
            targets = replace(compared, scores=compared.scores[:0], targets=cut.targets(compared.targets, index))
            return Batch(step, args, kwargs, rule, targets, then, look, cut.along)
        return None

    def _plain_regression(self, calls: Sequence[Call], compared: Criterion, loss: Tensor, parts: int) -> bool:
        """Whether the targets are data. A loss with more terms, or a network that also computes its targets, belongs to
        reinforcement learning, whose targets move."""
        if parts > 1 or len(calls) > 1 or self._silent_calls:
            self._why = "a regression loss with several parts may have moving targets"
            return False
        mean = (compared.scores.float() - compared.targets.float()).square().mean()
        return loss.numel() == 1 and bool(torch.isclose(mean, loss.detach().float().reshape(()), rtol=1e-3))

    def _keep(self, batch: Batch) -> None:
        if not knowledge([batch.then], *spread_of([*self._kept, batch])) >= KNOWN:
            return
        self._kept.append(batch)
        if len(self._kept) > KEPT:
            steps = [b.step for b in self._kept]
            gaps = [after - before for before, after in zip(steps, steps[2:], strict=False)]
            del self._kept[1 + gaps.index(min(gaps))]

    # ---- evaluation

    def _evaluate(self, step: int) -> None:
        newest = self._newest
        if newest is None or not self._kept or not self._affordable():
            return
        present = pooled(list(self._recent))
        apart = [(b, how) for b in self._kept if (how := difference(b.look, present))]
        if not apart:
            return
        chosen = apart[:: -(-len(apart) // EVALUATED)]
        began, thread = CLOCK.now(), time.thread_time()
        try:
            found = self._answers([newest, *(batch for batch, _ in chosen)])
        except Exception as error:
            pass_on(error)
            self._why = f"a copy of the network could not be run: {type(error).__name__}: {error}"
            self._read = False
            self.end()
            return
        seconds = CLOCK.now() - began
        running = (time.thread_time() - thread) / max(seconds, 1e-9) if self._network.device.type == "cpu" else 1.0
        self._costs.append(seconds * min(running, 1.0))
        if self._credit.lasts:
            self._credit.pay(seconds, running)
        else:
            self._seconds += self._costs[-1]
        measure = spread_of([*self._kept, newest])
        batches, facts = [batch for batch, _ in chosen], self._facts
        classes = any(how == "classes" for _, how in chosen)
        self._facts = EarlierFacts(
            evaluations=facts.evaluations + 1,
            batches=len(chosen),
            items=sum(one.items for one in found[1:]),
            first=batches[0].step,
            last=batches[-1].step,
            differ="classes" if classes else "inputs",
            then=knowledge([batch.then for batch in batches], *measure),
            now=knowledge(found[1:], *measure),
            before=facts.now,
            present=knowledge(found[:1], *measure),
            changes=facts.changes,
        )

    def _affordable(self) -> bool:
        allowed = SHARE * (time.thread_time() - self._began)
        # the smallest cost: a busy machine has made others dearer
        return self._credit.lasts or self._seconds + min(self._costs) <= allowed

    def _answers(self, batches: Sequence[Batch]) -> list[Knowledge]:
        model = self._network.model
        copy = copy_without_hooks(model, share=True).eval()
        found: list[Knowledge] = []
        with quarantine(model):
            for batch in batches:
                output = copy(*map_tensors(Tensor.clone, batch.args), **map_tensors(Tensor.clone, batch.kwargs))
                found.append(answers(batch.rule.scores(output), batch.criterion))
        return found

    # ---- at the end

    def facts(self) -> EarlierFacts:
        """The facts so far."""
        return replace(self._facts, losses=self._losses, bootstrapped=self._bootstrapped)

    def end(self) -> None:
        """Remove the hook and the stored batches. Report what could not be evaluated as not measured."""
        self._ignore()
        self._kept, self._newest = [], None
        if not self._ended and not self._read:
            self._not_measured("forgetting", self._why)
        self._ended = True


def _kept(cut: Cut, index: Tensor, tensor: Tensor) -> Tensor:
    """A copy of the chosen items of a tensor with one entry per item, else of the whole tensor."""
    axis = next((a for a in (cut.along, 1 - cut.along) if tensor.ndim > a and tensor.shape[a] == cut.size), None)
    kept = tensor.detach()
    return kept.clone() if axis is None else kept.index_select(axis, index.to(kept.device))


def _tensors(*values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    plain_values(values, found)
    return found
