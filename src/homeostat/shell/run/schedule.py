"""A queue of the next due steps, by owner."""

from __future__ import annotations

NEVER = 2**62


class Schedule:
    """The next due step of each part of a network's run.

    Each owner has at most one entry. A step before `next` costs one comparison.

    >>> schedule = Schedule()
    >>> schedule.put(100, "vitals")
    >>> schedule.put(50, "closed loop")
    >>> schedule.next
    50
    """

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self.next = 1

    def put(self, step: int | None, owner: str) -> None:
        """Set the next due step of an owner; None means never."""
        self._due[owner] = NEVER if step is None else step
        self.next = min(self._due.values())


def next_multiple(step: int, every: int) -> int:
    """The first multiple of `every` after `step`."""
    return (step // every + 1) * every
