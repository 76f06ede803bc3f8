"""The run record: one SQLite file per run, written during the run, from which all output about a run is made."""

from homeostat.record.export import json_schema, to_json, write_json
from homeostat.record.files import DEFAULT_FOLDER
from homeostat.record.lookup import Runs, list_runs, open_record
from homeostat.record.ranks import OtherRank, RankDifference, other_ranks
from homeostat.record.reader import Boundary, FindingEvent, NotMeasured, RecordedCadence, RunMeta, RunReader
from homeostat.record.writer import RunRecord

__all__ = [
    "DEFAULT_FOLDER",
    "Boundary",
    "FindingEvent",
    "NotMeasured",
    "OtherRank",
    "RankDifference",
    "RecordedCadence",
    "RunMeta",
    "RunReader",
    "RunRecord",
    "Runs",
    "json_schema",
    "list_runs",
    "open_record",
    "other_ranks",
    "to_json",
    "write_json",
]
