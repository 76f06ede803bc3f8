"""Norms, ratios, non-finite counts and the loss against numpy in float64."""

import math

import numpy as np
import pytest
import torch

from homeostat.core.snapshot import Readings
from homeostat.testing import inputs
from homeostat.vitals import GradientNorm, Loss, NonFinite, gradient_norm, non_finite, update_ratio, weight_norm


def joint_norm(tensors, layer):
    flat = [t.double().numpy().ravel() for n, t in tensors.items() if n.rpartition(".")[0] == layer]
    return float(np.linalg.norm(np.concatenate(flat)))


@pytest.mark.oracle("gradient-norm", "weight-norm")
def test_norms_join_weight_and_bias_of_a_layer():
    step = inputs.readings(widths=(300, 200))
    for values, tensors in ((gradient_norm(step.gradients), step.gradients), (weight_norm(step.weights), step.weights)):
        assert set(values) == {"fc1", "fc2", "head"}
        for layer, value in values.items():
            assert float(value) == pytest.approx(joint_norm(tensors, layer), rel=1e-5)


@pytest.mark.oracle("update-ratio")
def test_update_ratio_is_step_over_weights():
    step = inputs.readings()
    for layer, value in update_ratio(step.updates, step.weights).items():
        expected = joint_norm(step.updates, layer) / joint_norm(step.weights, layer)
        assert float(value) == pytest.approx(expected, rel=1e-5)


def test_a_ratio_to_nothing_is_missing_and_a_step_of_nothing_is_zero():
    w, zero = {"a.weight": torch.ones(3, 3)}, {"a.weight": torch.zeros(3, 3)}
    assert math.isnan(float(update_ratio(w, zero)["a"]))
    assert float(update_ratio(zero, w)["a"]) == 0
    assert update_ratio(w, {}) == {}


def test_replica_axes_are_not_summed_over():
    g = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(gradient_norm({"a.w": g}, 1)["a"], np.linalg.norm(g.reshape(5, -1), axis=1), rtol=1e-6)
    assert gradient_norm({"a.scale": torch.ones(5)}, 1)["a"].shape == (5,)
    assert float(gradient_norm({"a.scale": torch.tensor(-3.0)})["a"]) == 3


def test_parameters_without_entries_are_left_out():
    step = Readings(gradients={"a.w": torch.zeros(0, 3), "b.w": torch.ones(1)})
    assert set(GradientNorm()(step)) == {"b"}


@pytest.mark.oracle("non-finite")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_nan_and_infinity_is_counted(dtype):
    x = torch.zeros(70, 1000, dtype=dtype)
    x[0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    x[1:] = float("inf")
    assert float(non_finite(x)) == 69_003
    assert non_finite(x, 1)[:2].tolist() == [3, 1000]
    x[:] = torch.finfo(dtype).max
    assert float(non_finite(x)) == 0


def test_non_finite_adds_up_weights_gradients_activations_and_loss():
    bad = torch.tensor([1.0, float("nan")])
    step = Readings(
        weights={"a.w": bad}, gradients={"a.w": bad}, activations={"a": bad[:, None]}, loss=torch.tensor(float("inf"))
    )
    assert {layer: float(v) for layer, v in NonFinite()(step).items()} == {"a": 3, "network": 1}
    assert {float(v) for v in NonFinite()(inputs.readings()).values()} == {0}


@pytest.mark.oracle("loss")
def test_the_loss_of_a_window_is_the_mean():
    vital = Loss()
    parts = [vital.measure(Readings(loss=torch.tensor(v))) for v in (1.0, 2.0, 6.0)]
    joined = vital.combine(vital.combine(parts[0], parts[1]), parts[2])
    assert float(vital.finish(joined)["network"]) == 3
    assert vital(Readings()) == {}
