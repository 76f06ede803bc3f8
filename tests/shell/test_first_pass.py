"""What is measured is found in the user's own first pass: nothing of ours runs forward, prints or draws."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import nets
import nets_attention
import nets_conv
import nets_dense
import numpy as np
import pytest
import torch
from nets_expected import CASES
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

import homeostat
from homeostat.shell.unit_graph.first_pass import FirstPass
from homeostat.shell.unit_graph.trace import Tap, trace_units

assert nets_attention and nets_conv and nets_dense  # they register their networks
GRID = [*nets.NETS, *CASES]
OTHERWISE = {
    "additive_attention", "bare_matrix", "branches", "depthwise", "film", "functional_norm", "fused_gate", "fused_gpt",
    "gated_attention", "glu_modules", "inserted_norms", "interleaved_gate", "inverted_residual", "maxout", "noisy",
    "torchvision_resnet", "trained_lora",
}  # fmt: skip
"""Networks of the grid in which the tracer reads some layer where its units are used."""


@contextlib.contextmanager
def plain(part: str) -> Iterator[None]:
    yield


def shown(taps: dict[str, Tap]) -> dict[str, tuple[object, ...]]:
    return {
        layer: (t.module, t.side, t.axis, None if t.index is None else t.index.tolist(), t.nonlinearity)
        for layer, t in taps.items()
    }


@pytest.mark.parametrize("name", sorted(set(GRID) - OTHERWISE - {"raises"}))
def test_layers_are_read_where_the_tracer_reads_them(name: str) -> None:
    (model, inputs), kwargs = (CASES[name].build(), CASES[name].kwargs) if name in CASES else (nets.build(name), {})
    listening = FirstPass(model, plain, lambda: None)
    model(*inputs, **kwargs)
    listening.remove()
    heard = {layer: tap for layer, (tap, _) in listening.taps().items()}
    assert shown(heard) == shown(dict(trace_units(model, inputs, kwargs).taps))


RNG, GENERATOR, DICE = np.random.default_rng(7), torch.Generator().manual_seed(7), random.Random(7)


def reseed() -> None:
    global RNG, DICE
    RNG, DICE = np.random.default_rng(7), random.Random(7)
    GENERATOR.manual_seed(7)


class Mlp(nn.Module):
    """Counts, prints and draws in its forward as `step` says."""

    def __init__(self, step: Callable[[Mlp, Tensor], Tensor], wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.one, self.two, self.act, self.step = wrap(nn.Linear(6, 8)), nn.Linear(8, 2), nn.ReLU(), step
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.act(self.one(self.step(self, x))))


def counts(m: Mlp, x: Tensor) -> Tensor:
    m.seen.append(len(m.seen))
    return x * (1 + 0.01 * len(m.seen))


def prints(m: Mlp, x: Tensor) -> Tensor:
    print("forward", tuple(x.shape))
    return x


def recomputed(m: Mlp, x: Tensor) -> Tensor:
    return x + checkpoint(m.one, x.requires_grad_(), use_reentrant=True)[:, :6]


SCRIPTS: dict[str, tuple[Callable[[Mlp, Tensor], Tensor], Callable[[nn.Module], nn.Module]]] = {
    "counter": (counts, lambda layer: layer),
    "prints": (prints, lambda layer: layer),
    "numpy generator": (lambda m, x: x + torch.from_numpy(RNG.normal(size=x.shape)).float(), lambda layer: layer),
    "torch generator": (lambda m, x: x + torch.randn(x.shape, generator=GENERATOR), lambda layer: layer),
    "random.Random": (lambda m, x: x + DICE.random(), lambda layer: layer),
    "reentrant checkpoint": (recomputed, lambda layer: layer),
    "spectral_norm": (lambda m, x: x, spectral_norm),
    "weight_norm": (lambda m, x: x, weight_norm),
    "orthogonal": (lambda m, x: x, orthogonal),
}


def train(name: str, attached: bool) -> tuple[list[Tensor], set[str]]:
    torch.manual_seed(0)
    reseed()
    model = Mlp(*SCRIPTS[name])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    run = homeostat.attach(model, optimizer, every=1, strict=True) if attached else None
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(16, 6)).square().mean().backward()
        optimizer.step()
    if run is not None:
        run.detach()
    layers = set(run.vitals()["dormant-units"]) if run is not None else set()
    return [t.clone() for t in model.state_dict().values()], layers


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_forward_does_besides_computing_is_done_once(name, capsys):
    bare, _ = train(name, attached=False)
    printed = capsys.readouterr().out
    measured, layers = train(name, attached=True)
    assert all(torch.equal(a, b) for a, b in zip(bare, measured, strict=True))
    assert capsys.readouterr().out == printed
    assert "one" in layers or name == "reentrant checkpoint"


def test_units_are_paired_when_they_are_asked_for_or_a_treatment_begins():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with homeostat.attach(model, optimizer, every=1, strict=True) as run:
        assert run.units() == {}
        for _ in range(2):
            model(torch.randn(16, 4)).square().mean().backward()
            optimizer.step()
        assert run.units() == {"0": 8}
        run.treat("redo:every=1")
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
        assert next(entry.action for entry in run.journal() if entry.component == "redo") == "attach"
        assert not any(entry.action in ("refuse", "error") for entry in run.journal())


@pytest.mark.parametrize("name", ["prints", "numpy generator", "torch generator", "random.Random"])
@pytest.mark.parametrize("probed", [True, False])
def test_passes_of_a_copy_print_nothing_and_leave_the_generators_where_they_are(name, probed, capsys):
    model = Mlp(*SCRIPTS[name])
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    reseed()
    batch = torch.randn(8, 6), torch.randn(8, 2)
    probe = (batch, nn.functional.mse_loss) if probed else None
    treatments = [] if probed else ["redo:every=1"]
    vitals = "all" if probed else "default"
    with homeostat.attach(model, optimizer, probe=probe, treatments=treatments, vitals=vitals, every=1):
        model(batch[0]).square().mean().backward()
        optimizer.step()
    after = RNG.random(), float(torch.rand((), generator=GENERATOR)), DICE.random()
    assert capsys.readouterr().out.count("forward") == (name == "prints")
    reseed()
    SCRIPTS[name][0](model, batch[0])  # the one pass of the script
    assert after == (RNG.random(), float(torch.rand((), generator=GENERATOR)), DICE.random())
