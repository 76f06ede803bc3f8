"""Remedies, and the prescriptions of findings.

A remedy has `--treat` texts of a treatment, the rungs, from mild to strong; the closed loop tries them in this order.
Each condition lists its `remedies`. The verdict of a remedy's study is read when a finding is made.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache

from homeostat.core.component import components
from homeostat.core.finding import Prescription

EARLIER_RULE = "by an earlier rule, not judged again"
"""Said with a verdict that was made when all expectations had to hold."""


@dataclass(frozen=True)
class Remedy:
    """A remedy for a condition.

    Args:
        do: what to do, in words.
        rungs: `--treat` texts from mild to strong; empty if only the user can do it.
        study: id of the study that supports it, or "".
    """

    do: str
    rungs: tuple[str, ...] = ()
    study: str = ""

    @property
    def treatment(self) -> str:
        """Name of the treatment, without settings."""
        return self.rungs[0].partition(":")[0] if self.rungs else ""

    def prescription(self) -> Prescription:
        """The prescription with the mildest rung, and the current verdict of the study."""
        return Prescription(self.do, self.rungs[0] if self.rungs else "", self.study, verdict(self.study))


def remedies_for(condition: str) -> tuple[Remedy, ...]:
    """Every remedy for a registered condition, most promising first; empty for an unknown one."""
    found = components("condition").get(condition)
    return found.remedies if found else ()


def prescriptions_for(condition: str) -> tuple[Prescription, ...]:
    """The prescriptions of a finding."""
    return tuple(remedy.prescription() for remedy in remedies_for(condition))


@cache
def verdict(study: str) -> str:
    """The verdict of a study, "untested" if there is none; one of the earlier rule says so. Read once per process."""
    if not study:
        return "untested"
    # the catalogue reads verdict files; a diagnosis also works without them
    try:
        found = importlib.import_module("homeostat.catalogue").verdict_of(study)
    except (ImportError, AttributeError, KeyError):
        found = None
    if not found:
        return "untested"
    return found["verdict"] if "rule" in found else f"{found['verdict']} ({EARLIER_RULE})"
