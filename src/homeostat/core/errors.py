"""Errors for users. Every message says what is wrong and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class HomeostatError(Exception):
    """Base of every error that Homeostat raises on purpose. It can be pickled, for worker processes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args, self.__dict__)


def _again(cls: type[HomeostatError], args: tuple[Any, ...], named: dict[str, Any]) -> HomeostatError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(named)
    return error


class UnknownName(HomeostatError, LookupError):
    """An unknown name. The message suggests the nearest names.

    Args:
        what: the kind of object ("vital", "treatment", ...).
        name: the name as given.
        known: the existing names.
    """

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"known: {', '.join(known) or 'none'}."
        )
        super().__init__(f"unknown {what} {name!r}: {hint}")
        self.name, self.nearest = name, near


class BadSetting(HomeostatError, ValueError):
    """A knob or option that the component does not accept."""


class BadInput(HomeostatError, ValueError):
    """Data, a probe, a model or a file that cannot be used."""


class Refused(HomeostatError):
    """A treatment cannot be applied correctly to this network; nothing was changed.

    Args:
        component: the treatment that refuses.
        where: the layer, parameter or optimizer that is the reason.
        why: the reason, in one sentence.
    """

    def __init__(self, component: str, where: str, why: str) -> None:
        super().__init__(f"{component} refuses {where}: {why}")
        self.component, self.where, self.why = component, where, why


class RecordError(HomeostatError):
    """A run record that cannot be written, opened or trusted."""


class CheckpointError(HomeostatError):
    """A checkpoint that cannot be written, opened or trusted."""
