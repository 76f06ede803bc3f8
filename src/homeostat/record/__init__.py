"""The run record: one SQLite file per run, written while the run goes on, read by everything that shows a run."""

from homeostat.record.export import json_schema, to_json, write_json
from homeostat.record.files import DEFAULT_FOLDER
from homeostat.record.reader import Boundary, Cadence, FindingEvent, NotMeasured, RunMeta, RunReader
from homeostat.record.store import Runs, list_runs, open_record
from homeostat.record.writer import RunRecord

__all__ = [
    "DEFAULT_FOLDER",
    "Boundary",
    "Cadence",
    "FindingEvent",
    "NotMeasured",
    "RunMeta",
    "RunReader",
    "RunRecord",
    "Runs",
    "json_schema",
    "list_runs",
    "open_record",
    "to_json",
    "write_json",
]
