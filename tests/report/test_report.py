"""The page, the JSON, the terminal and the record say the same, and the page is harmless and self-contained."""

import hashlib
import io
import json
import math
import re
import sys
from html.parser import HTMLParser

import fetch_plotly
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import DORMANT, HOSTILE, JOURNAL, RANK, fill, healthy, huge, sick
from rich.console import Console

from homeostat.core.errors import HomeostatError, RecordError
from homeostat.core.finding import Finding, Prescription
from homeostat.record import RunRecord, list_runs, open_record, to_json
from homeostat.report import formatting as words
from homeostat.report import print_summary, runs_table, write_report
from homeostat.report.descriptions import vital_meanings
from homeostat.report.downsampling import MOST_POINTS, PAGE_POINTS, binned, decades, thinned, worst_first
from homeostat.report.page import BUNDLE, page
from homeostat.report.terminal import runs_list
from homeostat.report.timeline import finding_spans


class Page(HTMLParser):
    """The visible text of a page, its embedded data, its links and its elements."""

    def __init__(self, text):
        super().__init__()
        self.words, self.data, self.urls, self.tags, self._inside = [], "", [], [], []
        self.feed(text)
        self.data = json.loads(self.data)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._inside.append((tag, dict(attrs)))
        self.urls += [v for k, v in attrs if k in ("href", "src", "action", "data") and v]
        if tag in ("meta", "link", "br", "input"):
            self._inside.pop()

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1][0] == tag:
            self._inside.pop()

    def handle_data(self, data):
        tag, attrs = self._inside[-1] if self._inside else ("", {})
        if attrs.get("id") == "data":
            self.data += data
        elif tag not in ("script", "style"):
            self.words.append(data)


def spoken(reader, width):
    file = io.StringIO()
    print_summary(reader, Console(file=file, width=width, no_color=True))
    return " ".join(re.sub(r"[│┃━─┏┓┗┛└┘├┤┡┩┴┬╇┼┳┻]", " ", file.getvalue()).split())


@pytest.fixture(scope="module")
def shown(sick_run):
    return Page(page(sick_run))


def test_page_json_terminal_and_record_agree(sick_run, shown):
    data, terminal, narrow = to_json(sick_run), spoken(sick_run, 400), spoken(sick_run, 70)
    assert data["findings"] == [f.to_json() for f in sick_run.findings()]
    assert sorted(f.condition for f in sick_run.findings()) == ["dormant-units", "rank-collapse"]
    for finding in data["findings"]:
        said = [finding["condition"], finding["severity"], f"since step {finding['since_step']:,}"]
        said += [finding["evidence"]["text"], *(p["do"] for p in finding["prescriptions"])]
        said += [p["treatment"] for p in finding["prescriptions"] if p["treatment"]]
        for place in (shown.text, narrow):
            assert [s for s in said if s not in place] == []
        assert [s for s in said if s.removeprefix("since step ") not in terminal] == []
    for number in ("0.9312", "0.0812", "9.417", "61.3"):
        assert number in shown.text
    for entry in data["journal"]:
        row = f"{entry['step']:,} {entry['component']} {entry['action']} {entry['where']} "
        row += f"{words.figure(entry['before'])} {words.figure(entry['after'])} {entry['why']}"
        assert row in shown.text and row in terminal
        assert f"step {entry['step']:,}: {entry['component']} {entry['action']}" in narrow
    for place in (shown.text, terminal, narrow):
        assert f"{data['steps']:,} steps" in place and "1.47%" in place and "sharpness" in place
        assert "oscillating-loss" in place and "study l2-init: holds" in place
    assert data["not_measured"][0]["why"] in shown.text
    lines = {(c["name"], line["layer"]): line for c in shown.data["charts"] for line in c["lines"]}
    assert set(lines) == {(name, layer) for name, layers in data["vitals"].items() for layer in layers}
    for (name, layer), line in lines.items():
        x, y = zip(*data["vitals"][name][layer], strict=True)
        assert line["x"] == list(x)
        np.testing.assert_allclose([math.nan if v is None else v for v in line["y"]],
                                   [math.nan if v is None else v for v in y], rtol=1e-5)  # fmt: skip
    assert next(line for line in lines.values() if line["infinite"])["infinite"] == [3000]
    assert [step for step, _ in shown.data["runs"][0]["marks"]["boundaries"]] == [b["step"] for b in data["boundaries"]]
    assert [step for step, _ in shown.data["runs"][0]["marks"]["journal"]] == [e["step"] for e in data["journal"]]


def test_findings_stand_on_the_timeline_for_as_long_as_they_stood(sick_run, shown):
    spans = {row["label"]: row["spans"] for row in shown.data["runs"][0]["timeline"] if row["kind"] == "finding"}
    brief = {name: [(s["from"], s["to"], s["severity"]) for s in own] for name, own in spans.items()}
    assert brief == {
        "oscillating-loss": [(600, 3100, "info")],
        "dormant-units": [(1200, 1900, "warning"), (1900, 4000, "critical")],
        "rank-collapse": [(2310, 4000, "warning")],
    }
    assert finding_spans([], 10) == {}


def test_the_cause_comes_first(shown):
    assert shown.text.index("dormant-units since step") < shown.text.index("rank-collapse since step")
    assert "since step 2,310; follows from dormant-units" in shown.text
    assert [c["name"] for c in shown.data["charts"]] == ["loss", "dormant-units", "effective-rank", "gradient-norm"]
    assert "1 critical finding and 1 warning: dormant-units in fc1 and fc2 since step 1,200." in shown.text


def test_page_needs_nothing_else(tmp_path, sick_run):
    path = write_report(sick_run, tmp_path / "new" / "page.html")
    text = path.read_text()
    shown = Page(text)
    assert [url for url in shown.urls if not url.startswith(("#", "data:"))] == []
    assert "default-src 'none'" in text and "@import" not in text
    assert path.stat().st_size < 1_500_000
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_a_huge_run_stays_a_page_and_hostile_names_stay_text(tmp_path, sick_run):
    text = page(huge(), title=f"{HOSTILE} & co")
    shown, plain = Page(text), Page(page(sick_run))
    assert shown.tags.count("script") == plain.tags.count("script")
    assert f"{HOSTILE} & co" in shown.text and f"half of {HOSTILE} is gone & more" in shown.text
    assert "&lt;b&gt;" in shown.text
    assert "<script>alert" not in text and len(text) < 3_000_000
    assert "3,599 between them are in the record" in shown.text
    charts = {chart["name"]: chart for chart in shown.data["charts"]}
    assert charts["effective-rank"]["lines"][0]["layer"] == "blocks.0.part0" and len(charts["loss"]["lines"]) == 1
    assert len(shown.data["runs"][0]["marks"]["journal"]) <= 121
    assert all(len(line["x"]) <= MOST_POINTS for chart in charts.values() for line in chart["lines"])


def test_the_plotting_library_is_the_one_that_was_fetched():
    assert hashlib.sha256((fetch_plotly.ASSETS / BUNDLE).read_bytes()).hexdigest() == fetch_plotly.SHA256
    assert fetch_plotly.VERSION in (fetch_plotly.ASSETS / BUNDLE).read_text()[:200]


def test_a_page_of_a_thousand_layers_shows_the_worst_and_stays_small():
    record = RunRecord.create(None, script="wide.py")
    names = [f"blocks.{i}" for i in range(1000)]
    for step in range(0, 1000, 20):
        rows = [
            (step, vital, name, 1.234567e-5 * i) for i, name in enumerate(names) for vital in ("loss", "dormant-units")
        ]
        record.add_vitals(rows)
    text = page(record)
    chart = next(chart for chart in Page(text).data["charts"] if chart["name"] == "dormant-units")
    assert chart["lines"][0]["layer"] == "blocks.999" and len(text) < 3_000_000
    assert f"the {len(chart['lines']):,} worst of 1,000 layers are shown" in text


def test_thousands_of_points_are_thinned_to_the_page(tmp_path):
    record = RunRecord.create(None, script="long.py")
    rows = [(step, "loss", "network", 9.0 if step == 17_777 else math.sin(step)) for step in range(50_000)]
    record.add_vitals(rows)
    line = Page(page(record)).data["charts"][0]["lines"][0]
    assert len(line["x"]) <= MOST_POINTS and (line["x"][0], line["x"][-1]) == (0, 49_999)
    assert line["y"][line["x"].index(17_777)] == 9.0
    assert PAGE_POINTS >= MOST_POINTS


@pytest.mark.parametrize("closed", [None, "finished", "failed"])
def test_empty_runs_have_a_page_and_a_sentence(closed):
    record = RunRecord.create(None, script="never.py")
    if closed:
        record.close(closed)
    shown = Page(page(record))
    assert "No optimizer step was seen" in shown.text and "No optimizer step was seen" in spoken(record, 80)
    assert shown.data["charts"] == [] and "No vital was recorded." in shown.text


def test_a_healthy_run_says_so_in_one_sentence(healthy_run):
    sentence = "Healthy: none of the known conditions was found in 200 steps."
    assert sentence in Page(page(healthy_run)).text and sentence in spoken(healthy_run, 80)


def test_an_unfinished_run_is_told_apart(tmp_path, monkeypatch):
    record = healthy(tmp_path)
    record.flush()
    monkeypatch.setattr("homeostat.record.reader.alive", lambda pid, birth: False)
    with open_record("last", tmp_path) as reader:
        assert "was not closed, and its process no longer exists" in Page(page(reader)).text
        assert "not closed: its process no longer exists" in spoken(reader, 80)
        file = io.StringIO()
        Console(file=file, width=160).print(runs_table([reader.meta]))
        assert "unfinished" in file.getvalue() and reader.run in file.getvalue()
    record.close()


def test_a_narrow_list_has_one_line_for_each_run_and_cuts_only_the_name_of_the_script(tmp_path):
    records = [RunRecord.create(tmp_path, script=f"{'long' * n}.py") for n in (1, 30)]
    for record in records:
        record.close()
    file = io.StringIO()
    Console(file=file, width=80).print(runs_list(list_runs(tmp_path)))
    head, *lines = file.getvalue().splitlines()
    assert head.startswith("run ") and len(lines) == 2 and all(len(line) <= 80 for line in lines)
    assert {line[3:7] for line in lines} == {record.run[-4:] for record in records}
    assert all(re.search(r"finished .* UTC$", line) for line in lines) and any("long.py" in line for line in lines)


def test_terminal_says_where_the_record_is_and_uses_no_colour_when_told(tmp_path, monkeypatch):
    record = sick(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    record.close()
    text = spoken(record, 70)
    assert f"Record: runs/{record.run}.sqlite" in text
    file = io.StringIO()
    print_summary(record, Console(file=file, width=120, force_terminal=True, no_color=True, highlight=False))
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", file.getvalue())
    assert all(len(line) <= 70 for line in io_lines(record, 70) if not line.startswith(("Record:", "Page:")))


def io_lines(record, width):
    file = io.StringIO()
    print_summary(record, Console(file=file, width=width))
    return file.getvalue().splitlines()


def test_markup_in_names_is_text_in_the_terminal():
    record = RunRecord.create(None, script="[red]x.py")
    record.add_vitals([(1, "loss", "network", 1.0)])
    record.progress(5, 1.0)
    record.set_findings(
        3, [Finding("[bold]x[/bold]", "warning", 2, ("[/]",), {"text": "[b]1[/b]"}, (Prescription("[i]do"),))]
    )
    for width in (70, 160):
        assert all(word in spoken(record, width) for word in ("[bold]x[/bold]", "[/]", "[b]1[/b]", "[i]do"))


def test_a_missing_library_names_the_extra(tmp_path, sick_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(HomeostatError, match=r"pip install 'homeostat\[report\]'"):
        write_report(sick_run, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_says_so(sick_run):
    with pytest.raises(RecordError, match="choose a place you can write to"):
        write_report(sick_run, "/proc/page.html")


def test_every_vital_explains_itself():
    meanings = vital_meanings()
    assert meanings and all(m.line.endswith(".") and 20 < len(m.line) < 250 for m in meanings.values())
    assert not [m.line for m in meanings.values() if "[" in m.line or "`" in m.line]


@given(st.lists(st.none() | st.floats(-5, 5), min_size=1, max_size=400), st.integers(20, 60))
@settings(deadline=None, max_examples=60)
def test_thinning_keeps_ends_extremes_order_and_gaps(values, most):
    points = list(enumerate(values))
    kept = thinned(points, most)
    assert len(kept) <= most and set(kept) <= set(points) and kept == sorted(kept, key=lambda p: p[0])
    assert kept[0] == points[0] and kept[-1] == points[-1]
    known = [v for v in values if v is not None]
    if known:
        assert {min(known), max(known)} <= {v for _, v in kept}
    assert (None in values) == (None in [v for _, v in kept])


def test_worst_layers_come_first_in_the_sick_direction():
    layers = {"a": [(1, 0.1)], "b": [(1, 0.9)], "c": [(1, None)], "d": [(1, 0.5)]}
    assert worst_first(layers, "higher") == ["b", "d", "a", "c"]
    assert worst_first(layers, "lower") == ["a", "d", "b", "c"]
    assert worst_first(layers, "higher", named={"a"}) == ["a", "b", "d", "c"]
    moved = {"still": [(i, 1.0) for i in range(20)], "moved": [(i, float(i)) for i in range(20)]}
    assert worst_first(moved, "neither") == ["moved", "still"]


def test_logarithmic_only_where_nothing_much_is_lost():
    assert decades({"a": [(i, 10.0**i) for i in range(5)]}) == pytest.approx(4, abs=0.2)
    assert decades({"a": [(i, 10.0**i) for i in range(5)], "b": [(i, 0.0) for i in range(5)]}) == 0
    assert decades({"a": [(0, -1.0), (1, 1e5)]}) == 0


def test_marks_in_one_place_become_one_that_counts_them():
    marks = binned([1, 2, 3, 4, 900], ["a", "b", "c", "d", "e"], 1000, most=10)
    assert len(marks) == 2 and "and 1 more up to step 4" in marks[0][1] and marks[1] == (900, "step 900: e")


FIGURES = [(None, "-"), (math.nan, "-"), (3, "3"), (12345, "12,345"), (0.93124, "0.9312"), (4.0, "4")]


@pytest.mark.parametrize(("value", "text"), [*FIGURES, (math.inf, "inf"), (1.5e-9, "1.5e-09"), (True, "True")])
def test_figures(value, text):
    assert words.figure(value) == text


def test_the_builders_hold_what_the_tests_say(sick_run):
    assert [f.condition for f in sick_run.findings()] == [DORMANT.condition, RANK.condition]
    assert sick_run.journal() == JOURNAL and callable(fill)
