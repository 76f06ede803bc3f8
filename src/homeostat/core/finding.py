"""Findings: what is wrong, since when, on what evidence, and what usually helps. The JSON form is stable."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")


@dataclass(frozen=True)
class Prescription:
    """What usually helps, and on what evidence.

    Args:
        do: what to do, in words ("reset dormant units with continual backprop").
        treatment: `--treat` text that does it, or "" when it is the user's own change (a learning rate, a bug).
        study: id of the study it rests on, or "".
        verdict: that study's verdict here, or "untested" (said openly: from the literature only).
    """

    do: str
    treatment: str = ""
    study: str = ""
    verdict: str = "untested"


@dataclass(frozen=True)
class Finding:
    """One named condition of the run.

    Args:
        condition: e.g. "dormant-units".
        severity: "info", "warning" or "critical".
        since_step: first step at which the evidence held.
        layers: where; empty for the whole network.
        evidence: numbers and one sentence under "text".
        prescriptions: most promising first.
    """

    condition: str
    severity: Severity
    since_step: int
    layers: tuple[str, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict)
    prescriptions: tuple[Prescription, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form."""
        data = asdict(self)
        data["layers"], data["prescriptions"] = list(data["layers"]), list(data["prescriptions"])
        return data


@dataclass(frozen=True)
class JournalEntry:
    """One thing that was done to the run.

    Args:
        step: optimizer steps completed.
        component: who did it.
        action: "attach", "edit", "dry run", "keep", "strengthen", "revert", "stop", "give up", "refuse", "error".
        where: layers, parameters or a knob.
        why: the reason, in words.
        before, after: the vital or knob around it, where there is one.
        detail: anything else, JSON-friendly.
    """

    step: int
    component: str
    action: str
    where: str = ""
    why: str = ""
    before: float | None = None
    after: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
