"""Layers that do not train amid layers that do: the accident is named first, and freezing on purpose is well."""

from __future__ import annotations

import pytest
import torch
from test_programs import CLASSES, paired, points, train
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """Three layers and a head; `how` says what is done between the second layer and the third."""

    def __init__(self, how: str = "", kind=nn.ReLU):
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 32)
        self.third, self.head, self.act = nn.Linear(32, 32), nn.Linear(32, CLASSES), kind()

    def forward(self, x):
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.how != "no_grad"):
            h = self.act(self.second(self.act(self.first(x))))
        h = {"detach": h.detach(), "data": h.data}.get(self.how, h)
        if self.how == "detach, then more":
            h = torch.tanh(h.detach() + 1)
        return self.head(self.act(self.third(h)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.middle, self.head = nn.Linear(2, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.middle(self.embed(x.view(len(x), 4, 2)))[0][:, -1])


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    conv = lambda i: nn.Sequential(nn.Conv1d(i, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU())  # noqa: E731
    return nn.Sequential(nn.Unflatten(1, (1, 8)), conv(1), conv(8), conv(8), nn.Flatten(), nn.Linear(64, CLASSES))


def frozen(model: nn.Module, *names: str) -> nn.Module:
    for name in names:
        model.get_submodule(name).requires_grad_(False)
    return model


def said(model: nn.Module, parameters=None) -> list[tuple[str, str, tuple[str, ...]]]:
    optimizer = torch.optim.Adam(model.parameters() if parameters is None else parameters, 1e-2)
    run = train(model, optimizer, lambda s: F.cross_entropy(*paired(model, points(64, s))), steps=80)
    return [(f.condition, f.severity, tuple(sorted(f.layers))) for f in run.findings()]


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (lambda: frozen(Net(), "second"), ("second",)),
        (lambda: frozen(Recurrent(), "middle"), ("middle",)),
        (lambda: frozen(convolutional(), "2"), ("2.0", "2.1")),
        (lambda: Net("detach"), ("first", "second")),
        (lambda: Net("data"), ("first", "second")),
        (lambda: Net("no_grad"), ("first", "second")),
        (lambda: Net("detach, then more"), ("first", "second")),
    ],
)
def test_layers_frozen_by_accident_are_named_first(model, layers):
    assert said(model())[0] == ("frozen-by-accident", "warning", layers)


class Adapter(nn.Module):
    """A frozen layer with a small trained branch beside it."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down, self.up = nn.Linear(layer.in_features, 2, bias=False), nn.Linear(2, layer.out_features, bias=False)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


def adapted() -> nn.Module:
    model = Net()
    model.first, model.second, model.third = (Adapter(m) for m in (model.first, model.second, model.third))
    return model


def in_turn() -> nn.Module:
    """The second layer is frozen in the first steps, and trained later."""
    model = frozen(Net(), "second")
    model.register_forward_pre_hook(lambda m, _: m.second.requires_grad_(m.how != "") and setattr(m, "how", "later"))
    return model


def judged() -> nn.Module:
    """A second head reads the first one's outputs, and leaves no gradient in the trunk."""

    class Judged(Net):
        def forward(self, x):
            out = super().forward(x)
            return out + 0.0 * self.judge(out.detach())

    model = Judged()
    model.judge = nn.Linear(CLASSES, 1)
    return model


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (Net, None),
        (lambda: frozen(Net(), "first", "second"), None),
        (lambda: frozen(Net(), "first", "second", "third"), None),
        (lambda: frozen(Net(), "head"), None),
        (in_turn, None),
        (judged, None),
        (adapted, "info"),
        (lambda: frozen(convolutional(), "2.1"), "info"),
    ],
)
def test_freezing_on_purpose_is_well(model, found):
    findings = {condition: severity for condition, severity, _ in said(model())}
    assert findings.get("frozen-by-accident") == found
    assert "warning" not in findings.values()


def test_a_trunk_in_evaluation_mode_without_a_graph_is_meant():
    model = Net("no_grad")
    model.first.eval(), model.second.eval()
    findings = {condition: severity for condition, severity, _ in said(model)}
    assert findings["frozen-by-accident"] == "info" and findings["untrained-parameters"] == "info"


def test_a_layer_that_is_never_called_is_no_cut():
    model = Net()
    model.spare = nn.Linear(32, 32)
    findings = {condition: severity for condition, severity, _ in said(model)}
    assert findings == {"untrained-parameters": "warning"}


def test_a_layer_whose_outputs_are_not_used_is_no_cut():
    class Unused(Net):
        def forward(self, x):
            self.spare(x)
            return super().forward(x)

    model = Unused()
    model.spare = nn.Linear(8, 32)
    findings = {condition: severity for condition, severity, _ in said(model)}
    assert findings == {"untrained-parameters": "warning"}
