"""A record whose file cannot be written goes on in memory, says so, and exports all that was measured."""

import json
import os
import subprocess
import sys

import pytest

from homeostat.core.errors import RecordError
from homeostat.record import RunRecord, open_record, to_json

CLOSES = """
import os, torch
model = torch.nn.Linear(4, 2); optimizer = torch.optim.SGD(model.parameters(), 0.1)
for step in range(40):
    optimizer.zero_grad(); model(torch.randn(8, 4)).sum().backward(); optimizer.step()
    if step == 20:
        os.closerange(3, 256)
        mine = [open(f"mine-{i}", "wb") for i in range(8)]
for file in mine:
    file.close()
print("done")
"""


@pytest.fixture
def record(tmp_path):
    made = RunRecord.create(tmp_path / "runs", script="a.py")
    made.add_vitals([(1, "loss", "network", 1.0)])
    made.progress(1, 0.1)
    made.flush()
    made.add_vitals([(2, "loss", "network", 2.0)])
    made.progress(2, 0.2)
    return made


def exported(record):
    data = to_json(record)
    return data["steps"], data["status"], data["vitals"]["loss"]["network"], data["facts"]["unwritten"]["why"]


def test_a_disk_that_is_full_at_the_end(record):
    limit = "PRAGMA max_page_count = 1"
    record._db.execute(limit)
    record.add_vitals([(step, "loss", "network", 3.0) for step in range(3, 9000)])
    with pytest.raises(RecordError, match="free some space"):
        record.close()
    steps, status, line, why = exported(record)
    assert (steps, status, len(line)) == (2, "finished", 8999) and "free some space" in why


def test_a_file_that_was_deleted(record):
    path = record.path
    path.unlink()
    with pytest.raises(RecordError, match=r"deleted or replaced.* in memory from now on"):
        record.close()
    steps, status, line, why = exported(record)
    assert (steps, status, line) == (2, "finished", [[1, 1.0], [2, 2.0]]) and str(path) in why


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system does not list descriptors")
def test_a_script_that_closes_all_descriptors_keeps_its_own_files_whole(tmp_path):
    (tmp_path / "closes.py").write_text(CLOSES)
    command = [sys.executable, "-m", "homeostat", "run", "--every", "1", "--json", "out.json", "closes.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert {(tmp_path / f"mine-{i}").read_bytes() for i in range(8)} == {b""}
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["steps"] == 40 and data["status"] == "finished" and len(data["vitals"]["loss"]["network"]) == 40
    assert "closed by the script" in data["facts"]["unwritten"]["why"] and "closed by the script" in done.stderr
    with open_record("last", tmp_path / "homeostat-runs") as reader:
        assert reader.meta.status == "unfinished" and reader.run == data["run"]


def test_a_disk_that_is_full_at_the_start(tmp_path, monkeypatch):
    program = """
import sqlite3, sys
from homeostat.record import files
def full(db, run): raise sqlite3.OperationalError("database or disk is full")
claim = files.claim
from homeostat.record import writer
writer.claim = lambda folder, script, fill: claim(folder, script, full)
sys.argv = ["homeostat", "run", "--every", "1", "--json", "out.json", "trains.py"]
from homeostat.cli import main
main()
"""
    (tmp_path / "trains.py").write_text(CLOSES.replace("os.closerange(3, 256)", "pass"))
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n") and "free some space" in done.stderr
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["steps"] == 40 and "disk is full" in data["facts"]["unwritten"]["why"] and data["diagnosed"]
    assert list((tmp_path / "homeostat-runs").iterdir()) == []
