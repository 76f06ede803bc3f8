"""Attention that attends to one key only, and attention logits that grow without bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.cite import Cite
from homeostat.core.finding import Severity
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import SYMPTOMS, Condition, Sign
from homeostat.diagnosis.conditions.optimization.loss import judged_losses
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.loss_facts import AttentionFacts, LossFacts
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.remedies import CLIP, LOWER_RATE
from homeostat.diagnosis.steps import guessing_level
from homeostat.diagnosis.thresholds import limit
from homeostat.diagnosis.trends import median

_QK_NORM = Remedy("normalise queries and keys (layer norm, QK-norm) before their product")


def learns(history: History, facts: Facts, progress: float) -> bool | None:
    """Whether some loss has fallen below this share of its start or of guessing; None if no loss can be judged."""
    losses = judged_losses(history, facts)
    if not losses:
        return None
    return any(median(v[-5:]) < progress * guessing_level(facts, float(v[0])) for _, v in losses.values())


@dataclass(frozen=True, kw_only=True)
class AttentionEntropyCollapse(Condition):
    """The attention of a layer attends to one key per query, and the loss is no better than guessing.

        mean over heads and queries of H(weights) / ln(keys that may be seen) <= entropy

    Trained heads may be sharp, so a low entropy alone is info. It is a warning if the entropy was low at the first step
    (below `first`), before anything was learned, or if the loss stays at its start.

    Settings:
        entropy, first: as above.
        progress: share of the start (or of guessing) below which a loss counts as learning.
        readings: number of losses before it is judged.
    """

    cite = Cite(
        "Zhai et al.", 2023, "Stabilizing Transformer Training by Preventing Attention Entropy Collapse", "2303.06296"
    )
    explains = tuple(name for name in SYMPTOMS if not name.startswith(("learning-rate", "attention")))
    explanation = (
        "Every query attends to a single key, whatever the input: the softmax is saturated, no gradient reaches "
        "queries and keys, and training is unstable or stands."
    )
    remedies = (
        Remedy("divide the logits by the square root of the head's width"),
        _QK_NORM,
        Remedy("warm the learning rate up, or lower it"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "attention to one key from the start": Facts(
            steps=500,
            loss=LossFacts(readings=40, attention=AttentionFacts(readings=40, entropy=0.01, first_entropy=0.02)),
        ),
    }
    persistence: int = 1
    entropy: float = limit(
        0.05, "policy: layers of healthy networks have 0.03 to 1, of new ones 0.9", ease=1.5, high=1.0
    )
    first: float = limit(0.1, "policy: layers of new networks have 0.9", ease=1.2, high=1.0)
    progress: float = limit(0.9, "policy: a run that learns has left this level behind", high=1.0, unit="of the start")
    readings: float = limit(12, "policy: the first steps of a network tell little", unit="readings")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        attention = facts.loss.attention
        if attention.readings < self.readings:
            return {}
        born = attention.first_entropy <= self.first and not self._trained(history, facts)
        if not attention.entropy <= (self.first if born else self.entropy):
            return {}
        severity: Severity = "warning" if born or learns(history, facts, self.progress) is False else "info"
        text = f"the attention of a layer has {attention.entropy:.2g} of the entropy of equal weights"
        text += f" (at the first step {attention.first_entropy:.2g})"
        return {NETWORK: Sign(severity, text, {"entropy": attention.entropy})}

    @staticmethod
    def _trained(history: History, facts: Facts) -> bool:
        """Whether the network was trained before: its first loss is well below guessing."""
        starts = [float(v[0]) for _, v in judged_losses(history, facts).values()]
        chance = facts.loss.labels.chance
        return facts.resumed or (chance > 0 and any(s < 0.8 * chance for s in starts))


@dataclass(frozen=True, kw_only=True)
class AttentionLogitGrowth(Condition):
    """Attention logits have grown so far that their softmax is saturated for nearly every query.

        mean over queries of (largest - smallest logit) >= spread,   and   >= growth times that of the first step

    It is a warning if the loss is no better than guessing, or if the spread is `far` times that of the first step.

    Settings:
        spread, growth, far: as above.
        progress: share of the start (or of guessing) below which a loss counts as learning.
        readings: number of losses before it is judged.
    """

    cite = Cite("Dehghani et al.", 2023, "Scaling Vision Transformers to 22 Billion Parameters", "2302.05442")
    explains = (
        "attention-entropy-collapse",
        *(name for name in SYMPTOMS if not name.startswith(("learning-rate", "attention"))),
    )
    explanation = (
        "Queries and keys grow with training until their products differ by a hundred and more: attention weights are "
        "zero or one, and the loss diverges or stands."
    )
    remedies = (_QK_NORM, LOWER_RATE, CLIP, Remedy("decay the weights of queries and keys"))
    faults: ClassVar[Mapping[str, Facts]] = {
        "logits of thousands": Facts(
            steps=500,
            loss=LossFacts(readings=40, attention=AttentionFacts(readings=40, spread=5e3, first_spread=1.5)),
        ),
    }
    persistence: int = 1
    spread: float = limit(90, "policy: weights below 1e-39; healthy networks have 1 to 60", ease=0.8, unit="nats")
    growth: float = limit(5, "policy: queries and keys both twice as large", ease=0.8, low=1.0, unit="times the first")
    far: float = limit(20, "policy: healthy networks grow ten- to sixtyfold, to spreads below 60", ease=0.8, low=1.0)
    progress: float = limit(0.9, "policy: a run that learns has left this level behind", high=1.0, unit="of the start")
    readings: float = limit(12, "policy: the first steps of a network tell little", unit="readings")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        attention = facts.loss.attention
        now, first = attention.spread, attention.first_spread
        if attention.readings < self.readings or not now >= max(self.spread, self.growth * first):
            return {}
        severity: Severity = "info"
        if now >= self.far * first or learns(history, facts, self.progress) is False:
            severity = "warning"
        text = f"the logits of a query differ by {now:.3g} (at the first step {first:.3g})"
        numbers = {"spread": now if math.isfinite(now) else None, "first": first}
        return {NETWORK: Sign(severity, text, numbers)}
