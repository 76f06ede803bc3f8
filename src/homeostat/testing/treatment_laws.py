"""The laws of a treatment, checked on the grid with edits applied by the shell."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, wraps
from typing import Any

import torch
from torch import Tensor

from homeostat.core.errors import Refused
from homeostat.core.treatment import Stage, State, Treatment
from homeostat.shell.run.compatibility import OPENED_BY
from homeostat.testing import awkward_laws, engine_laws, grid_runs, reset_laws, trace_laws, two_processes
from homeostat.testing import common_laws as facts
from homeostat.testing.binding import Check, bound, statements
from homeostat.testing.fleet_law import lifts
from homeostat.testing.grid import CONV, DOUBLE, FROZEN, HALF, MLP, Case, suited
from homeostat.testing.law import DoesNotApply, Law
from homeostat.testing.loop_styles import ways
from homeostat.testing.mini_run import Bench, frozen, same, trial_of
from homeostat.testing.trajectories import one_trajectory

IDENTITY_STEPS = 10
_UNTREATED: dict[str, dict[str, Tensor]] = {}


class Subject:
    """A treatment with its own settings, with its `trial` settings, and its runs on the grid."""

    def __init__(self, treatment: Treatment, thorough: bool) -> None:
        self.own, self.thorough = treatment, thorough

    @cached_property
    def trial(self) -> Treatment:
        return trial_of(self.own)

    @cached_property
    def runs(self) -> grid_runs.GridRuns:
        return grid_runs.GridRuns(self.trial, self.thorough)


def laws_for(treatment: Treatment, thorough: bool = False) -> list[Law]:
    """Every law that a treatment must satisfy, with its own settings and with its `trial` settings."""
    subject = Subject(treatment, thorough)
    return bound(TABLE, lambda: subject)


def laws_of_kind() -> dict[str, str]:
    """Name -> statement of every law of a treatment."""
    return statements(TABLE)


def _of(view: str, check: Callable[[Any], None]) -> Check:
    """The check, given this view of the subject."""

    @wraps(check)
    def law(subject: Subject) -> None:
        check(getattr(subject, view))

    return law


def _states_facts(treatment: Treatment) -> None:
    """It states the stage at which it acts, and its effect on the optimizer state."""
    assert isinstance(treatment.stage, Stage), f"stage {treatment.stage!r} is not one of {', '.join(Stage)}"
    assert treatment.optimizer_state, "it does not state its effect on the optimizer state"


def _identity(treatment: Treatment) -> None:
    """At neutral knobs, parameters, buffers and optimizer state equal those of the untreated run bit for bit."""
    neutral = treatment.neutral()
    assert neutral is not None, "no knob has a neutral value"
    values = {name: getattr(neutral, name) for name, spec in neutral.knob_specs().items() if spec.neutral is not None}
    off = replace(treatment, **{**{k: v for k, v in treatment.trial.items() if k not in values}, **values})
    for treated in grid_runs.benches(off):
        treated.train(IDENTITY_STEPS)
        found, untreated = treated.snapshot(), _untreated(treated.case)
        if treatment.stage == Stage.MODULES:  # inserted tensors have no counterpart
            found = {name: value for name, value in found.items() if name in untreated}
        wrong = same(untreated, found)
        assert not wrong, f"on {treated.case.name!r} {wrong} differs from the untreated run"


def _untreated(case: Case) -> dict[str, Tensor]:
    """The result of the untreated run. It is the same for every treatment, so it is cached."""
    if case.name not in _UNTREATED:
        plain = Bench(case)
        plain.train(IDENTITY_STEPS)
        _UNTREATED[case.name] = plain.snapshot()
    return _UNTREATED[case.name]


def _pure(treatment: Treatment) -> None:
    """Planning twice gives the same edits; view, state, knobs and torch's global random state do not change."""
    for case in (MLP, CONV):
        bench = Bench(suited(case, treatment), treatment, adam=False)
        for _ in range(14):
            bench.train(1)
            view, state = bench.view(), dict(bench.state)
            kept_view, kept_state, kept_knobs = frozen(view), _copied(state), _copied(bench.knobs)
            random = torch.get_rng_state()
            edits, after = treatment.plan(view, state, bench.knobs)
            again, after_again = treatment.plan(view, state, bench.knobs)
            assert torch.equal(random, torch.get_rng_state()), "planning moves torch's global random state"
            assert not same(state, kept_state), "planning modifies the given state"
            assert not same(bench.knobs, kept_knobs), "planning modifies the knobs"
            for table in ("parameters", "buffers", "gradients", "before", "activations", "initial"):
                wrong = same(getattr(view, table), getattr(kept_view, table))
                assert not wrong, f"planning modifies {wrong} of the view's {table}"
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


def _dtypes(treatment: Treatment) -> None:
    """Parameters keep their dtype; running statistics are never kept in half precision."""
    for case in (suited(HALF, treatment), suited(DOUBLE, treatment)):
        bench = Bench(case, treatment)
        bench.train(10)
        assert all(p.dtype == case.dtype for p in bench.parameters().values()), f"on {case.name!r} a dtype changed"
        for key, value in bench.state.items():
            exact = key.endswith("/sorted")  # stored values of parameters have the dtype of the parameter
            if not value.is_floating_point():
                continue
            wide = value.dtype == torch.promote_types(case.dtype, torch.float32)
            assert wide or exact, f"on {case.name!r} the state {key} is kept in {value.dtype}"


def _state(treatment: Treatment) -> None:
    """Its state is a flat mapping of names to contiguous tensors that share no memory; the names never change."""
    bench = Bench(suited(MLP, treatment), treatment)
    names = set(bench.state)
    bench.train(10)
    assert set(bench.state) == names, "the names of the state change while it runs"
    for key, value in bench.state.items():
        assert isinstance(key, str) and type(value) is Tensor, f"state {key!r} is not a plain tensor under a name"
        assert value.is_contiguous() and not value.requires_grad, f"state {key!r} is not contiguous or not detached"
    places = [value.untyped_storage().data_ptr() for value in bench.state.values() if value.numel()]
    assert len(set(places)) == len(places), "two entries of the state share memory"


def _resume(treatment: Treatment) -> None:
    """A run that is saved to bytes, loaded and continued equals the uninterrupted run bit for bit."""
    for case in (suited(MLP, treatment), suited(CONV, treatment)):
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
    """A network without the unit groups or the batch normalisation that it needs is refused, with its name and a
    reason."""
    if not (treatment.needs_units or treatment.needs_batch_norm):
        raise DoesNotApply("it needs no units and no norms, so there is nothing to refuse")
    empty = replace(Bench(FROZEN).view(), units=())
    try:
        treatment.plan(empty, treatment.init(empty, treatment.knobs()), treatment.knobs())
    except Refused as refusal:
        assert refusal.component == treatment.name and refusal.why, (
            "the refusal does not name the treatment and a reason"
        )
    else:
        lacking = "unit groups" if treatment.needs_units else "batch normalisation"
        raise AssertionError(f"a network without {lacking} is not refused")


@wraps(one_trajectory)
def _one_trajectory(subject: Subject) -> None:
    if subject.own.stage in OPENED_BY:
        raise DoesNotApply(f"it acts where the loop calls {OPENED_BY[subject.own.stage]}, in every loop style")
    one_trajectory(subject.trial, ways(subject.thorough))


@wraps(awkward_laws.any_network)
def _any_network(subject: Subject) -> None:
    awkward_laws.any_network(subject.trial, subject.thorough)


@wraps(two_processes.resumes_elsewhere)
def _another_process(subject: Subject) -> None:
    if not subject.thorough:
        raise DoesNotApply("checked only with --thorough")
    two_processes.resumes_elsewhere(subject.trial)


_OWN: dict[str, Check] = {
    **facts.COMMON,
    "settings are plain": facts.settings_are_plain,
    "stage and optimizer state stated": _states_facts,
    "identity": _identity,
}
_RUNS: dict[str, Check] = {"acts": grid_runs.acts, "effect": grid_runs.effect, "finite": grid_runs.finite}
_TRIAL: dict[str, Check] = {
    "pure": _pure,
    "moments cleared": reset_laws.moments_cleared,
    "function preserved": reset_laws.function_preserved,
    "learns again": reset_laws.learns_again,
    "dtypes": _dtypes,
    "state": _state,
    "resume": _resume,
    "lifts": lifts,
    "refuses": _refuses,
    "treats when attached": engine_laws.treats_when_attached,
    "resumes when attached": engine_laws.resumes,
    "usable while treated": trace_laws.usable_while_treated,
    "copies are left alone": trace_laws.copies_are_left_alone,
    "no trace": trace_laws.no_trace,
    "awkward batches": awkward_laws.awkward_batches,
    "NaN batch": awkward_laws.nan_batch,
}
TABLE: dict[str, Check] = {
    name: _of(view, check)
    for view, laws in (("own", _OWN), ("runs", _RUNS), ("trial", _TRIAL))
    for name, check in laws.items()
} | {
    "one trajectory": _one_trajectory,
    "any network": _any_network,
    "resumes in another process": _another_process,
}
"""Every law of a treatment."""
