"""Train R seeds of one network at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from homeostat.core.controller import Controller
from homeostat.core.errors import BadInput
from homeostat.core.treatment import Treatment
from homeostat.core.vital import Vital
from homeostat.fleet.frozen import FrozenFleet, joined
from homeostat.fleet.losses import Loss, replica_losses
from homeostat.fleet.measuring import Series
from homeostat.fleet.optimizers import MakeOptimizer
from homeostat.fleet.random_streams import RandomStreams
from homeostat.fleet.stack import Stack
from homeostat.shell.unit_graph.module_roles import tensors_in
from homeostat.shell.unit_graph.sandbox import map_tensors

CACHE_BYTES = 12 * 2**20
"""Weights of a group of replicas by default, in bytes. Set by `benchmarks/fleet.py --group`."""
SMALLEST, LARGEST = 8, 32


class Fleet:
    """R replicas of one network that are trained at once, each as it would be trained alone.

    Replica r equals the run of seed r: `torch.manual_seed(seed)`, `make_model()`, then training with the optimizer on
    its own batches. Replicas differ in their seed, in their data and in `knobs`; nothing of one reaches another.

    Args:
        make_model: makes the network; called once for each seed with torch's global generator seeded.
        optimizer: makes the optimizer of one network from its parameters, e.g. `partial(torch.optim.Adam, lr=1e-3)`:
            torch's SGD, Adam, AdamW or RMSprop.
        seeds: one for each replica.
        loss_fn: (outputs [B, ...], targets [B, ...]) -> 0-dim loss of one replica, for `step`.
        knobs: "lr" and other settings of the optimizer, or "treatment.knob" -> tensor [R] with one value a replica, or
            one number.
        vitals: "default", "all", or vitals and names, measured every `every` steps. Vitals that need a probe, tasks or
            a twin are left out (`not_measured`), or refused if named.
        treatments: applied as `homeostat.attach(..., seed=seed)` does.
        controllers: set "lr" or a knob of a treatment from a measured vital, in each replica for itself.
        clip_norm: largest norm of the gradients of a replica, as `torch.nn.utils.clip_grad_norm_` does before the step.
        every: steps between two measurements.
        group: replicas that are computed together; by default as many as keep the weights in the cache.

    Raises:
        BadInput: the seeds make different networks, or the optimizer has no stacked form.
        Refused: a treatment or vital that cannot be lifted; it is named.

    >>> fleet = Fleet(lambda: nn.Linear(3, 2), optimizer=lambda p: torch.optim.SGD(p, lr=0.1), seeds=range(4))
    >>> fleet.step(torch.ones(4, 5, 3), torch.zeros(4, 5, dtype=torch.int64)).shape
    torch.Size([4])
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        *,
        optimizer: MakeOptimizer,
        seeds: Sequence[int],
        loss_fn: Loss = nn.functional.cross_entropy,
        knobs: Mapping[str, Any] | None = None,
        vitals: str | Sequence[str | Vital] = "default",
        treatments: Sequence[Treatment] = (),
        controllers: Sequence[Controller] = (),
        clip_norm: float | None = None,
        every: int = 100,
        group: int | None = None,
    ) -> None:
        self.seeds = tuple(seeds)
        if not self.seeds:
            raise BadInput("fleet: no seeds were given")
        given = {name: _checked(name, value, len(self.seeds)) for name, value in (knobs or {}).items()}
        made = [(streams := RandomStreams([seed]), *streams.make(make_model)) for seed in self.seeds]
        networks = [network for _, network in made]
        if not all(isinstance(network, nn.Module) for network in networks):
            raise BadInput("fleet: make_model must return a torch.nn.Module")
        size = group or _group_size(networks[0], len(self.seeds))
        parts = [slice(at, at + size) for at in range(0, len(self.seeds), size)]
        self._parts = [slice(p.start, min(p.stop, len(self.seeds))) for p in parts]
        self.stacks = [
            Stack(
                networks[part],
                RandomStreams.joined([each for each, _ in made[part]]),
                optimizer,
                self.seeds[part],
                {n: v[part] if isinstance(v, Tensor) else v for n, v in given.items()},
                vitals,
                treatments,
                every,
                controllers,
                clip_norm,
            )
            for part in self._parts
        ]
        self._losses = replica_losses(loss_fn)

    def __len__(self) -> int:
        return len(self.seeds)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs [R, B, ...] for inputs [R, B, ...], with a graph unless in `evaluation` or `torch.no_grad`."""
        many = [stack.forward(*a, **k) for stack, (a, k) in zip(self.stacks, self.split(args, kwargs), strict=True)]
        return joined(many)

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One training step of every replica.

        Args:
            inputs: [R, B, ...], the batch of each replica.
            targets: [R, B, ...].

        Returns:
            The losses before the step [R], detached.
        """
        found: list[Tensor] = []
        for stack, part in zip(self.stacks, self._parts, strict=True):
            outputs = stack.masked(stack.forward(inputs[part]), targets[part])
            losses = self._losses(outputs, targets[part])
            losses.sum().backward()
            found.append(losses.detach())
            stack.learn(found[-1])
        return torch.cat(found)

    def learn(self, losses: Tensor) -> None:
        """Backward pass, treatments, update and measurements, for losses that were computed outside.

        Args:
            losses: [R], one for each replica, with a graph. No loss may depend on another replica.
        """
        if losses.shape != (len(self),):
            raise BadInput(f"fleet: expected one loss for each of {len(self)} replicas, got {list(losses.shape)}")
        losses.sum().backward()
        parts = losses.detach().split([len(stack.seeds) for stack in self.stacks])
        for stack, part in zip(self.stacks, parts, strict=True):
            stack.learn(part)

    def boundary(self) -> None:
        """A new task begins, for treatments that act at boundaries."""
        for stack in self.stacks:
            stack.boundary()

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Evaluation mode without gradients; edits of treatments for the evaluation are undone afterwards."""
        with contextlib.ExitStack() as all_of_them:
            for stack in self.stacks:
                all_of_them.enter_context(stack.evaluation())
            yield

    def parameters(self) -> dict[str, Tensor]:
        """Name -> the parameters of all replicas [R, ...], detached; a copy if there are several groups."""
        many = [{n: p.detach() for n, p in stack.model.named_parameters()} for stack in self.stacks]
        return many[0] if len(many) == 1 else {n: torch.cat([each[n] for each in many]) for n in many[0]}

    def turn(self, name: str, value: Any) -> None:
        """Set a knob from now on, e.g. "lr" in a schedule: a number, or one value for each replica [R]."""
        value = _checked(name, value, len(self.seeds))
        for stack, part in zip(self.stacks, self._parts, strict=True):
            stack.turn(name, value[part] if isinstance(value, Tensor) else value)

    def detached(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs for inputs [R, B, ...] with a graph to the inputs and none to the parameters."""
        parts = zip(self.stacks, self.split(args, kwargs), strict=True)
        return joined([functional_call(stack.model, stack.tensors(), a, k) for stack, (a, k) in parts])

    def frozen(self) -> FrozenFleet:
        """A copy of the present parameters, to evaluate without gradients: target networks."""
        return FrozenFleet(self)

    def replica(self, index: int) -> nn.Module:
        """An ordinary module with the present parameters and buffers of one replica."""
        for stack, part in zip(self.stacks, self._parts, strict=True):
            if part.start <= index < part.stop:
                return stack.replica(index - part.start)
        raise IndexError(f"there is no replica {index} among {len(self)}")

    def vitals(self) -> Series:
        """vital -> layer -> (step, values [R]), oldest first."""
        first = self.stacks[0].vitals.series
        others = [stack.vitals.series for stack in self.stacks]
        return {
            vital: {
                layer: [
                    (step, torch.cat([each[vital][layer][at][1] for each in others]))
                    for at, (step, _) in enumerate(points)
                ]
                for layer, points in layers.items()
            }
            for vital, layers in first.items()
        }

    def not_measured(self) -> dict[str, str]:
        """Vital -> why it is not measured."""
        return dict(self.stacks[0].vitals.not_measured)

    def routes(self) -> dict[str, str]:
        """Path of every module of a type without a twin -> "stacked", "vmap" or "loop", with the reason. Known after
        the first call."""
        return self.stacks[0].routes()

    def state_dict(self) -> dict[str, Any]:
        """Everything that another process needs to continue bit for bit: tensors, optimizers, random streams,
        treatments, measurements."""
        return {"seeds": self.seeds, "stacks": [stack.state_dict() for stack in self.stacks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the `state_dict` of a fleet with the same arguments.

        Raises:
            BadInput: it had other seeds, groups or treatments.
        """
        if tuple(state["seeds"]) != self.seeds or len(state["stacks"]) != len(self.stacks):
            raise BadInput("fleet: the saved fleet had other seeds or groups")
        for stack, saved in zip(self.stacks, state["stacks"], strict=True):
            stack.load_state_dict(saved)

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """The arguments [R, ...] of each group.

        Raises:
            BadInput: an argument does not have R replicas.
        """
        if any(len(tensor) != len(self) for tensor in tensors_in((args, kwargs))):
            raise BadInput(f"fleet: every input needs a first axis of {len(self)} replicas")
        return [map_tensors(lambda t, part=part: t[part], (args, kwargs)) for part in self._parts]


def _checked(name: str, value: Any, replicas: int) -> Any:
    if not isinstance(value, (Tensor, Sequence)) or (isinstance(value, Tensor) and not value.ndim):
        return float(value)
    tensor = torch.as_tensor(value, dtype=torch.float64)
    if tensor.shape != (replicas,):
        raise BadInput(f"fleet: knob {name!r} has shape {list(tensor.shape)}, expected one value for {replicas} seeds")
    return tensor


def _group_size(network: nn.Module, replicas: int) -> int:
    """The number of replicas in a group: their weights fit in the cache, within limits."""
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    size = min(max(int(CACHE_BYTES / max(weights, 1)), SMALLEST), LARGEST)
    groups = -(-replicas // size)
    return -(-replicas // groups)  # of equal size
