"""Tell errors of the script's signal handlers from our own.

A handler of the script (an alarm's timeout) runs between any two instructions, so also inside our code. What it raises
belongs to the script. Every `except` clause on the way calls `pass_on` first.
"""

from __future__ import annotations

import contextlib
import inspect
import signal
import threading
import traceback
from collections.abc import Generator, Iterator
from types import CodeType
from typing import Any


def pass_on(error: BaseException) -> None:
    """Raise the error of a signal handler of the script, if this error is one or came from one."""
    theirs = raised_by_handler(error)
    if theirs is not None:
        raise theirs


@contextlib.contextmanager
def suppressed(*kinds: type[BaseException]) -> Generator[None]:
    """`contextlib.suppress`, except for errors of the script's signal handlers."""
    try:
        yield
    except kinds as error:
        pass_on(error)


def raised_by_handler(error: BaseException) -> BaseException | None:
    """The error that a signal handler of the script raised, among this error and those it came from."""
    if threading.current_thread() is not threading.main_thread():
        return None  # handlers run in the main thread
    codes = {code for number in signal.valid_signals() for code in _codes(signal.getsignal(number))}
    seen: set[int] = set()
    found: BaseException | None = error
    while codes and found is not None and id(found) not in seen:
        seen.add(id(found))
        place = found.__traceback__
        while place is not None:
            if place.tb_frame.f_code in codes:
                return found
            place = place.tb_next
        found = found.__cause__ or (found.__context__ if _in_our_code(found.__context__) else None)
    return None


def _in_our_code(error: BaseException | None) -> bool:
    """Whether an error arose below our code. One that the script is handling when it calls us did not."""
    frames = traceback.walk_tb(error.__traceback__) if error is not None else ()
    return any(frame.f_globals.get("__name__", "").startswith("homeostat.") for frame, _ in frames)


def _codes(handler: Any) -> Iterator[CodeType]:
    """The code of a handler: a function, a method, a partial of one or an object that can be called."""
    while hasattr(handler, "func") and not hasattr(handler, "__code__"):
        handler = handler.func
    for function in (handler, inspect.getattr_static(handler, "__call__", None)):
        if isinstance(code := getattr(function, "__code__", None), CodeType):
            yield code
