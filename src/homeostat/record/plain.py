"""Plain JSON values: what a record stores in its JSON columns and what an export may contain."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any


def plain(value: Any) -> Any:
    """The value as strict JSON has it.

    NaN becomes None, an infinite number the text "inf" or "-inf" (JSON has neither); tensors and arrays become lists
    or numbers, mappings objects with text keys, other collections lists, anything else its text.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def dumps(value: Any) -> str:
    """Strict JSON text of `plain(value)`."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False)


def number(value: Any) -> float | None:
    """A value as the record stores it: None for a missing one (None or NaN), infinite ones as they are."""
    if value is None:
        return None
    value = float(value)
    return None if math.isnan(value) else value
