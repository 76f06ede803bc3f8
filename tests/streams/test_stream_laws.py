"""Every stream obeys the laws, on settings that are small and nasty."""

import dataclasses

import pytest
import torch

from homeostat.core.component import components
from homeostat.streams import (
    ClassIncremental,
    PermutedLabels,
    PermutedPixels,
    RandomLabels,
    SlowlyChangingRegression,
    arrays,
)
from homeostat.testing.stream_laws import laws_for_stream

TWO_CLASSES = arrays(torch.rand(7, 1, 3, generator=torch.Generator().manual_seed(0)), [0, 1, 1, 0, 1, 0, 0])
STREAMS = [
    PermutedPixels(tasks=4),
    PermutedPixels(tasks=3, batch_size=100, items=50, epochs=2),
    PermutedPixels(data=TWO_CLASSES, tasks=5, batch_size=3),
    PermutedPixels(tasks=3, gradual=0.7, items=200),
    PermutedLabels(tasks=4, seed=3),
    PermutedLabels(data=TWO_CLASSES, tasks=5, batch_size=1),
    PermutedLabels(tasks=3, gradual=1.0, items=200),
    RandomLabels(tasks=4, items=100, epochs=2),
    ClassIncremental(epochs=2),
    ClassIncremental(cumulative=True, per_task=3, shuffle=False),
    SlowlyChangingRegression(flips=12, flip_every=5),
    SlowlyChangingRegression(flips=3, flip_every=1, batch_size=1, bits=4, slow=4),
]
LAWS = [(stream, name, law) for stream in STREAMS for name, law in laws_for_stream(stream)]


@pytest.mark.parametrize(("stream", "name", "law"), LAWS, ids=[f"{s.name}-{n}" for s, n, _ in LAWS])
def test_law(stream, name, law):
    law()


def test_every_registered_stream_is_checked():
    assert set(components("stream")) == {stream.name for stream in STREAMS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bad(SlowlyChangingRegression, abstract=True):
    """A stream that breaks laws, to see that the checks can fail."""

    fault: str = "none"

    @property
    def boundaries(self):
        return (3, 7) if self.fault == "boundaries" else super().boundaries

    def batch(self, step):
        inputs, targets = super().batch(abs(step) % len(self) if self.fault == "outside" else step)
        if self.fault == "global":
            targets = targets + torch.rand(1)
        if self.fault == "nan":
            targets = targets / 0 * 0
        return (inputs, targets[:-1]) if self.fault == "pairs" else (inputs, targets)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("boundaries", "boundaries true"),
        ("outside", "refuses steps outside"),
        ("global", "pure"),
        ("nan", "finite"),
        ("pairs", "finite"),
    ],
)
def test_a_broken_stream_is_caught(fault, law):
    broken = _Bad(flips=3, flip_every=5, fault=fault)
    with pytest.raises(AssertionError):
        dict(laws_for_stream(broken))[law]()
    dict(laws_for_stream(_Bad(flips=3, flip_every=5)))[law]()
