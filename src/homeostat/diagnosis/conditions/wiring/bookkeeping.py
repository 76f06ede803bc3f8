"""Parameters that are not trained, and runs without optimizer steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.finding import Severity
from homeostat.core.snapshot import layer_of
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import SYMPTOMS, Condition, Sign
from homeostat.diagnosis.facts import Facts, OptimizerFacts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.loss_facts import ClearingFacts, LossFacts
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.sources import TRAINCHECK
from homeostat.diagnosis.thresholds import limit


@dataclass(frozen=True, kw_only=True)
class UntrainedParameters(Condition):
    """Parameters that require a gradient but never change: no optimizer holds them, or their gradient is always None.

    A parameter that receives gradients and is in no optimizer is a warning. One that receives none may belong to a
    target network or an averaged copy, and is info. The reason why parameters in an optimizer have no gradient is not
    part of this condition; `frozen-by-accident` names it if the graph ends between layers.

    A loss that depends on parameters of a network without optimizer is a warning where two optimizers hold the same
    parameters: one of them was meant for it.

    Settings:
        steps: optimizer steps before it is judged, because a head may first be used later.
    """

    cite = TRAINCHECK
    explanation = "These parameters keep their initial values: whatever depends on them is random features."
    remedies = (
        Remedy("pass them to the optimizer (build it after the last layer), or set requires_grad_(False)"),
        Remedy("keep layers in nn.ModuleList or nn.ModuleDict instead of a plain list or dictionary"),
        Remedy("look for a detach(), a no_grad() or a branch of forward that is never taken"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "parameters without optimizer": Facts(steps=1200, unoptimized=("fc2.weight",), no_gradient=("fc1.bias",)),
    }
    persistence: int = 1
    steps: float = limit(50, "policy: a head used only now and then has had its turn by then", unit="steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        if facts.steps < self.steps and not facts.ended:
            return {}
        signs = _by_layer(facts.idle, "info", "no optimizer holds it and it receives no gradient")
        unseen = facts.no_gradient if facts.steps else ()
        meant = set(facts.frozen.cut) if facts.frozen.cut_meant else set[str]()
        without = "an optimizer holds it, but its gradient was always None"
        signs |= _by_layer([name for name in unseen if layer_of(name) not in meant], "warning", without)
        signs |= _by_layer([name for name in unseen if layer_of(name) in meant], "info", without)
        hidden = "it is in a plain list or dictionary, where parameters() does not find it, and nothing trains it"
        signs |= _by_layer(facts.loss.unheld, "warning", hidden)
        if strangers := facts.loss.strangers:
            why = (
                f"two optimizers hold the same parameters, and {', '.join(sorted(strangers))} in the loss never change"
            )
            signs[NETWORK] = Sign("warning", why, {"parameters": len(strangers), "why": why})
        signs |= _by_layer(facts.unoptimized, "warning", "it receives gradients, but no optimizer holds it")
        if facts.outside.stale:
            what = ", ".join(facts.outside.stale)
            why = f"{what} have no gradient and are in no module: it was built before the layers were replaced"
            signs[NETWORK] = Sign("warning", why, {"why": why})
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
class OptimizerRebuilt(Condition):
    """A new optimizer takes the place of the last one again and again: momentum and moments start anew.

    Optimizers without such a state are not judged.

    Settings:
        count: how often.
        share: and in this part of the steps.
    """

    cite = TRAINCHECK
    explanation = (
        "The optimizer is built anew within the loop. Adam without its moments moves every weight by the learning rate "
        "in each step, whatever the size of its gradient; momentum never builds up."
    )
    remedies = (Remedy("build the optimizer once, before the loop, and set a learning rate in its param_groups"),)
    faults: ClassVar[Mapping[str, Facts]] = {
        "an optimizer in every step": Facts(steps=500, rebuilt=499, optimizers=(OptimizerFacts("Adam", 1e-3),)),
    }
    persistence: int = 1
    count: float = limit(20, "policy: phases and tasks of a run are fewer", unit="optimizers")
    share: float = limit(0.1, "policy: fewer than ten steps do not fill the moments", high=1.0, unit="of the steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        plain = all(o.name == "SGD" and not o.momentum for o in facts.optimizers)
        if plain or facts.rebuilt < self.count or facts.rebuilt < self.share * facts.steps:
            return {}
        text = f"{facts.rebuilt} of {facts.steps} steps were the first of a new optimizer"
        return {NETWORK: Sign("warning", text, {"rebuilt": facts.rebuilt, "steps": facts.steps})}


@dataclass(frozen=True, kw_only=True)
class NoOptimizerStep(Condition):
    """There are backward passes but no optimizer step, and the parameters never change. Or there are many backward
    passes a step, and their gradients are cleared before the optimizer has used them.

    Settings:
        backwards: backward passes before it is judged, because gradients may be accumulated; one at the end of a run.
        lost: backward passes of one step whose gradients are cleared, median of the steps.
    """

    cite = TRAINCHECK
    explains = SYMPTOMS
    explanation = "Gradients are computed and never used: optimizer.step() is not called, or not through torch.optim."
    remedies = (Remedy("call optimizer.step() after every backward(), inside the loop over the batches"),)
    faults: ClassVar[Mapping[str, Facts]] = {
        "no optimizer step": Facts(steps=0, backwards=100_000, ended=True),
        "a step once an epoch": Facts(
            steps=30, backwards=3000, loss=LossFacts(readings=30, clearing=ClearingFacts(lost=64))
        ),
    }
    persistence: int = 1
    backwards: float = limit(256, "policy: more micro-batches than anyone accumulates over", unit="backward passes")
    lost: float = limit(16, "policy: more steps than an attack for adversarial training has", unit="backward passes")

    def clock(self, history: History, facts: Facts) -> int:
        return facts.backwards

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        if facts.loss.clearing.lost >= self.lost and facts.loss.readings >= 3:
            text = f"{facts.backwards} backward passes and {facts.steps} optimizer steps; the gradients of most passes"
            return {NETWORK: Sign("warning", f"{text} are cleared before a step", {"backwards": facts.backwards})}
        enough = facts.backwards >= self.backwards or (facts.ended and facts.backwards > 0)
        if (
            facts.steps
            or facts.skipped_steps
            or facts.scale.skipped
            or facts.outside.by_hand
            or facts.outside.optimizers
            or not enough
        ):
            return {}
        text = f"{facts.backwards} backward passes and no optimizer step"
        return {NETWORK: Sign("warning", text, {"backwards": facts.backwards})}
