"""Facts as JSON: what a record and the clinic store of them is read back as the same facts."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from homeostat.diagnosis import Facts
from homeostat.diagnosis.replay import StoredRun, changes_of, stored_facts, updates


def filled(kind: Any, number: int) -> Any:
    """A value of this type, in which every field differs from its default."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        fields = dataclasses.fields(kind)
        return kind(**{f.name: filled(hints[f.name], number + i) for i, f in enumerate(fields)})  # type: ignore[operator]
    origin, arguments = getattr(kind, "__origin__", None), get_args(kind)
    if origin is tuple:
        return tuple(filled(a, number) for a in arguments if a is not ...)
    if origin is Mapping:
        return {f"layer.{number}": filled(arguments[1], number)}
    kind = arguments[0] if arguments else kind  # int | None
    return True if kind is bool else kind(number)


def test_facts_are_read_back_from_json():
    facts = filled(Facts, 3)
    assert all(getattr(facts, f.name) != getattr(Facts(), f.name) for f in dataclasses.fields(Facts))
    assert stored_facts(json.loads(json.dumps(facts.to_json()))) == facts
    assert stored_facts({"loss": {"of another version": 1}, "of another version": 1}).steps == 0


def test_a_replay_sees_the_facts_of_every_update():
    """Only changes are stored, in nested facts too; a value that falls back to its default is a change."""
    first, second = filled(Facts, 3), filled(Facts, 40)
    third = dataclasses.replace(second, loss=dataclasses.replace(second.loss, labels=first.loss.labels))
    given, seen = [first, second, third, third, first], []

    class Noting:
        name, explains, reads = "noting", (), ("loss",)

        def clock(self, history, facts):
            seen.append(facts)
            return -2

        def eased(self):
            return self

    changes = json.loads(json.dumps(changes_of(given)))
    list(updates(StoredRun("run", 0, facts_at=changes), [Noting()]))  # type: ignore[list-item]
    assert seen == given
    assert changes[3] == {} and all(path.startswith("loss.labels.") for path in changes[2])
