"""What a page shows of a run apart from its measurements, read from a record in one snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from homeostat.core.finding import Finding, JournalEntry
from homeostat.record.ranks import OtherRank, other_ranks
from homeostat.record.reader import Boundary, Failure, FindingEvent, NotMeasured, RecordedCadence, RunMeta, RunReader


@dataclass(frozen=True)
class ShownRun:
    """A run as it is shown; the fields are what the methods of `RunReader` of the same names return.

    Args:
        last: the last step with something to show.
        layout: vital -> layer -> number of its series.
        ranks: the other ranks of the run.
    """

    meta: RunMeta
    findings: list[Finding]
    finding_events: list[FindingEvent]
    journal: list[JournalEntry]
    boundaries: list[Boundary]
    not_measured: list[NotMeasured]
    cadences: list[RecordedCadence]
    facts: dict[str, Any] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    layout: dict[str, dict[str, int]] = field(default_factory=dict)
    last: int = 1
    ranks: list[OtherRank] = field(default_factory=list)

    @classmethod
    def read(cls, reader: RunReader) -> ShownRun:
        """Read a record; call it inside `reader.snapshot()`."""
        meta, journal, boundaries = reader.meta, reader.journal(), reader.boundaries()
        return cls(
            meta,
            reader.findings(),
            reader.finding_events(),
            journal,
            boundaries,
            reader.not_measured(),
            reader.cadences(),
            reader.facts(),
            reader.failures(),
            reader.layout(),
            max([meta.steps, 1, *(e.step for e in journal), *(b.step for b in boundaries)]),
            other_ranks(reader),
        )

    @property
    def named(self) -> set[str]:
        """Layers that a finding names."""
        return {layer for finding in self.findings for layer in finding.layers}
