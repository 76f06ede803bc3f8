"""Records are private to their user, lie in their folder, and end no reader and no writer."""

import os
import re
import sqlite3
import stat
from contextlib import closing

import pytest
import torch

from homeostat.core.errors import RecordError
from homeostat.core.finding import JournalEntry
from homeostat.record import RunRecord, list_runs, open_record, opening, to_json


@pytest.fixture
def record(tmp_path):
    made = RunRecord.create(tmp_path / "runs", script="a.py")
    made.add_vitals([(step, "loss", "network", 1.0) for step in range(20_000)])
    made.close()
    return made


def test_records_are_for_their_user_alone(tmp_path):
    old = os.umask(0)
    try:
        record = RunRecord.create(tmp_path / "shared" / "runs", script="a.py")
        record.add_boundary(1)
        record.flush()
    finally:
        os.umask(old)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    assert {modes.pop("shared"), modes.pop("runs")} == {0o700}
    assert set(modes.values()) == {0o600} and {f"{record.path.name}-wal", record.path.name} <= set(modes)
    record.close()


def test_a_link_out_of_the_folder_is_not_followed(tmp_path, record):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "20260101-000000-link-0000.sqlite").symlink_to(record.path)
    copied = folder / "20260102-000000-copy-0000.sqlite"
    copied.write_bytes(record.path.read_bytes())
    (folder / f"{copied.name}-wal").symlink_to(tmp_path / "elsewhere")
    for run in ("20260101", "20260102"):
        with pytest.raises(RecordError, match="a link out of its folder"):
            open_record(run, folder)
    assert len(list_runs(folder).unreadable) == 2 and not len(list_runs(folder))
    with pytest.raises(RecordError, match="a link out of its folder"):
        RunRecord.resume(folder, copied.stem)
    assert RunRecord.resume(folder, f"../runs/{record.run}") is None and not (tmp_path / "elsewhere").exists()
    with open_record(folder / "20260101-000000-link-0000.sqlite") as reader:  # a path that the user gave
        assert reader.run == record.run


def test_a_trigger_does_not_run_when_a_record_is_continued(tmp_path, record):
    with closing(sqlite3.connect(record.path)) as db:
        db.execute("CREATE TRIGGER t AFTER UPDATE ON run BEGIN DELETE FROM vitals; END")
    with pytest.raises(RecordError, match="it has a trigger 't'"):
        RunRecord.resume(record.path.parent, record.run)


def test_a_read_that_takes_too_long_ends(record, monkeypatch):
    with open_record(record.path) as reader:
        assert len(reader.series("loss", "network")) == 20_000
        monkeypatch.setattr(opening, "READ_SECONDS", -1.0)
        with pytest.raises(RecordError, match="longer than -1 s"):
            reader.vitals()


@pytest.mark.parametrize("name", ["x" * 5000, "\0", "\ud800", "a\nb"])
def test_impossible_names_are_refused_plainly(tmp_path, record, name):
    with pytest.raises(RecordError, match="no run"):
        open_record(name, record.path.parent)


def test_odd_text_of_the_script_is_kept_as_far_as_it_can_be(tmp_path):
    odd, escaped = "fc\udcff\x1b[2J", "fc\\udcff\\x1b[2J"
    record = RunRecord.create(tmp_path, script=f"{odd}.py", command=[odd], settings={odd: odd, "n": 10**400})
    record.add_vitals([(step, "loss", odd, 1.0) for step in (1, 2)])
    nested = torch.ones(1).tolist()
    for _ in range(5000):
        nested = [nested]
    record.add_journal(JournalEntry(1, odd, "edit", odd, odd, detail={odd: nested}))
    record.add_not_measured(odd, odd)
    record.add_boundary(1, odd)
    record.set_facts(**{odd: nested})
    record.close()
    again = RunRecord.resume(tmp_path, record.run)
    again.add_vitals([(3, "loss", odd, 1.0)])
    again.close()
    with open_record(record.path) as reader:
        assert reader.vitals() == {"loss": {escaped: [(1, 1.0), (2, 1.0), (3, 1.0)]}}
        assert reader.meta.script == f"{escaped}.py" and reader.journal()[0].where == escaped
        assert re.search("nested too deeply", str(to_json(reader)))
