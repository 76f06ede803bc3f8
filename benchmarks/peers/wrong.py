"""A resetter with hand-written unit groups and one optional deliberate mistake, which tests the checks.

It is not a published method. Without a mistake it passes all checks; every mistake must fail the matching checks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .method import ACT_AT, Method, Treated
from .nets import Layer, Net

PERIOD, LARGE = 3, 20.0

MISTAKES: dict[str, tuple[str, ...]] = {
    "before-update": ("incoming",),
    "keeps-outgoing": ("outgoing",),
    "keeps-adam": ("moments-adam",),
    "keeps-momentum": ("moments-sgd",),
    "in-backward": ("gradients",),
    "resets-output": ("output-layer",),
    "one-column": ("conv",),
    "one-consumer": ("branches",),
    "resets-tied": ("tied",),
    "resets-queries": ("attention",),
    "keeps-norms": ("norms",),
    "wounds-the-living": ("function",),
    "orphans": ("new-parameters",),
    "counts-forwards": ("target-network", "accumulation", "skipped-step"),
    "unpicklable": ("pickles",),
    "leaves-hooks": ("no-trace",),
    "closure-blind": ("closure",),
    "scaled-gradients": ("scaler",),
    "forgets": ("resume",),
    "global-stream": ("users-randomness",),
    "unseeded": ("same-seed",),
}
"""Mistake -> the checks that have to fail."""


class Plain(Method):
    """From the twelfth step on, every third step, reset the unit of each layer that is smallest."""

    title: ClassVar[str] = "hand-paired resetter"

    def __init__(self, mistake: str = "") -> None:
        self.mistake = mistake

    @property
    def origin(self) -> str:
        return "made to be checked"

    def treat(self, net: Net, make: Callable[..., torch.optim.Optimizer]) -> Treated:
        optimizer = make(net.model.parameters())
        work = Work(net, optimizer, self.mistake)
        handles = [optimizer.register_step_post_hook(work.after_step), optimizer.register_step_pre_hook(work.before)]
        last = net.model.get_submodule(net.case.hidden[-1].name)
        if self.mistake == "in-backward":
            handles.append(last.register_full_backward_pre_hook(work.in_backward))
        if self.mistake == "counts-forwards":
            handles.append(net.model.register_forward_hook(Counter(work)))
        if self.mistake == "scaled-gradients":
            handles.append(net.parameters[f"{net.case.hidden[-1].name}.weight"].register_hook(work.look))
        if self.mistake == "unpicklable":
            handles.append(net.model.register_forward_hook(lambda *_: None))

        def leave() -> None:
            for handle in handles if self.mistake != "leaves-hooks" else ():
                handle.remove()

        forgets = self.mistake == "forgets"
        return Treated(
            net.model, optimizer, optimizer, None, leave, *((None, None) if forgets else (work.save, work.load))
        )


class Orphans(Plain):
    """Puts a new output layer into the model and leaves the optimizer as it is."""

    kind = "modules"

    def treat(self, net: Net, make: Callable[..., torch.optim.Optimizer]) -> Treated:
        optimizer = make(net.model.parameters())

        def renew(step: int, inputs: Tensor) -> None:
            if step == 3:
                net.model.head = nn.Linear(12, 4, dtype=inputs.dtype)

        return Treated(net.model, optimizer, optimizer, after=renew)


class Counter:
    """Counts forward passes, those of copies too."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self, *_: Any) -> None:
        self.work.count += 1

    def __deepcopy__(self, memo: Any) -> Counter:
        return self


class Work:
    """What the resetter does; each mistake is one line of it."""

    def __init__(self, net: Net, optimizer: torch.optim.Optimizer, mistake: str) -> None:
        self.net, self.optimizer, self.mistake, self.count, self.seen = net, optimizer, mistake, 0, 0.0
        seed = int.from_bytes(os.urandom(4), "big") if mistake == "unseeded" else 11
        self.generator = None if mistake == "global-stream" else torch.Generator().manual_seed(seed)

    def save(self) -> Any:
        """Its whole state."""
        return self.count, self.generator.get_state() if self.generator is not None else None

    def load(self, state: Any) -> None:
        """Takes it back."""
        self.count, stream = state
        if self.generator is not None:
            self.generator.set_state(stream)

    def look(self, gradient: Tensor) -> None:
        """Notes how large a gradient is, loss scale and all."""
        self.seen = float(gradient.norm())

    def after_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Where a reset belongs."""
        self.count += self.mistake != "counts-forwards"
        blind = self.mistake == "closure-blind" and any(callable(a) for a in (*args[1:], *kwargs.values()))
        if self.mistake not in ("before-update", "in-backward") and not blind:
            self.act(self.count)

    def before(self, *_: Any) -> None:
        """Too early: the update still follows."""
        if self.mistake == "before-update":
            self.act(self.count + 1)

    def in_backward(self, *_: Any) -> None:
        """Far too early: gradients are still on their way through these weights."""
        self.act(self.count + 1)

    @torch.no_grad()
    def act(self, count: int) -> None:
        """Reset one unit of every layer, if it is time."""
        if count < ACT_AT or count % PERIOD or (self.mistake == "scaled-gradients" and self.seen > LARGE):
            return
        layers = list(self.net.case.hidden)
        extra = {"resets-output": "head 4", "resets-tied": "enc", "resets-queries": "q"}.get(self.mistake, "")
        layers += [Layer(name, (("k", 1),) if name == "q" else ()) for name in extra.split() if self.has(name)]
        chosen = [(layer, self.smallest(layer)) for layer in layers]
        for layer, unit in chosen:
            self.renew(layer, unit)
        for layer, unit in chosen:
            self.silence(layer, unit)

    def has(self, name: str) -> bool:
        """Whether the network has such a layer, and no other is meant by it."""
        return f"{name}.weight" in self.net.parameters

    def smallest(self, layer: Layer) -> int:
        """The unit whose norm scale, or else whose incoming weights, are smallest."""
        weight = self.net.parameters[f"{layer.norm or layer.name}.weight"]
        return int(weight.abs().flatten(1).sum(1).argmin() if weight.dim() > 1 else weight.abs().argmin())

    def renew(self, layer: Layer, unit: int) -> None:
        """Fresh incoming weights, and a norm as new."""
        weight, bias = (self.net.parameters[f"{layer.name}.{leaf}"] for leaf in ("weight", "bias"))
        bound = weight[0].numel() ** -0.5
        fresh = torch.rand(weight[unit].shape, generator=self.generator, dtype=torch.float64)
        weight.data[unit] = ((2 * fresh - 1) * bound).to(weight)
        bias.data[unit] = 0.0
        self.clear(weight, 0, [unit])
        self.clear(bias, 0, [unit])
        if layer.norm and self.mistake != "keeps-norms":
            for leaf, start in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
                tensor = self.net.parameters.get(f"{layer.norm}.{leaf}", self.net.buffers.get(f"{layer.norm}.{leaf}"))
                if tensor is not None:
                    tensor.data[unit] = start

    def silence(self, layer: Layer, unit: int) -> None:
        """Zero outgoing weights."""
        for consumer, per in layer.consumers[: 1 if self.mistake == "one-consumer" else None]:
            weight = self.net.parameters[f"{consumer}.weight"]
            columns = [unit * per + i for i in range(1 if self.mistake == "one-column" else per)]
            if self.mistake != "keeps-outgoing":
                weight.data[:, columns] = 0.0
            if self.mistake == "wounds-the-living":
                weight.data[:, (unit + 1) % weight.shape[1]] = 0.0
            self.clear(weight, 1, columns)

    def clear(self, parameter: Tensor, dim: int, units: list[int]) -> None:
        """Zero moments."""
        keeps = {"keeps-adam": "exp_avg", "keeps-momentum": "momentum", "before-update": "", "in-backward": ""}
        for key, value in self.optimizer.state.get(parameter, {}).items():
            kept = self.mistake in keeps and key.startswith(keeps[self.mistake])
            if isinstance(value, Tensor) and value.shape == parameter.shape and not kept:
                value.index_fill_(dim, torch.tensor(units), 0.0)
