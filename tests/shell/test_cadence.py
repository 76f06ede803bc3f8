"""The budget sets the pace: what measuring costs, over what the run takes, stays within it."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from homeostat.shell.observe.cadence import OVERDRAFT_SECONDS, START_UP_STEPS, Cadence, Credit
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


def simulated(
    cadence: Cadence, price: dict[str, float], step_seconds: float, budget: float, steps: int
) -> Counter[str]:
    """Readings of each vital in a run whose vitals cost this much."""
    readings, spent, paid, step = Counter[str](), 0.0, 0.0, 0
    while (step := cadence.next_due(step)) <= steps:
        due = cadence.due(step)
        readings.update(due)
        costs = {name: price[name] for name in due}
        spent += sum(costs.values())
        paid += cadence.pay(step, costs, 0.0)
        cadence.learn(costs, 0.0, step_seconds, (spent - paid) / (budget * step * step_seconds))
    return readings


def test_a_short_run_is_read_about_sixty_times_in_two_thousand_steps():
    price = dict(zip(NAMES, (2e-3, 2e-3, 5e-3, 0.5), strict=True))
    readings = simulated(Cadence(VITALS, 0.02, credit=Credit(1.0)), price, 1e-4, 0.02, START_UP_STEPS)
    assert 60 <= readings["dormant-units"] <= 66 and readings["effective-rank"] >= 11 and readings["sharpness"] == 1
    early = [step for step in range(1, 33) if "dormant-units" in Cadence(VITALS, 0.02, credit=Credit(1.0)).due(step)]
    assert {1, 2, 4, 8, 16, 32} <= set(early)


@settings(deadline=None, max_examples=40)
@given(cheap=st.floats(1e-4, 1.0), step_seconds=st.floats(1e-5, 0.1))
def test_start_up_readings_stay_within_the_credit(cheap, step_seconds):
    credit, price = Credit(1.0), dict(zip(NAMES, (cheap, cheap, 2 * cheap, 1.0), strict=True))
    simulated(Cadence(VITALS, 0.02, credit=credit), price, step_seconds, 0.02, 3000)
    assert credit.used <= credit.seconds + 4 * cheap + OVERDRAFT_SECONDS


def test_powers_of_two_are_read_where_imports_have_used_the_credit():
    credit, price = Credit(1.0), dict(zip(NAMES, (2e-3, 2e-3, 5e-3, 0.5), strict=True))
    credit.take(2.0)
    cadence = Cadence(VITALS, 0.02, credit=credit)
    early = [step for step in range(2, 2001) if step % 10 and cadence.due(step)]
    assert early == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] and cadence.next_due(129, ["dormant-units"]) == 130
    simulated(cadence, price, 1e-4, 0.02, 3000)
    assert 0 < credit.overdrawn <= OVERDRAFT_SECONDS


def test_networks_share_one_credit_and_what_feeds_controllers_has_no_start_up_readings():
    credit = Credit(1.0)
    first, second = (Cadence(VITALS, 0.02, fixed={"dormant-units": 50}, credit=credit) for _ in range(2))
    assert "gradient-norm" in second.due(8) and "dormant-units" not in second.due(8)
    first.pay(4, {"gradient-norm": 0.9}, 0.2)
    assert second.due(8) == () and second.next_due(1) == 10
    assert Cadence(VITALS, 0.02, every=7, credit=Credit(1.0)).next_due(1) == 7
