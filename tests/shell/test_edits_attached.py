"""Edits of modules in an attached run: after modules were replaced or grown, the units are learned anew."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

import homeostat
from homeostat import TreatOptions
from homeostat.core.edits import Edit, GrowUnits
from homeostat.core.treatment import Stage, State, Treatment, View

CBP = "continual-backprop:replacement_rate=0.05,maturity_threshold=4,decay_rate=0.9"


class GrowTwo(Treatment, abstract=True):
    """Add two units to the first layer."""

    name = "grow-two"
    stage = Stage.MODULES
    needs_units = True

    def plan(self, view: View, state: State, knobs) -> tuple[Sequence[Edit], State]:
        group = view.units[0]
        fresh = view.fresh[group.weight.name].sample(view.draw, "new", view.parameters[group.weight.name][:2])
        return [GrowUnits(group.layer, group, 2, {group.weight.name: fresh})], state


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def train(model: nn.Module, optimizer: optim.Optimizer, start: int, steps: int) -> None:
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(16, 4, generator=generator), torch.randint(0, 3, (16,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def resets(run: homeostat.AttachedRun) -> set[str]:
    return {e.where for e in run.journal() if e.component == "continual-backprop" and e.action == "edit"}


@pytest.mark.parametrize("order", [0, 1])
def test_units_are_reset_with_the_norms_that_were_put_in(order: int) -> None:
    model = mlp()
    optimizer = optim.Adam(model.parameters(), 0.01)
    texts = ["layer-norm-insertion", CBP][:: 1 - 2 * order]
    with homeostat.attach(model, optimizer, treatments=texts, every=5, strict=True) as run:
        train(model, optimizer, 0, 40)
        traced = run._network.treatments.traced
        assert run.units() == {"0": 8, "2": 6} and resets(run) == {"0.weight", "2.weight"}
        assert traced is not None and traced.before is not None and not traced.before.units[0].carriers
        assert [a.name for a in traced.units[0].carriers] == ["0.norm.weight", "0.norm.bias"]
        assert not [e for e in run.journal() if e.action in ("refuse", "error")]
    assert {"0.norm.weight", "2.norm.bias"} <= {n for n, _ in model.named_parameters()}
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in model.parameters()}


def test_an_average_keeps_up_with_norms_that_are_put_in() -> None:
    model = mlp()
    optimizer, ema = optim.Adam(model.parameters(), 0.01), AveragedModel(model)
    texts = ["layer-norm-insertion", CBP]
    with homeostat.attach(
        model, optimizer, treatments=texts, every=1000, strict=True, treat=TreatOptions(averaged=ema)
    ):
        for start in range(0, 30, 5):
            train(model, optimizer, start, 5)
            ema.update_parameters(model)
    here, there = model.state_dict(), ema.module.state_dict()
    assert here.keys() == there.keys() and "2.norm.weight" in there
    assert bool(torch.isfinite(ema(torch.randn(3, 4))).all())


def saved_at(step: int, texts: list[str]) -> tuple[nn.Module, dict, dict, dict]:
    model = mlp()
    optimizer = optim.Adam(model.parameters(), 0.01)
    with homeostat.attach(model, optimizer, treatments=texts, every=1000, strict=True) as run:
        train(model, optimizer, 0, step)
        state = copy.deepcopy((model.state_dict(), optimizer.state_dict(), run.state_dict()))
        train(model, optimizer, step, 20)
    return model, *state


def test_a_run_with_edited_modules_and_resets_continues_bit_exact() -> None:
    texts = ["layer-norm-insertion", CBP]
    straight, weights, moments, state = saved_at(15, texts)
    model = mlp()
    optimizer = optim.Adam(model.parameters(), 0.01)
    with homeostat.attach(model, optimizer, treatments=texts, every=1000, strict=True) as run:
        run.load_state_dict(state)
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
        train(model, optimizer, 15, 20)
    here, there = model.state_dict(), straight.state_dict()
    assert all(torch.equal(here[k], there[k]) for k in there)


def test_an_edit_of_modules_in_the_middle_of_a_run_waits_for_the_next_call_and_everything_goes_on() -> None:
    model = mlp()
    optimizer = optim.Adam(model.parameters(), 0.01)
    with homeostat.attach(model, optimizer, treatments=[CBP, "l2-init"], every=5, strict=True) as run:
        train(model, optimizer, 0, 12)
        treatments = run._network.treatments
        initial = {n: v.clone() for n, v in treatments.traced.initial.items()} if treatments.traced is not None else {}
        ages = treatments.applied[0].state["2/age"].clone()
        old, x = model[0].weight, torch.randn(5, 4)
        out = model(x)
        run.treat(GrowTwo())
        assert treatments.traced is None and model[0].weight is not old
        torch.testing.assert_close(model(x), out, rtol=1e-6, atol=1e-6)
        assert run.units() == {"0": 10, "2": 6}, "a call of the model is all it takes"
        grown: Tensor = model.get_parameter("0.weight").detach().clone()
        course = next(c for c in treatments.applied if c.name == "continual-backprop")
        assert torch.equal(course.state["2/age"], ages) and course.state["0/age"].shape == (10,)
        assert treatments.traced is not None and torch.equal(
            treatments.traced.initial["0.weight"][:8], initial["0.weight"]
        )
        assert torch.equal(treatments.traced.initial["0.weight"][8:], grown[8:])
        assert torch.equal(treatments.traced.initial["2.weight"][:, :8], initial["2.weight"])
        train(model, optimizer, 12, 30)
        assert not [e for e in run.journal() if e.action in ("refuse", "error")]
    assert bool((model.get_parameter("0.weight")[8:] != grown[8:]).all()), "new units must train"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
