"""Sparsity against a count by hand."""

import math

import pytest
import torch

from homeostat.core.snapshot import Readings
from homeostat.vitals.activations.sparsity import Sparsity, sparsity


@pytest.mark.oracle("sparsity")
def test_sparsity_counts_zeros_of_matrices_and_kernels():
    g = torch.Generator().manual_seed(0)
    weights = {"fc.weight": torch.randn(7, 5, generator=g), "conv.weight": torch.randn(2, 3, 3, 3, generator=g)}
    weights = {name: value * (torch.rand(value.shape, generator=g) > 0.7) for name, value in weights.items()}
    got = sparsity({**weights, "fc.bias": torch.zeros(7), "norm.weight": torch.zeros(5)})
    assert set(got) == {"fc", "conv"}
    for name, value in weights.items():
        zeros = sum(number == 0.0 for number in value.flatten().tolist())
        assert float(got[name.removesuffix(".weight")]) == zeros / value.numel()
    assert 0 < float(got["fc"]) < 1


def test_a_layer_of_several_matrices_counts_them_together():
    cell = {"rnn.weight_ih_l0": torch.zeros(2, 3), "rnn.weight_hh_l0": torch.ones(2, 2)}
    assert float(Sparsity()(Readings(weights=cell))["rnn"]) == 0.6


def test_what_is_not_finite_is_missing():
    weights = {"a.weight": torch.tensor([[0.0, math.nan]]), "b.weight": torch.tensor([[0.0, 1.0]])}
    assert math.isnan(float(sparsity(weights)["a"])) and float(sparsity(weights)["b"]) == 0.5
