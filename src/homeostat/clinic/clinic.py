"""Runs programs, stores their results and computes figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from homeostat.clinic.figures import Examined, figures, weak
from homeostat.clinic.programs import TrainingProgram, programs
from homeostat.clinic.split import DEVELOPMENT, HELD_OUT, drawn, frozen
from homeostat.clinic.store import TOO_LONG, Store
from homeostat.core.component import components
from homeostat.core.errors import UnknownName


def chosen(number: int, condition: str = "", family: str = "") -> list[TrainingProgram]:
    """The first programs of the list, of one condition or family only if given.

    Args:
        condition: condition that names the fault, or "healthy".
        family: an architecture, or architecture/style.

    Raises:
        UnknownName: there is no such condition or family among them.
    """
    found = list(programs(number))
    if condition:
        known = sorted({n for p in found for n in p.change.names} | {"healthy"})
        if condition not in known:
            raise UnknownName("condition of the clinic", condition, known)
        found = [p for p in found if (condition in p.change.names if p.change.sick else condition == "healthy")]
    if family:
        known = sorted({p.arch for p in programs(number)} | {p.family for p in programs(number)})
        if family not in known:
            raise UnknownName("family of programs", family, known)
        found = [p for p in found if family in (p.arch, p.family)]
    return found


def run(wanted: Sequence[TrainingProgram], store: Store, done: Callable[[TrainingProgram], object]) -> list[Examined]:
    """Run the programs that have no stored result, and return all results."""
    from homeostat.clinic.runner import run_program, warm

    stored = {result.digest: result for result in store if result.status != TOO_LONG}
    cases: list[Examined] = []
    warmed = False
    for program in wanted:
        if program.digest not in stored:
            if not warmed:
                warm()
                warmed = True
            stored[program.digest] = run_program(program)
            store.add(stored[program.digest])
        cases.append(Examined(program, stored[program.digest]))
        done(program)
    return cases


def judged(wanted: Sequence[TrainingProgram], store: Store, condition: str = "") -> Iterator[Examined]:
    """The stored results of these programs, judged by the current rules, or by one of them if it is named."""
    by_digest = {program.digest: program for program in wanted}
    rules = [components("condition")[condition]()] if condition in components("condition") else None
    for result in store:
        if (program := by_digest.pop(result.digest, None)) is not None:
            yield Examined(program, result.judged(rules))


def report(cases: Sequence[Examined], resplits: int = 0) -> dict[str, Any]:
    """Figures of all programs, of both sides of the frozen split and of further splits, and a list of mistakes."""
    sides = frozen()
    return {
        "all": figures(cases),
        DEVELOPMENT: figures([c for c in cases if sides[c.program.family] == DEVELOPMENT]),
        HELD_OUT: figures([c for c in cases if sides[c.program.family] == HELD_OUT]),
        "resplits": [_half(cases, drawn(seed)) for seed in range(1, resplits + 1)],
        "weak": weak(c for c in cases if sides[c.program.family] == DEVELOPMENT),
        "weak, held out": weak(c for c in cases if sides[c.program.family] == HELD_OUT),
    }


def _half(cases: Sequence[Examined], sides: dict[str, str]) -> dict[str, Any]:
    found = figures([c for c in cases if sides[c.program.family] == HELD_OUT])
    return {key: found[key] for key in ("programs", "macro_f1", "recall", "detected", "false_alarms")}
