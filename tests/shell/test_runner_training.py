"""`homeostat run` on scripts that train: same result, one record, and the process ends as it would have."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from homeostat.record import list_runs, open_record

HOMEOSTAT = (sys.executable, str(Path(sys.executable).with_name("homeostat")))

TRAINING = """
    import os
    os.environ["OMP_NUM_THREADS"] = "1"  # must come before torch, and must still count
    import hashlib, pickle, sys, time
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 1)
        def forward(self, x):
            return self.fc2(torch.relu(self.fc1(x)))

    class Items(torch.utils.data.Dataset):
        def __len__(self): return 512
        def __getitem__(self, i):
            generator = torch.Generator().manual_seed(i)
            x = torch.randn(8, generator=generator)
            return x, x.sum(0, keepdim=True)

    def train(steps=32, lr=1e-2, **loading):
        torch.manual_seed(0)
        net = Net()
        optimizer = torch.optim.Adam(net.parameters(), lr=lr)
        batches = iter(torch.utils.data.DataLoader(Items(), batch_size=16, shuffle=True, **loading))
        for _ in range(steps):
            x, y = next(batches)
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            optimizer.step()
        values = b"".join(p.detach().numpy().tobytes() for p in net.parameters())
        print(hashlib.sha256(values).hexdigest(), torch.get_num_threads(), torch.initial_seed(), flush=True)
        return net
"""


def script(folder: Path, body: str, name: str = "train.py") -> str:
    (folder / name).write_text(textwrap.dedent(TRAINING) + textwrap.dedent(body))
    return name


def launch(folder: Path, *command: str, **environment: str):
    env = {k: v for k, v in os.environ.items() if not k.startswith("HOMEOSTAT_")} | environment
    env.pop("OMP_NUM_THREADS", None)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def outcome(ended) -> tuple[str, str, int]:
    return ended.stdout, ended.stderr, ended.returncode


def only_record(folder: Path):
    (meta,) = list_runs(folder / "homeostat-runs")
    return open_record(meta.run, folder / "homeostat-runs")


def test_same_weights_same_traceback_one_record(tmp_path):
    name = script(
        tmp_path,
        """
        if __name__ == "__main__":
            net = train(num_workers=2)
            assert type(pickle.loads(pickle.dumps(net))) is Net
            raise RuntimeError("after training")
        """,
    )
    plain = launch(tmp_path, sys.executable, name)
    ours = launch(tmp_path, *HOMEOSTAT, "run", "-q", "--every", "4", "--json", "out.json", name, "--json", "x")
    assert outcome(ours) == outcome(plain)
    assert plain.stderr.endswith("RuntimeError: after training\n")
    with only_record(tmp_path) as reader:
        assert (reader.meta.status, reader.meta.steps) == ("failed", 32)
        assert [step for step, _ in reader.vitals()["dormant-units"]["fc1"]] == list(range(4, 33, 4))
        assert json.loads((tmp_path / "out.json").read_text())["run"] == reader.run


def test_torch_without_training_ends_with_a_sentence(tmp_path):
    name = script(tmp_path, "print(Net()(torch.zeros(1, 8)).shape)")
    ended = launch(tmp_path, *HOMEOSTAT, "run", name)
    assert ended.returncode == 0
    assert ended.stderr.startswith("homeostat: train.py took no step of a torch.optim optimizer in this process")
    with only_record(tmp_path) as reader:
        assert (reader.meta.status, reader.meta.steps) == ("finished", 0)


@pytest.mark.slow
def test_workers_and_children_started_by_spawn_run_plain(tmp_path):
    name = script(
        tmp_path,
        """
        import multiprocessing
        def child(queue):
            train(steps=8)
            queue.put([m for m in sys.modules if m.startswith("homeostat")])
        if __name__ == "__main__":
            train(num_workers=2, multiprocessing_context="spawn")
            queue = multiprocessing.get_context("spawn").Queue()
            process = multiprocessing.get_context("spawn").Process(target=child, args=(queue,))
            process.start()
            print(queue.get())
            process.join()
        """,
    )
    plain = launch(tmp_path, sys.executable, name)
    ours = launch(tmp_path, *HOMEOSTAT, "run", "-q", name)
    assert outcome(ours) == outcome(plain)
    assert plain.stdout.endswith("[]\n")
    with only_record(tmp_path) as reader:
        assert (reader.meta.status, reader.meta.steps) == ("finished", 32)


@pytest.mark.slow
def test_a_forked_child_that_trains_writes_nothing(tmp_path):
    name = script(
        tmp_path,
        """
        train(steps=8)
        if (pid := os.fork()) == 0:
            train(steps=8)
        else:
            os.waitpid(pid, 0)
        """,
    )
    plain = launch(tmp_path, sys.executable, name)
    ours = launch(tmp_path, *HOMEOSTAT, "run", "-q", name)
    assert outcome(ours) == outcome(plain)
    with only_record(tmp_path) as reader:
        assert (reader.meta.status, reader.meta.steps) == ("finished", 8)


@pytest.mark.slow
def test_ctrl_c_is_ctrl_c_and_the_record_is_closed(tmp_path):
    name = script(tmp_path, "train(steps=8)\nprint('ready', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [*HOMEOSTAT, "run", name], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    while process.stdout.readline() != "ready\n":
        pass
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(60) == -signal.SIGINT
    process.stdout.close()
    process.stderr.close()
    assert said.endswith("KeyboardInterrupt\n") and "8 steps" in said and "runner.py" not in said
    with only_record(tmp_path) as reader:
        assert (reader.meta.status, reader.meta.steps) == ("interrupted", 8)


@pytest.mark.slow
def test_what_was_flushed_outlives_os_exit(tmp_path):
    name = script(tmp_path, "train(steps=8)\ntime.sleep(1.1)\ntrain(steps=8)\nos._exit(5)\n")
    assert launch(tmp_path, *HOMEOSTAT, "run", "--every", "1", name).returncode == 5
    with only_record(tmp_path) as reader:
        assert reader.meta.status == "unfinished"
        assert reader.meta.steps >= 8
        assert reader.series("loss", "network") or reader.vitals()["loss"]


@pytest.mark.slow
def test_fail_on_has_its_own_exit_code(tmp_path):
    name = script(tmp_path, "train(lr=1e30)\nsys.exit(int(sys.argv[1]))")
    command = (*HOMEOSTAT, "run", "--every", "1", "--fail-on", "critical", name)
    ended = launch(tmp_path, *command, "0")
    assert ended.returncode == 10
    assert "non-finite" in ended.stderr
    assert launch(tmp_path, *command, "3").returncode == 3


@pytest.mark.slow
def test_under_torchrun_every_rank_records_and_one_speaks(tmp_path):
    name = script(tmp_path, "train(steps=8)")
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "homeostat", "run")
    ended = launch(tmp_path, *launcher, name)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("8 steps, finished") == 1
    (first,) = list_runs(tmp_path / "homeostat-runs")
    (second,) = list_runs(tmp_path / "homeostat-runs" / "rank1")
    assert (first.steps, second.steps) == (8, 8)
