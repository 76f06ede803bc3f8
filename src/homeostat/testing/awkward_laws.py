"""The laws of a treatment on awkward batches and awkward networks."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from homeostat.core.errors import Refused
from homeostat.core.treatment import Treatment
from homeostat.testing.engine_laws import AttachedLoop, eager, loop
from homeostat.testing.grid import CONV, GATED, MET, MLP, NORMED, PARAMETRIZED, TIED, TWICE, Case
from homeostat.testing.grid_runs import benches
from homeostat.testing.mini_run import Bench

STEPS = 24
FEW = (TIED, TWICE, PARAMETRIZED, GATED)

BATCHES: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "constant": lambda x: torch.full_like(x, 0.75),
    "one-hot": lambda x: torch.eye(x[0].numel(), dtype=x.dtype)[torch.arange(len(x)) % x[0].numel()].view_as(x),
    "one item repeated": lambda x: x[:1].expand_as(x),
    "huge": lambda x: 1e6 * x,
    "tiny": lambda x: 1e-20 * x,
    "not contiguous": lambda x: x.unsqueeze(-1).expand(*x.shape, 2).clone()[..., 0],
}
"""Batches that are unusual but real: name -> transform of an ordinary batch."""


@dataclass(frozen=True)
class Awkward(Case):
    """A network of the grid that gets each kind of batch for three steps, with an ordinary batch in between."""

    def data(self, step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = super().data(step)
        kind, place = divmod(step - 1, 4)
        return (inputs if place == 3 else list(BATCHES.values())[kind % len(BATCHES)](inputs)), targets


def awkward(case: Case) -> Awkward:
    """The same network on awkward batches."""
    return Awkward(**{spec.name: getattr(case, spec.name) for spec in fields(Case)})


def awkward_batches(treatment: Treatment) -> None:
    """On batches of zeros, constants, one-hot vectors, one repeated item, huge and tiny numbers, and non-contiguous
    memory, its promises hold, and parameters, optimizer state and its own state stay finite."""
    for bench in benches(treatment, [awkward(case) for case in (MLP, NORMED, CONV)]):
        for _ in range(4 * len(BATCHES)):
            for event in bench.train(1):
                wrong = treatment.effect(event.before, event.edits, event.after)
                assert not wrong, f"{_place(bench)}: {wrong}"
            _finite({**bench.snapshot(), **bench.state}, _place(bench))


def _place(bench: Bench) -> str:
    kind = list(BATCHES)[(bench.step - 1) // 4 % len(BATCHES)]
    return f"on {bench.case.name!r} with batches of kind {kind!r}"


def _finite(tensors: dict[str, Tensor], where: str) -> None:
    bad = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    assert not bad, f"{where}, {bad[0]} is not finite"


def nan_batch(treatment: Treatment) -> None:
    """After a batch that contains NaN or is empty, parameters and the treatment's state stay finite if the loop sets
    non-finite gradients to zero; in a loop that does not, training still runs to its end."""
    it = loop(treatment, _guarded)
    it.go(1, STEPS)
    it.run.detach()
    _finite(dict(it.model.state_dict()), "after a NaN batch")
    _finite(_treated(it), "after a NaN batch")
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        lost = loop(treatment, _poisoned, strict=False)
        lost.go(1, STEPS)
        lost.run.detach()


def _spoiled(it: AttachedLoop, number: int) -> tuple[Tensor, Tensor]:
    inputs, targets = it.case.data(number)
    if number % 6 == 3:
        return inputs * torch.nan, targets
    if number % 6 == 0:
        return inputs[:0], targets[:0]
    return inputs, targets


def _guarded(it: AttachedLoop, number: int) -> None:
    """A loop that sets non-finite gradients to zero."""
    it.optimizer.zero_grad()
    it.loss(*_spoiled(it, number)).backward()
    for parameter in it.model.parameters():
        if parameter.grad is not None:
            parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
    it.optimizer.step()


def _poisoned(it: AttachedLoop, number: int) -> None:
    it.optimizer.zero_grad()
    it.loss(*_spoiled(it, number)).backward()
    it.optimizer.step()


def _treated(it: AttachedLoop) -> dict[str, Tensor]:
    """The treatment's state, read from the state_dict of the run."""
    networks = it.run.state_dict()["networks"]
    applied = [one for network in networks.values() for one in network["treatments"]["applied"].values()]
    assert applied, "the treatment was stopped by a NaN batch"
    return {name: value for one in applied for name, value in one["state"].items()}


def any_network(treatment: Treatment, thorough: bool) -> None:
    """Attached to networks with tied, shared, parametrized and gated parts (in the thorough check: to the whole grid),
    it trains to finite weights, or refuses with a reason and changes nothing."""
    for case in MET if thorough else FEW:
        try:
            it = loop(treatment, eager, case)
            it.go(1, 8)
        except Refused as refusal:
            assert refusal.why, f"{case.name!r} is refused without a reason"
            continue
        it.run.detach()
        _finite(dict(it.model.state_dict()), f"on {case.name!r}")
