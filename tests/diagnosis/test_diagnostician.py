"""Persistence, hysteresis, since when; and the rules on small made-up histories."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from homeostat.core.component import components
from homeostat.core.finding import Finding
from homeostat.diagnosis import Condition, Diagnostician, Facts, History, OptimizerFacts
from homeostat.diagnosis.conditions.optimization.curvature import EdgeOfStability
from homeostat.diagnosis.conditions.optimization.gradients import ExplodingGradients, VanishingGradients
from homeostat.diagnosis.conditions.optimization.loss import OscillatingLoss, StalledLearning
from homeostat.diagnosis.conditions.optimization.nonfinite import NonFiniteValues
from homeostat.diagnosis.conditions.plasticity.plasticity import LossOfPlasticity, task_ends
from homeostat.diagnosis.conditions.plasticity.rank import RankCollapse
from homeostat.diagnosis.conditions.plasticity.units import DormantLayer, SaturatedLayer
from homeostat.diagnosis.conditions.wiring.bookkeeping import NoOptimizerStep, UntrainedParameters
from homeostat.diagnosis.history import STEP_SERIES
from homeostat.diagnosis.loss_facts import LossFacts
from homeostat.diagnosis.loss_series import LOSS_SERIES


def fed(condition: Condition, values: list[float], vital: str = "dormant-units") -> list[list[Finding]]:
    """The findings after each reading of one layer, ten steps apart."""
    history, diagnostician = History(), Diagnostician([condition])
    out = []
    for i, value in enumerate(values):
        history.add(10 * i, vital, "fc1", value)
        out.append(diagnostician.update(history, Facts(steps=10 * i)))
    return out


DORMANT = DormantLayer(info=0.3, warning=0.6, critical=0.9)


def test_a_condition_must_persist_and_remembers_since_when() -> None:
    found = fed(DORMANT, [0.1] * 5 + [0.7] * 6)
    first = next(i for i, f in enumerate(found) if f)
    # The median of three readings first exceeds the threshold at reading 6; three readings in a row confirm it.
    assert first == 8 and found[first][0].since_step == 60
    assert found[-1][0].severity == "warning" and found[-1][0].layers == ("fc1",)
    assert not any(fed(DORMANT, [0.1, 0.1, 0.9, 0.1, 0.9, 0.1, 0.1, 0.9, 0.1]))


def test_it_resolves_only_when_clearly_better() -> None:
    near = 0.6 * (1 + DormantLayer.__dataclass_fields__["warning"].metadata["ease"]) / 2
    found = fed(DORMANT, [0.7] * 6 + [near] * 12 + [0.05] * 12)
    assert found[17][0].severity == "warning"
    assert not found[-1]
    assert [f[0].severity for f in found if f][-1] in ("warning", "info")


def test_the_same_reading_is_not_counted_twice() -> None:
    history, diagnostician = History(), Diagnostician([DORMANT])
    history.add(0, "dormant-units", "fc1", 0.99)
    for _ in range(10):
        assert not diagnostician.update(history, Facts())


def test_state_survives_json_and_the_future_is_the_same() -> None:
    values = [0.1] * 4 + [0.7] * 5 + [0.95] * 9 + [0.2] * 9
    whole = fed(DORMANT, values)
    history, diagnostician = History(), Diagnostician([DORMANT])
    for i, value in enumerate(values):
        history.add(10 * i, "dormant-units", "fc1", value)
        diagnostician.update(history, Facts(steps=10 * i))
        other = Diagnostician([DORMANT])
        other.load_state_dict(json.loads(json.dumps(diagnostician.state_dict())))
        diagnostician = other
        assert diagnostician.findings == whole[i]


def test_every_condition_is_complete_and_quiet_on_an_empty_history() -> None:
    known = components("condition")
    vitals = components("vital")
    for cls in known.values():
        assert cls.explanation and str(cls.cite if not isinstance(cls.cite, tuple) else cls.cite[0])
        assert set(cls.reads) <= {*vitals, *LOSS_SERIES, *STEP_SERIES} and (not cls.outcome or cls.outcome in vitals)
        assert cls().judge(History(), Facts()) is None


def series(**layers: list[float]) -> History:
    """A history of one vital per keyword, `vital__layer`, ten steps apart."""
    history = History()
    for key, values in layers.items():
        vital, layer = key.split("__")
        history.extend((10 * i, vital.replace("_", "-"), layer, v) for i, v in enumerate(values))
    return history


def test_rectified_layers_do_not_count_as_saturated() -> None:
    history = series(saturated_units__fc1=[0.99] * 5)
    assert SaturatedLayer().signs(history, Facts()).keys() == {"fc1"}
    assert not SaturatedLayer().signs(history, Facts(nonlinearity={"fc1": "relu"}))


def test_rank_must_be_low_in_itself_and_against_its_peak() -> None:
    rule = RankCollapse(info=4, warning=3, critical=1.5, drop=0.25, stillborn=1.5)
    assert rule.signs(series(effective_rank__a=[40.0] * 10 + [2.0] * 5), Facts())["a"].severity == "warning"
    assert not rule.signs(series(effective_rank__a=[2.6] * 20), Facts())
    assert not rule.signs(series(effective_rank__a=[80.0] * 10 + [20.0] * 9), Facts())
    assert rule.signs(series(effective_rank__a=[1.2] * 9), Facts())["a"].severity == "critical"


def test_gradients_vanish_only_beside_other_layers_of_the_same_network() -> None:
    rule = VanishingGradients(info=1e-3, warning=1e-4, critical=1e-6)
    shrinking = [10.0**-i for i in range(12)]
    both = series(gradient_norm__a=shrinking, gradient_norm__b=shrinking, weight_norm__a=[1.0], weight_norm__b=[1.0])
    assert not rule.signs(both, Facts())
    one = series(gradient_norm__x=[1e-5] * 5, gradient_norm__y=[1.0] * 5, weight_norm__x=[1.0], weight_norm__y=[1.0])
    assert rule.signs(one, Facts())["x"].severity == "warning"
    history = History()
    for name, size in (("actor.a", 1e-9), ("actor.b", 1e-9), ("critic.a", 1.0)):
        history.extend([(s, v, name, size if v == "gradient-norm" else 1.0) for v in rule.reads for s in range(5)])
    nets = (OptimizerFacts("Adam", network="actor"), OptimizerFacts("Adam", network="critic"))
    assert rule.signs(history, Facts(optimizers=nets)) == {}
    assert rule.signs(history, Facts()).keys() == {"actor.a", "actor.b"}


def test_a_growing_gradient_with_a_falling_loss_is_no_explosion() -> None:
    grow = [1.5**i for i in range(20)]
    falling, rising = [2.0 - i / 20 for i in range(20)], [2.0 + i for i in range(20)]
    rule = ExplodingGradients(info=10, warning=30, critical=1e6)
    assert not rule.signs(series(gradient_norm__a=grow, loss__network=falling), Facts())
    assert rule.signs(series(gradient_norm__a=grow, loss__network=rising), Facts())["a"].severity == "warning"


@pytest.mark.parametrize(
    "scaled, readings, severity", [(False, 1, "critical"), (True, 1, "info"), (True, 9, "critical")]
)
def test_overflow_is_information_while_a_loss_scale_is_searched(scaled: bool, readings: int, severity: str) -> None:
    history = series(non_finite__a=[0.0] * 5 + [3.0] * readings)
    assert NonFiniteValues().signs(history, Facts(loss_scaled=scaled))["a"].severity == severity
    assert not NonFiniteValues().signs(series(non_finite__a=[3.0, 0.0]), Facts())


def test_gradients_are_compared_along_their_way_only() -> None:
    """Layers of an actor and a critic, and an attention branch beside the way to the inputs."""
    norms = {"actor": 1e-6, "head": 1e-6, "critic": 1.0, "inputs": 0.1, "query": 1e-6, "out": 1.0}
    history = History()
    for step in range(5):
        for layer, norm in norms.items():
            history.extend([(step, "gradient-norm", layer, norm), (step, "weight-norm", layer, 1.0)])
    after = {"actor": ("head",), "head": (), "critic": (), "inputs": ("query", "out"), "query": ("out",), "out": ()}
    assert set(VanishingGradients().signs(history, Facts())) == {"actor", "head", "query"}
    assert not VanishingGradients().signs(history, Facts(loss=LossFacts(after=after)))
    blocked = after | {"inputs": ("out",)}
    assert set(VanishingGradients().signs(history, Facts(loss=LossFacts(after=blocked)))) == {"query"}


def test_a_small_gradient_may_grow_as_large_as_the_others() -> None:
    grown = {"hidden": [1e-3] * 10 + [0.1] * 10, "head": [1.0] * 20}
    history = History()
    for layer, values in grown.items():
        history.extend((step, "gradient-norm", layer, value) for step, value in enumerate(values))
    assert not ExplodingGradients().signs(history, Facts())
    history.extend((step, "gradient-norm", "hidden", 100.0) for step in range(20, 30))
    assert set(ExplodingGradients().signs(history, Facts())) == {"hidden"}


def test_a_noisy_loss_is_no_stall() -> None:
    noise = np.random.default_rng(0).normal(0, 0.5, 60)
    assert not StalledLearning().signs(series(loss__network=list(2.3 + noise)), Facts())


def test_edge_of_stability_is_information_and_knows_momentum() -> None:
    history = series(sharpness__network=[20.0] * 5)
    plain = Facts(optimizers=(OptimizerFacts("SGD", 0.1),))
    finding = EdgeOfStability().judge(history, plain)
    assert finding is not None and finding.severity == "info" and finding.evidence["bound"] == pytest.approx(20)
    heavy = Facts(optimizers=(OptimizerFacts("SGD", 0.1, momentum=0.9),))
    assert EdgeOfStability().judge(history, heavy) is None
    assert EdgeOfStability().judge(history, Facts(optimizers=(OptimizerFacts("Adam", 0.1),))) is None


def test_a_swinging_loss_counts_only_without_progress_and_with_one_objective() -> None:
    rng = np.random.default_rng(0)
    swings = [2.3, *(2.3 + rng.uniform(0, 12, 60))]
    assert OscillatingLoss().signs(series(loss__network=swings), Facts())["network"].severity == "warning"
    coming_down = [v * 0.95**i for i, v in enumerate(swings)]
    assert not OscillatingLoss().signs(series(loss__network=coming_down), Facts())
    two = (OptimizerFacts("Adam"), OptimizerFacts("Adam"))
    assert not OscillatingLoss().signs(series(loss__network=swings), Facts(optimizers=two))
    assert not OscillatingLoss().signs(series(loss__network=[v - 5 for v in swings]), Facts())


def test_a_plateau_after_a_fall_is_no_stall() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 100)
    flat, learned = list(2.3 + noise), list(0.3 + 2 * np.exp(-np.arange(100) / 10) + noise)
    assert StalledLearning().signs(series(loss__network=flat), Facts()).keys() == {"network"}
    assert not StalledLearning().signs(series(loss__network=learned), Facts())
    assert not StalledLearning().signs(series(loss__network=flat), Facts(resumed=True))


def test_loss_of_plasticity_from_boundaries_and_from_a_probe() -> None:
    history, per_task = History(), 10
    for step in range(200):
        task, within = divmod(step, per_task)
        if within == 0 and task:
            history.boundary(step)
        history.add(step + 1, "loss", "network", (0.5 + 0.05 * task) + 2 * 0.5**within)
    sign = LossOfPlasticity(info=0.1, warning=0.3, critical=5, share=0.05).signs(history, Facts())["network"]
    assert sign.severity == "warning" and sign.numbers["late"] == pytest.approx(1.4, abs=0.1)
    probe = series(plasticity__network=[0.8] * 6 + [0.1] * 4)
    assert LossOfPlasticity().signs(probe, Facts())["network"].severity in ("warning", "critical")
    assert not LossOfPlasticity().signs(series(plasticity__network=[0.8] * 9), Facts())


def test_task_ends_belong_to_their_tasks() -> None:
    steps = np.arange(1.0, 31)
    assert task_ends(steps, steps, [10, 20]).tolist() == [8.0, 18.0]


def test_wiring_mistakes() -> None:
    facts = Facts(steps=500, unoptimized=("fc2.weight", "fc2.bias"), idle=("target.weight",))
    finding = UntrainedParameters().judge(History(), facts)
    assert finding is not None and finding.severity == "warning" and finding.layers[0] == "fc2"
    assert UntrainedParameters().judge(History(), Facts(steps=500, idle=("target.weight",))).severity == "info"
    assert UntrainedParameters().judge(History(), replace(facts, steps=3)) is None
    assert NoOptimizerStep().judge(History(), Facts(backwards=10)) is None
    assert NoOptimizerStep().judge(History(), Facts(backwards=10, ended=True)).severity == "warning"
    assert NoOptimizerStep().judge(History(), Facts(backwards=10, steps=1, ended=True)) is None


def test_a_network_that_begins_after_another_has_trained_for_long_is_judged():
    history, diagnostician = History(), Diagnostician()
    for step in range(1, 400, 5):
        history.add(step, "dormant-units", "first.0", 0.0)
        assert not diagnostician.update(history, Facts(steps=step))
    for step in range(1, 200, 5):
        history.add(step, "dormant-units", "second.0", 1.0)
        found = diagnostician.update(history, Facts(steps=400))
    assert [finding.condition for finding in found] == ["dormant-units"]
