"""Masked softmax, rehearsal and temporal ensembles through the user's loop, against slow restatements in float64.

Compared with authors' code while writing this: AlbinSou/online_ema, src/plugins/mean_evaluation.py - after every
iteration each entry of the state dict becomes m * average + (1 - m) * value, from a copy of the first weights; m is 0.9
at first and 0.99 later. Same here, except for the warm-up (see the treatment) and that whole numbers are copied.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

import homeostat
from homeostat.core.random import Draw
from homeostat.core.treatment import View
from homeostat.treatments import MaskedSoftmax, PowerLawRehearsal, TemporalEnsemble

CLASSES, IGNORED = 7, -100


def numbers(*shape: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masked_gradient(
    z: list[list[float]], targets: list[int], relevant: list[set[int]], m: float
) -> tuple[float, list[list[float]]]:
    """Loss and its gradient from p_i = exp(z_i) / (sum over relevant c of exp(z_c) + n_masked exp(m))."""
    used = [n for n, y in enumerate(targets) if y != IGNORED]
    loss, gradient = 0.0, [[0.0] * CLASSES for _ in z]
    for n in used:
        floor = (CLASSES - len(relevant[n])) * math.exp(m)
        below = sum(math.exp(z[n][c]) for c in relevant[n]) + floor
        loss -= math.log(math.exp(z[n][targets[n]]) / below) / len(used)
        for i in relevant[n]:
            gradient[n][i] = (math.exp(z[n][i]) / below - (i == targets[n])) / len(used)
    return loss, gradient


@pytest.mark.oracle("masked-softmax")
@pytest.mark.parametrize("floor", [-1e4, -3.0, 0.0, 2.5])
@pytest.mark.parametrize("relevant", ["task", "batch"])
def test_gradient_of_the_masked_loss_is_the_written_out_one(relevant: str, floor: float):
    """Three tasks; from the second on with rehearsed items of all older tasks, and with ignored items throughout."""
    model = nn.Linear(5, CLASSES).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    treatment = MaskedSoftmax(floor=floor, relevant=relevant)
    batches = [[[0, 1, IGNORED, 0]], [[2, 2, 0, IGNORED], [3, 0, 1, 2]], [[5, 4, 3, 0, 1], [IGNORED, 5, 2, 5]]]
    seen: dict[int, int] = {}
    with homeostat.attach(model, optimizer, treatments=[treatment], vitals=(), strict=True) as run:
        criterion = run.loss(F.cross_entropy)
        for task, row in enumerate(batches):
            if task:
                run.boundary(f"task {task}")
            for number, targets in enumerate(row):
                outputs = model(numbers(len(targets), 5, seed=10 * task + number))
                outputs.retain_grad()
                loss = criterion(outputs, torch.tensor(targets))
                optimizer.zero_grad()
                loss.backward()

                for y in targets:
                    if y != IGNORED:
                        seen.setdefault(y, task)
                older = {c for c, first in seen.items() if first < task}
                present = {c for c, first in seen.items() if first == task}
                by_task = [present if seen.get(y) == task else older for y in targets]
                by_batch = [{y for y in targets if y != IGNORED}] * len(targets)
                expected = masked_gradient(
                    outputs.tolist(), targets, by_task if relevant == "task" else by_batch, floor
                )
                assert loss.item() == pytest.approx(expected[0], rel=1e-12, abs=1e-12)
                torch.testing.assert_close(
                    outputs.grad, torch.tensor(expected[1], dtype=torch.float64), rtol=1e-10, atol=1e-13
                )
                optimizer.step()


@pytest.mark.oracle("masked-softmax")
@pytest.mark.parametrize("floor", [-1e4, 1.0])
def test_the_masked_gradient_does_not_depend_on_order_or_padding(floor: float):
    """Micro-batches that hold the same classes add up to the whole batch; ignored items and order change nothing."""
    z, targets = numbers(8, CLASSES), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([z, numbers(3, CLASSES, seed=2)]), torch.cat([targets, torch.full((3,), IGNORED)])
    ways = [[(z, targets)], [(z[order], targets[order])], [padded], [(z[:4], targets[:4]), (z[4:], targets[4:])]]
    found = []
    for parts in ways:
        model = nn.Linear(5, CLASSES).double()
        with homeostat.attach(
            model, torch.optim.SGD(model.parameters(), lr=0.1), treatments=[MaskedSoftmax(floor=floor)], vitals=()
        ) as run:
            model(numbers(2, 5))
            leaves = [x.clone().requires_grad_() for x, _ in parts]
            criterion = run.loss(nn.CrossEntropyLoss(reduction="sum"))
            for leaf, (_, y) in zip(leaves, parts, strict=True):
                criterion(leaf, y).backward()
            found.append(torch.cat([leaf.grad for leaf in leaves if leaf.grad is not None]))
    torch.testing.assert_close(found[1], found[0][order], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[2][:8], found[0], rtol=1e-9, atol=1e-12)
    assert not found[2][8:].any()
    torch.testing.assert_close(found[3], found[0], rtol=1e-9, atol=1e-12)


PARAMETERS = {"w": torch.zeros(1)}


def rehearse(treatment: PowerLawRehearsal, tasks: list[list[torch.Tensor]], seed: int):
    """The appended items of every call and the state at the end. Items are [n, 1]; targets are the items plus 0.5."""
    knobs, step, appended = treatment.knobs(), 0, []
    state = treatment.init(View(step=0, parameters=PARAMETERS), knobs)
    for task, batches in enumerate(tasks):
        for items in batches:
            step += 1
            view = View(
                step=step, parameters=PARAMETERS, task=task, inputs=items, targets=items[:, 0] + 0.5,
                draw=Draw(seed, ("rehearsal", step)),
            )  # fmt: skip
            edits, state = treatment.plan(view, state, knobs)
            appended.append(edits)
    return appended, state


def items(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count, dtype=torch.float32)[:, None]


@pytest.mark.oracle("power-law-rehearsal")
def test_every_item_of_a_task_is_as_likely_kept_whenever_it_came():
    """24 items in batches of 7, 7, 7 and 3, six places, 500 seeds: chi-square with the variance of draws without
    replacement."""
    treatment, seeds, n, places = PowerLawRehearsal(per_task=6, share=0.0), 500, 24, 6
    batches = [items(first, min(7, n - first)) for first in range(0, n, 7)]
    kept = torch.zeros(n)
    for seed in range(seeds):
        _, state = rehearse(treatment, [batches], seed)
        which = state["inputs"][0, :, 0].long()
        assert len(set(which.tolist())) == places
        assert torch.equal(state["targets"][0], state["inputs"][0, :, 0] + 0.5)
        kept[which] += 1
    p = places / n
    statistic = float(((kept - seeds * p) ** 2).sum()) / (seeds * p * (1 - p)) * (n - 1) / n
    assert 0.001 < stats.chi2.sf(statistic, n - 1) < 0.999


@pytest.mark.oracle("power-law-rehearsal")
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_past_tasks_come_back_as_a_power_law_of_their_age(exponent: float):
    """Five past tasks of which one has no items; the frequencies of tasks and of items within one by chi-square."""
    share, now, places = 16.0, 1500, 4
    past = [[items(100 * task, 20)] for task in range(2)] + [[]] + [[items(100 * task, 20)] for task in (3, 4)]
    treatment = PowerLawRehearsal(exponent=exponent, share=share, per_task=places)
    appended, state = rehearse(treatment, [*past, [items(900, now)]], seed=11)
    assert appended[0] == []
    (edit,) = appended[-1]
    assert torch.equal(edit.targets, edit.inputs[:, 0] + 0.5)
    count = int(share * now)
    assert len(edit.inputs) == count

    origin = (edit.inputs[:, 0] // 100).long()
    seen = torch.bincount(origin, minlength=5)
    assert not seen[2] and not (origin >= 5).any()
    weight = {j: (5 - j) ** -exponent for j in (0, 1, 3, 4)}
    expected = [count * w / sum(weight.values()) for w in weight.values()]
    assert stats.chisquare([int(seen[j]) for j in weight], expected).pvalue > 0.001
    for j in weight:
        within = [int((edit.inputs[:, 0] == item).sum()) for item in state["inputs"][j, :, 0]]
        assert stats.chisquare(within).pvalue > 0.001


@pytest.mark.oracle("temporal-ensemble")
@pytest.mark.parametrize(("decay", "warm_up"), [(0.99, True), (0.3, True), (0.99, False), (0.0, True)])
def test_the_evaluated_network_is_the_average_kept_by_hand(decay: float, warm_up: bool):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    treatment = TemporalEnsemble(decay=decay, warm_up=warm_up)
    with homeostat.attach(model, optimizer, treatments=[treatment], vitals=(), strict=True) as run:
        average: dict[str, torch.Tensor] = {n: t.clone() for n, t in model.state_dict().items()}
        for t in range(15):
            optimizer.zero_grad()
            F.cross_entropy(model(numbers(8, 3, seed=t)), torch.arange(8) % 2).backward()
            optimizer.step()
            d = min(decay, (1 + t) / (10 + t)) if warm_up else decay
            for name, value in model.state_dict().items():
                average[name] = d * average[name] + (1 - d) * value if value.is_floating_point() else value.clone()
        own = {n: t.clone() for n, t in model.state_dict().items()}
        by_hand = copy.deepcopy(model)
        by_hand.load_state_dict(average)
        by_hand.eval()
        model.eval()
        probe = numbers(5, 3, seed=99)
        with run.evaluation(), torch.no_grad():
            for name, value in model.state_dict().items():
                torch.testing.assert_close(value, average[name], rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(model(probe), by_hand(probe), rtol=1e-11, atol=1e-12)
        assert all(torch.equal(own[n], t) for n, t in model.state_dict().items())
        assert (decay == 0) == torch.allclose(average["0.weight"], own["0.weight"], rtol=1e-9)
