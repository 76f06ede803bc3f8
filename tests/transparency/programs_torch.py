"""Parts of torch that look at, change or record what runs inside them."""

import contextlib
import io
import itertools
import warnings

import torch
from programs_networks import fit, mlp
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


def anomaly_mode(cell):
    with torch.autograd.set_detect_anomaly(True):
        return fit(cell, mlp())


def deterministic_algorithms(cell):
    torch.use_deterministic_algorithms(True)
    return fit(cell, mlp())


def functional_call(cell):
    model = mlp()
    values = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam(values.values(), 0.01)

    def loss():
        return F.cross_entropy(torch.func.functional_call(model, values, (cell.x,)), cell.y)

    cell.train(model, optimizer, 6, loss)
    own = torch.optim.Adam(model.parameters(), 0.01)
    cell.measure(model, own)
    cell.train(model, own)
    cell.train(model, optimizer, 3, loss)
    return model, optimizer, own, list(values.values())


def gradients_of_each_item(cell):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cell.measure(model, optimizer)

    def loss(values, x, y):
        return F.cross_entropy(torch.func.functional_call(model, values, (x[None],)), y[None])

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))
    for _ in range(4):
        grads = each({n: p.detach() for n, p in model.named_parameters()}, cell.x, cell.y)
        cell.note(list(grads.values()))
        cell.train(model, optimizer, 1)
        for name, parameter in model.named_parameters():
            parameter.grad = grads[name].mean(0)
        optimizer.step()
    return model, optimizer


def forward_gradients(cell):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cell.measure(model, optimizer)
    values = {n: p.detach() for n, p in model.named_parameters()}
    for _ in range(3):
        cell.train(model, optimizer, 1)
        _, change = torch.func.jvp(lambda x: torch.func.functional_call(model, values, (x,)), (cell.x,), (cell.x,))
        cell.note(
            [change, torch.func.jacrev(model)(cell.x[0]), torch.func.hessian(lambda x: model(x).sum())(cell.x[0])]
        )
    return model, optimizer


def on_the_meta_device(cell):
    import copy

    model = mlp()

    def loss():
        copy.deepcopy(model).to("meta")(cell.x.to("meta")).sum().backward()
        return F.cross_entropy(model(cell.x), cell.y)

    return fit(cell, model, loss=loss)


def on_fake_tensors(cell):
    model = mlp()

    def loss():
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            mode.from_tensor(torch.ones(3, requires_grad=True)).sum().backward()
            model(mode.from_tensor(cell.x)).sum()
        return F.cross_entropy(model(cell.x), cell.y)

    return fit(cell, model, loss=loss)


class Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen.append(getattr(function, "__name__", "?"))
        return function(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def modes_that_count(cell):
    """Modes of the script see its own operations, around the loss and around whole steps."""
    model = mlp(nn.BatchNorm1d(12), nn.Dropout(0.1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, foreach=False)
    cell.measure(model, optimizer)
    counts = []
    for kind in (Functions, Operations) * 3:
        with kind() as mode:
            value = F.cross_entropy(model(cell.x), cell.y)
            value.backward()
        optimizer.step()
        optimizer.zero_grad()
        counts.append(mode.seen)
    return model, optimizer, counts


def modes_around_steps(cell):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, foreach=False)
    cell.measure(model, optimizer)
    with Operations() as mode:
        cell.train(model, optimizer)
    return model, optimizer, mode.seen


def saved_tensors_elsewhere(cell):
    packed = []

    def pack(tensor):
        packed.append(tuple(tensor.shape))
        return tensor.detach().clone()

    def unpack(kept):
        packed.append(0)
        return kept

    model = mlp()

    def loss():
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return F.cross_entropy(model(cell.x), cell.y)

    return *fit(cell, model, loss=loss), packed


def graph_hooks(cell):
    """Hooks on nodes of the graph, and how nodes are numbered (a probe makes nodes of its own)."""
    model, numbers = mlp(), []

    def loss():
        value = F.cross_entropy(model(cell.x), cell.y)
        value.grad_fn.register_hook(lambda *_: print("node"))
        numbers.append(value.grad_fn._sequence_nr())
        return value

    left = fit(cell, model, probe=False, loss=loss)
    return *left, [after - before for before, after in itertools.pairwise(numbers)]


def profiled(cell):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cell.measure(model, optimizer)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        cell.train(model, optimizer, 2)
    print(any(event.key == "aten::addmm" for event in profile.key_averages()))
    return model, optimizer


def exported(cell):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cell.measure(model, optimizer)
    for _ in range(3):
        cell.train(model, optimizer, 1)
        print(torch.export.export(model, (cell.x,)).graph)
    return model, optimizer


def compiled_network(cell):
    warnings.simplefilter("ignore")
    model, counts = mlp(nn.Dropout(0.1), nn.ReLU()), []
    optimizer = torch.optim.Adam(model.parameters())

    def backend(graph, inputs):
        counts.append(len(graph.graph.nodes))
        return graph.forward

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    cell.measure(compiled, optimizer)
    cell.train(compiled, optimizer)
    return model, optimizer, counts


def compiled_functions(cell):
    """A compiled loss that calls an eager network, and a compiled step."""
    warnings.simplefilter("ignore")
    model, counts = mlp(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def backend(graph, inputs):
        counts.append(len(graph.graph.nodes))
        return graph.forward

    @torch.compile(backend=backend, fullgraph=True)
    def loss(x, y):
        return F.cross_entropy(model(x), y)

    step = torch.compile(optimizer.step, backend=backend)
    cell.measure(model, optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        loss(cell.x, cell.y).backward()
        step()
    return model, optimizer, counts


def random_streams_in_use(cell):
    """What a script draws between steps, and saves of the streams."""
    import random

    import numpy as np

    model = mlp(nn.Dropout(0.3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cell.measure(model, optimizer)
    for _ in range(5):
        state = torch.get_rng_state()
        cell.train(model, optimizer, 1)
        print(random.random(), np.random.rand(), torch.rand(()).item(), torch.randperm(5).tolist())  # noqa: NPY002
        with torch.random.fork_rng():
            torch.manual_seed(5)
            cell.train(model, optimizer, 1)
        torch.set_rng_state(state)
    return model, optimizer


def threads_and_precision(cell):
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    torch.backends.mha.set_fastpath_enabled(False)
    model, optimizer = fit(cell, mlp())
    print(torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.mha.get_fastpath_enabled())
    return model, optimizer


def default_device(cell):
    with torch.device("cpu"), contextlib.redirect_stdout(io.StringIO()) as said:
        torch.set_default_device("cpu")
        model, optimizer = fit(cell, mlp())
        print(torch.get_default_device())
    return model, optimizer, said.getvalue()


def channels_last_and_strides(cell):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).to(
        memory_format=torch.channels_last
    )
    images = torch.randn(16, 3, 8, 8).to(memory_format=torch.channels_last)
    model, optimizer = fit(cell, model, probe=False, loss=lambda: F.cross_entropy(model(images), cell.y))
    return model, optimizer, [p.stride() for p in model.parameters()], [p.grad.stride() for p in model.parameters()]


def memory_formats_of_gradients(cell):
    """Identity of tensors: nothing of the script is exchanged."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    cell.measure(model, optimizer)
    cell.train(model, optimizer, 2)
    kept = [(p.data_ptr(), p.grad.data_ptr(), p._version) for p in model.parameters()]
    states = [state["exp_avg"].data_ptr() for state in optimizer.state.values()]
    for parameter in model.parameters():
        parameter.grad.zero_()
    F.cross_entropy(model(cell.x), cell.y).backward()
    optimizer.step()
    same = [(p.data_ptr(), p.grad.data_ptr()) == k[:2] for p, k in zip(model.parameters(), kept, strict=True)]
    versions = [p._version for p in model.parameters()]
    return same, versions, states == [state["exp_avg"].data_ptr() for state in optimizer.state.values()]
