"""Treatments compared on a stream: paired, resumable, and wrong names are said before anything runs."""

import json
import pickle

import pytest
import torch
from typer.testing import CliRunner

from homeostat.cli import app
from homeostat.core.errors import BadSetting, HomeostatError, Refused, UnknownName
from homeostat.studies.lab.compare import UNTREATED, Comparison, compare

SMALL = {"stream": "permuted-labels:tasks=2,items=60", "width": 6, "depth": 1}
ARM = "l2-init:strength=0.5"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return compare(Comparison(**SMALL, treat=(ARM,)), seeds=2, jobs=1, progress=False, folder=folder), folder


def test_arms_are_paired_by_seed(outcome):
    found, _ = outcome
    assert list(found.arms) == [UNTREATED, ARM]
    means = {arm: found.arms[arm]["online"]["mean"] for arm in found.arms}
    assert found.arms[ARM]["online"]["difference"] == pytest.approx(means[ARM] - means[UNTREATED])
    assert "difference" not in found.arms[UNTREATED]["online"]
    assert found.arms[ARM]["KiB held"]["mean"] > 0 == found.arms[UNTREATED]["KiB held"]["mean"]


def test_nothing_is_computed_twice_with_more_arms_and_seeds(outcome):
    found, folder = outcome
    (kept,) = folder.iterdir()
    before = kept.read_bytes()
    again = compare(Comparison(**SMALL, treat=(ARM,)), seeds=2, jobs=1, progress=False, folder=folder)
    assert kept.read_bytes() == before and again == found
    compare(Comparison(**SMALL, treat=("shrink-and-perturb", ARM)), seeds=2, jobs=1, progress=False, folder=folder)
    rows = [json.loads(line) for line in kept.read_bytes().removeprefix(before).split(b"\n") if line]
    assert {row["arm"] for row in rows} == {"shrink-and-perturb"} and len(rows) == 2


def test_what_an_arm_measures_does_not_depend_on_the_others_and_the_seed_matters(outcome, tmp_path):
    found, _ = outcome
    alone = compare(Comparison(**SMALL), seeds=2, jobs=1, progress=False, folder=tmp_path)
    assert alone.arms[UNTREATED]["final"] == found.arms[UNTREATED]["final"]
    low, high = found.arms[UNTREATED]["online"]["interval"]
    assert low < high


def test_a_stream_of_numbers_is_measured_by_its_loss(tmp_path):
    asked = Comparison(stream="slowly-changing-regression", width=6, depth=1, rate=1e-2)
    stream = asked.problem(0)
    assert stream.batch(0)[1].is_floating_point()
    torch.manual_seed(0)
    short = type("Short", (type(stream),), {"__len__": lambda self: 40}, abstract=True)(**stream.settings())
    measures = type("One", (Comparison,), {"problem": lambda self, seed: short}, abstract=True)(
        stream=asked.stream, width=6, depth=1, rate=1e-2
    ).run(UNTREATED, 0, "compare")
    assert set(measures) == {"online loss", "late loss", "ms a step", "KiB held"}


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"stream": "permuted-label"}, UnknownName),
        ({"treat": ("redoo",)}, UnknownName),
        ({"treat": ("redo", "redo")}, BadSetting),
        ({"width": 0}, BadSetting),
    ],
)
def test_wrong_settings_are_said_before_anything_runs(settings, error):
    with pytest.raises(error):
        Comparison(**settings)


def test_errors_come_whole_out_of_a_worker():
    for error in (Refused("redo", "fc1", "it is frozen"), UnknownName("stream", "permuted-label", ["permuted-labels"])):
        again = pickle.loads(pickle.dumps(error))
        assert isinstance(again, HomeostatError) and type(again) is type(error)
        assert str(again) == str(error) and vars(again) == vars(error)


def test_the_command_prints_a_table_and_json(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["compare", "--stream", SMALL["stream"], "--width", "6", "--depth", "1", "--seeds", "1", "--jobs", "1"]
    printed = CliRunner().invoke(app, [*asked, "--treat", ARM])
    assert printed.exit_code == 0 and ARM in printed.output
    found = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    assert set(found["arms"]) == {UNTREATED} and found["seeds"] == [0]
