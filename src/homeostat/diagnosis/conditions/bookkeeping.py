"""Mistakes of wiring: parameters that nothing trains, and a run that never steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from homeostat.core.component import Cite
from homeostat.core.finding import Severity
from homeostat.core.readings import layer_of
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import Condition, Sign, limit
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History

_TRAINCHECK = Cite("Jiang et al.", 2025, "Training with Confidence: Catching Silent Errors", "2506.14813", "OSDI")


@dataclass(frozen=True, kw_only=True)
class UntrainedParameters(Condition):
    """Parameters that require a gradient but never move: no optimizer holds them, or their gradient is always None.

    A parameter without optimizer that receives gradients is a warning. One that receives none may be a target network
    or an averaged copy, and is information only.

    Settings:
        steps: optimizer steps before it is judged: a head may be used for the first time later.
    """

    cite = _TRAINCHECK
    explanation = "These parameters keep their initial values: whatever depends on them is random features."
    persistence: int = 1
    steps: float = limit("untrained-parameters", "steps", unit="steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        if facts.steps < self.steps and not facts.ended:
            return {}
        signs = _by_layer(facts.idle, "info", "no optimizer holds it and it receives no gradient")
        unseen = facts.no_gradient if facts.steps else ()
        signs |= _by_layer(unseen, "warning", "an optimizer holds it, but its gradient was always None")
        signs |= _by_layer(facts.unoptimized, "warning", "it receives gradients, but no optimizer holds it")
        return signs


def _by_layer(names: Iterable[str], severity: Severity, why: str) -> dict[str, Sign]:
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(layer_of(name), []).append(name)
    return {
        layer: Sign(severity, f"{', '.join(sorted(own))}: {why}", {"parameters": len(own), "why": why})
        for layer, own in grouped.items()
    }


@dataclass(frozen=True, kw_only=True)
class NoOptimizerStep(Condition):
    """Backward passes happen, but no optimizer step was ever seen.

    Settings:
        backwards: backward passes to wait for, because gradients may be accumulated; at the end of a run one is enough.
    """

    cite = _TRAINCHECK
    explanation = "Gradients are computed and never used: optimizer.step() is not called, or not through torch.optim."
    persistence: int = 1
    backwards: float = limit("no-optimizer-step", "backwards", unit="backward passes")

    def clock(self, history: History, facts: Facts) -> int:
        return facts.backwards

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        enough = facts.backwards >= self.backwards or (facts.ended and facts.backwards > 0)
        if facts.steps or facts.skipped_steps or not enough:
            return {}
        text = f"{facts.backwards} backward passes and not one optimizer step"
        return {NETWORK: Sign("warning", text, {"backwards": facts.backwards})}
