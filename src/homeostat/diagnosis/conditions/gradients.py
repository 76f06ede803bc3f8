"""Gradients that do not arrive, or that grow without bound."""

from __future__ import annotations

from dataclasses import dataclass

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import Condition, Sign, graded, limit
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.trends import median

_AUTOTRAINER = Cite(
    "Zhang, Zhai, Ma and Shen", 2021, "AUTOTRAINER: DNN Training Problem Detection and Repair", "", "ICSE"
)


def network_of(layer: str, labels: frozenset[str]) -> str:
    """The label a layer's name starts with, "" when the run has one network."""
    head = layer.split(".", 1)[0]
    return head if head in labels else ""


def is_network(layer: str) -> bool:
    """Whether a value belongs to a whole network."""
    return layer == NETWORK or layer.endswith(f".{NETWORK}")


@dataclass(frozen=True, kw_only=True)
class VanishingGradients(Condition):
    """A layer's gradient, relative to its weights, is vanishingly small beside that of the network's leading layer.

        s_l = median of the last 5 of ||g_l|| / ||w_l||,      s_l / max_k s_k <= limit

    All layers shrink together when a network converges, so only the comparison between layers counts.

    Settings:
        info, warning, critical: ratios at or below which each severity holds.
    """

    cite = _AUTOTRAINER
    reads = ("gradient-norm", "weight-norm")
    watch = "gradient-norm"
    worse = "lower"
    explanation = "The loss barely depends on these layers: gradients die on the way back, and plain SGD leaves them."
    info: float = limit("vanishing-gradients", "info", high=1.0, unit="of the leading layer")
    warning: float = limit("vanishing-gradients", "warning", high=1.0, unit="of the leading layer")
    critical: float = limit("vanishing-gradients", "critical", high=1.0, unit="of the leading layer")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        sizes = _relative_gradients(history)
        labels = frozenset(o.network for o in facts.optimizers if o.network)
        found = {}
        for layer, size in sizes.items():
            group = {k: s for k, s in sizes.items() if network_of(k, labels) == network_of(layer, labels)}
            lead = max(group, key=lambda k: group[k])
            ratio = size / group[lead] if group[lead] > 0 else 1.0
            if (severity := graded(ratio, self.limits(), "lower")) is not None:
                text = f"the gradient of {layer} is {ratio:.1e} of that of {lead}, both relative to their weights"
                found[layer] = Sign(severity, text, {"ratio": ratio, "leading_layer": lead})
        return found


def _relative_gradients(history: History) -> dict[str, float]:
    sizes = {}
    for layer in history.layers("gradient-norm"):
        gradient, weight = (median(history.recent(v, layer, 5)) for v in ("gradient-norm", "weight-norm"))
        if not is_network(layer) and weight > 0 and gradient >= 0:
            sizes[layer] = gradient / weight
    return sizes


@dataclass(frozen=True, kw_only=True)
class ExplodingGradients(Condition):
    """Gradients have grown far beyond what they were, while the loss has not come down.

        growth = median of the last 3 / median of the first 10 gradient norms >= limit,   and   loss now >= its start

    A gradient that grows while the loss falls is ordinary (sharpening); one spike is not persistent.

    Settings:
        info, warning, critical: growth factors from which on each severity holds.
    """

    cite = _AUTOTRAINER
    reads = ("gradient-norm", "loss")
    watch = "gradient-norm"
    explanation = "Updates overshoot: every step makes the next gradient larger. The loss usually overflows soon after."
    info: float = limit("exploding-gradients", "info", low=1.0, unit="times its start")
    warning: float = limit("exploding-gradients", "warning", low=1.0, unit="times its start")
    critical: float = limit("exploding-gradients", "critical", low=1.0, unit="times its start")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        if any(_fell(history, layer) for layer in history.layers("loss")):
            return {}
        found = {}
        for layer in history.layers("gradient-norm"):
            values = history.series("gradient-norm", layer)[1]
            start = median(values[: min(10, values.size // 2)])
            growth = median(values[-3:]) / start if start > 0 else 0.0
            if (severity := graded(growth, self.limits())) is not None:
                text = (
                    f"the gradient of {layer} is {growth:.3g} times what it was at the start, and the loss is no lower"
                )
                found[layer] = Sign(severity, text, {"growth": growth, "at_start": start})
        return found


def _fell(history: History, layer: str) -> bool:
    values = history.series("loss", layer)[1]
    return values.size >= 2 and median(values[-3:]) < median(values[: min(10, values.size // 2)])
