"""What is said when the findings of a run change."""

from hypothesis import given, settings
from hypothesis import strategies as st

from homeostat.core.finding import Finding
from homeostat.record.finding_events import changes

DORMANT = Finding("dormant-units", "warning", 40, ("fc1",), {"value": 0.3})


def test_events_say_what_changed():
    worse = Finding("dormant-units", "critical", 40, ("fc1",))
    wider = Finding("dormant-units", "critical", 40, ("fc1", "fc2"))
    other = Finding("dormant-units", "info", 60, ("fc9",))
    assert changes([DORMANT], [Finding("dormant-units", "warning", 40, ("fc1",), {"value": 0.4})]) == []
    assert changes([DORMANT], [worse]) == [("severity", worse)]
    assert changes([worse], [wider]) == [("layers", wider)]
    assert changes([worse], [worse, wider]) == [("appeared", wider)]
    assert changes([wider], [other]) == [("gone", wider), ("appeared", other)]


SOME = st.builds(
    Finding, st.sampled_from(["a", "b"]), st.sampled_from(["info", "warning"]), st.just(1),
    st.sets(st.sampled_from(["x", "y", "z"])).map(lambda s: tuple(sorted(s))),
)  # fmt: skip
SETS = st.lists(SOME, max_size=5, unique_by=lambda f: (f.condition, f.layers))


@given(SETS, SETS)
@settings(deadline=None, max_examples=200)
def test_events_account_for_every_finding(old, new):
    found = changes(old, new)
    kinds = [kind for kind, _ in found]
    assert len(new) - len(old) == kinds.count("appeared") - kinds.count("gone")
    assert all((f in new) if kind != "gone" else (f in old) for kind, f in found)
    assert changes(new, new) == []
    unsaid = [f for f in new if f not in [g for _, g in found]]
    assert all(any(f == g for g in old) for f in unsaid)
