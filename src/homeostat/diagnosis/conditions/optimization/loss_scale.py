"""A loss scale that fell as far as it can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import SYMPTOMS, Condition, Sign
from homeostat.diagnosis.facts import Facts, ScaleFacts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.remedies import CLIP, LOWER_RATE
from homeostat.diagnosis.thresholds import limit


@dataclass(frozen=True, kw_only=True)
class LossScaleAtItsFloor(Condition):
    """The scale of a GradScaler keeps falling, or is so small that it no longer keeps gradients from underflow.

    A scaler halves its scale and leaves out the step whenever a gradient is not finite. A few such steps are its search
    for the scale. It is critical where nearly all recent steps were left out. The step of the finding counts the steps
    that were left out too.

    Settings:
        floor: scale at which it does nothing: the loss is not enlarged.
        fallen: factor by which the scale fell from its first value.
        share: part of the recent steps that were left out.
        most: the same for "critical".
        recent: fewest steps before it is judged.
    """

    name = "loss-scale-at-its-floor"
    cite = Cite.of("mixed-precision", "section 3.2")
    explains = SYMPTOMS
    explanation = (
        "Gradients overflow whatever the loss scale is, so the scaler halves it again and again and leaves the steps "
        "out. The cause is in the network or the loss: a value that is not finite, or one beyond the range of float16."
    )
    remedies = (
        Remedy("use bfloat16 without a GradScaler, or compute the layer that overflows in float32"),
        Remedy("look for a division, logarithm or root of zero in the loss, and for inputs that are not finite"),
        Remedy("call scaler.update() once a step, after all optimizers"),
        LOWER_RATE,
        CLIP,
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "every gradient overflows": Facts(
            steps=0,
            skipped_steps=40,
            loss_scaled=True,
            scale=ScaleFacts(steps=40, skipped=40, first=65536.0, now=6e-8, recent=32, recent_skipped=32),
        ),
        "a scale below one": Facts(
            steps=900,
            skipped_steps=40,
            loss_scaled=True,
            scale=ScaleFacts(steps=940, skipped=40, first=65536.0, now=0.25, recent=32, recent_skipped=2),
        ),
    }
    persistence: int = 1
    floor: float = limit(1.0, "policy: gradients are then no larger than without a scaler", ease=4.0, unit="factor")
    fallen: float = limit(256.0, "policy: a first scale of 65536 is found within a few halvings", ease=0.5)
    share: float = limit(
        0.5,
        "policy: a scaler that has found its scale leaves out one step in 2,000",
        ease=0.5,
        high=1.0,
        unit="of steps",
    )
    most: float = limit(0.9, "policy: next to nothing is trained", ease=0.8, high=1.0, unit="of steps")
    recent: float = limit(12, "policy: enough halvings to tell a fall from a search", unit="steps")

    def clock(self, history: History, facts: Facts) -> int:
        return facts.steps + max(facts.skipped_steps, facts.scale.skipped)

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        scale = facts.scale
        if scale.recent < self.recent or not scale.now < scale.first:
            return {}
        left_out = scale.recent_skipped / scale.recent
        low = scale.now <= self.floor
        falling = left_out >= self.share and scale.first >= self.fallen * scale.now
        if not (low or falling):
            return {}
        text = (
            f"the loss scale fell from {scale.first:g} to {scale.now:g}; "
            f"{scale.recent_skipped} of the last {scale.recent} steps were left out ({scale.skipped} in all)"
        )
        numbers = {
            "first": scale.first,
            "now": scale.now,
            "left_out": scale.skipped,
            "recent_share": round(left_out, 3),
        }
        return {NETWORK: Sign("critical" if falling and left_out >= self.most else "warning", text, numbers)}
