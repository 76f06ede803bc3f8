"""Checks whether a treatment can be applied correctly to a network and its optimizers, before it starts."""

from __future__ import annotations

from homeostat.core.errors import Refused
from homeostat.core.snapshot import Reading
from homeostat.core.treatment import Stage, Treatment
from homeostat.shell.ddp.process_group import processes
from homeostat.shell.network import Network

OPENED_BY = {Stage.BATCH: "run.batch(...)", Stage.LOSS: "run.loss(...)", Stage.EVALUATION: "run.evaluation()"}
"""Stages that optimizer steps do not show -> the line of the user's loop that opens them."""
LINES = {**OPENED_BY, Stage.BOUNDARY: "run.boundary()"}
"""The same with boundaries, without which a run can be treated, but not at their stage."""
_MULTI_EVALUATION = ("LBFGS",)
_DIVIDED = ("ZeroRedundancyOptimizer",)


def admit(treatment: Treatment, network: Network, in_loop: bool) -> None:
    """Check a treatment.

    Args:
        in_loop: whether the user's loop can open the stages that optimizer steps do not show.

    Raises:
        Refused: with the reason.
    """
    if treatment.stage in OPENED_BY and not in_loop:
        opened = OPENED_BY[treatment.stage]
        why = f"it acts at the stage {treatment.stage.value!r}, which only a loop with {opened} in it can open"
        raise Refused(treatment.name, "this run", why)
    for optimizer in network.optimizers:
        kind = type(optimizer).__name__
        if treatment.stage == Stage.GRADIENT and kind in _MULTI_EVALUATION:
            why = "it evaluates the loss several times a step and would not see the added gradient in the loss"
            raise Refused(treatment.name, kind, why)
        if Reading.UPDATES in treatment.reads and kind in _MULTI_EVALUATION:
            why = "it evaluates the loss several times a step: its last gradient is not that of the weights before"
            raise Refused(treatment.name, kind, why)
        if kind in _DIVIDED:
            raise Refused(treatment.name, kind, "its state is divided among the ranks, and only a part of it is here")
    if treatment.stage == Stage.GRADIENT and (name := network.held_twice()):
        raise Refused(treatment.name, name, "two optimizers train it, and both would read what is added for one")
    if sharded := network.sharded():
        why = "it is sharded over processes (FSDP, DTensor), and treatments work on whole parameters: use DDP"
        raise Refused(treatment.name, sharded, why)


def admit_rank(treatment: Treatment, network: Network) -> None:
    """Check a treatment that starts in one of several processes: every rank must plan from the same numbers.

    Raises:
        Refused: with the reason.
    """
    if (count := processes()) == 1 or network.ranks is not None:
        return
    if Reading.ACTIVATIONS in treatment.reads:
        why = f"it reads activations, which differ between the {count} processes of torch.distributed"
        how = "wrap the model in DistributedDataParallel, and give the treatment to attach() on every rank"
        raise Refused(treatment.name, network.label or "this network", f"{why}: {how}")
