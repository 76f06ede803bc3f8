"""Plain JSON values, for the JSON columns of a record and for exports."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

DEEPEST = 64
"""Largest number of nested levels; deeper values become text."""
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def legible(text: str) -> str:
    """The text with escapes (`\\x1b`) for characters that UTF-8 cannot encode or that control a terminal.

    Line breaks and tabs stay. Applying it twice changes nothing more.
    """
    return text if text.isprintable() else _ACTING.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def plain(value: Any, depth: int = 0) -> Any:
    """The value as a strict JSON value.

    NaN becomes None, infinite numbers the text "inf" or "-inf"; tensors and arrays become lists or numbers, mappings
    objects with text keys, other collections lists, and anything else its text.
    """
    if isinstance(value, Enum):
        return plain(value.value, depth)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, int):
        return value if value.bit_length() < 1024 else f"(a whole number of {value.bit_length()} bits)"
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if depth == DEEPEST:
        return f"({type(value).__name__}, nested too deeply)"
    if isinstance(value, Mapping):
        return {legible(str(key)): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item, depth + 1) for item in value), key=str)
    if hasattr(value, "tolist"):
        return plain(value.tolist(), depth)
    return legible(str(value))


def dumps(value: Any) -> str:
    """Strict JSON text of `plain(value)`."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False)


def number(value: Any) -> float | None:
    """A value as the record stores it: None if it is missing (None or NaN); infinite values are kept."""
    if value is None:
        return None
    value = float(value)
    return None if math.isnan(value) else value
