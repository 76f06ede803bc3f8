"""Our hooks on the script's modules are called, and are nowhere else to be seen."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn

import homeostat
from homeostat.shell.hooks.module_hooks import MODULE_HOOKS

IGNORED = "ignore:.*(torch.jit|torch.ao|deprecated|constant|enable_nested_tensor)"


class Keywords(nn.Module):
    __slots__ = ("extra",)

    def __init__(self) -> None:
        super().__init__()
        self.one, self.act, self.two = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)
        self.extra = 1
        self.one.register_forward_hook(note)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.act(self.one(x)))


def note(module, args, output):
    return None


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.fixture
def hooked():
    """A function that puts a hook on both sides of every module, and gives the names of those that were called."""
    for left in list(MODULE_HOOKS._placed):  # by a test that broke the end of its run
        MODULE_HOOKS.take_off(left)
    handles = []

    def place(model):
        calls = []
        for name, module in model.named_modules():
            for side in ("input", "output"):
                handles.append(MODULE_HOOKS.place(module, side, lambda *_, said=(name, side): calls.append(said)))
        return calls

    yield place
    for handle in handles:
        handle.remove()
    assert not len(MODULE_HOOKS) and "__reduce_ex__" not in vars(nn.Module)


def scripted(model):
    return str(torch.jit.script(model).inlined_graph)


def traced(model):
    return torch.jit.trace(model, torch.ones(1, 4)).code


def symbolic(model):
    return torch.fx.symbolic_trace(model).code


def exported(model):
    return str(torch.export.export(model, (torch.ones(2, 4),)).graph)


def exported_strictly(model):
    return str(torch.export.export(model, (torch.ones(2, 4),), strict=True).graph)


def pickled(model):
    return pickle.dumps(model)


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    return file.getvalue()


def copied_and_saved(model):
    return saved(copy.deepcopy(model))


def quantized(model):
    model.train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    prepared = torch.ao.quantization.prepare_qat(model)
    return str([(name, type(m), len(m._forward_hooks)) for name, m in prepared.named_modules()])


@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize(
    "look", [scripted, traced, symbolic, exported, exported_strictly, pickled, saved, copied_and_saved, quantized]
)
def test_copies_and_programs_of_a_module_are_those_of_a_bare_one(look, hooked):
    model = net()
    if look in (pickled, saved, copied_and_saved):
        model.append(Keywords())
    bare = look(model)
    calls = hooked(model)
    assert look(model) == bare
    model[:3](torch.ones(1, 4))
    assert ("0", "input") in calls and ("2", "output") in calls


def test_hooks_of_the_script_have_the_numbers_that_they_have_alone(hooked):
    before = nn.Linear(1, 1).register_forward_hook(note).id
    model = net()
    hooked(model)
    run = homeostat.attach(model, torch.optim.SGD(model.parameters(), 0.1), every=1)
    after = model[0].register_forward_hook(note).id
    run.detach()
    assert after == before + 1


def test_a_shallow_copy_shares_the_tables_of_hooks_as_it_does_alone(hooked):
    layer = nn.Linear(4, 2)
    calls = hooked(layer)
    shallow = copy.copy(layer)
    shallow.register_forward_hook(note)
    assert note in layer._forward_hooks.values()
    shallow(torch.ones(1, 4))
    assert calls == []
    layer(torch.ones(1, 4))
    assert len(calls) == 2


def test_a_hook_keeps_no_module_alive(hooked):
    gc.disable()
    try:
        model = net()
        hooked(model)
        reference = weakref.ref(model[0])
        with MODULE_HOOKS.hidden():
            assert not model[0]._forward_hooks
        del model
        assert reference() is None
    finally:
        gc.enable()


def test_a_hook_that_is_removed_or_placed_while_hooks_are_hidden():
    model, calls = net(), []
    first = MODULE_HOOKS.place(model, "output", lambda *_: calls.append("first"))
    with MODULE_HOOKS.hidden():
        first.remove()
        second = MODULE_HOOKS.place(model, "output", lambda *_: calls.append("second"))
        model(torch.ones(1, 4))
        assert calls == []
    model(torch.ones(1, 4))
    assert calls == ["second"]
    second.remove()
    second.remove()
    assert not model._forward_hooks and not model._forward_hooks_with_kwargs


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_hook_that_another_one_removes_in_the_same_call_is_not_called(side):
    layer, calls = nn.Linear(4, 2), []
    handles = [MODULE_HOOKS.place(layer, side, lambda *_: handles[1].remove())]
    handles.append(MODULE_HOOKS.place(layer, side, lambda *_: calls.append(1)))
    layer(torch.ones(1, 4))
    handles[0].remove()
    assert calls == []


@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize("frozen", [False, True])
def test_an_encoder_evaluates_on_the_path_that_it_takes_alone(frozen, hooked, monkeypatch):
    """torch leaves its fused encoder layer when something in it has a hook; the results differ in the last bits."""
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).requires_grad_(not frozen)
    calls, fused = hooked(model), []
    original = torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *a: fused.append(1) or original(*a))
    x = torch.randn(2, 5, 8)
    model.train()(x)
    assert fused == [] and ("layers.0.linear1", "output") in calls
    model.eval()
    with torch.set_grad_enabled(frozen):
        model(x)
    assert fused == [1, 1]
    model.requires_grad_()(x)
    assert fused == [1, 1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("inner", [net, lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)])
def test_what_is_compiled_while_hooks_are_in_place_is_compiled_once_and_whole(inner, hooked):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model, other = inner(), net()
    function = torch.compile(lambda x: model(x), backend=backend, fullgraph=True)
    layer = torch.compile(inner(), backend=backend, fullgraph=True)
    x = torch.randn(3, 5, 4)
    hooked(model)
    for each in (function, layer):
        each(x)
    hooked(other)
    handle = MODULE_HOOKS.place(other, "output", lambda *_: None)
    for each in (function, layer):
        each(x)
    handle.remove()
    assert len(graphs) == 2
