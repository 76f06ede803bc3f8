"""A long run: memory and the size of the record over 100,000 steps of a small network.

    python benchmarks/soak.py --steps 100000

Prints, at ten places of the run, the resident memory of the process, the memory that Python's own allocator has in use,
and the bytes of the record with its companions; then the growth over the second half of the run.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import homeostat

PAGE = 4096


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def on_disk(folder: Path) -> int:
    """Bytes of everything in the folder of records."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--places", type=int, default=10, help="how often to look")
    parser.add_argument("--every", type=int, help="a fixed cadence of all vitals instead of the time budget")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    data = torch.Generator().manual_seed(1)
    x, y = torch.randn(1024, 16, generator=data), torch.randint(0, 4, (1024,), generator=data)
    seen: list[tuple[int, int, int, int]] = []
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        with homeostat.attach(model, optimizer, every=given.every, record=scratch) as run:
            for step in range(1, given.steps + 1):
                rows = torch.randint(0, 1024, (32,), generator=data)
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
                if step % (given.steps // given.places) == 0:
                    gc.collect()
                    seen.append((step, resident(), sys.getallocatedblocks(), on_disk(Path(scratch))))
                    memory, blocks, size = seen[-1][1] / 2**20, seen[-1][2], seen[-1][3] / 2**20
                    print(f"{step:>9} steps: {memory:6.1f} MiB, {blocks:>9} blocks, record {size:6.2f} MiB", flush=True)
        seconds, failed = time.perf_counter() - began, run.to_json()["failed"]
        closed = on_disk(Path(scratch))
    half = seen[len(seen) // 2 - 1]
    last = seen[-1]
    print(f"{given.steps} steps in {seconds:.0f} s; the closed record has {closed / 2**20:.2f} MiB; failed: {failed}")
    memory, blocks, size = (after - before for before, after in zip(half[1:], last[1:], strict=True))
    print(f"second half: {memory / 2**20:+.1f} MiB resident, {blocks:+} blocks, {size / 2**20:+.2f} MiB of record")


if __name__ == "__main__":
    main()
