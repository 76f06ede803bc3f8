"""Sinks from texts like `tensorboard:DIR`. A tracker's library is looked for, and imported when the run begins."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from importlib.util import find_spec

from homeostat.core.errors import BadSetting, UnknownName
from homeostat.sinks import trackers
from homeostat.sinks.sink import RunSink


def tracker_names() -> list[str]:
    """Names of the known trackers: those of the modules in `homeostat.sinks.trackers`."""
    return sorted(module.name for module in pkgutil.iter_modules(trackers.__path__))


def make_sinks(given: str | RunSink | Iterable[str | RunSink]) -> tuple[RunSink, ...]:
    """Sinks from one or several texts `NAME` or `NAME:WHERE`; objects are kept.

    Raises:
        UnknownName: there is no such tracker.
        BadSetting: its library is not installed, a tracker is named twice, or something is not a sink.
    """
    several = (given,) if isinstance(given, str | RunSink) else tuple(given)
    sinks = tuple(_made(one) if isinstance(one, str) else _checked(one) for one in several)
    names = [sink.name for sink in sinks]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise BadSetting(f"{repeated[0]!r} is named twice: a run writes to a tracker once")
    return sinks


def _made(text: str) -> RunSink:
    name, _, where = text.strip().partition(":")
    if name not in tracker_names():
        raise UnknownName("tracker", name, tracker_names())
    module = importlib.import_module(f"{trackers.__name__}.{name}")
    if not _installed(module.LIBRARY):
        raise BadSetting(f"logging to {name} needs a library that is not installed: pip install {module.PACKAGE}")
    return module.make(where)


def _installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except (ImportError, ValueError):
        return False


def _checked(sink: object) -> RunSink:
    if not isinstance(sink, RunSink) or isinstance(sink, type):
        raise BadSetting(f"log takes names like 'tensorboard' or objects with open, write and close, got {sink!r}")
    return sink
