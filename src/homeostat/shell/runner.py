"""`homeostat run`: the user's script in this process, watched, and otherwise as `python SCRIPT` would run it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from homeostat.core.errors import HomeostatError, RecordError
from homeostat.core.finding import SEVERITIES, Finding, Severity
from homeostat.shell.arrival import Arrival
from homeostat.shell.isolation import Isolation
from homeostat.shell.program import Program
from homeostat.shell.settings import Settings
from homeostat.shell.status import StatusLine

FAIL_ON_EXIT = 10
"""Exit code when `--fail-on` was given, the script itself succeeded, and a finding was at least that severe."""
DISABLE = "HOMEOSTAT_DISABLE"
"""Environment variable: set to anything but "" or 0, `homeostat run` is `python`."""
ACTIVE = "HOMEOSTAT_ACTIVE"
"""Environment variable a run sets for its children: the id of the process that is being watched."""


def run_script(argv: Sequence[str], settings: Settings, **options: Any) -> None:
    """Run `SCRIPT ARGS` or `-m MODULE ARGS` as this process's `__main__`, and watch it train; see `Launch`."""
    Launch(argv, settings, **options).run()


class Launch:
    """A run that is about to start: everything that can be wrong before the script runs is found when this is made.

    Nothing of torch is imported before the script imports it, unless the settings name components.

    Args:
        argv: the script or module, and its arguments.
        settings: what to measure and do.
        command: the full command line, for the record.
        json_file: where to write the record as JSON at the end.
        fail_on: end with `FAIL_ON_EXIT` when the script succeeded but a finding is at least this severe.

    Raises:
        BadInput: there is no such script.
        RecordError: the folder of records or of `json_file` cannot be written.
    """

    def __init__(
        self,
        argv: Sequence[str],
        settings: Settings,
        *,
        command: Sequence[str] | None = None,
        json_file: Path | None = None,
        fail_on: Severity | None = None,
    ) -> None:
        self.program = Program.parse(argv)
        self._fail_on: Severity | None = fail_on
        self._session: Session | None = None
        if not _plain(settings.quiet):
            for folder in filter(None, (settings.record, json_file and json_file.parent)):
                _check_writable(folder)
            self._session = Session(self.program, settings, command or sys.orig_argv, json_file)

    def run(self) -> None:
        """Run it. What the script raises comes out (SystemExit, KeyboardInterrupt), so the process ends as usual."""
        session = self._session
        if session is None:
            return self.program.run()
        session.begin()
        try:
            self.program.run()
        except SystemExit as stop:
            succeeded = stop.code in (None, 0)
            session.end("finished" if succeeded else "failed")
            if succeeded and session.sick(self._fail_on):
                raise SystemExit(FAIL_ON_EXIT) from None
            raise
        except BaseException as error:
            session.end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        session.end("finished")
        if session.sick(self._fail_on):
            raise SystemExit(FAIL_ON_EXIT)


def _plain(quiet: bool) -> bool:
    """Whether the script runs as under plain Python: switched off, or a child of a run that is watched already."""
    if os.environ.get(DISABLE, "") not in ("", "0"):
        return True
    elsewhere = os.environ.get(ACTIVE)
    if not elsewhere or elsewhere == str(os.getpid()):
        return False
    if not quiet:
        print(f"homeostat: process {elsewhere} is watched already; its child runs plain", file=sys.stderr)
    return True


class Session:
    """Everything around one run of a program: the watch from the script's `import torch` to its end, then the summary.

    Nothing that goes wrong in here reaches the script: it is told once on stderr, and the script runs on.
    """

    def __init__(
        self, program: Program, settings: Settings, command: Sequence[str], json_file: Path | None = None
    ) -> None:
        self.rank = _rank()
        self._program, self._command, self._json_file = program, list(command), json_file
        self._settings = replace(settings, quiet=settings.quiet or self.rank > 0)
        self.status = StatusLine(quiet=self._settings.quiet)
        self._isolation = Isolation(program.folder)
        self._arrival = Arrival("torch", self._start)
        self._pid, self._warned, self._arrived = os.getpid(), False, False
        self._watch: Any = None
        self._record: Any = None
        self.findings: list[Finding] = []

    def begin(self) -> None:
        """Wait for the script to import torch."""
        os.environ[ACTIVE] = str(self._pid)
        with self._survive("starting"):
            self._isolation.begin()
            self._arrival.await_import()

    def end(self, status: str) -> None:
        """Stop watching, write what was asked for, and say what was found. Nothing in a forked child."""
        if os.getpid() != self._pid:
            return
        with self._survive("ending"), self._isolation.own_imports():
            self._arrival.forget()
            if self._watch is not None:
                self._watch.stop(status)
            self.status.close()
            if self._record is not None:
                self._record.close(status)
                self.findings = list(self._record.findings())
            self._write_json()
            self._conclude()

    def sick(self, threshold: Severity | None) -> bool:
        """Whether a finding is at least as severe as the threshold."""
        if threshold is None:
            return False
        return any(SEVERITIES.index(f.severity) >= SEVERITIES.index(threshold) for f in self.findings)

    def _start(self) -> None:
        if os.getpid() != self._pid:
            return
        self._arrived = True
        with self._survive("starting"), self._isolation.own_imports():
            from homeostat.shell.watch import Watch

            self._record = self._new_record(self._settings.record)
            self.status.open()
            watch = Watch(self._settings, self._record, self.status)
            watch.start()
            self._watch = watch

    def _new_record(self, folder: Path | None) -> Any:
        from homeostat.record import RunRecord

        if folder is not None and self.rank > 0:
            folder = folder / f"rank{self.rank}"
        record = RunRecord.create(
            folder,
            script=self._program.name,
            command=self._command,
            seed=self._settings.seed,
            settings=self._settings.to_json(),
        )
        if _world_size() > 1:
            record.set_facts(rank=self.rank, world_size=_world_size())
        return record

    def _write_json(self) -> None:
        if self._json_file is None:
            return
        from homeostat.record import write_json

        record = self._record
        if record is None:
            record = self._new_record(None)
            record.add_not_measured("every vital", f"the script {_NO_TORCH}")
            record.close("finished")
        write_json(record, _with_rank(self._json_file, self.rank))

    def _conclude(self) -> None:
        if self._settings.quiet:
            return
        if not self._arrived:
            return self._say(f"{self._program.name} {_NO_TORCH}: nothing was measured")
        if self._watch is None:
            return  # it could not start, and said so
        if self._record.meta.steps == 0:
            self._say(f"{self._program.name} {_NO_STEP}: nothing was measured")
            if (path := self._record.path) is not None:
                self._say(f"the record, with what was seen, is {_short(path)}")
            return
        from homeostat.report.terminal import print_summary

        rows = _DRY_ROWS if self._settings.dry_run else _JOURNAL_ROWS
        print_summary(self._record, self.status.console, journal_rows=rows)

    def _say(self, text: str) -> None:
        self.status.print(f"homeostat: {text}", markup=False, soft_wrap=True)

    @contextmanager
    def _survive(self, doing: str) -> Iterator[None]:
        """An error of our own is told once and never reaches the script."""
        try:
            yield
        except Exception as error:
            if self._warned:
                return
            self._warned = True
            what = (
                str(error) if isinstance(error, HomeostatError) else f"internal error ({type(error).__name__}: {error})"
            )
            self.status.print(f"homeostat: {doing}: {what}; the script is not affected", markup=False, soft_wrap=True)
            if os.environ.get("HOMEOSTAT_DEBUG"):
                traceback.print_exc()


_JOURNAL_ROWS, _DRY_ROWS = 8, 20
"""Journal entries shown at the end; a dry run is there to show what would be done."""
_NO_TORCH = "never imported torch"
_NO_STEP = "took no step of a torch.optim optimizer in this process"


def _rank() -> int:
    return _number("RANK", 0)


def _world_size() -> int:
    return _number("WORLD_SIZE", 1)


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default


def _with_rank(path: Path, rank: int) -> Path:
    return path if rank == 0 else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")


def _short(path: Path) -> str:
    """Relative to the working directory where that is shorter."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)


def _check_writable(folder: Path) -> None:
    """Asked before the script starts, because it would be a pity at its end. Makes nothing yet."""
    there = folder.resolve()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        why = "is in the way" if not there.is_dir() else "cannot be written to"
        raise RecordError(f"cannot write into {folder}: {there} {why}; choose another place for --record or --json")
