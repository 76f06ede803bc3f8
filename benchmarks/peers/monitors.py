"""Run one script with another project's monitors attached: `python monitors.py torchmortem|traintools train.py`.

The last line of the output is "PEER" with what the monitors said, as JSON: {condition: [first step, "warning"]}. Their
own names are kept where no condition of Homeostat has the same meaning. Monitors get their defaults, every step, and
the networks and losses that the script trains, as their documentation asks for; the script itself is not changed.
"""

from __future__ import annotations

import gc
import json
import runpy
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

Alarms = dict[str, tuple[int, str]]

AUTOPSY = {
    "Dead units": "dormant-units",
    "Activation saturation": "saturated-units",
    "Rank collapse": "rank-collapse",
    "Vanishing gradients": "vanishing-gradients",
    "Gradient stalling": "vanishing-gradients",
    "Exploding gradients": "exploding-gradients",
    "Update ratio too low": "learning-rate-too-low",
    "Update ratio too high": "learning-rate-too-high",
    "Training divergence": "diverging-loss",
    "Loss plateau": "stalled-learning",
}
"""Beginnings of torchmortem's titles, and the condition that means the same."""
TOOLS = {
    "non-finite gradients": "non-finite",
    "non-finite values": "non-finite",
    "appears vanished": "vanishing-gradients",
    "is very large": "exploding-gradients",
    "update/weight ratio is high": "learning-rate-too-high",
    "ratio is tiny": "learning-rate-too-low",
    "abs max": "inputs-not-scaled",
    "nearly constant": "constant-inputs",
    "rank-collapsed": "rank-collapse",
    "DORMANT": "dormant-units",
    "degrading": "loss-of-plasticity",
}
"""Parts of traintools' warnings, and the condition that means the same."""
PERSISTENCE = 3
"""traintools warns step by step; a warning counts once it came at so many steps in a row."""
PLASTICITY_EVERY = 50
"""Its plasticity probe is read so often; its default, 200, is longer than many of the programs."""


class Monitor(Protocol):
    def before_step(self, step: int, rate: float) -> None: ...
    def after_step(self, step: int, loss: float) -> None: ...
    def alarms(self) -> Alarms: ...


class Torchmortem:
    """`torchmortem.Autopsy` with its default sampling."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.autopsy = import_module("torchmortem").Autopsy(model, optimizer=optimizer)
        self.autopsy.attach()
        self.steps = 0

    def before_step(self, step: int, rate: float) -> None:
        pass

    def after_step(self, step: int, loss: float) -> None:
        self.autopsy.step(loss=loss)
        self.steps = step

    def alarms(self) -> Alarms:
        self.autopsy.detach()
        report = self.autopsy.get_report()
        said = [f for f in report.findings if f.severity.name in ("WARNING", "CRITICAL")] if report else []
        return {_meaning(f.title, AUTOPSY): (self.steps, "warning") for f in said}


class Traintools:
    """traintools' gradient health, batch inspector and plasticity probe with their defaults."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        tools = import_module("traintools")
        self.model, self.health, self.inspector = model, tools.GradientHealthMonitor(), tools.BatchInspector()
        self.probe = tools.PlasticityProbe(model)
        self.history = import_module("traintools.plasticity").PlasticityHistory()
        self.inputs: tuple[Any, ...] = ()
        self.row: dict[str, int] = {}
        self.found: Alarms = {}
        model.register_forward_pre_hook(self._enter)

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.inputs = args

    def before_step(self, step: int, rate: float) -> None:
        said = list(self.health.inspect(self.model, step=step, lr=rate).warnings)
        if self.inputs:
            said += self.inspector.inspect(self.inputs[0], step=step).warnings
        self._count(step, {_meaning(text, TOOLS) for text in said})

    def _count(self, step: int, names: set[str]) -> None:
        self.row = {name: self.row.get(name, 0) + 1 for name in names}
        for name, times in self.row.items():
            if times >= PERSISTENCE:
                self.found.setdefault(name, (step, "warning"))

    def after_step(self, step: int, loss: float) -> None:
        if step % PLASTICITY_EVERY:
            return
        result = self.probe.measure(step=step)
        self.history.record(result)
        self.probe.reset_buffers()
        flags = [flag for layer in result.layers for flag in layer.flags]
        flags += ["degrading"] * self.history.is_degrading()
        for name in {_meaning(flag, TOOLS) for flag in flags if flag in TOOLS or flag.startswith(("DORMANT", "rank-"))}:
            self.found.setdefault(name, (step, "warning"))

    def alarms(self) -> Alarms:
        return self.found


MONITORS: dict[str, Any] = {"torchmortem": Torchmortem, "traintools": Traintools}


def _meaning(text: str, names: dict[str, str]) -> str:
    return next((condition for part, condition in names.items() if part in text), text.split(" in ")[0])


def _networks(optimizer: torch.optim.Optimizer) -> Iterator[nn.Module]:
    """The outermost modules with a parameter of the optimizer."""
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    found = [m for m in gc.get_objects() if isinstance(m, nn.Module)]
    found = [m for m in found if any(id(p) in owned for p in m.parameters())]
    inner = {id(child) for m in found for child in m.modules() if child is not m}
    yield from (m for m in found if id(m) not in inner)


class Attached:
    """A monitor for every network, driven by the optimizers' steps and by `backward`."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.monitors: dict[int, list[Monitor]] = {}
        self.steps: dict[int, int] = {}
        self.loss = 0.0
        self.backward = Tensor.backward
        attached = self

        def backward(tensor: Tensor, *args: Any, **kwargs: Any) -> None:
            attached.loss = float(tensor.detach().float().mean())
            attached.backward(tensor, *args, **kwargs)

        Tensor.backward = backward  # type: ignore[method-assign]
        register_optimizer_step_pre_hook(self.before)
        register_optimizer_step_post_hook(self.after)

    def before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if id(optimizer) not in self.monitors:
            self.monitors[id(optimizer)] = [self.kind(model, optimizer) for model in _networks(optimizer)]
        step = self.steps.setdefault(id(optimizer), 0)
        for monitor in self.monitors[id(optimizer)]:
            monitor.before_step(step, float(optimizer.param_groups[0]["lr"]))

    def after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.steps[id(optimizer)] += 1
        for monitor in self.monitors[id(optimizer)]:
            monitor.after_step(self.steps[id(optimizer)], self.loss)

    def alarms(self) -> Alarms:
        found: Alarms = {}
        for monitor in (m for monitors in self.monitors.values() for m in monitors):
            for name, (step, severity) in monitor.alarms().items():
                found[name] = min(found.get(name, (step, severity)), (step, severity))
        return found


def main() -> None:
    kind, script = sys.argv[1:3]
    torch.set_num_threads(1)
    attached = Attached(MONITORS[kind])
    sys.argv = [script]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        said = {"alarms": attached.alarms(), "steps": max(attached.steps.values(), default=0)}
        print("\nPEER", json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
