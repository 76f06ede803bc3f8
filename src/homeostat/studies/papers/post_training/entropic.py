"""EntroPIC: does a PI controller of the weight of confident tokens keep token entropy at a set point?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from homeostat.controllers import PI, Proportional
from homeostat.core.component import Cite
from homeostat.objectives import ClippedPolicyGradient, Entropic
from homeostat.studies.lab.expectation import Effect, Expectation, Measure, Measures, Precondition, number, primary
from homeostat.studies.lab.reasoning.base import Base
from homeostat.studies.lab.reasoning.improve import Rounds, Steered, improve, tested
from homeostat.studies.lab.reasoning.tasks import Chain
from homeostat.studies.lab.study import Study

SET_POINT = 0.25
"""In nats per token: between 0.8 of the base policy and 0.1 at the end of plain training."""

THRESHOLD = 0.5
"""Probability above which a token is confident. With the paper's 0.95 the controller is too weak here, see `tuning`."""

REGIMES = {"on": 1, "off": 4}
"""On-policy, and four updates on the same rollouts."""

GAINS = {"p": (5.0, 0.0), "pi": (5.0, 0.3)}
_WAYS = {
    "plain": "clipped policy gradient",
    "p": f"EntroPIC, proportional alone, gain {GAINS['p'][0]:g}",
    "pi": f"EntroPIC, gains {GAINS['pi'][0]:g} and {GAINS['pi'][1]:g}",
}


def _gap(regime: str, better: str, worse: str) -> Effect:
    """Late distance of entropy from the set point in one arm minus that in another, in nats."""
    return lambda arms: abs(_offset(arms, worse, regime)) - abs(_offset(arms, better, regime))


def _offset(arms: Mapping[str, Measures], way: str, regime: str) -> float:
    return number(arms[f"{way}, {regime}"], "entropy, late") - SET_POINT


def _several(arms: Mapping[str, Measures]) -> float:
    """Late pass@8 of PI minus that of plain training, mean over the two regimes."""
    return sum(_late(arms, "pi", r) - _late(arms, "plain", r) for r in REGIMES) / len(REGIMES)


def _late(arms: Mapping[str, Measures], way: str, regime: str) -> float:
    return number(arms[f"{way}, {regime}"], "pass@8, late")


@dataclass(frozen=True, kw_only=True)
class EntropicStudy(Study):
    """A transformer of 228,000 parameters, trained on chains of three operations modulo 7 with errors, is improved by
    policy gradient on the verifier's reward: 16 prompts with 8 answers per update, Adam. The set point is 0.25 nats.

    On-policy, every update has new rollouts; off-policy, four updates share one set. Entropy late is the mean over the
    rollouts of the last quarter of the updates; pass@8 is then measured on test prompts. The gains differ from the
    paper's 1 and 0.01 (a run here has 120 updates, there thousands), and so does the threshold (0.95).
    """

    name: ClassVar[str] = "entropic"
    cite: ClassVar[Cite | tuple[Cite, ...]] = Cite.of("entropic")
    claim: ClassVar[str] = (
        "A PI controller of the weight of confident tokens in correct and wrong answers keeps token entropy at a set "
        "point, on-policy and off-policy. Proportional control alone leaves an offset off-policy. Accuracy over "
        "several answers improves."
    )
    remarks: ClassVar[str] = (
        "In every arm entropy ends 0.08 to 0.10 nats below the set point, with and without a controller. The likely "
        "cause is that the controlled weight has too little effect: weighting confident tokens hardly changes the "
        "entropy of such a small model in 120 updates, and during the tuning of the gains the weight was near its "
        "limit. The initial policies of the seeds differ much, which widens every interval."
    )
    tuning: ClassVar[str] = (
        "gains (kp 5 with ki 0 and 0.1), set point (0.3) and threshold on seed 1000: with thresholds of 0.95 and 0 "
        "entropy fell further, to 0.13 to 0.18, with alpha near its limit of -1; with 0.5 it fell to 0.2 to 0.28. Then "
        "ki was raised to 0.3, the set point lowered to 0.25 and the run shortened from 160 updates, without another "
        "look. A first run on the judged seeds was discarded: its proportional arm was a PI with ki = 0, which "
        "back-calculates at the limit and so was shifted by the large first error; only that arm was changed"
    )
    arms: ClassVar[Mapping[str, str]] = {
        f"{way}, {regime}": f"{says}; {'on-policy' if updates == 1 else f'{updates} updates a set of rollouts'}"
        for regime, updates in REGIMES.items()
        for way, says in _WAYS.items()
    }
    expectations: ClassVar[tuple[Expectation, ...]] = primary(
        (
            Expectation(
                "on-policy, PI: within 0.05 nats of the set point", lambda arms: -abs(_offset(arms, "pi", "on")), -0.05
            ),
            Expectation(
                "off-policy, PI: within 0.05 nats of the set point",
                lambda arms: -abs(_offset(arms, "pi", "off")),
                -0.05,
            ),
            Expectation("on-policy, PI: nearer to it than plain training", _gap("on", "pi", "plain")),
            Expectation("off-policy, PI: nearer to it than plain training", _gap("off", "pi", "plain")),
            Expectation("off-policy, PI: nearer to it than P", _gap("off", "pi", "p")),
            Expectation("pass@8 late is higher with PI than with plain training", _several),
        ),
        "on-policy, PI: within",
        "off-policy, PI: within",
        margin=0.02,
    )
    because: ClassVar[str] = "The abstract claims that entropy is kept at its target, on-policy and off-policy."
    preconditions: ClassVar[tuple[Precondition, ...]] = (
        Precondition(
            "plain training ends more than 0.05 nats from the set point, on-policy and off-policy",
            lambda arms: min(abs(_offset(arms, "plain", regime)) for regime in REGIMES),
            0.05,
            tuple(f"plain, {regime}" for regime in REGIMES),
        ),
    )
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"width": 16, "steps": 30, "updates": 8, "prompts": 4, "rate": 5e-4, "tested": 8},
        "paper": {"width": 96, "steps": 500, "updates": 120, "prompts": 16, "rate": 5e-4, "tested": 64},
    }

    def run(self, arm: str, seed: int, budget: str) -> dict[str, Measure]:
        sizes, (way, regime) = self.sizes(budget), arm.split(", ")
        base = Base(Chain(7, 4, "+-*"), width=sizes["width"], steps=sizes["steps"])
        model, tests = base.policy(seed), []
        late = 3 * sizes["updates"] // 4

        def test(update: int) -> None:
            if update >= late and update % 8 == 0:
                tests.append(tested(model, base.task, seed, sizes["tested"], 16))

        log = improve(
            model,
            base.task,
            (Entropic(threshold=THRESHOLD) if way in GAINS else ClippedPolicyGradient(),),
            Rounds(sizes["updates"] // REGIMES[regime], REGIMES[regime], sizes["prompts"], rate=sizes["rate"]),
            seed,
            steered=_steered(way),
            test=test,
        )
        entropy = log.series["entropy"]
        return {
            "entropy, late": _mean(entropy[late:]),
            "reward, late": _mean(log.series["reward"][late:]),
            "pass@1, late": _mean([found["pass@1"] for found in tests]),
            "pass@8, late": _mean([found["pass@k"] for found in tests]),
            "entropy": entropy,
            **({"alpha": log.series["alpha"]} if way in GAINS else {}),
        }


def _steered(way: str) -> Steered | None:
    if way not in GAINS:
        return None
    kp, ki = GAINS[way]
    limits = {"set_point": SET_POINT, "kp": kp, "low": -1.0, "high": 1.0, "when_high": "raise"}
    return Steered(PI(ki=ki, **limits) if ki else Proportional(**limits))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
