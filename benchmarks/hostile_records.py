"""Records that somebody else made, read by every command: counts those that ended in anything but a record or one line.

    python benchmarks/hostile_records.py --examples 10000

Hypothesis makes the records (`tests/reliability/hostile_records.py`): other types, sizes, rows and schema objects.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEST = "tests/reliability/test_hostile_records.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000, help="records to make (default: 10000)")
    given = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        counted = Path(scratch, "counted")
        counted.touch()
        seen = {"HOSTILE_RECORDS": str(given.examples), "HOSTILE_RECORDS_COUNTED": str(counted)}
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", TEST]
        code = subprocess.run(command, cwd=Path(__file__).parents[1], env={**os.environ, **seen}).returncode
        right = counted.stat().st_size
    print(f"{right} records read or refused in one line, {'none' if code == 0 else 'but at least one'} otherwise,")
    spent = os.times().children_user + os.times().children_system
    print(f"in {time.perf_counter() - began:.0f} s, {spent:.0f} s of processor time")
    return code


if __name__ == "__main__":
    sys.exit(main())
