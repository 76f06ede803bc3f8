"""Descriptions of vitals and conditions, taken from their classes."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import dataclass

from homeostat.core.component import components
from homeostat.diagnosis.history import STEP_SERIES
from homeostat.diagnosis.loss_series import LOSS_SERIES


@dataclass(frozen=True)
class Meaning:
    """Description of a vital for the report.

    Args:
        line: one sentence about the vital.
        unit: unit of its values.
        worse: direction that is worse: "higher", "lower" or "neither".
        bounded: whether it has a largest possible value; its chart then uses a linear axis.
    """

    line: str = ""
    unit: str = ""
    worse: str = "neither"
    bounded: bool = False


def vital_meanings() -> dict[str, Meaning]:
    """Vital -> meaning, for every registered vital and what is read at steps or from losses. There may be others."""
    known = components("vital")
    series = {name: Meaning(line, unit) for name, (line, unit) in {**STEP_SERIES, **LOSS_SERIES}.items()}
    return series | {
        name: Meaning(first_sentence(cls), cls.unit, cls.worse, math.isfinite(cls.range[1]))
        for name, cls in known.items()
    }


def condition_meanings() -> dict[str, str]:
    """Condition -> its explanation."""
    return {name: cls.explanation or first_sentence(cls) for name, cls in components("condition").items()}


def condition_vitals() -> dict[str, tuple[str, ...]]:
    """Condition -> names of the vitals that it reads."""
    return {name: tuple(cls.reads) for name, cls in components("condition").items()}


def first_sentence(cls: type) -> str:
    """The first sentence of a class's docstring, without tensor shapes and code marks."""
    text = " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
    text = re.sub(r",? ?\[\*R[^\]]*\]", "", text).replace("`", "")
    sentence = re.split(r"(?<=[a-z)\]]{2}[.;])\s", text, maxsplit=1)[0].rstrip(";.")
    return re.sub(r": [a-z]+(_[a-z]+)+$", "", sentence) + "." if sentence else ""
