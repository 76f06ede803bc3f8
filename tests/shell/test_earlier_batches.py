"""Batches trained on earlier: which are kept, when they are evaluated, and that the run does not notice."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import homeostat
from homeostat.shell.hooks.loss_graph import criteria
from homeostat.shell.network import Network
from homeostat.shell.observe.answers import answers, find_rule, knowledge
from homeostat.shell.observe.batch_look import difference, look_at, pooled

Y = torch.tensor([0, 2, 1, 2, 0, 1, 1, 2])


def look(x, labels=None):
    return look_at(x, len(x), labels, 10)


def test_batches_of_the_same_data_look_alike():
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(50, 50, generator=draw)
    for _ in range(100):
        first, *second = (look(torch.randn(32, 50, generator=draw) @ mixing) for _ in range(4))
        assert difference(first, pooled(second)) == ""
        labels = [torch.randint(0, 10, (32,), generator=draw) for _ in range(2)]
        assert difference(*(look(torch.zeros(32, 2), y) for y in labels)) == ""


def test_what_tells_batches_apart():
    draw = torch.Generator().manual_seed(0)
    x, z = (torch.randn(64, 20, generator=draw) * torch.arange(1, 21) for _ in range(2))
    assert difference(look(x), look(z.flip(1))) == "inputs", "the same means and other variances"
    assert difference(look(x), look(z + 10)) == "inputs"
    tokens = torch.randint(0, 20, (64, 9), generator=draw)
    assert difference(look(tokens), look(tokens + 20)) == "inputs"
    assert difference(look(x, torch.zeros(64).long()), look(z, torch.ones(64).long())) == "classes"
    assert difference(look(x[:4]), look(z[:4] + 10)) == "", "four items look like nothing"
    assert difference(look(x), look(z[:, :10])) == "", "another length says nothing"


def test_batches_of_one_item_are_looked_at_without_a_warning():
    x = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = [look(row[None]) for row in x]
    assert difference(pooled(one[:32]), pooled(one[32:])) == ""
    assert difference(pooled(one), look(x + 10)) == "inputs"


@pytest.mark.parametrize(
    ("outputs", "loss"),
    [
        (torch.randn(8, 3), lambda out: F.cross_entropy(out, Y)),
        ({"aux": torch.randn(8, 3), "logits": torch.randn(8, 3)}, lambda out: F.cross_entropy(out["logits"], Y)),
        (torch.randn(2, 4, 3), lambda out: F.cross_entropy(out.view(-1, 3), Y)),
        (torch.randn(2, 4, 3), lambda out: F.cross_entropy(out.transpose(1, 2), Y.view(2, 4))),
        (torch.randn(2, 5, 3), lambda out: F.cross_entropy(out[:, :-1].reshape(-1, 3), Y)),
        (torch.randn(8, 5, 3), lambda out: F.cross_entropy(out[:, -1], Y)),
        (torch.randn(8, 3).log_softmax(1), lambda out: F.nll_loss(out, Y)),
        (torch.randn(8, 1), lambda out: F.binary_cross_entropy_with_logits(out.squeeze(1), (Y > 0).float())),
        (torch.randn(8, 1), lambda out: F.binary_cross_entropy(out.sigmoid(), (Y > 0).float()[:, None])),
        (torch.randn(8, 2), lambda out: F.mse_loss(out, torch.ones(8, 2))),
    ],
)
def test_the_way_from_the_output_to_the_loss_is_found(outputs, loss):
    leaves = outputs if isinstance(outputs, dict) else {"": outputs}
    tensors = [tensor.requires_grad_() for tensor in leaves.values()]
    (compared,) = criteria(loss(outputs))
    rule = find_rule(outputs, compared)
    assert rule is not None and rule.tensor == len(tensors) - 1
    there, here = answers(rule.scores(outputs), compared), answers(compared.scores, compared)
    assert there.right == pytest.approx(here.right) and there.count == here.count
    assert find_rule(torch.randn(8, 7), compared) is None


def test_knowledge_is_zero_for_guessing_and_one_for_everything():
    scores = F.one_hot(Y, 3).float()
    (compared,) = criteria(F.cross_entropy(scores.clone().requires_grad_(), Y))
    assert knowledge([answers(scores, compared)], 0.375, float("nan")) == 1
    (wrong,) = criteria(F.cross_entropy(scores.clone().requires_grad_(), torch.full_like(Y, 2)))
    assert knowledge([answers(scores, wrong)], 0.375, float("nan")) == 0
    masked = torch.where(Y == 2, -100, Y)
    (part,) = criteria(F.cross_entropy(scores.clone().requires_grad_(), masked))
    assert answers(scores, part).count == 5


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.body(x + 0.01 * torch.randn_like(x))


def trained(watched, batch, steps=160, model=None):
    torch.manual_seed(0)
    model = Noisy() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    run = homeostat.attach(model, optimizer, every=20, strict=True) if watched else None
    for step in range(steps):
        x, y = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    if run is not None:
        run.detach()
    return model, run


def in_two_parts(step):
    y = torch.randint(0, 2, (32,)) + 2 * (step >= 80)
    return F.one_hot(y, 6).float() + 0.1 * torch.randn(32, 6), y


def mixed(step):
    y = torch.randint(0, 4, (32,))
    return F.one_hot(y, 6).float() + 0.1 * torch.randn(32, 6), y


def test_evaluating_earlier_batches_changes_nothing():
    plain, _ = trained(False, in_two_parts)
    after = torch.randn(3)
    watched, run = trained(True, in_two_parts)
    assert run._run.facts().earlier.evaluations > 2
    assert torch.equal(after, torch.randn(3))
    assert all(
        torch.equal(a, b) for a, b in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True)
    )
    assert not watched._forward_hooks and copy.deepcopy(watched)


def test_nothing_runs_while_all_batches_look_alike():
    _, run = trained(True, mixed)
    assert run._run.facts().earlier.evaluations == 0


def test_what_cannot_be_followed_is_said():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.first(x)

    model = Halves()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with homeostat.attach(model, optimizer, every=10) as run:
        for step in range(40):
            x, y = mixed(step)
            optimizer.zero_grad()
            F.cross_entropy(model.second(model(x)), y).backward()
            optimizer.step()
    assert "returns" in run.not_measured()["forgetting"]


def test_several_networks_are_not_followed():
    models = nn.Linear(6, 4), nn.Linear(6, 4)
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
    with homeostat.attach(models[0], optimizers[0], every=10) as run:
        run._run.add(Network("other", models[1], [optimizers[1]]))
        for step in range(40):
            x, y = in_two_parts(2 * step)
            for model, optimizer in zip(models, optimizers, strict=True):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    assert run.not_measured()["forgetting"] == "several networks are trained"
    assert run._run.facts().earlier.evaluations == 0
