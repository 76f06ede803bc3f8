"""A study that costs nothing: importable by worker processes, never registered under a real name."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from homeostat.core.component import Cite
from homeostat.studies.lab.expectation import Expectation, difference
from homeostat.studies.lab.study import Study


@dataclass(frozen=True, kw_only=True)
class Toy(Study, abstract=True):
    """Arm "b" beats arm "a" by one, under noise that both share.

    Settings:
        log: file to which every run appends a line; "" for none.
        stop_at: the seed at which the user presses Ctrl-C; -1 for never.
        pause: seconds a run takes.
        gain, spread: mean and spread over the seeds of how much "b" is above "a".
    """

    name = "toy"
    cite = Cite("Nobody", 2000, "Nothing")
    claim = "b is better than a."
    arms: ClassVar = {"a": "plain", "b": "one more"}
    expectations = (
        Expectation("b is more than 0.5 above a", difference("b", "a", "score"), 0.5, primary=True, margin=0.3),
    )
    because: ClassVar = "none is needed"
    budgets: ClassVar = {"smoke": {"size": 1}, "paper": {"size": 2}}

    log: str = ""
    stop_at: int = -1
    pause: float = 0.0
    gain: float = 1.0
    spread: float = 0.0

    def run(self, arm, seed, budget):
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{arm} {seed}\n")
        time.sleep(self.pause)
        if seed == self.stop_at and arm == "b":
            raise KeyboardInterrupt
        more = self.setting(arm).get("more", 0.0)
        shared, own = torch.randn(2).tolist()
        score = shared + more + (arm == "b") * (self.gain + self.spread * own)
        return {"score": score, "more": more, "series": [float(seed), 0.5], "threads": threads()}


def threads() -> int:
    return torch.get_num_threads()
