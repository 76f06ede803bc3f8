"""Checks of the values in a record. A record may come from anywhere, so every value is checked when it is read.

Each check returns the value for the reader, or raises ValueError with the reason. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from homeostat.core.finding import SEVERITIES, Finding, Prescription
from homeostat.core.signals import pass_on
from homeostat.record.json_values import legible, plain

Check = Callable[[Any], Any]


def text(value: Any) -> str:
    """Text without control characters of a terminal."""
    return legible(_text(value))


def number(value: Any) -> float:
    """A number, possibly infinite."""
    if type(value) is not float:
        raise _wrong(value, "a number")
    return value


def finite(value: Any) -> float:
    """A finite number, at least 0."""
    if not 0 <= number(value) < math.inf:
        raise ValueError(f"{value} is not a finite number of at least 0")
    return value


def any_whole(value: Any) -> int:
    """A whole number."""
    if type(value) is not int:
        raise _wrong(value, "a whole number")
    return value


def whole(least: int, most: int = 2**63 - 1) -> Check:
    """A whole number within limits."""

    def check(value: Any) -> int:
        if not least <= any_whole(value) <= most:
            raise ValueError(f"{value} is not within {least} and {most}")
        return value

    return check


step = whole(0)


def maybe(check: Check) -> Check:
    """NULL, or a value that passes the check."""
    return lambda value: None if value is None else check(value)


def one_of(known: Collection[str]) -> Check:
    """One of the given words."""

    def check(value: Any) -> str:
        if text(value) not in known:
            raise ValueError(f"{value[:40]!r} is none of {', '.join(known)}")
        return value

    return check


def time(value: Any) -> str:
    """ISO 8601 with a time zone."""
    if datetime.fromisoformat(text(value)).tzinfo is None:
        raise ValueError(f"{value!r} has no time zone")
    return value


def any_json(value: Any) -> Any:
    """The value of JSON text."""
    try:
        return plain(json.loads(_text(value)))
    except RecursionError as error:
        pass_on(error)
        raise ValueError("JSON that is nested too deeply") from None


def json_object(value: Any) -> dict[str, Any]:
    """A JSON object."""
    return _object(any_json(value))


def json_texts(value: Any) -> tuple[str, ...]:
    """A JSON list of texts."""
    return _texts(any_json(value))


def finding(value: Any) -> Finding:
    """A finding as `Finding.to_json` describes it."""
    names = ("condition", "severity", "since_step", "layers", "evidence", "prescriptions", "follows")
    data = _object({"follows": "", **_object(any_json(value))}, names)  # older records have no "follows"
    prescriptions = [_object(p, ("do", "treatment", "study", "verdict")) for p in _list(data["prescriptions"])]
    return Finding(
        text(data["condition"]),
        one_of(SEVERITIES)(data["severity"]),
        step(data["since_step"]),
        _texts(data["layers"]),
        _object(data["evidence"]),
        tuple(Prescription(*map(text, p.values())) for p in prescriptions),
        text(data["follows"]),
    )


def failures(value: Any) -> list[tuple[str, int, str, int]]:
    """Part, step, reason and number of times of each failure, from the fact "failed"."""
    parts = {part: _object(failed, ("step", "why", "times")) for part, failed in _object(value).items()}
    return [(part, step(f["step"]), text(f["why"]), whole(1)(f["times"])) for part, f in parts.items()]


def _text(value: Any) -> str:
    if type(value) is not str:
        raise _wrong(value, "text")
    return value


def _object(value: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """A JSON object; with `names`, one with exactly these keys, in this order."""
    if not isinstance(value, dict):
        raise _wrong(value, "a JSON object")
    if names is None:
        return value
    if set(value) != set(names):
        raise ValueError(f"a JSON object with {legible(', '.join(value))[:200]}, not with {', '.join(names)}")
    return {name: value[name] for name in names}


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(value, "a JSON list")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(text, _list(value)))


def _wrong(value: Any, wanted: str) -> ValueError:
    kinds = {bytes: "binary data", str: "text", int: "a whole number", float: "a number", type(None): "missing"}
    return ValueError(f"it is {kinds.get(type(value), type(value).__name__)}, not {wanted}")
