"""A run: from optimizer steps to vitals, findings, treatments and the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from homeostat.core.errors import BadInput
from homeostat.core.finding import Finding, JournalEntry
from homeostat.core.treatment import Stage
from homeostat.diagnosis.diagnostician import Diagnostician
from homeostat.diagnosis.facts import EarlierFacts, Facts, ItemFacts, OutsideFacts
from homeostat.diagnosis.history import History
from homeostat.record import RunRecord
from homeostat.shell.hooks.backward_hooks import BACKWARD_HOOKS, found_overflow
from homeostat.shell.hooks.step_hooks import STEP_HOOKS, Arguments
from homeostat.shell.hooks.torch_internals import unseen
from homeostat.shell.network import Network
from homeostat.shell.observe.cadence import Credit
from homeostat.shell.observe.logged_metrics import LoggedMetrics
from homeostat.shell.observe.loss_collector import LossCollector
from homeostat.shell.observe.observer import Row
from homeostat.shell.run.closed_loop import ClosedLoopRunner
from homeostat.shell.run.failures import Failures, warn
from homeostat.shell.run.network_run import NetworkRun, Sample
from homeostat.shell.run.optimizer_networks import OptimizerNetworks
from homeostat.shell.run.run_facts import gather_facts, unmeasured
from homeostat.shell.run.settings import END_SECONDS, START_UP_SECONDS, Settings
from homeostat.shell.run.sinks import SinkRunner
from homeostat.shell.run.time_spent import TimeSpent
from homeostat.shell.run.treatments import TreatmentRunner

FORMAT = 4
"""Version of the format of `Run.state_dict`."""


class Run:
    """Measures and treats networks at their optimizer steps.

    An internal error is reported once and stops only the part that failed; training continues.

    Args:
        settings: settings of the run.
        record: the record.
        strict: raise refusals and errors instead of reporting them (for laws and tests).
        on_sample: called after each sample with (step, loss or None, findings), for a status line.
        speak: takes messages for the user (refusals, internal errors); warns by default.

    Attributes:
        networks: in the order in which they joined the run.
        findings: findings of the last diagnosis; empty if the diagnosis failed.
        outside: what is trained outside of these networks; set by who sees it.
        closed_loop: the closed loop, None without.
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
        self.networks: list[NetworkRun] = []
        self.vitals = settings.selected_vitals()
        self.time, self.credit = TimeSpent(), Credit(START_UP_SECONDS - END_SECONDS)
        self._on_sample, self._speak = on_sample, speak or warn
        self.failures = Failures(record, self._speak, strict, lambda: self.steps)
        self._runners: list[TreatmentRunner] = []
        self.closed_loop = ClosedLoopRunner(self._runners, self.add_entry, settings.every) if settings.auto else None
        self._trained_by, self._scaled = OptimizerNetworks(), False
        self._backwards, self._ended = BACKWARD_HOOKS.backwards, False
        self.guard, self.outside = self.failures.guard, OutsideFacts()
        self.losses = LossCollector(self.guard, lambda: self.steps)
        failed = partial(self.failures.note, "the loss")
        self._listeners = self._before_backward, self._skipped, self.losses.scale.see, failed
        self._logged = LoggedMetrics(settings.metrics, lambda: self.steps, self.failures.note)
        self._sinks = SinkRunner(settings.sinks, record, self.failures.note)

    def start(self) -> None:
        """Subscribe to the hooks."""
        self.time.restart()
        self._backwards = BACKWARD_HOOKS.backwards
        STEP_HOOKS.subscribe(self)
        BACKWARD_HOOKS.subscribe()
        BACKWARD_HOOKS.listen(*self._listeners)
        self._logged.start()
        self._sinks.start()

    def stop(self, status: str = "finished") -> None:
        """Unsubscribe, remove all hooks, write the rest and close the record."""
        if self._ended:
            return
        self._ended = True
        STEP_HOOKS.unsubscribe(self)
        BACKWARD_HOOKS.unsubscribe()
        BACKWARD_HOOKS.ignore(*self._listeners)
        for one in self.networks:
            with self.guard("ending"):
                self.keep(one.end())
        for what, why in unmeasured([(one.network, one.observer) for one in self.networks]):
            self.not_measured(what, why)
        self.keep([*self._logged.stop(), *self.losses.evaluations.end()])
        self._diagnose(ended=True)
        self.losses.end()
        self._progress()
        self._sinks.stop(status)
        self.failures.write()
        with self.guard("record"):
            self.record.close(status)

    def add(self, network: Network, in_loop: bool = False, treated: bool = True) -> NetworkRun:
        """Add a network.

        Args:
            in_loop: whether the user's loop can open the stages that optimizer steps do not show.
            treated: whether the treatments of the settings apply to this network.

        Raises:
            Refused: a treatment cannot be applied to it; nothing was changed.
        """
        new = NetworkRun(self, network, in_loop)
        for treatment in self.settings.treatments if treated else ():
            new.treatments.add(treatment)
        for optimizer in network.optimizers:
            self._trained_by.add(optimizer, new)
        if not self.networks:
            new.closed_loop = self.closed_loop
        self.networks.append(new)
        self.losses.follow(network)
        self._runners.append(new.treatments)
        for name, every_steps in new.observer.cadence.cadences().items():
            self._pace(network.step, name, every_steps)
        return new

    def replace_optimizers(self, network: Network, optimizers: list[Optimizer]) -> None:
        """Set the optimizers that train a network from now on."""
        found = next(one for one in self.networks if one.network is network)
        network.train_with(optimizers)
        for optimizer in optimizers:
            self._trained_by.add(optimizer, found)

    @property
    def steps(self) -> int:
        """Steps of the network that has taken most."""
        return max([one.network.step for one in self.networks], default=0)

    # ---- one step

    def _before_backward(self, loss: Tensor) -> None:
        if self.losses.due(step := self.steps + 1, loss):
            with self.time.timed(self.credit), self.guard("reading the loss"), unseen():
                self.keep(self.losses.read(step, loss))

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        given, changed = (args, kwargs), None
        for one in self._trained_by.of(optimizer):
            changed = self._before(one, optimizer, changed or given) or changed
        return changed

    def _before(self, one: NetworkRun, optimizer: Optimizer, given: Arguments) -> Arguments | None:
        network = one.network
        if id(optimizer) in network.stepped:  # it steps again before the others, so it trains alone from now on
            network.active = set(network.stepped)
            self._end_round(one, optimizer)
        changed = None
        if network.step + 1 >= one.schedule.next:
            with self.time.timed(), self.guard("before a step"):
                self._scaled |= hasattr(optimizer, "grad_scale")
                changed = one.before_step(optimizer, *given)
        return changed

    def after_step(self, optimizer: Optimizer) -> None:
        trained = self._trained_by.of(optimizer)
        with self.guard("the loss"):
            loss = BACKWARD_HOOKS.take(STEP_HOOKS.ticks)
            for one in trained:
                one.step_series.add_loss(one.network.step + 1, loss)
        if not trained:
            for reader in filter(None, (other.observer.twin_reader for other in self.networks)):
                reader.note(optimizer)
        for one in trained:
            if one.leave_out(optimizer) if found_overflow(optimizer) else one.network.completes_round(optimizer):
                self._end_round(one, optimizer)

    def _skipped(self, optimizer: Optimizer) -> None:
        for one in self._trained_by.of(optimizer):
            self._scaled = True
            if one.leave_out(optimizer):
                self._end_round(one, optimizer)
        if self.losses.scale.due():
            with self.time.timed(), self.guard("after a step"):
                self._diagnose()

    def _end_round(self, one: NetworkRun, optimizer: Optimizer) -> None:
        if not one.network.next_round():
            one.observer.drop_captured()
            return
        if one.network.step < one.schedule.next:
            return
        with self.time.timed(), self.guard("after a step"):
            if one.read_step_series():
                self._step_ended(one, optimizer)

    def _step_ended(self, one: NetworkRun, optimizer: Optimizer) -> None:
        step, window, sample = one.network.step, {}, None
        one.network.update_no_gradient()
        one.network.update_rate()
        activations = one.read()
        self.time.seconds += one.aside
        one.treat(activations, optimizer)
        with self.guard("measuring"):  # the other ranks wait for what follows, even if a measurement fails
            window = one.window(activations)
        window = one.sync.pooled(step, window)
        with self.guard("measuring"):
            sample = one.measure(window)
        if sample is not None:
            self._take_in(one, sample)
        one.sync.check(step)
        with self.guard("controllers"):
            self.keep(one.turn_controllers(self.history))
        if one.closed_loop is not None and one.closed_loop.due(step):
            with self.guard("the closed loop"):
                one.closed_loop.step(step, self.findings, self.history)
        one.tracing.after_step(step)
        one.plan_next()

    def _take_in(self, one: NetworkRun, sample: Sample) -> None:
        self.keep([*sample.rows, *self._logged.rows(), *self.losses.evaluations.rows()])
        self._diagnose()
        one.treatments.flush_if_due()
        self._sinks.write_if_due()
        self._progress()
        paces = one.learn_costs(sample, self.time, self.credit, self.settings.budget, len(self.networks))
        if one.pause > 1.0:
            with self.guard("record"):
                self.record.flush()  # the next sample may be late, and a killed process loses unwritten rows
        for name, every in paces.items():
            self._pace(one.network.step, name, every)
        if self._on_sample is not None:
            loss = next((value for _, name, _, value in sample.rows if name == "loss"), None)
            with self.guard("the status line"):
                self._on_sample(self.steps, loss, self.findings)

    def keep(self, rows: list[Row]) -> None:
        """Add measurements to the history and the record."""
        if rows:
            self.history.extend(rows)
            self._sinks.add_rows(rows)
            with self.guard("record"):
                self.record.add_vitals(rows)

    def _diagnose(self, ended: bool = False) -> None:
        findings: list[Finding] = []
        with self.guard("diagnosis"):
            findings = self.diagnostician.update(self.history, self.facts(ended))
        if findings != self.findings:
            self.findings = findings
            self._sinks.set_findings(self.steps, findings)
            with self.guard("record"):
                self.record.set_findings(self.steps, findings)

    def _pace(self, step: int, vital: str, every: int) -> None:
        with self.guard("record"):
            self.record.set_cadence(step, vital, every)

    def _progress(self) -> None:
        self.time.count_hooks()
        share = self.time.share(sum(one.tracing.seconds for one in self.networks))
        with self.guard("record"):
            self.record.progress(self.steps, self.time.wall_seconds, share)

    # ---- calls from the user's loop

    def before_clip(self, optimizers: Sequence[Optimizer]) -> None:
        """Run the gradient stage now instead of inside the optimizers' steps.

        Raises:
            BadInput: the gradients are still scaled by a GradScaler.
        """
        for optimizer in optimizers:
            if BACKWARD_HOOKS.still_scaled(optimizer):
                why = "its gradients are still scaled: call scaler.unscale_(optimizer) before run.before_clip()"
                raise BadInput(f"{type(optimizer).__name__}: {why}")
        for optimizer in optimizers:
            for one in self._trained_by.of(optimizer):
                one.treat_gradients(optimizer, explicit=True)

    def boundary(self, label: str = "", evaluation: Any = None) -> None:
        """Begin a new task: note it in the record and the history, and run treatments of stage "boundary".

        Args:
            evaluation: evaluation items (inputs, targets) of the new task, None without or if they are known.

        Raises:
            BadInput: they do not fit, or no network is evaluated on such items; nothing was changed.
        """
        sets = [one.observer.tasks for one in self.networks if one.observer.tasks is not None]
        if evaluation is not None and not sets:
            raise BadInput("evaluation items need a loss: attach(..., measure=MeasureOptions(tasks=({}, loss_fn)))")
        checked = [] if evaluation is None else [known.check_next(label, evaluation) for known in sets]
        step = self.steps
        with self.time.timed(), self.guard("measuring"):
            for one in self.networks:
                self.keep(one.boundary())
        self.history.boundary(step, label)
        with self.guard("record"):
            self.record.add_boundary(step, label)
        for one in self.networks:
            one.treatments.act(Stage.BOUNDARY, one.network.step, {})
        for known, items in zip(sets, checked, strict=False):
            known.add(items)

    def add_entry(self, entry: JournalEntry) -> None:
        """Write a journal entry; refusals and errors are also reported."""
        self._sinks.add_entry(entry)
        with self.guard("record"):
            self.record.add_journal(entry)
        if entry.action in ("refuse", "error") and not self.strict:
            self._speak(f"{entry.component}: {entry.why}")

    def not_measured(self, what: str, why: str) -> None:
        """Record what could not be measured, and why."""
        with self.guard("record"):
            self.record.add_not_measured(what, why)

    def vital_failed(self, what: str, why: str) -> None:
        """A vital has failed and is no longer measured."""
        self.not_measured(what, why)
        self.failures.add(f"the vital {what}", why)
        if not self.strict:
            self._speak(f"{what} is not measured any more: {why}; training goes on")

    def judged_vitals(self) -> set[str]:
        """Names of the vitals that conditions read."""
        return {name for condition in self.diagnostician.conditions.values() for name in condition.reads}

    def facts(self, ended: bool = False) -> Facts:
        """Facts for the diagnosis, in addition to the vitals."""
        observers = [(one.network, one.observer) for one in self.networks]
        return gather_facts(
            [(one.network, one.tracing.widths) for one in self.networks],
            steps=self.steps,
            ended=ended,
            outside=self.outside,
            scaled=self._scaled,
            probe=bool(self.settings.probe),
            backwards=0 if STEP_HOOKS.compiled else BACKWARD_HOOKS.backwards - self._backwards,
            nonlinearity={net.named(k): v for net, observer in observers for k, v in observer.nonlinearity.items()},
            losses=self.losses,
            task_ends={one.network.named("network"): tuple(one.step_series.tasks.ends) for one in self.networks},
            earlier=self.networks[0].earlier.facts() if len(self.networks) == 1 else EarlierFacts(),
            items=self.networks[0].earlier.items.facts() if len(self.networks) == 1 else ItemFacts(),
            batch_size=min((observer.rows for _, observer in observers if observer.rows), default=None),
        )

    def state_dict(self) -> dict[str, Any]:
        """Homeostat's state: dictionaries, lists, texts, numbers and tensors, for `torch.load(weights_only=True)`."""
        return {
            "format": FORMAT,
            "networks": {one.network.label: one.state_dict() for one in self.networks},
            "asked": [{"name": t.name, "settings": t.settings()} for t in self.settings.treatments],
            "vitals": [vital.name for vital in self.vitals],
            "dials": {name: dial.read() for name, dial in self.settings.dials.items()},
            "history": self.history.state_dict(),
            "diagnosis": self.diagnostician.state_dict(),
            "loop": None if self.closed_loop is None else self.closed_loop.state_dict(),
            "spent": self.time.used,
            "credit": self.credit.used,
            "wall_seconds": self.time.wall_seconds,
            "backwards": BACKWARD_HOOKS.backwards - self._backwards,
            "scaled": self._scaled,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue, before the first step, from a state that passed `check_state`; modules are already edited."""
        self.history = History.load(state["history"])
        self.diagnostician.load_state_dict(state["diagnosis"])
        self.findings = self.diagnostician.findings
        if self.closed_loop is not None and state["loop"] is not None:
            self.closed_loop.load_state_dict(state["loop"])
        self.time.restart(state["spent"], state["wall_seconds"])
        self.credit.used = self.credit.clock = state.get("credit", 0.0)
        self._scaled, self._backwards = state["scaled"], BACKWARD_HOOKS.backwards - state["backwards"]
        asked = {entry["name"]: entry["settings"] for entry in state["asked"]}
        for one in self.networks:
            one.load_state_dict(state["networks"][one.network.label], state["vitals"], asked)
        for name, value in state["dials"].items():
            if value is not None and name in self.settings.dials:
                self.settings.dials[name].turn(value)
