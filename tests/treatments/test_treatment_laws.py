"""What the laws of treatments leave to tests: state files, and a run continued in another process."""

import io

import pytest
import torch
from safetensors.torch import load, save

from homeostat.catalogue.evidence import laws_are_current
from homeostat.core.component import components
from homeostat.testing.grid import MLP, suited
from homeostat.testing.mini_run import Bench, same, trial_of
from homeostat.testing.two_processes import continued_elsewhere

TREATMENTS = {n: c for n, c in components("treatment").items() if c.__module__.startswith("homeostat.")}


def test_treatments_that_changed_resume_in_another_process():
    """One process for all of them, and for the first if none changed; the slow stage starts one for each."""
    changed = {name: cls for name, cls in TREATMENTS.items() if not laws_are_current(cls)}
    chosen = changed or dict(list(TREATMENTS.items())[:1])
    outcome = dict(zip(chosen, continued_elsewhere([trial_of(cls()) for cls in chosen.values()]), strict=True))
    assert {name: wrong for name, wrong in outcome.items() if wrong} == {}


@pytest.mark.parametrize("name", TREATMENTS)
def test_state_survives_safetensors(name: str):
    treatment = trial_of(TREATMENTS[name]())
    bench = Bench(suited(MLP, treatment), treatment)
    bench.train(9)
    assert not same(load(save(bench.state)), bench.state)
    torch.save(bench.state, io.BytesIO())
