"""The treatments of one network at work: views in, edits out to surgery, and the journal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from homeostat.core.draw import Draw
from homeostat.core.edits import AddGradient, ClearMoments, Edit, SetValues
from homeostat.core.errors import Refused
from homeostat.core.finding import JournalEntry
from homeostat.core.readings import Reading
from homeostat.core.treatment import Fresh, Stage, State, Treatment, View
from homeostat.shell import surgery
from homeostat.shell.admission import OPENED_BY, admit, admit_rank
from homeostat.shell.failing import failure
from homeostat.shell.network import Network
from homeostat.shell.optimizers import Holders
from homeostat.shell.site import Site, fitting, succeeding

JOURNAL_EVERY = 500
"""Steps over which units that were reset are added up to one journal entry."""


@dataclass(eq=False)
class Course:
    """One treatment in progress."""

    treatment: Treatment
    knobs: dict[str, Tensor]
    state: State = field(default_factory=dict)
    begun: bool = False
    acted: int = 0
    resets: dict[str, Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.treatment.name


class Ward:
    """Carries out the treatments of one network.

    A treatment that fails is stopped with its step's edits rolled back; training goes on without it.

    Args:
        network: the network.
        seed: of the treatments' randomness.
        dry_run: plan and report, change nothing.
        tell: takes journal entries.
        in_loop: the user's loop can open the stages that optimizer steps do not show.

    Attributes:
        strict: refusals and errors reach the caller.
        task: boundaries so far.
        relearn: gets to know the network again after surgery; None where that has to wait for the model's next call,
            after which `settle` is called.
    """

    def __init__(
        self,
        network: Network,
        seed: int,
        dry_run: bool,
        tell: Callable[[JournalEntry], None],
        in_loop: bool = False,
    ) -> None:
        self.network, self.seed, self.dry_run, self._tell, self.in_loop = network, seed, dry_run, tell, in_loop
        self.site: Site | None = None
        self.courses: list[Course] = []
        self.strict = False
        self.task = 0
        self.relearn: Callable[[], Site | None] = lambda: None
        self._operated: Site | None = None
        self._flushed = 0
        self._before: dict[str, Tensor] = {}
        self._recalled: tuple[dict[str, Tensor], dict[str, Fresh]] = ({}, {})

    def add(self, treatment: Treatment, why: str = "asked for") -> Course:
        """Begin a treatment; it acts from the next due step on.

        Raises:
            Refused: it cannot be applied correctly to this network or optimizer; nothing was changed.
        """
        admit(treatment, self.network, self.in_loop)
        course = Course(treatment, treatment.knobs())
        self.courses.append(course)
        self.courses = _ordered(self.courses)
        if treatment.lines and not self.in_loop:
            lines = " and ".join(OPENED_BY[stage] for stage in treatment.lines)
            why = f"{why}; a part of it cannot act without {lines} in the loop"
        self._tell(self._entry(treatment.name, "attach", why=why, detail={"settings": treatment.settings()}))
        if treatment.stage == Stage.BATCH:
            self._begin_or_drop(course)
        self._begin_all()
        return course

    def stop(self, name: str, action: str, why: str) -> None:
        """End a treatment: nothing more of it is applied. What it changed before stays."""
        self.flush(name)
        kept = [c for c in self.courses if c.name != name]
        if len(kept) < len(self.courses):
            self.courses = kept
            self._tell(self._entry(name, action, why=why))

    def settle(self, site: Site) -> None:
        """The network is known now: begin every treatment, carry out surgery."""
        self.site, self._operated = succeeding(site, self._operated, self.network.values()), None
        self.recall(*self._recalled)
        self._begin_all()

    def recall(self, initial: dict[str, Tensor], fresh: dict[str, Fresh]) -> None:
        """How the network began, when training resumes: it can no longer be seen from its present values."""
        self._recalled = (initial, fresh)
        if self.site is not None:
            self.site.initial = initial or self.site.initial
            self.site.fresh = {**self.site.fresh, **fresh}

    def wants_activations(self, step: int) -> bool:
        """Whether some treatment reads activations at the step with this number."""
        return any(Reading.ACTIVATIONS in c.treatment.reads and c.treatment.due(step) for c in self._stepping())

    def before_update(self, step: int) -> None:
        """Keep the weights as they are before the optimizer moves them, where a treatment due at this step compares."""
        if any(Reading.UPDATES in c.treatment.reads and c.treatment.due(step) for c in self._stepping()):
            self._before = {n: p.clone() for n, p in self.network.values().items()}

    def next_due(self, step: int, horizon: int = 1000) -> int:
        """The first step after `step` at which some treatment is due, looking at most `horizon` steps ahead."""
        if self.network.elements:
            return step + 1
        last, stepping = step + horizon, self._stepping()
        if not stepping:
            return last
        return next((s for s in range(step + 1, last) if any(c.treatment.due(s) for c in stepping)), last)

    def busy(self, stage: Stage, step: int) -> bool:
        """Whether some treatment acts at this stage of the step with this number."""
        return bool(self.ready(stage, step))

    def act(self, stage: Stage, step: int, activations: dict[str, Tensor], optimizer: Optimizer | None = None) -> None:
        """Plan and apply everything due at this stage, in order.

        Args:
            step: number of the present step (first: 1); a stage outside of steps passes the steps completed.
            optimizer: the one about to step, at stage "gradient": the treatment sees and changes only the gradients of
                its parameters, since another's may not be there yet or be on another scale.
        """
        self.task += stage == Stage.BOUNDARY
        if stage == Stage.UPDATE and self.network.elements:
            self.network.elements.after_step(self.network.trained(), Holders(self.network.optimizers))
        for course in self.ready(stage, step):
            with self.guarded(course):
                self._treat(course, step, activations, optimizer)
        if stage == Stage.UPDATE:
            self._before = {}
            for course in self.ready(Stage.EVALUATION, step):
                with self.guarded(course):
                    view = self.view(course, step, activations)
                    course.state = course.treatment.follow(view, course.state, course.knobs)

    def ready(self, stage: Stage, step: int) -> list[Course]:
        """The treatments in progress that act at this stage of the step with this number, in order."""
        due = [c for c in self.courses if c.begun and c.treatment.stage == stage]
        return [c for c in due if stage == Stage.BOUNDARY or c.treatment.due(step)]

    def flush_if_due(self) -> None:
        """`flush`, but at most every `JOURNAL_EVERY` steps."""
        if self.network.step - self._flushed >= JOURNAL_EVERY:
            self.flush()

    def flush(self, only: str = "") -> None:
        """Write what adds up over steps (units reset) into the journal, of every treatment or of one."""
        self._flushed = self.network.step
        for course in self.courses:
            if only and course.name != only:
                continue
            for target, total in course.resets.items():
                if count := int(total):
                    text = f"reset {count} unit{'s' if count != 1 else ''}"
                    copies = {"averaged": n} if (n := len(self.network.averaged)) else {}
                    self._tell(self._entry(course.name, "edit", target, text, detail={"units": count, **copies}))
            course.resets.clear()

    def knob(self, name: str) -> Tensor | None:
        """The knob "treatment.knob", if that treatment is being applied."""
        owner, _, knob = name.partition(".")
        for course in self.courses:
            if course.name == owner and knob in course.knobs:
                return course.knobs[knob]
        return None

    def state_dict(self) -> dict[str, Any]:
        """Knobs and states by treatment."""
        return {
            c.name: {
                "settings": c.treatment.settings(),
                "knobs": {k: float(v) for k, v in c.knobs.items()},
                "begun": c.begun,
                "state": dict(c.state),
            }
            for c in self.courses
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Continue from `state_dict`. Treatments must already have been added."""
        for course in self.courses:
            if (entry := saved.get(course.name)) is not None:
                for name, value in entry["knobs"].items():
                    course.knobs[name].fill_(value)
                course.state = dict(entry["state"])
                # surgery is not in the saved state: it is done again on the new process's model
                course.begun |= entry["begun"] and course.treatment.stage != Stage.SURGERY

    def view(
        self, course: Course, step: int, activations: dict[str, Tensor], optimizer: Optimizer | None = None
    ) -> View:
        """What the treatment may look at now."""
        site = self.site or Site()
        reads = course.treatment.reads
        buffered = site.units or course.treatment.stage == Stage.EVALUATION
        return View(
            step=step,
            parameters=self.network.values(),
            buffers={n: b.detach() for n, b in self.network.model.named_buffers()} if buffered else {},
            gradients=self.network.gradients(_scale(optimizer), optimizer) if Reading.GRADIENTS in reads else {},
            before=self._before if Reading.UPDATES in reads else {},
            initial=site.initial,
            units=site.units,
            activations=activations if Reading.ACTIVATIONS in reads else {},
            fresh=site.fresh,
            norms=site.norms,
            draw=Draw(self.seed, (course.name, self.network.label, step)),
            learning_rate=self.network.learning_rate(),
            task=self.task,
            kinds=self.network.kinds() if course.treatment.stage == Stage.SURGERY else {},
        )

    def _stepping(self) -> list[Course]:
        """The treatments that act within steps, or follow them."""
        stages = (Stage.GRADIENT, Stage.UPDATE, Stage.EVALUATION)
        return [c for c in self.courses if c.treatment.stage in stages]

    def _begin_all(self) -> None:
        """Begin what has not begun, surgery first; after surgery the network may have to be known again before."""
        for course in sorted(self.courses, key=lambda c: c.treatment.stage != Stage.SURGERY):
            if self.site is not None and course in self.courses:
                self._begin_or_drop(course)

    def _begin_or_drop(self, course: Course) -> None:
        try:
            self._begin(course)
        except Exception as error:
            self.stop(course.name, *failure(error, "it could not begin"))
            if self.strict:
                raise

    def _begin(self, course: Course) -> None:
        site = self.site or Site()
        if course.treatment.needs_units and not site.units:
            named = [f"{layer or type(self.network.model).__name__}: {why}" for layer, why in site.refused.items()]
            more = f" (and {len(named) - 4} more)" if len(named) > 4 else ""
            why = f"no hidden layer could be paired ({'; '.join(named[:4]) or 'none found'}){more}"
            raise Refused(course.name, "this network", why)
        if course.begun:
            return
        admit_rank(course.treatment, self.network)
        if Reading.INITIAL in course.treatment.reads and not site.initial:
            site.initial = {n: v.clone() for n, v in self.network.values().items()}
        with torch.no_grad():
            view = self.view(course, self.network.step, {})
            course.state = fitting(course.state, course.treatment.init(view, course.knobs))
            course.begun = True
            if course.treatment.stage == Stage.SURGERY:
                edits, course.state = course.treatment.plan(view, course.state, course.knobs)
                self._apply(course, edits, self.network.step, None)
                for edit in edits:
                    self._tell(self._entry(course.name, "edit", edit.target, edit.describe()))
                if edits and not self.dry_run:
                    self._learn_anew(site)

    def _learn_anew(self, before: Site) -> None:
        """Modules were changed: units are paired anew, and what had begun on the old ones begins again on the new."""
        for course in self.courses:
            course.begun &= course.treatment.stage in (Stage.SURGERY, Stage.BATCH)
        site = self.relearn()
        self._operated = before if site is None else None
        self.site = None if site is None else succeeding(site, before, self.network.values())

    @contextlib.contextmanager
    def guarded(self, course: Course) -> Iterator[None]:
        """An error or refusal inside ends this treatment and nothing else."""
        try:
            with torch.no_grad():
                yield
        except Exception as error:
            if self.strict:
                raise
            self.stop(course.name, *failure(error, "stopped, this step's edits rolled back"))

    def _treat(self, course: Course, step: int, activations: dict[str, Tensor], optimizer: Optimizer | None) -> None:
        stepping = optimizer if course.treatment.stage == Stage.GRADIENT else None
        view = self.view(course, step, activations, stepping)
        edits, state = course.treatment.plan(view, course.state, course.knobs)
        if stepping is not None and len(self.network.optimizers) > 1:
            held = self.network.trained(stepping)
            edits = [e for e in edits if not isinstance(e, AddGradient) or e.target in held]
        self._apply(course, edits, step, _scale(stepping))
        course.state = state

    def carry_out(self, course: Course, edits: Sequence[Edit], step: int) -> bool:
        """Whether these edits are to be made: there are some, and this is no dry run, which only reports them."""
        course.acted += bool(edits)
        if edits and self.dry_run:
            lines = surgery.describe(edits)
            self._tell(self._entry(course.name, "dry run", why="; ".join(lines), detail={"edits": lines, "step": step}))
        return bool(edits) and not self.dry_run

    def _apply(self, course: Course, edits: Sequence[Edit], step: int, scale: Tensor | None) -> None:
        if not self.carry_out(course, edits, step):
            return
        undoable = not all(isinstance(e, AddGradient) for e in edits)
        if self.network.elements is not None:
            edits = [replace(e, restart=True) if isinstance(e, ClearMoments) else e for e in edits]
        surgery.apply(
            edits,
            self.network.model,
            self.network.optimizers,
            grad_scale=scale,
            undoable=undoable,
            component=course.name,
            averaged=self.network.averaged,
            elements=self.network.elements,
        )
        for edit in edits:
            if isinstance(edit, SetValues) and edit.units is not None:
                total = edit.units.detach().to(torch.int64)
                before = course.resets.get(edit.target)
                course.resets[edit.target] = total if before is None else before + total

    def _entry(self, name: str, action: str, where: str = "", why: str = "", detail: Any = None) -> JournalEntry:
        place = self.network.named(where) if where else self.network.label
        return JournalEntry(self.network.step, name, action, place, why, detail=detail or {})


def _scale(optimizer: Optimizer | None) -> Tensor | None:
    """What the gradients are still multiplied by, where a fused optimizer divides them itself."""
    return getattr(optimizer, "grad_scale", None)


def _ordered(courses: list[Course]) -> list[Course]:
    """Courses in the order given, each after those it declares; what replaces the optimizer's update comes first."""
    left, done = sorted(courses, key=lambda c: Reading.UPDATES not in c.treatment.reads), []
    while left:
        names = {c.name for c in left}
        ready = next((c for c in left if not names & set(c.treatment.after)), left[0])
        left.remove(ready)
        done.append(ready)
    return done
