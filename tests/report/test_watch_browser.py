"""The live page in a real browser: it grows with the run, shows a layer on a click, and asks nothing of others."""

import math
from pathlib import Path

import pytest
from chromium import CHROMIUM, browser
from live_server import serving
from report_runs import DORMANT, fill, healthy, sick

from homeostat.core.finding import JournalEntry
from homeostat.record import RunRecord
from homeostat.report import write_report
from homeostat.report.live.watched_runs import WatchedRuns

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"),
]
SHOWN = "[...document.querySelectorAll('[data-card]')].filter((card) => !card.hidden).map((card) => card.dataset.card)"
READY = "document.documentElement?.dataset.ready === 'yes'"
DRAWN = "document.querySelectorAll('.js-line').length"


def step(record, at):
    record.add_vitals([(at, "loss", "network", 1 / at), (at, "dormant-units", "fc1", math.tanh(at / 500))])
    record.progress(at, at * 0.004, 0.01)
    record.flush()


def test_the_page_grows_with_the_run_and_shows_a_layer(tmp_path):
    record = RunRecord.create(tmp_path, script="train.py")
    fill(record, last=1000)
    record.flush()
    with serving(WatchedRuns(tmp_path)) as home, browser() as tab:
        tab.open(f"{home}/run?run={record.run}")
        tab.wait(READY)
        tab.wait(f"{DRAWN} > 2")
        assert "dormant-units since step" not in tab.value("document.getElementById('findings').innerText")
        step(record, 1400)
        record.set_findings(1400, [DORMANT])
        record.add_vitals([(1400, "logged/accuracy", "network", 0.5)])
        record.add_journal(JournalEntry(1400, "redo", "edit", "fc1", "reset 41 units"))
        record.flush()
        tab.wait("document.documentElement.dataset.step === '1400'")
        tab.wait("document.getElementById('findings').innerText.includes('dormant-units')")
        tab.wait("document.getElementById('journal').innerText.includes('reset 41 units')")
        tab.wait("document.querySelector('[data-chart=\"loss\"]')?.data?.some((line) => line.x.at(-1) === 1400)")
        assert "logged/accuracy" in tab.value(SHOWN)
        block = "document.querySelector('[data-layer=\"fc1\"]')"
        assert "critical" in tab.value(f"{block}.className")
        tab.value(f"{block}.click()")
        assert tab.value(SHOWN) == ["dormant-units", "effective-rank", "gradient-norm"]
        lines = "document.querySelector('[data-chart=\"dormant-units\"]').data.filter((line) => line.yaxis !== 'y2')"
        tab.wait(f"{lines}.map((line) => line.name).join() === 'fc1'")
        tab.value(f"{block}.focus()")
        tab.press("Enter")
        tab.wait(f"{SHOWN}.length === 5")
        record.close()
        tab.wait("document.querySelector('.chips').innerText.includes('finished')")
        assert tab.console == [] and tab.value("document.documentElement.dataset.errors") == "0"
        assert {url for url in tab.asked if not url.startswith((home, "data:", "blob:"))} <= {"about:blank"}
    assert [path.name for path in tmp_path.iterdir()] == [f"{record.run}.sqlite"]


def test_runs_side_by_side_and_the_list_with_its_search(tmp_path):
    one, other = sick(tmp_path), healthy(tmp_path)
    one.close(), other.close()
    with serving(WatchedRuns(tmp_path)) as home, browser() as tab:
        tab.open(f"{home}/")
        tab.wait(READY)
        tab.wait("document.getElementById('count').textContent === '2 of 2 runs'")
        tab.value("search.value = 'dormant drifting'; search.dispatchEvent(new Event('input'))")
        assert tab.value("document.getElementById('count').textContent") == "1 of 2 runs"
        tab.value("for (const box of document.querySelectorAll('[name=run]')) box.click()")
        tab.value("document.getElementById('compare').click()")
        tab.wait(f"{READY} && location.pathname === '/run'")
        tab.value("document.getElementById('vitals').scrollIntoView()")
        tab.wait("document.querySelector('[data-chart=\"loss\"]')?.data?.length >= 2")
        names = tab.value("document.querySelector('[data-chart=\"loss\"]').data.map((line) => line.name)")
        assert sorted(name.split("-")[0] for name in names) == ["drifting_digits", "fine"]
        assert tab.value("document.querySelectorAll('.state').length") == 2
        assert tab.console == []


def test_a_layer_can_be_chosen_on_the_page_in_a_file_too(tmp_path):
    path = write_report(sick(), tmp_path / "page.html")
    with browser() as tab:
        tab.open(Path(path).as_uri())
        tab.wait(READY)
        tab.value("document.querySelector('[data-layer=\"fc2\"]').click()")
        assert tab.value(SHOWN) == ["dormant-units", "effective-rank", "gradient-norm"]
        tab.value("document.getElementById('all-layers').click()")
        assert len(tab.value(SHOWN)) == 4 and tab.console == []
