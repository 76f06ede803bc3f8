"""Records of several processes that train together: the reader of the first one finds the others."""

import io
import json
import shutil

import jsonschema
import pytest
from rich.console import Console

from homeostat.core.finding import Finding
from homeostat.record import RunRecord, json_schema, list_runs, open_record, other_ranks, to_json
from homeostat.record.ranks import rank_facts, rank_folder, ranks_running
from homeostat.report.terminal import print_summary


def record_of(folder, rank, losses, *findings, size=3, launch="here", close="finished"):
    record = RunRecord.create(rank_folder(folder, rank), script="train.py")
    record.set_facts(**rank_facts(rank, size) | {"launch": launch})
    record.add_vitals((step, "loss", "network", value) for step, value in enumerate(losses, 1))
    record.set_findings(1, [Finding(name, "warning", 1, ("fc1",)) for name in findings])
    record.progress(len(losses), 1.0)
    if close:
        record.close(close)
    return record


def said(reader):
    console = Console(width=80, record=True, file=io.StringIO())
    print_summary(reader, console)
    return console.export_text()


def test_one_run_is_listed_and_ranks_that_differ_are_named(tmp_path):
    record_of(tmp_path, 1, [2.0, 1.0], "dead-units", launch="an earlier one")
    record_of(tmp_path, 1, [2.0, 1.0], "loss-spike", "dead-units")
    record_of(tmp_path, 2, [2.0, 4.0], "dead-units")
    first = record_of(tmp_path, 0, [2.0, 2.0], "dead-units")
    assert [run.run for run in list_runs(tmp_path)] == [first.run]
    with open_record("last", tmp_path) as reader:
        one, two = other_ranks(reader)
        assert (one.rank, one.only, one.lacks, one.status, one.steps) == (1, ("loss-spike",), (), "finished", 2)
        assert (two.only, two.differences[0][2:]) == ((), (2, 2.0, 4.0))
        assert "Rank 1: also loss-spike (warning) in fc1" in said(reader) and "Rank 2" not in said(reader)
        data = json.loads(json.dumps(to_json(reader)))
        jsonschema.validate(data, json_schema())
        assert [rank["rank"] for rank in data["ranks"]] == [1, 2]
    with open_record("last", tmp_path / "rank1") as reader:
        assert other_ranks(reader) == []


def test_a_rank_without_a_record_and_one_still_running(tmp_path):
    running = record_of(tmp_path, 1, [2.0], close="")
    first = record_of(tmp_path, 0, [2.0])
    running.flush()
    assert ranks_running(first)
    running.close("failed")
    assert not ranks_running(first)
    assert [one.status for one in other_ranks(first)] == ["failed", "missing"]
    assert "Rank 1: ended with an error, 1 steps" in said(first) and "Rank 2: no record" in said(first)


def test_ranks_that_agree_are_one_line_and_single_processes_none(tmp_path):
    for rank in (2, 1, 0):
        last = record_of(tmp_path, rank, [2.0])
    assert "3 ranks, with the same findings on each" in said(last)
    alone = RunRecord.create(tmp_path, script="alone.py")
    assert rank_facts(0, 1) == {} and to_json(alone)["ranks"] == [] and "ranks, with" not in said(alone)


@pytest.mark.parametrize("what", ["damaged", "linked", "facts"])
def test_records_of_ranks_from_elsewhere_are_left_out(what, tmp_path):
    other = record_of(tmp_path, 1, [2.0])
    first = record_of(tmp_path, 0, [2.0])
    folder = tmp_path / "rank1"
    if what == "damaged":
        other.path.write_bytes(b"SQLite format 3\0" + bytes(100))
    elif what == "linked":
        shutil.move(folder, tmp_path.parent / f"{tmp_path.name}-away")
        folder.symlink_to(tmp_path.parent / f"{tmp_path.name}-away")
    else:
        first = RunRecord.create(tmp_path, script="train.py")
        first.set_facts(rank=0, world_size="many", launch=["here"])
    assert other_ranks(first) == []  # what cannot be read, or is not of this launch, is no rank of this run
