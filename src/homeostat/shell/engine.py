"""The engine under `attach` and `watch`: optimizer steps in, vitals, findings, treatments and the record out."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from homeostat.core.errors import BadInput
from homeostat.core.finding import Finding, JournalEntry
from homeostat.core.treatment import Stage
from homeostat.diagnosis.diagnostician import Diagnostician
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.loop import ClosedLoop
from homeostat.record import RunRecord
from homeostat.shell import continuing
from homeostat.shell.clock import CLOCK, Arguments
from homeostat.shell.enrolling import enrol
from homeostat.shell.facts import gather_facts
from homeostat.shell.losses import LOSSES, found_overflow
from homeostat.shell.measuring import Row
from homeostat.shell.network import Network
from homeostat.shell.patient import Patient, next_multiple
from homeostat.shell.regulating import LOOP_EVERY, Healer
from homeostat.shell.settings import Settings


class Engine:
    """Follows networks through their optimizer steps.

    Nothing but a dictionary lookup and two comparisons happens on a step at which nothing is due. Any internal error is
    reported once and ends only the part that failed; training goes on.

    Args:
        settings: what to do.
        record: where it is written.
        strict: let refusals and errors of treatments reach the caller (for laws and tests) instead of reporting them.
        on_sample: called after each sample with (step, loss or None, findings), for a status line.
        speak: takes what the user must hear at once (a refusal, an internal error); warns by default.
    """

    def __init__(
        self,
        settings: Settings,
        record: RunRecord,
        strict: bool = False,
        on_sample: Callable[[int, float | None, list[Finding]], None] | None = None,
        speak: Callable[[str], object] | None = None,
    ) -> None:
        self.settings, self.record, self.strict = settings, record, strict
        self.history, self.diagnostician = History(), Diagnostician()
        self.findings: list[Finding] = []
        self.patients: list[Patient] = []
        self.spent = 0.0
        self.setup = 0.0
        self._on_sample, self._speak = on_sample, speak or warn
        self._by_optimizer: dict[int, tuple[weakref.ref[Optimizer], Patient]] = {}
        self.vitals = settings.selected_vitals()
        self._healer: Healer | None = None
        self.loop = ClosedLoop() if settings.auto else None
        self.refused_by_loop: dict[str, str] = {}
        self._loop_every = settings.every or LOOP_EVERY
        self._started = time.perf_counter()
        self._broken: set[str] = set()
        self._scaled = False
        self._backwards = LOSSES.backwards
        self._ended = False

    # ---- life

    def start(self) -> None:
        """Begin to listen."""
        self._started = time.perf_counter()
        self._backwards = LOSSES.backwards
        CLOCK.subscribe(self)
        LOSSES.subscribe()
        LOSSES.on_skipped.append(self._skipped)

    def stop(self, status: str = "finished") -> None:
        """Stop listening, take every hook off, write what is left and close the record."""
        if self._ended:
            return
        self._ended = True
        CLOCK.unsubscribe(self)
        LOSSES.unsubscribe()
        if self._skipped in LOSSES.on_skipped:
            LOSSES.on_skipped.remove(self._skipped)
        for patient in self.patients:
            patient.anatomy.cancel()
            if patient.monitor.capture is not None:
                patient.monitor.capture.remove()
            patient.ward.flush()
            for vital, layer in patient.monitor.never_measured():
                self.not_measured(f"{vital} @ {layer}", "always missing: constant, empty or non-finite input")
        with self.survive("diagnosis"):
            self._diagnose(ended=True)
        self._progress()
        with self.survive("record"):
            self.record.close(status)

    def add(self, network: Network, in_loop: bool = False, treated: bool = True) -> Patient:
        """Follow a network from now on.

        Args:
            in_loop: the user's loop can open the stages that optimizer steps do not show.
            treated: the treatments asked for are meant for this network too.

        Raises:
            Refused: a treatment cannot be applied to it; nothing was changed.
        """
        patient = enrol(self, network, in_loop)
        for treatment in self.settings.treatments if treated else ():
            patient.ward.add(treatment)
        for optimizer in network.optimizers:
            self._by_optimizer[id(optimizer)] = (weakref.ref(optimizer), patient)
        self.patients.append(patient)
        if self.loop is not None:
            wards = [p.ward for p in self.patients]
            self._healer = Healer(self.loop, wards, self.tell, self.refused_by_loop)
        patient.last_sample = (time.perf_counter(), 0, self.spent)
        for name, every_steps in patient.monitor.cadence.cadences().items():
            self._pace(network.step, name, every_steps)
        return patient

    def end_loop(self) -> None:
        """The closed loop does nothing any more."""
        self._healer = None

    def before_clip(self, optimizers: Sequence[Optimizer]) -> None:
        """Carry out the gradient stage now instead of inside the optimizers' steps.

        Raises:
            BadInput: the gradients are still scaled by a GradScaler.
        """
        for optimizer in optimizers:
            if LOSSES.still_scaled(optimizer):
                why = "its gradients are still scaled: call scaler.unscale_(optimizer) before run.before_clip()"
                raise BadInput(f"{type(optimizer).__name__}: {why}")
        for optimizer in optimizers:
            if (patient := self._patient(optimizer)) is not None:
                patient.treat_gradients(optimizer, explicit=True)

    def boundary(self, label: str = "", evaluation: Any = None) -> None:
        """A new task begins: marked in the record, told to the diagnosis, acted on by boundary treatments.

        Args:
            evaluation: (inputs, targets) to evaluate the new task by, None when there are none or they are known.

        Raises:
            BadInput: they do not fit, or no run is measured by such items; nothing was changed.
        """
        sets = [p.monitor.tasks for p in self.patients if p.monitor.tasks is not None]
        if evaluation is not None and not sets:
            raise BadInput("evaluation items need a loss: attach(model, optimizer, tasks=({}, loss_fn))")
        checked = [] if evaluation is None else [known.check_next(label, evaluation) for known in sets]
        step, start = self.steps, time.perf_counter()
        with self.survive("measuring"):
            for patient in self.patients:
                self._keep(patient.monitor.boundary(patient.network.step))
                patient.next_event = min(patient.next_event, patient.monitor.cadence.next_due(patient.network.step))
        self.spent += time.perf_counter() - start
        self.history.boundary(step, label)
        with self.survive("record"):
            self.record.add_boundary(step, label)
        for patient in self.patients:
            patient.ward.act(Stage.BOUNDARY, patient.network.step, {})
        for known, items in zip(sets, checked, strict=False):
            known.add(items)

    def replace_optimizers(self, network: Network, optimizers: list[Optimizer]) -> None:
        """The network is trained by these optimizers from now on."""
        patient = next(p for p in self.patients if p.network is network)
        network.train_with(optimizers)
        for optimizer in optimizers:
            self._by_optimizer[id(optimizer)] = (weakref.ref(optimizer), patient)

    def state_dict(self) -> dict[str, Any]:
        """See `continuing.state_dict`."""
        return continuing.state_dict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `continuing.load_state_dict`."""
        continuing.load_state_dict(self, state)

    @property
    def steps(self) -> int:
        """Steps of the network that has taken most."""
        return max((p.network.step for p in self.patients), default=0)

    @property
    def wall_seconds(self) -> float:
        return time.perf_counter() - self._started

    # ---- reporting

    def tell(self, entry: JournalEntry) -> None:
        """Write a journal entry; refusals and errors are also warned about, once each."""
        with self.survive("record"):
            self.record.add_journal(entry)
        if entry.action in ("refuse", "error") and not self.strict:
            self._speak(f"{entry.component}: {entry.why}")

    def not_measured(self, what: str, why: str) -> None:
        """Say what is missing from the record, and why."""
        with self.survive("record"):
            self.record.add_not_measured(what, why)

    def failed(self, what: str, why: str) -> None:
        """A vital has failed and is measured no more."""
        self.not_measured(what, why)
        if not self.strict:
            self._speak(f"{what} is not measured any more: {why}; training goes on")

    # ---- the clock's listener

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        patient = self._patient(optimizer)
        if patient is None:
            return None
        network = patient.network
        if id(optimizer) in network.stepped:
            network.active = set(network.stepped)
            self._end_round(patient, optimizer)
        if network.step + 1 < patient.next_event:
            return None
        start = time.perf_counter()
        changed = None
        with self.survive("before a step"):
            self._scaled |= hasattr(optimizer, "grad_scale")
            changed = patient.begin(optimizer, args, kwargs)
        self.spent += time.perf_counter() - start
        return changed

    def after_step(self, optimizer: Optimizer) -> None:
        loss = LOSSES.take(CLOCK.ticks)
        patient = self._patient(optimizer)
        if patient is None:
            for beside in filter(None, (p.monitor.beside for p in self.patients)):
                beside.note(optimizer)
            return
        network = patient.network
        if loss is not None:
            network.add_loss(loss)
        over = patient.leave_out(optimizer) if found_overflow(optimizer) else network.completes_round(optimizer)
        if over:
            self._end_round(patient, optimizer)

    def _patient(self, optimizer: Optimizer) -> Patient | None:
        entry = self._by_optimizer.get(id(optimizer))
        return entry[1] if entry is not None and entry[0]() is optimizer else None

    def _skipped(self, optimizer: Optimizer) -> None:
        if (patient := self._patient(optimizer)) is not None:
            self._scaled = True
            if patient.leave_out(optimizer):
                self._end_round(patient, optimizer)

    def _end_round(self, patient: Patient, optimizer: Optimizer) -> None:
        network = patient.network
        if not network.next_round():
            patient.monitor.drop_captured()
            return
        if network.step < patient.next_event:
            return
        start = time.perf_counter()
        with self.survive("after a step"):
            self._act(patient, optimizer)
        self.spent += time.perf_counter() - start

    def _act(self, patient: Patient, optimizer: Optimizer) -> None:
        network, monitor, step = patient.network, patient.monitor, patient.network.step
        network.watch_gradients()
        activations = patient.take()
        self.spent += patient.aside
        patient.ward.act(Stage.UPDATE, step, patient.together.gathered(step, activations), optimizer)
        window = {}
        with self.survive("measuring"):  # whatever happens to a measurement, the other ranks wait for what follows
            window = monitor.collect(step, activations) if monitor.capture is not None else {}
        window = patient.together.pooled(step, window)
        with self.survive("measuring"):
            if monitor.due(step):
                self._sample(patient, step, window)
        patient.together.check(step)
        for regulator in list(patient.regulators):
            if step % regulator.controller.every == 0:
                self._keep(regulator.turn(self.history, step))
        if self._healer is not None and patient is self.patients[0] and step % self._loop_every == 0:
            self._healer.step(step, self.findings, self.history)
        patient.anatomy.after_step(step)
        self.schedule(patient)

    def schedule(self, patient: Patient) -> None:
        """Decide the next step at which anything happens to a patient."""
        step = patient.network.step
        patient.schedule(step, () if self._healer is None else [next_multiple(step, self._loop_every)])

    # ---- samples

    def _sample(self, patient: Patient, step: int, activations: dict[str, Tensor]) -> None:
        network, monitor = patient.network, patient.monitor
        began = time.perf_counter()
        rows, costs = monitor.sample(step, activations, network.mean_loss())
        self._keep(rows)
        self._diagnose()
        patient.ward.flush_if_due()
        self._progress()
        now = time.perf_counter()
        base = now - began - sum(costs.values()) + patient.aside
        self._learn_costs(patient, step, costs, base, now)
        if self._on_sample is not None:
            number = next((v for _, name, _, v in rows if name == "loss"), None)
            self._on_sample(self.steps, number, self.findings)

    def _learn_costs(self, patient: Patient, step: int, costs: dict[str, float], base: float, now: float) -> None:
        then, at, spent = patient.last_sample
        seconds = (now - then - (self.spent - spent)) / max(step - at, 1)
        patient.last_sample = (now, step, self.spent)
        if seconds * (patient.monitor.cadence.next_due(step) - step) > 1.0:
            with self.survive("record"):
                self.record.flush()  # the next chance may be far off, and a killed process loses what is not written
        share = seconds / len(self.patients)
        before = patient.monitor.cadence.cadences()
        debt = self.spent / max(self.settings.budget * self.wall_seconds, 1e-9)
        if patient.monitor.cadence.learn(costs, base, share if at else 0.0, debt):
            for name, every in patient.monitor.cadence.cadences().items():
                if every != before[name]:
                    self._pace(step, name, every)

    def _pace(self, step: int, vital: str, every: int) -> None:
        with self.survive("record"):
            self.record.set_cadence(step, vital, every)

    def _keep(self, rows: list[Row]) -> None:
        self.history.extend(rows)
        with self.survive("record"):
            self.record.add_vitals(rows)

    def _diagnose(self, ended: bool = False) -> None:
        findings = self.diagnostician.update(self.history, self.facts(ended))
        if findings != self.findings:
            self.findings = findings
            with self.survive("record"):
                self.record.set_findings(self.steps, findings)

    def facts(self, ended: bool = False) -> Facts:
        """What diagnosis may know beside the vitals."""
        networks = [(p.network, p.anatomy.widths) for p in self.patients]
        return gather_facts(
            networks,
            steps=self.steps,
            ended=ended,
            scaled=self._scaled,
            probe=bool(self.settings.probe),
            backwards=LOSSES.backwards - self._backwards,
            nonlinearity={p.network.named(k): v for p in self.patients for k, v in p.monitor.nonlinearity.items()},
            batch_size=min((p.monitor.rows for p in self.patients if p.monitor.rows), default=None),
        )

    def _progress(self) -> None:
        wall = self.wall_seconds
        with self.survive("record"):
            spent = self.spent + self.setup + sum(p.anatomy.seconds for p in self.patients)
            self.record.progress(self.steps, wall, spent / wall if wall > 0 else 0.0)

    @contextlib.contextmanager
    def survive(self, what: str):
        """Report an internal error once and go on: the user's training never ends because of Homeostat."""
        try:
            yield
        except Exception as error:
            if self.strict:
                raise
            if what not in self._broken:
                self._broken.add(what)
                text = f"an internal error in {what}, reported once, training goes on"
                self._speak(f"{text}: {type(error).__name__}: {error}")


def warn(text: str) -> None:
    """Warn, and where warnings are errors, print: training does not end because of a message."""
    try:
        warnings.warn(f"homeostat: {text}", RuntimeWarning, stacklevel=4)
    except RuntimeWarning:
        print(f"homeostat: {text}", file=sys.stderr)
