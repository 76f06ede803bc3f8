"""`homeostat.attach`: measure and treat a run from inside a loop that otherwise does not change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from homeostat.core.component import build
from homeostat.core.controller import Controller
from homeostat.core.dial import Dial, Gauge
from homeostat.core.errors import BadInput
from homeostat.core.finding import Finding, JournalEntry
from homeostat.core.treatment import Treatment
from homeostat.record.reader import Points
from homeostat.shell import ending
from homeostat.shell.averages import averaged_copies
from homeostat.shell.belongings import check_extra
from homeostat.shell.checkpoint import Draft
from homeostat.shell.discovery import unwrap
from homeostat.shell.elements import ElementSteps
from homeostat.shell.engine import Engine, warn
from homeostat.shell.keeping import Keeping
from homeostat.shell.network import Network, check_pair
from homeostat.shell.patient import Patient
from homeostat.shell.ranks import own_folder, rank
from homeostat.shell.recording import open_for
from homeostat.shell.settings import AUTO, DEFAULT_BUDGET, Settings
from homeostat.shell.stages import Stages


def attach(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    treatments: Iterable[Treatment | str] = (),
    controllers: Iterable[Controller | str] = (),
    vitals: str | Sequence[str] = "default",
    probe: Any = None,
    twin: nn.Module | None = None,
    tasks: Any = None,
    averaged: nn.Module | Iterable[nn.Module] | Mapping[str, nn.Module] = (),
    element_steps: bool = False,
    dials: Mapping[str, Dial] = MappingProxyType({}),
    gauges: Mapping[str, Gauge] = MappingProxyType({}),
    record: Path | str | None = None,
    seed: int = 0,
    budget: float = DEFAULT_BUDGET,
    every: int | None = None,
    dry_run: bool = False,
    strict: bool = False,
    resume: Path | str | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_every: int | None = None,
    extra: Mapping[str, Any] = MappingProxyType({}),
) -> Run:
    """Measure, and if asked treat, a network while it trains. Call it after the optimizer is built, before the loop.

    Args:
        model: the network; compile and data-parallel wrappers are seen through.
        optimizer: the optimizer, or all of them, that train it.
        treatments: treatments, or texts like "redo:every=500"; the text "auto" turns the closed loop on.
        controllers: controllers, or texts like "pi:vital=dormant-units,knob=l2-init.strength".
        vitals: "default", "all" or names.
        probe: ((inputs, targets), loss_fn): a fixed batch for what needs one (sharpness, plasticity). With it the
            network is known at once, so a treatment that cannot work is refused here instead of at the first forward.
        twin: a second network of the same architecture that your loop trains beside this one, for example one of
            `homeostat.twin`; in every round it takes its step first. How far the two are apart is then measured.
        tasks: ({name: (inputs, targets), ...}, loss_fn): fixed items to evaluate each task by, in the order of the
            tasks; those met so far are evaluated while the run goes on. A task is what lies between two boundaries:
            call `run.boundary(name)` where one begins, with its items if they were not known here.
        averaged: copies of the network that follow it slowly (`torch.optim.swa_utils.AveragedModel`, another EMA, a
            target network), or {"part.of.the.network": its copy}. Units that are reset begin anew in them too; a copy
            that is not named is never touched, for it cannot be told from one that must stay as it is.
        element_steps: count optimizer steps for every element that is reset, where torch counts them for whole tensors:
            under Adam a reset unit's first steps are up to 6.6 times too long without (`shell.elements`).
        dials: numbers of yours that controllers may turn, by name: {"replay-ratio": Dial(get, set, low, high)}.
        gauges: numbers of yours that controllers may read, by name: {"return": function}; asked when a controller is
            due, NaN or None where there is none.
        record: folder for the run's record; None keeps it in memory, and so does, with a warning, a folder that cannot
            be written. Of several processes each writes its own, those after the first in a folder inside.
        seed: of Homeostat's own randomness; torch's random streams are never touched.
        budget: share of wall time that measuring may take (default 2%).
        every: fixed cadence of all vitals in steps, instead of the budget.
        dry_run: plan the treatments' edits and journal them, apply none.
        strict: let refusals and internal errors raise instead of being reported once.
        resume: a checkpoint to go on from: model, optimizer, `extra`, averaged copies, random streams and Homeostat
            itself are put where they were. Build them as for a new run; `run.steps` says where the loop goes on.
        checkpoint: where checkpoints are saved by themselves (of several processes, by the first).
        checkpoint_every: how often, in optimizer steps.
        extra: what is saved and restored along, by name: a scheduler, a GradScaler, anything with `state_dict` and
            `load_state_dict`, and generators of torch and numpy.

    Returns:
        A run; use it as a context manager or call `detach()` at the end.

    Raises:
        UnknownName, BadSetting, BadInput, Refused, CheckpointError, RecordError (if `strict`): said in a sentence;
            nothing was changed.

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
    inner, compiled = unwrap(model)
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else _listed(optimizer)
    check_pair(inner, optimizers)
    texts = list(treatments)
    settings = Settings(
        vitals=vitals if isinstance(vitals, str) else tuple(vitals),
        treatments=tuple(build("treatment", t) if isinstance(t, str) else t for t in texts if t != AUTO),
        controllers=tuple(build("controller", c) if isinstance(c, str) else c for c in controllers),
        auto=AUTO in texts,
        budget=budget,
        every=every,
        seed=seed,
        dry_run=dry_run,
        record=None if record is None else own_folder(Path(record)),
        probe=probe,
        twin=twin,
        tasks=tasks,
        dials=dict(dials),
        gauges=dict(gauges),
    )
    network = Network("", inner, optimizers, compiled or unwrap(model)[1])
    network.averaged = averaged_copies(averaged, inner)
    network.dials |= settings.dials
    network.elements = ElementSteps.of(optimizers) if element_steps else None
    if rank() > 0:  # one file, and the first rank writes it
        checkpoint, checkpoint_every = None, None
    keeping = Keeping.checked(resume, checkpoint, checkpoint_every, extra)
    if keeping.resumed is not None:
        keeping.resumed.check(settings, network, keeping.extra)
    return Run(settings, network, strict, keeping)


def _listed(optimizer: Any) -> list[Optimizer]:
    try:
        return list(optimizer)
    except TypeError:
        raise BadInput(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}") from None


class Run:
    """An attached run. Made by `attach`."""

    def __init__(
        self, settings: Settings, network: Network, strict: bool = False, keeping: Keeping | None = None
    ) -> None:
        self._keeping = keeping or Keeping()
        undo = self._keeping.restore(network, settings.seed)
        self._record = open_for(settings, self._keeping.resumed, warn, strict)
        self._engine = Engine(settings, self._record, strict)
        try:
            self._patient: Patient = self._engine.add(network, in_loop=True)
            self._stages = Stages(self._patient.ward)
            self._engine.start()
            self._autosave = self._keeping.begin(self._engine, warn)
            self._get_to_know(settings, strict)
            self._keeping.finish()
        except BaseException:
            self._engine.stop("failed")
            undo()
            raise
        self._autosave.start()
        ending.begin(self.detach)

    def _get_to_know(self, settings: Settings, strict: bool) -> None:
        """From the probe now, or else from the first call; what a checkpoint tells is not learned again."""
        if not self._patient.anatomy.waiting:
            return
        if settings.probe is not None:
            self._patient.ward.strict = True
            self._patient.anatomy.learn_from((settings.probe[0][0],), {})
            self._patient.ward.strict = strict
        else:
            self._patient.anatomy.await_first_call()

    @property
    def id(self) -> str:
        """Name of the run, as `homeostat runs` lists it."""
        return self._record.run

    @property
    def path(self) -> Path | None:
        """The record's file, or None when it is in memory."""
        return self._record.path

    @property
    def steps(self) -> int:
        """Optimizer steps seen."""
        return self._engine.steps

    def findings(self) -> list[Finding]:
        """What is wrong now, most severe first."""
        return list(self._engine.findings)

    def vitals(self) -> dict[str, dict[str, Points]]:
        """Vital -> layer -> [(step, value)]; a value is None where it could not be measured."""
        return self._record.vitals()

    def boundaries(self) -> dict[int, str]:
        """Step after which a new task began -> its label."""
        return dict(self._record.boundaries())

    def journal(self) -> list[JournalEntry]:
        """What was done to the run."""
        self._patient.ward.flush()
        return self._record.journal()

    def not_measured(self) -> dict[str, str]:
        """What could not be measured or treated, and why."""
        return {entry.what: entry.why for entry in self._record.not_measured()}

    def units(self) -> dict[str, int]:
        """Layers whose units are paired with everything that makes and uses them -> number of units."""
        site = self._patient.ward.site
        return {group.layer: group.width for group in site.units} if site is not None else {}

    def before_clip(self, *optimizers: Optimizer) -> None:
        """Let penalties be added to the gradients now, so that a clip that follows sees them.

        By default they are added when the optimizer's `step` begins, which is after a clip of yours: the penalty then
        has its full strength whatever the clip does. Called between `backward()` and the clip, once a step, this places
        them before it, as if they were in the loss. With a GradScaler call `scaler.unscale_(optimizer)` first, as for
        the clip itself.

        Args:
            optimizers: those about to step; all of the run's when none is given.

        Raises:
            BadInput: the gradients are still scaled; nothing was changed.
        """
        self._engine.before_clip(optimizers or self._patient.network.optimizers)

    def boundary(self, label: str = "", evaluation: Any = None) -> None:
        """Say that a new task begins now.

        Args:
            label: its name.
            evaluation: (inputs, targets) to evaluate it by from now on, where `attach(tasks=...)` did not have them
                yet; so with sets that come one by one, `attach` has those of the first task.

        Raises:
            BadInput: they do not fit the network or the loss given to `attach`; nothing was changed.
        """
        self._autosave.settle()
        self._engine.boundary(label, evaluation)

    def batch(self, inputs: Tensor, targets: Tensor, tasks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The batch to learn from, with what treatments of stage "batch" add to it (rehearsed items come last).

        Args:
            inputs, targets: the user's batch [N, ...] each; what is returned is [N + M, ...] each.
            tasks: [N], whole numbers: the task each item comes from (boundaries before it), where your batch already
                holds items of earlier tasks; else all are taken to be of the present one.

        Raises:
            BadInput: they are not two tensors of one length, or `tasks` does not number the tasks begun so far.
        """
        return self._stages.batch(inputs, targets, tasks)

    def loss(self, criterion: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The loss function, called as `criterion(outputs, targets)`, with what treatments of stage "loss" change
        about the outputs it sees. Outputs without a gradient (evaluation) pass through untouched."""
        return self._stages.loss(criterion)

    def evaluation(self) -> AbstractContextManager[None]:
        """Inside, the network is what treatments of stage "evaluation" want evaluated (averaged weights, say);
        afterwards it is bit for bit what it was."""
        return self._stages.evaluation()

    def treat(self, treatment: Treatment | str) -> None:
        """Begin a treatment now.

        Raises:
            UnknownName, BadSetting, Refused: nothing was changed.
        """
        made = build("treatment", treatment) if isinstance(treatment, str) else treatment
        self._autosave.settle()
        self._patient.ward.add(made)
        self._patient.next_event = self._patient.network.step + 1

    def report(self, path: Path | str) -> Path:
        """Write the report page (needs the `report` extra)."""
        from homeostat.report import write_report

        return write_report(self._record, Path(path))

    def to_json(self) -> dict[str, Any]:
        """The run as `--json` writes it."""
        from homeostat.record.export import to_json

        self._patient.ward.flush()
        return to_json(self._record)

    def save(self, path: Path | str, *, extra: Mapping[str, Any] | None = None, network: bool = True) -> Path:
        """Write a checkpoint from which `attach(..., resume=path)` goes on bit for bit. Call it between two steps.

        One file (safetensors: tensors and JSON, nothing pickled) that is whole or not there: a crash at any moment
        leaves the checkpoint that was there before, or this one.

        Args:
            path: the file; one that is there is replaced.
            extra: as for `attach`; None takes what was given there.
            network: save the model, the optimizers, `extra`, averaged copies and random streams too; else Homeostat's
                own state only, for a script that saves the rest itself.

        Raises:
            BadInput: something cannot be kept without pickling; says what. Nothing was written.
            CheckpointError: the disk or the folder does not take it; an earlier checkpoint is untouched.
        """
        given = self._keeping.extra if extra is None else check_extra(extra)
        return Draft(self._engine, given if network else {}, network).write(Path(path))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue in another process: tensors, numbers and texts only."""
        return self._engine.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; call it after the model and the optimizer were loaded, before the first step.

        Raises:
            BadInput: the state is of another kind of run.
        """
        self._engine.load_state_dict(state)

    def detach(self, status: str = "finished") -> None:
        """Take every hook off and close the record; vitals, findings and the report stay readable. Safe to repeat."""
        ending.done(self.detach)
        self._autosave.stop()
        for treatment, why in self._stages.never_opened().items():
            self._engine.not_measured(treatment, why)
        self._engine.stop(status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.detach()
        else:
            self.detach("interrupted" if issubclass(kind, KeyboardInterrupt) else "failed")
