"""No stream of ours ends a script, whatever stands behind it; on a poor terminal the commands' output degrades."""

import os
import subprocess
import sys

import pytest
from grids import part_of

from homeostat.core.finding import Finding
from homeostat.record import RunRecord

POOR = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SCRIPT = """
import sys, torch
model = torch.nn.Linear(4, 2); optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(5): optimizer.zero_grad(); model(torch.randn(8, 4)).sum().backward(); optimizer.step()
print("done"); sys.exit(7)
"""


def shell(command, folder, **variables):
    homeostat = f"{sys.executable} -m homeostat"
    return subprocess.run(
        ["bash", "-c", command.replace("HOMEOSTAT", homeostat)], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """A folder with a record that has something in every shape and sign."""
    record = RunRecord.create(tmp_path / "homeostat-runs", script="größe.py")
    record.set_findings(1, [Finding(f"c-{name}", name, 1, ("größe",)) for name in ("info", "warning", "critical")])
    record.progress(10, 1.0, 0.01)
    record.close()
    return tmp_path


@pytest.mark.parametrize("redirected", part_of(["2>&-", "2>/dev/full", "2> >(exec <&-)"], 3))
def test_a_script_runs_whatever_stderr_is(tmp_path, redirected):
    (tmp_path / "small.py").write_text(SCRIPT)
    done = shell(f"HOMEOSTAT run small.py {redirected}", tmp_path)
    assert (done.returncode, done.stdout) == (7, "done\n")


@pytest.mark.parametrize("command", ["findings", "run --help"])
def test_output_degrades_on_a_terminal_without_unicode(runs, command):
    done = shell(f"HOMEOSTAT {command}", runs, **POOR)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.isascii() and done.stdout
    if command == "findings":
        assert "! critical" in done.stdout and r"gr\xf6\xdfe" in done.stdout


@pytest.mark.parametrize("command", ["findings", "runs --json"])
def test_output_that_cannot_be_written_is_one_line(runs, command):
    done = shell(f"HOMEOSTAT {command} > /dev/full", runs)
    assert done.returncode == 2 and done.stderr == "homeostat: No space left on device\n"
    assert shell(f"HOMEOSTAT {command} nothing >&- 2>&-", runs).returncode == 2
