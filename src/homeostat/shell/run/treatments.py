"""Runs the treatments of a network: their views, their planned edits, and the journal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from homeostat.core.component import find
from homeostat.core.edits import AddGradient, ClearMoments, Edit
from homeostat.core.errors import Refused
from homeostat.core.finding import JournalEntry
from homeostat.core.random import Draw
from homeostat.core.signals import pass_on
from homeostat.core.snapshot import Reading
from homeostat.core.treatment import Stage, Treatment, View
from homeostat.shell.edits.apply import apply_edits
from homeostat.shell.edits.optimizer_state import Holders
from homeostat.shell.hooks.module_tree import named_buffers_in
from homeostat.shell.network import Network
from homeostat.shell.run.applied_treatment import AppliedTreatment
from homeostat.shell.run.compatibility import LINES, admit, admit_rank
from homeostat.shell.run.failures import treatment_failure
from homeostat.shell.unit_graph.traced_network import TracedNetwork, fitting, succeeding

JOURNAL_EVERY = 500
"""Number of steps over which resets of units are summed into one journal entry."""


class TreatmentRunner:
    """Runs the treatments of a network.

    If a treatment fails, its edits of this step are rolled back and it is stopped; training continues without it.

    Args:
        network: the network.
        seed: seed of the treatments' random draws.
        dry_run: plan and report, but change nothing.
        add_entry: takes journal entries.
        in_loop: whether the user's loop can open the stages that optimizer steps do not show.

    Attributes:
        strict: whether refusals and errors are raised.
        task: number of boundaries so far.
        relearn: traces the network again after edits of modules; returns None if that has to wait for the model's next
            call, after which `settle` is called.
        pair: pairs the units of a network that was only observed.
    """

    def __init__(
        self,
        network: Network,
        seed: int,
        dry_run: bool,
        add_entry: Callable[[JournalEntry], None],
        in_loop: bool = False,
    ) -> None:
        self.network, self.seed, self.dry_run, self.in_loop = network, seed, dry_run, in_loop
        self._add_entry = add_entry
        self.traced: TracedNetwork | None = None
        self.applied: list[AppliedTreatment] = []
        self.strict = False
        self.task = 0
        self.relearn: Callable[[], TracedNetwork | None] = lambda: None
        self.pair: Callable[[], None] = lambda: None
        self._operated: TracedNetwork | None = None
        self._flushed = 0
        self._before: dict[str, Tensor] = {}

    def add(self, treatment: Treatment, why: str = "asked for") -> AppliedTreatment:
        """Start a treatment; it acts from the next due step on.

        Raises:
            Refused: it cannot be applied correctly to this network or optimizer; nothing was changed.
        """
        admit(treatment, self.network, self.in_loop)
        applied = AppliedTreatment(treatment, treatment.knobs())
        self.applied.append(applied)
        self.applied = _ordered(self.applied)
        if treatment.lines and not self.in_loop:
            lines = " and ".join(LINES[stage] for stage in treatment.lines)
            why = f"{why}; a part of it cannot act without {lines} in the loop"
        self._add_entry(self._entry(treatment.name, "attach", why=why, detail={"settings": treatment.settings()}))
        self.pair()
        if treatment.stage == Stage.BATCH:
            with self.guarded(applied, "it could not begin"):
                self._begin(applied)
        self._begin_all()
        return applied

    def stop(self, name: str, action: str, why: str) -> None:
        """End a treatment. Its earlier changes stay."""
        self.flush(name)
        kept = [applied for applied in self.applied if applied.name != name]
        if len(kept) < len(self.applied):
            self.applied = kept
            self._add_entry(self._entry(name, action, why=why))

    def settle(self, traced: TracedNetwork) -> None:
        """The network has been traced: start all treatments and edit modules."""
        self.traced, self._operated = succeeding(traced, self._operated, self.network.values()), None
        self._begin_all()

    def wants_activations(self, step: int) -> bool:
        """Whether a treatment reads activations at the step with this number."""
        return self._reads(Reading.ACTIVATIONS, step)

    def before_update(self, step: int) -> None:
        """Store the weights before the optimizer's update, if a treatment due at this step reads them."""
        if self._reads(Reading.UPDATES, step):
            self._before = {n: p.clone() for n, p in self.network.values().items()}

    def next_due(self, step: int, horizon: int = 1000) -> int:
        """The first step after `step` at which a treatment is due, at most `horizon` steps ahead."""
        if self.network.elements:
            return step + 1
        last, stepping = step + horizon, self._stepping()
        if not stepping:
            return last
        return next((s for s in range(step + 1, last) if any(applied.treatment.due(s) for applied in stepping)), last)

    def act(self, stage: Stage, step: int, activations: dict[str, Tensor], optimizer: Optimizer | None = None) -> None:
        """Plan and apply everything due at this stage, in order.

        Args:
            step: number of the current step (first: 1); for stages outside of steps the completed steps.
            optimizer: at stage "gradient" the optimizer that steps next. Only gradients of its parameters are read and
                changed, because others may be missing or have another scale.
        """
        self.task += stage == Stage.BOUNDARY
        if stage == Stage.UPDATE and self.network.elements:
            self.network.elements.after_step(self.network.trained(), Holders(self.network.optimizers))
        for applied in self.ready(stage, step):
            with self.guarded(applied):
                self._treat(applied, step, activations, optimizer)
        if stage == Stage.UPDATE:
            self._before = {}
            for applied in self.ready(Stage.EVALUATION, step):
                with self.guarded(applied):
                    view = self.view(applied, step, activations)
                    applied.state = applied.treatment.follow(view, applied.state, applied.knobs)

    def ready(self, stage: Stage, step: int) -> list[AppliedTreatment]:
        """The started treatments that act at this stage of the step with this number, in order."""
        return [applied for applied in self.applied if applied.due(stage, step)]

    def flush_if_due(self) -> None:
        """`flush`, but at most every `JOURNAL_EVERY` steps."""
        if self.network.step - self._flushed >= JOURNAL_EVERY:
            self.flush()

    def flush(self, only: str = "") -> None:
        """Write the summed resets of units into the journal, of all treatments or of one."""
        self._flushed = self.network.step
        for applied in self.applied:
            if only and applied.name != only:
                continue
            for target, total in applied.resets.items():
                if count := int(total):
                    text = f"reset {count} unit{'s' if count != 1 else ''}"
                    copies = {"averaged": n} if (n := len(self.network.averaged)) else {}
                    self._add_entry(self._entry(applied.name, "edit", target, text, detail={"units": count, **copies}))
            applied.resets.clear()

    def knob(self, name: str) -> Tensor | None:
        """The knob "treatment.knob", if that treatment is applied."""
        owner, _, knob = name.partition(".")
        for applied in self.applied:
            if applied.name == owner and knob in applied.knobs:
                return applied.knobs[knob]
        return None

    def state_dict(self) -> dict[str, Any]:
        """State of every applied treatment, in order, and the task."""
        return {
            "applied": {applied.name: applied.state_dict() for applied in self.applied},
            "task": self.task,
            "flushed": self._flushed,
        }

    def load_state_dict(self, state: Mapping[str, Any], asked: Mapping[str, Mapping[str, Any]]) -> None:
        """Continue from `state_dict`, including treatments that the closed loop had started, without stopped ones. A
        treatment that is not in the saved run's settings starts new.

        Args:
            asked: treatment -> settings in the saved run. A knob with a different setting now gets the new value.
        """
        self.task, self._flushed = state["task"], state["flushed"]
        given, loaded = {applied.name: applied for applied in self.applied}, []
        for name, entry in state["applied"].items():
            treatment = find("treatment", name)(**entry["settings"])
            loaded.append(applied := AppliedTreatment(treatment, treatment.knobs()))
            applied.load_state_dict(entry)
            changed = changed_settings(given[name].treatment.settings(), asked.get(name, {})) if name in given else {}
            for knob, value in changed.items():
                applied.knobs[knob].fill_(value)
                why, place = f"set to {value:g} when the run was resumed", f"{name}.{knob}"
                before = entry["knobs"][knob]
                self._add_entry(JournalEntry(self.network.step, name, "knob", place, why, before, float(value)))
        new = [
            applied for applied in self.applied if applied.name not in state["applied"] and applied.name not in asked
        ]
        self.applied = loaded + new

    def view(
        self, applied: AppliedTreatment, step: int, activations: dict[str, Tensor], optimizer: Optimizer | None = None
    ) -> View:
        """The current view of a treatment."""
        traced = self.traced or TracedNetwork()
        reads = applied.treatment.reads
        buffered = traced.units or applied.treatment.stage == Stage.EVALUATION
        return View(
            step=step,
            parameters=self.network.values(),
            buffers={n: b.detach() for n, b in named_buffers_in(self.network.model)} if buffered else {},
            gradients=self.network.gradients(_scale(optimizer), optimizer) if Reading.GRADIENTS in reads else {},
            before=self._before if Reading.UPDATES in reads else {},
            initial=traced.initial,
            units=traced.units,
            activations=activations if Reading.ACTIVATIONS in reads else {},
            fresh=traced.fresh,
            norms=traced.norms,
            draw=Draw(self.seed, (applied.name, self.network.label, step)),
            learning_rate=self.network.learning_rate(),
            task=self.task,
            kinds=self.network.kinds() if applied.treatment.stage == Stage.MODULES else {},
        )

    def _reads(self, reading: Reading, step: int) -> bool:
        """Whether a treatment due at this step needs this reading."""
        stepping = [applied.treatment for applied in self._stepping()]
        return any(reading in treatment.reads and treatment.due(step) for treatment in stepping)

    def _stepping(self) -> list[AppliedTreatment]:
        """The treatments that act in steps, or update their state after them."""
        stages = (Stage.GRADIENT, Stage.UPDATE, Stage.EVALUATION)
        return [applied for applied in self.applied if applied.treatment.stage in stages]

    def _begin_all(self) -> None:
        """Start treatments that have not started, edits of modules first; then the network may be traced again."""
        for applied in sorted(self.applied, key=lambda applied: applied.treatment.stage != Stage.MODULES):
            if self.traced is not None and applied in self.applied:
                with self.guarded(applied, "it could not begin"):
                    self._begin(applied)

    def _begin(self, applied: AppliedTreatment) -> None:
        traced = self.traced or TracedNetwork()
        if applied.treatment.needs_units and not traced.units:
            named = [f"{layer or type(self.network.model).__name__}: {why}" for layer, why in traced.refused.items()]
            more = f" (and {len(named) - 4} more)" if len(named) > 4 else ""
            why = f"no hidden layer could be paired ({'; '.join(named[:4]) or 'none found'}){more}"
            raise Refused(applied.name, "this network", why)
        if applied.begun:
            return
        admit_rank(applied.treatment, self.network)
        if Reading.INITIAL in applied.treatment.reads and not traced.initial:
            traced.initial = {n: v.clone() for n, v in self.network.values().items()}
        view = self.view(applied, self.network.step, {})
        applied.state = fitting(applied.state, applied.treatment.init(view, applied.knobs))
        applied.begun = True
        if applied.treatment.stage == Stage.MODULES:
            edits, applied.state = applied.treatment.plan(view, applied.state, applied.knobs)
            self._apply(applied, edits, self.network.step, None)
            for edit in edits:
                self._add_entry(self._entry(applied.name, "edit", edit.target, edit.describe()))
            if edits and not self.dry_run:
                self._learn_anew(traced)
                # the first forward pass inserts modules after `run.batch` has told the tasks of its batch
                self.network.composition.give(self.network.model)

    def _learn_anew(self, before: TracedNetwork) -> None:
        """Modules were changed: pair units again, and restart treatments of the old units on the new ones."""
        for applied in self.applied:
            applied.begun &= applied.treatment.stage in (Stage.MODULES, Stage.BATCH)
        traced = self.relearn()
        self._operated = before if traced is None else None
        self.traced = None if traced is None else succeeding(traced, before, self.network.values())

    @contextlib.contextmanager
    def guarded(
        self, applied: AppliedTreatment, what: str = "stopped, this step's edits rolled back"
    ) -> Iterator[None]:
        """An error or refusal inside ends only this treatment, with a journal entry."""
        try:
            with torch.no_grad():
                yield
        except Exception as error:
            pass_on(error)
            self.stop(applied.name, *treatment_failure(error, what))
            if self.strict:
                raise

    def _treat(
        self, applied: AppliedTreatment, step: int, activations: dict[str, Tensor], optimizer: Optimizer | None
    ) -> None:
        stepping = optimizer if applied.treatment.stage == Stage.GRADIENT else None
        view = self.view(applied, step, activations, stepping)
        edits, state = applied.treatment.plan(view, applied.state, applied.knobs)
        if stepping is not None and len(self.network.optimizers) > 1:
            held = self.network.trained(stepping)
            edits = [e for e in edits if not isinstance(e, AddGradient) or e.target in held]
        self._apply(applied, edits, step, _scale(stepping))
        applied.state = state

    def carry_out(self, applied: AppliedTreatment, edits: Sequence[Edit], step: int) -> bool:
        """Whether to make these edits: there are some, and this is not a dry run, which only reports them."""
        applied.acted += bool(edits)
        if edits and self.dry_run:
            lines = [edit.describe() for edit in edits]
            self._add_entry(
                self._entry(applied.name, "dry run", why="; ".join(lines), detail={"edits": lines, "step": step})
            )
        return bool(edits) and not self.dry_run

    def _apply(self, applied: AppliedTreatment, edits: Sequence[Edit], step: int, scale: Tensor | None) -> None:
        if not self.carry_out(applied, edits, step):
            return
        undoable = not all(isinstance(e, AddGradient) for e in edits)
        if self.network.elements is not None:
            edits = [replace(e, restart=True) if isinstance(e, ClearMoments) else e for e in edits]
        apply_edits(
            edits,
            self.network.model,
            self.network.optimizers,
            grad_scale=scale,
            undoable=undoable,
            component=applied.name,
            averaged=self.network.averaged,
            elements=self.network.elements,
        )
        for edit in edits:
            applied.count_resets(edit)

    def _entry(self, name: str, action: str, where: str = "", why: str = "", detail: Any = None) -> JournalEntry:
        place = self.network.named(where) if where else self.network.label
        return JournalEntry(self.network.step, name, action, place, why, detail=detail or {})


def _scale(optimizer: Optimizer | None) -> Tensor | None:
    """The scale of the gradients, if a fused optimizer unscales them itself."""
    return getattr(optimizer, "grad_scale", None)


def changed_settings(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that differ from the earlier ones; empty if there are none."""
    return {name: value for name, value in now.items() if then and then.get(name) != value}


def _ordered(applied: list[AppliedTreatment]) -> list[AppliedTreatment]:
    """In the given order, each after those that it declares; treatments that replace the update come first."""
    left, done = sorted(applied, key=lambda applied: Reading.UPDATES not in applied.treatment.reads), []
    while left:
        names = {applied.name for applied in left}
        ready = next((applied for applied in left if not names & set(applied.treatment.after)), left[0])
        left.remove(ready)
        done.append(ready)
    return done
