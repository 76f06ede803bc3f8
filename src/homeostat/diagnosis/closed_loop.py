"""The policy of the closed loop: finding -> first prescription -> observe the vital -> keep, strengthen or revert.

A pure state machine in optimizer steps: from findings and a history it computes actions, which the shell carries out.
It uses no modules, clocks or random numbers, so equal runs lead to equal decisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from homeostat.core.component import find
from homeostat.core.finding import SEVERITIES, Finding, JournalEntry
from homeostat.diagnosis.history import History
from homeostat.diagnosis.prescriptions import remedies_for
from homeostat.diagnosis.trends import median, theil_sen


@dataclass(frozen=True, kw_only=True)
class LoopPolicy:
    """Parameters of the loop. All times are in optimizer steps.

    Args:
        warmup: first step at which anything is treated.
        window: time after which a treatment is judged; the vital is averaged over the second half.
        cooldown: pause before a condition is treated again, after a revert, or if the finding remains after a keep.
        keep_gain: smallest improvement of the vital, relative to its expected value, for keeping a treatment.
        harm: smallest worsening, relative to the same, for reverting it without trying a stronger rung.
        loss_harm: smallest relative rise of a positive loss for reverting it, whatever the vital is; wide, because
            losses are noisy and a treatment may cost a little fit.
        damping: share of the earlier trend that is expected to continue without treatment. A treatment that stops a
            vital from getting worse is an improvement; with 1 every end of a trend is credited to it, with 0 none.
        tries: remedies tried per condition (each with its rungs) before the loop gives up, with a message.
        readings: smallest number of readings of the vital in the second half of the window.
        severity: mildest severity that is treated.
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
    """An action for the shell, with its journal entry.

    Args:
        kind: "start" (build `treatment` and apply it), "strengthen" (replace the running treatment of that name by this
            one; after a failed strengthening by the milder one), "stop" (end it), or "note" (only write the entry).
        treatment: `--treat` text; "" for a note.
        condition: the treated condition.
        entry: the journal entry.
    """

    kind: Literal["start", "strengthen", "stop", "note"]
    treatment: str
    condition: str
    entry: JournalEntry


@dataclass
class Trial:
    """A treatment on trial.

    Args:
        before: the observed vital at its start.
        expected: expected value of the vital without treatment, one window later.
        proven: the earlier successful rung, to which a failed strengthening returns; -1 if there is none.
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
    """The state of the loop; JSON-friendly through `asdict`.

    Args:
        trial: the current trial; one at a time, so that an effect can be attributed.
        kept: condition -> successful remedy and rung, which stays, and 1 if a stronger rung failed, else 0.
        next_remedy: condition -> index of the next remedy to try.
        tried: condition -> number of remedies tried.
        rest_until: condition -> step before which it is not treated.
        given_up: conditions for which no remedy helped.
    """

    trial: Trial | None = None
    kept: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    next_remedy: dict[str, int] = field(default_factory=dict[str, int])
    tried: dict[str, int] = field(default_factory=dict[str, int])
    rest_until: dict[str, int] = field(default_factory=dict[str, int])
    given_up: list[str] = field(default_factory=list[str])


class ClosedLoop:
    """Call `step` at a fixed cadence, carry out its actions, and call `refused` if a treatment could not be applied."""

    name = "closed-loop"

    def __init__(self, policy: LoopPolicy | None = None) -> None:
        self.policy = policy or LoopPolicy()
        self.state = LoopState()

    def step(
        self, step: int, findings: Sequence[Finding], history: History, unavailable: Mapping[str, str] | None = None
    ) -> list[Action]:
        """The next actions: none, one, or a stop and a note.

        Args:
            step: completed optimizer steps.
            findings: the current findings.
            history: the vitals so far.
            unavailable: treatment name -> why it cannot be applied (or is already applied); these are skipped.
        """
        if self.state.trial is not None:
            return self._judge(self.state.trial, step, findings, history)
        for finding in sorted(findings, key=lambda f: -SEVERITIES.index(f.severity)):
            if self._may_treat(finding, step):
                actions = self._treat(finding, step, history, unavailable or {})
                if actions:
                    return actions
        return []

    def refused(self, step: int, why: str) -> Action:
        """The treatment just started could not be applied; the loop tries the next remedy."""
        trial = self._end_trial()
        self.state.next_remedy[trial.condition] = trial.remedy + 1
        remedy = remedies_for(trial.condition)[trial.remedy]
        return self._note("refuse", remedy.rungs[trial.rung], trial, step, why)

    def state_dict(self) -> dict[str, Any]:
        """JSON-friendly state."""
        return asdict(self.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        saved: dict[str, Any] = dict(state)
        if saved["trial"]:
            trial: dict[str, Any] = {**saved["trial"], "layers": tuple(saved["trial"]["layers"])}
            saved["trial"] = Trial(**trial)
        self.state = LoopState(**saved)

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
            trial = self._begin(finding, kept[0], kept[1] + 1, step, before, history)
            trial.proven = kept[1]
            return [self._act("strengthen", "strengthen", trial, step, "the finding is still there")]
        choice = self._next_remedy(name, unavailable)
        if choice is None:
            return [self._give_up(finding, step)]
        self.state.tried[name] = self.state.tried.get(name, 0) + 1
        trial = self._begin(finding, choice, 0, step, before, history)
        return [self._act("start", "attach", trial, step, str(finding.evidence.get("text", finding.condition)))]

    def _next_remedy(self, condition: str, unavailable: Mapping[str, str]) -> int | None:
        on = {remedies_for(c)[k[0]].treatment for c, k in self.state.kept.items()}
        if self.state.tried.get(condition, 0) >= self.policy.tries:
            return None
        for index, remedy in enumerate(remedies_for(condition)):
            usable = remedy.rungs and remedy.treatment not in unavailable and remedy.treatment not in on
            if index >= self.state.next_remedy.get(condition, 0) and usable:
                return index
        return None

    def _begin(self, finding: Finding, remedy: int, rung: int, step: int, before: float, history: History) -> Trial:
        loss = network_loss(history, step - self.policy.window, step)
        expected = heading(finding.condition, finding.layers, history, step, self.policy.window, self.policy.damping)
        expected = before if math.isnan(expected) else expected
        trial = Trial(finding.condition, finding.layers, remedy, rung, step, before, expected, loss)
        self.state.trial = trial
        return trial

    def _judge(self, trial: Trial, step: int, findings: Sequence[Finding], history: History) -> list[Action]:
        window, middle = self.policy.window, trial.started + self.policy.window // 2
        if step < trial.started + window:
            return []
        after = gauge(trial.condition, trial.layers, history, middle, step, self.policy.readings)
        if math.isnan(after):
            waited = step >= trial.started + 2 * window
            return self._revert(trial, step, None, "the vital was not measured often enough") if waited else []
        loss = network_loss(history, middle, step)
        if _ruined(trial.loss_before, loss, self.policy.loss_harm, history):
            return self._revert(trial, step, after, f"the loss rose from {trial.loss_before:.3g} to {loss:.3g}")
        gone = all(f.condition != trial.condition for f in findings)
        gain = improvement(trial.condition, trial.expected, after)
        if gone or gain >= self.policy.keep_gain:
            return self._keep(trial, step, after, gain, gone)
        if gain > -self.policy.harm and trial.rung + 1 < len(remedies_for(trial.condition)[trial.remedy].rungs):
            return self._strengthen(trial, step, after, gain)
        return self._revert(trial, step, after, f"improvement {gain:+.0%} after {window} steps")

    def _keep(self, trial: Trial, step: int, after: float, gain: float, gone: bool) -> list[Action]:
        self._end_trial()
        self.state.kept[trial.condition] = [trial.remedy, trial.rung, 0]
        self.state.next_remedy[trial.condition] = trial.remedy + 1
        self.state.rest_until[trial.condition] = step + self.policy.cooldown
        why = "the finding is resolved" if gone else f"improvement {gain:+.0%}"
        return [self._note("keep", _text(trial), trial, step, why, after)]

    def _strengthen(self, trial: Trial, step: int, after: float, gain: float) -> list[Action]:
        stronger = replace(trial, rung=trial.rung + 1, started=step)
        self.state.trial = stronger
        return [self._act("strengthen", "strengthen", stronger, step, f"improvement only {gain:+.0%}", after)]

    def _revert(self, trial: Trial, step: int, after: float | None, why: str) -> list[Action]:
        self._end_trial()
        name = trial.condition
        self.state.rest_until[name] = step + self.policy.cooldown
        self.state.next_remedy[name] = max(trial.remedy + 1, self.state.next_remedy.get(name, 0))
        if trial.proven < 0:
            return [self._act("stop", "revert", trial, step, why, after)]
        self.state.kept[name] = [trial.remedy, trial.proven, 1]
        milder = replace(trial, rung=trial.proven)
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

    def _end_trial(self) -> Trial:
        trial = self.state.trial
        if trial is None:
            raise ValueError("no treatment is on trial")
        self.state.trial = None
        return trial

    def _act(
        self,
        kind: Literal["start", "strengthen", "stop"],
        verb: str,
        trial: Trial,
        step: int,
        why: str,
        after: float | None = None,
    ) -> Action:
        return Action(kind, _text(trial), trial.condition, self._entry(verb, trial, step, why, after))

    def _note(self, verb: str, text: str, trial: Trial, step: int, why: str, after: float | None = None) -> Action:
        return Action("note", text, trial.condition, self._entry(verb, trial, step, why, after))

    def _entry(self, verb: str, trial: Trial, step: int, why: str, after: float | None) -> JournalEntry:
        detail: dict[str, Any] = {
            "condition": trial.condition,
            "treatment": _text(trial),
            "vital": outcome_of(trial.condition)[0],
        }
        detail["expected_untreated"] = round(trial.expected, 6)
        where = ", ".join(trial.layers)
        return JournalEntry(step, self.name, verb, where, f"{trial.condition}: {why}", trial.before, after, detail)


def _text(trial: Trial) -> str:
    return remedies_for(trial.condition)[trial.remedy].rungs[trial.rung]


def outcome_of(condition: str) -> tuple[str, str]:
    """The vital by which a treatment of this condition is judged, and the direction in which it gets worse."""
    cls = find("condition", condition)
    return cls.outcome, cls.worse


def gauge(
    condition: str, layers: Sequence[str], history: History, after: float, until: float, readings: int = 1
) -> float:
    """The observed vital in steps (after, until]: median over time, worst over the layers with enough readings.

    Layers of the finding without measurements of the vital are left out; if none remains, every layer counts.
    """
    vital, worse = outcome_of(condition)
    known = [layer for layer in layers if layer in history.layers(vital)] or history.layers(vital)
    windows = [history.between(vital, layer, after, until) for layer in known]
    values = [median(values) for values in windows if values.size >= readings]
    return (max if worse == "higher" else min)(values, default=math.nan)


def heading(condition: str, layers: Sequence[str], history: History, step: int, window: int, damping: float) -> float:
    """Expected value of the observed vital one window after `step`: worst over the layers, inside the vital's range.

    It is the median over the last quarter window plus `damping` times the Theil-Sen slope over the last window, if the
    trend is for the worse.
    """
    vital, worse = outcome_of(condition)
    sign = 1 if worse == "higher" else -1
    low, high = find("vital", vital).range
    found: list[float] = []
    for layer in [layer for layer in layers if layer in history.layers(vital)] or history.layers(vital):
        steps, values = history.series(vital, layer)
        inside = steps > step - window
        now = median(history.between(vital, layer, step - window // 4, step))
        slope = theil_sen(steps[inside], values[inside]) if inside.sum() >= 3 else 0.0
        if not math.isnan(now):
            found.append(min(max(now + sign * max(sign * slope, 0.0) * damping * window, low), high))
    return (max if sign > 0 else min)(found, default=math.nan)


def improvement(condition: str, reference: float, after: float) -> float:
    """Improvement of the observed vital relative to the reference; positive is better."""
    _, worse = outcome_of(condition)
    change = (after - reference) / max(abs(reference), 1e-12)
    return -change if worse == "higher" else change


def network_loss(history: History, after: float, until: float) -> float:
    """Mean loss in steps (after, until]; NaN with several losses, whose sum has no meaning."""
    layers = history.layers("loss")
    values = history.between("loss", layers[0], after, until) if len(layers) == 1 else ()
    return float(sum(values)) / len(values) if len(values) else math.nan


def _ruined(before: float, after: float, harm: float, history: History) -> bool:
    """Whether the loss rose by more than `harm` of itself, and by more than a twentieth of its initial value."""
    start = history.series("loss", history.layers("loss")[0])[1][0] if before > 0 else math.nan
    return before > 0 and after > before * (1 + harm) and after - before > 0.05 * start
