"""What is done to a draft: a fault that makes it sick, or a variant that is unusual and well."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from homeostat.clinic.draft import Draft, lines
from homeostat.diagnosis.condition import SYMPTOMS

Truth = Mapping[str, Any]
"""What a program printed of itself at its end."""

CLASSIFIERS = ("mlp", "cnn", "resnet", "encoder", "vit", "gru", "lstm")
PLAIN = ("mlp", "regressor", "cnn", "autoencoder")
"""Architectures whose hidden activations the program itself can look at."""
MODELS = (*CLASSIFIERS, "regressor", "causal-lm", "autoencoder", "vae", "contrastive")
"""Architectures with one model, one optimizer and a loss that should fall."""


@dataclass(frozen=True)
class Change:
    """A fault or a healthy variant.

    Args:
        name: of the change.
        archs: architectures it is made in.
        apply: changes the draft.
        names: conditions that name it, the best first; empty for a healthy variant.
        also: conditions that follow from it, which are no mistake of the diagnosis.
        shows: from what the program printed, whether the change did what it is named after. A program where it did
            not is counted apart.
        wish: what it asks of the architecture.
    """

    name: str
    archs: tuple[str, ...]
    apply: Callable[[Draft], None]
    names: tuple[str, ...] = ()
    also: tuple[str, ...] = (*SYMPTOMS, "loss-spikes")
    shows: Callable[[Truth], bool] = lambda truth: True
    wish: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sick(self) -> bool:
        return bool(self.names)


def progress(truth: Truth) -> float:
    """The last losses over the first ones, NaN when they are not finite."""
    first, last = truth.get("first"), truth.get("last")
    if first is None or last is None or not math.isfinite(first) or not math.isfinite(last) or first == 0:
        return math.nan
    return last / first


def stands(truth: Truth) -> bool:
    """The loss made little progress, or is no number."""
    return not progress(truth) < 0.9


def no_better(truth: Truth) -> bool:
    """The last losses are no better than the very first one, or no numbers."""
    return not truth["last"] < 0.9 * truth["begin"]


def learned(truth: Truth) -> bool:
    """The program reached what it should: its loss fell, or it reports a return, a radius or a spread that is good."""
    if "return" in truth:
        return truth["return"] > max(0.5, truth.get("began", 0.0) + 0.1)
    if "goes_right" in truth:
        return truth["goes_right"] > 0.7
    if "radius" in truth:
        return 1.3 < truth["radius"] < 2.7
    if "spread" in truth:
        return truth["spread"] > 0.5
    return progress(truth) < 0.9


def has_onset(truth: Truth) -> bool:
    """The program itself saw the fault."""
    return truth.get("onset") is not None


def note_onset(draft: Draft, value: str, sick: str, every: int = 20, also: str = "") -> None:
    """Let the program note the first step at which it sees the fault.

    It prints the step and what it saw last.

    Args:
        value: expression of what is looked at.
        sick: condition on `seen`.
        also: statements before it, without gradient.
    """
    draft.truth = lines(draft.truth, "onset = seen = None")
    inside = lines(also, f"seen = {value}", f"if onset is None and {sick}:", "    onset = step")
    body = "\n".join(f"        {line}" for line in inside.splitlines())
    draft.measure = lines(draft.measure, f"if step % {every} == 0:\n    with torch.no_grad():\n{body}")
    draft.printed.append("'onset': onset, 'seen': seen")


def from_start(draft: Draft) -> None:
    """The fault is there from the first step on."""
    draft.printed.append("'onset': 0")


def with_first_loss(draft: Draft) -> None:
    """Print the loss of the first step, for `no_better`."""
    draft.printed.append("'begin': losses[0]")


def after(draft: Draft, code: str) -> None:
    """Further statements after the update."""
    draft.after = lines(draft.after, code)


def adjust(draft: Draft, code: str) -> None:
    """Further statements on the new model."""
    draft.adjust = lines(draft.adjust, code)
