"""Facts that every component states about itself: the checks shared by all kinds."""

from __future__ import annotations

from homeostat.core.component import Cite, Component


def cites_a_source(component: Component) -> None:
    """It names the paper or book behind it."""
    cite = getattr(component, "cite", None)
    cites = cite if isinstance(cite, tuple) else (cite,)
    assert cites and all(isinstance(c, Cite) and c.authors and c.year and c.title for c in cites), (
        f"{component.name} has no cite with authors, year and title"
    )


def has_docs(component: Component) -> None:
    """Its docstring explains it and holds an example."""
    text = (type(component).__doc__ or "").strip()
    assert len(text) > 60, f"{component.name} has no docstring of its own"
    assert ">>>" in text, f"the docstring of {component.name} has no example"


def knobs_have_sources(component: Component) -> None:
    """Every knob says where its default comes from."""
    bare = [name for name, spec in component.knob_specs().items() if not spec.source]
    assert not bare, f"{component.name} does not say where the default of {', '.join(bare)} comes from"


def settings_survive(component: Component) -> None:
    """It can be made again from its own settings."""
    assert type(component)(**component.settings()) == component, "made anew from its settings, it is another component"
