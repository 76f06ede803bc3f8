"""The order of findings: causes first, each followed by what it explains."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from homeostat.core.component import components
from homeostat.core.finding import SEVERITIES, Finding
from homeostat.diagnosis.causes import by_cause

NAMES = st.sampled_from("abcdefg")


def order(findings: list[Finding], explains: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(f.condition, f.follows) for f in by_cause(findings, explains)]


def test_a_mild_cause_comes_before_its_grave_consequences_and_notes_come_last() -> None:
    found = [
        Finding("dead", "critical", 5),
        Finding("rate", "warning", 9),
        Finding("note", "info", 0),
        Finding("stall", "warning", 7),
        Finding("other", "warning", 8),
    ]
    explains = {"rate": ("dead", "stall"), "dead": ("stall",), "note": ("other",)}
    expected = [("other", ""), ("rate", ""), ("dead", "rate"), ("stall", "dead"), ("note", "")]
    assert order(found, explains) == expected


@given(
    st.lists(st.tuples(NAMES, st.sampled_from(SEVERITIES), st.integers(0, 3)), unique_by=lambda f: f[0]),
    st.dictionaries(NAMES, st.lists(NAMES, max_size=3).map(tuple)),
)
def test_every_finding_is_kept_once_after_the_one_it_follows_from_also_in_circles(
    found: list[tuple[str, str, int]], explains: dict[str, tuple[str, ...]]
) -> None:
    findings = [Finding(*f) for f in found]  # type: ignore[arg-type]
    ordered = order(findings, explains)
    names = [name for name, _ in ordered]
    assert sorted(names) == sorted(f.condition for f in findings)
    for place, (name, follows) in enumerate(ordered):
        assert not follows or (names.index(follows) < place and name in explains[follows])
    assert order(findings[::-1], explains) == ordered


def test_conditions_explain_conditions_that_exist() -> None:
    conditions = components("condition")
    assert {name for c in conditions.values() for name in c.explains} <= set(conditions)
