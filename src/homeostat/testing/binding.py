"""Binds a table of laws to one component. The table maps names to functions; their docstrings state the laws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from homeostat.testing.law import Law, sentence

Check = Callable[[Any], None]
Table = Mapping[str, Check]
"""Law -> function that checks it on the subject."""


def bound(table: Table, subject: Callable[[], Any]) -> list[Law]:
    """The laws of a table. The subject is created when a law is first checked."""
    return [Law(name, sentence(check), lambda check=check: check(subject())) for name, check in table.items()]


def statements(*tables: Table) -> dict[str, str]:
    """Name -> statement of every law of these tables."""
    return {name: sentence(check) for table in tables for name, check in table.items()}
