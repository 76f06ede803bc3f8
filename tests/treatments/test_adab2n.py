"""AdaB2N against a slow restatement in float64, and as a module of the user's.

Run aside with the authors' code while writing this (lvyilin/AdaB2N, models/utils/adab2n.py; float64, 12 items of 6
channels and 4 x 4 positions, 40 batches of three tasks or of two of them with `absent` "zeros", psi moved by SGD, kappa
0, 0.25, 0.5, 0.75 and 1): outputs were the same within 1.8e-15, gradients of the inputs within 6.7e-16, running means
and psi within 2.3e-16. The running variance differed by at most 0.0052 of itself: 1 / 191, the unbiased variance.
"""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

import homeostat
from homeostat.core.errors import BadInput, BadSetting, Refused
from homeostat.treatments import PowerLawRehearsal
from homeostat.treatments.normalization.adab2n import AdaB2N
from homeostat.treatments.normalization.balanced_norm import BalancedBatchNorm2d, balanced, momentum

SETTINGS = {"kappa": 0.5, "prior": 1.0, "penalty": 0.3, "absent_too": False, "tasks": 4}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return 1.0 + 2.0 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(*shape: int) -> nn.Sequential:
    torch.manual_seed(3)
    wide = len(shape) == 3
    first = nn.Conv2d(shape[0], 5, 2) if wide else nn.Linear(shape[0], 5)
    norm = nn.BatchNorm2d(5) if wide else nn.BatchNorm1d(5)
    out = nn.Linear(5 * (shape[1] - 1) * (shape[2] - 1) if wide else 5, 3)
    return nn.Sequential(first, norm, nn.ReLU(), nn.Flatten(), out).double()


class Slowly:
    """One layer, value by value in Python numbers: x[n][c] is the list of item n's values in channel c."""

    def __init__(self, channels: int, eta: float, kappa: float, prior: float, absent_too: bool) -> None:
        self.mean, self.var, self.rate = [0.0] * channels, [1.0] * channels, None
        self.eta, self.kappa, self.prior, self.absent_too = eta, kappa, prior, absent_too

    def see(self, x: list, tasks: list[int], psi: list[float], count: int) -> tuple[list, float]:
        """Normalised values (weight 1, bias 0, eps 1e-5), and the layer's distance; running statistics move."""
        self.rate = (
            self.eta**self.kappa if self.rate is None else self.rate / (self.rate + (1 - self.eta) ** self.kappa)
        )
        met = range(count) if self.absent_too else sorted(set(tasks))
        wanted = {k: self.prior * math.exp(psi[k]) + tasks.count(k) for k in met}
        out, distance = [[None] * len(x[0]) for _ in x], 0.0
        for c in range(len(x[0])):
            values = sum(len(item[c]) for item in x)
            mean = var = 0.0
            for statistic in ("mean", "var"):
                total = 0.0
                for k in set(tasks):
                    of_task = [v for item, j in zip(x, tasks, strict=True) if j == k for v in item[c]]
                    terms = of_task if statistic == "mean" else [(v - mean) ** 2 for v in of_task]
                    total += wanted[k] / sum(wanted.values()) * sum(terms) / len(terms)
                mean, var = (total, var) if statistic == "mean" else (mean, total)
            for n, item in enumerate(x):
                out[n][c] = [(v - mean) / math.sqrt(var + 1e-5) for v in item[c]]
            unbiased = var * values / (values - 1)
            self.mean[c] += self.rate * (mean - self.mean[c])
            self.var[c] += self.rate * (unbiased - self.var[c])
            distance += ((mean - self.mean[c]) ** 2 + (unbiased - self.var[c]) ** 2) / len(x[0])
        return out, distance


@pytest.mark.oracle("adab2n")
@pytest.mark.parametrize("absent_too", [False, True])
@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
def test_statistics_outputs_and_penalty_are_the_written_out_ones(kappa: float, absent_too: bool):
    """Unequal tasks, absent ones, and one too many, which counts as the last; learned weights that are not equal."""
    norm = nn.BatchNorm2d(2, momentum=0.2).double()
    layer = balanced(norm, **{**SETTINGS, "kappa": kappa, "absent_too": absent_too}).double()
    psi = [0.3, -1.2, 0.8, 0.5]
    with torch.no_grad():
        layer.balance.log_concentration.copy_(torch.tensor(psi, dtype=torch.float64))
    slow = Slowly(2, 0.2, kappa, 1.0, absent_too)
    rows = [[0, 0, 0, 1], [1, 0, 1, 1], [2, 0, 0, 0, 1], [4, 4, 2, 1, 0], [0, 4], [3, 3, 1]]
    for number, tasks in enumerate(rows):
        x = numbers(len(tasks), 2, 3, 2, seed=number)
        layer.composition.begin(torch.tensor(tasks), 5)
        found = layer(x)
        out, distance = slow.see(x.flatten(2).tolist(), [min(k, 3) for k in tasks], psi, 4)
        assert torch.allclose(found.flatten(2), torch.tensor(out, dtype=torch.float64), rtol=1e-12, atol=1e-12)
        assert torch.allclose(layer.running_mean, torch.tensor(slow.mean, dtype=torch.float64), rtol=1e-12)
        assert torch.allclose(layer.running_var, torch.tensor(slow.var, dtype=torch.float64), rtol=1e-12)
        assert float(layer.composition.take()[0].detach()) == pytest.approx(0.3 * distance, rel=1e-12)
        assert not layer.composition.take()


def outcome(x: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
    """A weighted sum of the outputs, and the penalty, of a fresh layer that saw three tasks."""
    layer = balanced(nn.BatchNorm1d(3, momentum=0.2).double(), **{**SETTINGS, "kappa": 1.0}).double()
    layer.composition.begin(torch.tensor([0, 1, 1, 2, 2, 2]), 3)
    out = torch.func.functional_call(layer, {"balance.log_concentration": psi}, (x,))
    return (out * numbers(6, 3, seed=9)).sum(), layer.composition.take()[0]


@pytest.mark.oracle("adab2n")
def test_gradients_reach_inputs_and_weights_of_tasks_by_finite_differences():
    """Seen by differences, the running statistics move along with the batch's by a fifth; the penalty's own gradient
    takes them as constants, and is longer by that."""
    x, psi = numbers(6, 3).requires_grad_(), numbers(4, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: outcome(*given)[0], (x, psi))
    for tensor, grad in zip((x, psi), torch.autograd.grad(outcome(x, psi)[1], (x, psi)), strict=True):
        for place in range(tensor.numel()):
            moved = [tensor.detach().clone() for _ in range(2)]
            moved[0].view(-1)[place] += 1e-6
            moved[1].view(-1)[place] -= 1e-6
            high, low = (outcome(*((m, psi) if tensor is x else (x, m)))[1].detach() for m in moved)
            assert float(0.8 * grad.view(-1)[place]) == pytest.approx(float(high - low) / 2e-6, rel=1e-6, abs=1e-8)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.integers(1, 300))
def test_momentum_is_the_recursion_and_falls_to_its_fixed_point(eta: float, kappa: float, steps: int):
    rate = eta**kappa
    for _ in range(steps - 1):
        rate = rate / (rate + (1 - eta) ** kappa)
    found = momentum(torch.tensor(steps), eta, kappa)
    assert float(found) == pytest.approx(rate, rel=1e-9)
    later = [float(momentum(torch.tensor(t), eta, kappa)) for t in (steps, 10**6)]
    assert 1 - (1 - eta) ** kappa == pytest.approx(later[1], rel=1e-3)
    assert later[1] <= later[0] * (1 + 1e-12)
    assert float(momentum(torch.tensor(steps), eta, 0.0)) == pytest.approx(1 / steps)
    assert float(momentum(torch.tensor(steps), eta, 1.0)) == eta


@pytest.mark.parametrize("shape", [(4,), (1, 4, 4)])
@pytest.mark.parametrize(("kappa", "momentum"), [(0.0, None), (1.0, 0.1)])
def test_at_the_ends_of_kappa_the_statistics_are_torchs(shape: tuple[int, ...], kappa: float, momentum: float | None):
    """Trained through attach without mixed batches: `kappa` 0 is torch's momentum=None, 1 torch's own bit for bit."""
    plain, model = net(*shape), net(*shape)
    plain[1].momentum = momentum
    optimizers = [SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (plain, model)]
    with homeostat.attach(model, optimizers[1], treatments=[AdaB2N(kappa=kappa)], vitals=(), strict=True):
        for step in range(9):
            for m, optimizer in zip((plain, model), optimizers, strict=True):
                optimizer.zero_grad()
                F.cross_entropy(m(numbers(6, *shape, seed=step)), torch.arange(6) % 3).backward()
                optimizer.step()
    for name, value in plain.state_dict().items():
        found = model.state_dict()[name]
        assert found.equal(value) if kappa else torch.allclose(found, value, rtol=1e-12, atol=1e-14), name
    assert "1.balance.log_concentration" in model.state_dict()
    x = numbers(5, *shape, seed=50)
    assert torch.allclose(plain.eval()(x), model.eval()(x), rtol=1e-12)


def learned(
    *, rehearse: bool = True, settings: dict | None = None, tell: bool = False, steps: int = 14
) -> nn.Sequential:
    """A run of two tasks, with rehearsal by a treatment, by the user's own hand, or not at all."""
    model = net(4)
    optimizer = Adam(model.parameters(), lr=0.02)
    treatments = [AdaB2N(**(settings or {})), *([PowerLawRehearsal(share=1.0, per_task=6)] if rehearse else [])]
    with homeostat.attach(model, optimizer, treatments=treatments, vitals=(), strict=True) as run:
        criterion = run.loss(F.cross_entropy)
        for step in range(steps):
            if step == steps // 2:
                run.boundary("second")
            x, y = numbers(6, 4, seed=step) + (3.0 if step >= steps // 2 else 0.0), torch.arange(6) % 3
            old = torch.tensor([0, 0, 1, 1, 1, 1]) * int(step >= steps // 2)
            x, y = run.batch(x, y, tasks=old) if tell else run.batch(x, y)
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
    return model


def test_tasks_of_rehearsed_items_and_those_told_by_hand_reach_the_layer():
    quiet = learned(rehearse=False)
    assert not quiet[1].balance.log_concentration.any(), "nothing was told, so nothing could be learned"
    for model in (learned(), learned(rehearse=False, tell=True)):
        psi = model[1].balance.log_concentration.detach()
        assert bool(psi[:2].all()) and not psi[2:].any(), "the weights of both tasks, and of no other, are trained"
    assert learned()[1].composition.tasks is None, "after the step the batch is over"


def test_the_first_batch_is_balanced_too():
    """Layers are replaced inside the first forward pass; they know the tasks that `run.batch` was told before it."""
    x, y = numbers(6, 4), torch.arange(6) % 3
    tasks, model = torch.tensor([0, 0, 0, 0, 0, 1]), net(4)[:2]
    with homeostat.attach(model, SGD(model.parameters(), lr=0.1), treatments=[AdaB2N(penalty=0.3)], vitals=()) as run:
        run.boundary("second")
        criterion = run.loss(F.cross_entropy)
        x, y = run.batch(x, y, tasks=tasks)
        out = model(x)
        first = model[1].composition.added
        assert len(first) == 1, "the penalty of the first batch is waiting"
        hidden, slow = model[0](x).detach(), Slowly(5, 0.1, 0.5, 1.0, False)
        expected, distance = slow.see(hidden[:, :, None].tolist(), tasks.tolist(), [0.0] * 100, 2)
        assert torch.allclose(out, torch.tensor(expected, dtype=torch.float64)[..., 0], rtol=1e-10)
        loss = criterion(out, y)
    assert loss.item() == pytest.approx(F.cross_entropy(out, y).item() + 0.3 * distance, rel=1e-10)


def test_prior_and_penalty_change_training_only_where_batches_are_mixed():
    settings = [{"prior": 0.0, "penalty": 0.0}, {"prior": 5.0, "penalty": 0.0}, {"prior": 5.0, "penalty": 2.0}]
    mixed = [learned(settings=s)[0].weight for s in settings]
    assert not mixed[0].equal(mixed[1]) and not mixed[1].equal(mixed[2])
    alone = [learned(rehearse=False, settings=s)[0].weight for s in settings]
    assert alone[0].equal(alone[1]) and alone[1].equal(alone[2])


def test_prior_zero_gives_plain_statistics_of_the_mixed_batch():
    layer = balanced(nn.BatchNorm1d(3).double(), **{**SETTINGS, "prior": 0.0}).double()
    plain = nn.BatchNorm1d(3, momentum=None).double()
    x = numbers(7, 3)
    layer.composition.begin(torch.tensor([0, 0, 0, 0, 0, 1, 2]), 3)
    assert torch.allclose(layer(x), plain(x), rtol=1e-12)


def test_a_large_prior_gives_every_task_of_the_batch_the_same_share():
    layer = balanced(nn.BatchNorm1d(1).double(), **{**SETTINGS, "kappa": 0.0, "prior": 1e6}).double()
    layer.composition.begin(torch.tensor([0, 0, 0, 2]), 3)
    layer(torch.tensor([[0.0], [0.0], [0.0], [8.0]], dtype=torch.float64))
    assert float(layer.running_mean) == pytest.approx(4.0, rel=1e-4)


@pytest.mark.parametrize("make", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_taken_in_the_middle_of_a_step_is_told_nothing(make):
    layer = balanced(nn.BatchNorm1d(3).double(), **SETTINGS).double()
    layer.composition.begin(torch.tensor([0, 1, 1]), 2)
    layer(numbers(3, 3))
    twin = make(nn.Sequential(layer))[0] if make is not copy.copy else make(layer.composition)
    composition = twin if make is copy.copy else twin.composition
    assert composition is not layer.composition and composition.tasks is None and not composition.added


def test_the_layer_goes_on_at_its_number_of_batches():
    norm = nn.BatchNorm2d(2).double()
    for step in range(5):
        norm(numbers(4, 2, 3, 3, seed=step))
    layer = balanced(norm, **{**SETTINGS, "kappa": 0.0})
    assert type(layer) is BalancedBatchNorm2d and layer.weight is norm.weight
    before = layer.running_mean.clone()
    x = numbers(4, 2, 3, 3, seed=9)
    layer(x)
    assert torch.allclose(layer.running_mean, before + (x.mean((0, 2, 3)) - before) / 6)
    assert int(norm.num_batches_tracked) == 6, "both hold the same buffers"


class Odd(nn.BatchNorm1d):
    """Not torch's own."""


@pytest.mark.parametrize(
    ("norm", "why"),
    [
        (nn.LayerNorm(5), "no batch normalisation"),
        (nn.InstanceNorm1d(5, track_running_stats=True), "no batch normalisation"),
        (nn.BatchNorm1d(5, track_running_stats=False), "no running statistics"),
        (nn.BatchNorm1d(5, momentum=None), "momentum is None"),
        (nn.BatchNorm1d(5, momentum=0.0), r"momentum is 0\.0"),
        (nn.SyncBatchNorm(5), "SyncBatchNorm"),
        (Odd(5), "an? Odd"),
    ],
)
def test_what_cannot_be_balanced_is_refused_by_name(norm: nn.Module, why: str):
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 5), norm, nn.Linear(5, 3))
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        model[1] = nn.Identity()
    layers = list(model)
    with pytest.raises(Refused, match=why):
        _first_call(model)
    assert all(a is b for a, b in zip(model, layers, strict=True)), "nothing was changed"


def _first_call(model: nn.Module) -> None:
    optimizer = SGD([p for p in model.parameters() if not isinstance(p, nn.UninitializedParameter)], lr=0.1)
    model.eval()
    with homeostat.attach(model, optimizer, treatments=[AdaB2N()], vitals=(), strict=True):
        model.train()
        model(torch.randn(6, 4))


@pytest.mark.parametrize("affine", [False, True])
def test_without_affine_or_with_frozen_parameters_it_works(affine: bool):
    model = net(4)
    model[1] = nn.BatchNorm1d(5, affine=affine).double()
    model[1].requires_grad_(False)
    optimizer = Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    with homeostat.attach(model, optimizer, treatments=[AdaB2N()], vitals=(), strict=True) as run:
        for step in range(3):
            x, y = run.batch(numbers(6, 4, seed=step), torch.arange(6) % 3)
            optimizer.zero_grad()
            run.loss(F.cross_entropy)(model(x), y).backward()
            optimizer.step()
    assert isinstance(model[1], nn.BatchNorm1d) and (model[1].weight is None) == (not affine)


def test_units_are_paired_through_the_layer():
    """Its parameters per unit are carriers, its running statistics buffers; the weights of tasks belong to no unit."""
    model = net(1, 4, 4)
    optimizer = SGD(model.parameters(), lr=0.1)
    with homeostat.attach(
        model, optimizer, treatments=[AdaB2N(tasks=5), "redo:every=2"], vitals=(), strict=True
    ) as run:
        model(numbers(4, 1, 4, 4))
        (group,) = run._network.treatments.traced.units
    assert {axis.name for axis in group.carriers} == {"1.weight", "1.bias"}
    assert {axis.name for axis in group.buffers} == {"1.running_mean", "1.running_var"}


@pytest.mark.parametrize(
    "tasks", [torch.tensor([0, 1]), torch.tensor([0, -1, 0]), torch.tensor([0.0, 0, 0]), [0, 0, 0]]
)
def test_wrong_numbers_of_tasks_are_refused(tasks):
    model = net(4)
    optimizer = SGD(model.parameters(), lr=0.1)
    with (
        homeostat.attach(model, optimizer, vitals=(), strict=True) as run,
        pytest.raises(BadInput, match="tasks begun"),
    ):
        run.batch(numbers(3, 4), torch.zeros(3, dtype=torch.int64), tasks=tasks)


def test_a_loop_without_the_lines_is_told_so():
    model = net(4)
    optimizer = SGD(model.parameters(), lr=0.1)
    run = homeostat.attach(model, optimizer, treatments=[AdaB2N()], vitals=(), strict=True)
    model(numbers(6, 4))
    run.detach()
    assert run.not_measured()["adab2n"].startswith("a part of it never acted: run.batch(...) and run.loss(...)")


def test_compiled_it_learns_the_same():
    """As one graph, over more tasks than torch would compile it anew for."""
    models, optimizers = [net(4) for _ in range(2)], []
    run_with = [models[0], torch.compile(models[1], backend="eager", fullgraph=True)]
    for model, used in zip(models, run_with, strict=True):
        optimizer = SGD(model.parameters(), lr=0.1)
        optimizers.append(optimizer)
        with homeostat.attach(used, optimizer, treatments=[AdaB2N()], vitals=(), strict=True) as run:
            for step in range(24):
                if step and step % 2 == 0:
                    run.boundary()
                tasks = (torch.arange(6) + step) % (step // 2 + 1)
                x, y = run.batch(numbers(6, 4, seed=step), torch.arange(6) % 3, tasks=tasks)
                optimizer.zero_grad()
                run.loss(F.cross_entropy)(used(x), y).backward()
                optimizer.step()
    for name, value in models[0].state_dict().items():
        assert torch.allclose(value, models[1].state_dict()[name], rtol=1e-12), name


def test_settings_are_checked():
    for wrong in ({"kappa": 1.5}, {"tasks": 0}, {"absent": "some"}, {"prior": -1.0}):
        with pytest.raises(BadSetting):
            AdaB2N(**wrong)
