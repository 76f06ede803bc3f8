"""Continue a run from a saved state, after a check that it can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from homeostat.core.component import find
from homeostat.core.edits import Edit
from homeostat.core.errors import BadInput, HomeostatError
from homeostat.core.signals import suppressed
from homeostat.core.treatment import Stage, Treatment
from homeostat.shell.edits.apply import apply_edits
from homeostat.shell.edits.undo_log import UndoLog
from homeostat.shell.network import Network
from homeostat.shell.run.applied_treatment import AppliedTreatment
from homeostat.shell.run.controllers import identity, meant_for
from homeostat.shell.run.run import FORMAT, Run
from homeostat.shell.run.settings import Settings
from homeostat.shell.run.treatments import TreatmentRunner, changed_settings
from homeostat.shell.unit_graph.traced_network import TracedNetwork

State = Mapping[str, Any]
Shapes = dict[str, list[Any]]


def check_state(settings: Settings, networks: Sequence[Network], state: Any) -> None:
    """Whether a run of these settings and networks can continue from the state of a saved one.

    Raises:
        BadInput: another format, other networks, treatments, controllers or shapes; nothing was changed.
    """
    if not isinstance(state, Mapping) or "networks" not in state:
        raise BadInput("this is not the state of a run: pass what run.state_dict() returned")
    if state.get("format") != FORMAT:
        why = "a newer Homeostat: upgrade to go on" if state.get("format", 0) > FORMAT else "an older Homeostat"
        raise BadInput(f"the state (format {state.get('format')}) was saved by {why}; this one reads format {FORMAT}")
    names, saved = sorted(n.label for n in networks), sorted(state["networks"])
    if names != saved:
        raise BadInput(f"the state is of networks {saved}, this run has {names}")
    for network in networks:
        _check_network(settings, network, state, state["networks"][network.label])


def continue_run(run: Run, state: State) -> None:
    """Put a run, before its first step, where the saved one was.

    Modules that a treatment had replaced before the first step are replaced again, unless they already are.

    Raises:
        BadInput: see `check_state`; nothing was changed.
    """
    check_state(run.settings, [one.network for one in run.networks], state)
    for one in run.networks:
        replay_edits(one.network, state["networks"][one.network.label], run.settings.seed)
    run.load_state_dict(state)


def _check_network(settings: Settings, network: Network, state: State, saved: State) -> None:
    given = {t.name: t.settings() for t in settings.treatments}
    if not settings.auto and (missing := saved["treatments"]["applied"].keys() - given.keys()):
        raise BadInput(f"the saved run was treated with {', '.join(sorted(missing))}: attach with the same treatments")
    for entry in state["asked"]:
        _check_settings(given.get(entry["name"], {}), entry)
    here = [identity(c) for c in settings.controllers if meant_for(c, network.label)]
    there = [entry["controller"] for entry in saved["controllers"]]
    if here != there:
        raise BadInput(f"the saved run had the controllers {_listed(there)}, this one has {_listed(here)}")
    if (now := len(network.optimizers)) != (then := len(saved["network"]["turns"])):
        raise BadInput(f"the saved run had {then} optimizers, this one has {now}: attach with the same ones")
    check_shapes(network, saved, settings.seed)


def _check_settings(given: State, asked: State) -> None:
    knobs = find("treatment", asked["name"]).knob_specs()
    for name, value in changed_settings(given, asked["settings"]).items():
        if name not in knobs:
            raise BadInput(
                f"{asked['name']}.{name} was {asked['settings'].get(name)!r} in the saved run and cannot become "
                f"{value!r} in the middle of it: only knobs can be changed when a run is resumed"
            )


def _listed(controllers: Sequence[Sequence[str]]) -> str:
    return ", ".join(f"{name} of {knob} by {vital}" for name, knob, vital in controllers) or "none"


def check_shapes(network: Network, saved: Mapping[str, Any], seed: int) -> None:
    """Check that the network has the saved shapes, or has them after the saved run's edits of modules.

    Raises:
        BadInput: neither; the network is as before.
    """
    left = differences(network.shapes(), saved["shapes"])
    if left:
        with suppressed(HomeostatError):  # where the edits do not fit, the shapes below say what differs
            undo = replay_edits(network, saved, seed)
            left = differences(network.shapes(), saved["shapes"])
            undo()
    if left:
        raise BadInput(
            f"the saved network is another one than this {network.name}: {'; '.join(left[:4])}"
            + (f"; and {len(left) - 4} more" if len(left) > 4 else "")
        )


def replay_edits(network: Network, saved: Mapping[str, Any], seed: int) -> Callable[[], None]:
    """Repeat the saved run's edits of modules, unless the network was built with them; returns what undoes them."""
    done: list[UndoLog] = []

    def undo() -> None:
        while done:
            done.pop().undo()

    if saved["traced"] is not None and differences(network.shapes(), saved["shapes"]):
        traces = _traces(TracedNetwork.from_state(saved["traced"]))
        try:
            for treatment in _of_modules(saved):
                edits = _planned(network, traces[0], treatment, seed)
                # the network was traced anew after edits, not after a treatment that planned none
                if edits and len(traces) > 1:
                    traces.pop(0)
                copies, name = network.averaged, treatment.name
                done.append(apply_edits(edits, network.model, network.optimizers, component=name, averaged=copies))
        except BaseException:
            undo()
            raise
    return undo


def differences(here: Shapes, there: Shapes) -> list[str]:
    """In words, how the tensors of two networks differ."""
    said = [f"{name} is {_shape(there[name])} there and missing here" for name in there if name not in here]
    said += [f"{name} is {_shape(here[name])} here and missing there" for name in here if name not in there]
    both = [name for name in there if name in here and list(here[name]) != list(there[name])]
    return said + [f"{name} is {_shape(there[name])} there and {_shape(here[name])} here" for name in both]


def _shape(of: list[Any]) -> str:
    dtype, *shape = of
    return f"{shape} {str(dtype).removeprefix('torch.')}"


def _of_modules(saved: Mapping[str, Any]) -> list[Treatment]:
    """The treatments that had replaced modules."""
    begun = [(find("treatment", n), e["settings"]) for n, e in saved["treatments"]["applied"].items() if e["begun"]]
    return [cls(**settings) for cls, settings in begun if cls.stage == Stage.MODULES]


def _traces(latest: TracedNetwork) -> list[TracedNetwork]:
    """What was known before each of the saved run's replacements of modules, oldest first; the latest comes last."""
    return [*_traces(latest.before), latest] if latest.before is not None else [latest]


def _planned(network: Network, traced: TracedNetwork, treatment: Treatment, seed: int) -> Sequence[Edit]:
    runner = TreatmentRunner(network, seed, dry_run=True, add_entry=lambda entry: None)
    runner.traced = traced
    applied = AppliedTreatment(treatment, treatment.knobs())
    with torch.no_grad():
        return treatment.plan(runner.view(applied, 0, {}), {}, applied.knobs)[0]
