"""Step counts per element, where torch's optimizers keep one per tensor.

Adam divides its averages by 1 - beta^t because they begin at zero. t counts the steps of the whole tensor. When the
averages of an element are cleared late in training they begin at zero again, but get no correction: its updates are
too long, by up to 6.6 times at betas (0.9, 0.999), for about 1/(1 - beta2) steps. So a count k per element is kept
here, and right after each step the element's update is replaced by that of an element which began k steps ago:

    p <- p + u(m, v, t) - u(m, v, k)

which is the per-element Adam of Dohare et al. (2024, arXiv:2306.13812) on torch's own optimizer. All other elements
stay bit for bit as the optimizer left them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from homeostat.core.errors import Refused
from homeostat.shell.edits.optimizer_state import Group, Holder, Holders, family_name

Update = Callable[[Mapping[str, Any], Group, Tensor], Tensor]
NEGLIGIBLE = 1e-8
"""The correction of an element ends once beta2^k is below this."""


def _left(beta: Any, steps: Tensor) -> Tensor:
    """1 - beta^steps, also for few steps to full precision."""
    return -torch.expm1(steps * math.log(beta)) if beta else torch.ones_like(steps)


def _adam(state: Mapping[str, Any], group: Group, steps: Tensor) -> Tensor:
    """lr m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps); v is the largest so far under amsgrad."""
    beta1, beta2 = map(float, group["betas"])
    square = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
    root = square.sqrt() / _left(beta2, steps).sqrt() + group["eps"]
    return group["lr"] * state["exp_avg"] / _left(beta1, steps) / root


def _adamax(state: Mapping[str, Any], group: Group, steps: Tensor) -> Tensor:
    """lr m/(1-b1^t) / u."""
    return group["lr"] * state["exp_avg"] / _left(float(group["betas"][0]), steps) / state["exp_inf"]


def _radam(state: Mapping[str, Any], group: Group, steps: Tensor) -> Tensor:
    """lr m/(1-b1^t), times r_t sqrt(1-b2^t) / (sqrt(v) + eps) once the variance of that is tractable (rho_t > 5)."""
    beta1, beta2 = map(float, group["betas"])
    most, left = 2 / (1 - beta2) - 1, _left(beta2, steps)
    rho = most - 2 * steps * (1 - left) / left
    safe = rho.clamp(min=5.0)
    rectified = ((safe - 4) * (safe - 2) * most / ((most - 4) * (most - 2) * safe)).sqrt()
    scale = rectified * left.sqrt() / (state["exp_avg_sq"].sqrt() + group["eps"])
    return group["lr"] * state["exp_avg"] / _left(beta1, steps) * torch.where(rho > 5.0, scale, torch.ones_like(scale))


_UPDATES: dict[str, Update] = {"Adam": _adam, "AdamW": _adam, "Adamax": _adamax, "RAdam": _radam}
_COUNTLESS = frozenset({"SGD", "RMSprop", "Adadelta", "Rprop", "Muon", "Adagrad"})


class ElementSteps:
    """The counts of elements that began later than their tensor. False while there are none.

    Args:
        state: from `state_dict`, to continue from.
    """

    def __init__(self, state: Mapping[str, Mapping[str, Tensor]] | None = None) -> None:
        self._since: dict[str, Tensor] = dict(state["since"]) if state else {}
        self._seen: dict[str, Tensor] = dict(state["seen"]) if state else {}
        self._calls = 0

    @classmethod
    def of(cls, optimizers: Sequence[Optimizer]) -> ElementSteps:
        """For parameters that these optimizers train.

        Raises:
            Refused: an optimizer counts steps in a way that is not known for single elements.
        """
        steps = cls()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                steps.counted("its parameters", [(optimizer, group)], "element_steps")
        return steps

    def __bool__(self) -> bool:
        return bool(self._since)

    def counted(self, name: str, holders: Sequence[Holder], component: str) -> Holder | None:
        """The one holder whose updates of the parameter depend on a step count; None when no holder's do.

        Raises:
            Refused: an optimizer that counts steps in another way, or two that count.
        """
        counting = []
        for optimizer, group in holders:
            kind = family_name(optimizer)
            free = kind in _COUNTLESS and not group.get("lr_decay") and not group.get("dampening")
            if not free and kind not in _UPDATES:
                why = "its updates depend on the step count in a way that is not known for single elements"
                raise Refused(component, name, f"{type(optimizer).__name__}: {why}")
            counting += [] if free else [(optimizer, group)]
        if len(counting) > 1:
            raise Refused(component, name, "two optimizers count its steps")
        return counting[0] if counting else None

    def begin(self, name: str, parameter: Tensor, mask: Tensor, holder: Holder) -> Callable[[], object]:
        """Restart the masked elements: their next step counts as their first. Returns the inverse."""
        state = holder[0].state[parameter] if parameter in holder[0].state else {}
        if "step" not in state:
            return lambda: None  # nobody has stepped yet
        now = torch.as_tensor(state["step"], dtype=torch.float32, device=parameter.device)
        old, seen = self._since.get(name), self._seen.get(name)
        before = now.new_zeros(parameter.shape)
        if old is not None:  # of a shorter parameter, if it has just grown
            before[tuple(slice(size) for size in old.shape)] = old
        self._since[name] = torch.where(mask.to(now.device), now, before)
        self._seen[name] = now.clone()

        def back() -> None:
            for table, value in ((self._since, old), (self._seen, seen)):
                if value is None:
                    table.pop(name, None)
                else:
                    table[name] = value

        return back

    @torch.no_grad()
    def after_step(self, parameters: Mapping[str, nn.Parameter], holders: Holders) -> None:
        """Correct the last update of every element that began late.

        A tensor that was not stepped (no gradient, a step left out) stays as it is.
        """
        self._calls += 1
        for name in list(self._since):
            parameter = parameters.get(name)
            holder = self.counted(name, holders.of(parameter), "step counts") if parameter is not None else None
            if parameter is None or holder is None or self._since[name].shape != parameter.shape:
                del self._since[name], self._seen[name]
            elif parameter in holder[0].state:
                self._correct(name, parameter, holder)

    def _correct(self, name: str, parameter: nn.Parameter, holder: Holder) -> None:
        optimizer, group = holder
        state, since = optimizer.state[parameter], self._since[name]
        now = torch.as_tensor(state["step"], dtype=torch.float32, device=parameter.device)
        late = (since > 0) & (now > self._seen[name])
        self._seen[name] = now.clone()
        update = _UPDATES[family_name(optimizer) or ""]
        wide = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        own = (now - since).clamp(min=1).to(wide)
        excess = update(state, group, now.to(wide)) - update(state, group, own)
        values = parameter.detach()
        values.copy_(torch.where(late, values + excess.to(values.dtype), values))
        horizon = math.log(NEGLIGIBLE) / math.log(max(map(float, group["betas"])))
        self._since[name] = since.masked_fill(now - since > horizon, 0.0)
        if self._calls % 1000 == 0 and not bool(self._since[name].any()):
            del self._since[name], self._seen[name]

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Counts at which elements began, and counts last seen, by parameter name."""
        return {"since": dict(self._since), "seen": dict(self._seen)}
