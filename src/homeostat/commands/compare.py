"""The command that compares treatments on a stream."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from homeostat.commands.app import command, missing_extra, show_json
from homeostat.commands.records import AsJson


@command(
    "homeostat compare --stream permuted-labels:tasks=20 --treat continual-backprop --treat redo",
    "homeostat compare --stream class-incremental --treat 'l2-init + continual-backprop' --seeds 10 --json",
)
def compare(
    stream: Annotated[
        str, typer.Option(metavar="TEXT", help="Stream with settings; see `homeostat list stream`.")
    ] = "permuted-labels:tasks=20",
    treat: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Treatment of one arm; repeatable. 'A + B' applies both.")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Number of seeds.")] = 5,
    width: Annotated[int, typer.Option(metavar="H", help="Units in each hidden layer.")] = 100,
    depth: Annotated[int, typer.Option(metavar="L", help="Hidden layers.")] = 2,
    rate: Annotated[float, typer.Option(metavar="LR", help="Learning rate of Adam.")] = 1e-3,
    jobs: Annotated[int, typer.Option(metavar="N", help="Number of parallel processes.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Compare treatments on a stream: a table with intervals, time and memory, arms paired by seed.

    Finished runs are cached: after an interruption, or with more seeds or arms, they are reused.
    """
    try:
        from homeostat.studies.lab import compare as comparing

        asked = comparing.Comparison(stream=stream, treat=tuple(treat or ()), width=width, depth=depth, rate=rate)
        outcome = comparing.compare(asked, seeds, jobs, _command(asked, seeds))
    except ImportError as error:
        raise missing_extra("studies", error) from error
    if as_json:
        return show_json(outcome.to_json())
    _print(outcome, comparing.SHOWN)


def _command(asked: Any, seeds: int) -> str:
    arms = " ".join(f"--treat {shlex.quote(arm)}" for arm in asked.treat)
    sizes = f"--width {asked.width} --depth {asked.depth} --rate {asked.rate:g} --seeds {seeds}"
    return " ".join(filter(None, (f"homeostat compare --stream {shlex.quote(asked.stream)}", arms, sizes)))


def _print(outcome: Any, shown: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = list(next(iter(outcome.arms.values())))
    table = Table(title=f"{outcome.stream}, {len(outcome.seeds)} seeds", box=None, title_justify="left", pad_edge=False)
    table.add_column("arm", overflow="fold")
    for name in names:
        table.add_column(name, justify="right")
    for arm, found in outcome.arms.items():
        table.add_row(Text(arm), *(_cell(found[name]) for name in names))
    console = Console(highlight=False)
    console.print(table)
    console.print("[dim]mean, and the difference from the untreated arm under the same seeds with its 95% interval")
    for name in names:
        console.print(f"[dim]{name}: {shown[name]}", highlight=False)
    console.print(Text(outcome.command, style="dim"))


def _cell(found: dict[str, Any]) -> str:
    text = f"{found['mean']:.3g}"
    if "difference" in found:
        low, high = found["difference_interval"]
        reach = "" if low is None or high is None else f" ± {(high - low) / 2:.2g}"
        text += f"\n{found['difference']:+.2g}{reach}"
    return text
