"""A copy of the network in which every layer's output is pinned, so that a change reaches direct users only."""

from __future__ import annotations

import contextlib
import copy
import random
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_map

from homeostat.core.draw import Draw
from homeostat.shell.graph_modules import Anatomy, Part, Role, anatomy, tensors_in

_TRACING: ContextVar[bool] = ContextVar("homeostat_tracing", default=False)
RETURN = ""


def tracing() -> bool:
    """Whether a trace is running a copy of a network right now: global hooks must look away."""
    return _TRACING.get()


class Untraceable(Exception):
    """The network cannot be traced; the message says why in words a user understands."""


@dataclass(frozen=True, order=True)
class Spot:
    """One place where tensors are observed.

    Args:
        path: module path; the return value of the network has side "return".
        call: how many times the module had been called before in this forward pass.
        side: "input", "output" or "return".
        item: index among the tensors found there.
    """

    path: str
    call: int
    side: str
    item: int = 0


Snapshot = dict[Spot, Tensor]
Slot = tuple[str, int, int]


@dataclass(frozen=True)
class Palette:
    """What pinned outputs are set to: `first` normally, `second` where a unit is selected. Slot-wise and seeded.

    "narrow" keeps every common activation responsive: U(0.1, 0.4) against U(0.5, 0.9). "wide" covers both signs:
    2 N(0, 1) against another draw of it. A number means that constant everywhere.
    """

    name: str | float

    def draw(self, slot: Slot, like: Tensor) -> tuple[Tensor, Tensor]:
        """First and second values for a slot, of the shape, dtype and device of `like`."""
        draw = Draw(0, (self.name, *slot))
        if self.name == "narrow":
            return 0.1 + 0.3 * draw.uniform("first", like), 0.5 + 0.4 * draw.uniform("second", like)
        if self.name == "wide":
            return 2 * draw.normal("first", like), 2 * draw.normal("second", like)
        constant = torch.full_like(like, float(self.name))
        return constant, constant


NARROW, WIDE = Palette("narrow"), Palette("wide")


def map_tensors(fn: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply `fn` to every tensor of a nested value (mappings and sequences; packed sequences too)."""

    def leaf(item: Any) -> Any:
        if isinstance(item, PackedSequence):
            return item._replace(data=fn(item.data))
        return fn(item) if isinstance(item, Tensor) else item

    return tree_map(leaf, value, is_leaf=lambda item: isinstance(item, PackedSequence))


@contextlib.contextmanager
def quarantine(model: nn.Module) -> Iterator[None]:
    """Run a copy of `model` with every global random stream saved and restored, eagerly, without gradients or autocast.

    Should the copy call modules of the original (a forward that is a closure over them), it is stopped before they run.
    """
    guard = register_module_forward_pre_hook(_Guard(model))
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's own stream
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    fastpath, token = torch.backends.mha.get_fastpath_enabled(), _TRACING.set(True)
    torch.backends.mha.set_fastpath_enabled(False)  # the fused encoder layer would bypass its own submodules
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), _eagerly(), _full_precision():
            yield
    finally:
        guard.remove()
        torch.backends.mha.set_fastpath_enabled(fastpath)
        _TRACING.reset(token)
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002


class _Guard:
    """A global pre-hook: other threads may go on using the network meanwhile, the tracing one may not."""

    def __init__(self, model: nn.Module) -> None:
        self.originals = {id(module) for module in model.modules()}

    def __call__(self, module: nn.Module, args: Any) -> None:
        if tracing() and id(module) in self.originals:
            raise Untraceable("its forward is bound to its own modules (a closure), so a copy cannot be run instead")


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for device in ("cpu", *(["cuda"] if torch.cuda.is_initialized() else [])):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _eagerly() -> contextlib.AbstractContextManager[Any]:
    # importing the compiler takes seconds; where it is not loaded, nothing has been compiled
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


def reseed() -> None:
    # not torch.manual_seed: it would leave a seed behind for a CUDA that is not initialised yet
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        for generator in torch.cuda.default_generators:
            generator.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def private_copy(model: nn.Module, training: bool = False) -> nn.Module:
    """A deep copy in evaluation mode (or training mode without dropout), in at least float32, without hooks.

    Raises:
        Untraceable: the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(
            module
        ).values():  # old-style weight_norm keeps a computed weight, which cannot be deep-copied
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:
        raise Untraceable(f"the network cannot be deep-copied ({type(error).__name__}: {error})") from error
    for module in twin.modules():
        for key in _HOOKS:
            getattr(module, key, {}).clear()
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in twin.parameters()):
        twin = twin.float()
    twin.train(training)
    for module in twin.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    return twin


def few(value: Any, batch: int, keep: int) -> Any:
    """Keep the first `keep` items of every tensor whose first dimension is the batch; at least float32."""

    def cut(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if keep < batch and tensor.ndim and tensor.shape[0] == batch:
            tensor = tensor[:keep]
        return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.clone()

    return map_tensors(cut, value)


class PinnedCopy:
    """The copy, its sources (everything pinned, and the inputs) and a way to run it under chosen values.

    Attributes:
        parts: the copy's modules by role.
        sources: name -> first and one-past-last global unit number. Layers have one number a unit; inputs, embeddings
            and opaque modules have one number each.
        calls: path -> how often it was called in a forward pass.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool = False) -> None:
        self.model, self.training = private_copy(model, training), training
        self.args, self.kwargs = args, kwargs
        self.parts: Anatomy = anatomy(self.model)
        self.calls: dict[str, int] = {}
        self.sources: dict[str, tuple[int, int]] = {}
        self._values: dict[Slot, tuple[Tensor, Tensor]] = {}
        self._values_of = NARROW
        self._templates: dict[tuple[str, int], Any] = {}
        self._palette, self._mask = NARROW, torch.zeros(0, dtype=torch.bool)
        self._snapshot: Snapshot = {}
        self._number_sources()
        self._scatter_parameters()
        for part in self.parts.of(Role.UNITS, Role.OPAQUE, Role.NORM, Role.SLOPE, Role.PLAIN):
            self._install(part)
        self._recording = True
        self.base = self.run(NARROW)
        self._recording = False

    def uncalled(self) -> set[str]:
        """Trainable layers that the forward pass did not use."""
        return {
            part.path
            for part in self.parts.of(Role.UNITS, Role.OPAQUE)
            if part.path not in self.calls and any(p.requires_grad for p in part.module.parameters())
        }

    @property
    def total(self) -> int:
        """How many unit numbers there are."""
        return max((end for _, end in self.sources.values()), default=0)

    def mask(self, name: str) -> Tensor:
        """The mask that selects everything of one source."""
        start, end = self.sources[name]
        mask = torch.zeros(self.total, dtype=torch.bool)
        mask[start:end] = True
        return mask

    def run(self, palette: Palette, mask: Tensor | None = None) -> Snapshot:
        """One forward pass of the copy.

        Args:
            palette: values of the pinned outputs.
            mask: global units that take the palette's second value [total].

        Raises:
            Untraceable: the forward takes another course than at first, so that passes cannot be compared.
        """
        self._palette = palette
        self._mask = torch.zeros(self.total, dtype=torch.bool) if mask is None else mask
        self._snapshot, self.calls = {}, {}
        reseed()
        args, kwargs = self._inputs()
        self._observe(RETURN, 0, "return", self.model(*args, **kwargs))
        snapshot, self._snapshot = self._snapshot, {}
        if not self._recording and (
            snapshot.keys() != self.base.keys() or any(snapshot[s].shape != self.base[s].shape for s in snapshot)
        ):
            raise Untraceable("its forward takes another course for other values, so layers cannot be followed")
        return snapshot

    def _number_sources(self) -> None:
        total = 0
        for part in self.parts.of(Role.UNITS, Role.OPAQUE):
            size = part.width if part.role is Role.UNITS else 1
            self.sources[part.path] = (total, total + size)
            total += size
        for index, tensor in enumerate(tensors_in((self.args, self.kwargs))):
            if _perturbable(tensor, index == 0):
                self.sources[f"input {index}"] = (total, total + 1)
                total += 1

    def _scatter_parameters(self) -> None:
        """Zero or identity initial values would hide a dependence; what a layer computes does not matter here."""
        for name, parameter in self.model.named_parameters():
            if parameter.is_floating_point():
                fan_in = max(parameter[0].numel() if parameter.ndim > 1 else 1, 1)
                parameter.data.copy_((0.5 + Draw(0).uniform(name, parameter)) / fan_in)

    def _inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        counter = iter(range(10**6))

        def changed(tensor: Tensor) -> Tensor:
            index = next(counter)
            name = f"input {index}"
            if name in self.sources and bool(self._mask[self.sources[name][0]]):
                return tensor + 0.5 + 0.4 * Draw(0).uniform(name, tensor)
            return tensor.clone()

        return map_tensors(changed, (self.args, self.kwargs))

    def _observe(self, path: str, call: int, side: str, value: Any) -> None:
        for item, tensor in enumerate(tensors_in(value)):
            self._snapshot[Spot(path, call, side, item)] = tensor.detach().clone()

    def _install(self, part: Part) -> None:
        original = part.module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            call = self.calls.get(part.path, 0)
            self.calls[part.path] = call + 1
            self._observe(part.path, call, "input", (args, kwargs))
            if part.role is Role.NORM:
                return next(iter(tensors_in((args, kwargs))))
            if part.role in (Role.UNITS, Role.OPAQUE):
                return self._pinned(part, call, original, args, kwargs)
            output = original(*args, **kwargs)
            self._observe(part.path, call, "output", output)
            return output

        part.module.forward = forward

    def _pinned(
        self, part: Part, call: int, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._recording:
            self._templates[part.path, call] = original(*args, **kwargs)
        if (part.path, call) not in self._templates:
            raise Untraceable("its forward calls layers in another order for other values")
        counter = iter(range(10**6))
        return map_tensors(lambda t: self._filled(part, call, next(counter), t), self._templates[part.path, call])

    def _filled(self, part: Part, call: int, item: int, like: Tensor) -> Tensor:
        if not like.is_floating_point():
            return like.clone()
        first, second = self._pair((part.path, call, item), like)
        start, end = self.sources[part.path]
        chosen = self._mask[start:end]
        if not bool(chosen.any()):
            return first.clone()
        if bool(chosen.all()):
            return second.clone()
        return torch.where(chosen.to(like.device).reshape(-1, *[1] * (-part.axis - 1)), second, first)

    def _pair(self, slot: Slot, like: Tensor) -> tuple[Tensor, Tensor]:
        if self._values_of != self._palette:
            self._values, self._values_of = {}, self._palette
        if slot not in self._values:
            self._values[slot] = self._palette.draw(slot, like)
        return self._values[slot]


def _perturbable(tensor: Tensor, first: bool) -> bool:
    """Floating inputs are sources; masks of 0, 1 and -inf are not, unless they are the network's main input."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return False
    maskish = (tensor == 0) | (tensor == 1) | torch.isneginf(tensor)
    return first or not bool(maskish.all())
