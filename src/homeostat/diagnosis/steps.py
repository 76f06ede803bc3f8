"""What each step of an optimizer changes, and what it could gain: series that several conditions judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from homeostat.core.vital import NETWORK
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History

STEP_VITALS = ("loss", "update-ratio", "weight-norm", "gradient-norm")
"""Vitals that `measured_steps` reads."""


@dataclass(frozen=True)
class Steps:
    """The steps of one network, at the readings of its loss.

    Args:
        at: step numbers [n].
        loss: [n].
        change: ||dw|| / ||w|| over all layers [n], NaN where unknown.
        gain: first-order bound on the relative fall of the loss in one step, sum of ||g_l|| ||dw_l|| / |loss| [n].
        pull: the same for a step as long as the weights, sum of ||g_l|| ||w_l|| / |loss| [n].
    """

    at: Array
    loss: Array
    change: Array
    gain: Array
    pull: Array


def measured_steps(history: History, losses: Mapping[str, tuple[Array, Array]], facts: Facts) -> dict[str, Steps]:
    """Name of a loss -> the steps of its network.

    Args:
        losses: name -> its series in the history.
    """
    labels = frozenset(o.network for o in facts.optimizers if o.network)
    layers = [layer for layer in history.layers("gradient-norm") if not is_network(layer)]
    found: dict[str, Steps] = {}
    for name, (at, loss) in losses.items():
        own = [layer for layer in layers if network_of(layer, labels) == network_of(name, labels)]
        if own:
            key = ("steps", name, labels)  # several conditions ask for the same
            found[name] = history.derived.get(key) or history.derived.setdefault(key, _steps(history, own, at, loss))
    return found


def _steps(history: History, layers: Sequence[str], at: Array, loss: Array) -> Steps:
    ratio, weight, gradient = (
        np.stack([_aligned(at, *history.series(vital, layer)) for layer in layers]) for vital in STEP_VITALS[1:]
    )
    with np.errstate(all="ignore"):
        moved = np.nan_to_num((ratio * weight) ** 2).sum(0)
        size = np.where(np.isnan(ratio), 0.0, np.nan_to_num(weight**2)).sum(0)
        gain = np.nan_to_num(gradient * ratio * weight).sum(0)
        pull = np.nan_to_num(gradient * weight).sum(0)
        scale = np.maximum(np.abs(loss), 1e-30)
        return Steps(at, loss, np.sqrt(moved / size), gain / scale, pull / scale)


def _aligned(at: Array, steps: Array, values: Array) -> Array:
    """The values at these steps, NaN where there is none."""
    found = np.full(at.size, np.nan)
    if steps.size:
        index = np.minimum(np.searchsorted(steps, at), steps.size - 1)
        here = steps[index] == at
        found[here] = values[index[here]]
    return found


def guessing_level(facts: Facts, start: float) -> float:
    """The loss of a network that has learned nothing: its start, or that of guessing (the entropy of the classes, the
    variance of the targets) where that is known and lower."""
    return min([start, *facts.loss.known_guesses()])


def network_of(layer: str, labels: frozenset[str]) -> str:
    """The label a layer's name starts with, "" when the run has one network."""
    head = layer.split(".", 1)[0]
    return head if head in labels else ""


def is_network(layer: str) -> bool:
    """Whether a value belongs to a whole network."""
    return layer == NETWORK or layer.endswith(f".{NETWORK}")
