"""The report page: one self-contained HTML file, made from a run record."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from homeostat.core.errors import HomeostatError
from homeostat.record.export import write_whole
from homeostat.record.json_values import plain
from homeostat.record.reader import RunReader
from homeostat.report import charts, descriptions, formatting
from homeostat.report.run_contents import first_vitals, run_contents
from homeostat.report.shown_run import ShownRun

BUNDLE = "plotly-basic.min.js"
"""The plotting library among the page's assets; see scripts/fetch_plotly.py."""


def write_report(reader: RunReader, path: str | Path, title: str | None = None) -> Path:
    """Write the report of a run: one self-contained HTML page that works offline.

    Args:
        reader: a record, finished or still being written, in a file or in memory.
        path: file of the page; it is replaced atomically.
        title: title of the page; None uses the name of the script.

    Raises:
        HomeostatError: jinja2 is not installed.
        RecordError: the record cannot be read, or the page cannot be written.
    """
    return write_whole(path, page(reader, title))


def page(reader: RunReader, title: str | None = None) -> str:
    """HTML of the page; see `write_report`."""
    templates()
    content = contents(reader)
    return render_page([content], content["charts"], title, bundle=asset(BUNDLE), js=asset("page.js"))


def contents(reader: RunReader) -> dict[str, Any]:
    """What the template shows of one run, with all of its charts."""
    with reader.snapshot():
        run, vitals = ShownRun.read(reader), reader.vitals()
    ends = [points[-1][0] for layers in vitals.values() for points in layers.values() if points]
    meanings = descriptions.vital_meanings()
    drawn = charts.vital_charts(vitals, meanings, first_vitals(run.findings), run.named)
    return run_contents(run, max([run.last, *ends])) | {"charts": drawn}


def render_page(
    runs: Sequence[Mapping[str, Any]], drawn: Sequence[Mapping[str, Any]], title: str | None = None, **more: Any
) -> str:
    """HTML of a page with one or several runs side by side.

    Args:
        runs: what `run_contents` returns of each.
        drawn: the charts; those without "lines" are fetched by the page.
        title: title of the page; None uses the names of the scripts.
        more: `bundle` and `js`, the scripts to embed; or `assets`, the address they are fetched from, and `live`, the
            addresses of what is new.
    """
    names = ", ".join(dict.fromkeys(Path(formatting.typed_script(run["meta"])).name for run in runs))
    data = {
        "runs": [{name: run[name] for name in ("label", "timeline", "marks")} for run in runs],
        "charts": drawn,
        "live": more.get("live"),
    }
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            runs=runs,
            charts=drawn,
            groups=charts.GROUPS,
            title=title or f"{names}: report",
            data=embedded(data),
            css=asset("page.css"),
            errors=asset("errors.js"),
            **more,
        )
    )


def embedded(data: Any) -> str:
    """JSON for a script element, escaped so that no character can end the element or open a comment."""
    text = json.dumps(plain(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def asset(name: str) -> str:
    """A file of the page as text."""
    return (resources.files("homeostat.report") / "assets" / name).read_text(encoding="utf-8")


def templates() -> Any:
    """The environment of the page's templates.

    Raises:
        HomeostatError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise HomeostatError("the report page needs jinja2: pip install 'homeostat[report]'") from error
    return _environment(jinja2.Environment, jinja2.FunctionLoader)


@cache
def _environment(kind: Callable[..., Any], loader: Callable[..., Any]) -> Any:
    environment = kind(autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=loader(asset))
    environment.filters["figure"] = formatting.figure
    environment.globals["words"] = formatting
    return environment
