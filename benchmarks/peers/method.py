"""The interface between methods and checks: a base class for methods, and the record of a treated network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .nets import Net

KILL_AT, ACT_AT, EVERY = 5, 12, 12
"""Units are killed after step 5, and methods are set up so that their first reset falls on step 12 or soon after."""


@dataclass
class Treated:
    """A network under treatment, as the training loop meets it.

    Attributes:
        model: what the loop calls.
        optimizer: what the loop steps.
        base: the torch optimizer that holds the moments (the same, unless a method wraps it).
        after: called after every optimizer step with the step's number and inputs, where a method asks for that.
        detach: how the method is taken off; None if it offers no way.
        save: its own state beyond the model's and the optimizer's state_dict.
        load: takes back what `save` gave, after the model and the optimizer were loaded.
    """

    model: nn.Module
    optimizer: Any
    base: torch.optim.Optimizer
    after: Callable[[int, Tensor], object] | None = None
    detach: Callable[[], object] | None = None
    save: Callable[[], Any] | None = None
    load: Callable[[Any], object] | None = None


class Method(ABC):
    """A published method as shipped by somebody.

    Attributes:
        title: as printed.
        note: context that a reader needs for its results.
        kind: "units" (resets chosen units), "weights" (touches all weights), "modules" (puts new modules in).
        origin: where it comes from, with the version.
        takes_sequential: whether networks may hold activations as modules.
        by_design: (check, tag) -> where its authors say that they intend what the check would call a failure.
        not_for: check -> why it cannot be asked of this method.
        dtype: of the networks it is put to; float64 makes exact comparison sharp, but not everything runs in it.
    """

    title: ClassVar[str]
    note: ClassVar[str] = ""
    kind: ClassVar[str] = "units"
    takes_sequential: ClassVar[bool] = True
    by_design: ClassVar[Mapping[tuple[str, str], str]] = {}
    not_for: ClassVar[Mapping[str, str]] = {}
    dtype: ClassVar[torch.dtype] = torch.float64

    @property
    @abstractmethod
    def origin(self) -> str:
        """Package and version, or repository and commit."""

    @abstractmethod
    def treat(self, net: Net, make: Callable[..., torch.optim.Optimizer]) -> Treated:
        """Put the method on a freshly built network; anything raised counts as a refusal."""

    def make(self, kind: str, parameters: Any) -> torch.optim.Optimizer:
        """The optimizer that the method is used with."""
        if kind == "adam":
            return torch.optim.Adam(parameters, lr=1e-3)
        return torch.optim.SGD(parameters, lr=1e-2, momentum=0.9)


@dataclass
class Outcome:
    """Answer of one check: result, one sentence of evidence, and a tag that `by_design` can refer to."""

    result: str
    evidence: str
    tag: str = field(default="", repr=False)

    PASS: ClassVar[str] = "pass"
    FAIL: ClassVar[str] = "fail"
    RAISES: ClassVar[str] = "raises"
    REFUSED: ClassVar[str] = "refused"
    NOT_APPLICABLE: ClassVar[str] = "n.a."
    BY_DESIGN: ClassVar[str] = "by design"
