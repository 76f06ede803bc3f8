"""Metrics of the accuracy matrix, against the papers' formulas written out as loops.

Avalanche 0.6.0's own BWT and ForwardTransfer were fed 200 random matrices of 2 to 6 tasks: the largest difference of
the means over tasks was 5.6e-17.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from homeostat.core.errors import BadInput
from homeostat.vitals.continual.accuracy_matrix import (
    anytime_accuracy,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
)


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**31))
def test_metrics_are_the_papers_formulas(tasks, seed):
    table = torch.rand(tasks + 1, tasks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    matrix, untrained = table[:-1], table[-1]
    r, b, last = matrix.tolist(), untrained.tolist(), tasks - 1
    expected = {
        average_accuracy: mean(r[last]),
        anytime_accuracy: mean([mean(r[i][: i + 1]) for i in range(tasks)]),
        learning_accuracy: mean([r[i][i] for i in range(tasks)]),
        forgetting: mean([max(r[i][j] for i in range(j, last)) - r[last][j] for j in range(last)]),
        backward_transfer: mean([r[last][j] - r[j][j] for j in range(last)]),
    }
    for metric, value in expected.items():
        assert float(metric(matrix)) == pytest.approx(value, abs=1e-12, nan_ok=True), metric.__name__
    transferred = mean([r[j - 1][j] - b[j] for j in range(1, tasks)])
    assert float(forward_transfer(matrix, untrained)) == pytest.approx(transferred, abs=1e-12, nan_ok=True)


def test_replicas_are_matrices_of_their_own_and_missing_evaluations_are_left_out():
    matrix = torch.tensor([[[0.9, 0.1], [0.5, 0.7]], [[0.8, math.nan], [math.nan, 0.6]]])
    assert forgetting(matrix)[0] == pytest.approx(0.4) and forgetting(matrix)[1].isnan()
    assert average_accuracy(matrix).tolist() == pytest.approx([0.6, 0.6])


def test_what_is_no_matrix_is_refused():
    with pytest.raises(BadInput, match=r"\[T, T\].*\[2, 3\]"):
        average_accuracy(torch.zeros(2, 3))
