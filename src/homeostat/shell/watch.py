"""Watching a script that does not mention Homeostat: networks are found when an optimizer first steps."""

from __future__ import annotations

import time
import weakref
from typing import Any

from torch.optim import Optimizer

from homeostat.core.errors import HomeostatError
from homeostat.core.finding import Finding, JournalEntry
from homeostat.record import RunRecord
from homeostat.shell.clock import CLOCK, Arguments
from homeostat.shell.discovery import Discovery, discover_networks
from homeostat.shell.engine import Engine
from homeostat.shell.network import Network
from homeostat.shell.settings import Settings


class Watch:
    """The zero-line engine.

    The first step of an optimizer nobody knows makes it look for that optimizer's networks among all that live; from
    the next forward pass on they are followed. Optimizers built later are found the same way. A rebuilt optimizer over
    parameters of a known network takes the old one's place. Optimizers that never step are none of its business.

    Args:
        settings: what to measure and do.
        record: where it is written.
        status: a `StatusLine`: shows each sample and what must be heard at once.
    """

    def __init__(self, settings: Settings, record: RunRecord, status: Any = None) -> None:
        speak = None if status is None else lambda text: status.print(f"homeostat: {text}", style="yellow")
        self.engine = Engine(settings, record, on_sample=self._sampled, speak=speak)
        self._status, self._record = status, record
        self._known: dict[int, weakref.ref[Optimizer]] = {}

    def start(self) -> None:
        """Begin to listen; before this, nothing of torch is touched."""
        CLOCK.subscribe(self)
        self.engine.start()

    def stop(self, status: str = "finished") -> None:
        """Stop listening and write what is left."""
        CLOCK.unsubscribe(self)
        if not self.engine.patients and self._known:
            self.engine.not_measured("vitals", "optimizers stepped, but no live module owns what they train")
        self.engine.stop(status)

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """An unknown optimizer is about to step: look around."""
        known = self._known.get(id(optimizer))
        if known is not None and known() is optimizer:
            return None
        began = time.perf_counter()
        with self.engine.survive("looking for networks"):
            self._take_in(discover_networks([optimizer]), optimizer)
        self._known[id(optimizer)] = weakref.ref(optimizer)
        self.engine.setup += time.perf_counter() - began
        return None

    def after_step(self, optimizer: Optimizer) -> None:
        """The engine does the rest."""

    def _take_in(self, found: Discovery, stepping: Optimizer) -> None:
        """Follow the networks of the optimizer about to step; the others wait for their own first step."""
        followed = {id(p.network.model): p for p in self.engine.patients}
        alone = len(found.networks) == 1 and not followed
        for new in found.networks:
            if stepping not in new.optimizers:
                continue
            if (patient := followed.get(id(new.model))) is not None:
                self.engine.replace_optimizers(patient.network, new.optimizers)
                continue
            network = Network("" if alone else new.label, new.model, new.optimizers, new.compiled)
            try:
                self.engine.add(network).anatomy.await_first_call()
            except HomeostatError as error:
                self.engine.tell(JournalEntry(0, "homeostat", "refuse", network.label, str(error)))
                self.engine.not_measured(network.label or "the network", str(error))
        for optimizer, count in found.loose:
            if optimizer is stepping:
                what = f"{count} parameter{'s' if count != 1 else ''} of {type(optimizer).__name__}"
                self.engine.not_measured(what, "owned by no module, so no layer can be named")

    def _sampled(self, step: int, loss: float | None, findings: list[Finding]) -> None:
        if self._status is not None:
            self._status.update(step=step, loss=loss, worst=findings[0] if findings else None)
