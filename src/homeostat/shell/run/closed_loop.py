"""The closed loop over all networks: it starts, strengthens, keeps and reverts treatments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from homeostat.core.component import build, components
from homeostat.core.errors import HomeostatError, Refused
from homeostat.core.finding import Finding, JournalEntry
from homeostat.core.signals import pass_on
from homeostat.core.treatment import Stage, Treatment
from homeostat.diagnosis.closed_loop import Action, ClosedLoop
from homeostat.diagnosis.history import History
from homeostat.shell.run.controllers import LOOP_EVERY
from homeostat.shell.run.schedule import next_multiple
from homeostat.shell.run.treatments import TreatmentRunner


class ClosedLoopRunner:
    """Carries out the decisions of the closed loop's policy.

    Args:
        runners: the treatments of every network; networks that join the run later are appended to it.
        add_entry: takes journal entries.
        every: cadence in steps of the first network.

    Attributes:
        refused: treatment -> why it could not be applied.
        ended: whether it has stopped acting.
    """

    def __init__(
        self, runners: Sequence[TreatmentRunner], add_entry: Callable[[JournalEntry], None], every: int | None
    ) -> None:
        self.loop, self._runners, self._add_entry, self._every = ClosedLoop(), runners, add_entry, every or LOOP_EVERY
        self.refused: dict[str, str] = {}
        self.ended = False

    def next_due(self, step: int) -> int | None:
        """The first step after `step` at which it decides; None if it has ended."""
        return None if self.ended else next_multiple(step, self._every)

    def due(self, step: int) -> bool:
        """Whether it decides at the end of this step."""
        return not self.ended and step % self._every == 0

    def end(self) -> None:
        """Stop acting."""
        self.ended = True

    def step(self, step: int, findings: Sequence[Finding], history: History) -> None:
        """Ask the policy, and carry out its decision."""
        unavailable = {**_of_modules(), **self.refused}
        if self.loop.state.trial is None:
            unavailable |= {one.name: "already on" for runner in self._runners for one in runner.applied}
        for action in self._decided(lambda: self.loop.step(step, findings, history, unavailable)):
            self._carry_out(action, step)

    def state_dict(self) -> dict[str, Any]:
        """State of the policy, and refused treatments."""
        return {"policy": self.loop.state_dict(), "refused": dict(self.refused)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.loop.load_state_dict(state["policy"])
        self.refused.update(state["refused"])

    def _decided(self, decide: Callable[[], list[Action]]) -> list[Action]:
        """The decision; with several ranks, that of the first rank."""
        ranks = self._runners[0].network.ranks
        if ranks is None:
            return decide()
        actions: list[Action] = []
        try:
            actions = decide() if ranks.first else actions
        finally:  # the others wait for an answer
            actions = ranks.share(actions)
        return actions

    def _carry_out(self, action: Action, step: int) -> None:
        if action.kind in ("start", "strengthen"):
            try:
                treatment = build("treatment", action.treatment)
                self._add_entry(action.entry)
                self._start(treatment, action)
            except HomeostatError as error:
                pass_on(error)
                self.refused[action.treatment.partition(":")[0]] = str(error)
                if self.loop.state.trial is not None:
                    self._add_entry(self.loop.refused(step, str(error)).entry)
            return
        self._add_entry(action.entry)
        if action.kind == "stop":
            for runner in self._runners:
                runner.stop(action.treatment.partition(":")[0], "stop", "taken back by the closed loop")

    def _start(self, treatment: Treatment, action: Action) -> None:
        layers = action.entry.where.split(", ")
        labelled = [r for r in self._runners if r.network.label]
        own = [r for r in labelled if any(layer.startswith(r.network.label + ".") for layer in layers)]
        refused: Refused | None = None
        started = False
        for runner in own or self._runners:
            running = next((c for c in runner.applied if c.name == treatment.name), None)
            if running is not None:
                running.treatment, running.knobs, started = treatment, treatment.knobs(), True
                continue
            try:
                applied = runner.add(treatment, f"{action.condition}: closed loop")
                started |= applied in runner.applied
            except Refused as error:
                pass_on(error)
                refused = error
        if not started:
            raise refused or Refused(treatment.name, "this network", "it could not begin")


def _of_modules() -> dict[str, str]:
    """Treatments that replace modules; they can act only before the first step."""
    found = components("treatment").items()
    return {name: "acts before the first step only" for name, cls in found if cls.stage == Stage.MODULES}
