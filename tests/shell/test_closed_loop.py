"""The closed loop at work: it acts on a sick network, says what it did, and does the same again with the same seed."""

from __future__ import annotations

import torch
from torch import nn

import homeostat


def treated(steps: int) -> tuple[nn.Module, homeostat.AttachedRun]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 3))
    with torch.no_grad():
        model[0].bias[:36] = -20.0  # these units never fire
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    run = homeostat.attach(model, optimizer, treatments=["auto"], every=25, seed=5)
    with run:
        for _ in range(steps):
            inputs = torch.randn(32, 8)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(1)).backward()
            optimizer.step()
    return model, run


def test_it_treats_what_is_found_and_the_vital_recovers_the_same_way_twice():
    model, run = treated(600)
    acts = [(e.action, e.detail.get("treatment", "")) for e in run.journal() if e.component == "closed-loop"]
    assert acts[0][0] == "attach" and acts[0][1].startswith("redo")
    assert "keep" in [action for action, _ in acts]
    dormant = dict(run.vitals()["dormant-units"]["0"])
    assert dormant[25] > 0.85 and dormant[600] < 0.3
    assert not [f for f in run.findings() if f.condition == "dormant-units" and f.severity != "info"]

    again, second = treated(600)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert run.journal() == second.journal()
