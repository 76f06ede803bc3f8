"""Check and apply one edit. Each type of edit registers its two functions beside the code that makes the change."""

from __future__ import annotations

from functools import singledispatch

from homeostat.core.edits import Edit
from homeostat.core.errors import BadInput
from homeostat.shell.edits.targets import EditTargets
from homeostat.shell.edits.undo_log import UndoLog


@singledispatch
def check(edit: Edit, network: EditTargets) -> None:
    """Raises what `apply_edits` documents if the edit cannot be applied; changes nothing."""
    raise BadInput(f"{network.component}: there is no way to apply edits of type {type(edit).__name__}")


@singledispatch
def apply(edit: Edit, network: EditTargets, undo: UndoLog) -> None:
    """Make the change, in the averaged copies that follow too, with its inverses in `undo`."""
    raise NotImplementedError
