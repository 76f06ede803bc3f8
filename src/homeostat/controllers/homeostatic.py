"""A learner that decides which items to learn from. The items it accepts change its learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from homeostat.controllers import laws
from homeostat.controllers.controllers import LimitedController
from homeostat.core.component import Cite, knob
from homeostat.core.treatment import State


def valence(label: Tensor, classes: int) -> Tensor:
    """Effect of an item on the learning rate: +1 for the upper half of the classes, -1 for the lower half.

    Args:
        label: [*], class numbers.

    Source: the authors' code (digits 5 to 9 raise the learning rate, 0 to 4 lower it).
    """
    return (label >= classes // 2).double() * 2 - 1


def taken_in(kept: Tensor, changed: Tensor, targets: Tensor, effect: Tensor) -> Tensor:
    """Effect of an offered item on the learning rate: its true effect if the learner accepts it, else 0.

        effect * 1[accuracy(changed) > accuracy(kept)]

    The learner tries two updates on a copy and compares their accuracy on remembered items: one with the current
    learning rate, one with the rate changed in the direction of the item's *predicted* effect. It accepts the item if
    the second is better. Then the rate changes by the item's *true* effect, so a wrong prediction changes it in the
    wrong direction.

    Args:
        kept, changed: [*R, M, C], outputs on the remembered items after the two updates.
        targets: [*R, M], their labels.
        effect: [*R], true effect of the offered item.

    Returns:
        [*R], -1, 0 or 1.

    Source: Man, Damasio and Neven (2022), arXiv:2205.08645, and the authors' code.
    """
    before, after = ((outputs.argmax(-1) == targets).sum(-1) for outputs in (kept, changed))
    return effect * (after > before).to(effect.dtype)


@dataclass(frozen=True, kw_only=True)
class Homeostatic(LimitedController):
    """knob <- knob + bite * effect, with the effect of the accepted item (`taken_in`): -1, 0 or 1.

    Sets the learning rate of a learner that decides which items to learn from. A gauge supplies the effect.

    Settings:
        bite: change of the knob per item; the authors use a tenth of the initial rate.
        low, high: the authors' rate stays above 0 (1e-8) and has no upper limit.

    >>> learner = Homeostatic()
    >>> learner.step(torch.tensor(1.0), learner.init(torch.tensor(0.001, dtype=torch.float64)))[0].item()
    0.0011
    """

    cite = Cite.of("homeostatic-nn")
    low: float = knob(1e-8, low=0.0, unit="unit of the knob", source="the authors' code")
    high: float = knob(0.01, low=0.0, unit="unit of the knob", source="our choice: ten times the authors' start")
    bite: float = knob(1e-4, low=0.0, neutral=0.0, unit="unit of the knob per item", source="the authors' code")

    def law(self, error: Tensor, state: State, settings: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        return laws.dual_ascent(error, state, {**settings, "rate": settings["bite"]})
