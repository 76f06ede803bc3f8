"""The private names of torch that Homeostat uses, each behind a public name.

No other module touches a private name of torch, so a change in a torch release is repaired here.
`tests/shell/test_torch_internals.py` exercises every name on the installed torch.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._C import _len_torch_dispatch_stack, _len_torch_function_stack
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._python_dispatch import is_traceable_wrapper_subclass as is_wrapper_tensor
from torch.utils._pytree import tree_map

from homeostat.core.signals import pass_on

__all__ = [
    "BATCH_NORM",
    "DROPOUT",
    "LOSS_MODULE",
    "TRANSPOSED_CONV",
    "WRAPPED",
    "anything_compiled",
    "buffers_of",
    "children_of",
    "compile_callbacks",
    "compiled_call",
    "compiled_wrapper",
    "computes_as",
    "default_store",
    "dynamo_loaded",
    "global_hook_tables",
    "gradient_hooks",
    "hook_functions",
    "hook_tables",
    "hook_tables_in",
    "in_backward",
    "is_built",
    "is_joining",
    "is_plain",
    "is_sharded",
    "is_wrapper_tensor",
    "keyword_hooks",
    "loss_scale",
    "node_shapes",
    "own_parameters",
    "owner_table",
    "recorded_elsewhere",
    "saved",
    "scaler_state",
    "set_compiled_call",
    "shares_projection",
    "skip_compiling",
    "state_metadata",
    "step_hook_tables",
    "steps_on_stack",
    "tree_map",
    "unseen",
    "version_of",
    "view_base",
    "without_modes",
    "without_torch_functions",
]

BATCH_NORM: type[nn.Module] = nn.modules.batchnorm._NormBase
"""Base class of batch and instance norms, whose statistics belong to one channel each."""
DROPOUT: type[nn.Module] = nn.modules.dropout._DropoutNd
"""Base class of the dropout layers."""
LOSS_MODULE: type[nn.Module] = nn.modules.loss._Loss
"""Base class of the losses that are modules."""
TRANSPOSED_CONV: type[nn.Module] = nn.modules.conv._ConvTransposeNd
"""Base class of the transposed convolutions."""
WRAPPED = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module", "DataParallel": "module"}
"""Class name of a wrapper -> the attribute that holds the module inside."""
_FORWARD_HOOKS = {
    "input": ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    "output": ("_forward_hooks", "_forward_hooks_with_kwargs"),
}
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
_DYNAMO = "torch._dynamo.eval_frame"
_NOTHING = contextlib.nullcontext()
_STRIDED, _NO_DISPATCH = torch.strided, getattr(Tensor, "__torch_dispatch__", None)


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """The table of a module's children, to look up or replace one without `getattr`."""
    return object.__getattribute__(module, "_modules")  # not by a `__getattribute__` of the script


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The table of a module's own parameters."""
    return object.__getattribute__(module, "_parameters")


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """The table of a module's own buffers."""
    return object.__getattribute__(module, "_buffers")


def owner_table(module: nn.Module, leaf: str) -> dict[str, Any]:
    """The table that holds the parameter, else the buffer, called `leaf`."""
    return module._parameters if leaf in module._parameters else module._buffers


def is_built(thing: Any) -> bool:
    """Whether `__init__` of a live module or optimizer has run; others may be incomplete."""
    return "_modules" in vars(thing) or "param_groups" in vars(thing)


def hook_tables(module: nn.Module) -> Iterator[MutableMapping[int, Any]]:
    """A module's tables of hooks, to leave hooks out of a copy."""
    return (vars(module)[key] for key in _HOOKS if key in vars(module))


def keyword_hooks(module: nn.Module, side: Literal["input", "output"]) -> Iterator[MutableMapping[int, Any]]:
    """A module's table of forward (pre-)hooks, and that of the keys among them whose hooks take keyword arguments."""
    return (vars(module)[key] for key in _FORWARD_HOOKS[side])


def hook_tables_in(state: MutableMapping[str, Any]) -> dict[str, MutableMapping[int, Any]]:
    """Name -> table of forward hooks, in the attributes of a module."""
    return {key: state[key] for keys in _FORWARD_HOOKS.values() for key in keys if isinstance(state.get(key), dict)}


def hook_functions() -> list[tuple[Any, str]]:
    """(owner, name) of torch's functions that read or move a module's hooks (scripting, exporting, quantizing)."""
    names = {
        "torch.jit._recursive": "create_script_module",
        "torch.fx._symbolic_trace": "Tracer.trace",
        "torch.export._trace": "_export",
        "torch.ao.quantization.quantize": "swap_module",
        "torch.ao.quantization.fuse_modules": "fuse_known_modules",
        "torch.cuda": "make_graphed_callables",
    }
    found: list[tuple[Any, str]] = []
    for home, path in names.items():
        *outer, name = path.split(".")
        owner = sys.modules.get(home)
        for part in outer:
            owner = getattr(owner, part, None)
        if hasattr(owner, name):
            found.append((owner, name))
    return found


def step_hook_tables() -> tuple[MutableMapping[int, Any], MutableMapping[int, Any]]:
    """The tables of the hooks that are called before and after every optimizer's step."""
    home = importlib.import_module("torch.optim.optimizer")
    return home._global_optimizer_pre_hooks, home._global_optimizer_post_hooks


def global_hook_tables() -> dict[str, int]:
    """Name -> size of torch's global tables of module and optimizer hooks, to check that all were removed."""
    homes = map(importlib.import_module, ("torch.nn.modules.module", "torch.optim.optimizer"))
    tables = {name: value for home in homes for name, value in vars(home).items() if name.startswith("_global_")}
    return {name: len(table) for name, table in tables.items() if "hook" in name and isinstance(table, dict)}


def gradient_hooks(parameter: Tensor) -> bool:
    """Whether a tensor has gradient hooks, which a replacement would lose."""
    return bool(parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None))


def compiled_call(module: nn.Module) -> Any:
    """The function that `module.compile()` set in place of `forward`; None for an eager module."""
    return getattr(module, "_compiled_call_impl", None)


def set_compiled_call(module: nn.Module, call: Any) -> None:
    """Replace the function that `module.compile()` set, to see its calls from outside the graph."""
    module._compiled_call_impl = call


def dynamo_loaded() -> bool:
    """Whether the compiler has been imported. Importing it takes seconds; without it nothing is compiled."""
    return _DYNAMO in sys.modules


def compile_callbacks(began: Callable[..., None], ended: Callable[..., None]) -> Callable[[], None]:
    """Call functions when the compiler starts and ends, if it is loaded. Returns a function that removes them."""
    handler = getattr(sys.modules.get("torch._dynamo.callback"), "callback_handler", None)
    if handler is None:
        return lambda: None
    pairs = (handler.start_callbacks, began), (handler.end_callbacks, ended)
    for called, function in pairs:
        called.append(function)

    def remove() -> None:
        for called, function in pairs:
            if function in called:
                called.remove(function)

    return remove


def skip_compiling(function: Callable[..., Any]) -> None:
    """Exclude a function from compilation, if the compiler is loaded, but not the functions that it calls."""
    skip = getattr(sys.modules.get(_DYNAMO), "skip_code", None)
    if skip is not None:
        skip(function.__code__)


def compiled_wrapper() -> type[nn.Module]:
    """The class of what `torch.compile(module)` returns; call only when the compiler is loaded."""
    return sys.modules[_DYNAMO].OptimizedModule


def anything_compiled() -> bool:
    """Whether `torch.compile` was used in this process: searching for its wrappers takes a while."""
    backends = getattr(sys.modules.get(_DYNAMO), "cached_backends", None)
    return dynamo_loaded() and (backends is None or any(backend is not None for backend in backends.values()))


def scaler_state(scaler: GradScaler, optimizer: Optimizer) -> dict[str, Any]:
    """State of an optimizer in a GradScaler in this step: its stage, and whether a gradient was not finite."""
    return scaler._per_optimizer_states.get(id(optimizer), {})


def loss_scale(scaler: GradScaler) -> Tensor | None:
    """The scale of a GradScaler, 0-dim on its device, without waiting for it; None before the first loss."""
    return scaler._scale


def in_backward() -> bool:
    """Whether a backward pass is running in this thread; a forward pass is then gradient checkpointing."""
    return torch._C._current_graph_task_id() != -1


def without_torch_functions() -> Any:
    """A context in which `TorchFunctionMode`s see nothing."""
    return torch._C.DisableTorchFunction()


def modes_active() -> bool:
    """Whether a function mode or a dispatch mode of the script would see operations that run now."""
    return _len_torch_function_stack() > 0 or _len_torch_dispatch_stack() > 0


def without_modes() -> AbstractContextManager[Any]:
    """A context in which neither function modes nor dispatch modes of the script see anything.

    The default device, which torch keeps as a function mode, stays: forwards of the script may run inside.
    """
    return _modes_off() if modes_active() else _NOTHING


@contextlib.contextmanager
def _modes_off() -> Iterator[None]:
    kept = [torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())][::-1]
    devices = [mode for mode in kept if isinstance(mode, DeviceContext)]
    for mode in devices:
        torch._C._push_on_torch_function_stack(mode)
    try:
        with _disable_current_modes() if torch._C._len_torch_dispatch_stack() else _NOTHING:
            yield
    finally:
        for _ in devices:
            torch._C._pop_torch_function_stack()
        for mode in kept:
            torch._C._push_on_torch_function_stack(mode)


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Operations inside build no graph, and neither function modes nor dispatch modes of the script see them."""
    with without_modes(), without_torch_functions(), torch.no_grad():
        yield


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is an ordinary one with its own values, whose copy may be kept.

    Others are: subclasses that override dispatch (fake, nested, distributed), batched tensors of `torch.func`, tensors
    without values (meta, lazy), sparse, nested and quantized ones.
    """
    if tensor.is_meta or tensor.is_nested or tensor.is_quantized or tensor.layout is not _STRIDED:
        return False
    kind = type(tensor)
    if kind is not Tensor and getattr(kind, "__torch_dispatch__", None) is not _NO_DISPATCH:
        return False
    return not is_functorch_wrapped_tensor(tensor) and not is_lazy(tensor)


def recorded_elsewhere() -> bool:
    """Whether current operations are compiled, traced or captured; ours would become part of it."""
    capturing = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None or capturing


def node_shapes(node: Any) -> tuple[tuple[int, ...], ...]:
    """Output shapes of an autograd node in the forward pass; empty if unknown."""
    found = getattr(node, "_input_metadata", None) or ()
    try:
        return tuple(tuple(int(size) for size in one.shape) for one in found)
    except (AttributeError, RuntimeError, TypeError) as error:
        pass_on(error)
        return ()


def default_store() -> Any:
    """The key-value store of the default process group, to exchange text without a collective."""
    return torch.distributed.distributed_c10d._get_default_store()


def is_joining(wrapper: nn.Module) -> bool:
    """Whether DistributedDataParallel is inside `join()`, where ranks run out of batches one after another."""
    return bool(getattr(getattr(wrapper, "_join_config", None), "enable", False))


def is_sharded(name: str, parameter: Tensor) -> bool:
    """Whether this process has only a part of a parameter (DTensor, FullyShardedDataParallel)."""
    return type(parameter).__name__ in ("DTensor", "FlatParameter") or "_fsdp_wrapped_module" in name


def view_base(tensor: Tensor) -> Tensor | None:
    """The base tensor of a view."""
    return tensor._base


def shares_projection(layer: nn.MultiheadAttention) -> bool:
    """Whether queries, keys and values are projected by one fused matrix."""
    return layer._qkv_same_embed_dim


def computes_as(module: object, kind: type[nn.Module]) -> bool:
    """Whether a module has a class and overrides neither `forward` nor its convolution."""
    names = ("forward", "_conv_forward")
    same = all(getattr(type(module), name, None) is getattr(kind, name, None) for name in names)
    return isinstance(module, kind) and same


def state_metadata(state: Any) -> dict[str, Any]:
    """The versions of modules inside a `state_dict()`, which `load_state_dict` reads for old formats."""
    return getattr(state, "_metadata", {})


def saved(node: Any, name: str) -> Any:
    """The value that an autograd node saved under a name, or None.

    torch gives negative numbers (dimensions, an ignored class) as unsigned 64-bit numbers; here they are signed.

    None if there is none, or if reading it would call a hook of the user (gradient checkpointing, offloading) or fail
    because it was modified in place.
    """
    raw = getattr(node, f"_raw_saved_{name}", None)
    kept = raw if isinstance(raw, tuple) else (raw,)  # indices are kept as several tensors
    if any(one is not None and getattr(one, "unpack_hook", one) is not None for one in kept):
        return None
    try:
        value = getattr(node, f"_saved_{name}", None)
    except RuntimeError as error:
        pass_on(error)
        return None
    return tuple(map(_signed, value)) if isinstance(value, tuple) else _signed(value)


def _signed(value: Any) -> Any:
    return value - 2**64 if isinstance(value, int) and value >= 2**63 else value


def version_of(tensor: Tensor) -> int:
    """Number of in-place modifications of a tensor."""
    return tensor._version


def steps_on_stack(optimizer: Optimizer) -> int:
    """Number of torch's `step` wrappers of this optimizer that are running in this thread, at least 1."""
    filename = Optimizer.__init__.__code__.co_filename
    count, frame = 0, sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "wrapper" and code.co_filename == filename and frame.f_locals.get("self") is optimizer:
            count += 1
        frame = frame.f_back
    return max(count, 1)
