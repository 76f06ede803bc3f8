"""A fleet of every kind of network equals the networks trained alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from fleet.solo import at_step, batches, farthest, train_alone
from homeostat.fleet import Fleet

SEEDS, STEPS = (3, 4, 5), 12
SGD = partial(torch.optim.SGD, lr=0.05)


class OwnCode(nn.Module):
    """Works on stacked tensors as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.randn(8))

    def forward(self, x):
        return self.second(torch.relu(self.first(x)) * self.scale)


class BatchAxis(OwnCode):
    """Counts its axes from the front, so that it needs vmap."""

    def forward(self, x):
        return self.second((torch.relu(self.first(x)) * self.scale).view(x.size(0), -1))


class RandomInside(OwnCode):
    """Draws from the global stream, so that replicas run one by one."""

    def forward(self, x):
        return self.second(nn.functional.dropout(torch.relu(self.first(x)), 0.4, self.training) * self.scale)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(10, 16), nn.Parameter(torch.randn(5, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.layers(self.embed(x) + self.place).mean(-2))


class MaskedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 16, padding_idx=0), nn.Linear(16, 3)
        self.attend = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        h = self.embed(x)
        later = torch.ones(5, 5, dtype=torch.bool).triu(1)
        return self.head(self.attend(h, h, h, attn_mask=later, need_weights=False)[0].mean(-2))


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, groups=2),
        nn.GroupNorm(2, 6), nn.Tanh(), nn.Dropout2d(0.2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


def _normed() -> nn.Module:
    parts = {"in": nn.Linear(6, 8), "norm": nn.LayerNorm(8), "act": nn.GELU(), "drop": nn.Dropout(0.3)}
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model.append(nn.Linear(8, 8)).append(nn.BatchNorm1d(8)).append(nn.RMSNorm(8)).append(nn.Linear(8, 3))


def _parametrized() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))


def _wide() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))


def _features(*shape: int):
    return lambda g: torch.randn(4, *shape, generator=g)


def _tokens(g: torch.Generator) -> torch.Tensor:
    return torch.randint(10, (4, 5), generator=g)


def _sequential(*modules):
    return lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


CASES = {
    "layers": (_sequential(), _features(6), {}),
    "norms and dropout": (_normed, _features(6), {}),
    "convolutions": (_conv, _features(2, 12, 12), {}),
    "its own code": (OwnCode, _features(6), {"": "stacked"}),
    "axes from the front": (BatchAxis, _features(6), {"": "vmap"}),
    "random numbers of its own": (RandomInside, _features(6), {"": "loop"}),
    "weight norm": (_parametrized, _features(6), {}),
    "a GRU": (Recurrent, _features(5, 6), {"": "loop"}),
    "a transformer": (Transformer, _tokens, {"": "stacked", "layers": "stacked", "layers.layers.0": "stacked"}),
    "masked attention": (MaskedAttention, _tokens, {"": "stacked"}),
}


@pytest.mark.parametrize("name", CASES)
def test_each_replica_equals_its_solo_run(name):
    make, data, routes = CASES[name]
    fleet = Fleet(make, optimizer=SGD, seeds=SEEDS, vitals=())
    given = batches(data, SEEDS, STEPS)
    losses = torch.stack([fleet.step(*at_step(given, t)) for t in range(STEPS)])
    for r, seed in enumerate(SEEDS):
        alone, theirs = train_alone(make, SGD, seed, given[r])
        torch.testing.assert_close(losses[:, r], torch.stack(theirs), rtol=1e-4, atol=1e-5)
        assert farthest(fleet.replica(r), alone) < 1e-5
        inputs = torch.stack([each[0][0] for each in given])
        with fleet.evaluation():
            torch.testing.assert_close(fleet(inputs)[r], alone.eval()(inputs[r]), rtol=1e-4, atol=1e-5)
    assert all(fleet.routes()[path].startswith(route) for path, route in routes.items()), fleet.routes()


def test_one_forward_pass_is_bit_exact_where_the_kernels_allow_it():
    fleet = Fleet(_wide, optimizer=SGD, seeds=SEEDS, vitals=())
    inputs = torch.randn(3, 16, 784, generator=torch.Generator().manual_seed(0))
    outputs = fleet(inputs)
    for r in range(len(SEEDS)):
        assert torch.equal(outputs[r], fleet.replica(r)(inputs[r]))
