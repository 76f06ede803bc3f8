"""A live server in a thread of the test."""

import contextlib
import threading
import time

import uvicorn

from homeostat.report.live.serve import address, bound
from homeostat.report.live.server import application


@contextlib.contextmanager
def serving(watched, token=""):
    """The address of a server of these runs, without a path."""
    box = []
    app = application(watched, token, lambda: box[0].should_exit)
    listening = bound("127.0.0.1", 0)
    config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=2)
    box.append(server := uvicorn.Server(config))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield address("127.0.0.1", listening.getsockname()[1], "", []).rstrip("/")
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
