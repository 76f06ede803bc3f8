"""A network of a run, and the actions around its optimizer steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer

from homeostat.core.errors import Refused
from homeostat.core.finding import JournalEntry
from homeostat.core.snapshot import Reading
from homeostat.core.treatment import Stage
from homeostat.core.vital import Vital
from homeostat.diagnosis.history import History
from homeostat.shell.hooks.backward_hooks import overflowed
from homeostat.shell.hooks.clock import CLOCK
from homeostat.shell.hooks.step_hooks import Arguments
from homeostat.shell.network import Network
from homeostat.shell.observe.cadence import Cadence, Credit
from homeostat.shell.observe.earlier_batches import EarlierBatches
from homeostat.shell.observe.loss_collector import LossCollector
from homeostat.shell.observe.observer import Observer, Row
from homeostat.shell.observe.probe import ProbeMaker
from homeostat.shell.observe.step_series import StepSeries
from homeostat.shell.observe.task_probe import TaskProbes
from homeostat.shell.observe.twin_reader import TwinReader
from homeostat.shell.run.closed_loop import ClosedLoopRunner
from homeostat.shell.run.controllers import controller_runners, fixed_cadences
from homeostat.shell.run.lazy_trace import LazyTrace
from homeostat.shell.run.schedule import Schedule
from homeostat.shell.run.settings import Settings
from homeostat.shell.run.sync import RankSync
from homeostat.shell.run.time_spent import TimeSpent
from homeostat.shell.run.treatments import TreatmentRunner
from homeostat.shell.unit_graph.flatten import flattened, revived
from homeostat.shell.unit_graph.traced_network import TracedNetwork

SILENT_STEPS = 3
"""Number of successive steps without a call of an installed hook, after which this is reported."""


class Owner(Protocol):
    """The interface of a run for its networks."""

    settings: Settings
    strict: bool
    vitals: tuple[Vital, ...]
    credit: Credit
    losses: LossCollector
    closed_loop: ClosedLoopRunner | None

    def add_entry(self, entry: JournalEntry) -> None: ...
    def not_measured(self, what: str, why: str) -> None: ...
    def vital_failed(self, what: str, why: str) -> None: ...
    def judged_vitals(self) -> set[str]: ...
    def guard(self, part: str) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Sample:
    """Measurements at the end of a step.

    Args:
        rows: for the history and the record.
        costs: vital -> seconds.
        began: `CLOCK.now()` at its start.
        thread: `time.thread_time()` at its start.
    """

    rows: list[Row]
    costs: dict[str, float]
    began: float
    thread: float


class NetworkRun:
    """A network with its observer and treatments.

    Args:
        run: the run of the network.
        network: the network.
        in_loop: whether the user's loop can open the stages that optimizer steps do not show.

    Attributes:
        schedule: the next steps at which something is due; nothing happens before them.
        closed_loop: the closed loop, for the first network only; else None.
        aside: seconds spent in this step on our own forward passes (compiled networks).
        pause: seconds until the next measurement, estimated at the last one.
    """

    def __init__(self, run: Owner, network: Network, in_loop: bool) -> None:
        settings = run.settings
        self.network, self.schedule = network, Schedule()
        self.schedule.put(1, "vitals")
        self.closed_loop: ClosedLoopRunner | None = None
        self.treatments = TreatmentRunner(network, settings.seed, settings.dry_run, run.add_entry, in_loop)
        self.treatments.strict = run.strict
        self.observer = self._make_observer(run)
        losses, (note, guard) = run.losses, (run.not_measured, run.guard)
        self.earlier = EarlierBatches(
            network, lambda: losses.next, note, guard, lambda: len(losses.readers) == 1, run.credit
        )
        losses.readers.append(self.earlier.see)
        self.step_series = StepSeries(network.named("network"), settings.every, not network.sharded(), run.credit)
        self.controllers = controller_runners(settings.controllers, self.treatments, settings.gauges, run.add_entry)

        def acts() -> bool:
            return bool(self.treatments.applied or self.controllers or run.closed_loop)

        def end_acting() -> None:
            self.controllers.clear()
            if run.closed_loop is not None:
                run.closed_loop.end()

        self.sync = RankSync(
            network, self.treatments, self.observer, acts, settings.to_json(), run.add_entry, end_acting
        )
        self.tracing = LazyTrace(
            network,
            self.treatments,
            self.observer,
            run.not_measured,
            self.sync.agreed,
            self.plan_next,
            run.guard,
            lambda: bool(self.treatments.applied or run.closed_loop),
        )
        self.aside = self.pause = 0.0
        self._silent, self._silence_reported = 0, False
        self._placed: dict[int, tuple[int, Tensor | None]] = {}
        self._last_sample = (CLOCK.now(), 0, 0.0)

    def _make_observer(self, run: Owner) -> Observer:
        settings, network, treatments = run.settings, self.network, self.treatments
        judged = run.judged_vitals()
        reads = [vital for vital in run.vitals if vital.name in judged]
        fixed = fixed_cadences(settings.controllers, settings.auto, settings.every, reads)
        return Observer(
            network,
            run.vitals,
            Cadence(run.vitals, settings.budget, settings.every, fixed, run.credit),
            run.not_measured,
            ProbeMaker(network, settings.probe, settings.seed) if settings.probe else None,
            run.vital_failed,
            TaskProbes(network, settings.tasks, settings.seed, lambda: treatments.task) if settings.tasks else None,
            None if settings.twin is None else TwinReader(network, settings.twin),
        )

    # ---- one step

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Before the optimizer reads the gradients: store weights for later comparison, run the gradient stage.

        With a closure the gradients exist only inside the step, so the closure is wrapped. Returns the new arguments.
        """
        if not self.network.stepped:
            self.observer.before_update(self.network.step + 1)
            self.treatments.before_update(self.network.step + 1)
        me, *positional = args  # the first argument is the optimizer
        closure = positional[0] if positional else kwargs.get("closure")
        if closure is None:
            self.step_series.before_update(self.network.step + 1, optimizer, self.network.model)
            self.treat_gradients(optimizer)
            return None
        # checked inside the closure, because treatments may start at the first forward pass in it
        if not any(applied.treatment.stage == Stage.GRADIENT for applied in self.treatments.applied):
            return None

        def treated_closure() -> Any:
            value = closure()
            self.treat_gradients(optimizer)
            return value

        return ((me, treated_closure, *positional[1:]), {k: v for k, v in kwargs.items() if k != "closure"})

    def treat_gradients(self, optimizer: Optimizer, explicit: bool = False) -> None:
        """Run the gradient stage for one optimizer, unless this was done explicitly for these gradients.

        Args:
            explicit: whether the user calls it; then the optimizer's step omits it.
        """
        step = self.network.step + 1
        if not self.treatments.ready(Stage.GRADIENT, step) or overflowed(optimizer):
            return
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        gradient = next((p.grad for p in parameters if p.grad is not None), None)
        placed = self._placed.get(id(optimizer))
        if placed is not None and placed[0] == step and placed[1] is gradient:
            return
        self.treatments.act(Stage.GRADIENT, step, {}, optimizer)
        if explicit:
            self._placed[id(optimizer)] = (step, gradient)

    def read_step_series(self) -> bool:
        """Read the norms where they are due at the end of this step; whether anything else is due."""
        self.step_series.after_update(self.network.step)
        self.schedule.put(self.step_series.next, "step series")
        return self.schedule.next <= self.network.step

    def read(self) -> dict[str, Tensor]:
        """Layer -> captured activations [N, H] of this step. Checks that hooks are called."""
        self.tracing.step_ended()
        capture = self.observer.capture
        if capture is None:
            return {}
        self.aside = capture.seconds
        listened, activations = bool(capture.installed), capture.take()
        self._silent = 0 if activations else self._silent + listened
        if self._silent >= SILENT_STEPS:
            self._silent = 0
            if not self.tracing.fell_silent():
                self._refuse_readers()
        self.tracing.note_widths(activations)
        return activations

    def treat(self, activations: dict[str, Tensor], optimizer: Optimizer) -> None:
        """Run the treatments that act after the update."""
        step = self.network.step
        self.treatments.act(Stage.UPDATE, step, self.sync.gathered(step, activations), optimizer)

    def window(self, activations: dict[str, Tensor]) -> dict[str, Tensor]:
        """The activations for the vitals of this step; empty if no vital is due."""
        return self.observer.collect(self.network.step, activations) if self.observer.capture is not None else {}

    def measure(self, window: Mapping[str, Tensor]) -> Sample | None:
        """Measure the vitals that are due at the end of this step; None if none is."""
        step = self.network.step
        if not self.observer.due(step):
            return None
        began, thread = CLOCK.now(), time.thread_time()
        rows, costs = self.observer.sample(step, window, self.step_series.mean_loss())
        return Sample(rows + self.step_series.rows(), costs, began, thread)

    def learn_costs(
        self, sample: Sample, spent: TimeSpent, credit: Credit, budget: float, networks: int
    ) -> dict[str, int]:
        """Set the cadence from the cost of a sample, after all work of the step.

        Args:
            credit: time credit of the run for start-up readings.
            networks: number of networks that share the time of a step.

        Returns:
            Vital -> new cadence in steps, for vitals whose cadence has changed.
        """
        now, step, cadence = CLOCK.now(), self.network.step, self.observer.cadence
        then, at, before = self._last_sample
        seconds = (now - then - (spent.seconds - before)) / max(step - at, 1)
        self._last_sample = (now, step, spent.seconds)
        self.pause = seconds * (cadence.next_due(step) - step)
        base = now - sample.began - sum(sample.costs.values()) + self.aside
        running = (time.thread_time() - sample.thread) / max(now - sample.began, 1e-9)
        cadence.pay(step, sample.costs, base, running if self.network.device.type == "cpu" else 1.0)
        debt = (spent.used - credit.clock) / max(budget * spent.wall_seconds, 1e-9)
        paces = cadence.cadences()
        if not cadence.learn(sample.costs, base, seconds / networks if at else 0.0, debt):
            return {}
        return {name: every for name, every in cadence.cadences().items() if every != paces[name]}

    def turn_controllers(self, history: History) -> list[Row]:
        """Run the controllers that are due at this step. Returns rows for the record."""
        step = self.network.step
        due = [one for one in self.controllers if step % one.controller.every == 0]
        return [row for one in due for row in one.turn(history, step)]

    def plan_next(self) -> None:
        """Queue the next due step of each part, and install the hooks that it needs."""
        step, queue, capture = self.network.step, self.schedule, self.observer.capture
        treated = self.treatments.next_due(step)
        queue.put(self.observer.cadence.next_due(step), "vitals")
        queue.put(self.step_series.next, "step series")
        queue.put(step + 1 if self.tracing.waiting else treated, "treatments")
        queue.put(self.sync.next_due(step), "ranks")
        queue.put(min((one.next_due(step) for one in self.controllers), default=None), "controllers")
        queue.put(None if self.closed_loop is None else self.closed_loop.next_due(step), "closed loop")
        queue.put(self.earlier.after_step(step), "earlier batches")
        if capture is None:
            return
        measured = self.observer.capture_from(step)
        wanted = set(capture.taps) if measured == step + 1 else set[str]()
        if self.treatments.traced is not None and self.treatments.wants_activations(step + 1):
            wanted |= {group.layer for group in self.treatments.traced.units}
        capture.install(wanted)
        # hooks are installed at the end of the step before the first one that they read
        queue.put(min((at - 1 for at in (treated, measured) if at - 1 > step), default=None), "hooks")

    # ---- outside of steps

    def leave_out(self, optimizer: Optimizer) -> bool:
        """A GradScaler left out the optimizer's step; returns whether the round is over."""
        self.step_series.leave_out()
        self._placed.pop(id(optimizer), None)
        return self.network.sits_out(optimizer)

    def boundary(self) -> list[Row]:
        """A new task begins. Returns measurements of the task that ends."""
        rows = self.observer.boundary(self.network.step)
        self.schedule.put(self.observer.cadence.next_due(self.network.step), "vitals")
        return rows

    def end(self) -> list[Row]:
        """Remove every hook, and write what adds up over steps into the journal; returns what is left to record."""
        self.tracing.cancel()
        if self.observer.capture is not None:
            self.observer.capture.remove()
        self.earlier.end()
        self.treatments.flush()
        return self.step_series.rows() + self.step_series.last_rows()

    def state_dict(self) -> dict[str, Any]:
        """The state for continuing in another process, without the network itself."""
        capture, tracing, traced = self.observer.capture, self.tracing, self.treatments.traced
        return {
            "network": self.network.state_dict(),
            "step series": self.step_series.state_dict(),
            "shapes": self.network.shapes(),
            "treatments": self.treatments.state_dict(),
            "since": tracing.since,
            "traced": None if tracing.waiting or traced is None else traced.state_dict(),
            "taps": flattened(dict(capture.taps) if capture is not None else {}),
            "widths": dict(tracing.widths),
            "observer": self.observer.state_dict(),
            "controllers": [one.state_dict() for one in self.controllers],
        }

    def load_state_dict(self, state: Mapping[str, Any], vitals: Sequence[str], asked: Mapping[str, Any]) -> None:
        """Continue from `state_dict`.

        Args:
            vitals: names of the vitals of the saved run's settings.
            asked: treatment -> settings, in the saved run's settings.
        """
        self.network.load_state_dict(state["network"])
        self.step_series.load_state_dict(state["step series"])
        self.treatments.load_state_dict(state["treatments"], asked)
        self.observer.load_state_dict(state["observer"], vitals)
        if state["traced"] is not None:
            self.tracing.recall(TracedNetwork.from_state(state["traced"]), revived(state["taps"]), state["widths"])
        self.tracing.since = state["since"]
        for one, saved in zip(self.controllers, state["controllers"], strict=True):
            one.load_state_dict(saved)
        self.plan_next()

    def _refuse_readers(self) -> None:
        """Report that there are no activations, and end the treatments that need them."""
        how = "the layers are not called, or only inside a compiled function"
        why = f"hooks on the layers were silent in {SILENT_STEPS} steps: {how}"
        if not self._silence_reported:
            self._silence_reported = True
            self.observer.not_measured(self.network.named("activations"), why)
        readers = [one for one in self.treatments.applied if Reading.ACTIVATIONS in one.treatment.reads]
        for applied in [one for one in readers if one.begun]:
            self.treatments.stop(applied.name, "refuse", why)
            if self.treatments.strict:
                raise Refused(applied.name, self.network.label or "this network", why)
