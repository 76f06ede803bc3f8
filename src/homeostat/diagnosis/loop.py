"""The closed loop's policy: finding -> first prescription -> watch the vital -> keep, strengthen or revert.

A pure state machine in optimizer steps: it sees findings and a history, and answers with actions that the shell
carries out. Nothing here knows modules, clocks or random numbers, so the same run takes the same decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from homeostat.core.finding import Finding, JournalEntry
from homeostat.diagnosis.history import History


@dataclass(frozen=True, kw_only=True)
class LoopPolicy:
    """When the loop acts. All times in optimizer steps.

    Args:
        warmup: nothing is treated before this step.
        window: how long a treatment is watched before it is judged; the vital is taken over the second half.
        cooldown: pause after a revert, or after a keep that left the finding, before the condition is treated again.
        keep_gain: relative improvement of the vital from which a treatment is kept.
        harm: relative worsening of the vital, or of the loss if it is positive, from which it is taken back.
        loss_harm: the same for the loss; wider, because losses are noisy and a treatment may cost a little fit.
        tries: remedies tried per condition (each with its rungs) before the loop gives up and says so.
        readings: readings of the vital that the second half of the window must hold.
        severity: mildest finding that is treated.
    """

    warmup: int = 100
    window: int = 400
    cooldown: int = 200
    keep_gain: float = 0.2
    harm: float = 0.1
    loss_harm: float = 0.5
    tries: int = 3
    readings: int = 3
    severity: Literal["info", "warning", "critical"] = "warning"


@dataclass(frozen=True)
class Action:
    """One thing for the shell to do and to write into the journal.

    Args:
        kind: "start" (build `treatment` and apply it), "strengthen" (replace the running treatment of that name by this
            one), "stop" (take it off), or "note" (only write the entry).
        treatment: `--treat` text; "" for a note.
        condition: what it is for.
        entry: the journal entry.
    """

    kind: Literal["start", "strengthen", "stop", "note"]
    treatment: str
    condition: str
    entry: JournalEntry


@dataclass
class Course:
    """A treatment on trial."""

    condition: str
    layers: tuple[str, ...]
    remedy: int
    rung: int
    started: int
    before: float
    loss_before: float


@dataclass
class LoopState:
    """Everything the loop remembers; JSON-friendly through `asdict`.

    Args:
        course: the trial under way: one at a time, so that an effect can be attributed.
        kept: condition -> remedy and rung that proved itself and stays on.
        next_remedy: condition -> index of the next remedy to try.
        tried: condition -> number of remedies tried.
        rest_until: condition -> step before which it is left alone.
        given_up: conditions for which nothing helped.
    """

    course: Course | None = None
    kept: dict[str, list[int]] = field(default_factory=dict)
    next_remedy: dict[str, int] = field(default_factory=dict)
    tried: dict[str, int] = field(default_factory=dict)
    rest_until: dict[str, int] = field(default_factory=dict)
    given_up: list[str] = field(default_factory=list)


class ClosedLoop:
    """Call `step` at a fixed cadence; carry out the actions; call `refused` when a treatment could not be applied."""

    def __init__(self, policy: LoopPolicy | None = None) -> None:
        self.policy = policy or LoopPolicy()
        self.state = LoopState()

    def step(
        self, step: int, findings: Sequence[Finding], history: History, unavailable: Mapping[str, str] | None = None
    ) -> list[Action]:
        """What to do now.

        Args:
            step: optimizer steps completed.
            findings: the current findings.
            history: the vitals so far.
            unavailable: treatment name -> why it cannot be applied here; those are passed over.
        """
        raise NotImplementedError
