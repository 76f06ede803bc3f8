"""A reinforcement-learning library under `homeostat run`, without a word about it in the script."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import hashlib, sys, torch
torch.set_num_threads(1)
from stable_baselines3 import SAC
agent = SAC("MlpPolicy", "Pendulum-v1", seed=0)
agent.learn(int(sys.argv[1]))
digest = hashlib.sha256()
for name, value in sorted(agent.policy.state_dict().items()):
    digest.update(value.numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_sac_trains_bit_exactly_and_actor_and_both_critics_are_measured_by_name(tmp_path: Path):
    pytest.importorskip("stable_baselines3")
    (tmp_path / "agent.py").write_text(SCRIPT)
    bare = [sys.executable, "agent.py", "2000"]
    out = tmp_path / "out.json"
    watched = [sys.executable, "-m", "homeostat", "run", "--quiet", "--json", str(out), "agent.py", "2000"]
    digests = [
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()[-1]
        for command in (bare, watched)
    ]
    assert digests[0] == digests[1]
    result = json.loads(out.read_text())
    assert result["steps"] == 1900  # learning starts after 100 steps, one gradient step each
    measured = set(result["vitals"]["gradient-norm"])
    assert {"actor.mu", "critic.qf0.0", "critic.qf1.0"} <= measured
    dormant = result["vitals"]["dormant-units"]
    assert any(n.startswith("actor.") for n in dormant)
    assert any(n.startswith("critic.qf0") for n in dormant) and any(n.startswith("critic.qf1") for n in dormant)
    assert [f for f in result["findings"] if f["condition"] == "untrained-parameters"] == []
