"""`kill -9` at random moments: checks that records open, how much is lost, and that resumed runs are bit-exact.

    python benchmarks/kills.py --kills 200

A training run (dropout, Adam, a scheduler, continual backprop, four vitals at every step, a checkpoint every 7 steps)
is killed one to four times, from before the record exists to after the last step, and then resumed from its last
checkpoint until it ends. In every second run the moment is random. In the others the record is written at every step,
and the kill waits until a write is under way. Compared with an uninterrupted twin: parameters, buffers, optimizer
state, scheduler, random streams, what Homeostat remembers, and every value in the record. After every kill the record
must open, and the checkpoint, if there is one yet, must be whole.

Seconds lost (random moments only): from the last step that was completed before the kill back to the last step in the
record. Every 50 kills, and when it is interrupted, the benchmark prints what it has seen so far.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import select
import shutil
import signal
import struct
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import homeostat
from homeostat import CheckpointOptions
from homeostat.record import RunRecord, list_runs, open_record, writer
from homeostat.shell.checkpoint.checkpoint import Checkpoint
from homeostat.shell.checkpoint.encoding import Encoder, digest

STEPS, CHECKPOINT_EVERY, PAUSE = 80, 7, 0.02
TREATMENT = "continual-backprop:replacement_rate=0.01,maturity_threshold=20"
VITALS = ("loss", "dormant-units", "weight-norm", "update-ratio")
_BEAT = struct.Struct("qd")


def train(folder: Path, beat: int | None = None) -> str:
    """The user's script; returns a digest of all that it ends with.

    Args:
        folder: of record and checkpoint; when there is a checkpoint, training goes on from it.
        beat: file descriptor that is told (step, time) after each step.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 24),
                          nn.ReLU(), nn.Linear(24, 4))  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    path = folder / "checkpoint.safetensors"
    kept = CheckpointOptions(
        resume=path if path.exists() else None, save=path, every=CHECKPOINT_EVERY, extra={"scheduler": scheduler}
    )
    run = homeostat.attach(
        model, optimizer, treatments=[TREATMENT], vitals=VITALS, every=1, record=folder, checkpoint=kept
    )
    for step in range(run.steps + 1, STEPS + 1):
        inputs = torch.randn(32, 12)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), (inputs[:, :4] * (1 + step // 100)).argmax(1)).backward()
        optimizer.step()
        scheduler.step()
        time.sleep(PAUSE)  # the time that loading data takes
        if beat is not None:
            os.write(beat, _BEAT.pack(step, time.monotonic()))
    found = fingerprint(run, model, optimizer, scheduler)
    run.detach()
    return found


def fingerprint(run: Any, *parts: Any) -> str:
    """SHA-256 of everything that training ended with, times apart."""
    state = {k: v for k, v in run.state_dict().items() if k not in ("spent", "wall_seconds", "credit")}
    encoder = Encoder()
    node = encoder.encode(
        {"homeostat": state, "vitals": run.vitals(), "random": torch.get_rng_state(),
         "parts": [dict(part.state_dict()) for part in parts]}
    )  # fmt: skip
    return digest(repr(node), encoder.tensors)


@dataclass
class Tally:
    """What was seen so far."""

    kills: int = 0
    in_write: int = 0
    runs: int = 0
    records: int = 0
    opened: int = 0
    checkpoints: int = 0
    whole: int = 0
    exact: int = 0
    lost: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lost = self.lost or [0.0]
        lines = [
            f"{self.kills} kills ({self.in_write} in mid-write) in {self.runs} runs: {self.opened} of {self.records} "
            f"records opened, at most {max(lost):.2f} s lost (mean {sum(lost) / len(lost):.2f} s), {self.whole} of "
            f"{self.checkpoints} checkpoints whole, {self.exact} of {self.runs} resumed runs bit-exact",
            *(f"  {self.wrong.count(line)} x {line}" for line in dict.fromkeys(self.wrong)),
        ]
        return "\n".join(lines)


class Life:
    """A training process: forked, so that importing torch is paid for once.

    Args:
        always_writing: write the record at every step instead of once a second.
    """

    def __init__(self, folder: Path, always_writing: bool = False) -> None:
        self._writing = mmap.mmap(-1, 1)  # shared with the child
        self._read, write = os.pipe()
        self._result = folder / "fingerprint"
        self.beats: dict[int, float] = {}
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._read)
                self._show_writing()
                if always_writing:
                    writer.FLUSH_SECONDS = 0.0
                self._result.write_text(train(folder, write))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(write)

    def _show_writing(self) -> None:
        """In the child: let the parent see when the record is being written."""
        flush = RunRecord.flush

        def shown(record: RunRecord) -> None:
            self._writing[0] = 1
            try:
                flush(record)
            finally:
                self._writing[0] = 0

        RunRecord.flush = shown  # type: ignore[method-assign]

    @property
    def writing(self) -> bool:
        return self._writing[0] == 1

    def await_writing(self, seconds: float) -> None:
        """Wait until a write is under way; give up after so many seconds."""
        deadline = time.monotonic() + seconds
        while not self.writing and time.monotonic() < deadline:
            time.sleep(5e-5)

    def until(self, deadline: float | None) -> bool:
        """Follow it; whether it ended by itself before the deadline."""
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if select.select([self._read], [], [], left)[0] and not self._take():
                return True

    def _take(self) -> bool:
        data = os.read(self._read, _BEAT.size * 512)
        self.beats |= dict(_BEAT.iter_unpack(data))
        return bool(data)

    def kill(self) -> None:
        """`kill -9`, and take in what it had still said."""
        os.kill(self.pid, signal.SIGKILL)
        while self._take():
            pass
        self.end()

    def end(self) -> int:
        """Wait for it; its exit code."""
        os.close(self._read)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def fingerprint(self) -> str:
        return self._result.read_text() if self._result.exists() else ""


def one_run(folder: Path, chance: random.Random, length: float, tally: Tally, twin: str) -> None:
    """Train, kill, look, resume, compare."""
    aimed, kills, done = tally.runs % 2 == 1, chance.randint(1, 4), 0
    while True:
        life = Life(folder, aimed)
        left = chance.uniform(0, length * (1 - done / STEPS))
        if life.until(time.monotonic() + left if kills else None):
            if code := life.end():
                tally.wrong.append(f"a resumed process ended with {code}")
            break
        if aimed:
            life.await_writing(0.1)
        life.kill()
        kills, done = kills - 1, max([done, *life.beats])
        tally.kills += 1
        tally.in_write += life.writing
        inspect(folder, {} if aimed else life.beats, tally)
        if tally.kills % 50 == 0:
            print(tally, flush=True)
    tally.runs += 1
    tally.exact += life.fingerprint == twin
    if life.fingerprint != twin:
        tally.wrong.append("a resumed run differs from its twin")


def inspect(folder: Path, last: dict[int, float], tally: Tally) -> None:
    """After a kill: the record opens and holds nearly all, the checkpoint is whole."""
    latest = ("", 0)  # a life that was killed before its first checkpoint leaves an older record beside
    for path in folder.glob("*.sqlite"):
        tally.records += 1
        try:
            with open_record(path) as reader:
                line, meta = reader.vitals().get("loss", {}).get("network", []), reader.meta
            if meta.status not in ("unfinished", "finished") or len(list_runs(folder).unreadable):
                raise ValueError(f"it reads as {meta.status}")
            tally.opened += 1
        except Exception as error:
            tally.wrong.append(f"a record does not open: {error}")
            continue
        latest = max(latest, (meta.started_utc, max((step for step, _ in line), default=0)))
    if last:
        since = last.get(latest[1], min(last.values()))  # steps before this life are not this kill's
        tally.lost.append(max(0.0, max(last.values()) - since))
    for path in folder.glob("*.safetensors"):
        tally.checkpoints += 1
        try:
            Checkpoint.read(path)
            tally.whole += 1
        except Exception as error:
            tally.wrong.append(f"a checkpoint does not open: {error}")


def main() -> int:
    """Prints what was seen; 1 when something was lost that must not be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chance, tally = random.Random(options.seed), Tally()
    base = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        (base / "warm").mkdir()
        train(base / "warm")  # what is loaded when it is first needed is loaded once, before anything is forked
        (base / "twin").mkdir()
        began = time.monotonic()
        life = Life(base / "twin")
        life.until(None)
        twin, code = life.fingerprint, life.end()
        length = 1.02 * (time.monotonic() - began)
        assert code == 0 and twin and not list((base / "twin").glob(".*")), "the uninterrupted run failed"
        while tally.kills < options.kills:
            folder = base / f"run-{tally.runs}"
            folder.mkdir()
            one_run(folder, chance, length, tally, twin)
            shutil.rmtree(folder)
    except KeyboardInterrupt:
        pass
    finally:
        shutil.rmtree(base)
    print(tally)
    return int(bool(tally.wrong) or max(tally.lost, default=0.0) > 2.0)


if __name__ == "__main__":
    raise SystemExit(main())
