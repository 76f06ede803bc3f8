"""The SQL statements that write a run record."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from homeostat.record.environment import birth_of, environment
from homeostat.record.json_values import dumps, legible

SERIES = "INSERT OR IGNORE INTO series (id, vital, layer) VALUES (?, ?, ?)"
VALUES = "INSERT OR REPLACE INTO vitals (series, step, value) VALUES (?, ?, ?)"
EVENT = "INSERT INTO finding_events (step, event, condition, severity, finding) VALUES (?, ?, ?, ?, ?)"
JOURNAL = (
    "INSERT INTO journal (step, component, action, place, why, before, after, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
BOUNDARY = "INSERT INTO boundaries (step, label) VALUES (?, ?)"
CADENCE = "INSERT INTO cadences (step, vital, every) VALUES (?, ?, ?)"
NOT_MEASURED = "INSERT INTO not_measured (what, why) VALUES (?, ?)"
FACT = "INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)"
STATEMENTS = (SERIES, VALUES, EVENT, JOURNAL, BOUNDARY, CADENCE, NOT_MEASURED, FACT)
PROGRESS = "UPDATE run SET steps = ?, wall_seconds = ?, overhead = ?, updated_utc = ?"
AGAIN = "UPDATE run SET status = 'running', ended_utc = NULL, host = ?, pid = ?, birth = ?, updated_utc = ?"
LATER = (
    *(
        f"DELETE FROM {table} WHERE step > ?"
        for table in ("vitals", "finding_events", "journal", "boundaries", "cadences")
    ),
    "UPDATE run SET steps = min(steps, ?)",
)
"""Delete everything after a step."""


def now_utc() -> str:
    """The current time in the format of records: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def first_row(run: str, script: str, command: list[str], seed: int | None, settings: Mapping[str, Any]):
    row = {
        "run": run,
        "script": legible(str(script)),
        "command": dumps(command),
        "cwd": legible(os.getcwd()),
        "seed": seed,
        "settings": dumps(settings),
        "environment": dumps(environment()),
        "started_utc": now_utc(),
        "updated_utc": now_utc(),
        "status": "running",
        "host": platform.node(),
        "pid": os.getpid(),
        "birth": birth_of(os.getpid()),
    }
    return f"INSERT INTO run ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values())
