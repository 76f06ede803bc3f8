"""Accuracy on past tasks and the two parts of the gradient, against plain loops in float64 and torch's own backward."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from homeostat.core.random import Draw
from homeostat.core.snapshot import Probe, Readings
from homeostat.vitals import PlasticGradient, StableGradient, TaskAccuracy, TaskAlignment

Items = tuple[torch.Tensor, torch.Tensor]


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 4))


def items(seed: int, count: int = 30) -> Items:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=g), torch.randint(4, (count,), generator=g)


def probe(model: nn.Module, batch: Items) -> Probe:
    x, y = batch

    def outputs(p):
        return functional_call(model, dict(p), (x,))

    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    return Probe(weights, x, y, outputs, lambda p: nn.functional.cross_entropy(outputs(p), y), Draw(0))


def step(model: nn.Module, before: nn.Module, sets: dict[str, Items], present: str, batch: Items) -> Readings:
    """A step whose update led from the weights of `before` to those of `model`, with the gradient of `batch`."""
    nn.functional.cross_entropy(before(batch[0]), batch[1]).backward()
    weights = {n: p.detach().clone() for n, p in before.named_parameters()}
    gradients = {n: p.grad.clone() for n, p in before.named_parameters() if p.grad is not None}
    tasks = {name: probe(model, found) for name, found in sets.items()}
    return Readings(weights=weights, gradients=gradients, tasks=tasks, present=present)


SETS = {"a": items(1), "b": items(2, 7), "c": items(3)}


def backward(model: nn.Module, sets: list[Items]) -> torch.Tensor:
    """The gradient of the mean loss, by backward() in float64."""
    twin = copy.deepcopy(model).double()
    twin.zero_grad()
    losses = [nn.functional.cross_entropy(twin(x.double()), y) for x, y in sets]
    torch.stack(losses).mean().backward()
    return torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])


@pytest.mark.oracle("task-accuracy")
def test_accuracy_counts_right_answers_over_all_classes_after_the_step():
    model = network(1)
    values = TaskAccuracy()(step(model, network(0), SETS, "c", items(9)))
    assert list(values) == ["a", "b", "c"]
    for name, (x, y) in SETS.items():
        outputs = model(x).tolist()
        right = sum(max(range(4), key=row.__getitem__) == int(t) for row, t in zip(outputs, y, strict=True))
        assert float(values[name]) == pytest.approx(right / len(y))


@pytest.mark.oracle("stable-gradient")
def test_the_stable_part_is_the_gradient_of_the_mean_past_loss_before_the_update():
    before = network(0)
    found = StableGradient()(step(network(1), before, SETS, "c", items(9)))["network"]
    assert float(found) == pytest.approx(float(backward(before, [SETS["a"], SETS["b"]]).norm()), rel=1e-5)


@pytest.mark.oracle("plastic-gradient")
def test_the_plastic_part_is_the_gradient_of_the_present_loss_before_the_update():
    before = network(0)
    found = PlasticGradient()(step(network(1), before, SETS, "c", items(9)))["network"]
    assert float(found) == pytest.approx(float(backward(before, [SETS["c"]]).norm()), rel=1e-5)


@pytest.mark.oracle("task-alignment")
def test_alignment_is_the_cosine_with_the_steps_gradient():
    before, batch = network(0), items(9)
    values = TaskAlignment()(step(network(1), before, SETS, "c", batch))
    assert list(values) == ["a", "b"]
    for name, value in values.items():
        expected = nn.functional.cosine_similarity(backward(before, [batch]), backward(before, [SETS[name]]), dim=0)
        assert float(value) == pytest.approx(float(expected), abs=1e-6)
    opposed = step(network(1), network(0), SETS, "c", batch)
    gradient = {n: -g for n, g in opposed.gradients.items()}
    flipped = TaskAlignment()(Readings(weights=opposed.weights, gradients=gradient, tasks=opposed.tasks, present="c"))
    assert float(flipped["a"]) == pytest.approx(-float(values["a"]))


def test_items_divided_over_parts_count_together():
    model, (x, y) = network(), items(1)
    vital = TaskAccuracy()
    parts = [vital.measure(Readings(tasks={"a": probe(model, (x[s], y[s]))})) for s in (slice(11), slice(11, None))]
    whole = vital(Readings(tasks={"a": probe(model, (x, y))}))["a"]
    assert torch.equal(vital.finish(vital.combine(*parts))["a"], whole)


def test_before_a_task_has_ended_the_stable_part_is_missing():
    early = step(network(1), network(0), {"a": SETS["a"]}, "a", items(9))
    assert StableGradient()(early)["network"].isnan() and not PlasticGradient()(early)["network"].isnan()
    assert TaskAlignment()(early) == {}
    unnamed = step(network(1), network(0), {"a": SETS["a"]}, "", items(9))  # the present task has no items
    assert PlasticGradient()(unnamed)["network"].isnan() and not StableGradient()(unnamed)["network"].isnan()


@pytest.mark.parametrize(
    "targets",
    [torch.randn(30), torch.randint(4, (30, 2)), torch.full((30,), 4), torch.full((30,), -1)],
    ids=["numbers", "of another shape", "beyond the outputs", "negative"],
)
def test_targets_that_are_no_classes_are_missing(targets):
    x, _ = items(1)
    model = network()
    made = Probe(
        dict(model.named_parameters()),
        x,
        targets,
        lambda p: functional_call(model, dict(p), (x,)),
        lambda p: x.sum(),
        Draw(0),
    )
    assert TaskAccuracy()(Readings(tasks={"a": made}))["a"].isnan()


def test_sequences_count_every_position():
    outputs = torch.eye(3).expand(2, 3, 3)
    made = Probe({}, outputs, torch.tensor([[0, 1, 2], [0, 0, 0]]), lambda p: outputs, lambda p: outputs.sum(), Draw(0))
    assert float(TaskAccuracy()(Readings(tasks={"a": made}))["a"]) == pytest.approx(4 / 6)


def test_a_loss_without_parameters_has_no_gradient():
    x, y = items(1)
    made = Probe({"w": torch.ones(5)}, x, y, lambda p: x, lambda p: x.sum(), Draw(0))
    blank = Readings(weights={"w": torch.ones(5)}, gradients={"w": torch.ones(5)}, tasks={"a": made})
    assert all(math.isnan(float(v)) for vital in (StableGradient(), TaskAlignment()) for v in vital(blank).values())
