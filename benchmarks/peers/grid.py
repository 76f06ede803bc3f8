"""The checks by name, and a function that runs all of them on one method."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from . import checks_reset as reset
from . import checks_run as run
from .checks_reset import NoReset
from .method import Method, Outcome

UNITS, ALL, MODULES = ("units",), ("units", "weights"), ("modules",)


@dataclass(frozen=True)
class Check:
    """A named check; `kinds` are the kinds of methods that it applies to."""

    name: str
    title: str
    ask: Callable[[Method], Outcome]
    kinds: tuple[str, ...]


CHECKS = (
    Check("incoming", "incoming weights are fresh after the step", reset.incoming, UNITS),
    Check("outgoing", "outgoing weights are zero after the step", reset.outgoing, UNITS),
    Check("moments-adam", "Adam's moments are cleared", reset.moments_adam, UNITS),
    Check("moments-sgd", "SGD's momentum is cleared", reset.moments_sgd, UNITS),
    Check("gradients", "gradients of the step are untouched", reset.gradients, UNITS),
    Check("output-layer", "output units are never reset", reset.output_layer, UNITS),
    Check("conv", "conv → flatten → linear", reset.conv, UNITS),
    Check("branches", "two consumers", reset.branches, UNITS),
    Check("tied", "tied weights", reset.tied, UNITS),
    Check("attention", "q, k, v, o", reset.attention, UNITS),
    Check("norms", "norm parameters and statistics start anew", reset.norms, UNITS),
    Check("function", "dead units reset: function kept", reset.function_kept, UNITS),
    Check("new-parameters", "new parameters train", run.new_parameters, MODULES),
    Check("target-network", "deep copy as target network", run.target_network, ALL),
    Check("pickles", "pickles in mid-training", run.pickles, ALL),
    Check("no-trace", "taken off without trace", run.no_trace, ALL),
    Check("accumulation", "gradient accumulation", run.accumulation, ALL),
    Check("closure", "step(closure)", run.closure, ALL),
    Check("scaler", "GradScaler", run.scaler, ALL),
    Check("skipped-step", "a step skipped by GradScaler", run.skipped_step, ALL),
    Check("resume", "saved and resumed bit-exact", run.resume, ALL),
    Check("users-randomness", "user's random streams untouched", run.users_randomness, ALL),
    Check("same-seed", "same seed, same run", run.same_seed, ALL),
)


def put(check: Check, method: Method) -> Outcome:
    """Run one check on a method; an error raised by the method counts as its refusal."""
    if method.kind not in check.kinds:
        return Outcome(Outcome.NOT_APPLICABLE, f"not asked of a method that works on {method.kind}")
    if check.name in method.not_for:
        return Outcome(Outcome.NOT_APPLICABLE, method.not_for[check.name])
    try:
        outcome = check.ask(method)
    except NoReset as nothing:
        return Outcome(Outcome.NOT_APPLICABLE, str(nothing))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(f"{error}".split())
        said = f"{type(error).__name__}: {text.split('. ')[0][:160] or place.line}"
        refused = check.name in REFUSABLE and not isinstance(error, ACCIDENTS)
        return Outcome(Outcome.REFUSED if refused else Outcome.RAISES, said)
    if outcome.result == Outcome.FAIL and (reason := method.by_design.get((check.name, outcome.tag))):
        return Outcome(Outcome.BY_DESIGN, f"{outcome.evidence}; {reason}")
    return outcome


REFUSABLE = frozenset(
    {
        "moments-sgd",
        "output-layer",
        "conv",
        "branches",
        "tied",
        "attention",
        "norms",
        "accumulation",
        "closure",
        "scaler",
    }
)
"""Checks for which a refusal is a valid result: optimizers, networks and loops that a method does not support."""

ACCIDENTS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError)
"""Errors that are not deliberate refusals, but stop the run too."""


def put_all(method: Method) -> dict[str, Outcome]:
    """Every check, by name."""
    return {check.name: put(check, method) for check in CHECKS}
