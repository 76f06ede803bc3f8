"""What a run was asked to do: measured vitals, treatments, controllers, and how much time may be spent on it.

Importing this, and making settings that name no component, imports no torch: `homeostat run` must leave that to the
script. Hence the imports inside functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homeostat.core.errors import BadSetting, UnknownName

if TYPE_CHECKING:
    from homeostat.core.component import Component
    from homeostat.core.controller import Controller
    from homeostat.core.dial import Dial, Gauge
    from homeostat.core.treatment import Treatment
    from homeostat.core.vital import Vital

AUTO = "auto"
"""The `--treat` word for the closed loop."""
DEFAULT_BUDGET = 0.02
"""Share of wall time spent measuring unless told otherwise."""
LEARNING_RATE = "lr"
"""The dial that every run has: that of the user's optimizer."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one run, checked when made.

    Args:
        vitals: "default", "all", or the names of the vitals to measure (none: a treated run that is not measured).
        treatments: applied from the first step on, each name once.
        controllers: each turns "lr", one of `dials`, or a knob of one of `treatments`.
        dials, gauges: the user's own numbers to turn and to read, by name; only from code.
        auto: the closed loop chooses treatments by itself.
        budget: share of wall time that measuring may take, in (0, 1].
        every: fixed cadence in optimizer steps for every vital; None lets the budget set it.
        seed: of Homeostat's own randomness; the script's random streams are never touched.
        dry_run: plan edits and print them, apply none.
        record: folder of run records; None keeps the record in memory.
        quiet: print nothing.
        probe: (batch, loss_fn) for vitals that need a fixed batch; only from `attach`, where the batch is at hand.
        twin: a second network that is trained beside this one; only from `attach`.
        tasks: (evaluation items by task, loss_fn) for vitals that follow what was learned; only from `attach`.

    Raises:
        UnknownName: a vital, controlled treatment or knob that does not exist; the nearest are suggested.
        BadSetting: a number out of range, or a treatment named twice.
    """

    vitals: str | tuple[str, ...] = "default"
    treatments: tuple[Treatment, ...] = ()
    controllers: tuple[Controller, ...] = ()
    auto: bool = False
    budget: float = DEFAULT_BUDGET
    every: int | None = None
    seed: int = 0
    dry_run: bool = False
    record: Path | None = None
    quiet: bool = False
    probe: Any = field(default=None, repr=False, compare=False)
    twin: Any = field(default=None, repr=False, compare=False)
    tasks: Any = field(default=None, repr=False, compare=False)
    dials: Mapping[str, Dial] = field(default_factory=dict, repr=False, compare=False)
    gauges: Mapping[str, Gauge] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "vitals", _vital_names(self.vitals))
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
    ) -> Settings:
        """Settings from the texts of the command line.

        Args:
            vitals: "default", "all", or names joined by commas.
            treat: texts like "continual-backprop:replacement_rate=1e-4"; "auto" is the closed loop.
            control: texts like "NAME:vital=dormant-units,knob=lr".
            budget: "2%" or "0.02".
        """
        texts = [text.strip() for text in treat]
        return cls(
            vitals=vitals if vitals in ("default", "all") else tuple(filter(None, map(str.strip, vitals.split(",")))),
            treatments=tuple(_treatment(text) for text in texts if text != AUTO),
            controllers=tuple(_build("controller", text) for text in control),
            auto=AUTO in texts,
            budget=parse_budget(budget),
            every=every,
            seed=seed,
            dry_run=dry_run,
            record=None if record is None else Path(record),
            quiet=quiet,
        )

    @property
    def treats(self) -> bool:
        """Whether the run may be changed at all (`dry_run` aside)."""
        return bool(self.treatments or self.controllers or self.auto)

    def selected_vitals(self) -> tuple[Vital, ...]:
        """The vitals asked for, made, in order of name (or in the order named).

        What reads evaluation items of tasks is measured by default only where there are any.
        """
        from homeostat.core.component import components, find
        from homeostat.core.readings import Reading

        if not isinstance(self.vitals, str):
            return tuple(find("vital", name)() for name in self.vitals)
        chosen = components("vital").values()
        if self.tasks is None:
            chosen = [cls for cls in chosen if self.vitals == "all" or Reading.TASKS not in cls.reads]
        without = set() if self.twin is not None else {Reading.TWIN}  # by default, what reads one needs one
        return tuple(cls() for cls in chosen if self.vitals == "all" or (cls.default and not cls.reads & without))

    def to_json(self) -> dict[str, Any]:
        """What the record keeps: everything that decides what was measured and done."""
        return {
            "vitals": self.vitals if isinstance(self.vitals, str) else list(self.vitals),
            "treatments": [_component_json(t) for t in self.treatments],
            "controllers": [_component_json(c) for c in self.controllers],
            "auto": self.auto,
            "budget": self.budget,
            "every": self.every,
            "seed": self.seed,
            "dry_run": self.dry_run,
            "probe": self.probe is not None,
            **({"twin": True} if self.twin is not None else {}),
            **({"tasks": True} if self.tasks is not None else {}),
            **({"dials": sorted(self.dials)} if self.dials else {}),
            **({"gauges": sorted(self.gauges)} if self.gauges else {}),
        }


def parse_budget(text: str) -> float:
    """`2%` or `0.02` -> 0.02.

    Raises:
        BadSetting: not a share of wall time in (0, 100%].
    """
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if number != text.strip() else 1)
    except ValueError:
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


def _vital_names(vitals: str | Iterable[str]) -> str | tuple[str, ...]:
    """The words "default" and "all" as they are; names resolved to how the registry spells them, each once."""
    if isinstance(vitals, str) and vitals in ("default", "all"):
        return vitals
    from homeostat.core.component import find

    given = (vitals,) if isinstance(vitals, str) else tuple(vitals)
    return tuple(dict.fromkeys(find("vital", name).name for name in given))


def _every_treatment() -> list[Treatment]:
    from homeostat.core.component import components

    return [cls() for cls in components("treatment").values()]


def _build(kind: str, text: str) -> Any:
    from homeostat.core.component import build

    return build(kind, text)


def _treatment(text: str) -> Treatment:
    try:
        return _build("treatment", text)
    except UnknownName as error:
        from homeostat.core.component import components

        if text.partition(":")[0].strip() == error.name:
            raise UnknownName("treatment", error.name, [*components("treatment"), AUTO]) from None
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
    """Its vital or gauge exists, and its knob is the learning rate, a dial, or of a treatment of this run."""
    from homeostat.core.component import components
    from homeostat.core.treatment import Stage

    vital = controller.vital.partition("@")[0]
    if not vital:
        raise BadSetting(f"{controller.name}: say which vital it reads, like {controller.name}:vital=dormant-units")
    if vital not in gauges and vital not in (vitals := components("vital")):
        raise UnknownName("vital", vital, [*vitals, *gauges])
    turned = [t for t in treatments if t.stage != Stage.SURGERY]  # surgery is done once, with the knobs of that moment
    knobs = {f"{t.name}.{knob}" for t in turned for knob in t.knob_specs()} | {LEARNING_RATE, *dials}
    if not controller.knob:
        raise BadSetting(f"{controller.name}: say which knob it turns with knob=NAME; here: {', '.join(sorted(knobs))}")
    if controller.knob not in knobs:
        raise UnknownName("knob or dial (of this run)", controller.knob, knobs)


def _component_json(component: Component) -> dict[str, Any]:
    return {"name": component.name, "settings": component.settings()}
