"""The laws of a treatment, as named checks that run it through the real surgery on the grid."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from homeostat.core.edits import ClearMoments, SetValues
from homeostat.core.errors import Refused
from homeostat.core.treatment import Stage, State, Treatment
from homeostat.testing import engine_laws, facts
from homeostat.testing.bench import Bench, frozen, same, trial_of
from homeostat.testing.check import Law
from homeostat.testing.fleet_law import lifts
from homeostat.testing.grid import CONV, DEAD, DOUBLE, FROZEN, GRID, HALF, MLP, NORMED, TANH

IDENTITY_STEPS, SHORT_STEPS, LONG_STEPS = 10, 30, 200
LONG = (TANH, DEAD, NORMED, CONV, HALF)
SUPPORTED_STAGES = (Stage.SURGERY, Stage.GRADIENT, Stage.UPDATE, Stage.BOUNDARY)


def laws_for_treatment(treatment: Treatment) -> list[Law]:
    """Every law a treatment must obey, in a fixed order. They run it with its own settings and its `trial` settings."""
    trial = trial_of(treatment)
    grid = _LongRuns()
    laws = [
        ("cites a source", facts.cites_a_source, treatment),
        ("has docs and an example", facts.has_docs, treatment),
        ("knobs have sources", facts.knobs_have_sources, treatment),
        ("settings survive", facts.settings_survive, treatment),
        ("stage and optimizer state stated", _states_facts, treatment),
        ("identity", _identity, treatment),
        ("pure", _pure, trial),
        ("acts", grid.acts, trial),
        ("effect", grid.effect, trial),
        ("moments cleared", _moments, trial),
        ("function preserved", _preserved, trial),
        ("learns again", _learns_again, trial),
        ("finite", grid.finite, trial),
        ("dtypes", _dtypes, trial),
        ("state", _state, trial),
        ("resume", _resume, trial),
        ("lifts", lifts, trial),
        ("refuses", _refuses, trial),
        ("treats when attached", engine_laws.treats_when_attached, trial),
        ("one trajectory", engine_laws.one_trajectory, trial),
        ("no trace", engine_laws.no_trace, trial),
        ("resumes when attached", engine_laws.resumes, trial),
    ]
    return [(name, lambda law=law, subject=subject: law(subject)) for name, law, subject in laws]


def _states_facts(treatment: Treatment) -> None:
    assert treatment.stage in SUPPORTED_STAGES, f"stage {treatment.stage!r} cannot be carried out from optimizer hooks"
    assert treatment.optimizer_state, "it does not say what happens to the optimizer's state"


def _identity(treatment: Treatment) -> None:
    """At neutral knobs a run is bit for bit the untreated one: parameters, buffers, optimizer state."""
    neutral = treatment.neutral()
    assert neutral is not None, "no knob has a neutral value"
    values = {name: getattr(neutral, name) for name, spec in neutral.knob_specs().items() if spec.neutral is not None}
    off = replace(treatment, **{**{k: v for k, v in treatment.trial.items() if k not in values}, **values})
    for case in GRID:
        plain, treated = Bench(case), Bench(case, off)
        plain.train(IDENTITY_STEPS)
        treated.train(IDENTITY_STEPS)
        wrong = same(plain.snapshot(), treated.snapshot())
        assert not wrong, f"on {case.name!r} {wrong} differs from the untreated run"


def _pure(treatment: Treatment) -> None:
    """Planning twice gives the same edits; view, state, knobs and torch's global randomness stay as they were."""
    for case in (MLP, CONV):
        bench = Bench(case, treatment, adam=False)
        for _ in range(14):
            bench.train(1)
            view, state = bench.view(), dict(bench.state)
            kept_view, kept_state, kept_knobs = frozen(view), _copied(state), _copied(bench.knobs)
            random = torch.get_rng_state()
            edits, after = treatment.plan(view, state, bench.knobs)
            again, after_again = treatment.plan(view, state, bench.knobs)
            assert torch.equal(random, torch.get_rng_state()), "planning moves torch's global random state"
            assert not same(state, kept_state), "planning writes to the state it was given"
            assert not same(bench.knobs, kept_knobs), "planning writes to the knobs"
            for table in ("parameters", "buffers", "gradients", "activations", "initial"):
                wrong = same(getattr(view, table), getattr(kept_view, table))
                assert not wrong, f"planning writes to {wrong} of the view's {table}"
            assert not same(after, after_again) and _alike(edits, again), "the same inputs give different plans"


def _copied(state: State) -> State:
    return {key: value.clone() for key, value in state.items()}


def _alike(first, second) -> bool:
    def equal(a: object, b: object) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b or callable(a)

    return len(first) == len(second) and all(
        type(a) is type(b) and all(equal(vars(a)[key], vars(b)[key]) for key in vars(a))
        for a, b in zip(first, second, strict=True)
    )


class _LongRuns:
    """Long runs on the grid, done once for the laws that look at them: 200 steps on the networks that differ most."""

    def __init__(self) -> None:
        self.events: dict[str, int] = {}
        self.broken: list[str] = []
        self.infinite: list[str] = []

    def _run(self, treatment: Treatment) -> None:
        if self.events:
            return
        for bench in _benches(treatment):
            where = bench.case.name
            self.events[where] = 0
            for _ in range(LONG_STEPS if bench.case in LONG else SHORT_STEPS):
                for event in bench.train(1):
                    self.events[where] += 1
                    if wrong := treatment.effect(event.before, event.edits, event.after):
                        self.broken.append(f"on {where!r} at step {bench.step}: {wrong}")
            tensors = {**bench.snapshot(), **bench.state}
            self.infinite += [f"{n} on {where!r}" for n, v in tensors.items() if not bool(torch.isfinite(v).all())]

    def acts(self, treatment: Treatment) -> None:
        """Under its trial settings it does something within its long runs, if not before the first."""
        self._run(treatment)
        assert any(self.events.values()) or treatment.stage == Stage.SURGERY, (
            "it did nothing on any network of the grid"
        )

    def effect(self, treatment: Treatment) -> None:
        """What it promises is there after the same step's optimizer update, at every event."""
        self._run(treatment)
        assert not self.broken, self.broken[0]

    def finite(self, treatment: Treatment) -> None:
        """200 steps (30 on the milder networks) leave finite parameters, optimizer state and treatment state."""
        self._run(treatment)
        assert not self.infinite, f"{self.infinite[0]} is not finite at the end"


def _benches(treatment: Treatment, cases=GRID) -> Iterator[Bench]:
    """A run on each network that it does not refuse.

    Raises:
        AssertionError: it refuses all.
    """
    taken = 0
    for case in cases:
        try:
            bench = Bench(case, treatment)
        except Refused:
            continue
        taken += 1
        yield bench
    assert taken, "it refuses every network of the grid"


def _moments(treatment: Treatment) -> None:
    """Optimizer state is zero where it was to be cleared, and wherever a unit's weights were reset."""
    for adam, keys in ((True, ("exp_avg", "exp_avg_sq")), (False, ("momentum_buffer",))):
        bench = Bench(TANH, treatment, adam)
        for _ in range(30):
            for event in bench.train(1):
                for edit in event.edits:
                    reset = isinstance(edit, SetValues) and _resets(treatment)
                    if isinstance(edit, ClearMoments) or reset:
                        state = bench.optimizer.state[bench.trained[edit.target]]
                        mask = getattr(edit, "mask", None)
                        where = True if mask is None else mask
                        left = sum(float((state[key].abs() * where).sum()) for key in keys)
                        assert left == 0, f"moments of {edit.target} are not cleared"


def _preserved(treatment: Treatment) -> None:
    """Resetting units that are dead leaves the network's output on the batch as it was, within 1e-6."""
    if not _resets(treatment):
        return
    bench, seen = Bench(DEAD, treatment), 0
    for _ in range(40):
        events = bench.train(1)
        if events and _only_dead(bench, events[0].edits):
            inputs, _ = DEAD.data(bench.step)
            after = torch.func.functional_call(bench.model, dict(events[0].after.parameters), (inputs,))
            before = torch.func.functional_call(bench.model, dict(events[0].before.parameters), (inputs,))
            gap = float((after - before).abs().max())
            assert gap <= 1e-6, f"resetting dead units moved the output by {gap:.2g} at step {bench.step}"
            seen += 1
    assert seen, "it never reset dead units only, where there were some"


def _resets(treatment: Treatment) -> bool:
    return treatment.needs_units and treatment.stage == Stage.UPDATE


def _reset_units(bench: Bench, edits) -> dict[str, Tensor]:
    """Layer -> mask of the units whose incoming weights were set."""
    weights = {group.weight.name: group.layer for group in bench.case.groups}
    return {
        weights[e.target]: e.mask.flatten(1)[:, 0]
        for e in edits
        if isinstance(e, SetValues) and e.units is not None and e.mask is not None
    }


def _only_dead(bench: Bench, edits) -> bool:
    masks = _reset_units(bench, edits)
    return bool(masks) and all(not bool((bench.activations[layer] * mask).any()) for layer, mask in masks.items())


def _learns_again(treatment: Treatment) -> None:
    """On a network without dead units, the outgoing weights of every reset unit get a gradient in the next step, and
    its incoming weights in the one after."""
    if not _resets(treatment):
        return
    bench, now, last = Bench(TANH, treatment), {}, {}
    seen = 0
    for _ in range(60):
        events = bench.train(1)
        for group in TANH.groups:
            for axis, masks in ((group.columns[0], now), (group.weight, last)):
                if (mask := masks.get(group.layer)) is not None:
                    gradient = bench.view().gradients[axis.name]
                    reached = axis.total(gradient.abs(), gradient.ndim, group.width) > 0
                    assert bool((reached | ~mask).all()), (
                        f"{axis.name} of units of {group.layer} gets no gradient again"
                    )
                    seen += 1
        # a unit reset twice in a row has zero outgoing weights again
        fresh = _reset_units(bench, events[0].edits) if events else {}
        last, now = {layer: m & ~fresh.get(layer, torch.zeros_like(m)) for layer, m in now.items()}, fresh
    assert seen, "it never reset a unit"


def _dtypes(treatment: Treatment) -> None:
    """Parameters keep their dtype; running statistics are never kept in half precision."""
    for case in (HALF, DOUBLE):
        bench = Bench(case, treatment)
        bench.train(10)
        assert all(p.dtype == case.dtype for p in bench.parameters().values()), f"on {case.name!r} a dtype changed"
        for key, value in bench.state.items():
            exact = key.endswith("/sorted")  # values of parameters, which are known in their own dtype
            wide = value.dtype == torch.promote_types(case.dtype, torch.float32)
            assert wide or exact, f"on {case.name!r} the state {key} is kept in {value.dtype}"


def _state(treatment: Treatment) -> None:
    """State is a flat mapping of names to contiguous tensors that share no memory, and always the same names."""
    bench = Bench(MLP, treatment)
    names = set(bench.state)
    bench.train(10)
    assert set(bench.state) == names, "the names of the state change while it runs"
    for key, value in bench.state.items():
        assert isinstance(key, str) and type(value) is Tensor, f"state {key!r} is not a plain tensor under a name"
        assert value.is_contiguous() and not value.requires_grad, f"state {key!r} is not contiguous or not detached"
    places = [value.untyped_storage().data_ptr() for value in bench.state.values() if value.numel()]
    assert len(set(places)) == len(places), "two entries of the state share memory"


def _resume(treatment: Treatment) -> None:
    """Saved to bytes, loaded and continued, a run is bit for bit the uninterrupted one."""
    for case in (MLP, CONV):
        bench = Bench(case, treatment)
        bench.train(17)
        buffer = io.BytesIO()
        torch.save(bench.state, buffer)
        buffer.seek(0)
        other = bench.resumed(torch.load(buffer, weights_only=True))
        bench.train(17)
        other.train(17)
        wrong = same(bench.snapshot(), other.snapshot()) or same(bench.state, other.state)
        assert not wrong, f"on {case.name!r} {wrong} differs after resuming"


def _refuses(treatment: Treatment) -> None:
    """A network without unit groups is refused by name, with a reason."""
    if not treatment.needs_units:
        return
    empty = replace(Bench(FROZEN).view(), units=())
    try:
        treatment.plan(empty, treatment.init(empty, treatment.knobs()), treatment.knobs())
    except Refused as refusal:
        assert refusal.component == treatment.name and refusal.why, "the refusal does not say who refuses and why"
    else:
        raise AssertionError("a network without unit groups is not refused")
