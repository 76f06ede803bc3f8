"""Checkpoints: options, and the file with all that a run needs to continue bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from homeostat.core.errors import BadInput, CheckpointError, RecordError
from homeostat.core.finding import JournalEntry
from homeostat.core.signals import pass_on
from homeostat.record.environment import version
from homeostat.record.statements import now_utc
from homeostat.shell.checkpoint import training_state
from homeostat.shell.checkpoint.encoding import Encoder, decode, read_file, write_file
from homeostat.shell.checkpoint.run_state import check_state, continue_run, replay_edits
from homeostat.shell.hooks.module_tree import named_buffers_in
from homeostat.shell.hooks.random_streams import random_state, set_random_state
from homeostat.shell.network import Network
from homeostat.shell.options import CheckpointOptions
from homeostat.shell.run.run import Run
from homeostat.shell.run.settings import Settings

FORMAT = 1


class CheckpointDraft:
    """A checkpoint of one step, written at once or later.

    Homeostat's state, random streams, generators and buffers are copied when this is made, the rest when it is written.
    In between the user's loop may finish the step: schedulers, scalers, averages.

    Args:
        run: between two steps.
        extra: name -> other object of the user's to save.
        network: also save the model, the optimizers, `extra` and the random streams.

    Raises:
        BadInput: something cannot be saved without pickling.
    """

    def __init__(self, run: Run, extra: Mapping[str, Any], network: bool = True) -> None:
        self._run, self._network = run, run.networks[0].network
        self._encoder, self._whole, self._extra = Encoder(), network, extra
        self._head: dict[str, Any] = {
            "run": run.record.run,
            "steps": run.steps,
            "saved_utc": now_utc(),
            "homeostat": version(),
            "state": self._encoder.encode(run.state_dict(), "Homeostat's state"),
        }
        self._buffers: dict[str, Any] = {}
        self._fixed: dict[str, Any] = {}
        if network:
            self._head["random"] = self._encoder.encode(random_state(), "the random streams")
            self._fix()

    def _fix(self) -> None:
        names = self._network.model.state_dict().keys()
        for name, buffer in named_buffers_in(self._network.model):
            if name in names:
                self._buffers[name] = self._encoder.encode(buffer, f"the buffer {name}")
        for name, thing in training_state.parts(self._network, self._extra).items():
            if isinstance(thing, (torch.Generator, np.random.Generator)):
                self._fixed[name] = self._encoder.encode(training_state.state_of(thing), name)

    def write(self, path: Path) -> Path:
        """Write the file.

        Raises:
            BadInput: as when it was made.
            CheckpointError: the disk or folder does not take it; an older file is untouched.
        """
        with self._run.guard("record"):
            self._run.record.flush()  # a record that ends before the checkpoint would keep a gap after a crash
        if self._whole:
            parts = training_state.parts(self._network, self._extra)
            self._head["parts"] = {name: self._part(name, thing) for name, thing in parts.items()}
        write_file(path, {"format": FORMAT, **self._head}, self._encoder.tensors)
        return path

    def _part(self, name: str, thing: Any) -> Any:
        if name in self._fixed:
            return self._fixed[name]
        node = self._encoder.encode(training_state.state_of(thing), name)
        if name == "model":
            node["dict"]["state"]["dict"].update(self._buffers)
        return node


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file.

    Args:
        path: of the file.
        run: id of the saved run.
        steps: optimizer steps of the saved run.
        state: Homeostat's own.
        parts: name -> state of the model, the optimizers and the rest; None if they were not saved.
        random: the random streams; None if they were not saved.
    """

    path: Path
    run: str
    steps: int
    state: Any
    parts: dict[str, Any] | None
    random: dict[str, Any] | None

    @classmethod
    def read(cls, path: Path | str) -> Checkpoint:
        """Read a checkpoint file.

        Raises:
            CheckpointError: it is missing, another kind of file, damaged, or written by a newer Homeostat.
        """
        path = Path(path)
        head, tensors = read_file(path)
        found = head.get("format") if isinstance(head, dict) else None
        if not isinstance(found, int) or found > FORMAT:
            raise CheckpointError(
                f"{path} was written by a newer Homeostat (checkpoint format {found}, this one reads up to {FORMAT}): "
                "upgrade with `pip install --upgrade homeostat`"
            )
        try:
            parts = {name: decode(node, tensors) for name, node in head["parts"].items()} if "parts" in head else None
            random = decode(head["random"], tensors) if "random" in head else None
            return cls(path, head["run"], int(head["steps"]), decode(head["state"], tensors), parts, random)
        except (BadInput, KeyError, TypeError, ValueError, AttributeError) as error:
            pass_on(error)
            raise CheckpointError(f"{path} is damaged or was written by something else: {error}") from error

    def check(self, settings: Settings, network: Network, extra: Mapping[str, Any]) -> None:
        """Check that a run of these settings, network and extras can continue from here.

        Raises:
            BadInput: it cannot; nothing was changed.
        """
        check_state(settings, [network], self.state)
        if self.parts is not None:
            training_state.check_parts(training_state.parts(network, extra), self.parts)

    def restore(self, network: Network, extra: Mapping[str, Any], seed: int) -> Callable[[], None]:
        """Repeat the saved run's edits of modules and load what it trained with; returns what undoes both.

        Raises:
            BadInput: something cannot be loaded; everything is as it was.
        """
        undo = replay_edits(network, self.state["networks"][network.label], seed)
        if self.parts is None:
            return undo
        try:
            unload = training_state.load(training_state.parts(network, extra), self.parts)
        except BaseException:
            undo()
            raise

        def undo_all() -> None:
            unload()
            undo()

        return undo_all


@dataclass(frozen=True)
class CheckpointManager:
    """Resumes a run, and knows what is saved of it.

    Args:
        resumed: the checkpoint to continue from.
        path, every: place and interval of automatic checkpoints; every is None if there are none.
        extra: name -> other object to save and restore.
    """

    resumed: Checkpoint | None = None
    path: Path = Path()
    every: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, options: CheckpointOptions) -> CheckpointManager:
        """From the user's options; reads the checkpoint to continue from.

        Raises:
            BadInput, CheckpointError: an extra cannot be saved, or the checkpoint cannot be read.
        """
        extra = training_state.check_extra(options.extra)
        resumed = None if options.resume is None else Checkpoint.read(options.resume)
        path = Path(options.save or "").absolute()  # the script may change its working directory
        return cls(resumed, path, options.every, extra)

    def restore(self, network: Network, seed: int) -> Callable[[], None]:
        """Load the network, optimizers and extras; returns what undoes it.

        Raises:
            BadInput: something cannot be loaded; everything is as it was.
        """
        if self.resumed is None:
            return lambda: None
        undo = self.resumed.restore(network, self.extra, seed)
        network.step = self.resumed.steps
        return undo

    def begin(self, run: Run, warn: Callable[[str], object]) -> None:
        """Continue the saved run in this one."""
        if self.resumed is not None:
            continue_run(run, self.resumed.state)
            note_resumption(run, self.resumed, warn)

    def finish(self) -> None:
        """Restore the random streams, which must come last."""
        if self.resumed is not None and self.resumed.random is not None:
            set_random_state(self.resumed.random)


def note_resumption(run: Run, resumed: Checkpoint, warn: Callable[[str], object]) -> None:
    """Cut the record off at the step of the checkpoint, and journal the resumption."""
    record, fact = run.record, {"step": resumed.steps, "utc": now_utc(), "checkpoint": str(resumed.path)}
    try:
        superseded = record.supersede(resumed.steps, run.findings)
        earlier = record.facts().get("resumed", [])
        parent = {} if record.run == resumed.run else {"parent": resumed.run}
        record.set_facts(resumed=[*earlier, fact | {"superseded_steps": superseded}], **parent)
        record.flush()
    except RecordError as error:
        pass_on(error)
        warn(str(error))
        return
    whose = "" if record.run == resumed.run else f" of {resumed.run}"
    why = f"resumed from the checkpoint of step {resumed.steps}{whose}"
    why += f"; {superseded} steps recorded after it are left out" if superseded else ""
    run.add_entry(JournalEntry(resumed.steps, "homeostat", "resume", resumed.path.name, why, detail=fact))
