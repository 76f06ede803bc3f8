"""A run record as flat tables, for CSV, Parquet and data frames. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from homeostat.core.finding import Finding
from homeostat.diagnosis.history import LOGGED, STEP_SERIES
from homeostat.record.json_values import dumps
from homeostat.record.reader import Points, RunReader
from homeostat.report.network import of_layers

Rows = list[tuple[Any, ...]]
Vitals = Mapping[str, Mapping[str, Points]]
WHOLE = "network"
"""The layer of a value of a whole network."""


@dataclass(frozen=True)
class RunTable:
    """A table of a run.

    Args:
        name: "vitals", "metrics", "knobs", "findings", "finding_events", "journal" or "boundaries".
        columns: name -> int, float or str. A float is None where the value is missing; lists and objects are JSON text.
        rows: tuples in the order of the columns.
    """

    name: str
    columns: Mapping[str, type]
    rows: Rows


def run_tables(reader: RunReader) -> dict[str, RunTable]:
    """All tables of a record by name: a consistent snapshot, also while the run goes on."""
    with reader.snapshot():
        vitals = reader.vitals()
        rows = {name: read(reader, vitals) for name, (_, read) in _TABLES.items()}
    return {name: RunTable(name, columns, rows[name]) for name, (columns, _) in _TABLES.items()}


def network_labels(vitals: Iterable[str], layers: Mapping[str, Iterable[str]]) -> list[str]:
    """Labels of the networks, longest first; none if the run has one network.

    The series of every step are those of whole networks, so that their layers are `network` or `LABEL.network`.
    """
    whole = {layer for vital in vitals for layer in layers.get(vital, ())}
    return sorted((layer.removesuffix(f".{WHOLE}") for layer in whole if layer != WHOLE), key=len, reverse=True)


def _split(labels: list[str], layer: str) -> tuple[str, str]:
    """The label of a network, and the layer in it."""
    for label in labels:
        if layer.startswith(f"{label}."):
            return label, layer[len(label) + 1 :]
    return "", layer


def _points(vitals: Vitals, wanted: Callable[[str], bool]) -> Iterator[tuple[int, str, str, str, float | None]]:
    """(step, network, vital, layer, value) of the wanted series."""
    labels = network_labels(STEP_SERIES, vitals)
    for vital, layers in vitals.items():
        if wanted(vital):
            for layer, line in layers.items():
                network, place = _split(labels, layer)
                yield from ((step, network, vital, place, value) for step, value in line)


def _vitals(reader: RunReader, vitals: Vitals) -> Rows:
    return list(_points(vitals, of_layers))


def _metrics(reader: RunReader, vitals: Vitals) -> Rows:
    logged = _points(vitals, lambda vital: vital.startswith(LOGGED))
    return [(step, vital.removeprefix(LOGGED), value) for step, _, vital, _, value in logged]


def _knobs(reader: RunReader, vitals: Vitals) -> Rows:
    turned = _points(vitals, lambda vital: not of_layers(vital) and not vital.startswith(LOGGED))
    return [(step, network, knob, value) for step, network, _, knob, value in turned]


def _finding(finding: Finding) -> tuple[Any, ...]:
    data = finding.to_json()
    text = str(data["evidence"].get("text", ""))
    details = (dumps(data[name]) for name in ("layers", "evidence", "prescriptions"))
    return finding.condition, finding.severity, finding.since_step, finding.follows, text, *details


def _findings(reader: RunReader, vitals: Vitals) -> Rows:
    return [_finding(finding) for finding in reader.findings()]


def _finding_events(reader: RunReader, vitals: Vitals) -> Rows:
    return [(event.step, event.event, *_finding(event.finding)) for event in reader.finding_events()]


def _journal(reader: RunReader, vitals: Vitals) -> Rows:
    return [
        (e.step, e.component, e.action, e.where, e.why, e.before, e.after, dumps(e.detail)) for e in reader.journal()
    ]


def _boundaries(reader: RunReader, vitals: Vitals) -> Rows:
    return [tuple(boundary) for boundary in reader.boundaries()]


_FINDING = {
    "condition": str,
    "severity": str,
    "since_step": int,
    "follows": str,
    "text": str,
    "layers": str,
    "evidence": str,
    "prescriptions": str,
}
_TABLES: dict[str, tuple[dict[str, type], Callable[[RunReader, Vitals], Rows]]] = {
    "vitals": ({"step": int, "network": str, "vital": str, "layer": str, "value": float}, _vitals),
    "metrics": ({"step": int, "name": str, "value": float}, _metrics),
    "knobs": ({"step": int, "network": str, "knob": str, "value": float}, _knobs),
    "findings": (_FINDING, _findings),
    "finding_events": ({"step": int, "event": str, **_FINDING}, _finding_events),
    "journal": (
        {
            "step": int,
            "component": str,
            "action": str,
            "where": str,
            "why": str,
            "before": float,
            "after": float,
            "detail": str,
        },
        _journal,
    ),
    "boundaries": ({"step": int, "label": str}, _boundaries),
}
TABLES = tuple(_TABLES)
"""Names of the tables."""
