"""Write docs/components.md from the components themselves. With --check: only say whether it is up to date."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path

from pages import keep

from homeostat.core.component import Component, cites, components, kinds

PAGE = Path(__file__).resolve().parents[1] / "docs" / "components.md"
HEAD = """# Components

Everything that is registered, by kind. This page is written by `make evidence` from the components themselves: their
docstrings, citations, knobs (numbers that may be turned while the run goes on) and options (fixed choices).
"""
UNLIMITED = 1e30
USE = {
    "vital": "homeostat run --vitals {name} train.py",
    "treatment": "homeostat run --treat {name}{setting} train.py",
    "controller": "homeostat run --control {name}:vital=gradient-norm,knob=lr train.py",
    "study": "homeostat study {name}",
}
TITLES = {
    "condition": ("Conditions", "A condition is a rule over vitals that names a finding."),
    "controller": ("Controllers", "A controller reads a vital and turns a knob."),
    "objective": ("Objectives", "An objective is a loss, advantage or reward transform."),
    "curve": ("Curves", "A curve is a family that is fitted and forecasts, with an interval."),
    "stream": ("Streams", "A stream is a problem that changes, with known change points."),
    "study": ("Studies", "A study runs a paper's claim in miniature and gives a verdict."),
    "treatment": ("Treatments", "A treatment is an intervention on training, planned as edits."),
    "vital": ("Vitals", "A vital is a measurement of a run."),
}


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(section(kind) for kind in kinds())]).rstrip() + "\n"


def section(kind: str) -> str:
    title, what = TITLES.get(kind, (kind.capitalize() + "s", ""))
    ours = [c for c in components(kind).values() if c.__module__.startswith("homeostat.")]
    return "\n".join([f"## {title}\n", what, "", *(card(c) for c in ours)])


def card(component: type[Component]) -> str:
    """One component: what it does, on whose word, how it is called, what can be set."""
    lines = [f"### `{component.name}`", "", first_paragraph(component), ""]
    if component.kind == "vital":
        lines += [facts_of_vital(component), ""]
    lines += [f"- {cite}" for cite in cites(component)]
    lines += [f"- Law `{law}` is not satisfied: {reason}" for law, reason in component.declared.items()]
    if component.kind in USE:
        setting = next((f":{f.name}={plain(f.default)}" for f in settings(component) if "knob" in f.metadata), "")
        lines += ["", "```", USE[component.kind].format(name=component.name, setting=setting), "```"]
    return "\n".join([*lines, "", *table(component)])


def first_paragraph(component: type[Component]) -> str:
    text = re.split(r"\n\s*\n", inspect.cleandoc(component.__dict__.get("__doc__") or "(no description)"))[0]
    return " ".join(text.split())


def facts_of_vital(component: type) -> str:
    low, high = (plain(float(bound)) for bound in component.range)
    needs = ", ".join(sorted(str(reading) for reading in component.reads))
    return (
        f"Range {low} to {high}; worse when {component.worse}; counts {component.unit or 'nothing'}; "
        f"cost {component.cost}; reads {needs}; {'on by default' if component.default else 'on request'}."
    ).replace("worse when neither", "no direction is worse")


def settings(component: type[Component]) -> list[dataclasses.Field]:
    return [f for f in dataclasses.fields(component) if f.metadata]


def table(component: type[Component]) -> list[str]:
    rows = [row(f) for f in settings(component)]
    return ["| setting | default | accepts | source |", "|---|---|---|---|", *rows, ""] if rows else []


def row(spec: dataclasses.Field) -> str:
    if (knob := spec.metadata.get("knob")) is not None:
        cells = [f"{interval(knob.low, knob.high)}{f' ({knob.unit})' if knob.unit else ''}", knob.source]
    else:
        choices = spec.metadata.get("choices") or ()
        cells = [", ".join(map(plain, choices)) or type_name(spec.default), spec.metadata.get("doc", "")]
    return " | ".join([f"| `{spec.name}`", plain(spec.default), *(c.replace("|", "\\|") for c in cells)]) + " |"


def interval(low: float, high: float) -> str:
    if high < UNLIMITED:
        return f"{plain(float(low))} to {plain(float(high))}" if low > -UNLIMITED else f"at most {plain(float(high))}"
    return f"at least {plain(float(low))}" if low > -UNLIMITED else "any number"


def type_name(default: object) -> str:
    names = {bool: "True, False", int: "a whole number", float: "a number", str: "a name or text"}
    return names.get(type(default), "see its docstring")


def plain(value: object) -> str:
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < UNLIMITED else "no limit"
    return "none" if value in ("", None) else str(value)


if __name__ == "__main__":
    sys.exit(keep(PAGE, page(), "evidence"))
