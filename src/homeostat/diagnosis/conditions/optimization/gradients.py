"""Gradients that vanish, or that grow without bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import Condition, Sign, graded
from homeostat.diagnosis.conditions.optimization.loss import judged_losses, learns_between_jumps
from homeostat.diagnosis.example_histories import LAYERS, ExampleHistory, Point
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.remedies import CLIP, LAYER_NORM, LOWER_RATE, SCALED_INIT
from homeostat.diagnosis.sources import AUTOTRAINER
from homeostat.diagnosis.steps import guessing_level, is_network, measured_steps, network_of
from homeostat.diagnosis.thresholds import EARLY_NOTICE, limit, measured
from homeostat.diagnosis.trends import median

ENORMOUS = 1e3
"""Smallest sum over layers of ||g|| ||w|| / loss that counts as far too large at the start of a run."""
FEWEST = 6
"""Fewest readings of a gradient whose growth is judged."""


def _vanishing(t: float, ill: float) -> list[Point]:
    return [("gradient-norm", "fc.1", 0.5 * math.exp(-2 * t) * 10 ** (-12 * ill))]


def _exploding(t: float, ill: float) -> list[Point]:
    grown = [("gradient-norm", layer, 0.5 * 10 ** (6 * ill * t)) for layer in LAYERS]
    return [*grown, ("loss", NETWORK, 2.0 + ill * t)]


@dataclass(frozen=True, kw_only=True)
class VanishingGradients(Condition):
    """A layer's gradient, relative to its weights, is vanishingly small compared with the network's leading layer.

        s_l = median of the last 5 of ||g_l|| / ||w_l||,      s_l / max_k s_k <= limit

    The gradients of all layers shrink when a network converges, so only the comparison between layers counts. If the
    order of the layers is known, k runs over the layers that the gradient of l comes through (so an actor is not
    compared with a critic), and s_l is the largest of l and the layers whose gradient comes through l. A gradient that
    reaches the inputs has not vanished in a side branch, such as the queries and keys of attention.

    The gradient of all layers together has vanished if sum_l ||g_l|| ||w_l|| / loss <= least while the loss is at the
    level of guessing.

    Settings:
        info, warning, critical: largest ratio of each severity.
        least: as above.
    """

    cite = AUTOTRAINER
    reads = ("gradient-norm", "weight-norm")
    outcome = "gradient-norm"
    worse = "lower"
    remedies = (
        Remedy("use a non-saturating nonlinearity, or add skip connections or normalisation"),
        LAYER_NORM,
        SCALED_INIT,
    )
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"vanishing gradients": _vanishing}
    explanation = "The loss barely depends on these layers: gradients die on the way back, and plain SGD leaves them."
    info: float = limit(
        0.001,
        "AutoTrainer's ratio of vanishing gradients (Zhang et al. 2021)",
        ease=2,
        high=1.0,
        unit="of the leading layer",
    )
    warning: float = measured([10.0**-k for k in np.arange(3, 8.1, 0.5)], ease=3, high=1.0, unit="of the leading layer")
    critical: float = limit(
        1e-06,
        "policy: below the rounding of float32 against the weights",
        ease=3,
        high=1.0,
        unit="of the leading layer",
    )

    least: float = limit(1e-5, "policy: healthy runs start with 0.3 to 100", ease=3, high=1.0, unit="of the loss")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        sizes = _relative_gradients(history)
        labels = frozenset(o.network for o in facts.optimizers if o.network)
        found = self._of_networks(history, facts)
        for layer, size in sizes.items():
            after = facts.loss.after
            if layer in after:
                group = {k: s for k, s in sizes.items() if k in after[layer]} | {layer: size}
                size = max([size, *(s for k, s in sizes.items() if layer in after.get(k, ()))])
            else:
                group = {k: s for k, s in sizes.items() if network_of(k, labels) == network_of(layer, labels)}
            lead = max(group, key=lambda k: group[k])
            ratio = size / group[lead] if group[lead] > 0 else 1.0
            if (severity := graded(ratio, self.limits(), "lower")) is not None:
                text = f"the gradient of {layer} is {ratio:.1e} of that of {lead}, both relative to their weights"
                found[layer] = Sign(severity, text, {"ratio": ratio, "leading_layer": lead})
        return found

    def _of_networks(self, history: History, facts: Facts) -> dict[str, Sign]:
        """Networks with almost no gradient, whose loss is at a known level of guessing."""
        found: dict[str, Sign] = {}
        known = facts.loss.known_guesses()
        if facts.loss.outputs.spread == 0:  # behind outputs that are constant, as after a last rectifier
            return found
        for name, steps in measured_steps(history, judged_losses(history, facts), facts).items():
            pull, now = median(steps.pull[-5:]), median(steps.loss[-5:])
            if known and steps.at.size >= 5 and pull <= self.least and now >= 0.95 * min(known):
                text = f"the gradients are {pull:.1e} of the loss for a change of the weights by their norm"
                found[name] = Sign("warning", f"{text}, and the loss is {now:.3g}", {"pull": pull, "now": now})
        return found


def _relative_gradients(history: History) -> dict[str, float]:
    sizes: dict[str, float] = {}
    for layer in history.layers("gradient-norm"):
        gradient, weight = (median(history.recent(v, layer, 5)) for v in ("gradient-norm", "weight-norm"))
        if not is_network(layer) and weight > 0 and gradient >= 0:
            sizes[layer] = gradient / weight
    return sizes


@dataclass(frozen=True, kw_only=True)
class ExplodingGradients(Condition):
    """Gradients have grown far beyond their initial size, while the loss has not fallen.

        growth = median of the last 3 / median of the first 10 gradient norms >= limit,   and   loss now >= its start

    A gradient that grows while the loss falls is normal (sharpening), and one spike does not persist.

    The start of a layer is at least a tenth of the largest start in its network, because a tiny gradient may grow a
    hundredfold and still be small, as behind a last layer that starts near zero.

    Gradients that are enormous from the first step on are found by their size relative to the weights and the loss,

        sum_l ||g_l|| ||w_l|| / (loss of guessing, or its start) >= size   at the first and the last readings,

    which does not depend on the scale of the loss, nor on the scale of weights before a normalisation.

    Settings:
        info, warning, critical: smallest growth factor of each severity.
        size: as above.
    """

    cite = AUTOTRAINER
    reads = ("gradient-norm", "loss", "weight-norm")
    outcome = "gradient-norm"
    explains = (
        "non-finite",
        "loss-scale-at-its-floor",
        "saturated-units",
        "dormant-units",
        "stalled-learning",
        "oscillating-loss",
        "diverging-loss",
    )
    remedies = (LOWER_RATE, CLIP, SCALED_INIT)
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"exploding gradients": _exploding}
    explanation = (
        "Every step makes the next gradient larger, or every layer (or time step) on the way back does. Updates "
        "overshoot, and the loss usually overflows soon after."
    )
    info: float = limit(8, EARLY_NOTICE, ease=0.6, low=1.0, unit="times its start")
    warning: float = measured([10.0**k for k in np.arange(1, 4.1, 0.25)], ease=0.5, low=1.0, unit="times its start")
    critical: float = limit(1000, "policy: a thousandfold", ease=0.6, low=1.0, unit="times its start")
    size: float = limit(ENORMOUS, "policy: healthy runs start with 0.3 to 100", ease=0.6, unit="of the loss")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        found = self._from_the_start(history, facts)
        if any(_fell(history, facts, layer) for layer in history.layers("loss")):
            return found
        series = {layer: history.series("gradient-norm", layer)[1] for layer in history.layers("gradient-norm")}
        series = {layer: values for layer, values in series.items() if values.size >= FEWEST}
        starts = {layer: median(values[: min(10, values.size // 2)]) for layer, values in series.items()}
        labels = frozenset(o.network for o in facts.optimizers if o.network)
        for layer, values in series.items():
            group = [s for k, s in starts.items() if network_of(k, labels) == network_of(layer, labels)]
            start = max(starts[layer], 0.1 * max(group))
            growth = median(values[-3:]) / start if start > 0 else 0.0
            if (severity := graded(growth, self.limits())) is not None:
                text = (
                    f"the gradient of {layer} is {growth:.3g} times what it was at the start, and the loss is no lower"
                )
                found[layer] = Sign(severity, text, {"growth": growth, "at_start": start})
        return found

    def _from_the_start(self, history: History, facts: Facts) -> dict[str, Sign]:
        """Networks whose gradients have been enormous since the first step."""
        found: dict[str, Sign] = {}
        for name, steps in measured_steps(history, judged_losses(history, facts), facts).items():
            level = guessing_level(facts, float(steps.loss[0]))
            sizes = steps.pull * np.abs(steps.loss) / max(level, 1e-30)
            first, now = median(sizes[:3]), median(sizes[-3:])
            if min(first, now) >= self.size and median(steps.loss[-3:]) >= 0.7 * level:
                text = f"gradients times weights are {now:.2g} times the loss of a network that guesses ({level:.3g})"
                found[name] = Sign("warning", f"{text}, and were {first:.2g} times at the start", {"now": now})
        return found


def _fell(history: History, facts: Facts, layer: str) -> bool:
    """Whether the loss has fallen: below its first readings; far below the very first one, if the others are of a
    network that had learned; or before each of its jumps."""
    values = history.series("loss", layer)[1]
    if values.size < 2:
        return False
    now = median(values[-3:])
    if learns_between_jumps(layer, float(values[0]), facts):
        return True
    return now < median(values[: min(10, values.size // 2)]) or 0 <= now < 0.1 * values[0]
