"""The parts of a training program, before a style joins them to one text."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

PRELUDE = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F"


@dataclass
class Draft:
    """Parts of source text: an architecture writes them, a fault or variant changes them, a style joins them.

    The parts of a step run in the order of the fields from `batch` to `log`. Names assigned in `data` to `truth` are
    visible in the whole program.

    Args:
        draw: random generator for the choices of this program.
        arch: name of the architecture.
        constants: hyperparameters, NAME -> value.
        imports: further import lines.
        defs: classes and functions of the program.
        data: makes the data (X, Y where there are such).
        build: makes the model.
        adjust: changes the model before the optimizer is made.
        optimizer, scheduler: make the optimizer and the scheduler.
        truth: computes what the program reports about itself.
        batch: makes a batch. With `loader`, the statement that makes one, and the loop iterates over it.
        forward, loss, clear, backward, clip, update, after, measure, log: parts of one step.
        end: follows the loop. The names `first` and `last` (mean of the first and last losses) are defined there.
        printed: entries, in addition to the losses, of the dictionary that the last line prints.
        hidden: expression for the list of hidden activations [n, ...] of the model on inputs `probe`, "" if unknown.
        probe: expression for the inputs of `hidden`.
        classes: number of classes, 0 without a cross entropy.
        steps: optimizer steps.
        facts: properties of the architecture that faults use.
    """

    draw: Random
    arch: str
    constants: dict[str, Any] = field(default_factory=dict)
    imports: list[str] = field(default_factory=list)
    defs: str = ""
    data: str = ""
    build: str = ""
    adjust: str = ""
    optimizer: str = ""
    scheduler: str = ""
    truth: str = ""
    batch: str = "i = torch.randint(0, len(X), (BATCH,))\nx, y = X[i], Y[i]"
    loader: bool = False
    forward: str = "out = model(x)"
    loss: str = "loss = F.cross_entropy(out, y)"
    clear: str = "optimizer.zero_grad()"
    backward: str = "loss.backward()"
    clip: str = ""
    update: str = "optimizer.step()"
    after: str = ""
    measure: str = ""
    log: str = ""
    end: str = ""
    printed: list[str] = field(default_factory=list)
    hidden: str = ""
    probe: str = "X[:256]"
    classes: int = 0
    steps: int = 400
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> str:
        """The statements of one step, after the batch."""
        return lines(
            self.forward, self.loss, self.clear, self.backward, self.clip, self.update, self.after,
            "losses.append(loss.item())", self.measure, self.log,
        )  # fmt: skip

    @property
    def setup(self) -> str:
        """The statements before the loop."""
        return lines(
            self.data, self.build, self.adjust, self.optimizer, self.scheduler, "losses = []", self.truth
        )  # fmt: skip

    @property
    def ending(self) -> str:
        """The statements after the loop. The last one prints the report of the program about itself."""
        printed = ", ".join([*self.printed, "'first': first", "'last': last", "'steps': len(losses)"])
        return lines(
            "n = max(len(losses) // 20, 1)",
            "first, last = sum(losses[:n]) / n, sum(losses[-n:]) / n",
            self.end,
            f"print('TRUTH', json.dumps({{{printed}}}))",
        )


def lines(*parts: str) -> str:
    """The non-empty parts, joined by newlines."""
    return "\n".join(filter(None, parts))
