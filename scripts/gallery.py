"""Write docs/gallery.md and its plots from the verdict files. With --check: only say whether the page is up to date."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from pages import keep

from homeostat.catalogue import notes_on, verdict_of
from homeostat.core.component import cites, components
from homeostat.studies.lab.study import Study

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PLOTS = DOCS / "gallery.md", DOCS / "images" / "gallery"
COLOUR = {"holds": "#2a7f4f", "does not hold": "#b3322c"}
OPEN = "#a6761d"
HEAD = """# Gallery

Every study with a verdict, and what its seeds showed. The page and the plots are made from the verdict files by
`make gallery`; each verdict was made by the command beside it, and [how a verdict is reached](studies.md) says what the
words mean. One primary expectation decides (at most two); secondary ones never change a verdict. Verdicts marked as of
the earlier rule were made when all expectations had to hold, with a 95% interval; those judged before the code changed
have not been repeated with the present code of their treatments, and a remark says what the change means. A study that
was judged again lists its earlier verdicts and what was changed. In a plot, a
dot is a seed, the bar is the interval of the mean, and the dashed line is what had to be exceeded; below them, a series
that the study kept (mean over the seeds, one line an arm).
"""


def judged() -> list[tuple[type[Study], dict[str, Any]]]:
    """Every study that has a verdict file, by name."""
    found = [(study, verdict_of(name)) for name, study in components("study").items()]
    return [(study, verdict) for study, verdict in found if verdict is not None]


def page() -> str:
    """The whole page."""
    rows = judged()
    lines = ["| study | verdict | rule | deciding expectation | effect | interval |", "|---|---|---|---|---|---|"]
    for study, v in rows:
        link, figures = f"[{study.name}](#{study.name})", f"{number(v['effect'])} | {span(v['interval'])}"
        rule = "earlier" if "rule" not in v else "present"
        lines.append(f"| {link} | **{v['verdict']}**{_but(v)} | {rule} | {cell(v['expectation'])} | {figures} |")
    return "\n".join([HEAD, *lines, "", *(section(study, verdict) for study, verdict in rows)]).rstrip() + "\n"


def section(study: type[Study], verdict: dict[str, Any]) -> str:
    """One study: claim, what was done, plot, expectations with what was seen, remarks, and the command."""
    lines = [f"## {study.name}", "", f"> {verdict['claim']}", "", *(f"- {cite}" for cite in cites(study)), ""]
    lines += [inspect.getdoc(study) or "", ""]
    lines += [f"![{study.name}: {verdict['verdict']}](images/gallery/{study.name}.svg)", ""]
    lines += [f"**{verdict['verdict']}**{_but(verdict)} {_seeds(verdict)}.", ""]
    if notes := notes_on(study, verdict):
        lines += [f"*{note[0].upper()}{note[1:]}.*" for note in notes] + [""]
    lines += ["| expected | role | effect | interval | must exceed | seen |", "|---|---|---|---|---|---|"]
    for e in [*verdict.get("preconditions", ()), *verdict["expectations"]]:
        figures = f"{number(e['effect'])} | {span(e['interval'])} | {number(e['threshold'])}"
        lines.append(f"| {cell(e['says'])} | {e.get('role', '')} | {figures} | {e['verdict']} |")
    lines += ["", *_robust(verdict), *([study.remarks, ""] if study.remarks else []), *_reasons(study, verdict)]
    lines += _history(study, verdict)
    lines += [f"`{verdict['command']}` ({_time(verdict)})", ""]
    return "\n".join(lines)


def _history(study: type[Study], verdict: Mapping[str, Any]) -> list[str]:
    """The verdicts that this one replaces, and what was changed since."""
    lines = []
    for old in verdict.get("history", ()):
        rule = "" if old.get("rule") else "by the earlier rule, "
        seeds = f"{len(old['seeds'])} seeds from {old['seeds'][0]} on" if old["seeds"] else "development seeds"
        figures = f"{number(old['effect'])}, {span(old['interval'])}"
        lines.append(f"- {old['date']}, {rule}{seeds}: {old['verdict']} ({old['expectation']}: {figures})")
    if lines:
        lines = ["Earlier verdicts:", "", *lines, ""]
        lines += [f"Changed since: {study.changed}.", ""] if study.changed else []
    return lines


def _seeds(verdict: Mapping[str, Any]) -> str:
    if count := len(verdict["seeds"]):
        return f"with {count} seeds"
    return f"on {len(verdict['development_seeds'])} development seeds; no judged seed was run"


def _but(verdict: Mapping[str, Any]) -> str:
    """The secondary expectations that were not seen, beside a claim that holds."""
    others = [e for e in verdict["expectations"] if e.get("role") == "secondary" and e["verdict"] != "holds"]
    if verdict["verdict"] != "holds" or not others:
        return ""
    return f"; but {len(others)} secondary expectation{'s' * (len(others) != 1)} not seen"


def _robust(verdict: Mapping[str, Any]) -> list[str]:
    """Interquartile mean and probability of improvement of the primary expectations."""
    lines = []
    for e in verdict["expectations"]:
        if e.get("role") == "primary" and e.get("middle"):
            line = f"Interquartile mean of the effect ({e['says']}): {_with_interval(e['middle'])}"
            if e.get("improvement"):
                line += f"; probability of improvement {_with_interval(e['improvement'])}"
            lines += [line + ".", ""]
    return lines


def _with_interval(found: Mapping[str, Any]) -> str:
    return f"{number(found['value'])} ({span(found['interval'])})"


def _reasons(study: type[Study], verdict: Mapping[str, Any]) -> list[str]:
    """Why the primary expectation is the primary one, and what was tuned."""
    lines = [f"Primary: {verdict['because']}", ""] if verdict.get("because") else []
    for arm, log in verdict.get("tuning_log", {}).items():
        tried = "; ".join(f"{_setting(row['setting'])}: {number(row['mean'])}" for row in log["tried"])
        lines += [f"Tuned, {arm}: {_setting(log['chosen'])} by {log['rule']} on seeds {log['seeds']} ({tried}).", ""]
    return [*lines, f"Tuned: {study.tuning}.", ""]


def _setting(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{knob}={value}" for knob, value in setting.items())


def _time(verdict: Mapping[str, Any]) -> str:
    """What all runs took: in processor time where that was kept."""
    busy = verdict.get("processor_seconds")
    said = "of runs, one thread each" if busy is None else "of processor time"
    return f"{(verdict['run_seconds'] if busy is None else busy) / 60:.1f} minutes {said}"


def span(bounds: list[float | None]) -> str:
    """An interval in words."""
    return f"{number(bounds[0])} to {number(bounds[1])}"


def number(value: float | None) -> str:
    """Three digits; a dash for what could not be measured."""
    return "-" if value is None else f"{value:.3g}"


def cell(text: str) -> str:
    """Text that may stand in a table."""
    return text.replace("|", "\\|")


def draw(study: type[Study], verdict: dict[str, Any], path: Path) -> None:
    """The plot of one study as SVG: a strip for every expectation, and the series."""
    from matplotlib import pyplot as plt

    strips, series = verdict["expectations"] or verdict["preconditions"], _series(study, verdict)
    heights = [0.55] * len(strips) + ([2.6] if series else [])
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(8, 1.2 * len(strips) * 0.75 + (3.2 if series else 0.4)), squeeze=False,
        gridspec_kw={"height_ratios": heights, "hspace": 1.4 if len(strips) > 1 else 0.9},
    )  # fmt: skip
    for axis, strip in zip(axes[:, 0], strips, strict=False):
        _strip(axis, strip)
    if series:
        _lines(axes[-1, 0], series, _series_name(study, verdict))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def _strip(axis: Any, strip: Mapping[str, Any]) -> None:
    colour = COLOUR.get(strip["verdict"], OPEN)
    low, high = strip["interval"]
    if low is not None and high is not None:
        axis.plot([low, high], [0, 0], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
    seeds = [value for value in strip["per_seed"] if value is not None]
    axis.plot(seeds, [0] * len(seeds), "o", color=colour, markersize=4, alpha=0.7)
    axis.axvline(strip["threshold"], color="#555", linestyle="--", linewidth=1)
    axis.set_title(f"{strip['says']}: {strip['verdict']}", fontsize=8, loc="left", color=colour)
    axis.set_yticks([])
    axis.tick_params(labelsize=7)
    for side in ("left", "right", "top"):
        axis.spines[side].set_visible(False)


def _series_name(study: type[Study], verdict: Mapping[str, Any]) -> str:
    """The series the study wants drawn, or the first that it kept."""
    first = next(iter(verdict["per_seed"].values()), {})
    kept = [name for arm in first.values() for name, value in arm.items() if isinstance(value, list)]
    return study.series if study.series in kept else next(iter(kept), "")


def _series(study: type[Study], verdict: Mapping[str, Any]) -> dict[str, list[float]]:
    """Arm -> mean over the seeds of the series, where the arm has one."""
    name, seeds = _series_name(study, verdict), list(verdict["per_seed"].values())
    found: dict[str, list[float]] = {}
    for arm in verdict["arms"]:
        rows = [row[arm][name] for row in seeds if isinstance(row[arm].get(name), list)]
        if rows:
            length = min(map(len, rows))
            found[arm] = [_mean([row[i] for row in rows]) for i in range(length)]
    return found


def _mean(values: list[float | None]) -> float:
    there = [value for value in values if value is not None]
    return fmean(there) if there else float("nan")


def _lines(axis: Any, series: Mapping[str, list[float]], name: str) -> None:
    for arm, values in series.items():
        axis.plot(range(len(values)), values, linewidth=1.3, label=arm)
    axis.set_title(f"{name}, mean over the seeds", fontsize=8, loc="left")
    axis.set_xlabel("number of the entry", fontsize=7)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=6, frameon=False, ncols=2, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def plots() -> None:
    """Draw every study anew."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "homeostat", "svg.fonttype": "none"})
    for study, verdict in judged():
        draw(study, verdict, PLOTS / f"{study.name}.svg")


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        plots()
    sys.exit(keep(PAGE, page(), "gallery"))
