"""Every private name of torch that Homeostat uses, tried on the torch that is installed.

`make test-torch VERSION=...` runs this and the other tests of the shell on another version.
"""

import copy
import importlib

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.amp.grad_scaler import GradScaler, OptState
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from homeostat.shell.hooks import torch_internals as internals
from homeostat.shell.hooks.wrappers import live, unwrap, wrappers_of

USED = {
    "classes": {"BATCH_NORM", "DROPOUT", "LOSS_MODULE", "TRANSPOSED_CONV"},
    "modules": {"children_of", "own_parameters", "buffers_of", "owner_table", "is_built", "hook_tables"},
    "hooks": {"global_hook_tables", "gradient_hooks", "steps_on_stack", "keyword_hooks", "hook_tables_in"},
    "others' hooks": {"hook_functions", "step_hook_tables"},
    "compiler": {"compiled_call", "set_compiled_call", "dynamo_loaded", "compiled_wrapper", "anything_compiled"},
    "compiling": {"compile_callbacks", "skip_compiling"},
    "scaler": {"scaler_state", "loss_scale"},
    "tensors": {
        "is_plain",
        "node_shapes",
        "recorded_elsewhere",
        "saved",
        "unseen",
        "in_backward",
        "without_modes",
        "without_torch_functions",
        "is_wrapper_tensor",
        "view_base",
        "tree_map",
    },
    "graph": {"version_of"},
    "layers": {"shares_projection", "computes_as", "state_metadata"},
    "parallel": {"default_store", "is_joining", "is_sharded", "WRAPPED"},
}


def test_every_name_is_tried_below():
    assert set().union(*USED.values()) == set(internals.__all__)


def test_classes():
    assert all(issubclass(kind, internals.BATCH_NORM) for kind in (nn.BatchNorm2d, nn.InstanceNorm1d, nn.SyncBatchNorm))
    assert all(issubclass(kind, internals.LOSS_MODULE) for kind in (nn.CrossEntropyLoss, nn.MSELoss, nn.CTCLoss))
    assert issubclass(nn.Dropout2d, internals.DROPOUT) and issubclass(nn.AlphaDropout, internals.DROPOUT)
    assert issubclass(nn.ConvTranspose2d, internals.TRANSPOSED_CONV)
    assert not issubclass(nn.Conv2d, internals.TRANSPOSED_CONV) and not issubclass(nn.LayerNorm, internals.BATCH_NORM)


def test_tables_of_a_module():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert list(internals.children_of(net)) == ["0", "1"] and list(internals.own_parameters(net[0])) == [
        "weight",
        "bias",
    ]
    assert list(internals.buffers_of(net[1])) == ["running_mean", "running_var", "num_batches_tracked"]
    assert internals.owner_table(net[1], "weight")["weight"] is net[1].weight
    assert internals.owner_table(net[1], "running_mean")["running_mean"] is net[1].running_mean
    assert internals.is_built(net) and not internals.is_built(nn.Linear.__new__(nn.Linear))
    before = [len(table) for table in internals.hook_tables(net[0])]
    net[0].register_forward_hook(lambda *_: None)
    net[0].register_full_backward_hook(lambda *_: None)
    net[0].register_state_dict_post_hook(lambda *_: None)
    assert sum(len(table) for table in internals.hook_tables(net[0])) == sum(before) + 3


def test_hooks():
    tables = internals.global_hook_tables()
    assert tables and not any(tables.values())
    handle = register_optimizer_step_post_hook(lambda *_: None)
    assert sum(internals.global_hook_tables().values()) == 1
    handle.remove()
    weight = nn.Parameter(torch.ones(2))
    assert not internals.gradient_hooks(weight)
    handle = weight.register_post_accumulate_grad_hook(lambda _: None)
    assert internals.gradient_hooks(weight)
    handle.remove()
    weight.register_hook(lambda _: None)
    assert internals.gradient_hooks(weight)


def test_tables_of_forward_hooks_and_who_reads_them():
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda *_: None, with_kwargs=True)
    layer.register_forward_pre_hook(lambda *_: None)
    sizes = {side: [len(table) for table in internals.keyword_hooks(layer, side)] for side in ("input", "output")}
    assert sizes == {"input": [1, 0], "output": [1, 1]}
    assert sorted(map(len, internals.hook_tables_in(vars(layer)).values())) == [0, 1, 1, 1]
    importlib.import_module("torch.export._trace")
    found = {name for _, name in internals.hook_functions()}
    assert {"create_script_module", "trace", "_export", "swap_module", "fuse_known_modules"} <= found
    handle = register_optimizer_step_post_hook(lambda *_: None)
    assert [len(table) for table in internals.step_hook_tables()] == [0, 1]
    handle.remove()


def test_the_compiler_says_when_it_works_and_leaves_functions_out():
    seen, frames = [], []

    def inner(x):
        return x + 1

    def outer(x):
        return inner(x)

    def backend(graph, inputs):
        frames.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return graph.forward

    importlib.import_module("torch._dynamo")
    remove = internals.compile_callbacks(lambda *_: seen.append("began"), lambda *_: seen.append("ended"))
    internals.skip_compiling(outer)
    torch.compile(outer, backend=backend)(torch.ones(2))
    remove()
    torch.compile(inner, backend=backend, dynamic=False)(torch.ones(3))
    assert seen == ["began", "ended"] and frames == [1, 1]


def test_steps_that_are_running_are_counted():
    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            counted.append(internals.steps_on_stack(self))
            return super().step(closure)

    counted: list[int] = []
    weight = nn.Parameter(torch.ones(2))
    torch.optim.SGD([weight])  # torch wraps the `step` of a class when the first optimizer of it is made
    optimizer = Twice([weight], lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: counted.append(internals.steps_on_stack(optimizer)))
    optimizer.step()
    assert counted == [1, 1, 2]


def test_compiled_networks():
    assert not internals.dynamo_loaded() or internals.compiled_wrapper().__name__ in internals.WRAPPED
    net = nn.Linear(2, 2)
    assert internals.compiled_call(net) is None and unwrap(net) == (net, False)
    wrapped = torch.compile(net, backend="eager")
    assert internals.dynamo_loaded() and isinstance(wrapped, internals.compiled_wrapper())
    assert unwrap(wrapped) == (net, True) and wrappers_of(net, internals.compiled_wrapper()) == [wrapped]
    wrapped(torch.ones(1, 2))
    assert internals.anything_compiled()
    inner = nn.Linear(2, 2)
    inner.compile(backend="eager")
    call = internals.compiled_call(inner)
    assert unwrap(inner) == (inner, True)
    calls: list[int] = []
    internals.set_compiled_call(inner, lambda x: calls.append(1) or call(x))
    inner(torch.ones(1, 2))
    assert calls == [1]


def test_gradient_scaler():
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = GradScaler("cpu", init_scale=8.0)
    assert internals.scaler_state(scaler, optimizer) == {} and internals.loss_scale(scaler) is None
    scaler.scale(weight.sum() * float("inf")).backward()
    assert float(internals.loss_scale(scaler)) == 8.0
    scaler.unscale_(optimizer)
    state = internals.scaler_state(scaler, optimizer)
    assert state["stage"] is OptState.UNSCALED and [bool(flag) for flag in state["found_inf_per_device"].values()] == [
        True
    ]


def test_tensors():
    seen: list[bool] = []
    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda _: seen.append(internals.in_backward()))
    x.sum().backward()
    assert seen == [True] and not internals.in_backward()
    assert internals.view_base(x[0]) is x and internals.view_base(x) is None
    before = internals.version_of(x)
    with torch.no_grad():
        x += 1
    assert internals.version_of(x) == before + 1
    assert not internals.is_wrapper_tensor(x)
    assert internals.tree_map(lambda v: v + 1, {"a": [1, (2,)]}) == {"a": [2, (3,)]}

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(False)
            with internals.without_torch_functions():
                return func(*args, **(kwargs or {})).add(1)

    with Mode():
        torch.relu(x)
    assert seen == [True, False]


def test_graph():
    """Names of nodes, what they save and their shapes; a hook on saved tensors is never called."""
    x = torch.randn(4, 5)
    loss = nn.functional.mse_loss(nn.Linear(5, 2)(x), torch.ones(4, 2))
    linear = loss.grad_fn.next_functions[0][0]
    assert loss.grad_fn.name() == "MseLossBackward0" and linear.name() == "AddmmBackward0"
    assert torch.equal(internals.saved(linear, "mat1"), x) and internals.saved(linear, "no such") is None
    assert internals.node_shapes(linear) == ((4, 2),)
    assert internals.version_of(x.clone().add_(1)) == 1 and internals.version_of(x) == 0
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda _: pytest.fail("unpacked")):
        packed = nn.Linear(5, 2)(x)
    assert internals.saved(packed.grad_fn, "mat1") is None
    rows = torch.arange(len(x))
    chosen = nn.Linear(5, 2)(x)[rows, rows * 0].grad_fn
    assert torch.equal(internals.saved(chosen, "indices")[0], rows), "several tensors under one name"


def test_layers():
    assert internals.shares_projection(nn.MultiheadAttention(4, 1))
    assert not internals.shares_projection(nn.MultiheadAttention(4, 1, kdim=3))

    class Named(nn.Linear):
        pass

    class Changed(nn.Conv1d):
        def _conv_forward(self, input, weight, bias):
            return input

    assert internals.computes_as(Named(1, 1), nn.Linear) and not internals.computes_as(Changed(1, 1, 1), nn.Conv1d)
    state = nn.Sequential(nn.BatchNorm1d(2)).state_dict()
    assert internals.state_metadata(state)["0"]["version"] == 2 and internals.state_metadata({}) == {}
    assert internals.state_metadata(copy.deepcopy(state)) == internals.state_metadata(state)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without process groups")
def test_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        internals.default_store().set("word", "said")
        assert internals.default_store().get("word") == b"said"
        net = nn.Linear(2, 2)
        ddp = nn.parallel.DistributedDataParallel(net)
        assert unwrap(ddp) == (net, False) and wrappers_of(net, type(ddp)) == [ddp]
        assert not internals.is_joining(ddp)
        with ddp.join():
            assert internals.is_joining(ddp)
            ddp(torch.ones(1, 2)).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert not any(internals.is_sharded(name, p) for name, p in net.named_parameters())
    assert internals.is_sharded("a._fsdp_wrapped_module.weight", net.weight)


def test_live_objects_are_found_without_asking_strangers():
    class Stranger:
        @property
        def __class__(self):
            raise AssertionError("asked")

    stranger, half, net = Stranger(), nn.Linear.__new__(nn.Linear), nn.Linear(1, 1)
    found = live(nn.Linear)
    assert any(thing is net for thing in found) and not any(thing is half or thing is stranger for thing in found)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated")
def test_which_tensors_may_be_kept_and_what_modes_of_the_script_see():
    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            calls.append(function)
            return function(*args, **(kwargs or {}))

    class Heard(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            calls.append(function)
            return function(*args, **(kwargs or {}))

    calls: list[object] = []
    x = torch.randn(3, 4)
    for mode in (Seen, Heard):
        with mode(), torch.device("meta"):
            for blind in (internals.unseen, internals.without_modes):
                calls.clear()
                with blind():
                    kept = x.clone()
                    made = torch.zeros(1)
                assert not calls and kept.shape == x.shape
                assert made.is_meta or blind is internals.unseen
            assert torch.ones(1).is_meta and calls
        calls.clear()
    assert not internals.modes_active()
    other = [
        x.to("meta"), x.to_sparse(), nn.LazyLinear(2).weight, FakeTensorMode().from_tensor(x),
        torch.nested.nested_tensor([x, x[:2]], layout=torch.jagged),
    ]  # fmt: skip
    assert internals.is_plain(x) and internals.is_plain(nn.Parameter(x)) and not any(map(internals.is_plain, other))
    batched: list[bool] = []
    torch.vmap(lambda row: batched.append(internals.is_plain(row)) or row)(x)
    assert batched == [False]
    inside: list[bool] = []
    torch.jit.trace(lambda t: inside.append(internals.recorded_elsewhere()) or t + 1, x, check_trace=False)
    assert inside[0] and not internals.recorded_elsewhere()


def test_shapes_and_dimensions_of_a_graph():
    node = torch.randn(2, 3, 4, requires_grad=True).transpose(0, -1).grad_fn
    assert internals.node_shapes(node) == ((4, 3, 2),)
    assert internals.saved(node, "dim0") == 0 and internals.saved(node, "nothing") is None
    assert internals.node_shapes(object()) == ()
