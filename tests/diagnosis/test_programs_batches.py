"""Small programs whose batches are mixed up, whose inputs hold the answers, or whose gradients are never used."""

from __future__ import annotations

import pytest
import torch
from test_programs import CLASSES, net, paired, points, train
from test_programs_architecture import TOKENS, tokens
from torch import nn
from torch.nn import functional as F

import homeostat
from homeostat.shell.hooks.graph_values import walk
from homeostat.shell.hooks.token_graph import read_leak

NAMED = {"items-mixed", "target-leak", "missing-log-softmax", "optimizer-rebuilt"}
"""The conditions that these programs have."""


def grave(run) -> list[str]:
    return [f.condition for f in run.findings() if f.severity != "info"]


class Sequences(nn.Module):
    """Reads [batch, time, features] and answers with the class that was shown at the third of 10 time steps."""

    def __init__(self, layer: str, sick: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.sick, self.out = layer, sick, nn.Linear(24, 4)
        self.embed, self.inner = nn.Linear(4, 24), nn.GRU(24, 24, batch_first=layer == "recurrent" and not sick)

    def forward(self, x):
        h = self.embed(x)
        if self.layer == "view":
            h = h.reshape(h.shape[1], h.shape[0], -1) if self.sick else h.transpose(0, 1)
            return self.out(self.inner(h)[0][-1])
        return self.out(self.inner(h)[0][:, -1])


def shown(step: int):
    draw = torch.Generator().manual_seed(step)
    y = torch.randint(0, 4, (32,), generator=draw)
    x = 0.3 * torch.randn(32, 10, 4, generator=draw)
    x[torch.arange(32), 2, y] += 3.0
    return x, y


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["recurrent", "view"])
def test_batch_and_time_are_exchanged(layer: str) -> None:
    found = []
    for sick in (True, False):
        model = Sequences(layer, sick)
        adam = torch.optim.Adam(model.parameters(), 3e-3)
        found.append(grave(train(model, adam, lambda s, m=model: F.cross_entropy(*paired(m, shown(s))), 250)))
    assert (found[0][:1], found[1]) == (["items-mixed"], [])


def test_items_that_are_steps_of_one_sequence_depend_on_each_other_rightly() -> None:
    torch.manual_seed(0)
    embed, lstm, out = nn.Embedding(20, 8), nn.LSTM(8, 16), nn.Linear(16, CLASSES)

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([embed, lstm, out])

        def forward(self, words):
            return out(lstm(embed(words).unsqueeze(1))[0].squeeze(1))

    model = Tagger()
    loss = lambda s: F.cross_entropy(model(torch.randint(0, 20, (12,))), torch.randint(0, CLASSES, (12,)))  # noqa: E731
    run = train(model, torch.optim.SGD(model.parameters(), 0.01), loss, steps=150)
    assert "items-mixed" not in grave(run)


@pytest.mark.parametrize(("last", "right"), [((), True), ((nn.Softmax(1),), True), ((nn.LogSoftmax(1),), False)])
def test_a_likelihood_of_what_are_no_log_probabilities(last, right: bool) -> None:
    model = net(*last)
    run = train(model, torch.optim.SGD(model.parameters(), 0.1), lambda s: F.nll_loss(*paired(model, points(64, s))))
    assert grave(run)[:1] == (["missing-log-softmax"] if right else [])


class Reader(nn.Module):
    """One layer of attention over tokens."""

    def __init__(self, causal: bool, fused: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.place = nn.Embedding(TOKENS, 16), nn.Embedding(64, 16)
        self.head, self.causal, self.fused = nn.Linear(16, TOKENS), causal, fused

    def forward(self, x):
        h = self.embed(x) + self.place(torch.arange(x.shape[1]))
        if self.fused:
            mixed = F.scaled_dot_product_attention(*(h[:, None] for _ in range(3)), is_causal=self.causal)[:, 0]
        else:
            hidden = torch.ones(x.shape[1], x.shape[1]).triu(1).bool() & self.causal
            mixed = torch.softmax((h @ h.transpose(1, 2)).masked_fill(hidden, -torch.inf), -1) @ h
        return self.head(h + mixed)


@pytest.mark.parametrize("fused", [True, False])
def test_answers_among_the_inputs(fused: bool) -> None:
    x, y = tokens(0)

    def leak(model, targets):
        loss = F.cross_entropy(model(x).flatten(0, 1), targets)
        return read_leak([node for node, _ in walk(loss.grad_fn)])

    open_, causal = Reader(False, fused), Reader(True, fused)
    assert "later" in leak(open_, y) and "same" in leak(causal, x.flatten())
    assert leak(causal, y) == "" and leak(open_, torch.randint(0, TOKENS, y.shape)) == ""
    masked = torch.where(torch.rand(x.shape) < 0.15, x, -100)
    given = torch.where(masked >= 0, 0, x)
    loss = F.cross_entropy(open_(given).flatten(0, 1), masked.flatten())
    assert read_leak([node for node, _ in walk(loss.grad_fn)]) == ""


def test_targets_that_are_not_shifted() -> None:
    found = []
    for sick in (True, False):
        model = Reader(True, True)
        adam = torch.optim.Adam(model.parameters(), 3e-3)

        def loss(step, model=model, sick=sick):
            x, y = tokens(step)
            return F.cross_entropy(model(x).flatten(0, 1), x.flatten() if sick else y)

        found.append(grave(train(model, adam, loss, steps=60)))
    assert found == [["target-leak"], []]


def test_a_step_once_an_epoch_is_no_accumulation() -> None:
    def findings(clears: bool, every: int) -> list[str]:
        model = net()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        run = homeostat.attach(model, optimizer)
        for step in range(800):
            if clears or step % every == 0:
                optimizer.zero_grad()
            (F.cross_entropy(*paired(model, points(32, step))) / every).backward()
            if step % every == every - 1:
                optimizer.step()
        run.detach()
        return grave(run)

    assert findings(True, 40)[:1] == ["no-optimizer-step"]
    assert "no-optimizer-step" not in findings(False, 40) + findings(True, 1)


def test_the_evaluations_of_a_closure_are_used() -> None:
    model = net(outputs=1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=20, line_search_fn="strong_wolfe")
    run = homeostat.attach(model, optimizer)
    for step in range(8):
        x, _ = points(64, step)

        def closure(x=x):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), (x[:, :1] * x[:, 1:2]).tanh())
            loss.backward()
            return loss

        optimizer.step(closure)
    run.detach()
    assert "no-optimizer-step" not in grave(run)
