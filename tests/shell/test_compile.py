"""A network under torch.compile: measured and treated beside its graphs, which stay as they were."""

from __future__ import annotations

import copy
import pickle
import shutil

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.utils import counters

import homeostat
from homeostat.core.component import build
from homeostat.core.errors import Refused
from homeostat.shell.observe.compiled import Interception, find_entrance
from homeostat.testing.mini_run import trial_of

STEPS = 12


class Net(nn.Module):
    """Everything an extra pass could disturb: running statistics, dropout, and a hook of the user's."""

    def __init__(self, normed: bool = True) -> None:
        super().__init__()
        self.a, self.norm, self.relu = nn.Linear(8, 16), nn.BatchNorm1d(16) if normed else nn.Identity(), nn.ReLU()
        self.drop, self.b = nn.Dropout(0.2), nn.Linear(16, 3)
        with torch.no_grad():
            (self.norm if normed else self.a).bias[:4] = -5.0  # dead units

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.drop(self.relu(self.norm(self.a(x)))))


def wrapped(model: nn.Module, backend: str = "eager"):
    return torch.compile(model, backend=backend)


def by_itself(model: nn.Module, backend: str = "eager"):
    model.compile(backend=backend)
    return model


def in_part(model: nn.Module, backend: str = "eager"):
    model.a.compile(backend=backend)
    model.norm = torch.compile(model.norm, backend=backend)  # type: ignore[assignment]
    return model


def plain(model: nn.Module, backend: str = ""):
    return model


def train(
    compiled, inner: bool = False, normed: bool = True, backend: str = "eager", autocast: bool = False, **options
):
    """Train a compiled network, attached when there are options; what came out, and what dynamo counted."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    model = Net(normed)
    call = compiled(model, backend)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    run = homeostat.attach(model if inner else call, optimizer, strict=True, **options) if options else None
    for _ in range(STEPS):
        optimizer.zero_grad()
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = nn.functional.cross_entropy(call(torch.randn(16, 8)), torch.randint(3, (16,)))
            loss.backward()
        optimizer.step()
    if run is not None:
        run.detach()
    kinds = ("frames", "stats", "graph_break", "unimplemented", "recompiles")
    seen = {kind: dict(counters[kind]) for kind in kinds if counters[kind]}
    names = [n.replace("_orig_mod.", "") for n in model.state_dict()]
    return dict(zip(names, [*model.state_dict().values()], strict=True)) | {"rng": torch.get_rng_state()}, seen, run


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # what dynamo does by itself
@pytest.mark.parametrize(("compiled", "inner"), [(wrapped, False), (wrapped, True), (by_itself, True), (in_part, True)])
def test_vitals_are_measured_and_neither_the_weights_nor_the_graphs_change(compiled, inner):
    bare, graphs, _ = train(compiled)
    measured, graphs_too, run = train(compiled, inner, every=2, vitals=["dead-units", "effective-rank", "update-ratio"])
    eagerly = train(plain, every=2, vitals=["dead-units", "effective-rank", "update-ratio"])[2]
    assert same(bare, measured) and graphs == graphs_too and graphs["frames"]
    assert run is not None and eagerly is not None
    ours, expected = run.vitals(), eagerly.vitals()
    assert list(ours["effective-rank"].values()) == list(expected["effective-rank"].values())
    assert not any("activations" in what for what in run.not_measured())


@pytest.mark.parametrize("compiled", [wrapped, by_itself])
@pytest.mark.parametrize("name", ["continual-backprop", "redo", "l2-init", "layer-norm-insertion"])
def test_a_treated_compiled_run_is_the_treated_eager_one(name, compiled):
    treatment = trial_of(build("treatment", name))
    normed = name != "layer-norm-insertion"
    eagerly, _, _ = train(plain, normed=normed, treatments=[treatment], vitals=["loss"])
    treated, _, _ = train(compiled, normed=normed, treatments=[treatment], vitals=["loss"])
    assert same(eagerly, treated) and not same(treated, train(plain, normed=normed)[0])


@pytest.mark.parametrize("compiled", [wrapped, by_itself])
def test_autocast_keeps_no_casts_without_gradients_for_the_compiled_pass(compiled):
    bare, _, _ = train(compiled, autocast=True)
    measured, _, _ = train(compiled, autocast=True, every=1, vitals=["dead-units"])
    assert same(bare, measured)


@pytest.mark.parametrize("compiled", [wrapped, by_itself])
def test_compiled_after_attaching_it_is_still_read(compiled):
    torch._dynamo.reset()
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with homeostat.attach(model, optimizer, every=1, vitals=["dead-units"], strict=True) as run:
        call = compiled(model)
        for _ in range(6):
            call(torch.randn(16, 8)).sum().backward()
            optimizer.step()
        assert len(run.vitals()["dead-units"]["a"]) >= 4
        call = compiled(nn.Sequential(model)) if compiled is wrapped else model
    assert find_entrance(model) is not None and not isinstance(model._compiled_call_impl, Interception)


@pytest.mark.parametrize("kind", [Net, lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))])
def test_compiled_while_it_is_followed_it_is_read_beside_its_graphs_from_then_on(kind):
    torch._dynamo.reset()
    model = kind()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with homeostat.attach(model, optimizer, every=1, vitals=["dead-units"], strict=True) as run:
        call = model
        for step in range(12):
            call = torch.compile(model, backend="eager") if step == 3 else call
            call(torch.randn(16, 8)).sum().backward()
            optimizer.step()
        points = next(iter(run.vitals()["dead-units"].values()))
    assert [s for s, _ in points][-3:] == [10, 11, 12]


def test_a_network_called_only_inside_a_compiled_function_is_refused_by_name():
    torch._dynamo.reset()
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    @torch.compile(backend="eager")
    def loss(inputs):
        return model(inputs).square().mean()

    def step():
        loss(torch.randn(16, 8)).backward()
        optimizer.step()

    with homeostat.attach(model, optimizer, every=1, strict=True, vitals=["dead-units", "loss"]) as run:
        for _ in range(10):
            step()
        assert "silent" in run.not_measured()["activations"] and "dead-units" not in run.vitals()
        assert len(run.vitals()["loss"]["network"]) == 10
    with (
        homeostat.attach(model, optimizer, treatments=["redo:every=1"], strict=True),
        pytest.raises(Refused, match="redo"),
    ):
        for _ in range(10):
            step()


def test_nothing_is_left_and_copies_and_pickles_are_as_before():
    torch._dynamo.reset()
    model = Net()
    call, optimizer = wrapped(model), torch.optim.SGD(model.parameters(), 0.1)
    model.compile(backend="eager")
    before = model._compiled_call_impl
    with homeostat.attach(call, optimizer, every=1, vitals=["dead-units"]):
        call(torch.randn(4, 8)).sum().backward()
        optimizer.step()
        twin, loaded = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        assert twin._compiled_call_impl is None and loaded._compiled_call_impl is None
        for other in (twin, loaded):
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in other.modules())
    assert model._compiled_call_impl is before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in (call, *model.modules()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while inductor is imported
@pytest.mark.parametrize("compiled", [wrapped, by_itself])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_with_a_real_compiler(compiled, backend):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler")
    bare, graphs, _ = train(compiled, backend=backend)
    measured, graphs_too, run = train(compiled, backend=backend, every=2, vitals=["dead-units", "effective-rank"])
    assert same(bare, measured) and graphs == graphs_too
    assert run is not None and len(run.vitals()["effective-rank"]["a"]) == 7
