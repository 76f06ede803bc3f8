"""Adaptive replay ratio: a low ratio until the units of the critic have settled, then a high one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from homeostat.controllers import OneWaySwitch
from homeostat.core.component import Cite
from homeostat.core.controller import Controller
from homeostat.core.errors import BadInput
from homeostat.studies.lab.expectation import Expectation, Measure, Measures, Precondition, number, primary
from homeostat.studies.lab.study import Study

LOW, HIGH = 0.5, 2.0
ENVIRONMENTS = ("cartpole", "pendulum")
_ALGORITHMS = {"cartpole": ("DQN", "CartPole-v1", "q_net"), "pendulum": ("SAC", "Pendulum-v1", "critic")}


def _of(arms: Mapping[str, Measures], arm: str, what: str, environment: str) -> float:
    return number(arms[arm], f"{what}, {environment}")


def _costs(environment: str):
    """Share of active units of the critic at the end under the low static ratio minus that under the high one."""
    return lambda arms: _of(arms, "low", "active", environment) - _of(arms, "high", "active", environment)


def _keeps(environment: str):
    """The same for the adaptive ratio minus the high static one."""
    return lambda arms: _of(arms, "adaptive", "active", environment) - _of(arms, "high", "active", environment)


def _wins(environment: str):
    """Return over the whole training under the adaptive ratio minus that of the better static ratio of this seed."""
    return lambda arms: (
        _of(arms, "adaptive", "return", environment)
        - max(_of(arms, arm, "return", environment) for arm in ("low", "high"))
    )


@dataclass(frozen=True, kw_only=True)
class AdaptiveReplayRatioStudy(Study):
    """DQN on CartPole and SAC on Pendulum, small ReLU networks; static replay ratios of 0.5 and 2, and one raised from
    0.5 to 2.

    The share of active units is that of the critic (DQN: of its Q network), mean over its hidden layers, on its
    training batches. Return is that of the training episodes, averaged over environment steps (the area under the
    learning curve, scaled to 0..1: 500 is the maximum of a CartPole episode, -1600 to 0 the range of a Pendulum
    episode). The paper's claim is about DrQ-v2, which learns from pixels over millions of steps.
    """

    name: ClassVar[str] = "adaptive-rr"
    cite: ClassVar[Cite | tuple[Cite, ...]] = Cite.of("adaptive-rr")
    claim: ClassVar[str] = (
        "A high replay ratio reduces the active units of the critic. A low ratio that is raised when the share of "
        "active units has settled preserves them, and learns at least as well as the better static ratio."
    )
    series: ClassVar[str] = "curve, pendulum"
    tuning: ClassVar[str] = (
        "lengths and the distance of checks on seeds 1000 to 1002, so that the budget fits and the switch can act "
        "before the end; tolerance and ratios are the authors', the rest was not tuned"
    )
    arms: ClassVar[Mapping[str, str]] = {
        "low": f"{LOW:g} gradient steps an environment step, throughout",
        "high": f"{HIGH:g} gradient steps an environment step, throughout",
        "adaptive": f"{LOW:g} until the critic's share of active units has settled, then {HIGH:g}",
    }
    expectations: ClassVar[tuple[Expectation, ...]] = primary(
        tuple(
            expectation
            for environment in ENVIRONMENTS
            for expectation in (
                Expectation(f"{environment}: the high ratio costs the critic active units", _costs(environment)),
                Expectation(f"{environment}: the adaptive ratio keeps more than the high one", _keeps(environment)),
                Expectation(
                    f"{environment}: its return is no more than 2 points below the better static ratio's",
                    _wins(environment),
                    -0.02,
                ),
            )
        ),
        "pendulum: the adaptive ratio keeps more",
        "pendulum: its return is no more than 2 points",
        margin=0.01,
    )
    because: ClassVar[str] = (
        "The claim has two parts: active units are preserved, and learning is at least as good as with the better "
        "static ratio. The paper's agents are actor-critics for continuous control, as on Pendulum."
    )
    preconditions: ClassVar[tuple[Precondition, ...]] = (
        Precondition(
            "pendulum: the high ratio costs the critic active units", _costs("pendulum"), 0.0, ("low", "high")
        ),
    )
    remarks: ClassVar[str] = (
        "The loss that the method prevents does not occur here: with states instead of pixels and a few thousand "
        "steps, the high ratio keeps as many units of the critic active as the low one (on Pendulum more). Then a low "
        "ratio at the beginning only means fewer updates and so less return."
    )
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"cartpole": 215, "pendulum": 205, "start": 190, "width": 8, "batch_size": 16, "check": 10},
        "paper": {"cartpole": 4000, "pendulum": 2000, "start": 200, "width": 32, "batch_size": 32, "check": 50},
    }

    def run(self, arm: str, seed: int, budget: str) -> dict[str, Measure]:
        found: dict[str, Measure] = {}
        for environment in ENVIRONMENTS:
            measures = self._learn(environment, arm, seed, budget)
            found |= {f"{name}, {environment}": value for name, value in measures.items()}
        return found

    def _learn(self, environment: str, arm: str, seed: int, budget: str) -> dict[str, Measure]:
        from homeostat.integrations.sb3 import HomeostatCallback

        sizes, critic = self.sizes(budget), _ALGORITHMS[environment][2]
        agent = self._agent(environment, arm, seed, sizes)
        check = sizes["check"]
        controllers: tuple[Controller, ...] = ()
        if arm == "adaptive":
            vital = f"active-units@{critic}"
            switch = OneWaySwitch(
                vital=vital, over="mean", knob="replay-ratio", high=HIGH, every=check // 10, period=10, window=5
            )
            controllers = (switch,)
        with HomeostatCallback(
            vitals=("active-units",), controllers=controllers, every=check // 10, seed=seed, strict=True
        ) as run:
            agent.learn(sizes[environment], callback=run)
        shares = _shares(run.vitals()["active-units"], critic)
        curve = _curve(agent, environment, sizes[environment])
        turned = next((e.step for e in run.journal() if e.action == "knob"), -1)
        return {
            "return": sum(curve) / len(curve),
            "active": sum(shares[-10:]) / len(shares[-10:]),
            "lowest active": min(shares),
            "turned at": turned,
            "curve": [round(value, 4) for value in curve],
        }

    def _agent(self, environment: str, arm: str, seed: int, sizes: Mapping[str, Any]) -> Any:
        """The agent of one arm. All arms of a seed begin with the same weights and the same random actions."""
        try:
            import stable_baselines3
        except ImportError as error:
            raise BadInput("this study needs Stable-Baselines3: pip install 'homeostat[rl,studies]'") from error
        from torch import nn

        algorithm, name, _ = _ALGORITHMS[environment]
        more = {"exploration_fraction": 0.3, "target_update_interval": 250} if algorithm == "DQN" else {}
        ratio = HIGH if arm == "high" else LOW
        return getattr(stable_baselines3, algorithm)(
            "MlpPolicy",
            name,
            seed=seed,
            learning_rate=1e-3,
            learning_starts=sizes["start"],
            batch_size=sizes["batch_size"],
            buffer_size=sizes[environment],
            train_freq=2,
            gradient_steps=round(2 * ratio),
            policy_kwargs={"net_arch": [sizes["width"], sizes["width"]], "activation_fn": nn.ReLU},
            device="cpu",
            stats_window_size=10**6,
            **more,
        )


def _shares(layers: Mapping[str, Any], critic: str) -> list[float]:
    """Share of active units of the critic at each sample: mean over its hidden layers."""
    lines = [dict(points) for layer, points in layers.items() if layer.startswith(f"{critic}.")]
    steps = sorted(set.intersection(*(set(line) for line in lines)))
    rows = [[line[step] for line in lines] for step in steps]
    return [sum(row) / len(row) for row in rows if None not in row]


def _curve(agent: Any, environment: str, steps: int, points: int = 20) -> list[float]:
    """Return of the current episode (at the end: of the last finished one), at even intervals, from 0 to 1."""
    ends, returns, at = [], [], 0
    for episode in agent.ep_info_buffer:
        at += int(episode["l"])
        ends.append(at)
        returns.append(float(episode["r"]))
    scaled = [r / 500 if environment == "cartpole" else 1 + r / 1600 for r in returns]
    curve = []
    for point in range(points):
        place = (point + 0.5) * steps / points
        curve.append(next((s for end, s in zip(ends, scaled, strict=True) if end >= place), scaled[-1]))
    return curve
