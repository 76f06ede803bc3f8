"""Runs fixed batches (the probe, evaluation items of tasks) through a copy of the network, outside of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from homeostat.core.errors import BadInput
from homeostat.core.random import Draw
from homeostat.core.signals import pass_on
from homeostat.core.snapshot import Probe
from homeostat.shell.hooks.module_tree import named_buffers_in, named_parameters_in
from homeostat.shell.hooks.random_streams import generators_kept, generators_of, streams_kept
from homeostat.shell.network import Network
from homeostat.shell.unit_graph.sandbox import copy_without_hooks, silenced

LossFunction = Callable[[Any, Any], Any]


class Mirror:
    """A copy of a network, in evaluation mode and without hooks, that gets parameters and buffers from the network.

    It is copied again if the modules of the network have changed. The network is not changed.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._renew()

    def probe(self, batch: tuple[Tensor, Any], loss: LossFunction, draw: Draw) -> Probe:
        """A probe of the current network."""
        return self.probes({"": batch}, loss, draw)[""]

    def probes(self, batches: Mapping[str, tuple[Tensor, Any]], loss: LossFunction, draw: Draw) -> dict[str, Probe]:
        """A probe for every batch; they share one copy of the parameters."""
        network = self._network
        if self._modules != network.kinds():
            self._renew()
        parameters = {n: p.detach().clone() for n, p in network.trained().items()}
        rest = {n: p.detach() for n, p in named_parameters_in(network.model) if n not in parameters}
        rest |= {n: b.detach().clone() for n, b in named_buffers_in(network.model)}
        rate, kind = network.learning_rate(), type(network.optimizers[0]).__name__

        def made(inputs: Tensor, targets: Any) -> Probe:
            def outputs(values: Mapping[str, Tensor]) -> Any:
                # of torch's kernels for attention, only this one has second derivatives
                with generators_kept(self._generators), silenced(), sdpa_kernel(SDPBackend.MATH):
                    return functional_call(self._copy, {**rest, **values}, (inputs,))

            def its_loss(values: Mapping[str, Tensor]) -> Any:
                return loss(outputs(values), targets)

            return Probe(parameters, inputs, targets, outputs, its_loss, draw, rate, kind)

        return {name: made(*batch) for name, batch in batches.items()}

    def _renew(self) -> None:
        self._modules = self._network.kinds()
        self._generators = generators_of(self._network.model)
        try:
            self._copy = copy_without_hooks(self._network.model).eval()
        except Exception as error:
            pass_on(error)
            name, why = type(self._network.model).__name__, f"{type(error).__name__}: {error}"
            raise BadInput(f"{name} cannot be copied, which a probe, tasks and a twin need: {why}") from error


class ProbeMaker:
    """Creates a `Probe` of the current network.

    Args:
        network: the network.
        given: (batch, loss_fn) with batch = (inputs, targets) and loss_fn(outputs, targets) -> 0-dim loss.
        seed: seed of the probe's random draws.

    Raises:
        BadInput: the batch or the loss does not fit the network.
    """

    def __init__(self, network: Network, given: Any, seed: int) -> None:
        (self.inputs, self.targets), self._loss = _unpack(given)
        self._draw, self._mirror = Draw(seed, ("probe", network.label)), Mirror(network)
        check_runs(self(), "the probe batch", type(network.model).__name__)

    def __call__(self) -> Probe:
        """The probe at the current parameters."""
        return self._mirror.probe((self.inputs, self.targets), self._loss, self._draw)


def check_runs(probe: Probe, what: str, model: str) -> None:
    """Run a batch through the network and the loss once.

    Raises:
        BadInput: an error occurs, or the loss is not a finite number.
    """
    try:
        with streams_kept(), torch.no_grad():
            loss = probe.loss(probe.parameters)
    except Exception as error:
        pass_on(error)
        shape = list(probe.inputs.shape)
        raise BadInput(f"{what} {shape} does not run through {model} and loss_fn: {error}") from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise BadInput(f"loss_fn must return one number, got {getattr(loss, 'shape', type(loss).__name__)}")
    if not bool(torch.isfinite(loss)):
        raise BadInput(f"the loss on {what} is not finite: check it for NaN or infinite values")


def check_batch(inputs: Any, what: str) -> Tensor:
    """The inputs of a fixed batch.

    Raises:
        BadInput: the inputs are not a tensor, are empty, or have NaN or infinite values.
    """
    if not isinstance(inputs, Tensor) or inputs.ndim == 0:
        raise BadInput(f"{what} must be (inputs, targets) with inputs a tensor [items, ...], got {_kind(inputs)}")
    if len(inputs) == 0:
        raise BadInput(f"{what} is empty")
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        raise BadInput(f"{what} holds NaN or infinite inputs")
    return inputs


def _kind(thing: Any) -> str:
    return f"shape {list(thing.shape)}" if isinstance(thing, Tensor) else type(thing).__name__


def _unpack(given: Any) -> tuple[tuple[Tensor, Any], LossFunction]:
    try:
        (inputs, targets), loss = given
    except (TypeError, ValueError) as error:
        pass_on(error)
        raise BadInput("probe must be (batch, loss_fn) with batch = (inputs, targets)") from None
    if not callable(loss) or not isinstance(inputs, Tensor):
        raise BadInput("probe must be (batch, loss_fn): inputs a tensor, loss_fn(outputs, targets) a callable")
    return (check_batch(inputs, "the probe batch"), targets), loss
