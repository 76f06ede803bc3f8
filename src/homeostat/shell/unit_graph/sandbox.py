"""Copy the user's network, and run the copy without side effects."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.utils.rnn import PackedSequence

from homeostat.core.signals import pass_on
from homeostat.shell.hooks.module_tree import modules_in, parameters_in
from homeostat.shell.hooks.random_streams import generators_kept, generators_of, streams_kept
from homeostat.shell.hooks.torch_internals import DROPOUT, dynamo_loaded, hook_tables, tree_map

_TRACING: ContextVar[bool] = ContextVar("homeostat_tracing", default=False)


def tracing() -> bool:
    """Whether a trace is running a copy of a network; global hooks must then do nothing."""
    return _TRACING.get()


class Untraceable(Exception):
    """The network cannot be traced; the message is the reason."""


def map_tensors(fn: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply `fn` to every tensor of a nested value (mappings and sequences; packed sequences too)."""

    def leaf(item: Any) -> Any:
        if isinstance(item, PackedSequence):
            return item._replace(data=fn(item.data))
        return fn(item) if isinstance(item, Tensor) else item

    return tree_map(leaf, value, is_leaf=lambda item: isinstance(item, PackedSequence))


@contextlib.contextmanager
def quarantine(model: nn.Module) -> Iterator[None]:
    """Run a copy of `model` eagerly, without gradients or autocast; random streams are restored afterwards.

    If the copy calls modules of the original (its forward is a closure over them), it is stopped before they run.
    """
    guard, token = register_module_forward_pre_hook(_Guard(model)), _TRACING.set(True)
    try:
        with (
            streams_kept(),
            generators_kept(generators_of(model)),
            silenced(),
            torch.no_grad(),
            eagerly(),
            _full_precision(),
        ):
            yield
    finally:
        guard.remove()
        _TRACING.reset(token)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Discard what our own passes print, warn or log, so that the script prints each line once."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


class _Guard:
    """A global pre-hook that stops the tracing thread, and only it, from calling the original modules."""

    def __init__(self, model: nn.Module) -> None:
        self.originals = {id(module) for module in modules_in(model)}

    def __call__(self, module: nn.Module, args: Any) -> None:
        if tracing() and id(module) in self.originals:
            raise Untraceable("its forward is bound to its own modules (a closure), so a copy cannot be run instead")


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for device in ("cpu", *(["cuda"] if torch.cuda.is_initialized() else [])):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Run compiled modules and fused encoder layers module by module, so that hooks inside them fire."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused encoder layer would bypass its own submodules
    try:
        # importing the compiler takes seconds; if it is not loaded, nothing is compiled
        with torch.compiler.set_stance("force_eager") if dynamo_loaded() else contextlib.nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def copy_without_hooks(model: nn.Module, share: bool = False) -> nn.Module:
    """A deep copy of a network without its hooks, because they refer to the objects that installed them.

    Args:
        share: the copy uses the parameters themselves, not copies of them.
    """
    memo: dict[int, Any] = {id(p): p for p in parameters_in(model)} if share else {}
    for module in modules_in(model):
        for value in vars(module).values():
            # old-style weight_norm keeps a computed weight, which cannot be deep-copied
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
        memo.update({id(table): OrderedDict() for table in hook_tables(module)})
    return copy.deepcopy(model, memo)


def private_copy(model: nn.Module, training: bool = False) -> nn.Module:
    """A copy without hooks in evaluation mode (or training mode without dropout), in at least float32.

    Raises:
        Untraceable: the model cannot be copied.
    """
    try:
        twin = copy_without_hooks(model)
    except Exception as error:
        pass_on(error)
        raise Untraceable(f"the network cannot be deep-copied ({type(error).__name__}: {error})") from error
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in parameters_in(twin)):
        twin = twin.float()
    twin.train(training)
    for module in modules_in(twin):
        if isinstance(module, DROPOUT):
            module.eval()
    return twin


POSITIONS = 8
"""Number of tokens of a sequence that a trace keeps."""


def cut_batch(value: Any, batch: int, keep: int, shorten: bool = False) -> Any:
    """Keep the first `keep` items of every tensor whose first dimension is the batch, in at least float32.

    Args:
        shorten: also keep only `POSITIONS` positions of every tensor [batch, time, ...] with the tokens' length.
    """
    time = next((t.shape[1] for t in _tokens(value)), 0) if shorten else 0

    def cut(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if tensor.ndim and tensor.shape[0] == batch:
            tensor = tensor[: min(keep, batch)]
            if time > POSITIONS and tensor.ndim > 1 and tensor.shape[1] == time:
                tensor = tensor[:, :POSITIONS]
        return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.clone()

    return map_tensors(cut, value)


def long_tokens(value: Any) -> bool:
    """Whether there are sequences of tokens (whole numbers, [batch, time]) longer than `POSITIONS`."""
    return any(tensor.shape[1] > POSITIONS for tensor in _tokens(value))


def _tokens(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(lambda t: found.append(t) or t, value)
    return [t for t in found if t.ndim == 2 and t.dtype in (torch.int32, torch.int64)]
