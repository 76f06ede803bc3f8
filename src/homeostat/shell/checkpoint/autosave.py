"""Save checkpoints at fixed steps."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from homeostat.core.errors import HomeostatError
from homeostat.core.signals import pass_on
from homeostat.shell.checkpoint.checkpoint import CheckpointDraft, CheckpointManager
from homeostat.shell.hooks.backward_hooks import BACKWARD_HOOKS
from homeostat.shell.hooks.step_hooks import STEP_HOOKS, Arguments
from homeostat.shell.run.run import Run


class Autosave:
    """Saves a checkpoint every `options.every` steps. A failure is reported once and tried again at the next one.

    Hooks cannot see the end of a step: after `optimizer.step()` the loop may still move a scheduler, a scaler or an
    average. So the checkpoint is written when the next update begins or the run ends, with Homeostat's state, the
    random streams and the buffers as they were right after the step.

    Args:
        run: must be started before this is.
        options: path, interval and what else to save.
        warn: shows a message to the user.
    """

    def __init__(self, run: Run, options: CheckpointManager, warn: Callable[[str], object]) -> None:
        self._run, self._options, self._warn = run, options, warn
        self._draft: CheckpointDraft | None = None
        self._seen, self._warned, self._owner = run.steps, "", os.getpid()

    def start(self) -> None:
        """Listen to optimizer steps, if there is an interval."""
        if self._options.every is None:
            return
        self._seen = self._run.steps
        STEP_HOOKS.subscribe(self)
        BACKWARD_HOOKS.on_skipped.insert(0, self._skipped)

    def stop(self) -> None:
        """Write what is still to be written and stop listening."""
        self.settle()
        STEP_HOOKS.unsubscribe(self)
        if self._skipped in BACKWARD_HOOKS.on_skipped:
            BACKWARD_HOOKS.on_skipped.remove(self._skipped)

    def settle(self) -> None:
        """Write the checkpoint of the last step, which is over, if one is due."""
        draft, self._draft = self._draft, None
        if draft is not None and os.getpid() == self._owner:
            self._guard(lambda: draft.write(self._options.path))

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """The next update begins, so the last step is over."""
        self.settle()
        return None

    def after_step(self, optimizer: Optimizer) -> None:
        """Copy the state of a step that is due; a later optimizer of the same step changes nothing of it."""
        steps, every = self._run.steps, self._options.every
        if steps != self._seen:
            self._seen = steps
            if every and steps % every == 0 and os.getpid() == self._owner:
                self._guard(self._take)

    def _skipped(self, optimizer: Optimizer) -> None:
        self.settle()

    def _take(self) -> None:
        self._draft = CheckpointDraft(self._run, self._options.extra)

    def _guard(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            pass_on(error)
            known = isinstance(error, HomeostatError)
            why = str(error) if known else f"an internal error ({type(error).__name__}: {error})"
            if why != self._warned:
                self._warn(f"no checkpoint of step {self._seen}: {why}; training goes on")
            self._warned = why
