"""Homeostat: the profiler and physician of a PyTorch training run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from homeostat.shell.attach import Run, attach
    from homeostat.shell.twinning import twin

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "attach", "twin"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: the command line must be able to answer without it
    if name in ("Run", "attach"):
        from homeostat.shell import attach as module

        return getattr(module, name)
    if name == "twin":
        from homeostat.shell.twinning import twin

        return twin
    raise AttributeError(f"module 'homeostat' has no attribute {name!r}")
