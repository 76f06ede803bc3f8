"""The laws of a vital. The vital's own tests compare it with an independent restatement."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from homeostat.core.snapshot import Reading
from homeostat.core.vital import NETWORK, Vital
from homeostat.testing import common_laws as facts
from homeostat.testing import inputs
from homeostat.testing.binding import Check, bound, statements
from homeostat.testing.law import DoesNotApply, Law
from homeostat.testing.transparency import transparent

Values = dict[str, Tensor]


def laws_for(vital: Vital, thorough: bool = False) -> list[Law]:
    """Every law that a vital must satisfy."""
    return bound(TABLE, lambda: vital)


def laws_of_kind() -> dict[str, str]:
    """Name -> statement of every law of a vital."""
    return statements(TABLE)


def states_its_facts(vital: Vital) -> None:
    """It states its readings, range, direction, unit and cost, and a reducer for every field of its partials."""
    low, high = vital.range
    assert low < high, f"range {vital.range} is empty"
    assert vital.reads, "it reads nothing"
    assert vital.unit, "it has no unit"
    assert vital.worse in ("higher", "lower", "neither"), f"worse is {vital.worse!r}"
    assert vital.cost in ("cheap", "moderate", "heavy"), f"cost is {vital.cost!r}"
    assert vital.invariant <= set(_CHANGES), f"unknown invariance: {sorted(vital.invariant - set(_CHANGES))}"
    for layer, fields in vital.measure(inputs.readings()).items():
        unknown = set(fields) - set(vital.reducers)
        assert not unknown, f"field {sorted(unknown)} of {layer} has no reducer"


def measures_a_healthy_step(vital: Vital) -> None:
    """On a healthy step, it gives a finite 0-dim value for at least one layer."""
    values = vital(inputs.readings())
    assert any(bool(v.isfinite()) for v in values.values()), f"no finite value on a healthy step: {values}"
    for layer, value in values.items():
        assert value.shape == (), f"{layer} has shape {tuple(value.shape)}, expected a 0-dim tensor"


def names_its_layers(vital: Vital) -> None:
    """It names only captured layers, tasks, or the network; a layer whose hook never fired has no value."""
    step = inputs.readings()
    for gone in ("fc1", "fc2"):
        partial = inputs.lacking(step, gone)
        layers = {*partial.activations, *(name.rpartition(".")[0] for name in partial.weights), *partial.tasks, NETWORK}
        invented = set(vital(partial)) - layers
        assert not invented, f"it gives a value for {sorted(invented)}, which were not captured"


def bounded(vital: Vital) -> None:
    """On every awkward and degenerate input, every value is in the stated range or missing."""
    low, high = vital.range
    slack = 1e-6
    for case, step in inputs.differing({**inputs.awkward(), **inputs.degenerate()}, vital.reads).items():
        for layer, value in vital(step).items():
            number = float(value)
            inside = low - slack * max(1, abs(low)) <= number <= high + slack * max(1, abs(high))
            assert math.isnan(number) or inside, f"{number} of {layer} ({case}) is outside {vital.range}"


def missing_never_zero(vital: Vital) -> None:
    """Values that cannot be measured are missing, never 0: nothing captured, no or one sample, NaN or infinity."""
    steps = inputs.degenerate()
    few = ["no samples", "one sample"] if vital.reads == {Reading.ACTIVATIONS} else []
    for case in ["nothing captured", *few]:
        for layer, value in vital(steps[case]).items():
            assert bool(value.isnan()), f"{layer} is {float(value)} with {case}, expected NaN"
    healthy = vital(inputs.readings())
    for case in ("NaN", "infinity", "NaN in half precision"):
        for layer, value in vital(steps[case]).items():
            said = bool(value.isnan()) or float(value) not in (0.0, float(healthy[layer]))
            assert said, f"{layer} is {float(value)} with {case} in the input, expected NaN or a changed value"


def dead_is_not_healthy(vital: Vital) -> None:
    """A rectified layer whose outputs are all zero never has the healthiest value of the range; the value is unhealthy
    or missing."""
    if vital.reads != {Reading.ACTIVATIONS} or vital.worse == "neither":
        raise DoesNotApply("it does not read activations alone, or has no unhealthy direction")
    best = vital.range[0] if vital.worse == "higher" else vital.range[1]
    step = inputs.awkward()["all zero"]
    rectified = [layer for layer, kind in step.nonlinearity.items() if kind == "relu"]
    for layer, value in vital(step).items():
        healthy = layer in rectified and float(value) == best
        assert not healthy, f"{layer} is {float(value)}, the healthiest value, although every output is zero"


def composable(vital: Vital) -> None:
    """Partials of two parts, combined in either order, give the value of the whole; a lone layer is unchanged."""
    step = inputs.readings()
    first, second = (vital.measure(part) for part in inputs.halves(step))
    whole = vital(step)
    _same(vital.finish(vital.combine(first, second)), whole, "two parts combined")
    _same(vital.finish(vital.combine(second, first)), whole, "the parts combined in reverse")
    _same(vital.finish(vital.combine(vital.measure(step), {})), whole, "a part combined with nothing")


def pure(vital: Vital) -> None:
    """It changes no input, global random state or grad mode, keeps no graph, and two calls agree bit for bit."""
    step = inputs.readings()
    before, random, grad = inputs.everything(step, torch.clone), torch.get_rng_state(), torch.is_grad_enabled()
    first, again = vital(step), vital(step)
    for field in ("activations", "weights", "gradients", "updates"):
        for name, tensor in getattr(before, field).items():
            assert torch.equal(tensor, getattr(step, field)[name]), f"it changed {field} {name}"
    for field in ("own", "other"):
        for name, tensor in getattr(before.twin, field).items():
            assert torch.equal(tensor, getattr(step.twin, field)[name]), f"it changed {name} of a twin ({field})"
    assert torch.equal(random, torch.get_rng_state()), "it drew from the global random number generator"
    assert torch.is_grad_enabled() == grad, "it changed the grad mode"
    for layer, value in first.items():
        assert not value.requires_grad, f"the value of {layer} carries a graph"
        assert torch.equal(value.nan_to_num(), again[layer].nan_to_num()), f"{layer} differs between two calls"
    with torch.no_grad():
        _same(vital(step), first, "under no_grad", 0.0)


def any_dtype(vital: Vital) -> None:
    """Half, bfloat16 and double readings give the same values as float32 readings."""
    for dtype, tolerance in ((torch.float16, 1e-3), (torch.bfloat16, 1e-3), (torch.float64, 1e-5)):
        step = inputs.without_probe(inputs.readings(dtype=dtype))
        wide = inputs.everything(step, lambda t: t.to(torch.float32))
        _same(vital(step), vital(wide), f"in {dtype}", tolerance)


def any_layout(vital: Vital) -> None:
    """Non-contiguous memory gives the same values."""
    step = inputs.readings()
    _same(vital(inputs.strided(step)), vital(step), "with strided memory")


def replicas(vital: Vital) -> None:
    """A stack of R runs gives the value of each run, also if other runs are dead or NaN."""
    if vital.reads & {Reading.PROBE, Reading.TASKS}:
        raise DoesNotApply("it reads a probe, which belongs to one network")
    cases = {**inputs.awkward(), **inputs.degenerate()}
    alone = [inputs.readings(1), inputs.readings(2), cases["all zero"], cases["NaN"], cases["constant"]]
    together = vital(inputs.stacked(alone))
    for r, step in enumerate(alone):
        _same({layer: value[r] for layer, value in together.items()}, vital(step), f"replica {r}")


def _invariance(name: str, what: str) -> Check:
    def invariant(vital: Vital) -> None:
        if name not in vital.invariant:
            raise DoesNotApply("it does not declare this invariance")
        step = inputs.readings()
        changed = dataclasses.replace(step, activations={n: _CHANGES[name](h) for n, h in step.activations.items()})
        _same(vital(changed), vital(step), f"after a change of {name}", 1e-4)

    invariant.__doc__ = f"If declared, {what} changes no value."
    return invariant


def _rotated(h: Tensor) -> Tensor:
    noise = torch.randn(h.shape[-1], h.shape[-1], generator=torch.Generator().manual_seed(3))
    return h @ torch.linalg.qr(noise).Q


_CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "units": lambda h: h.roll(3, -1).flip(-1),
    "samples": lambda h: h.roll(5, -2).flip(-2),
    "scale": lambda h: 37.5 * h,
    "rotation": _rotated,
}


def _same(values: Values, expected: Values, what: str, tolerance: float = 1e-5) -> None:
    assert set(values) == set(expected), f"{what}: layers {sorted(values)} instead of {sorted(expected)}"
    for layer, value in values.items():
        close = torch.allclose(value.double(), expected[layer].double(), tolerance, tolerance * 1e-2, equal_nan=True)
        assert close, f"{what}: {layer} is {float(value)}, expected {float(expected[layer])}"


TABLE: dict[str, Check] = {
    **facts.COMMON,
    "settings are plain": facts.settings_are_plain,
    "states its range, unit and reducers": states_its_facts,
    "measures a healthy step": measures_a_healthy_step,
    "names its layers": names_its_layers,
    "bounded": bounded,
    "missing, never 0": missing_never_zero,
    "dead is not healthy": dead_is_not_healthy,
    "composable": composable,
    "pure": pure,
    "any dtype": any_dtype,
    "any layout": any_layout,
    "replicas": replicas,
    "invariant: units": _invariance("units", "the order of the units"),
    "invariant: samples": _invariance("samples", "the order of the samples"),
    "invariant: scale": _invariance("scale", "multiplying the activations by a positive number"),
    "invariant: rotation": _invariance("rotation", "a rotation of the feature space"),
    "transparent": transparent,
}
"""Every law of a vital."""
