"""Every stream obeys the laws, on settings that are small and nasty."""

import pytest
import torch

from homeostat.core.component import components
from homeostat.streams import (
    ClassIncremental,
    LabelSwaps,
    PermutedLabels,
    PermutedPixels,
    PowerLawRecurrence,
    RandomLabels,
    SlowlyChangingRegression,
    arrays,
)
from homeostat.testing.check import check_component

TWO_CLASSES = arrays(torch.rand(7, 1, 3, generator=torch.Generator().manual_seed(0)), [0, 1, 1, 0, 1, 0, 0])
STREAMS = [
    PermutedPixels(tasks=4),
    PermutedPixels(tasks=3, batch_size=100, items=50, epochs=2),
    PermutedPixels(data=TWO_CLASSES, tasks=5, batch_size=3),
    PermutedPixels(tasks=3, gradual=0.7, items=200),
    PermutedLabels(tasks=4, seed=3),
    PermutedLabels(data=TWO_CLASSES, tasks=5, batch_size=1),
    PermutedLabels(tasks=3, gradual=1.0, items=200),
    LabelSwaps(steps=400, period=40, other=15, season=90),
    LabelSwaps(data=TWO_CLASSES, steps=20, period=3, batch_size=2),
    PowerLawRecurrence(tasks=4, rate=0.8),
    PowerLawRecurrence(data=TWO_CLASSES, tasks=5, batch_size=2, rate=1.0, exponent=2.0, profile="exponential"),
    RandomLabels(tasks=4, items=100, epochs=2),
    ClassIncremental(epochs=2),
    ClassIncremental(cumulative=True, per_task=3, shuffle=False),
    SlowlyChangingRegression(flips=12, flip_every=5),
    SlowlyChangingRegression(flips=3, flip_every=1, batch_size=1, bits=4, slow=4),
]


@pytest.mark.parametrize("stream", STREAMS, ids=lambda s: s.name)
def test_laws(stream):
    report = check_component(stream)
    assert report.ok, str(report)


def test_every_registered_stream_is_checked():
    assert set(components("stream")) == {stream.name for stream in STREAMS}
