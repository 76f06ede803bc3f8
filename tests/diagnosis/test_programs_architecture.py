"""Small programs with faults of attention and of batch norm, and twins that only look so."""

from __future__ import annotations

import math

import pytest
import torch
from test_programs import CLASSES, points
from torch import nn
from torch.nn import functional as F

import homeostat
from homeostat.shell.hooks.graph_values import walk
from homeostat.shell.hooks.layer_graph import read_attention, read_norms

NAMED = {"attention-entropy-collapse", "attention-logit-growth", "batchnorm-mismatch"}
"""The conditions that these programs have."""
TOKENS, LENGTH, WIDTH = 24, 12, 32


def tokens(step: int):
    draw = torch.Generator().manual_seed(step)
    stride = torch.randint(1, 4, (16, 1), generator=draw)
    found = (torch.randint(TOKENS, (16, 1), generator=draw) + stride * torch.arange(LENGTH + 1)) % TOKENS
    return found[:, :-1], found[:, 1:].flatten()


def by_hand(q, k, v, scale):
    hidden = torch.ones(q.shape[-2], k.shape[-2]).triu(1).bool()
    logits = (q @ k.transpose(-1, -2) * scale).masked_fill(hidden, -math.inf)
    return torch.softmax(logits, -1) @ v


def fused(q, k, v, scale):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)


class Language(nn.Module):
    """One layer of causal attention of 2 heads that predicts the next token."""

    def __init__(self, attend=by_hand, scale: float = 0.25) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(TOKENS, WIDTH), nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        self.project, self.out, self.head = (nn.Linear(WIDTH, n) for n in (3 * WIDTH, WIDTH, TOKENS))
        self.attend, self.scale = attend, scale

    def forward(self, x):
        h = F.layer_norm(self.embed(x) + self.place, (WIDTH,))
        q, k, v = (p.unflatten(-1, (2, -1)).transpose(1, 2) for p in self.project(h).chunk(3, -1))
        mixed = self.attend(q, k, v, self.scale).transpose(1, 2).flatten(2)
        return self.head(h + self.out(mixed)).flatten(0, 1)


def named(model, optimizer, data, steps=200, before=lambda step: None, loss=F.cross_entropy):
    run = homeostat.attach(model, optimizer)
    for step in range(steps):
        x, y = data(step)
        before(step)
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    run.detach()
    return [f.condition for f in run.findings() if f.severity != "info"]


@pytest.mark.parametrize("attend", [by_hand, fused])
@pytest.mark.parametrize(("scale", "right"), [(0.25, []), (60.0, ["attention-entropy-collapse"])])
def test_attention_that_is_saturated_from_the_start(attend, scale: float, right: list[str]) -> None:
    torch.manual_seed(0)
    model = Language(attend, scale)
    assert named(model, torch.optim.Adam(model.parameters(), 3e-3), tokens) == right


def test_attention_that_becomes_sharp_by_learning_is_well() -> None:
    torch.manual_seed(0)
    model = Language()
    assert named(model, torch.optim.Adam(model.parameters(), 3e-2), tokens) == []


def test_queries_and_keys_that_grow_until_training_stands() -> None:
    torch.manual_seed(0)
    model = Language(fused)

    def grow(step: int) -> None:
        with torch.no_grad():
            model.project.weight[: 2 * WIDTH].mul_(1.05)
            model.head.weight.mul_(0.95)

    found = named(model, torch.optim.SGD(model.parameters(), 1e-2), tokens, before=grow)
    assert found[0] == "attention-logit-growth" and "attention-entropy-collapse" in found


def weights_read(weights):
    """What is read of attention weights [N, queries, keys]."""
    logits = weights.log().requires_grad_()
    loss = (torch.softmax(logits, -1) @ torch.randn(len(weights), weights.shape[-1], 3)).sum()
    return read_attention(node for node, _ in walk(loss.grad_fn))


def test_masks_do_not_look_like_collapse_and_collapse_not_like_a_mask() -> None:
    equal = torch.ones(8, 12, 12)
    padded = equal.clone()
    padded[:4, :, 6:] = 0
    windows = equal.tril().triu(-5)
    for mask in (equal, equal.tril(), padded, windows):
        assert weights_read(mask / mask.sum(-1, keepdim=True)).entropy == pytest.approx(1.0, abs=1e-5)
    one_key = torch.zeros(8, 12, 12)
    one_key[..., 0] = 1
    chosen = F.one_hot(torch.randint(12, (8, 12), generator=torch.Generator().manual_seed(0)), 12).float()
    assert weights_read(one_key).entropy == 0.0 and weights_read(chosen).entropy == 0.0


def test_fused_and_written_out_attention_are_read_alike() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 9, 8, requires_grad=True) for _ in range(3))
    read = [read_attention(n for n, _ in walk(f(q, k, v, 0.5).sum().grad_fn)) for f in (by_hand, fused)]
    mask = torch.zeros(9, 9).masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf)
    masked = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.5)
    read.append(read_attention(n for n, _ in walk(masked.sum().grad_fn)))
    assert all(r.entropy == pytest.approx(read[0].entropy, abs=1e-5) for r in read)
    assert all(r.spread == pytest.approx(read[0].spread, rel=1e-4) for r in read)


def normed(**settings) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32, **settings), nn.ReLU(), nn.Linear(32, CLASSES))


@pytest.mark.parametrize(("settings", "batch", "right"), [
    ({}, 64, []), ({"momentum": None}, 64, []), ({"momentum": 0.02}, 64, []), ({}, 8, []),
    ({"momentum": 0.0}, 64, ["batchnorm-mismatch"]), ({"momentum": 1e-4}, 64, ["batchnorm-mismatch"]),
    ({}, 2, ["batchnorm-mismatch"]), ({"track_running_stats": False}, 64, []),
])  # fmt: skip
def test_running_statistics_against_those_of_the_batches(settings, batch: int, right: list[str]) -> None:
    model = normed(**settings)
    data = lambda step: (lambda x, y: (3 * x, y))(*points(batch, step))  # noqa: E731
    assert named(model, torch.optim.SGD(model.parameters(), 0.02), data, 300) == right


def test_a_frozen_norm_is_well_where_its_statistics_fit_and_not_where_they_were_never_set() -> None:
    found = []
    for fitted in (True, False):
        model = normed()
        if fitted:
            for step in range(100):
                model(3 * points(64, step)[0])
        data = lambda step: (lambda x, y: (3 * x, y))(*points(64, step))  # noqa: E731
        adam = torch.optim.Adam(model.parameters(), 1e-3)
        found.append(named(model, adam, data, 300, before=lambda step, model=model: model[1].eval() and None))
    assert found == [[], ["batchnorm-mismatch"]]


def test_norms_that_are_frozen_in_mid_training_are_no_mistake() -> None:
    model = normed()
    data = lambda step: (lambda x, y: ((3 if step < 100 else 12) * x + 4 * (step > 100), y))(*points(64, step))  # noqa: E731
    freeze = lambda step: model[1].eval() and None if step == 60 else None  # noqa: E731
    assert named(model, torch.optim.Adam(model.parameters(), 1e-3), data, 300, before=freeze) == []


def test_a_norm_is_read_against_its_batch() -> None:
    norm = nn.BatchNorm2d(4, momentum=0.0)
    batch = torch.randn(16, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 6
    seen = read_norms(node for node, _ in walk(norm(batch.requires_grad_()).sum().grad_fn))
    assert seen is not None and seen.training and seen.values == 16 * 25
    assert seen.shift == pytest.approx(2.0, abs=0.2) and seen.ratio == pytest.approx(9.0, rel=0.1)
