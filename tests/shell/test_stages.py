"""Stages that a line in the user's loop opens: the batch, the loss, evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import homeostat
from homeostat import TreatOptions
from homeostat.core.edits import ExtendBatch, MaskOutputs, SetBuffer, SetValues
from homeostat.core.errors import BadInput, Refused
from homeostat.core.treatment import Stage, Treatment


@dataclass(frozen=True, kw_only=True)
class _Test(Treatment, abstract=True):
    """Unregistered: only the tests see these."""

    name = "test-treatment"


@dataclass(frozen=True, kw_only=True)
class Echo(_Test, abstract=True):
    """Appends the first item once more, with a target that tells how many micro-batches there were."""

    stage = Stage.BATCH

    def plan(self, view, state, knobs):
        calls = state.get("calls", torch.zeros((), dtype=torch.int64)) + 1
        assert view.inputs is not None and view.targets is not None
        return [ExtendBatch("batch", view.inputs[:1], view.targets[:1])], {"calls": calls}


@dataclass(frozen=True, kw_only=True)
class Blind(_Test, abstract=True):
    """Masks class 0."""

    stage = Stage.LOSS

    def plan(self, view, state, knobs):
        return [MaskOutputs("outputs", torch.tensor([True, False]), torch.tensor(-1e4))], state


@dataclass(frozen=True, kw_only=True)
class Zero(_Test, abstract=True):
    """Evaluates a network of zeros, and counts the steps it followed."""

    stage = Stage.EVALUATION

    def follow(self, view, state, knobs):
        return {"steps": state.get("steps", torch.zeros(())) + 1}

    def plan(self, view, state, knobs):
        values = [SetValues(n, torch.zeros_like(p)) for n, p in view.parameters.items()]
        return [*values, *[SetBuffer(n, torch.zeros_like(b)) for n, b in view.buffers.items()]], state


@dataclass(frozen=True, kw_only=True)
class Broken(Echo, abstract=True):
    def plan(self, view, state, knobs):
        return [ExtendBatch("batch", torch.ones(1, 99), torch.ones(1))], state


def loop(*treatments: Treatment, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters())
    settings = {"vitals": (), "strict": True, **settings}
    return model, optimizer, homeostat.attach(model, optimizer, treatments=treatments, **settings)


def batch(n: int = 6):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 2


def step(model, optimizer, run, criterion) -> int:
    inputs, targets = run.batch(*batch())
    optimizer.zero_grad()
    criterion(model(inputs), targets).backward()
    optimizer.step()
    return len(inputs)


def test_a_batch_is_extended_from_the_first_one_on():
    model, optimizer, run = loop(Echo())
    with run:
        assert [step(model, optimizer, run, F.cross_entropy) for _ in range(3)] == [7, 7, 7]
        assert run.state_dict()["networks"][""]["treatments"]["applied"]["test-treatment"]["state"]["calls"] == 3


def test_the_loss_sees_masked_outputs_and_masked_outputs_get_no_gradient():
    _, _, run = loop(Blind())
    outputs = torch.randn(6, 2, requires_grad=True)
    with run:
        run._network.tracing.learn_from((batch()[0],), {})
        loss = run.loss(F.cross_entropy)(outputs, torch.ones(6, dtype=torch.long))
        loss.backward()
    assert loss.item() == 0.0  # the only class left is the right one
    assert torch.equal(outputs.grad, torch.zeros_like(outputs))


def test_evaluation_outputs_are_not_touched():
    _, _, run = loop(Blind())
    with run:
        run._network.tracing.learn_from((batch()[0],), {})
        outputs, targets = torch.randn(6, 2), torch.ones(6, dtype=torch.long)
        assert torch.equal(run.loss(F.cross_entropy)(outputs, targets), F.cross_entropy(outputs, targets))


def test_evaluation_shows_other_values_and_gives_the_own_ones_back_bit_for_bit():
    model, optimizer, run = loop(Zero())
    with run:
        for _ in range(3):
            step(model, optimizer, run, F.cross_entropy)
        before = {n: t.clone() for n, t in model.state_dict().items()}
        with run.evaluation(), run.evaluation(), torch.no_grad():
            assert all(not t.any() for t in model.state_dict().values())
        assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
        assert run.state_dict()["networks"][""]["treatments"]["applied"]["test-treatment"]["state"]["steps"] == 3


def test_an_exception_inside_evaluation_gives_the_values_back():
    model, optimizer, run = loop(Zero())
    with run:
        step(model, optimizer, run, F.cross_entropy)
        before = {n: t.clone() for n, t in model.state_dict().items()}
        with pytest.raises(KeyError), run.evaluation():
            raise KeyError
        assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_an_optimizer_step_inside_evaluation_is_warned_about():
    model, optimizer, run = loop(Zero())
    with run:
        step(model, optimizer, run, F.cross_entropy)
        with pytest.warns(RuntimeWarning, match="inside run.evaluation"), run.evaluation():
            step(model, optimizer, run, F.cross_entropy)


def test_a_plan_that_does_not_fit_ends_the_treatment_and_the_loop_goes_on():
    model, optimizer, run = loop(Broken(), strict=False)
    with pytest.warns(RuntimeWarning, match="do not fit"), run:
        assert [step(model, optimizer, run, F.cross_entropy) for _ in range(2)] == [6, 6]
    assert [e.action for e in run.journal()] == ["attach", "error"]


def test_a_dry_run_changes_nothing_and_says_what_it_would_do():
    model, optimizer, run = loop(Echo(), treat=TreatOptions(dry_run=True))
    with run:
        assert step(model, optimizer, run, F.cross_entropy) == 6
    assert any("append 1 items" in e.why for e in run.journal())


@pytest.mark.parametrize(("treatment", "line"), [(Echo(), "run.batch"), (Blind(), "run.loss"), (Zero(), "evaluation")])
def test_a_stage_that_the_loop_never_opened_is_reported(treatment: Treatment, line: str):
    model, optimizer, run = loop(treatment)
    with run:
        optimizer.zero_grad()
        model(batch()[0]).sum().backward()
        optimizer.step()
    assert line in run.not_measured()["test-treatment"]


def test_without_the_users_loop_these_stages_are_refused():
    from homeostat.shell.network import Network
    from homeostat.shell.run.treatments import TreatmentRunner

    model = nn.Linear(2, 2)
    treatments = TreatmentRunner(Network("", model, [torch.optim.SGD(model.parameters())]), 0, False, lambda _: None)
    for treatment in (Echo(), Blind(), Zero()):
        with pytest.raises(Refused, match="only a loop with"):
            treatments.add(treatment)


@pytest.mark.parametrize("both", [(torch.ones(3, 2), torch.ones(2)), (1, 2), (torch.ones(()), torch.ones(()))])
def test_what_is_no_batch_is_refused(both: Sequence):
    _, _, run = loop()
    with run, pytest.raises(BadInput, match="two tensors"):
        run.batch(*both)
