"""`check_component` sorts what it finds: kept, broken, declared, does not apply; and refuses what it cannot check."""

from dataclasses import dataclass

import pytest

from homeostat.controllers import PI
from homeostat.core.component import REGISTRY, Component
from homeostat.core.errors import BadInput, UnknownName
from homeostat.testing import DoesNotApply, Law, check_component, kinds_with_laws, laws_of_kind
from homeostat.testing.check import run_laws


@pytest.fixture(autouse=True)
def _registry_is_left_as_it_was():
    kept = {kind: dict(names) for kind, names in REGISTRY.items()}
    yield
    REGISTRY.clear()
    REGISTRY.update(kept)


def keeps() -> None:
    pass


def breaks() -> None:
    raise AssertionError("it is wrong")


def crashes() -> None:
    raise ZeroDivisionError("oops")


def skips() -> None:
    raise DoesNotApply("it has none")


def skips_silently() -> None:
    raise DoesNotApply


def test_the_report_sorts_every_outcome():
    checks = {
        "fine": keeps, "bad": breaks, "crash": crashes, "known": breaks, "stale": keeps,
        "none": skips, "silent": skips_silently, "void": skips,
    }  # fmt: skip
    declared = {"known": "because", "stale": "was once", "typo": "never", "void": "for nothing"}
    report = run_laws("x", [Law(name, "", check) for name, check in checks.items()], declared)
    assert report.passed == ["fine"]
    assert report.declared == {"known": "because"}
    assert report.skipped == {"none": "it has none"}
    assert set(report.failed) == {"bad", "crash", "stale", "typo", "silent", "void"}
    assert report.failed["bad"] == "it is wrong"
    assert report.failed["crash"] == "ZeroDivisionError: oops"
    assert "remove the declaration" in report.failed["stale"]
    assert "no such law" in report.failed["typo"]
    assert "without a reason" in report.failed["silent"]
    assert "does not apply" in report.failed["void"]
    assert not report.ok
    assert "BROKEN    bad: it is wrong" in str(report)
    assert len(list(report.outcomes())) == len(checks) + 1


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(BadInput, match="component"):
        check_component(3)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="did you mean 'bounded'"):
        check_component(PI, only=["bouned"])

    @dataclass(frozen=True, kw_only=True)
    class Strange(Component):
        kind = "strange"

    with pytest.raises(UnknownName, match="strange"):
        check_component(Strange)

    @dataclass(frozen=True, kw_only=True)
    class Needy(Component):
        kind = "vital"
        needed: int

    with pytest.raises(BadInput, match="check an instance"):
        check_component(Needy)


def test_progress_is_told_law_by_law():
    seen = []
    check_component(PI, only=["bounded", "pure"], progress=lambda law, number, count: seen.append((law, number, count)))
    assert seen == [("bounded", 0, 2), ("pure", 1, 2)]


@pytest.mark.parametrize("kind", kinds_with_laws())
def test_every_law_is_told_in_a_sentence(kind):
    for law, sentence in laws_of_kind(kind).items():
        assert len(sentence.split()) >= 5, law
        assert sentence.endswith("."), law
