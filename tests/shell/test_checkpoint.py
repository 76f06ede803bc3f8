"""What cannot be saved or resumed is refused in a sentence, with nothing changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from training_scripts import Net, Script, assert_same

import homeostat
from homeostat import CheckpointOptions
from homeostat.core.errors import BadInput, BadSetting, CheckpointError
from homeostat.shell.hooks.step_hooks import STEP_HOOKS


class Other(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.one = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(16, 13)
        self.two, self.out = nn.Linear(13, 8), nn.Linear(8, 3)

    forward = Net.forward


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    script = Script(treatments=["layer-norm-insertion", "l2-init"], controllers=["pi:vital=loss,knob=lr,every=4"])
    script.go(4)
    path = script.run.save(tmp_path_factory.mktemp("c") / "x.safetensors")
    script.run.detach()
    return path


PI_ON_LR = "pi:vital=loss,knob=lr,every=4"


def attempt(path, model=None, optimizer=torch.optim.Adam, **changes):
    model = model or Net()
    built = optimizer(model.parameters(), 1e-2)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(built, [5], 0.5)
    options = {"treatments": ["layer-norm-insertion", "l2-init"], "controllers": [PI_ON_LR], **changes}
    kept = {"extra": {"scheduler": scheduler}} | options.pop("checkpoint", {})
    before = copy.deepcopy([model.state_dict(), built.state_dict(), scheduler.state_dict(), str(model)])
    streams = torch.get_rng_state()
    listeners = STEP_HOOKS._listeners
    try:
        homeostat.attach(model, built, checkpoint=CheckpointOptions(resume=path, **kept), **options).detach()
    finally:
        assert_same(before, [model.state_dict(), built.state_dict(), scheduler.state_dict(), str(model)])
        assert torch.equal(streams, torch.get_rng_state()) and STEP_HOOKS._listeners == listeners


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model": Other()}, BadInput, r"one\.weight is \[12, 16\] float32 there and \[13, 16\] float32 here"),
        ({"model": Net().double()}, BadInput, r"float32 there and .* float64 here"),
        ({"model": nn.Sequential(nn.Linear(2, 2))}, BadInput, r"missing here.*more"),
        ({"treatments": ["l2-init"]}, BadInput, r"treated with layer-norm-insertion: attach with the same"),
        ({"optimizer": torch.optim.SGD}, BadInput, r"optimizer 1 is of class Adam, this one is a SGD"),
        ({"controllers": []}, BadInput, r"had the controllers pi of lr by loss, this one has none"),
        ({"checkpoint": {"extra": {}}}, BadInput, r"also holds 'scheduler': attach with extra=\{'scheduler': \.\.\.\}"),
        ({"checkpoint": {"extra": {"scheduler": 3}}}, BadInput, r"needs state_dict\(\) and load_state_dict\(\)"),
        ({"optimizer": lambda p, lr: torch.optim.Adam([{"params": [q]} for q in p], lr)}, BadInput, "parameter groups"),
        ({"checkpoint": {"save": "x"}}, BadSetting, "give both or neither"),
        ({"checkpoint": {"save": "x", "every": 0}}, BadSetting, "at least 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_is_changed(saved, changes, error, says):
    with pytest.raises(error, match=says):
        attempt(saved, **changes)


def test_files_that_are_none_are_refused_and_nothing_is_changed(saved, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        attempt(tmp_path / "gone")
    (tmp_path / "cut").write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut off or damaged"):
        attempt(tmp_path / "cut")
    monkeypatch.setattr("homeostat.shell.checkpoint.checkpoint.FORMAT", 2)
    script = Script()
    script.run.save(tmp_path / "future")
    script.run.detach()
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="newer Homeostat"):
        attempt(tmp_path / "future")


def test_a_network_built_with_its_norms_or_without_takes_the_checkpoint(saved):
    script = Script(seed=4, treatments=["layer-norm-insertion", "l2-init"], resume=saved,
                    controllers=["pi:vital=loss,knob=lr,every=4"])  # fmt: skip
    assert "one.norm.weight" in script.model.state_dict()
    script.go(6)
    built = copy.deepcopy(script.model)
    script.run.detach()
    optimizer = torch.optim.Adam(
        [p for n, p in sorted(built.named_parameters(), key=lambda item: ".norm." in item[0])], 1e-2
    )
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5], 0.5)
    run = homeostat.attach(built, optimizer, treatments=["layer-norm-insertion", "l2-init"], controllers=[PI_ON_LR],
                           checkpoint=CheckpointOptions(resume=saved, extra={"scheduler": scheduler}))  # fmt: skip
    assert run.steps == 4 and not run.not_measured().get("layer-norm-insertion")
    run.detach()


def test_what_cannot_be_saved_is_refused_before_a_byte_is_written(tmp_path):
    class Odd:
        def state_dict(self):
            return {"fine": 1, "callback": print}

        def load_state_dict(self, state):
            pass

    script = Script()
    script.go(1)
    with pytest.raises(BadInput, match=r"extra odd\.state\.callback is a builtin_function_or_method"):
        script.run.save(tmp_path / "x", extra={"odd": Odd()})
    assert list(tmp_path.iterdir()) == []
    script.run.detach()


def test_a_part_that_fails_to_load_takes_all_others_back(tmp_path):
    class Fussy:
        def __init__(self, fails: bool) -> None:
            self.fails = fails

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            if self.fails:
                raise RuntimeError("not today")

    script = Script()
    script.go(3)
    script.run.save(tmp_path / "x", extra={"scheduler": script.scheduler, "z": Fussy(False)})
    script.run.detach()
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5], 0.5)
    fussy = Fussy(False)
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()])
    calls = iter([True, False])
    fussy.load_state_dict = lambda state: (_ for _ in ()).throw(RuntimeError("not today")) if next(calls) else None
    with pytest.raises(BadInput, match=r"'z' cannot be loaded here: not today"):
        homeostat.attach(
            model,
            optimizer,
            checkpoint=CheckpointOptions(resume=tmp_path / "x", extra={"scheduler": scheduler, "z": fussy}),
        )
    assert_same(before, [model.state_dict(), optimizer.state_dict(), scheduler.state_dict()])


def test_optimizer_state_of_another_dtype_and_layout_comes_back_as_it_was(tmp_path):
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters())
    with homeostat.attach(model, optimizer) as run:
        model(torch.randn(2, 3, 5, 5)).sum().backward()
        optimizer.step()
        for state in optimizer.state.values():
            state["exp_avg"] = state["exp_avg"].double()
        run.save(tmp_path / "x")
    other = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    fresh = torch.optim.Adam(other.parameters())
    homeostat.attach(other, fresh, checkpoint=CheckpointOptions(resume=tmp_path / "x")).detach()
    for a, b in zip(optimizer.state.values(), fresh.state.values(), strict=True):
        for key in a:
            assert torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype and a[key].stride() == b[key].stride()
