"""Record the loss of a step: the scalars on which `backward()` is called.

`torch.autograd.backward` (which `Tensor.backward` calls) and `GradScaler.scale` and `step` are wrapped while there are
subscribers. A scaled loss is recorded unscaled.
"""

from __future__ import annotations

import functools
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler, OptState
from torch.optim import Optimizer

from homeostat.core.signals import pass_on
from homeostat.shell.hooks.clock import CLOCK
from homeostat.shell.hooks.step_hooks import RECENT
from homeostat.shell.hooks.torch_internals import (
    is_plain,
    loss_scale,
    modes_active,
    scaler_state,
    unseen,
    without_modes,
)

_UNKNOWN: tuple[weakref.ref[Tensor] | None, Tensor | None] = (None, None)
Loss = Tensor | float
"""A loss that was seen: a 0-dim tensor on its device; a number if that is the CPU, where nothing waits for it."""


class BackwardHooks:
    """Collects the scalars on which backward was called since the last `take`.

    With several optimizers the losses belong to the one that steps next.

    Attributes:
        backwards: number of backward passes.
        seconds: estimated time spent before a backward pass in which nothing is due, 0 before the first estimate.
        on_backward: functions called with every loss before its backward pass; they return at once if nothing is due.
        on_error: called with an internal error in a wrapped function.
        on_skipped: called with the optimizer whose step a GradScaler skipped.
        on_scaled: called with the loss scale of a step, and whether the step was skipped.
    """

    def __init__(self) -> None:
        self._users = 0
        self._pending: list[Loss] = []
        self._unscaled: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}
        self._originals: dict[str, Callable[..., Any]] = {}
        self.on_skipped: list[Callable[[Optimizer], None]] = []
        self.on_scaled: list[Callable[[Tensor, bool], None]] = []
        self.on_backward: list[Callable[[Tensor], None]] = []
        self.on_error: list[Callable[[Exception], None]] = []
        self._ticks = 0
        self._taken: tuple[int | None, Loss | None] = (None, None)
        self._scalers: weakref.WeakSet[GradScaler] = weakref.WeakSet()
        self.backwards = 0
        self._lapses: deque[float] = deque(maxlen=RECENT)
        self._time_next = False

    @property
    def seconds(self) -> float:
        return min(self._lapses, default=0.0)

    def time_next(self) -> None:
        """Time what is done before the next backward pass. Of the recent times the shortest is the estimate."""
        self._time_next = True

    def subscribe(self) -> None:
        """Start collecting; wraps torch's functions for the first user."""
        self._users += 1
        if self._users == 1:
            self._wrap()

    def unsubscribe(self) -> None:
        """Stop collecting; restores torch's functions after the last user."""
        self._users = max(self._users - 1, 0)
        if self._users == 0 and self._originals:
            torch.autograd.backward = self._originals.pop("backward")
            GradScaler.scale = self._originals.pop("scale")  # type: ignore[method-assign]
            GradScaler.step = self._originals.pop("step")  # type: ignore[method-assign]
            self._pending.clear()
            self._unscaled.clear()
            self._taken = (None, None)
            self._scalers.clear()

    def listen(self, *told: Callable[..., None]) -> None:
        """Call functions: with every loss, at every skipped step, with every loss scale, and with internal errors."""
        for listeners, function in zip(self._listeners(), told, strict=True):
            listeners.append(function)

    def ignore(self, *told: Callable[..., None]) -> None:
        """Undo `listen` with the same functions, if it was called."""
        for listeners, function in zip(self._listeners(), told, strict=True):
            if function in listeners:
                listeners.remove(function)

    def _listeners(self) -> tuple[list[Any], ...]:
        return self.on_backward, self.on_skipped, self.on_scaled, self.on_error

    def still_scaled(self, optimizer: Optimizer) -> bool:
        """Whether losses are scaled and `unscale_` was not called for this optimizer's gradients."""
        scalers = [s for s in self._scalers if s.is_enabled()]
        return bool(scalers) and not any(scaler_state(s, optimizer).get("stage") is OptState.UNSCALED for s in scalers)

    def overflowed(self, optimizer: Optimizer) -> bool:
        """Whether `unscale_` found gradients of this optimizer that are not finite."""
        states = [scaler_state(s, optimizer) for s in self._scalers]
        flags = [flag for state in states for flag in state.get("found_inf_per_device", {}).values()]
        return any(bool(flag) for flag in flags)

    def take(self, tick: int | None = None) -> Loss | None:
        """The sum of the losses since the last call; None if there were none.

        Args:
            tick: of `STEP_HOOKS`; a second call at the same tick (from another run) returns the same.
        """
        if tick is not None and tick == self._taken[0]:
            return self._taken[1]
        self._ticks += 1
        total: Loss | None = None
        if pending := self._pending:
            self._pending = []
            total = pending[0] if len(pending) == 1 else summed(pending)
        if self._unscaled:
            self._unscaled.clear()
        self._taken = (tick, total)
        return total

    def _failed(self, error: Exception) -> None:
        """Report an internal error; it must not interrupt `backward` or `step` of the script."""
        for listener in tuple(self.on_error):
            listener(error)

    def _see(self, tensors: Any) -> None:
        roots = (tensors,) if isinstance(tensors, Tensor) else tensors
        self.backwards += 1
        if not isinstance(roots, Sequence):
            return
        if len(roots) == 1 and isinstance(roots[0], Tensor) and is_plain(roots[0]):
            for listener in self.on_backward:
                listener(roots[0])
        for root in roots:
            if isinstance(root, Tensor) and is_plain(root) and root.numel() == 1 and not root.is_complex():
                self._keep(root)

    def _see_one(self, loss: Tensor) -> None:
        """Like `_see`, for the usual case of a 0-dim loss."""
        self.backwards += 1
        if is_plain(loss):
            for listener in self.on_backward:
                listener(loss)
            if not loss.is_complex():
                self._keep(loss)

    def _keep(self, loss: Tensor) -> None:
        """Store a scalar loss, unscaled."""
        ref, plain = self._unscaled.get(id(loss), _UNKNOWN) if self._unscaled else _UNKNOWN
        value = loss if plain is None or ref is None or ref() is not loss else plain
        if value.is_cpu:
            self._pending.append(value.item())
        else:
            self._pending.append(value.detach() if value.ndim == 0 else value.detach().reshape(()))
        if len(self._pending) > 64:  # without a step, keep only the latest
            del self._pending[:-64]

    def _wrap(self) -> None:
        backward, scale, step = torch.autograd.backward, GradScaler.scale, GradScaler.step
        self._originals = {"backward": backward, "scale": scale, "step": step}

        @functools.wraps(backward)
        def seen_backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            try:  # enters no context if none is needed, because this runs in every step
                if type(tensors) is Tensor and tensors.ndim == 0 and not modes_active():
                    if not self._time_next:
                        self._see_one(tensors)
                    else:
                        self._time_next, began = False, CLOCK.now()
                        self._see_one(tensors)
                        self._lapses.append(CLOCK.now() - began)
                else:
                    with unseen():
                        self._see(tensors)
            except Exception as error:
                pass_on(error)
                self._failed(error)
            return backward(tensors, *args, **kwargs)

        @functools.wraps(scale)
        def seen_scale(scaler: GradScaler, outputs: Any) -> Any:
            scaled = scale(scaler, outputs)
            try:
                with unseen():
                    self._scalers.add(scaler)
                    if isinstance(scaled, Tensor) and isinstance(outputs, Tensor):
                        self._unscaled[id(scaled)] = (weakref.ref(scaled), outputs.detach())
            except Exception as error:
                pass_on(error)
                self._failed(error)
            return scaled

        @functools.wraps(step)
        def seen_step(scaler: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
            before = self._ticks
            result = step(scaler, optimizer, *args, **kwargs)
            skipped = self._ticks == before
            try:
                with unseen():
                    if (scale := loss_scale(scaler)) is not None and scaler.is_enabled():
                        for note in self.on_scaled:
                            note(scale, skipped)
            except Exception as error:
                pass_on(error)
                self._failed(error)
            if skipped:
                try:
                    with without_modes():
                        self.take()
                        for listener in self.on_skipped:
                            listener(optimizer)
                except Exception as error:
                    pass_on(error)
                    self._failed(error)
            return result

        torch.autograd.backward = seen_backward
        GradScaler.scale = seen_scale  # type: ignore[method-assign]
        GradScaler.step = seen_step  # type: ignore[method-assign]


def stacked(losses: Sequence[Loss]) -> Tensor:
    """Losses [n], on one device: in float64 if all are numbers, else in float32."""
    device = next((loss.device for loss in reversed(losses) if isinstance(loss, Tensor)), None)
    if device is None:
        return torch.tensor(losses, dtype=torch.float64, device="cpu")
    parts = (loss if isinstance(loss, Tensor) else torch.tensor(loss, device="cpu") for loss in losses)
    return torch.stack([loss.to(device, torch.float32) for loss in parts])


def summed(losses: Sequence[Loss]) -> Loss:
    """The sum of losses."""
    numbers = [loss for loss in losses if not isinstance(loss, Tensor)]
    return sum(numbers) if len(numbers) == len(losses) else stacked(losses).sum()


def found_overflow(optimizer: Optimizer) -> bool:
    """Whether a GradScaler tells a fused optimizer to skip this step."""
    flag = getattr(optimizer, "found_inf", None)
    return isinstance(flag, Tensor) and bool(torch.count_nonzero(flag))


BACKWARD_HOOKS = BackwardHooks()
"""The collector of the process."""


def overflowed(optimizer: Optimizer) -> bool:
    """Whether this step will be skipped because a GradScaler found a gradient that is not finite."""
    return found_overflow(optimizer) or BACKWARD_HOOKS.overflowed(optimizer)
