"""Options of `attach`, in groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from homeostat.core.dial import Dial, Gauge
from homeostat.core.errors import BadSetting
from homeostat.shell.run.settings import DEFAULT_BUDGET


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What to measure in addition, and the time budget.

    Args:
        budget: share of wall time for measuring (default 2%).
        twin: a second network of the same architecture that your loop trains too, for example from `homeostat.twin`. It
            must take its step first in every round. The distance between the two is measured.
        tasks: ({name: (inputs, targets), ...}, loss_fn): fixed evaluation items of each task, in the order of the
            tasks. The tasks so far are evaluated during the run. A task is the part of the run between two boundaries:
            call `run.boundary(name)` when a task begins, with its items if they are not given here.
        metrics: record the numbers that your loop gives to its logger (TensorBoard, Weights & Biases, MLflow, trackio,
            Lightning, Transformers, Stable-Baselines3) as vitals `logged/NAME`.
    """

    budget: float = DEFAULT_BUDGET
    twin: nn.Module | None = None
    tasks: Any = None
    metrics: bool = True


@dataclass(frozen=True, kw_only=True)
class TreatOptions:
    """How treatments and controllers act.

    Args:
        dials: name -> a number of your program that controllers may set: {"replay-ratio": Dial(get, set, low, high)}.
        gauges: name -> a function that returns a number for controllers to read: {"return": function}. It is called
            when a controller is due, and may return NaN or None.
        averaged: averaged copies of the network (`torch.optim.swa_utils.AveragedModel`, another EMA, a target network),
            or {"part.of.the.network": its copy}. Units that are reset are reset in them too. Other copies are never
            changed.
        element_steps: count optimizer steps per element for elements that are reset; torch counts them per tensor.
            Without it, the first steps of a reset unit under Adam are up to 6.6 times too long
            (`shell.edits.element_steps`).
        dry_run: plan the edits of treatments and write them to the journal, but apply none.
    """

    dials: Mapping[str, Dial] = field(default_factory=dict)
    gauges: Mapping[str, Gauge] = field(default_factory=dict)
    averaged: nn.Module | Iterable[nn.Module] | Mapping[str, nn.Module] = ()
    element_steps: bool = False
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Checkpoint options: resume path, save path, interval, extra state.

    Args:
        resume: checkpoint to continue from. It restores model, optimizer, `extra`, averaged copies, random streams and
            Homeostat's state. Build the objects as for a new run; start the loop at `run.steps`.
        save: file for checkpoints during the run (written by the first of several processes).
        every: optimizer steps between two checkpoints; needs `save`.
        extra: name -> object to save and restore too: a scheduler, a GradScaler, any object with `state_dict` and
            `load_state_dict`, and generators of torch and numpy.

    Raises:
        BadSetting: only one of `save` and `every` is given, or `every` is not an integer of at least 1.
    """

    resume: Path | str | None = None
    save: Path | str | None = None
    every: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.save is None) != (self.every is None):
            raise BadSetting("CheckpointOptions: save=PATH and every=STEPS belong together: give both or neither")
        if self.every is not None and (
            not isinstance(self.every, int) or isinstance(self.every, bool) or self.every < 1
        ):
            raise BadSetting(
                f"CheckpointOptions: every must be a whole number of optimizer steps, at least 1, got {self.every!r}"
            )
