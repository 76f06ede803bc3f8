"""The verdicts that come with the package follow from the measures they hold, and the docs say the same."""

import json
import math
from importlib.resources import files
from pathlib import Path

import pytest

from homeostat.core.component import components
from homeostat.studies.verdict import FEWEST_SEEDS, judge, overall

STUDIES = components("study")
FILES = sorted(Path(str(files("homeostat.studies"))).joinpath("verdicts").glob("*.json"))
DOCS = Path(__file__).parents[2] / "docs" / "studies.md"


def measured(value):
    """A measure as it was before it was stored: null is NaN."""
    if isinstance(value, list):
        return [measured(v) for v in value]
    return math.nan if value is None else value


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_verdict_follows_from_its_measures(path):
    stored = json.loads(path.read_text())
    study = STUDIES[path.stem]
    assert stored["budget"] == "paper" and len(stored["seeds"]) >= FEWEST_SEEDS
    assert stored["claim"] == study.claim and set(stored["arms"]) == set(study.arms)
    by_seed = {
        int(seed): {arm: {name: measured(v) for name, v in m.items()} for arm, m in arms.items()}
        for seed, arms in stored["per_seed"].items()
    }
    assert list(by_seed) == stored["seeds"]
    again = [judge(expectation, by_seed) for expectation in study.expectations]
    assert stored["verdict"] == overall(again)
    for kept, judged in zip(stored["expectations"], again, strict=True):
        assert kept["says"] == judged.says and kept["verdict"] == judged.verdict
        assert measured(kept["effect"]) == pytest.approx(judged.effect, rel=1e-4, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_docs_give_the_verdict_and_the_command(path):
    stored = json.loads(path.read_text())
    section = DOCS.read_text().partition(f"### {path.stem}\n")[2].partition("\n### ")[0]
    assert f"**{stored['verdict']}**" in section and stored["command"] in section
