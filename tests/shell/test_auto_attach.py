"""The zero-line engine: networks are found from optimizers, in whatever way the script builds and rebuilds them."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from homeostat.record import RunRecord
from homeostat.shell.launch import find_networks as discovery
from homeostat.shell.launch.auto_attach import AutoAttach
from homeostat.shell.run.settings import Settings


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Networks that other tests of this process keep alive are not seen."""
    everything = discovery._live
    others = everything([])  # kept, so that no id is used again
    known = {id(thing) for things in others for thing in things}

    def own(extra):
        return tuple([thing for thing in things if id(thing) not in known] for things in everything(extra))

    monkeypatch.setattr(discovery, "_live", own)


def attached(**options) -> tuple[AutoAttach, RunRecord]:
    settings = Settings(every=1, **options)
    record = RunRecord.create(None, script="test", command=["test"], seed=0, settings=settings.to_json())
    auto = AutoAttach(settings, record)
    auto.start()
    return auto, record


def net(inputs: int = 4, outputs: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: int = 4) -> None:
    optimizer.zero_grad()
    model(torch.randn(16, inputs)).square().mean().backward()
    optimizer.step()


def layers(record: RunRecord, vital: str = "gradient-norm") -> set[str]:
    return set(record.vitals().get(vital, {}))


def test_models_that_follow_each_other_have_names_of_their_own():
    """A script that trains one model a fold, each gone before the next one is made."""
    auto, record = attached()
    for fold in range(4):
        model = net()
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(fold + 2):
            step(model, optimizer)
        del model, optimizer
    auto.stop()
    assert layers(record) == {
        f"{label}{n}" for label in ("", "sequential.", "sequential-2.", "sequential-3.") for n in (0, 2)
    }
    assert record.facts().get("failed") is None


def test_a_single_model_has_plain_layer_names_and_its_units_are_seen_from_the_second_step():
    auto, record = attached()
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(4):
        step(model, optimizer)
    auto.stop()
    assert layers(record) == {"0", "2"}
    assert [s for s, _ in record.series("dormant-units", "0")] == [2, 3, 4]
    assert record.meta.steps == 4 and record.meta.status == "finished"


def test_two_networks_with_an_optimizer_each_are_told_apart_by_name():
    class Agent:
        def __init__(self) -> None:
            self.both = nn.ModuleDict({"actor": net(), "critic": net(4, 1)})
            self.optimizers = {k: torch.optim.SGD(m.parameters(), 0.1) for k, m in self.both.items()}

    auto, record = attached()
    agent = Agent()
    for _ in range(3):
        for name, model in agent.both.items():
            step(model, agent.optimizers[name])
    auto.stop()
    assert layers(record) == {"actor.0", "actor.2", "critic.0", "critic.2"}
    assert layers(record, "loss") == {"actor.network", "critic.network"}


def test_a_rebuilt_optimizer_takes_the_old_ones_place():
    auto, record = attached(vitals=("update-ratio",))
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        step(model, optimizer)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(3):
        step(model, optimizer)
    auto.stop()
    assert [s for s, _ in record.series("update-ratio", "0")] == [1, 2, 3, 4, 5]
    assert [f.name for f in auto.run.facts().optimizers][-1] == "Adam"


def test_a_model_built_late_is_found_and_a_frozen_backbone_is_not_part_of_it():
    auto, record = attached()
    first = net()
    optimizer = torch.optim.SGD(first.parameters(), 0.1)
    step(first, optimizer)
    backbone, head = net(), nn.Linear(2, 3)
    whole = nn.Sequential(backbone.requires_grad_(False), head)
    late = torch.optim.SGD(head.parameters(), 0.1)
    for _ in range(3):
        step(whole, late)
    auto.stop()
    names = {n for n in layers(record) if n not in ("0", "2")}
    assert len(names) == 1 and names.pop().endswith("1")


def test_networks_that_the_garbage_collector_does_not_list_are_found():
    auto, record = attached()
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    gc.freeze()
    try:
        for _ in range(3):
            step(model, optimizer)
    finally:
        gc.unfreeze()
    auto.stop()
    assert layers(record) == {"0", "2"}


def test_what_is_garbage_but_not_collected_does_not_count():
    auto, record = attached()
    model = net()
    gc.disable()
    try:
        for dead in (nn.ModuleDict({"old": model}), torch.optim.SGD(model.parameters(), 0.1)):
            dead.__dict__["itself"] = dead
        del dead
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            step(model, optimizer)
    finally:
        gc.enable()
    auto.stop()
    assert layers(record) == {"0", "2"} and record.meta.steps == 3 and len(auto.run.facts().optimizers) == 1


def test_parameters_of_no_module_are_reported_not_invented():
    auto, record = attached()
    free = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([free], 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        free.square().sum().backward()
        optimizer.step()
    auto.stop()
    said = {entry.what: entry.why for entry in record.not_measured()}
    assert any("1 parameter of SGD" in what for what in said) and not record.vitals()


def test_a_model_whose_parts_alone_are_called_is_read_at_its_layers():
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = net(), nn.Linear(2, 1)

        def loss(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x)).square().mean()

    auto, record = attached()
    model = Parts()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(8):
        optimizer.zero_grad()
        model.loss(torch.randn(16, 4)).backward()
        optimizer.step()
    auto.stop()
    assert layers(record, "dormant-units") == {"body.0", "body.2"}


def test_treatments_act_on_a_script_that_knows_nothing():
    from homeostat.core.component import build

    auto, record = attached(treatments=(build("treatment", "redo:every=2,threshold=1.0"),))
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(6):
        step(model, optimizer)
    auto.stop()
    resets = [e for e in record.journal() if e.component == "redo" and e.action == "edit"]
    assert resets and all("reset" in e.why for e in resets)


def alarms(auto: AutoAttach) -> set[str]:
    return {finding.condition for finding in auto.run.findings if finding.severity != "info"}


def test_two_networks_of_one_optimizer_are_both_followed_as_one_objective():
    auto, record = attached()
    pair = nn.ModuleDict({"q1": net(), "q2": net()})
    optimizer = torch.optim.Adam([*pair["q1"].parameters(), *pair["q2"].parameters()])
    both = list(pair.values())
    del pair
    for _ in range(60):
        inputs = torch.randn(16, 4)
        optimizer.zero_grad()
        sum(model(inputs).square().mean() for model in both).backward()
        optimizer.step()
    auto.stop()
    assert len(layers(record)) == 4 and len(layers(record, "dormant-units")) == 2
    assert not auto.run.facts().several_objectives and not alarms(auto)


def in_place(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.05 * p.grad
            p.grad = None


def by_data(model: nn.Module) -> None:
    for p in model.parameters():
        p.data -= 0.05 * p.grad.data
        p.grad = None


def by_new_tensors(model: nn.Module) -> None:
    for layer in model:
        for name, p in list(layer.named_parameters()):
            setattr(layer, name, nn.Parameter((p - 0.05 * p.grad).detach()))


@pytest.mark.parametrize("update", [in_place, by_data, by_new_tensors, None])
def test_updates_without_an_optimizer_are_told_from_no_update(update):
    auto, record = attached()
    model = net()
    for _ in range(6):
        model(torch.randn(16, 4)).square().mean().backward()
        if update is not None:
            update(model)
    auto.stop()
    assert alarms(auto) == (set() if update else {"no-optimizer-step"})
    assert ("vitals" in {entry.what for entry in record.not_measured()}) == bool(update)


def test_an_optimizer_of_tensors_in_no_module_trains_and_is_no_fault():
    auto, record = attached()
    weight, offset = torch.randn(4, 2, requires_grad=True), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([weight, offset], 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (torch.randn(16, 4) @ weight + offset).square().mean().backward()
        optimizer.step()
    auto.stop()
    assert not alarms(auto)
    assert any("owned by no module" in entry.why for entry in record.not_measured())


@pytest.mark.parametrize("layers", ["all", "last"])
@pytest.mark.parametrize("fault", [True, False])
def test_layers_that_were_replaced_after_the_optimizer_was_built_are_untrained(layers, fault):
    torch.manual_seed(0)
    auto, _ = attached()
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    if layers == "all":
        model = net()
    else:
        model[2] = nn.Linear(8, 2)
    if not fault:
        optimizer = torch.optim.Adam(model.parameters())
    for _ in range(60):
        step(model, optimizer)
    auto.stop()
    assert ("untrained-parameters" in alarms(auto)) == fault


class Taught(nn.Module):
    """A trunk with two heads that take turns, a moving average of the trunk, and a layer updated by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.average, self.scale = net(), net(), nn.Linear(2, 2)
        self.heads = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])

    def forward(self, x: torch.Tensor, turn: int) -> torch.Tensor:
        with torch.no_grad():
            target = self.average(x).sum(1, keepdim=True)
        return (self.heads[turn](self.scale(self.trunk(x))) - target).square().mean()


def test_averages_heads_that_take_turns_and_layers_updated_by_hand_are_trained():
    settings = Settings(every=2)
    record = RunRecord.create(None, script="test", command=["test"], seed=0, settings=settings.to_json())
    auto = AutoAttach(settings, record)
    auto.start()
    model = Taught()
    optimizer = torch.optim.SGD([*model.trunk.parameters(), *model.heads.parameters()], 0.01)
    for step in range(60):
        optimizer.zero_grad()
        model.scale.zero_grad()
        model(torch.randn(16, 4), step % 2).backward()
        optimizer.step()
        with torch.no_grad():
            for mean, now in zip(model.average.parameters(), model.trunk.parameters(), strict=True):
                mean.data.lerp_(now, 0.01)
            for p in model.scale.parameters():
                p -= 0.01 * p.grad
    auto.stop()
    assert not [f for f in auto.run.findings if f.condition == "untrained-parameters"]
    assert any("scale.weight" in entry.what for entry in record.not_measured())


def test_a_frozen_trunk_and_a_new_head_are_no_mistake():
    auto, _ = attached()
    model = nn.Sequential(net().requires_grad_(False), nn.Linear(2, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(60):
        step(model, optimizer)
    auto.stop()
    assert "untrained-parameters" not in alarms(auto)


@pytest.mark.parametrize("every", [1, 50])
def test_an_optimizer_that_is_built_in_every_step_is_named(every: int):
    auto, record = attached()
    model = net()
    for number in range(100):
        if number % every == 0:
            optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        step(model, optimizer)
    auto.stop()
    assert ("optimizer-rebuilt" in alarms(auto)) == (every == 1)
    assert layers(record) == {"0", "2"} and record.facts().get("failed") is None
