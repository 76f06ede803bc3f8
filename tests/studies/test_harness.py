"""The harness: pairing, resuming, keeping, and what it may write where."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from study_for_tests import Toy

from homeostat.catalogue.status import code_of
from homeostat.core.errors import BadInput, BadSetting, UnknownName
from homeostat.studies.lab import harness
from homeostat.studies.lab.cell import Finished
from homeostat.studies.lab.compare import Comparison
from homeostat.studies.lab.expectation import Precondition
from homeostat.studies.lab.harness import command_of, run_study
from homeostat.studies.lab.run_cache import Cells
from homeostat.studies.lab.tables import render
from homeostat.studies.lab.tuning import Tuning


def ran(log):
    return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def test_arms_are_paired_and_judged(tmp_path):
    verdict = run_study(Toy(), "paper", seeds=6, folder=tmp_path, progress=False)
    assert verdict.verdict == "holds" and verdict.seeds == (100, 101, 102, 103, 104, 105)
    assert verdict.expectations[0].per_seed == pytest.approx([1.0] * 6)
    scores = [verdict.per_seed[str(s)]["a"]["score"] for s in range(100, 106)]
    assert len(set(scores)) == 6
    assert verdict.arms["b"]["measures"]["score"]["mean"] == pytest.approx(sum(scores) / 6 + 1)
    assert "series" not in verdict.arms["b"]["measures"]


def test_runs_use_one_thread_and_leave_global_state_alone(tmp_path):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    verdict = run_study(Toy(), folder=tmp_path, progress=False)
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads
    assert verdict.per_seed["0"]["a"]["threads"] == 1


def test_an_interrupted_study_goes_on_where_it_stopped(tmp_path, log):
    with pytest.raises(KeyboardInterrupt):
        run_study(Toy(log=str(log), stop_at=1), seeds=3, folder=tmp_path, progress=False)
    assert ran(log) == ["a 0", "b 0", "a 1", "b 1"]
    kept = next(tmp_path.glob("toy-smoke-*.jsonl"))
    going_on = Toy(log=str(log), stop_at=-1)
    kept.rename(Cells(going_on, "smoke", tmp_path).path)
    log.unlink()
    whole = run_study(going_on, seeds=3, folder=tmp_path, progress=False)
    assert ran(log) == ["b 1", "a 2", "b 2"]
    log.unlink()
    again = run_study(going_on, seeds=3, folder=tmp_path, progress=False)
    assert ran(log) == [] and again.per_seed == whole.per_seed
    fresh = run_study(going_on, seeds=3, folder=tmp_path / "other", progress=False)
    assert fresh.per_seed == whole.per_seed


def test_more_seeds_run_only_what_is_new(tmp_path, log):
    for seeds in (2, 4):
        run_study(Toy(log=str(log)), seeds=seeds, folder=tmp_path, progress=False)
    assert ran(log) == [f"{arm} {seed}" for seed in range(4) for arm in "ab"]


@pytest.mark.parametrize("garbage", [b'{"arm": "a", "se', b"\xff\xfe\n", b"[]\n", b'{"arm": "a", "seed": 0}\n'])
def test_a_damaged_line_is_run_again(tmp_path, log, garbage):
    study = Toy(log=str(log))
    before = run_study(study, seeds=2, folder=tmp_path, progress=False)
    path = Cells(study, "smoke", tmp_path).path
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(line for line in lines if b'"b", "seed": 1' not in line) + garbage)
    log.unlink()
    after = run_study(study, seeds=2, folder=tmp_path, progress=False)
    assert ran(log) == ["b 1"] and after.per_seed == before.per_seed
    log.unlink()
    run_study(study, seeds=2, folder=tmp_path, progress=False)
    assert ran(log) == [], "the line written after the damaged one was lost"


def test_other_settings_or_sizes_share_nothing(tmp_path, monkeypatch):
    study = Toy()
    paths = {Cells(s, b, tmp_path).path for s, b in [(study, "smoke"), (study, "paper"), (Toy(log="x"), "smoke")]}
    monkeypatch.setattr(Toy, "budgets", {"smoke": {"size": 9}})
    paths.add(Cells(study, "smoke", tmp_path).path)
    assert len(paths) == 4


@pytest.mark.parametrize("other", ["other code", ""])
def test_runs_of_other_code_are_not_used(tmp_path, log, monkeypatch, other):
    study = Toy(log=str(log))
    run_study(study, seeds=1, folder=tmp_path, progress=False)
    log.unlink()
    monkeypatch.setattr("homeostat.studies.lab.run_cache.code_of", lambda study, arm: other)
    for _ in range(2):
        run_study(study, seeds=1, folder=tmp_path, progress=False)
    assert ran(log) == ["a 0", "b 0"] * (1 if other else 2), "code that is not known may have changed"


def test_a_comparison_keeps_its_arms_apart(tmp_path):
    """An edit of a treatment costs the runs of the arms that name it, and no other."""
    redo, l2 = (code_of(Comparison(treat=("redo", "l2-init")), arm) for arm in ("redo:every=5", "l2-init"))
    assert redo != l2 != code_of(Comparison(treat=("l2-init",)), "untreated")
    assert l2 == code_of(Comparison(treat=("l2-init",)), "l2-init")


@pytest.mark.slow
def test_two_processes_give_the_same_figures(tmp_path):
    one = run_study(Toy(), seeds=3, folder=tmp_path / "1", progress=False)
    two = run_study(Toy(), seeds=3, jobs=2, folder=tmp_path / "2", progress=False)
    assert one.per_seed == two.per_seed


INTERRUPTED = """
import sys
from pathlib import Path
from study_for_tests import Toy
from homeostat.studies import run_study

if __name__ == "__main__":
    run_study(Toy(pause=0.2), seeds=500, jobs=2, folder=Path(sys.argv[1]), progress=False)
"""


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_keeps_what_is_finished(tmp_path):
    (tmp_path / "go.py").write_text(INTERRUPTED)
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, str(tmp_path / "go.py"), str(tmp_path / "runs")]
    process = subprocess.Popen(command, env=paths, stderr=subprocess.PIPE, text=True, start_new_session=True)
    study = Toy(pause=0.2)
    kept = Cells(study, "smoke", tmp_path / "runs").path
    while process.poll() is None and not (kept.exists() and kept.read_bytes().count(b"arm") >= 3):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)  # returns once nobody, workers included, holds stderr any more
    assert process.returncode != 0 and errors.rstrip().endswith("KeyboardInterrupt"), errors
    assert "PoolWorker" not in errors, "a worker complained too"
    assert Cells(study, "smoke", tmp_path / "runs").get(("a", 0)) is not None


def test_only_a_full_run_of_a_study_of_ours_goes_into_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "files", lambda package: tmp_path / "package")
    target = tmp_path / "package" / "verdicts" / "toy.json"
    run = dict(folder=tmp_path, progress=False)
    run_study(Toy(), "paper", 10, **run)
    assert not target.exists(), "not one of the package's studies"
    monkeypatch.setattr(Toy, "__module__", "homeostat.studies.toy")
    run_study(Toy(), "paper", 4, **run)
    run_study(Toy(), "smoke", 10, **run)
    run_study(Toy(data="elsewhere"), "paper", 10, **run)
    run_study(Toy(gain=0.5), "paper", 20, **run)
    assert not target.exists()
    run_study(Toy(), "paper", **run)
    stored = json.loads(target.read_text())
    assert (
        stored["verdict"] == "holds" and stored["command"] == "homeostat study toy --budget paper --seeds 100 --jobs 1"
    )
    assert len(stored["seeds"]) == 10, "the first look decided"
    assert stored["tuning"] == "nothing" and stored["settings"]["size"] == 2 and stored["versions"]["torch"]


def test_out_is_written_whatever_the_budget(tmp_path):
    run_study(Toy(), out=tmp_path / "v.json", folder=tmp_path, progress=False)
    assert json.loads((tmp_path / "v.json").read_text())["budget"] == "smoke"


def test_the_command_repeats_the_settings():
    assert command_of(Toy(data="my data"), "smoke", 2) == (
        "homeostat study 'toy:data=my data' --budget smoke --seeds 2 --jobs 1"
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"budget": "papers"}, UnknownName, "did you mean 'paper'"),
        ({"seeds": 0}, BadSetting, "at least one seed"),
        ({"jobs": 3}, BadSetting, "jobs must be 1 to 2"),
    ],
)
def test_bad_arguments_run_nothing(tmp_path, log, arguments, error, message):
    with pytest.raises(error, match=message):
        run_study(Toy(log=str(log)), folder=tmp_path, progress=False, **arguments)
    assert ran(log) == []


def test_an_unknown_study_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="continual-backprop"):
        run_study("continual-backprob")


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot keep finished runs"):
        Cells(Toy(), "smoke", tmp_path / "file").keep(("a", 0), Finished({}, 0.0, 0.0))


def test_the_table_shows_verdict_effect_interval_and_command(tmp_path):
    verdict = dataclasses.replace(run_study(Toy(), seeds=3, folder=tmp_path, progress=False), wall_seconds=1.0)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(verdict))
    text = console.export_text()
    for part in ("toy: holds", "b is better than a.", "1 to 1", "seeds: 3, arms: 2, budget: smoke", verdict.command):
        assert part in text


def test_seeds_are_run_in_blocks_until_the_claim_is_decided(tmp_path, log):
    """An effect of 0.5 with a spread of 0.6 needs more than one block; the margin excludes what is too small."""
    clear = run_study(Toy(log=str(log)), "paper", folder=tmp_path, progress=False)
    assert clear.seeds == tuple(range(100, 110)) and len(ran(log)) == 20 and clear.rule
    close = run_study(Toy(gain=0.8, spread=0.6), "paper", folder=tmp_path, progress=False)
    assert close.verdict == "holds" and 10 < len(close.seeds) < 100 and len(close.seeds) % 10 == 0
    none = run_study(Toy(gain=0.5, spread=0.6), "paper", folder=tmp_path, progress=False)
    assert none.verdict == "no effect larger than 0.8" and len(none.seeds) == 100
    assert none.deciding.role == "primary" and "none is needed" in none.because


def test_a_cure_is_not_judged_where_the_disease_is_not_there(tmp_path, log, monkeypatch):
    ill = Precondition("a scores more than its seed allows", lambda arms: float(arms["a"]["score"]), 5.0, ("a",))
    monkeypatch.setattr(Toy, "preconditions", (ill,))
    verdict = run_study(Toy(log=str(log)), "paper", folder=tmp_path, progress=False)
    assert verdict.verdict == "not shown here" and verdict.seeds == () and verdict.expectations == ()
    assert ran(log) == [f"a {seed}" for seed in range(1000, 1010)], "the cure was looked at"
    assert verdict.deciding.role == "precondition" and verdict.to_json()["expectation"] == ill.says
    assert render(verdict)
    monkeypatch.setattr(Toy, "preconditions", (dataclasses.replace(ill, threshold=-5.0),))
    assert run_study(Toy(), "paper", folder=tmp_path, progress=False).verdict == "holds"


def test_tuning_is_done_on_development_seeds_and_recorded(tmp_path, log, monkeypatch):
    settings = ({"more": 0.0}, {"more": 3.0}, {"more": 1.0})
    monkeypatch.setattr(Toy, "tune", Tuning("score", {"a": settings[:3], "b": settings[:3]}, seeds=2))
    verdict = run_study(Toy(log=str(log)), "paper", folder=tmp_path, progress=False)
    assert sorted(ran(log)[:12]) == sorted(f"{arm} {seed}" for arm in "ab" for seed in (1000, 1001) for _ in settings)
    record = verdict.to_json()["tuning_log"]["b"]
    assert record["chosen"] == {"more": 3.0} and record["seeds"] == [1000, 1001]
    assert [row["setting"] for row in record["tried"]] == list(settings)
    assert record["rule"] == "highest mean of 'score'"
    assert min(v["b"]["more"] for v in verdict.per_seed.values()) == 3.0, "the judged runs use what was chosen"
    assert "given" not in verdict.command


def test_a_missing_effect_ends_the_study(tmp_path):
    verdict = run_study(Toy(gain=float("nan")), "paper", folder=tmp_path, progress=False)
    assert verdict.verdict == "inconclusive" and len(verdict.seeds) == 10
