"""Each tracker with its own library: what it shows, and what the script's use of it stays."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import random, sys
import torch
from torch import nn

torch.manual_seed(0)
OWN
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3), nn.Softmax(dim=1))
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
for step in range(40):
    loss = nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(0, 3, (16,)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    LOG
END
print(float(sum(p.double().sum() for p in model.parameters())), random.random())
"""


def run(folder: Path, tracker: str = "", own: str = "", log: str = "", end: str = "", **variables: str) -> str:
    """Run the script, under Homeostat if a tracker is given; returns what it prints."""
    text = SCRIPT.replace("OWN", f"{own}; random.seed(0)" if own else "random.seed(0)").replace("END", end or "pass")
    (folder / "train.py").write_text(text.replace("LOG", log or "pass"))
    extra = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_DISABLE_TELEMETRY": "true", **variables}
    homeostat = ["-m", "homeostat", "run", "--quiet", "--every", "5", "--log", tracker] if tracker else []
    done = subprocess.run(
        [sys.executable, *homeostat, "train.py"],
        cwd=folder,
        env={**os.environ, **extra},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "homeostat: " not in done.stderr
    return done.stdout


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_shows_vitals_beside_the_scripts_own_and_the_finding_as_text(tmp_path):
    pytest.importorskip("tensorboard")
    own = "from torch.utils.tensorboard import SummaryWriter; writer = SummaryWriter('runs/mine')"
    log = "writer.add_scalar('loss', loss.item(), step)"
    printed = run(tmp_path, "tensorboard", own, log, "writer.close()")
    (ours,) = set((tmp_path / "runs").iterdir()) - {tmp_path / "runs" / "mine"}
    (record,) = (tmp_path / "homeostat-runs").glob("*.sqlite")
    assert ours.name == record.stem
    mine, seen = events(tmp_path / "runs" / "mine"), events(ours)
    assert mine.Tags()["scalars"] == ["loss"] and len(mine.Scalars("loss")) == 40
    scalars = seen.Scalars("homeostat/dormant-units/0")
    with sqlite3.connect(record) as db:
        query = "SELECT step, value FROM vital_values WHERE vital = 'dormant-units' AND layer = '0' ORDER BY step"
        recorded = list(db.execute(query))
        logged = {name for (name,) in db.execute("SELECT DISTINCT vital FROM series WHERE vital LIKE 'logged/%'")}
    assert [(s.step, s.value) for s in scalars] == [(step, pytest.approx(value)) for step, value in recorded]
    assert logged == {"logged/loss"}  # not what our sink has written
    (text,) = seen.Tensors("homeostat/alerts/text_summary")
    assert b"duplicated-softmax: warning" in text.tensor_proto.string_val[0]
    (tmp_path / "bare").mkdir()
    assert printed == run(tmp_path / "bare", "", own, log, "writer.close()")


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["alone", "with the script's own run"])
def test_wandb_offline(tmp_path, own):
    pytest.importorskip("wandb", reason="wandb is not installed")
    given = ("import wandb; theirs = wandb.init(project='mine')", "theirs.log({'loss': step})", "wandb.finish()")
    printed = run(tmp_path, "wandb", *(given if own else ()))
    (tmp_path / "bare").mkdir()
    assert printed == run(tmp_path / "bare", "", *(given if own else ()))
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    rows = [row for row in history(runs[0]) if "homeostat/step" in row]
    assert any("homeostat/dormant-units/0" in row for row in rows)
    if own:
        theirs = [row for row in history(runs[0]) if "loss" in row]
        assert [(row["_step"], row["loss"]) for row in theirs] == [(n, n) for n in range(40)]


def history(folder: Path) -> list[dict[str, Any]]:
    """The rows of an offline run, read with wandb's own reader."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal import datastore

    store, rows = datastore.DataStore(), []
    store.open_for_scan(str(next(folder.glob("run-*.wandb"))))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            rows.append({(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item})
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["alone", "with the script's own run"])
def test_mlflow_in_a_local_file_store(tmp_path, own):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    given = ("import mlflow; mlflow.start_run()", "mlflow.log_metric('loss', step, step=step)", "mlflow.end_run()")
    store = {"MLFLOW_TRACKING_URI": f"file:{tmp_path}/mlruns", "MLFLOW_ALLOW_FILE_STORE": "true"}
    printed = run(tmp_path, "mlflow", *(given if own else ()), **store)
    (tmp_path / "bare").mkdir()
    elsewhere = {**store, "MLFLOW_TRACKING_URI": f"file:{tmp_path}/bare/mlruns"}
    assert printed == run(tmp_path / "bare", "", *(given if own else ()), **elsewhere)
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    client = mlflow.MlflowClient(tracking_uri=store["MLFLOW_TRACKING_URI"])
    ids = [e.experiment_id for e in client.search_experiments()]
    (found,) = client.search_runs(ids)
    assert found.info.status == "FINISHED"
    assert client.get_metric_history(found.info.run_id, "homeostat/dormant-units/0")
    if own:
        assert len(client.get_metric_history(found.info.run_id, "loss")) == 40
    else:
        assert "homeostat/duplicated-softmax" in found.data.tags


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["alone", "with the script's own run"])
def test_trackio(tmp_path, own):
    pytest.importorskip("trackio", reason="trackio is not installed")
    given = (
        "import trackio; trackio.init('mine', name='theirs', embed=False)",
        "trackio.log({'loss': step})",
        "trackio.finish()",
    )
    last = [run(tmp_path, tracker, *(given if own else ()), TRACKIO_DIR=str(tmp_path / where))
            for tracker, where in (("trackio", "a"), ("", "b"))]  # fmt: skip
    assert last[0].splitlines()[-1] == last[1].splitlines()[-1]
    (file,) = (tmp_path / "a").glob("homeostat*.db")
    with sqlite3.connect(file) as db:
        rows = [json.loads(metrics) for (metrics,) in db.execute("SELECT metrics FROM metrics")]
    assert any("homeostat/dormant-units/0" in row for row in rows)
    if own:
        with sqlite3.connect(next((tmp_path / "a").glob("mine*.db"))) as db:
            rows = [json.loads(metrics) for (metrics,) in db.execute("SELECT metrics FROM metrics")]
        assert [row["loss"] for row in rows if "loss" in row] == list(range(40))
        assert not any(name.startswith("homeostat/") for row in rows for name in row)
