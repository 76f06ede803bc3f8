"""ReDo, shrink and perturb, L2 Init, spectral and Wasserstein regularisation against obvious restatements in float64.

Compared with authors' code while writing this: google/dopamine, labs/redo/weight_recyclers.py - score |h| averaged over
batch and space, divided by the layer's mean plus 1e-9; score <= threshold; incoming weights drawn anew first, outgoing
zeroed after; bias 0; first and second moments of weights cleared. Same here, except that the bias's moments are cleared
too and that the draw comes from the layer's own initial distribution (theirs: Xavier uniform).
"""

import math

import pytest
import torch
from torch import nn

from homeostat.core.edits import SetValues
from homeostat.core.errors import BadSetting, Refused
from homeostat.core.random import Draw
from homeostat.core.treatment import Fresh, View
from homeostat.testing.grid import CONV, DOUBLE, NORMED
from homeostat.testing.mini_run import Bench
from homeostat.treatments import (
    L2Init,
    LayerNormInsertion,
    ReDo,
    ShrinkAndPerturb,
    SpectralRegularization,
    WassersteinRegularization,
)
from homeostat.treatments.normalization.layer_norm import with_norm
from homeostat.treatments.regularization.spectral import power_step


def weights(*shapes: tuple[int, ...], seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {f"w{i}": torch.randn(shape, generator=g, dtype=torch.float64) for i, shape in enumerate(shapes)}


def view(parameters: dict[str, torch.Tensor], **more) -> View:
    return View(
        step=1, parameters=parameters, gradients={n: torch.zeros_like(p) for n, p in parameters.items()}, **more
    )


def added(treatment, seen: View, state=None) -> dict[str, torch.Tensor]:
    state = treatment.init(seen, treatment.knobs()) if state is None else state
    return {e.target: e.value for e in treatment.plan(seen, state, treatment.knobs())[0]}


@pytest.mark.oracle("redo")
def test_redo_resets_exactly_the_units_whose_score_is_low():
    bench = Bench(CONV, ReDo(threshold=0.6, every=3))
    bench.train(2)
    events = bench.train(1)
    layers, hit = {g.weight.name: g.layer for g in CONV.groups}, 0
    for edit in events[0].edits:
        if isinstance(edit, SetValues) and edit.units is not None and edit.mask is not None:
            h = bench.activations[layers[edit.target]].abs()
            means = [float(h[:, i].mean()) for i in range(h.shape[1])]
            expected = [m / (sum(means) / len(means) + 1e-9) <= 0.6 for m in means]
            assert edit.mask.flatten(1)[:, 0].tolist() == expected
            hit += sum(expected)
    assert hit > 0


def test_redo_does_nothing_between_its_steps_or_below_zero():
    assert not Bench(CONV, ReDo(threshold=1.0, every=50)).train(49)
    assert not Bench(CONV, ReDo(threshold=-1.0, every=1)).train(10)
    with pytest.raises(BadSetting, match="every"):
        ReDo(every=0)


@pytest.mark.oracle("shrink-and-perturb", "shrink-and-perturb-at-boundaries")
@pytest.mark.parametrize("noise", ["initial", "normal"])
def test_shrink_and_perturb_is_its_formula(noise: str):
    parameters = weights((4, 3), (4,)) | {"scale": torch.ones(4, dtype=torch.float64)}
    fresh = {"w0": Fresh("uniform", 0.5), "w1": Fresh("constant", mean=0.25), "scale": Fresh("constant", mean=1.0)}
    seen = view(parameters, fresh=fresh, norms=frozenset({"scale"}), draw=Draw(3, ("x",)))
    got = added(ShrinkAndPerturb(shrink=0.6, perturb=0.1, noise=noise), seen)
    assert set(got) == {"w0", "w1"}
    for name, value in got.items():
        if noise == "normal":
            new = Draw(3, ("x",)).normal(name, parameters[name])
        else:
            new = fresh[name].sample(Draw(3, ("x",)), name, parameters[name])
        torch.testing.assert_close(value, 0.6 * parameters[name] + 0.1 * new, rtol=1e-12, atol=0)


def test_shrink_and_perturb_defaults_keep_the_initial_variance_without_a_gradient():
    settings = ShrinkAndPerturb()
    assert settings.perturb**2 == pytest.approx(1 - settings.shrink**2, rel=1e-3)


def test_shrink_and_perturb_refuses_where_nothing_is_known():
    with pytest.raises(Refused, match="initial distribution"):
        added(ShrinkAndPerturb(), view(weights((2, 2))))


@pytest.mark.oracle("l2-init")
def test_l2_init_is_the_gradient_of_its_penalty():
    now, start = weights((4, 3), (5,)), weights((4, 3), (5,), seed=1)
    leaves = {n: p.clone().requires_grad_() for n, p in now.items()}
    (0.3 * sum(((leaves[n] - start[n]) ** 2).sum() for n in leaves)).backward()
    got = added(L2Init(strength=0.3), view(now, initial=start))
    for name, leaf in leaves.items():
        torch.testing.assert_close(got[name], leaf.grad, rtol=1e-12, atol=0)


def test_gradient_treatments_leave_parameters_without_a_gradient_alone():
    now = weights((4, 3), (3, 2))
    for treatment in (L2Init(), SpectralRegularization(), WassersteinRegularization()):
        seen = View(step=1, parameters=now, gradients={"w1": torch.zeros(3, 2)}, initial=now)
        assert set(added(treatment, seen)) == {"w1"}


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 2, 3, 3), (1, 7)])
def test_power_iteration_finds_the_largest_singular_value(shape: tuple[int, ...]):
    matrix = weights(shape, seed=2)["w0"].flatten(1)
    v = torch.ones(matrix.shape[1], dtype=torch.float64) / math.sqrt(matrix.shape[1])
    for _ in range(400):
        u, sigma, v = power_step(matrix, v)
    torch.testing.assert_close(sigma, torch.linalg.svdvals(matrix)[0], rtol=1e-8, atol=0)
    torch.testing.assert_close((matrix @ v).norm(), sigma, rtol=1e-8, atol=0)
    torch.testing.assert_close(u @ matrix @ v, sigma, rtol=1e-8, atol=0)


def test_a_zero_matrix_has_no_spectral_gradient():
    got = added(SpectralRegularization(strength=1.0), view({"w0": torch.zeros(3, 4)}))
    assert torch.equal(got["w0"], torch.zeros(3, 4))


@pytest.mark.oracle("spectral-regularization")
@pytest.mark.parametrize("power", [1, 2, 3])
def test_spectral_gradient_equals_autograd_of_the_penalty_once_sigma_has_converged(power: int):
    parameters = weights((6, 4), (4, 2, 3, 3), (5,), (4,), (4,), seed=5)
    names = ("fc.weight", "conv.weight", "fc.bias", "norm.weight", "norm.bias")
    parameters = dict(zip(names, parameters.values(), strict=True))
    seen = view(parameters, norms=frozenset({"norm.weight", "norm.bias"}))
    treatment = SpectralRegularization(strength=0.7, power=power)
    state = treatment.init(seen, treatment.knobs())
    for _ in range(300):
        edits, state = treatment.plan(seen, state, treatment.knobs())
    leaves = {n: p.clone().requires_grad_() for n, p in parameters.items()}
    penalty = sum(
        (torch.linalg.matrix_norm(leaves[n].flatten(1), 2) ** power - 1) ** 2 for n in ("fc.weight", "conv.weight")
    )
    penalty = penalty + sum((leaves[n].norm() ** (2 * power)) for n in ("fc.bias", "norm.bias"))
    penalty = penalty + ((leaves["norm.weight"] ** power - 1) ** 2).sum()
    (0.7 * penalty).backward()
    assert {e.target for e in edits} == set(names)
    for edit in edits:
        torch.testing.assert_close(edit.value, leaves[edit.target].grad, rtol=1e-6, atol=1e-9)


def test_spectral_regularization_brings_every_layer_to_gain_one():
    """With nothing but the penalty at work the largest singular values go to 1 and the biases to 0."""
    parameters = weights((6, 4), (4, 4), (5,), seed=7)
    treatment = SpectralRegularization(strength=1.0)
    state = treatment.init(view(parameters), treatment.knobs())
    for _ in range(600):
        edits, state = treatment.plan(view(parameters), state, treatment.knobs())
        parameters = {e.target: parameters[e.target] - 0.01 * e.value for e in edits}
    for name in ("w0", "w1"):
        assert float(torch.linalg.matrix_norm(parameters[name], 2)) == pytest.approx(1.0, abs=1e-3)
    assert float(parameters["w2"].norm()) < 0.25


@pytest.mark.oracle("wasserstein-regularization")
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_wasserstein_gradient_equals_autograd_of_the_sorted_distance(reduce: str):
    now, start = weights((6, 4), (3, 2, 2, 2)), weights((6, 4), (3, 2, 2, 2), seed=1)
    treatment = WassersteinRegularization(strength=0.5, reduce=reduce)
    got = added(treatment, view(now, initial=start))
    leaves = {n: p.clone().requires_grad_() for n, p in now.items()}
    terms = [((leaves[n].flatten().sort().values - start[n].flatten().sort().values) ** 2) for n in leaves]
    penalty = sum(t.sum() for t in terms) if reduce == "sum" else sum(t.mean() for t in terms) / len(terms)
    (0.5 * penalty).backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(got[name], leaf.grad, rtol=1e-12, atol=1e-15)


def test_wasserstein_does_not_mind_a_permutation():
    start = weights((6, 4))
    moved = {"w0": start["w0"].flatten()[torch.randperm(24, generator=torch.Generator().manual_seed(0))].reshape(6, 4)}
    got = added(WassersteinRegularization(strength=1.0), view(moved, initial=start))
    assert torch.equal(got["w0"], torch.zeros(6, 4, dtype=torch.float64))


@pytest.mark.oracle("layer-norm-insertion")
def test_layer_norm_is_put_before_the_nonlinearity_and_trains():
    before = DOUBLE.build(0)
    bench = Bench(DOUBLE, LayerNormInsertion())
    inputs, _ = DOUBLE.data(1)
    z = before.get_submodule("0")(inputs)
    expected = (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(bench.model.get_submodule("0")(inputs), expected, rtol=1e-10, atol=1e-10)
    assert set(before.state_dict()) < set(bench.model.state_dict())
    start = bench.model.get_parameter("0.norm.weight").clone()
    bench.train(3)
    assert not torch.equal(start, bench.model.get_parameter("0.norm.weight"))
    assert bench.model.get_parameter("0.norm.weight").dtype == torch.float64


def test_layer_norm_insertion_refuses_what_has_norms_or_is_not_plain():
    with pytest.raises(Refused, match="without a norm"):
        Bench(NORMED, LayerNormInsertion())
    with pytest.raises(Refused, match="LSTM"):
        with_norm(nn.LSTM(2, 2), "rnn")


def test_the_old_layer_is_left_as_it_was_and_its_hooks_move_along():
    old, calls = nn.Linear(3, 4), []
    handle = old.register_forward_hook(lambda *_: calls.append(1))
    new = with_norm(old)
    assert isinstance(new, nn.Linear) and new.weight is old.weight and not hasattr(old, "norm")
    assert {n for n, _ in new.named_parameters()} == {"weight", "bias", "norm.weight", "norm.bias"}
    new(torch.zeros(2, 3))
    handle.remove()
    new(torch.zeros(2, 3))
    assert calls == [1]
