"""The contract of a study: an experiment that tests a paper's claim, and can fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from homeostat.core.component import Component
from homeostat.core.errors import BadSetting, UnknownName
from homeostat.streams.data import Data
from homeostat.studies.lab.verdict import FEWEST_SEEDS, Expectation, Measure


@dataclass(frozen=True, kw_only=True)
class Study(Component, abstract=True):
    """One claim. A subclass in a file of `studies/papers/` is a study; no other file has to be edited.

    Class attributes:
        claim: the claim of the paper, in one or two sentences.
        arms: name -> description of the arm.
        expectations: conditions of the claim, written before the judged seeds were run; all of them must hold.
        budgets: sizes by budget: "smoke" (seconds; checks that it runs) and "paper" (minutes on two cores; the
            verdict).
        paper_seeds, smoke_seeds: default number of seeds of each budget.
        tuning: what was tuned and on which seeds; these must not be judged seeds (0, 1, 2, ...).
        series: the measure that the gallery plots; by default the first that is a series.
        remarks: other observations; the likely cause if the claim does not hold or is inconclusive.

    Settings:
        data: "digits" or the path of an MNIST-format folder; only the default is written to the package's verdicts.
    """

    kind: ClassVar[str] = "study"
    claim: ClassVar[str]
    arms: ClassVar[Mapping[str, str]]
    expectations: ClassVar[tuple[Expectation, ...]]
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]]
    paper_seeds: ClassVar[int] = FEWEST_SEEDS
    smoke_seeds: ClassVar[int] = 2
    tuning: ClassVar[str] = "nothing"
    series: ClassVar[str] = ""
    remarks: ClassVar[str] = ""

    data: Data | str | Path = field(default="digits")

    def run(self, arm: str, seed: int, budget: str) -> dict[str, Measure]:
        """Train one arm under one seed and measure it.

        The result depends on the arguments and settings alone: the harness may call it in another process and in any
        order. The harness first seeds torch's global generator, so that all arms of a seed start from the same weights.
        """
        raise NotImplementedError

    def sizes(self, budget: str) -> Mapping[str, Any]:
        """The sizes of a budget.

        Raises:
            UnknownName: there is no such budget.
        """
        if budget not in self.budgets:
            raise UnknownName("budget", budget, self.budgets)
        return self.budgets[budget]

    def seeds(self, budget: str, count: int | None = None) -> tuple[int, ...]:
        """The judged seeds: 0, 1, 2, ...

        Raises:
            BadSetting: fewer than one was asked for.
        """
        default = self.paper_seeds if budget == "paper" else self.smoke_seeds
        if count is not None and count < 1:
            raise BadSetting(f"{self.name} needs at least one seed, got {count}")
        return tuple(range(count or default))

    def settings(self) -> dict[str, Any]:
        named = self.data.name if isinstance(self.data, Data) else str(self.data)
        return {**super().settings(), "data": named}
