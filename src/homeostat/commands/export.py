"""The command that writes the tables of a run: export."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from homeostat.commands.app import command, missing_extra, show_json
from homeostat.commands.records import DEFAULT, AsJson, Folder, RunName
from homeostat.core.errors import BadInput, UnknownName


class TableFormat(StrEnum):
    """Format of the files; also their suffix."""

    CSV = "csv"
    PARQUET = "parquet"


@command(
    "homeostat export last",
    "homeostat export last --to parquet --out tables",
    "homeostat export 20260101-120000-train --table metrics --out metrics.csv",
)
def export(
    run: RunName = "last",
    to: Annotated[TableFormat | None, typer.Option(help="Format; parquet needs pyarrow. CSV by default.")] = None,
    table: Annotated[list[str] | None, typer.Option(metavar="TABLE", help="Write this table only; repeatable.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="Folder for one file per table, by default the run's id; or a .csv or .parquet file for one table.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    record: Folder = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Write a run as tables: vitals, metrics, knobs, findings, finding_events, journal, boundaries.

    The vitals are in long form: step, network, vital, layer, value.
    """
    from homeostat.record import open_record
    from homeostat.report.table_files import write_tables
    from homeostat.report.tables import TABLES, run_tables

    for name in table or ():
        if name not in TABLES:
            raise UnknownName("table", name, TABLES)
    with open_record(run, record) as reader:
        files, format = _files(out or Path(reader.run), to, table or [], TABLES)
        tables = run_tables(reader)
        found = {path: tables[name] for path, name in files.items()}
        try:
            write_tables(found, format, overwrite)
        except ImportError as error:
            raise missing_extra("parquet", error) from error
        if as_json:
            written = [{"table": t.name, "path": str(path), "rows": len(t.rows)} for path, t in found.items()]
            return show_json({"run": reader.run, "format": format.value, "files": written})
    for path, one in found.items():
        typer.echo(f"{path}: {len(one.rows):,} rows")


def _files(
    out: Path, to: TableFormat | None, wanted: list[str], known: tuple[str, ...]
) -> tuple[dict[Path, str], TableFormat]:
    """The tables by their files, and the format of the files."""
    single = next((f for f in TableFormat if out.suffix == f".{f.value}" and not out.is_dir()), None)
    if single is None:
        format = to or TableFormat.CSV
        return {out / f"{name}.{format.value}": name for name in wanted or known}, format
    if to not in (None, single):
        raise BadInput(f"--to {to.value} does not fit {out}")
    if len(set(wanted)) > 1:
        raise BadInput(f"{out} holds one table; name a folder with --out for several")
    return {out: (wanted or [known[0]])[0]}, single
