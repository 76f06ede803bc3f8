"""Stacked optimizers equal torch's, replica by replica."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from homeostat.core.errors import BadInput
from homeostat.fleet.optimizers import stacked_optimizers

R = 4
CASES = {
    "SGD": partial(torch.optim.SGD, lr=0.1),
    "SGD, decay": partial(torch.optim.SGD, lr=0.1, weight_decay=0.03),
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01, dampening=0.2),
    "Nesterov": partial(torch.optim.SGD, lr=0.05, momentum=0.8, nesterov=True),
    "Adam": partial(torch.optim.Adam, lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.02),
    "AdamW": partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1),
    "Adam, decoupled": partial(torch.optim.AdamW, lr=1e-2),
    "RMSprop": partial(torch.optim.RMSprop, lr=1e-3, alpha=0.9, weight_decay=0.01),
    "RMSprop, centred": partial(torch.optim.RMSprop, lr=1e-3, centered=True, momentum=0.7),
}


def _compare(make, knobs: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    template = nn.Linear(3, 5, dtype=torch.float64)
    stacked = {n: torch.randn(R, *p.shape, dtype=torch.float64) for n, p in template.named_parameters()}
    alone = [{n: nn.Parameter(v[r].clone()) for n, v in stacked.items()} for r in range(R)]
    theirs = [make(list(each.values())) for each in alone]
    for r, optimizer in enumerate(theirs):
        for key, value in knobs.items():
            optimizer.param_groups[0][key] = float(value[r])
    (ours,) = stacked_optimizers(make, template, stacked, knobs)
    for step in range(6):
        gradients = {n: torch.randn_like(v) for n, v in stacked.items()}
        if step == 3:
            del gradients["bias"]  # a parameter without a gradient is left alone
        ours.step(gradients)
        for r, optimizer in enumerate(theirs):
            for name, parameter in alone[r].items():
                parameter.grad = gradients[name][r].clone() if name in gradients else None
            optimizer.step()
    for name, value in stacked.items():
        expected = torch.stack([each[name].detach() for each in alone])
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_equals_torch_with_equal_settings(case):
    _compare(CASES[case], {})


@pytest.mark.parametrize("case", CASES)
def test_equals_torch_with_a_setting_per_replica(case):
    knobs = {"lr": torch.tensor([0.1, 0.01, 0.02, 0.0]), "weight_decay": torch.tensor([0.0, 0.1, 0.5, 0.01])}
    _compare(CASES[case], {name: value.double() for name, value in knobs.items()})


def test_refuses_what_has_no_stacked_form():
    template = nn.Linear(2, 2)
    stacked = dict(template.named_parameters())
    for make, knobs, named in (
        (torch.optim.Adagrad, {}, "Adagrad"),
        (partial(torch.optim.Adam, amsgrad=True), {}, "amsgrad"),
        (partial(torch.optim.SGD, lr=0.1), {"alpha": 0.5}, "alpha"),
    ):
        with pytest.raises(BadInput, match=named):
            stacked_optimizers(make, template, stacked, knobs)
