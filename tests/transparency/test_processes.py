"""A whole process under `homeostat run` and alone: what shows only in a fresh interpreter."""

import json
import os
import subprocess
import sys

SCRIPT = """
import os, sys
print(sys.argv, sys.flags.optimize, __name__, os.path.isabs(__file__), __spec__)
print(sorted(set(os.environ) - {"HOMEOSTAT_ACTIVE"}))
import torch
from torch import nn

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.names = [f"fc{n}" for n in range(3)] + ["layer" + str(n) for n in range(3)]
        for name in self.names:
            setattr(self, name, nn.Linear(6, 6))
        self.rnn, self.lstm = nn.GRU(6, 6), nn.LSTM(6, 3, 2, bidirectional=True)
        self.attention = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)

    def forward(self, x):
        for name in self.names:
            x = getattr(self, name)(x).relu()
        return self.attention(self.lstm(self.rnn(x)[0])[0])

torch.manual_seed(0)
model = Words()
optimizer = torch.optim.Adam(model.parameters())
os.mkdir("elsewhere")
os.chdir("elsewhere")
for step in range(6):
    optimizer.zero_grad()
    model(torch.randn(4, 5, 6)).square().mean().backward()
    optimizer.step()
torch.save(model, "../model.pt")
torch.save(optimizer.state_dict(), "../optimizer.pt")
print(torch.rand(3), os.getcwd() == os.path.abspath("."), os.listdir("."))
"""
FILES = ("model.pt", "optimizer.pt")


def run(folder, *prefix):
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    done = subprocess.run(
        [*prefix, "train.py", "--lr", "1"],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return (done.returncode, done.stdout, done.stderr), [(folder / name).read_bytes() for name in FILES]


def test_a_fresh_process_prints_and_saves_the_same_bytes_and_its_record_stays_where_it_began(tmp_path):
    bare = run(tmp_path / "bare", sys.executable)
    options = ["--quiet", "--every", "1", "--record", "runs", "--json", "out.json"]
    measured = run(tmp_path / "measured", sys.executable, "-m", "homeostat", "run", *options)
    assert bare[0] == measured[0] and bare[0][0] == 0
    assert bare[1] == measured[1], "strings that are one object alone are two here, or the reverse"
    assert json.loads((tmp_path / "measured" / "out.json").read_text())["steps"] == 6
    assert len(list((tmp_path / "measured" / "runs").glob("*.sqlite"))) == 1
