"""The contract of a condition: a rule over vitals and their trends that names a fault and its layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from homeostat.core.component import Component, option
from homeostat.core.finding import SEVERITIES, Finding, Severity
from homeostat.diagnosis.example_histories import ExampleHistory
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.thresholds import Measured

SYMPTOMS = (
    "dormant-units",
    "saturated-units",
    "rank-collapse",
    "vanishing-gradients",
    "exploding-gradients",
    "stalled-learning",
    "oscillating-loss",
    "loss-of-plasticity",
    "edge-of-stability",
    "learning-rate-too-high",
    "learning-rate-too-low",
    "diverging-loss",
    "attention-entropy-collapse",
    "attention-logit-growth",
    "output-collapse",
)
"""Conditions that a mistake in the script can cause."""

Limits = Mapping[Severity, float]
"""Severity -> smallest value at which it applies."""


@dataclass(frozen=True)
class Sign:
    """A condition that holds in one layer at the newest reading.

    Args:
        severity: how bad.
        text: one sentence with the measured numbers.
        numbers: the same numbers by name.
    """

    severity: Severity
    text: str
    numbers: Mapping[str, float | int | str | None] = dataclasses.field(
        default_factory=dict[str, float | int | str | None]
    )

    @property
    def rank(self) -> int:
        """0 info, 1 warning, 2 critical."""
        return SEVERITIES.index(self.severity)


@dataclass(frozen=True, kw_only=True)
class Condition(Component, abstract=True):
    """A rule. `signs` and `judge` are pure functions of the history and the facts at the newest reading.

    Thresholds are knobs made by `limit` or `measured`, which state how they were set.

    Class attributes:
        reads: names of the vitals that it uses. It is evaluated at each new reading of the first one.
        outcome: name of the vital by which the closed loop judges a treatment; "" if it does not treat the condition.
        worse: direction in which `outcome` gets worse.
        explains: conditions that follow from this one. If both are found, this one is shown first.
        explanation: what the condition means, for people.
        remedies: what may help, most promising first.
        examples: name -> example history in which the condition must be found. The laws check it.
        faults: name -> example of facts in which the condition must be found.

    Settings:
        persistence: consecutive readings at which it must hold before it becomes a finding.
    """

    kind: ClassVar[str] = "condition"
    reads: ClassVar[tuple[str, ...]] = ()
    outcome: ClassVar[str] = ""
    worse: ClassVar[Literal["higher", "lower"]] = "higher"
    explains: ClassVar[tuple[str, ...]] = ()
    explanation: ClassVar[str] = ""
    remedies: ClassVar[tuple[Remedy, ...]] = ()
    examples: ClassVar[Mapping[str, ExampleHistory]] = {}
    faults: ClassVar[Mapping[str, Facts]] = {}
    persistence: int = option(3)

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(abstract=abstract, **kwargs)
        # the name of the class is known only here; `dataclass` reads the fields later
        for name, spec in list(vars(cls).items()):
            if isinstance(spec, Measured):
                setattr(cls, name, spec.field(cls.name, name))

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        """Layer -> sign, for the layers in which the condition holds now."""
        raise NotImplementedError

    def judge(self, history: History, facts: Facts) -> Finding | None:
        """The finding based on the newest reading alone, before persistence and hysteresis."""
        signs = self.signs(history, facts)
        return self.finding(signs, self.clock(history, facts)) if signs else None

    def clock(self, history: History, facts: Facts) -> int:
        """Step of the newest reading of the leading vital, or of the run if the condition reads no vital."""
        return history.clock(self.reads[:1]) if self.reads else facts.steps

    def layer_clock(self, history: History, layer: str, default: int) -> int:
        """The same for one layer, so that networks sampled at different steps do not share a count of readings."""
        latest = history.latest(self.reads[0], layer) if self.reads else None
        return latest[0] if latest else default

    def eased(self) -> Self:
        """The same rule with relaxed thresholds, below which a finding is resolved."""
        moved = {
            spec.name: getattr(self, spec.name) * spec.metadata["ease"]
            for spec in dataclasses.fields(self)
            if "ease" in spec.metadata
        }
        return dataclasses.replace(self, **moved) if moved else self

    def limits(self) -> Limits:
        """The thresholds that are named after a severity."""
        return {s: getattr(self, s) for s in SEVERITIES if hasattr(self, s)}

    def finding(self, signs: Mapping[str, Sign], since_step: int) -> Finding:
        """Combine the signs of the layers, worst layer first."""
        order = sorted(signs, key=lambda layer: -signs[layer].rank)
        worst = signs[order[0]]
        more = f" (and {len(order) - 1} more)" if len(order) > 1 else ""
        evidence: dict[str, Any] = {"text": worst.text + more, **worst.numbers}
        evidence["by_layer"] = {layer: dict(signs[layer].numbers) for layer in order}
        prescriptions = tuple(remedy.prescription() for remedy in self.remedies)
        return Finding(self.name, worst.severity, since_step, tuple(order), evidence, prescriptions)


@dataclass(frozen=True, kw_only=True)
class LayerCondition(Condition, abstract=True):
    """A condition that evaluates one vital in each layer separately.

    Class attributes:
        fewest: smallest number of readings of a layer that are not missing.
    """

    fewest: ClassVar[int] = 1

    def sign(self, layer: str, values: Array, facts: Facts) -> Sign | None:
        """The sign in one layer, or None.

        Args:
            values: readings of the layer that are not missing, oldest first.
        """
        raise NotImplementedError

    def harmless(self, layer: str, history: History, facts: Facts) -> bool:
        """Whether the condition is known to be harmless in this layer. It is then info at most."""
        return False

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        vital, found = self.reads[0], dict[str, Sign]()
        for layer in history.layers(vital):
            values = history.series(vital, layer)[1]
            if values.size >= self.fewest and (sign := self.sign(layer, values, facts)) is not None:
                harmless = self.harmless(layer, history, facts)
                found[layer] = dataclasses.replace(sign, severity="info") if harmless else sign
        return found


def graded(value: float, limits: Limits, worse: str = "higher") -> Severity | None:
    """The worst severity whose limit `value` has reached; None if it has reached none or is missing."""
    found: Severity | None = None
    for severity in SEVERITIES:
        if severity in limits and (value >= limits[severity] if worse == "higher" else value <= limits[severity]):
            found = severity
    return found
