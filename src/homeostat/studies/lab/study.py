"""The contract of a study: an experiment that tests a paper's claim, and can fail."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from homeostat.core.component import Component
from homeostat.core.errors import BadSetting, UnknownName
from homeostat.streams.data import Data
from homeostat.studies.lab.expectation import Expectation, Measure, Precondition
from homeostat.studies.lab.sequential import MOST
from homeostat.studies.lab.tuning import Tuning


@dataclass(frozen=True, kw_only=True)
class Study(Component, abstract=True):
    """One claim. A subclass in a file of `studies/papers/` is a study; no other file has to be edited.

    Class attributes:
        claim: the claim of the paper, in one or two sentences.
        arms: name -> description of the arm.
        expectations: written before the judged seeds were run. One is primary (at most two, if the paper's abstract
            makes two claims): it decides. The others are reported and never change the verdict.
        because: why the primary expectation is the primary one.
        preconditions: what must be there before a cure can be tested, on development seeds; if one does not hold, the
            verdict is "not shown here".
        tune: settings of arms that the harness chooses on development seeds; `setting` gives the chosen one.
        budgets: sizes by budget: "smoke" (seconds; checks that it runs) and "paper" (minutes on two cores; the
            verdict).
        first_seed: of the judged seeds; they come in blocks of ten until the verdict is decided.
        most_seeds: largest number of judged seeds.
        development: number of development seeds on which preconditions are judged.
        smoke_seeds: number of seeds of the smoke budget.
        seeds_at_once: how many seeds `run_many` is given; 1 runs every seed by itself.
        tuning: what was tuned by hand and on which seeds; these must not be judged seeds.
        series: the measure that the gallery plots; by default the first that is a series.
        changed: of a study that is judged again: what was changed since the last verdict, and why.
        remarks: other observations; the likely cause if the claim does not hold or is inconclusive.

    Settings:
        data: "digits" or the path of an MNIST-format folder; only the default is written to the package's verdicts.
        given: settings of arms as JSON, arm -> knob -> value; the harness fills it in.
    """

    kind: ClassVar[str] = "study"
    claim: ClassVar[str]
    arms: ClassVar[Mapping[str, str]]
    expectations: ClassVar[tuple[Expectation, ...]]
    because: ClassVar[str] = ""
    preconditions: ClassVar[tuple[Precondition, ...]] = ()
    tune: ClassVar[Tuning | None] = None
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]]
    first_seed: ClassVar[int] = 100
    most_seeds: ClassVar[int] = MOST
    development: ClassVar[int] = 10
    smoke_seeds: ClassVar[int] = 2
    seeds_at_once: ClassVar[int] = 1
    tuning: ClassVar[str] = "nothing"
    series: ClassVar[str] = ""
    changed: ClassVar[str] = ""
    remarks: ClassVar[str] = ""

    data: Data | str | Path = field(default="digits")
    given: str = field(default="")

    def run(self, arm: str, seed: int, budget: str) -> dict[str, Measure]:
        """Train one arm under one seed and measure it.

        The result depends on the arguments and settings alone: the harness may call it in another process and in any
        order. The harness first seeds torch's global generator, so that all arms of a seed start from the same weights.
        """
        raise NotImplementedError

    def run_many(self, arm: str, seeds: Sequence[int], budget: str) -> list[dict[str, Measure]]:
        """Train one arm under several seeds, e.g. as a fleet: the measures of every seed, in their order.

        The measures of a seed do not depend on the other seeds, but for rounding.
        """
        return [self.run(arm, seed, budget) for seed in seeds]

    def setting(self, arm: str) -> dict[str, Any]:
        """The tuned setting of an arm: the one under trial, the chosen one, or before tuning the first; {} if it has
        none."""
        given = json.loads(self.given) if self.given else {}
        return given.get(arm, self.tune.first(arm) if self.tune is not None else {})

    def sizes(self, budget: str) -> Mapping[str, Any]:
        """The sizes of a budget.

        Raises:
            UnknownName: there is no such budget.
        """
        if budget not in self.budgets:
            raise UnknownName("budget", budget, self.budgets)
        return self.budgets[budget]

    def seeds(self, budget: str, count: int | None = None) -> tuple[int, ...]:
        """The seeds of a budget: at paper budget the judged seeds, at most `most_seeds`; else 0, 1, 2, ...

        Args:
            count: number of seeds; None for the largest number (paper), or `smoke_seeds`.

        Raises:
            BadSetting: fewer than one was asked for, or more than `most_seeds` judged ones.
        """
        paper = budget == "paper"
        if count is not None and (count < 1 or (paper and count > self.most_seeds)):
            at_most = f" and at most {self.most_seeds}" if paper else ""
            raise BadSetting(f"{self.name} needs at least one seed{at_most}, got {count}")
        first = self.first_seed if paper else 0
        return tuple(range(first, first + (count or (self.most_seeds if paper else self.smoke_seeds))))

    def settings(self) -> dict[str, Any]:
        named = self.data.name if isinstance(self.data, Data) else str(self.data)
        return {**super().settings(), "data": named}
