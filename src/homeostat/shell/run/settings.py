"""Settings of a run: vitals, treatments, controllers, and the time budget.

Importing this module, and creating settings that name no component, does not import torch: `homeostat run` leaves that
to the script. Hence the imports inside functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homeostat.core.dial import LEARNING_RATE
from homeostat.core.errors import BadSetting, UnknownName
from homeostat.core.signals import pass_on
from homeostat.sinks import Notifier, RunSink, make_sinks

if TYPE_CHECKING:
    from homeostat.core.component import Component
    from homeostat.core.controller import Controller
    from homeostat.core.dial import Dial, Gauge
    from homeostat.core.treatment import Treatment
    from homeostat.core.vital import Vital

AUTO = "auto"
"""The `--treat` word for the closed loop."""
DEFAULT_BUDGET = 0.02
"""Default share of wall time for measuring."""
START_UP_SECONDS = 1.0
"""Processor time of a run in addition to the budget: for imports, for finding the networks, for start-up readings."""
END_SECONDS = 0.15
"""The part of `START_UP_SECONDS` that is kept for the end of the run: the last diagnosis, the record, the summary."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run, checked when created.

    Args:
        vitals: "default", "all", or the vitals to measure: objects, names, or texts like "dormant-units:tau=0.1". With
            none of them a treated run is not measured.
        treatments: applied from the first step on, each name once.
        controllers: each sets "lr", one of `dials`, or a knob of one of `treatments`.
        dials, gauges: numbers of the user to set and to read, by name; only from code.
        auto: the closed loop chooses treatments.
        budget: share of wall time for measuring, in (0, 1]; `START_UP_SECONDS` may be used in addition.
        every: fixed cadence in optimizer steps for every vital; None lets the budget set it.
        seed: seed of Homeostat's random draws; the script's random streams are not used.
        dry_run: plan edits and print them, but apply none.
        record: folder of run records; None keeps the record in memory.
        quiet: print nothing.
        metrics: read the numbers that the script hands to its logger.
        sinks: where values and alerts are written to, in addition to the record.
        probe: (batch, loss_fn) for vitals that need a fixed batch; only from `attach`.
        twin: a second network that is trained in parallel; only from `attach`.
        tasks: (evaluation items by task, loss_fn) for vitals of past tasks; only from `attach`.

    Raises:
        UnknownName: a vital, controlled treatment or knob does not exist; the nearest are suggested.
        BadSetting: a number is out of range, or a treatment is named twice.
    """

    vitals: str | tuple[str | Vital, ...] = "default"
    treatments: tuple[Treatment, ...] = ()
    controllers: tuple[Controller, ...] = ()
    auto: bool = False
    budget: float = DEFAULT_BUDGET
    every: int | None = None
    seed: int = 0
    dry_run: bool = False
    record: Path | None = None
    quiet: bool = False
    metrics: bool = True
    sinks: tuple[RunSink, ...] = field(default=(), repr=False, compare=False)
    probe: Any = field(default=None, repr=False, compare=False)
    twin: Any = field(default=None, repr=False, compare=False)
    tasks: Any = field(default=None, repr=False, compare=False)
    dials: Mapping[str, Dial] = field(default_factory=dict, repr=False, compare=False)
    gauges: Mapping[str, Gauge] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "vitals", _chosen_vitals(self.vitals))
        object.__setattr__(self, "treatments", tuple(self.treatments))
        object.__setattr__(self, "controllers", tuple(self.controllers))
        if self.record is not None:
            object.__setattr__(self, "record", Path(self.record))
        _check_numbers(self.budget, self.every, self.seed)
        _check_kinds(self.treatments, "treatment")
        _check_kinds(self.controllers, "controller")
        names = [t.name for t in self.treatments]
        if repeated := sorted({n for n in names if names.count(n) > 1}):
            raise BadSetting(f"treatment {repeated[0]!r} is named twice: give it once, with every setting")
        _check_instruments(self.dials, self.gauges)
        for controller in self.controllers:
            among = (*self.treatments, *(_every_treatment() if self.auto else ()))
            _check_controller(controller, among, self.dials, self.gauges)

    @classmethod
    def parse(
        cls,
        *,
        vitals: str = "default",
        treat: Iterable[str] = (),
        control: Iterable[str] = (),
        budget: str = "2%",
        every: int | None = None,
        seed: int = 0,
        dry_run: bool = False,
        record: Path | str | None = None,
        quiet: bool = False,
        metrics: bool = True,
        log: Iterable[str] = (),
        notify: Iterable[str] = (),
    ) -> Settings:
        """Settings from the texts of the command line.

        Args:
            vitals: "default", "all", or names joined by commas.
            treat: texts like "continual-backprop:replacement_rate=1e-4"; "auto" is the closed loop.
            control: texts like "NAME:vital=dormant-units,knob=lr".
            budget: "2%" or "0.02".
            log: texts like "tensorboard" or "tensorboard:DIR".
            notify: addresses of apprise.
        """
        return cls(
            **chosen(map(str.strip, treat), control),
            vitals=vitals if vitals in ("default", "all") else tuple(filter(None, map(str.strip, vitals.split(",")))),
            budget=parse_budget(budget),
            every=every,
            seed=seed,
            dry_run=dry_run,
            record=None if record is None else Path(record),
            quiet=quiet,
            metrics=metrics,
            sinks=sinks_for(log, notify),
        )

    def selected_vitals(self) -> tuple[Vital, ...]:
        """The requested vitals, in order of name (or in the given order).

        Vitals that read evaluation items of tasks are measured by default only if there are any.
        """
        from homeostat.core.component import components, find
        from homeostat.core.snapshot import Reading

        if not isinstance(self.vitals, str):
            return tuple(find("vital", vital)() if isinstance(vital, str) else vital for vital in self.vitals)
        chosen = components("vital").values()
        if self.tasks is None:
            chosen = [cls for cls in chosen if self.vitals == "all" or Reading.TASKS not in cls.reads]
        without = set() if self.twin is not None else {Reading.TWIN}  # by default, a vital that reads one needs one
        return tuple(cls() for cls in chosen if self.vitals == "all" or (cls.default and not cls.reads & without))

    def to_json(self) -> dict[str, Any]:
        """The settings in the record: everything that determines the measurements and actions."""
        return {
            "vitals": self.vitals
            if isinstance(self.vitals, str)
            else [vital if isinstance(vital, str) else _component_json(vital) for vital in self.vitals],
            "treatments": [_component_json(t) for t in self.treatments],
            "controllers": [_component_json(c) for c in self.controllers],
            "auto": self.auto,
            "budget": self.budget,
            "start_up_seconds": START_UP_SECONDS if self.every is None else 0.0,
            "every": self.every,
            "seed": self.seed,
            "dry_run": self.dry_run,
            "metrics": self.metrics,
            **({"sinks": [sink.name for sink in self.sinks]} if self.sinks else {}),
            "probe": self.probe is not None,
            **({"twin": True} if self.twin is not None else {}),
            **({"tasks": True} if self.tasks is not None else {}),
            **({"dials": sorted(self.dials)} if self.dials else {}),
            **({"gauges": sorted(self.gauges)} if self.gauges else {}),
        }


def sinks_for(log: str | RunSink | Iterable[str | RunSink], notify: str | Iterable[str]) -> tuple[RunSink, ...]:
    """The sinks of a run from trackers and addresses.

    Raises:
        UnknownName, BadSetting: a tracker or an address cannot be used; the message says why.
    """
    addresses = [notify] if isinstance(notify, str) else list(notify)
    return (*make_sinks(log), *((Notifier(addresses),) if addresses else ()))


def parse_budget(text: str) -> float:
    """`2%` or `0.02` -> 0.02.

    Raises:
        BadSetting: not a share of wall time in (0, 100%].
    """
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if number != text.strip() else 1)
    except ValueError as error:
        pass_on(error)
        raise BadSetting(f"budget: cannot read {text!r}; write a share of wall time like 2% or 0.02") from None
    return _checked_budget(value, text)


def _checked_budget(value: float, shown: object) -> float:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and 0 < value <= 1):
        raise BadSetting(f"budget must be a share of wall time above 0 and at most 100% (like 2%), got {shown!r}")
    return value


def _check_numbers(budget: float, every: int | None, seed: int) -> None:
    _checked_budget(budget, budget)
    if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        raise BadSetting(f"every must be a whole number of optimizer steps, at least 1, got {every!r}")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise BadSetting(f"seed must be a whole number, at least 0, got {seed!r}")


def _check_kinds(given: tuple[Component, ...], kind: str) -> None:
    for item in given:
        if getattr(item, "kind", None) != kind or isinstance(item, type):
            raise BadSetting(f"{kind}s must be {kind} objects, got {item!r}; a text is read by Settings.parse")


def _chosen_vitals(vitals: str | Iterable[str | Vital]) -> str | tuple[str | Vital, ...]:
    """The words "default" and "all" unchanged; else registered names and vitals, each once.

    Raises:
        BadSetting: a vital is given with two settings, or something is not a vital.
    """
    if isinstance(vitals, str) and vitals in ("default", "all"):
        return vitals
    from homeostat.core.component import build

    found: dict[str, str | Vital] = {}
    for given in (vitals,) if isinstance(vitals, str) else vitals:
        vital: Vital = build("vital", given) if isinstance(given, str) else given
        _check_kinds((vital,), "vital")
        known = vital.name if isinstance(given, str) and ":" not in given else vital
        if found.setdefault(vital.name, known) != known:
            raise BadSetting(f"vital {vital.name!r} is named twice: give it once, with every setting")
    return tuple(found.values())


def _every_treatment() -> list[Treatment]:
    from homeostat.core.component import components

    return [cls() for cls in components("treatment").values()]


def chosen(treatments: Iterable[Treatment | str], controllers: Iterable[Controller | str]) -> dict[str, Any]:
    """Settings for treatments and controllers, some of them given as texts; "auto" may be among the treatments.

    Raises:
        UnknownName, BadSetting: a text names no component, or has a wrong setting.
    """
    given = list(treatments)
    return {
        "treatments": tuple(_made("treatment", item) for item in given if item != AUTO),
        "controllers": tuple(_made("controller", item) for item in controllers),
        "auto": AUTO in given,
    }


def _made(kind: str, given: Any) -> Any:
    if not isinstance(given, str):
        return given
    from homeostat.core.component import build, components

    try:
        return build(kind, given)
    except UnknownName as error:
        pass_on(error)
        if kind == "treatment" and given.partition(":")[0].strip() == error.name:
            raise UnknownName(kind, error.name, [*components(kind), AUTO]) from None
        raise


def _check_instruments(dials: Mapping[str, Dial], gauges: Mapping[str, Gauge]) -> None:
    if not dials and not gauges:
        return
    from homeostat.core.component import components
    from homeostat.core.dial import Dial, check_names

    check_names("dial", dials, {LEARNING_RATE: "the learning rate"}, lambda value: isinstance(value, Dial))
    taken = {name: "a vital" for name in components("vital")} | {"knob": "what knobs are recorded under"}
    check_names("gauge", gauges, taken, callable)


def _check_controller(
    controller: Controller,
    treatments: tuple[Treatment, ...],
    dials: Mapping[str, Dial],
    gauges: Mapping[str, Gauge],
) -> None:
    """Check that its vital or gauge exists, and that its knob is the learning rate, a dial, or a treatment's."""
    from homeostat.core.component import components
    from homeostat.core.treatment import Stage

    vital = controller.vital.partition("@")[0]
    if not vital:
        raise BadSetting(f"{controller.name}: say which vital it reads, like {controller.name}:vital=dormant-units")
    if vital not in gauges and vital not in (vitals := components("vital")):
        raise UnknownName("vital", vital, [*vitals, *gauges])
    turned = [
        t for t in treatments if t.stage != Stage.MODULES
    ]  # modules are edited once, with the knobs of that moment
    knobs = {f"{t.name}.{knob}" for t in turned for knob in t.knob_specs()} | {LEARNING_RATE, *dials}
    if not controller.knob:
        raise BadSetting(f"{controller.name}: name the knob to set with knob=NAME; here: {', '.join(sorted(knobs))}")
    if controller.knob not in knobs:
        raise UnknownName("knob or dial (of this run)", controller.knob, knobs)


def _component_json(component: Component) -> dict[str, Any]:
    return {"name": component.name, "settings": component.settings()}
