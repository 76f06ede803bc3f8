"""The laws of a condition. They do not judge thresholds; the corpus of healthy runs does."""

from __future__ import annotations

import dataclasses
import json
import warnings

import torch

from homeostat.core.finding import SEVERITIES, Finding
from homeostat.core.snapshot import layer_of
from homeostat.core.vital import NETWORK
from homeostat.diagnosis import Condition, Diagnostician, Facts, History
from homeostat.diagnosis.example_histories import READINGS, ExampleHistory
from homeostat.testing import common_laws as facts
from homeostat.testing import histories
from homeostat.testing.binding import Check, bound, statements
from homeostat.testing.histories import EVERY, FACTS, examples, faults
from homeostat.testing.law import DoesNotApply, Law

LEVELS = tuple(step / 12 for step in range(13))


def laws_for(condition: Condition, thorough: bool = False) -> list[Law]:
    """Every law that a condition must satisfy."""
    return bound(TABLE, lambda: condition)


def laws_of_kind() -> dict[str, str]:
    """Name -> statement of every law of a condition."""
    return statements(TABLE)


def _explains_itself(condition: Condition) -> None:
    """It states its meaning, the vitals that it reads, and what usually helps."""
    assert len(condition.explanation.split()) >= 8, "its explanation is not a sentence"
    assert condition.worse in ("higher", "lower"), f"worse is {condition.worse!r}"
    assert isinstance(condition.reads, tuple), "reads is not a tuple of names of vitals"
    assert not condition.outcome or condition.outcome in condition.reads, (
        f"its outcome is {condition.outcome}, which it does not read"
    )
    assert condition.persistence >= 1, f"persistence is {condition.persistence}"


def _judged(condition: Condition, history: History, known: Facts = FACTS) -> Finding | None:
    return condition.judge(history, known)


def _silent_without_evidence(condition: Condition) -> None:
    """It finds nothing if nothing was measured, if every reading is missing, or if there are fewer readings than its
    persistence."""
    fresh = Facts()
    assert _judged(condition, History(), fresh) is None, "it finds something in a run without any data"
    if condition.reads:
        assert _judged(condition, History()) is None, "it finds something although none of its vitals was measured"
        assert _judged(condition, histories.constant(None)) is None, (
            "it finds something although every reading is missing"
        )
    for name, example in examples(condition).items():
        few = Diagnostician([condition])
        for count, history in histories.growing(example, 1.0, condition.persistence - 1):
            found = few.update(history, FACTS)
            assert not found, (
                f"with {name} it finds something after {count} readings, fewer than {condition.persistence}"
            )


def _silent_on_health(condition: Condition) -> None:
    """It finds nothing in a healthy run, at any reading."""
    for count, history in histories.growing(histories.well, 0.0):
        found = _judged(condition, history, dataclasses.replace(FACTS, steps=count * EVERY))
        assert found is None, f"it finds {found.evidence['text']!r} on a healthy run after {count} readings"


def _speaks(condition: Condition) -> None:
    """It finds something on each of its own examples, and on at least one example or wiring fault."""
    known = {vital for vital, _ in histories.healthy_values(0.0, 0)}
    for name, example in condition.examples.items():
        assert _ranks(condition, example)[-1] >= 0, f"it finds nothing on its own example {name!r}"
    if any(_ranks(condition, example)[-1] >= 0 for example in examples(condition).values()) or _wired(condition):
        return
    if foreign := sorted(set(condition.reads) - known):
        raise DoesNotApply(f"no known example concerns {', '.join(foreign)}, which it reads")
    raise AssertionError("it finds nothing on any example, nor on any wiring fault")


def _ranks(condition: Condition, example: ExampleHistory) -> list[int]:
    """Severity by degree: -1 nothing found, 0 info, 1 warning, 2 critical."""
    findings = [_judged(condition, histories.sick(example, degree)) for degree in LEVELS]
    return [SEVERITIES.index(f.severity) if f else -1 for f in findings]


def _wired(condition: Condition) -> list[Finding]:
    return [
        found for known in faults(condition).values() if (found := _judged(condition, History(), known)) is not None
    ]


def _monotone(condition: Condition) -> None:
    """As a run gets worse, the severity never falls."""
    spoke = False
    for name, example in examples(condition).items():
        ranks = _ranks(condition, example)
        if ranks[-1] < 0 and max(ranks) < 0:
            continue
        spoke = True
        falls = [f"{a:.2f}" for a, before, after in zip(LEVELS, ranks, ranks[1:], strict=False) if after < before]
        assert not falls, f"with {name} the severity falls from degree {', '.join(falls)} on: {ranks}"
    if not spoke:
        raise DoesNotApply("it is found in no example that has degrees")


def _pure(condition: Condition) -> None:
    """The same history gives the same finding; history, facts and global random state do not change."""
    for example in examples(condition).values():
        history = histories.sick(example, 1.0)
        before, random = json.dumps(history.state_dict()), torch.get_rng_state()
        first, again = _judged(condition, history), _judged(condition, history)
        fresh = _judged(condition, History.load(json.loads(before)))
        assert first == again == fresh, "the same history gives different findings"
        assert json.dumps(history.state_dict()) == before, "judging changes the history"
        assert torch.equal(random, torch.get_rng_state()), "judging moves torch's global random state"


def _nonsense(condition: Condition) -> None:
    """Infinite, negative, huge and missing readings raise no exception and no warning, and findings on them are
    valid."""
    for name, history in histories.nonsense().items():
        for known in (FACTS, Facts(), dataclasses.replace(FACTS, batch_size=None, ended=True, resumed=True)):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    found = _judged(condition, history, known)
            except Exception as error:
                raise AssertionError(f"with {name}: {type(error).__name__}: {error}") from error
            if found is not None:
                _sound(condition, found, history, known)


def _sound(condition: Condition, found: Finding, history: History, known: Facts) -> None:
    assert found.condition == condition.name, f"the finding is called {found.condition!r}"
    assert found.severity in SEVERITIES, f"severity is {found.severity!r}"
    assert found.evidence.get("text"), "the finding has no sentence"
    seen = {layer for vital in history.vitals() for layer in history.layers(vital)} | {NETWORK, *known.widths}
    seen |= {layer_of(name) for name in (*known.unoptimized, *known.idle, *known.no_gradient)} | {*known.frozen.inside}
    invented = set(found.layers) - seen
    assert not invented, f"it names {sorted(invented)}, which were not measured"


def _names_layers(condition: Condition) -> None:
    """A finding names only measured layers, and has a severity, a sentence with numbers, and the condition's name."""
    for example in examples(condition).values():
        history = histories.sick(example, 1.0)
        if (found := _judged(condition, history)) is not None:
            _sound(condition, found, history, FACTS)
    for known in faults(condition).values():
        if (found := _judged(condition, History(), known)) is not None:
            _sound(condition, found, History(), known)


def _json(condition: Condition) -> None:
    """A finding survives a round trip through strict JSON."""
    found = [_judged(condition, histories.sick(example, 1.0)) for example in examples(condition).values()]
    for finding in [*filter(None, found), *_wired(condition)]:
        data = finding.to_json()
        try:
            again = json.loads(json.dumps(data, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"the evidence is not strict JSON: {error}") from error
        assert again == data, f"read back from JSON, the finding differs: {data['evidence']}"


def _resumable(condition: Condition) -> None:
    """Diagnosis that is saved as JSON in the middle of a run and continued gives the same findings."""
    for name, example in examples(condition).items():
        whole, first = Diagnostician([condition]), Diagnostician([condition])
        for count, history in histories.growing(example, 1.0):
            if count % 7:
                continue
            whole.update(history, FACTS)
            if count <= READINGS // 2:
                first.update(history, FACTS)
                continue
            second = Diagnostician([condition])
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
            second.update(history, FACTS)
            first = second
        assert whole.findings == first.findings, f"with {name} its findings differ after it was continued"


def _eases(condition: Condition) -> None:
    """The relaxed rule, which clears a finding, holds wherever the rule itself does."""
    eased = condition.eased()
    for name, example in examples(condition).items():
        for degree in (0.5, 0.75, 1.0):
            history = histories.sick(example, degree)
            strict, loose = (rule.signs(history, FACTS) for rule in (condition, eased))
            for layer, sign in strict.items():
                assert layer in loose and loose[layer].rank >= sign.rank, f"with {name} easing makes {layer} milder"


TABLE: dict[str, Check] = {
    **facts.without_example(),
    "explains itself": _explains_itself,
    "silent without evidence": _silent_without_evidence,
    "silent on health": _silent_on_health,
    "speaks": _speaks,
    "severity is monotone": _monotone,
    "eases": _eases,
    "pure": _pure,
    "nonsense-proof": _nonsense,
    "names layers that exist": _names_layers,
    "JSON": _json,
    "resumable": _resumable,
}
"""Every law of a condition."""
