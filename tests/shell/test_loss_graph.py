"""What the autograd graph of a loss shows, by kind of program: the mistake, and what looks like it and is right."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import homeostat
from homeostat.diagnosis.loss_facts import ClearingFacts
from homeostat.shell.hooks.loss_graph import read_loss
from homeostat.shell.observe.loss_collector import LossCollector, hidden_parameters
from homeostat.shell.observe.loss_schedule import LossSchedule

X, Y = torch.randn(16, 5), torch.arange(16) % 3
LOGITS = nn.Linear(5, 3)
ONE = nn.Linear(5, 1)
Q, K, V = (torch.randn(4, n, 8, requires_grad=True) for n in (6, 7, 7))
SCORES = Q @ K.transpose(1, 2)


def soft_targets(scores):
    return -(F.softmax(torch.randn(16, 3), 1) * F.log_softmax(scores, 1)).sum(1).mean()


def attended(weights):
    return F.mse_loss((weights @ V).mean((1, 2)), torch.zeros(4))


@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        (lambda: F.cross_entropy(F.softmax(LOGITS(X), 1), Y), True),
        (lambda: F.cross_entropy(torch.sigmoid(LOGITS(X)), Y), True),
        (lambda: soft_targets(F.softmax(LOGITS(X), 1)), True),
        (lambda: F.cross_entropy(F.softmax(LOGITS(X), 1).view(4, 4, 3).reshape(16, 3), Y), True),
        (lambda: F.binary_cross_entropy_with_logits(torch.sigmoid(ONE(X)), torch.ones(16, 1)), True),
        (lambda: -torch.distributions.Categorical(logits=F.softmax(LOGITS(X), 1)).log_prob(Y).mean(), True),
        (lambda: F.cross_entropy(LOGITS(X), Y), False),
        (lambda: F.nll_loss(F.softmax(LOGITS(X), 1).log(), Y), False),
        (lambda: F.nll_loss(F.log_softmax(LOGITS(X), 1), Y), False),
        (lambda: F.cross_entropy(LOGITS(X) * F.softmax(LOGITS(X), 1), Y), False),
        (lambda: -torch.distributions.Categorical(probs=F.softmax(LOGITS(X), 1)).log_prob(Y).mean(), False),
        (lambda: F.binary_cross_entropy(torch.sigmoid(ONE(X)), torch.ones(16, 1)), False),
    ],
)
def test_probabilities_in_a_loss_that_expects_logits(loss, shown):
    assert read_loss(loss()).duplicated_softmax is shown


@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        (lambda: attended(F.softmax(SCORES, 1)), True),
        (lambda: attended(F.dropout(F.softmax(SCORES, 0), 0.1)), True),
        (lambda: F.nll_loss(F.log_softmax(LOGITS(X), 0), Y), True),
        (lambda: F.nll_loss((F.softmax(LOGITS(X), 0) + 1e-8).log(), Y), True),
        (lambda: attended(F.softmax(SCORES, 2)), False),
        (lambda: attended(F.dropout(F.softmax(SCORES, -1), 0.1)), False),
        (lambda: F.cross_entropy(LOGITS(X), Y), False),
        (lambda: F.scaled_dot_product_attention(Q, K, V).mean(), False),
        # linear attention: keys are normalised over their positions, and transposed before the product
        (lambda: F.mse_loss(F.softmax(K, 1).transpose(1, 2) @ V, torch.zeros(4, 8, 8)), False),
        # mixtures: weights of experts, of one token each
        (lambda: (F.softmax(LOGITS(X), -1).unsqueeze(1) @ torch.randn(16, 3, 2)).mean(), False),
        # both sides of a contrastive loss
        (lambda: F.cross_entropy((LOGITS(X) @ LOGITS(X).T).T, torch.arange(16)), False),
    ],
)
def test_a_softmax_over_the_wrong_dimension(loss, shown):
    assert bool(read_loss(loss()).softmax_dim) is shown


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        (lambda: F.mse_loss(ONE(X), torch.randn(16)), True),
        (lambda: F.smooth_l1_loss(ONE(X).squeeze(1), torch.randn(16, 1)), True),
        (lambda: ((ONE(X) - torch.randn(16)) ** 2).mean(), True),
        (lambda: (torch.randn(16) - ONE(X)).abs().mean(), True),
        (lambda: F.l1_loss(ONE(X), torch.randn(16)), True),
        (lambda: F.mse_loss(ONE(X), torch.randn(16, 1)), False),
        (lambda: F.mse_loss(nn.Linear(5, 16)(X), torch.randn(16, 16)), False),
        # pairwise ranking: differences of all pairs are meant
        (lambda: ((ONE(X) - ONE(X).T) ** 2).mean(), False),
        # quantile regression: every quantile with every sample of the target
        (lambda: (LOGITS(X).unsqueeze(2) - torch.randn(16, 1, 3)).abs().mean(), False),
    ],
)
def test_outputs_broadcast_against_targets(loss, shown):
    assert (read_loss(loss()).broadcast is not None) is shown


@pytest.mark.parametrize("advantage", [torch.zeros(16), torch.randn(16)])
def test_weights_of_the_loss_that_are_all_zero(advantage):
    chance = torch.distributions.Categorical(logits=LOGITS(X))
    assert read_loss(-(advantage * chance.log_prob(Y)).mean()).zero_weight is bool((advantage == 0).all())


def test_a_loss_without_a_constant_factor_says_nothing_about_weights():
    assert read_loss(F.cross_entropy(LOGITS(X), Y)).zero_weight is None


def test_checkpointed_and_offloaded_graphs_are_not_unpacked():
    calls = []

    def block(x):
        calls.append(1)
        return LOGITS(x)

    loss = F.cross_entropy(checkpoint(block, X, use_reentrant=False), Y)
    assert read_loss(loss).inputs is None and len(calls) == 1
    loss.backward()


def test_labels_and_inputs():
    seen = read_loss(F.cross_entropy(LOGITS(X * 40), Y))
    assert torch.equal(seen.labels, Y) and seen.classes == 3 and torch.equal(seen.inputs, X * 40)


def test_layers_in_plain_lists_are_found_and_registered_ones_are_not():
    net = nn.Module()
    net.kept, net.hidden = nn.ModuleList([nn.Linear(2, 2)]), [nn.Linear(2, 2), nn.Linear(2, 2)]
    net.again, net.free = [net.kept[0]], {"scale": nn.Parameter(torch.ones(1)), "number": 3}
    names = set(hidden_parameters(net).values())
    assert names == {"hidden.0.weight", "hidden.0.bias", "hidden.1.weight", "hidden.1.bias", "free.scale"}


def labelled(batches) -> LossCollector:
    collector = LossCollector(lambda part: contextlib.nullcontext(), lambda: 0)
    for step, labels in enumerate(batches, 1):
        collector.see(step, F.cross_entropy(nn.Linear(5, 10)(torch.randn(len(labels), 5)), labels))
    return collector


def test_the_order_of_the_classes():
    shuffled = [torch.randint(0, 10, (32,)) for _ in range(60)]
    sorted_ = [torch.full((32,), step % 10) for step in range(60)]
    tasks = [torch.randint(0, 2, (32,)) + 2 * (step // 50) for step in range(200)]
    assert labelled(shuffled).facts().labels.order == ""
    assert labelled(sorted_).facts().labels.order == "recurring"
    assert labelled(tasks).facts().labels.order == "vanishing"
    assert labelled([torch.tensor([0, 1])] * 60).facts().labels.order == "", "two classes are always few"


def test_gradients_that_are_not_cleared():
    for clears, expected in ((True, 0), (False, 9)):
        model = nn.Linear(5, 3)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        with homeostat.attach(model, optimizer) as run:
            for _ in range(10):
                if clears:
                    optimizer.zero_grad(set_to_none=False)
                for _ in range(2):  # two micro-batches
                    F.cross_entropy(model(X), Y).backward()
                optimizer.step()
            facts = run._run.losses.facts()
        assert facts.clearing == ClearingFacts(checks=9, uncleared=expected)


def test_the_losses_of_networks_trained_in_turn_are_all_read():
    schedule = LossSchedule([None, None])  # type: ignore[list-item]
    kinds = {"critic": lambda: F.mse_loss(ONE(X), torch.zeros(16, 1)), "policy": lambda: -ONE(X).mean()}
    read = {kind: 0 for kind in kinds}
    for step in range(200):
        for place, (kind, loss) in enumerate(kinds.items()):
            schedule.due(step + 1 + place, loss())  # the policy's loss comes after the critic's step
            read[kind] += schedule.take(step + 1 + place)
    alone = LossSchedule([])
    assert len(set(read.values())) == 1
    assert read["critic"] == sum(alone.due(step + 1, ONE(X).mean()) and alone.take(step + 1) for step in range(200))
