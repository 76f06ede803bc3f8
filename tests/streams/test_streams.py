"""What each stream shows, against slow and obvious restatements."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from homeostat.core.component import build
from homeostat.core.errors import BadInput, BadSetting, UnknownName
from homeostat.streams import (
    ClassIncremental,
    PermutedLabels,
    PermutedPixels,
    RandomLabels,
    SlowlyChangingRegression,
    arrays,
    digits,
)
from homeostat.streams.tasks import permutation

PLAIN = arrays(torch.arange(24.0).reshape(12, 2), [0, 1, 2] * 4)


def test_a_pass_shows_every_item_once_and_passes_differ():
    stream = PermutedLabels(data=PLAIN, tasks=2, epochs=2, batch_size=5)
    firsts = [torch.cat([stream.batch(s)[0][:, 0] for s in range(k, k + 3)]) for k in (0, 3, 6, 9)]
    assert all(torch.equal(seen.sort().values, PLAIN.inputs[:, 0]) for seen in firsts)
    assert not torch.equal(firsts[0], firsts[1])
    assert len(stream) == 12 and stream.boundaries == (6,)


@pytest.mark.oracle("permuted-labels")
def test_permuted_labels_are_the_old_ones_renamed():
    stream = PermutedLabels(tasks=3, batch_size=64)
    by_image = {tuple(x.tolist()): int(y) for x, y in zip(digits().inputs, digits().labels, strict=True)}
    for step in (0, stream.boundaries[0], len(stream) - 1):
        renamed = stream.concept(step)
        assert sorted(renamed.tolist()) == list(range(10))
        for image, label in zip(*stream.batch(step), strict=True):
            assert label == renamed[by_image[tuple(image.tolist())]]
    assert stream.concept(0).tolist() == list(range(10))


@pytest.mark.oracle("permuted-pixels")
def test_permuted_pixels_move_pixels_and_keep_labels():
    stream = PermutedPixels(data=PLAIN, tasks=2, batch_size=12)
    images, labels = stream.batch(1)
    assert stream.concept(1).tolist() == [1, 0]
    assert torch.equal(images[:, 1] + 1, images[:, 0])
    assert torch.equal(labels, (images[:, 1] / 2).long() % 3)


def test_shape_of_images_is_kept():
    stream = PermutedPixels(data=arrays(torch.rand(4, 1, 3, 5), [0, 1, 0, 1]), tasks=2, batch_size=3)
    assert stream.batch(3)[0].shape == (1, 1, 3, 5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 12))
def test_neighbouring_tasks_never_share_a_permutation(seed, task, size):
    here, before = permutation(seed, ("x",), task, size), permutation(seed, ("x",), task - 1, size)
    assert sorted(here.tolist()) == list(range(size))
    assert not torch.equal(here, before)


def test_gradual_items_move_once_and_ever_more_have_moved():
    stream = PermutedLabels(tasks=2, epochs=4, gradual=0.5, batch_size=100, seed=5)
    everything, start = torch.arange(len(stream.source)), stream.starts[1]
    shares, before = [], torch.zeros(len(everything), dtype=torch.bool)
    for step in range(start, len(stream)):
        moved = stream.moved(step, everything)
        assert (moved | ~before).all(), "an item moved back"
        shares.append(moved.double().mean().item())
        before = moved
    window = (len(stream) - start) // 2
    expected = np.minimum(np.arange(1, len(shares) + 1) / window, 1.0)
    assert np.abs(np.array(shares) - expected).max() < 0.04
    assert stream.boundaries == () and stream.task(len(stream) - 1) == 0 and stream.segment(len(stream) - 1) == 1


def test_gradual_batch_follows_what_has_moved():
    stream = PermutedPixels(tasks=2, gradual=1.0, batch_size=200, items=400)
    step = stream.starts[1]
    index = stream.chosen(step)
    original = stream.source.inputs[index]
    for image, item, moved in zip(stream.batch(step)[0], original, stream.moved(step, index), strict=True):
        assert torch.equal(image, item[stream.mapping(1)] if moved else item)


@pytest.mark.oracle("random-labels")
def test_random_labels_stay_for_a_task_and_say_nothing_about_the_class():
    stream = RandomLabels(tasks=2, epochs=2, items=1000, batch_size=1000, classes=4)
    (x0, y0), (x1, y1) = stream.batch(0), stream.batch(1)
    table = {tuple(x.tolist()): int(y) for x, y in zip(x0, y0, strict=True)}
    assert all(table[tuple(x.tolist())] == y for x, y in zip(x1, y1, strict=True))
    assert y0.unique().tolist() == [0, 1, 2, 3]
    assert abs((y0 == stream.source.labels[stream.chosen(0)] % 4).double().mean() - 0.25) < 0.06


@pytest.mark.oracle("class-incremental")
@pytest.mark.parametrize("cumulative", [False, True])
def test_class_incremental_shows_the_classes_it_says(cumulative):
    stream = ClassIncremental(per_task=3, cumulative=cumulative, seed=2)
    assert stream.count == 4 and sorted(stream.order.tolist()) == list(range(10))
    for task in range(4):
        shown = set(stream.whole(task)[1].tolist())
        new = set(stream.order[3 * task : 3 * task + 3].tolist())
        assert shown == (set(stream.order[: 3 * task + 3].tolist()) if cumulative else new)
        first, end = stream.starts[task], stream.starts[task + 1]
        assert set(torch.cat([stream.batch(s)[1] for s in range(first, end)]).tolist()) == shown


@pytest.mark.oracle("slowly-changing-regression")
def test_slowly_changing_regression_against_the_formula():
    stream = SlowlyChangingRegression(bits=6, slow=4, units=9, flip_every=3, flips=5, batch_size=8, seed=11)
    weights, _, output = (np.asarray(t, dtype=np.float64) for t in stream.target_network)
    for step in range(len(stream)):
        for x, y in zip(*(np.asarray(t, dtype=np.float64) for t in stream.batch(step)), strict=True):
            total = 0.0
            for w, v in zip(weights, output, strict=True):
                threshold = (6 + 1) * 0.7 - sum(w_j == -1 for w_j in w)
                total += v * (sum(w_j * x_j for w_j, x_j in zip(w, x, strict=True)) > threshold)
            assert y[0] == total and x[-1] == 1


def test_one_slow_bit_flips_at_each_boundary():
    stream = SlowlyChangingRegression(flips=20, flip_every=2)
    slow = torch.stack([stream.batch(step)[0][0, :15] for step in range(len(stream))])
    changes = (slow[1:] != slow[:-1]).sum(1)
    assert changes.tolist() == [float(step + 1 in stream.boundaries) for step in range(len(stream) - 1)]


@pytest.mark.parametrize("step", [-1, 10**9, 1.5, True])
def test_a_step_outside_is_refused(step):
    with pytest.raises(BadInput, match="steps 0 to"):
        PermutedLabels(tasks=2).batch(step)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PermutedLabels(tasks=0), "tasks must be a whole number of at least 1"),
        (lambda: PermutedLabels(batch_size=2.5), "batch_size"),
        (lambda: PermutedPixels(gradual=1.5), r"gradual must be a number in \[0, 1\]"),
        (lambda: len(PermutedPixels(items=99999)), "has only 1797 items"),
        (lambda: len(ClassIncremental(tasks=9)), "classes for 5 only"),
        (lambda: SlowlyChangingRegression(bits=3, slow=4), "only 3 bits"),
        (lambda: RandomLabels(classes=-1), "classes"),
    ],
)
def test_a_bad_setting_is_refused(make, message):
    with pytest.raises(BadSetting, match=message):
        make()


def test_by_name():
    assert build("stream", "permuted-labels:tasks=3,gradual=0.5") == PermutedLabels(tasks=3, gradual=0.5)
    with pytest.raises(UnknownName, match="permuted-labels"):
        build("stream", "permuted-label")
