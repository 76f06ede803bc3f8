"""The live page without a browser: what it sends, to whom, what it reads anew, and how it ends."""

import http.client
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import quote

import pytest
from live_server import serving
from report_runs import DORMANT, HOSTILE, fill, healthy, sick

from homeostat.core.errors import HomeostatError, RecordError
from homeostat.core.finding import Finding
from homeostat.record import RunRecord
from homeostat.report.formatting import causes_first
from homeostat.report.live.followed_run import FollowedRun
from homeostat.report.live.live_page import Sent, live_chart, live_page, news
from homeostat.report.live.serve import address, bound
from homeostat.report.live.watched_runs import WatchedRuns
from homeostat.report.network import network_blocks


def get(url, **headers):
    """Status, text and headers of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


@pytest.fixture
def runs(tmp_path):
    return WatchedRuns(tmp_path)


def at_once(followed):
    followed._next = 0.0


def test_what_is_followed_is_what_a_new_reader_would_read(tmp_path):
    record = RunRecord.create(tmp_path, script="train.py")
    followed = FollowedRun(record.path)
    for last in (200, 400, 400):
        fill(record, last=last)
        record.flush()
        at_once(followed)
        assert followed.shown().meta.steps == last
        line = followed.lines("dormant-units")["fc1"]
        assert list(zip(line.steps.tolist(), line.values.tolist(), strict=True)) == record.series(
            "dormant-units", "fc1"
        )
    at_once(followed)
    followed.shown()
    version = followed.version
    at_once(followed)
    followed.shown()
    assert followed.version == version
    record.supersede(100, [])
    record.add_vitals([(120, "dormant-units", "fc1", 0.5)])
    record.progress(120, 1.0)
    record.flush()
    at_once(followed)
    followed.shown()
    assert followed.lines("dormant-units", ["fc1"])["fc1"].steps.tolist() == [20, 40, 60, 80, 100, 120]


def test_watching_does_not_hold_the_file(tmp_path):
    record = healthy(tmp_path)
    record.flush()
    followed = FollowedRun(record.path)
    followed.shown(), followed.lines("loss")
    record.close()
    assert [path.name for path in tmp_path.iterdir()] == [f"{record.run}.sqlite"]


def test_news_are_the_parts_that_changed(tmp_path, runs):
    record = healthy(tmp_path)
    record.flush()
    sent = Sent()
    first = news(runs, [record.run], sent)
    assert set(first["parts"]) == {
        f"0-{part}" for part in ("head", "findings", "network", "journal", "ranks", "unmeasured", "facts")
    }
    assert news(runs, [record.run], sent) is None
    record.set_findings(200, [DORMANT])
    record.flush()
    at_once(runs.follow(record.run))
    second = news(runs, [record.run], sent)
    assert {"0-head", "0-findings"} <= set(second["parts"]) and "0-journal" not in second["parts"]
    assert "dormant-units" in second["parts"]["0-findings"]
    record.close()


def test_a_long_line_keeps_its_peak_and_few_points(tmp_path, runs):
    record = RunRecord.create(tmp_path, script="long.py")
    record.add_vitals((step, "loss", "network", 9.0 if step == 17_777 else math.sin(step)) for step in range(50_000))
    record.close()
    (line,) = live_chart(runs, [record.run], "loss")["body"]["lines"]
    assert len(line["x"]) <= 3600 and line["y"][line["x"].index(17_777)] == 9.0


def test_two_runs_share_their_charts(tmp_path, runs):
    one, other = sick(tmp_path), healthy(tmp_path)
    one.close(), other.close()
    lines = live_chart(runs, [one.run, other.run], "loss")["body"]["lines"]
    assert sorted(line["layer"].split("-")[0] for line in lines) == ["drifting_digits", "fine"]
    chosen = live_chart(runs, [one.run, other.run], "dormant-units", "=fc2")["body"]["lines"]
    assert [line["layer"].rpartition(" · ")[2] for line in chosen] == ["fc2"]
    with pytest.raises(RecordError, match="1 to 8 runs"):
        live_page(runs, [])


def test_the_server_only_reads_and_only_for_this_machine(tmp_path, runs):
    record = RunRecord.create(tmp_path, script=f"{HOSTILE.replace('/', '')}.py")
    record.add_vitals([(1, HOSTILE, HOSTILE, 1.0)])
    record.close()
    outside = tmp_path.parent / "outside.sqlite"
    outside.write_bytes(record.path.read_bytes())
    with serving(runs) as home:
        status, page, headers = get(f"{home}/run?run={quote(record.run)}")
        assert (
            status == 200 and "<script>alert" not in page and "default-src 'none'" in headers["content-security-policy"]
        )
        status, chart, _ = get(f"{home}/chart?run={quote(record.run)}&name={quote(HOSTILE)}")
        assert json.loads(chart)["body"]["lines"][0]["layer"] == HOSTILE and "<script>" not in json.loads(chart)["html"]
        for run in ("../outside", str(outside), "", "nothing"):
            assert get(f"{home}/chart?run={quote(run)}&name=loss")[0] == 404
        assert get(f"{home}/assets/page.css")[0] == 404 and get(f"{home}/assets/../page.py")[0] == 404
        assert get(f"{home}/", Host="elsewhere.example")[0] == 400
        connection = http.client.HTTPConnection(home.removeprefix("http://"))
        connection.request("POST", "/run")
        assert connection.getresponse().status == 405
        connection.close()
    outside.unlink()


def test_beyond_loopback_every_request_needs_the_token(tmp_path, runs):
    healthy(tmp_path).close()
    with serving(runs, token="secret") as home:
        for path in ("/", "/run?run=last", "/events", "/chart?run=last&name=loss", "/assets/page.js"):
            assert get(f"{home}{path}")[0] == 403
        status, _, headers = get(f"{home}/?token=secret", Host="elsewhere.example")
        cookie = headers["set-cookie"]
        assert status == 200 and "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert get(f"{home}/run?run=last", Cookie=cookie.split(";")[0])[0] == 200
    assert address("10.0.0.7", 8470, "abc", ["x"]) == "http://10.0.0.7:8470/run?run=x&token=abc"


def test_without_runs_it_waits_and_says_so(tmp_path):
    runs = WatchedRuns(tmp_path / "not-yet")
    with serving(runs) as home:
        assert "this page waits for it" in get(f"{home}/")[1]
        status, page, _ = get(f"{home}/run?run=last")
        assert status == 404 and "homeostat run SCRIPT" in page and "every two seconds" in page
        healthy(tmp_path / "not-yet").close()
        assert get(f"{home}/run?run=last")[0] == 200


def test_a_port_in_use_names_the_option():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(HomeostatError, match="is in use: choose another with --port"):
            bound("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(HomeostatError, match="--host"):
        bound("203.0.113.1", 0)


def test_causes_stand_directly_above_their_consequences():
    def found(name, follows=""):
        return Finding(name, "warning", 1, follows=follows)

    order = causes_first([found("c", "b"), found("x"), found("b", "a"), found("a"), found("lost", "unknown")])
    assert [f.condition for f in order] == ["x", "a", "b", "c", "lost"]
    assert len(causes_first([found("a", "b"), found("b", "a")])) == 2


def test_blocks_have_the_health_of_the_worst_finding_of_their_layer():
    layout = {"rank": {"2": 1, "0": 2}, "norm": {"0": 3, "1": 4, "2": 5, "network": 6}, "knob": {"redo.threshold": 7}}
    findings = [Finding("a", "info", 1, ("0",)), Finding("b", "critical", 1, ("0", "2.weight"))]
    blocks = network_blocks(layout, findings)
    assert [(b.layer, b.health, b.vitals) for b in blocks] == [
        ("0", "critical", 2),
        ("1", "healthy", 1),
        ("2", "critical", 2),
    ]
    assert blocks[0].conditions == ("b", "a")


@pytest.mark.slow
def test_ctrl_c_ends_it_with_an_open_stream(tmp_path):
    record = healthy(tmp_path)
    record.flush()
    command = [sys.executable, "-m", "homeostat", "watch", "last", "--port", "0", "--json", "--record", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible
    ) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        where = json.loads("".join(lines))["address"]
        stream = urllib.request.urlopen(where.replace("/run", "/events"), timeout=30)
        assert stream.readline() == b"event: update\n"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0 and time.monotonic() - began < 10
        assert process.stderr.read() == ""
    record.close()


def interruptible():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setpgrp()
