"""Changes of a draft: faults, and healthy variants that are unusual."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from homeostat.clinic.draft import Draft, lines
from homeostat.diagnosis.condition import SYMPTOMS

Truth = Mapping[str, Any]
"""The dictionary that a program prints at its end."""

CLASSIFIERS = ("mlp", "cnn", "resnet", "encoder", "vit", "gru", "lstm")
PLAIN = ("mlp", "regressor", "cnn", "autoencoder")
"""Architectures whose hidden activations the program can compute."""
MODELS = (*CLASSIFIERS, "regressor", "causal-lm", "autoencoder", "vae", "contrastive")
"""Architectures with one model, one optimizer and a loss that should fall."""


@dataclass(frozen=True)
class Change:
    """A fault or a healthy variant.

    Args:
        name: name of the change.
        archs: architectures to which it applies.
        apply: changes the draft.
        names: conditions that name the fault, best first; empty for a healthy variant.
        also: conditions that follow from it, which are no mistake of the diagnosis.
        shows: whether the change took effect, from what the program printed. Programs without effect are counted
            separately.
        wish: requirements on the architecture.
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
    """The last losses relative to the first ones, NaN if they are not finite."""
    first, last = truth.get("first"), truth.get("last")
    if first is None or last is None or not math.isfinite(first) or not math.isfinite(last) or first == 0:
        return math.nan
    return last / first


def stands(truth: Truth) -> bool:
    """Whether the loss made little progress or is not finite."""
    return not progress(truth) < 0.9


def no_better(truth: Truth) -> bool:
    """Whether the last losses are no better than the very first one, or not finite."""
    return not truth["last"] < 0.9 * truth["begin"]


def learned(truth: Truth) -> bool:
    """Whether the program learned: its loss fell, or it reports a good return, radius or spread."""
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
    """Whether the program itself detected the fault."""
    return truth.get("onset") is not None


def note_onset(draft: Draft, value: str, sick: str, every: int = 20, also: str = "") -> None:
    """Let the program print the first step at which it detects the fault, and the last value.

    Args:
        value: expression of the measured value.
        sick: condition on `seen`, the measured value.
        also: statements before it, without gradients.
    """
    draft.truth = lines(draft.truth, "onset = seen = None")
    inside = lines(also, f"seen = {value}", f"if onset is None and {sick}:", "    onset = step")
    body = "\n".join(f"        {line}" for line in inside.splitlines())
    draft.measure = lines(draft.measure, f"if step % {every} == 0:\n    with torch.no_grad():\n{body}")
    draft.printed.append("'onset': onset, 'seen': seen")


def from_start(draft: Draft) -> None:
    """The fault is present from the first step on."""
    draft.printed.append("'onset': 0")


def with_first_loss(draft: Draft) -> None:
    """Print the loss of the first step, for `no_better`."""
    draft.printed.append("'begin': losses[0]")


def after(draft: Draft, code: str) -> None:
    """Add statements after the update."""
    draft.after = lines(draft.after, code)


def adjust(draft: Draft, code: str) -> None:
    """Add statements on the new model."""
    draft.adjust = lines(draft.adjust, code)
