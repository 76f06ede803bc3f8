"""Layers between trained layers that are frozen or cut off from the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.snapshot import layer_of
from homeostat.diagnosis.condition import SYMPTOMS, Condition, Sign
from homeostat.diagnosis.facts import Facts, FrozenFacts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.sources import TRAINCHECK
from homeostat.diagnosis.thresholds import limit


@dataclass(frozen=True, kw_only=True)
class FrozenByAccident(Condition):
    """Layers inside the trained part of a network that do not train, and the place where their gradient ends.

    Either their parameters need no gradient, while layers before and behind them are trained. Or they are in an
    optimizer, but the graph is cut between them and a trained layer behind them (`detach()`, `.data`, `no_grad()`).
    `untrained-parameters` only lists parameters that need a gradient and never change; it follows from a cut.

    A trunk that is frozen as a whole has no trained layer before it and is not found. Frozen layers are info if several
    of them hold most of the parameters (adapters), or if they have only scales and shifts (frozen batch norms). Layers
    in evaluation mode that are cut off are info too.

    Settings:
        steps: optimizer steps before it is judged, because parts may be trained in turn.
        readings: smallest number of losses whose graph was read.
        share: share of frozen parameters above which freezing is taken to be intended.
    """

    cite = TRAINCHECK
    explains = ("untrained-parameters", *SYMPTOMS)
    explanation = (
        "Layers between trained layers keep their initial values. Either they need no gradient, or a detach(), a .data "
        "or a no_grad() ends the gradient behind them."
    )
    remedies = (
        Remedy("remove the detach(), the .data or the no_grad() between these layers and the next"),
        Remedy("call requires_grad_(True) on these layers, and select what to freeze by its exact name"),
        Remedy("if this is meant, call requires_grad_(False) and eval() on the frozen part"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "a layer that needs no gradient": Facts(
            steps=500, frozen=FrozenFacts(readings=8, inside={"fc.2": 1056}, matrices=("fc.2",), share=0.2)
        ),
        "a cut behind a layer": Facts(
            steps=500,
            no_gradient=("fc1.weight", "fc1.bias"),
            frozen=FrozenFacts(readings=8, cut=("fc.1",), cut_before="fc.2", cut_how="detach"),
        ),
    }
    persistence: int = 1
    steps: float = limit(50, "policy: a part trained only now and then has had its turn by then", unit="steps")
    readings: float = limit(3, "policy: one odd batch is no mistake of the script", unit="readings")
    share: float = limit(0.5, "policy: adapters leave most of the parameters frozen", high=1.0, unit="of parameters")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        if facts.steps < self.steps and not facts.ended:
            return {}
        return self._frozen(facts.frozen) | self._cut(facts)

    def _frozen(self, frozen: FrozenFacts) -> dict[str, Sign]:
        if frozen.readings < self.readings:
            return {}
        found = dict[str, Sign]()
        meant = max(len(frozen.inside), frozen.layers) > 1 and frozen.share >= self.share
        for layer, parameters in frozen.inside.items():
            grave = layer in frozen.matrices and not meant
            text = f"the {parameters} parameters of {layer} need no gradient; layers before and behind it are trained"
            numbers = {"parameters": parameters, "frozen_share": round(frozen.share, 3)}
            found[layer] = Sign("warning" if grave else "info", text, numbers)
        return found

    def _cut(self, facts: Facts) -> dict[str, Sign]:
        frozen = facts.frozen
        still = {layer_of(name) for name in facts.no_gradient}
        how = "it runs under no_grad()" if frozen.cut_how == "no_grad" else "detach() or .data is applied behind it"
        text = f"no gradient arrives, although an optimizer holds its parameters: {how}, before {frozen.cut_before}"
        numbers = {"before": frozen.cut_before, "how": frozen.cut_how}
        severity = "info" if frozen.cut_meant else "warning"
        return {layer: Sign(severity, f"{layer}: {text}", numbers) for layer in frozen.cut if layer in still}
