"""Laws and reports. A law has a name, a statement, and a check that explains how it is broken."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


class DoesNotApply(Exception):
    """Raised by a check if the law does not apply to the component; the message is the reason."""


@dataclass(frozen=True)
class Law:
    """One law, bound to a component.

    Args:
        name: name in output, declarations and records.
        text: statement of the law, one sentence.
        check: returns if the law holds; raises AssertionError with an explanation if it is broken, and DoesNotApply
            with the reason if it does not apply.
    """

    name: str
    text: str
    check: Callable[[], None]

    def __call__(self) -> None:
        self.check()


@dataclass(frozen=True)
class Report:
    """Results of the laws of one component.

    Args:
        component: name of the component.
        passed: names of the laws that hold.
        failed: law -> explanation.
        declared: law -> the component's reason for the exception.
        skipped: law -> why it does not apply.
        kind: kind of the component.
    """

    component: str
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    declared: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    kind: str = ""

    @property
    def ok(self) -> bool:
        """Whether no law is broken, apart from declared exceptions."""
        return not self.failed

    def outcomes(self) -> Iterator[tuple[str, str, str]]:
        """(law, "kept" | "declared" | "does not apply" | "BROKEN", reason), broken laws first."""
        for outcome, laws in (("BROKEN", self.failed), ("declared", self.declared)):
            yield from ((law, outcome, why) for law, why in laws.items())
        yield from ((law, "kept", "") for law in self.passed)
        yield from ((law, "does not apply", why) for law, why in self.skipped.items())

    def __str__(self) -> str:
        more = f", {len(self.skipped)} do not apply" if self.skipped else ""
        lines = [f"{self.component}: {len(self.passed)} laws kept{more}"]
        lines += [f"  declared  {law}: {why}" for law, why in self.declared.items()]
        lines += [f"  BROKEN    {law}: {why}" for law, why in self.failed.items()]
        return "\n".join(lines)


def sentence(check: Callable[..., Any]) -> str:
    """The first paragraph of a check's docstring, which states its law."""
    text = re.split(r"\n\s*\n", inspect.getdoc(check) or "")[0]
    return " ".join(text.split())


def run_law(law: Law, declared: Mapping[str, str], report: Report) -> None:
    """Check one law and add the outcome to the report."""
    try:
        law.check()
    except DoesNotApply as reason:
        if law.name in declared:
            report.failed[law.name] = "declared as an exception, but the law does not apply: remove the declaration"
        elif not str(reason):
            report.failed[law.name] = "skipped without a reason"
        else:
            report.skipped[law.name] = str(reason)
        return
    except AssertionError as error:
        wrong = str(error) or "broken"
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    else:
        wrong = ""
    if law.name in declared:
        stale = "declared as an exception, but the law holds: remove the declaration"
        (report.declared if wrong else report.failed)[law.name] = declared[law.name] if wrong else stale
    elif wrong:
        report.failed[law.name] = wrong
    else:
        report.passed.append(law.name)
