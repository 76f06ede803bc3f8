"""CLASSP against its algorithm written out weight by weight in float64, against AdaGrad, and beside other treatments.

The authors' code (oswaldoludwig/CLASSP, CLASSP.py) was run beside it in float64: 200 steps of an 8-16-4 network, rate
0.05. With power 1 it is this treatment with threshold 0, whatever its own threshold (1e-4, 0.5): largest difference of
a weight 2.2e-16, and 0 without scaling; weights had moved by up to 0.35 and 0.58. With power 2 the two differ by up to
0.85, for its sums lack the power.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import homeostat
from homeostat.core.errors import Refused
from homeostat.core.treatment import View
from homeostat.testing.grid import DOUBLE, MLP
from homeostat.testing.mini_run import Bench
from homeostat.treatments import Classp, ReDo, ShrinkAndPerturb


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[dict[str, Tensor]]:
    """The gradients of every step."""
    seen = []
    for step in steps:
        optimizer.zero_grad()
        inputs, targets = batch(step)
        F.cross_entropy(model(inputs), targets).backward()
        seen.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        optimizer.step()
    return seen


def treated(treatment: Classp, steps: int, boundary: int = 0) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.01)
    with homeostat.attach(model, optimizer, treatments=[treatment], vitals=(), strict=True) as run:
        seen = train(model, optimizer, range(boundary or steps))
        if boundary:
            run.boundary()
            seen += train(model, optimizer, range(boundary, steps))
    return dict(model.state_dict()), seen


def written_out(gradients: list[float], start: float, settings: Classp, boundary: int) -> float:
    """Algorithm 1 of the paper for one weight."""
    weight, total = start, 0.0
    for step, g in enumerate(gradients):
        if g * g > settings.threshold:
            total += abs(g) ** settings.power
            scaled = settings.scaling == "always" or (settings.scaling == "later" and step >= boundary)
            divisor = math.pow(settings.epsilon + total, 1 / settings.power) if scaled else 1.0
            weight -= settings.rate * g / divisor
    return weight


@pytest.mark.oracle("classp")
@pytest.mark.parametrize(
    "settings",
    [
        Classp(rate=0.02, threshold=1e-3, power=1.0),
        Classp(rate=0.02, threshold=1e-3, power=2.5, epsilon=0.1),
        Classp(rate=0.2, threshold=1e-4, scaling="never"),
        Classp(rate=0.2, threshold=1e-4, scaling="later"),
    ],
    ids=lambda s: f"power {s.power:g}, {s.scaling}",
)
def test_every_weight_follows_the_algorithm(settings: Classp):
    start, boundary = {n: p.detach().clone() for n, p in network().named_parameters()}, 10
    weights, seen = treated(settings, 20, boundary)
    held_back = 0
    for name, value in weights.items():
        gradients = torch.stack([g[name].flatten() for g in seen], 1).tolist()
        held_back += sum(g * g <= settings.threshold for row in gradients for g in row)
        pairs = zip(gradients, start[name].flatten().tolist(), strict=True)
        expected = [written_out(row, first, settings, boundary) for row, first in pairs]
        torch.testing.assert_close(value.flatten(), value.new_tensor(expected), rtol=1e-12, atol=1e-14)
    assert held_back > 100


@pytest.mark.oracle("classp")
def test_power_two_without_a_threshold_is_adagrad():
    model = network()
    adagrad = torch.optim.Adagrad(model.parameters(), lr=0.05, initial_accumulator_value=1e-5, eps=0.0)
    train(model, adagrad, range(40))
    weights, _ = treated(Classp(rate=0.05, threshold=0.0, power=2.0, epsilon=1e-5), 40)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-10, atol=1e-12)


def test_share_goes_between_the_two_updates():
    finals = [treated(Classp(share=share), 1)[0] for share in (0.0, 0.25, 1.0)]
    for own, between, whole in zip(*(weights.values() for weights in finals), strict=True):
        assert not torch.equal(own, whole)
        torch.testing.assert_close(between, 0.75 * own + 0.25 * whole, rtol=1e-12, atol=1e-14)


def test_a_gradient_that_is_not_finite_moves_nothing():
    bad = torch.tensor([float("nan"), float("inf"), 1e30, 1e-30], dtype=torch.float32)
    was, now = torch.ones(4), torch.full((4,), float("nan"))
    settings = Classp(threshold=0.0, rate=0.5, power=1.0)
    seen = View(step=1, parameters={"w": now}, gradients={"w": bad}, before={"w": was})
    edits, state = settings.plan(seen, settings.init(seen, settings.knobs()), settings.knobs())
    torch.testing.assert_close(edits[0].value, torch.tensor([1.0, 1.0, 0.5, 1.0]))
    assert torch.isfinite(state["w"]).all()


def test_a_parameter_without_a_gradient_is_left_alone():
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    with homeostat.attach(model, optimizer, treatments=[Classp(threshold=0.0)], vitals=(), strict=True):
        before = model[2].weight.detach().clone()
        model(batch(0)[0])
        model[0].weight.grad = torch.ones_like(model[0].weight)
        optimizer.step()
    assert torch.equal(model[2].weight, before)


def test_it_acts_before_what_builds_on_the_update():
    perturbed = ShrinkAndPerturb(shrink=0.0, perturb=0.0)
    for treatments in ([Classp(), perturbed], [perturbed, Classp()]):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with homeostat.attach(model, optimizer, treatments=treatments, vitals=(), strict=True):
            train(model, optimizer, range(2))
        assert not any(bool(p.any()) for p in model.parameters())


def test_weights_before_the_update_are_kept_for_those_who_read_them_only():
    for treatment, kept in ((Classp(), True), (ReDo(), False)):
        bench = Bench(MLP, treatment)
        bench.train(1)
        was = {n: p.clone() for n, p in bench.parameters().items()}
        bench.train(1)
        assert bool(bench.before) == kept
        assert all(torch.equal(bench.view().before[n], was[n]) for n in bench.before)


def test_a_loop_that_evaluates_the_loss_several_times_a_step_is_refused():
    model = DOUBLE.build(0)
    with pytest.raises(Refused, match="several times a step"):
        homeostat.attach(model, torch.optim.LBFGS(model.parameters()), treatments=[Classp()], vitals=(), strict=True)
