"""The laws of a treatment that resets units."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from homeostat.core.edits import ClearMoments, Edit, SetValues
from homeostat.core.treatment import Stage, Treatment
from homeostat.testing.grid import DEAD, MLP, TANH, suited
from homeostat.testing.law import DoesNotApply
from homeostat.testing.mini_run import Bench

NO_UNITS = "it resets no units"


def moments_cleared(treatment: Treatment) -> None:
    """Optimizer state is zero where an edit clears it, and wherever weights of a unit were reset."""
    seen = 0
    for adam, keys in ((True, ("exp_avg", "exp_avg_sq")), (False, ("momentum_buffer",))):
        bench = Bench(suited(MLP, treatment) if treatment.needs_batch_norm else TANH, treatment, adam)
        for _ in range(30):
            for event in bench.train(1):
                for edit in event.edits:
                    if isinstance(edit, ClearMoments) or (isinstance(edit, SetValues) and resets(treatment)):
                        _cleared(bench, edit, keys)
                        seen += 1
    if not seen:
        raise DoesNotApply("it clears no optimizer state and resets no units")


def _cleared(bench: Bench, edit: ClearMoments | SetValues, keys: Sequence[str]) -> None:
    state = bench.optimizer.state[bench.trained[edit.target]]
    where = True if edit.mask is None else edit.mask
    left = sum(float((state[key].abs() * where).sum()) for key in keys)
    assert left == 0, f"moments of {edit.target} are not cleared"


def function_preserved(treatment: Treatment) -> None:
    """Resetting dead units changes the network's output on the batch by at most 1e-6."""
    if not resets(treatment):
        raise DoesNotApply(NO_UNITS)
    bench, seen = Bench(DEAD, treatment), 0
    for _ in range(40):
        events = bench.train(1)
        if events and _only_dead(bench, events[0].edits):
            inputs, _ = DEAD.data(bench.step)
            after = torch.func.functional_call(bench.model, dict(events[0].after.parameters), (inputs,))
            before = torch.func.functional_call(bench.model, dict(events[0].before.parameters), (inputs,))
            gap = float((after - before).abs().max())
            assert gap <= 1e-6, f"resetting dead units moved the output by {gap:.2g} at step {bench.step}"
            seen += 1
    assert seen, "it never reset dead units only, although there were some"


def resets(treatment: Treatment) -> bool:
    """Whether the treatment resets units after an update."""
    return treatment.needs_units and treatment.stage == Stage.UPDATE


def _reset_units(bench: Bench, edits: Sequence[Edit]) -> dict[str, Tensor]:
    """Layer -> mask of the units whose incoming weights were set."""
    weights = {group.weight.name: group.layer for group in bench.case.groups}
    return {
        weights[e.target]: e.mask.flatten(1)[:, 0]
        for e in edits
        if isinstance(e, SetValues) and e.units is not None and e.mask is not None
    }


def _only_dead(bench: Bench, edits: Sequence[Edit]) -> bool:
    masks = _reset_units(bench, edits)
    return bool(masks) and all(not bool((bench.activations[layer] * mask).any()) for layer, mask in masks.items())


def learns_again(treatment: Treatment) -> None:
    """On a network without dead units, the outgoing weights of every reset unit get a gradient in the next step, and
    its incoming weights in the step after that."""
    if not resets(treatment):
        raise DoesNotApply(NO_UNITS)
    bench, now, last = Bench(TANH, treatment), {}, {}
    seen = 0
    for _ in range(60):
        events = bench.train(1)
        for group in TANH.groups:
            for axis, masks in ((group.columns[0], now), (group.weight, last)):
                if (mask := masks.get(group.layer)) is not None:
                    gradient = bench.view().gradients[axis.name]
                    reached = axis.total(gradient.abs(), gradient.ndim, group.width) > 0
                    assert bool((reached | ~mask).all()), (
                        f"{axis.name} of units of {group.layer} gets no gradient again"
                    )
                    seen += 1
        # a unit reset twice in a row has zero outgoing weights again
        fresh = _reset_units(bench, events[0].edits) if events else {}
        last, now = {layer: m & ~fresh.get(layer, torch.zeros_like(m)) for layer, m in now.items()}, fresh
    assert seen, "it never reset a unit"
