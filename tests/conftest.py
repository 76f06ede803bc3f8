"""Torch uses one thread, because several slow small tensors down on shared cores; a run ends with its test."""

import gc

import pytest
import torch

from homeostat.shell.hooks.module_hooks import MODULE_HOOKS
from homeostat.shell.hooks.step_hooks import STEP_HOOKS

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def runs_end_with_their_test():
    """A run that a test leaves attached does not see the steps of the tests after it, and has no hooks any more."""
    before, placed = list(STEP_HOOKS._listeners), set(MODULE_HOOKS._placed)
    yield
    for listener in [one for one in STEP_HOOKS._listeners if one not in before]:
        listener.stop()  # type: ignore[attr-defined]
    for key in set(MODULE_HOOKS._placed) - placed:
        MODULE_HOOKS.take_off(key)
    gc.unfreeze()  # what is not listed is searched for slowly
