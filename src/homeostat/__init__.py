"""Homeostat: measure, diagnose and treat PyTorch training runs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from homeostat.shell.attach import AttachedRun, attach
    from homeostat.shell.options import CheckpointOptions, MeasureOptions, TreatOptions
    from homeostat.shell.run.twin import twin

__version__ = "0.1.0"
__all__ = ["AttachedRun", "CheckpointOptions", "MeasureOptions", "TreatOptions", "__version__", "attach", "twin"]

_HOMES = {
    "AttachedRun": "homeostat.shell.attach",
    "attach": "homeostat.shell.attach",
    "CheckpointOptions": "homeostat.shell.options",
    "MeasureOptions": "homeostat.shell.options",
    "TreatOptions": "homeostat.shell.options",
    "twin": "homeostat.shell.run.twin",
}
"""Public name -> the module that defines it."""


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: the command line must be able to answer without it
    if (module := _HOMES.get(name)) is not None:
        return getattr(import_module(module), name)
    raise AttributeError(f"module 'homeostat' has no attribute {name!r}")
