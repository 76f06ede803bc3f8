"""The demo: what it counts and shows, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from rich.console import Console

from homeostat.core.errors import BadSetting
from homeostat.demo import main
from homeostat.demo.arm import LATE, Progress
from homeostat.demo.screen import ArmState, live_view, sparkline


def test_late_accuracy_counts_finished_seeds_only_and_the_view_never_breaks():
    arm = ArmState("untreated", seeds=2, tasks=LATE + 2)
    for seed, accuracy in ((1, 0.5), (2, 0.9)):
        for task in range(arm.tasks + 1 - seed):
            arm.hear(Progress("untreated", seed, task, arm.tasks, accuracy if task > 1 else 0.0))
            Console(quiet=True, width=60).print(live_view([arm, arm], 60))
    assert arm.late() == {1: pytest.approx(0.5)} and not arm.finished
    assert sparkline([0.0, 1.0, float("nan")]) == "▁█"


def test_too_small_a_demo_says_what_it_needs():
    with pytest.raises(BadSetting, match="at least 2 seeds"):
        main(seeds=1)


@pytest.mark.slow
def test_a_small_demo_runs_to_its_end_and_writes_the_page(tmp_path):
    script = f"from homeostat.demo import main; main(seeds=2, tasks={LATE + 2}, as_json=True)"
    guard = f"if __name__ == '__main__':\n    {script.replace('; ', chr(10) + '    ')}\n"
    (tmp_path / "small.py").write_text(guard)
    done = subprocess.run([sys.executable, "small.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    outcome = json.loads(done.stdout)
    assert outcome["difference"]["seeds"] == 2 and set(outcome["arms"]) == {"untreated", "closed loop"}
    assert (tmp_path / "homeostat-report.html").stat().st_size > 1e5
