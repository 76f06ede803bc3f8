"""`homeostat run`: options of ours first, then the script (or `-m MODULE`) and everything that belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from homeostat.commands.app import command


class Ready(Exception):
    """Carries a checked run out of the parser: the script must run outside of it, with nothing between."""

    def __init__(self, start: Callable[[], None]) -> None:
        super().__init__()
        self.start = start


class Threshold(StrEnum):
    """Severities that can end a run with their own exit code."""

    WARNING = "warning"
    CRITICAL = "critical"


class RunCommand(TyperCommand):
    """`-m` ends our options like a script's name does; what follows it is never ours."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        at = self._end_of_options(args)
        return super().parse_args(ctx, [*args[:at], "--", *args[at:]] if at is not None else args)

    def _end_of_options(self, args: list[str]) -> int | None:
        """Index of an `-m` among our options; None when they end otherwise."""
        flags = {name: getattr(p, "is_flag", False) or p.name == "help" for p in self.params for name in p.opts}
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] != "--":
            if args[at].startswith("-m"):
                return at
            at += 1 if flags.get(args[at], True) else 2
        return None


@command(
    "homeostat run train.py --epochs 3",
    "homeostat run --treat continual-backprop:replacement_rate=1e-4 train.py",
    "homeostat run --treat auto --json result.json -m package.train --lr 0.1",
    name="run",
    cls=RunCommand,
    context_settings={"allow_interspersed_args": False},
)
def run(
    program: Annotated[
        list[str], typer.Argument(metavar="SCRIPT ARGS | -m MODULE ARGS", help="What python would be given.")
    ],
    treat: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:SETTING=VALUE,...]", help="Treat the run; auto is the closed loop. Repeatable."),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:vital=NAME,knob=NAME,...", help="Let a vital turn a knob. Repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the edits it would make; make none.")] = False,
    vitals: Annotated[str, typer.Option(metavar="default|all|NAME,...", help="What to measure.")] = "default",
    budget: Annotated[str, typer.Option(metavar="SHARE", help="Wall time measuring may take: 2% or 0.02.")] = "2%",
    every: Annotated[
        int | None, typer.Option(metavar="N", help="Measure every N optimizer steps instead; reproducible.")
    ] = None,
    record: Annotated[Path, typer.Option(metavar="DIR", help="Folder of run records.")] = Path("homeostat-runs"),
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the record as JSON.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of Homeostat's own draws.")] = 0,
    fail_on: Annotated[
        Threshold | None, typer.Option(help="Exit 10 if a finding is at least this severe and the script exits 0.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
) -> None:
    """Run a training script as python would, measure its vitals, and say what it found.

    The first argument that is not an option ends Homeostat's options: the rest belongs to the script.
    HOMEOSTAT_DISABLE=1 runs the script without Homeostat.
    """
    from homeostat.shell.runner import Launch
    from homeostat.shell.settings import Settings

    settings = Settings.parse(
        vitals=vitals,
        treat=treat or (),
        control=control or (),
        budget=budget,
        every=every,
        seed=seed,
        dry_run=dry_run,
        record=record,
        quiet=quiet,
    )
    raise Ready(Launch(program, settings, json_file=json_file, fail_on=fail_on.value if fail_on else None).run)
