"""Headless Chromium over its debugging pipe: open a page, wait for something on it, click, and hear its console."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run", "--hide-scrollbars", "--window-size=1280,1000",
]  # fmt: skip


class Tab:
    """A page in the browser.

    Attributes:
        console: what was printed to the console as a warning or an error, and uncaught errors.
        asked: addresses of all requests.
    """

    def __init__(self, send_to, read_from):
        self._out, self._in, self._number, self._session = send_to, read_from, 0, None
        self._rest, self.console, self.asked = b"", [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._hear(answer)

    def _read(self):
        while b"\0" not in self._rest:
            self._rest += os.read(self._in, 1 << 20)
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def _hear(self, event):
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.console.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.console.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.console.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])

    def open(self, url):
        self.call("Page.navigate", url=url)

    def value(self, expression):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression, seconds=60):
        end = time.monotonic() + seconds
        while not (found := self.value(expression)):
            assert time.monotonic() < end, f"still not: {expression}; console: {self.console}"
            time.sleep(0.05)
        return found

    def press(self, key):
        code = {"Enter": 13, "Tab": 9}[key]
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)


@contextlib.contextmanager
def browser():
    """A tab of a new Chromium."""
    to_child, our_end = os.pipe()
    our_start, from_child = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        shell = f'exec "$@" 3<&{to_child} 4>&{from_child}'
        process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command], pass_fds=(to_child, from_child), stderr=subprocess.DEVNULL
        )
        os.close(to_child), os.close(from_child)
        try:
            yield Tab(our_end, our_start)
        finally:
            process.terminate()
            process.wait(20)
            os.close(our_end), os.close(our_start)
