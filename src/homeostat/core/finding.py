"""Findings: what is wrong, since when, the evidence, and what usually helps. The JSON form is stable."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")


@dataclass(frozen=True)
class Prescription:
    """What usually helps, and the evidence for it.

    Args:
        do: what to do, in words ("reset dormant units with continual backprop").
        treatment: text for `--treat`, or "" if the user has to make the change (a learning rate, a bug).
        study: id of the study that supports it, or "".
        verdict: the verdict of that study, or "untested" (from the literature only).
    """

    do: str
    treatment: str = ""
    study: str = ""
    verdict: str = "untested"


@dataclass(frozen=True)
class Finding:
    """A named condition of a run.

    Args:
        condition: e.g. "dormant-units".
        severity: "info", "warning" or "critical".
        since_step: first step at which the evidence held.
        layers: affected layers; empty for the whole network.
        evidence: numbers, and one sentence under "text".
        prescriptions: the most promising first.
        follows: the condition that explains this finding, or "" if no other finding does.
    """

    condition: str
    severity: Severity
    since_step: int
    layers: tuple[str, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])
    prescriptions: tuple[Prescription, ...] = ()
    follows: str = ""

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form."""
        data = asdict(self)
        data["layers"], data["prescriptions"] = list(data["layers"]), list(data["prescriptions"])
        return data


@dataclass(frozen=True)
class JournalEntry:
    """An action on the run.

    Args:
        step: completed optimizer steps.
        component: the component that acted.
        action: "attach", "edit", "dry run", "keep", "strengthen", "revert", "stop", "give up", "refuse", "error".
        where: layers, parameters or a knob.
        why: the reason, in words.
        before, after: value of the vital or knob before and after, if there is one.
        detail: further values, JSON-friendly.
    """

    step: int
    component: str
    action: str
    where: str = ""
    why: str = ""
    before: float | None = None
    after: float | None = None
    detail: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
