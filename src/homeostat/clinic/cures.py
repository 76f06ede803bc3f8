"""Tests whether treatment helps: sick programs under the closed loop, compared with no treatment, a random treatment
and a restart."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from homeostat.clinic.fault import learned
from homeostat.clinic.figures import rate
from homeostat.clinic.programs import TrainingProgram
from homeostat.clinic.store import TOO_LONG, Result, Store
from homeostat.core.component import components

TWIN, NOTHING, CLOSED_LOOP, RANDOM, RESTART = "twin", "nothing", "closed loop", "random treatment", "restart"
SICK_ARMS = (TWIN, NOTHING, CLOSED_LOOP, RANDOM, RESTART)
HEALTHY_ARMS = (NOTHING, CLOSED_LOOP)
STEPS = 2400
"""Optimizer steps of these programs: a treatment is judged after some hundred steps, and recovery takes time too."""
LIMIT_SECONDS = 240
MARGIN = 0.05
"""A run is cured if its last loss is at most this share of the gain of the healthy program above its last loss."""


@dataclass(frozen=True)
class Treated:
    """The results of one program by arm."""

    program: TrainingProgram
    arms: Mapping[str, Result] = field(default_factory=dict[str, Result])

    @property
    def clear(self) -> bool:
        """Whether the fault took effect (or did not exist), and the reference run learned."""
        nothing = self.arms[NOTHING].truth
        if not nothing or not self.program.change.shows(nothing):
            return False
        return not self.program.change.sick or (bool(self.arms[TWIN].truth) and learned(self.arms[TWIN].truth))

    def reaches(self, arm: str, other: str) -> bool:
        """Whether the last loss of an arm equals that of another arm, up to `MARGIN` of the gain of the other."""
        mine, goal = self.arms[arm].truth, self.arms[other].truth
        last = mine.get("last")
        if last is None or not math.isfinite(last):
            return False
        return last <= goal["last"] + MARGIN * max(goal["first"] - goal["last"], 0.0)


def treatable(wanted: Iterable[TrainingProgram]) -> list[TrainingProgram]:
    """Longer forms of sick programs for whose condition there is a treatment, and of healthy ones.

    Only programs whose last loss says how well they do: no agents, no generators, no self-supervision.
    """
    fit = (p for p in wanted if p.arch in _WITH_LOSS and (not p.change.sick or _treatments(p.change.names)))
    return [replace(p, change=replace(p.change, wish={**p.change.wish, "steps": STEPS})) for p in fit]


_WITH_LOSS = ("mlp", "regressor", "cnn", "resnet", "encoder", "vit", "gru", "lstm", "autoencoder", "causal-lm")


def run(
    wanted: Sequence[TrainingProgram], store: Store, done: Callable[[TrainingProgram], object] = lambda _: None
) -> list[Treated]:
    """Run the arms that have no stored result, and return all results."""
    from homeostat.clinic.runner import run_text, warm

    stored = {result.digest: result for result in store if result.status != TOO_LONG}
    cases: list[Treated] = []
    warmed = False
    for program in wanted:
        arms: dict[str, Result] = {}
        for arm in SICK_ARMS if program.change.sick else HEALTHY_ARMS:
            text, before, treat = _texts(program, arm)
            digest = hashlib.sha256("\0".join((arm, text, before, *treat)).encode()).hexdigest()[:16]
            if digest not in stored:
                if not warmed:
                    warm()
                    warmed = True
                stored[digest] = run_text(digest, f"{program.name} {arm}", text, before, treat, LIMIT_SECONDS)
                store.add(stored[digest])
            arms[arm] = stored[digest]
        cases.append(Treated(program, arms))
        done(program)
    return cases


def _texts(program: TrainingProgram, arm: str) -> tuple[str, str, tuple[str, ...]]:
    text, before = program.twin() if arm == TWIN else program.texts()
    if arm == RESTART:  # from other initial weights, with the same data
        text = re.sub(r"manual_seed\((\d+)\)", lambda found: f"manual_seed({int(found[1]) + 1000})", text)
    if arm == CLOSED_LOOP:
        return text, before, ("auto",)
    if arm == RANDOM:
        every = sorted({t for name in components("condition") for t in _treatments((name,))})
        return text, before, (Random(program.digest).choice(every),)
    return text, before, ()


def _treatments(names: Iterable[str]) -> list[str]:
    known = components("condition")
    return [r.rungs[0] for n in names if n in known for r in known[n].remedies if r.rungs]


def cure_rates(cases: Sequence[Treated]) -> dict[str, Any]:
    """Counts by arm, for all sick programs and by condition, and how often the closed loop harms healthy programs."""
    sick = [c for c in cases if c.program.change.sick and c.clear]
    well = [c for c in cases if not c.program.change.sick and c.clear]
    # a treatment can help only if the fault raises the loss
    hurt = [c for c in sick if not c.reaches(NOTHING, TWIN)]
    arms = (NOTHING, CLOSED_LOOP, RANDOM, RESTART)
    names = sorted({c.program.change.names[0] for c in hurt})
    return {
        "sick": len(sick),
        "hurt": len(hurt),
        "cured": {arm: _cured(hurt, arm) for arm in arms},
        "conditions": {
            name: {
                "programs": len(own := [c for c in hurt if c.program.change.names[0] == name]),
                **{arm: _cured(own, arm) for arm in arms},
            }
            for name in names
        },
        "healthy": len(well),
        "harmed": rate(sum(not c.reaches(CLOSED_LOOP, NOTHING) for c in well), len(well)),
        # an untreated program prints the same numbers
        "treated healthy": rate(sum(c.arms[CLOSED_LOOP].truth != c.arms[NOTHING].truth for c in well), len(well)),
    }


def as_table(found: Mapping[str, Any]) -> str:
    """The counts as a Markdown table."""
    rows = [
        f"| condition | programs | {' | '.join((NOTHING, CLOSED_LOOP, RANDOM, RESTART))} |",
        "|---|---|---|---|---|---|",
    ]
    everything = {"all": {"programs": found["hurt"], **found["cured"]}, **found["conditions"]}
    for name, row in everything.items():
        cells = [f"{row[arm]['share']:.0%}" for arm in (NOTHING, CLOSED_LOOP, RANDOM, RESTART)]
        rows.append(f"| {name} | {row['programs']} | {' | '.join(cells)} |")
    harmed, touched = found["harmed"], found["treated healthy"]
    rows.append(
        f"\nOf {found['healthy']} healthy programs the closed loop treated {touched['count']} and harmed "
        f"{harmed['count']} (at most {harmed['high']:.0%})."
    )
    return "\n".join(rows)


def _cured(cases: Sequence[Treated], arm: str) -> dict[str, Any]:
    return rate(sum(c.reaches(arm, TWIN) for c in cases), len(cases))
