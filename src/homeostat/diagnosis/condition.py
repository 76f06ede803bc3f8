"""The contract of a condition: a rule over vitals and their trends that names what is wrong, and where."""

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
"""Names of conditions that a mistake in the script can bring about."""

Limits = Mapping[Severity, float]
"""Severity -> the value from which on it holds."""


@dataclass(frozen=True)
class Sign:
    """That a condition shows in one layer at the newest reading.

    Args:
        severity: how bad.
        text: one sentence with the numbers in it.
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
    """A rule. `signs` and `judge` are pure functions of the history and the facts, at the newest reading.

    Thresholds are knobs made by `limit` or `measured`, and say how they were set.

    Class attributes:
        reads: names of the vitals it looks at; a new reading of the first is an occasion to judge.
        outcome: name of the vital by which the closed loop judges a treatment; "" if it does not treat the condition.
        worse: direction in which `outcome` gets worse.
        explains: names of conditions that follow from this one; where both are found, this one comes first.
        explanation: what the condition means, for people.
        remedies: what may help, most promising first.
        examples: name -> example history in which the condition must be found. The laws check it.
        faults: name -> example of facts in which the condition must be found.

    Settings:
        persistence: consecutive readings on which it must hold before it becomes a finding.
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
        # the class knows its own name only now, and `dataclass` reads the fields after this
        for name, spec in list(vars(cls).items()):
            if isinstance(spec, Measured):
                setattr(cls, name, spec.field(cls.name, name))

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        """Layer -> sign, for the layers in which the condition shows now."""
        raise NotImplementedError

    def judge(self, history: History, facts: Facts) -> Finding | None:
        """The finding that the newest reading alone supports, before persistence and hysteresis."""
        signs = self.signs(history, facts)
        return self.finding(signs, self.clock(history, facts)) if signs else None

    def clock(self, history: History, facts: Facts) -> int:
        """Step of the newest reading of the leading vital; a condition that reads none goes by the steps."""
        return history.clock(self.reads[:1]) if self.reads else facts.steps

    def layer_clock(self, history: History, layer: str, default: int) -> int:
        """The same for one layer, so that networks sampled at different steps do not count each other's readings."""
        latest = history.latest(self.reads[0], layer) if self.reads else None
        return latest[0] if latest else default

    def eased(self) -> Self:
        """The same rule with every threshold moved to where the network is clearly well again."""
        moved = {
            spec.name: getattr(self, spec.name) * spec.metadata["ease"]
            for spec in dataclasses.fields(self)
            if "ease" in spec.metadata
        }
        return dataclasses.replace(self, **moved) if moved else self

    def limits(self) -> Limits:
        """The thresholds named after a severity."""
        return {s: getattr(self, s) for s in SEVERITIES if hasattr(self, s)}

    def finding(self, signs: Mapping[str, Sign], since_step: int) -> Finding:
        """Put the signs of the layers together, worst layer first."""
        order = sorted(signs, key=lambda layer: -signs[layer].rank)
        worst = signs[order[0]]
        more = f" (and {len(order) - 1} more)" if len(order) > 1 else ""
        evidence: dict[str, Any] = {"text": worst.text + more, **worst.numbers}
        evidence["by_layer"] = {layer: dict(signs[layer].numbers) for layer in order}
        prescriptions = tuple(remedy.prescription() for remedy in self.remedies)
        return Finding(self.name, worst.severity, since_step, tuple(order), evidence, prescriptions)


@dataclass(frozen=True, kw_only=True)
class LayerCondition(Condition, abstract=True):
    """A condition that judges one vital, each layer by itself.

    Class attributes:
        fewest: readings of a layer that are not missing before it is judged.
    """

    fewest: ClassVar[int] = 1

    def sign(self, layer: str, values: Array, facts: Facts) -> Sign | None:
        """The sign in one layer, from its readings that are not missing, oldest first; None when it is well."""
        raise NotImplementedError

    def harmless(self, layer: str, history: History, facts: Facts) -> bool:
        """Whether the run shows that the condition does no harm in this layer; then it is info at most."""
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
    """The worst severity whose limit `value` has reached, None when it has reached none (or is missing)."""
    found: Severity | None = None
    for severity in SEVERITIES:
        if severity in limits and (value >= limits[severity] if worse == "higher" else value <= limits[severity]):
            found = severity
    return found
