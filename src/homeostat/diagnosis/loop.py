"""The closed loop's policy: finding -> first prescription -> watch the vital -> keep, strengthen or revert.

A pure state machine in optimizer steps: it sees findings and a history, and answers with actions that the shell
carries out. Nothing here knows modules, clocks or random numbers, so the same run takes the same decisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from homeostat.core.component import find
from homeostat.core.finding import SEVERITIES, Finding, JournalEntry
from homeostat.diagnosis.history import History
from homeostat.diagnosis.prescriptions import remedies_for
from homeostat.diagnosis.trends import median, theil_sen


@dataclass(frozen=True, kw_only=True)
class LoopPolicy:
    """When the loop acts. All times in optimizer steps.

    Args:
        warmup: nothing is treated before this step.
        window: how long a treatment is watched before it is judged; the vital is taken over the second half.
        cooldown: pause after a revert, or after a keep that left the finding, before the condition is treated again.
        keep_gain: improvement of the vital, relative to where it was heading, from which a treatment is kept.
        harm: worsening, relative to the same, from which it is taken back without trying a stronger rung.
        loss_harm: relative rise of a positive loss from which it is taken back whatever the vital says; wide, because
            losses are noisy and a treatment may cost a little fit.
        damping: share of the trend before the treatment that is expected to go on without it. A treatment that stops a
            vital from getting worse is an improvement; 1 would credit it with the end of every growth, 0 with none.
        tries: remedies tried per condition (each with its rungs) before the loop gives up and says so.
        readings: readings of the vital that the second half of the window must hold.
        severity: mildest finding that is treated.
    """

    warmup: int = 100
    window: int = 400
    cooldown: int = 200
    keep_gain: float = 0.2
    harm: float = 0.1
    loss_harm: float = 0.5
    damping: float = 0.5
    tries: int = 3
    readings: int = 3
    severity: Literal["info", "warning", "critical"] = "warning"


@dataclass(frozen=True)
class Action:
    """One thing for the shell to do and to write into the journal.

    Args:
        kind: "start" (build `treatment` and apply it), "strengthen" (replace the running treatment of that name by this
            one; after a failed strengthening the milder one), "stop" (take it off), or "note" (only write the entry).
        treatment: `--treat` text; "" for a note.
        condition: what it is for.
        entry: the journal entry.
    """

    kind: Literal["start", "strengthen", "stop", "note"]
    treatment: str
    condition: str
    entry: JournalEntry


@dataclass
class Course:
    """A treatment on trial.

    Args:
        before: the watched vital when it began.
        expected: where the vital was heading without treatment, one window later.
        proven: the rung that had proved itself before this one, to which a failed strengthening goes back; -1: none.
    """

    condition: str
    layers: tuple[str, ...]
    remedy: int
    rung: int
    started: int
    before: float
    expected: float
    loss_before: float
    proven: int = -1


@dataclass
class LoopState:
    """Everything the loop remembers; JSON-friendly through `asdict`.

    Args:
        course: the trial under way: one at a time, so that an effect can be attributed.
        kept: condition -> remedy and rung that proved itself and stays on, and 1 if stronger was tried in vain, else 0.
        next_remedy: condition -> index of the next remedy to try.
        tried: condition -> number of remedies tried.
        rest_until: condition -> step before which it is left alone.
        given_up: conditions for which nothing helped.
    """

    course: Course | None = None
    kept: dict[str, list[int]] = field(default_factory=dict)
    next_remedy: dict[str, int] = field(default_factory=dict)
    tried: dict[str, int] = field(default_factory=dict)
    rest_until: dict[str, int] = field(default_factory=dict)
    given_up: list[str] = field(default_factory=list)


class ClosedLoop:
    """Call `step` at a fixed cadence; carry out the actions; call `refused` when a treatment could not be applied."""

    name = "closed-loop"

    def __init__(self, policy: LoopPolicy | None = None) -> None:
        self.policy = policy or LoopPolicy()
        self.state = LoopState()

    def step(
        self, step: int, findings: Sequence[Finding], history: History, unavailable: Mapping[str, str] | None = None
    ) -> list[Action]:
        """What to do now: nothing, one action, or a stop and a note.

        Args:
            step: optimizer steps completed.
            findings: the current findings.
            history: the vitals so far.
            unavailable: treatment name -> why it cannot be applied here (or is already on); those are passed over.
        """
        if self.state.course is not None:
            return self._judge(self.state.course, step, findings, history)
        for finding in sorted(findings, key=lambda f: -SEVERITIES.index(f.severity)):
            if self._may_treat(finding, step):
                actions = self._treat(finding, step, history, unavailable or {})
                if actions:
                    return actions
        return []

    def refused(self, step: int, why: str) -> Action:
        """Tell the loop that the treatment it just started could not be applied; it will try the next remedy."""
        course = self._end_course()
        self.state.next_remedy[course.condition] = course.remedy + 1
        remedy = remedies_for(course.condition)[course.remedy]
        return self._note("refuse", remedy.rungs[course.rung], course, step, why)

    def state_dict(self) -> dict[str, Any]:
        """JSON-friendly state."""
        return asdict(self.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        course = Course(**{**state["course"], "layers": tuple(state["course"]["layers"])}) if state["course"] else None
        self.state = LoopState(**{**state, "course": course})

    def _may_treat(self, finding: Finding, step: int) -> bool:
        grave = SEVERITIES.index(finding.severity) >= SEVERITIES.index(self.policy.severity)
        name = finding.condition
        rested = step >= max(self.policy.warmup, self.state.rest_until.get(name, 0))
        return grave and rested and name not in self.state.given_up and any(r.rungs for r in remedies_for(name))

    def _treat(self, finding: Finding, step: int, history: History, unavailable: Mapping[str, str]) -> list[Action]:
        name = finding.condition
        before = gauge(name, finding.layers, history, step - self.policy.window // 4, step)
        if math.isnan(before):
            return []
        kept = self.state.kept.get(name)
        if kept and not kept[2] and kept[1] + 1 < len(remedies_for(name)[kept[0]].rungs):
            course = self._begin(finding, kept[0], kept[1] + 1, step, before, history)
            course.proven = kept[1]
            return [self._act("strengthen", "strengthen", course, step, "the finding is still there")]
        choice = self._next_remedy(name, unavailable)
        if choice is None:
            return [self._give_up(finding, step)]
        self.state.tried[name] = self.state.tried.get(name, 0) + 1
        course = self._begin(finding, choice, 0, step, before, history)
        return [self._act("start", "attach", course, step, str(finding.evidence.get("text", finding.condition)))]

    def _next_remedy(self, condition: str, unavailable: Mapping[str, str]) -> int | None:
        on = {remedies_for(c)[k[0]].treatment for c, k in self.state.kept.items()}
        if self.state.tried.get(condition, 0) >= self.policy.tries:
            return None
        for index, remedy in enumerate(remedies_for(condition)):
            usable = remedy.rungs and remedy.treatment not in unavailable and remedy.treatment not in on
            if index >= self.state.next_remedy.get(condition, 0) and usable:
                return index
        return None

    def _begin(self, finding: Finding, remedy: int, rung: int, step: int, before: float, history: History) -> Course:
        loss = network_loss(history, step - self.policy.window, step)
        expected = heading(finding.condition, finding.layers, history, step, self.policy.window, self.policy.damping)
        expected = before if math.isnan(expected) else expected
        course = Course(finding.condition, finding.layers, remedy, rung, step, before, expected, loss)
        self.state.course = course
        return course

    def _judge(self, course: Course, step: int, findings: Sequence[Finding], history: History) -> list[Action]:
        window, middle = self.policy.window, course.started + self.policy.window // 2
        if step < course.started + window:
            return []
        after = gauge(course.condition, course.layers, history, middle, step, self.policy.readings)
        if math.isnan(after):
            waited = step >= course.started + 2 * window
            return self._revert(course, step, None, "the vital was not measured often enough") if waited else []
        loss = network_loss(history, middle, step)
        if _ruined(course.loss_before, loss, self.policy.loss_harm, history):
            return self._revert(course, step, after, f"the loss rose from {course.loss_before:.3g} to {loss:.3g}")
        gone = all(f.condition != course.condition for f in findings)
        gain = improvement(course.condition, course.expected, after)
        if gone or gain >= self.policy.keep_gain:
            return self._keep(course, step, after, gain, gone)
        if gain > -self.policy.harm and course.rung + 1 < len(remedies_for(course.condition)[course.remedy].rungs):
            return self._strengthen(course, step, after, gain)
        return self._revert(course, step, after, f"improvement {gain:+.0%} after {window} steps")

    def _keep(self, course: Course, step: int, after: float, gain: float, gone: bool) -> list[Action]:
        self._end_course()
        self.state.kept[course.condition] = [course.remedy, course.rung, 0]
        self.state.next_remedy[course.condition] = course.remedy + 1
        self.state.rest_until[course.condition] = step + self.policy.cooldown
        why = "the finding is resolved" if gone else f"improvement {gain:+.0%}"
        return [self._note("keep", _text(course), course, step, why, after)]

    def _strengthen(self, course: Course, step: int, after: float, gain: float) -> list[Action]:
        stronger = Course(**{**vars(course), "rung": course.rung + 1, "started": step})
        self.state.course = stronger
        return [self._act("strengthen", "strengthen", stronger, step, f"improvement only {gain:+.0%}", after)]

    def _revert(self, course: Course, step: int, after: float | None, why: str) -> list[Action]:
        self._end_course()
        name = course.condition
        self.state.rest_until[name] = step + self.policy.cooldown
        self.state.next_remedy[name] = max(course.remedy + 1, self.state.next_remedy.get(name, 0))
        if course.proven < 0:
            return [self._act("stop", "revert", course, step, why, after)]
        self.state.kept[name] = [course.remedy, course.proven, 1]
        milder = Course(**{**vars(course), "rung": course.proven})
        return [self._act("strengthen", "revert", milder, step, f"back to what had helped: {why}", after)]

    def _give_up(self, finding: Finding, step: int) -> Action:
        self.state.given_up.append(finding.condition)
        count = self.state.tried.get(finding.condition, 0)
        why = (
            f"{count} remedies tried, nothing more to try; the finding stays"
            if count
            else "no remedy can be applied here"
        )
        entry = JournalEntry(step, self.name, "give up", ", ".join(finding.layers), f"{finding.condition}: {why}")
        return Action("note", "", finding.condition, entry)

    def _end_course(self) -> Course:
        course = self.state.course
        if course is None:
            raise ValueError("no treatment is on trial")
        self.state.course = None
        return course

    def _act(
        self,
        kind: Literal["start", "strengthen", "stop"],
        verb: str,
        course: Course,
        step: int,
        why: str,
        after: float | None = None,
    ) -> Action:
        return Action(kind, _text(course), course.condition, self._entry(verb, course, step, why, after))

    def _note(self, verb: str, text: str, course: Course, step: int, why: str, after: float | None = None) -> Action:
        return Action("note", text, course.condition, self._entry(verb, course, step, why, after))

    def _entry(self, verb: str, course: Course, step: int, why: str, after: float | None) -> JournalEntry:
        detail: dict[str, Any] = {
            "condition": course.condition,
            "treatment": _text(course),
            "vital": watched(course.condition)[0],
        }
        detail["expected_untreated"] = round(course.expected, 6)
        where = ", ".join(course.layers)
        return JournalEntry(step, self.name, verb, where, f"{course.condition}: {why}", course.before, after, detail)


def _text(course: Course) -> str:
    return remedies_for(course.condition)[course.remedy].rungs[course.rung]


def watched(condition: str) -> tuple[str, str]:
    """The vital by which a treatment of this condition is judged, and the direction in which it is sick."""
    cls = find("condition", condition)
    return cls.watch, cls.worse


def gauge(
    condition: str, layers: Sequence[str], history: History, after: float, until: float, readings: int = 1
) -> float:
    """The watched vital in steps (after, until]: median over time, worst over the layers that have enough readings.

    Layers of the finding in which the vital is not measured are left out; when none is left, every layer counts.
    """
    vital, worse = watched(condition)
    known = [layer for layer in layers if layer in history.layers(vital)] or history.layers(vital)
    windows = [history.between(vital, layer, after, until) for layer in known]
    values = [median(values) for values in windows if values.size >= readings]
    return (max if worse == "higher" else min)(values, default=math.nan)


def heading(condition: str, layers: Sequence[str], history: History, step: int, window: int, damping: float) -> float:
    """Where the watched vital was going, one window after `step`: worst over the layers, inside the vital's range.

    Its median over the last quarter window, moved on by `damping` times its Theil-Sen slope over the last window; only
    a trend for the worse is continued.
    """
    vital, worse = watched(condition)
    sign = 1 if worse == "higher" else -1
    low, high = find("vital", vital).range
    found = []
    for layer in [layer for layer in layers if layer in history.layers(vital)] or history.layers(vital):
        steps, values = history.series(vital, layer)
        inside = steps > step - window
        now = median(history.between(vital, layer, step - window // 4, step))
        slope = theil_sen(steps[inside], values[inside]) if inside.sum() >= 3 else 0.0
        if not math.isnan(now):
            found.append(min(max(now + sign * max(sign * slope, 0.0) * damping * window, low), high))
    return (max if sign > 0 else min)(found, default=math.nan)


def improvement(condition: str, reference: float, after: float) -> float:
    """How much better the watched vital is than the reference, relative to it; positive is better."""
    _, worse = watched(condition)
    change = (after - reference) / max(abs(reference), 1e-12)
    return -change if worse == "higher" else change


def network_loss(history: History, after: float, until: float) -> float:
    """Mean loss in steps (after, until]; NaN when there are several losses, whose sum would mean nothing."""
    layers = history.layers("loss")
    values = history.between("loss", layers[0], after, until) if len(layers) == 1 else ()
    return float(sum(values)) / len(values) if len(values) else math.nan


def _ruined(before: float, after: float, harm: float, history: History) -> bool:
    """The loss rose by more than `harm` of itself, and by more than a twentieth of where it started."""
    start = history.series("loss", history.layers("loss")[0])[1][0] if before > 0 else math.nan
    return before > 0 and after > before * (1 + harm) and after - before > 0.05 * start
