"""The probe: a fixed batch run through a copy of the network, off the training path."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from homeostat.core.draw import Draw
from homeostat.core.errors import BadInput
from homeostat.core.readings import Probe
from homeostat.shell.network import Network

LossFunction = Callable[[Any, Any], Any]


class ProbeMaker:
    """Makes a `Probe` of the network as it is now.

    The copy of the network is made once, in evaluation mode, without hooks; parameters and buffers are passed in anew
    for each probe, so nothing of the user's model is touched.

    Args:
        network: the network.
        given: (batch, loss_fn) with batch = (inputs, targets) and loss_fn(outputs, targets) -> 0-dim loss.
        seed: of the probe's randomness.

    Raises:
        BadInput: the batch or the loss does not fit the network; says what was seen.
    """

    def __init__(self, network: Network, given: Any, seed: int) -> None:
        (self.inputs, self.targets), self._loss = _unpack(given)
        self._network, self._seed = network, seed
        self._copy = copy.deepcopy(network.model).eval()
        for module in self._copy.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        self._try()

    def __call__(self) -> Probe:
        """The probe at the network's present parameters."""
        network = self._network
        parameters = {n: p.detach().clone() for n, p in network.trained().items()}
        rest = {n: p.detach() for n, p in network.model.named_parameters() if n not in parameters}
        rest |= {n: b.detach().clone() for n, b in network.model.named_buffers()}

        def outputs(values: Mapping[str, Tensor]) -> Any:
            return functional_call(self._copy, {**rest, **values}, (self.inputs,))

        return Probe(
            parameters=parameters,
            inputs=self.inputs,
            targets=self.targets,
            outputs=outputs,
            loss=lambda values: self._loss(outputs(values), self.targets),
            draw=Draw(self._seed, ("probe", network.label)),
            learning_rate=network.learning_rate(),
            optimizer=type(network.optimizers[0]).__name__,
        )

    def _try(self) -> None:
        probe = self()
        name = type(self._network.model).__name__
        try:
            with torch.no_grad():
                loss = probe.loss(probe.parameters)
        except Exception as error:
            shape = list(self.inputs.shape)
            raise BadInput(f"the probe batch {shape} does not run through {name} and loss_fn: {error}") from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise BadInput(f"loss_fn must return one number, got {getattr(loss, 'shape', type(loss).__name__)}")
        if not bool(torch.isfinite(loss)):
            raise BadInput("the loss on the probe batch is not finite: check the batch for NaN or infinite values")


def _unpack(given: Any) -> tuple[tuple[Tensor, Any], LossFunction]:
    try:
        (inputs, targets), loss = given
    except (TypeError, ValueError):
        raise BadInput("probe must be (batch, loss_fn) with batch = (inputs, targets)") from None
    if not callable(loss) or not isinstance(inputs, Tensor):
        raise BadInput("probe must be (batch, loss_fn): inputs a tensor, loss_fn(outputs, targets) a callable")
    if len(inputs) == 0:
        raise BadInput("the probe batch is empty")
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        raise BadInput("the probe batch holds NaN or infinite inputs")
    return (inputs, targets), loss
