"""Disks that fill up, clocks that jump, forked processes: training goes on, and it is said what was missed."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from faulty_loop import STEPS, Loop, same

import homeostat
from homeostat import CheckpointOptions
from homeostat.core.errors import CheckpointError, RecordError
from homeostat.record import open_record
from homeostat.shell.hooks.clock import CLOCK


def test_a_folder_that_cannot_be_written_is_said_and_the_record_kept_in_memory(tmp_path, twin):
    for folder in ("/proc/homeostat", tmp_path / "file" / "sub"):
        (tmp_path / "file").touch()
        with pytest.warns(RuntimeWarning, match=r"cannot write the run record .* in memory only"):
            loop = Loop(record=folder)
        loop.go()
        assert same(loop.end(), twin) and loop.run is not None and loop.run.path is None
        assert len(loop.run.vitals()["loss"]["network"]) == STEPS
    with pytest.raises(RecordError):
        Loop(record="/proc/homeostat", strict=True)


def eager(monkeypatch) -> None:
    """Every buffered row is written at once, as in a slow loop."""
    monkeypatch.setattr("homeostat.record.writer.FLUSH_SECONDS", 0.0)
    monkeypatch.setattr("homeostat.record.writer.RETRY_SECONDS", 0.0)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Any]:
    """A file system of 2 MiB, where one can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_said_once_and_what_was_missed_is_written_when_there_is_room(small_disk, twin, monkeypatch):
    eager(monkeypatch)
    loop = Loop(record=small_disk, vitals=["loss"])
    loop.go(4)
    (small_disk / "junk").write_bytes(b"x" * 1000)
    with open(small_disk / "junk", "ab", buffering=0) as junk, pytest.raises(OSError, match="space"):
        while junk.write(b"x" * 512):
            pass
    assert loop.run is not None
    with pytest.warns(RuntimeWarning, match=r"cannot write the run record.*full.*free some space") as said:
        for step in range(5, 9):
            loop.run.boundary("x" * 60_000)  # the log's last page has room for a few numbers
            loop.go(1)
            assert loop.run.steps == step and len(loop.run.vitals()["loss"]["network"]) >= 4
    assert len(said) == 1
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint.*free some space"):
        loop.run.save(small_disk / "x")
    assert not [p for p in small_disk.iterdir() if ".part" in p.name]
    (small_disk / "junk").unlink()
    loop.go(STEPS - 8)
    assert same(loop.end(), twin)
    with open_record(loop.run.id, small_disk) as reader:
        assert len(reader.series("loss", "network")) == STEPS and reader.meta.status == "finished"


def test_a_full_disk_ends_neither_training_nor_later_checkpoints(small_disk, twin):
    (small_disk / "junk").write_bytes(b"x" * 2_080_000)
    with pytest.warns(RuntimeWarning, match=r"no checkpoint of step 4: cannot write") as said:
        loop = Loop(vitals=["loss"], checkpoint=CheckpointOptions(save=small_disk / "x", every=4))
        loop.go(9)
    assert len(said) == 1 and not (small_disk / "x").exists()
    (small_disk / "junk").unlink()
    loop.go(STEPS - 9)
    assert (small_disk / "x").exists() and same(loop.end(), twin)


def test_a_record_deleted_while_running_is_said_and_goes_on_in_memory(tmp_path, twin, monkeypatch):
    eager(monkeypatch)
    loop = Loop(record=tmp_path, vitals=["loss"])
    loop.go(5)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.warns(RuntimeWarning, match=r"was deleted or replaced.*in memory from now on") as said:
        loop.go(STEPS - 5)
    assert same(loop.end(), twin) and len(said) == 1 and loop.run is not None
    assert len(loop.run.vitals()["loss"]["network"]) == STEPS and list(tmp_path.iterdir()) == []


def test_a_record_damaged_while_running_is_said_once(tmp_path, twin, monkeypatch):
    eager(monkeypatch)
    loop = Loop(record=tmp_path, vitals=["loss"])
    loop.go(5)
    assert loop.run is not None and loop.run.path is not None
    noise = random.Random(0).randbytes(200_000)
    for path in tmp_path.iterdir():
        with path.open("r+b") as file:
            file.write(noise[: path.stat().st_size])
    with pytest.warns(RuntimeWarning, match="internal error in record"):
        loop.go(STEPS - 5)
    assert same(loop.end(), twin)
    with pytest.raises(RecordError):
        open_record(loop.run.path).vitals()


def test_another_program_that_holds_the_record_delays_it_only(tmp_path, twin, monkeypatch):
    eager(monkeypatch)
    loop = Loop(record=tmp_path, vitals=["loss"])
    assert loop.run is not None
    loop.run._record._db.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(loop.run.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.warns(RuntimeWarning, match="another program holds it"):
        loop.go(5)
    other.close()
    loop.go(STEPS - 5)
    assert same(loop.end(), twin) and len(loop.run.vitals()["loss"]["network"]) == STEPS


# ---- the process


def test_two_runs_in_one_process_and_folder_keep_apart(tmp_path, twin):
    first = Loop(record=tmp_path, vitals=["loss"])
    stream = torch.get_rng_state()
    second = Loop(record=tmp_path, vitals=["loss"])
    third = homeostat.attach(second.model, second.optimizer, vitals=["loss"], every=1, record=tmp_path)
    torch.set_rng_state(stream)
    first.go()
    ended = first.end()
    torch.manual_seed(3)
    torch.set_rng_state(stream)
    second.go()
    assert same(ended, twin) and same(second.end(), twin)
    third.detach()
    assert first.run is not None and second.run is not None
    losses = [run.vitals()["loss"]["network"] for run in (first.run, second.run, third)]
    assert losses[0] == losses[1] == losses[2] and len(losses[0]) == STEPS
    assert len({run.id for run in (first.run, second.run, third)}) == 3


@pytest.mark.parametrize("clock", ["time", "perf_counter", "monotonic"])
def test_a_clock_that_jumps_changes_nothing_that_counts(clock, tmp_path, monkeypatch):
    """With the cadence set by the budget, so that time matters as much as it ever does.

    From the first step on: a jump while the network is traced may make tracing look too slow, and a reason is given.
    """
    loops, jump = [], random.Random(1)
    real = getattr(time, clock)
    for jumps in (False, True):
        loop = Loop(every=None, record=tmp_path, treatments=["redo:every=4", "l2-init"])
        loop.go(1)
        if jumps:
            monkeypatch.setattr(time, clock, lambda: real() + jump.choice([-1e6, -3.0, 0.0, 5.0, 1e7]))
            monkeypatch.setattr(CLOCK, "now", time.perf_counter)
        loop.go(STEPS - 1)
        loops.append(loop.end())
        assert loop.run is not None and loop.run.vitals()["loss"]["network"][0][0] == 1
        monkeypatch.setattr(time, clock, real)
        monkeypatch.setattr(CLOCK, "now", time.perf_counter)
        with open_record(loop.run.id, tmp_path) as reader:
            assert reader.meta.status == "finished" and reader.meta.steps == STEPS
    assert same(*loops)


def test_a_clock_that_jumps_back_does_not_stop_the_writing(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    loop = Loop(record=tmp_path, vitals=["loss"])
    assert loop.run is not None
    for steps in (1, 2, 3):
        now[0] -= 500.0
        loop.go(1)
        with open_record(loop.run.id, tmp_path) as reader:
            assert len(reader.series("loss", "network")) == steps
    loop.run.detach()


def test_a_forked_child_neither_writes_nor_saves(tmp_path, twin):
    loop = Loop(record=tmp_path, vitals=["loss"], checkpoint=CheckpointOptions(save=tmp_path / "x", every=1))
    loop.go(3)
    pid = os.fork()
    if pid == 0:
        try:
            (tmp_path / "x").unlink()
            loop.go(4)
            assert loop.run is not None
            loop.run.detach("failed")
            os._exit(int((tmp_path / "x").exists()))
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    loop.go(STEPS - 3)
    assert same(loop.end(), twin) and loop.run is not None
    with open_record(loop.run.id, tmp_path) as reader:
        assert len(reader.series("loss", "network")) == STEPS and reader.meta.status == "finished"


class Data(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((6,), float(index))


def test_workers_that_load_data_do_the_record_no_harm(tmp_path):
    loop = Loop(record=tmp_path, vitals=["loss"])
    loop.go(2)
    for inputs in torch.utils.data.DataLoader(Data(), 8, num_workers=2, multiprocessing_context="fork"):
        loop.optimizer.zero_grad()
        loop.model(inputs).sum().backward()
        loop.optimizer.step()
    loop.end()
    assert loop.run is not None and len(loop.run.vitals()["loss"]["network"]) == 6
    with open_record(loop.run.id, tmp_path) as reader:
        assert reader.meta.status == "finished"
