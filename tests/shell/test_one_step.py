"""One step, as docs/design.md opens with it: through which modules it goes."""

import re
import sys
from pathlib import Path

import torch
from torch import nn

import homeostat

PAGE = Path(__file__).resolve().parents[2] / "docs" / "design.md"
STOPS = {"measure", "plan", "apply_edits", "add_vitals", "set_findings", "put"}
"""Functions that a step reaches: a vital measures, a treatment plans, edits are made, record and schedule are
written."""
MOST = 8


def listed() -> set[str]:
    """The modules that the page names in its list of the step's modules."""
    section = PAGE.read_text("utf-8").split("## One step", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| `([a-z_/]+)` \|", section, re.MULTILINE))


def test_a_step_goes_through_the_modules_that_the_design_lists():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    treatments = ["l2-init", "redo:every=1"]  # one before the update, one after it
    seen, arrived = set(), set()

    def trace(frame, event, _):
        if event != "call" or frame.f_code.co_name not in STOPS:
            return
        arrived.add(frame.f_code.co_name)
        while frame is not None:
            name = frame.f_globals.get("__name__", "")
            if name.startswith(("homeostat.shell.", "homeostat.record.")):
                seen.add(name.removeprefix("homeostat.").replace(".", "/"))
            frame = frame.f_back

    with homeostat.attach(model, optimizer, treatments=treatments, every=1):
        for step in range(4):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(torch.randn(64, 6)), torch.randn(64, 2)).backward()
            sys.setprofile(trace if step == 3 else None)
            try:
                optimizer.step()
            finally:
                sys.setprofile(None)
    assert arrived >= STOPS - {"set_findings"}
    assert seen == listed() and len(seen) <= MOST
