"""The budget sets the pace: what measuring costs, over what the run takes, stays within it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from homeostat.shell.cadence import Cadence
from homeostat.vitals import DormantUnits, EffectiveRank, GradientNorm, Sharpness

VITALS = [DormantUnits(), GradientNorm(), EffectiveRank(), Sharpness()]
NAMES = [v.name for v in VITALS]


@settings(deadline=None, max_examples=40)
@given(
    cheap=st.floats(1e-5, 1e-2),
    moderate=st.floats(1e-5, 1e-1),
    heavy=st.floats(1e-3, 10.0),
    step_seconds=st.floats(1e-4, 1.0),
    budget=st.sampled_from([0.005, 0.02, 0.1]),
)
def test_long_runs_stay_within_the_budget(cheap, moderate, heavy, step_seconds, budget):
    price = dict(zip(NAMES, (cheap, cheap, moderate, heavy), strict=True))
    cadence, spent, step = Cadence(VITALS, budget), 0.0, 0
    for _ in range(60):
        step = cadence.next_due(step)
        due = cadence.due(step)
        costs = {name: price[name] for name in due}
        spent += sum(costs.values()) + cheap
        cadence.learn(costs, cheap, step_seconds, spent / (budget * step * step_seconds))
    pace = sum(price[name] / cadence.every(name) for name in NAMES) + cheap / cadence.every(NAMES[0])
    assert pace <= budget * step_seconds * 1.001


def test_dearer_tiers_are_multiples_and_step_one_is_the_baseline():
    cadence = Cadence(VITALS, 0.02)
    for _ in range(8):
        cadence.learn(dict.fromkeys(NAMES, 3e-3), 1e-3, 2e-3)
    every = cadence.cadences()
    assert every["effective-rank"] % every["dormant-units"] == 0 and every["sharpness"] % every["effective-rank"] == 0
    assert set(cadence.due(1)) == set(NAMES)
    assert cadence.next_due(0) == 1 and cadence.next_due(1) == every["dormant-units"]


def test_fixed_cadences_do_not_move_with_cost():
    cadence = Cadence(VITALS, 0.02, fixed={"dormant-units": 50})
    whole = Cadence(VITALS, 0.02, every=7)
    for _ in range(5):
        for c in (cadence, whole):
            c.learn(dict.fromkeys(NAMES, 1.0), 1.0, 1e-3, 3.0)
    assert cadence.every("dormant-units") == 50
    assert set(whole.cadences().values()) == {7}
