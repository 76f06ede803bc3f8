"""Other projects' monitors on the clinic's programs: `python -m benchmarks.peers.clinic --packages FOLDER`.

`pip install --no-deps --target FOLDER torchmortem traintools` installs them aside (their dependencies are in the lock).
Every program runs once with each; `homeostat clinic` runs the same programs. The same code counts all three.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from homeostat.clinic.figures import Examined, figures
from homeostat.clinic.programs import TrainingProgram, programs
from homeostat.clinic.split import HELD_OUT, frozen
from homeostat.clinic.store import TOO_LONG, Result, Store

HERE = Path(__file__).parent
LIMIT_SECONDS = 300
ROWS = (
    ("sick programs", lambda f: str(f["programs"]["sick"])),
    ("healthy programs", lambda f: str(f["programs"]["healthy"])),
    ("macro-F1 over conditions", lambda f: f"{f['macro_f1']:.2f}"),
    ("sick programs whose condition was raised", lambda f: _rate(f["recall"])),
    ("sick programs with any alarm", lambda f: _rate(f["detected"])),
    ("... of which the fault was named", lambda f: _rate(f["named_given_detected"])),
    ("healthy programs with a false alarm", lambda f: _rate(f["false_alarms"]["programs"])),
)


def run(program: TrainingProgram, monitor: str, packages: Path) -> Result:
    """One program with one monitor, in a process of its own."""
    text, before = program.texts()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"}
        began = time.perf_counter()
        for name, source, command in (
            ("before.py", before, ["before.py"]),
            ("train.py", text, [str(HERE / "monitors.py"), monitor, "train.py"]),
        ):
            if not source:
                continue
            (Path(folder) / name).write_text(source)
            try:
                done = subprocess.run(
                    [sys.executable, *command],
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=LIMIT_SECONDS,
                )
            except subprocess.TimeoutExpired:
                return Result(program.digest, program.name, TOO_LONG)
    truth, said = _last(done.stdout, "TRUTH"), _last(done.stdout, "PEER")
    return Result(
        program.digest,
        program.name,
        "failed" if done.returncode else "finished",
        seconds=time.perf_counter() - began,
        truth=truth,
        tail="" if said else done.stderr[-1000:],
        steps=said.get("steps", 0),
        failed=() if said else ("monitor",),
        live=said.get("alarms", {}),
        first=tuple(sorted(said.get("alarms", {}), key=lambda name: said["alarms"][name][0])),
    )


def _last(output: str, word: str) -> dict[str, Any]:
    found = [line[len(word) :] for line in output.splitlines() if line.startswith(word + " ")]
    return json.loads(found[-1]) if found else {}


def _rate(share: dict[str, Any]) -> str:
    return f"{share['count']} of {share['of']}"


def table(columns: dict[str, dict[str, Any]]) -> str:
    """Markdown, one column per monitor."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {title} | {' | '.join(cell(f) for f in columns.values())} |" for title, cell in ROWS]
    return "\n".join(lines)


def compared(wanted: Sequence[TrainingProgram], stores: dict[str, Store]) -> dict[str, dict[str, Any]]:
    """The figures on the programs of held-out families that every store has."""
    results = {name: {r.digest: r for r in store} for name, store in stores.items()}
    sides = frozen()
    common = [p for p in wanted if sides[p.family] == HELD_OUT and all(p.digest in r for r in results.values())]
    return {name: figures([Examined(p, found[p.digest]) for p in common]) for name, found in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder with torchmortem and traintools")
    parser.add_argument("--programs", type=int, default=200, help="the first so many programs of the clinic")
    parser.add_argument("--out", type=Path, default=Path("peers-clinic"), help="folder for results; continued")
    parser.add_argument("--clinic", type=Path, help="folder of `homeostat clinic --out`, for a column of Homeostat")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    sides = frozen()
    wanted = [p for p in programs(args.programs) if sides[p.family] == HELD_OUT]
    stores = {name: Store(args.out / name) for name in ("torchmortem", "traintools")}
    for name, store in stores.items():
        stored = {result.digest for result in store}
        for number, program in enumerate(wanted, 1):
            if program.digest not in stored:
                store.add(run(program, name, args.packages.resolve()))
            print(f"\r{name}: {number} of {len(wanted)}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    if args.clinic:
        stores = {"Homeostat": Store(args.clinic), **stores}
    found = compared(wanted, stores)
    print(table(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
