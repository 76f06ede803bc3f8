"""`homeostat.attach`: measure and treat a network from inside the training loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from homeostat.core.component import build, discover
from homeostat.core.controller import Controller
from homeostat.core.errors import BadInput
from homeostat.core.finding import Finding, JournalEntry
from homeostat.core.signals import pass_on
from homeostat.core.treatment import Treatment
from homeostat.core.vital import Vital
from homeostat.record.ranks import rank_facts, rank_folder
from homeostat.record.reader import Points
from homeostat.shell.checkpoint.autosave import Autosave
from homeostat.shell.checkpoint.checkpoint import CheckpointDraft, CheckpointManager
from homeostat.shell.checkpoint.run_state import continue_run
from homeostat.shell.checkpoint.training_state import check_extra
from homeostat.shell.ddp.process_group import rank, world_size
from homeostat.shell.edits.averaged_copies import averaged_copies
from homeostat.shell.edits.element_steps import ElementSteps
from homeostat.shell.hooks.random_streams import streams_kept
from homeostat.shell.hooks.torch_internals import LOSS_MODULE
from homeostat.shell.hooks.wrappers import unwrap
from homeostat.shell.network import Network, check_pair
from homeostat.shell.options import CheckpointOptions, MeasureOptions, TreatOptions
from homeostat.shell.run import atexit
from homeostat.shell.run.failures import warn
from homeostat.shell.run.loop_hooks import LoopHooks
from homeostat.shell.run.network_run import NetworkRun
from homeostat.shell.run.open_record import open_for
from homeostat.shell.run.run import Run
from homeostat.shell.run.settings import Settings, chosen, sinks_for
from homeostat.sinks import RunSink


def attach(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    vitals: str | Sequence[str | Vital] = "default",
    probe: Any = None,
    every: int | None = None,
    treatments: Iterable[Treatment | str] = (),
    controllers: Iterable[Controller | str] = (),
    record: Path | str | None = None,
    seed: int = 0,
    strict: bool = False,
    log: str | RunSink | Iterable[str | RunSink] = (),
    notify: str | Iterable[str] = (),
    measure: MeasureOptions | None = None,
    treat: TreatOptions | None = None,
    checkpoint: CheckpointOptions | None = None,
) -> AttachedRun:
    """Measure, and optionally treat, a network while it trains. Call it after the optimizer is built, before the loop.

    Args:
        model: the network; it may be wrapped for compilation or data parallelism.
        optimizer: the optimizer, or a list of all optimizers, that train it.
        vitals: "default", "all", or the vitals to measure: objects, names, or texts like "dormant-units:tau=0.1".
        probe: ((inputs, targets), loss_fn): a fixed batch for vitals that need one (sharpness, plasticity). With it the
            network is traced at once, so an impossible treatment is refused here instead of at the first forward pass.
        every: fixed cadence of all vitals in optimizer steps, instead of the budget of `measure`.
        treatments: treatments, or texts like "redo:every=500"; the text "auto" starts the closed loop.
        controllers: controllers, or texts like "pi:vital=dormant-units,knob=l2-init.strength".
        record: folder for the run's record; None keeps it in memory. If the folder cannot be written, a warning is
            given and the record is kept in memory. Of several processes, each writes its own record; those after the
            first in subfolders.
        seed: seed of Homeostat's random draws; torch's random streams are not used.
        strict: raise refusals and internal errors instead of reporting them once.
        log: trackers to write to as well: "tensorboard", "tensorboard:DIR", "wandb", "mlflow", "trackio", or objects
            with the methods of `homeostat.sinks.RunSink`. Of several processes, the first one writes.
        notify: addresses of apprise ("ntfy://topic") for alerts and the end of the run (needs the `notify` extra).
        measure: time budget, a twin network, evaluation items of tasks; see `MeasureOptions`.
        treat: dials, gauges, averaged copies, dry run; see `TreatOptions`.
        checkpoint: resume path, save path, interval, extra state; see `CheckpointOptions`.

    Returns:
        A run; use it as a context manager or call `detach()` at the end.

    Raises:
        UnknownName, BadSetting, BadInput, Refused, CheckpointError, RecordError (if `strict`): the message gives the
            reason; nothing was changed.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> with attach(model, optimizer, every=1) as run:
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         model(torch.randn(16, 4)).square().mean().backward()
    ...         optimizer.step()
    >>> sorted(run.vitals()["dormant-units"])
    ['0']
    """
    with streams_kept():  # packages that are imported for the first time may draw
        discover("vital", "treatment", "controller", "condition")
    inner, compiled = unwrap(model)
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else _listed(optimizer)
    check_pair(inner, optimizers)
    measure, treat, checkpoint = measure or MeasureOptions(), treat or TreatOptions(), checkpoint or CheckpointOptions()
    settings = Settings(
        **chosen(treatments, controllers),
        vitals=vitals if isinstance(vitals, str) else tuple(vitals),
        budget=measure.budget,
        every=every,
        seed=seed,
        dry_run=treat.dry_run,
        record=None if record is None else rank_folder(Path(record), rank()),
        probe=probe,
        twin=measure.twin,
        tasks=measure.tasks,
        metrics=measure.metrics,
        sinks=sinks_for(log, notify) if rank() == 0 else (),
        dials=dict(treat.dials),
        gauges=dict(treat.gauges),
    )
    network = Network("", inner, optimizers, compiled or unwrap(model)[1])
    network.averaged = averaged_copies(treat.averaged, inner)
    network.dials |= settings.dials
    network.elements = ElementSteps.of(optimizers) if treat.element_steps else None
    if rank() > 0:  # one file, and the first rank writes it
        checkpoint = replace(checkpoint, save=None, every=None)
    checkpoints = CheckpointManager.of(checkpoint)
    if checkpoints.resumed is not None:
        checkpoints.resumed.check(settings, network, checkpoints.extra)
    return AttachedRun(settings, network, strict, checkpoints, _loss_modules(inspect.currentframe()))


def _loss_modules(frame: FrameType | None) -> list[object]:
    """Loss modules among the globals of the function that calls `attach`.

    Its local variables are not looked at, because that keeps their values alive until it returns.
    """
    caller = frame.f_back if frame is not None else None
    values = list(caller.f_globals.values()) if caller is not None else []
    return [value for value in values if issubclass(type(value), LOSS_MODULE)]


def _listed(optimizer: Any) -> list[Optimizer]:
    try:
        return list(optimizer)
    except TypeError as error:
        pass_on(error)
        raise BadInput(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}") from None


class AttachedRun:
    """An attached run. Created by `attach`."""

    def __init__(
        self,
        settings: Settings,
        network: Network,
        strict: bool = False,
        checkpoints: CheckpointManager | None = None,
        losses: Iterable[object] = (),
    ) -> None:
        self._checkpoints = checkpoints or CheckpointManager()
        undo = self._checkpoints.restore(network, settings.seed)
        self._record = open_for(settings, self._checkpoints.resumed and self._checkpoints.resumed.run, warn, strict)
        self._record.set_facts(**rank_facts(rank(), world_size()))
        self._run = Run(settings, self._record, strict)
        try:
            self._network: NetworkRun = self._run.add(network, in_loop=True)
            self._stages = LoopHooks(self._network.treatments)
            self._run.losses.evaluations.follow(losses)
            self._run.start()
            self._checkpoints.begin(self._run, warn)
            self._autosave = Autosave(self._run, self._checkpoints, warn)
            self._get_to_know(settings, strict)
            self._checkpoints.finish()
        except BaseException:
            self._run.stop("failed")
            undo()
            raise
        self._autosave.start()
        atexit.begin(self.detach)

    def _get_to_know(self, settings: Settings, strict: bool) -> None:
        """Trace the network with the probe, or at its first call; a trace in a checkpoint is used instead."""
        if not self._network.tracing.waiting:
            return
        if settings.probe is not None and (self._network.treatments.applied or settings.auto):
            self._network.treatments.strict = True
            self._network.tracing.learn_from((settings.probe[0][0],), {})
            self._network.treatments.strict = strict
        else:
            self._network.tracing.await_first_call()

    @property
    def id(self) -> str:
        """Name of the run, as `homeostat runs` lists it."""
        return self._record.run

    @property
    def path(self) -> Path | None:
        """The record's file, or None if it is in memory."""
        return self._record.path

    @property
    def steps(self) -> int:
        """Completed optimizer steps."""
        return self._run.steps

    def findings(self) -> list[Finding]:
        """The current findings, causes before what follows from them."""
        return list(self._run.findings)

    def vitals(self) -> dict[str, dict[str, Points]]:
        """Vital -> layer -> [(step, value)]; a value is None where it could not be measured."""
        return self._record.vitals()

    def boundaries(self) -> dict[int, str]:
        """Step after which a task began -> label of the task."""
        return dict(self._record.boundaries())

    def journal(self) -> list[JournalEntry]:
        """The journal: all actions on the run."""
        self._network.treatments.flush()
        return self._record.journal()

    def not_measured(self) -> dict[str, str]:
        """What could not be measured or treated -> reason."""
        return {entry.what: entry.why for entry in self._record.not_measured()}

    def units(self) -> dict[str, int]:
        """Layer -> number of units, for layers whose units could be paired with the weights that make and use them."""
        return self._network.tracing.units()

    def before_clip(self, *optimizers: Optimizer) -> None:
        """Add the penalties to the gradients now, so that a following clip includes them.

        By default they are added when the optimizer's `step` begins, after your clip, so they are not clipped. Call
        this between `backward()` and the clip, once per step, to clip them as if they were part of the loss. With a
        GradScaler call `scaler.unscale_(optimizer)` first, as for the clip itself.

        Args:
            optimizers: the optimizers that step next; by default all of the run.

        Raises:
            BadInput: the gradients are still scaled; nothing was changed.
        """
        self._run.before_clip(optimizers or self._network.network.optimizers)

    def boundary(self, label: str = "", evaluation: Any = None) -> None:
        """Begin a new task.

        Args:
            label: name of the task.
            evaluation: its evaluation items (inputs, targets), if `MeasureOptions(tasks=...)` does not have them.

        Raises:
            BadInput: the items do not fit the network or the loss given to `attach`; nothing was changed.
        """
        self._autosave.settle()
        self._run.boundary(label, evaluation)

    def batch(self, inputs: Tensor, targets: Tensor, tasks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The batch to train on, with the items that treatments of stage "batch" append (rehearsed items come last).

        Args:
            inputs, targets: your batch, [N, ...] each; the result is [N + M, ...] each.
            tasks: [N], integers: the task of each item (number of boundaries before it), if your batch already has
                items of earlier tasks. By default all items belong to the current task.

        Raises:
            BadInput: inputs and targets are not tensors of equal length, or `tasks` has numbers of no task so far.
        """
        return self._stages.batch(inputs, targets, tasks)

    def loss(self, criterion: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The loss function, with the changes that treatments of stage "loss" make to the outputs. It is called as
        `criterion(outputs, targets)`. Outputs without gradient (evaluation) are not changed."""
        self._run.losses.evaluations.follow([criterion])
        return self._stages.loss(criterion)

    def evaluation(self) -> AbstractContextManager[None]:
        """Context manager for evaluations: inside, treatments of stage "evaluation" change the network (for example to
        averaged weights); afterwards it is restored bit for bit. What loss modules return inside without gradient is
        recorded as "evaluation-loss"."""
        return self._run.losses.evaluations.during(self._stages.evaluation())

    def treat(self, treatment: Treatment | str) -> None:
        """Start a treatment now.

        Raises:
            UnknownName, BadSetting, Refused: nothing was changed.
        """
        made = build("treatment", treatment) if isinstance(treatment, str) else treatment
        self._autosave.settle()
        self._network.treatments.add(made)
        self._network.schedule.put(self._network.network.step + 1, "treatments")

    def __repr__(self) -> str:
        from homeostat.report.notebook import one_line

        return one_line(self._record)

    def _repr_html_(self) -> str:
        from homeostat.report.notebook import html

        return html(self._record)

    def report(self, path: Path | str) -> Path:
        """Write the report page (needs the `report` extra)."""
        from homeostat.report import write_report

        return write_report(self._record, Path(path))

    def to_json(self) -> dict[str, Any]:
        """The run as `--json` writes it."""
        from homeostat.record.export import to_json

        self._network.treatments.flush()
        return to_json(self._record)

    def save(self, path: Path | str, *, extra: Mapping[str, Any] | None = None, network: bool = True) -> Path:
        """Write a checkpoint from which `CheckpointOptions(resume=path)` continues bit for bit; call it between steps.

        The checkpoint is one file (safetensors: tensors and JSON, no pickles). A crash at any moment leaves either the
        earlier or the new checkpoint.

        Args:
            path: the file; an existing one is replaced.
            extra: as for `attach`; None means the `extra` given there.
            network: also save the model, the optimizers, `extra`, averaged copies and random streams. False saves
                Homeostat's state only, for a script that saves the rest itself.

        Raises:
            BadInput: an object cannot be saved without pickling; the message names it. Nothing was written.
            CheckpointError: the file cannot be written; an earlier checkpoint is unchanged.
        """
        given = self._checkpoints.extra if extra is None else check_extra(extra)
        return CheckpointDraft(self._run, given if network else {}, network).write(Path(path))

    def state_dict(self) -> dict[str, Any]:
        """Homeostat's state, to continue in another process: tensors, numbers and texts only."""
        return self._run.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`. Call it after loading the model and the optimizer, before the first step.

        Raises:
            BadInput: the state belongs to another kind of run.
        """
        continue_run(self._run, state)

    def detach(self, status: str = "finished") -> None:
        """Remove all hooks and close the record. Vitals, findings and the report stay readable. May be repeated."""
        atexit.done(self.detach)
        self._autosave.stop()
        for treatment, why in self._stages.never_opened().items():
            self._run.not_measured(treatment, why)
        self._run.stop(status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.detach()
        else:
            self.detach("interrupted" if issubclass(kind, KeyboardInterrupt) else "failed")
