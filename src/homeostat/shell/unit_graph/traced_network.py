"""The result of tracing a network, and how edits of modules change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from homeostat.core.treatment import Fresh, State
from homeostat.core.units import UnitGroup
from homeostat.shell.unit_graph.flatten import flattened, revived


@dataclass(eq=False)
class TracedNetwork:
    """The result of tracing a network, for treatments: its units, its initial distributions and initial values.

    `before` is the result before the last edit of modules, if there was one. `observed`: whether the units were not
    grouped, because nothing needed them so far.
    """

    units: tuple[UnitGroup, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, Fresh] = field(default_factory=dict)
    norms: frozenset[str] = frozenset()
    initial: dict[str, Tensor] = field(default_factory=dict)
    before: TracedNetwork | None = None
    observed: bool = False

    def state_dict(self) -> dict[str, Any]:
        """The result as plain values."""
        return {
            "units": flattened(list(self.units)),
            "refused": dict(self.refused),
            "fresh": flattened(dict(self.fresh)),
            "norms": sorted(self.norms),
            "initial": dict(self.initial),
            "before": None if self.before is None else self.before.state_dict(),
            "observed": self.observed,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TracedNetwork:
        """Restore the result from `state_dict`."""
        return cls(
            units=tuple(revived(state["units"])),
            refused=dict(state["refused"]),
            fresh=revived(state["fresh"]),
            norms=frozenset(state["norms"]),
            initial=dict(state["initial"]),
            before=None if state["before"] is None else cls.from_state(state["before"]),
            observed=state["observed"],
        )


def succeeding(traced: TracedNetwork, before: TracedNetwork | None, values: Mapping[str, Tensor]) -> TracedNetwork:
    """The result after an edit of modules. Earlier initial distributions and values are kept as far as they fit.

    Args:
        traced: the new result.
        before: the result before the edit; None if there was no edit.
        values: parameter name -> current value. For new parameters these are the initial values.
    """
    if before is None:
        return traced
    initial = {n: _grown(before.initial.get(n), v) for n, v in values.items()} if before.initial else {}
    return replace(traced, fresh={**traced.fresh, **before.fresh}, initial=initial, before=before)


def _grown(old: Tensor | None, now: Tensor) -> Tensor:
    """The initial value of a parameter that may have grown: the old part, and the current values of the new part."""
    new = now.clone()
    if old is not None and old.ndim == new.ndim and all(a <= b for a, b in zip(old.shape, new.shape, strict=True)):
        new[tuple(slice(size) for size in old.shape)] = old
    return new


def fitting(old: State, new: State) -> State:
    """The state of a treatment after an edit of modules: old entries that still fit, and new ones for the rest."""
    fits = {k for k, v in new.items() if k in old and old[k].shape == v.shape}
    return {**old, **{k: v for k, v in new.items() if k not in fits}}
