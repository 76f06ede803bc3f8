"""The live page on large records: first paint, sizes, lag, and what watching costs the run.

python benchmarks/watch.py [--runs 100] [--steps 100000] [--json FILE]

Needs chromium. Every figure is of this machine, with whatever else runs on it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests" / "report")]

from chromium import browser  # noqa: E402
from report_runs import DORMANT  # noqa: E402

from homeostat.record import RunRecord, open_record  # noqa: E402
from homeostat.report import write_report  # noqa: E402

LAYERS = [f"layers.{i}" for i in range(12)]
VITALS = ("dormant-units", "effective-rank", "gradient-norm", "update-ratio", "weight-norm", "dead-units")
TIMES = """
new MutationObserver(() => {
  if (window.drawn === undefined && document.querySelector(".chart .js-line")) window.drawn = performance.now();
}).observe(document, { childList: true, subtree: true });
"""
"""Notes when the first line of a vital is on the page, in milliseconds since the navigation."""
TRAIN = """
import sys, time, torch, homeostat
torch.manual_seed(0)
net = torch.nn.Sequential(*[m for _ in range(4) for m in (torch.nn.Linear(256, 256), torch.nn.ReLU())])
optimizer = torch.optim.SGD(net.parameters(), 0.01)
run = homeostat.attach(net, optimizer, record=sys.argv[1])
x, y = torch.randn(256, 256), torch.randn(256, 256)
def step():
    optimizer.zero_grad(); ((net(x) - y) ** 2).mean().backward(); optimizer.step()
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end: step()
began, cpu, n, end = time.perf_counter(), time.process_time(), 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    step(); n += 1
print(n, time.perf_counter() - began, time.process_time() - cpu)
run.detach()
"""


def large_record(folder: Path, steps: int) -> Path:
    """A record of `steps` steps: a metric logged at every step, vitals of twelve layers at every fiftieth."""
    record = RunRecord.create(folder, script="train.py", seed=0)
    record.add_vitals((s, "logged/loss", "network", 1 / math.sqrt(s) + 0.1 * math.sin(s)) for s in range(1, steps + 1))
    record.add_vitals((s, "loss", "network", 1 / math.sqrt(s)) for s in range(1, steps + 1))
    for vital in VITALS:
        record.add_vitals((s, vital, layer, math.sin(s / 9e3) ** 2) for layer in LAYERS for s in range(50, steps, 50))
    for boundary in range(1000, steps, 1000):
        record.add_boundary(boundary, f"task {boundary // 1000}")
    record.progress(steps, steps * 0.004, 0.01)
    record.set_findings(steps // 2, [replace(DORMANT, layers=tuple(LAYERS[:2]))])
    record.close()
    return Path(record.path or "")


def copies(path: Path, count: int) -> None:
    """Copies of a record under other ids."""
    for i in range(1, count):
        other = path.with_name(f"{path.stem[:-4]}{i:04x}.sqlite")
        shutil.copy(path, other)
        with closing(sqlite3.connect(other)) as db, db:
            db.execute("UPDATE run SET run = ?", (other.stem,))


@contextmanager
def watching(folder: Path):
    """The address of `homeostat watch` in another process, and the process."""
    command = [sys.executable, "-m", "homeostat", "watch", "--port", "0", "--json", "--record", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = "".join(process.stdout.readline() for _ in range(3))
        try:
            yield json.loads(said)["address"].rstrip("/"), process.pid
        finally:
            process.terminate()


def seconds_of(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def paint(folder: Path, run: str, times: int = 5) -> dict:
    """First paint and first line of a vital, in a browser that has not seen the page, in seconds."""
    paints, drawn = [], []
    with watching(folder) as (home, _):
        for _ in range(times):
            with browser() as tab:
                tab.call("Page.addScriptToEvaluateOnNewDocument", source=TIMES)
                tab.open(f"{home}/run?run={run}#vitals")
                drawn.append(tab.wait("window.drawn") / 1000)
                first = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
                paints.append(tab.wait(first) / 1000)
        with browser() as tab:
            tab.open(f"{home}/")
            tab.wait("document.documentElement?.dataset.ready === 'yes'")
            listed = tab.wait("performance.getEntriesByName('first-contentful-paint')[0]?.startTime") / 1000
            shown = tab.value("document.querySelectorAll('tr[data-run]').length")
    return {"first paint": paints, "first chart": drawn, "list, first paint": listed, "runs in the list": shown}


def lag(folder: Path, times: int = 12) -> list[float]:
    """Seconds from a value that the run hands to its record until the page shows its step."""
    record = RunRecord.create(folder, script="live.py")
    lags = []
    with watching(folder) as (home, _), browser() as tab:
        tab.open(f"{home}/run?run={record.run}")
        tab.wait("document.documentElement?.dataset.ready === 'yes'")
        step = 0
        for i in range(times):
            began, told = time.monotonic() + 0.37 * (i % 3), None
            while True:
                step += 1
                record.add_vitals([(step, "loss", "network", 1 / step)])
                record.progress(step, step * 0.01)
                if told is None and time.monotonic() >= began:
                    told, at = step, time.monotonic()
                time.sleep(0.01)
                if told and step % 4 == 0 and int(tab.value("document.documentElement.dataset.step ?? 0")) >= told:
                    lags.append(time.monotonic() - at)
                    break
    record.close()
    return lags


def cost(folder: Path, pairs: int = 4, seconds: float = 8) -> dict:
    """Processor time per step of a training process, watched and not watched, in turn; and of the server."""
    found, served = {"watched": [], "alone": []}, []

    def train() -> float:
        command = [sys.executable, "-c", TRAIN, str(folder), str(seconds)]
        n, _, cpu = map(float, subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split())
        return 1e3 * cpu / n

    for _ in range(pairs):
        found["alone"].append(train())
        with watching(folder) as (home, pid), browser() as tab:
            tab.open(f"{home}/run?run=last")
            before, began = seconds_of(pid), time.monotonic()
            found["watched"].append(train())
            served.append((seconds_of(pid) - before) / (time.monotonic() - began))
    ratio = [w / a - 1 for w, a in zip(found["watched"], found["alone"], strict=True)]
    return {"milliseconds of the processor per step": found, "watched / alone - 1": ratio, "server, cores": served}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "runs"
        path = large_record(folder, asked.steps)
        copies(path, asked.runs)
        with open_record(path) as reader:
            page = write_report(reader, Path(scratch) / "page.html").stat().st_size
        found = {"record, MB": path.stat().st_size / 1e6, "page in a file, MB": page / 1e6}
        found |= paint(folder, path.stem)
        found["lag"] = lag(Path(scratch) / "live")
        found |= cost(Path(scratch) / "cost")
    for name, value in found.items():
        if isinstance(value, list):
            value = f"median {statistics.median(value):.3f}, most {max(value):.3f}, of {len(value)}"
        print(f"{name}: {value}")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
