"""Attach to a script that does not mention Homeostat: find its networks when an optimizer first steps."""

from __future__ import annotations

import itertools
import time
import weakref
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from homeostat.core.errors import HomeostatError
from homeostat.core.finding import Finding, JournalEntry
from homeostat.core.signals import pass_on
from homeostat.diagnosis.facts import OutsideFacts
from homeostat.record import RunRecord
from homeostat.shell.hooks.backward_hooks import BACKWARD_HOOKS
from homeostat.shell.hooks.parameter_changes import BY_HAND, HandUpdates
from homeostat.shell.hooks.step_hooks import STEP_HOOKS, Arguments
from homeostat.shell.hooks.torch_internals import unseen
from homeostat.shell.launch.find_networks import Discovery, Loose, discover_networks
from homeostat.shell.network import Network
from homeostat.shell.run.run import Run
from homeostat.shell.run.settings import Settings


class AutoAttach:
    """A run that finds its networks by itself.

    At the first step of an unknown optimizer, its networks are searched among all live modules. They are measured from
    the next forward pass on. A rebuilt optimizer over parameters of a known network replaces the old one. Optimizers
    that never step are ignored.

    Args:
        settings: settings of the run.
        record: of the run.
        status: a `StatusLine` that shows samples and warnings.
        began: `time.thread_time()` when Homeostat's imports began; None if they are not part of this run.
    """

    def __init__(self, settings: Settings, record: RunRecord, status: Any = None, began: float | None = None) -> None:
        speak = None if status is None else lambda text: status.print(f"homeostat: {text}", style="yellow")
        self.run = Run(settings, record, on_sample=self._sampled, speak=speak)
        self._status, self._record = status, record
        if began is not None:
            self._set_up(time.thread_time() - began)
        self._known: dict[int, weakref.ref[Optimizer]] = {}
        self._hand_updates = HandUpdates()
        self._loose: list[Loose] = []
        self._outside = 0

    def start(self) -> None:
        """Start to listen to optimizer steps."""
        STEP_HOOKS.subscribe(self)
        BACKWARD_HOOKS.on_backward.append(self._before_backward)
        self.run.start()

    def stop(self, status: str = "finished") -> None:
        """Stop listening and end the run."""
        STEP_HOOKS.unsubscribe(self)
        self._end_looking()
        by_hand = not self._known and self._hand_updates.made()
        stale = tuple(filter(None, [one.stale() for one in self._loose]))
        self.run.outside = OutsideFacts(by_hand, self._outside, stale)
        if by_hand:
            self.run.not_measured("vitals", BY_HAND)
        if not self.run.networks and self._known:
            self.run.not_measured("vitals", "optimizers stepped, but no live module owns what they train")
        self.run.stop(status)

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Search for networks if the optimizer is unknown."""
        known = self._known.get(id(optimizer))
        if known is not None and known() is optimizer:
            return None
        began = time.thread_time()
        with self.run.guard("looking for networks"):
            heir = next((p.network for p in self.run.networks if p.network.succeeded_by(optimizer)), None)
            if heir is not None:  # many scripts build an optimizer in every step, and a search takes long
                heir.rebuilt += 1
                self.run.replace_optimizers(heir, [optimizer])
                self._known[id(optimizer)] = weakref.ref(optimizer)
                self.run.time.setup += time.thread_time() - began
                return None
            self._take_in(discover_networks([optimizer]), optimizer)
        self._known[id(optimizer)] = weakref.ref(optimizer)
        self._end_looking()
        self._set_up(time.thread_time() - began)
        return None

    def _set_up(self, seconds: float) -> None:
        self.run.time.setup += seconds
        self.run.credit.take(seconds)

    def _before_backward(self, loss: Tensor) -> None:
        """Before the first optimizer step: check whether the weights change without an optimizer."""
        with self.run.time.timed(), self.run.guard("looking for updates by hand"), unseen():
            self._hand_updates.see(loss)

    def _end_looking(self) -> None:
        if self._before_backward in BACKWARD_HOOKS.on_backward:
            BACKWARD_HOOKS.on_backward.remove(self._before_backward)

    def after_step(self, optimizer: Optimizer) -> None:
        """Nothing to do: the run handles it."""

    def _take_in(self, found: Discovery, stepping: Optimizer) -> None:
        """Add the networks of the optimizer that is about to step; others are added at their own first step."""
        followed = {id(p.network.model): p for p in self.run.networks}
        alone = len(found.networks) == 1 and not followed
        self.run.losses.evaluations.follow(found.losses)
        for new in found.networks:
            if stepping not in new.optimizers:
                continue
            if (network_run := followed.get(id(new.model))) is not None:
                self.run.replace_optimizers(network_run.network, new.optimizers)
                continue
            network = Network("" if alone else self._free(new.label), new.model, new.optimizers, new.compiled)
            try:
                self.run.add(network).tracing.await_first_call()
            except HomeostatError as error:
                pass_on(error)
                self.run.add_entry(JournalEntry(0, "homeostat", "refuse", network.label, str(error)))
                self.run.not_measured(network.label or "the network", str(error))
        self._outside += not any(stepping in new.optimizers for new in found.networks)
        for loose in found.loose:
            if loose.optimizer is stepping:
                self._loose.append(loose)
                self.run.not_measured(loose.named(), "owned by no module, so no layer can be named")

    def _free(self, label: str) -> str:
        """A label that no current or former network of this run has."""
        taken = {p.network.label for p in self.run.networks}
        return next(name for n in itertools.count(1) if (name := label if n == 1 else f"{label}-{n}") not in taken)

    def _sampled(self, step: int, loss: float | None, findings: list[Finding]) -> None:
        if self._status is not None:
            self._status.update(step=step, loss=loss, worst=findings[0] if findings else None)
