"""Tables of a run as files: CSV, or Parquet with pyarrow."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from homeostat.core.atomic_file import reason, whole_file
from homeostat.core.errors import BadInput
from homeostat.core.signals import pass_on
from homeostat.report.tables import RunTable


def write_tables(files: Mapping[Path, RunTable], to: str, overwrite: bool = False) -> None:
    """Write each table to its file, each whole or not at all.

    Args:
        files: the tables by their files.
        to: "csv" or "parquet".
        overwrite: replace existing files.

    Raises:
        BadInput: a file exists already (then none is written), or cannot be written.
        ImportError: there is no pyarrow, for Parquet; nothing is written.
    """
    write = _writer(to)
    if not overwrite and (existing := [path for path in files if path.exists()]):
        raise BadInput(f"{existing[0]} exists already; --overwrite replaces it, --out names another place")
    for path, table in files.items():
        try:
            with whole_file(path) as temporary:
                write(temporary, table)
        except OSError as error:
            pass_on(error)
            raise BadInput(f"cannot write {path} ({reason(error)}): choose a place you can write to") from error


def _writer(to: str) -> Callable[[Path, RunTable], None]:
    if to == "csv":
        return _write_csv
    pyarrow, parquet = map(import_module, ("pyarrow", "pyarrow.parquet"))
    types = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}

    def write(path: Path, table: RunTable) -> None:
        schema = pyarrow.schema([(name, types[kind]) for name, kind in table.columns.items()])
        columns = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
        arrays = [pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        parquet.write_table(pyarrow.table(arrays, schema=schema), path)

    return write


def _write_csv(path: Path, table: RunTable) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(table.columns)
        rows.writerows(table.rows)
