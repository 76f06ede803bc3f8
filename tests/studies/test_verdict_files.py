"""The verdicts that come with the package follow from the measures they hold, and the docs say the same."""

import json
import math
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from homeostat.core.component import components
from homeostat.studies.lab.verdict import FEWEST_SEEDS, judge, overall

STUDIES = components("study")
FILES = sorted(Path(str(files("homeostat.studies"))).joinpath("verdicts").glob("*.json"))
ROOT = Path(__file__).parents[2]


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
def test_a_claim_that_does_not_hold_has_its_likely_cause_told(path):
    assert json.loads(path.read_text())["verdict"] == "holds" or STUDIES[path.stem].remarks


def test_the_gallery_shows_every_verdict_with_its_plot():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "gallery.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    plots = {path.stem for path in (ROOT / "docs" / "images" / "gallery").glob("*.svg")}
    assert plots == {path.stem for path in FILES}
