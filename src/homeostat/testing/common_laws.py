"""Laws shared by all kinds of components."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

from homeostat.core.component import Cite, Component, cites
from homeostat.core.errors import BadSetting
from homeostat.testing.binding import Check


def cites_a_source(component: Component) -> None:
    """It cites a paper or book."""
    found = cites(component)
    bare = [c.id for c in found if isinstance(c, Cite) and c.id and not c.authors]
    assert not bare, (
        f"{component.name} cites {bare[0]}: add its `authors` to the row in src/homeostat/catalogue/entries"
    )
    assert found and all(isinstance(c, Cite) and c.authors and c.year and c.title for c in found), (
        f"{component.name} has no cite with authors, year and title"
    )


def documented(component: Component) -> None:
    """It has its own docstring."""
    text = (type(component).__dict__.get("__doc__") or "").strip()
    made = text.startswith(f"{type(component).__name__}(")  # dataclasses generate such a docstring if there is none
    assert len(text) > 60 and not made, f"{component.name} has no docstring with more than 60 characters"


def shows_itself(component: Component) -> None:
    """Its docstring has an example that can be run."""
    assert ">>>" in (type(component).__dict__.get("__doc__") or ""), f"the docstring of {component.name} has no example"


def knobs_have_sources(component: Component) -> None:
    """Every knob states the source of its default, accepts the default, and rejects values outside its range."""
    for name, spec in component.knob_specs().items():
        assert spec.source, f"{component.name} does not state the source of the default of {name}"
        spec.check(component.name, name, getattr(component, name))
        for outside in (float("nan"), float("inf"), spec.low - max(1.0, abs(spec.low)), "1"):
            try:
                type(component)(**{**component.settings(), name: outside})
            except BadSetting:
                continue
            raise AssertionError(f"{name}={outside!r} is accepted, though its range is [{spec.low:g}, {spec.high:g}]")


def settings_survive(component: Component) -> None:
    """It can be recreated from its settings; copying and pickling preserve the settings, and they cannot be
    overwritten."""
    settings = component.settings()
    fields = {spec.name: getattr(component, spec.name) for spec in dataclasses.fields(component)}
    assert settings.keys() == fields.keys(), (
        f"settings() and its fields differ: {sorted(settings.keys() ^ fields.keys())}"
    )
    twins = {
        "recreated from its settings": type(component)(**fields),
        "deep-copied": copy.deepcopy(component),
        "unpickled": pickle.loads(pickle.dumps(component)),
    }
    for how, twin in twins.items():
        assert type(twin) is type(component) and twin.settings() == settings, f"{how}, it is a different component"
    for name in fields:
        try:
            setattr(component, name, None)
        except AttributeError:  # FrozenInstanceError is one
            continue
        raise AssertionError(f"the setting {name} can be overwritten: make it a frozen dataclass")


def settings_are_plain(component: Component) -> None:
    """Its settings are numbers, strings and booleans, so that records and command lines can hold them."""
    for name, value in component.settings().items():
        plain = value is None or isinstance(value, (bool, int, float, str))
        assert plain and json.dumps(value) is not None, f"the setting {name} is a {type(value).__name__}"


def declares_with_reasons(component: Component) -> None:
    """Every law that it declares as an exception has a reason."""
    empty = [law for law, why in component.declared.items() if not (isinstance(why, str) and len(why.split()) >= 3)]
    assert not empty, f"no reason is given for the exception {', '.join(empty)}"


COMMON: dict[str, Check] = {
    "cites a source": cites_a_source,
    "documented": documented,
    "has an example": shows_itself,
    "knobs have sources": knobs_have_sources,
    "settings survive": settings_survive,
    "declares with reasons": declares_with_reasons,
}
"""Laws of every kind."""


def without_example() -> dict[str, Check]:
    """The common laws without "has an example", for kinds that the docs show instead."""
    return {name: check for name, check in COMMON.items() if check is not shows_itself}
