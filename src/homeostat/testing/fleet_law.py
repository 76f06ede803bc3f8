"""The law "lifts": a plan for a stack of replicas equals the plans for each replica alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from homeostat.core.edits import AddGradient, AddValues, ClearMoments, Edit, MaskOutputs, SetBuffer, SetValues
from homeostat.core.random import Draw
from homeostat.core.treatment import State, Treatment, View
from homeostat.testing.grid import CONV, DOUBLE, suited
from homeostat.testing.mini_run import Bench, frozen

REPLICAS = 3
TOLERANCE = 1e-5
_GIVEN = ("inputs", "targets", "outputs")
_TABLES = ("parameters", "buffers", "gradients", "before", "initial", "activations")


def lifts(treatment: Treatment) -> None:
    """One plan for R stacked replicas has the same effect and the same next state as R plans for single networks.

    The effects of the edits are compared, because a replica that needs no edit may get one that changes nothing. The
    tolerance is 1e-5 relative, because batched products may round differently.
    """
    for case in (DOUBLE, CONV):
        benches = [Bench(suited(case, treatment), treatment, adam=False, seed=seed) for seed in range(REPLICAS)]
        stacked_state = treatment.init(_stack([b.view() for b in benches]), benches[0].knobs)
        _compare(stacked_state, _stacked([b.state for b in benches]), "the first state")
        for _ in range(14):
            views, states = _advance(benches)
            plans = [treatment.plan(v, s, benches[0].knobs) for v, s in zip(views, states, strict=True)]
            edits, state = treatment.plan(_stack(views), _stacked(states), benches[0].knobs)
            solo = _stacked([_outcome(v, e) for v, (e, _) in zip(views, plans, strict=True)])
            _compare(_outcome(_stack(views), edits), solo, "what the edits do")
            _compare(state, _stacked([s for _, s in plans]), "the state")


def _advance(benches: Sequence[Bench]) -> tuple[list[View], list[State]]:
    """Advance each run by one step; its view, and its state before the step."""
    states = [dict(bench.state) for bench in benches]
    for bench in benches:
        bench.train(1)
    return [frozen(bench.view()) for bench in benches], states


def _stack(views: Sequence[View]) -> View:
    stacked = {table: _stacked([getattr(view, table) for view in views]) for table in _TABLES}
    draw = Draw([v.draw.seed for v in views if isinstance(v.draw.seed, int)], views[0].draw.path)
    given = {name: [getattr(view, name) for view in views] for name in _GIVEN}
    tensors = {name: torch.stack(many) for name, many in given.items() if many[0] is not None}
    return replace(views[0], **stacked, **tensors, draw=draw)


def _stacked(many: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in many]) for name in many[0]}


def _outcome(view: View, edits: Sequence[Edit]) -> dict[str, Tensor]:
    """Result of the edits: parameters, buffers, gradients, and where moments are cleared."""
    found = {f"value/{n}": t.clone() for n, t in {**view.parameters, **view.buffers}.items()}
    found |= {f"gradient/{n}": t.clone() for n, t in view.gradients.items()}
    if view.outputs is not None:
        found["outputs"] = view.outputs.clone()
    found |= {f"cleared/{n}": torch.zeros_like(t, dtype=torch.bool) for n, t in view.parameters.items()}
    for edit in edits:
        where: Any = list(some) if (some := getattr(edit, "replicas", None)) is not None else ...
        match edit:
            case SetValues() | SetBuffer():
                now = found[f"value/{edit.target}"]
                mask = torch.tensor(True) if edit.mask is None else edit.mask
                now[where] = torch.where(mask, edit.value, now[where])
            case MaskOutputs():
                found["outputs"] = torch.where(edit.mask, edit.value, found["outputs"])
            case AddValues():
                found[f"value/{edit.target}"][where] += edit.value
            case AddGradient():
                found[f"gradient/{edit.target}"] = found[f"gradient/{edit.target}"] + edit.value
            case ClearMoments():
                mask = torch.tensor(True) if edit.mask is None else edit.mask
                found[f"cleared/{edit.target}"][where] |= mask
            case _:
                raise AssertionError(f"{type(edit).__name__} cannot act on stacked replicas")
    return found


def _compare(lifted: Mapping[str, Tensor], solo: Mapping[str, Tensor], what: str) -> None:
    assert lifted.keys() == solo.keys(), f"{what} of the stack has different names than that of the replicas"
    for name in solo:
        one, other = lifted[name], solo[name]
        assert one.shape == other.shape, f"{what}: {name} has shape {tuple(one.shape)}, not {tuple(other.shape)}"
        if one.is_floating_point():
            close = torch.allclose(one, other, rtol=TOLERANCE, atol=1e-7)
        else:
            close = torch.equal(one, other)
        assert close, f"{what}: {name} differs between the stack and the replicas alone"
