"""Modules that do more than compute: they count, draw, print, look at themselves, or are no usual modules at all."""

import random

import numpy as np
import torch
from programs_networks import fit, mlp
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

RNG, DICE, GENERATOR = np.random.default_rng(7), random.Random(7), torch.Generator().manual_seed(7)


class Does(nn.Module):
    """An MLP whose forward first does something."""

    def __init__(self, what):
        super().__init__()
        self.what, self.seen = what, []
        self.body = mlp()

    def forward(self, x):
        return self.body(self.what(self, x))


def numpy_generator(cell):
    model = Does(lambda m, x: x + torch.from_numpy(RNG.normal(size=x.shape)).float())
    return *fit(cell, model), RNG


def torch_generator(cell):
    return *fit(cell, Does(lambda m, x: x + torch.randn(x.shape, generator=GENERATOR))), GENERATOR


def python_generator(cell):
    return *fit(cell, Does(lambda m, x: x * DICE.random())), DICE


def global_streams(cell):
    def what(m, x):
        return x + random.random() + float(np.random.rand()) + torch.rand(())  # noqa: NPY002

    return fit(cell, Does(what))


def counters_and_caches(cell):
    def what(m, x):
        m.seen.append(len(m.seen))
        return x * (1 + 0.01 * len(m.seen))

    model, optimizer = fit(cell, Does(what), probe=False)
    return model, optimizer, model.seen


def prints_in_forward(cell):
    def what(m, x):
        print("forward", tuple(x.shape), m.training, torch.is_grad_enabled())
        return x

    return fit(cell, Does(what))


def asks_in_forward(cell):
    """What a forward can see of the state around it."""

    def what(m, x):
        print(x.requires_grad, x._version, x.grad_fn, torch.get_rng_state().sum().item(), sorted(vars(m)), len(m.body))
        return x

    return fit(cell, Does(what))


def inplace_activations(cell):
    return fit(cell, mlp(nn.ReLU(inplace=True), nn.Linear(12, 12), nn.Dropout(0.1, inplace=True)))


def inplace_on_outputs(cell):
    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x):
            return self.two(self.one(x).add_(1).mul_(2).relu_())

    return fit(cell, Adds())


class Forwarding(nn.Module):
    """Hands every unknown attribute to what it wraps, and notes who asked."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        object.__setattr__(self, "asked", [])

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if not name.startswith("__"):
                vars(self)["asked"].append(name)
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x):
        return self.inner(x)


def odd_getattr(cell):
    model, optimizer = fit(cell, Forwarding(mlp()))
    return model, optimizer, model.asked


def loud_properties(cell):
    class Loud(nn.Module):
        calls = 0

        def __init__(self):
            super().__init__()
            self.body = mlp()

        @property
        def device(self):
            Loud.calls += 1
            print("asked for the device")
            return next(self.parameters()).device

        @property
        def broken(self):
            raise RuntimeError("not yet")

        def __repr__(self):
            print("asked for a text")
            return "Loud()"

        def forward(self, x):
            return self.body(x.to(self.device))

    model = Loud()
    fit(cell, model, probe=False)
    return list(model.parameters()), Loud.calls


class Looks(nn.Module):
    """Overrides what is called to look at a module, and counts the calls."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)), []

    def forward(self, x):
        return self.inner(x)


def _counted(name):
    def method(self, *args, **kwargs):
        self.__dict__.get("calls", []).append(name)
        return getattr(nn.Module, name)(self, *args, **kwargs)

    return method


LOOKS = ("parameters", "named_parameters", "modules", "named_modules", "children", "named_children", "buffers")
for _name in (*LOOKS, "named_buffers", "state_dict", "__hash__", "__repr__", "__dir__", "__getattr__", "train"):
    setattr(Looks, _name, _counted(_name))


def overridden_looks(cell):
    model = Looks()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    model.calls.clear()
    cell.measure(model, optimizer, False)
    cell.train(model, optimizer)
    print(sorted(model.calls))
    return model.inner, optimizer


def odd_operators(cell):
    class Odd(nn.Module):
        """False, of length 0, equal to everything, not hashable by value."""

        def __init__(self):
            super().__init__()
            self.body = mlp()

        def __len__(self):
            return 0

        def __eq__(self, other):
            return True

        def __hash__(self):
            return 1

        def __iter__(self):
            raise TypeError("not to be walked through")

        def forward(self, x):
            return self.body(x)

    return fit(cell, Odd())


class Slotted(nn.Module):
    __slots__ = ("extra",)

    def __init__(self):
        super().__init__()
        self.body, self.extra = mlp(), [1]

    def forward(self, x):
        return self.body(x)


def slots(cell):
    model, optimizer = fit(cell, Slotted())
    return model, optimizer, model.extra


def own_call(cell):
    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()

        def __call__(self, x, *, scale=1.0):
            return self.body(x) * scale

        forward = __call__

    return fit(cell, Called())


def keywords_and_structures(cell):
    class Structured(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, *, batch, options=None, **more):
            return {"logits": self.two(torch.relu(self.one(batch["x"][0]))), "kept": (batch, options, more)}

    model = Structured()
    batch = {"x": [cell.x], "names": ["a"]}
    return fit(cell, model, probe=False, loss=lambda: F.cross_entropy(model(batch=batch, z={1: 2})["logits"], cell.y))


def own_hooks(cell):
    """The script's own hooks of every kind, some of which replace what goes through, and their numbers."""
    model, handles = mlp(), []
    handles.append(model[0].register_forward_hook(lambda m, a, out: out * 1.5))
    handles.append(model[2].register_forward_pre_hook(lambda m, a, k: ((a[0] + 1,), k), with_kwargs=True))
    handles.append(model[2].register_full_backward_hook(lambda m, i, o: print("backward", o[0].shape)))
    handles.append(model[0].weight.register_hook(lambda g: g * 2))
    handles.append(model[0].weight.register_post_accumulate_grad_hook(lambda p: print(p.grad.sum().item())))
    handles.append(nn.modules.module.register_module_forward_hook(lambda m, a, out: print(type(m).__name__)))
    optimizer = torch.optim.Adam(model.parameters())
    cell.measure(model, optimizer)
    cell.train(model, optimizer, 3)
    handles.append(optimizer.register_step_post_hook(lambda *_: print("stepped")))
    handles.append(model[1].register_forward_hook(lambda m, a, out: print(len(m._buffers))))
    cell.train(model, optimizer, 2)
    numbers = [handle.id - handles[0].id for handle in handles]
    for handle in handles:
        handle.remove()
    cell.train(model, optimizer, 2)
    return model, optimizer, numbers


def hooks_that_stay(cell):
    """The file of a module holds its hooks under their numbers."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    cell.measure(model, optimizer)
    for _ in range(4):
        model[1].register_forward_hook(unchanged)
        cell.train(model, optimizer, 1)
        cell.note(model)
    return model, optimizer


def unchanged(module, args, output):
    return None


def checkpointed(cell):
    model = Does(lambda m, x: x + checkpoint(m.body, x.clone().requires_grad_(), use_reentrant=True).mean())
    again = Does(lambda m, x: x + checkpoint(m.body, x, use_reentrant=False).mean())
    return *fit(cell, model), *fit(cell, again)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        print("custom forward")
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        print("custom backward", ctx.saved_tensors[0].shape)
        return grad * 2


def custom_function(cell):
    return fit(cell, Does(lambda m, x: Doubled.apply(x * 1)))


class Counting(torch.Tensor):
    """Counts the functions that are called on it."""

    count = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        Counting.count += 1
        return super().__torch_function__(function, types, args, kwargs or {})


def tensor_subclass(cell):
    x, model = cell.x.as_subclass(Counting), mlp()
    model, optimizer = fit(
        cell, model, probe=False, loss=lambda: F.cross_entropy(model(x), cell.y).as_subclass(torch.Tensor)
    )
    return model, optimizer, Counting.count


def parameters_of_a_subclass(cell):
    class Special(nn.Parameter):
        pass

    model = mlp()
    model[0].weight = Special(model[0].weight.detach().clone())
    return fit(cell, model)


def jagged(cell):
    model = mlp()
    rows = torch.nested.nested_tensor([cell.x[:3], cell.x[:5]], layout=torch.jagged)
    return fit(cell, model, loss=lambda: F.cross_entropy(model(cell.x), cell.y) + model(rows).values().square().mean())


def replaced_forward(cell):
    """A forward that is a partial, wrapped, and set on the instance."""
    import functools

    def scaled(inner, scale, x):
        return inner(x) * scale

    model = mlp()
    model[0].forward = functools.partial(scaled, model[0].forward, 2.0)
    return fit(cell, model)


def scripted_and_traced(cell):
    """TorchScript made of a module while it trains, and a part that is scripted from the start."""
    import warnings

    warnings.simplefilter("ignore")
    model = nn.Sequential(
        nn.Linear(6, 12), torch.jit.script(nn.Sequential(nn.ReLU(), nn.Linear(12, 12))), nn.Linear(12, 3)
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cell.measure(model, optimizer, probe=False)
    for _ in range(4):
        cell.train(model, optimizer, 1)
        print(torch.jit.script(model)(cell.x).sum().item(), torch.jit.trace(model, cell.x).code)
        print(torch.fx.symbolic_trace(model[0]).code)
    return list(model.parameters())
