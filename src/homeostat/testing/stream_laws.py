"""The laws of a stream."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pickle

import torch
from torch import Tensor

from homeostat.core.errors import BadInput
from homeostat.core.stream import Stream
from homeostat.testing import common_laws as facts
from homeostat.testing.binding import Check, bound, statements
from homeostat.testing.law import DoesNotApply, Law


def laws_for(stream: Stream, thorough: bool = False) -> list[Law]:
    """Every law that a stream must satisfy.

    Args:
        stream: an instance with at least two batches; small settings keep the checks quick.
        thorough: has no effect.
    """
    return bound(TABLE, lambda: stream)


def laws_of_kind() -> dict[str, str]:
    """Name -> statement of every law of a stream."""
    return statements(TABLE)


def _length(stream: Stream) -> None:
    """It has batches, and its boundaries increase strictly within its length."""
    assert len(stream) > 0, f"{stream.name} has no batches"
    rising = (0, *stream.boundaries, len(stream))
    assert all(a < b for a, b in itertools.pairwise(rising)), "boundaries do not increase strictly within its length"


def _same_seed(stream: Stream) -> None:
    """A stream recreated from its settings, or unpickled in another process, gives the same batches in any order."""
    steps = _some_steps(stream)
    first = {step: stream.batch(step) for step in steps}
    for twin in (dataclasses.replace(stream), pickle.loads(pickle.dumps(stream))):
        for step in reversed(steps):
            assert _equal(first[step], twin.batch(step)), f"batch {step} differs between two streams of the same seed"


def _other_seed(stream: Stream) -> None:
    """Another seed gives different data."""
    other = dataclasses.replace(stream, seed=stream.seed + 1)
    same = all(_equal(stream.batch(step), other.batch(step)) for step in _some_steps(stream))
    assert not same, f"seeds {stream.seed} and {stream.seed + 1} give the same data"


def _resumable(stream: Stream) -> None:
    """Iterating from any step gives the same batches as iterating from the start."""
    for start in _some_steps(stream):
        for step, batch in zip(range(start, start + 3), stream.starting_at(start), strict=False):
            assert _equal(batch, stream.batch(step)), f"resumed at {start}, batch {step} differs"
    assert sum(1 for _ in stream.starting_at(len(stream) - 1)) == 1, "it does not end after its last step"


def _any_workers(stream: Stream) -> None:
    """Divided among 1, 2 or 3 workers, each with its own copy and random state, the data are the same."""
    steps = range(min(12, len(stream)))
    alone = [stream.batch(step) for step in steps]
    for count in (1, 2, 3):
        for worker in range(count):
            copy = pickle.loads(pickle.dumps(stream))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1000 * count + worker)
                same = all(_equal(copy.batch(step), alone[step]) for step in steps[worker::count])
            assert same, f"worker {worker} of {count} gets different data than a run without workers"


def _pure(stream: Stream) -> None:
    """It uses no global randomness, and changes to a batch do not change the stream."""
    step = _some_steps(stream)[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        inputs, targets = stream.batch(step)
        assert torch.equal(before, torch.get_rng_state()), "a batch moves torch's global random state"
        kept = inputs.clone(), targets.clone()
        for tensor in (inputs, targets):
            tensor.zero_()
        torch.manual_seed(2)
        again = stream.batch(step)
    assert _equal(kept, again), "a batch depends on global state, or on changes to an earlier batch"


def _boundaries(stream: Stream) -> None:
    """The concept is constant between two boundaries and changes at each boundary; `task` counts them."""
    if not stream.boundaries:
        raise DoesNotApply("it changes gradually or never, so it has no boundaries to check")
    edges = (0, *stream.boundaries, len(stream))
    for task, (first, end) in enumerate(itertools.pairwise(edges)):
        assert stream.task(first) == stream.task(end - 1) == task, f"task() is wrong in steps {first} to {end - 1}"
        for step in {(first + end) // 2, end - 1}:
            assert torch.equal(stream.concept(first), stream.concept(step)), f"changes within task {task}, by {step}"
        if end < len(stream):
            before, after = stream.concept(end - 1), stream.concept(end)
            differs = before.shape != after.shape or not torch.equal(before, after)
            assert differs, f"{end} is a boundary, but nothing changes there"


def _finite(stream: Stream) -> None:
    """Every batch has as many inputs as targets, between one and `batch_size`, all of them finite."""
    for step in _some_steps(stream):
        inputs, targets = stream.batch(step)
        assert len(inputs) == len(targets) > 0, f"batch {step} has {len(inputs)} inputs and {len(targets)} targets"
        assert len(inputs) <= stream.batch_size, f"batch {step} has more than batch_size items"
        finite = all(torch.isfinite(t.to(torch.float64)).all() for t in (inputs, targets))
        assert finite, f"batch {step} has NaN or infinite values"


def _outside(stream: Stream) -> None:
    """A step before the first or after the last raises BadInput."""
    for step in (-1, len(stream)):
        try:
            stream.batch(step)
        except BadInput:
            continue
        raise AssertionError(f"batch({step}) is outside 0..{len(stream) - 1} and must raise BadInput")


def _some_steps(stream: Stream) -> list[int]:
    """The first and last steps, both sides of a few boundaries, and a few steps in between."""
    n, edges = len(stream), stream.boundaries[:2]
    around = {0, n - 1, math.isqrt(n), n // 2} | {step for edge in edges for step in (edge - 1, edge)}
    return sorted(step for step in around if 0 <= step < n)


def _equal(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


TABLE: dict[str, Check] = {
    **facts.COMMON,
    "length and boundaries": _length,
    "same seed, same data": _same_seed,
    "another seed, other data": _other_seed,
    "any number of workers": _any_workers,
    "resumable": _resumable,
    "pure": _pure,
    "boundaries true": _boundaries,
    "finite": _finite,
    "refuses steps outside": _outside,
}
"""Every law of a stream."""
