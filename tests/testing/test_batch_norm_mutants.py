"""The laws on networks with batch normalisation are broken on purpose, too, by a treatment that replaces the layers."""

import pytest
from mutants import unregistered, wrong
from torch import nn

from homeostat.core.component import knob
from homeostat.core.edits import ReplaceModule
from homeostat.core.errors import Refused
from homeostat.testing.check import check_component
from homeostat.treatments import AdaB2N
from homeostat.treatments.normalization.balanced_norm import Balanced


def instead(change) -> type:
    """AdaB2N whose new layers are changed once more."""

    def plan(self, view, state, knobs):
        edits, state = AdaB2N.plan(self, view, state, knobs)
        return [ReplaceModule(e.target, lambda old, e=e: change(e.make(old))) for e in edits], state

    return unregistered(AdaB2N, plan=plan)


def loses_weight(layer):
    layer.weight = nn.Parameter(layer.weight.detach() + 0.1)
    return layer


class Poisoned(Balanced, nn.BatchNorm1d):
    """Takes in what is not finite."""

    dims = (2, 3)

    def _track(self, mean, var):
        self.running_mean.mul_(0.5).add_(mean.detach(), alpha=0.5)
        self.running_var.mul_(0.5).add_(var.detach(), alpha=0.5)


class Shared(Balanced, nn.BatchNorm1d):
    """Copies share one count of batches, kept on the class."""

    dims = (2, 3)
    seen = 0

    def forward(self, input):
        Shared.seen += self.training
        return super().forward(input) * (1 + 1e-3 * Shared.seen)


def of_class(kind):
    def change(layer):
        if isinstance(layer, nn.BatchNorm1d):
            layer.__class__ = kind
        return layer

    return change


def lenient(self, view, state, knobs):
    try:
        return AdaB2N.plan(self, view, state, knobs)
    except Refused:
        return [], state


BROKEN = {
    "identity": (
        unregistered(AdaB2N, __annotations__={"kappa": float}, kappa=knob(0.5, neutral=0.9, high=1.0)),
        "differs",
    ),
    "refuses": (unregistered(AdaB2N, plan=lenient), "without batch normalisation is not refused"),
    "effect": (instead(loses_weight), "has changed"),
    "NaN batch": (instead(of_class(Poisoned)), "running_mean is not finite"),
    "copies are left alone": (instead(of_class(Shared)), "differs|was treated"),
}


@pytest.mark.parametrize("law", BROKEN)
def test_a_law_catches_it(law):
    kind, why = BROKEN[law]
    found = wrong(kind(), law)
    assert found and any(part in found for part in why.split("|")), found
    assert not wrong(AdaB2N(), law)


def hooked(layer):
    layer.register_forward_hook(lambda module, args, output: output * 2)
    return layer


def test_a_hook_that_comes_with_a_new_layer_is_found():
    report = check_component(instead(hooked)(), only=["no trace"])
    assert "hooks are left" in report.failed["no trace"]
