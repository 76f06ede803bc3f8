"""A network with everything that observes and treats it, around one optimizer step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from homeostat.core.errors import Refused
from homeostat.core.readings import Reading
from homeostat.core.treatment import Stage
from homeostat.shell.anatomy import Anatomy
from homeostat.shell.clock import Arguments
from homeostat.shell.losses import overflowed
from homeostat.shell.measuring import Monitor
from homeostat.shell.network import Network
from homeostat.shell.regulating import Regulator
from homeostat.shell.together import Together
from homeostat.shell.treating import Ward

SILENT_STEPS = 3
"""Steps without a sign from any hook after which it is asked whether the network was compiled, and else reported."""


@dataclass(eq=False)
class Patient:
    """A network with everything that observes and treats it.

    Attributes:
        next_event: the next step at which anything is due; nothing happens before it.
        last_sample: (time, step, seconds spent) at the last sample.
        silent: steps in a row for which hooks were on and none fired.
        told: that was reported.
        aside: seconds that passes of our own took in the present step, beside a compiled network.
        placed: optimizer -> the step, and one of the gradients, for which the user placed the gradient stage.
    """

    network: Network
    monitor: Monitor
    ward: Ward
    regulators: list[Regulator]
    anatomy: Anatomy
    together: Together
    next_event: int = 1
    last_sample: tuple[float, int, float] = (0.0, 0, 0.0)
    placed: dict[int, tuple[int, Tensor | None]] = field(default_factory=dict)
    silent: int = 0
    told: bool = False
    aside: float = 0.0

    def begin(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Before the optimizer reads the gradients: keep what is compared later, carry out the gradient stage.

        With a closure the gradients exist only inside the step, so the closure is wrapped; returns the new arguments.
        """
        if not self.network.stepped:
            self.monitor.before_update(self.network.step + 1)
            self.ward.before_update(self.network.step + 1)
        me, *positional = args  # the optimizer itself comes first
        closure = positional[0] if positional else kwargs.get("closure")
        if closure is None:
            self.treat_gradients(optimizer)
            return None
        # what is due is asked inside: the first forward, at which treatments begin, may happen in there
        if not any(course.treatment.stage == Stage.GRADIENT for course in self.ward.courses):
            return None

        def treated_closure() -> Any:
            value = closure()
            self.treat_gradients(optimizer)
            return value

        return ((me, treated_closure, *positional[1:]), {k: v for k, v in kwargs.items() if k != "closure"})

    def treat_gradients(self, optimizer: Optimizer, explicit: bool = False) -> None:
        """Carry out the gradient stage for one optimizer, unless that was done explicitly for these gradients.

        Args:
            explicit: the user has placed it here: the optimizer's own step leaves it out.
        """
        step = self.network.step + 1
        if not self.ward.busy(Stage.GRADIENT, step) or overflowed(optimizer):
            return
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        gradient = next((p.grad for p in parameters if p.grad is not None), None)
        placed = self.placed.get(id(optimizer))
        if placed is not None and placed[0] == step and placed[1] is gradient:
            return
        self.ward.act(Stage.GRADIENT, step, {}, optimizer)
        if explicit:
            self.placed[id(optimizer)] = (step, gradient)

    def take(self) -> dict[str, Tensor]:
        """Layer -> what its units put out in this step, where it was captured; with the self-test that hooks fire."""
        capture = self.monitor.capture
        if capture is None:
            return {}
        self.aside = capture.seconds
        listened, activations = bool(capture.installed), capture.take()
        self.silent = 0 if activations else self.silent + listened
        if self.silent >= SILENT_STEPS:
            self.silent = 0
            if not self.anatomy.fell_silent():
                self._refuse_readers()
        self.anatomy.note_widths(activations)
        return activations

    def _refuse_readers(self) -> None:
        """Say that no activations come, and end the treatments that would wait for them in vain."""
        how = "the layers are not called, or only inside a compiled function"
        why = f"hooks on the layers were silent in {SILENT_STEPS} steps: {how}"
        if not self.told:
            self.told = True
            self.monitor.tell(self.network.named("activations"), why)
        for course in [c for c in self.ward.courses if c.begun and Reading.ACTIVATIONS in c.treatment.reads]:
            self.ward.stop(course.name, "refuse", why)
            if self.ward.strict:
                raise Refused(course.name, self.network.label or "this network", why)

    def leave_out(self, optimizer: Optimizer) -> bool:
        """A GradScaler left out the optimizer's step; whether the round is over."""
        self.placed.pop(id(optimizer), None)
        return self.network.sits_out(optimizer)

    def schedule(self, step: int, others: Iterable[int] = ()) -> None:
        """Decide the next step at which anything happens, and put hooks on exactly when it needs them.

        Args:
            others: steps at which something else is due.
        """
        ward, monitor = self.ward, self.monitor
        events = [monitor.cadence.next_due(step), step + 1 if self.anatomy.waiting else ward.next_due(step), *others]
        events += [next_multiple(step, r.controller.every) for r in self.regulators]
        if (meeting := self.together.next_event(step)) is not None:
            events.append(meeting)
        if monitor.capture is not None:
            starts = {"ward": ward.next_due(step), "monitor": monitor.capture_from(step)}
            wanted: set[str] = set()
            if starts["monitor"] == step + 1:
                wanted |= set(monitor.capture.taps)
            if ward.wants_activations(step + 1) and ward.site is not None:
                wanted |= {group.layer for group in ward.site.units}
            monitor.capture.install(wanted)
            # hooks go on at the end of the step before the first one they read
            events += [start - 1 for start in starts.values() if start - 1 > step]
        self.next_event = min(events)


def next_multiple(step: int, every: int) -> int:
    """The first multiple of `every` after `step`."""
    return (step // every + 1) * every
