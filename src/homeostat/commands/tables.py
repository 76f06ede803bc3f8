"""Plain tables in the terminal."""

from __future__ import annotations

from typing import Any


def cell(value: Any) -> str:
    """A value as the text of a cell: lists with commas, nothing for None."""
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table without lines; the first column is not wrapped."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, box=None, title_justify="left", pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, no_wrap=position == 0)
    for row in rows:
        table.add_row(*(Text(text) for text in row))
    Console(highlight=False).print(table)
