"""The record keeps what it was given, through a kill, a fork, a full disk and a foreign file."""

import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from homeostat.core.errors import BadSetting, RecordError
from homeostat.core.finding import Finding, JournalEntry, Prescription
from homeostat.record import RunRecord, json_schema, list_runs, open_record, to_json, write_json
from homeostat.record.schema import ABOUT

DORMANT = Finding(
    "dormant-units", "warning", 40, ("fc1",), {"text": "0.3 of fc1 is dormant", "value": 0.3},
    (Prescription("reset them", "redo", "redo-digits", "holds"), Prescription("lower the learning rate")),
)  # fmt: skip


def filled(folder, **kwargs):
    record = RunRecord.create(folder, script="some dir/my train.py", seed=3, settings={"budget": 0.02}, **kwargs)
    record.add_vitals([(10, "loss", "network", 2.5), (10, "dormant-units", "fc1", 0.25)])
    record.add_vitals([(20, "loss", "network", math.nan), (20, "dormant-units", "fc1", None)])
    record.add_vitals([(30, "loss", "network", math.inf), (30, "dormant-units", "fc1", 0.5)])
    record.set_findings(40, [DORMANT])
    record.add_journal(JournalEntry(50, "redo", "edit", "fc1", "dormant", 0.5, math.nan, {"units": [1, 2]}))
    record.add_boundary(25, "task 2")
    record.add_not_measured("sharpness", "no probe was given")
    record.add_not_measured("sharpness", "no probe was given")
    record.set_cadence(0, "loss", 10)
    record.set_cadence(20, "loss", 10)
    record.set_cadence(30, "loss", 20)
    record.set_facts(networks=["network"])
    record.progress(60, 1.5, 0.01)
    return record


def everything(reader):
    return (reader.vitals(), reader.findings(), reader.finding_events(), reader.journal(), reader.boundaries(),
            reader.not_measured(), reader.cadences(), reader.facts(), to_json(reader))  # fmt: skip


@pytest.mark.parametrize("in_memory", [False, True])
def test_keeps_what_it_was_given(tmp_path, in_memory):
    record = filled(None if in_memory else tmp_path / "new" / "folder")
    assert record.vitals() == {
        "loss": {"network": [(10, 2.5), (20, None), (30, math.inf)]},
        "dormant-units": {"fc1": [(10, 0.25), (20, None), (30, 0.5)]},
    }
    assert record.series("loss", "network") == [(10, 2.5), (20, None), (30, math.inf)]
    assert record.series("loss", "nowhere") == []
    assert record.findings() == [DORMANT]
    assert record.finding_events() == [(40, "appeared", DORMANT)]
    assert record.journal() == [JournalEntry(50, "redo", "edit", "fc1", "dormant", 0.5, None, {"units": [1, 2]})]
    assert record.boundaries() == [(25, "task 2")]
    assert record.not_measured() == [("sharpness", "no probe was given")]
    assert record.cadences() == [(0, "loss", 10), (30, "loss", 20)]
    assert (record.meta.steps, record.meta.wall_seconds, record.meta.overhead) == (60, 1.5, 0.01)
    assert record.meta.status == "running"
    record.close()
    record.close("failed")
    assert record.meta.status == "finished"
    assert record.vitals()["loss"]["network"][0] == (10, 2.5)


def test_a_reader_sees_the_same_while_it_is_written_and_after(tmp_path):
    record = filled(tmp_path)
    record.flush()
    live = open_record(record.run, tmp_path)
    assert live.meta.status == "running"
    assert everything(live) == everything(record)
    record.add_vitals([(60, "loss", "network", 0.5)])
    record.close("interrupted")
    assert live.series("loss", "network")[-1] == (60, 0.5)
    live.close()
    with open_record(record.path) as after:
        assert after.meta.status == "interrupted"
        assert everything(after) == everything(record)


def test_a_closed_record_is_one_file_readable_in_a_read_only_folder(tmp_path):
    record = filled(tmp_path)
    record.close()
    assert [p.name for p in tmp_path.iterdir()] == [record.path.name]
    record.path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        with open_record("last", tmp_path) as reader:
            assert reader.findings() == [DORMANT]
    finally:
        tmp_path.chmod(0o755)


def test_json_follows_its_schema_and_is_strict(tmp_path):
    record = filled(tmp_path)
    data = json.loads(write_json(record, tmp_path / "out" / "run.json").read_text(), parse_constant=pytest.fail)
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(data, json_schema())
    assert data == to_json(record)
    assert data["vitals"]["loss"]["network"] == [[10, 2.5], [20, None], [30, None]]
    assert data["infinite"] == {"loss": {"network": [[30, "inf"]]}}
    assert data["findings"] == [DORMANT.to_json()]
    assert data["journal"][0]["where"] == "fc1" and data["journal"][0]["after"] is None
    assert data["facts"]["seed"] == 3 and data["facts"]["networks"] == ["network"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["run.json"]


def test_the_schema_refuses_what_is_not_a_run():
    data = to_json(filled(None))
    for key in data:
        broken = {k: v for k, v in data.items() if k != key}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, json_schema())


def test_an_empty_record_exports(tmp_path):
    jsonschema.validate(to_json(RunRecord.create(None, script="x.py")), json_schema())


def test_the_file_explains_every_table_and_column(tmp_path):
    record = filled(tmp_path)
    record.close()
    db = sqlite3.connect(record.path)
    tables = [n for (n,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    about = dict(db.execute("SELECT name, what FROM about").fetchall())
    columns = [f"{t}.{c[1]}" for t in tables for c in db.execute(f"PRAGMA table_info({t})")]
    db.close()
    obvious = {"id", "step", "layer", "vital", "series", "name", "what", "value", "why", "label", "every", "condition",
               "severity"}  # fmt: skip
    assert about == ABOUT
    assert set(tables) <= set(about)
    assert {c for c in columns if c.split(".")[1] not in obvious} <= set(about)
    assert {a for a in about if "." in a} <= set(columns)


def test_environment_and_command_line_are_kept(tmp_path):
    meta = filled(tmp_path, command=["train.py", "--lr", "1"]).meta
    assert meta.command == ("train.py", "--lr", "1")
    assert meta.cwd == os.getcwd() and meta.seed == 3 and meta.settings == {"budget": 0.02}
    assert meta.environment["torch"] == torch.__version__ and meta.environment["numpy"] == np.__version__
    assert meta.environment["threads"] == torch.get_num_threads() and meta.environment["devices"][0]
    assert meta.run == meta.path.stem and meta.run.split("-", 2)[2].startswith("my-train-")


def test_ids_never_clash_and_the_seeds_of_the_script_are_left_alone(tmp_path):
    before = torch.get_rng_state(), random.getstate()
    records = [RunRecord.create(tmp_path, script="a.py") for _ in range(20)]
    assert len({r.run for r in records}) == 20
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    for record in records:
        record.close()
    with pytest.raises(RecordError, match=r"20 runs .* start or end with '2"):
        open_record("2", tmp_path)
    for name in (records[0].run, records[0].run[-5:]):
        with open_record(name, tmp_path) as reader:
            assert reader.run == records[0].run


def test_commits_at_most_once_a_second_whatever_the_wall_clock_does(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: pytest.fail("the wall clock must not be asked"))
    record = RunRecord.create(tmp_path, script="a.py")
    reader = open_record(record.path)
    record.add_vitals([(1, "loss", "network", 1.0)])
    record.progress(1, 0.1)
    assert reader.vitals() == {}
    now[0] += 1.1
    record.progress(2, 0.2)
    assert reader.series("loss", "network") == [(1, 1.0)]
    assert reader.meta.steps == 2
    record.add_vitals([(3, "loss", "network", 1.0)])
    record.set_findings(3, [DORMANT])
    assert reader.findings() == [DORMANT] and len(reader.series("loss", "network")) == 2
    record.close()
    reader.close()


def test_a_killed_run_loses_less_than_two_seconds_and_reads_as_unfinished(tmp_path):
    script = f"""
        import time
        from homeostat.record import RunRecord
        record = RunRecord.create({str(tmp_path)!r}, script="killed.py")
        start = time.monotonic()
        while True:
            at = time.monotonic() - start
            record.add_vitals([(int(at * 1000), "loss", "network", at)])
            record.progress(int(at * 1000), at)
            print(at, flush=True)
            time.sleep(0.01)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    last = next(float(line) for line in process.stdout if float(line) > 1.3)
    assert list_runs(tmp_path).runs[0].status == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (meta,) = list_runs(tmp_path)
    with open_record(meta.run, tmp_path) as reader:
        assert last - 2 < reader.series("loss", "network")[-1][1] <= last + 1
    assert meta.status == "unfinished" and meta.ended_utc is None


def test_a_forked_child_neither_writes_nor_harms_the_record(tmp_path):
    script = f"""
        import gc, os
        from homeostat.record import RunRecord, open_record
        record = RunRecord.create({str(tmp_path)!r}, script="forks.py")
        record.add_vitals([(1, "loss", "network", 1.0)])
        record.flush()
        record.add_boundary(1, "buffered")
        child = os.fork()
        if child == 0:
            record.add_vitals([(2, "loss", "network", 2.0)])
            record.flush(); record.close("failed")
            assert record.series("loss", "network") == [(1, 1.0)]
            del record; gc.collect()
            raise SystemExit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        record.add_vitals([(3, "loss", "network", 3.0)])
        record.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    with open_record("last", tmp_path) as reader:
        assert reader.series("loss", "network") == [(1, 1.0), (3, 3.0)]
        assert reader.boundaries() == [(1, "buffered")] and reader.meta.status == "finished"


def test_what_cannot_be_written_says_so_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"file is in the way|choose a folder"):
        RunRecord.create(tmp_path / "file" / "sub", script="a.py")
    with pytest.raises(RecordError, match="/proc"):
        RunRecord.create("/proc/homeostat", script="a.py")
    with pytest.raises(RecordError, match="choose a place you can write to"):
        write_json(RunRecord.create(None, script="a.py"), "/proc/homeostat.json")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_and_a_lock_keep_the_buffer_for_another_try(tmp_path):
    record = RunRecord.create(tmp_path, script="a.py")
    (pages,) = record._db.execute("PRAGMA page_count").fetchone()
    record._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    record.add_vitals([(i, "loss", "network", 1.0) for i in range(10_000)])
    with pytest.raises(RecordError, match=r"full.*free some space"):
        record.flush()
    record._db.execute("PRAGMA max_page_count = 100000")
    record._db.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(record.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RecordError, match=r"locked.*another program holds it"):
        record.flush()
    other.close()
    record.flush()
    assert len(record.series("loss", "network")) == 10_000
    record.close()


def test_foreign_damaged_newer_and_missing_files_are_refused_plainly(tmp_path):
    good = filled(tmp_path)
    good.close()
    (tmp_path / "a-text.sqlite").write_text("hello " * 500)
    (tmp_path / "b-empty.sqlite").write_bytes(b"")
    (tmp_path / "c-cut.sqlite").write_bytes(good.path.read_bytes()[:5000])
    sqlite3.connect(tmp_path / "d-other.sqlite").execute("CREATE TABLE t (x)").connection.close()
    newer = tmp_path / "e-newer.sqlite"
    newer.write_bytes(good.path.read_bytes())
    sqlite3.connect(newer).execute("PRAGMA user_version = 99").connection.close()
    expected = {"a": "damaged", "b": "not a run", "c": "damaged|malformed", "d": "not a run", "e": "newer .*upgrade"}
    for name, says in expected.items():
        with pytest.raises(RecordError, match=says):
            open_record(name, tmp_path).close()
    with pytest.raises(RecordError, match=r"no run 'zzz' .* newest there: e-newer"):
        open_record("zzz", tmp_path)
    with pytest.raises(RecordError, match="no folder"):
        open_record("zzz", tmp_path / "gone")
    with pytest.raises(RecordError, match="no run record at"):
        open_record(tmp_path / "gone.sqlite")
    runs = list_runs(tmp_path)
    assert [m.run for m in runs] == [good.run] and len(runs.unreadable) == 5


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    record = filled(tmp_path_factory.mktemp("whole"))
    record.close()
    return record.path, record.path.read_bytes()


@given(
    st.floats(0, 1) | st.just(1.0),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=40),
)
@settings(deadline=None, max_examples=80)
def test_bytes_flipped_or_cut_off_are_read_or_refused_never_worse(whole, kept, flips):
    path, good = whole
    broken = bytearray(good[: int(kept * len(good))])
    for at, byte in flips if broken else ():
        broken[int(at * len(broken))] = byte
    path.write_bytes(broken)
    try:
        with open_record(path) as reader:
            everything(reader)
    except RecordError as error:
        assert len(str(error)) > 20
    list_runs(path.parent)


def test_a_run_goes_on_in_its_record_from_an_earlier_step(tmp_path):
    first = filled(tmp_path)
    first.progress(60, 9.0)
    first.close("failed")
    again = RunRecord.resume(tmp_path, first.run)
    assert again.run == first.run and again.meta.status == "running"
    assert again.supersede(25, []) == 35
    again.add_vitals([(30, "loss", "network", 7.0), (30, "new", "fc1", 1.0)])
    again.add_not_measured("sharpness", "no probe was given")
    again.close()
    with open_record(first.run, tmp_path) as reader:
        assert reader.series("loss", "network") == [(10, 2.5), (20, None), (30, 7.0)]
        assert reader.series("dormant-units", "fc1") == [(10, 0.25), (20, None)]
        assert reader.series("new", "fc1") == [(30, 1.0)]
        assert reader.findings() == [] and reader.finding_events() == [] and reader.journal() == []
        assert [b.step for b in reader.boundaries()] == [25] and len(reader.not_measured()) == 1
        assert reader.meta.status == "finished"


def test_a_record_is_taken_up_by_one_process_only_and_only_if_it_is_whole(tmp_path):
    first = filled(tmp_path)
    with pytest.raises(RecordError, match="still running in another process"):
        RunRecord.resume(tmp_path, first.run)
    first.close()
    assert RunRecord.resume(tmp_path, "20990101-000000-nothing-0000") is None
    first.path.write_bytes(first.path.read_bytes()[:5000])
    with pytest.raises(RecordError, match=r"damaged|malformed"):
        RunRecord.resume(tmp_path, first.run)


def test_a_record_appears_whole_and_leftovers_of_killed_processes_go(tmp_path, monkeypatch):
    (tmp_path / ".20200101-000000-a-0000.sqlite.999999999.part").write_bytes(b"half")
    seen = []
    link = os.link
    monkeypatch.setattr(os, "link", lambda a, b: (seen.append(open_record(a).meta.script), link(a, b)))
    record = RunRecord.create(tmp_path, script="a.py")
    assert seen == ["a.py"] and not list(tmp_path.glob(".*"))
    record.close()


def test_bad_names_are_refused():
    record = RunRecord.create(None, script="a.py")
    with pytest.raises(BadSetting, match="seed"):
        record.set_facts(seed=4)
    with pytest.raises(BadSetting, match="finished, failed, interrupted"):
        record.close("done")


@given(st.floats(allow_nan=True) | st.none(), st.integers(0, 2**40))
@settings(deadline=None, max_examples=50)
def test_every_value_survives(value, step):
    record = RunRecord.create(None, script="a.py")
    record.add_vitals([(step, "v", "l", value)])
    expected = None if value is None or math.isnan(value) else value
    assert record.series("v", "l") == [(step, expected)]
    jsonschema.validate(to_json(record), json_schema())
