"""The page in a real browser: no errors, every plot drawn, nothing asked of the network."""

import re
import shutil
import subprocess

import pytest
from report_runs import huge, sick

from homeostat.record import RunRecord
from homeostat.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=30000",
]  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"),
]


def browse(path, profile, *more):
    command = [CHROMIUM, *FLAGS, *more, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, dict(re.findall(r'data-([a-z]+)="([^"]*)"', re.search(r"<html[^>]*>", done.stdout)[0])), said


@pytest.mark.parametrize("make", [sick, huge, lambda: RunRecord.create(None, script="empty.py")])
@pytest.mark.parametrize("scheme", [0, 1])
def test_plots_are_drawn_without_errors(tmp_path, make, scheme):
    record = make()
    path = write_report(record, tmp_path / "page.html")
    dom, state, said = browse(path, tmp_path / "profile", f"--blink-settings=preferredColorScheme={scheme}")
    vitals = record.vitals()
    assert said == []
    assert state["errors"] == "0" and state["ready"] == "yes"
    plots = len(vitals) + bool(record.finding_events())
    assert state["drawn"] == state["plots"] == str(plots)
    assert len(re.findall(r'<g class="scatterlayer', dom)) >= plots
    curves = dom.count('class="js-line"')
    assert curves >= sum(min(6, len(layers)) for layers in vitals.values())
    assert "http-equiv" in dom and not re.search(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="http', dom)


def test_an_error_on_the_page_would_be_seen(tmp_path):
    path = write_report(sick(), tmp_path / "page.html")
    path.write_text(path.read_text().replace('"use strict";\n(() => {', 'console.error("seen"); missing(); (() => {'))
    _, state, said = browse(path, tmp_path / "profile")
    assert state["errors"] != "0" and any("seen" in line for line in said)
