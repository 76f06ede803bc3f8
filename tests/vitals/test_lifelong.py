"""Metrics of learning and evaluation blocks, against a restatement over flat lists of blocks.

The authors' code (github.com/lifelong-learning-systems/l2metrics as of June 2022, fetched as darpa-l2m/l2metrics) was
fed 300 random lifetimes of 1 to 4 tasks and 1 to 8 learning blocks, scores as they are, smoothed by its own function.
With all tasks evaluated between blocks: performance maintenance (385 values), transfer as contrast and as ratio (727
forward, 587 backward) were equal to the last bit, relative performance (460) and sample efficiency of tasks trained in
one block (174) to 5e-13. Two differences remain. Where tasks are not always evaluated and several blocks lie between
two evaluations, their code keeps the transfer of one of the blocks only. For a task trained in several blocks, its test
for falling scores counts the experiences of other tasks in between.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeostat.core.errors import BadInput
from homeostat.vitals.continual.lifelong import (
    Learning,
    Lifetime,
    performance_maintenance,
    relative_performance,
    sample_efficiency,
    smoothed,
    transfer,
)

TASKS = ("a", "b", "c")


@st.composite
def lifetimes(draw) -> Lifetime:
    learning = [Learning(task) for task in draw(st.lists(st.sampled_from(TASKS), min_size=1, max_size=6))]
    scores = st.dictionaries(st.sampled_from(TASKS), st.integers(0, 20).map(lambda n: n / 20))
    return Lifetime(learning, [draw(scores) for _ in range(len(learning) + 1)])


@settings(max_examples=150, deadline=None)
@given(lifetimes())
def test_maintenance_and_transfer_are_the_definitions(life):
    # one flat list of events: ("test", scores) and ("train", task), in order
    events = [("test", life.evaluations[0])]
    for block, scores in zip(life.learning, life.evaluations[1:], strict=True):
        events += [("train", block.task), ("test", scores)]
    for task in TASKS:
        reference, changes, waiting = None, [], False
        for kind, what in events:
            if kind == "train":
                waiting |= what == task
            elif task in what and waiting:
                reference, waiting = what[task], False
            elif task in what and reference is not None:
                changes.append(what[task] - reference)
        expected = {task: sum(changes) / len(changes)} if changes else {}
        found = {t: v for t, v in performance_maintenance(life).items() if t == task}
        assert found == pytest.approx(expected)

    for forward in (True, False):
        expected = {}
        for task in TASKS:
            before, between, met = None, [], False
            for kind, what in events:
                if kind == "train":
                    between += [what] if what != task and met != forward else []
                    met |= what == task
                elif task in what:
                    for other in between:
                        if before is not None and before + what[task] > 0:
                            contrast = (what[task] - before) / (what[task] + before)
                            expected.setdefault((other, task), contrast)
                    before, between = what[task], []
        assert transfer(life, forward=forward) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_smoothing_is_the_mean_over_a_window_of_reflected_scores(scores):
    width = len(scores) // 5
    if width < 3:
        assert smoothed(scores).tolist() == scores
        return
    turned = [*scores[1:][::-1], *scores, *scores[:-1][::-1]]  # score i is at i + n - 1
    start = len(scores) - 1 - (width - 1) + width // 2 - 1
    expected = [sum(turned[start + i : start + i + width]) / width for i in range(len(scores))]
    assert smoothed(scores).tolist() == pytest.approx(expected, abs=1e-12)


def test_performance_and_efficiency_are_relative_to_the_expert():
    life = Lifetime([Learning("a", [0.0, 0.2]), Learning("b", [0.5, 0.4]), Learning("a", [0.4, 0.4])], [{}] * 4)
    expert = {"a": [[0.2, 0.4, 0.4, 0.8, 0.8]], "b": [[0.1, 1.0]], "c": [[1.0]]}
    assert relative_performance(life, expert) == pytest.approx({"a": 1.0 / 1.8, "b": 0.9 / 1.1})
    # a saturates at half the expert's level after 2 experiences, the expert after 3; b falls, and starts at its best
    assert sample_efficiency(life, expert) == pytest.approx({"a": 0.5 * 3 / 2})
    falling = Lifetime([Learning("b", [0.5, 0.6, 0.1])], [{}] * 2)
    assert sample_efficiency(falling, expert) == {"b": 0.0}
    weak = Lifetime([Learning("b", np.linspace(0, 0.19, 5).tolist())], [{}] * 2)
    assert sample_efficiency(weak, expert) == {"b": 0.0}


def test_a_lifetime_without_its_evaluations_is_refused():
    with pytest.raises(BadInput, match="1 learning blocks need 2 evaluations"):
        Lifetime([Learning("a")], [{}])
    assert performance_maintenance(Lifetime([], [{}])) == {}
