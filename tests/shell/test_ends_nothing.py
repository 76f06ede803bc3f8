"""Measuring ends nothing: scripts whose tensors, losses, optimizers or signals are out of the ordinary."""

import copy
import functools
import io
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import homeostat
from homeostat.core.errors import BadInput
from homeostat.shell.observe.observer import Observer


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))


def trained(extra, attached: bool, steps: int = 5):
    """Weights after a few steps; `extra(model, x)` runs before each step and may give a term of the loss."""
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    run = homeostat.attach(model, optimizer, every=1) if attached else None
    for _ in range(steps):
        x = torch.randn(8, 12)
        optimizer.zero_grad()
        more = extra(model, x)
        loss = model(x).square().mean()
        (loss if more is None else loss + more).backward()
        optimizer.step()
    if run is not None:
        run.detach()
    return run, [p.detach().clone() for p in model.parameters()]


def on_meta(model, x):
    copy.deepcopy(model).to("meta")(x.to("meta")).sum().backward()


def on_fake_tensors(model, x):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        mode.from_tensor(torch.ones(3, requires_grad=True)).sum().backward()
        model(mode.from_tensor(x)).sum()


def nested(model, x):
    return model(torch.nested.nested_tensor([x[:3], x[:5]], layout=torch.jagged)).values().square().mean()


class Loud(torch.Tensor):
    """A tensor whose functions are counted."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        COUNTED.append(function)
        return super().__torch_function__(function, types, args, kwargs or {})


COUNTED: list[object] = []


def subclass(model, x):
    return model(x.as_subclass(Loud)).as_subclass(torch.Tensor).square().mean()


def vectorized(model, x):
    values = {name: p.detach() for name, p in model.named_parameters()}
    torch.func.vmap(torch.func.grad(lambda v, row: torch.func.functional_call(model, v, row).sum()), (None, 0))(
        values, x
    )


def complex_loss(model, x):
    torch.ones((), dtype=torch.complex64, requires_grad=True).backward(torch.ones((), dtype=torch.complex64))


@pytest.mark.parametrize("extra", [on_meta, on_fake_tensors, nested, subclass, vectorized, complex_loss])
def test_tensors_of_other_kinds_change_and_end_nothing(extra):
    COUNTED.clear()
    _, bare = trained(extra, attached=False)
    counted = len(COUNTED)
    run, measured = trained(extra, attached=True)
    assert all(torch.equal(a, b) for a, b in zip(bare, measured, strict=True))
    assert run.to_json()["failed"] == [] and run.vitals()["dormant-units"]["0"], "measured all the same"
    assert len(COUNTED) == 2 * counted


@pytest.mark.parametrize("optimizer", [torch.optim.SparseAdam, torch.optim.SGD])
def test_a_sparse_gradient_hides_no_nan(optimizer):
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.EmbeddingBag(100, 16, sparse=True), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.table(x))

    model = Bag()
    optimizers = [optimizer(model.table.parameters(), 0.1), torch.optim.SGD(model.out.parameters(), 0.1)]
    with homeostat.attach(model, optimizers, every=1) as run:
        for step in range(12):
            for one in optimizers:
                one.zero_grad()
            loss = model(torch.randint(0, 100, (32, 5))).square().mean()
            (loss * float("nan") if step > 6 else loss).backward()
            for one in optimizers:
                one.step()
        dense = model.table.weight.grad.to_dense()
    assert run.to_json()["failed"] == [] and run.vitals()["gradient-norm"]["table"][0][1] > 0
    assert "non-finite" in {finding.condition for finding in run.findings()} and dense.isnan().any()


def test_a_network_that_cannot_be_copied_is_refused_in_words_with_a_probe():
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 4)

        def __deepcopy__(self, memo: object) -> object:
            raise TypeError("there is only one")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    model = Single()
    batch = torch.randn(8, 12), torch.randn(8, 4)
    with pytest.raises(BadInput, match=r"cannot be copied.*there is only one"):
        homeostat.attach(model, torch.optim.SGD(model.parameters(), 0.1), probe=(batch, nn.functional.mse_loss))


class Handlers:
    """Handlers of the kinds that `signal.signal` takes."""

    def method(self, number, frame):
        raise TimeoutError("out of time")

    def __call__(self, number, frame):
        raise TimeoutError("out of time")


HANDLERS = [Handlers().method, Handlers(), functools.partial(Handlers.method, None)]


@pytest.mark.parametrize("handler", HANDLERS, ids=["method", "object", "partial"])
@pytest.mark.parametrize("part", ["sample", "before_update"])
def test_a_timeout_of_the_script_reaches_the_script(part, handler, monkeypatch):
    def slow(*args, **kwargs):
        end = time.monotonic() + 5
        while time.monotonic() < end:
            pass
        return [], {}

    before = signal.signal(signal.SIGALRM, handler)
    monkeypatch.setattr(Observer, part, slow)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    try:
        with homeostat.attach(model, optimizer, every=1) as run:
            model(torch.randn(8, 12)).sum().backward()
            with pytest.raises(TimeoutError, match="out of time"):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                optimizer.step()
            assert run.to_json()["failed"] == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


ATTACHED = """
import random, torch, homeostat
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
random.seed(0)
with homeostat.attach(model, optimizer):
    print(random.random())
"""


def test_the_first_attach_of_a_process_draws_nothing():
    done = subprocess.run([sys.executable, "-c", ATTACHED], capture_output=True, text=True, check=True)
    assert float(done.stdout) == random.Random(0).random()


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_optimizer_step_computes_what_it_computes_alone():
    def weights(attached: bool):
        torch.manual_seed(0)
        torch._dynamo.reset()
        model = net()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        run = homeostat.attach(model, optimizer, every=1) if attached else None
        step = torch.compile(lambda: optimizer.step(), backend="eager")
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(8, 12)).square().mean().backward()
            step()
        if run is not None:
            run.detach()
        return run, [p.detach().clone() for p in model.parameters()]

    _, bare = weights(attached=False)
    run, measured = weights(attached=True)
    assert all(torch.equal(a, b) for a, b in zip(bare, measured, strict=True))
    assert "compiled optimizer" in " ".join(run.not_measured())
    assert not any(finding.condition == "no-optimizer-step" for finding in run.findings())
    other = net()
    later = homeostat.attach(other, torch.optim.SGD(other.parameters(), 0.1))
    later.detach()
    assert "compiled optimizer" not in " ".join(later.not_measured())


def test_a_model_saved_on_a_step_with_hooks_loads_where_homeostat_is_not_installed():
    """Class: scripts that pickle or copy the whole module while it trains."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters())
    with homeostat.attach(model, optimizer, every=1):
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.randn(16, 4)).square().mean().backward()
            optimizer.step()
            file = io.BytesIO()
            torch.save(model, file)
            assert b"homeostat" not in file.getvalue()
            assert any(module._forward_hooks for module in model)
            file.seek(0)
            for copied in (copy.deepcopy(model), torch.load(file, weights_only=False)):
                assert torch.equal(copied(torch.ones(1, 4)), model(torch.ones(1, 4)))
