"""Step counts per element: a reset row moves like a new parameter under a new optimizer, the others as before."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

import homeostat
from homeostat import TreatOptions
from homeostat.core.edits import ClearMoments, GrowUnits, SetValues
from homeostat.core.errors import Refused
from homeostat.core.units import Axis, UnitGroup
from homeostat.shell.edits.apply import apply_edits
from homeostat.shell.edits.element_steps import ElementSteps
from homeostat.shell.edits.optimizer_state import Holders

COUNTING: list[tuple[Any, dict[str, Any]]] = [
    (optim.Adam, {}),
    (optim.Adam, {"amsgrad": True, "weight_decay": 0.1, "maximize": True}),
    (optim.Adam, {"fused": True, "betas": (0.5, 0.9)}),
    (optim.AdamW, {"foreach": True, "weight_decay": 0.1}),
    (optim.Adamax, {}),
    (optim.RAdam, {"betas": (0.9, 0.99)}),
]
COUNTLESS: list[tuple[Any, dict[str, Any]]] = [
    (optim.SGD, {"momentum": 0.9}),
    (optim.RMSprop, {"centered": True, "momentum": 0.9}),
    (optim.Adadelta, {}),
    (optim.Adagrad, {}),
    (optim.Rprop, {}),
]
NEW = torch.linspace(-1, 1, 3, dtype=torch.float64)


class Box(nn.Module):
    """One parameter, with gradients of its own."""

    def __init__(self, rows: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(rows, 3, generator=generator, dtype=torch.float64))

    def step(self, optimizer: optim.Optimizer, at: int, rows: Any = slice(None)) -> None:
        generator = torch.Generator().manual_seed(at)
        self.w.grad = torch.randn(6, 3, generator=generator, dtype=torch.float64)[rows]
        optimizer.step()


@pytest.mark.parametrize(("kind", "options"), [*COUNTING, *COUNTLESS])
def test_each_reset_row_moves_as_under_an_optimizer_that_was_made_at_its_reset(kind: Any, options: dict) -> None:
    box, twin, steps = Box(), Box(), ElementSteps()
    treated, untreated = kind(box.parameters(), lr=0.01, **options), kind(twin.parameters(), lr=0.01, **options)
    resets = {7: [1, 4], 12: [4], 15: [0]}
    fresh: dict[int, tuple[Box, optim.Optimizer]] = {}
    for at in range(40):
        box.step(treated, at)
        twin.step(untreated, at)
        steps.after_step({"w": box.w}, Holders([treated]))
        for row, (other, optimizer) in fresh.items():
            other.step(optimizer, at, [row])
            torch.testing.assert_close(box.w[row], other.w[0], rtol=1e-10, atol=1e-12)
        for row in resets.get(at, []):
            mask = torch.zeros(6, 1, dtype=torch.bool)
            mask[row] = True
            apply_edits(
                [SetValues("w", NEW, mask), ClearMoments("w", mask, restart=True)], box, [treated], elements=steps
            )
            fresh[row] = (single := Box(1)), kind(single.parameters(), lr=0.01, **options)
            single.w.data.copy_(NEW)
    assert torch.equal(box.w[[2, 3, 5]], twin.w[[2, 3, 5]])
    assert bool(steps) == ((kind, options) in COUNTING)


def test_without_them_the_first_steps_of_a_cleared_element_are_up_to_6_6_times_too_long() -> None:
    box = Box()
    optimizer = optim.Adam(box.parameters(), lr=1.0, eps=0.0)
    box.step(optimizer, 0)
    optimizer.state[box.w]["step"].fill_(1e6)
    apply_edits([ClearMoments("w")], box, [optimizer])
    lengths = []
    for _ in range(30):
        before = box.w.detach().clone()
        box.w.grad = torch.ones_like(box.w)
        optimizer.step()
        lengths.append(float((box.w.detach() - before).abs().max()))
    assert round(lengths[0], 1) == 3.2 and round(max(lengths), 1) == 6.6 and lengths.index(max(lengths)) + 1 == 12


def test_a_step_that_did_not_happen_corrects_nothing_and_old_elements_are_forgotten() -> None:
    box, steps = Box(), ElementSteps()
    optimizer = optim.Adam(box.parameters(), betas=(0.5, 0.5))
    box.step(optimizer, 0)
    mask = torch.tensor([True] + [False] * 5)[:, None]
    apply_edits([ClearMoments("w", mask, restart=True)], box, [optimizer], elements=steps)
    before = box.w.detach().clone()
    steps.after_step({"w": box.w}, Holders([optimizer]))
    assert torch.equal(box.w, before)
    for at in range(1, 40):
        box.step(optimizer, at)
        steps.after_step({"w": box.w}, Holders([optimizer]))
    assert not steps.state_dict()["since"]["w"].any()


def test_units_that_are_added_count_from_then_on_and_old_resets_keep_their_counts() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    group = UnitGroup("0", 4, (Axis("0.weight", 0, torch.arange(4)),), (Axis("2.weight", 1, torch.arange(4)),))
    optimizer, steps = optim.Adam(model.parameters(), 0.01), ElementSteps()
    single = Box(1)
    single.w.data.copy_(NEW)
    fresh = optim.Adam(single.parameters(), 0.01)
    for at in range(12):
        if at == 4:
            mask = torch.tensor([True, False, False, False])[:, None]
            apply_edits([ClearMoments("0.weight", mask, restart=True)], model, [optimizer], elements=steps)
        if at == 6:
            old = copy.deepcopy(steps.state_dict()["since"])
            grow = GrowUnits("0", group, 1, {"0.weight": NEW})
            apply_edits([grow], model, [optimizer], elements=steps).undo()
            assert all(torch.equal(steps.state_dict()["since"][k], v) for k, v in old.items())
            apply_edits([grow], model, [optimizer], elements=steps)
            since = steps.state_dict()["since"]
            assert since["0.weight"][:, 0].tolist() == [4, 0, 0, 0, 6] and since["2.weight"][0].tolist() == [
                0,
                0,
                0,
                0,
                6,
            ]
        generator = torch.Generator().manual_seed(at)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
        steps.after_step(dict(model.named_parameters()), Holders([optimizer]))
        if at >= 6:
            single.w.grad = model.get_parameter("0.weight").grad[4:].clone()  # type: ignore[index]
            fresh.step()
            torch.testing.assert_close(model.get_parameter("0.weight")[4:], single.w, rtol=1e-10, atol=1e-12)


def test_restart_with_a_mask_is_undone_and_refused_where_counts_mean_something_else() -> None:
    box, steps = Box(), ElementSteps()
    mask = torch.tensor([True] + [False] * 5)[:, None]
    clear = ClearMoments("w", mask, restart=True)
    adam = optim.Adam(box.parameters())
    apply_edits([clear], box, [adam], elements=steps)
    assert not steps, "before the first step there is nothing to count"
    box.step(adam, 0)
    apply_edits([clear], box, [adam], elements=steps).undo()
    assert not steps
    for optimizers in (
        [optim.NAdam(box.parameters())],
        [optim.SGD(box.parameters(), momentum=0.9, dampening=0.5)],
        [optim.Adagrad(box.parameters(), lr_decay=0.1)],
        [adam, optim.Adamax(box.parameters())],
    ):
        with pytest.raises(Refused, match=r"step count|count its steps"):
            apply_edits([clear], box, optimizers, elements=steps)


def attached(steps: int, element_steps: bool, resume: Any = None) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = optim.Adam(model.parameters(), 0.01)
    texts = ["continual-backprop:replacement_rate=0.05,maturity_threshold=4"]
    run = homeostat.attach(
        model, optimizer, treatments=texts, every=1000, strict=True, treat=TreatOptions(element_steps=element_steps)
    )
    start = 0
    with run:
        if resume is not None:
            start = 15
            run.load_state_dict(resume[2])
            model.load_state_dict(resume[0])
            optimizer.load_state_dict(resume[1])
        for step in range(start, steps):
            x: Tensor = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), run.state_dict()))
    return model, saved


def test_an_attached_run_keeps_them_when_asked_and_over_a_resume() -> None:
    with_steps, plain = attached(30, True)[0].state_dict(), attached(30, False)[0].state_dict()
    assert not torch.equal(with_steps["0.weight"], plain["0.weight"])
    resumed = attached(30, True, attached(15, True)[1])[0].state_dict()
    assert all(torch.equal(resumed[k], with_steps[k]) for k in with_steps)
