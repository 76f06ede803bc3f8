"""Shared code of the comparisons with authors' code: the checkout, functions of one file of it, and the table."""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.core.edits import SetValues
from homeostat.core.treatment import Treatment


def checkout(repository: str) -> Path:
    """The folder given on the command line; it is also put first on the import path.

    Args:
        repository: where the authors' code comes from, for the help text.
    """
    parser = argparse.ArgumentParser(description=f"Compare with the authors' code: {repository}")
    parser.add_argument("checkout", type=Path, help=f"path of a checkout of {repository}")
    folder = parser.parse_args().checkout.resolve()
    sys.path.insert(0, str(folder))
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    print(f"{repository} at {_commit(folder)}")
    return folder


def _commit(folder: Path) -> str:
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "an unknown commit"


def functions(path: Path, names: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Functions and methods of the authors' file, without its imports, which may need packages that are not installed.

    Args:
        names: of the functions; a method is called with an object of ours as `self`.
        known: global names that they use.
    """
    tree = ast.parse(path.read_text("utf-8"))
    tree.body = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]
    found = dict(known)
    exec(compile(tree, str(path), "exec"), found)
    return {name: found[name] for name in names}


def gap(one: nn.Module, other: nn.Module) -> float:
    """Largest absolute difference of two networks' parameters."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def watched(treatment: Treatment) -> dict[str, Tensor]:
    """A table that holds, after each plan of the treatment, the units that it resets: weight -> mask [H]."""
    plan, found = treatment.plan, dict[str, Tensor]()

    def planned(*args: Any) -> Any:
        edits, state = plan(*args)
        found.clear()
        for edit in edits:
            if isinstance(edit, SetValues) and edit.units is not None and edit.mask is not None:
                found[edit.target] = edit.mask.flatten(1).any(1)
        return edits, state

    object.__setattr__(treatment, "plan", planned)
    return found


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table: one row per comparison."""
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _text(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
