"""Two ranks under torchrun, with and without `homeostat run`: equal output, weights and exit codes on every rank."""

import json
import os
import subprocess
import sys

import pytest
import torch

from homeostat.record import list_runs, open_record, other_ranks

SCRIPT = """
import os, signal, sys, time, torch, torch.distributed as dist
from torch import nn
from torch.nn import functional as F

dist.init_process_group("gloo")
rank = dist.get_rank()
killed = sys.argv[3:] == ["killed"]
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
if sys.argv[1] == "ddp":
    model = nn.parallel.DistributedDataParallel(model)
else:
    from torch.distributed.fsdp import fully_shard
    for part in (model[0], model[3], model):
        fully_shard(part)
optimizer = torch.optim.AdamW(model.parameters(), 0.01)
torch.manual_seed(rank)
for step in range(12):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(torch.randn(8, 6)), torch.randint(0, 3, (8,)))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if killed and step == 8:
        time.sleep(1.2)  # the records are written about once a second
    if killed and rank == 1 and step == 9:
        os.kill(os.getpid(), signal.SIGKILL)
whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
states = [s["exp_avg"] for s in optimizer.state.values()]
whole += [s.full_tensor() if hasattr(s, "full_tensor") else s for s in states]
drawn = torch.rand(()).item()
torch.save([t.detach().clone() for t in whole], f"{sys.argv[2]}.{rank}")
with open(f"{sys.argv[2]}.{rank}.txt", "w") as file:
    print(loss.item(), drawn, file=file)
dist.destroy_process_group()
"""


RUN = ("-m", "homeostat", "run", "--quiet", "--every", "1", "--record", "runs")


def torchrun(folder, prefix, *arguments):
    (folder / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *prefix]
    return subprocess.run(
        [*command, "train.py", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def launched(folder, kind, name, *prefix):
    done = torchrun(folder, prefix, kind, name)
    assert done.returncode == 0, done.stderr[-3000:]
    texts = [(folder / f"{name}.{rank}.txt").read_text() for rank in range(2)]
    return texts, [torch.load(folder / f"{name}.{rank}") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without process groups")
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_both_ranks_are_as_they_are_alone(kind, tmp_path):
    bare = launched(tmp_path, kind, "bare")
    measured = launched(tmp_path, kind, "measured", *RUN, "--json", "out.json")
    assert bare[0] == measured[0]
    for rank in range(2):
        assert all(torch.equal(a, b) for a, b in zip(bare[1][rank], measured[1][rank], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(bare[1][0], measured[1][rank], strict=True))
    for rank, (name, folder) in enumerate((("out.json", "runs"), ("out.rank1.json", "runs/rank1"))):
        data = json.loads((tmp_path / name).read_text())
        assert (data["facts"]["rank"], data["facts"]["world_size"], data["steps"]) == (rank, 2, 12)
        assert data["failed"] == [] and len(data["vitals"]["loss"]["network"]) == 12
        assert len(list_runs(tmp_path / folder)) == 1
    (other,) = json.loads((tmp_path / "out.json").read_text())["ranks"]
    assert (other["rank"], other["status"], other["steps"], other["failed"]) == (1, "finished", 12, [])
    assert {difference["vital"] for difference in other["differences"]} >= {"loss"}


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without process groups")
def test_a_rank_that_is_killed_leaves_the_record_of_the_other_and_its_own(tmp_path):
    assert torchrun(tmp_path, RUN, "ddp", "killed", "killed").returncode != 0
    (run,) = list_runs(tmp_path / "runs")
    assert run.status in ("failed", "unfinished")  # torchrun ends the other rank with SIGTERM
    with open_record(run.path) as reader:
        (other,) = other_ranks(reader)
        assert other.status == "unfinished" and 8 <= other.steps <= 10 and run.steps >= 8
        assert len(reader.vitals()["loss"]["network"]) >= 8
