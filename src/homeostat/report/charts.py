"""Data of the page's plots: one chart per vital, and the marks along the step axis."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from homeostat.diagnosis.history import LOGGED
from homeostat.report.descriptions import Meaning
from homeostat.report.downsampling import (
    Line,
    as_line,
    decades,
    kept,
    lines_per_chart,
    points_per_line,
    worst_first,
)
from homeostat.report.formatting import figure

SHOWN = 6
"""Number of lines that a chart shows by default."""
GROUPS = {"vitals": "Vitals", "logged": "Logged metrics", "knobs": "Knobs"}
"""Groups of charts, in the order of the page, with their headings."""

_LOGGED = Meaning("A number that the script gave to its logger.")
_KNOB = Meaning("A setting that a controller turns.")


def meaning_of(vital: str, meanings: Mapping[str, Meaning]) -> Meaning:
    """What a series of the record means."""
    return meanings.get(vital, _LOGGED if vital.startswith(LOGGED) else _KNOB if vital == "knob" else Meaning())


def group_of(vital: str) -> str:
    """The group of charts to which a series belongs."""
    return "logged" if vital.startswith(LOGGED) else "knobs" if vital == "knob" else "vitals"


def chart_heads(
    layout: Mapping[str, Collection[str]], meanings: Mapping[str, Meaning], first: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """What is known of every chart without its values, in the order of the page.

    Args:
        layout: vital -> layers.
        meanings: vital -> what it means.
        first: vitals to put first, in this order.
    """
    order = sorted(layout, key=lambda name: first.index(name) if name in first else len(first))
    groups = list(GROUPS)
    heads = []
    for name in sorted(order, key=lambda name: groups.index(group_of(name))):
        meaning = meaning_of(name, meanings)
        heads.append(
            {
                "id": f"vital-{name}",
                "name": name,
                "group": group_of(name),
                "unit": "" if meaning.unit == name else meaning.unit,
                "worse": meaning.worse,
                "line": meaning.line,
                "layers": list(layout[name]),
            }
        )
    return heads


def chart_body(
    name: str,
    layers: Mapping[str, Line],
    meaning: Meaning,
    colours: Mapping[str, int],
    named: Collection[str] = (),
    drawn: int = 10**9,
    most: int = 10**9,
) -> dict[str, Any]:
    """The values of a chart: its lines, worst layers first, with axis, notes and a table.

    Args:
        name: the vital.
        layers: layer -> line.
        meaning: what the vital means.
        colours: layer -> number of its colour.
        named: layers that are put first.
        drawn: maximum number of lines.
        most: maximum number of points of a line.
    """
    span = 0.0 if meaning.bounded else decades(layers)
    log = span > 2
    order = worst_first(layers, meaning.worse, named)
    return {
        "log": log,
        "decades": span if log else 0.0,
        "lines": [_drawn(layer, layers[layer], colours.get(layer, 0), most, log) for layer in order[:drawn]],
        "summary": [_summary(layer, layers[layer]) for layer in order[:drawn]],
        "notes": _notes(layers, log, most, drawn),
        "reading": _reading(name, order[0], layers[order[0]]) if order else "",
    }


def vital_charts(
    vitals: Mapping[str, Mapping[str, Any]],
    meanings: Mapping[str, Meaning],
    first: Sequence[str] = (),
    named: Collection[str] = (),
) -> list[dict[str, Any]]:
    """One chart per vital with everything that a page can hold; see `chart_heads` and `chart_body`."""
    colours = line_colours(vitals)
    lines = sum(len(layers) for layers in vitals.values())
    drawn = lines_per_chart(lines, len(vitals))
    most = points_per_line(min(lines, drawn * len(vitals)))
    charts = []
    for head in chart_heads(vitals, meanings, first):
        name = head["name"]
        layers = {layer: as_line(points) for layer, points in vitals[name].items()}
        charts.append(head | chart_body(name, layers, meaning_of(name, meanings), colours, named, drawn, most))
    return charts


def line_colours(layout: Mapping[str, Collection[str]]) -> dict[str, int]:
    """Layer -> number of its colour, the same in all charts."""
    layers = dict.fromkeys(layer for own in layout.values() for layer in own)
    return {layer: i for i, layer in enumerate(layers)}


def _drawn(layer: str, line: Line, colour: int, most: int, log: bool) -> dict[str, Any]:
    at = kept(line.values, most)
    values = line.values[at]
    seen = np.isfinite(values) & ((values > 0) | (not log))
    return {
        "layer": layer,
        "colour": colour,
        "x": line.steps[at].tolist(),
        "y": [float(f"{v:.6g}") if ok else None for v, ok in zip(values.tolist(), seen.tolist(), strict=True)],
        "infinite": line.steps[np.isinf(line.values)][:200].tolist(),
    }


def _summary(layer: str, line: Line) -> list[str]:
    known = line.values[~np.isnan(line.values)]
    if not len(known):
        return [layer, "-", "-", "-", "-", f"0 of {len(line.values):,}"]
    shown = [figure(float(v)) for v in (known[0], known[-1], known.min(), known.max())]
    return [layer, *shown, f"{len(known):,} of {len(line.values):,}"]


def _notes(layers: Mapping[str, Line], log: bool, most: int, drawn: int) -> list[str]:
    values = np.concatenate([np.empty(0), *(line.values for line in layers.values())])
    counts = {
        "could not be measured (gaps)": int(np.isnan(values).sum()),
        "infinite (crosses)": int(np.isinf(values).sum()),
        "zero, which a logarithmic axis cannot show": int((values == 0).sum()) if log else 0,
    }
    notes = [f"{n:,} of {len(values):,} values {'is' if n == 1 else 'are'} {what}" for what, n in counts.items() if n]
    notes = [note.replace("are could", "could").replace("is could", "could") for note in notes]
    if len(layers) > drawn:
        notes.append(f"the {drawn:,} worst of {len(layers):,} layers are shown; the record has all of them")
    if any(len(line.values) > most for line in layers.values()):
        notes.append(f"lines are reduced to {most:,} points; all peaks are kept, and the record has every point")
    return notes


def _reading(name: str, layer: str, line: Line) -> str:
    known = line.values[~np.isnan(line.values)]
    if not len(known):
        return f"{name} could not be measured."
    return f"{name} of {layer}: {figure(float(known[0]))} at the start, {figure(float(known[-1]))} at the end."
