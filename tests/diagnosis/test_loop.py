"""The closed loop: one trial at a time; keep, strengthen, revert, give up; the same decisions after a restart."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from homeostat import catalogue
from homeostat.catalogue.status import BOUNDED, VERDICTS
from homeostat.core.component import build, components
from homeostat.core.finding import Finding
from homeostat.diagnosis import Action, ClosedLoop, History, LoopPolicy, prescriptions_for, remedies_for
from homeostat.diagnosis.prescriptions import EARLIER_RULE, verdict

POLICY = LoopPolicy(warmup=100, window=100, cooldown=50, tries=3)
Effect = Callable[[str, int], float]


def simulate(
    effect: Effect, steps: int = 1500, reload: bool = False, loss: Effect = lambda on, since: 1.0
) -> list[tuple[int, str, str]]:
    """A run whose dormant share follows `effect(treatment on, steps since)`: (step, kind or verb, treatment)."""
    loop, history, on, since, log = ClosedLoop(POLICY), History(), "", 0, []
    for step in range(0, steps, 10):
        share = effect(on, step - since)
        history.add(step, "dormant-units", "fc1", share)
        history.add(step, "loss", "network", loss(on, step - since))
        findings = [Finding("dormant-units", "warning", 0, ("fc1",), {"text": "many"})] if share > 0.5 else []
        if reload:
            state, loop = json.loads(json.dumps(loop.state_dict())), ClosedLoop(POLICY)
            loop.load_state_dict(state)
        for action in loop.step(step, findings, history):
            log.append((step, action.entry.action, action.treatment))
            on, since = _apply(action, on, since, step)
    return log


def _apply(action: Action, on: str, since: int, step: int) -> tuple[str, int]:
    if action.kind == "stop":
        return "", step
    return (on, since) if action.kind == "note" else (action.treatment, step)


FIRST, SECOND = remedies_for("dormant-units")[:2]


def test_a_treatment_that_works_is_kept_and_the_loop_rests() -> None:
    log = simulate(lambda on, since: max(0.1, 0.9 - since / 100) if on else 0.9)
    assert [(verb, text) for _, verb, text in log] == [("attach", FIRST.rungs[0]), ("keep", FIRST.rungs[0])]
    assert log[0][0] == POLICY.warmup and log[1][0] == POLICY.warmup + POLICY.window


def test_a_weak_effect_is_strengthened_and_then_kept() -> None:
    log = simulate(lambda on, since: (0.1 if on == FIRST.rungs[1] else 0.85) if on else 0.9)
    assert [verb for _, verb, _ in log] == ["attach", "strengthen", "keep"]
    assert log[1][2] == FIRST.rungs[1]


def test_harm_is_taken_back_at_once_and_the_next_remedy_tried() -> None:
    log = simulate(lambda on, since: 0.1 if SECOND.treatment in on else 0.7 + 0.2 * bool(on))
    assert [verb for _, verb, _ in log] == ["attach", "revert", "attach", "keep"]
    assert log[2][2] == SECOND.rungs[0] and log[2][0] >= log[1][0] + POLICY.cooldown


def test_a_treatment_that_ruins_the_loss_is_taken_back_although_the_vital_recovered() -> None:
    log = simulate(lambda on, since: 0.6 - 0.05 * bool(on), loss=lambda on, since: 3.0 if on else 1.0)
    assert [verb for _, verb, _ in log][:2] == ["attach", "revert"]


def test_when_nothing_helps_it_gives_up_once_and_says_so() -> None:
    log = simulate(lambda on, since: 0.9, steps=4000)
    assert [verb for _, verb, _ in log].count("attach") == POLICY.tries
    assert log[-1][1] == "give up" and [verb for _, verb, _ in log].count("give up") == 1


def test_a_strengthening_in_vain_goes_back_to_what_had_helped() -> None:
    log = simulate(lambda on, since: {"": 0.9, FIRST.rungs[0]: 0.6, FIRST.rungs[1]: 0.8}.get(on, 0.1))
    verbs = [(verb, text) for _, verb, text in log]
    mild, strong = FIRST.rungs
    assert verbs[:4] == [("attach", mild), ("keep", mild), ("strengthen", strong), ("revert", mild)]
    assert verbs[4:] == [("attach", SECOND.rungs[0]), ("keep", SECOND.rungs[0])]


def test_a_treatment_that_stops_a_decline_is_kept_and_one_that_does_not_is_not() -> None:
    def run(treated_slope: float) -> list[str]:
        level, loop, history, on, verbs = 0.0, ClosedLoop(POLICY), History(), False, []
        for step in range(0, 400, 10):
            level += treated_slope if on else 0.05
            history.add(step, "dormant-units", "fc1", min(level, 1.0))
            findings = [Finding("dormant-units", "warning", 0, ("fc1",), {"text": "many"})] if level > 0.5 else []
            for action in loop.step(step, findings, history):
                on = action.kind in ("start", "strengthen")
                verbs.append(action.entry.action)
        return verbs

    assert run(0.0)[:2] == ["attach", "keep"]
    assert run(0.05)[:2] != ["attach", "keep"]


def test_decisions_survive_a_restart_at_every_step() -> None:
    def effect(on: str, since: int) -> float:
        return 0.1 if SECOND.treatment in on else 0.9

    assert simulate(effect, reload=True) == simulate(effect)


def test_a_refused_treatment_is_passed_over() -> None:
    loop, history = ClosedLoop(POLICY), History()
    finding = Finding("dormant-units", "critical", 0, ("fc1",), {"text": "many"})
    history.add(190, "dormant-units", "fc1", 0.9)
    (action,) = loop.step(200, [finding], history)
    assert loop.refused(200, "no unit groups").entry.action == "refuse"
    (again,) = loop.step(210, [finding], history)
    assert action.treatment == FIRST.rungs[0] and again.treatment == SECOND.rungs[0]
    unavailable = {r.treatment: "refused" for r in remedies_for("dormant-units") if r.rungs}
    (note,) = ClosedLoop(POLICY).step(200, [finding], history, unavailable)
    assert note.kind == "note" and note.entry.action == "give up"


def test_mild_early_and_untreatable_findings_are_left_alone() -> None:
    loop, history = ClosedLoop(POLICY), History()
    history.add(190, "dormant-units", "fc1", 0.9)
    assert not loop.step(200, [Finding("dormant-units", "info", 0, ("fc1",))], history)
    assert not loop.step(50, [Finding("dormant-units", "critical", 0, ("fc1",))], history)
    assert not loop.step(200, [Finding("untrained-parameters", "warning", 0, ("fc1",))], history)


def test_an_unmeasured_vital_is_waited_for_and_then_reverted() -> None:
    loop, history = ClosedLoop(POLICY), History()
    finding = Finding("dormant-units", "warning", 0, ("fc1",), {"text": "many"})
    assert not loop.step(200, [finding], history)
    history.add(200, "dormant-units", "fc1", 0.9)
    assert loop.step(200, [finding], history)
    assert not loop.step(300, [finding], history)
    (action,) = loop.step(400, [finding], history)
    assert action.kind == "stop" and action.entry.after is None


@pytest.mark.parametrize("condition", components("condition"))
def test_every_prescription_can_be_built_and_states_its_evidence(condition: str) -> None:
    for remedy in remedies_for(condition):
        for text in remedy.rungs:
            build("treatment", text)
    for prescription in prescriptions_for(condition):
        said = prescription.verdict.removesuffix(f" ({EARLIER_RULE})")
        known = said in ("untested", *VERDICTS) or said.startswith(BOUNDED)
        assert prescription.do and known


def test_a_verdict_of_the_earlier_rule_says_so(monkeypatch) -> None:
    files = {"old": {"verdict": "holds"}, "new": {"verdict": "holds", "rule": "one primary expectation"}}
    monkeypatch.setattr(catalogue, "verdict_of", files.get)
    assert verdict("old") == f"holds ({EARLIER_RULE})" and verdict("new") == "holds"
    assert verdict("none of these") == verdict("") == "untested"
