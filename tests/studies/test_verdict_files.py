"""The verdicts that come with the package follow from the measures they hold, and the docs say the same."""

import json
import math
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from homeostat.core.component import components
from homeostat.studies.lab.earlier_rule import earlier_judgements
from homeostat.studies.lab.sequential import BLOCK, looks
from homeostat.studies.lab.verdict import ABSENT, FAILS, HOLDS, judge, overall

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
    assert stored["budget"] == "paper"
    assert stored["claim"] == study.claim and set(stored["arms"]) == set(study.arms)
    by_seed = {
        int(seed): {arm: {name: measured(v) for name, v in m.items()} for arm, m in arms.items()}
        for seed, arms in stored["per_seed"].items()
    }
    assert list(by_seed) == stored["seeds"]
    again = follows_from(study, by_seed) if "rule" in stored else earlier_judgements(study.expectations, by_seed)
    if stored["verdict"] == ABSENT:
        assert not by_seed and any(p["verdict"] != HOLDS for p in stored["preconditions"])
        return
    assert len(by_seed) >= (BLOCK if "rule" in stored else 5) and stored["verdict"] == again[1]
    for kept, (says, effect, verdict) in zip(stored["expectations"], again[0], strict=True):
        assert kept["says"] == says and kept["verdict"] == verdict
        assert measured(kept["effect"]) == pytest.approx(effect, rel=1e-4, abs=1e-6, nan_ok=True)


def follows_from(study, by_seed):
    """The judgements at the first look at which the claim is decided, which must be the last one of the file."""
    primaries = sum(e.primary for e in study.expectations)
    for count in looks(study.most_seeds):
        seen = dict(list(by_seed.items())[:count])
        again = [judge(e, seen, primaries, last=count == study.most_seeds) for e in study.expectations]
        if overall(again) in (HOLDS, FAILS) or count >= len(by_seed):
            break
    assert list(seen) == list(by_seed), "seeds were run after the claim was decided"
    return [(j.says, j.effect, j.verdict) for j in again], overall(again)


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
