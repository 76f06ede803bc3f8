"""From the conditions of single readings to findings: persistence, hysteresis, first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from homeostat.core.component import components
from homeostat.core.finding import SEVERITIES, Finding
from homeostat.diagnosis.causes import by_cause
from homeostat.diagnosis.condition import Condition, Sign
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History

_NONE = -1
SPAN = 16
"""Smallest number of steps over which a condition must persist, because early readings are close together."""


@dataclass
class Track:
    """State of a condition in a layer.

    Args:
        strict: rank of the sign under the thresholds, at the last few readings (-1: no sign).
        eased: the same under the relaxed thresholds.
        level: rank of the current finding, -1 without.
        starts: per rank, the first reading since which it has held without being clearly better.
        sign: the last sign.
        clock: step of the newest reading of this layer.
    """

    strict: list[int] = field(default_factory=list[int])
    eased: list[int] = field(default_factory=list[int])
    level: int = _NONE
    starts: list[int | None] = field(default_factory=lambda: [None] * len(SEVERITIES))
    sign: Sign | None = None
    clock: int = _NONE

    def see(self, step: int, strict: Sign | None, eased: Sign | None, memory: int) -> None:
        """Add a reading.

        The level rises if `memory` readings agree, over `SPAN` steps if they are several, and falls if as many clearly
        differ.
        """
        now, loose = _rank(strict), max(_rank(strict), _rank(eased))
        self.sign = strict or eased or self.sign
        self.strict = [*self.strict, now][-memory:]
        self.eased = [*self.eased, loose][-memory:]
        for rank in range(len(SEVERITIES)):
            if now >= rank and self.starts[rank] is None:
                self.starts[rank] = step
            elif loose < rank and max(self.eased) < rank:
                self.starts[rank] = None
        confirmed = min(self.strict) if len(self.strict) == memory else _NONE
        if memory > 1:
            confirmed = min(confirmed, self._held(step))
        self.level = max(confirmed, min(self.level, max(self.eased)))

    def _held(self, step: int) -> int:
        """The highest rank that has held over `SPAN` steps."""
        return max(
            (r for r, start in enumerate(self.starts) if start is not None and step - start >= SPAN), default=_NONE
        )


def _rank(sign: Sign | None) -> int:
    return sign.rank if sign else _NONE


class Diagnostician:
    """Turns a history into the current findings, one reading at a time.

    A finding appears, or becomes more severe, when its condition held on `persistence` consecutive readings (over at
    least `SPAN` steps, unless one reading is enough), and resolves, or becomes milder, when the eased rule has not held
    on as many. `since_step` is the first of them.

    Args:
        conditions: rules to apply; None means all registered ones.

    Attributes:
        listeners: functions that receive the facts of every update, for storing them.
    """

    listeners: ClassVar[list[Callable[[Facts], object]]] = []

    def __init__(self, conditions: Sequence[Condition] | None = None) -> None:
        made = [cls() for cls in components("condition").values()] if conditions is None else list(conditions)
        self.conditions: dict[str, Condition] = {c.name: c for c in made}
        self._tracks: dict[str, dict[str, Track]] = {name: {} for name in self.conditions}
        self._eased = {name: condition.eased() for name, condition in self.conditions.items()}
        self._clocks: dict[str, int] = dict.fromkeys(self.conditions, _NONE)
        self._found: dict[str, Finding] = {}
        self._ended = False

    @property
    def findings(self) -> list[Finding]:
        """The current findings in the order of their causes; see `by_cause`."""
        return by_cause(self._found.values(), {name: c.explains for name, c in self.conditions.items()})

    def update(self, history: History, facts: Facts) -> list[Finding]:
        """Judge new readings since the last call, and return the current findings, causes first."""
        for listener in self.listeners:
            listener(facts)
        ending = facts.ended and not self._ended
        self._ended = facts.ended
        for name, condition in self.conditions.items():
            clock = condition.clock(history, facts)
            reached = clock + history.advance(condition.reads[:1])
            if reached > self._clocks[name] or (ending and not condition.reads):
                self._clocks[name] = reached
                self._see(condition, clock, history, facts)
                self._assemble(name)
        return self.findings

    def _see(self, condition: Condition, step: int, history: History, facts: Facts) -> None:
        strict = condition.signs(history, facts)
        tracks = self._tracks[condition.name]
        eased = self._eased[condition.name].signs(history, facts) if tracks or strict else {}
        for layer in {**tracks, **strict}:
            track, own = tracks.setdefault(layer, Track()), condition.layer_clock(history, layer, step)
            if own <= track.clock:
                continue
            track.clock = own
            track.see(own, strict.get(layer), eased.get(layer), condition.persistence)
            if track.level == _NONE and max(track.eased) == _NONE:
                del tracks[layer]

    def _assemble(self, name: str) -> None:
        held = {k: t for k, t in self._tracks[name].items() if t.level != _NONE}
        if not held:
            self._found.pop(name, None)
            return
        worst = max(t.level for t in held.values())
        since = min(start for t in held.values() if t.level == worst and (start := t.starts[worst]) is not None)
        signs = {k: dataclasses.replace(t.sign, severity=SEVERITIES[t.level]) for k, t in held.items() if t.sign}
        self._found[name] = self.conditions[name].finding(signs, since)

    def state_dict(self) -> dict[str, Any]:
        """JSON-friendly state."""
        tracks = {n: {k: dataclasses.asdict(t) for k, t in by.items()} for n, by in self._tracks.items()}
        return {"clocks": dict(self._clocks), "tracks": tracks, "ended": self._ended}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; unknown conditions start new."""
        self._ended = bool(state["ended"])
        for name in self.conditions:
            self._clocks[name] = int(state["clocks"].get(name, _NONE))
            self._tracks[name] = {k: _track(t) for k, t in state["tracks"].get(name, {}).items()}
            self._assemble(name)


def _track(state: Mapping[str, Any]) -> Track:
    sign = Sign(**state["sign"]) if state["sign"] else None
    saved: dict[str, Any] = {**state, "sign": sign}
    return Track(**saved)
