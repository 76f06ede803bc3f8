"""What the live page shows: the whole page, what is new in it, the values of a chart, and the list of runs."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from homeostat.core.errors import RecordError
from homeostat.record.json_values import plain
from homeostat.report import charts, descriptions
from homeostat.report.downsampling import Line
from homeostat.report.live.followed_run import FollowedRun
from homeostat.report.live.watched_runs import WatchedRuns
from homeostat.report.page import asset, render_page, templates
from homeostat.report.run_contents import first_vitals, run_contents
from homeostat.report.shown_run import ShownRun

PARTS = ("head", "findings", "network", "journal", "ranks", "unmeasured", "facts")
"""Parts of the page that are replaced when they change."""
CHART_POINTS = 3600
"""Maximum number of points of a chart, over all of its lines; a line keeps at least 60."""
MOST_RUNS = 8
"""Maximum number of runs side by side."""
MOST_CHART_LINES = 100


@dataclass
class Sent:
    """What a page has got already.

    Args:
        versions: the versions of its runs.
        parts: part -> its HTML.
    """

    versions: tuple[int, ...] = ()
    parts: MutableMapping[str, str] | None = None


def live_page(watched: WatchedRuns, ids: Sequence[str]) -> str:
    """HTML of the page of one or several runs, without the values of its charts.

    Raises:
        RecordError: a run cannot be read, or there are too many.
    """
    followed = _followed(watched, ids)
    shown = [one.shown() for one in followed]
    query = urlencode([("run", one.path.stem) for one in followed])
    live = {"list": "./", "events": f"events?{query}", "chart": f"chart?{query}"}
    names = ", ".join(run.meta.run for run in shown)
    return render_page(_contents(shown), _heads(shown), names, live=live, assets="assets")


def news(watched: WatchedRuns, ids: Sequence[str], sent: Sent) -> dict[str, Any] | None:
    """What has changed since the last call with the same `sent`; None if nothing has.

    Raises:
        RecordError: a run cannot be read.
    """
    followed = _followed(watched, ids)
    shown = [one.shown() for one in followed]
    versions = tuple(one.version for one in followed)
    if versions == sent.versions:
        return None
    contents, module = _contents(shown), templates().get_template("parts.html.j2").module
    parts = {f"{i}-{part}": str(getattr(module, part)(run)) for i, run in enumerate(contents) for part in PARTS}
    old = sent.parts or {}
    changed = {part: html for part, html in parts.items() if old.get(part) != html}
    sent.versions, sent.parts = versions, parts
    return plain(
        {
            "parts": changed,
            "runs": [{name: run[name] for name in ("label", "timeline", "marks")} for run in contents],
            "cards": [{"head": head, "html": str(module.card(head))} for head in _heads(shown)],
        }
    )


def live_chart(watched: WatchedRuns, ids: Sequence[str], name: str, pick: str = "worst") -> dict[str, Any]:
    """The values of one chart.

    Args:
        watched: the runs.
        ids: ids of the runs of the page.
        name: the vital.
        pick: "worst" for the worst layers, "all", or "=" and a layer.

    Raises:
        RecordError: a run cannot be read.
    """
    followed = _followed(watched, ids)
    labels, lines, named = labels_of([one.path.stem for one in followed]), dict[str, Line](), set[str]()
    only = None if pick in ("worst", "all") else {pick.removeprefix("=").rpartition(" · ")[2]}
    for one, label in zip(followed, labels, strict=True):
        own = one.lines(name, only)
        lines |= {_joined(label, layer): line for layer, line in own.items()}
        named |= {_joined(label, layer) for layer in one.shown().named}
    drawn = charts.SHOWN if pick == "worst" else MOST_CHART_LINES
    most = max(60, CHART_POINTS // max(1, min(drawn, len(lines))))
    layouts = [one.shown().layout for one in followed]
    colours = charts.line_colours(_merged(layouts, labels))
    meaning = charts.meaning_of(name, descriptions.vital_meanings())
    body = charts.chart_body(name, lines, meaning, colours, named, drawn, most)
    html = templates().get_template("parts.html.j2").module.figures(body)
    return plain({"body": body, "html": str(html)})


def list_page(watched: WatchedRuns) -> str:
    """HTML of the list of runs, with a search."""
    return (
        templates()
        .get_template("runs.html.j2")
        .render(rows=list_rows(watched), folder=watched.folder, css=asset("page.css"), assets="assets")
    )


def list_rows(watched: WatchedRuns) -> str:
    """HTML of the rows of the list."""
    module = templates().get_template("run_rows.html.j2").module
    return module.rows(watched.listed(), watched.folder)


def labels_of(ids: Sequence[str]) -> list[str]:
    """Short names of runs side by side: without the time, unless two would be equal; "" for a single run."""
    if len(ids) == 1:
        return [""]
    short = [run.split("-", 2)[-1] for run in ids]
    return short if len(set(short)) == len(short) else list(ids)


def _followed(watched: WatchedRuns, ids: Sequence[str]) -> list[FollowedRun]:
    if not 1 <= len(ids) <= MOST_RUNS:
        raise RecordError(f"a page shows 1 to {MOST_RUNS} runs, not {len(ids)}")
    return [watched.follow(run) for run in dict.fromkeys(ids)]


def _contents(shown: Sequence[ShownRun]) -> list[dict[str, Any]]:
    labels = labels_of([run.meta.run for run in shown])
    return [run_contents(run, run.last, label) | {"live": True} for run, label in zip(shown, labels, strict=True)]


def _heads(shown: Sequence[ShownRun]) -> list[dict[str, Any]]:
    first = [name for run in shown for name in first_vitals(run.findings)]
    layout = _merged([run.layout for run in shown], labels_of([run.meta.run for run in shown]))
    return charts.chart_heads(layout, descriptions.vital_meanings(), first)


def _merged(layouts: Sequence[dict[str, dict[str, int]]], labels: Sequence[str]) -> dict[str, list[str]]:
    merged: dict[str, list[str]] = {}
    for layout, label in zip(layouts, labels, strict=True):
        for vital, layers in layout.items():
            merged.setdefault(vital, []).extend(_joined(label, layer) for layer in layers)
    return merged


def _joined(label: str, layer: str) -> str:
    return f"{label} · {layer}" if label else layer
