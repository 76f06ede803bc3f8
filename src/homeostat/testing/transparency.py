"""The law "transparent": a measured run is bit for bit equal to a run that is not measured."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from homeostat.core.vital import Vital
from homeostat.shell.attach import attach
from homeostat.shell.options import MeasureOptions
from homeostat.shell.run.twin import twin

STEPS = 5


def transparent(*vitals: Vital) -> None:
    """Measuring it at every step of a real run with two tasks, dropout and batch norm does not change weights, buffers,
    gradients, optimizer state or any random stream, bit for bit.

    Args:
        vitals: vitals that are measured together.
    """
    with _fixed_streams():
        bare, _ = _run(())
    with _fixed_streams():
        measured, run = _run(vitals)
    for vital in vitals:
        points = [value for rows in run.vitals().get(vital.name, {}).values() for _, value in rows]
        why = run.not_measured().get(vital.name, "no reason given")
        assert any(value is not None for value in points), (
            f"attached to a run with a probe, {vital.name} measured nothing ({why})"
        )
    for name, value in bare.items():
        assert _equal(value, measured[name]), f"measuring changes {name}"


def _run(vitals: Sequence[Vital]) -> tuple[dict[str, Any], Any]:
    """The results of a run by name, and the attached run, if vitals are measured."""
    model = nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    probe = ((torch.randn(16, 6), torch.randint(3, (16,))), F.cross_entropy)
    other, its_optimizer = twin(model, optimizer, sigma=0.1)
    run = None
    if vitals:
        tasks = ({"first": probe[0], "second": probe[0]}, F.cross_entropy)
        more = MeasureOptions(tasks=tasks, twin=other)
        run = attach(model, optimizer, vitals=vitals, probe=probe, every=1, strict=True, measure=more)
    losses = []
    for step in range(STEPS):
        if run is not None and step == STEPS // 2:
            run.boundary("second")
        its_optimizer.step()  # counts as a step of the twin, and changes no weight
        losses.append(_step(model, optimizer))
    found = _everything(model, optimizer, losses)
    found |= {f"the value of {n} in the twin": v.clone() for n, v in other.state_dict().items()}
    if run is not None:
        run.detach()
    return found, run


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    inputs, targets = torch.randn(32, 6), torch.randint(3, (32,))
    optimizer.zero_grad()
    loss = F.cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.detach()


def _everything(model: nn.Module, optimizer: torch.optim.Optimizer, losses: list[Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = {f"the loss of step {i}": loss for i, loss in enumerate(losses, 1)}
    found |= {f"the value of {n}": v.clone() for n, v in model.state_dict().items()}
    for n, p in model.named_parameters():
        found[f"the gradient of {n}"] = None if p.grad is None else p.grad.clone()
        found[f"requires_grad of {n}"] = p.requires_grad
        found |= {f"{k} of {n} in the optimizer": torch.as_tensor(v).clone() for k, v in optimizer.state[p].items()}
    found["the training mode"] = [m.training for m in model.modules()]
    found["torch's random stream"] = torch.get_rng_state()
    found["Python's random stream"] = random.getstate()
    found["numpy's random stream"] = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    found["the grad mode"] = torch.is_grad_enabled()
    return found


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    return first == second


@contextlib.contextmanager
def _fixed_streams() -> Iterator[None]:
    """Seed every global random stream, and restore it afterwards."""
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)  # noqa: NPY002
