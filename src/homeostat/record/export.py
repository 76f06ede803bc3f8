"""A run record as JSON, as written by `--json FILE`. The schema is in schema.json."""

from __future__ import annotations

import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

from homeostat.core.atomic_file import reason, write_text
from homeostat.core.errors import RecordError
from homeostat.core.signals import pass_on
from homeostat.record.json_values import plain
from homeostat.record.ranks import other_ranks
from homeostat.record.reader import Points, RunReader
from homeostat.record.schema import RUN_FACTS

JSON_VERSION = 1


def to_json(reader: RunReader) -> dict[str, Any]:
    """The whole record as strict JSON values: a consistent snapshot, also while the run goes on.

    A vital that was due and could not be measured is null. JSON has no infinite numbers: they are null too, and listed
    under "infinite" as [step, "inf"] or [step, "-inf"].
    """
    with reader.snapshot():
        meta, vitals, failed = reader.meta, reader.vitals(), reader.failures()
        return {
            "schema_version": JSON_VERSION,
            "run": meta.run,
            "script": meta.script,
            "status": meta.status,
            "steps": meta.steps,
            "wall_seconds": meta.wall_seconds,
            "overhead": meta.overhead,
            "vitals": {name: {at: _finite(line) for at, line in layers.items()} for name, layers in vitals.items()},
            "infinite": _infinite(vitals),
            "diagnosed": not failed,
            "failed": [f._asdict() for f in failed],
            "findings": [plain(finding.to_json()) for finding in reader.findings()],
            "finding_events": [
                {"step": e.step, "event": e.event, "finding": plain(e.finding.to_json())}
                for e in reader.finding_events()
            ],
            "journal": [plain(entry.to_json()) for entry in reader.journal()],
            "boundaries": [b._asdict() for b in reader.boundaries()],
            "cadences": [c._asdict() for c in reader.cadences()],
            "not_measured": [n._asdict() for n in reader.not_measured()],
            "ranks": [plain(rank.to_json()) for rank in other_ranks(reader)],
            "facts": reader.facts() | {name: plain(getattr(meta, name)) for name in RUN_FACTS},
        }


def write_json(reader: RunReader, path: str | Path) -> Path:
    """Write `to_json(reader)` to a file, whole or not at all.

    Raises:
        RecordError: the file cannot be written.
    """
    return write_whole(path, json.dumps(to_json(reader), ensure_ascii=False, allow_nan=False, indent=1) + "\n")


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `to_json`."""
    return json.loads((resources.files("homeostat.record") / "schema.json").read_text(encoding="utf-8"))


def write_whole(path: str | Path, text: str) -> Path:
    """Write a text file whole or not at all.

    Raises:
        RecordError: the folder or the file cannot be written.
    """
    path = Path(path)
    try:
        write_text(path, text)
    except OSError as error:
        pass_on(error)
        raise RecordError(f"cannot write {path} ({reason(error)}): choose a place you can write to") from error
    return path


def _finite(line: Points) -> list[list[Any]]:
    return [[step, value if value is None or math.isfinite(value) else None] for step, value in line]


def _infinite(vitals: dict[str, dict[str, Points]]) -> dict[str, dict[str, list[list[Any]]]]:
    found: dict[str, dict[str, list[list[Any]]]] = {}
    for name, layers in vitals.items():
        for layer, line in layers.items():
            if rest := [[step, str(value)] for step, value in line if value is not None and math.isinf(value)]:
                found.setdefault(name, {})[layer] = rest
    return found
