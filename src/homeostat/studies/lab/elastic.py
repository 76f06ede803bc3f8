"""Elastic weight consolidation in plain torch: the baseline of studies of forgetting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from homeostat.fleet import Fleet


class Anchors:
    """Penalises changes of the weights since the end of each task, weighted by their importance for the task.

        penalty = strength / 2 * sum over tasks k of sum_i F_ki (theta_i - theta*_ki) ** 2

    F_k is the diagonal of the Fisher matrix on items of task k, with labels drawn from the network. The sum over tasks
    is stored as one quadratic function with the same gradient; its value differs by a constant.

    Source: Kirkpatrick et al. (2017), arXiv:1612.00796, equation 3.

    Args:
        model: model whose weights are penalised.
        strength: lambda in the paper.
    """

    def __init__(self, model: nn.Module, strength: float) -> None:
        self.model, self.strength = model, strength
        self.weight = torch.zeros_like(self._now())
        self.centre = self.weight.clone()

    def penalised(self, criterion: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The loss with the penalty added."""
        return lambda outputs, targets: criterion(outputs, targets) + self.penalty()

    def penalty(self) -> Tensor:
        """The penalty at the current weights."""
        theta = parameters_to_vector(self.model.parameters())
        return self.strength / 2 * (self.weight * (theta - self.centre) ** 2).sum()

    def drop(self, inputs: Tensor, generator: torch.Generator) -> None:
        """Add the current weights and their importance on these items [N, ...] to the penalty."""
        fisher = self.fisher(inputs, generator)
        total = self.weight + fisher
        share = torch.where(total > 0, fisher / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)
        self.centre = torch.lerp(self.centre, self._now(), share)
        self.weight = total

    def fisher(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared gradient of the log-probability of labels drawn from the network, one entry per parameter."""
        named = {name: value.detach() for name, value in self.model.named_parameters()}
        with torch.no_grad():
            labels = torch.multinomial(self.model(inputs).softmax(-1), 1, generator=generator)[:, 0]

        def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(self.model, values, (x[None],)), y[None])

        gradients = vmap(grad(loss), in_dims=(None, 0, 0))(named, inputs, labels)
        return torch.cat([gradients[name].square().mean(0).flatten() for name in named])

    def _now(self) -> Tensor:
        return parameters_to_vector(self.model.parameters()).detach().clone()


class FleetAnchors:
    """The same penalty for every replica of a fleet; each replica has its own anchors.

    Args:
        fleet: networks whose weights are penalised.
        strength: lambda in the paper.
    """

    def __init__(self, fleet: Fleet, strength: float) -> None:
        self.fleet, self.strength = fleet, strength
        self.weight = torch.zeros_like(self._theta().detach())
        self.centre = self.weight.clone()

    def penalty(self) -> Tensor:
        """The penalty of every replica at its current weights [R], with a graph."""
        return self.strength / 2 * (self.weight * (self._theta() - self.centre) ** 2).sum(1)

    def drop(self, inputs: Tensor, generators: Sequence[torch.Generator]) -> None:
        """Add the current weights of every replica and their importance on its items [R, N, ...] to the penalty.

        A replica whose weights are not finite gets no new anchor.
        """
        for r, generator in enumerate(generators):
            one = Anchors(self.fleet.replica(r), self.strength)
            if not bool(self._theta()[r].isfinite().all()):
                continue
            one.weight, one.centre = self.weight[r].clone(), self.centre[r].clone()
            one.drop(inputs[r], generator)
            self.weight[r], self.centre[r] = one.weight, one.centre

    def _theta(self) -> Tensor:
        many = [torch.cat([p.flatten(1) for p in stack.parameters.values()], 1) for stack in self.fleet.stacks]
        return torch.cat(many)
