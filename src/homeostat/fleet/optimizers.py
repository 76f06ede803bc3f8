"""Optimizers of R replicas: the arithmetic of torch's, with settings that may differ between replicas.

A setting is a number, or a tensor [R] with one value a replica. State has the names and meanings of torch's, with a
leading axis R.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.adam import adam as fused_adam

from homeostat.core.errors import BadInput

Setting = float | Tensor
Settings = dict[str, Any]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def spread(setting: Setting, like: Tensor) -> Setting:
    """A setting [R] shaped to broadcast over `like` [R, ...]; a number as it is."""
    if isinstance(setting, Tensor) and setting.ndim:
        return setting.to(like).reshape(-1, *(1,) * (like.ndim - 1))
    return float(setting)


def subtract_scaled_(target: Tensor, value: Tensor, scale: Setting) -> None:
    """target <- target - scale * value, in place."""
    if isinstance(scale, Tensor):
        target.addcmul_(value, scale, value=-1.0)
    else:
        target.add_(value, alpha=-scale)


class StackedOptimizer:
    """The update of one parameter group. A subclass defines `update`.

    Args:
        parameters: name -> stacked parameter [R, ...].
        settings: name -> number or tensor [R], named as in torch.

    Attributes:
        state: parameter -> name -> tensor [R, ...]; "step" is a number.
    """

    mirrors: ClassVar[tuple[type[torch.optim.Optimizer], ...]] = ()
    known: ClassVar[frozenset[str]] = frozenset()
    takes_factors: ClassVar[bool] = False

    def __init__(self, parameters: Mapping[str, Tensor], settings: Settings) -> None:
        self.parameters, self.settings = dict(parameters), dict(settings)
        self.state: dict[str, dict[str, Any]] = {}

    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """Update every parameter that has a gradient."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if (gradient := gradients.get(name)) is not None:
                    self.update(name, parameter, gradient)

    def update(self, name: str, parameter: Tensor, gradient: Tensor) -> None:
        """Update one parameter in place."""
        raise NotImplementedError

    def moments(self, name: str) -> list[Tensor]:
        """The per-element state of a parameter. In all of it, 0 means "nothing seen yet"."""
        return [value for value in self.state.get(name, {}).values() if isinstance(value, Tensor)]

    def restart(self, name: str) -> None:
        """Count the steps of a parameter from now on."""
        if "step" in self.state.get(name, {}):
            self.state[name]["step"] = 0

    def state_dict(self) -> dict[str, Any]:
        """State and settings."""
        state = {name: dict(entries) for name, entries in self.state.items()}
        return {"state": state, "settings": dict(self.settings)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.settings = dict(state["settings"])
        self.state = {
            name: {k: v.clone() if isinstance(v, Tensor) else v for k, v in entries.items()}
            for name, entries in state["state"].items()
        }

    def _decayed(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        """The gradient with weight decay added."""
        decay = spread(self.settings["weight_decay"], parameter)
        if isinstance(decay, Tensor):
            return torch.addcmul(gradient, parameter, decay)
        return gradient.add(parameter, alpha=decay) if decay else gradient


class StackedSGD(StackedOptimizer):
    """`torch.optim.SGD`."""

    mirrors = (torch.optim.SGD,)
    known = frozenset({"lr", "momentum", "dampening", "weight_decay", "nesterov"})
    takes_factors = True

    def update(self, name: str, parameter: Tensor, gradient: Tensor) -> None:
        s = self.settings
        gradient = self._decayed(parameter, gradient)
        momentum = spread(s["momentum"], parameter)
        if isinstance(momentum, Tensor) or momentum:
            entry = self.state.setdefault(name, {})
            velocity = entry.get("momentum_buffer")
            if velocity is None:
                velocity = entry["momentum_buffer"] = gradient.clone()
            else:
                velocity.mul_(momentum)
                dampening = spread(s["dampening"], parameter)
                subtract_scaled_(velocity, gradient, dampening - 1.0)
            gradient = torch.add(gradient, velocity * momentum) if s["nesterov"] else velocity
        subtract_scaled_(parameter, gradient, spread(s["lr"], parameter))

    @property
    def factors_welcome(self) -> bool:
        """Whether an update needs no gradient of its own: x -> x - lr * g."""
        return all(not isinstance(self.settings[k], Tensor) and not self.settings[k] for k in ("momentum",))

    def step_factored(self, weight: str, bias: str | None, inputs: Tensor, above: Tensor, first: bool) -> None:
        """Subtract lr * above' inputs from a weight and lr * sum of above from a bias, without forming the gradient.

        Args:
            weight, bias: names; the bias None if there is none.
            inputs: [R, N, I].
            above: gradient of the outputs [R, N, O].
            first: whether these are the first factors of the step; weight decay goes with them.
        """
        with torch.no_grad():
            target = self.parameters[weight]
            rate, decay = spread(self.settings["lr"], above), self.settings["weight_decay"]
            if first and (isinstance(decay, Tensor) or decay):
                for name in filter(None, (weight, bias)):
                    parameter = self.parameters[name]
                    parameter.mul_(1 - spread(self.settings["lr"], parameter) * spread(decay, parameter))
            if isinstance(rate, Tensor):
                above, rate = above * rate, 1.0
            if inputs.shape[1] == 1:  # an outer product is faster elementwise
                target.addcmul_(above.transpose(1, 2), inputs, value=-rate)
            else:
                target.baddbmm_(above.transpose(1, 2), inputs, alpha=-rate)
            if bias is not None:
                self.parameters[bias].sub_(above.sum(1), alpha=rate)


class _Adaptive(StackedOptimizer):
    """The common part of Adam and AdamW."""

    decoupled: ClassVar[bool] = False
    known = frozenset({"lr", "betas", "eps", "weight_decay", "decoupled_weight_decay"})

    def step(self, gradients: Mapping[str, Tensor]) -> None:
        if any(isinstance(value, Tensor) for value in self.settings.values()):
            super().step(gradients)
            return
        # with equal settings, torch's fused kernel does everything in one pass over memory
        names = [name for name in self.parameters if gradients.get(name) is not None]
        entries = [self._entry(name) for name in names]
        counts = [torch.tensor(float(entry["step"])) for entry in entries]
        with torch.no_grad():
            fused_adam(
                [self.parameters[name] for name in names],
                [gradients[name].contiguous() for name in names],
                [entry["exp_avg"] for entry in entries],
                [entry["exp_avg_sq"] for entry in entries],
                [],
                counts,
                fused=True,
                amsgrad=False,
                beta1=self.settings["betas"][0],
                beta2=self.settings["betas"][1],
                lr=self.settings["lr"],
                weight_decay=self.settings["weight_decay"],
                eps=self.settings["eps"],
                maximize=False,
                decoupled_weight_decay=self._decoupled(),
            )
        for entry in entries:
            entry["step"] += 1

    def _decoupled(self) -> bool:
        return self.decoupled or bool(self.settings.get("decoupled_weight_decay"))

    def _entry(self, name: str) -> dict[str, Any]:
        if name not in self.state:
            like = self.parameters[name].detach()
            zeros = {key: torch.zeros_like(like, memory_format=torch.contiguous_format) for key in _AVERAGES}
            self.state[name] = {"step": 0, **zeros}
        return self.state[name]

    def update(self, name: str, parameter: Tensor, gradient: Tensor) -> None:
        s, entry = self.settings, self._entry(name)
        entry["step"] += 1
        beta1, beta2 = s["betas"]
        rate = spread(s["lr"], parameter)
        if self._decoupled():
            parameter.mul_(1 - rate * spread(s["weight_decay"], parameter))
        else:
            gradient = self._decayed(parameter, gradient)
        mean, square = entry["exp_avg"], entry["exp_avg_sq"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        left1, left2 = 1 - beta1 ** entry["step"], math.sqrt(1 - beta2 ** entry["step"])
        root = square.sqrt().div_(left2).add_(spread(s["eps"], parameter))
        subtract_scaled_(parameter, mean / root, rate / left1)


_AVERAGES = ("exp_avg", "exp_avg_sq")


class StackedAdam(_Adaptive):
    """`torch.optim.Adam`."""

    mirrors = (torch.optim.Adam,)


class StackedAdamW(_Adaptive):
    """`torch.optim.AdamW`."""

    mirrors = (torch.optim.AdamW,)
    decoupled = True


class StackedRMSprop(StackedOptimizer):
    """`torch.optim.RMSprop`."""

    mirrors = (torch.optim.RMSprop,)
    known = frozenset({"lr", "alpha", "eps", "weight_decay", "momentum", "centered"})

    def update(self, name: str, parameter: Tensor, gradient: Tensor) -> None:
        s = self.settings
        gradient = self._decayed(parameter, gradient)
        entry = self.state.setdefault(name, {})
        for key, used in (("square_avg", True), ("grad_avg", s["centered"]), ("momentum_buffer", _on(s["momentum"]))):
            if used and key not in entry:
                entry[key] = torch.zeros_like(parameter.detach(), memory_format=torch.contiguous_format)
        alpha = spread(s["alpha"], parameter)
        square = entry["square_avg"].mul_(alpha)
        subtract_scaled_(square, gradient * gradient, alpha - 1.0)
        variance = square
        if s["centered"]:
            average = entry["grad_avg"].mul_(alpha)
            subtract_scaled_(average, gradient, alpha - 1.0)
            variance = square - average * average
        direction = gradient / (variance.sqrt() + spread(s["eps"], parameter))
        if _on(s["momentum"]):
            direction = entry["momentum_buffer"].mul_(spread(s["momentum"], parameter)).add_(direction)
        subtract_scaled_(parameter, direction, spread(s["lr"], parameter))


def _on(setting: Setting) -> bool:
    return isinstance(setting, Tensor) or bool(setting)


KINDS: tuple[type[StackedOptimizer], ...] = (StackedSGD, StackedAdam, StackedAdamW, StackedRMSprop)
_OFF = ("amsgrad", "maximize", "differentiable")
_IGNORED = frozenset({"params", "param_names", "foreach", "fused", "capturable", "initial_lr", *_OFF})


def stacked_optimizers(
    make: MakeOptimizer, template: nn.Module, stacked: Mapping[str, Tensor], knobs: Mapping[str, Setting]
) -> list[StackedOptimizer]:
    """One optimizer for each parameter group of the optimizer that `make` gives for one network.

    Args:
        make: what the solo run calls, e.g. `partial(torch.optim.Adam, lr=1e-3)`.
        template: one network.
        stacked: parameter name -> stacked parameter.
        knobs: settings with one value a replica, or one for all; they replace those of every group.

    Raises:
        BadInput: an optimizer or setting that has no stacked form; it is named.
    """
    made = make(p for p in template.parameters() if p.requires_grad)
    names = {id(parameter): name for name, parameter in template.named_parameters()}
    kind = next((kind for kind in KINDS if type(made) in kind.mirrors), None)
    if kind is None:
        known = ", ".join(mirror.__name__ for each in KINDS for mirror in each.mirrors)
        raise BadInput(f"fleet: {type(made).__name__} has no stacked form (there is one of {known})")
    found: list[StackedOptimizer] = []
    for group in made.param_groups:
        if on := [key for key in _OFF if group.get(key)]:
            raise BadInput(f"fleet: {type(made).__name__} with {on[0]} has no stacked form")
        if odd := set(group) - kind.known - _IGNORED:
            raise BadInput(f"fleet: setting {sorted(odd)[0]!r} of {type(made).__name__} is not known")
        if unknown := set(knobs) - kind.known - {"betas"}:
            raise BadInput(f"fleet: {type(made).__name__} has no setting {sorted(unknown)[0]!r} to use as a knob")
        settings = {key: group[key] for key in kind.known if key in group} | dict(knobs)
        found.append(kind({n: stacked[n] for p in group["params"] if (n := names[id(p)]) in stacked}, settings))
    return found


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """For each replica, whether every element of all tensors [R, ...] is finite: bool [R]."""
    sums = torch.stack([tensor.detach().flatten(1).double().sum(1) for tensor in tensors])
    return torch.isfinite(sums.sum(0))
