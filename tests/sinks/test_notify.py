"""Messages to people, through a real SMTP and a real HTTP server on this machine."""

from __future__ import annotations

import email
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from homeostat.core.errors import BadSetting
from homeostat.sinks import Alert, Notifier
from homeostat.sinks.messenger import Digest, messages, text_of

pytest.importorskip("apprise", reason="needs the extra notify")

SICK = """
import random, sys, time
import torch
from torch import nn

torch.manual_seed(0)
random.seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3), nn.Softmax(dim=1))
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
for step in range(40):
    loss = nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(0, 3, (16,)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(random.random(), flush=True)
END
"""


class Received(BaseHTTPRequestHandler):
    """Keeps the JSON that is posted."""

    kept: list[dict] = []  # noqa: RUF012
    delay = 0.0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.delay)
        self.kept.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[str]:
    """Address of an HTTP server."""
    monkeypatch.setattr(Received, "kept", [])
    http = HTTPServer(("127.0.0.1", 0), Received)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"json://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(folder: Path, url: str, end: str = "") -> subprocess.Popen[str]:
    (folder / "train.py").write_text(SICK.replace("END", end))
    command = [sys.executable, "-m", "homeostat", "run", "--every", "5", "--notify", url, "train.py"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_failed_run_is_one_mail_with_its_findings(tmp_path):
    controller = pytest.importorskip("aiosmtpd.controller")
    mails: list[email.message.Message] = []

    class Keep:
        async def handle_DATA(self, server, session, envelope):
            mails.append(email.message_from_bytes(envelope.content))
            return "250 OK"

    port = free_port()
    smtp = controller.Controller(Keep(), hostname="127.0.0.1", port=port)
    smtp.start()
    try:
        url = f"mailto://127.0.0.1:{port}?from=run@example.org&to=me@example.org&mode=insecure"
        run = start(tmp_path, url, "raise ValueError('the disk is on fire')")
        printed, said = run.communicate(timeout=120)
    finally:
        smtp.stop()
    assert run.returncode == 1 and "the disk is on fire" in said and "message could not" not in said
    assert float(printed) == random.Random(0).random()  # sending a mail draws from `random`
    (mail,) = mails
    assert mail["Subject"] == "homeostat: train.py ended by an error" and "me@example.org" in mail["To"]
    text = "".join(p.get_payload(decode=True).decode() for p in mail.walk() if p.get_content_type() == "text/plain")
    assert "duplicated-softmax: warning" in text and "Usually helps" in text
    (record,) = (tmp_path / "homeostat-runs").glob("*.sqlite")
    assert record.stem in text and b"example.org" not in record.read_bytes()


@pytest.mark.slow
def test_a_killed_run_is_reported(tmp_path, server):
    run = start(tmp_path, server, "time.sleep(60)")
    assert run.stdout is not None and run.stdout.readline()
    run.send_signal(signal.SIGKILL)
    run.communicate()
    deadline = time.monotonic() + 60
    while not Received.kept and time.monotonic() < deadline:
        time.sleep(0.1)
    (message,) = Received.kept
    assert message["title"] == "homeostat: train.py was killed"


@pytest.mark.slow
def test_an_address_that_does_not_answer_delays_the_end_by_a_few_seconds_only(server, monkeypatch):
    monkeypatch.setattr(Received, "delay", 4.0)
    monkeypatch.setattr("homeostat.sinks.notifier.WAIT_SECONDS", 0.2)
    sink = Notifier(server)
    sink.open("id", "train.py")
    began = time.monotonic()
    sink.close("finished")
    assert time.monotonic() - began < 2
    deadline = time.monotonic() + 60
    while not Received.kept and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [m["title"] for m in Received.kept] == ["homeostat: train.py finished"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_sends_nothing_and_a_wrong_address_is_said(server):
    sink = Notifier(server)
    sink.open("id", "train.py")
    child = os.fork()
    if child == 0:
        sink.write([], [Alert(1, "warning", "from the child", "")])
        sink.close("finished")
        os._exit(0)
    os.waitpid(child, 0)
    sink.close("finished")
    (message,) = Received.kept
    assert "from the child" not in message["message"]
    with pytest.raises(BadSetting, match="mailto://"):
        Notifier("me@example.org")


def test_alerts_are_collected_and_messages_are_apart():
    now = [0.0]
    lines = [(0, "a: warning\nx"), (10, "b: warning"), (31, None), (40, "c: warning"), (300, None), (632, "c: warning")]

    def given():
        for at, text in lines:
            now[0] = at
            yield None if text is None else {"alert": text}
        yield {"end": "finished"}

    about = {"first": 30, "pause": 600, "script": "train.py", "run": "id", "host": "here"}
    sent = [(now[0], title, body) for title, body in messages(about, given(), lambda: now[0])]
    assert sent == [
        (31, "train.py: a: warning", "a: warning\nx\n\nb: warning\n\nrun id on here"),
        (632, "train.py: c: warning", "c: warning\n\nrun id on here"),
        (632, "train.py finished", "run id on here"),
    ]
    digest = Digest(30, 600)
    digest.add("a", 5)
    assert not digest.due(34) and digest.due(35)
    assert text_of([str(n) for n in range(60)]).endswith("and 10 more")
