"""Jumps of a loss are found from its value at every step, in whatever pieces it comes."""

import numpy as np
import pytest

from homeostat.diagnosis.loss_tasks import LossTasks


def course(ends, noise=0.2, seed=0, steps=100):
    """Tasks that each begin at 2 and end near one of these levels."""
    draw = np.random.default_rng(seed)
    time = np.arange(steps)
    losses = np.concatenate([end + (2 - end) * np.exp(-time / 15) for end in ends])
    return (losses * (1 + noise * draw.standard_normal(len(losses)))).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_the_ends_of_tasks_are_found(seed):
    levels = [0.1, 0.2, 0.4, 0.6, 0.8, 0.9]
    seen = LossTasks()
    seen.extend(course(levels, seed=seed))
    assert [step for step, _ in seen.ends] == pytest.approx([100, 200, 300, 400, 500], abs=5)
    assert [level for _, level in seen.ends] == pytest.approx(levels[:-1], rel=0.3)


def test_noise_spikes_and_slow_rises_are_no_tasks():
    draw = np.random.default_rng(1)
    noisy = (1 + 0.4 * draw.standard_normal(20_000)).tolist()
    spiky = [10.0 if step % 97 == 0 else 1.0 for step in range(2000)]
    rising = np.linspace(0.1, 3.0, 5000).tolist()
    for losses in (noisy, spiky, rising, [float("nan")] * 50, [1.0, float("inf")] * 40):
        seen = LossTasks()
        seen.extend(losses)
        assert seen.ends == []


def test_pieces_and_saved_states_make_no_difference():
    losses, whole, pieces = course([0.1] * 8), LossTasks(), LossTasks()
    whole.extend(losses)
    for start in range(0, len(losses), 37):
        pieces.extend(losses[start : start + 37])
        again = LossTasks()
        again.load_state_dict(pieces.state_dict())
        pieces = again
    assert whole.ends == pieces.ends and whole.state_dict() == pieces.state_dict()
