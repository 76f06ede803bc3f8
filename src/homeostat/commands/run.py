"""`homeostat run`: Homeostat's options come first, then the script (or `-m MODULE`) with its arguments."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from homeostat.commands.app import command


class Ready(Exception):
    """Carries a checked run out of the parser, so that the script runs outside of its exception handling."""

    def __init__(self, start: Callable[[], None]) -> None:
        super().__init__()
        self.start = start


class Threshold(StrEnum):
    """Severities for `--fail-on`."""

    WARNING = "warning"
    CRITICAL = "critical"


class RunCommand(TyperCommand):
    """Treats `-m` like a script's name: it ends Homeostat's options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        at = self._end_of_options(args)
        return super().parse_args(ctx, [*args[:at], "--", *args[at:]] if at is not None else args)

    def _end_of_options(self, args: list[str]) -> int | None:
        """Index of an `-m` that ends our options; None if something else ends them."""
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
    "homeostat run --log tensorboard --notify ntfy://my-topic train.py",
    "homeostat run --treat auto --json result.json -m package.train --lr 0.1",
    name="run",
    cls=RunCommand,
    context_settings={"allow_interspersed_args": False},
)
def run(
    program: Annotated[
        list[str], typer.Argument(metavar="SCRIPT ARGS | -m MODULE ARGS", help="Arguments as given to python.")
    ],
    treat: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:SETTING=VALUE,...]", help="Treat the run; auto is the closed loop. Repeatable."),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:vital=NAME,knob=NAME,...", help="Let a vital control a knob. Repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan edits and print them; make none.")] = False,
    vitals: Annotated[str, typer.Option(metavar="default|all|NAME,...", help="Vitals to measure.")] = "default",
    budget: Annotated[str, typer.Option(metavar="SHARE", help="Share of wall time for measuring: 2% or 0.02.")] = "2%",
    every: Annotated[
        int | None,
        typer.Option(metavar="N", help="Measure every N optimizer steps instead of by budget; reproducible."),
    ] = None,
    record: Annotated[Path, typer.Option(metavar="DIR", help="Folder of run records.")] = Path("homeostat-runs"),
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the record as JSON to this file.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of Homeostat's own random draws.")] = 0,
    fail_on: Annotated[
        Threshold | None,
        typer.Option(help="Exit code 10 if the script succeeds but a finding is at least this severe."),
    ] = None,
    metrics: Annotated[
        bool,
        typer.Option("--metrics/--no-metrics", help="Read what the script gives to its logger (TensorBoard, ...)."),
    ] = True,
    log: Annotated[
        list[str] | None,
        typer.Option(metavar="TRACKER[:WHERE]", help="Also write to tensorboard, wandb, mlflow, trackio. Repeatable."),
    ] = None,
    notify: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            envvar="HOMEOSTAT_NOTIFY",
            help="Send alerts and the end of the run to an address of apprise. Repeatable.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
) -> None:
    """Run a training script as python would, measure its vitals, and report findings.

    The first argument that is not an option ends Homeostat's options; the rest belongs to the script.
    HOMEOSTAT_DISABLE=1 runs the script without Homeostat.
    """
    from homeostat.shell.launch.runner import Launch
    from homeostat.shell.run.settings import Settings

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
        metrics=metrics,
        log=log or (),
        notify=notify or (),
    )
    raise Ready(Launch(program, settings, json_file=json_file, fail_on=fail_on.value if fail_on else None).run)
