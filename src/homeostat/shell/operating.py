"""Bringing a freshly built network into the shape a saved one had: the surgery done before its first step, again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from homeostat.core.component import find
from homeostat.core.draw import Draw
from homeostat.core.edits import Edit
from homeostat.core.errors import BadInput, HomeostatError
from homeostat.core.treatment import Stage, Treatment, View
from homeostat.shell import surgery
from homeostat.shell.flattening import revived

if TYPE_CHECKING:
    from homeostat.shell.network import Network

Shapes = dict[str, list[Any]]


def shapes(model: nn.Module) -> Shapes:
    """Name in the state_dict -> [dtype, *shape] of every tensor."""
    return {k: [str(v.dtype), *v.shape] for k, v in model.state_dict().items() if isinstance(v, Tensor)}


def check_shapes(network: Network, saved: Mapping[str, Any], seed: int) -> None:
    """Whether the network has the saved one's shape, or will have it after the saved run's surgery.

    Raises:
        BadInput: it has not; the network is as before.
    """
    left = differences(shapes(network.model), saved["shapes"])
    if left:
        with contextlib.suppress(HomeostatError):  # a network that the surgery does not fit is another one all the same
            undo = operate(network, saved, seed)
            left = differences(shapes(network.model), saved["shapes"])
            undo()
    if left:
        raise BadInput(
            f"the saved network is another one than this {network.name}: {'; '.join(left[:4])}"
            + (f"; and {len(left) - 4} more" if len(left) > 4 else "")
        )


def operate(network: Network, saved: Mapping[str, Any], seed: int) -> Callable[[], None]:
    """Do the saved run's surgery on this network, unless it was built so; returns the way back."""
    receipts: list[surgery.Receipt] = []

    def undo() -> None:
        while receipts:
            receipts.pop().undo()

    if saved["site"] is not None and differences(shapes(network.model), saved["shapes"]):
        sites = _sites(saved["site"])
        try:
            for treatment in _surgical(saved):
                edits = _planned(network, sites[0], treatment, seed)
                # a surgery that changed something was followed by the next site, one without edits was not
                if edits and len(sites) > 1:
                    sites.pop(0)
                receipts.append(
                    surgery.apply(
                        edits, network.model, network.optimizers, component=treatment.name, averaged=network.averaged
                    )
                )
        except BaseException:
            undo()
            raise
    return undo


def differences(here: Shapes, there: Shapes) -> list[str]:
    """What two networks' tensors differ in, in words."""
    said = [f"{name} is {_shape(there[name])} there and missing here" for name in there if name not in here]
    said += [f"{name} is {_shape(here[name])} here and missing there" for name in here if name not in there]
    both = [name for name in there if name in here and list(here[name]) != list(there[name])]
    return said + [f"{name} is {_shape(there[name])} there and {_shape(here[name])} here" for name in both]


def _shape(of: list[Any]) -> str:
    dtype, *shape = of
    return f"{shape} {str(dtype).removeprefix('torch.')}"


def _surgical(saved: Mapping[str, Any]) -> list[Treatment]:
    """The treatments that had replaced modules."""
    begun = [(find("treatment", n), e["settings"]) for n, e in saved["treatments"].items() if e["begun"]]
    return [cls(**settings) for cls, settings in begun if cls.stage == Stage.SURGERY]


def _sites(latest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The sites that the saved run's surgeries found, oldest first; the latest is that of the network as saved."""
    before = latest["before"]
    return [*_sites(before), latest] if before is not None else [latest]


def _planned(network: Network, site: Mapping[str, Any], treatment: Treatment, seed: int) -> Sequence[Edit]:
    view = View(
        step=0,
        parameters=network.values(),
        buffers={n: b.detach() for n, b in network.model.named_buffers()},
        units=tuple(revived(site["units"])),
        fresh=revived(site["fresh"]),
        norms=frozenset(site["norms"]),
        draw=Draw(seed, (treatment.name, network.label, 0)),
        learning_rate=network.learning_rate(),
        kinds=network.kinds(),
    )
    with torch.no_grad():
        return treatment.plan(view, {}, treatment.knobs())[0]
