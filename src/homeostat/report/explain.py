"""What vitals and conditions mean, taken from the components themselves."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import dataclass

from homeostat.core.component import components


@dataclass(frozen=True)
class Meaning:
    """One vital for people.

    Args:
        line: what it is, in one sentence.
        unit: what it counts.
        worse: which direction is sick ("neither" when unknown).
        bounded: it has a largest possible value, so that a linear axis shows it best.
    """

    line: str = ""
    unit: str = ""
    worse: str = "neither"
    bounded: bool = False


def vital_meanings() -> dict[str, Meaning]:
    """Vital -> meaning, for every vital this Homeostat knows; a record may hold others."""
    known = components("vital")
    return {
        name: Meaning(first_sentence(cls), cls.unit, cls.worse, math.isfinite(cls.range[1]))
        for name, cls in known.items()
    }


def condition_meanings() -> dict[str, str]:
    """Condition -> what it means."""
    return {name: cls.explanation or first_sentence(cls) for name, cls in components("condition").items()}


def condition_vitals() -> dict[str, tuple[str, ...]]:
    """Condition -> names of the vitals it looks at."""
    return {name: tuple(cls.reads) for name, cls in components("condition").items()}


def first_sentence(cls: type) -> str:
    """The first sentence of a class's docstring, without the shapes that are for programmers."""
    text = " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
    text = re.sub(r",? ?\[\*R[^\]]*\]", "", text).replace("`", "")
    sentence = re.split(r"(?<=[a-z)\]]{2}[.;])\s", text, maxsplit=1)[0].rstrip(";.")
    return re.sub(r": [a-z]+(_[a-z]+)+$", "", sentence) + "." if sentence else ""
