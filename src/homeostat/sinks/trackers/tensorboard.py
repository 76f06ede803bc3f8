"""TensorBoard: an event file for each run, beside those of the script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from homeostat.sinks.sink import Alert, Value, series_name

LIBRARY = PACKAGE = "tensorboard"
FOLDER = "runs"
"""Where `SummaryWriter` writes by default."""


class TensorBoardSink:
    """Writes scalars, and alerts as texts, with a `SummaryWriter` of its own.

    Args:
        folder: the event file is written into a folder here that is named after the run.
    """

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()  # the script may change its working directory
        self._writer: Any = None

    def open(self, run: str, script: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder / run))
        self._writer.add_text("homeostat/run", f"{run} of {script}", 0)

    def write(self, values: Sequence[Value], alerts: Sequence[Alert]) -> None:
        for step, vital, layer, value in values:
            self._writer.add_scalar(series_name(vital, layer), value, step)
        for alert in alerts:
            self._writer.add_text("homeostat/alerts", f"**{alert.title}**\n\n{alert.text}", alert.step)

    def close(self, status: str) -> None:
        self._writer.close()


def make(where: str) -> TensorBoardSink:
    """From the folder; "" is `runs`."""
    return TensorBoardSink(Path(where or FOLDER))
