"""`homeostat run`: run the user's script in this process, as `python SCRIPT` would, and measure it."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from homeostat.core.errors import HomeostatError, RecordError
from homeostat.core.finding import SEVERITIES, Finding, Severity
from homeostat.shell.launch.import_hook import ImportHook
from homeostat.shell.launch.module_isolation import ModuleIsolation
from homeostat.shell.launch.program import Program
from homeostat.shell.launch.status_line import StatusLine
from homeostat.shell.messages import say
from homeostat.shell.run.settings import Settings

FAIL_ON_EXIT = 10
"""Exit code when `--fail-on` was given, the script itself succeeded, and a finding was at least that severe."""
DISABLE = "HOMEOSTAT_DISABLE"
"""Environment variable: set to anything but "" or 0, `homeostat run` is `python`."""
ACTIVE = "HOMEOSTAT_ACTIVE"
"""Environment variable that a run sets for its child processes: the id of the process that is measured."""

RANK_SECONDS = 5.0
"""How long the first rank waits for the records of the others at its end."""


class Launch:
    """A run that is about to start. The constructor finds all errors that do not need the script to run.

    Nothing of torch is imported before the script imports it, unless the settings name components.

    Args:
        argv: the script or module, and its arguments.
        settings: settings of the run.
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
            json_file = json_file and json_file.absolute()  # the script may change its working directory
            settings = replace(settings, record=settings.record and settings.record.absolute())
            for folder in filter(None, (settings.record, json_file and json_file.parent)):
                _check_writable(folder)
            self._session = Session(self.program, settings, command or _without_addresses(sys.orig_argv), json_file)

    def run(self) -> None:
        """Run the script. Its exceptions propagate (SystemExit, KeyboardInterrupt), so the process ends as usual."""
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


def _without_addresses(command: Sequence[str]) -> list[str]:
    """The command line for the record. Addresses of `--notify` may hold passwords."""
    return [
        "***" if before == "--notify" else "--notify=***" if text.startswith("--notify=") else text
        for before, text in zip(["", *command], command, strict=False)
    ]


def _plain(quiet: bool) -> bool:
    """Whether to run as plain Python: switched off, or in a child process of a measured run."""
    if os.environ.get(DISABLE, "") not in ("", "0"):
        return True
    elsewhere = os.environ.get(ACTIVE)
    if not elsewhere or elsewhere == str(os.getpid()):
        return False
    if not quiet:
        say(f"process {elsewhere} is already measured; its child runs without Homeostat")
    return True


class Session:
    """Measures one program, from its `import torch` to its end, then prints the summary.

    Errors here do not reach the script: they are reported once on stderr, and the script continues.
    """

    def __init__(
        self, program: Program, settings: Settings, command: Sequence[str], json_file: Path | None = None
    ) -> None:
        self.rank = _rank()
        self._program, self._command, self._json_file = program, list(command), json_file
        sinks = settings.sinks if self.rank == 0 else ()
        self._settings = replace(settings, quiet=settings.quiet or self.rank > 0, sinks=sinks)
        self.status = StatusLine(quiet=self._settings.quiet)
        self._isolation = ModuleIsolation(program.folder)
        self._import_hook = ImportHook("torch", self._start)
        self._pid, self._imported = os.getpid(), False
        self._failed: dict[str, dict[str, Any]] = {}
        self._auto_attach: Any = None
        self._record: Any = None
        self.findings: list[Finding] = []

    def begin(self) -> None:
        """Wait for the script to import torch."""
        os.environ[ACTIVE] = str(self._pid)
        with self._survive("starting"):
            self._isolation.begin()
            self._import_hook.await_import()

    def end(self, status: str) -> None:
        """Stop measuring, write the files and print the summary. Does nothing in a forked child."""
        if os.getpid() != self._pid:
            return
        with self._survive("ending"), self._isolation.own_imports():
            self._import_hook.forget()
            if self._auto_attach is not None:
                self._auto_attach.stop(status)
            self.status.close()
            if self._record is not None:
                if self._auto_attach is None:  # else the run has closed the record
                    self._note_failures()
                self._record.close(status)
                self.findings = list(self._record.findings())
                self._failed |= {one.part: one._asdict() for one in self._record.failures()}
            if status == "finished":
                self._await_ranks()
            self._write_json()
            self._conclude()

    def sick(self, threshold: Severity | None) -> bool:
        """Whether a finding is at least as severe as the threshold, or the diagnosis is missing."""
        if threshold is None:
            return False
        if self._failed:
            self._say(f"--fail-on {threshold}: not diagnosed, because {' and '.join(self._failed)} failed")
            return True
        return any(SEVERITIES.index(f.severity) >= SEVERITIES.index(threshold) for f in self.findings)

    def _start(self) -> None:
        if os.getpid() != self._pid:
            return
        self._imported, began = True, time.thread_time()
        with self._survive("starting"), self._isolation.own_imports():
            from homeostat.shell.launch.auto_attach import AutoAttach

            self._record = self._open_record(self._settings.record)
            self.status.open()
            auto_attach = AutoAttach(self._settings, self._record, self.status, began)
            auto_attach.start()
            self._auto_attach = auto_attach

    def _open_record(self, folder: Path | None) -> Any:
        """A new record; in memory, with a fact that says so, if the folder cannot be written."""
        from homeostat.record.ranks import rank_facts, rank_folder
        from homeostat.shell.run.open_record import open_for

        settings = replace(self._settings, record=folder and rank_folder(folder, self.rank))
        record = open_for(settings, None, self._say, False, self._program.name, self._command)
        record.set_facts(**rank_facts(self.rank, _world_size()))
        return record

    def _await_ranks(self) -> None:
        """Wait a little for the other ranks to end, so that what follows has their last values."""
        if self.rank > 0 or _world_size() == 1 or self._record is None:
            return
        from homeostat.record.ranks import ranks_running

        end = time.monotonic() + RANK_SECONDS
        while time.monotonic() < end and ranks_running(self._record):
            time.sleep(0.05)

    def _write_json(self) -> None:
        if self._json_file is None:
            return
        from homeostat.record import write_json

        record = self._record
        if record is None:
            record = self._record = self._open_record(None)
            if not self._imported:
                record.add_not_measured("every vital", f"the script {_NO_TORCH}")
            self._note_failures()
            record.close("finished")
        write_json(record, _with_rank(self._json_file, self.rank))

    def _note_failures(self) -> None:
        if self._failed:
            self._record.set_facts(failed=self._record.facts().get("failed", {}) | self._failed)

    def _conclude(self) -> None:
        if self._settings.quiet:
            return
        if self._failed and (self._auto_attach is None or self._record.meta.steps == 0):
            why = "; ".join(f"{part} failed ({entry['why']})" for part, entry in self._failed.items())
            return self._say(f"Not diagnosed: {why}")
        if not self._imported:
            return self._say(f"{self._program.name} {_NO_TORCH}: nothing was measured")
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
        """Report an error of Homeostat once, before the script begins and after it has ended."""
        try:
            yield
        except Exception as error:
            known = isinstance(error, HomeostatError)
            why = str(error) if known else f"internal error ({type(error).__name__}: {error})"
            if doing not in self._failed:
                self._failed[doing] = {"step": 0, "why": why, "times": 1}
                self._say(f"{doing}: {why}; the script is not affected")
            if os.environ.get("HOMEOSTAT_DEBUG", "") not in ("", "0"):
                say(traceback.format_exc())


_JOURNAL_ROWS, _DRY_ROWS = 8, 20
"""Number of journal entries in the summary; a dry run shows more."""
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
    """Relative to the working directory if it is inside."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)


def _check_writable(folder: Path) -> None:
    """Check before the script starts that files can be written at its end. Creates nothing."""
    there = folder.resolve()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        why = "is in the way" if not there.is_dir() else "cannot be written to"
        raise RecordError(f"cannot write into {folder}: {there} {why}; choose another place for --record or --json")
