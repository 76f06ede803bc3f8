"""The tasks of a batch, as told to inserted modules, and what these add to the loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import homeostat
from homeostat import TreatOptions
from homeostat.core.batch_tasks import Composition
from homeostat.core.edits import ExtendBatch, ReplaceModule
from homeostat.core.errors import BadInput, BadSetting, UnknownName
from homeostat.core.treatment import Stage, Treatment
from homeostat.treatments import AdaB2N, PowerLawRehearsal


class Curious(nn.Linear):
    """Adds the mean of its weights to the loss, and notes what it is told."""

    composition: Composition

    def forward(self, input):
        of = self.composition.of(len(input))
        self.told.append((None if of is None else of.tolist(), self.composition.count))
        self.composition.added.append(self.weight.mean())
        return super().forward(input)


def curious(module: nn.Module) -> nn.Module:
    new = Curious(4, 3)
    new.load_state_dict(module.state_dict())
    new.composition, new.told = Composition(), []
    return new


@dataclass(frozen=True, kw_only=True)
class Asks(Treatment, abstract=True):
    """Unregistered: puts a curious layer in."""

    name = "asks"
    stage = Stage.MODULES
    lines = (Stage.BATCH, Stage.LOSS)

    def plan(self, view, state, knobs):
        assert view.kinds["0"] in (nn.Linear, Curious)
        return [ReplaceModule("0", curious)], state


@dataclass(frozen=True, kw_only=True)
class Appends(Treatment, abstract=True):
    """Unregistered: appends the first item, and says a task that is given or none."""

    name = "appends"
    stage = Stage.BATCH
    tasks: Sequence[int] | None = None

    def plan(self, view, state, knobs):
        told = None if self.tasks is None else torch.tensor(self.tasks)
        return [ExtendBatch("batch", view.inputs[:1], view.targets[:1], told)], state


def begun(*treatments: Treatment, dry_run: bool = False):
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = ((torch.zeros(2, 4), torch.tensor([0, 1])), F.cross_entropy)
    run = homeostat.attach(
        model,
        optimizer,
        treatments=[Asks(), *treatments],
        vitals=(),
        probe=probe,
        strict=True,
        treat=TreatOptions(dry_run=dry_run),
    )
    return model, optimizer, run


def step(model, optimizer, run, items: int = 2, **told):
    x, y = run.batch(torch.ones(items, 4), torch.zeros(items, dtype=torch.int64), **told)
    optimizer.zero_grad()
    loss = run.loss(F.cross_entropy)(model(x), y)
    plain = F.cross_entropy(F.linear(x, model[0].weight, model[0].bias), y).detach()
    added = model[0].weight.mean().detach()
    loss.backward()
    optimizer.step()
    return float(loss.detach() - plain - added)


def test_rehearsed_items_bring_their_task_and_the_users_the_present_one():
    model, optimizer, run = begun(PowerLawRehearsal(share=1.0, per_task=4))
    with run:
        for _ in range(3):
            assert abs(step(model, optimizer, run)) < 1e-6
            run.boundary()
        told = model[0].told
    assert told[:2] == [(None, 1), ([1, 1, 0, 0], 2)]
    assert told[2][0][:2] == [2, 2] and set(told[2][0][2:]) <= {0, 1} and told[2][1] == 3


@pytest.mark.parametrize(
    ("appended", "by_hand", "expected"),
    [
        ([], None, None),
        ([], [0, 1], [0, 1]),
        ([[0]], None, [1, 1, 0]),
        ([[0]], [0, 1], [0, 1, 0]),
        ([None], None, None),
        ([None], [0, 1], None),
        ([[0], None], None, None),
    ],
)
def test_what_is_told_and_what_is_not_known(appended, by_hand, expected):
    """One treatment that does not say where its items come from makes the batch unknown."""

    @dataclass(frozen=True, kw_only=True)
    class More(Appends, abstract=True):
        name = "more"

    kinds = (Appends, More)
    model, optimizer, run = begun(*(kind(tasks=t) for kind, t in zip(kinds, appended, strict=False)))
    with run:
        step(model, optimizer, run)
        run.boundary()
        step(model, optimizer, run, **({} if by_hand is None else {"tasks": torch.tensor(by_hand)}))
        assert model[0].told[-1] == (expected, 2)


def test_a_dry_run_tells_nothing_of_items_that_were_not_appended():
    model = nn.Sequential(curious(nn.Linear(4, 3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kinds = [Asks(), Appends(tasks=[0])]
    with homeostat.attach(
        model, optimizer, treatments=kinds, vitals=(), strict=True, treat=TreatOptions(dry_run=True)
    ) as run:
        run.boundary()
        x, _ = run.batch(torch.ones(2, 4), torch.zeros(2, dtype=torch.int64))
        model(x)
        assert len(x) == 2 and model[0].told[-1] == (None, 2)


def test_items_and_their_tasks_must_match():
    model, optimizer, run = begun(Appends(tasks=[0, 0]))
    with run, pytest.raises(BadInput, match=r"tasks of shape \(2,\) for 1 items"):
        step(model, optimizer, run)


def test_after_the_step_and_for_other_batches_nothing_is_known():
    model, optimizer, run = begun(Appends(tasks=[0]))
    with run:
        step(model, optimizer, run)
        model(torch.ones(3, 4))
        assert model[0].told[-1] == (None, 1), "the step is over"
        run.batch(torch.ones(2, 4), torch.zeros(2, dtype=torch.int64))
        model(torch.ones(5, 4))
        assert model[0].told[-1][0] is None, "five items are not the three of the batch"


def test_every_micro_batch_adds_its_own_losses_once():
    model, _, run = begun()
    with run:
        criterion = run.loss(F.cross_entropy)
        for _ in range(3):
            x, y = run.batch(torch.ones(2, 4), torch.zeros(2, dtype=torch.int64))
            out = model(x)
            extra = [float(criterion(out, y).detach() - F.cross_entropy(out, y).detach()) for _ in range(2)]
            assert extra[0] == pytest.approx(float(model[0].weight.detach().mean()), abs=1e-6) and extra[1] == 0.0
            model(x), model(x)
            twice = float(criterion(out, y).detach() - F.cross_entropy(out, y).detach())
            assert twice == pytest.approx(2 * float(model[0].weight.detach().mean()), abs=1e-6)
            with torch.no_grad():
                assert criterion(model(x), y) == F.cross_entropy(out, y), "evaluation passes through"


def test_a_copy_of_the_network_is_not_told():
    import copy

    model, optimizer, run = begun(Appends(tasks=[0]))
    with run:
        step(model, optimizer, run)
        twin = copy.deepcopy(model)
        run.batch(torch.ones(2, 4), torch.zeros(2, dtype=torch.int64))
        twin(torch.ones(3, 4))
        assert twin[0].told[-1] == (None, 1) and not run._network.network.composition.added


def test_knobs_of_edits_of_modules_cannot_be_turned():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises((UnknownName, BadSetting), match=r"adab2n\.kappa"):
        homeostat.attach(model, optimizer, treatments=[AdaB2N()], controllers=["pi:vital=loss,knob=adab2n.kappa"])
